//! The one vector of the product kernels: sixteen f32 lanes, the outputs of a panel, on each instruction set.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::f16;

use super::PANEL;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Isa, Portable};

/// Sixteen lanes on one instruction set.
///
/// Callers use plain loops: a closure (`array::map`, `from_fn`) is compiled without the instruction set of the function
/// around it, and an intrinsic inside would become a call.
///
/// # Safety
/// Of every function: the CPU has the instruction set, and pointers are valid for the sixteen elements read or
/// written, at any alignment.
pub(super) trait Lanes: Isa {
    /// Sixteen f32.
    type Row: Copy;
    /// One f32, ready to be multiplied with a row.
    type Splat: Copy;

    /// Sixteen zeros.
    unsafe fn zero() -> Self::Row;
    /// `value` for all lanes.
    unsafe fn splat(value: f32) -> Self::Splat;
    /// `w * x + sum`, fused where the instruction set fuses.
    unsafe fn multiply_add(w: Self::Row, x: Self::Splat, sum: Self::Row) -> Self::Row;
    /// `a + b`.
    unsafe fn add(a: Self::Row, b: Self::Row) -> Self::Row;
    unsafe fn store(row: Self::Row, to: *mut f32);
    unsafe fn load_f32(from: *const u8) -> Self::Row;
    /// Widens sixteen pairs of bf16, those of two columns of a panel: the first of every pair, the second.
    unsafe fn load_bf16(from: *const u8) -> [Self::Row; 2];
    unsafe fn load_f16(from: *const u8) -> Self::Row;
    /// Asks for the cache line at `address`, which may be any address: for soon.
    unsafe fn prefetch(address: *const u8);
    /// The same for later: into the second-level cache.
    unsafe fn prefetch_late(address: *const u8);
}

impl Lanes for Portable {
    type Row = [f32; PANEL];
    type Splat = f32;

    #[inline(always)]
    unsafe fn zero() -> [f32; PANEL] {
        [0.0; PANEL]
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> f32 {
        value
    }

    #[inline(always)]
    unsafe fn multiply_add(w: [f32; PANEL], x: f32, sum: [f32; PANEL]) -> [f32; PANEL] {
        std::array::from_fn(|j| Portable::fma(w[j], x, sum[j]))
    }

    #[inline(always)]
    unsafe fn add(a: [f32; PANEL], b: [f32; PANEL]) -> [f32; PANEL] {
        std::array::from_fn(|j| a[j] + b[j])
    }

    #[inline(always)]
    unsafe fn store(row: [f32; PANEL], to: *mut f32) {
        // SAFETY: by the contract of the trait.
        unsafe { to.cast::<[f32; PANEL]>().write_unaligned(row) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> [f32; PANEL] {
        // SAFETY: by the contract of the trait.
        unsafe { from.cast::<[f32; PANEL]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> [[f32; PANEL]; 2] {
        // SAFETY: by the contract of the trait.
        let words = unsafe { from.cast::<[u32; PANEL]>().read_unaligned() };
        [words.map(|word| f32::from_bits(word << 16)), words.map(|word| f32::from_bits(word & 0xffff_0000))]
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> [f32; PANEL] {
        // SAFETY: by the contract of the trait.
        let words = unsafe { from.cast::<[u16; PANEL]>().read_unaligned() };
        words.map(|word| f16::from_bits(word).to_f32())
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn prefetch_late(_: *const u8) {}
}

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx2 {
    type Row = [__m256; 2];
    type Splat = __m256;

    #[inline(always)]
    unsafe fn zero() -> [__m256; 2] {
        // SAFETY: by the contract of the trait, here and below.
        unsafe { [_mm256_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: as above.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn multiply_add(w: [__m256; 2], x: __m256, sum: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_fmadd_ps(w[0], x, sum[0]), _mm256_fmadd_ps(w[1], x, sum[1])] }
    }

    #[inline(always)]
    unsafe fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn store(row: [__m256; 2], to: *mut f32) {
        // SAFETY: as above.
        unsafe {
            _mm256_storeu_ps(to, row[0]);
            _mm256_storeu_ps(to.add(8), row[1]);
        }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_loadu_ps(from.cast()), _mm256_loadu_ps(from.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> [[__m256; 2]; 2] {
        // SAFETY: as above.
        unsafe {
            let words = [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())];
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let (mut first, mut second) = (Self::zero(), Self::zero());
            for i in 0..2 {
                first[i] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words[i]));
                second[i] = _mm256_castsi256_ps(_mm256_and_si256(words[i], high));
            }
            [first, second]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> [__m256; 2] {
        // SAFETY: as above.
        unsafe {
            [_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast()))]
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: as above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_late(address: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes for Avx512 {
    type Row = __m512;
    type Splat = __m512;

    #[inline(always)]
    unsafe fn zero() -> __m512 {
        // SAFETY: by the contract of the trait, here and below.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn multiply_add(w: __m512, x: __m512, sum: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_fmadd_ps(w, x, sum) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn store(row: __m512, to: *mut f32) {
        // SAFETY: as above.
        unsafe { _mm512_storeu_ps(to, row) }
    }

    #[inline(always)]
    unsafe fn load_f32(from: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u8) -> [__m512; 2] {
        // SAFETY: as above.
        unsafe {
            let words = _mm512_loadu_si512(from.cast());
            let high = _mm512_and_si512(words, _mm512_set1_epi32(0xffff_0000_u32 as i32));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(high)]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u8) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: as above; a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
    }

    #[inline(always)]
    unsafe fn prefetch_late(address: *const u8) {
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
    }
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
            return I::load_f32(from.cast());
        }
        let mut lanes = [0.0f32; PANEL];
        std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), width);
        I::load_f32(lanes.as_ptr().cast())
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

/// A weight format: how the weights of a panel become rows.
pub(super) trait Format {
    /// Bytes of a weight.
    const BYTES: usize;

    /// A column of a panel of which nothing follows.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load<I: Lanes>(from: *const u8) -> I::Row;

    /// Two columns of a panel, of which the first has an even number.
    ///
    /// # Safety
    /// As for [`Lanes`].
    unsafe fn load_two<I: Lanes>(from: *const u8) -> [I::Row; 2];
}

pub(super) struct F32;
pub(super) struct Bf16;
pub(super) struct F16;

impl Format for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<I: Lanes>(from: *const u8) -> I::Row {
        // SAFETY: by the contract of the trait.
        unsafe { I::load_f32(from) }
    }

    #[inline(always)]
    unsafe fn load_two<I: Lanes>(from: *const u8) -> [I::Row; 2] {
        // SAFETY: by the contract of the trait.
        unsafe { [I::load_f32(from), I::load_f32(from.add(PANEL * Self::BYTES))] }
    }
}

impl Format for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<I: Lanes>(from: *const u8) -> I::Row {
        // SAFETY: by the contract of the trait; a last column is paired with zeros.
        unsafe { I::load_bf16(from)[0] }
    }

    #[inline(always)]
    unsafe fn load_two<I: Lanes>(from: *const u8) -> [I::Row; 2] {
        // SAFETY: by the contract of the trait.
        unsafe { I::load_bf16(from) }
    }
}

impl Format for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<I: Lanes>(from: *const u8) -> I::Row {
        // SAFETY: by the contract of the trait.
        unsafe { I::load_f16(from) }
    }

    #[inline(always)]
    unsafe fn load_two<I: Lanes>(from: *const u8) -> [I::Row; 2] {
        // SAFETY: by the contract of the trait.
        unsafe { [I::load_f16(from), I::load_f16(from.add(PANEL * Self::BYTES))] }
    }
}
