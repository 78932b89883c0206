//! Products with many rows of x (prefill, batches): bound by arithmetic.
//!
//! A register tile of some rows by one or two panels runs over a block of columns. The block of a panel stays in the
//! first-level cache while all rows pass by. Where an instruction multiplies bf16, weights and rounded rows are taken as
//! they lie. Elsewhere 16-bit weights are widened once for all rows, and the rows' block of columns is copied together
//! first, so that it fills the second-level cache evenly whatever the width of x.
#![allow(unsafe_code)]

use std::cell::RefCell;

use super::lanes::{Bf16, F16, Format, Lanes, load, store};
use super::region::{Input, Piece, finish};
#[cfg(target_arch = "x86_64")]
use super::step::Dot;
use super::step::{Single, Step, turned, widened};
use super::{BLOCK, Epilogue, Float, PANEL};
use crate::simd::{Level, dispatch};

/// The most rows of a piece: with a block of columns each, half of a second-level cache of 512 KiB.
pub(super) const CHUNK: usize = 252;

/// Panels of the widest tile.
const WIDEST: usize = 2;

/// A cache line of f32.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "used through a pointer")] [f32; PANEL]);

thread_local! {
    /// `CHUNK` rows of x, then `WIDEST` widened panels, a block of columns each.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

dispatch! {
    fn tiles_at(piece: &Piece, scratch: &mut [Line]) = tiles_body;
}

/// Computes a piece of at most [`CHUNK`] rows.
///
/// # Safety
/// The piece's pointers are valid for its shape, and nobody else touches its part of y.
pub(super) unsafe fn tiles(level: Level, piece: &Piece) {
    debug_assert!(piece.rows <= CHUNK);
    match (level.supported(), piece.x) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level is there, the rest is the contract of this function.
        (Level::Avx512Bf16, Input::Rounded { .. }) => unsafe { tiles_dot(piece) },
        _ => SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize((CHUNK + WIDEST * PANEL) * BLOCK / PANEL, Line([0.0; PANEL]));
            tiles_at(level, piece, scratch);
        }),
    }
}

#[inline(always)]
fn tiles_body<I: Lanes>(piece: &Piece, scratch: &mut [Line]) {
    let scratch = scratch.as_mut_ptr().cast();
    // SAFETY: the only caller promises what `tiles` asks for, and `dispatch!` checked the instruction set.
    unsafe {
        // The tile that fills the registers: 12 accumulators of 16 on AVX2, 24 of 32 on AVX-512.
        match I::LEVEL {
            Level::Avx512 | Level::Avx512Vnni | Level::Avx512Bf16 => blocks::<I, 12, 2>(piece, scratch),
            Level::Avx2 | Level::Avx2Vnni => blocks::<I, 6, 1>(piece, scratch),
            Level::Portable | Level::Neon | Level::NeonDot => blocks::<I, 4, 1>(piece, scratch),
        }
    }
    finish::<I>(piece);
}

/// Bf16 times bf16 in one instruction: block of columns by block of columns, nothing is copied or widened.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma,f16c")]
unsafe fn tiles_dot(piece: &Piece) {
    let panel_bytes = piece.storage.panel_bytes(piece.cols);
    // SAFETY: by the contract of `tiles`.
    unsafe {
        for start in (0..piece.cols).step_by(BLOCK) {
            let block = Columns {
                x: piece.x.block(0, start / BLOCK, piece.cols),
                stride: BLOCK * 2,
                start,
                steps: (piece.cols - start).min(BLOCK).div_ceil(2),
            };
            for panel in piece.panels.clone().step_by(WIDEST) {
                let mut w = [piece.w; WIDEST];
                for p in 0..WIDEST {
                    // An odd last panel is computed twice rather than by a tile of its own.
                    let panel = (panel + p).min(piece.panels.end - 1);
                    w[p] = piece.w.add(panel * panel_bytes + start * PANEL * 2);
                }
                rows::<crate::simd::Avx512, Dot, 12, WIDEST>(piece, &block, w, panel);
            }
        }
    }
    finish::<crate::simd::Avx512>(piece);
}

/// A block of columns of x.
struct Columns {
    /// That of the first row, and how many bytes later the next one is.
    x: *const u8,
    stride: usize,
    /// Its first column, and how many steps it has.
    start: usize,
    steps: usize,
}

