//! WKV-6, the recurrence of RWKV-6 "Finch": linear attention with a decay that each token chooses for each key.
//!
//! Source: "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence" (2024); BlinkDL/RWKV-LM@524481d5,
//! RWKV-v5/cuda.
//!
//! Equations, per head, N = head size, S in [key, value] order:
//! ```text
//! y_j   = sum_i r_i (bonus_i k_i v_j + S_ij)   (the old S)
//! S_ij <- decay_i S_ij + k_i v_j
//! ```
//! Operands: r, decay, k, v, y [ΣT, C]; bonus (`time_faaaa`) [H, N]; states [H, key, value], one a sequence. `decay` is
//! the factor exp(-exp(w)) in (0, 1), which may round to 0 or to 1, not w and not its logarithm.
//!
//! Numerics: f32 throughout; sums over keys ascend, with fused multiply-adds where the level has them. The fast form
//! takes v_j out of the bonus term, `(sum_i r_i bonus_i k_i) v_j`, and runs over four registers' worth of columns of S at a time, whose
//! running sums stay in registers; S is read and written once a token.
//!
//! Tested: reference = golden files; fast = reference; step = scan, split = whole, batch = single to the bit.
#![allow(unsafe_code)]

use std::ops::Range;

use super::vector::{One, Vector, for_columns};
use super::{Heads, Span, TILE, check, share, split_unit, spread};
use crate::norm::tree;
use crate::pool::{Pool, SharedMut};
use crate::simd::{Isa, Level, dispatch, level};

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
}

impl<'a, T> Inputs<'a, T> {
    fn rows(&self, elements: Range<usize>) -> Inputs<'a, T> {
        Inputs {
            r: &self.r[elements.clone()],
            decay: &self.decay[elements.clone()],
            k: &self.k[elements.clone()],
            v: &self.v[elements],
        }
    }

    fn check(&self, heads: Heads, cu_seqlens: &[usize], bonus: &[T], states: &[&mut [T]], y: &[T]) {
        let packed = [
            ("r", self.r.len()),
            ("decay", self.decay.len()),
            ("k", self.k.len()),
            ("v", self.v.len()),
            ("y", y.len()),
        ];
        check("wkv6", heads.width(), cu_seqlens, &packed, states, heads.state_len());
        assert!(bonus.len() == heads.width(), "wkv6: bonus has {} elements for {heads:?}", bonus.len());
    }
}

/// The equations, written out.
pub mod reference {
    use super::super::{Heads, Real, sequences};
    use super::Inputs;

    /// One token: inputs and y are `[C]`, `bonus` is [H, N], `state` is [H, key, value].
    ///
    /// # Panics
    /// When the lengths do not fit `heads`.
    pub fn step<T: Real>(heads: Heads, x: &Inputs<'_, T>, bonus: &[T], state: &mut [T], y: &mut [T]) {
        x.check(heads, &[0, 1], bonus, &[&mut *state], y);
        let n = heads.head_size;
        for h in 0..heads.heads {
            let head = x.rows(h * n..(h + 1) * n);
            let u = &bonus[h * n..(h + 1) * n];
            let s = &mut state[h * n * n..(h + 1) * n * n];
            for j in 0..n {
                let mut sum = T::ZERO;
                for i in 0..n {
                    let kv = head.k[i] * head.v[j];
                    sum += head.r[i] * (u[i] * kv + s[i * n + j]);
                    s[i * n + j] = head.decay[i] * s[i * n + j] + kv;
                }
                y[h * n + j] = sum;
            }
        }
    }

    /// A ragged batch: inputs and y are [ΣT, C], `bonus` is [H, N], `states` one [H, key, value] a sequence, initial in
    /// and final out.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub fn scan<T: Real>(
        heads: Heads,
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        bonus: &[T],
        states: &mut [&mut [T]],
        y: &mut [T],
    ) {
        x.check(heads, cu_seqlens, bonus, states, y);
        let width = heads.width();
        for (rows, state) in sequences(cu_seqlens).zip(states) {
            for t in rows {
                let row = t * width..(t + 1) * width;
                step(heads, &x.rows(row.clone()), bonus, state, &mut y[row]);
            }
        }
    }
}

/// One token of one sequence, on this thread: inputs and `y` are `[C]`, `bonus` is [H, N], `state` is [H, key, value].
///
/// # Panics
/// When the lengths do not fit `heads`.
pub fn step(heads: Heads, x: &Inputs<'_, f32>, bonus: &[f32], state: &mut [f32], y: &mut [f32]) {
    x.check(heads, &[0, 1], bonus, &[&mut *state], y);
    let (level, states, y) = (level(), [SharedMut::new(state)], SharedMut::new(y));
    // SAFETY: the shapes were checked, and both slices are exclusively ours.
    unsafe { scan_units(level, 0..heads.heads, heads, &[0, 1], x, bonus, &states, &y) };
}

