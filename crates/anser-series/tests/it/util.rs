//! Shared by the tests.

use anser_series::read::{Options, from_bytes};
use anser_series::{Axis, Error, Series, Step, Table};

/// A CSV file, read by its own lights.
pub(crate) fn csv(text: &str) -> Table {
    from_bytes("x.csv", text.as_bytes().to_vec(), &Options::default()).unwrap_or_else(|e| panic!("{e}"))
}

/// What went wrong.
pub(crate) fn error<T>(result: Result<T, Error>) -> String {
    result.err().expect("an error").to_string()
}

pub(crate) fn columns(table: &Table) -> Vec<(&str, Vec<f64>)> {
    table.columns.iter().map(|column| (column.name.as_str(), column.values.clone())).collect()
}

/// Microseconds since 1970 of a date as ISO 8601 has it.
pub(crate) fn micros(date: &str) -> Option<i64> {
    let date = if date.contains('T') { date.to_string() } else { format!("{date}T00:00") };
    let time: jiff::civil::DateTime = date.parse().unwrap();
    let since = time.duration_since(jiff::civil::DateTime::constant(1970, 1, 1, 0, 0, 0, 0));
    Some(i64::try_from(since.as_micros()).unwrap())
}

/// A series of `width` columns, by hours or by number.
pub(crate) fn series(values: Vec<f64>, width: usize, step: Option<Step>) -> Series {
    Series {
        name: "made".into(),
        columns: (0..width).map(|column| format!("c{column}")).collect(),
        axis: step.map_or(Axis::Rows, |step| Axis::Grid { start: 0, step, utc: false }),
        missing: vec![false; values.len()],
        values,
    }
}

/// Numbers that look random, uniform in [-1, 1).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Normal with deviation 1, nearly: twelve uniform numbers.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.next()).sum::<f64>() / 2.0
    }

    pub(crate) fn take(&mut self, n: usize) -> Vec<f64> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// Asserts that numbers agree within `tolerance` of the larger of them or, near 0, of 1.
#[track_caller]
pub(crate) fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let off = (found - expected).abs();
        assert!(off <= tolerance * expected.abs().max(1.0), "place {at}: {found}, expected {expected}");
    }
}

/// What scikit-learn and numpy computed.
pub(crate) fn golden() -> serde_json::Value {
    let path = anser_testkit::golden_dir().join("series-metrics/metrics.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("golden file {}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}
