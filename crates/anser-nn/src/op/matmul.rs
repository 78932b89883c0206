//! Matrix products of training, threaded over the rows of the result.
//!
//! The products themselves are the `gemm` crate's. The result's rows are cut into blocks whose size depends on the
//! shape alone, one call a block, so that a product does not depend on the number of threads.
#![allow(unsafe_code)]

use anser_kernels::pool::{Pool, SharedMut};
use gemm::Parallelism;

/// A row-major matrix, or the transpose of one.
#[derive(Clone, Copy)]
pub(super) struct Mat<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    /// Elements from one row to the next, and from one column to the next.
    strides: (usize, usize),
}

impl<'a> Mat<'a> {
    pub(super) fn new(values: &'a [f32], rows: usize, cols: usize) -> Mat<'a> {
        assert_eq!(values.len(), rows * cols, "a matrix of {rows} x {cols}");
        Mat { values, rows, cols, strides: (cols, 1) }
    }

    /// The transpose, a view.
    pub(super) fn t(self) -> Mat<'a> {
        Mat { rows: self.cols, cols: self.rows, strides: (self.strides.1, self.strides.0), ..self }
    }
}

/// `out = a b`, or `out += a b` if `add`; `out` is row-major.
pub(super) fn matmul(pool: &Pool, a: Mat<'_>, b: Mat<'_>, out: &mut [f32], add: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k && out.len() == m * n, "product of {m} x {k} and {} x {n}", b.rows);
    let block = m.div_ceil(16).next_multiple_of(16).clamp(32, 256);
    let out = SharedMut::new(out);
    pool.run(m.div_ceil(block), 1, |blocks| {
        for block_index in blocks {
            let rows = block_index * block..((block_index + 1) * block).min(m);
            // SAFETY: the pool hands out every block once; blocks are disjoint rows.
            let out = unsafe { out.range(rows.start * n..rows.end * n) };
            // SAFETY: `out` has rows.len() * n elements; a's rows and all of b lie inside their slices, as their
            // lengths were checked against their shapes; nothing aliases `out`, which is borrowed mutably.
            unsafe {
                gemm::gemm(
                    rows.len(),
                    n,
                    k,
                    out.as_mut_ptr(),
                    1,
                    n as isize,
                    add,
                    a.values.as_ptr().add(if k == 0 { 0 } else { rows.start * a.strides.0 }),
                    a.strides.1 as isize,
                    a.strides.0 as isize,
                    b.values.as_ptr(),
                    b.strides.1 as isize,
                    b.strides.0 as isize,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    Parallelism::None,
                );
            }
        }
    });
}
