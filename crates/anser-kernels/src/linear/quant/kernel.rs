//! The products of codes: few rows of x straight from the packed form, more rows from a block widened once.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::hint::black_box;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::region::{FEW, Part, Sums, finish_part};
use super::super::{BLOCK, Epilogue, PANEL};
use super::lanes::{Kernel, Lanes, load, store};
use super::layout::{Codes, Layout, Scales, Steps};
use super::source::{
    Affine, Bytes, CodeSource, Half, Nibbles, ScaleSource, Sixteen, WIDE_CODES, WIDE_SCALES, WideScales, lifted, widen,
};
use super::{Activations, GROUP};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx2Vnni, Avx512, Avx512Vnni};
use crate::simd::{Level, Portable};
#[cfg(target_arch = "aarch64")]
use crate::simd::{Neon, NeonDot};

/// How far ahead of their use codes are asked for, in bytes.
const AHEAD: usize = 4096;

/// Panels of the widest tile.
const WIDEST: usize = 2;

/// Rows of the tallest tile.
const MOST: usize = 6;

/// Rows times panels of the largest tile.
const LARGEST: usize = 24;

/// Panels that are computed to the end before the next if there are many rows: even, and few enough that their sums and
/// a block of x stay in a second-level cache of 512 KiB.
const RUN: usize = 16;

/// Groups of a whole block.
const GROUPS: usize = BLOCK / GROUP;

/// The part of a product that one thread computes in one go.
pub(in super::super) struct Piece {
    pub(in super::super) layout: Layout,
    pub(in super::super) steps: Steps,
    /// The planes of the whole matrix, and what a panel takes of each.
    pub(in super::super) codes: *const u8,
    pub(in super::super) scales: *const u8,
    pub(in super::super) code_bytes: usize,
    pub(in super::super) scale_bytes: usize,
    /// Groups of a row.
    pub(in super::super) groups: usize,
    /// Times eight columns that share a scale. The layout says it too, but what the compiler knows it unrolls, fourfold.
    pub(in super::super) octets: usize,
    /// Block 0 of the first row of x; the next row follows it, the next block comes `x_rows` later.
    pub(in super::super) x: *const Activations,
    pub(in super::super) x_rows: usize,
    /// What is written, and what becomes of it.
    pub(in super::super) part: Part,
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "used through a pointer")] [u8; 64]);

/// Where [`SCRATCH`] has the chains of a tile, the sums of a run and the widened panels, in bytes.
const SUMS: usize = LARGEST * PANEL * 4;
const WIDE: usize = SUMS + Sums::room(RUN) * 4;

thread_local! {
    /// The chains of a tile, the sums of [`RUN`] panels, and [`WIDEST`] blocks of a panel, widened.
    static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Computes a piece.
///
/// # Safety
/// The piece's pointers are valid for its shape, and nobody else touches its part of y.
pub(in super::super) unsafe fn compute(level: Level, piece: &Piece) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.resize((WIDE + WIDEST * (WIDE_CODES + WIDE_SCALES)) / 64, Line([0; 64]));
        compute_at(level, piece, scratch.as_mut_ptr().cast());
    });
}

/// Every level has a form of its own, unlike in other kernels.
fn compute_at(level: Level, piece: &Piece, scratch: *mut u8) {
    // SAFETY: the only caller promises what `compute` asks for, and `supported` returns only levels whose features this
    // CPU was found to have.
    unsafe {
        match level.supported() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 | Level::Avx512Vnni => by_layout::<Avx512Vnni>(piece, scratch),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => by_layout::<Avx512>(piece, scratch),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2Vnni => by_layout::<Avx2Vnni>(piece, scratch),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => by_layout::<Avx2>(piece, scratch),
            #[cfg(target_arch = "aarch64")]
            Level::NeonDot => by_layout::<NeonDot>(piece, scratch),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => by_layout::<Neon>(piece, scratch),
            _ => by_layout::<Portable>(piece, scratch),
        }
    }
}

