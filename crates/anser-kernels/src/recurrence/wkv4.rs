//! WKV-4, the recurrence of RWKV-4: an exponentially decaying weighted mean of the values, channel by channel.
//!
//! Source: "RWKV: Reinventing RNNs for the Transformer Era" (2023); BlinkDL/RWKV-LM@524481d5, RWKV-v4neo/cuda.
//!
//! Equations, per channel, with w = log_decay < 0 and u = bonus:
//! ```text
//! wkv_t = (sum_{i<t} exp((t-1-i) w + k_i) v_i + exp(u + k_t) v_t) / (the same without v)
//! ```
//! Both sums grow like exp(k), so they are carried relative to a running maximum exponent pp:
//! ```text
//! q = max(pp, u + k);  wkv = (exp(pp - q) aa + exp(u + k - q) v) / (exp(pp - q) bb + exp(u + k - q))
//! q = max(pp + w, k);  aa <- exp(pp + w - q) aa + exp(k - q) v;  bb <- the same without v;  pp <- q
//! ```
//! Operands: k, v, y = wkv [ΣT, C]; `log_decay` = -exp(time_decay) `[C]`, the logarithm of the factor a step; `bonus` =
//! time_first `[C]`, in log space as stored; states [3, C], one a sequence, rows aa, bb, pp, which start as 0, 0 and
//! [`INITIAL_MAX`].
//!
//! Numerics: f32 throughout. The fast form runs over channels with the exponential of [`crate::activation`]. Of the two
//! exponentials of each line one has the argument 0; it computes the other one only.
//!
//! Tested: reference = golden files; fast = reference; step = scan, split = whole, batch = single to the bit.
#![allow(unsafe_code)]

use std::ops::Range;

use super::{check, share, split_unit, spread};
use crate::activation::exp1;
use crate::pool::{Pool, SharedMut};
use crate::simd::{Isa, Level, dispatch, level};

pub mod backward;

/// What fills the row pp of a state before the first token: exp(pp) is 0, yet differences with it are finite.
pub const INITIAL_MAX: f32 = -1e38;

/// Channels of a unit of work.
pub const CHANNELS: usize = 64;

/// What a token brings, each [ΣT, C].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, T> {
    /// Key: the logarithm of the value's weight.
    pub k: &'a [T],
    /// Value.
    pub v: &'a [T],
}

impl<'a, T> Inputs<'a, T> {
    fn rows(&self, elements: Range<usize>) -> Inputs<'a, T> {
        Inputs { k: &self.k[elements.clone()], v: &self.v[elements] }
    }

    fn check(&self, cu_seqlens: &[usize], log_decay: &[T], bonus: &[T], states: &[&mut [T]], y: &[T]) {
        let width = log_decay.len();
        let packed = [("k", self.k.len()), ("v", self.v.len()), ("y", y.len())];
        check("wkv4", width, cu_seqlens, &packed, states, 3 * width);
        assert!(bonus.len() == width, "wkv4: bonus has {} channels, log_decay {width}", bonus.len());
    }
}

/// A state [3, C] before the first token.
pub fn initial_state(width: usize) -> Vec<f32> {
    let mut state = vec![0.0; 3 * width];
    state[2 * width..].fill(INITIAL_MAX);
    state
}

/// The equations, written out.
pub mod reference {
    use super::super::{Real, sequences};
    use super::Inputs;

    /// One token: inputs and y are `[C]`, `state` is [3, C].
    ///
    /// # Panics
    /// When the lengths do not fit that of `log_decay`, C.
    pub fn step<T: Real>(x: &Inputs<'_, T>, log_decay: &[T], bonus: &[T], state: &mut [T], y: &mut [T]) {
        x.check(&[0, 1], log_decay, bonus, &[&mut *state], y);
        let width = log_decay.len();
        for c in 0..width {
            let (k, v, w, u) = (x.k[c], x.v[c], log_decay[c], bonus[c]);
            let (aa, bb, pp) = (state[c], state[width + c], state[2 * width + c]);

            let q = pp.max(u + k);
            let (e1, e2) = ((pp - q).exp(), (u + k - q).exp());
            y[c] = (e1 * aa + e2 * v) / (e1 * bb + e2);

            let q = (pp + w).max(k);
            let (e1, e2) = ((pp + w - q).exp(), (k - q).exp());
            state[c] = e1 * aa + e2 * v;
            state[width + c] = e1 * bb + e2;
            state[2 * width + c] = q;
        }
    }

    /// A ragged batch: inputs and y are [ΣT, C], `states` one [3, C] a sequence, initial in and final out.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub fn scan<T: Real>(
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        log_decay: &[T],
        bonus: &[T],
        states: &mut [&mut [T]],
        y: &mut [T],
    ) {
        x.check(cu_seqlens, log_decay, bonus, states, y);
        let width = log_decay.len();
        for (rows, state) in sequences(cu_seqlens).zip(states) {
            for t in rows {
                let row = t * width..(t + 1) * width;
                step(&x.rows(row.clone()), log_decay, bonus, state, &mut y[row]);
            }
        }
    }
}

