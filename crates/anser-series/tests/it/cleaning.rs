//! Tables to series on a regular clock.

use anser_series::clean::Options;
use anser_series::read::{self, from_bytes};
use anser_series::{Axis, Error, Report, Series, Step, Table, prepare};

use crate::util::{csv, error, micros};

const HOUR: i64 = anser_series::time::HOUR;
const DAY: i64 = anser_series::time::DAY;

fn clean(text: &str) -> (Series, Report) {
    prepare(csv(text), &Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

fn asked(text: &str, columns: &[&str]) -> Table {
    let columns = Some(columns.iter().map(|name| name.to_string()).collect());
    from_bytes("x.csv", text.as_bytes().to_vec(), &read::Options { columns, ..read::Options::default() }).unwrap()
}

/// A file of dates and a counter.
fn dated(dates: impl IntoIterator<Item = String>) -> String {
    let rows = dates.into_iter().enumerate().map(|(row, date)| format!("{date},{row}\n"));
    format!("date,load\n{}", rows.collect::<String>())
}

fn grid(series: &Series) -> (Option<i64>, Step, bool) {
    match series.axis {
        Axis::Grid { start, step, utc } => (Some(start), step, utc),
        Axis::Rows => panic!("numbered rows"),
    }
}

#[test]
fn a_clean_file_stays_as_it_is() {
    let (series, report) = clean("date,a,b\n2016-07-01 00:00,1,2\n2016-07-01 01:00,3,4\n2016-07-01 02:00,5,7\n");
    assert_eq!(series.columns, ["a", "b"]);
    assert_eq!(series.values, [1.0, 2.0, 3.0, 4.0, 5.0, 7.0]);
    assert_eq!(series.missing, [false; 6]);
    assert_eq!((series.rows(), series.width(), series.column(1)), (3, 2, vec![2.0, 4.0, 7.0]));
    assert_eq!(grid(&series), (micros("2016-07-01"), Step::Micros(HOUR), false));
    assert_eq!(series.future_times(2).unwrap(), ["2016-07-01 03:00:00", "2016-07-01 04:00:00"]);
    assert_eq!(
        report.sentences(),
        [
            "x.csv: CSV, UTF-8, separated by commas, with a header, 3 rows.",
            "Dates are in `date` (year-month-day), by steps of 1 hour, from 2016-07-01 00:00:00 to 2016-07-01 02:00:00.",
        ]
    );
}

#[test]
fn rows_without_dates_are_numbered() {
    let (series, report) = clean("1.5;2\n3;4\n");
    assert_eq!((series.axis, series.values.clone()), (Axis::Rows, vec![1.5, 2.0, 3.0, 4.0]));
    assert_eq!(series.future_times(2).unwrap(), ["2", "3"]);
    assert_eq!(
        report.sentences(),
        ["x.csv: CSV, UTF-8, separated by semicolons, without a header, 2 rows.", "No dates: rows are numbered."]
    );
}

#[test]
fn everything_at_once_is_told() {
    let (series, report) = clean(
        "date;load;heat;;state\n\
         03-07-2016;3,5;-9999;1;on\n\
         01-07-2016;1,5;1;1;on\n\
         02-07-2016;2,5;2;1;on\n\
         02-07-2016;3,5;inf;1;on\n\
         06-07-2016;;5;1;on\n\
         ;9;9;1;off\n\
         07-07-2016;7,5;6;1;on\n",
    );
    assert_eq!(series.columns, ["load", "heat", "column_4"]);
    assert_eq!(series.column(0), [1.5, 3.0, 3.5, 4.5, 5.5, 6.5, 7.5]);
    assert_eq!(series.column(1), [1.0, 2.0, 2.75, 3.5, 4.25, 5.0, 6.0]);
    assert_eq!(series.column(2), [1.0; 7]);
    let missing: Vec<bool> = series.missing.iter().skip(1).step_by(3).copied().collect();
    assert_eq!(missing, [false, false, true, true, true, false, false]);
    assert_eq!(
        report.sentences(),
        [
            "x.csv: CSV, UTF-8, separated by semicolons, with a header, 7 rows.",
            "The decimal sign of `load` is the comma.",
            "Columns without a name of their own are called `column_4`.",
            "Dates are in `date` (day-month-year), by steps of 1 day, from 2016-07-01 to 2016-07-07.",
            "Doubt: no value of `date` tells days from months: read with the day before the month.",
            "Column `state` is left out: `on` in row 1 is no number.",
            "1 row without a date left out.",
            "Dates went backwards 1 time: sorted.",
            "1 row merged into others of the same date (their mean).",
            "2 rows added in gaps between dates, the longest of 2 rows.",
            "`load`: 3 missing values filled, 3 by straight lines and 0 at the ends.",
            "`heat`: 1 value of -9999 taken for missing.",
            "`heat`: 1 infinite or gigantic value taken for missing.",
            "`heat`: 3 missing values filled, 3 by straight lines and 0 at the ends.",
            "`column_4`: 2 missing values filled, 2 by straight lines and 0 at the ends.",
            "`column_4` never changes.",
        ]
    );
}

#[test]
fn dates_are_sorted_and_repeated_ones_merged() {
    let (series, report) = clean("date,a\n2016-07-03,3\n2016-07-01,1\n2016-07-02,2\n2016-07-02,4\n2016-07-02,NA\n");
    assert_eq!(series.values, [1.0, 3.0, 3.0]);
    assert_eq!((report.unsorted, report.duplicates, report.rows_read, report.rows), (1, 2, 5, 3));
}

#[test]
fn gaps_are_filled_by_straight_lines() {
    let (series, report) = clean("date,a\n2016-07-01,NA\n2016-07-02,2\n2016-07-06,6\n2016-07-07,NA\n2016-07-08,NA\n");
    assert_eq!(series.values, [2.0, 2.0, 3.0, 4.0, 5.0, 6.0, 6.0, 6.0]);
    assert_eq!(series.missing, [true, false, true, true, true, false, true, true]);
    assert_eq!((report.filled, report.longest_gap), (3, 3));
    let told = &report.columns[0];
    assert_eq!((told.missing, told.interpolated, told.carried), (6, 3, 3));
}

#[test]
fn sentinels_are_missing_unless_plausible() {
    let told = |values: &[f64]| {
        let text: String = values.iter().map(|value| format!("{value:?}\n")).collect();
        let (series, report) = clean(&format!("a\n{text}"));
        assert!(series.values.iter().all(|value| value.is_finite()));
        report.columns[0].sentinels.clone()
    };
    let with = |base: f64, spread: f64, extra: &[f64]| {
        let mut values: Vec<f64> = (0..50).map(|row| base + spread * f64::from(row % 5)).collect();
        values.splice(10..10, extra.iter().copied());
        values
    };
    assert_eq!(told(&with(10.0, 1.0, &[-9999.0])), [(-9999.0, 1)]);
    assert_eq!(told(&with(10.0, 1.0, &[-9999.0, -9999.0, 999.0, 999.0])), [(-9999.0, 2), (999.0, 2)]);
    // 999 once may be a value, and so may -9999 beside others like it.
    assert_eq!(told(&with(10.0, 1.0, &[999.0])), []);
    assert_eq!(told(&with(-12_000.0, 1500.0, &[-9999.0])), []);
    assert_eq!(told(&with(500.0, 200.0, &[999.0, 999.0])), []);
    // A column of little else.
    assert_eq!(told(&[-9999.0, -9999.0, -9999.0, 1.0, 2.0]), []);
    // Fill values of NetCDF.
    assert_eq!(told(&with(10.0, 1.0, &[9.96921e36, 9.96921e36])), [(9.96921e36, 2)]);
    // Beside a constant, anything else is far out.
    assert_eq!(told(&with(10.0, 0.0, &[-9999.0])), [(-9999.0, 1)]);

    let kept = prepare(csv("a\n1\n2\n-9999\n3\n"), &Options { sentinels: false }).unwrap();
    assert_eq!((kept.0.values, kept.1.columns[0].missing), (vec![1.0, 2.0, -9999.0, 3.0], 0));
}

#[test]
fn infinities_and_gigantic_numbers_are_missing() {
    let (series, report) = clean("a\n1\ninf\n-inf\n1e200\n5\n-1e100\n");
    assert_eq!(series.values, [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]);
    assert_eq!(report.columns[0].infinite, 4);
}

#[test]
fn columns_without_a_value() {
    // Set aside where nobody asked for it, an error where somebody did, by its own name.
    let text = "a,b,city\n1,inf,Rome\n2,-inf,Rome\n";
    let (series, report) = clean(text);
    assert_eq!(series.columns, ["a"]);
    let aside: Vec<_> = report.reading.set_aside.iter().map(|aside| (&*aside.column, &*aside.why)).collect();
    assert_eq!(aside, [("city", "`Rome` in row 1 is no number"), ("b", "no value is left of it")]);
    let e = prepare(asked(text, &["a", "b"]), &Options::default()).unwrap_err();
    assert_eq!(e.to_string(), "x.csv: column `b` has no value at all: leave it out");
    let e = prepare(csv("city,b\nRome,inf\nOslo,inf\n"), &Options::default()).unwrap_err();
    assert_eq!(e.to_string(), "x.csv: column `b` has no value at all: leave it out");
    let e = prepare(asked("a,b\n1,\n2,NA\n", &["b"]), &Options::default()).unwrap_err();
    assert!(matches!(e, Error::AllMissing { .. }), "{e}");
}

#[test]
fn constants_are_flagged() {
    let (_, report) = clean("a,b\n1,5\n2,5\n3,NA\n");
    assert_eq!(report.columns.iter().map(|told| told.constant).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn rows_without_a_date_are_left_out() {
    let (series, report) = clean("date,a\n2016-07-01,1\n,100\n2016-07-02,2\nNA,100\n2016-07-03,4\n");
    assert_eq!((series.values, report.undated), (vec![1.0, 2.0, 4.0], 2));
}

#[test]
fn too_few_rows() {
    assert_eq!(error(prepare(csv("a\n1\n"), &Options::default())), "x.csv: 1 rows, but a series takes at least 2");
    assert_eq!(
        error(prepare(csv("date,a\n2016-07-01,1\n2016-07-01,2\n,3\n"), &Options::default())),
        "x.csv: 1 rows, but the step between dates of column `date` takes at least 2"
    );
}

#[test]
fn steps_are_found() {
    for (dates, step, words) in [
        (
            &["2016-07-01 00:00:00", "2016-07-01 00:00:10", "2016-07-01 00:00:20"][..],
            Step::Micros(10_000_000),
            "10 seconds",
        ),
        (&["2016-07-01 00:15", "2016-07-01 00:30", "2016-07-01 01:00"], Step::Micros(HOUR / 4), "15 minutes"),
        (&["2016-07-01", "2016-07-02", "2016-07-04"], Step::Micros(DAY), "1 day"),
        (&["2016-07-01", "2016-07-08", "2016-07-15"], Step::Micros(7 * DAY), "1 week"),
        (&["2016-07-01 00:00:00.25", "2016-07-01 00:00:00.50"], Step::Micros(250_000), "250000 microseconds"),
        (&["2016-01-15", "2016-02-15", "2016-03-15"], Step::Months { count: 1, month_end: false }, "1 month"),
        (&["2016-01", "2016-02", "2016-05"], Step::Months { count: 1, month_end: false }, "1 month"),
        (
            &["2016-01-31", "2016-02-29", "2016-03-31", "2016-04-30"],
            Step::Months { count: 1, month_end: true },
            "1 month",
        ),
        (&["2016-02-29", "2016-03-31", "2016-04-30"], Step::Months { count: 1, month_end: true }, "1 month"),
        // The 30th, or the last day where there is none.
        (&["2016-01-30", "2016-02-29", "2016-03-30"], Step::Months { count: 1, month_end: false }, "1 month"),
        (
            &["2016-03-31", "2016-06-30", "2016-09-30", "2016-12-31"],
            Step::Months { count: 3, month_end: true },
            "3 months",
        ),
        (
            &["2014-01-01", "2015-01-01", "2016-01-01", "2017-01-01"],
            Step::Months { count: 12, month_end: false },
            "1 year",
        ),
        (&["2012-06-30", "2014-06-30", "2016-06-30"], Step::Months { count: 24, month_end: true }, "2 years"),
    ] {
        let (series, report) = clean(&dated(dates.iter().map(|date| date.to_string())));
        assert_eq!((grid(&series).1, report.step.as_deref()), (step, Some(words)), "{dates:?}");
        assert_eq!(series.values[0], 0.0);
        assert_eq!(*series.values.last().unwrap(), (dates.len() - 1) as f64, "{dates:?}");
    }
    let (series, _) = clean(&dated((2001..2016).map(|year| year.to_string())));
    assert_eq!((grid(&series).1, series.rows()), (Step::Months { count: 12, month_end: false }, 15));
    assert_eq!(series.future_times(2).unwrap(), ["2016-01-01", "2017-01-01"]);
}

#[test]
fn months_with_a_gap() {
    let (series, report) = clean("date,a\n2015-11-30,1\n2015-12-31,2\n2016-03-31,5\n2016-04-30,6\n");
    assert_eq!(series.values, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(
        (report.filled, report.first.as_deref(), report.last.as_deref()),
        (2, Some("2015-11-30"), Some("2016-04-30"))
    );
    assert_eq!(series.future_times(2).unwrap(), ["2016-05-31", "2016-06-30"]);
}

#[test]
fn clocks_put_forward_and_back() {
    // Local time: the hour from 2 is missing in spring, and comes twice in autumn.
    let hours = |day: &str, hours: &[u32]| hours.iter().map(|hour| format!("{day} {hour:02}:00")).collect::<Vec<_>>();
    let (series, report) = clean(&dated(hours("2016-03-27", &[0, 1, 3, 4, 5])));
    assert_eq!(
        (grid(&series).1, report.filled, series.values),
        (Step::Micros(HOUR), 1, vec![0.0, 1.0, 1.5, 2.0, 3.0, 4.0])
    );
    let (series, report) = clean(&dated(hours("2016-10-30", &[0, 1, 2, 2, 3, 4])));
    assert_eq!((report.duplicates, series.values), (1, vec![0.0, 1.0, 2.5, 4.0, 5.0]));
}

#[test]
fn jitter_is_moved_to_the_clock() {
    // A logger that is a second or two late, and once 40 seconds.
    let late = [0, 1, 0, 0, 2, 0, 0, 0, 40, 0, 0, 1, 0, 0];
    let dates = late.iter().enumerate().map(|(row, late)| format!("2016-07-01 00:{:02}:{late:02}", 5 + row));
    let (series, report) = clean(&dated(dates));
    assert_eq!((grid(&series), report.moved), ((micros("2016-07-01T00:05"), Step::Micros(HOUR / 60), false), 4));
    // The one 40 seconds late shares a place with the next.
    assert_eq!((report.duplicates, report.filled, series.values[9]), (1, 1, 8.5));
    assert!(report.sentences().contains(&"4 rows moved to the nearest point of the clock.".to_string()));
}

#[test]
fn irregular_dates_are_refused() {
    let days = [0, 1, 3, 8, 9, 15, 16, 30, 31, 33, 50, 59, 60, 75, 80, 100];
    let dates = days.iter().map(|day: &i64| {
        let micros = micros("2016-07-01").unwrap() + day * DAY + day * day * 1_234_567_891 % DAY;
        let name = Axis::Grid { start: micros, step: Step::Micros(1), utc: false }.names(0..1).unwrap();
        name[0].clone()
    });
    let e = error(prepare(csv(&dated(dates)), &Options::default()));
    assert!(e.starts_with("x.csv: the dates follow no regular step: the median is "), "{e}");
    assert!(
        e.ends_with("of 16 rows lie off that grid: aggregate the file to a regular step, or leave the dates out"),
        "{e}"
    );
}

#[test]
fn gaps_that_would_blow_the_table_up_are_refused() {
    let mut dates: Vec<String> = (1..=9).map(|day| format!("2016-07-0{day}")).collect();
    dates.push("2019-07-01".into());
    let e = error(prepare(csv(&dated(dates)), &Options::default()));
    assert_eq!(
        e,
        "x.csv: the dates go by 1 day, so 10 rows would become 1096; the largest gap is from 2016-07-09 00:00:00 to \
         2019-07-01 00:00:00: cut the file there, or leave the dates out"
    );
    let mut dates: Vec<String> = (1..=9).map(|month| format!("2016-0{month}")).collect();
    dates.push("2116-01".into());
    let e = error(prepare(csv(&dated(dates)), &Options::default()));
    assert!(e.starts_with("x.csv: the dates go by 1 month, so 10 rows would become 1201"), "{e}");
}

#[test]
fn dates_beyond_the_calendar_are_none() {
    let mut table = csv("date,a\n2016-07-01,1\n2016-07-02,2\n2016-07-03,3\n2016-07-04,4\n");
    let times = table.times.as_mut().unwrap();
    times.micros[1] = Some(i64::MIN);
    times.micros[2] = Some(i64::MAX);
    let (series, report) = prepare(table, &Options::default()).unwrap();
    assert_eq!((series.values, report.undated), (vec![1.0, 4.0], 2));
}

#[test]
fn reports_are_json() {
    let (series, report) = clean("date,a\n2016-07-01,1\n2016-07-03,3\n2016-07-04,5\n");
    let report = serde_json::to_value(&report).unwrap();
    assert_eq!(report["filled"], 1);
    assert_eq!(report["reading"]["delimiter"], "commas");
    let series = serde_json::to_value(&series).unwrap();
    assert_eq!(series["axis"]["grid"]["step"]["micros"], DAY);
}
