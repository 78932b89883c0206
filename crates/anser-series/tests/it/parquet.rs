//! Parquet files written here and read back, whole and damaged.

use std::sync::Arc;

use anser_series::read::{Dates, Options, from_bytes};
use anser_series::{Error, Table};

use crate::util::{columns, error, micros};
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, FloatType, Int32Type,
    Int64Type, Int96, Int96Type,
};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use proptest::prelude::*;

/// The values of a column and where they are missing: definition levels, 1 for a value.
type Levels<'a> = Option<&'a [i16]>;

fn column<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    levels: Levels<'_>,
) {
    let mut column = group.next_column().unwrap().expect("a column of the schema");
    column.typed::<T>().write_batch(values, levels, None).unwrap();
    column.close().unwrap();
}

/// A file of `schema`, whose row groups `write` fills by their number.
fn file(
    schema: &str,
    properties: WriterProperties,
    groups: usize,
    mut write: impl FnMut(usize, &mut SerializedRowGroupWriter<'_, Vec<u8>>),
) -> Vec<u8> {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
    for number in 0..groups {
        let mut group = writer.next_row_group().unwrap();
        write(number, &mut group);
        group.close().unwrap();
    }
    writer.into_inner().unwrap()
}

const MIXED: &str = "message mixed {
    required int64 time (TIMESTAMP(MILLIS,true));
    optional double load;
    optional float heat;
    required int32 count;
    optional int64 big;
    required binary place (STRING);
    required boolean open;
    optional int32 price (DECIMAL(9,2));
    required fixed_len_byte_array(5) paid (DECIMAL(10,3));
    required int32 tally (INTEGER(32,false));
    optional int96 old;
    required int32 day (DATE);
}";

/// Two row groups of 60 hours, a column of every kind.
fn mixed(compression: Compression, version: WriterVersion) -> Vec<u8> {
    let properties = WriterProperties::builder().set_compression(compression).set_writer_version(version).build();
    file(MIXED, properties, 2, |number, group| {
        let hours = || (0..60).map(|row| (row + 60 * number) as i64);
        let levels: Vec<i16> = hours().map(|hour| i16::from(hour % 7 != 3)).collect();
        let there = || hours().filter(|hour| hour % 7 != 3);
        column::<Int64Type>(group, &hours().map(|h| 1_467_331_200_000 + h * 3_600_000).collect::<Vec<_>>(), None);
        column::<DoubleType>(group, &there().map(|h| h as f64 / 3.0).collect::<Vec<_>>(), Some(&levels));
        column::<FloatType>(group, &there().map(|h| h as f32 / 4.0).collect::<Vec<_>>(), Some(&levels));
        column::<Int32Type>(group, &hours().map(|h| h as i32 - 50).collect::<Vec<_>>(), None);
        column::<Int64Type>(group, &there().map(|h| h << 40).collect::<Vec<_>>(), Some(&levels));
        column::<ByteArrayType>(
            group,
            &hours().map(|h| ByteArray::from(["here", "there"][h as usize % 2])).collect::<Vec<_>>(),
            None,
        );
        column::<BoolType>(group, &hours().map(|h| h % 2 == 1).collect::<Vec<_>>(), None);
        column::<Int32Type>(group, &there().map(|h| h as i32 * 25 - 1000).collect::<Vec<_>>(), Some(&levels));
        let paid = hours().map(|h| FixedLenByteArray::from((h * 1001 - 5000).to_be_bytes()[3..].to_vec()));
        column::<FixedLenByteArrayType>(group, &paid.collect::<Vec<_>>(), None);
        column::<Int32Type>(group, &hours().map(|h| (4_000_000_000 + h) as u32 as i32).collect::<Vec<_>>(), None);
        column::<Int96Type>(
            group,
            &there().map(|h| Int96::from(vec![h as u32, 0, 2_457_571])).collect::<Vec<_>>(),
            Some(&levels),
        );
        column::<Int32Type>(group, &hours().map(|h| 16_983 + h as i32).collect::<Vec<_>>(), None);
    })
}

const KINDS: [(Compression, WriterVersion); 4] = [
    (Compression::UNCOMPRESSED, WriterVersion::PARQUET_1_0),
    (Compression::SNAPPY, WriterVersion::PARQUET_1_0),
    (Compression::SNAPPY, WriterVersion::PARQUET_2_0),
    (Compression::UNCOMPRESSED, WriterVersion::PARQUET_2_0),
];

fn zstd() -> Compression {
    Compression::ZSTD(ZstdLevel::default())
}