unsafe fn by_layout<I: Lanes>(piece: &Piece, scratch: *mut u8) {
    type Plain = WideScales<32, false>;
    type WithMinima = WideScales<32, true>;
    // SAFETY: by the contract of `compute`.
    unsafe {
        match (piece.layout.codes, piece.layout.scales) {
            (Codes::Bytes, Scales::Half { .. }) => by_inputs::<I, Bytes, Half<0>, Plain>(piece, scratch),
            (Codes::Nibbles, Scales::Half { .. }) => by_inputs::<I, Nibbles, Half<8>, Plain>(piece, scratch),
            (Codes::Bytes, Scales::Affine) => by_inputs::<I, Bytes, Affine, WithMinima>(piece, scratch),
            (Codes::Nibbles, Scales::Affine) => by_inputs::<I, Nibbles, Affine, WithMinima>(piece, scratch),
            (_, Scales::Sixteen) => by_rows::<I, Bytes, Sixteen, WideScales<16, false>, SIXTEEN>(piece, scratch),
        }
    }
}

unsafe fn by_inputs<I: Lanes, C: CodeSource, S: ScaleSource, W: ScaleSource>(piece: &Piece, scratch: *mut u8) {
    // SAFETY: by the contract of `compute`.
    unsafe {
        match piece.steps {
            Steps::Sixteen => by_rows::<I, C, S, W, SIXTEEN>(piece, scratch),
            Steps::OfGroups => by_rows::<I, C, S, W, OF_GROUPS>(piece, scratch),
            Steps::OfBlocks => by_rows::<I, C, S, W, OF_BLOCKS>(piece, scratch),
        }
    }
}

/// What `E` is from here on: x has 16 bits, or 8 bits and steps of groups or of blocks.
const SIXTEEN: u8 = 0;
const OF_GROUPS: u8 = 1;
const OF_BLOCKS: u8 = 2;

unsafe fn by_rows<I: Lanes, C: CodeSource, S: ScaleSource, W: ScaleSource, const E: u8>(
    piece: &Piece,
    scratch: *mut u8,
) {
    // SAFETY: by the contract of `compute`.
    unsafe {
        match piece.part.rows {
            // Two streams keep the memory busy where one instruction multiplies a whole panel: four were 20 % slower.
            1 if I::ROOM => streams::<I, C, S, 1, 2, E>(piece),
            // As many streams as accumulators allow: rows x streams x 2 registers.
            1 if I::LANES > 4 => streams::<I, C, S, 1, 4, E>(piece),
            2 if I::LANES > 4 => streams::<I, C, S, 2, 2, E>(piece),
            ..=FEW if I::ROOM => few::<I, C, S, E>(piece),
            1 => streams::<I, C, S, 1, 1, E>(piece),
            // The tile that fills the registers: 12 sums of 16 registers on AVX2, 24 of 32 on AVX-512, 16 of 32 on NEON.
            _ => match (I::LANES, I::LEVEL) {
                (16, _) => blocks::<I, C, S, W, 6, 2, E>(piece, scratch),
                (8, _) => blocks::<I, C, S, W, 6, 1, E>(piece, scratch),
                (_, Level::Neon | Level::NeonDot) => blocks::<I, C, S, W, 4, 1, E>(piece, scratch),
                _ => blocks::<I, C, S, W, 2, 1, E>(piece, scratch),
            },
        }
    }
}

/// The function of the epilogue.
struct Finish<'a> {
    part: &'a Part,
}

impl Kernel for Finish<'_> {
    #[inline(always)]
    unsafe fn run<I: Lanes>(self) {
        finish_part::<I>(self.part);
    }
}

/// [`Sums::give`]
struct Give<'a> {
    sums: Sums,
    part: &'a Part,
}

impl Kernel for Give<'_> {
    #[inline(always)]
    unsafe fn run<I: Lanes>(self) {
        // SAFETY: by the contract of `compute`.
        unsafe { self.sums.give::<I>(self.part) }
    }
}

