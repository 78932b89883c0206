//! Rows of x as integers of 16 or 8 bits.

use super::super::BLOCK;
use super::GROUP;
use super::layout::Steps;
use crate::simd::{Isa, dispatch};

/// A block of columns of a row of x, filled up with zeros. An element is its code times the step of its group times that
/// of the block, of which one is 1.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(in super::super) struct Activations {
    /// x in steps.
    pub(super) codes: [i16; BLOCK],
    /// Codes of 8 bits as bytes, eight columns after eight columns in the [order](in_order) in which a panel has them.
    pub(super) bytes: [i8; BLOCK],
    /// The sum of the codes of each group.
    pub(super) sums: [f32; BLOCK / GROUP],
    /// -128 times that sum: what makes up for weights that are 128 too large.
    pub(super) offsets: [i32; BLOCK / GROUP],
    /// Steps of the groups; 1 if the block has one.
    pub(super) steps: [f32; BLOCK / GROUP],
    /// The sums times the steps.
    pub(super) scaled: [f32; BLOCK / GROUP],
    /// Step of the block; 1 if groups have theirs. NaN if x has a NaN or an infinity in this block.
    pub(super) step: f32,
}

impl Activations {
    pub(in super::super) const ZERO: Activations = Activations {
        codes: [0; BLOCK],
        bytes: [0; BLOCK],
        sums: [0.0; BLOCK / GROUP],
        offsets: [0; BLOCK / GROUP],
        steps: [0.0; BLOCK / GROUP],
        scaled: [0.0; BLOCK / GROUP],
        step: 0.0,
    };
}

/// Magnitudes below count as zero: `LARGEST / NOTHING` is still a finite f32.
const NOTHING: f32 = 1e-30;

/// The largest code of 16 bits and of 8.
const LARGEST: f32 = 32767.0;
const LARGEST_BYTE: f32 = 127.0;

/// At most a block of x, quantised.
#[inline(always)]
pub(in super::super) fn quantise_block(steps: Steps, x: &[f32], out: &mut Activations) {
    match x.try_into() {
        Ok(x) => quantise_whole(steps, x, out),
        Err(_) => {
            let mut all = [0.0; BLOCK];
            all[..x.len()].copy_from_slice(x);
            quantise_whole(steps, &all, out);
        }
    }
}

#[inline(always)]
fn quantise_whole(steps: Steps, x: &[f32; BLOCK], out: &mut Activations) {
    match steps {
        Steps::Sixteen => {
            out.step = quantise(x, LARGEST, &mut out.codes);
            out.steps = [1.0; BLOCK / GROUP];
        }
        Steps::OfBlocks => {
            out.step = quantise(x, LARGEST_BYTE, &mut out.codes);
            out.steps = [1.0; BLOCK / GROUP];
            out.bytes = in_bytes(&out.codes);
        }
        Steps::OfGroups => {
            for (g, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
                out.steps[g] = quantise(x, LARGEST_BYTE, &mut out.codes.as_chunks_mut::<GROUP>().0[g]);
            }
            // What is no number shows in all that is made of the block.
            out.step = if out.steps.iter().any(|step| step.is_nan()) { f32::NAN } else { 1.0 };
            out.bytes = in_bytes(&out.codes);
        }
    }
    let mut sums = [0i32; BLOCK / GROUP];
    for (sum, codes) in sums.iter_mut().zip(out.codes.as_chunks::<GROUP>().0) {
        let mut lanes = [0i32; 8];
        for codes in codes.as_chunks::<8>().0 {
            lanes.iter_mut().zip(codes).for_each(|(lane, &code)| *lane += i32::from(code));
        }
        *sum = lanes.iter().sum();
    }
    for (g, sum) in sums.into_iter().enumerate() {
        (out.sums[g], out.offsets[g]) = (sum as f32, -128 * sum);
        out.scaled[g] = out.sums[g] * out.steps[g];
    }
}

/// Codes of 8 bits as bytes, in the order of a panel.
#[inline(always)]
fn in_bytes(codes: &[i16; BLOCK]) -> [i8; BLOCK] {
    let mut bytes = codes.map(|code| code as i8);
    for octet in bytes.as_chunks_mut::<8>().0 {
        *octet = in_order(*octet);
    }
    bytes
}

/// Eight columns in the order 0, 4, 1, 5, 2, 6, 3, 7 in which the bytes of codes and of nibbles lie in a panel: those of one
/// half between those of the other. Written so that it is vectorised.
#[inline(always)]
fn in_order(octet: [i8; 8]) -> [i8; 8] {
    let all = u64::from_le_bytes(octet.map(|byte| byte as u8));
    let apart = |half: u64| {
        let pairs = (half | half << 16) & 0x0000_ffff_0000_ffff;
        (pairs | pairs << 8) & 0x00ff_00ff_00ff_00ff
    };
    (apart(all & 0xffff_ffff) | apart(all >> 32) << 8).to_le_bytes().map(|byte| byte as i8)
}

/// Values that share a step, which is returned: NaN if one of them is no number or infinite, 0 if all count as zero.
#[inline(always)]
fn quantise<const N: usize>(x: &[f32; N], most: f32, codes: &mut [i16; N]) -> f32 {
    // As integers, magnitudes are ordered like floats, with NaN above infinity.
    let largest = f32::from_bits(x.iter().fold(0, |largest, x| (x.to_bits() & 0x7fff_ffff).max(largest)));
    if !(NOTHING..=f32::MAX).contains(&largest) {
        *codes = [0; N];
        return if largest.is_finite() { 0.0 } else { f32::NAN };
    }
    let inverse = most / largest;
    for (code, x) in codes.iter_mut().zip(x) {
        // Added to 1.5 * 2^23, a number is rounded to nearest even, and stands in the low bits.
        *code = (x * inverse + 12_582_912.0).to_bits() as i16;
    }
    largest / most
}

#[expect(clippy::extra_unused_type_parameters, reason = "what `dispatch!` calls has one")]
#[inline(always)]
fn quantise_body<I: Isa>(steps: Steps, x: &[f32], to: &mut Activations) {
    quantise_block(steps, x, to);
}

dispatch! {
    /// [`quantise_block`] with the instructions of a level; the result is the same on each.
    pub(in super::super) fn quantise_at(steps: Steps, x: &[f32], to: &mut Activations) = quantise_body;
}
