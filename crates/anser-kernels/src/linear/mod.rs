//! Matrix products of the layers: `y = f(W x)` with packed weights, activations in f32. This page is about weights in
//! f32, bf16 and f16; for integer codes see [`quant`].
//!
//! **The order of summation.** Every output element is a sum of blocks of 256 terms along the columns of W, the blocks
//! added in order; within a block it is one chain of fused multiply-adds, from the first column to the last. That order
//! does not depend on how many rows x has, on the row's or the output's place, or on the threads. So the result of a
//! row is bit-equal whether it was computed alone (decoding), with others (prefill) or in a batch. Kernels vectorise over
//! outputs and rows of x, never over the terms of a sum.
//!
//! **Bf16 times bf16.** Weights in bf16 are multiplied with x as it is, or rounded to bf16 ([`Matrix::with_inputs`]), of
//! which processors with `vdpbf16ps` multiply twice as many. That is an arithmetic of its own, the same to the bit on
//! every instruction set: what is below 2^-56 in magnitude counts as zero, and of every two columns the second is added
//! first; all else is as above.
//!
//! Few rows of x (`stream`) are bound by memory bandwidth, many (`tile`) by arithmetic; both read the same packed
//! weights.

pub mod dense;
mod lanes;
mod matrix;
mod memory;
pub mod quant;
mod region;
mod rounded;
mod step;
mod stream;
mod tile;

use std::fmt;
use std::str::FromStr;

pub use matrix::{Matrix, Packed, PackedError};
use quant::layout::{Codes, Layout, Scales};
pub use quant::repack::BlockFormat;
pub use region::{products, products_at};

/// Outputs that lie side by side in a packed matrix.
const PANEL: usize = 16;

/// Columns whose terms form one chain of fused multiply-adds.
const BLOCK: usize = 256;

/// How the weights of a [`Matrix`] are stored. Floats are computed in f32, integer codes in integers (see [`quant`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// 32-bit floats.
    F32,
    /// bfloat16: the upper half of an f32. Magnitudes below 2^-56, which is 1.4e-17, become zero.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Signed 8-bit codes, an f16 scale for 32 columns of a row: 8.5 bits a weight. GGUF's Q8_0 fits exactly.
    Int8,
    /// Codes 0 to 15; an 8-bit scale and an 8-bit minimum for 32 columns of a row, in units of two f16 for 256
    /// columns: 4.625 bits a weight. GGUF's Q4_K fits exactly.
    Int4,
    /// GGUF's Q4_0: codes 0 to 15 less 8, an f16 scale for 32 columns of a row: 4.5 bits a weight.
    Q4_0,
    /// GGUF's Q5_K: codes 0 to 31, scales as [`Storage::Int4`]: 8.625 bits a weight in memory.
    Q5K,
    /// GGUF's Q6_K: codes -32 to 31, a signed 8-bit scale for 16 columns in units of an f16 for 256: 8.5625 bits in
    /// memory.
    Q6K,
}

/// What a row of x becomes before it is multiplied: so many bits, or the next more that go with the storage of the
/// weights. [`Storage::F32`] and [`Storage::F16`] take x as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InputBits {
    /// f32, as it is, beside weights in floats. Codes have no such inputs, and take 16.
    ThirtyTwo,
    /// Beside [`Storage::Bf16`] bf16: an error of at most 1 in 256. Beside codes integers with one step for 256 columns:
    /// an error of about 1 in 100,000.
    Sixteen,
    /// Integers beside codes, for about half the time where bound by arithmetic: with one step for 32 columns an error of
    /// about 1 in 200, as much as that of [`Storage::Int8`]; beside codes of 4 bits with one step for 256, somewhat more,
    /// still far less than theirs. [`Storage::Q6K`] and [`Storage::Bf16`] do not have it, and take 16.
    Eight,
}

/// What a storage means to the kernels.
#[derive(Clone, Copy)]
enum Kind {
    Float(Float),
    Codes(Layout),
}

/// The floating-point storages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Float {
    F32,
    Bf16,
    F16,
}

impl Float {
    /// Bytes of a weight.
    fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::Bf16 | Float::F16 => 2,
        }
    }

    /// Bytes of a panel of so many columns. Those of bf16 lie in pairs, an odd last one beside zeros.
    #[inline(always)]
    fn panel_bytes(self, cols: usize) -> usize {
        let padded = if self == Float::Bf16 { cols + cols % 2 } else { cols };
        PANEL * padded * self.bytes()
    }
}

impl Storage {
    /// Every storage.
    pub const ALL: [Storage; 8] = [
        Storage::F32,
        Storage::Bf16,
        Storage::F16,
        Storage::Int8,
        Storage::Int4,
        Storage::Q4_0,
        Storage::Q5K,
        Storage::Q6K,
    ];

