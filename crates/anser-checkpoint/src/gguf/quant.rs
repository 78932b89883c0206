//! How GGUF stores numbers, and their values as f32.
//!
//! A quantised row is a run of blocks. All numbers are little-endian, `d`, `m` and `dmin` are f16, `q` is an integer
//! code of 4 to 8 bits. The arithmetic is f32, rounded after every operation, in the order written here; it is the
//! order of the `gguf` Python package, so that values agree with it bit for bit.
//!
//! | type | values | bytes | layout of a block | value |
//! |---|---|---|---|---|
//! | Q8_0 | 32 | 34 | d, 32 × i8 | d q |
//! | Q4_0 | 32 | 18 | d, 16 × (low nibble: value j, high nibble: value j + 16) | d (q - 8) |
//! | Q4_1 | 32 | 20 | d, m, nibbles as Q4_0 | d q + m |
//! | Q5_0 | 32 | 22 | d, u32 of fifth bits (bit j: value j), nibbles as Q4_0 | d (q - 16) |
//! | Q5_1 | 32 | 24 | d, m, fifth bits, nibbles | d q + m |
//! | Q4_K | 256 | 144 | d, dmin, 12 bytes of 6-bit scales and minima, 4 × 32 nibble pairs | (d s) q - (dmin t) |
//! | Q5_K | 256 | 176 | d, dmin, 12 bytes, 32 bytes of fifth bits (bit g: group g), 4 × 32 nibble pairs | (d s) q - (dmin t) |
//! | Q6_K | 256 | 210 | 128 bytes of nibbles, 64 bytes of upper bit pairs, 16 × i8 scales, d | (d s) (q - 32) |
//!
//! In Q4_K and Q5_K a scale `s` and a minimum `t` belong to a group of 32 values, in Q6_K a scale to 16 values.

use half::f16;

use crate::raw::{BlockFormat, Encoding};
use crate::tensor::Dtype;

pub(super) static Q8_0: BlockFormat =
    BlockFormat { name: "Q8_0", elements: 32, bytes: 34, decode: |b, out| each(b, out, q8_0) };
pub(super) static Q4_0: BlockFormat =
    BlockFormat { name: "Q4_0", elements: 32, bytes: 18, decode: |b, out| each(b, out, q4_0) };
static Q4_1: BlockFormat = BlockFormat { name: "Q4_1", elements: 32, bytes: 20, decode: |b, out| each(b, out, q4_1) };
static Q5_0: BlockFormat = BlockFormat { name: "Q5_0", elements: 32, bytes: 22, decode: |b, out| each(b, out, q5_0) };
static Q5_1: BlockFormat = BlockFormat { name: "Q5_1", elements: 32, bytes: 24, decode: |b, out| each(b, out, q5_1) };
static Q4_K: BlockFormat = BlockFormat { name: "Q4_K", elements: 256, bytes: 144, decode: |b, out| each(b, out, q4_k) };
static Q5_K: BlockFormat = BlockFormat { name: "Q5_K", elements: 256, bytes: 176, decode: |b, out| each(b, out, q5_k) };
static Q6_K: BlockFormat = BlockFormat { name: "Q6_K", elements: 256, bytes: 210, decode: |b, out| each(b, out, q6_k) };

/// The types that are read, for messages.
pub(super) const READABLE: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or Q6_K";

/// Names of type codes, in the order of the format's enumeration; empty where a code was withdrawn.
const NAMES: [&str; 42] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64",
    "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "", "MXFP4", "NVFP4", "Q1_0",
];

/// The encoding a type code stands for; otherwise the code's name, for the refusal.
pub(super) fn encoding(code: u32) -> Result<Encoding, String> {
    Ok(match code {
        0 => Encoding::Plain(Dtype::F32),
        1 => Encoding::Plain(Dtype::F16),
        2 => Encoding::Blocks(&Q4_0),
        3 => Encoding::Blocks(&Q4_1),
        6 => Encoding::Blocks(&Q5_0),
        7 => Encoding::Blocks(&Q5_1),
        8 => Encoding::Blocks(&Q8_0),
        12 => Encoding::Blocks(&Q4_K),
        13 => Encoding::Blocks(&Q5_K),
        14 => Encoding::Blocks(&Q6_K),
        30 => Encoding::Plain(Dtype::Bf16),
        other => {
            let name = NAMES.get(other as usize).copied().unwrap_or_default();
            return Err(if name.is_empty() { format!("number {other}") } else { name.to_string() });
        }
    })
}

