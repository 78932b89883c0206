//! Activations over slices, in place, f32.
//!
//! The exponential is `2^n * e^r` with `n` the nearest integer to `x / ln 2`, `|r| <= ln 2 / 2` from a two-part ln 2,
//! and a polynomial for `e^r`; everything else rests on it. All are branch-free, so that the compiler vectorises them.
//!
//! Numerics: errors against f64 are below 1.5 ulp for [`exp`] (subnormal results included) and below 3 ulp for
//! the others ([`silu`] where the result exceeds 2e-36 in magnitude). NaN stays NaN, infinities give
//! the limits.
//! Polynomial coefficients are our own minimax fits.

use crate::simd::{Isa, dispatch, level};

/// `e^x`, per element.
pub fn exp(x: &mut [f32]) {
    exp_at(level(), x);
}

/// `1 / (1 + e^-x)`, per element.
pub fn sigmoid(x: &mut [f32]) {
    sigmoid_at(level(), x);
}

/// `x * sigmoid(x)`, per element.
pub fn silu(x: &mut [f32]) {
    silu_at(level(), x);
}

/// The hyperbolic tangent, per element.
pub fn tanh(x: &mut [f32]) {
    tanh_at(level(), x);
}

/// `max(x, 0)^2`, per element.
pub fn relu2(x: &mut [f32]) {
    relu2_at(level(), x);
}

/// `x - ln(sum(e^x))` over the whole slice, as if computed with the maximum taken out first.
///
/// -inf entries stay -inf and get no mass. A slice with a NaN or +inf, or of nothing but -inf, becomes all NaN.
pub fn log_softmax(x: &mut [f32]) {
    log_softmax_at(level(), x);
}

dispatch! {
    fn exp_at(x: &mut [f32]) = exp_body;
    fn sigmoid_at(x: &mut [f32]) = sigmoid_body;
    fn silu_at(x: &mut [f32]) = silu_body;
    fn tanh_at(x: &mut [f32]) = tanh_body;
    fn relu2_at(x: &mut [f32]) = relu2_body;
    fn log_softmax_at(x: &mut [f32]) = log_softmax_body;
}

/// `e^x` of one number, for loops of a caller that `dispatch!` compiles.
#[inline(always)]
pub fn exp1<I: Isa>(x: f32) -> f32 {
    // Beyond these the result is infinite, or rounds to zero. A NaN fails both comparisons and goes on.
    let x = if x > 89.0 { 89.0 } else { x };
    let x = if x < -104.0 { -104.0 } else { x };

    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let shifted = I::fma(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);

    // ln 2 = LN2_HIGH + LN2_LOW, where n * LN2_HIGH is exact.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;
    let r = I::fma(n, -LN2_LOW, I::fma(n, -LN2_HIGH, x));

    let p = 1.381_46e-3;
    let p = I::fma(p, r, 8.368_716e-3);
    let p = I::fma(p, r, 4.166_839e-2);
    let p = I::fma(p, r, 1.666_652_1e-1);
    let p = I::fma(p, r, 4.999_999_4e-1);
    let e = I::fma(p, r * r, r) + 1.0;

    // 2^exponent in two factors: one alone would not reach the subnormal results, nor 2^128.
    let half = exponent >> 1;
    e * power_of_two(half) * power_of_two(exponent.wrapping_sub(half))
}

/// `2^n` for -126 <= n <= 127.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid1<I: Isa>(x: f32) -> f32 {
    let e = exp1::<I>(-x.abs());
    let numerator = if x >= 0.0 { 1.0 } else { e };
    numerator / (1.0 + e)
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub fn silu1<I: Isa>(x: f32) -> f32 {
    // From here on the product rounds to zero; -inf * 0 would be NaN.
    let x = if x < -120.0 { -120.0 } else { x };
    x * sigmoid1::<I>(x)
}

/// The hyperbolic tangent.
#[inline(always)]
pub fn tanh1<I: Isa>(x: f32) -> f32 {
    let z = x * x;
    let p = -5.704_978_5e-3;
    let p = I::fma(p, z, 2.063_907_9e-2);
    let p = I::fma(p, z, -5.373_971e-2);
    let p = I::fma(p, z, 1.333_144_2e-1);
    let p = I::fma(p, z, -3.333_328e-1);
    let small = I::fma(p * z, x, x);

    let magnitude = x.abs();
    let large = (1.0 - 2.0 / (exp1::<I>(2.0 * magnitude) + 1.0)).copysign(x);
    if magnitude < 0.625 { small } else { large }
}

/// `max(x, 0)^2`.
#[inline(always)]
pub(crate) fn relu2_1(x: f32) -> f32 {
    // Written so that a NaN stays one.
    let positive = if x < 0.0 { 0.0 } else { x };
    positive * positive
}

#[inline(always)]
fn exp_body<I: Isa>(x: &mut [f32]) {
    for x in x {
        *x = exp1::<I>(*x);
    }
}

#[inline(always)]
fn sigmoid_body<I: Isa>(x: &mut [f32]) {
    for x in x {
        *x = sigmoid1::<I>(*x);
    }
}

#[inline(always)]
fn silu_body<I: Isa>(x: &mut [f32]) {
    for x in x {
        *x = silu1::<I>(*x);
    }
}

#[inline(always)]
fn tanh_body<I: Isa>(x: &mut [f32]) {
    for x in x {
        *x = tanh1::<I>(*x);
    }
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn relu2_body<I: Isa>(x: &mut [f32]) {
    for x in x {
        *x = relu2_1(*x);
    }
}

#[inline(always)]
fn log_softmax_body<I: Isa>(x: &mut [f32]) {
    const LANES: usize = 16;
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            maxima[lane] = if chunk[lane] > maxima[lane] { chunk[lane] } else { maxima[lane] };
        }
    }
    let max = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| max.max(x));

    let mut sums = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += exp1::<I>(chunk[lane] - max);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += exp1::<I>(x - max);
    }
    let log = sums.iter().map(|&s| f64::from(s)).sum::<f64>().ln() as f32;
    for x in x {
        *x = *x - max - log;
    }
}
