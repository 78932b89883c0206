//! The recurrences of RWKV-4 to 7: the part of a time mixer that carries the state through a sequence.
//!
//! One file a version, each with the same parts:
//! - `Inputs`: the operands that differ from token to token, packed rows [ΣT, C];
//! - `reference`: the equations written out, slow, in f32 or f64. It stays the oracle of everything else;
//! - `step`: one token of one sequence;
//! - `scan`: a ragged batch, threaded; `scan_units`: the same over some units, for callers with threads of their own.
//!
//! **Batch.** Sequences lie one after the other in packed rows; sequence s has rows `cu_seqlens[s]..cu_seqlens[s + 1]`
//! and one state, initial on entry and final on return. A sequence without rows keeps its state.
//!
//! **State.** Matrix states are [H, key, value] in every version: the value dimension is contiguous, so it is what the
//! vector lanes run over, and every sum over keys is a sum over rows, in ascending order, without a horizontal step.
//!
//! **Equal to the bit.** A (sequence, head) pair is computed the same way wherever it stands in a batch, on whatever
//! thread, and in however many calls its tokens arrive: batch = single and prefill = decode hold exactly. Levels of
//! [`crate::simd`] differ in the last bits.
//!
//! **Why not in chunks.** On a GPU a recurrence is rewritten as products over chunks of tokens, because tensor cores
//! want matrices. Counted in vector instructions a token and head, with N = 64 and chunks of 16, the chunked form of
//! RWKV-7 needs 4 N^2 for the state plus about N^2 inside the chunk, against 5 N^2 (two sums, three for the update) for
//! the recurrence, which already runs at the FMA units' rate out of the L1 cache; RWKV-6 gains at most a third, and
//! pays in exponentials of cumulative decays. Either would lose prefill = decode to the bit. This is a count, not a
//! measurement.

use std::ops::{Add, AddAssign, Div, Mul, Neg, Range, Sub};

use smallvec::SmallVec;

use crate::pool::{Pool, SharedMut};

mod vector;
pub mod wkv4;
pub mod wkv5;
pub mod wkv6;
pub mod wkv7;

/// How a width splits into heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// H, the number of heads.
    pub heads: usize,
    /// N, the channels of a head.
    pub head_size: usize,
}

impl Heads {
    /// C = H * N.
    pub fn width(self) -> usize {
        self.heads * self.head_size
    }

    /// Elements of one sequence's state [H, N, N].
    pub fn state_len(self) -> usize {
        self.heads * self.head_size * self.head_size
    }
}

/// The numbers that references compute in: f32, or f64 where an oracle needs more digits than what it judges.
pub trait Real:
    Copy
    + PartialOrd
    + AddAssign
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// 0.
    const ZERO: Self;

    /// e to this power.
    fn exp(self) -> Self;

    /// The larger of two numbers.
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }
}

impl Real for f32 {
    const ZERO: f32 = 0.0;

    fn exp(self) -> f32 {
        f32::exp(self)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;

    fn exp(self) -> f64 {
        f64::exp(self)
    }
}

/// A parameter of RWKV-5, constant over time: RWKV-5.0 and 5.1 have one number a head, 5.2 one a channel.
#[derive(Clone, Copy, Debug)]
pub enum Parameter<'a, T> {
    /// `[H]`
    PerHead(&'a [T]),
    /// [H, N]
    PerChannel(&'a [T]),
}

impl<T: Copy> Parameter<'_, T> {
    /// The value for channel `i` of head `h`.
    fn at(&self, heads: Heads, h: usize, i: usize) -> T {
        match self {
            Parameter::PerHead(values) => values[h],
            Parameter::PerChannel(values) => values[h * heads.head_size + i],
        }
    }

    fn len_is_right(&self, heads: Heads) -> bool {
        match self {
            Parameter::PerHead(values) => values.len() == heads.heads,
            Parameter::PerChannel(values) => values.len() == heads.width(),
        }
    }
}

/// The rows of each sequence.
fn sequences(cu_seqlens: &[usize]) -> impl Iterator<Item = Range<usize>> + '_ {
    cu_seqlens.windows(2).map(|w| w[0]..w[1])
}

/// Panics unless the operands of a scan fit each other: `packed` are the named operands of [ΣT, `width`], y among
/// them, and each state has `state_len` elements.
fn check<T>(
    op: &str,
    width: usize,
    cu_seqlens: &[usize],
    packed: &[(&str, usize)],
    states: &[&mut [T]],
    state_len: usize,
) {
    assert!(
        cu_seqlens.first() == Some(&0) && cu_seqlens.is_sorted(),
        "{op}: cu_seqlens must start at 0 and never fall, but is {cu_seqlens:?}"
    );
    let rows = cu_seqlens[cu_seqlens.len() - 1];
    for (name, len) in packed {
        assert!(*len == rows * width, "{op}: {name} has {len} elements, but [rows, C] is [{rows}, {width}]");
    }
    assert!(
        states.len() + 1 == cu_seqlens.len(),
        "{op}: {} states for {} sequences",
        states.len(),
        cu_seqlens.len() - 1
    );
    for (s, state) in states.iter().enumerate() {
        assert!(
            state.len() == state_len,
            "{op}: the state of sequence {s} has {} elements instead of {state_len}",
            state.len()
        );
    }
}

/// Where one head of one sequence lies in packed rows [ΣT, C].
#[derive(Clone, Copy)]
struct Span {
    /// Element of the head's first channel in the sequence's first row.
    start: usize,
    /// C, from row to row.
    stride: usize,
    /// N.
    size: usize,
    /// Rows of the sequence.
    tokens: usize,
}

impl Span {
    fn new(heads: Heads, head: usize, rows: Range<usize>) -> Span {
        let stride = heads.width();
        let size = heads.head_size;
        Span { start: rows.start * stride + head * size, stride, size, tokens: rows.len() }
    }

    /// The elements of token `t`.
    #[inline(always)]
    fn row(&self, t: usize) -> Range<usize> {
        let start = self.start + t * self.stride;
        start..start + self.size
    }
}

/// Tokens that pass over one block of columns before the next block's turn. With N = 64 the operands of eight (10 KB) and
/// the state (16 KB) share a first-level cache of 32 KB; sixteen were a quarter slower on Zen 3.
const TILE: usize = 8;

/// What a thread has to get to be worth waking, in multiply-adds: about five microseconds.
const GRAIN: usize = 1 << 17;

/// Spreads `parts` parts (heads, or blocks of channels) of every sequence over the pool's threads. A unit is one part of
/// one sequence, numbered part by part, so that a long sequence among short ones is shared by all threads.
fn spread(pool: &Pool, parts: usize, cu_seqlens: &[usize], work_per_token: usize, f: impl Fn(Range<usize>) + Sync) {
    let units = parts * (cu_seqlens.len() - 1);
    let tokens = cu_seqlens[cu_seqlens.len() - 1];
    if tokens > 0 {
        let grain = (GRAIN * units).div_ceil((tokens * parts * work_per_token).max(1));
        pool.run(units, grain, f);
    }
}

/// The (part, sequence) of a unit.
fn split_unit(unit: usize, cu_seqlens: &[usize]) -> (usize, usize) {
    let sequences = cu_seqlens.len() - 1;
    (unit / sequences, unit % sequences)
}

/// Lets threads write their own parts of each state; small batches stay on the stack.
fn share<'a>(states: &'a mut [&mut [f32]]) -> SmallVec<[SharedMut<'a, f32>; 16]> {
    states.iter_mut().map(|state| SharedMut::new(state)).collect()
}
