//! The clock of a series: a start and a step, or the number of the row.

use std::ops::Range;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use serde::Serialize;

use crate::Error;

/// Microseconds of an hour.
pub const HOUR: i64 = 3_600_000_000;
/// Microseconds of a day.
pub const DAY: i64 = 24 * HOUR;

/// The distance of two rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// A fixed time in microseconds, more than 0.
    Micros(i64),
    /// Calendar months, at least 1; on the last day of the month where `month_end` is set.
    Months {
        /// How many.
        count: i32,
        /// Whether the rows stand for ends of months.
        month_end: bool,
    },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (count, unit) = match *self {
            Step::Months { count, .. } if count % 12 == 0 => (i64::from(count) / 12, "year"),
            Step::Months { count, .. } => (i64::from(count), "month"),
            Step::Micros(micros) => {
                let units =
                    [(7 * DAY, "week"), (DAY, "day"), (HOUR, "hour"), (60_000_000, "minute"), (1_000_000, "second")];
                let fits = units.into_iter().find(|(unit, _)| micros % unit == 0);
                fits.map_or((micros, "microsecond"), |(unit, name)| (micros / unit, name))
            }
        };
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}

/// The clock of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Axis {
    /// Rows are numbered from 0.
    Rows,
    /// Row `i` stands at `start` plus `i` steps.
    Grid {
        /// Microseconds since 1970-01-01 00:00 of row 0.
        start: i64,
        /// From one row to the next.
        step: Step,
        /// Whether the clock is UTC's; else it is the file's own.
        utc: bool,
    },
}

impl Axis {
    /// Time of row `row` in microseconds since 1970-01-01 00:00; `None` for numbered rows and beyond the calendar.
    pub fn micros(&self, row: u64) -> Option<i64> {
        let Axis::Grid { start, step, .. } = *self else { return None };
        let row = i64::try_from(row).ok()?;
        match step {
            Step::Micros(step) => {
                let micros = start.checked_add(step.checked_mul(row)?)?;
                civil(micros).map(|_| micros)
            }
            Step::Months { count, month_end } => {
                let months = i64::from(count).checked_mul(row)?;
                let start = civil(start)?;
                let span = jiff::Span::new().try_months(months).ok()?;
                let date = start.date().checked_add(span).ok()?;
                let date = if month_end { date.last_of_month() } else { date };
                Some(micros(DateTime::from_parts(date, start.time())))
            }
        }
    }

    /// Names of rows: their numbers, or their dates (ISO 8601; with `Z` where the clock is UTC's).
    ///
    /// # Errors
    /// [`Error::Calendar`].
    pub fn names(&self, rows: Range<u64>) -> Result<Vec<String>, Error> {
        let Axis::Grid { start, step, utc } = *self else { return Ok(rows.map(|row| row.to_string()).collect()) };
        let days = match step {
            Step::Micros(step) => step % DAY == 0,
            Step::Months { .. } => true,
        };
        let style = Style { utc, date_only: !utc && days && start.rem_euclid(DAY) == 0 };
        let last = self.micros(rows.start.saturating_sub(1)).unwrap_or(start);
        let beyond = || Error::Calendar { last: style.show(last), step: step.to_string() };
        rows.map(|row| self.micros(row).map(|micros| style.show(micros)).ok_or_else(beyond)).collect()
    }
}

/// How dates are written.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    pub(crate) utc: bool,
    pub(crate) date_only: bool,
}

impl Style {
    pub(crate) fn show(self, micros: i64) -> String {
        let Some(time) = civil(micros) else { return format!("{micros} microseconds after 1970") };
        match self {
            Style { date_only: true, .. } => time.date().to_string(),
            Style { utc: true, .. } => format!("{time}Z"),
            Style { .. } => format!("{} {}", time.date(), time.time()),
        }
    }
}

/// 1970-01-01 00:00.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// The calendar's view of microseconds since 1970-01-01 00:00.
pub(crate) fn civil(micros: i64) -> Option<DateTime> {
    EPOCH.checked_add(SignedDuration::from_micros(micros)).ok()
}

/// Microseconds since 1970-01-01 00:00; the calendar's years fit.
pub(crate) fn micros(time: DateTime) -> i64 {
    let since = time.duration_since(EPOCH);
    since.as_secs() * 1_000_000 + i64::from(since.subsec_micros())
}