    fn kind(self) -> Kind {
        match self {
            Storage::F32 => Kind::Float(Float::F32),
            Storage::Bf16 => Kind::Float(Float::Bf16),
            Storage::F16 => Kind::Float(Float::F16),
            Storage::Int8 => Kind::Codes(Layout { codes: Codes::Bytes, scales: Scales::Half { offset: 0 } }),
            Storage::Int4 => Kind::Codes(Layout { codes: Codes::Nibbles, scales: Scales::Affine }),
            Storage::Q4_0 => Kind::Codes(Layout { codes: Codes::Nibbles, scales: Scales::Half { offset: 8 } }),
            Storage::Q5K => Kind::Codes(Layout { codes: Codes::Bytes, scales: Scales::Affine }),
            Storage::Q6K => Kind::Codes(Layout { codes: Codes::Bytes, scales: Scales::Sixteen }),
        }
    }

    /// Bits of a weight, scales included, in a matrix without padding.
    pub fn bits(self) -> f32 {
        match self.kind() {
            Kind::Float(float) => 8.0 * float.bytes() as f32,
            Kind::Codes(layout) => layout.panel_bytes(BLOCK) as f32 * 8.0 / (PANEL * BLOCK) as f32,
        }
    }

    /// What inputs become beside this storage, when so many bits are asked for.
    fn inputs(self, asked: InputBits) -> InputBits {
        match (self.kind(), asked) {
            (Kind::Float(Float::Bf16), InputBits::Eight) => InputBits::Sixteen,
            (Kind::Float(Float::F32 | Float::F16), _) => InputBits::ThirtyTwo,
            (Kind::Codes(Layout { scales: Scales::Sixteen, .. }), _) => InputBits::Sixteen,
            (Kind::Codes(_), InputBits::ThirtyTwo) => InputBits::Sixteen,
            (_, asked) => asked,
        }
    }

    /// Whether [`Matrix::pack`] makes it. The others come from the blocks of a file only ([`Matrix::repack`]).
    pub fn is_made_from_values(self) -> bool {
        !matches!(self, Storage::Q4_0 | Storage::Q5K | Storage::Q6K)
    }
}

/// Bytes that a matrix of [rows, cols] takes when packed; `None` if that is more than can be counted, or if `cols` is 0.
pub fn packed_len(storage: Storage, rows: usize, cols: usize) -> Option<usize> {
    let panels = rows.div_ceil(PANEL);
    match storage.kind() {
        _ if cols == 0 => None,
        Kind::Float(float) => {
            cols.checked_add(1)?.checked_mul(PANEL * float.bytes())?;
            panels.checked_mul(float.panel_bytes(cols))
        }
        Kind::Codes(layout) => {
            // A panel takes less than 64 bytes for a column, and less than two blocks more for padding.
            cols.checked_next_multiple_of(BLOCK)?.checked_mul(64)?;
            panels.checked_mul(layout.panel_bytes(cols))
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Storage::F32 => "f32",
            Storage::Bf16 => "bf16",
            Storage::F16 => "f16",
            Storage::Int8 => "int8",
            Storage::Int4 => "int4",
            Storage::Q4_0 => "q4_0",
            Storage::Q5K => "q5_k",
            Storage::Q6K => "q6_k",
        })
    }
}

/// A name that is none of the storage formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownStorage(pub String);

impl fmt::Display for UnknownStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown weight format {:?}; expected f32, bf16, f16, int8, int4, q4_0, q5_k or q6_k", self.0)
    }
}

impl std::error::Error for UnknownStorage {}

impl FromStr for Storage {
    type Err = UnknownStorage;

    fn from_str(name: &str) -> Result<Storage, UnknownStorage> {
        (Storage::ALL.into_iter())
            .find(|storage| storage.to_string() == name)
            .ok_or_else(|| UnknownStorage(name.to_string()))
    }
}

/// What becomes of a product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// `y = W x`
    Store,
    /// `y += W x`, the residual connection. What y held is the first term of the sum.
    Add,
    /// `y = max(W x, 0)^2`
    Relu2,
    /// `y = tanh(W x)`
    Tanh,
    /// `y = 1 / (1 + e^(-W x))`
    Sigmoid,
    /// `y = W x * sigmoid(W x)`
    Silu,
}

/// One product of [`products`], of T rows.
#[derive(Debug)]
pub struct Product<'a> {
    /// The matrix W, of shape [out, in].
    pub w: &'a Matrix,
    /// The inputs, [T, in], row-major.
    pub x: &'a [f32],
    /// The outputs, [T, out], row-major.
    pub y: &'a mut [f32],
    /// What is done to W x.
    pub then: Epilogue,
}
