//! The fast linear fit beside a slow one.

use anser_series::Error;
use anser_series::linear::Linear;
use anser_series::split::origins;
use proptest::prelude::*;

use crate::util::{Noise, close, error};

fn fit(
    values: &[f64],
    width: usize,
    from: std::ops::Range<usize>,
    l: usize,
    h: usize,
    lambda: f64,
) -> Result<Linear, Error> {
    Linear::fit(values, width, from, l, h, lambda, &mut |_, _| {})
}

/// Ridge regression as the books have it: every sample written out, its normal equations solved by elimination.
fn naive(values: &[f64], width: usize, from: std::ops::Range<usize>, l: usize, h: usize, lambda: f64) -> Vec<f64> {
    // The L - 1 distances that are not 0 by definition, and a constant.
    let size = l;
    let mut a = vec![vec![0.0; size + h]; size];
    for origin in from {
        for column in 0..width {
            let x = |row: usize| values[row * width + column];
            let last = x(origin - 1);
            let mut features: Vec<f64> = (origin - l..origin - 1).map(|row| x(row) - last).collect();
            features.push(1.0);
            for i in 0..size {
                for j in 0..size {
                    a[i][j] += features[i] * features[j];
                }
                for step in 0..h {
                    a[i][size + step] += features[i] * (x(origin + step) - last);
                }
            }
        }
    }
    for i in 0..size - 1 {
        a[i][i] += lambda;
    }
    for i in 0..size {
        let best = (i..size).max_by(|&p, &q| a[p][i].abs().total_cmp(&a[q][i].abs())).unwrap();
        a.swap(i, best);
        let pivot = a[i].clone();
        for (at, row) in a.iter_mut().enumerate().filter(|(at, _)| *at != i) {
            let _ = at;
            let times = row[i] / pivot[i];
            row.iter_mut().zip(&pivot).for_each(|(x, p)| *x -= times * p);
        }
    }
    let mut weight = Vec::new();
    for step in 0..h {
        let of = |i: usize| a[i][size + step] / a[i][i];
        weight.extend((0..size - 1).map(of));
        weight.extend([0.0, of(size - 1)]);
    }
    weight
}

#[test]
fn a_linear_law_is_found() {
    // x_t = 0.6 x_{t-1} - 0.3 x_{t-2} + 0.7 x_{t-3} + 0.2: weights that sum to 1 are a law of distances.
    let mut noise = Noise(1);
    let mut x = noise.take(200);
    for t in 3..200 {
        x[t] = 0.6 * x[t - 1] - 0.3 * x[t - 2] + 0.7 * x[t - 3] + 0.2;
    }
    let law = fit(&x, 1, 4..200, 4, 1, 0.0).unwrap_err();
    // Four values before are one too many: the law itself ties them together.
    assert!(matches!(law, Error::Singular { .. }), "{law}");
    let law = fit(&x, 1, 3..200, 3, 1, 0.0).unwrap();
    close(&law.weight, &[0.7, -0.3, 0.0, 0.2], 1e-6);
    let mut next = [0.0];
    law.predict(&x[100..103], &mut next);
    close(&next, &x[103..104], 1e-8);
}

#[test]
fn a_window_of_one_row_is_the_last_value_and_the_mean_step() {
    let x = [0.0, 1.0, 3.0, 4.0, 8.0];
    let fit = fit(&x, 1, 1..4, 1, 2, 5.0).unwrap();
    close(&fit.weight, &[0.0, 4.0 / 3.0, 0.0, 11.0 / 3.0], 1e-12);
    assert_eq!(fit.forecast(&[2.0], 1), [2.0 + fit.weight[1], 2.0 + fit.weight[3]]);
}

#[test]
fn forecasts_are_those_of_every_column() {
    let values = Noise(2).take(300);
    let fit = fit(&values, 3, 10..90, 10, 5, 1.0).unwrap();
    let forecast = fit.forecast(&values[30..60], 3);
    assert_eq!(forecast.len(), 15);
    for column in 0..3 {
        let window: Vec<f64> = values[30..60].iter().skip(column).step_by(3).copied().collect();
        let mut out = [0.0; 5];
        fit.predict(&window, &mut out);
        let of_column: Vec<f64> = forecast.iter().skip(column).step_by(3).copied().collect();
        assert_eq!(of_column, out);
        // The definition, in other words.
        for (step, weight) in fit.weight.chunks_exact(11).enumerate() {
            let sum: f64 = weight[..10].iter().zip(&window).map(|(w, x)| w * (x - window[9])).sum();
            close(&[out[step]], &[window[9] + sum + weight[10]], 1e-12);
        }
    }
}

