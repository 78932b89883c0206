//! Tables: CSV text, or Parquet where the bytes begin like it.

#![no_main]

use anser_series::rows::Rows;
use anser_series::{prepare, read};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(table) = read::from_bytes("fuzz", data.to_vec(), &read::Options::default()) {
        if let Ok((series, report)) = prepare(table, &Default::default()) {
            assert!(series.values.iter().all(|value| value.is_finite()));
            assert_eq!(series.values.len(), series.rows() * series.width());
            assert!(!report.sentences().is_empty());
        }
    }
    let mut rows = Rows::new("fuzz", &["a".into(), "b".into()]);
    for line in String::from_utf8_lossy(data).lines() {
        let _ = rows.line(line);
    }
});
