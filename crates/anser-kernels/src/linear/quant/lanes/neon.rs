//! The lanes of NEON, with products of bytes and without: four registers of four lanes.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Kernel, Lanes};
use crate::simd::{Neon, NeonDot};

macro_rules! lanes_of_128_bits {
    ($isa:ty, $features:literal, $bytes:ident) => {
        impl Lanes for $isa {
            $bytes!();

            type Pairs = [int16x8_t; 4];
            type Both = int32x4_t;
            type Sums = [int32x4_t; 4];
            type Row = [float32x4_t; 4];

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
            unsafe fn no_sums() -> [int32x4_t; 4] {
                // SAFETY: as above.
                unsafe { [vdupq_n_s32(0); 4] }
            }

            #[inline(always)]
            unsafe fn products(w: [int16x8_t; 4], x: int32x4_t) -> [int32x4_t; 4] {
                // SAFETY: as above.
                unsafe { Self::dot(w, x, Self::no_sums()) }
            }

            #[inline(always)]
            unsafe fn dot(w: [int16x8_t; 4], x: int32x4_t, mut sums: [int32x4_t; 4]) -> [int32x4_t; 4] {
                // SAFETY: as above.
                unsafe {
                    let x = vget_low_s16(vreinterpretq_s16_s32(x));
                    for i in [0, 2] {
                        // Eight lanes' first codes, and their second ones.
                        let (first, second) = (vuzp1q_s16(w[i], w[i + 1]), vuzp2q_s16(w[i], w[i + 1]));
                        sums[i] = vmlal_lane_s16::<0>(sums[i], vget_low_s16(first), x);
                        sums[i + 1] = vmlal_high_lane_s16::<0>(sums[i + 1], first, x);
                        sums[i] = vmlal_lane_s16::<1>(sums[i], vget_low_s16(second), x);
                        sums[i + 1] = vmlal_high_lane_s16::<1>(sums[i + 1], second, x);
                    }
                    sums
                }
            }

            #[inline(always)]
            unsafe fn both(from: *const i16) -> int32x4_t {
                // SAFETY: as above.
                unsafe { vdupq_n_s32(from.cast::<i32>().read_unaligned()) }
            }

            #[inline(always)]
            unsafe fn low_bytes(from: *const u8) -> [int16x8_t; 4] {
                // SAFETY: as above.
                unsafe { Self::load_pairs(from.cast()).map(|words| vshrq_n_s16::<8>(vshlq_n_s16::<8>(words))) }
            }

            #[inline(always)]
            unsafe fn high_bytes(from: *const u8) -> [int16x8_t; 4] {
                // SAFETY: as above.
                unsafe { Self::load_pairs(from.cast()).map(|words| vshrq_n_s16::<8>(words)) }
            }

            #[inline(always)]
            unsafe fn nibbles<const SHIFT: u32>(from: *const u8) -> [int16x8_t; 4] {
                // SAFETY: as above.
                unsafe {
                    Self::load_pairs(from.cast()).map(|words| {
                        let words = vreinterpretq_u16_s16(words);
                        let words = match SHIFT {
                            0 => words,
                            4 => vshrq_n_u16::<4>(words),
                            8 => vshrq_n_u16::<8>(words),
                            _ => vshrq_n_u16::<12>(words),
                        };
                        vreinterpretq_s16_u16(vandq_u16(words, vdupq_n_u16(15)))
                    })
                }
            }

            #[inline(always)]
            unsafe fn load_pairs(from: *const i16) -> [int16x8_t; 4] {
                // SAFETY: as above.
                unsafe { [0, 1, 2, 3].map(|i| vld1q_s16(from.add(8 * i))) }
            }

            #[inline(always)]
            unsafe fn store_pairs(pairs: [int16x8_t; 4], to: *mut i16) {
                for (i, words) in pairs.into_iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { vst1q_s16(to.add(8 * i), words) }
                }
            }

            #[inline(always)]
            unsafe fn less(pairs: [int16x8_t; 4], offset: i16) -> [int16x8_t; 4] {
                // SAFETY: as above.
                unsafe { pairs.map(|words| vsubq_s16(words, vdupq_n_s16(offset))) }
            }

            #[inline(always)]
            unsafe fn float(sums: [int32x4_t; 4]) -> [float32x4_t; 4] {
                // SAFETY: as above.
                unsafe { sums.map(|sums| vcvtq_f32_s32(sums)) }
            }

            #[inline(always)]
            unsafe fn splat(value: f32) -> [float32x4_t; 4] {
                // SAFETY: as above.
                unsafe { [vdupq_n_f32(value); 4] }
            }

            #[inline(always)]
            unsafe fn multiply_add(a: [float32x4_t; 4], b: [float32x4_t; 4], c: [float32x4_t; 4]) -> [float32x4_t; 4] {
                // SAFETY: as above.
                unsafe { [0, 1, 2, 3].map(|i| vfmaq_f32(c[i], a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn multiply(a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
                // SAFETY: as above.
                unsafe { [0, 1, 2, 3].map(|i| vmulq_f32(a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> [float32x4_t; 4] {
                // SAFETY: as above.
                unsafe { [0, 1, 2, 3].map(|i| vld1q_f32(from.add(4 * i))) }
            }

            #[inline(always)]
            unsafe fn store(row: [float32x4_t; 4], to: *mut f32) {
                for (i, lanes) in row.into_iter().enumerate() {
                    // SAFETY: as above.
                    unsafe { vst1q_f32(to.add(4 * i), lanes) }
                }
            }

            #[inline(always)]
            unsafe fn halves(from: *const u8) -> [float32x4_t; 4] {
                // SAFETY: as above.
                unsafe {
                    let [a, b] = widen_halves(vld1q_u16(from.cast()));
                    let [c, d] = widen_halves(vld1q_u16(from.cast::<u16>().add(8)));
                    [a, b, c, d]
                }
            }

            #[inline(always)]
            unsafe fn unsigned(from: *const u8) -> [float32x4_t; 4] {
                // SAFETY: as above.
                unsafe {
                    let bytes = vld1q_u8(from);
                    let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
                    [vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)]
                        .map(|lanes| vcvtq_f32_u32(lanes))
                }
            }

            #[inline(always)]
            unsafe fn signed(from: *const u8) -> [float32x4_t; 4] {
                // SAFETY: as above.
                unsafe {
                    let bytes = vld1q_s8(from.cast());
                    let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
                    [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
                        .map(|lanes| vcvtq_f32_s32(lanes))
                }
            }

            #[inline(always)]
            unsafe fn prefetch(address: *const u8) {
                // SAFETY: a prefetch never faults.
                unsafe {
                    asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
                }
            }

            #[inline(always)]
            unsafe fn prefetch_late(address: *const u8) {
                // SAFETY: as above.
                unsafe {
                    asm!("prfm pldl2keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly));
                }
            }
        }
    };
}

/// Eight f16 as f32. In assembly, because the intrinsics take a type that is not stable.
#[inline]
#[target_feature(enable = "neon")]
fn widen_halves(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            low = out(vreg) low, high = lateout(vreg) high, halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// `sums + w * x` over quads of signed bytes. In assembly, because the intrinsic is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_bytes_128(mut sums: int32x4_t, w: int16x8_t, x: int32x4_t) -> int32x4_t {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.16b",
            w = in(vreg) w, x = in(vreg) x, sums = inout(vreg) sums,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// The functions of bytes of an instruction set that has none.
macro_rules! no_bytes {
    () => {};
}

macro_rules! bytes_of_128_bits {
    () => {
        const BYTES: bool = true;
        const LIFT: u8 = 0;

        #[inline(always)]
        unsafe fn splat_sums(value: i32) -> [int32x4_t; 4] {
            // SAFETY: by the contract of the trait, here and below.
            unsafe { [vdupq_n_s32(value); 4] }
        }

        #[inline(always)]
        unsafe fn dot_bytes(w: [int16x8_t; 4], x: int32x4_t, sums: [int32x4_t; 4]) -> [int32x4_t; 4] {
            // SAFETY: as above.
            unsafe { [0, 1, 2, 3].map(|i| dot_bytes_128(sums[i], w[i], x)) }
        }

        #[inline(always)]
        unsafe fn nibble_bytes<const HALF: usize>(from: *const u8) -> [int16x8_t; 4] {
            // SAFETY: as above.
            unsafe {
                [0, 1, 2, 3].map(|i| {
                    let bytes = vld1q_u8(from.add(16 * i));
                    let nibbles = if HALF == 0 { vandq_u8(bytes, vdupq_n_u8(15)) } else { vshrq_n_u8::<4>(bytes) };
                    vreinterpretq_s16_u8(nibbles)
                })
            }
        }

        #[inline(always)]
        unsafe fn add_bytes(bytes: [int16x8_t; 4], value: u8) -> [int16x8_t; 4] {
            // SAFETY: as above.
            unsafe { bytes.map(|bytes| vreinterpretq_s16_u8(vaddq_u8(vreinterpretq_u8_s16(bytes), vdupq_n_u8(value)))) }
        }
    };
}

lanes_of_128_bits!(Neon, "neon", no_bytes);
lanes_of_128_bits!(NeonDot, "neon,dotprod", bytes_of_128_bits);
