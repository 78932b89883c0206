//! Matrix products of the layers: `y = f(W x)` with packed weights in f32, bf16 or f16, activations in f32.
//!
//! **The order of summation.** Every output element is a sum of blocks of 256 terms along the columns of W, the blocks
//! added in order; within a block it is one chain of fused multiply-adds, from the first column to the last. That order
//! does not depend on how many rows x has, on the row's or the output's place, or on the threads. So the result of a
//! row is bit-equal whether it was computed alone (decoding), with others (prefill) or in a batch. Kernels vectorise over
//! outputs and rows of x, never over the terms of a sum.
//!
//! Few rows of x (`stream`) are bound by memory bandwidth, many (`tile`) by arithmetic; both read the same packed
//! weights.

mod lanes;
mod matrix;
mod memory;
mod region;
mod stream;
mod tile;

use std::fmt;
use std::str::FromStr;

pub use matrix::Matrix;
pub use region::{products, products_at};

/// Outputs that lie side by side in a packed matrix.
const PANEL: usize = 16;

/// Columns whose terms form one chain of fused multiply-adds.
const BLOCK: usize = 256;

/// How the weights of a [`Matrix`] are stored. All are computed in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Storage {
    /// 32-bit floats.
    F32,
    /// bfloat16: the upper half of an f32.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Storage {
    /// Bytes of a weight.
    pub fn bytes(self) -> usize {
        match self {
            Storage::F32 => 4,
            Storage::Bf16 | Storage::F16 => 2,
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Storage::F32 => "f32",
            Storage::Bf16 => "bf16",
            Storage::F16 => "f16",
        })
    }
}

/// A name that is none of the storage formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownStorage(pub String);

impl fmt::Display for UnknownStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown weight format {:?}; expected f32, bf16 or f16", self.0)
    }
}

impl std::error::Error for UnknownStorage {}

impl FromStr for Storage {
    type Err = UnknownStorage;

    fn from_str(name: &str) -> Result<Storage, UnknownStorage> {
        match name {
            "f32" => Ok(Storage::F32),
            "bf16" => Ok(Storage::Bf16),
            "f16" => Ok(Storage::F16),
            _ => Err(UnknownStorage(name.to_string())),
        }
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
