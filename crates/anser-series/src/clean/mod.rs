//! From a table to a series: one clock, no holes, and a report of everything that was done.

use serde::Serialize;

use crate::Error;
use crate::table::{Column, SetAside, Table, Times};
use crate::time::{Axis, Step, Style, civil};

mod grid;
mod report;

pub use report::{ColumnReport, Report};

/// Numbers from here on overflow a sum of squares; they count as infinite.
const LARGEST: f64 = 1e100;

/// What [`prepare`] does beyond what is necessary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Take values like -9999 far outside the rest of a column for missing ones.
    pub sentinels: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { sentinels: true }
    }
}

/// Columns on one regular clock, every value finite.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// The file it came from.
    pub name: String,
    /// Names of the M columns.
    pub columns: Vec<String>,
    /// When the rows are.
    pub axis: Axis,
    /// [T, M], row by row.
    pub values: Vec<f64>,
    /// [T, M]: where the value was missing in the file and is filled in.
    pub missing: Vec<bool>,
}

impl Series {
    /// Rows, T.
    pub fn rows(&self) -> usize {
        self.values.len() / self.width().max(1)
    }

    /// Columns, M.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The values of a column.
    ///
    /// # Panics
    /// When there is no column `at`.
    pub fn column(&self, at: usize) -> Vec<f64> {
        assert!(at < self.width(), "column {at} of {}", self.width());
        self.values.iter().skip(at).step_by(self.width()).copied().collect()
    }

    /// Names of the `n` rows that follow: their dates, or their numbers.
    ///
    /// # Errors
    /// [`Error::Calendar`].
    pub fn future_times(&self, n: usize) -> Result<Vec<String>, Error> {
        let rows = self.rows() as u64;
        self.axis.names(rows..rows + n as u64)
    }
}

/// Brings a table onto a regular clock and fills its holes: dates are sorted, repeated ones merged to their mean, gaps
/// filled with rows, infinities and sentinels made missing, missing values interpolated linearly and carried on at the
/// ends. Nothing else is changed.
///
/// # Errors
/// [`Error::TooShort`] for fewer than two rows, [`Error::Gaps`], [`Error::Irregular`], [`Error::AllMissing`] for a column
/// that was asked for, or when no column is left.
pub fn prepare(mut table: Table, options: &Options) -> Result<(Series, Report), Error> {
    let rows_read = table.rows();
    let mut report = Report { file: table.name.clone(), reading: table.reading, rows_read, ..Report::default() };
    let needs = |needed, found| {
        let what = "a series".into();
        if found < needed { Err(Error::TooShort { file: table.name.clone(), what, needed, found }) } else { Ok(()) }
    };
    needs(2, rows_read)?;
    let mut columns: Vec<ColumnReport> = Vec::new();
    for column in &mut table.columns {
        columns.push(clear(column, options));
    }
    let (axis, places) = match table.times.take() {
        None => (Axis::Rows, (0..rows_read).map(Some).collect::<Vec<_>>()),
        Some(times) => place(&table.name, &times, &mut report)?,
    };
    let rows = places.iter().flatten().max().map_or(0, |last| last + 1);
    let (mut kept, mut grids, mut emptied) = (Vec::new(), Vec::new(), None);
    for (column, mut told) in table.columns.into_iter().zip(columns) {
        let mut values = merge(&column.values, &places, rows);
        told.missing = values.iter().filter(|value| value.is_nan()).count();
        if told.missing == rows {
            if column.asked {
                return Err(Error::AllMissing { file: table.name, column: column.name });
            }
            emptied = emptied.or(Some(column.name.clone()));
            let why = "no value is left of it".into();
            report.reading.set_aside.push(SetAside { column: column.name, why });
            continue;
        }
        let missing: Vec<bool> = values.iter().map(|value| value.is_nan()).collect();
        (told.interpolated, told.carried) = fill(&mut values);
        told.constant = values.iter().all(|value| *value == values[0]);
        kept.push(told);
        grids.push((values, missing));
    }
    let Some(column) = emptied.filter(|_| grids.is_empty()) else {
        let columns: Vec<String> = kept.iter().map(|told| told.column.clone()).collect();
        report.rows = rows;
        report.columns = kept;
        let values = (0..rows).flat_map(|row| grids.iter().map(move |(values, _)| values[row])).collect();
        let missing = (0..rows).flat_map(|row| grids.iter().map(move |(_, missing)| missing[row])).collect();
        return Ok((Series { name: table.name, columns, axis, values, missing }, report));
    };
    Err(Error::AllMissing { file: table.name, column })
}

/// Makes infinities and sentinels missing.
fn clear(column: &mut Column, options: &Options) -> ColumnReport {
    let mut told = ColumnReport { column: column.name.clone(), ..ColumnReport::default() };
    for (value, count) in if options.sentinels { sentinels(&column.values) } else { Vec::new() } {
        column.values.iter_mut().filter(|there| **there == value).for_each(|there| *there = f64::NAN);
        told.sentinels.push((value, count));
    }
    for value in &mut column.values {
        if value.abs() >= LARGEST {
            *value = f64::NAN;
            told.infinite += 1;
        }
    }
    told
}