/// A ragged batch over the pool's threads: inputs and `y` are [ΣT, C], `bonus` is [H, N], `states` one [H, key, value] a
/// sequence, initial in and final out.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan(
    pool: &Pool,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    bonus: &[f32],
    states: &mut [&mut [f32]],
    y: &mut [f32],
) {
    x.check(heads, cu_seqlens, bonus, states, y);
    let (level, states, y) = (level(), share(states), SharedMut::new(y));
    let work = 3 * heads.head_size * heads.head_size;
    // SAFETY: the shapes were checked, and the pool hands out every unit once.
    spread(pool, heads.heads, cu_seqlens, work, |units| unsafe {
        scan_units(level, units, heads, cu_seqlens, x, bonus, &states, &y);
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
        let x = Operands {
            r: x.r,
            decay: &x.decay[span.start..],
            decay_stride: span.stride,
            k: x.k,
            v: x.v,
            bonus: &bonus[h * n..(h + 1) * n],
        };
        // SAFETY: this head's matrix is ours by this function's contract.
        let state = unsafe { states[s].range(h * n * n..(h + 1) * n * n) };
        head(level, span, &x, state, y);
    }
}

/// What one head reads: RWKV-5 differs from RWKV-6 only in that its decay stays, `decay_stride` = 0.
pub(super) struct Operands<'a> {
    /// Packed rows, like k and v.
    pub(super) r: &'a [f32],
    /// The head's decay of token t begins at `t * decay_stride`.
    pub(super) decay: &'a [f32],
    pub(super) decay_stride: usize,
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    /// The head's, `[N]`.
    pub(super) bonus: &'a [f32],
}

dispatch! {
    /// All tokens of one head; `state` is [N, N]. Only `scan_units` calls this: y's elements in `span` are its own.
    pub(super) fn head(span: Span, x: &Operands<'_>, state: &mut [f32], y: &SharedMut<'_, f32>) = head_body;
}

#[inline(always)]
fn head_body<I: Isa + Vector>(span: Span, x: &Operands<'_>, state: &mut [f32], y: &SharedMut<'_, f32>) {
    assert!(state.len() == span.size * span.size);
    for first in (0..span.tokens).step_by(TILE) {
        let tile = first..span.tokens.min(first + TILE);
        let mut own = [0.0; TILE];
        for (own, t) in own.iter_mut().zip(tile.clone()) {
            *own = dot3::<I>(&x.r[span.row(t)], x.bonus, &x.k[span.row(t)]);
        }
        // SAFETY: the only caller is `head`, compiled for `I` and on a CPU that has it; `columns` gets columns that
        // exist; y's elements are ours, see `head`.
        unsafe { for_columns!(I, span.size, columns, 4, (span, tile.clone(), x, &own, state, y)) };
    }
}

/// A tile of tokens over R registers' worth of columns of the state; `own[t]` is `sum_i r_i bonus_i k_i` of the tile's
/// t-th token.
///
/// # Safety
/// `column..column + R * WIDTH` is within 0..N and `state` has N * N elements; y's elements in `span` are ours; otherwise
/// as for [`Vector`].
#[inline(always)]
unsafe fn columns<V: Vector, const R: usize>(
    column: usize,
    span: Span,
    tile: Range<usize>,
    x: &Operands<'_>,
    own: &[f32; TILE],
    state: &mut [f32],
    y: &SharedMut<'_, f32>,
) {
    let n = span.size;
    for (t, own) in tile.zip(own) {
        let row = span.row(t);
        let (r, k, v) = (&x.r[row.clone()][..n], &x.k[row.clone()][..n], &x.v[row.clone()]);
        let decay = &x.decay[t * x.decay_stride..][..n];
        // SAFETY: by the contract above: `s` walks down the rows of these columns, and y's elements belong to the head
        // being computed.
        unsafe {
            let (mut sum, mut value) = ([V::splat(0.0); R], [V::splat(0.0); R]);
            for j in 0..R {
                value[j] = V::load(v.as_ptr().add(column + j * V::WIDTH));
            }
            let mut s = state.as_mut_ptr().add(column);
            for i in 0..n {
                let (r, decay, k) = (V::splat(r[i]), V::splat(decay[i]), V::splat(k[i]));
                for j in 0..R {
                    let at = s.add(j * V::WIDTH);
                    let old = V::load(at);
                    sum[j] = V::fma(r, old, sum[j]);
                    V::store(V::fma(decay, old, V::mul(k, value[j])), at);
                }
                s = s.wrapping_add(n);
            }
            let own = V::splat(*own);
            let y = y.range(row.start + column..row.start + column + R * V::WIDTH);
            for j in 0..R {
                V::store(V::fma(own, value[j], sum[j]), y.as_mut_ptr().add(j * V::WIDTH));
            }
        }
    }
}

/// `sum_i x_i y_i z_i`.
#[inline(always)]
fn dot3<I: Isa>(x: &[f32], y: &[f32], z: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let ((xs, x), (ys, y), (zs, z)) = (x.as_chunks::<16>(), y.as_chunks::<16>(), z.as_chunks::<16>());
    for ((x, y), z) in xs.iter().zip(ys).zip(zs) {
        for lane in 0..16 {
            sums[lane] = I::fma(x[lane] * y[lane], z[lane], sums[lane]);
        }
    }
    for (((sum, &x), &y), &z) in sums.iter_mut().zip(x).zip(y).zip(z) {
        *sum = I::fma(x * y, z, *sum);
    }
    tree(sums)
}