/// Cuts the panels into `P` runs that are read side by side, each from front to back.
unsafe fn streams<I: Lanes, C: CodeSource, S: ScaleSource, const R: usize, const P: usize, const E: u8>(piece: &Piece) {
    let Range { start: first, end } = piece.part.panels;
    let length = (end - first) / P;
    // SAFETY: by the contract of `compute`; all panels are among the piece's.
    unsafe {
        for i in 0..length {
            let mut panel = [0; P];
            for p in 0..P {
                panel[p] = first + p * length + i;
            }
            I::run(Panels::<C, S, R, P, E> { piece, row: 0, panels: panel, kinds: PhantomData });
        }
        for panel in first + P * length..end {
            I::run(Panels::<C, S, R, 1, E> { piece, row: 0, panels: [panel], kinds: PhantomData });
        }
        if !matches!(piece.part.then, Epilogue::Store | Epilogue::Add) {
            I::run(Finish { part: &piece.part });
        }
    }
}

/// Three rows or more, straight from the packed form too, where there are registers for it: two panels after two panels,
/// all rows, up to six at a time.
unsafe fn few<I: Lanes, C: CodeSource, S: ScaleSource, const E: u8>(piece: &Piece) {
    let Range { start: first, end } = piece.part.panels;
    let length = (end - first) / 2;
    let pairs = (0..length).map(|i| [first + i, first + length + i]);
    // An odd last panel is its own second: both take the old sums before either gives the new ones.
    for panels in pairs.chain(((end - first) % 2 == 1).then_some([end - 1; 2])) {
        let tiles = piece.part.rows.div_ceil(MOST);
        let mut row = 0;
        for tile in 0..tiles {
            // SAFETY: by the contract of `compute`.
            unsafe {
                row += match (piece.part.rows - row).div_ceil(tiles - tile) {
                    ..=3 => height::<I, C, S, 3, E>(piece, row, panels),
                    4 => height::<I, C, S, 4, E>(piece, row, panels),
                    5 => height::<I, C, S, 5, E>(piece, row, panels),
                    _ => height::<I, C, S, MOST, E>(piece, row, panels),
                };
            }
        }
    }
    if !matches!(piece.part.then, Epilogue::Store | Epilogue::Add) {
        // SAFETY: by the contract of `compute`.
        unsafe { I::run(Finish { part: &piece.part }) }
    }
}

/// `R` rows. Returns how many.
unsafe fn height<I: Lanes, C: CodeSource, S: ScaleSource, const R: usize, const E: u8>(
    piece: &Piece,
    row: usize,
    panels: [usize; 2],
) -> usize {
    // SAFETY: by the contract of `compute`.
    unsafe { I::run(Panels::<C, S, R, 2, E> { piece, row, panels, kinds: PhantomData }) }
    R
}

/// `R` rows of x from `row` on, times `P` panels, from the packed form.
struct Panels<'a, C, S, const R: usize, const P: usize, const E: u8> {
    piece: &'a Piece,
    row: usize,
    panels: [usize; P],
    kinds: PhantomData<(C, S)>,
}

impl<C: CodeSource, S: ScaleSource, const R: usize, const P: usize, const E: u8> Kernel for Panels<'_, C, S, R, P, E> {
    #[inline(always)]
    unsafe fn run<I: Lanes>(self) {
        // SAFETY: by the contract of `compute`.
        unsafe { panels::<I, C, S, R, P, E>(self.piece, self.row, self.panels) }
    }
}

#[inline(always)]
unsafe fn panels<I: Lanes, C: CodeSource, S: ScaleSource, const R: usize, const P: usize, const E: u8>(
    piece: &Piece,
    row: usize,
    panels: [usize; P],
) {
    let part = &piece.part;
    // The first rows bring the codes into the cache for all.
    let ahead = if row == 0 { AHEAD } else { 0 };
    let add = part.then == Epilogue::Add;
    // SAFETY: groups are within the matrix, rows within x and y (contract of `compute`).
    unsafe {
        let mut total = [[I::splat(0.0); P]; R];
        if add {
            for r in 0..R {
                for p in 0..P {
                    total[r][p] = load::<I>(part.at(row + r, panels[p]), part.width(panels[p]));
                }
            }
        }
        for b in 0..piece.groups.div_ceil(GROUPS) {
            let x = piece.x.add(b * piece.x_rows + row);
            let mut codes = [piece.codes; P];
            let mut scales = [piece.scales; P];
            for p in 0..P {
                codes[p] = piece.codes.add(panels[p] * piece.code_bytes + b * (BLOCK / 8) * C::OCTET);
                scales[p] = piece.scales.add(panels[p] * piece.scale_bytes + b * S::BLOCK);
            }
            let groups = (piece.groups - b * GROUPS).min(GROUPS);
            let chain = block::<I, C, S, R, P, E>(x, codes, scales, groups, piece.octets, ahead);
            for r in 0..R {
                let step = I::splat((*x.add(r)).step);
                for p in 0..P {
                    total[r][p] = I::multiply_add(step, chain[r][p], total[r][p]);
                }
            }
        }
        for r in 0..R {
            for p in 0..P {
                store::<I>(total[r][p], part.at(row + r, panels[p]), part.width(panels[p]));
            }
        }
    }
}

