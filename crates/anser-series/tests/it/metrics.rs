//! Scores beside scikit-learn's.

use anser_series::metrics::{Errors, coverage, mase_scale, pinball, score};
use serde_json::Value;

use crate::util::golden;

/// Numbers of a list.
fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// Within 1e-12 of the larger, or both no number, which a golden file has as null.
#[track_caller]
fn same(name: &str, found: f64, expected: &Value) {
    match expected.as_f64() {
        Some(expected) => {
            assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{name}: {found}, expected {expected}")
        }
        None => assert!(expected.is_null() && found.is_nan(), "{name}: {found}, expected {expected}"),
    }
}

#[test]
fn scikit_learn() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let (truth, forecast) = (numbers(&case["truth"]), numbers(&case["forecast"]));
        let width = case["width"].as_u64().unwrap() as usize;
        let scores = score(&truth, &forecast, width);
        assert_eq!(scores.count, truth.len() as u64);
        for (score, found) in [
            ("mse", scores.mse),
            ("mae", scores.mae),
            ("rmse", scores.rmse),
            ("mape", scores.mape),
            ("r2", scores.r2),
            ("r2_pooled", scores.r2_pooled),
        ] {
            same(&format!("{name}: {score}"), found, &case[score]);
        }
        assert_eq!(Some(scores.mape_ignored), case["mape_ignored"].as_u64(), "{name}");
        for pair in case["pinball"].as_array().unwrap() {
            same(&format!("{name}: pinball"), pinball(&truth, &forecast, pair[0].as_f64().unwrap()), &pair[1]);
        }
        // Row by row instead of all at once.
        let mut errors = Errors::new(width);
        for (truth, forecast) in truth.chunks(width).zip(forecast.chunks(width)) {
            errors.add(truth, forecast);
        }
        assert_eq!(format!("{:?}", errors.scores()), format!("{scores:?}"), "{name}");
    }
}

#[test]
fn nothing_has_no_score() {
    let scores = Errors::new(2).scores();
    assert_eq!((scores.count, scores.mape_ignored), (0, 0));
    for score in [scores.mse, scores.mae, scores.rmse, scores.mape, scores.smape, scores.r2, scores.r2_pooled] {
        assert!(score.is_nan());
    }
    assert!(pinball(&[], &[], 0.5).is_nan() && coverage(&[], &[], &[]).is_nan());
}

#[test]
fn constants_far_from_zero() {
    // Rounding must not make a variance of a constant.
    let scores = score(&[0.1; 1000], &[0.2; 1000], 1);
    assert_eq!((scores.r2, scores.r2_pooled), (0.0, 0.0));
    let scores = score(&[1e15 + 0.3; 7], &[1e15 + 0.3; 7], 1);
    assert_eq!((scores.r2, scores.mse), (1.0, 0.0));
}

#[test]
fn symmetric_percentage_errors() {
    // 2 |1 - 3| / 4, both 0, one 0, opposite signs.
    let scores = score(&[1.0, 0.0, 0.0, -2.0], &[3.0, 0.0, 5.0, 2.0], 1);
    assert_eq!(scores.smape, (1.0 + 0.0 + 2.0 + 2.0) / 4.0);
}

#[test]
fn scaled_errors() {
    assert_eq!(mase_scale(&[1.0, 2.0, 4.0, 7.0], 1), Some(2.0));
    assert_eq!(mase_scale(&[1.0, 2.0, 4.0, 7.0], 2), Some(4.0));
    assert_eq!(mase_scale(&[1.0, 2.0, 4.0, 7.0], 4), None);
    assert_eq!(mase_scale(&[1.0, 2.0, 4.0, 7.0], 0), None);
    assert_eq!(mase_scale(&[5.0, 6.0, 5.0, 6.0], 2), None);
    assert_eq!(mase_scale(&[], 1), None);
}

#[test]
fn coverage_counts_the_ends() {
    assert_eq!(coverage(&[1.0, 2.0, 3.0, 4.0], &[1.0, 0.0, 4.0, 0.0], &[2.0, 2.0, 5.0, 3.9]), 0.5);
}

#[test]
#[should_panic(expected = "unlike shapes")]
fn half_a_row() {
    Errors::new(2).add(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0]);
}
