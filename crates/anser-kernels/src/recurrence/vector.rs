//! Registers of f32 for the matrix recurrences, which are too intricate for the compiler to vectorise by itself.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Isa, Portable};

/// One register.
///
/// # Safety
/// Of every function: the caller is compiled for, and runs with, the instruction set; pointers are valid for `WIDTH`
/// elements, at any alignment.
pub(super) trait Vector {
    /// Lanes of the register.
    const WIDTH: usize;
    /// The register.
    type F32: Copy;

    unsafe fn splat(x: f32) -> Self::F32;
    unsafe fn load(from: *const f32) -> Self::F32;
    unsafe fn store(x: Self::F32, to: *mut f32);
    /// A store past the caches, if the instruction set has one; `to` is a multiple of the register. [`arrived`] comes
    /// before another thread may read it.
    #[inline(always)]
    unsafe fn stream(x: Self::F32, to: *mut f32) {
        // SAFETY: by the contract of the trait.
        unsafe { Self::store(x, to) }
    }
    unsafe fn mul(a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, fused where the instruction set fuses.
    unsafe fn fma(a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
}

/// Copies to where nobody looks for a while: past the caches, if the place is made of whole registers.
///
/// # Safety
/// As for [`Vector`]. [`arrived`] comes before another thread may read what was written.
#[inline(always)]
pub(super) unsafe fn copy_past<V: Vector>(from: &[f32], to: &mut [f32]) {
    assert!(from.len() == to.len());
    if to.len().is_multiple_of(V::WIDTH) && to.as_ptr().addr().is_multiple_of(V::WIDTH * size_of::<f32>()) {
        for i in (0..to.len()).step_by(V::WIDTH) {
            // SAFETY: within both slices, and on a multiple of the register.
            unsafe { V::stream(V::load(from.as_ptr().add(i)), to.as_mut_ptr().add(i)) };
        }
    } else {
        to.copy_from_slice(from);
    }
}

/// Waits until what [`copy_past`] wrote is where every thread sees it.
#[inline(always)]
pub(super) fn arrived() {
    // SAFETY: every x86-64 has the instruction.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        _mm_sfence();
    }
}

/// A single lane on the instruction set `I`, for what is left of a row.
pub(super) struct One<I>(PhantomData<I>);

impl<I: Isa> Vector for One<I> {
    const WIDTH: usize = 1;
    type F32 = f32;

    #[inline(always)]
    unsafe fn splat(x: f32) -> f32 {
        x
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> f32 {
        // SAFETY: by the contract of the trait.
        unsafe { from.read() }
    }

    #[inline(always)]
    unsafe fn store(x: f32, to: *mut f32) {
        // SAFETY: by the contract of the trait.
        unsafe { to.write(x) }
    }

    #[inline(always)]
    unsafe fn mul(a: f32, b: f32) -> f32 {
        a * b
    }

    #[inline(always)]
    unsafe fn fma(a: f32, b: f32, c: f32) -> f32 {
        I::fma(a, b, c)
    }
}

impl Vector for Portable {
    const WIDTH: usize = 4;
    type F32 = [f32; 4];

    #[inline(always)]
    unsafe fn splat(x: f32) -> [f32; 4] {
        [x; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> [f32; 4] {
        // SAFETY: by the contract of the trait.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(x: [f32; 4], to: *mut f32) {
        // SAFETY: by the contract of the trait.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn mul(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: [f32; 4], b: [f32; 4], c: [f32; 4]) -> [f32; 4] {
        std::array::from_fn(|i| <Portable as Isa>::fma(a[i], b[i], c[i]))
    }
}

/// Implements [`Vector`] by one intrinsic a function.
#[cfg(target_arch = "x86_64")]
macro_rules! vector {
    ($isa:ty, $width:literal, $f32:ty, $splat:ident, $load:ident, $store:ident, $stream:ident, $mul:ident, $fma:ident) => {
        impl Vector for $isa {
            const WIDTH: usize = $width;
            type F32 = $f32;

            #[inline(always)]
            unsafe fn splat(x: f32) -> $f32 {
                // SAFETY: by the contract of the trait.
                unsafe { $splat(x) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> $f32 {
                // SAFETY: by the contract of the trait.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(x: $f32, to: *mut f32) {
                // SAFETY: by the contract of the trait.
                unsafe { $store(to, x) }
            }

            #[inline(always)]
            unsafe fn stream(x: $f32, to: *mut f32) {
                // SAFETY: by the contract of the trait.
                unsafe { $stream(to, x) }
            }

            #[inline(always)]
            unsafe fn mul(a: $f32, b: $f32) -> $f32 {
                // SAFETY: by the contract of the trait.
                unsafe { $mul(a, b) }
            }

            #[inline(always)]
            unsafe fn fma(a: $f32, b: $f32, c: $f32) -> $f32 {
                // SAFETY: by the contract of the trait.
                unsafe { $fma(a, b, c) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
vector!(
    Avx2,
    8,
    __m256,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_stream_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps
);
#[cfg(target_arch = "x86_64")]
vector!(
    Avx512,
    16,
    __m512,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_stream_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps
);

/// Calls `$columns::<V, R>(first column, args..)` on column blocks that cover 0..n: blocks of `$registers` registers, of
/// one register, of a single lane.
macro_rules! for_columns {
    ($isa:ident, $n:expr, $columns:ident, $registers:literal, ($($arg:expr),*)) => {{
        let (n, width) = ($n, <$isa as Vector>::WIDTH);
        let mut column = 0;
        while column + $registers * width <= n {
            $columns::<$isa, $registers>(column, $($arg),*);
            column += $registers * width;
        }
        while column + width <= n {
            $columns::<$isa, 1>(column, $($arg),*);
            column += width;
        }
        while column < n {
            $columns::<One<$isa>, 1>(column, $($arg),*);
            column += 1;
        }
    }};
}
pub(super) use for_columns;

#[cfg(test)]
mod tests {
    use super::{Vector, arrived, copy_past};
    use crate::simd::{Isa, Level, dispatch};

    #[inline(always)]
    fn copy_body<I: Isa + Vector>(from: &[f32], to: &mut [f32]) {
        // SAFETY: the only caller is `copy`, compiled for `I`.
        unsafe { copy_past::<I>(from, to) };
        arrived();
    }

    dispatch! {
        fn copy(from: &[f32], to: &mut [f32]) = copy_body;
    }

    #[test]
    fn a_copy_past_the_caches_is_a_copy_on_and_off_a_line() {
        #[repr(align(64))]
        struct Lines([f32; 96]);
        let from: [f32; 64] = std::array::from_fn(|i| i as f32);
        for &level in Level::available() {
            for (start, length) in [(0, 64), (16, 32), (8, 64), (1, 64), (0, 63), (0, 0)] {
                let mut to = Lines([-1.0; 96]);
                copy(level, &from[..length], &mut to.0[start..start + length]);
                let wanted = |i: usize| if (start..start + length).contains(&i) { (i - start) as f32 } else { -1.0 };
                assert!((0..96).all(|i| to.0[i] == wanted(i)), "{level}: {length} from {start} on: {:?}", to.0);
            }
        }
    }
}