/// `R` rows of x times a block of `P` panels, from the packed form, without the step of x.
#[inline(always)]
unsafe fn block<I: Lanes, C: CodeSource, S: ScaleSource, const R: usize, const P: usize, const E: u8>(
    x: *const Activations,
    codes: [*const u8; P],
    scales: [*const u8; P],
    groups: usize,
    octets: usize,
    ahead: usize,
) -> [[I::Row; P]; R] {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let mut chain = [[I::splat(0.0); P]; R];
        for g in 0..groups {
            for p in 0..P {
                I::prefetch(scales[p].wrapping_add(g * (S::BLOCK / GROUPS) + ahead / 8));
            }
            for part in 0..GROUP / S::COLUMNS {
                let n = g * (GROUP / S::COLUMNS) + part;
                let mut sums =
                    if E != SIXTEEN && I::BYTES { first_sums::<I, S, R, P>(x, g) } else { [[I::no_sums(); P]; R] };
                for octet in n * octets..(n + 1) * octets {
                    let mut at = codes;
                    for p in 0..P {
                        at[p] = codes[p].add(octet * C::OCTET);
                        for line in 0..C::OCTET / 64 {
                            I::prefetch(at[p].wrapping_add(ahead + line * 64));
                        }
                    }
                    if E != SIXTEEN && I::BYTES {
                        bytes::<I, C, S, R, P, 0>(x, at, octet, &mut sums);
                        bytes::<I, C, S, R, P, 1>(x, at, octet, &mut sums);
                        continue;
                    }
                    if I::ROOM {
                        together::<I, C, R, P, 0>(x, at, octet, &mut sums);
                        together::<I, C, R, P, 1>(x, at, octet, &mut sums);
                        together::<I, C, R, P, 2>(x, at, octet, &mut sums);
                        together::<I, C, R, P, 3>(x, at, octet, &mut sums);
                        continue;
                    }
                    // Panel by panel, so that few words of codes are in registers at a time.
                    for p in 0..P {
                        packed::<I, C, R, P, 0>(x, at[p], octet, p, &mut sums);
                        packed::<I, C, R, P, 1>(x, at[p], octet, p, &mut sums);
                        packed::<I, C, R, P, 2>(x, at[p], octet, p, &mut sums);
                        packed::<I, C, R, P, 3>(x, at[p], octet, p, &mut sums);
                    }
                }
                for p in 0..P {
                    let scale = S::scale::<I>(scales[p], n);
                    for r in 0..R {
                        let mut sum = I::float(sums[r][p]);
                        if S::OFFSET > 0.0 && !(E != SIXTEEN && I::BYTES) {
                            // Exact: what is added and the result are integers below 2^24.
                            sum = I::multiply_add(I::splat(-S::OFFSET), I::splat((*x.add(r)).sums[g]), sum);
                        }
                        chain[r][p] = I::multiply_add(scale, stepped::<I, E>(sum, x.add(r), g), chain[r][p]);
                    }
                }
            }
            if S::MINIMA {
                for p in 0..P {
                    let minimum = S::minimum::<I>(scales[p], g);
                    for r in 0..R {
                        chain[r][p] = I::multiply_add(minimum, I::splat((*x.add(r)).scaled[g]), chain[r][p]);
                    }
                }
            }
        }
        chain
    }
}

