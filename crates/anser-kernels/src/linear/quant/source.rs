//! Where the kernels take codes and scales from: the packed forms, and the form that is widened once for many rows.
#![allow(unsafe_code)]

use super::super::{BLOCK, PANEL};
use super::GROUP;
use super::lanes::Lanes;
use super::layout::{BLOCK_OF_AFFINE, BLOCK_OF_SIXTEEN};

/// A kind of packed codes.
pub(super) trait CodeSource {
    /// Bytes of eight columns of a panel.
    const OCTET: usize;

    /// Columns 2 `N` and 2 `N` + 1 of eight.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn pairs<I: Lanes, const N: usize>(octet: *const u8) -> I::Pairs;

    /// Four columns of eight, 0, 4, 1, 5 or 2, 6, 3, 7, as bytes.
    ///
    /// # Safety
    /// As for [`Lanes`], which has [`Lanes::BYTES`].
    unsafe fn quads<I: Lanes, const HALF: usize>(octet: *const u8) -> I::Pairs;
}

/// A kind of scales.
pub(super) trait ScaleSource {
    /// Bytes of a block of a panel.
    const BLOCK: usize;
    /// Columns that share a scale.
    const COLUMNS: usize;
    /// Whether groups have minima.
    const MINIMA: bool;
    /// What is still to be taken off the codes.
    const OFFSET: f32;

    /// The scales of the `n`-th [`ScaleSource::COLUMNS`] of the block.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn scale<I: Lanes>(block: *const u8, n: usize) -> I::Row;

    /// The minima of group `g` of the block, negative.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn minimum<I: Lanes>(block: *const u8, g: usize) -> I::Row;
}

/// [`Codes::Bytes`](super::layout::Codes::Bytes)
pub(super) struct Bytes;
/// [`Codes::Nibbles`](super::layout::Codes::Nibbles)
pub(super) struct Nibbles;

impl CodeSource for Bytes {
    const OCTET: usize = 8 * PANEL;

    #[inline(always)]
    unsafe fn pairs<I: Lanes, const N: usize>(octet: *const u8) -> I::Pairs {
        // SAFETY: by the contract of the trait, here and below.
        unsafe {
            let quads = octet.add(N % 2 * 4 * PANEL);
            if N < 2 { I::low_bytes(quads) } else { I::high_bytes(quads) }
        }
    }

    #[inline(always)]
    unsafe fn quads<I: Lanes, const HALF: usize>(octet: *const u8) -> I::Pairs {
        // SAFETY: as above.
        unsafe { I::load_pairs(octet.add(HALF * 4 * PANEL).cast()) }
    }
}

impl CodeSource for Nibbles {
    const OCTET: usize = 4 * PANEL;

    #[inline(always)]
    unsafe fn pairs<I: Lanes, const N: usize>(octet: *const u8) -> I::Pairs {
        // SAFETY: as above.
        unsafe {
            match N {
                0 => I::nibbles::<0>(octet),
                1 => I::nibbles::<4>(octet),
                2 => I::nibbles::<8>(octet),
                _ => I::nibbles::<12>(octet),
            }
        }
    }

    #[inline(always)]
    unsafe fn quads<I: Lanes, const HALF: usize>(octet: *const u8) -> I::Pairs {
        // SAFETY: as above.
        unsafe { I::nibble_bytes::<HALF>(octet) }
    }
}

/// [`Scales::Half`](super::layout::Scales::Half)
pub(super) struct Half<const OFFSET: u8>;
/// [`Scales::Affine`](super::layout::Scales::Affine)
pub(super) struct Affine;
/// [`Scales::Sixteen`](super::layout::Scales::Sixteen)
pub(super) struct Sixteen;
/// f32: the scales of a block, one for `COLUMNS` columns, then the minima of its groups if there are any.
pub(super) struct WideScales<const COLUMNS: usize, const MINIMA: bool>;

impl<const OFFSET: u8> ScaleSource for Half<OFFSET> {
    const BLOCK: usize = BLOCK / GROUP * 2 * PANEL;
    const COLUMNS: usize = GROUP;
    const MINIMA: bool = false;
    const OFFSET: f32 = OFFSET as f32;

    #[inline(always)]
    unsafe fn scale<I: Lanes>(block: *const u8, n: usize) -> I::Row {
        // SAFETY: as above.
        unsafe { I::halves(block.add(n * 2 * PANEL)) }
    }

    #[inline(always)]
    unsafe fn minimum<I: Lanes>(_: *const u8, _: usize) -> I::Row {
        // SAFETY: as above.
        unsafe { I::splat(0.0) }
    }
}

impl ScaleSource for Affine {
    const BLOCK: usize = BLOCK_OF_AFFINE;
    const COLUMNS: usize = GROUP;
    const MINIMA: bool = true;
    const OFFSET: f32 = 0.0;

    #[inline(always)]
    unsafe fn scale<I: Lanes>(block: *const u8, n: usize) -> I::Row {
        // SAFETY: as above.
        unsafe { I::multiply(I::halves(block), I::unsigned(block.add((4 + 2 * n) * PANEL))) }
    }

