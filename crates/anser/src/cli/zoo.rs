//! The built-in model and every published family side by side, these computed from sizes by the same formulas that read a checkpoint.

use std::fmt::Write;

use anser::demo;
use anser_checkpoint::{Config, OpenOptions, Version};
use anser_engine::Synthetic;
use anyhow::Result;
use serde::Serialize;

use super::output;

/// List the known models: parameters, state, work a token, and what they are for
#[derive(clap::Args)]
#[command(after_help = "\
Sizes are of the built-in and the published models; `anser info FILE` tells those of any checkpoint.
State and work are for one sequence, in f32; they never grow with its length.

Examples:
  anser zoo
  anser zoo --json")]
pub(crate) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

struct Family {
    version: Version,
    name: &'static str,
    tokenizer: &'static str,
    vocab: usize,
    purpose: &'static str,
    sizes: &'static [Size],
}

struct Size {
    name: &'static str,
    layers: usize,
    width: usize,
    /// mix, decay, a, v, g
    ranks: [usize; 5],
}

const fn size(name: &'static str, layers: usize, width: usize, ranks: [usize; 5]) -> Size {
    Size { name, layers, width, ranks }
}

const NONE: [usize; 5] = [0; 5];
const HEAD_SIZE: usize = 64;
const WORLD: usize = 65536;

const FAMILIES: &[Family] = &[
    Family {
        version: Version::V4,
        name: "RWKV-4 Pile, Raven",
        tokenizer: "20B (tokenizer.json)",
        vocab: 50277,
        purpose: "English text; Raven follows instructions",
        sizes: &[
            size("169M", 12, 768, NONE),
            size("430M", 24, 1024, NONE),
            size("1.5B", 24, 2048, NONE),
            size("3B", 32, 2560, NONE),
            size("7B", 32, 4096, NONE),
            size("14B", 40, 5120, NONE),
        ],
    },
    Family {
        version: Version::V4,
        name: "RWKV-4 World",
        tokenizer: "world",
        vocab: WORLD,
        purpose: "text and chat in 100 languages",
        sizes: WORLD_4_5,
    },
    Family {
        version: Version::V5_2,
        name: "RWKV-5 World (Eagle)",
        tokenizer: "world",
        vocab: WORLD,
        purpose: "text and chat in 100 languages",
        sizes: WORLD_4_5,
    },
    Family {
        version: Version::V6,
        name: "RWKV-6 World (Finch)",
        tokenizer: "world",
        vocab: WORLD,
        purpose: "text and chat in 100 languages, code",
        sizes: &[
            size("1.6B", 24, 2048, [32, 64, 0, 0, 0]),
            size("3B", 32, 2560, [32, 64, 0, 0, 0]),
            size("7B", 32, 4096, [64, 128, 0, 0, 0]),
            size("14B", 61, 4096, [64, 128, 0, 0, 0]),
        ],
    },
    Family {
        version: Version::V7,
        name: "RWKV-7 World, G1 (Goose)",
        tokenizer: "world",
        vocab: WORLD,
        purpose: "text and chat in 100 languages, code; G1 reasons",
        sizes: &[
            size("0.1B", 12, 768, [0, 64, 64, 32, 128]),
            size("0.4B", 24, 1024, [0, 64, 64, 32, 128]),
            size("1.5B", 24, 2048, [0, 96, 96, 64, 256]),
            size("2.9B", 32, 2560, [0, 96, 96, 64, 320]),
            size("7.2B", 32, 4096, [0, 128, 128, 96, 480]),
            size("13.3B", 61, 4096, [0, 192, 192, 128, 384]),
        ],
    },
];

const WORLD_4_5: &[Size] = &[
    size("0.1B", 12, 768, NONE),
    size("0.4B", 24, 1024, NONE),
    size("1.5B", 24, 2048, NONE),
    size("3B", 32, 2560, NONE),
    size("7B", 32, 4096, NONE),
];

