//! CSV: everything about the file is found in it.

use anser_series::read::{Dates, Options, from_bytes, read};
use anser_series::{Error, Table};

use crate::util::{columns, csv, error, micros};

fn reading(text: &str) -> (&'static str, bool, Vec<String>) {
    let table = csv(text);
    (table.reading.delimiter, table.reading.header, table.columns.iter().map(|column| column.name.clone()).collect())
}

fn names(table: &Table) -> Vec<&str> {
    table.columns.iter().map(|column| column.name.as_str()).collect()
}

fn wanting(columns: &[&str]) -> Options {
    Options { columns: Some(columns.iter().map(|name| name.to_string()).collect()), ..Options::default() }
}

#[test]
fn a_header_is_found_where_there_is_one() {
    assert_eq!(reading("date,load\n2016-07-01,1\n2016-07-02,2\n"), ("commas", true, vec!["load".into()]));
    assert_eq!(reading("a,b\n1,2\n3,4\n"), ("commas", true, vec!["a".into(), "b".into()]));
    // Names that are numbers, beside one that is none.
    assert!(reading("id,2015,2016\n1,2,3\n4,5,6\n").1);
    assert_eq!(reading("1.5,2\n3,4\n"), ("commas", false, vec!["column_1".into(), "column_2".into()]));
    assert_eq!(reading("2016-07-01,1\n2016-07-02,2\n"), ("commas", false, vec!["column_2".into()]));
    // Text in the first row as in all others is no header.
    assert_eq!(reading("north,1.5\nsouth,2\nwest,3\n"), ("commas", false, vec!["column_2".into()]));
    // A missing word is not a name.
    assert!(!reading("NA,1.5\n2,2\n3,9\n").1);
}

#[test]
fn a_header_can_be_ordained() {
    let with = |header| Options { header: Some(header), ..Options::default() };
    let bytes = || b"1,2\n3,4\n5,9\n".to_vec();
    let table = from_bytes("x", bytes(), &with(true)).unwrap();
    assert_eq!((names(&table), table.rows()), (vec!["1", "2"], 2));
    let table = from_bytes("x", bytes(), &with(false)).unwrap();
    assert_eq!((names(&table), table.rows()), (vec!["column_1", "column_2"], 3));
    let e = from_bytes("x", b"a,b\n3,4\n".to_vec(), &with(false)).unwrap_err();
    assert!(matches!(e, Error::NothingNumeric { .. }), "{e}");
}

#[test]
fn separators_and_decimal_signs() {
    let table = csv("date;load;heat\n2016-07-01;1,5;1.234,5\n2016-07-02;-2,25;12.345.678\n2016-07-03;1,5e3;7\n");
    assert_eq!(table.reading.delimiter, "semicolons");
    assert_eq!(table.reading.decimal_comma, ["load", "heat"]);
    assert_eq!(columns(&table), [("load", vec![1.5, -2.25, 1500.0]), ("heat", vec![1234.5, 12_345_678.0, 7.0])]);

    // Semicolons with points: no comma says that points group thousands.
    let table = csv("a;b\n1.234;2\n3.5;4\n");
    assert_eq!(columns(&table), [("a", vec![1.234, 3.5]), ("b", vec![2.0, 4.0])]);
    assert_eq!(table.reading.decimal_comma, [""; 0]);

    let table = csv("a\tb\n1\t2.5\n3\t4\n");
    assert_eq!(table.reading.delimiter, "tabs");
    assert_eq!(columns(&table), [("a", vec![1.0, 3.0]), ("b", vec![2.5, 4.0])]);
    let table = csv("a\tb\n1\t2,5\n3\t4\n");
    assert_eq!((table.reading.delimiter, &table.reading.decimal_comma[..]), ("tabs", &["b".to_string()][..]));
    assert_eq!(columns(&table), [("a", vec![1.0, 3.0]), ("b", vec![2.5, 4.0])]);

    // Exponents beside decimal commas are no thousands.
    let table = csv("a;b\n1,5;1\n1.1e3;2\n");
    assert_eq!(columns(&table)[0].1, [1.5, 1100.0]);
    // Commas at two places are no number.
    assert_eq!(
        error(csv_with("a;b\n1,5,2;1\n1,5,3;2\n", &wanting(&["a"]))),
        "x.csv: column `a`, row 1: `1,5,2` is no number; columns of numbers are `b`"
    );

    // One column has nothing to be separated by.
    let table = csv("a\n1\n2\n");
    assert_eq!((table.reading.delimiter, columns(&table)), ("nothing", vec![("a", vec![1.0, 2.0])]));
    // A short last line does not hide the separator.
    assert!(
        error(csv_try("a;b\n1,5;2\n2,5;3\n3,5;4\nend\n"))
            .contains("line 5 has 1 fields, expected 2 (separated by semicolons)")
    );
}

