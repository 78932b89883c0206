//! How long until a series repeats itself.

use std::ops::Range;

use serde::Serialize;

use crate::clean::Series;
use crate::time::{Axis, DAY, HOUR, Step};

/// Rows that are looked at, at most the last ones.
const MAX_ROWS: usize = 20_000;
/// The longest period searched for where the step suggests none.
const MAX_PERIOD: usize = 1_000;
/// Columns that are looked at, evenly spread over the table.
const MAX_COLUMNS: usize = 64;

/// The seasonal period of a series.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Season {
    /// Rows until it repeats; 1 where it does not.
    pub period: usize,
    /// Whether the step of the clock suggested it; else it was found in the data.
    pub by_clock: bool,
    /// Autocorrelation at the period, of the columns without their straight lines, averaged over columns.
    pub autocorrelation: f64,
}

impl std::fmt::Display for Season {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.period == 1 {
            return write!(f, "no season");
        }
        let from = if self.by_clock { "suggested by the step" } else { "found in the data" };
        write!(f, "a season of {} rows, {from}, autocorrelation {:.2}", self.period, self.autocorrelation)
    }
}

/// The periods that a step suggests, the shortest first: the day, the week, the year.
pub fn suggested(axis: &Axis) -> Vec<usize> {
    let Axis::Grid { step, .. } = *axis else { return Vec::new() };
    let (step, periods) = match step {
        Step::Months { count, .. } => (i64::from(count), vec![12]),
        Step::Micros(step) if step < HOUR / 60 => (step, vec![HOUR / 60, HOUR, DAY]),
        Step::Micros(step) if step < DAY => (step, vec![DAY, 7 * DAY]),
        // A year of 365 days, or 52 weeks.
        Step::Micros(step) if step < 7 * DAY => (step, vec![7 * DAY, 365 * DAY]),
        Step::Micros(step) => (step, vec![364 * DAY]),
    };
    periods.into_iter().filter(|period| period % step == 0 && period / step > 1).map(|p| (p / step) as usize).collect()
}

/// The period of the rows `rows` of a series: the first of those [`suggested`] by the step that shows in the data, else
/// the first clear peak of the autocorrelation. A pure function of the values.
///
/// # Panics
/// When `rows` exceed the series.
pub fn period(series: &Series, rows: Range<usize>) -> Season {
    assert!(rows.start <= rows.end && rows.end <= series.rows(), "rows {rows:?} of {}", series.rows());
    let rows = rows.start.max(rows.end.saturating_sub(MAX_ROWS))..rows.end;
    let (width, n) = (series.width(), rows.len());
    let values = &series.values[rows.start * width..rows.end * width];
    let columns: Vec<Vec<f64>> = (0..width)
        .step_by(width.div_ceil(MAX_COLUMNS).max(1))
        .map(|column| values.iter().skip(column).step_by(width).copied().collect())
        .collect();
    let suggested = suggested(&series.axis);
    let wanted = suggested.iter().copied().max().unwrap_or(0).max(MAX_PERIOD) + 1;
    let lags = wanted.min(n / 2);
    let levels = autocorrelation(&columns, lags);
    let season = |period: usize, by_clock| Season { period, by_clock, autocorrelation: levels[period] };
    if let Some(period) = suggested.into_iter().find(|&period| period < lags && recurs(&columns, period, 2.5)) {
        return season(period, true);
    }
    // Beyond a third of the rows, too few pairs are left to tell a season from chance.
    let lags = lags.min(n / 3 + 1);
    // Where a season is small beside slow wandering, it shows in the differences only.
    let found = peak(&levels, lags, 0.3).filter(|&period| recurs(&columns, period, 4.0)).or_else(|| {
        let differences: Vec<Vec<f64>> = columns.iter().map(|x| differences(x, 1)).collect();
        peak(&autocorrelation(&differences, lags), lags, 0.15).filter(|&period| recurs(&columns, period, 4.0))
    });
    found.map_or(Season { period: 1, by_clock: false, autocorrelation: 1.0 }, |period| season(period, false))
}

/// Whether the changes over an eighth of a period come again a period later, `deviations` farther from chance than a
/// random walk's.
///
/// The values themselves do not tell: a series that only wanders is like itself at any lag. The changes of a walk over m
/// rows are independent beyond m rows, and correlate as a triangle before, so that their correlation at a longer lag has
/// the variance (1 + 2 m / 3) / pairs (Bartlett's formula).
fn recurs(columns: &[Vec<f64>], period: usize, deviations: f64) -> bool {
    let span = (period / 8).max(1);
    let Some(pairs) = columns.first().and_then(|x| x.len().checked_sub(period + span + 1)).filter(|&pairs| pairs > 0)
    else {
        return false;
    };
    let (mut around, mut count) = ([0.0; 3], 0.0);
    for x in columns {
        let Some((x, energy)) = centred(differences(x, span)) else { continue };
        count += 1.0;
        for (sum, lag) in around.iter_mut().zip(period - 1..) {
            let products: f64 = x[lag..].iter().zip(&x).map(|(a, b)| a * b).sum();
            *sum += products / energy * (x.len() as f64 / (x.len() - lag) as f64);
        }
    }
    let [before, here, after] = around.map(|sum| sum / f64::max(count, 1.0));
    let chance = ((1.0 + 2.0 * span as f64 / 3.0) / pairs as f64).sqrt();
    // Noise may lift a neighbour, but not much.
    let tolerance = f64::max(0.02, 2.0 * (1.0 - here) / (pairs as f64).sqrt());
    here > f64::max(0.1, deviations * chance) && here >= before.max(after) - tolerance
}

