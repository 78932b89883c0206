//! Quantile bands.

use anser_series::bands::Residuals;
use anser_series::metrics::coverage;
use proptest::prelude::*;

use crate::util::{Noise, golden};

/// Residuals of one column and step.
fn of(values: &[f64]) -> Residuals {
    let mut residuals = Residuals::new(1, 1);
    values.iter().for_each(|value| residuals.add(&[*value], &[0.0]));
    residuals
}

#[test]
fn numpy() {
    let golden = &golden()["quantiles"];
    let values: Vec<f64> = golden["residuals"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let bands = of(&values).bands();
    let of = golden["of"].as_array().unwrap();
    assert_eq!(of.len(), 11);
    for pair in of {
        let (level, expected) = (pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap());
        let found = bands.quantile(level, 0, 0);
        assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{level}: {found}, expected {expected}");
    }
}

#[test]
fn every_column_and_step_has_its_own() {
    // Errors of columns c at steps h: (10 h + c) times -1, 0, 1, as truth minus forecast.
    let mut residuals = Residuals::new(2, 3);
    for sign in [-1.0, 0.0, 1.0] {
        let truth: Vec<f64> = (0..6).map(|at| 100.0 + sign * f64::from(10 * (at / 2) + at % 2)).collect();
        residuals.add(&truth, &[100.0; 6]);
    }
    assert_eq!(residuals.windows(), 3);
    let bands = residuals.bands();
    assert_eq!((bands.width(), bands.horizon()), (2, 3));
    for (column, step, size) in [(0, 0, 0.0), (1, 0, 1.0), (0, 1, 10.0), (1, 2, 21.0)] {
        let found = [0.0, 0.25, 0.5, 0.75, 1.0].map(|level| bands.quantile(level, column, step));
        assert_eq!(found, [-size, -size / 2.0, 0.0, size / 2.0, size]);
    }
}

#[test]
fn one_window_and_none() {
    let bands = of(&[2.5]).bands();
    assert_eq!([0.0, 0.3, 1.0].map(|level| bands.quantile(level, 0, 0)), [2.5; 3]);
    assert!(of(&[]).bands().quantile(0.5, 0, 0).is_nan());
    // A forecast that was no number has no band, on neither side.
    for value in [f64::NAN, -f64::NAN] {
        assert!([0.0, 0.5, 1.0].iter().all(|&level| of(&[1.0, value, 2.0]).bands().quantile(level, 0, 0).is_nan()));
    }
}

#[test]
fn coverage_is_nominal_on_noise_like_that_before() {
    let mut noise = Noise(11);
    let mut residuals = Residuals::new(1, 2);
    for _ in 0..3000 {
        let forecast = noise.next();
        // The second step is biased and has twice the deviation.
        residuals.add(&[forecast + noise.normal(), forecast + 3.0 + 2.0 * noise.normal()], &[forecast; 2]);
    }
    let bands = residuals.bands();
    for (step, bias, deviation) in [(0, 0.0, 1.0), (1, 3.0, 2.0)] {
        let truth: Vec<f64> = (0..20_000).map(|_| bias + deviation * noise.normal()).collect();
        for nominal in [0.5, 0.8, 0.95] {
            let [low, high] = [0.5 - nominal / 2.0, 0.5 + nominal / 2.0].map(|level| bands.quantile(level, 0, step));
            let covered = coverage(&truth, &vec![low; truth.len()], &vec![high; truth.len()]);
            // Three deviations of the quantiles of 3000 residuals.
            assert!((covered - nominal).abs() < 0.03, "step {step}: {covered} of {nominal}");
        }
    }
}

#[test]
fn memory_is_bounded_and_the_sample_fair() {
    // Window k is off by k: of a fair sample of 0..100,000 the quantiles are level * 100,000.
    let mut residuals = Residuals::new(1, 1);
    for k in 0..100_000 {
        residuals.add(&[f64::from(k)], &[0.0]);
    }
    assert_eq!((residuals.windows(), residuals.kept()), (100_000, 4096));
    let bands = residuals.bands();
    for level in [0.02, 0.1, 0.5, 0.9, 0.98] {
        let off = (bands.quantile(level, 0, 0) - level * 1e5).abs();
        // Four deviations: sqrt(level (1 - level) / 4096) of 100,000.
        assert!(off < 4.0 * (level * (1.0 - level) / 4096.0f64).sqrt() * 1e5, "{level}: off by {off}");
    }
    // A season is not met at some of its hours only.
    let mut residuals = Residuals::new(1, 1);
    for k in 0..100_000 {
        residuals.add(&[f64::from(k % 24)], &[0.0]);
    }
    let bands = residuals.bands();
    assert!([0.0, 0.5, 1.0].iter().all(|&level| (bands.quantile(level, 0, 0) - 23.0 * level).abs() <= 1.0));

    // Up to the limit every residual counts, and of a wide table fewer are kept.
    let few: Vec<f64> = (0..4096).map(f64::from).collect();
    assert_eq!(of(&few).bands().quantile(1.0, 0, 0), 4095.0);
    let mut wide = Residuals::new(256, 256);
    let row = vec![0.0; 1 << 16];
    (0..260).for_each(|_| wide.add(&row, &row));
    assert_eq!((wide.windows(), wide.kept()), (260, 256));
}

#[test]
#[should_panic(expected = "unlike shapes")]
fn half_a_window() {
    Residuals::new(2, 2).add(&[1.0; 2], &[1.0; 2]);
}

proptest! {
    #[test]
    fn quantiles_never_cross(values in prop::collection::vec(-1e3..1e3, 1..40), mut levels in prop::collection::vec(0.0..=1.0, 2..60)) {
        levels.sort_by(f64::total_cmp);
        let bands = of(&values).bands();
        let found: Vec<f64> = levels.iter().map(|&level| bands.quantile(level, 0, 0)).collect();
        prop_assert!(found.windows(2).all(|pair| pair[0] <= pair[1]), "{:?}", found);
        let (lowest, highest) = (values.iter().copied().fold(f64::INFINITY, f64::min), values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
        prop_assert!(found.iter().all(|x| (lowest..=highest).contains(x)));
    }
}
