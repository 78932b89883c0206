//! AdamW in one pass over plain slices, and what a trainer asks of its gradients: their norm, and whether they are
//! numbers at all.
//!
//! Numerics: every operation is one correctly rounded f32 operation in the order written, none fused, so results are the
//! same to the bit on every [`Level`](crate::simd::Level) and with any number of threads.
#![allow(unsafe_code)]

use crate::pool::{Pool, SharedMut};
use crate::simd::{Isa, dispatch, level};

/// Elements that one thread takes at a time; also the length of the partial sums of [`sum_of_squares`].
const CHUNK: usize = 8192;

/// The settings of one AdamW step. They are f64 so that `1 - beta` and the bias corrections lose nothing; each factor is
/// rounded to f32 once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the denominator, after the bias correction. May be as small as 1e-18.
    pub eps: f64,
    /// Decoupled weight decay: parameters are first multiplied by `1 - lr * weight_decay`.
    pub weight_decay: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Number of this step, from 1, for the bias correction.
    pub step: u64,
}

/// The factors of one step, in f32.
#[derive(Clone, Copy)]
struct Factors {
    gradient_scale: f32,
    decay: f32,
    beta1: f32,
    beta1_rest: f32,
    beta2: f32,
    beta2_rest: f32,
    bias2_root: f32,
    eps: f32,
    step_size: f32,
}

impl AdamW {
    fn factors(&self, gradient_scale: f32) -> Factors {
        let step = i32::try_from(self.step.max(1)).unwrap_or(i32::MAX);
        let bias1 = 1.0 - self.beta1.powi(step);
        let bias2 = 1.0 - self.beta2.powi(step);
        Factors {
            gradient_scale,
            decay: (1.0 - self.lr * self.weight_decay) as f32,
            beta1: self.beta1 as f32,
            beta1_rest: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            beta2_rest: (1.0 - self.beta2) as f32,
            bias2_root: bias2.sqrt() as f32,
            eps: self.eps as f32,
            step_size: (self.lr / bias1) as f32,
        }
    }
}

/// One AdamW step in place: of `parameter`, its first moment `m` and its second moment `v`, with the gradient taken as
/// `gradient * gradient_scale` (clipping, or the mean over micro-batches).
///
/// `p *= 1 - lr wd;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2;`
/// `p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)`, as `torch.optim.AdamW` has it.
///
/// # Panics
/// When the lengths differ.
pub fn adamw(
    pool: &Pool,
    hyper: &AdamW,
    parameter: &mut [f32],
    gradient: &[f32],
    gradient_scale: f32,
    m: &mut [f32],
    v: &mut [f32],
) {
    let length = parameter.len();
    assert!(
        gradient.len() == length && m.len() == length && v.len() == length,
        "adamw: {length} parameters, {} gradients, {} first moments, {} second moments",
        gradient.len(),
        m.len(),
        v.len()
    );
    let (level, factors) = (level(), hyper.factors(gradient_scale));
    let (p, m, v) = (SharedMut::new(parameter), SharedMut::new(m), SharedMut::new(v));
    pool.run(length.div_ceil(CHUNK), 2, |chunks| {
        let range = chunks.start * CHUNK..(chunks.end * CHUNK).min(length);
        // SAFETY: the pool hands out disjoint ranges of chunks, so no two threads hold overlapping elements.
        let (p, m, v) = unsafe { (p.range(range.clone()), m.range(range.clone()), v.range(range.clone())) };
        adamw_at(level, factors, p, &gradient[range], m, v);
    });
}

/// The sum of the squares of `x`, in f64: partial sums over fixed runs of elements, added in order, so that the result
/// depends on neither the threads nor the level.
pub fn sum_of_squares(pool: &Pool, x: &[f32]) -> f64 {
    let mut partial = vec![0.0f64; x.len().div_ceil(CHUNK)];
    let level = level();
    pool.run_rows(&mut partial, 1, 2, |chunk, sum| {
        let start = chunk * CHUNK;
        sum[0] = sum_of_squares_at(level, &x[start..(start + CHUNK).min(x.len())]);
    });
    partial.iter().sum()
}

/// The first element that is NaN or infinite.
pub fn first_non_finite(x: &[f32]) -> Option<usize> {
    let level = level();
    let chunk = x.chunks(CHUNK).position(|chunk| any_non_finite_at(level, chunk))?;
    let start = chunk * CHUNK;
    x[start..].iter().position(|x| !x.is_finite()).map(|at| start + at)
}

dispatch! {
    fn adamw_at(factors: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) = adamw_body;
    fn sum_of_squares_at(x: &[f32]) -> f64 = sum_of_squares_body;
    fn any_non_finite_at(x: &[f32]) -> bool = any_non_finite_body;
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn adamw_body<I: Isa>(factors: Factors, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
    let f = factors;
    let length = p.len();
    let (g, m, v) = (&g[..length], &mut m[..length], &mut v[..length]);
    for i in 0..length {
        let gradient = g[i] * f.gradient_scale;
        m[i] = m[i] * f.beta1 + gradient * f.beta1_rest;
        v[i] = v[i] * f.beta2 + gradient * gradient * f.beta2_rest;
        let denominator = v[i].sqrt() / f.bias2_root + f.eps;
        p[i] = p[i] * f.decay - f.step_size * (m[i] / denominator);
    }
}

const LANES: usize = 16;

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn sum_of_squares_body<I: Isa>(x: &[f32]) -> f64 {
    let mut sums = [0.0f64; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            // The product of two f32 is exact in f64: fused or not makes no difference.
            sums[lane] += f64::from(chunk[lane]) * f64::from(chunk[lane]);
        }
    }
    for (sum, &x) in sums.iter_mut().zip(rest) {
        *sum += f64::from(x) * f64::from(x);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn any_non_finite_body<I: Isa>(x: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    x.iter().fold(0u32, |any, x| any | u32::from(x.to_bits() & EXPONENT == EXPONENT)) != 0
}