fn open(bytes: Vec<u8>) -> Table {
    from_bytes("x.parquet", bytes, &Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// A file of one column of 3 rows or more.
fn of<T: parquet::data_type::DataType>(kind: &str, values: &[T::T], levels: Levels<'_>) -> Result<Table, Error> {
    let bytes = file(&format!("message m {{ {kind}; }}"), WriterProperties::default(), 1, |_, group| {
        column::<T>(group, values, levels);
    });
    from_bytes("x.parquet", bytes, &Options::default())
}

#[test]
fn columns_of_every_kind() {
    for (compression, version) in KINDS.into_iter().chain([(zstd(), WriterVersion::PARQUET_2_0)]) {
        let table = open(mixed(compression, version));
        let times = table.times.as_ref().expect("dates");
        assert_eq!((&*times.column, times.utc, table.rows()), ("time", true, 120));
        assert_eq!((times.micros[0], times.micros[119]), (micros("2016-07-01"), micros("2016-07-05T23:00")));
        assert_eq!(
            (table.reading.format, table.reading.date_format.as_deref()),
            ("Parquet", Some("times of the file format"))
        );

        type Column = (&'static str, fn(f64) -> f64);
        let expected: Vec<Column> = vec![
            ("load", |h| if h % 7.0 == 3.0 { f64::NAN } else { h / 3.0 }),
            ("heat", |h| if h % 7.0 == 3.0 { f64::NAN } else { f64::from(h as f32 / 4.0) }),
            ("count", |h| h - 50.0),
            ("big", |h| if h % 7.0 == 3.0 { f64::NAN } else { h * (1u64 << 40) as f64 }),
            ("open", |h| h % 2.0),
            ("price", |h| if h % 7.0 == 3.0 { f64::NAN } else { (h * 25.0 - 1000.0) / 100.0 }),
            ("paid", |h| (h * 1001.0 - 5000.0) / 1000.0),
            ("tally", |h| 4e9 + h),
        ];
        assert_eq!(columns(&table).len(), expected.len());
        for ((name, found), (expected_name, expected)) in columns(&table).into_iter().zip(expected) {
            assert_eq!(name, expected_name);
            for (hour, found) in found.iter().enumerate() {
                let expected = expected(hour as f64);
                assert!(
                    *found == expected || found.is_nan() && expected.is_nan(),
                    "{name} {hour}: {found} for {expected}"
                );
            }
        }
        let aside: Vec<_> = table.reading.set_aside.iter().map(|aside| (&*aside.column, &*aside.why)).collect();
        assert_eq!(
            aside,
            [
                ("place", "`text here` in row 1 is no number"),
                ("old", "`a time` in row 1 is no number"),
                ("day", "`a time` in row 1 is no number"),
            ]
        );
    }
}

#[test]
fn times_of_every_unit() {
    let hours = [0i64, 1, 2];
    let second = 1_467_331_200;
    let expected = ["2016-07-01T00:00", "2016-07-01T01:00", "2016-07-01T02:00"].map(micros);
    for (kind, scale, utc) in [
        ("TIMESTAMP(MILLIS,false)", 1_000, false),
        ("TIMESTAMP(MICROS,false)", 1_000_000, false),
        ("TIMESTAMP(NANOS,true)", 1_000_000_000, true),
        ("TIMESTAMP_MILLIS", 1_000, true),
        ("TIMESTAMP_MICROS", 1_000_000, true),
    ] {
        let values = hours.map(|hour| (second + 3600 * hour) * scale);
        let schema = format!("message m {{ required int64 t ({kind}); required double x; }}");
        let bytes = file(&schema, WriterProperties::default(), 1, |_, group| {
            column::<Int64Type>(group, &values, None);
            column::<DoubleType>(group, &[1.0, 2.0, 4.0], None);
        });
        let times = open(bytes).times.unwrap();
        assert_eq!((&times.micros[..], times.utc), (&expected[..], utc), "{kind}");
    }
    // Nanoseconds before 1970 are cut towards the past; what lies beyond the calendar is no date.
    let bytes = file(
        "message m { required int64 t (TIMESTAMP(NANOS,false)); required int64 u (TIMESTAMP(MILLIS,false)); required double x; }",
        WriterProperties::default(),
        1,
        |_, group| {
            column::<Int64Type>(group, &[-1, 0, 1999], None);
            column::<Int64Type>(group, &[i64::MIN, 0, i64::MAX], None);
            column::<DoubleType>(group, &[1.0, 2.0, 4.0], None);
        },
    );
    let with = |name: &str| Options { dates: Dates::In(name.into()), ..Options::default() };
    assert_eq!(from_bytes("x", bytes.clone(), &with("t")).unwrap().times.unwrap().micros, [Some(-1), Some(0), Some(1)]);
    assert_eq!(from_bytes("x", bytes, &with("u")).unwrap().times.unwrap().micros, [None, Some(0), None]);
}

#[test]
fn dates_as_text_and_as_numbers() {
    let text = |values: &[&str]| values.iter().map(|value| ByteArray::from(*value)).collect::<Vec<_>>();
    let bytes = |dates: &[ByteArray], levels: &[i16]| {
        file(
            "message m { optional binary day (STRING); required double x; }",
            WriterProperties::default(),
            1,
            |_, group| {
                column::<ByteArrayType>(group, dates, Some(levels));
                column::<DoubleType>(group, &vec![1.0; levels.len()], None);
            },
        )
    };
    let table = open(bytes(&text(&["13/07/2016", "14/07/2016"]), &[1, 0, 1]));
    assert_eq!(table.times.unwrap().micros, [micros("2016-07-13"), None, micros("2016-07-14")]);
    assert_eq!(table.reading.date_format.as_deref(), Some("day/month/year"));
    // Sixty rows without a date before those with one.
    let mut levels = vec![0; 60];
    levels.extend([1; 60]);
    let days: Vec<String> = (0..60).map(|day| format!("2016-{:02}-{:02}", 1 + day / 28, 1 + day % 28)).collect();
    let table = open(bytes(&text(&days.iter().map(String::as_str).collect::<Vec<_>>()), &levels));
    assert_eq!(table.times.unwrap().micros[60], micros("2016-01-01"));
    // One of sixty that is none.
    let mut wrong = days.clone();
    wrong[55] = "soon".into();
    let e = error(from_bytes(
        "x",
        bytes(&text(&wrong.iter().map(String::as_str).collect::<Vec<_>>()), &levels),
        &Options::default(),
    ));
    assert!(e.starts_with("x: column `day`, row 116: `soon` is no date"), "{e}");

    let table = of::<Int64Type>("required int64 year", &[2014, 2015, 2016], None);
    assert!(matches!(table, Err(Error::NothingNumeric { .. })));
    let bytes =
        file("message m { required int64 year; required double x; }", WriterProperties::default(), 1, |_, group| {
            column::<Int64Type>(group, &[2014, 2015, 2016], None);
            column::<DoubleType>(group, &[1.0; 3], None);
        });
    assert_eq!(open(bytes.clone()).times.unwrap().micros[1], micros("2015-01-01"));
    let wanted = Options { columns: Some(vec!["x".into(), "year".into()]), ..Options::default() };
    let table = from_bytes("x", bytes, &wanted).unwrap();
    assert_eq!(columns(&table), [("x", vec![1.0; 3]), ("year", vec![2014.0, 2015.0, 2016.0])]);
}

#[test]
fn columns_that_hold_no_numbers() {
    let text = [ByteArray::from("1.5"), ByteArray::from("2.5"), ByteArray::from("3.5")];
    let schema = "message m {
        required binary text (STRING); required binary raw; optional binary none (STRING); optional double gone;
        required int32 clock (TIME(MILLIS,true)); required double x;
    }";
    let bytes = file(schema, WriterProperties::default(), 1, |_, group| {
        column::<ByteArrayType>(group, &text, None);
        column::<ByteArrayType>(group, &text, None);
        column::<ByteArrayType>(group, &[], Some(&[0; 3]));
        column::<DoubleType>(group, &[], Some(&[0; 3]));
        column::<Int32Type>(group, &[1, 2, 3], None);
        column::<DoubleType>(group, &[1.0, 2.0, 4.0], None);
    });
    let table = open(bytes.clone());
    assert_eq!(columns(&table), [("x", vec![1.0, 2.0, 4.0])]);
    let aside: Vec<_> = table.reading.set_aside.iter().map(|aside| (&*aside.column, &*aside.why)).collect();
    assert_eq!(
        aside,
        [
            ("text", "`text 1.5` in row 1 is no number"),
            ("raw", "`binary data` in row 1 is no number"),
            ("none", "it has no value at all"),
            ("gone", "it has no value at all"),
            ("clock", "`a time of day` in row 1 is no number"),
        ]
    );
    let wanted = |name: &str| Options { columns: Some(vec![name.into()]), ..Options::default() };
    let e = error(from_bytes("x", bytes.clone(), &wanted("text")));
    assert_eq!(e, "x: column `text`, row 1: `text 1.5` is no number; columns of numbers are `none`, `gone`, `x`");
    let dates = Options { dates: Dates::In("raw".into()), ..Options::default() };
    assert!(error(from_bytes("x", bytes, &dates)).starts_with("x: column `raw`, row 1: `binary data` is no date"));
}

#[test]
fn lists_and_groups() {
    let schema = "message m { required group a { required double x; required double y; } repeated double list; }";
    let bytes = file(schema, WriterProperties::default(), 1, |_, group| {
        column::<DoubleType>(group, &[1.0, 2.0], None);
        column::<DoubleType>(group, &[3.0, 5.0], None);
        let mut list = group.next_column().unwrap().unwrap();
        list.typed::<DoubleType>().write_batch(&[7.0, 8.0, 9.0], Some(&[1, 1, 1]), Some(&[0, 1, 0])).unwrap();
        list.close().unwrap();
    });
    let table = open(bytes);
    assert_eq!(columns(&table), [("a.x", vec![1.0, 2.0]), ("a.y", vec![3.0, 5.0])]);
    assert_eq!(table.reading.set_aside[0].why, "`a list` in row 1 is no number");
}

#[test]
fn files_without_rows_or_readers() {
    let none = file("message m { required double x; }", WriterProperties::default(), 0, |_, _| {});
    assert_eq!(
        error(from_bytes("x", none, &Options::default())),
        "x: the file has no row; expected a row for every point in time"
    );
    assert!(matches!(of::<DoubleType>("required double x", &[], None), Err(Error::Empty { .. })));
    assert_eq!(of::<DoubleType>("required double x", &[1.5], None).unwrap().rows(), 1);
    let e = error(from_bytes("x", b"PAR1 and no more".to_vec(), &Options::default()));
    assert!(e.starts_with("x: "), "{e}");
}

/// The footer of a file names the codec of every column; here it is made to name gzip, which is 2 where snappy is 1.
#[test]
fn other_compressions_are_named() {
    let properties =
        WriterProperties::builder().set_compression(Compression::SNAPPY).set_dictionary_enabled(false).build();
    let bytes = file("message m { required double x; }", properties, 1, |_, group| {
        column::<DoubleType>(group, &[1.0, 2.0, 4.0], None);
    });
    let refused = (4..bytes.len() - 8).filter(|&at| bytes[at] == 2).find_map(|at| {
        let mut changed = bytes.clone();
        changed[at] = 4;
        let e = from_bytes("x", changed, &Options::default()).err()?.to_string();
        e.contains("compressed with").then_some(e)
    });
    assert_eq!(
        refused.expect("a byte for the codec"),
        "x: column `x` is compressed with GZIP, expected snappy, zstd or nothing: write the file so"
    );
}

/// A file without rows whose schema has `depth` groups within each other around a column, each of `children`.
fn nested(depth: usize, children: u8) -> Vec<u8> {
    // Thrift: field 1, the version; field 2, a list of structs.
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc];
    let mut count = depth + 1;
    while count >= 0x80 {
        footer.push(count as u8 | 0x80);
        count >>= 7;
    }
    footer.push(count as u8);
    // Groups: required, a name, children. The column: a double, required, a name.
    for _ in 0..depth {
        footer.extend([0x35, 0x00, 0x18, 0x01, b'g', 0x15, 2 * children, 0x00]);
    }
    footer.extend([0x15, 0x0a, 0x25, 0x00, 0x18, 0x01, b'x', 0x00]);
    // No rows, no row groups.
    footer.extend([0x16, 0x00, 0x19, 0x0c, 0x00]);
    let length = (footer.len() as u32).to_le_bytes();
    [b"PAR1", &footer[..], &length, b"PAR1"].concat()
}

#[test]
fn deep_schemas_are_refused() {
    let open = |bytes| error(from_bytes("x", bytes, &Options::default()));
    assert_eq!(open(nested(64, 1)), "x: the file has no row; expected a row for every point in time");
    for depth in [65, 3000, 1_000_000] {
        let e = open(nested(depth, 1));
        assert_eq!(e, "x: its columns lie in more than 64 groups within groups: write the file again");
    }
    // More children than there are elements.
    assert_eq!(open(nested(2, 60)), "x: its footer is damaged: write the file again");
}

#[test]
fn truncated_files_are_refused() {
    let bytes = mixed(Compression::SNAPPY, WriterVersion::PARQUET_1_0);
    for len in (4..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        let e = from_bytes("x", bytes[..len].to_vec(), &Options::default()).unwrap_err();
        assert!(matches!(e, Error::Format { .. }), "{len}: {e}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Bytes changed anywhere, half of the time in the footer.
    #[test]
    fn damaged_files_never_panic(
        kind in 0usize..5, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<u8>()), 1..5),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let original = &DAMAGED.with(|files| files[kind].clone());
        let mut bytes = original.to_vec();
        for (at, footer, byte) in changes {
            let start = if footer { bytes.len() * 2 / 3 } else { 4 };
            let at = start + at.index(bytes.len() - start);
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(4 + cut.index(bytes.len() - 4));
        }
        match from_bytes("x", bytes, &Options::default()) {
            Ok(table) => prop_assert!(table.rows() > 0 && table.columns.iter().all(|column| column.values.len() == table.rows())),
            Err(e) => prop_assert!(e.to_string().starts_with("x: "), "{}", e),
        }
    }
}

thread_local! {
    static DAMAGED: [std::rc::Rc<[u8]>; 5] =
        [KINDS[0], KINDS[1], KINDS[2], KINDS[3], (zstd(), WriterVersion::PARQUET_2_0)].map(|(compression, version)| mixed(compression, version).into());
}
