//! A chart as characters.

use super::axis::Scale;
use super::{Chart, Mark, Series};

/// The dots of a Braille character, by row and column.
const DOTS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
const BRAILLE: u32 = 0x2800;

pub(super) fn draw(chart: &Chart, width: usize, height: usize) -> String {
    let shown: Vec<&Series> = chart.series.iter().filter(|series| series.mark != Mark::Faint).collect();
    let mut lines = vec![clip(&format!("{}  [{}]", chart.title, chart.y.label), width)];
    let extent = Chart { series: shown.iter().map(|&s| s.clone()).collect(), ..chart.clone() }.extent();
    let Some([xs, ys]) = extent else {
        lines.push("no data".into());
        return lines.join("\n") + "\n";
    };
    let (x, y) = (Scale::new(xs, chart.x.log, false), Scale::new(ys, chart.y.log, true));
    let legend: Vec<String> = shown.iter().enumerate().map(|(at, s)| format!("{} {}", letter(at), s.name)).collect();
    let several = shown.len() > 1;
    // The title, the axis, its numbers, its name.
    let rows = height - 4;
    let ticks = y.ticks((rows / 3).clamp(2, 8));
    let margin = ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0);
    let columns = width.saturating_sub(margin + 2).max(8);

    let mut cells = vec![0u32; rows * columns];
    for (at, series) in shown.iter().enumerate() {
        let mut dot = |column: usize, row: usize| {
            let cell = &mut cells[row / 4 * columns + column / 2];
            *cell = if several { letter(at) as u32 } else { *cell | DOTS[row % 4][column % 2] };
        };
        let mut last: Option<(f64, f64)> = None;
        for &point in &series.points {
            if !chart.shows(point) {
                last = None;
                continue;
            }
            let here = (x.place(point.0) * (columns * 2 - 1) as f64, (1.0 - y.place(point.1)) * (rows * 4 - 1) as f64);
            let from = last.unwrap_or(here);
            let steps = (here.0 - from.0).abs().max((here.1 - from.1).abs()).ceil().max(1.0) as usize;
            for step in 0..=steps {
                let part = step as f64 / steps as f64;
                let column = (from.0 + (here.0 - from.0) * part).round() as usize;
                let row = (from.1 + (here.1 - from.1) * part).round() as usize;
                dot(column.min(columns * 2 - 1), row.min(rows * 4 - 1));
            }
            last = Some(here);
        }
    }

    let row_of = |value: f64| (((1.0 - y.place(value)) * (rows - 1) as f64).round() as usize).min(rows - 1);
    for row in 0..rows {
        let label = ticks.iter().find(|(value, _)| row_of(*value) == row).map_or("", |(_, label)| label);
        let line = if label.is_empty() { '│' } else { '┤' };
        let curve: String = cells[row * columns..][..columns]
            .iter()
            .map(|&cell| match cell {
                0 => ' ',
                dots if !several => char::from_u32(BRAILLE + dots).unwrap_or(' '),
                letter => char::from_u32(letter).unwrap_or(' '),
            })
            .collect();
        lines.push(format!("{label:>margin$} {line}{curve}").trim_end().to_string());
    }
    lines.push(format!("{:>margin$} └{}", "", "─".repeat(columns)));
    let mut axis = vec![' '; columns];
    let mut free = 0;
    for (value, label) in x.ticks((columns / 12).clamp(2, 8)) {
        let length = label.chars().count();
        let middle = (x.place(value) * (columns - 1) as f64).round() as usize;
        let start = middle.saturating_sub(length / 2).min(columns.saturating_sub(length));
        if start >= free && start + length <= columns {
            axis.splice(start..start + length, label.chars());
            free = start + length + 2;
        }
    }
    let axis: String = axis.into_iter().collect();
    lines.push(format!("{:>margin$}  {}", "", axis.trim_end()));
    let mut last = chart.x.label.clone();
    if several {
        last = format!("{}   {last}", legend.join("   "));
    }
    lines.push(clip(&format!("{:>margin$}  {last}", ""), width));
    lines.join("\n") + "\n"
}

fn letter(at: usize) -> char {
    (b'a' + (at % 26) as u8) as char
}

fn clip(text: &str, width: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(width).collect()
}