fn csv_try(text: &str) -> Result<Table, Error> {
    from_bytes("x.csv", text.as_bytes().to_vec(), &Options::default())
}

fn csv_with(text: &str, options: &Options) -> Result<Table, Error> {
    from_bytes("x.csv", text.as_bytes().to_vec(), options)
}

#[test]
fn quoted_fields() {
    let table = csv("\"date\",\"load, \"\"net\"\"\",\"two\nlines\"\n\"2016-07-01\",\"1\",2\n2016-07-02,3,\"4\"\n");
    assert_eq!(columns(&table), [("load, \"net\"", vec![1.0, 3.0]), ("two\nlines", vec![2.0, 4.0])]);
    let table = csv("a,b\n\"1,5\",2\n");
    assert_eq!(table.reading.set_aside[0].why, "`1,5` in row 1 is no number");
}

#[test]
fn line_ends_and_blank_lines() {
    for text in ["a,b\r\n1,2\r\n3,4\r\n", "a,b\r1,2\r3,4\r", "a,b\n\n1,2\n\n\n3,4", "\na,b\n1,2\n3,4\n\n"] {
        assert_eq!(columns(&csv(text)), [("a", vec![1.0, 3.0]), ("b", vec![2.0, 4.0])], "{text:?}");
    }
}

#[test]
fn encodings() {
    let text = "Zeit;T (°C);\u{20ac}\n01.07.2016;1,5;2\n02.07.2016;2,5;3\n";
    let expected = [("T (°C)", vec![1.5, 2.5]), ("\u{20ac}", vec![2.0, 3.0])];
    let utf16 = |to_bytes: fn(u16) -> [u8; 2], mark: [u8; 2]| {
        let mut bytes = mark.to_vec();
        bytes.extend(text.encode_utf16().flat_map(to_bytes));
        bytes
    };
    let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
    let windows: Vec<u8> =
        text.chars().map(|c| if c == '\u{20ac}' { 0x80 } else { u8::try_from(c).unwrap() }).collect();
    assert!(windows.contains(&0xb0));
    for (bytes, encoding) in [
        (text.as_bytes().to_vec(), "UTF-8"),
        (marked, "UTF-8 with a mark"),
        (utf16(u16::to_le_bytes, [0xff, 0xfe]), "UTF-16"),
        (utf16(u16::to_be_bytes, [0xfe, 0xff]), "UTF-16"),
        (windows, "Windows-1252"),
    ] {
        let table = from_bytes("x", bytes, &Options::default()).unwrap();
        assert_eq!(table.reading.encoding, encoding);
        assert_eq!(columns(&table), expected, "{encoding}");
        assert_eq!(table.reading.date_column.as_deref(), Some("Zeit"));
    }
}

#[test]
fn the_weather_file() {
    // Latin-1, the degree sign as byte 0xB0, day-first dates, a row every ten minutes.
    let bytes = b"\"Date Time\",\"p (mbar)\",\"T (\xb0C)\",\"PAR (\xb5mol/m\xb2/s)\"\n\
        01.01.2020 00:10:00,1008.89,0.71,0\n01.01.2020 00:20:00,1008.76,0.75,-9999\n13.01.2020 00:30:00,1008.66,0.73,0\n";
    let table = from_bytes("weather.csv", bytes.to_vec(), &Options::default()).unwrap();
    assert_eq!(names(&table), ["p (mbar)", "T (\u{b0}C)", "PAR (\u{b5}mol/m\u{b2}/s)"]);
    assert_eq!(table.reading.date_format.as_deref(), Some("day.month.year"));
    assert_eq!(table.times.unwrap().micros[0], micros("2020-01-01T00:10"));
}

#[test]
fn invalid_utf8_after_a_mark_spoils_a_name_only() {
    let table =
        from_bytes("x", b"\xef\xbb\xbfdate,T (\xb0C)\n2016-07-01,1\n2016-07-02,2\n".to_vec(), &Options::default())
            .unwrap();
    assert_eq!((names(&table), table.times.is_some()), (vec!["T (\u{fffd}C)"], true));
}

