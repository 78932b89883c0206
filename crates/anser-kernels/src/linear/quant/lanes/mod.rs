//! Sixteen lanes, the outputs of a panel: codes, their integer sums, and the f32 that these become.
#![allow(unsafe_code)]

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use half::f16;

use super::super::PANEL;
use crate::simd::{Isa, Portable};

/// Sixteen lanes on one instruction set. Loops, not closures, for the reason given at the lanes of floats.
///
/// # Safety
/// Of every function: the CPU has the instruction set, and pointers are valid for what is read or written, at any
/// alignment.
pub(super) trait Lanes: Isa {
    /// Two codes, as i16, for each lane.
    type Pairs: Copy;
    /// Two codes of x, the same for all lanes.
    type Both: Copy;
    /// Sixteen i32.
    type Sums: Copy;
    /// Sixteen f32.
    type Row: Copy;

    /// Whether there are registers for the sums of a tile and for its chains at once.
    const ROOM: bool = Self::LANES == 16;

    /// Whether it multiplies bytes of weights with signed bytes of x, four at a time. Only then are the functions of bytes
    /// called.
    const BYTES: bool = false;

    /// How much too large weights have to be for that: 128 where bytes of weights are unsigned, 0 where they are signed.
    const LIFT: u8 = 128;

    /// Runs a kernel in a function of its own, compiled for this instruction set. The compiler takes long over large
    /// functions, so kernels are not made part of one.
    unsafe fn run<K: Kernel>(kernel: K);

    unsafe fn no_sums() -> Self::Sums;
    /// The products of both codes, added.
    unsafe fn products(w: Self::Pairs, x: Self::Both) -> Self::Sums;
    /// Adds the products of both codes to the sum of the lane.
    unsafe fn dot(w: Self::Pairs, x: Self::Both, sums: Self::Sums) -> Self::Sums;
    unsafe fn both(from: *const i16) -> Self::Both;
    /// Of 32 words of 16 bits, the lower bytes, signed.
    unsafe fn low_bytes(from: *const u8) -> Self::Pairs;
    /// The upper bytes.
    unsafe fn high_bytes(from: *const u8) -> Self::Pairs;
    /// Of 32 words of 16 bits, the nibbles that begin at bit `SHIFT`.
    unsafe fn nibbles<const SHIFT: u32>(from: *const u8) -> Self::Pairs;
    /// 32 i16.
    unsafe fn load_pairs(from: *const i16) -> Self::Pairs;
    unsafe fn store_pairs(pairs: Self::Pairs, to: *mut i16);
    /// Takes `offset` off every code.
    unsafe fn less(pairs: Self::Pairs, offset: i16) -> Self::Pairs;

    /// The same sum for all lanes.
    unsafe fn splat_sums(_: i32) -> Self::Sums {
        unreachable!("no products of bytes")
    }
    /// Adds the products of four bytes of w with four of x to the sum of the lane.
    unsafe fn dot_bytes(_w: Self::Pairs, _x: Self::Both, _sums: Self::Sums) -> Self::Sums {
        unreachable!("no products of bytes")
    }
    /// Of 64 bytes, the low nibbles (`HALF` = 0) or the high ones.
    unsafe fn nibble_bytes<const HALF: usize>(_from: *const u8) -> Self::Pairs {
        unreachable!("no products of bytes")
    }
    /// Adds to each of 64 bytes, around the end of the range.
    unsafe fn add_bytes(_bytes: Self::Pairs, _value: u8) -> Self::Pairs {
        unreachable!("no products of bytes")
    }

    unsafe fn float(sums: Self::Sums) -> Self::Row;
    unsafe fn splat(value: f32) -> Self::Row;
    /// `a * b + c`, fused where the instruction set fuses.
    unsafe fn multiply_add(a: Self::Row, b: Self::Row, c: Self::Row) -> Self::Row;
    unsafe fn multiply(a: Self::Row, b: Self::Row) -> Self::Row;
    unsafe fn load(from: *const f32) -> Self::Row;
    unsafe fn store(row: Self::Row, to: *mut f32);
    /// Sixteen f16.
    unsafe fn halves(from: *const u8) -> Self::Row;
    /// Sixteen bytes from 0 to 255.
    unsafe fn unsigned(from: *const u8) -> Self::Row;
    /// Sixteen bytes from -128 to 127.
    unsafe fn signed(from: *const u8) -> Self::Row;
    /// Asks for the cache line at `address`, which may be any address: for soon.
    unsafe fn prefetch(address: *const u8);
    /// The same for later: into the second-level cache.
    unsafe fn prefetch_late(address: *const u8);
}

/// What [`Lanes::run`] runs.
pub(super) trait Kernel {
    /// The body, always inlined.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn run<I: Lanes>(self);
}

impl Lanes for Portable {
    type Pairs = [i16; 2 * PANEL];
    type Both = [i16; 2];
    type Sums = [i32; PANEL];
    type Row = [f32; PANEL];

    #[inline(never)]
    unsafe fn run<K: Kernel>(kernel: K) {
        // SAFETY: by the contract of the trait, here and below.
        unsafe { kernel.run::<Portable>() }
    }

