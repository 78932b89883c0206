//! A table as a file has it, before anything is cleaned.

use serde::Serialize;

/// Columns of numbers, and the time of every row where the file has dates.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The file's name, or `stdin`.
    pub name: String,
    /// The date column, if there is one.
    pub times: Option<Times>,
    /// The columns of numbers, all of one length, in the file's order or the one asked for.
    pub columns: Vec<Column>,
    /// How the file was read.
    pub reading: Reading,
}

impl Table {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, |column| column.values.len())
    }
}

/// One column of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name, unique in the table.
    pub name: String,
    /// A value a row; NaN where the file has none.
    pub values: Vec<f64>,
    /// Whether it was asked for by name.
    pub asked: bool,
}

/// The date column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// Its name.
    pub column: String,
    /// Microseconds since 1970-01-01 00:00, a row each, on the clock that the file shows; `None` where the cell is empty.
    pub micros: Vec<Option<i64>>,
    /// Whether the file told the time zone: the clock is UTC's then.
    pub utc: bool,
}

/// How a file was understood, for the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reading {
    /// `CSV` or `Parquet`.
    pub format: &'static str,
    /// Encoding of the text; empty for Parquet.
    pub encoding: &'static str,
    /// The separator of a CSV file, in words.
    pub delimiter: &'static str,
    /// Whether the first line holds names.
    pub header: bool,
    /// Columns whose decimal sign is the comma.
    pub decimal_comma: Vec<String>,
    /// The date column.
    pub date_column: Option<String>,
    /// How its dates are written.
    pub date_format: Option<String>,
    /// What else could be meant by them.
    pub date_doubt: Option<String>,
    /// Columns that were renamed because the name was empty or taken: the new names.
    pub renamed: Vec<String>,
    /// Columns that are left out.
    pub set_aside: Vec<SetAside>,
}

/// A column that holds no numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAside {
    /// Its name.
    pub column: String,
    /// Why it is left out.
    pub why: String,
}
