//! `anser state`: states as files, without running a model.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use anser_checkpoint::state::StateFile;
use anyhow::Result;
use serde_json::json;

use super::error::usage;
use super::model::ModelArgs;
use super::output;

/// Look at state files, blend them, convert them
#[derive(clap::Args)]
#[command(after_help = "\
States are saved by `anser generate --save-state FILE` and by /save in `anser chat`.

Examples:
  anser state inspect chat.state
  anser state blend formal.state=0.7 playful.state=0.3 --output mixed.state
  anser state import tuned.pth --model model.pth --output tuned.state
  anser state export tuned.state --output tuned.pth")]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print the header and the slots of a state
    Inspect {
        /// A state file
        file: PathBuf,

        /// Print a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Write the weighted sum of states of one model
    Blend {
        /// State files and their weights [default weight: an equal share]
        #[arg(value_name = "FILE[=WEIGHT]", required = true)]
        parts: Vec<String>,

        /// The state to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Convert a .pth with time_state tensors (a tuned initial state) to a state file
    Import {
        /// The .pth file
        file: PathBuf,

        /// The model it was tuned for
        #[arg(long, value_name = "MODEL")]
        model: String,

        /// The state to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
    /// Convert a state's matrices to a .pth with time_state tensors
    Export {
        /// A state file
        file: PathBuf,

        /// The .pth to write
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
    },
}

pub(crate) fn run(args: Args) -> Result<()> {
    match args.action {
        Action::Inspect { file, json } => inspect(&file, json),
        Action::Blend { parts, output } => blend(&parts, &output),
        Action::Import { file, model, output } => {
            let checkpoint = ModelArgs::named(Some(model)).open()?;
            let state = StateFile::from_time_state(&file, checkpoint.config(), &checkpoint.fingerprint())?;
            Ok(state.save(&output)?)
        }
        Action::Export { file, output } => {
            let left_out = StateFile::load(&file)?.to_time_state_pth(&output)?;
            if !left_out.is_empty() {
                eprintln!("time_state files hold matrices only; left out: {}", left_out.join(", "));
            }
            Ok(())
        }
    }
}

fn inspect(path: &Path, as_json: bool) -> Result<()> {
    let state = StateFile::load(path)?;
    let header = &state.header;
    let numbers: usize = state.slots.iter().map(|(slot, _)| slot.elements()).sum();
    if as_json {
        return output::json(
            &json!({ "header": header, "bytes": numbers * size_of::<f32>(), "slots": state.summary() }),
        );
    }
    let mut out = String::new();
    writeln!(out, "architecture  {}", header.architecture)?;
    writeln!(out, "fingerprint   {}", if header.fingerprint.is_empty() { "unknown" } else { &header.fingerprint })?;
    writeln!(out, "tokens read   {}", header.tokens)?;
    writeln!(out, "created by    {}", header.created_by)?;
    writeln!(out, "size          {} numbers, {} bytes in f32", numbers, numbers * size_of::<f32>())?;
    writeln!(out, "\n{:<22} {:<14} {:>12} {:>12} {:>12}", "slot", "shape", "norm", "min", "max")?;
    for slot in state.summary() {
        let shape = slot.shape.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        write!(out, "{:<22} {:<14} {:>12.4e} {:>12.4e} {:>12.4e}", slot.name, shape, slot.norm, slot.min, slot.max)?;
        match slot.non_finite {
            0 => writeln!(out)?,
            count => writeln!(out, "  {count} NaN or infinite")?,
        }
    }
    output::text(&out)
}

fn blend(parts: &[String], output: &Path) -> Result<()> {
    let share = 1.0 / parts.len() as f32;
    let states = parts.iter().map(|part| {
        // A file of that name wins over a weight: names may hold an equals sign.
        let (file, weight) = match part.rsplit_once('=') {
            Some((file, weight)) if !Path::new(part).exists() => {
                let weight = weight.parse().map_err(|_| {
                    usage(format!("{part}: {weight:?} is no weight"), "write FILE=WEIGHT, e.g. calm.state=0.5")
                })?;
                (file, weight)
            }
            _ => (part.as_str(), share),
        };
        Ok((StateFile::load(Path::new(file))?, weight))
    });
    let states = states.collect::<Result<Vec<_>>>()?;
    let parts: Vec<(&StateFile, f32)> = states.iter().map(|(state, weight)| (state, *weight)).collect();
    Ok(StateFile::blend(&parts)?.save(output)?)
}