    #[inline(always)]
    unsafe fn no_sums() -> [i32; PANEL] {
        [0; PANEL]
    }

    #[inline(always)]
    unsafe fn products(w: [i16; 2 * PANEL], x: [i16; 2]) -> [i32; PANEL] {
        // SAFETY: as above.
        unsafe { Portable::dot(w, x, [0; PANEL]) }
    }

    #[inline(always)]
    unsafe fn dot(w: [i16; 2 * PANEL], x: [i16; 2], sums: [i32; PANEL]) -> [i32; PANEL] {
        std::array::from_fn(|j| {
            sums[j] + i32::from(w[2 * j]) * i32::from(x[0]) + i32::from(w[2 * j + 1]) * i32::from(x[1])
        })
    }

    #[inline(always)]
    unsafe fn both(from: *const i16) -> [i16; 2] {
        // SAFETY: by the contract of the trait, here and below.
        unsafe { from.cast::<[i16; 2]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn low_bytes(from: *const u8) -> [i16; 2 * PANEL] {
        // SAFETY: as above.
        unsafe { from.cast::<[[i8; 2]; 2 * PANEL]>().read() }.map(|word| i16::from(word[0]))
    }

    #[inline(always)]
    unsafe fn high_bytes(from: *const u8) -> [i16; 2 * PANEL] {
        // SAFETY: as above.
        unsafe { from.cast::<[[i8; 2]; 2 * PANEL]>().read() }.map(|word| i16::from(word[1]))
    }

    #[inline(always)]
    unsafe fn nibbles<const SHIFT: u32>(from: *const u8) -> [i16; 2 * PANEL] {
        // SAFETY: as above.
        let words = unsafe { from.cast::<[u16; 2 * PANEL]>().read_unaligned() };
        words.map(|word| (u16::from_le(word) >> SHIFT & 15) as i16)
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const i16) -> [i16; 2 * PANEL] {
        // SAFETY: as above.
        unsafe { from.cast::<[i16; 2 * PANEL]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_pairs(pairs: [i16; 2 * PANEL], to: *mut i16) {
        // SAFETY: as above.
        unsafe { to.cast::<[i16; 2 * PANEL]>().write_unaligned(pairs) }
    }

    #[inline(always)]
    unsafe fn less(pairs: [i16; 2 * PANEL], offset: i16) -> [i16; 2 * PANEL] {
        pairs.map(|code| code - offset)
    }

    #[inline(always)]
    unsafe fn float(sums: [i32; PANEL]) -> [f32; PANEL] {
        sums.map(|sum| sum as f32)
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> [f32; PANEL] {
        [value; PANEL]
    }

    #[inline(always)]
    unsafe fn multiply_add(a: [f32; PANEL], b: [f32; PANEL], c: [f32; PANEL]) -> [f32; PANEL] {
        std::array::from_fn(|j| Portable::fma(a[j], b[j], c[j]))
    }

    #[inline(always)]
    unsafe fn multiply(a: [f32; PANEL], b: [f32; PANEL]) -> [f32; PANEL] {
        std::array::from_fn(|j| a[j] * b[j])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; PANEL] {
        // SAFETY: as above.
        unsafe { from.cast::<[f32; PANEL]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(row: [f32; PANEL], to: *mut f32) {
        // SAFETY: as above.
        unsafe { to.cast::<[f32; PANEL]>().write_unaligned(row) }
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> [f32; PANEL] {
        // SAFETY: as above.
        let halves = unsafe { from.cast::<[[u8; 2]; PANEL]>().read() };
        halves.map(|half| f16::from_le_bytes(half).to_f32())
    }

    #[inline(always)]
    unsafe fn unsigned(from: *const u8) -> [f32; PANEL] {
        // SAFETY: as above.
        unsafe { from.cast::<[u8; PANEL]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn signed(from: *const u8) -> [f32; PANEL] {
        // SAFETY: as above.
        unsafe { from.cast::<[i8; PANEL]>().read() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn prefetch_late(_: *const u8) {}
}

/// The first `width` lanes from memory, zeros in the others.
///
/// # Safety
/// `from` is valid for `width` elements; otherwise as for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn load<I: Lanes>(from: *const f32, width: usize) -> I::Row {
    // SAFETY: by the contract above.
    unsafe {
        if width == PANEL {
            return I::load(from);
        }
        let mut lanes = [0.0f32; PANEL];
        std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), width);
        I::load(lanes.as_ptr())
    }
}

/// Writes the first `width` lanes.
///
/// # Safety
/// `to` is valid for `width` elements; otherwise as for [`Lanes`].
#[inline(always)]
pub(super) unsafe fn store<I: Lanes>(row: I::Row, to: *mut f32, width: usize) {
    // SAFETY: by the contract above.
    unsafe {
        if width == PANEL {
            return I::store(row, to);
        }
        let mut lanes = [0.0f32; PANEL];
        I::store(row, lanes.as_mut_ptr());
        std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, width);
    }
}
