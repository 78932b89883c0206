//! Names of rows.

use anser_series::time::{DAY, HOUR};
use anser_series::{Axis, Error, Step};

use crate::util::{error, micros};

fn grid(start: &str, step: Step, utc: bool) -> Axis {
    Axis::Grid { start: micros(start).unwrap(), step, utc }
}

fn names(start: &str, step: Step, utc: bool) -> Vec<String> {
    grid(start, step, utc).names(0..3).unwrap()
}

const MONTH: Step = Step::Months { count: 1, month_end: false };

#[test]
fn rows_are_named_by_number_or_date() {
    assert_eq!(Axis::Rows.names(7..9).unwrap(), ["7", "8"]);
    assert_eq!(names("2016-07-01", Step::Micros(DAY), false), ["2016-07-01", "2016-07-02", "2016-07-03"]);
    assert_eq!(
        names("2016-07-01T06:00", Step::Micros(DAY), false),
        ["2016-07-01 06:00:00", "2016-07-02 06:00:00", "2016-07-03 06:00:00"]
    );
    assert_eq!(
        names("2016-12-31T22:00", Step::Micros(HOUR), false),
        ["2016-12-31 22:00:00", "2016-12-31 23:00:00", "2017-01-01 00:00:00"]
    );
    assert_eq!(
        names("2016-07-01", Step::Micros(DAY), true),
        ["2016-07-01T00:00:00Z", "2016-07-02T00:00:00Z", "2016-07-03T00:00:00Z"]
    );
    assert_eq!(
        names("1969-12-31T23:59:59.5", Step::Micros(250_000), true),
        ["1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.75Z", "1970-01-01T00:00:00Z"]
    );
}

#[test]
fn months_keep_their_day_where_they_can() {
    assert_eq!(names("2016-01-31", MONTH, false), ["2016-01-31", "2016-02-29", "2016-03-31"]);
    assert_eq!(names("2015-01-30", MONTH, false), ["2015-01-30", "2015-02-28", "2015-03-30"]);
    let end = Step::Months { count: 1, month_end: true };
    assert_eq!(names("2016-02-29", end, false), ["2016-02-29", "2016-03-31", "2016-04-30"]);
    assert_eq!(names("2016-02-29", MONTH, false), ["2016-02-29", "2016-03-29", "2016-04-29"]);
    let years = Step::Months { count: 48, month_end: false };
    assert_eq!(names("2016-02-29", years, false), ["2016-02-29", "2020-02-29", "2024-02-29"]);
    assert_eq!(names("2016-01-01T12:00", MONTH, true)[1], "2016-02-01T12:00:00Z");
}

#[test]
fn the_calendar_ends() {
    for (start, step, words) in [
        (
            "9999-12-30",
            Step::Micros(DAY),
            "dates after 9999-12-31 by steps of 1 day leave the calendar, which ends with year 9999: forecast less far",
        ),
        (
            "9999-11-30",
            Step::Months { count: 1, month_end: true },
            "dates after 9999-12-31 by steps of 1 month leave the calendar, which ends with year 9999: forecast less far",
        ),
    ] {
        let axis = grid(start, step, false);
        assert_eq!(axis.names(0..2).unwrap()[1], "9999-12-31");
        assert_eq!(error(axis.names(2..5)), words);
        assert_eq!(axis.micros(2), None);
    }
    for step in [Step::Micros(i64::MAX), Step::Months { count: i32::MAX, month_end: false }] {
        let e = grid("2016-07-01", step, false).names(1..2).unwrap_err();
        assert!(matches!(e, Error::Calendar { .. }), "{e}");
        assert_eq!(grid("2016-07-01", step, false).micros(u64::MAX), None);
    }
    assert_eq!(Axis::Rows.micros(0), None);
}

#[test]
fn steps_in_words() {
    for (step, words) in [
        (Step::Micros(1), "1 microsecond"),
        (Step::Micros(1_500_000), "1500000 microseconds"),
        (Step::Micros(2_000_000), "2 seconds"),
        (Step::Micros(HOUR / 4), "15 minutes"),
        (Step::Micros(HOUR), "1 hour"),
        (Step::Micros(36 * HOUR), "36 hours"),
        (Step::Micros(7 * DAY), "1 week"),
        (Step::Micros(30 * DAY), "30 days"),
        (MONTH, "1 month"),
        (Step::Months { count: 18, month_end: true }, "18 months"),
        (Step::Months { count: 24, month_end: true }, "2 years"),
    ] {
        assert_eq!(step.to_string(), words);
    }
}
