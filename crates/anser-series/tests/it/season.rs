//! Seasons that are there are found, and no others.

use anser_series::season::{Season, period, suggested};
use anser_series::time::{DAY, HOUR};
use anser_series::{Axis, Step};
use proptest::prelude::*;

use crate::util::{Noise, series};

const HOURS: Step = Step::Micros(HOUR);
const MONTHS: Step = Step::Months { count: 1, month_end: false };

/// Rows of a wave with a shape of its own, noise of `noise` times its size, and a walk of steps of `walk` times it.
fn wave(rows: usize, period: usize, noise: f64, walk: f64, seed: u64) -> Vec<f64> {
    let mut random = Noise(seed);
    let mut level = 0.0;
    (0..rows)
        .map(|row| {
            let angle = row as f64 * std::f64::consts::TAU / period as f64;
            level += walk * random.normal();
            angle.sin() + 0.5 * (2.0 * angle).cos() + noise * random.normal() + level
        })
        .collect()
}

fn walk(rows: usize, seed: u64) -> Vec<f64> {
    wave(rows, 1, 0.0, 1.0, seed)
}

fn found(values: Vec<f64>, step: Option<Step>) -> Season {
    let rows = values.len();
    period(&series(values, 1, step), 0..rows)
}

#[test]
fn suggestions_of_steps() {
    let of = |step| suggested(&Axis::Grid { start: 0, step, utc: false });
    assert_eq!(suggested(&Axis::Rows), [0; 0]);
    assert_eq!(of(Step::Micros(1_000_000)), [60, 3600, 86_400]);
    assert_eq!(of(Step::Micros(HOUR / 4)), [96, 672]);
    assert_eq!(of(HOURS), [24, 168]);
    assert_eq!(of(Step::Micros(5 * HOUR)), [0; 0]);
    assert_eq!(of(Step::Micros(DAY)), [7, 365]);
    assert_eq!(of(Step::Micros(7 * DAY)), [52]);
    assert_eq!(of(MONTHS), [12]);
    assert_eq!(of(Step::Months { count: 3, month_end: true }), [4]);
    assert_eq!(of(Step::Months { count: 12, month_end: true }), [0; 0]);
}

#[test]
fn the_day_of_hourly_rows() {
    for (noise, walk) in [(0.0, 0.0), (0.5, 0.0), (1.0, 0.1), (0.0, 0.3)] {
        let season = found(wave(24 * 60, 24, noise, walk, 1), Some(HOURS));
        assert_eq!((season.period, season.by_clock), (24, true), "noise {noise}, walk {walk}");
    }
    let season = found(wave(24 * 60, 24, 0.0, 0.0, 1), Some(HOURS));
    assert!((season.autocorrelation - 1.0).abs() < 0.02, "{season}");
    assert_eq!(season.to_string(), "a season of 24 rows, suggested by the step, autocorrelation 1.00");
    // The week, where days are alike but the weekend.
    let week: Vec<f64> = wave(24 * 7 * 12, 168, 0.3, 0.0, 2);
    assert_eq!(found(week, Some(HOURS)).period, 168);
    // A clock that suggests a day does not hide that the rows go by 9.
    let season = found(wave(900, 9, 0.2, 0.0, 3), Some(HOURS));
    assert_eq!((season.period, season.by_clock), (9, false));
}

#[test]
fn the_year_of_months() {
    for years in [4, 10, 40] {
        let mut values = wave(12 * years, 12, 0.2, 0.0, 4);
        // Growth is no season.
        values.iter_mut().enumerate().for_each(|(row, value)| *value += 0.3 * row as f64);
        let season = found(values, Some(MONTHS));
        assert_eq!((season.period, season.by_clock), (12, true), "{years} years");
    }
}

