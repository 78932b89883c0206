//! WKV-7, the recurrence of RWKV-7 "Goose": a matrix state with a decay a channel and a rank-one correction, the
//! generalised delta rule.
//!
//! Source: "RWKV-7 Goose with Expressive Dynamic State Evolution" (2025); BlinkDL/RWKV-LM@524481d5,
//! RWKV-v7/train_temp/cuda.
//!
//! Equations, per head, N = head size, with S in [key, value] order (the papers and kernels write its transpose):
//! ```text
//! sa_j  = sum_i a_i S_ij
//! S_ij <- decay_i S_ij + b_i sa_j + k_i v_j
//! y_j   = sum_i r_i S_ij                       (the new S)
//! ```
//! Operands: r, decay, k, v, a, b, y [ΣT, C]; states [H, key, value], one a sequence. `decay` is the factor
//! exp(-exp(-0.5) * sigmoid(raw)) in (0.545, 1), not raw and not its logarithm. In a time mixer a = -kk and
//! b = kk * learning rate with kk of L2 norm 1 a head; nothing here relies on that.
//!
//! Numerics: f32 throughout; sums over keys ascend, with fused multiply-adds where the level has them.
//!
//! The fast form runs over four registers' worth of columns of S at a time, whose running sums stay in registers. The
//! pass that updates S for one token also forms sa of the next one, so S is read and written once a token. One core of
//! Zen 3 then takes 0.7 µs a token and head of 64 (the FMA units' bound is 0.5 µs), the reference ten.
//!
//! Tested: reference = golden files; fast = reference; step = scan, split = whole, batch = single to the bit.
#![allow(unsafe_code)]

use std::ops::Range;

use super::vector::{One, Vector, for_columns};
use super::{Heads, Span, TILE, check, share, split_unit, spread};
use crate::pool::{Pool, SharedMut};
use crate::simd::{Isa, Level, dispatch, fetch, level};

pub mod backward;

/// What a token brings, each [ΣT, C].
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a, T> {
    /// Receptance: what is read from the state.
    pub r: &'a [T],
    /// The decay factor of each key, in (0, 1).
    pub decay: &'a [T],
    /// Key.
    pub k: &'a [T],
    /// Value.
    pub v: &'a [T],
    /// What the correction reads: -kk.
    pub a: &'a [T],
    /// Where the correction is written: kk * learning rate.
    pub b: &'a [T],
}

impl Inputs<'_, f32> {
    /// Asks for so many elements of every operand, which need not exist.
    #[inline(always)]
    fn fetch(&self, start: usize, length: usize) {
        for operand in [self.r, self.decay, self.k, self.v, self.a, self.b] {
            fetch(operand.as_ptr().wrapping_add(start), length);
        }
    }
}

impl<'a, T> Inputs<'a, T> {
    fn rows(&self, elements: Range<usize>) -> Inputs<'a, T> {
        Inputs {
            r: &self.r[elements.clone()],
            decay: &self.decay[elements.clone()],
            k: &self.k[elements.clone()],
            v: &self.v[elements.clone()],
            a: &self.a[elements.clone()],
            b: &self.b[elements],
        }
    }

    fn check(&self, heads: Heads, cu_seqlens: &[usize], states: &[&mut [T]], y: &[T]) {
        let packed = [
            ("r", self.r.len()),
            ("decay", self.decay.len()),
            ("k", self.k.len()),
            ("v", self.v.len()),
            ("a", self.a.len()),
            ("b", self.b.len()),
            ("y", y.len()),
        ];
        check("wkv7", heads.width(), cu_seqlens, &packed, states, heads.state_len());
    }
}

/// The equations, written out.
pub mod reference {
    use super::super::{Heads, Real, sequences};
    use super::Inputs;

