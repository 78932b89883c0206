//! One body, several instruction sets, chosen once at run time.
//!
//! A kernel is written once as an `#[inline(always)]` function generic over [`Isa`], in plain loops that the compiler
//! vectorises. `dispatch!` compiles that body for AVX-512, for AVX2 + FMA and for the target's baseline (SSE2 on
//! x86-64, NEON on aarch64), and picks one by [`Level`].
//!
//! Everything the body calls has to be `#[inline(always)]` too: only what is inlined is compiled with the wider
//! instructions.
//!
//! Numerics: results are the same from call to call on one level. They may differ between levels in the last bits,
//! because the baseline of x86-64 rounds products before it adds them, and because sums over lanes follow
//! [`Isa::LANES`].
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::sync::OnceLock;

/// An instruction set that kernels are compiled for, from narrow to wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// The baseline of the compilation target.
    Portable,
    /// aarch64, its NEON written out: only quantised products differ from [`Level::Portable`], where the compiler uses it.
    Neon,
    /// [`Level::Neon`] with products of bytes (`dotprod`). Only quantised products differ from it.
    NeonDot,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// [`Level::Avx2`] with AVX-VNNI. Only quantised products differ from it.
    Avx2Vnni,
    /// x86-64 with AVX-512 F, VL, BW and DQ, besides all of [`Level::Avx2`].
    Avx512,
    /// [`Level::Avx512`] with AVX512-VNNI. Only quantised products differ from it.
    Avx512Vnni,
    /// [`Level::Avx512Vnni`] with AVX512-BF16. Only products of bf16 with bf16 differ from it.
    Avx512Bf16,
}

impl Level {
    /// Every level this CPU can run, narrowest first.
    pub fn available() -> &'static [Level] {
        static AVAILABLE: OnceLock<Vec<Level>> = OnceLock::new();
        AVAILABLE.get_or_init(detect)
    }

    /// This level, or the widest narrower one that this CPU can run.
    #[inline]
    pub fn supported(self) -> Level {
        // The levels are not a chain: a CPU may have AVX-512 without AVX-VNNI.
        Level::available().iter().rev().copied().find(|&level| level <= self).unwrap_or(Level::Portable)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Portable => "portable",
            Level::Neon => "neon",
            Level::NeonDot => "neondot",
            Level::Avx2 => "avx2",
            Level::Avx2Vnni => "avx2vnni",
            Level::Avx512 => "avx512",
            Level::Avx512Vnni => "avx512vnni",
            Level::Avx512Bf16 => "avx512bf16",
        })
    }
}

thread_local! {
    static OVERRIDE: Cell<Option<Level>> = const { Cell::new(None) };
}

/// The level in use: the widest one this CPU can run.
///
/// The environment variable `ANSER_ISA` (the name of a level, such as `avx2`), read once, can lower it. It never raises
/// it, and any other value is ignored. Kernels that spread over threads ask once, on the thread that called them.
#[inline]
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    OVERRIDE.get().unwrap_or_else(|| {
        *LEVEL.get_or_init(|| {
            let wanted = match std::env::var("ANSER_ISA").as_deref() {
                Ok("portable") => Level::Portable,
                Ok("neon") => Level::Neon,
                Ok("avx2") => Level::Avx2,
                Ok("avx2vnni") => Level::Avx2Vnni,
                Ok("avx512") => Level::Avx512,
                Ok("avx512vnni") => Level::Avx512Vnni,
                _ => Level::Avx512Bf16,
            };
            wanted.supported()
        })
    })
}

/// Runs `f` with every kernel that this thread calls on `level`, or on the widest the CPU has if that is narrower:
/// how tests and benchmarks visit each level.
pub fn with_level<R>(level: Level, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Level>);
    impl Drop for Restore {
        fn drop(&mut self) {
            OVERRIDE.set(self.0);
        }
    }
    let _restore = Restore(OVERRIDE.replace(Some(level.supported())));
    f()
}

