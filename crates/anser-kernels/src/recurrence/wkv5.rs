//! WKV-5, the recurrence of RWKV-5 "Eagle": linear attention with a fixed decay for each key.
//!
//! Source: "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence" (2024); BlinkDL/RWKV-LM@524481d5,
//! RWKV-v5/cuda; RWKV-5.0 and 5.1 as in pip `rwkv` 0.8.32.
//!
//! Equations, per head, N = head size, S in [key, value] order:
//! ```text
//! y_j   = sum_i r_i (bonus_i k_i v_j + S_ij)   (the old S)
//! S_ij <- decay_i S_ij + k_i v_j
//! ```
//! Operands: r, k, v, y [ΣT, C]; states [H, key, value], one a sequence; decay and bonus one number a head (5.0, 5.1) or
//! a channel (5.2), see [`Parameter`]. `decay` is the factor exp(-exp(time_decay)) in (0, 1); `bonus` is `time_faaaa`,
//! or exp(time_first) where a 5.0 checkpoint has that.
//!
//! Numerics: f32 throughout. The fast form is that of [`super::wkv6`] with a decay that stays.
//!
//! Tested: reference = golden files; fast = reference; step = scan, split = whole, batch = single to the bit.
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ops::Range;

use super::wkv6::{Operands, head};
use super::{Heads, Parameter, Span, check, share, split_unit, spread};
use crate::pool::{Pool, SharedMut};
use crate::simd::{Level, level};

pub mod backward;

/// What a token brings, each [ΣT, C].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, T> {
    /// Receptance: what is read from the state.
    pub r: &'a [T],
    /// Key.
    pub k: &'a [T],
    /// Value.
    pub v: &'a [T],
}

impl<'a, T: Copy> Inputs<'a, T> {
    fn rows(&self, elements: Range<usize>) -> Inputs<'a, T> {
        Inputs { r: &self.r[elements.clone()], k: &self.k[elements.clone()], v: &self.v[elements] }
    }

    fn check(
        &self,
        heads: Heads,
        cu_seqlens: &[usize],
        decay: Parameter<'_, T>,
        bonus: Parameter<'_, T>,
        states: &[&mut [T]],
        y: &[T],
    ) {
        let packed = [("r", self.r.len()), ("k", self.k.len()), ("v", self.v.len()), ("y", y.len())];
        check("wkv5", heads.width(), cu_seqlens, &packed, states, heads.state_len());
        assert!(decay.len_is_right(heads), "wkv5: the length of decay does not fit {heads:?}");
        assert!(bonus.len_is_right(heads), "wkv5: the length of bonus does not fit {heads:?}");
    }
}

/// The equations, written out.
pub mod reference {
    use super::super::{Heads, Parameter, Real, sequences};
    use super::Inputs;

    /// One token: inputs and y are `[C]`, `state` is [H, key, value].
    ///
    /// # Panics
    /// When the lengths do not fit `heads`.
    pub fn step<T: Real>(
        heads: Heads,
        x: &Inputs<'_, T>,
        decay: Parameter<'_, T>,
        bonus: Parameter<'_, T>,
        state: &mut [T],
        y: &mut [T],
    ) {
        x.check(heads, &[0, 1], decay, bonus, &[&mut *state], y);
        let n = heads.head_size;
        for h in 0..heads.heads {
            let head = x.rows(h * n..(h + 1) * n);
            let s = &mut state[h * n * n..(h + 1) * n * n];
            for j in 0..n {
                let mut sum = T::ZERO;
                for i in 0..n {
                    let kv = head.k[i] * head.v[j];
                    sum += head.r[i] * (bonus.at(heads, h, i) * kv + s[i * n + j]);
                    s[i * n + j] = decay.at(heads, h, i) * s[i * n + j] + kv;
                }
                y[h * n + j] = sum;
            }
        }
    }