#[test]
fn missing_words() {
    let table = csv("a;b\n1;0\n;0\nNA;0\nn/a;0\nNaN;0\nnull;0\nNone;0\nnil;0\n-;0\n--;0\n?;0\n  ;0\n");
    let (name, values) = &columns(&table)[0];
    assert_eq!((*name, values[0]), ("a", 1.0));
    assert!(values[1..].iter().all(|value| value.is_nan()) && values.len() == 12, "{values:?}");
    // A word that is none of these is no number.
    assert_eq!(csv("a,b\n1,0\nmissing,0\n").reading.set_aside[0].why, "`missing` in row 2 is no number");
}

#[test]
fn ragged_lines() {
    let e = error(csv_try("date,a,b\n2016-07-01,1,2\n2016-07-02,3\n"));
    assert_eq!(
        e,
        "x.csv: line 3 has 2 fields, expected 3 (separated by commas): complete the line, or quote a field that contains \
         the separator"
    );
    assert!(error(csv_try("a,b\n1,2\n\n3,4,5\n")).starts_with("x.csv: line 4 has 3 fields, expected 2"));
}

#[test]
fn files_without_rows() {
    assert_eq!(error(csv_try("")), "x.csv: the file is empty; expected a row for every point in time");
    assert_eq!(error(csv_try("\n\n")), "x.csv: the file is empty; expected a row for every point in time");
    assert_eq!(
        error(from_bytes("x.csv", b"\xef\xbb\xbf".to_vec(), &Options::default())),
        "x.csv: the file is empty; expected a row for every point in time"
    );
    assert_eq!(
        error(csv_try("date,load\n")),
        "x.csv: the file has a header and no row; expected a row for every point in time"
    );
    assert_eq!(csv("date,load\n2016-07-01,1\n").rows(), 1);
    assert_eq!(columns(&csv("1.5;2")), [("column_1", vec![1.5]), ("column_2", vec![2.0])]);
}