#[derive(Serialize)]
struct Row {
    family: &'static str,
    size: &'static str,
    version: Version,
    layers: usize,
    width: usize,
    vocab: usize,
    parameters: u64,
    state_bytes: u64,
    flops_per_token: u64,
    tokenizer: &'static str,
    purpose: &'static str,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut rows = vec![built_in()?];
    rows.extend(FAMILIES.iter().flat_map(|f| f.sizes.iter().map(move |s| row(f, s))));
    if args.json {
        return output::json(&rows);
    }
    let mut table = String::new();
    for (i, row) in rows.iter().enumerate() {
        if i == 0 || rows[i - 1].family != row.family {
            let gap = if i == 0 { "" } else { "\n" };
            writeln!(table, "{gap}{}: {}; tokenizer {}", row.family, row.purpose, row.tokenizer)?;
            writeln!(
                table,
                "  {:>6} {:>7} {:>6} {:>12} {:>10} {:>14}",
                "size", "layers", "width", "parameters", "state", "FLOPs/token"
            )?;
        }
        writeln!(
            table,
            "  {:>6} {:>7} {:>6} {:>10.1} M {:>7.2} MB {:>12.2} G",
            row.size,
            row.layers,
            row.width,
            row.parameters as f64 / 1e6,
            row.state_bytes as f64 / 1e6,
            row.flops_per_token as f64 / 1e9
        )?;
    }
    output::text(&table)
}

fn row(family: &Family, size: &Size) -> Row {
    Row::new(family.name, size.name, &config(family, size), family.tokenizer, family.purpose)
}

/// The model in the program, by its own file.
fn built_in() -> Result<Row> {
    let checkpoint = demo::checkpoint(&OpenOptions::default())?;
    Ok(Row::new(
        "built in",
        demo::NAME,
        checkpoint.config(),
        "built in",
        "stories in English; taken when no model is named",
    ))
}

impl Row {
    fn new(
        family: &'static str,
        size: &'static str,
        config: &Config,
        tokenizer: &'static str,
        purpose: &'static str,
    ) -> Row {
        Row {
            family,
            size,
            version: config.version,
            layers: config.layers,
            width: config.width,
            vocab: config.vocab,
            parameters: config.parameters(),
            state_bytes: config.state_elements() * size_of::<f32>() as u64,
            flops_per_token: config.flops_per_token(),
            tokenizer,
            purpose,
        }
    }
}

fn config(family: &Family, size: &Size) -> Config {
    let ffn = match family.version {
        Version::V4 | Version::V7 => 4 * size.width,
        _ => size.width * 7 / 2 / 32 * 32,
    };
    Synthetic::config(family.version, family.vocab, size.width / HEAD_SIZE, HEAD_SIZE, size.layers, ffn, size.ranks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_the_published_ones() {
        let million = |family: &str, size: &str| {
            let family = FAMILIES.iter().find(|f| f.name.starts_with(family)).unwrap();
            row(family, family.sizes.iter().find(|s| s.name == size).unwrap()).parameters as f64 / 1e6
        };
        for (family, size, published, digits) in [
            ("RWKV-4 Pile", "169M", 169.34, 0.01),
            ("RWKV-4 Pile", "14B", 14148.6, 0.1),
            ("RWKV-4 World", "7B", 7517.7, 0.1),
            ("RWKV-5", "0.1B", 192.8, 0.1),
            ("RWKV-5", "7B", 7518.0, 0.1),
            ("RWKV-6", "1.6B", 1599.9, 0.1),
            ("RWKV-6", "14B", 14069.1, 0.1),
            ("RWKV-7", "0.1B", 191.08, 0.01),
            ("RWKV-7", "13.3B", 13270.3, 0.1),
        ] {
            let ours = million(family, size);
            assert!((ours - published).abs() <= digits, "{family} {size}: {ours} M, published {published} M");
        }
    }
}
