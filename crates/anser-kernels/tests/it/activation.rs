//! Activations against f64, on every level.

use anser_kernels::activation::{exp, log_softmax, relu2, sigmoid, silu, tanh};
use anser_kernels::simd::{Level, with_level};
use anser_testkit::Rng;
use proptest::prelude::*;

/// An activation, its f64 meaning, its bound in ulp, and the smallest magnitude for which that bound holds.
type Law = (&'static str, fn(&mut [f32]), fn(f64) -> f64, f64, f64);

const LAWS: [Law; 5] = [
    ("exp", exp, f64::exp, 1.5, 0.0),
    ("sigmoid", sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 3.0, 0.0),
    ("silu", silu, |x| x / (1.0 + (-x).exp()), 3.0, 2e-36),
    ("tanh", tanh, f64::tanh, 3.0, 0.0),
    ("relu2", relu2, |x| x.max(0.0) * x.max(0.0), 1.0, 0.0),
];

/// The distance of neighbouring f32 around `x`.
fn ulp(x: f64) -> f64 {
    let exponent = x.abs().max(f32::MIN_POSITIVE as f64).log2().floor();
    (exponent - 23.0).exp2()
}

fn check(inputs: &[f32]) {
    for &level in Level::available() {
        for (name, f, exact, bound, normal) in LAWS {
            let mut got = inputs.to_vec();
            with_level(level, || f(&mut got));
            for (&x, &got) in inputs.iter().zip(&got) {
                let want = exact(f64::from(x));
                if want > f64::from(f32::MAX) {
                    // Within an ulp of the largest number either answer is right.
                    assert!(got == f32::INFINITY || got == f32::MAX, "{name}({x}) = {got} on {level}");
                    continue;
                }
                let slack = if want.abs() < normal { 130.0 } else { bound };
                let error = (f64::from(got) - want).abs() / ulp(want);
                assert!(error <= slack, "{name}({x}) = {got}, want {want}: {error:.2} ulp on {level}");
            }
        }
    }
}

#[test]
fn accurate_over_the_whole_range() {
    let mut inputs: Vec<f32> = (-110_000..=110_000).map(|i| i as f32 * 1e-3).collect();
    inputs.extend((-40..=40).flat_map(|i| [2f32.powi(3 * i), -2f32.powi(3 * i)]));
    inputs.extend([0.0, -0.0, 88.72284, 88.722_83, -87.336_55, -103.972_08, 0.625, 0.624_999_9]);
    check(&inputs);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn accurate_anywhere(bits in prop::collection::vec(any::<u32>(), 0..70)) {
        let inputs: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|x| x.is_finite()).collect();
        check(&inputs);
    }

    #[test]
    fn an_element_does_not_depend_on_its_place(seed in any::<u64>(), length in 0usize..70) {
        let x = Rng(seed).vec(length, 20.0);
        for (name, f, ..) in LAWS {
            let mut whole = x.clone();
            f(&mut whole);
            for (&x, &got) in x.iter().zip(&whole) {
                let mut single = [x];
                f(&mut single);
                prop_assert_eq!(single[0].to_bits(), got.to_bits(), "{}({})", name, x);
            }
        }
    }

    #[test]
    fn log_softmax_equals_f64(seed in any::<u64>(), length in 1usize..3000, scale in 0.1f32..100.0) {
        let mut x = Rng(seed).vec(length, scale);
        x[length / 2] = f32::NEG_INFINITY;
        x[0] = 3.0;
        let max = x.iter().fold(f64::MIN, |max, &x| max.max(f64::from(x)));
        let log = x.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln();
        for &level in Level::available() {
            let mut got = x.clone();
            with_level(level, || log_softmax(&mut got));
            for (&got, &x) in got.iter().zip(&x) {
                let want = f64::from(x) - max - log;
                let close = (f64::from(got) - want).abs() <= 1e-6 * (1.0 + want.abs());
                prop_assert!(close || f64::from(got) == want, "{} instead of {} on {}", got, want, level);
            }
        }
    }
}

#[test]
fn limits() {
    const INF: f32 = f32::INFINITY;
    for &level in Level::available() {
        // Long enough that vectors, not only remainders, see them.
        let apply = |f: fn(&mut [f32]), x: f32| {
            let mut values = [x; 37];
            with_level(level, || f(&mut values));
            assert!(values.iter().all(|v| v.to_bits() == values[0].to_bits()));
            values[0]
        };
        for (name, f, ..) in LAWS {
            assert!(apply(f, f32::NAN).is_nan(), "{name}(NaN) on {level}");
        }
        assert_eq!((apply(exp, -INF), apply(exp, INF)), (0.0, INF));
        assert_eq!((apply(exp, -1e38), apply(exp, 1e38), apply(exp, 0.0)), (0.0, INF, 1.0));
        assert_eq!((apply(sigmoid, -INF), apply(sigmoid, INF), apply(sigmoid, 0.0)), (0.0, 1.0, 0.5));
        assert_eq!((apply(silu, -INF), apply(silu, INF)), (0.0, INF));
        assert_eq!((apply(tanh, -INF), apply(tanh, INF)), (-1.0, 1.0));
        assert_eq!((apply(relu2, -INF), apply(relu2, INF)), (0.0, INF));
        assert!(apply(log_softmax, -INF).is_nan() && apply(log_softmax, f32::NAN).is_nan());
    }
}
