//! Dates out of text: which column holds them, how they are written, and when that is.

use std::cmp::Ordering;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

use crate::Error;
use crate::table::Times;
use crate::time::{DAY, micros};

/// Of a column's first values so many say whether it holds dates.
const SAMPLE: usize = 50;

/// A date column, read.
pub(crate) struct Dates {
    pub(crate) times: Times,
    /// How the dates are written.
    pub(crate) format: String,
    /// What else could be meant.
    pub(crate) doubt: Option<String>,
}

/// One value.
#[derive(Clone, Copy)]
enum One {
    /// No value.
    Missing,
    /// Known without the others: microseconds since 1970.
    Fixed { micros: i64, utc: bool },
    /// Day and month in an order that the column must tell.
    Local { first: i8, second: i8, year: i16, clock: i64, utc: bool, separator: char },
}

/// Whether a value is written like a date. Plain numbers are not.
pub(crate) fn is_date(text: &str) -> bool {
    matches!(text_date(text), Some(One::Fixed { .. } | One::Local { .. }))
}

/// Whether the values, but for missing ones, are dates or, in a column named like one, numbers that count time. One
/// wrong value in ten is let pass: reading the column will name it, where leaving it out would hide it.
pub(crate) fn is_date_column<'a>(name: &str, values: impl Iterator<Item = &'a str>) -> bool {
    let sample: Vec<&str> = values.map(str::trim).filter(|text| !crate::read::is_missing(text)).take(SAMPLE).collect();
    if sample.is_empty() {
        return false;
    }
    let texts = sample.iter().filter(|text| is_date(text)).count();
    let counted = || named_like_date(name).then(|| Count::of(name, &sample)).flatten();
    // A year that comes again has its month or day in another column.
    let again = || sample.iter().enumerate().any(|(at, year)| sample[..at].contains(year));
    texts * 10 >= sample.len() * 9 || counted().is_some_and(|count| count != Count::Year || !again())
}

fn named_like_date(name: &str) -> bool {
    let name = name.to_lowercase();
    ["date", "time", "datum", "zeit", "unix", "epoch", "year", "jahr"].iter().any(|word| name.contains(word))
        || ["ts", "day", "month"].contains(&name.as_str())
}

/// Reads a whole date column.
///
/// # Errors
/// [`Error::NoDate`], [`Error::MixedDates`].
pub(crate) fn read<'a>(
    file: &str,
    column: &str,
    values: impl Iterator<Item = &'a str> + Clone,
) -> Result<Dates, Error> {
    let sample: Vec<&str> =
        values.clone().map(str::trim).filter(|text| !crate::read::is_missing(text)).take(SAMPLE).collect();
    let count = if sample.iter().any(|text| is_date(text)) { None } else { Count::of(column, &sample) };
    let expected = || sample.iter().find(|text| is_date(text)).map_or("2016-07-01 13:00:00", |text| text).to_string();
    let mut ones = Vec::new();
    for (row, text) in values.map(str::trim).enumerate() {
        let one = match count {
            _ if crate::read::is_missing(text) => Some(One::Missing),
            Some(count) => count.micros(text).map(|micros| One::Fixed { micros, utc: count.is_instant() }),
            None => text_date(text),
        };
        let outside = one.is_none() && text.parse::<f64>().is_ok();
        ones.push(one.ok_or_else(|| Error::NoDate {
            file: file.into(),
            column: column.into(),
            row: row + 1,
            found: shorten(text),
            expected: expected(),
            outside,
        })?);
    }
    let (day_first, doubt) = order(file, column, &ones)?;
    let mut times = Vec::with_capacity(ones.len());
    let (mut any_utc, mut any_local) = (false, false);
    for (row, one) in ones.iter().enumerate() {
        let resolved = one.resolve(day_first);
        if matches!(one, One::Local { .. }) && resolved.is_none() {
            return Err(Error::NoDate {
                file: file.into(),
                column: column.into(),
                row: row + 1,
                found: one.show(),
                expected: if day_first { "31/12/2016" } else { "12/31/2016" }.into(),
                outside: false,
            });
        }
        if let Some((_, utc)) = resolved {
            any_utc |= utc;
            any_local |= !utc;
        }
        times.push(resolved.map(|(micros, _)| micros));
    }
    let mixed = "some dates have a time zone and some have none: the latter are taken as UTC".to_string();
    let separator = ones.iter().find_map(|one| match one {
        One::Local { separator, .. } => Some(*separator),
        _ => None,
    });
    let format = match (count, separator) {
        (Some(count), _) => count.name().to_string(),
        (None, Some(s)) if day_first => format!("day{s}month{s}year"),
        (None, Some(s)) => format!("month{s}day{s}year"),
        (None, None) => "year-month-day".to_string(),
    };
    Ok(Dates {
        times: Times { column: column.into(), micros: times, utc: any_utc },
        format,
        doubt: if any_utc && any_local { Some(mixed) } else { doubt },
    })
}

