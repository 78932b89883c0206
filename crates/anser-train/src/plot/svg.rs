//! A chart as SVG.

use std::fmt::Write;

use super::axis::Scale;
use super::{Chart, Mark};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 480.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 48.0;
const BOTTOM: f64 = 56.0;

/// Okabe and Ito's colours, which the colour-blind can tell apart, without the yellow that white paper swallows.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// Points of a curve that are drawn at most: more than there are places beside each other.
const MOST_POINTS: usize = 1400;

pub(super) fn draw(chart: &Chart) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(chart, &mut out);
    out
}

pub(super) fn stack(charts: &[Chart]) -> String {
    let height = HEIGHT * charts.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\">\n"
    );
    for (place, chart) in charts.iter().enumerate() {
        out += &format!("<g transform=\"translate(0 {})\">\n{}</g>\n", HEIGHT * place as f64, draw(chart));
    }
    out + "</svg>\n"
}

fn write(chart: &Chart, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
         height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222\">"
    )?;
    writeln!(out, "<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>")?;
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    writeln!(
        out,
        "<text x=\"{middle}\" y=\"26\" text-anchor=\"middle\" font-size=\"16\">{}</text>",
        escape(&chart.title)
    )?;
    let (bottom, centre) = (HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2.0);
    writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 14.0,
        escape(&chart.x.label)
    )?;
    writeln!(
        out,
        "<text transform=\"translate(18 {centre}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(&chart.y.label)
    )?;
    let Some([xs, ys]) = chart.extent() else {
        writeln!(out, "<text x=\"{middle}\" y=\"{centre}\" text-anchor=\"middle\">no data</text>")?;
        return writeln!(out, "</svg>");
    };
    let (x, y) = (Scale::new(xs, chart.x.log, false), Scale::new(ys, chart.y.log, true));
    let across = |value: f64| LEFT + x.place(value) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| bottom - y.place(value) * (bottom - TOP);

    for (value, label) in y.ticks(6) {
        let at = up(value);
        writeln!(out, "<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/>", WIDTH - RIGHT)?;
        writeln!(out, "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>", LEFT - 8.0, at + 4.5)?;
    }
    for (value, label) in x.ticks(8) {
        let at = across(value);
        writeln!(out, "<path d=\"M{at:.1} {bottom}v5\" stroke=\"#222\"/>")?;
        writeln!(out, "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", bottom + 20.0)?;
    }
    writeln!(out, "<path d=\"M{LEFT} {TOP}V{bottom}H{}\" fill=\"none\" stroke=\"#222\"/>", WIDTH - RIGHT)?;

    let mut named = 0;
    let mut legend = Vec::new();
    for series in &chart.series {
        let colour = COLOURS[named % COLOURS.len()];
        let band: Vec<_> = series
            .band
            .iter()
            .filter(|&&(x, low, high)| chart.shows((x, low)) && chart.shows((x, high)))
            .map(|&(x, low, high)| (across(x), up(low), up(high)))
            .collect();
        if band.len() > 1 {
            let there = band.iter().map(|(x, _, high)| format!("{x:.1} {high:.1}"));
            let back = band.iter().rev().map(|(x, low, _)| format!("{x:.1} {low:.1}"));
            let outline: Vec<String> = there.chain(back).collect();
            writeln!(out, "<path d=\"M{}Z\" fill=\"{colour}\" fill-opacity=\"0.18\"/>", outline.join("L"))?;
        }
        let points = thinned(&series.points);
        let mut path = String::new();
        let mut pen = 'M';
        for &point in &points {
            if chart.shows(point) {
                write!(path, "{pen}{:.1} {:.1}", across(point.0), up(point.1))?;
                pen = 'L';
            } else {
                pen = 'M';
            }
        }
        let style = match series.mark {
            Mark::Faint => "stroke-opacity=\"0.25\" stroke-width=\"1\"",
            Mark::Line | Mark::Dots => "stroke-width=\"2\" stroke-linejoin=\"round\"",
        };
        if !path.is_empty() {
            writeln!(out, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" {style}/>")?;
        }
        if series.mark == Mark::Dots {
            for &point in points.iter().filter(|&&point| chart.shows(point)) {
                let (x, y) = (across(point.0), up(point.1));
                writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>")?;
            }
        }
        if series.mark != Mark::Faint {
            legend.push((colour, &series.name));
            named += 1;
        }
    }
    if legend.is_empty() {
        return writeln!(out, "</svg>");
    }
    let longest = legend.iter().map(|(_, name)| name.chars().count()).max().unwrap_or(0) as f64;
    let (width, height) = ((48.0 + 7.5 * longest).min(WIDTH - LEFT - RIGHT), 20.0 * legend.len() as f64 + 8.0);
    // The corner that the fewest points lie in; of equal ones the upper right, where falling losses leave room.
    let (right, lower) = (WIDTH - RIGHT - width, bottom - height - 4.0);
    let shown = || chart.series.iter().flat_map(|s| &s.points).filter(|&&point| chart.shows(point));
    let covered = |&(left, top): &(f64, f64)| {
        let inside = |&&(x, y): &&(f64, f64)| {
            (left..=left + width).contains(&across(x)) && (top..=top + height).contains(&up(y))
        };
        shown().filter(inside).count()
    };
    let corners = [(right, TOP), (LEFT + 6.0, lower), (right, lower), (LEFT + 6.0, TOP)];
    let (left, top) = corners.into_iter().min_by_key(covered).unwrap_or(corners[0]);
    writeln!(
        out,
        "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"#fff\" \
         fill-opacity=\"0.8\"/>"
    )?;
    let left = left + 4.0;
    for (row, (colour, name)) in legend.into_iter().enumerate() {
        let at = top + 16.0 + 20.0 * row as f64;
        writeln!(out, "<path d=\"M{left:.1} {:.1}h24\" stroke=\"{colour}\" stroke-width=\"3\"/>", at - 4.5)?;
        writeln!(out, "<text x=\"{:.1}\" y=\"{at:.1}\">{}</text>", left + 32.0, escape(name))?;
    }
    writeln!(out, "</svg>")
}

/// At most [`MOST_POINTS`] points: of each run of neighbours the lowest and the highest, so that peaks stay.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= MOST_POINTS {
        return points.to_vec();
    }
    let run = points.len().div_ceil(MOST_POINTS / 2);
    let mut kept = Vec::with_capacity(MOST_POINTS);
    for chunk in points.chunks(run) {
        let by_height = |&a: &usize, &b: &usize| chunk[a].1.total_cmp(&chunk[b].1);
        let low = (0..chunk.len()).min_by(by_height).unwrap_or(0);
        let high = (0..chunk.len()).max_by(by_height).unwrap_or(0);
        kept.push(chunk[low.min(high)]);
        if low != high {
            kept.push(chunk[low.max(high)]);
        }
    }
    kept
}

fn escape(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .map(|c| match c {
            '&' => "&amp;".to_string(),
            '<' => "&lt;".to_string(),
            '>' => "&gt;".to_string(),
            c => c.to_string(),
        })
        .collect()
}
