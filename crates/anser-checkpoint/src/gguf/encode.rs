//! Rounds to GGUF's block formats, as ggml's reference code does: f32 arithmetic, the scale rounded to f16 after the
//! codes were chosen with the unrounded one.

use half::f16;

use super::quant::{Q4_0, Q8_0};
use crate::raw::BlockFormat;
use crate::tensor::Precision;

/// Values a block of every format written.
pub(crate) const BLOCK: usize = 32;

/// The block format that a precision names.
pub(crate) fn format(precision: Precision) -> Option<&'static BlockFormat> {
    match precision {
        Precision::Plain(_) => None,
        Precision::Q8_0 => Some(&Q8_0),
        Precision::Q4_0 => Some(&Q4_0),
    }
}

/// Appends the block of these values; `None` if it cannot hold one of them (its scale is no finite f16).
pub(crate) fn encode(precision: Precision, values: &[f32; BLOCK], out: &mut Vec<u8>) -> Option<()> {
    match precision {
        Precision::Plain(_) => None,
        Precision::Q8_0 => q8_0(values, out),
        Precision::Q4_0 => q4_0(values, out),
    }
}

/// The scale as it is stored, and what values are multiplied by to become codes.
fn scale(d: f32) -> Option<(f16, f32)> {
    let stored = f16::from_f32(d);
    stored.is_finite().then_some((stored, if d == 0.0 { 0.0 } else { 1.0 / d }))
}

/// The value of largest magnitude, the first of several; NaN if there is one.
fn extreme(values: &[f32; BLOCK]) -> f32 {
    values.iter().fold(0.0f32, |most, &x| if x.is_nan() || x.abs() > most.abs() { x } else { most })
}

fn q8_0(values: &[f32; BLOCK], out: &mut Vec<u8>) -> Option<()> {
    let (d, inverse) = scale(extreme(values).abs() / 127.0)?;
    out.extend(d.to_le_bytes());
    out.extend(values.map(|x| (x * inverse).round() as i8 as u8));
    Some(())
}

fn q4_0(values: &[f32; BLOCK], out: &mut Vec<u8>) -> Option<()> {
    let (d, inverse) = scale(extreme(values) / -8.0)?;
    out.extend(d.to_le_bytes());
    // The extreme value becomes code 0, its negative would be 16.
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    let (low, high) = values.split_at(BLOCK / 2);
    out.extend(low.iter().zip(high).map(|(&low, &high)| code(low) | code(high) << 4));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(precision: Precision, values: &[f32; BLOCK]) -> [f32; BLOCK] {
        let (mut bytes, mut out) = (Vec::new(), [0.0; BLOCK]);
        encode(precision, values, &mut bytes).unwrap();
        let format = format(precision).unwrap();
        assert_eq!((bytes.len(), format.elements), (format.bytes, BLOCK));
        (format.decode)(&bytes, &mut out);
        out
    }

    #[test]
    fn every_code_survives() {
        // Powers of two as scales are exact in f16, so that codes times the scale come back as they were.
        let eight = std::array::from_fn(|i| (if i == 0 { 127.0 } else { i as f32 * 8.0 - 128.0 }) * 0.25);
        assert_eq!(round_trip(Precision::Q8_0, &eight)[1..], eight[1..]);
        assert_eq!(round_trip(Precision::Q8_0, &eight)[0], eight[0]);
        let four = std::array::from_fn(|i| (i as f32 % 16.0 - 8.0) * -0.5);
        assert_eq!(round_trip(Precision::Q4_0, &four), four);
        for precision in [Precision::Q8_0, Precision::Q4_0] {
            assert_eq!(round_trip(precision, &[0.0; BLOCK]), [0.0; BLOCK]);
        }
    }

    #[test]
    fn what_a_block_cannot_hold() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e8] {
            let mut values = [1.0; BLOCK];
            values[17] = bad;
            for precision in [Precision::Q8_0, Precision::Q4_0] {
                assert!(encode(precision, &values, &mut Vec::new()).is_none(), "{precision} {bad}");
            }
        }
    }
}
