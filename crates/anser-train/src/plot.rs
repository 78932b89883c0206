//! Line charts, as SVG for files and as characters for a terminal.
//!
//! The same chart gives the same bytes: nothing of the time, the machine or a font enters.

mod axis;
mod svg;
mod text;

use crate::metrics::Entry;

/// A direction of a chart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Axis {
    /// What is shown, with its unit, such as "loss (nats per token)".
    pub label: String,
    /// Whether equal distances are equal ratios. Points that are not above zero are then left out.
    pub log: bool,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// A line.
    #[default]
    Line,
    /// A thin pale line behind the others, in the colour of the series after it: raw values. No entry in the legend, not
    /// shown in a terminal.
    Faint,
    /// A line with a dot at each point.
    Dots,
}

/// One curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// (x, y), in the order of x. One that is not finite interrupts the line.
    pub points: Vec<(f64, f64)>,
    /// A shaded range around it, such as the spread of several seeds: (x, low, high). May be empty.
    pub band: Vec<(f64, f64, f64)>,
    /// How it is drawn.
    pub mark: Mark,
}

/// Curves over common axes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// The title.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The curves, those in front last.
    pub series: Vec<Series>,
}

impl Chart {
    /// The chart as a standalone SVG picture of 800 by 480 units.
    pub fn svg(&self) -> String {
        svg::draw(self)
    }

    /// The chart as lines of text, `width` characters wide and `height` lines high (at least 30 and 8), ending with a
    /// line end. One curve is drawn in Braille dots, several with a letter each.
    pub fn text(&self, width: usize, height: usize) -> String {
        text::draw(self, width.max(30), height.max(8))
    }

    /// Several charts below one another, as one standalone SVG picture.
    pub fn stack(charts: &[Chart]) -> String {
        svg::stack(charts)
    }

    /// The ends of both axes: the smallest and largest x, then y, of all that can be shown; `None` if nothing can.
    fn extent(&self) -> Option<[(f64, f64); 2]> {
        let points = self.series.iter().flat_map(|s| {
            s.points.iter().copied().chain(s.band.iter().flat_map(|&(x, low, high)| [(x, low), (x, high)]))
        });
        let mut ends: Option<[(f64, f64); 2]> = None;
        for (x, y) in points.filter(|&point| self.shows(point)) {
            let [xs, ys] = ends.get_or_insert([(x, x), (y, y)]);
            *xs = (xs.0.min(x), xs.1.max(x));
            *ys = (ys.0.min(y), ys.1.max(y));
        }
        ends
    }

    fn shows(&self, (x, y): (f64, f64)) -> bool {
        // Beyond these, differences and ratios are no longer finite.
        let fits = |x: f64, log: bool| x.abs() < 1e150 && (!log || x > 1e-150);
        fits(x, self.x.log) && fits(y, self.y.log)
    }
}

/// The loss curve of a run over its steps: every step's loss pale, its running mean (over about a fiftieth of the run) as
/// a line, held-out losses as dots. `label` names the loss and its unit.
pub fn loss_curve(title: &str, label: &str, entries: &[Entry]) -> Chart {
    let (mut raw, mut held_out) = (Vec::new(), Vec::new());
    for entry in entries {
        match *entry {
            Entry::Step { step, loss, .. } => raw.push((step as f64, loss)),
            Entry::Eval { step, loss, .. } => held_out.push((step as f64, loss)),
        }
    }
    let mut chart = Chart {
        title: title.into(),
        x: Axis { label: "step".into(), log: false },
        y: Axis { label: label.into(), log: false },
        series: Vec::new(),
    };
    let smooth = Series { name: "training".into(), points: smoothed(&raw), ..Series::default() };
    if !raw.is_empty() {
        chart.series.push(Series { name: "each step".into(), points: raw, mark: Mark::Faint, ..Series::default() });
        chart.series.push(smooth);
    }
    if !held_out.is_empty() {
        let name = "held out".into();
        chart.series.push(Series { name, points: held_out, mark: Mark::Dots, ..Series::default() });
    }
    chart
}

/// The exponential running mean over about a fiftieth of the points, without the pull of its beginning.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 50.0).max(1.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    let mut mean = |y: f64| {
        sum = keep * sum + y;
        weight = keep * weight + 1.0;
        sum / weight
    };
    points.iter().filter(|(_, y)| y.is_finite()).map(|&(x, y)| (x, mean(y))).collect()
}