#[test]
fn other_kinds_of_files_are_named() {
    for (bytes, found) in [
        (&b"PK\x03\x04...."[..], "a zip archive, as spreadsheets are"),
        (b"\x1f\x8b\x08", "a gzip file"),
        (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
        (b"\x89HDF\r\n", "an HDF5 file"),
        (b"a,b\n1,2\n\0\0\0", "binary data (a zero byte after 8 bytes of text)"),
        (b"\x7fELF\x02\x01\x01\0\0", "binary data"),
        // UTF-16 without its mark.
        (b"a\0,\0b\0", "binary data (a zero byte after 1 bytes of text)"),
    ] {
        let e = from_bytes("x", bytes.to_vec(), &Options::default()).unwrap_err();
        assert!(matches!(e, Error::Kind { .. }) && e.to_string().contains(found), "{e}");
    }
    let junk: Vec<u8> = (0..4000u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect();
    let e = error(from_bytes("x", junk, &Options::default()));
    assert!(e.len() < 2000, "{e}");
}

#[test]
fn gigantic_numbers_are_infinite() {
    let table = csv("a,b,c\n1e999,-1e999,1e-999\ninf,-Infinity,1\n");
    assert_eq!(
        columns(&table),
        [("a", vec![f64::INFINITY; 2]), ("b", vec![f64::NEG_INFINITY; 2]), ("c", vec![0.0, 1.0])]
    );
}

#[test]
fn names_are_made_unique() {
    let table = csv("a,a, ,b,a_2\n1,2,3,4,5\n1,2,3,4,5\n");
    assert_eq!(names(&table), ["a", "a_3", "column_3", "b", "a_2"]);
    assert_eq!(table.reading.renamed, ["a_3", "column_3"]);
    let table = csv(" a ,a\t\n1,2\n1,2\n");
    assert_eq!(names(&table), ["a", "a_2"]);
    // A name that is made is never one that stands in the file, with blanks around it or not.
    assert_eq!(names(&csv("a,a, a_2 \n1,2,3\n1,2,3\n")), ["a", "a_3", "a_2"]);
    // Columns without a header are no renamed ones.
    assert_eq!(csv("1,2\n3,5\n").reading.renamed, [""; 0]);
}

#[test]
fn columns_are_chosen_by_name_and_order() {
    let text = "date,a,b,city\n2016-07-01,1,2,Rome\n2016-07-02,3,4,Rome\n";
    let table = csv_with(text, &wanting(&["b", "a"])).unwrap();
    assert_eq!(columns(&table), [("b", vec![2.0, 4.0]), ("a", vec![1.0, 3.0])]);
    assert!(table.columns.iter().all(|column| column.asked) && table.times.is_some());
    assert_eq!(table.reading.set_aside, []);
    let table = csv(text);
    assert!(names(&table) == ["a", "b"] && !table.columns[0].asked);
    assert_eq!(
        (&*table.reading.set_aside[0].column, &*table.reading.set_aside[0].why),
        ("city", "`Rome` in row 1 is no number")
    );

    assert_eq!(error(csv_with(text, &wanting(&["c"]))), "x.csv: no column `c`: there are `date`, `a`, `b`, `city`");
    assert_eq!(
        error(csv_with(text, &wanting(&["a", "city"]))),
        "x.csv: column `city`, row 1: `Rome` is no number; columns of numbers are `a`, `b`"
    );
    // A date column that is wanted as numbers is none.
    let table = csv_with("year,a\n2015,1\n2016,2\n", &wanting(&["year"])).unwrap();
    assert_eq!((columns(&table), &table.times), (vec![("year", vec![2015.0, 2016.0])], &None));
    let both = Options { dates: Dates::In("year".into()), ..wanting(&["a", "year"]) };
    let e = error(csv_with("year,a\n2015,1\n2016,2\n", &both));
    assert_eq!(e, "the column of dates is `year`, expected a column that is not asked for as numbers");
}

#[test]
fn a_column_that_stops_being_numeric_names_the_row() {
    let text = "a,b\n1,2\n3,4\n5,x7\n";
    assert_eq!(
        error(csv_with(text, &wanting(&["b"]))),
        "x.csv: column `b`, row 3: `x7` is no number; columns of numbers are `a`"
    );
    assert_eq!(csv(text).reading.set_aside[0].why, "`x7` in row 3 is no number");
    let long = "y".repeat(500);
    let e = error(csv_with(&format!("a,b\n1,2\n1,{long}\n"), &wanting(&["b"])));
    assert!(e.contains(&format!("`{}...`", "y".repeat(40))) && e.len() < 200, "{e}");
    assert_eq!(error(csv_try("a,b\nx,y\nz,w\n")), "x.csv: no column of numbers; columns are `a`, `b`");
}

#[test]
fn columns_that_number_the_rows_are_no_series() {
    // pandas writes its index without a name.
    let table = csv(",load\n0,5\n1,7\n2,6\n");
    assert_eq!(names(&table), ["load"]);
    assert_eq!(
        (&*table.reading.set_aside[0].column, &*table.reading.set_aside[0].why),
        ("column_1", "it numbers the rows")
    );
    assert_eq!(names(&csv("Unnamed: 0,load\n0,5\n1,7\n")), ["load"]);
    assert_eq!(names(&csv("index,load\n7,5\n8,7\n")), ["load"]);
    // A name without a number in it is a column like any other, and so is a lone one.
    assert_eq!(names(&csv("count,load\n0,5\n1,7\n")), ["count", "load"]);
    assert_eq!(names(&csv("index,load\n0,5\n2,7\n")), ["index", "load"]);
    assert_eq!(columns(&csv("1\n2\n3\n")), [("column_1", vec![1.0, 2.0, 3.0])]);
    assert_eq!(names(&csv_with("index,load\n0,5\n1,7\n", &wanting(&["index"])).unwrap()), ["index"]);
}

#[test]
fn a_column_without_values() {
    let table = csv("a,b\n1,\n2,NA\n");
    assert_eq!((names(&table), &*table.reading.set_aside[0].why), (vec!["a"], "it has no value at all"));
    let table = csv_with("a,b\n1,\n2,NA\n", &wanting(&["b"])).unwrap();
    assert!(columns(&table)[0].1.iter().all(|value| value.is_nan()));
}

#[test]
fn files_from_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("load.csv");
    std::fs::write(&path, "date,load\n2016-07-01,1\n2016-07-02,2\n").unwrap();
    let table = read(&path, &Options::default()).unwrap();
    assert_eq!((table.name, table.reading.format), (path.display().to_string(), "CSV"));
    let missing = folder.path().join("none.csv");
    let e = error(read(&missing, &Options::default()));
    assert!(e.starts_with(&format!("{}: ", missing.display())), "{e}");
}