/// What sums of products of bytes begin with: it makes up for [`Lanes::LIFT`].
#[inline(always)]
unsafe fn first_sums<I: Lanes, S: ScaleSource, const R: usize, const P: usize>(
    x: *const Activations,
    g: usize,
) -> [[I::Sums; P]; R] {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let mut sums = [[I::no_sums(); P]; R];
        if I::LIFT > 0 && !S::MINIMA {
            for r in 0..R {
                sums[r] = [I::splat_sums((*x.add(r)).offsets[g]); P];
            }
        }
        sums
    }
}

/// Four columns of eight as bytes, of all panels.
#[inline(always)]
unsafe fn bytes<I: Lanes, C: CodeSource, S: ScaleSource, const R: usize, const P: usize, const HALF: usize>(
    x: *const Activations,
    at: [*const u8; P],
    octet: usize,
    sums: &mut [[I::Sums; P]; R],
) {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let mut w = [lifted::<I, C, S, HALF>(at[0]); P];
        for p in 1..P {
            w[p] = lifted::<I, C, S, HALF>(at[p]);
        }
        for r in 0..R {
            let four = I::both((&raw const (*x.add(r)).bytes).cast::<i8>().add(octet * 8 + 4 * HALF).cast());
            for p in 0..P {
                sums[r][p] = I::dot_bytes(w[p], four, sums[r][p]);
            }
        }
    }
}

/// Two columns of eight, those of `N`, of one panel.
#[inline(always)]
unsafe fn packed<I: Lanes, C: CodeSource, const R: usize, const P: usize, const N: usize>(
    x: *const Activations,
    at: *const u8,
    octet: usize,
    p: usize,
    sums: &mut [[I::Sums; P]; R],
) {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let w = C::pairs::<I, N>(at);
        for r in 0..R {
            let both = I::both((&raw const (*x.add(r)).codes).cast::<i16>().add(octet * 8 + 2 * N));
            sums[r][p] = I::dot(w, both, sums[r][p]);
        }
    }
}

/// Two columns of eight, those of `N`, of all panels: each pair of x is read once.
#[inline(always)]
unsafe fn together<I: Lanes, C: CodeSource, const R: usize, const P: usize, const N: usize>(
    x: *const Activations,
    at: [*const u8; P],
    octet: usize,
    sums: &mut [[I::Sums; P]; R],
) {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let mut w = [C::pairs::<I, N>(at[0]); P];
        for p in 1..P {
            w[p] = C::pairs::<I, N>(at[p]);
        }
        for r in 0..R {
            let both = I::both((&raw const (*x.add(r)).codes).cast::<i16>().add(octet * 8 + 2 * N));
            for p in 0..P {
                sums[r][p] = I::dot(w[p], both, sums[r][p]);
            }
        }
    }
}

/// More rows: each block of `P` panels is widened and all rows pass by. With few of them a panel is computed to its end
/// before the next, so that it comes from memory in one sweep; with many the block of x stays in the cache.
unsafe fn blocks<
    I: Lanes,
    C: CodeSource,
    S: ScaleSource,
    W: ScaleSource,
    const R: usize,
    const P: usize,
    const E: u8,
>(
    piece: &Piece,
    scratch: *mut u8,
) {
    let Part { y, outputs, rows: height, then, ref panels } = piece.part;
    let few = height <= FEW;
    let (run, next) = if few { (P, BLOCK / 8 * C::OCTET) } else { (RUN, P * piece.code_bytes) };
    // SAFETY: by the contract of `compute`; the scratch is laid out as `SCRATCH` says.
    unsafe {
        let sums = Sums::new(scratch.add(SUMS).cast(), height);
        for first in panels.clone().step_by(run) {
            let part = Part { y, outputs, panels: first..panels.end.min(first + run), rows: height, then };
            if then == Epilogue::Add {
                sums.take(&part);
            }
            for b in 0..piece.groups.div_ceil(GROUPS) {
                for panel in part.panels.clone().step_by(P) {
                    rows::<I, C, S, W, R, P, E>(piece, scratch, sums, &part, panel, b, next);
                }
            }
            I::run(Give { sums, part: &part });
        }
    }
}

