//! Sixteen lanes, the outputs of a panel: codes, their integer sums, and the f32 that these become.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::asm;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::f16;

use super::super::PANEL;
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx2Vnni, Avx512, Avx512Vnni};
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

    /// Whether it multiplies bytes: unsigned ones of weights with signed ones of x, four at a time. Only then are the
    /// functions of bytes called.
    const BYTES: bool = false;

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
    /// Adds the products of four unsigned bytes of w with four signed ones of x to the sum of the lane.
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

/// Two registers of eight lanes. `$dot` adds products of pairs to sums.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes_of_256_bits {
    ($isa:ty, $features:literal, |$sums:ident, $w:ident, $x:ident| $dot:expr, $bytes:ident) => {
        impl Lanes for $isa {
            $bytes!();

            type Pairs = [__m256i; 2];
            type Both = __m256i;
            type Sums = [__m256i; 2];
            type Row = [__m256; 2];

            unsafe fn run<K: Kernel>(kernel: K) {
                #[target_feature(enable = $features)]
                fn run<K: Kernel>(kernel: K) {
                    // SAFETY: by the contract of the trait, here and below.
                    unsafe { kernel.run::<$isa>() }
                }
                // SAFETY: as above.
                unsafe { run(kernel) }
            }

            #[inline(always)]
            unsafe fn no_sums() -> [__m256i; 2] {
                // SAFETY: as above.
                unsafe { [_mm256_setzero_si256(); 2] }
            }

            #[inline(always)]
            unsafe fn products(w: [__m256i; 2], x: __m256i) -> [__m256i; 2] {
                // SAFETY: as above.
                unsafe { [_mm256_madd_epi16(w[0], x), _mm256_madd_epi16(w[1], x)] }
            }

            #[inline(always)]
            unsafe fn dot(w: [__m256i; 2], $x: __m256i, sums: [__m256i; 2]) -> [__m256i; 2] {
                let mut out = sums;
                for i in 0..2 {
                    let ($sums, $w) = (sums[i], w[i]);
                    // SAFETY: as above.
                    out[i] = unsafe { $dot };
                }
                out
            }

            #[inline(always)]
            unsafe fn both(from: *const i16) -> __m256i {
                // SAFETY: as above.
                unsafe { _mm256_set1_epi32(from.cast::<i32>().read_unaligned()) }
            }

            #[inline(always)]
            unsafe fn low_bytes(from: *const u8) -> [__m256i; 2] {
                // SAFETY: as above.
                unsafe {
                    Self::load_pairs(from.cast()).map(|words| _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(words)))
                }
            }

            #[inline(always)]
            unsafe fn high_bytes(from: *const u8) -> [__m256i; 2] {
                // SAFETY: as above.
                unsafe { Self::load_pairs(from.cast()).map(|words| _mm256_srai_epi16::<8>(words)) }
            }

            #[inline(always)]
            unsafe fn nibbles<const SHIFT: u32>(from: *const u8) -> [__m256i; 2] {
                // SAFETY: as above.
                unsafe {
                    let mut words = [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())];
                    for words in &mut words {
                        *words = match SHIFT {
                            0 => *words,
                            4 => _mm256_srli_epi16::<4>(*words),
                            8 => _mm256_srli_epi16::<8>(*words),
                            _ => _mm256_srli_epi16::<12>(*words),
                        };
                        if SHIFT < 12 {
                            *words = _mm256_and_si256(*words, _mm256_set1_epi16(15));
                        }
                    }
                    words
                }
            }

            #[inline(always)]
            unsafe fn load_pairs(from: *const i16) -> [__m256i; 2] {
                // SAFETY: as above.
                unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(16).cast())] }
            }

            #[inline(always)]
            unsafe fn store_pairs(pairs: [__m256i; 2], to: *mut i16) {
                // SAFETY: as above.
                unsafe {
                    _mm256_storeu_si256(to.cast(), pairs[0]);
                    _mm256_storeu_si256(to.add(16).cast(), pairs[1]);
                }
            }

            #[inline(always)]
            unsafe fn less(pairs: [__m256i; 2], offset: i16) -> [__m256i; 2] {
                // SAFETY: as above.
                unsafe {
                    let offset = _mm256_set1_epi16(offset);
                    [_mm256_sub_epi16(pairs[0], offset), _mm256_sub_epi16(pairs[1], offset)]
                }
            }

            #[inline(always)]
            unsafe fn float(sums: [__m256i; 2]) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe { [_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])] }
            }

            #[inline(always)]
            unsafe fn splat(value: f32) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe { [_mm256_set1_ps(value); 2] }
            }

            #[inline(always)]
            unsafe fn multiply_add(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
            }

            #[inline(always)]
            unsafe fn multiply(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
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
            unsafe fn halves(from: *const u8) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe {
                    [
                        _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                        _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast())),
                    ]
                }
            }

            #[inline(always)]
            unsafe fn unsigned(from: *const u8) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe {
                    [
                        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))),
                        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.add(8).cast()))),
                    ]
                }
            }

            #[inline(always)]
            unsafe fn signed(from: *const u8) -> [__m256; 2] {
                // SAFETY: as above.
                unsafe {
                    [
                        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))),
                        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.add(8).cast()))),
                    ]
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
    };
}