/// Values that stand for "missing", and how often: of a few customary ones, those that are farther outside the bulk of the
/// others (their 0.5 % to 99.5 % quantiles) than three times its width. Once is enough for -9999 and -99999; the others
/// must be repeated.
fn sentinels(values: &[f64]) -> Vec<(f64, usize)> {
    const CUSTOMARY: [f64; 7] = [-9999.0, -99999.0, -999.0, 999.0, 9999.0, 99999.0, 999_999.0];
    const HUGE: f64 = 1e18;
    let suspect = |value: f64| CUSTOMARY.contains(&value) || value.abs() >= HUGE;
    let mut rest: Vec<f64> = values.iter().copied().filter(|value| value.is_finite() && !suspect(*value)).collect();
    let mut suspects: Vec<f64> = values.iter().copied().filter(|value| value.is_finite() && suspect(*value)).collect();
    if suspects.is_empty() || rest.len() < suspects.len() {
        return Vec::new();
    }
    rest.sort_unstable_by(f64::total_cmp);
    suspects.sort_unstable_by(f64::total_cmp);
    let last = rest.len() - 1;
    let (low, high) = (rest[last * 5 / 1000], rest[last - last * 5 / 1000]);
    let outside = |value: f64| {
        let beyond = if value < low { low - value } else { value - high };
        (value < rest[0] || value > rest[last]) && beyond > 3.0 * (high - low)
    };
    let groups = suspects.chunk_by(|a, b| a == b).map(|group| (group[0], group.len()));
    groups.filter(|&(value, count)| outside(value) && (count > 1 || [-9999.0, -99999.0].contains(&value))).collect()
}

/// The clock of the dates, and where every row of the file goes on it.
fn place(file: &str, times: &Times, report: &mut Report) -> Result<(Axis, Vec<Option<usize>>), Error> {
    // What lies beyond the calendar is no date, whoever made the table.
    let dated: Vec<i64> = times.micros.iter().flatten().copied().filter(|&micros| civil(micros).is_some()).collect();
    report.undated = times.micros.len() - dated.len();
    report.unsorted = dated.windows(2).filter(|pair| pair[1] < pair[0]).count();
    let mut unique = dated;
    unique.sort_unstable();
    unique.dedup();
    if unique.len() < 2 {
        let what = format!("the step between dates of column `{}`", times.column);
        return Err(Error::TooShort { file: file.into(), what, needed: 2, found: unique.len() });
    }
    let grid = grid::find(file, &unique, times.utc)?;
    report.moved = grid.moved;
    let place = |micros: &Option<i64>| {
        let at = micros.and_then(|micros| unique.binary_search(&micros).ok())?;
        Some(grid.places[at])
    };
    let places: Vec<Option<usize>> = times.micros.iter().map(place).collect();
    let mut used: Vec<usize> = places.iter().flatten().copied().collect();
    let dated = used.len();
    used.sort_unstable();
    used.dedup();
    report.duplicates = dated - used.len();
    let rows = used.last().map_or(0, |last| last + 1);
    report.filled = rows - used.len();
    let daily = matches!(grid.step, Step::Months { .. });
    let style = Style { utc: times.utc, date_only: daily };
    report.longest_gap = used.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0);
    report.step = Some(grid.step.to_string());
    let axis = Axis::Grid { start: grid.start, step: grid.step, utc: times.utc };
    report.first = axis.names(0..1).ok().and_then(|mut names| names.pop()).or(Some(style.show(grid.start)));
    report.last = axis.names(rows as u64 - 1..rows as u64).ok().and_then(|mut names| names.pop());
    Ok((axis, places))
}

/// The values on the clock: the mean of those that share a place, NaN where there is none.
fn merge(values: &[f64], places: &[Option<usize>], rows: usize) -> Vec<f64> {
    let (mut sums, mut counts) = (vec![0.0; rows], vec![0u32; rows]);
    for (value, place) in values.iter().zip(places) {
        if let Some(place) = *place
            && !value.is_nan()
        {
            sums[place] += value;
            counts[place] += 1;
        }
    }
    sums.iter().zip(&counts).map(|(sum, &count)| if count == 0 { f64::NAN } else { sum / f64::from(count) }).collect()
}

/// Fills NaN: linearly between neighbours, with the nearest value at the ends. Returns how many of each.
fn fill(values: &mut [f64]) -> (usize, usize) {
    let there: Vec<usize> = (0..values.len()).filter(|&at| !values[at].is_nan()).collect();
    let (Some(&first), Some(&last)) = (there.first(), there.last()) else { return (0, 0) };
    let (start, end) = (values[first], values[last]);
    values[..first].fill(start);
    values[last + 1..].fill(end);
    let carried = first + values.len() - 1 - last;
    let mut interpolated = 0;
    for pair in there.windows(2) {
        let (from, to) = (values[pair[0]], values[pair[1]]);
        for at in pair[0] + 1..pair[1] {
            values[at] = from + (to - from) * ((at - pair[0]) as f64 / (pair[1] - pair[0]) as f64);
            interpolated += 1;
        }
    }
    (interpolated, carried)
}
