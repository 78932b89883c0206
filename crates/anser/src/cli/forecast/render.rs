//! A forecast as CSV, JSON, a picture, and a curve in the terminal.

use std::io::IsTerminal;

use anser_series::bands::Bands;
use anser_series::{Report, Series};
use anser_train::files::write_whole;
use anser_train::plot::{Axis, Chart, Mark, Series as Line};
use anser_train::series::{Forecast, Scaled};
use anyhow::Result;
use serde_json::{Map, Value, json};

use super::compare::Comparison;
use super::{Args, Ready, about, as_json, field, picture, put, time_column};

/// The forecast's quantiles in a column's own units, `[H]` each.
struct Quantiles<'a> {
    levels: &'a [f64],
    bands: Option<(&'a Scaled, &'a [Bands])>,
}

impl Quantiles<'_> {
    fn levels(&self) -> &[f64] {
        if self.bands.is_some() { self.levels } else { &[] }
    }

    /// The quantile of level `level` of column `m`, `h` rows ahead, where `value` is forecast.
    fn at(&self, level: f64, m: usize, h: usize, value: f64) -> f64 {
        self.bands.map_or(f64::NAN, |(data, bands)| value + bands[m].quantile(level, 0, h) * data.scaler.deviation[m])
    }
}

pub(super) fn write(
    args: &Args,
    series: &Series,
    report: &Report,
    forecast: &Forecast,
    bands: Option<(&Scaled, &Vec<Bands>)>,
    comparison: Option<&Comparison>,
    ready: &Ready,
) -> Result<()> {
    let bands = bands.map(|(data, bands)| (data, bands.as_slice()));
    let quantiles = Quantiles { levels: &args.quantiles, bands };
    let charts = charts(series, forecast, &quantiles);
    if let Some(place) = picture(args, "forecast") {
        let picture = if charts.len() == 1 { charts[0].svg() } else { Chart::stack(&charts) };
        write_whole(&place, picture.as_bytes())?;
        eprintln!("the picture is in {}", place.display());
    }
    if std::io::stderr().is_terminal() {
        charts.first().iter().for_each(|chart| eprint!("{}", chart.text(80, 16)));
    }
    let text = match as_json(args) {
        true => {
            let value = json!({
                "file": series.name, "horizon": args.horizon, "times": forecast.times,
                "columns": columns(forecast, &quantiles), "held_out": comparison, "model": about(ready),
                "report": report,
            });
            serde_json::to_string(&value)? + "\n"
        }
        false => csv(report, forecast, &quantiles),
    };
    put(args.out.as_deref(), &text)
}

fn csv(report: &Report, forecast: &Forecast, quantiles: &Quantiles<'_>) -> String {
    let mut text = time_column(report);
    for column in &forecast.columns {
        text += &format!(",{}", field(column));
        quantiles.levels().iter().for_each(|level| text += &format!(",{}", field(&format!("{column}_q{level}"))));
    }
    text.push('\n');
    let width = forecast.columns.len();
    for (h, time) in forecast.times.iter().enumerate() {
        text += &field(time);
        for m in 0..width {
            let value = forecast.values[h * width + m];
            text += &format!(",{}", shown(value));
            quantiles
                .levels()
                .iter()
                .for_each(|&level| text += &format!(",{}", shown(quantiles.at(level, m, h, value))));
        }
        text.push('\n');
    }
    text
}

/// A value with about as many digits as there are in f32.
pub(super) fn shown(value: f64) -> String {
    format!("{}", value as f32)
}

fn columns(forecast: &Forecast, quantiles: &Quantiles<'_>) -> Value {
    let (width, steps) = (forecast.columns.len(), forecast.times.len());
    let column = |(m, name): (usize, &String)| {
        let value = |h: usize| forecast.values[h * width + m];
        let level = |&level: &f64| {
            let values: Vec<f64> = (0..steps).map(|h| quantiles.at(level, m, h, value(h))).collect();
            (level.to_string(), json!(values))
        };
        let bands: Map<String, Value> = quantiles.levels().iter().map(level).collect();
        let values: Vec<f64> = (0..steps).map(value).collect();
        (name.clone(), json!({ "forecast": values, "quantiles": bands }))
    };
    Value::Object(forecast.columns.iter().enumerate().map(column).collect())
}

/// A chart a column: what was, what is to come, and the outermost band.
fn charts(series: &Series, forecast: &Forecast, quantiles: &Quantiles<'_>) -> Vec<Chart> {
    let (width, steps) = (series.width(), forecast.times.len());
    let history = (3 * steps).clamp(48, 20_000).min(series.rows());
    let ends = |levels: &[f64]| {
        let (low, high) = levels.iter().fold((f64::INFINITY, 0.0), |(l, h): (f64, f64), &x| (l.min(x), h.max(x)));
        (low < high).then_some((low, high))
    };
    let column = |(m, name): (usize, &String)| {
        let past = series.column(m);
        let past = &past[past.len() - history..];
        let before = |i: usize| (i as f64 + 1.0 - history as f64, past[i]);
        let value = |h: usize| forecast.values[h * width + m];
        let x = |h: usize| h as f64 + 1.0;
        let last = (0.0, past[history - 1]);
        let band = ends(quantiles.levels()).map_or(Vec::new(), |(low, high)| {
            let at = |h: usize| (x(h), quantiles.at(low, m, h, value(h)), quantiles.at(high, m, h, value(h)));
            (0..steps).map(at).filter(|(_, low, high)| low.is_finite() && high.is_finite()).collect()
        });
        let said = std::iter::once(last).chain((0..steps).map(|h| (x(h), value(h)))).collect();
        let name_of_band = ends(quantiles.levels()).map(|(low, high)| format!(", band {low} to {high}"));
        Chart {
            title: format!("{name}, forecast from {}", forecast.times.first().map_or("", String::as_str)),
            x: Axis { label: "rows from the last known one".into(), log: false },
            y: Axis { label: name.clone(), log: false },
            series: vec![
                Line {
                    name: "history".into(),
                    points: (0..history).map(before).collect(),
                    band: Vec::new(),
                    mark: Mark::Line,
                },
                Line {
                    name: format!("forecast{}", name_of_band.unwrap_or_default()),
                    points: said,
                    band,
                    mark: Mark::Line,
                },
            ],
        }
    };
    forecast.columns.iter().enumerate().map(column).collect()
}
