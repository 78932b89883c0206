//! Products with few rows of x (decoding): bound by the memory that the weights come from.
//!
//! Panels are read as several streams at once, each with its own software prefetch: a single stream leaves a core
//! waiting for memory, and the hardware prefetcher alone does not keep up once weights have to be widened.
#![allow(unsafe_code)]

use super::lanes::{Bf16, F16, F32, Lanes, load, store};
use super::region::{Input, Piece, finish};
#[cfg(target_arch = "x86_64")]
use super::step::Dot;
use super::step::{Packed, Pair, Rounded};
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
    match (level.supported(), piece.x) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is there, the rest is the contract of this function.
        (Level::Avx512Bf16, Input::Rounded { .. }) => unsafe { stream_dot(piece) },
        _ => stream_at(level, piece),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn stream_dot(piece: &Piece) {
    // SAFETY: by the contract of `stream`.
    unsafe { by_rows::<crate::simd::Avx512, Dot>(piece) };
    finish::<crate::simd::Avx512>(piece);
}

#[inline(always)]
fn stream_body<I: Lanes>(piece: &Piece) {
    // SAFETY: the only caller promises what `stream` asks for, and `dispatch!` checked the instruction set.
    unsafe {
        match (piece.x, piece.storage) {
            (Input::Rounded { .. }, _) => by_rows::<I, Rounded>(piece),
            (_, Float::F32) => by_rows::<I, Pair<F32>>(piece),
            (_, Float::Bf16) => by_rows::<I, Pair<Bf16>>(piece),
            (_, Float::F16) => by_rows::<I, Pair<F16>>(piece),
        }
    }
    finish::<I>(piece);
}

/// As many streams as accumulators allow: rows x streams x 2 registers on AVX2.
#[inline(always)]
unsafe fn by_rows<I: Lanes, S: Packed<I>>(piece: &Piece) {
    // SAFETY: by the contract of `stream`.
    unsafe {
        match piece.rows {
            1 if I::LANES == 16 => streams::<I, S, 1, 2>(piece),
            1 => streams::<I, S, 1, 4>(piece),
            2 => streams::<I, S, 2, 2>(piece),
            3 => streams::<I, S, 3, 2>(piece),
            _ => {
                for panel in piece.panels.clone() {
                    groups::<I, S>(piece, panel);
                }
            }
        }
    }
}

/// More than three rows times one panel, in groups of four to six: a panel is in the cache after the first.
#[inline(always)]
unsafe fn groups<I: Lanes, S: Packed<I>>(piece: &Piece, panel: usize) {
    let groups = piece.rows.div_ceil(ABREAST);
    let mut row = 0;
    for group in 0..groups {
        // SAFETY: by the contract of `stream`.
        unsafe {
            row += match (piece.rows - row).div_ceil(groups - group) {
                3 => panels::<I, S, 3, 1>(piece, row, [panel]),
                4 => panels::<I, S, 4, 1>(piece, row, [panel]),
                5 => panels::<I, S, 5, 1>(piece, row, [panel]),
                _ => panels::<I, S, 6, 1>(piece, row, [panel]),
            }
        }
    }
}

/// Cuts the panels into `P` runs that are read side by side, each from front to back.
#[inline(always)]
unsafe fn streams<I: Lanes, S: Packed<I>, const R: usize, const P: usize>(piece: &Piece) {
    let (first, count) = (piece.panels.start, piece.panels.len());
    let length = count / P;
    // SAFETY: by the contract of `stream`; all panels are among the piece's.
    unsafe {
        for i in 0..length {
            panels::<I, S, R, P>(piece, 0, std::array::from_fn(|p| first + p * length + i));
        }
        for panel in first + P * length..piece.panels.end {
            panels::<I, S, R, 1>(piece, 0, [panel]);
        }
    }
}

/// `R` rows of x, from `row` on, times `P` panels. Returns `R`.
#[inline(always)]
unsafe fn panels<I: Lanes, S: Packed<I>, const R: usize, const P: usize>(
    piece: &Piece,
    row: usize,
    panels: [usize; P],
) -> usize {
    let column = PANEL * S::WEIGHT;
    let panel_bytes = piece.storage.panel_bytes(piece.cols);
    let w = panels.map(|panel| piece.w.wrapping_add(panel * panel_bytes));
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
            let length = (piece.cols - start).min(BLOCK);
            let x: [*const u8; R] = std::array::from_fn(|r| piece.x.block(row + r, start / BLOCK, piece.cols));
            let mut sum = [[I::zero(); P]; R];
            let mut k = 0;
            while k + 2 <= length {
                let mut values = [S::values(x[0]); R];
                for r in 0..R {
                    values[r] = S::values(x[r].add(k * S::VALUE));
                }
                for p in 0..P {
                    let at = w[p].add((start + k) * column);
                    for line in 0..2 * column / 64 {
                        I::prefetch(at.wrapping_add(AHEAD + line * 64));
                    }
                    let weights = S::weights(at);
                    for r in 0..R {
                        sum[r][p] = S::add(weights, values[r], sum[r][p]);
                    }
                }
                k += 2;
            }
            if k < length {
                for p in 0..P {
                    for r in 0..R {
                        let at = w[p].add((start + k) * column);
                        sum[r][p] = S::add_last(at, x[r].add(k * S::VALUE), sum[r][p]);
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
