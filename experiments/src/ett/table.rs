//! Tables and plots of what was measured.

use std::collections::BTreeMap;
use std::path::Path;

use anser_train::plot::{Axis, Chart, Mark, Series};
use anyhow::Result;

use super::test::{Cost, Score};
use super::{FILES, HORIZONS, rivals, train};
use crate::records::{self, spread};

/// MSE / MAE by horizon as published: Table 3 of Nie et al. 2023, "A Time Series is Worth 64 Words".
struct Published {
    file: &'static str,
    what: &'static str,
    cells: [&'static str; 4],
}

const PUBLISHED: [Published; 4] = [
    Published {
        file: "ETTh1",
        what: "DLinear, published",
        cells: ["0.375 / 0.399", "0.405 / 0.416", "0.439 / 0.443", "0.472 / 0.490"],
    },
    Published {
        file: "ETTh1",
        what: "PatchTST/64, published",
        cells: ["0.370 / 0.400", "0.413 / 0.429", "0.422 / 0.440", "0.447 / 0.468"],
    },
    Published {
        file: "ETTh2",
        what: "DLinear, published",
        cells: ["0.289 / 0.353", "0.383 / 0.418", "0.448 / 0.465", "0.605 / 0.551"],
    },
    Published {
        file: "ETTh2",
        what: "PatchTST/64, published",
        cells: ["0.274 / 0.337", "0.341 / 0.382", "0.329 / 0.384", "0.379 / 0.422"],
    },
];

/// Contenders in the order of the table, and what to call them.
const ORDER: [(&str, &str); 13] = [
    ("rimer-96", "Rimer, 96"),
    ("rimer-336", "Rimer, 336"),
    ("rimer-720", "Rimer, 720"),
    ("rimer-336-streamed", "Rimer, 336, streamed"),
    ("rimer-336-blocks", "Rimer, 336, blocks alone"),
    ("timer-336", "Timer, equal size, 336"),
    ("timer-336-large", "Timer, 23 times, 336"),
    ("linear-96", "closed-form linear, 96"),
    ("linear-336", "closed-form linear, 336"),
    ("linear-720", "closed-form linear, 720"),
    ("dlinear", "DLinear, 336"),
    ("seasonal-naive", "seasonal naive, 24"),
    ("last-value", "last value"),
];

pub(super) fn write(
    out: &Path,
    trained: &[train::Record],
    linears: &[rivals::Record],
    scores: &[Score],
    costs: &[Cost],
) -> Result<()> {
    let text = [errors(scores), against(scores), training(trained, linears), inference(costs)].concat();
    records::write(&out.join("results.md"), &text)?;
    for file in FILES {
        records::write(&out.join(format!("{}.svg", file.to_lowercase())), &by_horizon(scores, file).svg())?;
    }
    let axis = |label: &str, log| Axis { label: label.into(), log };
    let picture = |title: &str, y: &str, of: fn(&Cost) -> f64| {
        let rows = axis("rows of a window, or rows streamed before", true);
        Chart { title: title.into(), x: rows, y: axis(y, true), series: lines(costs, of) }.svg()
    };
    let time = picture("Time of a forecast of 7 channels and 192 rows", "milliseconds", |c| c.milliseconds);
    records::write(&out.join("time.svg"), &time)?;
    let memory = picture("Peak memory of a process that forecasts", "MiB", |c| c.peak_bytes as f64 / 1048576.0);
    records::write(&out.join("memory.svg"), &memory)?;
    print!("{text}");
    Ok(())
}

/// The seeds of one cell.
fn cell<'a>(scores: &'a [Score], file: &'a str, name: &'a str, horizon: usize) -> Vec<&'a Score> {
    scores.iter().filter(|s| (s.file.as_str(), s.contender.as_str(), s.horizon) == (file, name, horizon)).collect()
}

fn mse(cell: &[&Score]) -> (f64, f64, f64) {
    spread(&cell.iter().map(|s| s.mse).collect::<Vec<_>>())
}

fn mae(cell: &[&Score]) -> f64 {
    spread(&cell.iter().map(|s| s.mae).collect::<Vec<_>>()).0
}

fn errors(scores: &[Score]) -> String {
    let mut text = String::from(
        "# Forecasts of ETT\n\nTest MSE / MAE in units of the training rows' deviations; all windows, channels and steps. \
         Means over seeds, in brackets the least and the largest MSE where there are several. Numbers are look-backs in \
         hours; *published* is Table 3 of Nie et al. 2023 (look-back 512 for PatchTST/64, 336 for DLinear).\n",
    );
    for file in FILES {
        text += &format!("\n## {file}\n\n| | 96 | 192 | 336 | 720 |\n|---|---|---|---|---|\n");
        for (name, title) in ORDER {
            let cells: Vec<String> = HORIZONS
                .iter()
                .map(|&horizon| {
                    let runs = cell(scores, file, name, horizon);
                    let ((mean, low, high), absolute) = (mse(&runs), mae(&runs));
                    match runs.len() {
                        0 => "not run".into(),
                        1 => format!("{mean:.4} / {absolute:.4}"),
                        _ => format!("{mean:.4} / {absolute:.4} ({low:.4} to {high:.4})"),
                    }
                })
                .collect();
            text += &format!("| {title} | {} |\n", cells.join(" | "));
        }
        for row in PUBLISHED.iter().filter(|row| row.file == file) {
            text += &format!("| {} | {} |\n", row.what, row.cells.join(" | "));
        }
    }
    text
}

