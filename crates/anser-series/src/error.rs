use std::path::{Path, PathBuf};

/// What can go wrong between a file and its forecast.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file has more than is read.
    #[error("{file}: {found} {what}, more than the {limit} that are read: cut the file, or keep fewer columns")]
    TooLarge {
        /// The file.
        file: String,
        /// Bytes or values.
        what: &'static str,
        /// How many there are at least.
        found: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The file is none of the kinds that are read.
    #[error("{file}: {found}; expected CSV text or Parquet: {advice}")]
    Kind {
        /// The file.
        file: String,
        /// What it seems to be.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A file without rows.
    #[error("{file}: {found}; expected a row for every point in time")]
    Empty {
        /// The file.
        file: String,
        /// What there is instead.
        found: &'static str,
    },
    /// A row of another length than the rows before it.
    #[error(
        "{file}: line {line} has {found} fields, expected {expected} (separated by {delimiter}): complete the line, or \
         quote a field that contains the separator"
    )]
    Ragged {
        /// The file.
        file: String,
        /// Line, from 1.
        line: u64,
        /// Fields of that line.
        found: usize,
        /// Fields of the first line.
        expected: usize,
        /// The separator found.
        delimiter: &'static str,
    },
    /// A column that was asked for is not there.
    #[error("{file}: no column `{name}`: there are {}", list(there))]
    NoColumn {
        /// The file.
        file: String,
        /// The name asked for.
        name: String,
        /// The columns of the file.
        there: Vec<String>,
    },
    /// A column that was asked for holds something that is no number.
    #[error("{file}: column `{name}`, row {row}: `{found}` is no number; columns of numbers are {}", list(numeric))]
    NotNumeric {
        /// The file.
        file: String,
        /// The column.
        name: String,
        /// Row of data, from 1.
        row: usize,
        /// What stands there.
        found: String,
        /// The columns that could be asked for.
        numeric: Vec<String>,
    },
    /// No column of numbers at all.
    #[error("{file}: no column of numbers; columns are {}", list(there))]
    NothingNumeric {
        /// The file.
        file: String,
        /// The columns of the file.
        there: Vec<String>,
    },
    /// A value of the date column is no date.
    #[error(
        "{file}: column `{column}`, row {row}: `{found}` is no date{}; expected one like {expected}: correct the row, or \
         leave the dates out",
        if *outside { " of the years -9999 to 9999" } else { "" }
    )]
    NoDate {
        /// The file.
        file: String,
        /// The date column.
        column: String,
        /// Row of data, from 1.
        row: usize,
        /// What stands there.
        found: String,
        /// How the dates of this column are written.
        expected: String,
        /// Whether it is a number beyond the calendar.
        outside: bool,
    },
    /// Days and months cannot be told apart because both orders occur.
    #[error(
        "{file}: column `{column}` has days before months in row {day_first} and months before days in row \
         {month_first}: write the dates as year-month-day"
    )]
    MixedDates {
        /// The file.
        file: String,
        /// The date column.
        column: String,
        /// A row that only reads as day/month/year.
        day_first: usize,
        /// A row that only reads as month/day/year.
        month_first: usize,
    },
    /// A column without a single value.
    #[error("{file}: column `{column}` has no value at all: leave it out")]
    AllMissing {
        /// The file.
        file: String,
        /// The column.
        column: String,
    },
    /// Too few rows for what is asked.
    #[error("{file}: {found} rows, but {what} takes at least {needed}")]
    TooShort {
        /// The file or series.
        file: String,
        /// What needs the rows.
        what: String,
        /// Rows needed.
        needed: usize,
        /// Rows there are.
        found: usize,
    },
    /// Filling the gaps between the dates would blow the table up.
    #[error(
        "{file}: the dates go by {step}, so {rows} rows would become {filled}; the largest gap is {gap}: cut the file \
         there, or leave the dates out"
    )]
    Gaps {
        /// The file.
        file: String,
        /// The step found.
        step: String,
        /// Rows there are.
        rows: usize,
        /// Rows the grid would have.
        filled: u64,
        /// The dates around the largest gap.
        gap: String,
    },
    /// The dates follow no regular step.
    #[error(
        "{file}: the dates follow no regular step: the median is {step}, but {off} of {rows} rows lie off that grid: \
         aggregate the file to a regular step, or leave the dates out"
    )]
    Irregular {
        /// The file.
        file: String,
        /// The median step.
        step: String,
        /// Rows off the grid.
        off: usize,
        /// All rows.
        rows: usize,
    },
    /// A date beyond the calendar.
    #[error("dates after {last} by steps of {step} leave the calendar, which ends with year 9999: forecast less far")]
    Calendar {
        /// The last date known.
        last: String,
        /// The step.
        step: String,
    },
    /// An argument that makes no sense.
    #[error("{name} is {found}, expected {expected}")]
    Argument {
        /// Its name.
        name: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// The normal equations of a fit cannot be solved.
    #[error("the linear fit has no unique solution (pivot {pivot} is {value:e}): take a larger ridge than {lambda}")]
    Singular {
        /// Row of the matrix.
        pivot: usize,
        /// What was left of its diagonal.
        value: f64,
        /// The ridge used.
        lambda: f64,
    },
    /// What a library for a file format said.
    #[error("{file}: {problem}")]
    Format {
        /// The file.
        file: String,
        /// The library's words, with the place where it knows one.
        problem: String,
    },
}

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_path_buf();
        move |source| Error::Io { path, source }
    }
}

/// Names in backquotes, the first twenty of them.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let shown = names.iter().take(SHOWN).map(|name| format!("`{}`", crate::date::shorten(name)));
    let mut text = shown.collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => text.push_str("none"),
        n if n > SHOWN => text.push_str(&format!(" and {} more", n - SHOWN)),
        _ => {}
    }
    text
}