    /// One token: inputs and y are `[C]`, `state` is [H, key, value].
    ///
    /// # Panics
    /// When the lengths do not fit `heads`.
    pub fn step<T: Real>(heads: Heads, x: &Inputs<'_, T>, state: &mut [T], y: &mut [T]) {
        x.check(heads, &[0, 1], &[&mut *state], y);
        let n = heads.head_size;
        for h in 0..heads.heads {
            let head = x.rows(h * n..(h + 1) * n);
            let s = &mut state[h * n * n..(h + 1) * n * n];
            for j in 0..n {
                let mut sa = T::ZERO;
                for i in 0..n {
                    sa += head.a[i] * s[i * n + j];
                }
                let mut sum = T::ZERO;
                for i in 0..n {
                    s[i * n + j] = head.decay[i] * s[i * n + j] + head.b[i] * sa + head.k[i] * head.v[j];
                    sum += head.r[i] * s[i * n + j];
                }
                y[h * n + j] = sum;
            }
        }
    }

    /// A ragged batch: inputs and y are [ΣT, C], `states` one [H, key, value] a sequence, initial in and final out.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub fn scan<T: Real>(heads: Heads, cu_seqlens: &[usize], x: &Inputs<'_, T>, states: &mut [&mut [T]], y: &mut [T]) {
        x.check(heads, cu_seqlens, states, y);
        let width = heads.width();
        for (rows, state) in sequences(cu_seqlens).zip(states) {
            for t in rows {
                let row = t * width..(t + 1) * width;
                step(heads, &x.rows(row.clone()), state, &mut y[row]);
            }
        }
    }
}

/// One token of one sequence, on this thread: inputs and `y` are `[C]`, `state` is [H, key, value].
///
/// # Panics
/// When the lengths do not fit `heads`.
pub fn step(heads: Heads, x: &Inputs<'_, f32>, state: &mut [f32], y: &mut [f32]) {
    x.check(heads, &[0, 1], &[&mut *state], y);
    let (level, states, y) = (level(), [SharedMut::new(state)], SharedMut::new(y));
    // SAFETY: the shapes were checked, and both slices are exclusively ours.
    unsafe { scan_units(level, 0..heads.heads, heads, &[0, 1], x, &states, &y) };
}

/// A ragged batch over the pool's threads: inputs and `y` are [ΣT, C], `states` one [H, key, value] a sequence, initial
/// in and final out.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan(
    pool: &Pool,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    states: &mut [&mut [f32]],
    y: &mut [f32],
) {
    x.check(heads, cu_seqlens, states, y);
    let (level, states, y) = (level(), share(states), SharedMut::new(y));
    let work = 5 * heads.head_size * heads.head_size;
    // SAFETY: the shapes were checked, and the pool hands out every unit once.
    spread(pool, heads.heads, cu_seqlens, work, |units| unsafe {
        scan_units(level, units, heads, cu_seqlens, x, &states, &y);
    });
}

/// [`scan`] for some units only, on this thread: unit `h * S + s` is head h of sequence s, of S sequences.
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
    states: &[SharedMut<'_, f32>],
    y: &SharedMut<'_, f32>,
) {
    let matrix = heads.head_size * heads.head_size;
    for unit in units {
        let (h, s) = split_unit(unit, cu_seqlens);
        let span = Span::new(heads, h, cu_seqlens[s]..cu_seqlens[s + 1]);
        if span.tokens == 0 {
            continue;
        }
        // SAFETY: this head's matrix is ours by this function's contract.
        let state = unsafe { states[s].range(h * matrix..(h + 1) * matrix) };
        head(level, span, x, state, y);
    }
}

dispatch! {
    /// All tokens of one head; `state` is [N, N]. Only `scan_units` calls this: y's elements in `span` are its own.
    fn head(span: Span, x: &Inputs<'_, f32>, state: &mut [f32], y: &SharedMut<'_, f32>) = head_body;
}

#[inline(always)]
fn head_body<I: Isa + Vector>(span: Span, x: &Inputs<'_, f32>, state: &mut [f32], y: &SharedMut<'_, f32>) {
    assert!(state.len() == span.size * span.size);
    for first in (0..span.tokens).step_by(TILE) {
        let tile = first..span.tokens.min(first + TILE);
        // SAFETY: the only caller is `head`, compiled for `I` and on a CPU that has it; `columns` gets columns that
        // exist; y's elements are ours, see `head`.
        unsafe { for_columns!(I, span.size, columns, 4, (span, tile.clone(), x, state, y)) };
    }
}

