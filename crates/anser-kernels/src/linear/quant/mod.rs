//! Products with weights in integer codes, computed in integers.
//!
//! A weight is `scale * code - minimum`, of which scale and minimum belong to a group of 32 columns of a row (some
//! formats have scales for 16 columns, some no minimum). A row of x becomes integers first
//! ([`InputBits`](super::InputBits)): of 16 bits, the largest magnitude of every block of 256 columns being 32767, so that
//! nearly nothing is lost on the side of x; or of 8 bits, which takes half the instructions: that of every group being
//! 127, or of every block beside codes of 4 bits, whose own error is so much larger that the coarser step adds a
//! hundredth to it. The f32 steps are kept. Products of codes are exact in 32 bits, and every instruction set computes the
//! same integers.
//!
//! **The order of summation.** An output is a sum over blocks of 256 columns, in order, each the step of the block of x
//! times a chain of fused multiply-adds over the groups of the block, in order: plus scale times the integer sum of the
//! group, minus minimum times the sum of x's integers; both sums times the group's step of x first, if it has one. As
//! with floats, the order does not depend on the rows of x, the place or the threads. It is the same on every level that fuses, so AVX2 and AVX-512, with VNNI or without, give the
//! same bits.
//!
//! A row of x with a NaN or an infinity in it gives NaN for every output. A block of x whose magnitudes stay below
//! 1e-30 counts as zero.

mod activations;
pub(super) mod kernel;
mod lanes;
pub(super) mod layout;
pub(super) mod pack;
pub(super) mod repack;
mod source;

use super::{BLOCK, Epilogue, Kind, Matrix};
use crate::simd::{Isa, Level, Portable};
use activations::quantise_block;
pub(super) use activations::{Activations, quantise_at};

/// Columns whose codes share a scale.
pub(super) const GROUP: usize = 32;

/// The slow reference of a product of one row of x: `y = W x`, or `y += W x`, obviously so.
///
/// # Panics
/// If the matrix has floats, if x has not one value for each column or y for each row, or if the epilogue is another.
pub fn reference(level: Level, w: &Matrix, x: &[f32], y: &mut [f32], then: Epilogue) {
    let Kind::Codes(layout) = w.storage().kind() else { panic!("{w:?} has no codes") };
    assert!(x.len() == w.cols() && y.len() == w.rows(), "{w:?}: x has {}, y {}", x.len(), y.len());
    assert!(matches!(then, Epilogue::Store | Epilogue::Add), "{then:?} is not part of the reference");
    let fused = level != Level::Portable || Portable::FMA;
    let fma = |a: f32, b: f32, c: f32| if fused { a.mul_add(b, c) } else { a * b + c };
    let blocks: Vec<Activations> = (x.chunks(BLOCK))
        .map(|x| {
            let mut block = Activations::ZERO;
            quantise_block(w.steps(), x, &mut block);
            block
        })
        .collect();
    for (row, y) in y.iter_mut().enumerate() {
        let weights = w.row(layout, row);
        let mut total = if then == Epilogue::Add { *y } else { 0.0 };
        for (b, x) in blocks.iter().enumerate() {
            let mut chain = 0.0;
            for first in (b * BLOCK..w.cols().min((b + 1) * BLOCK)).step_by(GROUP) {
                let sum = |columns: std::ops::Range<usize>, term: &dyn Fn(usize) -> i64| columns.map(term).sum::<i64>();
                let end = first + GROUP;
                let of_x = sum(first..end, &|k| i64::from(x.codes[k % BLOCK]));
                let step = x.steps[first % BLOCK / GROUP];
                for (from, to) in layout.scales.parts(first, end) {
                    let (scale, minimum, offset) = weights.scale(layout, from);
                    let of_codes =
                        sum(from..to, &|k| i64::from(weights.codes[k] - offset) * i64::from(x.codes[k % BLOCK]));
                    chain = fma(scale, of_codes as f32 * step, chain);
                    if layout.scales.has_minima() {
                        chain = fma(-minimum, of_x as f32 * step, chain);
                    }
                }
            }
            total = fma(x.step, chain, total);
        }
        *y = total;
    }
}
