//! Dates in every customary form.

use anser_series::read::{Dates, Options, from_bytes};
use anser_series::{Error, Table};

use crate::util::{error, micros};

/// A table with dates and a counter beside them, `name` the column of dates.
fn table(name: &str, dates: &[&str], options: &Options) -> Result<Table, Error> {
    let rows: String = dates.iter().enumerate().map(|(row, date)| format!("{date};{}\n", row * row)).collect();
    from_bytes("x.csv", format!("{name};load\n{rows}").into_bytes(), options)
}

fn found(dates: &[&str]) -> (Vec<Option<i64>>, bool, String, Option<String>) {
    let table = table("date", dates, &Options::default()).unwrap();
    let times = table.times.expect("dates");
    (times.micros, times.utc, table.reading.date_format.unwrap(), table.reading.date_doubt)
}

#[test]
fn year_month_day() {
    for (dates, at) in [
        (["2016-07-01", "2016-12-31"], ["2016-07-01T00:00", "2016-12-31T00:00"]),
        (["2016/7/1 5:00", "2016/7/13 17:30"], ["2016-07-01T05:00", "2016-07-13T17:30"]),
        (["2016.07.01 05:00:01.5", "2016.07.13"], ["2016-07-01T05:00:01.5", "2016-07-13T00:00"]),
        (["2016-07-01T05", "2016-07-13T06"], ["2016-07-01T05:00", "2016-07-13T06:00"]),
        (["20160701 0500", "20160713 05:30:00"], ["2016-07-01T05:00", "2016-07-13T05:30"]),
        (["2016-07", "2016-08"], ["2016-07-01T00:00", "2016-08-01T00:00"]),
        (["2016-07-01 01:00 PM", "2016-07-01 12:30am"], ["2016-07-01T13:00", "2016-07-01T00:30"]),
        (["0001-01-01", "9999-12-31"], ["0001-01-01T00:00", "9999-12-31T00:00"]),
    ] {
        let (times, utc, format, doubt) = found(&dates);
        assert_eq!(times, at.map(micros), "{dates:?}");
        assert!(!utc && format == "year-month-day" && doubt.is_none(), "{dates:?}: {format}");
    }
}

#[test]
fn time_zones_lead_to_utc() {
    let (times, utc, ..) = found(&["2016-07-01T00:00:00Z", "2016-07-01T03:00:00+02:00", "2016-07-01 02:00:00 UTC"]);
    assert_eq!(times, ["2016-07-01T00:00", "2016-07-01T01:00", "2016-07-01T02:00"].map(micros));
    assert!(utc);
    let (times, utc, _, doubt) = found(&["2016-07-01T00:00:00-01:00", "2016-07-01T03:00:00"]);
    assert_eq!(times, ["2016-07-01T01:00", "2016-07-01T03:00"].map(micros));
    assert!(utc);
    assert_eq!(doubt.unwrap(), "some dates have a time zone and some have none: the latter are taken as UTC");
}

#[test]
fn days_and_months_are_told_apart() {
    for (dates, at, how) in [
        (["01/02/2016", "13/02/2016"], ["2016-02-01", "2016-02-13"], "day/month/year"),
        (["01/02/2016", "01/13/2016"], ["2016-01-02", "2016-01-13"], "month/day/year"),
        (["1-2-16 5:00", "13-2-16 5:00"], ["2016-02-01T05:00", "2016-02-13T05:00"], "day-month-year"),
        (["01.02.2016", "02.02.2016"], ["2016-02-01", "2016-02-02"], "day.month.year"),
        (["2.13.70", "2.14.68"], ["1970-02-13", "2068-02-14"], "month.day.year"),
    ] {
        let (times, _, format, doubt) = found(&dates);
        assert_eq!((times, &*format, doubt), (at.map(micros).to_vec(), how, None), "{dates:?}");
    }
}