/// The first peak below `lags` that rises by `clear`: multiples of a period correlate as well, so it need only be about as
/// high as the highest.
fn peak(correlation: &[f64], lags: usize, clear: f64) -> Option<usize> {
    let mut peaks: Vec<(usize, f64)> = Vec::new();
    let mut valley = f64::INFINITY;
    for lag in 2..lags.saturating_sub(1) {
        valley = valley.min(correlation[lag - 1]);
        let here = correlation[lag];
        if here > correlation[lag - 1] && here >= correlation[lag + 1] && here > clear && here - valley > clear {
            peaks.push((lag, here));
        }
    }
    let best = peaks.iter().map(|peak| peak.1).fold(0.0, f64::max);
    let first = peaks.iter().find(|peak| peak.1 >= 0.9 * best)?.0;
    // Noise moves the peak of a smooth season by a row or two; those of its multiples tell more exactly.
    let (mut period, reach) = (first as f64, (first / 8).max(1));
    for times in 2..=8 {
        let near = (period * f64::from(times)).round() as usize;
        if near + reach >= lags {
            break;
        }
        let around = near - reach..=near + reach;
        let top = around.max_by(|&a, &b| correlation[a].total_cmp(&correlation[b])).unwrap_or(near);
        period = top as f64 / f64::from(times);
    }
    Some(period.round() as usize)
}

/// The changes over `span` rows.
fn differences(x: &[f64], span: usize) -> Vec<f64> {
    x.iter().skip(span).zip(x).map(|(now, then)| now - then).collect()
}

/// A column without its straight line, and its sum of squares; `None` where nothing but rounding errors is left.
fn centred(mut x: Vec<f64>) -> Option<(Vec<f64>, f64)> {
    let largest = x.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
    detrend(&mut x);
    let energy: f64 = x.iter().map(|x| x * x).sum();
    (energy > 1e-18 * largest * largest * x.len() as f64).then_some((x, energy))
}

/// The autocorrelation at lags 0..=`lags`, and one more, averaged over the columns that change. By Fourier transforms, for
/// lags reach a year.
fn autocorrelation(columns: &[Vec<f64>], lags: usize) -> Vec<f64> {
    let n = columns.first().map_or(0, Vec::len);
    // So many zeros follow the rows that no lag wraps around.
    let size = (n + lags + 2).next_power_of_two();
    let turns = turns(size);
    let mut power = vec![(0.0, 0.0); size];
    let changing: Vec<(Vec<f64>, f64)> = columns.iter().filter_map(|x| centred(x.clone())).collect();
    // Two columns a transform: the real part of a complex autocorrelation is the sum of those of its parts.
    for pair in changing.chunks(2) {
        let mut z = vec![(0.0, 0.0); size];
        for (part, (x, energy)) in pair.iter().enumerate() {
            let scale = energy.sqrt().recip();
            for (z, x) in z.iter_mut().zip(x) {
                *(if part == 0 { &mut z.0 } else { &mut z.1 }) = x * scale;
            }
        }
        fourier(&mut z, &turns);
        power.iter_mut().zip(&z).for_each(|(power, (re, im))| power.0 += re * re + im * im);
    }
    fourier(&mut power, &turns);
    // Divided by what that many products would sum to, so that a perfect season has 1 at every multiple.
    let share = |lag: usize| n as f64 / (n.saturating_sub(lag).max(1) * changing.len().max(1)) as f64;
    (0..lags + 2).map(|lag| power[lag].0 / size as f64 * share(lag)).collect()
}

/// `exp(-2 pi i k / size)` for k to half of `size`, a power of two.
fn turns(size: usize) -> Vec<(f64, f64)> {
    (0..size / 2)
        .map(|k| (-std::f64::consts::TAU * k as f64 / size as f64).sin_cos())
        .map(|(sin, cos)| (cos, sin))
        .collect()
}

/// The discrete Fourier transform in place, without a scale (Cooley and Tukey's, by halves).
fn fourier(z: &mut [(f64, f64)], turns: &[(f64, f64)]) {
    let size = z.len();
    let shift = usize::BITS - size.trailing_zeros();
    for at in 1..size {
        let mirrored = at.reverse_bits() >> shift;
        if at < mirrored {
            z.swap(at, mirrored);
        }
    }
    let mut half = 1;
    while half < size {
        for block in z.chunks_exact_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(turns.iter().step_by(size / (2 * half))) {
                let turned = (b.0 * cos - b.1 * sin, b.0 * sin + b.1 * cos);
                (*a, *b) = ((a.0 + turned.0, a.1 + turned.1), (a.0 - turned.0, a.1 - turned.1));
            }
        }
        half *= 2;
    }
}

/// Takes the straight line of least squares away.
fn detrend(x: &mut [f64]) {
    let n = x.len() as f64;
    let (middle, mean) = ((n - 1.0) / 2.0, x.iter().sum::<f64>() / n.max(1.0));
    let (mut product, mut square) = (0.0, 0.0);
    for (t, x) in x.iter().enumerate() {
        product += (t as f64 - middle) * (x - mean);
        square += (t as f64 - middle).powi(2);
    }
    let slope = if square > 0.0 { product / square } else { 0.0 };
    x.iter_mut().enumerate().for_each(|(t, x)| *x -= mean + slope * (t as f64 - middle));
}
