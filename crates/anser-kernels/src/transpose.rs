//! Transposed copies of f32.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

#[cfg(target_arch = "x86_64")]
use crate::simd::fetch;
use crate::simd::{Isa, Level};

/// Writes `to[k * to_stride + j] = from[j * from_stride + k]` for each j below `rows` and k below `cols`.
///
/// # Safety
/// The pointers are valid for these elements, which do not overlap; the caller is compiled for, and runs with, the
/// instruction set.
#[inline(always)]
pub(crate) unsafe fn transpose<I: Isa>(
    from: *const f32,
    from_stride: usize,
    to: *mut f32,
    to_stride: usize,
    rows: usize,
    cols: usize,
) {
    let side = match I::LEVEL {
        Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => WIDE,
        _ => SIDE,
    };
    let (whole_rows, whole_cols) = (rows - rows % side, cols - cols % side);
    // SAFETY: squares lie within these rows and columns; a prefetch never faults.
    unsafe {
        for j in (0..whole_rows).step_by(side) {
            for k in (0..whole_cols).step_by(side) {
                let (from, to) = (from.add(j * from_stride + k), to.add(k * to_stride + j));
                if side == WIDE {
                    wide_square(from, from_stride, to, to_stride);
                } else {
                    square(from, from_stride, to, to_stride);
                }
            }
        }
        for k in 0..cols {
            for j in (if k < whole_cols { whole_rows } else { 0 })..rows {
                *to.add(k * to_stride + j) = *from.add(j * from_stride + k);
            }
        }
    }
}

/// The side of a square that any instruction set transposes in its registers.
const SIDE: usize = 8;

/// The side of one that AVX-512 does.
const WIDE: usize = 16;

#[inline(always)]
unsafe fn square(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    let mut block = [[0.0f32; SIDE]; SIDE];
    // SAFETY: by the contract of `transpose`.
    unsafe {
        for row in 0..SIDE {
            let from = from.add(row * from_stride).cast::<[f32; SIDE]>().read_unaligned();
            for column in 0..SIDE {
                block[column][row] = from[column];
            }
        }
        for column in 0..SIDE {
            to.add(column * to_stride).cast::<[f32; SIDE]>().write_unaligned(block[column]);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
use square as wide_square;

/// Columns ahead of a square that its rows are asked for: they may be pages apart, which no hardware looks ahead over.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 4 * WIDE;

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn wide_square(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
    // SAFETY: by the contract of `transpose`: only AVX-512 comes here.
    unsafe {
        let mut x = [_mm512_setzero_ps(); WIDE];
        for row in 0..WIDE {
            x[row] = _mm512_loadu_ps(from.add(row * from_stride));
            fetch(from.wrapping_add(row * from_stride + AHEAD), WIDE);
        }
        // Squares of 2 x 2, then of 4 x 4, within the four lanes of 128 bits.
        let mut pairs = x;
        for row in (0..WIDE).step_by(2) {
            pairs[row] = _mm512_unpacklo_ps(x[row], x[row + 1]);
            pairs[row + 1] = _mm512_unpackhi_ps(x[row], x[row + 1]);
        }
        let mut fours = x;
        for row in (0..WIDE).step_by(4) {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| _mm512_castps_pd(pairs[row + i]));
            fours[row] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
            fours[row + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
            fours[row + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
            fours[row + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
        }
        // Lane l of `fours[4 g + i]` has rows 4 g to 4 g + 3 of column 4 l + i.
        for i in 0..4 {
            let [a, b, c, d] = [0, 4, 8, 12].map(|group| fours[group + i]);
            let even = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
            let odd = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)];
            _mm512_storeu_ps(to.add(i * to_stride), _mm512_shuffle_f32x4::<0x88>(even[0], even[1]));
            _mm512_storeu_ps(to.add((4 + i) * to_stride), _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]));
            _mm512_storeu_ps(to.add((8 + i) * to_stride), _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]));
            _mm512_storeu_ps(to.add((12 + i) * to_stride), _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::transpose;
    use crate::simd::{Isa, Level, dispatch};

    #[inline(always)]
    fn transposed_body<I: Isa>(from: &[f32], rows: usize, cols: usize, to_stride: usize) -> Vec<f32> {
        let mut to = vec![-1.0; cols * to_stride];
        // SAFETY: `from` is [rows, cols] and `to` [cols, to_stride], which is no less than rows.
        unsafe { transpose::<I>(from.as_ptr(), cols, to.as_mut_ptr(), to_stride, rows, cols) };
        to
    }

    dispatch! {
        fn transposed(from: &[f32], rows: usize, cols: usize, to_stride: usize) -> Vec<f32> = transposed_body;
    }

    #[test]
    fn every_level_transposes_every_shape_and_nothing_beside_it() {
        for &level in Level::available() {
            for (rows, cols) in [(1, 1), (7, 9), (8, 8), (16, 16), (16, 40), (33, 17), (64, 64), (3, 50)] {
                let from: Vec<f32> = (0..rows * cols).map(|i| i as f32).collect();
                let to = transposed(level, &from, rows, cols, rows + 3);
                for (k, to) in to.chunks_exact(rows + 3).enumerate() {
                    let wanted = (0..rows).map(|j| from[j * cols + k]).chain([-1.0; 3]);
                    assert!(wanted.eq(to.iter().copied()), "{level}: column {k} of {rows} x {cols}");
                }
            }
        }
    }
}
