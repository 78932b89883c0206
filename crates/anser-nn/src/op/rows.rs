//! What the slices of all operations share: buffers, rows cut into pieces, sums over rows in a fixed order.
#![allow(unsafe_code)]

use std::ops::Range;

use anser_kernels::pool::{Pool, SharedMut};
use anser_kernels::simd::{fetch, level};

use super::lanes;

/// Rows of one piece. Fixed, so that sums over pieces do not depend on the number of threads.
pub(super) const PIECE: usize = 64;

/// A buffer whose values are all written before any is read. Zeroing the buffers of a training step would cost as much
/// as its element-wise work.
#[allow(clippy::uninit_vec)]
pub(super) fn buffer(len: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`, and every bit pattern is an f32. Callers overwrite every value first.
    unsafe { values.set_len(len) };
    values
}

/// The sequence that each row begins, if it begins one: what decides where a token shift looks.
#[derive(Debug)]
pub(super) struct Borders {
    /// For each row, the sequence it is the first of, or -1.
    first: Vec<i32>,
    /// For each row, the sequence it is the last of, or -1.
    last: Vec<i32>,
}

impl Borders {
    pub(super) fn new(cu_seqlens: &[usize]) -> Borders {
        let rows = cu_seqlens.last().copied().unwrap_or(0);
        let (mut first, mut last) = (vec![-1; rows], vec![-1; rows]);
        for (s, ends) in cu_seqlens.windows(2).enumerate() {
            if ends[0] < ends[1] {
                first[ends[0]] = s as i32;
                last[ends[1] - 1] = s as i32;
            }
        }
        Borders { first, last }
    }

    /// The sequence that begins at `row`.
    pub(super) fn first(&self, row: usize) -> Option<usize> {
        usize::try_from(self.first[row]).ok()
    }

    /// The sequence that ends at `row`.
    pub(super) fn last(&self, row: usize) -> Option<usize> {
        usize::try_from(self.last[row]).ok()
    }
}

/// Calls `f(rows, views)` for pieces of at most [`PIECE`] rows of `rows`, in parallel, with that piece of each of the
/// row-major buffers `outs`.
pub(super) fn for_pieces<const K: usize>(
    pool: &Pool,
    rows: usize,
    outs: [&mut [f32]; K],
    f: impl Fn(Range<usize>, [&mut [f32]; K]) + Sync,
) {
    if rows == 0 {
        return;
    }
    let outs = outs.map(|out| {
        assert!(out.len().is_multiple_of(rows), "{} values are no {rows} rows", out.len());
        (out.len() / rows, SharedMut::new(out))
    });
    pool.run(rows.div_ceil(PIECE), 1, |pieces| {
        for piece in pieces {
            let rows = piece * PIECE..((piece + 1) * PIECE).min(rows);
            let views = std::array::from_fn(|i| {
                let (width, shared) = &outs[i];
                // SAFETY: the pool hands out every piece once, and pieces do not overlap.
                unsafe { shared.range(rows.start * width..rows.end * width) }
            });
            f(rows, views);
        }
    });
}

/// As [`for_pieces`], with `sums` partial sums a piece, zero at first; returns their totals over the pieces, added in
/// order.
pub(super) fn sum_pieces<const K: usize>(
    pool: &Pool,
    rows: usize,
    outs: [&mut [f32]; K],
    sums: usize,
    f: impl Fn(Range<usize>, [&mut [f32]; K], &mut [f32]) + Sync,
) -> Vec<f32> {
    let pieces = rows.div_ceil(PIECE);
    let mut partial = buffer(pieces * sums);
    let shared = SharedMut::new(&mut partial);
    for_pieces(pool, rows, outs, |rows, views| {
        let piece = rows.start / PIECE;
        // SAFETY: one piece, one place.
        let own = unsafe { shared.range(piece * sums..(piece + 1) * sums) };
        own.fill(0.0);
        f(rows, views, own);
    });
    let mut total = vec![0.0; sums];
    lanes::add_rows(level(), &mut total, &partial);
    total
}

/// Asks for the row that a pass over rows comes to in a while. Several buffers are more streams than hardware looks ahead
/// over.
#[inline]
pub(super) fn fetch_row(values: &[f32], row: usize, width: usize) {
    fetch(values.as_ptr().wrapping_add((row + AHEAD) * width), width);
}

/// Rows that are asked for before they are used.
pub(super) const AHEAD: usize = 2;

/// One state a sequence as separate mutable slices of a packed [S, ..] buffer.
pub(super) fn per_sequence(states: &mut [f32], sequences: usize) -> Vec<&mut [f32]> {
    let each = states.len() / sequences.max(1);
    if each == 0 {
        return (0..sequences).map(|_| &mut [][..]).collect();
    }
    states.chunks_exact_mut(each).collect()
}

/// A row-major buffer whose rows several threads write, each row one thread.
pub(super) struct Rows<'a> {
    values: SharedMut<'a, f32>,
    width: usize,
}

impl<'a> Rows<'a> {
    pub(super) fn new(values: &'a mut [f32], width: usize) -> Rows<'a> {
        Rows { values: SharedMut::new(values), width }
    }

    /// Row `row`, which the caller alone writes: rows are cut between threads by [`for_pieces`], sequences begin in
    /// one row.
    #[allow(clippy::mut_from_ref)]
    pub(super) fn row(&self, row: usize) -> &mut [f32] {
        // SAFETY: callers hand a row to one thread at a time, and keep it no longer than they write it.
        unsafe { self.values.range(row * self.width..(row + 1) * self.width) }
    }
    /// As [`fetch_row`], of what will be written.
    pub(super) fn fetch(&self, row: usize) {
        // SAFETY: nothing is written.
        fetch(unsafe { self.values.start() }.wrapping_add((row + AHEAD) * self.width), self.width);
    }
}
