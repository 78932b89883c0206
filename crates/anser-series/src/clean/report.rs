//! What was done to a file, for programs and for people.

use serde::Serialize;

use crate::table::Reading;

/// Everything [`prepare`](super::prepare) and the reader did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// How it was read.
    pub reading: Reading,
    /// Rows of the file.
    pub rows_read: usize,
    /// Rows of the series.
    pub rows: usize,
    /// The step of the clock, in words; `None` where rows are numbered.
    pub step: Option<String>,
    /// The first date.
    pub first: Option<String>,
    /// The last date.
    pub last: Option<String>,
    /// Rows without a date, left out.
    pub undated: usize,
    /// How often the dates went backwards before they were sorted.
    pub unsorted: usize,
    /// Rows merged into another with the same date.
    pub duplicates: usize,
    /// Dates moved to the nearest point of the clock.
    pub moved: usize,
    /// Rows added where the dates had gaps.
    pub filled: usize,
    /// Rows of the longest gap.
    pub longest_gap: usize,
    /// Every column of the series.
    pub columns: Vec<ColumnReport>,
}

/// What was done to a column.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ColumnReport {
    /// Its name.
    pub column: String,
    /// Infinite or gigantic values, made missing.
    pub infinite: usize,
    /// Values that stood for missing ones, and how often.
    pub sentinels: Vec<(f64, usize)>,
    /// Missing values in all, those of gaps between dates included.
    pub missing: usize,
    /// Of these, filled by straight lines.
    pub interpolated: usize,
    /// Of these, filled at the beginning or the end with the nearest value.
    pub carried: usize,
    /// Whether all its values are the same.
    pub constant: bool,
}

/// `3 rows`, `1 row`.
fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

impl Report {
    /// A sentence for everything worth telling, the most general first.
    pub fn sentences(&self) -> Vec<String> {
        let mut told = Vec::new();
        let r = &self.reading;
        told.push(match r.format {
            "CSV" => {
                let header = if r.header { "with a header" } else { "without a header" };
                let rows = count(self.rows_read, "row");
                format!("{}: CSV, {}, separated by {}, {header}, {rows}.", self.file, r.encoding, r.delimiter)
            }
            format => format!("{}: {format}, {}.", self.file, count(self.rows_read, "row")),
        });
        if !r.decimal_comma.is_empty() {
            told.push(format!("The decimal sign of {} is the comma.", list(&r.decimal_comma)));
        }
        if !r.renamed.is_empty() {
            told.push(format!("Columns without a name of their own are called {}.", list(&r.renamed)));
        }
        match (&r.date_column, &self.step) {
            (Some(column), Some(step)) => {
                let format = r.date_format.as_deref().unwrap_or("dates");
                let ends =
                    format!("{} to {}", self.first.as_deref().unwrap_or("?"), self.last.as_deref().unwrap_or("?"));
                told.push(format!("Dates are in `{column}` ({format}), by steps of {step}, from {ends}."));
            }
            _ => told.push("No dates: rows are numbered.".into()),
        }
        if let Some(doubt) = &r.date_doubt {
            told.push(format!("Doubt: {doubt}."));
        }
        for aside in &r.set_aside {
            told.push(format!("Column `{}` is left out: {}.", aside.column, aside.why));
        }
        let rows = |n: usize, text: &str| (n > 0).then(|| format!("{} {text}.", count(n, "row")));
        told.extend(rows(self.undated, "without a date left out"));
        if self.unsorted > 0 {
            told.push(format!("Dates went backwards {}: sorted.", count(self.unsorted, "time")));
        }
        told.extend(rows(self.duplicates, "merged into others of the same date (their mean)"));
        told.extend(rows(self.moved, "moved to the nearest point of the clock"));
        let gap = format!("added in gaps between dates, the longest of {}", count(self.longest_gap, "row"));
        told.extend(rows(self.filled, &gap));
        told.extend(self.columns.iter().flat_map(ColumnReport::sentences));
        told
    }
}

impl ColumnReport {
    fn sentences(&self) -> Vec<String> {
        let mut told = Vec::new();
        for (value, times) in &self.sentinels {
            told.push(format!("`{}`: {} of {value} taken for missing.", self.column, count(*times, "value")));
        }
        if self.infinite > 0 {
            let values = count(self.infinite, "infinite or gigantic value");
            told.push(format!("`{}`: {values} taken for missing.", self.column));
        }
        if self.missing > 0 {
            told.push(format!(
                "`{}`: {} filled, {} by straight lines and {} at the ends.",
                self.column,
                count(self.missing, "missing value"),
                self.interpolated,
                self.carried
            ));
        }
        if self.constant {
            told.push(format!("`{}` never changes.", self.column));
        }
        told
    }
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
    format!("{}{more}", names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
}
