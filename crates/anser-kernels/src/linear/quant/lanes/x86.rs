//! The lanes of AVX2 and AVX-512, with VNNI and without.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{Kernel, Lanes};
use crate::simd::{Avx2, Avx2Vnni, Avx512, Avx512Vnni};

/// Two registers of eight lanes. `$dot` adds products of pairs to sums.
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
macro_rules! no_bytes {
    () => {};
}

/// Those of two registers of 256 bits.
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

lanes_of_256_bits!(Avx2, "avx2,fma,f16c", |sums, w, x| multiply_add_256(sums, w, x), no_bytes);
lanes_of_256_bits!(Avx2Vnni, "avx2,fma,f16c,avxvnni", |sums, w, x| dot_256(sums, w, x), bytes_of_256_bits);
lanes_of_512_bits!(
    Avx512,
    "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c",
    |sums, w, x| multiply_add_512(sums, w, x),
    no_bytes
);
lanes_of_512_bits!(
    Avx512Vnni,
    "avx512f,avx512vl,avx512bw,avx512dq,avx512vnni,avx2,fma,f16c",
    |sums, w, x| dot_512(sums, w, x),
    bytes_of_512_bits
);
