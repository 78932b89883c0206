//! Rows that come one by one, as text.

use crate::Error;
use crate::read::is_missing;

/// Reads lines of CSV as rows of known columns.
///
/// A line has a value for every column, in their order; or, after a first line of names, whatever columns that names.
#[derive(Clone, Debug)]
pub struct Rows {
    name: String,
    columns: Vec<String>,
    /// Where the columns are in a line, once that is known.
    places: Option<Vec<usize>>,
    lines: u64,
}

/// What a line was.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// Empty, or names.
    Nothing,
    /// A value a column; NaN where there is none.
    Row(Vec<f64>),
}

impl Rows {
    /// Rows of these columns; `name` is for messages.
    pub fn new(name: &str, columns: &[String]) -> Rows {
        Rows { name: name.into(), columns: columns.to_vec(), places: None, lines: 0 }
    }

    /// Reads a line.
    ///
    /// # Errors
    /// [`Error::Ragged`] for a line of another number of fields, [`Error::NotNumeric`] for a field that is no number,
    /// [`Error::NoColumn`] for names that lack a column.
    pub fn line(&mut self, line: &str) -> Result<Line, Error> {
        self.lines += 1;
        let line = line.trim_end_matches(['\r', '\n']).trim_start_matches('\u{feff}');
        if line.trim().is_empty() {
            return Ok(Line::Nothing);
        }
        let delimiter = [b';', b'\t', b','].into_iter().find(|&delimiter| line.as_bytes().contains(&delimiter));
        let mut reader = csv::ReaderBuilder::new()
            .has_headers(false)
            .delimiter(delimiter.unwrap_or(b','))
            .trim(csv::Trim::All)
            .from_reader(line.as_bytes());
        let mut record = csv::StringRecord::new();
        let format =
            |e: csv::Error| Error::Format { file: self.name.clone(), problem: format!("line {}: {e}", self.lines) };
        if !reader.read_record(&mut record).map_err(format)? {
            return Ok(Line::Nothing);
        }
        let places = match &self.places {
            Some(places) => places,
            None if self.columns.iter().any(|column| record.iter().any(|field| field == column)) => {
                let find = |column: &String| {
                    let there = || record.iter().map(str::to_string).collect();
                    let (file, name) = (self.name.clone(), column.clone());
                    record.iter().position(|field| field == column).ok_or_else(|| Error::NoColumn {
                        file,
                        name,
                        there: there(),
                    })
                };
                self.places = Some(self.columns.iter().map(find).collect::<Result<_, _>>()?);
                return Ok(Line::Nothing);
            }
            // Without names: the values alone, or behind a date.
            None => {
                let dated = usize::from(record.len() == self.columns.len() + 1);
                self.places.insert((dated..dated + self.columns.len()).collect())
            }
        };
        let needed = places.iter().max().map_or(0, |last| last + 1);
        if record.len() < needed {
            return Err(Error::Ragged {
                file: self.name.clone(),
                line: self.lines,
                found: record.len(),
                expected: needed,
                delimiter: match delimiter {
                    Some(b';') => "semicolons",
                    Some(b'\t') => "tabs",
                    _ => "commas",
                },
            });
        }
        let value = |(column, &at): (&String, &usize)| {
            let field = &record[at];
            if is_missing(field) {
                return Ok(f64::NAN);
            }
            field.parse::<f64>().ok().filter(|value| value.abs() < 1e100).ok_or_else(|| Error::NotNumeric {
                file: self.name.clone(),
                name: column.clone(),
                row: self.lines as usize,
                found: field.into(),
                numeric: self.columns.clone(),
            })
        };
        Ok(Line::Row(self.columns.iter().zip(places).map(value).collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::{Line, Rows};

    fn rows() -> Rows {
        Rows::new("stdin", &["load".to_string(), "temperature".to_string()])
    }

    #[test]
    fn values_alone_behind_a_date_and_by_name() {
        let mut plain = rows();
        assert_eq!(plain.line("1.5,-2\r\n").unwrap(), Line::Row(vec![1.5, -2.0]));
        assert_eq!(plain.line("  \n").unwrap(), Line::Nothing);
        let mut dated = rows();
        assert_eq!(dated.line("2026-01-01 00:00;3;4").unwrap(), Line::Row(vec![3.0, 4.0]));
        let mut named = rows();
        assert_eq!(named.line("temperature,other,load").unwrap(), Line::Nothing);
        let Line::Row(row) = named.line("1,2,").unwrap() else { panic!("a row") };
        assert!(row[0].is_nan() && row[1] == 1.0);
    }

    #[test]
    fn what_is_no_row_is_named() {
        let text = |line: &str| rows().line(line).unwrap_err().to_string();
        assert!(text("1,x").contains("`temperature`, row 1: `x`"), "{}", text("1,x"));
        assert!(text("1").contains("1 fields, expected 2"));
        assert!(text("load,other").contains("no column `temperature`"));
        assert!(text("1,inf").contains("`inf`"));
    }
}