/// Block of columns by block of columns, all rows and panels of the piece, in f32.
#[inline(always)]
unsafe fn blocks<I: Lanes, const R: usize, const P: usize>(piece: &Piece, scratch: *mut f32) {
    let column = PANEL * piece.storage.bytes();
    let panel_bytes = piece.storage.panel_bytes(piece.cols);
    let rounded = matches!(piece.x, Input::Rounded { .. });
    // SAFETY: the scratch holds CHUNK + WIDEST * PANEL blocks; the rest is the contract of `tiles`.
    unsafe {
        let wide = scratch.add(CHUNK * BLOCK);
        for start in (0..piece.cols).step_by(BLOCK) {
            let length = (piece.cols - start).min(BLOCK);
            for row in 0..piece.rows {
                let (from, to) = (piece.x.block(row, start / BLOCK, piece.cols), scratch.add(row * BLOCK));
                if rounded {
                    for k in (0..length).step_by(2) {
                        let [first, second] = widened(from.add(k * 2));
                        to.add(k).cast::<[f32; 2]>().write_unaligned([second, first]);
                    }
                } else {
                    std::ptr::copy_nonoverlapping(from.cast(), to, length);
                }
            }
            let steps = if rounded { length.next_multiple_of(2) } else { length };
            let block = Columns { x: scratch.cast_const().cast(), stride: BLOCK * size_of::<f32>(), start, steps };
            let mut panel = piece.panels.start;
            while panel < piece.panels.end {
                // An odd last panel is computed twice rather than by a tile of its own.
                let mut w = [wide.cast_const().cast(); P];
                for p in 0..P {
                    let panel = (panel + p).min(piece.panels.end - 1);
                    let from = piece.w.add(panel * panel_bytes + start * column);
                    let wide = wide.add(p * BLOCK * PANEL);
                    w[p] = match piece.storage {
                        Float::F32 => from,
                        Float::Bf16 if rounded => {
                            for k in (0..length).step_by(2) {
                                turned::<I>(from.add(k * column), wide.add(k * PANEL));
                            }
                            wide.cast_const().cast()
                        }
                        Float::Bf16 => widen::<I, Bf16>(from, length, wide),
                        Float::F16 => widen::<I, F16>(from, length, wide),
                    };
                }
                rows::<I, Single, R, P>(piece, &block, w, panel);
                panel += P;
            }
        }
    }
}

/// Widens a block of a panel to f32; returns where to.
#[inline(always)]
unsafe fn widen<I: Lanes, F: Format>(from: *const u8, length: usize, to: *mut f32) -> *const u8 {
    let even = length / 2 * 2;
    // SAFETY: by the contract of `tiles`; `to` has room for a block.
    unsafe {
        for k in (0..even).step_by(2) {
            let [first, second] = F::load_two::<I>(from.add(k * PANEL * F::BYTES));
            I::store(first, to.add(k * PANEL));
            I::store(second, to.add((k + 1) * PANEL));
        }
        if even < length {
            I::store(F::load::<I>(from.add(even * PANEL * F::BYTES)), to.add(even * PANEL));
        }
    }
    to.cast_const().cast()
}

/// All rows times one block of `P` panels.
#[inline(always)]
unsafe fn rows<I: Lanes, S: Step<I>, const R: usize, const P: usize>(
    piece: &Piece,
    block: &Columns,
    w: [*const u8; P],
    panel: usize,
) {
    let panel_bytes = piece.storage.panel_bytes(piece.cols);
    let add = block.start > 0 || piece.then == Epilogue::Add;
    let end = piece.outputs.min(piece.panels.end * PANEL);
    let width = (end - panel * PANEL).min(P * PANEL);
    // The block that comes next is fetched while this one is computed, by the first tiles.
    let mut next = piece.w.wrapping_add((panel + P) * panel_bytes + block.start * PANEL * piece.storage.bytes());
    let end = next.wrapping_add(block.steps * S::COLUMNS * PANEL * piece.storage.bytes());
    let tiles = piece.rows.div_ceil(R);
    let mut row = 0;
    for tile in 0..tiles {
        // SAFETY: by the contract of `tiles`: the block of columns is within the panel, the rows within x and y.
        unsafe {
            let task = Tile {
                x: block.x.add(row * block.stride),
                stride: block.stride,
                w,
                steps: block.steps,
                y: piece.y.add(row * piece.outputs + panel * PANEL),
                outputs: piece.outputs,
                width,
                add,
                next,
                panel_bytes,
            };
            // All tiles of about the same height: a low one would leave the multipliers waiting.
            row += by_height::<I, S, R, P>(&task, (piece.rows - row).div_ceil(tiles - tile));
        }
        if next < end {
            next = next.wrapping_add(block.steps / FETCH_EVERY * 64);
        }
    }
}

