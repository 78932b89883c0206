//! Rows of x in bf16, and what both sides of a product of bf16 with bf16 keep.
//!
//! **No denormal numbers.** `vdpbf16ps` takes sums below the normal numbers of f32 for zero, other instructions do not.
//! So that all give the same bits, magnitudes below 2^-56 become zero on both sides. What remains are multiples of
//! 2^-63, products and sums of them multiples of 2^-126, the smallest normal number, and rounding keeps that.

use super::BLOCK;
use crate::simd::{Isa, dispatch};

/// The smallest magnitude that bf16 keeps in a product: 2^-56, about 1.4e-17.
const SMALLEST: u32 = (127 - 56) << 23;

/// A block of columns of a row of x, filled up with zeros.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [u16; BLOCK]);

impl Block {
    pub(super) const ZERO: Block = Block([0; BLOCK]);
}

/// The bits of a value in bf16, to nearest even, magnitudes below 2^-56 as zero.
#[inline(always)]
pub(super) fn round(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // A NaN keeps its upper bits, of which one is set.
    let number = if magnitude > f32::INFINITY.to_bits() { bits >> 16 | 0x40 } else { nearest };
    (if magnitude < SMALLEST { 0 } else { number }) as u16
}

#[expect(clippy::extra_unused_type_parameters, reason = "what `dispatch!` calls has one")]
#[inline(always)]
fn round_body<I: Isa>(x: &[f32], to: &mut Block) {
    match <&[f32; BLOCK]>::try_from(x) {
        Ok(x) => {
            for (to, &x) in to.0.iter_mut().zip(x) {
                *to = round(x);
            }
        }
        Err(_) => {
            *to = Block::ZERO;
            for (to, &x) in to.0.iter_mut().zip(x) {
                *to = round(x);
            }
        }
    }
}

dispatch! {
    /// Rounds at most a block of x; the result is the same on each level.
    pub(super) fn round_at(x: &[f32], to: &mut Block) = round_body;
}
