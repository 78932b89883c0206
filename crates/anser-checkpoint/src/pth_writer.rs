//! Writes flat dictionaries of tensors as PyTorch does: a zip archive of stored entries, one pickle, one file a storage.

use std::borrow::Cow;
use std::io::{self, Seek, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::error::Error;
use crate::state::write_atomically;
use crate::tensor::{Dtype, Tensor, TensorInfo, check_data, check_names, check_tensors};

/// Writes `tensors` as a `.pth` file that `torch.load(path, weights_only=True)` reads as a dictionary from names to
/// contiguous CPU tensors, in this order. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Malformed`] when two tensors have one name or a tensor's bytes do not fill its shape; [`Error::Io`].
pub fn write_pth(path: &Path, tensors: &[Tensor<'_>]) -> Result<(), Error> {
    let infos = check_tensors(path, tensors)?;
    stream_pth(path, &infos, |at| Ok(Cow::Borrowed(&*tensors[at].data)))
}

/// [`write_pth`] for tensors that are not all in memory: `data` is asked once for the bytes of each, in order.
///
/// # Errors
/// As [`write_pth`], and whatever `data` answers.
pub fn stream_pth<'a>(
    path: &Path,
    tensors: &[TensorInfo],
    mut data: impl FnMut(usize) -> Result<Cow<'a, [u8]>, Error>,
) -> Result<(), Error> {
    check_names(path, tensors.iter().map(|tensor| tensor.name.as_str()))?;
    write_atomically(path, |out| {
        write_archive(out, tensors, |at| {
            let (bytes, info) = (data(at)?, &tensors[at]);
            check_data(path, &info.name, &info.shape, info.bytes(), &bytes)?;
            Ok(bytes)
        })
    })
}

fn write_archive<'a>(
    out: &mut (impl Write + Seek),
    tensors: &[TensorInfo],
    mut data: impl FnMut(usize) -> Result<Cow<'a, [u8]>, Error>,
) -> io::Result<()> {
    // Aligned and stored, so that PyTorch (and we) can map the tensors where they lie.
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored).with_alignment(64);
    let mut zip = ZipWriter::new(out);
    zip.start_file("archive/data.pkl", options)?;
    zip.write_all(&pickle(tensors))?;
    zip.start_file("archive/byteorder", options)?;
    zip.write_all(b"little")?;
    for (key, tensor) in tensors.iter().enumerate() {
        let large = tensor.bytes() as u64 > u32::MAX as u64;
        zip.start_file(format!("archive/data/{key}"), options.large_file(large))?;
        zip.write_all(&data(key).map_err(io::Error::other)?)?;
    }
    zip.start_file("archive/version", options)?;
    zip.write_all(b"3\n")?;
    zip.finish()?;
    Ok(())
}

/// `{name: torch._utils._rebuild_tensor_v2(storage, 0, shape, strides, False, OrderedDict()), ...}`, protocol 2.
fn pickle(tensors: &[TensorInfo]) -> Vec<u8> {
    let mut out = vec![0x80, 2, b'}', b'(']; // protocol 2, empty dict, mark
    for (key, tensor) in tensors.iter().enumerate() {
        text(&mut out, &tensor.name);
        out.extend_from_slice(b"ctorch._utils\n_rebuild_tensor_v2\n(");
        out.push(b'(');
        text(&mut out, "storage");
        out.extend_from_slice(match tensor.dtype {
            Dtype::F32 => b"ctorch\nFloatStorage\n",
            Dtype::F16 => b"ctorch\nHalfStorage\n",
            Dtype::Bf16 => b"ctorch\nBFloat16Storage\n",
        });
        text(&mut out, &key.to_string());
        text(&mut out, "cpu");
        integer(&mut out, tensor.elements());
        out.extend_from_slice(b"tQ"); // tuple, persistent id: the storage
        integer(&mut out, 0);
        tuple(&mut out, &tensor.shape);
        tuple(&mut out, &strides(&tensor.shape));
        out.push(0x89); // False: no gradient
        out.extend_from_slice(b"ccollections\nOrderedDict\n)R"); // no hooks
        out.extend_from_slice(b"tR");
    }
    out.extend_from_slice(b"u."); // set items, stop
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn integer(out: &mut Vec<u8>, value: usize) {
    match i32::try_from(value) {
        Ok(small) => {
            out.push(b'J');
            out.extend_from_slice(&small.to_le_bytes());
        }
        Err(_) => {
            // Nine bytes: an eight-byte number with the upper bit set would read as negative.
            out.extend_from_slice(&[0x8a, 9]);
            out.extend_from_slice(&(value as u64).to_le_bytes());
            out.push(0);
        }
    }
}

fn tuple(out: &mut Vec<u8>, values: &[usize]) {
    out.push(b'(');
    values.iter().for_each(|&value| integer(out, value));
    out.push(b't');
}

fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}
