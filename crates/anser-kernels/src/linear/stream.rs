//! Products with few rows of x (decoding): bound by the memory that the weights come from.
//!
//! Panels are read as several streams at once, each with its own software prefetch: a single stream leaves a core
//! waiting for memory, and the hardware prefetcher alone does not keep up once weights have to be widened.
#![allow(unsafe_code)]

use super::lanes::{Bf16, F16, F32, Format, Lanes, load, store};
use super::region::{Piece, finish};
use super::{BLOCK, Epilogue, Float, PANEL};
use crate::simd::{Level, dispatch};

/// The most rows of x that are computed this way. With more, widening the weights once for all rows pays.
pub(super) const FEW: usize = 24;

/// The most rows of x that pass over a panel together.
pub(super) const ABREAST: usize = 6;

/// How far ahead of its use a weight is asked for, in bytes.
const AHEAD: usize = 4096;

dispatch! {
    fn stream_at(piece: &Piece) = stream_body;
}

/// Computes a piece of at most [`FEW`] rows.
///
/// # Safety
/// The piece's pointers are valid for its shape, and nobody else touches its part of y.
pub(super) unsafe fn stream(level: Level, piece: &Piece) {
    stream_at(level, piece);
}

#[inline(always)]
fn stream_body<I: Lanes>(piece: &Piece) {
    // SAFETY: the only caller promises what `stream` asks for, and `dispatch!` checked the instruction set.
    unsafe {
        match piece.storage {
            Float::F32 => by_rows::<I, F32>(piece),
            Float::Bf16 => by_rows::<I, Bf16>(piece),
            Float::F16 => by_rows::<I, F16>(piece),
        }
    }
    finish::<I>(piece);
}

/// As many streams as accumulators allow: rows x streams x 2 registers on AVX2.
#[inline(always)]
unsafe fn by_rows<I: Lanes, F: Format>(piece: &Piece) {
    // SAFETY: by the contract of `stream`.
    unsafe {
        match piece.rows {
            1 if I::LANES == 16 => streams::<I, F, 1, 2>(piece),
            1 => streams::<I, F, 1, 4>(piece),
            2 => streams::<I, F, 2, 2>(piece),
            3 => streams::<I, F, 3, 2>(piece),
            _ => {
                for panel in piece.panels.clone() {
                    groups::<I, F>(piece, panel);
                }
            }
        }
    }
}

/// More than three rows times one panel, in groups of four to six: a panel is in the cache after the first.
#[inline(always)]
unsafe fn groups<I: Lanes, F: Format>(piece: &Piece, panel: usize) {
    let groups = piece.rows.div_ceil(ABREAST);
    let mut row = 0;
    for group in 0..groups {
        // SAFETY: by the contract of `stream`.
        unsafe {
            row += match (piece.rows - row).div_ceil(groups - group) {
                3 => panels::<I, F, 3, 1>(piece, row, [panel]),
                4 => panels::<I, F, 4, 1>(piece, row, [panel]),
                5 => panels::<I, F, 5, 1>(piece, row, [panel]),
                _ => panels::<I, F, 6, 1>(piece, row, [panel]),
            }
        }
    }
}

/// Cuts the panels into `P` runs that are read side by side, each from front to back.
#[inline(always)]
unsafe fn streams<I: Lanes, F: Format, const R: usize, const P: usize>(piece: &Piece) {
    let (first, count) = (piece.panels.start, piece.panels.len());
    let length = count / P;
    // SAFETY: by the contract of `stream`; all panels are among the piece's.
    unsafe {
        for i in 0..length {
            panels::<I, F, R, P>(piece, 0, std::array::from_fn(|p| first + p * length + i));
        }
        for panel in first + P * length..piece.panels.end {
            panels::<I, F, R, 1>(piece, 0, [panel]);
        }
    }
}

/// `R` rows of x, from `row` on, times `P` panels. Returns `R`.
#[inline(always)]
unsafe fn panels<I: Lanes, F: Format, const R: usize, const P: usize>(
    piece: &Piece,
    row: usize,
    panels: [usize; P],
) -> usize {
    let column = PANEL * F::BYTES;
    let w = panels.map(|panel| piece.w.wrapping_add(panel * piece.cols * column));
    let x: [*const f32; R] = std::array::from_fn(|r| piece.x.wrapping_add((row + r) * piece.cols));
    let y = |r: usize, p: usize| piece.y.wrapping_add((row + r) * piece.outputs + panels[p] * PANEL);
    let width = |p: usize| (piece.outputs - panels[p] * PANEL).min(PANEL);
    let add = piece.then == Epilogue::Add;
    // SAFETY: columns are within the matrix, rows within x and y (contract of `stream`).
    unsafe {
        let mut total = [[I::zero(); P]; R];
        if add {
            for r in 0..R {
                for p in 0..P {
                    total[r][p] = load::<I>(y(r, p), width(p));
                }
            }
        }
        for start in (0..piece.cols).step_by(BLOCK) {
            let end = piece.cols.min(start + BLOCK);
            let mut sum = [[I::zero(); P]; R];
            for k in start..end {
                let mut values = [I::splat(0.0); R];
                for r in 0..R {
                    values[r] = I::splat(*x[r].add(k));
                }
                for p in 0..P {
                    let at = w[p].add(k * column);
                    // A cache line holds one column of f32 and two of the others.
                    if F::BYTES == 4 || k % 2 == 0 {
                        I::prefetch(at.wrapping_add(AHEAD));
                    }
                    let weights = F::load::<I>(at);
                    for r in 0..R {
                        sum[r][p] = I::multiply_add(weights, values[r], sum[r][p]);
                    }
                }
            }
            for r in 0..R {
                for p in 0..P {
                    total[r][p] = if start == 0 && !add { sum[r][p] } else { I::add(total[r][p], sum[r][p]) };
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                store::<I>(total[r][p], y(r, p), width(p));
            }
        }
    }
    R
}
