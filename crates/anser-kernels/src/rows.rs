//! Row-wise passes over several buffers at once, spread over the threads of a pool.
#![allow(unsafe_code)]

use crate::pool::{Pool, SharedMut};

/// Rows that are worth a thread of their own: below this a pass over a few hundred channels is quicker than a wake-up.
const GRAIN: usize = 4;

/// Calls `f(row, [row of each buffer])` for every row of `K` row-major buffers, in parallel; `outs[i]` has
/// `outs[i].len() / rows` values a row.
///
/// # Panics
/// When a buffer's length is not a multiple of `rows`.
pub fn for_rows<const K: usize>(
    pool: &Pool,
    rows: usize,
    outs: [&mut [f32]; K],
    f: impl Fn(usize, [&mut [f32]; K]) + Sync,
) {
    if rows == 0 {
        return;
    }
    let outs = outs.map(|out| {
        assert!(out.len().is_multiple_of(rows), "{} values are no {rows} rows", out.len());
        (out.len() / rows, SharedMut::new(out))
    });
    pool.run(rows, GRAIN, |range| {
        for row in range {
            f(
                row,
                std::array::from_fn(|i| {
                    let (width, shared) = &outs[i];
                    // SAFETY: the pool hands every row to one thread once, and rows of one buffer are disjoint.
                    unsafe { shared.range(row * width..(row + 1) * width) }
                }),
            );
        }
    });
}
