//! Normalisations and interpolation of one row. Rows are independent of each other.
//!
//! Numerics: f32, two passes (mean, then variance around it, biased), sums in 16 interleaved partial sums added as a
//! tree, so that a row's result depends on the row alone.

use crate::simd::{Isa, dispatch, level};

/// LayerNorm: `out = (x - mean) / sqrt(variance + eps) * weight + bias`; all slices `[C]`. Returns the mean and
/// `1 / sqrt(variance + eps)`, which the gradient wants again.
///
/// # Panics
/// When the lengths differ.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) -> (f32, f32) {
    let width = x.len();
    assert!(
        weight.len() == width && bias.len() == width && out.len() == width,
        "layer_norm: x has {width} channels, weight {}, bias {}, out {}",
        weight.len(),
        bias.len(),
        out.len()
    );
    layer_norm_at(level(), x, weight, bias, eps, out)
}

/// GroupNorm with one group a head, in place: every run of `C / heads` channels of `x` `[C]` is normalised by itself,
/// then scaled by `weight` `[C]` and shifted by `bias` `[C]`.
///
/// # Panics
/// When the lengths differ or `heads` does not divide them.
pub fn group_norm(x: &mut [f32], heads: usize, weight: &[f32], bias: &[f32], eps: f32) {
    let width = x.len();
    assert!(
        weight.len() == width && bias.len() == width,
        "group_norm: x has {width} channels, weight {}, bias {}",
        weight.len(),
        bias.len()
    );
    check_heads("group_norm", width, heads);
    group_norm_at(level(), x, heads, weight, bias, eps);
}

/// Scales every head of `x` `[C]` to L2 norm 1, in place: divides it by `max(norm, 1e-12)`.
///
/// # Panics
/// When `heads` does not divide the length.
pub fn l2_normalize(x: &mut [f32], heads: usize) {
    check_heads("l2_normalize", x.len(), heads);
    l2_normalize_at(level(), x, heads);
}

/// `out = from + (to - from) * mix`; all slices `[C]`. The token shift of every version: RWKV-6 and 7 interpolate from
/// the current token to the previous one, RWKV-4 and 5 the other way round.
///
/// # Panics
/// When the lengths differ.
pub fn lerp(from: &[f32], to: &[f32], mix: &[f32], out: &mut [f32]) {
    let width = out.len();
    assert!(
        from.len() == width && to.len() == width && mix.len() == width,
        "lerp: out has {width} channels, from {}, to {}, mix {}",
        from.len(),
        to.len(),
        mix.len()
    );
    lerp_at(level(), from, to, mix, out);
}

fn check_heads(op: &str, width: usize, heads: usize) {
    assert!(heads > 0 && width.is_multiple_of(heads), "{op}: {width} channels do not divide into {heads} heads");
}

dispatch! {
    fn layer_norm_at(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) -> (f32, f32) = layer_norm_body;
    fn group_norm_at(x: &mut [f32], heads: usize, weight: &[f32], bias: &[f32], eps: f32) = group_norm_body;
    fn l2_normalize_at(x: &mut [f32], heads: usize) = l2_normalize_body;
    fn lerp_at(from: &[f32], to: &[f32], mix: &[f32], out: &mut [f32]) = lerp_body;
}

#[inline(always)]
fn layer_norm_body<I: Isa>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) -> (f32, f32) {
    let (mean, scale) = mean_and_scale::<I>(x, eps);
    for (((out, &x), &weight), &bias) in out.iter_mut().zip(x).zip(weight).zip(bias) {
        *out = I::fma((x - mean) * scale, weight, bias);
    }
    (mean, scale)
}

#[inline(always)]
fn group_norm_body<I: Isa>(x: &mut [f32], heads: usize, weight: &[f32], bias: &[f32], eps: f32) {
    let size = (x.len() / heads).max(1);
    for ((x, weight), bias) in x.chunks_exact_mut(size).zip(weight.chunks_exact(size)).zip(bias.chunks_exact(size)) {
        let (mean, scale) = mean_and_scale::<I>(x, eps);
        for ((x, &weight), &bias) in x.iter_mut().zip(weight).zip(bias) {
            *x = I::fma((*x - mean) * scale, weight, bias);
        }
    }
}

#[inline(always)]
fn l2_normalize_body<I: Isa>(x: &mut [f32], heads: usize) {
    let size = (x.len() / heads).max(1);
    for x in x.chunks_exact_mut(size) {
        let scale = 1.0 / sum_of_squares::<I>(x, 0.0).sqrt().max(1e-12);
        for x in x {
            *x *= scale;
        }
    }
}

#[inline(always)]
fn lerp_body<I: Isa>(from: &[f32], to: &[f32], mix: &[f32], out: &mut [f32]) {
    for (((out, &from), &to), &mix) in out.iter_mut().zip(from).zip(to).zip(mix) {
        *out = I::fma(to - from, mix, from);
    }
}

/// The mean of `x` and `1 / sqrt(variance + eps)`.
#[inline(always)]
pub fn mean_and_scale<I: Isa>(x: &[f32], eps: f32) -> (f32, f32) {
    let width = x.len().max(1) as f32;
    let mean = sum(x) / width;
    let variance = sum_of_squares::<I>(x, mean) / width;
    (mean, 1.0 / (variance + eps).sqrt())
}

/// Partial sums of a row's sum.
pub const LANES: usize = 16;

/// The sum of `x`, in [`LANES`] partial sums.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += x;
    }
    tree(sums)
}

/// The sum of `(x - mean)^2`.
#[inline(always)]
fn sum_of_squares<I: Isa>(x: &[f32], mean: f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            let d = chunk[lane] - mean;
            sums[lane] = I::fma(d, d, sums[lane]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum = I::fma(x - mean, x - mean, *sum);
    }
    tree(sums)
}

/// Adds lane i + half to lane i until one is left.
#[inline(always)]
pub fn tree(mut sums: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}
