//! A step of the chains of a product: one or two columns of a panel times as many values of x.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::PANEL;
#[cfg(target_arch = "x86_64")]
use super::lanes::Bf16;
use super::lanes::{Format, Lanes};
#[cfg(target_arch = "x86_64")]
use crate::simd::Avx512;

/// What the kernels multiply, written once for all: weights of a panel, values of a row of x, a sum.
///
/// # Safety
/// Of every function: the CPU has the instructions, and there are as many weights and values as are read.
pub(super) trait Step<I: Lanes> {
    /// Columns of a step.
    const COLUMNS: usize;
    /// Bytes of a value of x.
    const VALUE: usize;
    /// Weights of sixteen outputs.
    type Weights: Copy;
    /// Values of a row of x, for all lanes.
    type Values: Copy;

    unsafe fn weights(from: *const u8) -> Self::Weights;
    unsafe fn values(from: *const u8) -> Self::Values;
    /// `sum` and the terms of the step, column after column in the order of the chain.
    unsafe fn add(weights: Self::Weights, values: Self::Values, sum: I::Row) -> I::Row;
}

/// Steps of two columns straight from a packed panel.
///
/// # Safety
/// As for [`Step`].
pub(super) trait Packed<I: Lanes>: Step<I> {
    /// Bytes of a weight.
    const WEIGHT: usize;

    /// `sum` and the term of a last column that has no other beside it.
    unsafe fn add_last(weights: *const u8, values: *const u8, sum: I::Row) -> I::Row;
}

/// A column of f32 times an f32.
pub(super) struct Single;

/// Two columns of a format times two f32.
pub(super) struct Pair<F>(PhantomData<F>);

/// Two columns of bf16 times two bf16, the second first: what `vdpbf16ps` does, in multiply-adds.
pub(super) struct Rounded;

/// [`Rounded`] in one instruction. It rounds every sum as a fused multiply-add does, but takes for zero what is below
/// the normal numbers; nothing is, see [`super::rounded`].
#[cfg(target_arch = "x86_64")]
pub(super) struct Dot;

impl<I: Lanes> Step<I> for Single {
    const COLUMNS: usize = 1;
    const VALUE: usize = 4;
    type Weights = I::Row;
    type Values = I::Splat;

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> I::Row {
        // SAFETY: by the contract of the trait, here and below.
        unsafe { I::load_f32(from) }
    }

    #[inline(always)]
    unsafe fn values(from: *const u8) -> I::Splat {
        // SAFETY: as above.
        unsafe { I::splat(*from.cast()) }
    }

    #[inline(always)]
    unsafe fn add(weights: I::Row, value: I::Splat, sum: I::Row) -> I::Row {
        // SAFETY: as above.
        unsafe { I::multiply_add(weights, value, sum) }
    }
}

impl<I: Lanes, F: Format> Step<I> for Pair<F> {
    const COLUMNS: usize = 2;
    const VALUE: usize = 4;
    type Weights = [I::Row; 2];
    type Values = [I::Splat; 2];

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> [I::Row; 2] {
        // SAFETY: by the contract of the trait, here and below.
        unsafe { F::load_two::<I>(from) }
    }

    #[inline(always)]
    unsafe fn values(from: *const u8) -> [I::Splat; 2] {
        // SAFETY: as above.
        unsafe { [I::splat(*from.cast()), I::splat(*from.cast::<f32>().add(1))] }
    }

    #[inline(always)]
    unsafe fn add(weights: [I::Row; 2], values: [I::Splat; 2], sum: I::Row) -> I::Row {
        // SAFETY: as above.
        unsafe { I::multiply_add(weights[1], values[1], I::multiply_add(weights[0], values[0], sum)) }
    }
}

impl<I: Lanes, F: Format> Packed<I> for Pair<F> {
    const WEIGHT: usize = F::BYTES;

    #[inline(always)]
    unsafe fn add_last(weights: *const u8, values: *const u8, sum: I::Row) -> I::Row {
        // SAFETY: by the contract of the trait.
        unsafe { I::multiply_add(F::load::<I>(weights), I::splat(*values.cast()), sum) }
    }
}

impl<I: Lanes> Step<I> for Rounded {
    const COLUMNS: usize = 2;
    const VALUE: usize = 2;
    type Weights = [I::Row; 2];
    type Values = [I::Splat; 2];

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> [I::Row; 2] {
        // SAFETY: by the contract of the trait, here and below.
        unsafe { I::load_bf16(from) }
    }

    #[inline(always)]
    unsafe fn values(from: *const u8) -> [I::Splat; 2] {
        // SAFETY: as above.
        unsafe {
            let [first, second] = widened(from);
            [I::splat(first), I::splat(second)]
        }
    }

    #[inline(always)]
    unsafe fn add(weights: [I::Row; 2], values: [I::Splat; 2], sum: I::Row) -> I::Row {
        // SAFETY: as above.
        unsafe { I::multiply_add(weights[0], values[0], I::multiply_add(weights[1], values[1], sum)) }
    }
}

impl<I: Lanes> Packed<I> for Rounded {
    const WEIGHT: usize = 2;

    #[inline(always)]
    unsafe fn add_last(weights: *const u8, values: *const u8, sum: I::Row) -> I::Row {
        // SAFETY: by the contract of the trait; on both sides zeros stand beside a last column.
        unsafe {
            let (weights, values) = (<Self as Step<I>>::weights(weights), <Self as Step<I>>::values(values));
            <Self as Step<I>>::add(weights, values, sum)
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Step<Avx512> for Dot {
    const COLUMNS: usize = 2;
    const VALUE: usize = 2;
    type Weights = __m512bh;
    type Values = __m512bh;

    #[inline(always)]
    unsafe fn weights(from: *const u8) -> __m512bh {
        // SAFETY: by the contract of the trait, here and below; both types are 64 bytes without meaning.
        unsafe { std::mem::transmute(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn values(from: *const u8) -> __m512bh {
        // SAFETY: as above.
        unsafe { std::mem::transmute(_mm512_set1_epi32(from.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn add(weights: __m512bh, values: __m512bh, sum: __m512) -> __m512 {
        // SAFETY: as above.
        unsafe { _mm512_dpbf16_ps(sum, weights, values) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Packed<Avx512> for Dot {
    const WEIGHT: usize = Bf16::BYTES;

    #[inline(always)]
    unsafe fn add_last(weights: *const u8, values: *const u8, sum: __m512) -> __m512 {
        // SAFETY: by the contract of the trait; on both sides zeros stand beside a last column.
        unsafe { Self::add(Self::weights(weights), Self::values(values), sum) }
    }
}

/// Two bf16 that lie together.
///
/// # Safety
/// `from` is valid for four bytes.
#[inline(always)]
pub(super) unsafe fn widened(from: *const u8) -> [f32; 2] {
    // SAFETY: by the contract above.
    let word = unsafe { from.cast::<u32>().read_unaligned() };
    [f32::from_bits(word << 16), f32::from_bits(word & 0xffff_0000)]
}

/// Widens two columns of a panel for [`Single`], to the order in which [`Rounded`] adds them.
///
/// # Safety
/// As for [`Step`]; `to` has room for two columns.
#[inline(always)]
pub(super) unsafe fn turned<I: Lanes>(from: *const u8, to: *mut f32) {
    // SAFETY: by the contract above.
    unsafe {
        let [first, second] = I::load_bf16(from);
        I::store(second, to);
        I::store(first, to.add(PANEL));
    }
}