/// All rows times block `b` of `P` panels of `part`. `next` bytes later lie the codes that come next.
unsafe fn rows<I: Lanes, C: CodeSource, S: ScaleSource, W: ScaleSource, const R: usize, const P: usize, const E: u8>(
    piece: &Piece,
    scratch: *mut u8,
    sums: Sums,
    part: &Part,
    panel: usize,
    b: usize,
    next: usize,
) {
    let groups = (piece.groups - b * GROUPS).min(GROUPS);
    let tiles = part.rows.div_ceil(R);
    // The lines of the block that comes next, spread over the groups of the tiles.
    let lines = BLOCK / 8 * C::OCTET / 64;
    // SAFETY: by the contract of `compute`; the scratch holds WIDEST blocks of codes and of scales.
    unsafe {
        let mut t = Tile::<W, P> {
            x: piece.x.add(b * piece.x_rows),
            groups,
            octets: piece.octets,
            codes: [scratch; P],
            scales: [scratch; P],
            next: [scratch; P],
            next_lines: lines.div_ceil(tiles * GROUPS),
            chain: scratch.cast(),
            sums: [scratch.cast(); P],
            add: b > 0 || part.then == Epilogue::Add,
            kind: PhantomData,
        };
        for p in 0..P {
            t.sums[p] = sums.at(0, panel + p - part.panels.start);
            // An odd last panel is computed twice rather than by a tile of its own.
            let panel = (panel + p).min(part.panels.end - 1);
            let codes = piece.codes.add(panel * piece.code_bytes + b * (BLOCK / 8) * C::OCTET);
            let scales = piece.scales.add(panel * piece.scale_bytes + b * S::BLOCK);
            let wide_codes = scratch.add(WIDE + p * WIDE_CODES);
            let wide_scales = scratch.add(WIDE + P * WIDE_CODES + p * WIDE_SCALES);
            I::run(Widen::<C, S, E> { codes, scales, groups, wide_codes, wide_scales, kinds: PhantomData });
            (t.codes[p], t.scales[p], t.next[p]) = (wide_codes, wide_scales, codes.wrapping_add(next));
        }
        let tile_lines = t.next_lines * GROUPS;
        let mut left = part.rows;
        for tile in 0.. {
            if left == 0 {
                break;
            }
            // All tiles of about the same height: a low one would leave the multipliers waiting.
            let height = by_height::<I, W, R, P, E>(&t, left.div_ceil(tiles.saturating_sub(tile).max(1)));
            left -= height;
            t.x = t.x.wrapping_add(height);
            for p in 0..P {
                t.sums[p] = t.sums[p].wrapping_add(height * PANEL);
                t.next[p] = t.next[p].wrapping_add(tile_lines * 64);
            }
            if (tile + 1) * tile_lines >= lines {
                t.next_lines = 0;
            }
        }
    }
}

/// [`widen`]
struct Widen<C, S, const E: u8> {
    codes: *const u8,
    scales: *const u8,
    groups: usize,
    wide_codes: *mut u8,
    wide_scales: *mut u8,
    kinds: PhantomData<(C, S)>,
}

impl<C: CodeSource, S: ScaleSource, const E: u8> Kernel for Widen<C, S, E> {
    #[inline(always)]
    unsafe fn run<I: Lanes>(self) {
        let Widen { codes, scales, groups, wide_codes, wide_scales, .. } = self;
        // SAFETY: by the contract of `compute`.
        unsafe {
            if E != SIXTEEN && I::BYTES {
                widen::<I, C, S, true>(codes, scales, groups, wide_codes, wide_scales);
            } else {
                widen::<I, C, S, false>(codes, scales, groups, wide_codes, wide_scales);
            }
        }
    }
}

/// What a tile needs to know.
struct Tile<W, const P: usize> {
    /// The block of the first row of x; the others follow.
    x: *const Activations,
    groups: usize,
    octets: usize,
    /// The widened block.
    codes: [*const u8; P],
    scales: [*const u8; P],
    /// What is fetched for later: so many lines a group.
    next: [*const u8; P],
    next_lines: usize,
    /// Room for the chains.
    chain: *mut f32,
    /// Where the sums of the first row go, and whether those there are added.
    sums: [*mut f32; P],
    add: bool,
    kind: PhantomData<W>,
}