/// A tile of tokens over R registers' worth of columns of the state.
///
/// # Safety
/// `column..column + R * WIDTH` is within 0..N and `state` has N * N elements; y's elements in `span` are ours; otherwise
/// as for [`Vector`].
#[inline(always)]
unsafe fn columns<V: Vector, const R: usize>(
    column: usize,
    span: Span,
    tile: Range<usize>,
    x: &Inputs<'_, f32>,
    state: &mut [f32],
    y: &SharedMut<'_, f32>,
) {
    // SAFETY: by the contract above; y's elements belong to the head being computed.
    unsafe {
        let mut sa = correction::<V, R>(column, &x.a[span.row(tile.start)], state);
        for t in tile.clone() {
            let row = span.row(t);
            let token = x.rows(row.clone());
            x.fetch(span.row(t + TILE).start + column, R * V::WIDTH);
            fetch(y.start().wrapping_add(span.row(t + TILE).start + column), R * V::WIDTH);
            let out = y.range(row.start + column..row.start + column + R * V::WIDTH);
            sa = if t + 1 < tile.end {
                update::<V, R, true>(column, &token, &x.a[span.row(t + 1)], &sa, state, out)
            } else {
                update::<V, R, false>(column, &token, token.a, &sa, state, out)
            };
        }
    }
}

/// `sa` of a token whose S is at rest.
///
/// # Safety
/// As for [`columns`].
#[inline(always)]
unsafe fn correction<V: Vector, const R: usize>(column: usize, a: &[f32], state: &[f32]) -> [V::F32; R] {
    // SAFETY: by the contract above, `s` walks down the rows of these columns.
    unsafe {
        let n = a.len();
        let mut sa = [V::splat(0.0); R];
        let mut s = state.as_ptr().add(column);
        for i in 0..n {
            let a = V::splat(a[i]);
            for j in 0..R {
                sa[j] = V::fma(a, V::load(s.add(j * V::WIDTH)), sa[j]);
            }
            s = s.wrapping_add(n);
        }
        sa
    }
}

/// Updates columns of S for one token, writes its y, and returns, with NEXT, the next token's sa.
///
/// # Safety
/// As for [`columns`]; `y` has R * WIDTH elements.
#[inline(always)]
unsafe fn update<V: Vector, const R: usize, const NEXT: bool>(
    column: usize,
    x: &Inputs<'_, f32>,
    a_next: &[f32],
    sa: &[V::F32; R],
    state: &mut [f32],
    y: &mut [f32],
) -> [V::F32; R] {
    // SAFETY: by the contract above, `s` walks down the rows of these columns.
    unsafe {
        let n = x.r.len();
        let (r, decay, k, b, a_next) = (x.r, &x.decay[..n], &x.k[..n], &x.b[..n], &a_next[..n]);
        let (mut sum, mut next, mut v) = ([V::splat(0.0); R], [V::splat(0.0); R], [V::splat(0.0); R]);
        for j in 0..R {
            v[j] = V::load(x.v.as_ptr().add(column + j * V::WIDTH));
        }
        let mut s = state.as_mut_ptr().add(column);
        for i in 0..n {
            let (r, decay, k, b, a) =
                (V::splat(r[i]), V::splat(decay[i]), V::splat(k[i]), V::splat(b[i]), V::splat(a_next[i]));
            for j in 0..R {
                let at = s.add(j * V::WIDTH);
                let new = V::fma(v[j], k, V::fma(sa[j], b, V::mul(V::load(at), decay)));
                V::store(new, at);
                sum[j] = V::fma(r, new, sum[j]);
                if NEXT {
                    next[j] = V::fma(a, new, next[j]);
                }
            }
            s = s.wrapping_add(n);
        }
        for j in 0..R {
            V::store(sum[j], y.as_mut_ptr().add(j * V::WIDTH));
        }
        next
    }
}
