//! Forecasts by rule.

use anser_series::baseline::{drift, last_value, seasonal_naive};
use proptest::prelude::*;

/// Three rows of two columns.
const WINDOW: [f64; 6] = [1.0, 10.0, 2.0, 30.0, 4.0, 20.0];

#[test]
fn small_cases() {
    assert_eq!(last_value(&WINDOW, 2, 2), [4.0, 20.0, 4.0, 20.0]);
    assert_eq!(seasonal_naive(&WINDOW, 2, 2, 3), [2.0, 30.0, 4.0, 20.0, 2.0, 30.0]);
    assert_eq!(seasonal_naive(&WINDOW, 2, 3, 4), [1.0, 10.0, 2.0, 30.0, 4.0, 20.0, 1.0, 10.0]);
    assert_eq!(drift(&WINDOW, 2, 2), [5.5, 25.0, 7.0, 30.0]);
    assert_eq!(drift(&WINDOW, 1, 1), [23.8]);
}

#[test]
fn windows_shorter_than_the_season() {
    assert_eq!(seasonal_naive(&WINDOW, 2, 24, 4), seasonal_naive(&WINDOW, 2, 3, 4));
    assert_eq!(seasonal_naive(&[7.0], 1, 24, 3), [7.0; 3]);
    assert_eq!(drift(&[7.0], 1, 3), [7.0; 3]);
}

#[test]
fn no_horizon_no_forecast() {
    assert!(last_value(&WINDOW, 2, 0).is_empty() && drift(&WINDOW, 2, 0).is_empty());
}

#[test]
#[should_panic(expected = "whole rows")]
fn half_a_row() {
    last_value(&WINDOW[..5], 2, 1);
}

proptest! {
    #[test]
    fn a_season_that_repeats_is_forecast_exactly(
        season in prop::collection::vec(any::<f64>().prop_filter("NaN is unlike itself", |x| !x.is_nan()), 1..60),
        width in 1usize..4, rows in 1usize..40, horizon in 0usize..50,
    ) {
        let period = season.len().div_ceil(width);
        let at = |row: usize, column: usize| season[(row % period * width + column) % season.len()];
        let table = |rows: std::ops::Range<usize>| rows.flat_map(|row| (0..width).map(move |column| (row, column))).map(|(row, column)| at(row, column)).collect::<Vec<_>>();
        let rows = rows.max(period);
        prop_assert_eq!(seasonal_naive(&table(0..rows), width, period, horizon), table(rows..rows + horizon));
    }

    #[test]
    fn a_straight_line_goes_on(start in -10.0..10.0, slope in -10.0..10.0, rows in 2usize..50, horizon in 1usize..50) {
        let line = |rows: std::ops::Range<usize>| rows.map(|row| start + slope * row as f64).collect::<Vec<_>>();
        for (found, expected) in drift(&line(0..rows), 1, horizon).iter().zip(line(rows..rows + horizon)) {
            prop_assert!((found - expected).abs() < 1e-9, "{} {}", found, expected);
        }
    }

    /// A longer horizon changes no earlier step, another column no forecast of this one, and rows before the last season
    /// none of the season's.
    #[test]
    fn forecasts_depend_on_what_they_should(
        table in prop::collection::vec(-1e6..1e6, 40), other in prop::collection::vec(-1e6..1e6, 40),
        horizon in 1usize..20, period in 1usize..20,
    ) {
        let forecasts = |window: &[f64], horizon| {
            [last_value(window, 2, horizon), seasonal_naive(window, 2, period, horizon), drift(window, 2, horizon)]
        };
        let column = |forecast: &[f64]| forecast.iter().step_by(2).copied().collect::<Vec<_>>();
        let mut beside = table.clone();
        beside.iter_mut().zip(&other).skip(1).step_by(2).for_each(|(x, other)| *x = *other);
        let found = forecasts(&table, horizon);
        for ((found, longer), beside) in found.iter().zip(forecasts(&table, horizon + 5)).zip(forecasts(&beside, horizon)) {
            prop_assert_eq!(found.len(), 2 * horizon);
            prop_assert_eq!(&longer[..found.len()], &found[..]);
            prop_assert_eq!(column(found), column(&beside));
        }
        let mut before = other;
        before[40 - 2 * period..].copy_from_slice(&table[40 - 2 * period..]);
        prop_assert_eq!(seasonal_naive(&before, 2, period, horizon), &found[1][..]);
        prop_assert_eq!(last_value(&before, 2, horizon), &found[0][..]);
    }
}
