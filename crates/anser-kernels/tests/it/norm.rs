//! Normalisations against f64, on every level.

use anser_kernels::norm::{group_norm, l2_normalize, layer_norm, lerp};
use anser_kernels::simd::{Level, with_level};
use anser_testkit::{Rng, assert_close};
use proptest::prelude::*;

/// The normalised group, before weight and bias.
fn normalised(x: &[f32], eps: f32) -> Vec<f64> {
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n;
    x.iter().map(|&x| (f64::from(x) - mean) / (variance + f64::from(eps)).sqrt()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn norms_equal_f64(seed in any::<u64>(), heads in 1usize..5, size in 1usize..130, offset in -5.0f32..5.0) {
        let mut rng = Rng(seed);
        let width = heads * size;
        let x: Vec<f32> = rng.vec(width, 2.0).iter().map(|x| x + offset).collect();
        let (weight, bias) = (rng.vec(width, 1.0), rng.vec(width, 1.0));
        let affine = |x: Vec<f64>| -> Vec<f32> {
            x.iter().zip(&weight).zip(&bias).map(|((x, &w), &b)| (x * f64::from(w) + f64::from(b)) as f32).collect()
        };
        let want_layer = affine(normalised(&x, 1e-5));
        let want_group = affine(x.chunks(size).flat_map(|x| normalised(x, 64e-5)).collect());
        for &level in Level::available() {
            with_level(level, || {
                let mut out = vec![f32::NAN; width];
                layer_norm(&x, &weight, &bias, 1e-5, &mut out);
                assert_close("layer_norm", &out, &want_layer, 2e-5);

                let mut out = x.clone();
                group_norm(&mut out, heads, &weight, &bias, 64e-5);
                assert_close("group_norm", &out, &want_group, 2e-5);

                let mut out = x.clone();
                l2_normalize(&mut out, heads);
                for (out, x) in out.chunks(size).zip(x.chunks(size)) {
                    let norm = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt().max(1e-12);
                    let want: Vec<f32> = x.iter().map(|&x| (f64::from(x) / norm) as f32).collect();
                    assert_close("l2_normalize", out, &want, 1e-6);
                }
            });
        }
    }
}

#[test]
fn a_zero_head_stays_zero() {
    let mut x = [0.0, 0.0, 3.0, 4.0];
    l2_normalize(&mut x, 2);
    assert_close("l2_normalize", &x, &[0.0, 0.0, 0.6, 0.8], 1e-7);
}

#[test]
fn a_constant_row_becomes_the_bias() {
    let mut out = [f32::NAN; 3];
    layer_norm(&[7.0; 3], &[2.0; 3], &[1.0, -1.0, 0.5], 1e-5, &mut out);
    assert_eq!(out, [1.0, -1.0, 0.5]);
}

#[test]
fn lerp_goes_from_one_to_the_other() {
    let mut out = [f32::NAN; 3];
    lerp(&[1.0, 1.0, 1.0], &[3.0, 3.0, 3.0], &[0.0, 1.0, 0.25], &mut out);
    assert_eq!(out, [1.0, 3.0, 1.5]);
}

#[test]
#[should_panic(expected = "group_norm: 6 channels do not divide into 4 heads")]
fn heads_must_divide_the_width() {
    group_norm(&mut [0.0; 6], 4, &[0.0; 6], &[0.0; 6], 1e-5);
}