    /// A ragged batch: inputs and y are [ΣT, C], `states` one [H, key, value] a sequence, initial in and final out.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub fn scan<T: Real>(
        heads: Heads,
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        decay: Parameter<'_, T>,
        bonus: Parameter<'_, T>,
        states: &mut [&mut [T]],
        y: &mut [T],
    ) {
        x.check(heads, cu_seqlens, decay, bonus, states, y);
        let width = heads.width();
        for (rows, state) in sequences(cu_seqlens).zip(states) {
            for t in rows {
                let row = t * width..(t + 1) * width;
                step(heads, &x.rows(row.clone()), decay, bonus, state, &mut y[row]);
            }
        }
    }
}

/// One token of one sequence, on this thread: inputs and `y` are `[C]`, `state` is [H, key, value].
///
/// # Panics
/// When the lengths do not fit `heads`.
pub fn step(
    heads: Heads,
    x: &Inputs<'_, f32>,
    decay: Parameter<'_, f32>,
    bonus: Parameter<'_, f32>,
    state: &mut [f32],
    y: &mut [f32],
) {
    x.check(heads, &[0, 1], decay, bonus, &[&mut *state], y);
    let (decay, bonus) = (per_channel(heads, decay), per_channel(heads, bonus));
    let (level, states, y) = (level(), [SharedMut::new(state)], SharedMut::new(y));
    // SAFETY: the shapes were checked, and both slices are exclusively ours.
    unsafe { scan_units(level, 0..heads.heads, heads, &[0, 1], x, &decay, &bonus, &states, &y) };
}

/// A ragged batch over the pool's threads: inputs and `y` are [ΣT, C], `states` one [H, key, value] a sequence, initial
/// in and final out. Parameters per head are spelled out per channel at each call; a caller that minds does it once.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan(
    pool: &Pool,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    decay: Parameter<'_, f32>,
    bonus: Parameter<'_, f32>,
    states: &mut [&mut [f32]],
    y: &mut [f32],
) {
    x.check(heads, cu_seqlens, decay, bonus, states, y);
    let (decay, bonus) = (per_channel(heads, decay), per_channel(heads, bonus));
    let (level, states, y) = (level(), share(states), SharedMut::new(y));
    let work = 3 * heads.head_size * heads.head_size;
    // SAFETY: the shapes were checked, and the pool hands out every unit once.
    spread(pool, heads.heads, cu_seqlens, work, |units| unsafe {
        scan_units(level, units, heads, cu_seqlens, x, &decay, &bonus, &states, &y);
    });
}

/// [`scan`] for some units only, on this thread, with `decay` and `bonus` [H, N]: unit `h * S + s` is head h of sequence
/// s, of S sequences.
///
/// # Safety
/// All shapes are as [`scan`] wants them, and while this runs nothing else touches the given units' part of `states`
/// (their head's matrix) and of `y` (their head's channels in their sequence's rows).
pub unsafe fn scan_units(
    level: Level,
    units: Range<usize>,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    decay: &[f32],
    bonus: &[f32],
    states: &[SharedMut<'_, f32>],
    y: &SharedMut<'_, f32>,
) {
    let n = heads.head_size;
    for unit in units {
        let (h, s) = split_unit(unit, cu_seqlens);
        let span = Span::new(heads, h, cu_seqlens[s]..cu_seqlens[s + 1]);
        if span.tokens == 0 {
            continue;
        }
        let channels = h * n..(h + 1) * n;
        let x = Operands {
            r: x.r,
            decay: &decay[channels.clone()],
            decay_stride: 0,
            k: x.k,
            v: x.v,
            bonus: &bonus[channels],
        };
        // SAFETY: this head's matrix is ours by this function's contract.
        let state = unsafe { states[s].range(h * n * n..(h + 1) * n * n) };
        head(level, span, &x, state, y);
    }
}

/// The parameter as [H, N].
fn per_channel<'a>(heads: Heads, parameter: Parameter<'a, f32>) -> Cow<'a, [f32]> {
    match parameter {
        Parameter::PerChannel(values) => Cow::Borrowed(values),
        Parameter::PerHead(values) => values.iter().flat_map(|&x| std::iter::repeat_n(x, heads.head_size)).collect(),
    }
}
