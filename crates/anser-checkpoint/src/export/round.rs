//! Values in the type they are written in.

use std::borrow::Cow;
use std::path::Path;

use half::{bf16, f16};

use crate::error::Error;
use crate::gguf::encode::{self, BLOCK};
use crate::tensor::{Dtype, Precision, Tensor};

/// Values looked at in one go.
const CHUNK: usize = 4096;

/// The bytes of a tensor in `precision`, row-major; borrowed if it has that type already. `file` is where it comes from.
pub(super) fn stored<'a>(file: &Path, tensor: Tensor<'a>, precision: Precision) -> Result<Cow<'a, [u8]>, Error> {
    match precision {
        Precision::Plain(dtype) if dtype == tensor.dtype => Ok(tensor.data),
        Precision::Plain(dtype) => plain(file, &tensor, dtype).map(Cow::Owned),
        Precision::Q8_0 | Precision::Q4_0 => blocks(file, &tensor, precision).map(Cow::Owned),
    }
}

/// The tensor with the values that [`stored`] keeps of it, in a type that holds them.
pub(super) fn widened<'a>(file: &Path, tensor: Tensor<'a>, precision: Precision) -> Result<Tensor<'a>, Error> {
    let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
    let data = stored(file, tensor, precision)?;
    let Some(format) = encode::format(precision) else {
        let dtype = precision.dtype().unwrap_or(Dtype::F32);
        return Ok(Tensor { name, dtype, shape, data });
    };
    let mut out = Vec::with_capacity(data.len() / format.bytes * format.elements * 4);
    let mut values = vec![0.0; format.elements];
    for block in data.chunks_exact(format.bytes) {
        (format.decode)(block, &mut values);
        out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    Ok(Tensor { name, dtype: Dtype::F32, shape, data: Cow::Owned(out) })
}

/// Whether no value changes.
pub(super) fn is_exact(tensor: &Tensor<'_>, precision: Precision) -> bool {
    let narrow = |dtype: Dtype, x: f32| match dtype {
        Dtype::F32 => x,
        Dtype::F16 => f16::from_f32(x).to_f32(),
        Dtype::Bf16 => bf16::from_f32(x).to_f32(),
    };
    match precision {
        Precision::Plain(dtype) if dtype == tensor.dtype || dtype == Dtype::F32 => true,
        Precision::Plain(dtype) => chunks(tensor).all(|(_, values)| values.iter().all(|&x| same(narrow(dtype, x), x))),
        // Nobody asks for them to keep values.
        Precision::Q8_0 | Precision::Q4_0 => false,
    }
}

/// Position and values of the first element that is not the same in both, which have one shape.
pub(super) fn first_difference(a: &Tensor<'_>, b: &Tensor<'_>) -> Option<(usize, f32, f32)> {
    if a.dtype == b.dtype && a.data == b.data {
        return None;
    }
    chunks(a).find_map(|(start, values)| {
        let mut others = vec![0.0; values.len()];
        b.read_f32(start, &mut others);
        let at = values.iter().zip(&others).position(|(x, y)| !same(*x, *y))?;
        Some((start + at, values[at], others[at]))
    })
}

/// Equal to the bit, or both no number.
fn same(x: f32, y: f32) -> bool {
    x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan())
}

/// The values in order, with the position of the first of each piece.
fn chunks<'t>(tensor: &'t Tensor<'_>) -> impl Iterator<Item = (usize, Vec<f32>)> + 't {
    let elements = tensor.elements();
    (0..elements).step_by(CHUNK).map(move |start| {
        let mut values = vec![0.0; CHUNK.min(elements - start)];
        tensor.read_f32(start, &mut values);
        (start, values)
    })
}

fn plain(file: &Path, tensor: &Tensor<'_>, dtype: Dtype) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(tensor.elements() * dtype.bytes());
    for (start, values) in chunks(tensor) {
        match dtype {
            Dtype::F32 => out.extend(values.iter().flat_map(|x| x.to_le_bytes())),
            Dtype::Bf16 => out.extend(values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes())),
            Dtype::F16 => {
                let too_large = |&x: &f32| x.is_finite() && f16::from_f32(x).is_infinite();
                if let Some(at) = values.iter().position(too_large) {
                    return Err(out_of_range(file, tensor, start + at, values[at], Precision::Plain(dtype)));
                }
                out.extend(values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()));
            }
        }
    }
    Ok(out)
}

fn blocks(file: &Path, tensor: &Tensor<'_>, precision: Precision) -> Result<Vec<u8>, Error> {
    let bytes = encode::format(precision).map_or(0, |format| format.bytes);
    let mut out = Vec::with_capacity(tensor.elements() / BLOCK * bytes);
    for (start, values) in chunks(tensor) {
        let (blocks, _) = values.as_chunks::<BLOCK>();
        for (index, block) in blocks.iter().enumerate() {
            if encode::encode(precision, block, &mut out).is_none() {
                let extreme = |&x: &f32| !x.is_finite() || x.abs() == block.iter().fold(0.0f32, |m, y| m.max(y.abs()));
                let at = block.iter().position(extreme).unwrap_or(0);
                return Err(out_of_range(file, tensor, start + index * BLOCK + at, block[at], precision));
            }
        }
    }
    Ok(out)
}

fn out_of_range(file: &Path, tensor: &Tensor<'_>, index: usize, value: f32, precision: Precision) -> Error {
    let (file, tensor) = (file.to_path_buf(), tensor.name.clone());
    Error::OutOfRange { file, tensor, index, value, dtype: precision.to_string() }
}
