//! `anser forecast --impute`: the whole series without holes.

use anyhow::Result;
use serde_json::json;

use super::render::shown;
use super::{Args, Ready, about, as_json, field, put, time_column};

pub(super) fn run(args: &Args, ready: &Ready) -> Result<()> {
    let (series, report) = (&ready.series, &ready.report);
    let filled = ready.forecaster.impute(series)?;
    let holes = series.missing.iter().filter(|missing| **missing).count();
    match holes {
        0 => eprintln!("Nothing is missing."),
        _ => eprintln!(
            "{holes} missing values: {} filled by the model, {} by straight lines (too few rows before them, or too long).",
            filled.by_model, filled.by_line
        ),
    }
    if filled.trials > 0 {
        let better = if filled.line_mse < filled.model_mse { "Straight lines are better here." } else { "" };
        eprintln!(
            "Tried on {} holes of {} rows cut at random: squared error {:.4} by the model, {:.4} by straight lines, in units \
             of the columns' deviations. {better}",
            filled.trials, filled.trial_rows, filled.model_mse, filled.line_mse
        );
    }
    let times = series.axis.names(0..series.rows() as u64)?;
    let width = series.width();
    if as_json(args) {
        let column = |m: usize| filled.values.iter().skip(m).step_by(width).copied().collect::<Vec<f64>>();
        let columns: serde_json::Map<_, _> =
            series.columns.iter().enumerate().map(|(m, name)| (name.clone(), json!(column(m)))).collect();
        let missing: Vec<usize> = (0..series.missing.len()).filter(|&at| series.missing[at]).collect();
        let missing: Vec<[usize; 2]> = missing.into_iter().map(|at| [at / width, at % width]).collect();
        let value = json!({
            "file": series.name, "times": times, "columns": columns, "filled": missing, "errors": filled,
            "model": about(ready), "report": report,
        });
        return put(args.out.as_deref(), &(serde_json::to_string(&value)? + "\n"));
    }
    let mut text = time_column(report);
    series.columns.iter().for_each(|column| text += &format!(",{}", field(column)));
    text.push('\n');
    for (row, (time, values)) in times.iter().zip(filled.values.chunks_exact(width)).enumerate() {
        text += &field(time);
        for (m, value) in values.iter().enumerate() {
            // What was known is written as it was read.
            let filled = series.missing[row * width + m];
            text += &if filled { format!(",{}", shown(*value)) } else { format!(",{value}") };
        }
        text.push('\n');
    }
    put(args.out.as_deref(), &text)
}