/// Whether days come first, and the doubt that is left.
fn order(file: &str, column: &str, ones: &[One]) -> Result<(bool, Option<String>), Error> {
    let (mut day_first, mut month_first, mut sign) = (None, None, None);
    for (row, one) in ones.iter().enumerate() {
        let One::Local { first, second, separator, .. } = *one else { continue };
        sign = sign.or(Some(separator));
        if first > 12 {
            day_first = day_first.or(Some(row + 1));
        }
        if second > 12 {
            month_first = month_first.or(Some(row + 1));
        }
    }
    match (day_first, month_first, sign) {
        (Some(day_first), Some(month_first), _) => {
            Err(Error::MixedDates { file: file.into(), column: column.into(), day_first, month_first })
        }
        (Some(_), None, _) | (None, None, None | Some('.')) => Ok((true, None)),
        (None, Some(_), _) => Ok((false, None)),
        (None, None, Some(sign)) => {
            // The order in which time runs backwards less often, or else the one without a gap far wider than the steps:
            // hours of a few days, read the other way, jump by months. Slashes without any hint are American.
            let read = |day_first| -> Vec<i64> {
                ones.iter().filter_map(|one| one.resolve(day_first)).map(|(micros, _)| micros).collect()
            };
            let (days, months) = (Flow::of(read(true)), Flow::of(read(false)));
            let taken = match days.backwards.cmp(&months.backwards) {
                Ordering::Less => true,
                Ordering::Greater => false,
                Ordering::Equal if days.gap * 2.0 < months.gap => true,
                Ordering::Equal if months.gap * 2.0 < days.gap => false,
                Ordering::Equal => sign == '-',
            };
            let [this, other] = if taken { ["day", "month"] } else { ["month", "day"] };
            let doubt =
                format!("no value of `{column}` tells days from months: read with the {this} before the {other}");
            Ok((taken, Some(doubt)))
        }
    }
}

/// How the times of a column follow each other.
struct Flow {
    /// How often they go backwards.
    backwards: usize,
    /// The widest gap, in medians of the steps.
    gap: f64,
}

impl Flow {
    fn of(mut times: Vec<i64>) -> Flow {
        let backwards = times.windows(2).filter(|pair| pair[1] < pair[0]).count();
        times.sort_unstable();
        times.dedup();
        let mut steps: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        steps.sort_unstable();
        let gap = steps.last().map_or(1.0, |widest| *widest as f64 / steps[steps.len() / 2] as f64);
        Flow { backwards, gap }
    }
}

impl One {
    fn resolve(self, day_first: bool) -> Option<(i64, bool)> {
        match self {
            One::Missing => None,
            One::Fixed { micros, utc } => Some((micros, utc)),
            One::Local { first, second, year, clock, utc, .. } => {
                let (day, month) = if day_first { (first, second) } else { (second, first) };
                Some((midnight(year, month, day)? + clock, utc))
            }
        }
    }

    fn show(self) -> String {
        match self {
            One::Local { first, second, year, separator: s, .. } => format!("{first}{s}{second}{s}{year}"),
            One::Missing | One::Fixed { .. } => String::new(),
        }
    }
}

fn midnight(year: i16, month: i8, day: i8) -> Option<i64> {
    Some(micros(Date::new(year, month, day).ok()?.to_datetime(jiff::civil::Time::midnight())))
}

fn text_date(text: &str) -> Option<One> {
    let text = text.trim();
    // The longest date has 40 characters with its time zone; a cell may have a megabyte.
    if text.len() > 64 || !text.is_ascii() {
        return None;
    }
    let (date, rest) = text.split_once(['T', ' ']).unwrap_or((text, ""));
    let rest = rest.trim();
    let compact = date.len() == 8 && !rest.is_empty() && date.bytes().all(|byte| byte.is_ascii_digit());
    if compact {
        let (clock, utc) = clock(rest)?;
        return Some(One::Fixed { micros: compact_day(date)? + clock, utc });
    }
    let separator = date.chars().find(|c| !c.is_ascii_digit()).filter(|c| "-/.".contains(*c))?;
    let parts: Vec<&str> = date.split(separator).collect();
    if parts.iter().any(|part| part.is_empty() || part.len() > 4 || !part.bytes().all(|b| b.is_ascii_digit())) {
        return None;
    }
    let (clock, utc) = clock(rest)?;
    match parts[..] {
        [year, month] if year.len() == 4 && separator != '.' && month.len() <= 2 => {
            Some(One::Fixed { micros: midnight(year.parse().ok()?, month.parse().ok()?, 1)? + clock, utc })
        }
        [year, month, day] if year.len() == 4 && month.len() <= 2 && day.len() <= 2 => {
            let day = midnight(year.parse().ok()?, month.parse().ok()?, day.parse().ok()?)?;
            Some(One::Fixed { micros: day + clock, utc })
        }
        [first, second, year] if first.len() <= 2 && second.len() <= 2 && [2, 4].contains(&year.len()) => {
            let short = year.len() == 2;
            let (first, second, year): (i8, i8, i16) = (first.parse().ok()?, second.parse().ok()?, year.parse().ok()?);
            // The POSIX century of years written with two digits.
            let year = if short { year + if year < 69 { 2000 } else { 1900 } } else { year };
            midnight(year, first, second).or(midnight(year, second, first))?;
            Some(One::Local { first, second, year, clock, utc, separator })
        }
        _ => None,
    }
}

