//! Whatever a file or a table holds: a result or an error, never a panic.

use anser_series::clean::Options;
use anser_series::read::{self, Dates, from_bytes};
use anser_series::season::period;
use anser_series::table::{Column, Reading, Times};
use anser_series::time::{DAY, HOUR};
use anser_series::{Table, prepare};
use proptest::prelude::*;

/// Options that ask for everything and nothing.
fn options() -> impl Strategy<Value = read::Options> {
    let dates = prop_oneof![Just(Dates::Find), Just(Dates::Ignore), "[a-c]".prop_map(Dates::In)];
    let columns = prop::option::of(prop::collection::vec("[a-c]", 0..3));
    (columns, dates, any::<Option<bool>>()).prop_map(|(columns, dates, header)| read::Options {
        columns,
        dates,
        header,
    })
}

/// Bits of CSV files, in any order.
fn scraps() -> impl Strategy<Value = Vec<u8>> {
    let scrap = prop_oneof![
        prop::sample::select(vec![
            "\n",
            "\r\n",
            ",",
            ";",
            "\t",
            "\"",
            "a",
            "b",
            "c",
            "date",
            "year",
            "NA",
            "",
            "-",
            "1",
            "1,5",
            "1.234,5",
            "1e999",
            "inf",
            "-9999",
            "2016-07-01",
            "2016-07-02 13:00",
            "13/07/2016",
            "07/13/2016",
            "01.02.16",
            "20160701",
            "1467331200",
            "2016-07-01T00:00:00+02:00",
            "9999-12-31T23:00-05:00",
            "-0",
            "\u{feff}",
            "\u{b0}",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(scrap, 0..60).prop_map(|scraps| scraps.concat())
}

/// A file with a shape, a column of it dates, numbers or anything.
fn tables_of_text() -> impl Strategy<Value = Vec<u8>> {
    const CELLS: [&[&str]; 4] = [
        &["2016-07-01", "2016-07-03", "2016-07-02", "2016-07-04", "2016-07-05", "2016-07-09", "", "2016-07-02 05:00"],
        &["01/02/2016", "02/02/2016", "07/02/2016", "04/02/2016", "13/02/2016", "5/2/16 10:00 PM", "NA"],
        &["1", "2.5", "-3", "NA", "", "1e300", "-9999", "inf", "20160701", "1467331200", "7", "8"],
        &["1", "1,5", "1.000,5", "x", "2016-07-01", "02/13/2016", "", "-"],
    ];
    let cells = prop::collection::vec(any::<prop::sample::Index>(), 3..60);
    let kinds = prop::collection::vec(0usize..4, 1..4);
    (kinds, cells, prop::sample::select(vec![",", ";", "\t"]), any::<bool>()).prop_map(
        |(kinds, cells, separator, header)| {
            let mut text =
                if header { ["date", "b", "c"][..kinds.len()].join(separator) + "\n" } else { String::new() };
            for row in cells.chunks_exact(kinds.len()) {
                let row: Vec<&str> =
                    row.iter().zip(&kinds).map(|(cell, &kind)| CELLS[kind][cell.index(CELLS[kind].len())]).collect();
                text += &row.join(separator);
                text += "\n";
            }
            text.into_bytes()
        },
    )
}

/// Numbers of every kind.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -100.0..100.0,
        1 => any::<f64>(),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, -1e100, 1e99, -9999.0, 999.0, 1e18, 0.0, -0.0, f64::MAX, 5e-324]),
    ]
}

fn time() -> impl Strategy<Value = Option<i64>> {
    prop_oneof![
        6 => (0..200i64).prop_map(|hour| Some(hour * HOUR)),
        2 => (0..400i64).prop_map(|day| Some(day * 30 * DAY)),
        1 => (-1000..1000i64).prop_map(|off| Some(off * 777_777_777)),
        1 => Just(None),
        1 => any::<i64>().prop_map(Some),
        1 => prop::sample::select(vec![i64::MIN, i64::MAX, 253_402_207_200_000_000, -377_705_116_800_000_000]).prop_map(Some),
    ]
}

