//! A tensor as stored: bytes with a type and a shape.

use std::borrow::Cow;
use std::fmt;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

/// Storage type of weights. All three are little-endian on disk and exact in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Dtype {
    /// IEEE single precision, 4 bytes.
    #[serde(rename = "f32")]
    F32,
    /// IEEE half precision, 2 bytes.
    #[serde(rename = "f16")]
    F16,
    /// The upper half of an f32, 2 bytes.
    #[serde(rename = "bf16")]
    Bf16,
}

impl Dtype {
    /// Bytes an element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// Widens `bytes` (a whole number of elements, any alignment) into `out`, one element each.
    pub(crate) fn widen(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Dtype::F32 => {
                for (x, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *x = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
            Dtype::F16 => {
                for (x, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *x = f16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
            Dtype::Bf16 => {
                for (x, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *x = bf16::from_le_bytes([b[0], b[1]]).to_f32();
                }
            }
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        })
    }
}

/// One tensor under its official name, in its official orientation, row-major, axes of length 1 left out where the
/// official table has none (`time_mix_k` is `[C]`, `r_k` stays `[H, N]` also for one head).
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Official name, `blocks.3.att.r_k`.
    pub name: String,
    /// Type of the elements in `data`.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Little-endian elements; of any alignment when borrowed from a mapped file.
    pub data: Cow<'a, [u8]>,
}

impl Tensor<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.data.len() / self.dtype.bytes()
    }

    /// Widens elements `start .. start + out.len()` (row-major) to f32.
    ///
    /// # Panics
    /// If the range leaves the tensor.
    pub fn read_f32(&self, start: usize, out: &mut [f32]) {
        let size = self.dtype.bytes();
        self.dtype.widen(&self.data[start * size..(start + out.len()) * size], out);
    }

    /// All elements as f32.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.elements()];
        self.read_f32(0, &mut out);
        out
    }
}