/// Applies `block` to every block of `B` bytes and its `N` values.
fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], block: impl Fn(&[u8; B], &mut [f32; N])) {
    let (blocks, _) = bytes.as_chunks::<B>();
    let (values, _) = out.as_chunks_mut::<N>();
    for (b, v) in blocks.iter().zip(values) {
        block(b, v);
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The 32 codes of 16 bytes of nibbles.
fn nibbles(bytes: &[u8]) -> [u8; 32] {
    let mut q = [0; 32];
    let (low, high) = q.split_at_mut(16);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = byte & 15;
        *high = byte >> 4;
    }
    q
}

/// The 32 codes of 4 bytes of fifth bits and 16 bytes of nibbles.
fn five_bits(bytes: &[u8]) -> [u8; 32] {
    let mut q = nibbles(&bytes[4..20]);
    for (j, q) in q.iter_mut().enumerate() {
        *q |= (bytes[j / 8] >> (j % 8) & 1) << 4;
    }
    q
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = q as i8 as f32 * d;
    }
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(nibbles(&block[2..])) {
        *out = d * (q as i8 - 8) as f32;
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (out, q) in out.iter_mut().zip(nibbles(&block[4..])) {
        *out = d * q as f32 + m;
    }
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(five_bits(&block[2..])) {
        *out = d * (q as i8 - 16) as f32;
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (out, q) in out.iter_mut().zip(five_bits(&block[4..])) {
        *out = d * q as f32 + m;
    }
}

/// Scales and minima of the 8 groups of Q4_K and Q5_K: bytes 0..4 and 4..8 hold the lower 6 bits of groups 0..4; the
/// nibbles of bytes 8..12 hold the lower 4 bits of groups 4..8, whose upper 2 bits top bytes 0..4 and 4..8.
fn scales_and_minima(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        minima[i] = packed[4 + i] & 63;
        scales[4 + i] = packed[8 + i] & 15 | packed[i] >> 6 << 4;
        minima[4 + i] = packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4;
    }
    (scales, minima)
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = scales_and_minima(&block[4..16]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = (d * scales[group] as f32, dmin * minima[group] as f32);
        let (codes, shift) = (&block[16 + group / 2 * 32..][..32], group % 2 * 4);
        for (out, &byte) in out.iter_mut().zip(codes) {
            *out = scale * (byte >> shift & 15) as f32 - minimum;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, dmin) = (half_at(block, 0), half_at(block, 2));
    let (scales, minima) = scales_and_minima(&block[4..16]);
    let fifths = &block[16..48];
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = (d * scales[group] as f32, dmin * minima[group] as f32);
        let (codes, shift) = (&block[48 + group / 2 * 32..][..32], group % 2 * 4);
        for ((out, &byte), &fifth) in out.iter_mut().zip(codes).zip(fifths) {
            *out = scale * (byte >> shift & 15 | (fifth >> group & 1) << 4) as f32 - minimum;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let d = half_at(block, 208);
    // A half of 128 values takes 64 bytes of nibbles and 32 bytes of bit pairs; a quarter of that half is 32 values.
    for (quarter, out) in out.chunks_exact_mut(32).enumerate() {
        let (half, quarter_of_half) = (quarter / 4, quarter % 4);
        let codes = &block[half * 64 + quarter_of_half % 2 * 32..][..32];
        let pairs = &block[128 + half * 32..][..32];
        let (shift, pair_shift) = (quarter_of_half / 2 * 4, quarter_of_half * 2);
        for (part, out) in out.chunks_exact_mut(16).enumerate() {
            let scale = d * block[192 + quarter * 2 + part] as i8 as f32;
            for ((out, &byte), &pair) in out.iter_mut().zip(&codes[part * 16..]).zip(&pairs[part * 16..]) {
                *out = scale * ((byte >> shift & 15 | (pair >> pair_shift & 3) << 4) as i8 - 32) as f32;
            }
        }
    }
}