fn tables() -> impl Strategy<Value = Table> {
    let column = |rows: usize| (prop::collection::vec(number(), rows), any::<bool>());
    (0usize..40, 0usize..4, any::<bool>(), any::<bool>()).prop_flat_map(move |(rows, width, dated, utc)| {
        (prop::collection::vec(column(rows), width), prop::collection::vec(time(), rows)).prop_map(
            move |(columns, micros)| Table {
                name: "made".into(),
                times: dated.then(|| Times { column: "date".into(), micros, utc }),
                columns: columns
                    .into_iter()
                    .enumerate()
                    .map(|(at, (values, asked))| Column { name: format!("c{at}"), values, asked })
                    .collect(),
                reading: Reading::default(),
            },
        )
    })
}

/// What any table must come to: an error that says something, or a series as promised.
fn check(table: Table, options: &Options) -> Result<bool, TestCaseError> {
    let rows_read = table.rows();
    match prepare(table, options) {
        Err(e) => {
            prop_assert!(!e.to_string().is_empty());
            Ok(false)
        }
        Ok((series, report)) => {
            prop_assert!(series.values.iter().all(|value| value.is_finite()));
            prop_assert!(series.width() > 0 && series.rows() >= 2);
            prop_assert_eq!(series.values.len(), series.rows() * series.width());
            prop_assert_eq!(series.missing.len(), series.values.len());
            prop_assert_eq!(
                (report.rows, report.rows_read, report.columns.len()),
                (series.rows(), rows_read, series.width())
            );
            prop_assert!(series.rows() <= 10 * rows_read);
            prop_assert_eq!(series.rows(), rows_read - report.undated - report.duplicates + report.filled);
            for (at, told) in report.columns.iter().enumerate() {
                let missing =
                    series.missing.iter().skip(at).step_by(series.width()).filter(|missing| **missing).count();
                prop_assert_eq!((told.missing, told.interpolated + told.carried), (missing, missing));
            }
            prop_assert!(report.sentences().iter().all(|sentence| sentence.ends_with('.')));
            prop_assert!(period(&series, 0..series.rows()).period >= 1);
            if let Ok(names) = series.axis.names(0..series.rows() as u64) {
                prop_assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
            }
            Ok(true)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), options in options()) {
        if let Ok(table) = from_bytes("x", bytes, &options) {
            check(table, &Options::default())?;
        }
    }

    #[test]
    fn arbitrary_parquet(tail in prop::collection::vec(any::<u8>(), 0..200), end in any::<bool>()) {
        let mut bytes = b"PAR1".to_vec();
        bytes.extend(&tail);
        if end {
            bytes.extend((tail.len() as u32).to_le_bytes());
            bytes.extend(b"PAR1");
        }
        prop_assert!(from_bytes("x", bytes, &read::Options::default()).is_err());
    }

    #[test]
    fn arbitrary_scraps(bytes in scraps(), options in options()) {
        if let Ok(table) = from_bytes("x", bytes, &options) {
            check(table, &Options::default())?;
        }
    }

    #[test]
    fn arbitrary_rows(bytes in tables_of_text(), options in options()) {
        if let Ok(table) = from_bytes("x", bytes, &options) {
            check(table, &Options::default())?;
        }
    }

    #[test]
    fn arbitrary_tables(table in tables(), sentinels in any::<bool>()) {
        check(table, &Options { sentinels })?;
    }
}

/// The properties above hold of nothing if nothing comes through.
#[test]
fn enough_tables_come_through() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let through = (0..300).filter(|_| {
        let table = tables().new_tree(&mut runner).unwrap().current();
        check(table, &Options::default()).unwrap()
    });
    let tables = through.count();
    let read = (0..300).filter(|_| {
        let bytes = tables_of_text().new_tree(&mut runner).unwrap().current();
        from_bytes("x", bytes, &read::Options::default()).is_ok()
    });
    let read = read.count();
    assert!(tables > 40 && read > 40, "{tables} tables, {read} files");
}
