//! A tensor as stored: bytes with a type and a shape.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::error::Error;

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

/// How the numbers of a written file are stored: a [`Dtype`], or one of GGUF's block formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Every number by itself.
    Plain(Dtype),
    /// GGUF's 8-bit blocks: 32 numbers share a scale.
    Q8_0,
    /// GGUF's 4-bit blocks: 32 numbers share a scale.
    Q4_0,
}

impl Precision {
    /// The type of each number, if each stands by itself.
    pub fn dtype(self) -> Option<Dtype> {
        match self {
            Precision::Plain(dtype) => Some(dtype),
            Precision::Q8_0 | Precision::Q4_0 => None,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Precision::Plain(dtype) => dtype.fmt(f),
            Precision::Q8_0 => f.write_str("q8_0"),
            Precision::Q4_0 => f.write_str("q4_0"),
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Precision, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "f32" => Precision::Plain(Dtype::F32),
            "f16" => Precision::Plain(Dtype::F16),
            "bf16" => Precision::Plain(Dtype::Bf16),
            "q8_0" => Precision::Q8_0,
            "q4_0" => Precision::Q4_0,
            _ => return Err("expected f32, bf16, f16, or for GGUF q8_0 or q4_0".into()),
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
    /// A tensor of these values (row-major), rounded to nearest even. Values that do not fill `shape` are refused where
    /// the tensor is written.
    pub fn from_f32(
        name: impl Into<String>,
        shape: impl Into<Vec<usize>>,
        dtype: Dtype,
        values: &[f32],
    ) -> Tensor<'static> {
        let data: Vec<u8> = match dtype {
            Dtype::F32 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Dtype::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
            Dtype::Bf16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        };
        Tensor { name: name.into(), dtype, shape: shape.into(), data: Cow::Owned(data) }
    }

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

/// What a file's header says of a tensor, known before its data is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name in the file.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Length of each axis.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of all elements.
    pub fn bytes(&self) -> usize {
        self.elements() * self.dtype.bytes()
    }
}

impl From<&Tensor<'_>> for TensorInfo {
    fn from(tensor: &Tensor<'_>) -> TensorInfo {
        TensorInfo { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() }
    }
}

/// What every writer asks of tensors that are all there: each name once, bytes that fill the shape.
pub(crate) fn check_tensors(path: &Path, tensors: &[Tensor<'_>]) -> Result<Vec<TensorInfo>, Error> {
    let infos: Vec<TensorInfo> = tensors.iter().map(TensorInfo::from).collect();
    check_names(path, infos.iter().map(|info| info.name.as_str()))?;
    for (info, tensor) in infos.iter().zip(tensors) {
        check_data(path, &info.name, &info.shape, info.bytes(), &tensor.data)?;
    }
    Ok(infos)
}

/// Each name once.
pub(crate) fn check_names<'a>(path: &Path, names: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            let what = format!("two tensors are called `{name}`");
            return Err(Error::Malformed { file: path.to_path_buf(), what });
        }
    }
    Ok(())
}

/// Bytes that fill the shape.
pub(crate) fn check_data(path: &Path, name: &str, shape: &[usize], expected: usize, data: &[u8]) -> Result<(), Error> {
    if data.len() == expected {
        return Ok(());
    }
    let what = format!("tensor `{name}` of shape {shape:?} needs {expected} bytes, {} given", data.len());
    Err(Error::Malformed { file: path.to_path_buf(), what })
}