/// One register of sixteen lanes.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes_of_512_bits {
    ($isa:ty, $features:literal, |$sums:ident, $w:ident, $x:ident| $dot:expr, $bytes:ident) => {
        impl Lanes for $isa {
            $bytes!();

            type Pairs = __m512i;
            type Both = __m512i;
            type Sums = __m512i;
            type Row = __m512;

            unsafe fn run<K: Kernel>(kernel: K) {
                #[target_feature(enable = $features)]
                fn run<K: Kernel>(kernel: K) {
                    // SAFETY: by the contract of the trait, here and below.
                    unsafe { kernel.run::<$isa>() }
                }
                // SAFETY: as above.
                unsafe { run(kernel) }
            }

            #[inline(always)]
            unsafe fn no_sums() -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_setzero_si512() }
            }

            #[inline(always)]
            unsafe fn products(w: __m512i, x: __m512i) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_madd_epi16(w, x) }
            }

            #[inline(always)]
            unsafe fn dot($w: __m512i, $x: __m512i, $sums: __m512i) -> __m512i {
                // SAFETY: as above.
                unsafe { $dot }
            }

            #[inline(always)]
            unsafe fn both(from: *const i16) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_set1_epi32(from.cast::<i32>().read_unaligned()) }
            }

            #[inline(always)]
            unsafe fn low_bytes(from: *const u8) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(Self::load_pairs(from.cast()))) }
            }

            #[inline(always)]
            unsafe fn high_bytes(from: *const u8) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_srai_epi16::<8>(Self::load_pairs(from.cast())) }
            }

            #[inline(always)]
            unsafe fn nibbles<const SHIFT: u32>(from: *const u8) -> __m512i {
                // SAFETY: as above.
                unsafe {
                    let words = _mm512_loadu_si512(from.cast());
                    let words = match SHIFT {
                        0 => words,
                        4 => _mm512_srli_epi16::<4>(words),
                        8 => _mm512_srli_epi16::<8>(words),
                        _ => return _mm512_srli_epi16::<12>(words),
                    };
                    _mm512_and_si512(words, _mm512_set1_epi16(15))
                }
            }

            #[inline(always)]
            unsafe fn load_pairs(from: *const i16) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_loadu_si512(from.cast()) }
            }

            #[inline(always)]
            unsafe fn store_pairs(pairs: __m512i, to: *mut i16) {
                // SAFETY: as above.
                unsafe { _mm512_storeu_si512(to.cast(), pairs) }
            }

            #[inline(always)]
            unsafe fn less(pairs: __m512i, offset: i16) -> __m512i {
                // SAFETY: as above.
                unsafe { _mm512_sub_epi16(pairs, _mm512_set1_epi16(offset)) }
            }

            #[inline(always)]
            unsafe fn float(sums: __m512i) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_cvtepi32_ps(sums) }
            }

            #[inline(always)]
            unsafe fn splat(value: f32) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_set1_ps(value) }
            }

            #[inline(always)]
            unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            unsafe fn multiply(a: __m512, b: __m512) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_mul_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_loadu_ps(from) }
            }

            #[inline(always)]
            unsafe fn store(row: __m512, to: *mut f32) {
                // SAFETY: as above.
                unsafe { _mm512_storeu_ps(to, row) }
            }

            #[inline(always)]
            unsafe fn halves(from: *const u8) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
            }

            #[inline(always)]
            unsafe fn unsigned(from: *const u8) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
            }

            #[inline(always)]
            unsafe fn signed(from: *const u8) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
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
    };
}

