//! Rows of x as 16-bit integers.

use super::super::BLOCK;
use super::GROUP;
use crate::simd::{Isa, dispatch};

/// A block of columns of a row of x, filled up with zeros.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in super::super) struct Activations {
    /// x in steps.
    pub(super) codes: [i16; BLOCK],
    /// The sum of the codes of each group.
    pub(super) sums: [f32; BLOCK / GROUP],
    /// Of a code. NaN if x has a NaN or an infinity in this block, 0 if the block counts as zero.
    pub(super) step: f32,
}

impl Activations {
    pub(in super::super) const ZERO: Activations =
        Activations { codes: [0; BLOCK], sums: [0.0; BLOCK / GROUP], step: 0.0 };
}

/// Magnitudes below count as zero: `LARGEST / NOTHING` is still a finite f32.
const NOTHING: f32 = 1e-30;

/// The largest code.
const LARGEST: f32 = 32767.0;

/// At most a block of x, quantised.
#[inline(always)]
pub(in super::super) fn quantise_block(x: &[f32]) -> Activations {
    let mut all = [0.0; BLOCK];
    all[..x.len()].copy_from_slice(x);
    // As integers, magnitudes are ordered like floats, with NaN above infinity.
    let largest = f32::from_bits(all.iter().fold(0, |largest, x| (x.to_bits() & 0x7fff_ffff).max(largest)));
    let mut out = Activations::ZERO;
    if !largest.is_finite() {
        out.step = f32::NAN;
    } else if largest >= NOTHING {
        out.step = largest / LARGEST;
        let inverse = LARGEST / largest;
        for (code, x) in out.codes.iter_mut().zip(all) {
            // Added to 1.5 * 2^23, a number is rounded to nearest even, and stands in the low bits.
            *code = (x * inverse + 12_582_912.0).to_bits() as i16;
        }
        for (sum, codes) in out.sums.iter_mut().zip(out.codes.as_chunks::<GROUP>().0) {
            *sum = codes.iter().map(|&code| i32::from(code)).sum::<i32>() as f32;
        }
    }
    out
}

#[expect(clippy::extra_unused_type_parameters, reason = "what `dispatch!` calls has one")]
#[inline(always)]
fn quantise_body<I: Isa>(x: &[f32], to: &mut Activations) {
    *to = quantise_block(x);
}

dispatch! {
    /// [`quantise_block`] with the instructions of a level; the result is the same on each.
    pub(in super::super) fn quantise_at(x: &[f32], to: &mut Activations) = quantise_body;
}