    #[inline(always)]
    unsafe fn minimum<I: Lanes>(block: *const u8, g: usize) -> I::Row {
        // SAFETY: as above.
        unsafe {
            let unit = I::multiply(I::halves(block.add(2 * PANEL)), I::splat(-1.0));
            I::multiply(unit, I::unsigned(block.add((5 + 2 * g) * PANEL)))
        }
    }
}

impl ScaleSource for Sixteen {
    const BLOCK: usize = BLOCK_OF_SIXTEEN;
    const COLUMNS: usize = GROUP / 2;
    const MINIMA: bool = false;
    const OFFSET: f32 = 0.0;

    #[inline(always)]
    unsafe fn scale<I: Lanes>(block: *const u8, n: usize) -> I::Row {
        // SAFETY: as above.
        unsafe { I::multiply(I::halves(block), I::signed(block.add((2 + n) * PANEL))) }
    }

    #[inline(always)]
    unsafe fn minimum<I: Lanes>(_: *const u8, _: usize) -> I::Row {
        // SAFETY: as above.
        unsafe { I::splat(0.0) }
    }
}

impl<const COLUMNS: usize, const MINIMA: bool> ScaleSource for WideScales<COLUMNS, MINIMA> {
    const BLOCK: usize = (BLOCK / COLUMNS + BLOCK / GROUP) * 4 * PANEL;
    const COLUMNS: usize = COLUMNS;
    const MINIMA: bool = MINIMA;
    const OFFSET: f32 = 0.0;

    #[inline(always)]
    unsafe fn scale<I: Lanes>(block: *const u8, n: usize) -> I::Row {
        // SAFETY: as above.
        unsafe { I::load(block.cast::<f32>().add(n * PANEL)) }
    }

    #[inline(always)]
    unsafe fn minimum<I: Lanes>(block: *const u8, g: usize) -> I::Row {
        // SAFETY: as above.
        unsafe { I::load(block.cast::<f32>().add((BLOCK / COLUMNS + g) * PANEL)) }
    }
}

/// Bytes of a block of widened codes, and of its scales. Codes are i16, two columns after two columns, or lifted bytes,
/// four columns after four columns.
pub(super) const WIDE_CODES: usize = BLOCK * PANEL * 2;
pub(super) const WIDE_SCALES: usize = (2 * BLOCK / GROUP + BLOCK / GROUP) * 4 * PANEL;

/// Widens `groups` groups of a block, and their scales. What is taken off the codes is taken off here. `BYTES` says to
/// what.
///
/// # Safety
/// Both places have room for a block; otherwise as for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn widen<I: Lanes, C: CodeSource, S: ScaleSource, const BYTES: bool>(
    codes: *const u8,
    scales: *const u8,
    groups: usize,
    wide_codes: *mut u8,
    wide_scales: *mut u8,
) {
    // SAFETY: by the contract above.
    unsafe {
        for octet in 0..groups * (GROUP / 8) {
            let from = codes.add(octet * C::OCTET);
            if BYTES {
                let to = wide_codes.add(octet * 8 * PANEL);
                I::store_pairs(lifted::<I, C, S, 0>(from), to.cast());
                I::store_pairs(lifted::<I, C, S, 1>(from), to.add(4 * PANEL).cast());
                continue;
            }
            let to = wide_codes.cast::<i16>().add(octet * 8 * PANEL);
            let mut pairs =
                [C::pairs::<I, 0>(from), C::pairs::<I, 1>(from), C::pairs::<I, 2>(from), C::pairs::<I, 3>(from)];
            for (n, pairs) in pairs.iter_mut().enumerate() {
                if S::OFFSET > 0.0 {
                    *pairs = I::less(*pairs, S::OFFSET as i16);
                }
                I::store_pairs(*pairs, to.add(n * 2 * PANEL));
            }
        }
        let to = wide_scales.cast::<f32>();
        for n in 0..groups * GROUP / S::COLUMNS {
            I::store(S::scale::<I>(scales, n), to.add(n * PANEL));
        }
        if S::MINIMA {
            for g in 0..groups {
                I::store(S::minimum::<I>(scales, g), to.add((BLOCK / S::COLUMNS + g) * PANEL));
            }
        }
    }
}

/// [`CodeSource::quads`], [`Lanes::LIFT`] too large, and without what is still to be taken off them.
///
/// # Safety
/// As for it.
#[inline(always)]
pub(super) unsafe fn lifted<I: Lanes, C: CodeSource, S: ScaleSource, const HALF: usize>(octet: *const u8) -> I::Pairs {
    // SAFETY: by the contract above.
    unsafe {
        let quads = C::quads::<I, HALF>(octet);
        // Those that have minima are from 0 up, and taken as they are.
        let value = const { if S::MINIMA { 0 } else { I::LIFT.wrapping_sub(S::OFFSET as u8) } };
        if value > 0 { I::add_bytes(quads, value) } else { quads }
    }
}
