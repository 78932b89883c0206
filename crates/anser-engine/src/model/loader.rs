//! From a checkpoint's tensors to the engine's storage, every value checked on the way.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use anser_checkpoint::{Dtype, Tensor};
use anser_kernels::linear::{Matrix, Storage};
use anser_kernels::norm::layer_norm;
use anser_kernels::pool::Pool;

use super::{LoadOptions, Source};
use crate::Error;
use crate::state::{Layout, State, WKV};

/// Reads tensors by their official names.
pub(super) struct Loader<'a> {
    source: &'a dyn Source,
    pool: &'a Pool,
    storage: Storage,
    bytes: AtomicUsize,
}

impl<'a> Loader<'a> {
    pub(super) fn new(source: &'a dyn Source, pool: &'a Pool, options: &LoadOptions) -> Loader<'a> {
        let storage = match options.storage {
            Some(storage) => storage,
            None => match source.dtype() {
                Dtype::F32 => Storage::F32,
                Dtype::F16 => Storage::F16,
                Dtype::Bf16 => Storage::Bf16,
            },
        };
        Loader { source, pool, storage, bytes: AtomicUsize::new(0) }
    }

    pub(super) fn config(&self) -> &anser_checkpoint::Config {
        self.source.config()
    }

    pub(super) fn storage(&self) -> Storage {
        self.storage
    }

    /// Bytes of everything loaded so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.source.has(name)
    }

    /// A `.weight` matrix, `[out, in]` as it is stored.
    pub(super) fn matrix(&self, name: &str) -> Result<Matrix, Error> {
        let tensor = self.source.tensor(name)?;
        let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
        self.pack(name, rows, cols, |row, out| tensor.read_f32(row * cols, out))
    }

    /// A LoRA factor, stored `[in, out]` (it stands right of its input), as a matrix `[out, in]`.
    pub(super) fn factor(&self, name: &str) -> Result<Matrix, Error> {
        let tensor = self.source.tensor(name)?;
        self.transposed(name, &tensor.to_f32(), tensor.shape[0], tensor.shape[1], 0, tensor.shape[1])
    }

    /// Columns `first..first + count` of a stored `[rows, columns]` array, as a matrix `[count, rows]`.
    pub(super) fn transposed(
        &self,
        name: &str,
        values: &[f32],
        rows: usize,
        columns: usize,
        first: usize,
        count: usize,
    ) -> Result<Matrix, Error> {
        self.pack(name, count, rows, |out_row, out| {
            for (row, out) in out.iter_mut().enumerate() {
                *out = values[row * columns + first + out_row];
            }
        })
    }

    /// A small tensor, kept in f32.
    pub(super) fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        let tensor = self.source.tensor(name)?;
        let values = self.values(&tensor)?;
        self.bytes.fetch_add(values.len() * size_of::<f32>(), Ordering::Relaxed);
        Ok(values)
    }

    /// A LayerNorm's `.weight` and `.bias`.
    pub(super) fn norm(&self, name: &str) -> Result<Norm, Error> {
        let (weight, bias) = (self.vector(&format!("{name}.weight"))?, self.vector(&format!("{name}.bias"))?);
        Ok(Norm { weight, bias, eps: self.config().layer_norm_eps })
    }

    /// The state before the first token: zeros, or the `time_state` that state tuning left in the checkpoint.
    pub(super) fn initial_state(&self, layout: &Arc<Layout>) -> Result<State, Error> {
        let config = self.config();
        let n = config.head_size;
        let mut state = State::zero(layout, config);
        for layer in 0..config.layers {
            let name = format!("blocks.{layer}.att.time_state");
            if !self.has(&name) {
                continue;
            }
            let values = self.values(&self.source.tensor(&name)?)?;
            // On disk [H, value, key], in a state [H, key, value].
            for (head, out) in values.chunks_exact(n * n).zip(state.slot_mut(layer, WKV).chunks_exact_mut(n * n)) {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = head[(i % n) * n + i / n];
                }
            }
        }
        Ok(state)
    }

    /// A whole tensor in f32, refused unless finite.
    fn values(&self, tensor: &Tensor<'_>) -> Result<Vec<f32>, Error> {
        let values = tensor.to_f32();
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => {
                let columns = tensor.shape.last().copied().unwrap_or(1).max(1);
                Err(self.refuse(&tensor.name, at / columns, values[at]))
            }
            None => Ok(values),
        }
    }

    fn pack(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<Matrix, Error> {
        // f16 rounds everything from 65520 up to infinity.
        let limit = if self.storage == Storage::F16 { 65520.0 } else { f32::INFINITY };
        let bad: Mutex<Option<(usize, f32)>> = Mutex::new(None);
        let matrix = Matrix::pack(self.pool, self.storage, rows, cols, |row, out| {
            fill(row, out);
            if let Some(&value) = out.iter().find(|value| value.is_nan() || value.abs() >= limit) {
                let mut bad = bad.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                if bad.is_none_or(|(first, _)| row < first) {
                    *bad = Some((row, value));
                }
            }
        });
        match bad.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
            Some((row, value)) => Err(self.refuse(name, row, value)),
            None => {
                self.bytes.fetch_add(matrix.bytes(), Ordering::Relaxed);
                Ok(matrix)
            }
        }
    }

    fn refuse(&self, tensor: &str, row: usize, value: f32) -> Error {
        let (path, tensor) = (self.source.path().to_path_buf(), tensor.to_string());
        if value.is_finite() {
            Error::OutOfRange { path, tensor, row, value, storage: self.storage }
        } else {
            Error::NonFiniteWeight { path, tensor, row, value }
        }
    }
}

/// A LayerNorm with weight and bias `[C]`.
pub(super) struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    eps: f32,
}

impl Norm {
    pub(super) fn width(&self) -> usize {
        self.weight.len()
    }

    /// Normalises one row `[C]`.
    pub(super) fn apply(&self, x: &[f32], out: &mut [f32]) {
        layer_norm(x, &self.weight, &self.bias, self.eps, out);
    }
}