/// One token of one sequence, on this thread: inputs and `y` are `[C]`, `state` is [3, C].
///
/// # Panics
/// When the lengths do not fit that of `log_decay`, C.
pub fn step(x: &Inputs<'_, f32>, log_decay: &[f32], bonus: &[f32], state: &mut [f32], y: &mut [f32]) {
    x.check(&[0, 1], log_decay, bonus, &[&mut *state], y);
    let units = 0..log_decay.len().div_ceil(CHANNELS);
    let (level, states, y) = (level(), [SharedMut::new(state)], SharedMut::new(y));
    // SAFETY: the shapes were checked, and both slices are exclusively ours.
    unsafe { scan_units(level, units, &[0, 1], x, log_decay, bonus, &states, &y) };
}

/// A ragged batch over the pool's threads: inputs and `y` are [ΣT, C], `states` one [3, C] a sequence, initial in and
/// final out.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan(
    pool: &Pool,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    log_decay: &[f32],
    bonus: &[f32],
    states: &mut [&mut [f32]],
    y: &mut [f32],
) {
    x.check(cu_seqlens, log_decay, bonus, states, y);
    let (level, states, y) = (level(), share(states), SharedMut::new(y));
    let blocks = log_decay.len().div_ceil(CHANNELS);
    // SAFETY: the shapes were checked, and the pool hands out every unit once.
    spread(pool, blocks, cu_seqlens, 50 * CHANNELS, |units| unsafe {
        scan_units(level, units, cu_seqlens, x, log_decay, bonus, &states, &y);
    });
}

/// [`scan`] for some units only, on this thread: unit `b * S + s` is the b-th block of [`CHANNELS`] channels (the last
/// may be shorter) of sequence s, of S sequences.
///
/// # Safety
/// All shapes are as [`scan`] wants them, and while this runs nothing else touches the given units' part of `states`
/// and of `y` (their channels, in their sequence's rows).
pub unsafe fn scan_units(
    level: Level,
    units: Range<usize>,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    log_decay: &[f32],
    bonus: &[f32],
    states: &[SharedMut<'_, f32>],
    y: &SharedMut<'_, f32>,
) {
    let width = log_decay.len();
    for unit in units {
        let (block, s) = split_unit(unit, cu_seqlens);
        let first = block * CHANNELS;
        let channels = first..width.min(first + CHANNELS);
        // SAFETY: these channels of this state are ours by this function's contract, and the three ranges are disjoint.
        let [aa, bb, pp] =
            [0, 1, 2].map(|row| unsafe { states[s].range(row * width + first..row * width + channels.end) });
        let (w, u) = (&log_decay[channels.clone()], &bonus[channels.clone()]);
        for t in cu_seqlens[s]..cu_seqlens[s + 1] {
            let row = t * width + first..t * width + channels.end;
            // SAFETY: as above, for y.
            let y = unsafe { y.range(row.clone()) };
            token(level, &x.k[row.clone()], &x.v[row], w, u, aa, bb, pp, y);
        }
    }
}

dispatch! {
    fn token(k: &[f32], v: &[f32], w: &[f32], u: &[f32], aa: &mut [f32], bb: &mut [f32], pp: &mut [f32],
        y: &mut [f32]) = token_body;
}

/// One token of some channels.
#[inline(always)]
fn token_body<I: Isa>(
    k: &[f32],
    v: &[f32],
    w: &[f32],
    u: &[f32],
    aa: &mut [f32],
    bb: &mut [f32],
    pp: &mut [f32],
    y: &mut [f32],
) {
    let n = y.len();
    let (k, v, w, u) = (&k[..n], &v[..n], &w[..n], &u[..n]);
    let (aa, bb, pp) = (&mut aa[..n], &mut bb[..n], &mut pp[..n]);
    for c in 0..n {
        let (_, e1, e2) = relative::<I>(pp[c], u[c] + k[c]);
        y[c] = I::fma(e1, aa[c], e2 * v[c]) / I::fma(e1, bb[c], e2);

        let (q, e1, e2) = relative::<I>(pp[c] + w[c], k[c]);
        aa[c] = I::fma(e1, aa[c], e2 * v[c]);
        bb[c] = I::fma(e1, bb[c], e2);
        pp[c] = q;
    }
}

/// q = max(a, b), exp(a - q), exp(b - q).
#[inline(always)]
fn relative<I: Isa>(a: f32, b: f32) -> (f32, f32, f32) {
    let difference = a - b;
    let e = exp1::<I>(-difference.abs());
    if difference > 0.0 { (a, 1.0, e) } else { (b, e, 1.0) }
}