#[test]
fn ambiguous_dates_leave_a_doubt() {
    // Forwards in either order: American with slashes, with dashes not.
    let (times, _, format, doubt) = found(&["01/02/2016", "02/02/2016", "03/02/2016"]);
    assert_eq!((times[1], &*format), (micros("2016-02-02"), "month/day/year"));
    assert_eq!(doubt.unwrap(), "no value of `date` tells days from months: read with the month before the day");
    let (_, _, format, doubt) = found(&["01-02-2016", "02-02-2016"]);
    assert_eq!((&*format, doubt.is_some()), ("day-month-year", true));
    // Hours of two days, not of two days a month apart, and the first of months, not twelve days of each January.
    let hours: Vec<String> = (0..48).map(|hour| format!("{:02}/02/2016 {:02}:00", 5 + hour / 24, hour % 24)).collect();
    let (times, _, format, doubt) = found(&hours.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((times[24], &*format, doubt.is_some()), (micros("2016-02-06"), "day/month/year", true));
    let months: Vec<String> = (0..36).map(|month| format!("{}-1-{}", 1 + month % 12, 1949 + month / 12)).collect();
    let (times, _, format, doubt) = found(&months.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((times[13], &*format, doubt.is_some()), (micros("1950-02-01"), "month-day-year", true));
    // Backwards in one: the other.
    let (times, _, format, doubt) = found(&["05/01/2016", "03/02/2016", "01/03/2016"]);
    assert_eq!((times[0], &*format, doubt.is_some()), (micros("2016-01-05"), "day/month/year", true));
}

#[test]
fn mixed_orders_are_refused() {
    let e = error(table("date", &["13/02/2016", "01/01/2016", "02/13/2016"], &Options::default()));
    assert_eq!(
        e,
        "x.csv: column `date` has days before months in row 1 and months before days in row 3: write the dates as \
         year-month-day"
    );
}

#[test]
fn numbers_count_time_in_a_column_named_so() {
    for (name, values, at, how) in [
        ("date", ["20160701", "20160702"], ["2016-07-01", "2016-07-02"], "yearmonthday"),
        ("Year", ["2015", "2016"], ["2015-01-01", "2016-01-01"], "year"),
        ("year", ["2015.0", "2016.0"], ["2015-01-01", "2016-01-01"], "year"),
        ("timestamp", ["1467331200", "1467334800"], ["2016-07-01", "2016-07-01T01:00"], "seconds since 1970"),
        ("time", ["1467331200.5", "1467334800"], ["2016-07-01T00:00:00.5", "2016-07-01T01:00"], "seconds since 1970"),
        ("unix", ["1467331200000", "1467334800000"], ["2016-07-01", "2016-07-01T01:00"], "milliseconds since 1970"),
        (
            "ts",
            ["1467331200000000", "1467331200000001"],
            ["2016-07-01", "2016-07-01T00:00:00.000001"],
            "microseconds since 1970",
        ),
        (
            "epoch",
            ["1467331200000000000", "1467334800000000000"],
            ["2016-07-01", "2016-07-01T01:00"],
            "nanoseconds since 1970",
        ),
    ] {
        let table = table(name, &values, &Options::default()).unwrap();
        let times = table.times.unwrap_or_else(|| panic!("{name}: no dates"));
        assert_eq!(
            (times.micros, table.reading.date_format.as_deref()),
            (at.map(micros).to_vec(), Some(how)),
            "{name}"
        );
        assert_eq!(times.utc, how.contains("since"), "{name}");
    }
    // Elsewhere they are numbers: and hours, steps and years that come again are no dates either.
    for (name, values) in [
        ("load", ["20160701", "20160702"]),
        ("day", ["1", "2"]),
        ("time", ["0", "1"]),
        ("year", ["2016", "2016"]),
        ("date", ["20161301", "20161302"]),
    ] {
        let table = table(name, &values, &Options::default()).unwrap();
        assert_eq!((table.times, table.columns.len()), (None, 2), "{name}");
    }
}

#[test]
fn the_column_of_dates_can_be_ordained() {
    let options = |dates| Options { dates, ..Options::default() };
    let text = "a,first,second\n1,2016-07-01,2017-07-01\n2,2016-07-02,2017-07-02\n";
    let read = |dates| from_bytes("x.csv", text.as_bytes().to_vec(), &options(dates));
    assert_eq!(read(Dates::Find).unwrap().times.unwrap().column, "first");
    assert_eq!(read(Dates::In("second".into())).unwrap().times.unwrap().micros[0], micros("2017-07-01"));
    assert_eq!(read(Dates::Ignore).unwrap().times, None);
    assert_eq!(error(read(Dates::In("third".into()))), "x.csv: no column `third`: there are `a`, `first`, `second`");
    assert_eq!(
        error(read(Dates::In("a".into()))),
        "x.csv: column `a`, row 1: `1` is no date of the years -9999 to 9999; expected one like 2016-07-01 13:00:00: \
         correct the row, or leave the dates out"
    );
    // Counted years may come again where somebody says that they are the dates.
    assert!(table("year", &["2016", "2016", "2017"], &options(Dates::In("year".into()))).unwrap().times.is_some());
}

#[test]
fn missing_dates_are_kept_as_such() {
    let (times, ..) = found(&["2016-07-01", "", "NA", "2016-07-04"]);
    assert_eq!(times, [micros("2016-07-01"), None, None, micros("2016-07-04")]);
}

#[test]
fn a_wrong_date_names_its_row() {
    let mut dates: Vec<String> = (1..=20).map(|day| format!("2016-07-{day:02}")).collect();
    for (wrong, shown) in [
        ("2016-02-30", "`2016-02-30` is no date"),
        ("later", "`later` is no date"),
        ("24.07.16 25:00", "`24.07.16 25:00` is no date"),
    ] {
        dates[11] = wrong.into();
        let e = error(table("date", &dates.iter().map(String::as_str).collect::<Vec<_>>(), &Options::default()));
        let rest = "expected one like 2016-07-01: correct the row, or leave the dates out";
        assert_eq!(e, format!("x.csv: column `date`, row 12: {shown}; {rest}"));
    }
    let mut dates: Vec<String> = (1..=20).map(|day| format!("{day}/2/2016")).collect();
    dates[11] = "30/2/2016".into();
    let e = error(table("date", &dates.iter().map(String::as_str).collect::<Vec<_>>(), &Options::default()));
    assert!(e.contains("row 12: `30/2/2016` is no date"), "{e}");
}