/// Steps of a tile for each cache line it fetches of the next block.
const FETCH_EVERY: usize = 4;

/// What a tile needs to know.
struct Tile<const P: usize> {
    x: *const u8,
    /// The distance of rows of x, in bytes.
    stride: usize,
    w: [*const u8; P],
    steps: usize,
    y: *mut f32,
    /// The distance of rows of y.
    outputs: usize,
    /// Outputs of the panels that exist.
    width: usize,
    add: bool,
    /// What to fetch for later: of `P` panels, so many bytes apart.
    next: *const u8,
    panel_bytes: usize,
}

/// A tile of `height` rows, of which `R` are the most. Returns the height.
#[inline(always)]
unsafe fn by_height<I: Lanes, S: Step<I>, const R: usize, const P: usize>(t: &Tile<P>, height: usize) -> usize {
    // SAFETY: by the contract of `tiles`.
    unsafe {
        match height {
            1 => tile::<I, S, 1, P>(t),
            2 => tile::<I, S, 2, P>(t),
            3 if R > 3 => tile::<I, S, 3, P>(t),
            4 if R > 4 => tile::<I, S, 4, P>(t),
            5 if R > 5 => tile::<I, S, 5, P>(t),
            6 if R > 6 => tile::<I, S, 6, P>(t),
            7 if R > 7 => tile::<I, S, 7, P>(t),
            8 if R > 8 => tile::<I, S, 8, P>(t),
            9 if R > 9 => tile::<I, S, 9, P>(t),
            10 if R > 10 => tile::<I, S, 10, P>(t),
            11 if R > 11 => tile::<I, S, 11, P>(t),
            _ => tile::<I, S, R, P>(t),
        }
    }
}

/// `R` rows of x times a block of `P` panels: one chain of multiply-adds for each element. Returns `R`.
#[inline(always)]
unsafe fn tile<I: Lanes, S: Step<I>, const R: usize, const P: usize>(t: &Tile<P>) -> usize {
    // SAFETY: by the contract of `tiles`.
    unsafe {
        for r in 0..R {
            I::prefetch(t.y.wrapping_add(r * t.outputs).cast());
        }
        let mut sum = [[I::zero(); P]; R];
        let (mut k, mut next) = (0, t.next);
        while k + FETCH_EVERY <= t.steps {
            for p in 0..P {
                I::prefetch_late(next.wrapping_add(p * t.panel_bytes));
            }
            next = next.wrapping_add(64);
            for i in 0..FETCH_EVERY {
                step::<I, S, R, P>(t, k + i, &mut sum);
            }
            k += FETCH_EVERY;
        }
        while k < t.steps {
            step::<I, S, R, P>(t, k, &mut sum);
            k += 1;
        }
        for r in 0..R {
            for p in 0..P {
                let y = t.y.add(r * t.outputs + p * PANEL);
                let width = t.width.saturating_sub(p * PANEL).min(PANEL);
                let total = if t.add { I::add(load::<I>(y, width), sum[r][p]) } else { sum[r][p] };
                store::<I>(total, y, width);
            }
        }
    }
    R
}

/// Step `k` of a tile.
#[inline(always)]
unsafe fn step<I: Lanes, S: Step<I>, const R: usize, const P: usize>(
    t: &Tile<P>,
    k: usize,
    sum: &mut [[I::Row; P]; R],
) {
    // What a step takes of a panel fills a cache line, and so do sixteen of a row of x.
    // SAFETY: by the contract of `tiles`.
    unsafe {
        let mut weights = [S::weights(t.w[0].add(k * 64)); P];
        for p in 1..P {
            weights[p] = S::weights(t.w[p].add(k * 64));
        }
        for r in 0..R {
            let values = S::values(t.x.add(r * t.stride + k * S::COLUMNS * S::VALUE));
            for p in 0..P {
                sum[r][p] = S::add(weights[p], values, sum[r][p]);
            }
        }
    }
}
