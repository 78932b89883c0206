//! Tuned initial states as the RWKV community exchanges them: `.pth` files of `blocks.<i>.att.time_state`.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::{Orientation, StateFile};
use crate::config::{Config, Version};
use crate::error::Error;
use crate::open;
use crate::pth_writer::write_pth;
use crate::raw::{Encoding, MappedFile, RawTensor};
use crate::tensor::{Dtype, Tensor};

impl StateFile {
    /// Reads a file of `blocks.<i>.att.time_state` tensors `[H, value, key]`, as state tuning writes them for RWKV-5 to
    /// 7, for a model of this `config`. Other tensors in the file are ignored, so a whole model that holds `time_state`
    /// does too. Token shifts start at zero; no tokens have been read.
    ///
    /// The file names no model: `fingerprint` is the caller's word for which one it was tuned on (empty: not known).
    ///
    /// # Errors
    /// As [`Checkpoint::open`](crate::Checkpoint::open) for unreadable files; [`Error::Unsupported`] for RWKV-4;
    /// [`Error::MissingTensor`], [`Error::Shape`], [`Error::NonFinite`] or [`Error::StateMismatch`] when the tensors are
    /// not one whole finite state of such a model.
    pub fn from_time_state(path: &Path, config: &Config, fingerprint: &str) -> Result<StateFile, Error> {
        if config.version == Version::V4 {
            let hint = "tuned states exist for RWKV-5, 6 and 7".to_string();
            return Err(Error::Unsupported { file: path.to_path_buf(), what: "time_state for RWKV-4".into(), hint });
        }
        let raw = open::read(path)?;
        let file = |tensor: &RawTensor| -> &MappedFile { &raw.files[tensor.file] };
        let layer_of = |tensor: &RawTensor| -> Option<usize> {
            let middle = tensor.name.strip_suffix(".att.time_state")?;
            let (before, layer) = middle.rsplit_once("blocks.")?;
            (before.is_empty() || before.ends_with('.')).then(|| layer.parse().ok())?
        };
        let mut state = StateFile::zero(config, fingerprint);
        let mut filled = vec![false; config.layers];
        let (heads, size) = (config.heads, config.head_size);
        for tensor in &raw.tensors {
            let Some(layer) = layer_of(tensor) else { continue };
            let (path, name) = (file(tensor).path().to_path_buf(), tensor.name.clone());
            if layer >= config.layers {
                let (found, expected) = (format!("`{name}`"), format!("tensors of {} layers", config.layers));
                return Err(Error::StateMismatch { file: path, what: "a tensor".into(), expected, found });
            }
            if tensor.shape != [heads, size, size] {
                let expected = vec![heads, size, size];
                return Err(Error::Shape { file: path, tensor: name, expected, found: tensor.shape.clone() });
            }
            let stored = read(tensor, file(tensor))?;
            if let Some(index) = stored.iter().position(|v| !v.is_finite()) {
                return Err(Error::NonFinite { file: path, tensor: name, index, value: stored[index] });
            }
            let (_, values) = &mut state.slots[3 * layer + 1];
            transpose_heads(&stored, size, values);
            filled[layer] = true;
        }
        match filled.iter().position(|filled| !filled) {
            None => Ok(state),
            Some(layer) => {
                let tensor = format!("blocks.{layer}.att.time_state");
                Err(Error::MissingTensor { file: path.to_path_buf(), tensor, version: config.version })
            }
        }
    }

    /// Writes the matrix states as `blocks.<i>.att.time_state` `[H, value, key]` in f32, a `.pth` file for PyTorch and for
    /// `rwkv` runtimes. Such a file has no place for anything else: the names of the slots left out are returned, without
    /// those that are all zero.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when a layer has no `wkv` slot of `[H, key, value]` (RWKV-4); [`Error::Io`] as
    /// [`StateFile::save`].
    pub fn to_time_state_pth(&self, path: &Path) -> Result<Vec<String>, Error> {
        let (mut tensors, mut left_out) = (Vec::new(), Vec::new());
        for (slot, values) in &self.slots {
            match (slot.owner, &slot.orientation, &slot.shape[..]) {
                (super::Owner::Layer(layer), Orientation::KeyValue, &[_, size, other])
                    if slot.name == "wkv" && size == other && values.len() == slot.elements() =>
                {
                    let mut stored = vec![0.0; values.len()];
                    transpose_heads(values, size, &mut stored);
                    tensors.push(Tensor {
                        name: format!("blocks.{layer}.att.time_state"),
                        dtype: Dtype::F32,
                        shape: slot.shape.clone(),
                        data: Cow::Owned(stored.iter().flat_map(|v| v.to_le_bytes()).collect()),
                    });
                }
                _ if slot.name == "wkv" => {
                    return Err(Error::StateMismatch {
                        file: PathBuf::from(path),
                        what: format!("the orientation of slot {slot}"),
                        expected: "KeyValue (time_state exists for RWKV-5, 6 and 7)".into(),
                        found: format!("{:?}", slot.orientation),
                    });
                }
                _ if values.iter().any(|&v| v != 0.0) => left_out.push(slot.to_string()),
                _ => {}
            }
        }
        write_pth(path, &tensors)?;
        Ok(left_out)
    }
}

/// Swaps the last two axes of `[H, size, size]`.
fn transpose_heads(from: &[f32], size: usize, to: &mut [f32]) {
    let area = size * size;
    for (from, to) in from.chunks_exact(area.max(1)).zip(to.chunks_exact_mut(area.max(1))) {
        for row in 0..size {
            for column in 0..size {
                to[column * size + row] = from[row * size + column];
            }
        }
    }
}

/// All elements of a plain tensor of three axes, row-major, as f32.
fn read(tensor: &RawTensor, file: &MappedFile) -> Result<Vec<f32>, Error> {
    let Encoding::Plain(dtype) = tensor.encoding else {
        let (file, found) = (file.path().to_path_buf(), format!("{:?}", tensor.encoding));
        return Err(Error::Dtype { file, tensor: tensor.name.clone(), expected: "f32, f16 or bf16", found });
    };
    let bytes = &file.bytes()[tensor.range.clone()];
    let mut out = vec![0.0; tensor.elements()];
    let Some(strides) = &tensor.strides else {
        dtype.widen(bytes, &mut out);
        return Ok(out);
    };
    let size = dtype.bytes();
    let (rows, columns) = (tensor.shape[1], tensor.shape[2]);
    for (i, out) in out.iter_mut().enumerate() {
        let index = [i / (rows * columns), i / columns % rows, i % columns];
        let at: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
        dtype.widen(&bytes[at * size..(at + 1) * size], std::slice::from_mut(out));
    }
    Ok(out)
}