/// `sums + w * x` over pairs. In assembly, because the compiler knows that sums of integers may be reordered: it would
/// put those of several columns together and run out of registers.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn multiply_add_256(mut sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
    let _products: __m256i;
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "vpmaddwd {products}, {w}, {x}",
            "vpaddd {sums}, {sums}, {products}",
            products = lateout(ymm_reg) _products, w = in(ymm_reg) w, x = in(ymm_reg) x, sums = inout(ymm_reg) sums,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The same on 512 bits.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn multiply_add_512(mut sums: __m512i, w: __m512i, x: __m512i) -> __m512i {
    let _products: __m512i;
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "vpmaddwd {products}, {w}, {x}",
            "vpaddd {sums}, {sums}, {products}",
            products = lateout(zmm_reg) _products, w = in(zmm_reg) w, x = in(zmm_reg) x, sums = inout(zmm_reg) sums,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// `sums + w * x` over pairs, in one instruction. In assembly, because the compiler takes the intrinsic apart into the
/// two above where it does not know the processor.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn dot_256(mut sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "{{vex}} vpdpwssd {sums}, {w}, {x}",
            w = in(ymm_reg) w, x = in(ymm_reg) x, sums = inout(ymm_reg) sums,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The same on 512 bits.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_512(mut sums: __m512i, w: __m512i, x: __m512i) -> __m512i {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "vpdpwssd {sums}, {w}, {x}",
            w = in(zmm_reg) w, x = in(zmm_reg) x, sums = inout(zmm_reg) sums,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// `sums + w * x` over quads of bytes, those of w unsigned.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn dot_bytes_256(mut sums: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "{{vex}} vpdpbusd {sums}, {w}, {x}",
            w = in(ymm_reg) w, x = in(ymm_reg) x, sums = inout(ymm_reg) sums,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The same on 512 bits.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_bytes_512(mut sums: __m512i, w: __m512i, x: __m512i) -> __m512i {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "vpdpbusd {sums}, {w}, {x}",
            w = in(zmm_reg) w, x = in(zmm_reg) x, sums = inout(zmm_reg) sums,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The functions of bytes of an instruction set that has none.
#[cfg(target_arch = "x86_64")]
macro_rules! no_bytes {
    () => {};
}

/// Those of two registers of 256 bits.
#[cfg(target_arch = "x86_64")]
macro_rules! bytes_of_256_bits {
    () => {
        const BYTES: bool = true;

        #[inline(always)]
        unsafe fn splat_sums(value: i32) -> [__m256i; 2] {
            // SAFETY: by the contract of the trait, here and below.
            unsafe { [_mm256_set1_epi32(value); 2] }
        }

        #[inline(always)]
        unsafe fn dot_bytes(w: [__m256i; 2], x: __m256i, sums: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: as above.
            unsafe { [dot_bytes_256(sums[0], w[0], x), dot_bytes_256(sums[1], w[1], x)] }
        }

        #[inline(always)]
        unsafe fn nibble_bytes<const HALF: usize>(from: *const u8) -> [__m256i; 2] {
            // SAFETY: as above.
            unsafe {
                Self::load_pairs(from.cast()).map(|bytes| {
                    let bytes = if HALF == 0 { bytes } else { _mm256_srli_epi16::<4>(bytes) };
                    _mm256_and_si256(bytes, _mm256_set1_epi8(15))
                })
            }
        }

        #[inline(always)]
        unsafe fn add_bytes(bytes: [__m256i; 2], value: u8) -> [__m256i; 2] {
            // SAFETY: as above.
            unsafe { bytes.map(|bytes| _mm256_add_epi8(bytes, _mm256_set1_epi8(value as i8))) }
        }
    };
}

/// Those of one register of 512 bits.
#[cfg(target_arch = "x86_64")]
macro_rules! bytes_of_512_bits {
    () => {
        const BYTES: bool = true;

        #[inline(always)]
        unsafe fn splat_sums(value: i32) -> __m512i {
            // SAFETY: by the contract of the trait, here and below.
            unsafe { _mm512_set1_epi32(value) }
        }

        #[inline(always)]
        unsafe fn dot_bytes(w: __m512i, x: __m512i, sums: __m512i) -> __m512i {
            // SAFETY: as above.
            unsafe { dot_bytes_512(sums, w, x) }
        }

        #[inline(always)]
        unsafe fn nibble_bytes<const HALF: usize>(from: *const u8) -> __m512i {
            // SAFETY: as above.
            unsafe {
                let bytes = Self::load_pairs(from.cast());
                let bytes = if HALF == 0 { bytes } else { _mm512_srli_epi16::<4>(bytes) };
                _mm512_and_si512(bytes, _mm512_set1_epi8(15))
            }
        }

        #[inline(always)]
        unsafe fn add_bytes(bytes: __m512i, value: u8) -> __m512i {
            // SAFETY: as above.
            unsafe { _mm512_add_epi8(bytes, _mm512_set1_epi8(value as i8)) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
lanes_of_256_bits!(Avx2, "avx2,fma,f16c", |sums, w, x| multiply_add_256(sums, w, x), no_bytes);
#[cfg(target_arch = "x86_64")]
lanes_of_256_bits!(Avx2Vnni, "avx2,fma,f16c,avxvnni", |sums, w, x| dot_256(sums, w, x), bytes_of_256_bits);
#[cfg(target_arch = "x86_64")]
lanes_of_512_bits!(
    Avx512,
    "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c",
    |sums, w, x| multiply_add_512(sums, w, x),
    no_bytes
);
#[cfg(target_arch = "x86_64")]
lanes_of_512_bits!(
    Avx512Vnni,
    "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx2,fma,f16c",
    |sums, w, x| dot_512(sums, w, x),
    bytes_of_512_bits
);

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
