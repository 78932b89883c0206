//! `anser forecast --follow`: rows from standard input, a forecast after each.

use std::io::BufRead;

use anser_series::rows::{Line, Rows};
use anser_train::series::Scaled;
use anyhow::{Context, Result};
use serde_json::json;

use super::super::output;
use super::render::shown;
use super::{Args, Ready, as_json, field};

/// The longest line that is read.
const LONGEST: u64 = 1 << 20;

pub(super) fn run(args: &Args, ready: &Ready) -> Result<()> {
    let series = &ready.series;
    let data = Scaled::new(series, 0..series.rows());
    let mut stream = ready.forecaster.stream(series.width())?;
    for t in 0..data.rows() {
        stream.push(&data.columns.iter().map(|column| column[t]).collect::<Vec<f32>>());
    }
    match stream.missing() {
        0 => eprintln!("{} rows seen; a forecast follows every further one.", series.rows()),
        more => eprintln!("{} rows seen; forecasts begin after {more} more.", series.rows()),
    }
    let width = series.width();
    let mut rows = Rows::new("standard input", &series.columns);
    if !as_json(args) {
        let steps = (1..=args.horizon).map(|h| h.to_string()).collect::<Vec<_>>().join(",");
        output::text(&format!("row,column,{steps}\n"))?;
    }
    let mut input = std::io::stdin().lock();
    let mut line = Vec::new();
    let mut row = series.rows() as u64;
    loop {
        line.clear();
        let read = std::io::Read::take(&mut input, LONGEST).read_until(b'\n', &mut line).context("standard input")?;
        if read == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        let Line::Row(values) = rows.line(&text)? else { continue };
        // A value that is missing is what was expected of it; at first, the mean.
        let expected = stream.forecast(1).unwrap_or_else(|| vec![0.0; width]);
        let scale = |m: usize| ((values[m] - data.scaler.mean[m]) / data.scaler.deviation[m]) as f32;
        let scaled: Vec<f32> = (0..width).map(|m| if values[m].is_nan() { expected[m] } else { scale(m) }).collect();
        stream.push(&scaled);
        let time = series.axis.names(row..row + 1)?.pop().unwrap_or_default();
        row += 1;
        let Some(said) = stream.forecast(args.horizon) else { continue };
        let column = |m: usize| -> Vec<f64> { said.iter().skip(m).step_by(width).map(|&z| data.undo(m, z)).collect() };
        if as_json(args) {
            let columns: serde_json::Map<_, _> =
                (0..width).map(|m| (series.columns[m].clone(), json!(column(m)))).collect();
            output::json(&json!({ "row": row, "after": time, "forecast": columns }))?;
            continue;
        }
        let mut text = String::new();
        for m in 0..width {
            let values = column(m).into_iter().map(shown).collect::<Vec<_>>().join(",");
            text += &format!("{},{},{values}\n", field(&time), field(&series.columns[m]));
        }
        output::text(&text)?;
    }
}
