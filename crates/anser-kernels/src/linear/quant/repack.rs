//! Blocks of GGUF as rows of codes and scales: the same integers and f16, in another order.

use half::f16;

use super::super::Storage;
use super::layout::{Layout, Row};

/// A block format of GGUF. Numbers are little-endian, d and dmin are f16, s and m integers, q codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 32 columns: d, 32 signed bytes q. `w = d q`
    Q8_0,
    /// 32 columns: d, 16 bytes with q of column j below, of column j + 16 above. `w = d (q - 8)`
    Q4_0,
    /// 256 columns: d, dmin, 12 bytes of s and m of 6 bits for 32 columns each, 128 bytes of nibbles. `w = d s q - dmin m`
    Q4K,
    /// As Q4_K, with 32 bytes of fifth bits before the nibbles.
    Q5K,
    /// 256 columns: 128 bytes of nibbles, 64 bytes of bit pairs, 16 signed s for 16 columns each, d. `w = d s (q - 32)`
    Q6K,
}

impl BlockFormat {
    /// Columns of a block.
    pub fn columns(self) -> usize {
        match self {
            BlockFormat::Q8_0 | BlockFormat::Q4_0 => 32,
            BlockFormat::Q4K | BlockFormat::Q5K | BlockFormat::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockFormat::Q8_0 => 34,
            BlockFormat::Q4_0 => 18,
            BlockFormat::Q4K => 144,
            BlockFormat::Q5K => 176,
            BlockFormat::Q6K => 210,
        }
    }

    /// The storage that holds such blocks without loss.
    pub fn storage(self) -> Storage {
        match self {
            BlockFormat::Q8_0 => Storage::Int8,
            BlockFormat::Q4_0 => Storage::Q4_0,
            BlockFormat::Q4K => Storage::Int4,
            BlockFormat::Q5K => Storage::Q5K,
            BlockFormat::Q6K => Storage::Q6K,
        }
    }

    /// A row of blocks.
    pub(in super::super) fn row(self, layout: Layout, cols: usize, blocks: &[u8]) -> Row {
        let mut row = Row::new(layout, cols);
        let columns = self.columns();
        for (b, block) in blocks.chunks_exact(self.bytes()).enumerate() {
            let codes = &mut row.codes[b * columns..(b + 1) * columns];
            match self {
                BlockFormat::Q8_0 => {
                    row.d[b] = half(block, 0);
                    codes.iter_mut().zip(&block[2..]).for_each(|(q, &byte)| *q = byte as i8);
                }
                BlockFormat::Q4_0 => {
                    row.d[b] = half(block, 0);
                    let (low, high) = codes.split_at_mut(16);
                    for ((low, high), &byte) in low.iter_mut().zip(high).zip(&block[2..]) {
                        (*low, *high) = ((byte & 15) as i8, (byte >> 4) as i8);
                    }
                }
                BlockFormat::Q4K | BlockFormat::Q5K => {
                    (row.d[b], row.dmin[b]) = (half(block, 0), half(block, 2));
                    scales_and_minima(&block[4..16], &mut row.s[b * 8..][..8], &mut row.m[b * 8..][..8]);
                    let (fifths, nibbles) = block[16..].split_at(block.len() - 16 - 128);
                    for (k, q) in codes.iter_mut().enumerate() {
                        let (group, i) = (k / 32, k % 32);
                        let nibble = nibbles[group / 2 * 32 + i] >> (group % 2 * 4) & 15;
                        let fifth = fifths.get(i).map_or(0, |byte| byte >> group & 1);
                        *q = (nibble | fifth << 4) as i8;
                    }
                }
                BlockFormat::Q6K => {
                    row.d[b] = half(block, 208);
                    row.s[b * 16..][..16].copy_from_slice(&block[192..208]);
                    for (k, q) in codes.iter_mut().enumerate() {
                        // A half of 128 columns has 64 bytes of nibbles and 32 of bit pairs; a quarter of it 32 columns.
                        let (half, quarter, i) = (k / 128, k % 128 / 32, k % 32);
                        let nibble = block[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
                        let pair = block[128 + half * 32 + i] >> (quarter * 2) & 3;
                        *q = (nibble | pair << 4) as i8 - 32;
                    }
                }
            }
        }
        row
    }
}

fn half(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

/// The 6-bit scales and minima of eight groups. Those of the first four are the low bits of bytes 0 to 3 and 4 to 7; of
/// the others the low four bits are the nibbles of bytes 8 to 11, and the high two bits those of bytes 0 to 7.
fn scales_and_minima(packed: &[u8], s: &mut [u8], m: &mut [u8]) {
    for i in 0..4 {
        (s[i], m[i]) = (packed[i] & 63, packed[4 + i] & 63);
        s[4 + i] = packed[8 + i] & 15 | packed[i] >> 6 << 4;
        m[4 + i] = packed[8 + i] >> 4 | packed[4 + i] >> 6 << 4;
    }
}