#[test]
fn a_season_without_a_clock() {
    for length in [5, 12, 24, 50, 168] {
        let season = found(wave(3000, length, 0.4, 0.0, 5), None);
        assert_eq!((season.period, season.by_clock), (length, false));
        // Small beside what wanders about.
        let season = found(wave(6000, length.min(24), 0.0, 0.4, 6), None);
        assert_eq!(season.period, length.min(24));
    }
    assert_eq!(
        found(wave(600, 12, 0.1, 0.0, 7), None).to_string().split(", aut").next(),
        Some("a season of 12 rows, found in the data")
    );
}

#[test]
fn no_season_in_walks_and_noise() {
    let mut wrong = 0;
    for seed in 0..60 {
        for rows in [40, 200, 2000] {
            for step in [None, Some(HOURS), Some(MONTHS)] {
                let noise = Noise(seed + 1000).take(rows);
                wrong += usize::from(found(noise, step).period != 1)
                    + usize::from(found(walk(rows, seed), step).period != 1);
            }
        }
    }
    // Of 1080 series; chance is let have three.
    assert!(wrong <= 3, "{wrong} seasons where there is none");
    assert_eq!(found(walk(2000, 1), Some(HOURS)).to_string(), "no season");
}

#[test]
fn no_season_where_nothing_changes() {
    for values in
        [vec![], vec![1.0], vec![0.0; 2], vec![3.7; 500], (0..500).map(|row| 0.1 * f64::from(row) - 7.0).collect()]
    {
        for step in [None, Some(HOURS)] {
            assert_eq!(found(values.clone(), step), Season { period: 1, by_clock: false, autocorrelation: 1.0 });
        }
    }
}

#[test]
fn constants_beside_a_season_do_not_count() {
    let wave = wave(600, 24, 0.1, 0.0, 8);
    let values = wave.iter().flat_map(|&x| [5.0, 1e6 * x + 1e9, -0.1]).collect();
    let season = period(&series(values, 3, Some(HOURS)), 0..600);
    assert_eq!(season.period, 24);
    let alone = found(wave, Some(HOURS));
    assert!((season.autocorrelation - alone.autocorrelation).abs() < 1e-9, "{season}, {alone}");
}

#[test]
fn many_columns_share_a_season() {
    let waves: Vec<Vec<f64>> = (0..150).map(|seed| wave(480, 24, 0.7, 0.0, seed)).collect();
    let values = (0..480).flat_map(|row| waves.iter().map(move |wave| wave[row])).collect();
    assert_eq!(period(&series(values, 150, None), 0..480).period, 24);
}

#[test]
fn only_the_rows_asked_for_count() {
    let mut values = walk(1000, 9);
    values.extend(wave(1000, 24, 0.1, 0.0, 10));
    let both = series(values, 1, Some(HOURS));
    assert_eq!(period(&both, 0..1000).period, 1);
    assert_eq!(period(&both, 1000..2000).period, 24);
}

proptest! {
    #[test]
    fn the_autocorrelation_is_that_of_the_definition(values in prop::collection::vec(-10.0..10.0, 120..240), length in 3usize..12) {
        let values: Vec<f64> = values.iter().enumerate().map(|(row, x)| 0.05 * x + [1.0, 5.0, -2.0, 7.0, 0.0, 3.0, -4.0, 2.0, 9.0, -7.0, 4.0, 8.0][row % length]).collect();
        let season = found(values.clone(), None);
        prop_assert_eq!(season.period, length);
        let n = values.len() as f64;
        let (middle, mean) = ((n - 1.0) / 2.0, values.iter().sum::<f64>() / n);
        let times = || (0..values.len()).map(|row| row as f64 - middle);
        let slope = times().zip(&values).map(|(t, x)| t * (x - mean)).sum::<f64>() / times().map(|t| t * t).sum::<f64>();
        let x: Vec<f64> = times().zip(&values).map(|(t, x)| x - mean - slope * t).collect();
        let square: f64 = x.iter().map(|x| x * x).sum();
        let products: f64 = x.iter().zip(&x[length..]).map(|(a, b)| a * b).sum();
        let expected = products / square * n / (n - length as f64);
        prop_assert!((season.autocorrelation - expected).abs() < 1e-9, "{} {}", season.autocorrelation, expected);
    }
}