#[test]
fn levels_do_not_matter() {
    // Each column far from 0, and each somewhere else.
    let values = Noise(3).take(400);
    let raised: Vec<f64> = values.iter().enumerate().map(|(at, x)| x + [1e6, -3e6][at % 2]).collect();
    let (near, far) = (fit(&values, 2, 8..190, 8, 6, 0.5).unwrap(), fit(&raised, 2, 8..190, 8, 6, 0.5).unwrap());
    close(&far.weight, &near.weight, 1e-6);
}

#[test]
fn nothing_outside_the_windows_is_learnt_from() {
    let mut values = Noise(4).take(240);
    let before = fit(&values, 2, 30..60, 12, 7, 1.0).unwrap();
    // Windows begin with row 18, and the last target is row 65.
    for row in (0..18).chain(66..120) {
        values[2 * row] = 1e9;
        values[2 * row + 1] = f64::NAN;
    }
    assert_eq!(fit(&values, 2, 30..60, 12, 7, 1.0).unwrap(), before);
    values[2 * 65] += 1.0;
    assert_ne!(fit(&values, 2, 30..60, 12, 7, 1.0).unwrap(), before);
}

#[test]
fn singular_fits_say_so() {
    let line: Vec<f64> = (0..60).map(f64::from).collect();
    for values in [&line[..], &[3.7; 60], &[0.0; 60]] {
        let e = error(fit(values, 1, 8..50, 8, 4, 0.0));
        assert!(e.starts_with("the linear fit has no unique solution (pivot "), "{e}");
        assert!(e.ends_with("take a larger ridge than 0"), "{e}");
        // With a ridge there is one, and it is right.
        let fit = fit(values, 1, 8..50, 8, 4, 1e-3).unwrap();
        let forecast = fit.forecast(&values[..8], 1);
        close(&forecast, &values[8..12], 1e-3);
    }
    let mut values = line.clone();
    values[20] = f64::NAN;
    assert!(matches!(fit(&values, 1, 8..50, 8, 4, 1.0), Err(Error::Singular { .. })));
}

#[test]
fn arguments_are_checked() {
    let values = [1.0; 20];
    assert_eq!(error(fit(&values, 1, 4..10, 0, 4, 1.0)), "look-back is 0, expected at least 1");
    assert_eq!(error(fit(&values, 1, 4..10, 4, 0, 1.0)), "horizon is 0, expected at least 1");
    assert_eq!(error(fit(&values, 1, 10..10, 4, 4, 1.0)), "the number of windows is 0, expected at least 1");
    for lambda in [-1.0, f64::NAN, f64::INFINITY] {
        assert_eq!(
            error(fit(&values, 1, 4..10, 4, 4, lambda)),
            format!("lambda is {lambda}, expected a number from 0")
        );
    }
    assert!(fit(&values, 1, origins(&(0..20), 4, 4), 4, 4, 1.0).is_ok());
}

#[test]
#[should_panic(expected = "windows 4..18 of 20 rows")]
fn windows_beyond_the_values() {
    let _ = fit(&[1.0; 20], 1, 4..18, 4, 4, 1.0);
}

#[test]
fn progress_is_told() {
    let values = Noise(5).take(100);
    let mut told = Vec::new();
    Linear::fit(&values, 1, 6..90, 6, 4, 1.0, &mut |done, all| told.push((done, all))).unwrap();
    assert!(told.windows(2).all(|pair| pair[0].0 < pair[1].0), "{told:?}");
    assert_eq!((told[0], *told.last().unwrap()), ((0, 16), (16, 16)));
}

proptest! {
    #[test]
    fn the_fast_fit_is_the_slow_one(
        seed in any::<u64>(), width in 1usize..4, l in 1usize..14, h in 1usize..10, before in 0usize..5, n in 1usize..60,
        after in 0usize..5, lambda in prop::sample::select(vec![1e-2, 1.0, 50.0]), walk in any::<bool>(),
    ) {
        let rows = before + l + n - 1 + h + after;
        let mut values = Noise(seed).take(rows * width);
        if walk {
            for at in width..values.len() {
                values[at] += values[at - width];
            }
        }
        let from = before + l..before + l + n;
        let fast = fit(&values, width, from.clone(), l, h, lambda).unwrap();
        let slow = naive(&values, width, from, l, h, lambda);
        prop_assert_eq!((fast.look_back, fast.horizon, fast.weight.len()), (l, h, slow.len()));
        for (fast, slow) in fast.weight.iter().zip(&slow) {
            prop_assert!((fast - slow).abs() <= 1e-9 * slow.abs().max(1.0), "{} {}", fast, slow);
        }
    }
}
