//! `anser forecast --anomaly`: rows that are not what the rows before them made expect.

use anser_train::files::write_whole;
use anser_train::plot::{Axis, Chart, Mark, Series as Line};
use anser_train::series::anomaly::Anomalies;
use anyhow::Result;
use serde_json::json;

use super::render::shown;
use super::{Args, Ready, about, as_json, field, picture, put, time_column};

pub(super) fn run(args: &Args, ready: &Ready) -> Result<()> {
    let (series, report) = (&ready.series, &ready.report);
    let found = ready.forecaster.anomalies(series)?;
    let width = series.width();
    let strange: Vec<usize> = (0..found.scores.len()).filter(|&at| found.scores[at] >= args.threshold).collect();
    eprintln!(
        "{} of {} values are at least {} times as far from what was expected as usual; the first {} rows have no score.",
        strange.len(),
        found.scores.len(),
        args.threshold,
        found.rows.start
    );
    if let Some(place) = picture(args, "anomalies") {
        let charts: Vec<Chart> = (0..width).map(|m| chart(ready, &found, args.threshold, m)).collect();
        write_whole(&place, if width == 1 { charts[0].svg() } else { Chart::stack(&charts) }.as_bytes())?;
        eprintln!("the picture is in {}", place.display());
    }
    let times = series.axis.names(found.rows.start as u64..found.rows.end as u64)?;
    let value = |at: usize| series.values[found.rows.start * width + at];
    if as_json(args) {
        let row = |&at: &usize| {
            json!({
                "time": times[at / width], "row": found.rows.start + at / width, "column": series.columns[at % width],
                "value": value(at), "expected": found.expected[at], "score": found.scores[at],
            })
        };
        let value = json!({
            "file": series.name, "threshold": args.threshold, "rows": [found.rows.start, found.rows.end],
            "anomalies": strange.iter().map(row).collect::<Vec<_>>(), "model": about(ready), "report": report,
        });
        return put(args.out.as_deref(), &(serde_json::to_string(&value)? + "\n"));
    }
    let mut text = format!("{},column,value,expected,score\n", time_column(report));
    for at in strange {
        text += &format!(
            "{},{},{},{},{:.1}\n",
            field(&times[at / width]),
            field(&series.columns[at % width]),
            value(at),
            shown(found.expected[at]),
            found.scores[at]
        );
    }
    put(args.out.as_deref(), &text)
}

/// The values of a column, what was expected, and what is strange as dots.
fn chart(ready: &Ready, found: &Anomalies, threshold: f64, m: usize) -> Chart {
    let (series, width) = (&ready.series, ready.series.width());
    let values = series.column(m);
    let x = |row: usize| row as f64;
    let line = |name: &str, points, mark| Line { name: name.into(), points, band: Vec::new(), mark };
    let dot = |row: usize| {
        let strange = found.scores[(row - found.rows.start) * width + m] >= threshold;
        (x(row), if strange { values[row] } else { f64::NAN })
    };
    let expected = |row: usize| (x(row), found.expected[(row - found.rows.start) * width + m]);
    Chart {
        title: format!("{}: what was expected, and what was not", series.columns[m]),
        x: Axis { label: "row".into(), log: false },
        y: Axis { label: series.columns[m].clone(), log: false },
        series: vec![
            line("value", found.rows.clone().map(|row| (x(row), values[row])).collect(), Mark::Line),
            line("expected", found.rows.clone().map(expected).collect(), Mark::Line),
            line("strange", found.rows.clone().map(dot).collect(), Mark::Dots),
        ],
    }
}
