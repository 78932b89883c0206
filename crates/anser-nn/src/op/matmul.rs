//! Matrix products of training, threaded over parts of the result.
//!
//! The products themselves are the `gemm` crate's. The result is cut into parts whose size depends on the shape alone,
//! one call a part, so that a product does not depend on the number of threads.
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

/// Rows or columns of one call: large enough that packing the other operand again does not show, small enough that a
/// small product still fills a few threads.
fn part(size: usize) -> usize {
    if size >= 512 { 256 } else { 128 }
}

/// `out = a b`, or `out += a b` if `add`; `out` is row-major.
pub(super) fn matmul(pool: &Pool, a: Mat<'_>, b: Mat<'_>, out: &mut [f32], add: bool) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert!(b.rows == k && out.len() == m * n, "product of {m} x {k} and {} x {n}", b.rows);
    if m == 0 || n == 0 {
        return;
    }
    // Along the longer side.
    let (by_rows, part) = (m >= n, part(m.max(n)));
    let out = SharedMut::new(out);
    pool.run(m.max(n).div_ceil(part), 1, |parts| {
        // SAFETY: every part is written by one thread: the pool hands it out once.
        let out = unsafe { out.start() };
        for index in parts {
            let span = index * part..((index + 1) * part).min(m.max(n));
            let (rows, cols) = if by_rows { (span, 0..n) } else { (0..m, span) };
            // SAFETY: rows lie below m and columns below n, so every element of a, b and out that the call touches lies
            // inside their slices, whose lengths were checked against the shapes; parts of `out` are disjoint, and
            // `out` is borrowed mutably, so nothing else aliases it.
            unsafe {
                gemm::gemm(
                    rows.len(),
                    cols.len(),
                    k,
                    out.add(rows.start * n + cols.start),
                    1,
                    n as isize,
                    add,
                    a.values.as_ptr().wrapping_add(rows.start * a.strides.0),
                    a.strides.1 as isize,
                    a.strides.0 as isize,
                    b.values.as_ptr().wrapping_add(cols.start * b.strides.1),
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