/// Rimer's errors over those of the closed form.
fn against(scores: &[Score]) -> String {
    let mut text = String::from(
        "\n## Rimer and the closed form\n\nMean MSE of Rimer over that of the closed-form linear forecast of the same \
         look-back, less one: below 0 Rimer is better.\n\n| | look-back | 96 | 192 | 336 | 720 |\n|---|---|---|---|---|---|\n",
    );
    for file in FILES {
        for look_back in [96, 336, 720] {
            let ratio = |&horizon: &usize| {
                let of = |name: &str| mse(&cell(scores, file, name, horizon)).0;
                let ratio = of(&format!("rimer-{look_back}")) / of(&format!("linear-{look_back}"));
                format!("{:+.1} %", 100.0 * (ratio - 1.0))
            };
            let cells: Vec<String> = HORIZONS.iter().map(ratio).collect();
            text += &format!("| {file} | {look_back} | {} |\n", cells.join(" | "));
        }
    }
    text
}

fn training(trained: &[train::Record], linears: &[rivals::Record]) -> String {
    let mut text = String::from(
        "\n## Training\n\nSeconds of training of one model, closed form included: the fastest of all files and seeds, for the machine was shared. \
         *Validation* \
         is the mean over files, horizons and seeds of the MSE on the rows to choose by, every eighth window.\n\n\
         | | parameters | steps | seconds | validation | its linear path alone |\n|---|---|---|---|---|---|\n",
    );
    let mean = |values: Vec<f64>| spread(&values).0;
    for (name, title) in ORDER {
        let runs: Vec<&train::Record> = trained.iter().filter(|r| r.contender == name).collect();
        let Some(first) = runs.first() else { continue };
        let over = |of: fn(&train::Record) -> &[f64]| mean(runs.iter().flat_map(|r| of(r)).copied().collect());
        let linear = if first.linear.is_empty() { "-".into() } else { format!("{:.4}", over(|r| &r.linear)) };
        text += &format!(
            "| {title} | {} | {} | {:.0} | {:.4} | {linear} |\n",
            first.parameters,
            first.steps,
            fastest(runs.iter().map(|r| r.seconds)),
            over(|r| &r.validation)
        );
    }
    for horizon in HORIZONS {
        let runs: Vec<&rivals::Record> = linears.iter().filter(|r| r.horizon == horizon).collect();
        let Some(first) = runs.first() else { continue };
        let seconds = fastest(runs.iter().map(|r| r.seconds));
        text += &format!("| DLinear, {horizon} ahead | {} | | {seconds:.0} | | |\n", first.parameters);
    }
    text
}

fn fastest(seconds: impl Iterator<Item = f64>) -> f64 {
    seconds.fold(f64::INFINITY, f64::min)
}

fn inference(costs: &[Cost]) -> String {
    let mut text = String::from(
        "\n## Forecasting\n\nOne forecast of 7 channels and 192 rows, blocks of equal size without their linear path: \
         milliseconds and peak memory of the process, by the rows of a window; streamed: one row more and its forecast, by \
         the rows before it.\n\n| | rows | ms | MiB |\n|---|---|---|---|\n",
    );
    for c in costs {
        let how = if c.streamed { format!("{}, streamed", name(&c.backbone)) } else { name(&c.backbone).into() };
        let mib = c.peak_bytes as f64 / f64::from(1 << 20);
        text += &format!("| {how} | {} | {:.2} | {mib:.0} |\n", c.rows, c.milliseconds);
    }
    text
}

fn name(backbone: &str) -> &str {
    if backbone == "timer" { "Timer" } else { "Rimer" }
}

fn lines(costs: &[Cost], of: fn(&Cost) -> f64) -> Vec<Series> {
    let mut lines: BTreeMap<(bool, &str), Vec<(f64, f64)>> = BTreeMap::new();
    for c in costs {
        lines.entry((c.streamed, name(&c.backbone))).or_default().push((c.rows as f64, of(c)));
    }
    let line = |((streamed, name), points): ((bool, &str), Vec<(f64, f64)>)| Series {
        name: if streamed { format!("{name}, streamed") } else { name.into() },
        points,
        band: Vec::new(),
        mark: Mark::Dots,
    };
    lines.into_iter().map(line).collect()
}

/// MSE over the horizon, of the contenders with 336 hours of look-back.
fn by_horizon(scores: &[Score], file: &str) -> Chart {
    let shown = ["rimer-336", "timer-336", "timer-336-large", "linear-336", "dlinear", "seasonal-naive"];
    let series = ORDER.iter().filter(|(name, _)| shown.contains(name)).filter_map(|(name, title)| {
        let at = |&horizon: &usize| {
            let runs = cell(scores, file, name, horizon);
            (!runs.is_empty()).then(|| (horizon as f64, mse(&runs)))
        };
        let cells: Vec<(f64, (f64, f64, f64))> = HORIZONS.iter().filter_map(at).collect();
        (!cells.is_empty()).then(|| Series {
            name: (*title).into(),
            points: cells.iter().map(|(x, y)| (*x, y.0)).collect(),
            band: cells.iter().map(|(x, y)| (*x, y.1, y.2)).collect(),
            mark: Mark::Dots,
        })
    });
    Chart {
        title: format!("{file}: error by horizon, look-back 336"),
        x: Axis { label: "horizon (hours)".into(), log: false },
        y: Axis { label: "test MSE (squared deviations)".into(), log: false },
        series: series.collect(),
    }
}