/// The levels of this CPU, narrowest first.
#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<Level> {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = has!("avx2") && has!("fma") && has!("f16c");
    let avx512 = avx2 && has!("avx512f") && has!("avx512vl") && has!("avx512bw") && has!("avx512dq");
    [
        (Level::Portable, true),
        (Level::Avx2, avx2),
        (Level::Avx2Vnni, avx2 && has!("avxvnni")),
        (Level::Avx512, avx512),
        (Level::Avx512Vnni, avx512 && has!("avx512vnni")),
        (Level::Avx512Bf16, avx512 && has!("avx512vnni") && has!("avx512bf16")),
    ]
    .into_iter()
    .filter_map(|(level, there)| there.then_some(level))
    .collect()
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Vec<Level> {
    let dot = std::arch::is_aarch64_feature_detected!("dotprod");
    let levels = [(Level::Portable, true), (Level::Neon, true), (Level::NeonDot, dot)];
    levels.into_iter().filter_map(|(level, there)| there.then_some(level)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Vec<Level> {
    vec![Level::Portable]
}

/// What a body needs to know about the instruction set it is being compiled for.
pub trait Isa: Copy {
    /// The level this stands for.
    const LEVEL: Level;
    /// Whether a fused multiply-add is one instruction. Where it is not, `f32::mul_add` is a slow library call.
    const FMA: bool;
    /// f32 lanes of a vector register.
    const LANES: usize;

    /// `a * b + c`, fused where the hardware does it.
    #[inline(always)]
    fn fma(a: f32, b: f32, c: f32) -> f32 {
        if Self::FMA { a.mul_add(b, c) } else { a * b + c }
    }
}

/// The compilation target's baseline.
#[derive(Clone, Copy)]
pub struct Portable;

/// NEON, written out: for quantised products.
#[derive(Clone, Copy)]
pub struct Neon;

/// NEON with products of bytes: for quantised products.
#[derive(Clone, Copy)]
pub struct NeonDot;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2;

/// AVX2 with AVX-VNNI: for quantised products.
#[derive(Clone, Copy)]
pub struct Avx2Vnni;

/// AVX-512 F, VL, BW, DQ.
#[derive(Clone, Copy)]
pub struct Avx512;

/// AVX-512 with AVX512-VNNI: for quantised products.
#[derive(Clone, Copy)]
pub struct Avx512Vnni;

impl Isa for Portable {
    const LEVEL: Level = Level::Portable;
    const FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    const LANES: usize = 4;
}

impl Isa for Neon {
    const LEVEL: Level = Level::Neon;
    const FMA: bool = true;
    const LANES: usize = 4;
}

impl Isa for NeonDot {
    const LEVEL: Level = Level::NeonDot;
    const FMA: bool = true;
    const LANES: usize = 4;
}

impl Isa for Avx2 {
    const LEVEL: Level = Level::Avx2;
    const FMA: bool = true;
    const LANES: usize = 8;
}

impl Isa for Avx2Vnni {
    const LEVEL: Level = Level::Avx2Vnni;
    const FMA: bool = true;
    const LANES: usize = 8;
}

impl Isa for Avx512 {
    const LEVEL: Level = Level::Avx512;
    const FMA: bool = true;
    const LANES: usize = 16;
}

impl Isa for Avx512Vnni {
    const LEVEL: Level = Level::Avx512Vnni;
    const FMA: bool = true;
    const LANES: usize = 16;
}

/// Asks for some elements that are needed soon; they need not exist. Hardware does not look ahead over rows that are far
/// apart, nor along many rows at once.
#[inline(always)]
pub fn fetch(from: *const f32, len: usize) {
    // A cache line of f32.
    for element in (0..len).step_by(16) {
        // SAFETY: every x86-64 has the instruction, and it never faults.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(element).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = from.wrapping_add(element);
    }
}

/// Declares functions that run a generic body on a given [`Level`].
///
/// `dispatch! { pub(crate) fn name(x: &mut [f32], s: f32) -> f32 = body; }` makes
/// `pub(crate) fn name(level: Level, x: &mut [f32], s: f32) -> f32`, which calls `body::<I>(x, s)`, where `body` is an
/// `#[inline(always)] fn body<I: Isa>(x: &mut [f32], s: f32) -> f32`. A `const` parameter goes before the
/// arguments: `fn name<const N: usize>(..) = body` calls `body::<I, N>`.
#[macro_export]
macro_rules! dispatch {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident $(<const $n:ident: usize>)? ($($arg:ident: $ty:ty),* $(,)?)
        $(-> $ret:ty)? = $body:ident;)+) => { $(
        $(#[$meta])*
        $vis fn $name $(<const $n: usize>)? (level: $crate::simd::Level, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,f16c")]
            fn avx512 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::simd::Avx512 $(, $n)?>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2 $(<const $n: usize>)? ($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::simd::Avx2 $(, $n)?>($($arg),*)
            }

            match level.supported() {
                // SAFETY: `supported` returns only levels whose features this CPU was found to have. (The levels with
                // VNNI and BF16 matter to some products alone, which have a choice of their own.)
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                $crate::simd::Level::Avx512 | $crate::simd::Level::Avx512Vnni | $crate::simd::Level::Avx512Bf16 => unsafe {
                    avx512 $(::<$n>)? ($($arg),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                #[allow(unsafe_code)]
                $crate::simd::Level::Avx2 | $crate::simd::Level::Avx2Vnni => unsafe { avx2 $(::<$n>)? ($($arg),*) },
                _ => $body::<$crate::simd::Portable $(, $n)?>($($arg),*),
            }
        }
    )+ };
}
pub use crate::dispatch;

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn dot_body<I: Isa>(x: &[f32], y: &[f32]) -> f32 {
        x.iter().zip(y).fold(0.0, |sum, (&x, &y)| I::fma(x, y, sum))
    }

    #[inline(always)]
    fn lanes_body<I: Isa, const N: usize>(scale: usize) -> usize {
        scale * N * usize::from(I::LEVEL.supported() == I::LEVEL)
    }

    dispatch! {
        fn dot(x: &[f32], y: &[f32]) -> f32 = dot_body;
        fn lanes<const N: usize>(scale: usize) -> usize = lanes_body;
    }

    #[test]
    fn every_level_runs_a_body_it_can_run() {
        let wide = [Level::Avx512, Level::Avx512Vnni, Level::Avx512Bf16];
        for level in [Level::Portable, Level::Avx2, Level::Avx2Vnni].into_iter().chain(wide) {
            assert_eq!(dot(level, &[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]), 32.0);
            assert_eq!(lanes::<7>(level, 3), 21);
        }
        assert_eq!(Level::available()[0], Level::Portable);
        let outside = level();
        assert!(Level::available().contains(&outside));
        assert_eq!(with_level(Level::Portable, level), Level::Portable);
        assert_eq!(level(), outside);
    }
}
