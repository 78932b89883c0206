//! `anser info`: what a checkpoint is, read from its names and shapes without loading it.

use std::fmt::Write;

use anser::demo;
use anser_checkpoint::{Config, TokenizerHint};
use anyhow::Result;
use serde::Serialize;

use super::model::ModelArgs;
use super::output;

/// Tell what a checkpoint is: version, sizes, ranks, state, work a token
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  anser info model.pth
  anser info demo
  anser info hf:owner/repo --json")]
pub(crate) struct Args {
    /// A checkpoint: .pth, .safetensors, .gguf, .anser, a Hugging Face directory, or hf:owner/repo[/file] [default: demo, the built-in one]
    model: Option<String>,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Info {
    path: String,
    format: String,
    #[serde(flatten)]
    config: Config,
    dtype: String,
    /// What a packed file was quantised by.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipe: Option<String>,
    parameters: u64,
    state_bytes: u64,
    flops_per_token: u64,
    tokenizer: String,
    chat_template: bool,
    fingerprint: String,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let model = ModelArgs::named(args.model);
    let checkpoint = model.open()?;
    let config = checkpoint.config().clone();
    let info = Info {
        path: checkpoint.path().display().to_string(),
        format: checkpoint.format().to_string(),
        dtype: checkpoint.stored_dtype().to_string(),
        recipe: checkpoint.packed_header().map(|header| header.recipe.clone()),
        parameters: config.parameters(),
        state_bytes: config.state_elements() * size_of::<f32>() as u64,
        flops_per_token: config.flops_per_token(),
        tokenizer: match checkpoint.tokenizer() {
            _ if model.built_in() => format!("built in, {}", demo::tokenizer()?.name()),
            TokenizerHint::World => "world".to_string(),
            TokenizerHint::Byte => "byte".to_string(),
            TokenizerHint::File(path) => path.display().to_string(),
            TokenizerHint::Json(_) => "in the file".to_string(),
            TokenizerHint::Unknown => "unknown".to_string(),
        },
        chat_template: checkpoint.chat_template().is_some(),
        fingerprint: checkpoint.fingerprint(),
        config,
    };
    if args.json { output::json(&info) } else { output::text(&describe(&info)?) }
}

fn describe(info: &Info) -> Result<String> {
    let config = &info.config;
    let mut out = String::new();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<14} {value}");
    line("model", info.path.clone())?;
    line(
        "format",
        match &info.recipe {
            Some(recipe) => format!("{} {recipe}, made from {}", info.format, info.dtype),
            None => format!("{}, {}", info.format, info.dtype),
        },
    )?;
    line("version", format!("RWKV-{}", config.version))?;
    line("parameters", format!("{} ({:.1} M)", info.parameters, info.parameters as f64 / 1e6))?;
    line(
        "sizes",
        format!("{} layers, width {}, ffn {}, vocabulary {}", config.layers, config.width, config.ffn, config.vocab),
    )?;
    if config.heads > 1 {
        line("heads", format!("{} of {}", config.heads, config.head_size))?;
    }
    let ranks = config.ranks;
    let named = [("mix", ranks.mix), ("decay", ranks.decay), ("a", ranks.a), ("v", ranks.v), ("g", ranks.g)];
    let named: Vec<String> = named.into_iter().filter(|(_, r)| *r > 0).map(|(name, r)| format!("{name} {r}")).collect();
    if !named.is_empty() {
        line("ranks", named.join(", "))?;
    }
    line("epsilons", format!("layer norm {:e}, group norm {:e}", config.layer_norm_eps, config.group_norm_eps))?;
    line("state", format!("{} bytes a sequence", info.state_bytes))?;
    line("work", format!("{:.4} GFLOP a token", info.flops_per_token as f64 / 1e9))?;
    line("tokenizer", info.tokenizer.clone())?;
    line("chat template", if info.chat_template { "in the checkpoint" } else { "none in the checkpoint" }.to_string())?;
    line("fingerprint", info.fingerprint.clone())?;
    Ok(out)
}