/// A tile of `height` rows, of which `R` are the most, or somewhat fewer. Returns the height.
unsafe fn by_height<I: Lanes, W: ScaleSource, const R: usize, const P: usize, const E: u8>(
    t: &Tile<W, P>,
    height: usize,
) -> usize {
    // SAFETY: by the contract of `compute`.
    unsafe {
        match height {
            1 => tile_of::<I, W, 1, P, E>(t),
            2 => tile_of::<I, W, 2, P, E>(t),
            3 if R > 2 => tile_of::<I, W, 3, P, E>(t),
            4 if R > 2 => tile_of::<I, W, 4, P, E>(t),
            5 if R == 6 => tile_of::<I, W, 5, P, E>(t),
            5 if R > 6 => tile_of::<I, W, 4, P, E>(t),
            6 | 7 if R > 6 => tile_of::<I, W, 6, P, E>(t),
            8 | 9 if R > 6 => tile_of::<I, W, 8, P, E>(t),
            10 | 11 if R > 6 => tile_of::<I, W, 10, P, E>(t),
            _ => tile_of::<I, W, R, P, E>(t),
        }
    }
}

unsafe fn tile_of<I: Lanes, W: ScaleSource, const R: usize, const P: usize, const E: u8>(t: &Tile<W, P>) -> usize {
    // SAFETY: by the contract of `compute`.
    unsafe { I::run(OfHeight::<W, R, P, E> { tile: t }) }
    R
}

/// A tile of `R` rows.
struct OfHeight<'a, W, const R: usize, const P: usize, const E: u8> {
    tile: &'a Tile<W, P>,
}

impl<W: ScaleSource, const R: usize, const P: usize, const E: u8> Kernel for OfHeight<'_, W, R, P, E> {
    #[inline(always)]
    unsafe fn run<I: Lanes>(self) {
        // SAFETY: by the contract of `compute`.
        unsafe { tile::<I, W, R, P, E>(self.tile) }
    }
}

/// The heart: `R` rows of x times a widened block of `P` panels. The sums of a group fill the registers; so the chains
/// lie in memory, and each is read and written once a group.
#[inline(always)]
unsafe fn tile<I: Lanes, W: ScaleSource, const R: usize, const P: usize, const E: u8>(t: &Tile<W, P>) {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let mut next = t.next;
        let mut chain = [[I::splat(0.0); P]; R];
        if !I::ROOM {
            for at in 0..R * P {
                I::store(I::splat(0.0), t.chain.add(at * PANEL));
            }
        }
        for g in 0..t.groups {
            for _ in 0..t.next_lines {
                for p in 0..P {
                    I::prefetch_late(next[p]);
                    next[p] = next[p].wrapping_add(64);
                }
            }
            for part in 0..GROUP / W::COLUMNS {
                let n = g * (GROUP / W::COLUMNS) + part;
                let sums = if E != SIXTEEN && I::BYTES {
                    let mut sums = first_sums::<I, W, R, P>(t.x, g);
                    for column in (g * GROUP..(g + 1) * GROUP).step_by(4) {
                        quad::<I, W, R, P>(t, column, &mut sums);
                    }
                    sums
                } else {
                    pairs::<I, W, R, P>(t, n * W::COLUMNS)
                };
                if I::ROOM {
                    for p in 0..P {
                        let scale = W::scale::<I>(t.scales[p], n);
                        for r in 0..R {
                            let sum = stepped::<I, E>(I::float(sums[r][p]), t.x.add(r), g);
                            chain[r][p] = I::multiply_add(scale, sum, chain[r][p]);
                        }
                        if W::MINIMA {
                            // Groups with minima have one scale.
                            let minimum = W::minimum::<I>(t.scales[p], g);
                            for r in 0..R {
                                chain[r][p] = I::multiply_add(minimum, I::splat((*t.x.add(r)).scaled[g]), chain[r][p]);
                            }
                        }
                    }
                    continue;
                }
                // Hidden, because the compiler would carry the chains over in registers, of which there are none left.
                let chains = black_box(t.chain);
                for r in 0..R {
                    for p in 0..P {
                        let chain = chains.add((r * P + p) * PANEL);
                        let scale = W::scale::<I>(t.scales[p], n);
                        let sum = stepped::<I, E>(I::float(sums[r][p]), t.x.add(r), g);
                        let mut value = I::multiply_add(scale, sum, I::load(chain));
                        if W::MINIMA {
                            // Groups with minima have one scale.
                            let minimum = W::minimum::<I>(t.scales[p], g);
                            value = I::multiply_add(minimum, I::splat((*t.x.add(r)).scaled[g]), value);
                        }
                        I::store(value, chain);
                    }
                }
            }
        }
        for r in 0..R {
            let step = I::splat((*t.x.add(r)).step);
            for p in 0..P {
                let to = t.sums[p].add(r * PANEL);
                let total = if t.add { I::load(to) } else { I::splat(0.0) };
                let chain = if I::ROOM { chain[r][p] } else { I::load(t.chain.add((r * P + p) * PANEL)) };
                I::store(I::multiply_add(step, chain, total), to);
            }
        }
    }
}