/// A time of day in microseconds after the day's midnight, less its offset from UTC if it has one.
fn clock(text: &str) -> Option<(i64, bool)> {
    if text.is_empty() {
        return Some((0, false));
    }
    let upper = text.to_ascii_uppercase().replace(' ', "").replace("UTC", "Z");
    let (upper, afternoon) = match (upper.strip_suffix("AM"), upper.strip_suffix("PM")) {
        (Some(clock), _) => (clock, Some(false)),
        (_, Some(clock)) => (clock, Some(true)),
        (None, None) => (upper.as_str(), None),
    };
    let hours = upper.bytes().take_while(u8::is_ascii_digit).count();
    let padded = format!("2000-01-01T{}{upper}", if hours == 1 { "0" } else { "" });
    let start = DateTime::constant(2000, 1, 1, 0, 0, 0, 0);
    let utc = upper.contains(['Z', '+', '-']);
    let time = if utc {
        padded.parse::<jiff::Timestamp>().ok()?.to_zoned(TimeZone::UTC).datetime()
    } else {
        padded.parse::<DateTime>().ok()?
    };
    let clock = micros(time) - micros(start);
    match afternoon {
        None => Some((clock, utc)),
        Some(_) if !(DAY / 24..DAY / 24 * 13).contains(&clock) => None,
        Some(afternoon) => Some((clock % (DAY / 2) + if afternoon { DAY / 2 } else { 0 }, utc)),
    }
}

fn compact_day(digits: &str) -> Option<i64> {
    midnight(digits.get(..4)?.parse().ok()?, digits.get(4..6)?.parse().ok()?, digits.get(6..)?.parse().ok()?)
}

/// What a number counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    /// `20160701`.
    Compact,
    /// `2016`.
    Year,
    /// Since 1970; so many of it are a second.
    Since { a_second: i64, name: &'static str },
}

impl Count {
    const ALL: [Count; 6] = [
        Count::Compact,
        Count::Year,
        Count::Since { a_second: 1, name: "seconds since 1970" },
        Count::Since { a_second: 1_000, name: "milliseconds since 1970" },
        Count::Since { a_second: 1_000_000, name: "microseconds since 1970" },
        Count::Since { a_second: 1_000_000_000, name: "nanoseconds since 1970" },
    ];

    /// The meaning in which every value is a plausible time: seconds from 1973 to 2106, days from 1900 to 2100, years
    /// where the name says so.
    fn of(name: &str, sample: &[&str]) -> Option<Count> {
        let name = name.to_lowercase();
        let year = ["year", "jahr", "date", "datum"].iter().any(|word| name.contains(word));
        Count::ALL.into_iter().find(|count| {
            sample.iter().all(|text| match (count, text.parse::<f64>()) {
                (Count::Compact, Ok(value)) => {
                    (19_000_101.0..21_001_232.0).contains(&value) && count.micros(text).is_some()
                }
                (Count::Year, Ok(value)) => year && (1000.0..3000.0).contains(&value) && count.micros(text).is_some(),
                (Count::Since { a_second, .. }, Ok(value)) => {
                    (1e8..4.3e9).contains(&(value / *a_second as f64)) && count.micros(text).is_some()
                }
                (_, Err(_)) => false,
            })
        })
    }

    fn is_instant(self) -> bool {
        matches!(self, Count::Since { .. })
    }

    fn name(self) -> &'static str {
        match self {
            Count::Compact => "yearmonthday",
            Count::Year => "year",
            Count::Since { name, .. } => name,
        }
    }

    fn micros(self, text: &str) -> Option<i64> {
        let whole = || text.strip_suffix(".0").unwrap_or(text);
        let found = match self {
            Count::Compact => compact_day(whole()).filter(|_| whole().len() == 8),
            Count::Year => midnight(whole().parse().ok()?, 1, 1),
            Count::Since { a_second, .. } => match whole().parse::<i64>() {
                Ok(count) => i64::try_from(i128::from(count) * 1_000_000 / i128::from(a_second)).ok(),
                Err(_) => {
                    let micros = text.parse::<f64>().ok()? / a_second as f64 * 1e6;
                    (micros.abs() < 9e18).then_some(micros.round() as i64)
                }
            },
        };
        found.filter(|&micros| crate::time::civil(micros).is_some())
    }
}

/// A cell for an error message.
pub(crate) fn shorten(text: &str) -> String {
    const SHOWN: usize = 40;
    match text.char_indices().nth(SHOWN) {
        None => text.to_string(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}