/// A sum of group `g` in steps of the group, if it has one.
#[inline(always)]
unsafe fn stepped<I: Lanes, const E: u8>(sum: I::Row, x: *const Activations, g: usize) -> I::Row {
    // SAFETY: by the contract of `compute`.
    unsafe { if E == OF_GROUPS { I::multiply(sum, I::splat((*x).steps[g])) } else { sum } }
}

/// The sums of the columns that share a scale, from `column` on, two by two.
#[inline(always)]
unsafe fn pairs<I: Lanes, W: ScaleSource, const R: usize, const P: usize>(
    t: &Tile<W, P>,
    mut column: usize,
) -> [[I::Sums; P]; R] {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let end = column + t.octets * 8;
        let mut sums = [[I::no_sums(); P]; R];
        pair::<I, W, R, P, true>(t, column, &mut sums);
        pair::<I, W, R, P, false>(t, column + 2, &mut sums);
        pair::<I, W, R, P, false>(t, column + 4, &mut sums);
        pair::<I, W, R, P, false>(t, column + 6, &mut sums);
        column += 8;
        while column < end {
            pair::<I, W, R, P, false>(t, column, &mut sums);
            pair::<I, W, R, P, false>(t, column + 2, &mut sums);
            pair::<I, W, R, P, false>(t, column + 4, &mut sums);
            pair::<I, W, R, P, false>(t, column + 6, &mut sums);
            column += 8;
        }
        sums
    }
}

/// Four columns as bytes.
#[inline(always)]
unsafe fn quad<I: Lanes, W: ScaleSource, const R: usize, const P: usize>(
    t: &Tile<W, P>,
    column: usize,
    sums: &mut [[I::Sums; P]; R],
) {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let mut w = [I::load_pairs(t.codes[0].add(column * PANEL).cast()); P];
        for p in 1..P {
            w[p] = I::load_pairs(t.codes[p].add(column * PANEL).cast());
        }
        for r in 0..R {
            let four = I::both((&raw const (*t.x.add(r)).bytes).cast::<i8>().add(column).cast());
            for p in 0..P {
                sums[r][p] = I::dot_bytes(w[p], four, sums[r][p]);
            }
        }
    }
}

/// Two columns, which may be the first of the sums.
#[inline(always)]
unsafe fn pair<I: Lanes, W: ScaleSource, const R: usize, const P: usize, const FIRST: bool>(
    t: &Tile<W, P>,
    column: usize,
    sums: &mut [[I::Sums; P]; R],
) {
    // SAFETY: by the contract of `compute`.
    unsafe {
        let mut w = [I::load_pairs(t.codes[0].cast::<i16>().add(column * PANEL)); P];
        for p in 1..P {
            w[p] = I::load_pairs(t.codes[p].cast::<i16>().add(column * PANEL));
        }
        for r in 0..R {
            let both = I::both((&raw const (*t.x.add(r)).codes).cast::<i16>().add(column));
            for p in 0..P {
                sums[r][p] = if FIRST { I::products(w[p], both) } else { I::dot(w[p], both, sums[r][p]) };
            }
        }
    }
}
