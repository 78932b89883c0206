//! From a checkpoint's tensors to the engine's storage, every value checked on the way.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anser_checkpoint::{Blocks, Dtype, PackedMatrix, PackedWriter, Tensor};
use anser_kernels::linear::{BlockFormat, InputBits, Matrix, Packed, PackedError, Storage, packed_len};
use anser_kernels::norm::layer_norm;
use anser_kernels::pool::Pool;

use super::{LoadOptions, Placement, Source};
use crate::Error;
use crate::recipe::Recipe;
use crate::state::{Layout, State, WKV};

/// Reads tensors by their official names.
pub(super) struct Loader<'a> {
    source: &'a dyn Source,
    pool: &'a Pool,
    recipe: Recipe,
    /// Whether what the source holds quantised is taken as it is.
    as_stored: bool,
    placement: Placement,
    inputs: InputBits,
    /// Everything that is loaded is written there too.
    writer: Option<Mutex<&'a mut PackedWriter>>,
    bytes: AtomicUsize,
}

impl<'a> Loader<'a> {
    /// # Errors
    /// [`Error::Packed`] when a packed source was made by a recipe that is not known here, or another one is asked for.
    pub(super) fn new(
        source: &'a dyn Source,
        pool: &'a Pool,
        options: &LoadOptions,
        writer: Option<&'a mut PackedWriter>,
    ) -> Result<Loader<'a>, Error> {
        let fail = |what: String| Error::Packed { path: source.path().to_path_buf(), what };
        let recipe = match (source.recipe(), options.recipe) {
            (Some(name), asked) => {
                let recipe: Recipe = name.parse().map_err(|error| fail(format!("{error}")))?;
                if let Some(asked) = asked.filter(|&asked| asked != recipe) {
                    return Err(fail(format!("its weights are packed as {recipe} and cannot become {asked}")));
                }
                recipe
            }
            (None, Some(recipe)) => recipe,
            (None, None) => match source.dtype() {
                Dtype::F32 => Recipe::F32,
                Dtype::Bf16 => Recipe::BF16,
                Dtype::F16 => Recipe::F16,
            },
        };
        Ok(Loader {
            source,
            pool,
            recipe,
            as_stored: options.recipe.is_none(),
            placement: options.placement,
            inputs: options.inputs,
            writer: writer.map(Mutex::new),
            bytes: AtomicUsize::new(0),
        })
    }

    pub(super) fn config(&self) -> &anser_checkpoint::Config {
        self.source.config()
    }

    /// What to call the storage: the recipe, or the type of blocks that the head is quantised in.
    pub(super) fn storage(&self) -> String {
        match self.source.blocks("head.weight").filter(|_| self.as_stored) {
            Some(_) => {
                self.source.blocks("blocks.0.ffn.key.weight").map_or("gguf", |blocks| blocks.format).to_lowercase()
            }
            None => self.recipe.name.to_string(),
        }
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
        if let Some(packed) = self.source.packed(name) {
            let [rows, cols] = packed.shape;
            return self.unpacked(name, packed, rows, cols);
        }
        if let Some(blocks) = self.source.blocks(name).filter(|_| self.as_stored) {
            return self.repacked(name, &blocks);
        }
        self.packing(name, self.source.tensor(name)?)
    }

    /// A matrix packed by the recipe from a tensor `[out, in]`.
    pub(super) fn packing(&self, name: &str, tensor: Tensor<'_>) -> Result<Matrix, Error> {
        let (rows, cols) = (tensor.shape[0], tensor.shape[1]);
        let matrix = self.pack(name, rows, cols, |row, out| tensor.read_f32(row * cols, out))?;
        self.keep(name, &matrix)?;
        Ok(matrix)
    }

    /// A LoRA factor, stored `[in, out]` (it stands right of its input), as a matrix `[out, in]`.
    pub(super) fn factor(&self, name: &str) -> Result<Matrix, Error> {
        if let Some(packed) = self.source.packed(name) {
            let [cols, rows] = packed.shape;
            return self.unpacked(name, packed, rows, cols);
        }
        let tensor = self.source.tensor(name)?;
        let (rows, columns) = (tensor.shape[0], tensor.shape[1]);
        let matrix = self.transposed(name, &tensor.to_f32(), rows, columns, 0, columns)?;
        self.keep(name, &matrix)?;
        Ok(matrix)
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
        self.keep_tensor(&tensor);
        self.count(values.len() * size_of::<f32>());
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
            let tensor = self.source.tensor(&name)?;
            let values = self.values(&tensor)?;
            self.keep_tensor(&tensor);
            // On disk [H, value, key], in a state [H, key, value].
            for (head, out) in values.chunks_exact(n * n).zip(state.slot_mut(layer, WKV).chunks_exact_mut(n * n)) {
                for (i, out) in out.iter_mut().enumerate() {
                    *out = head[(i % n) * n + i / n];
                }
            }
        }
        Ok(state)
    }

    /// Whether a matrix is to be held as integer codes.
    pub(super) fn has_codes(&self, name: &str) -> bool {
        self.source.packed(name).is_some()
            || (self.as_stored && self.source.blocks(name).is_some())
            || (self.source.recipe().is_none() && self.recipe.quantises())
    }

    /// Counts bytes of what somebody else holds.
    pub(super) fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A matrix as it is held, multiplied with the inputs asked for.
    fn counted(&self, matrix: Matrix) -> Matrix {
        self.count(matrix.bytes());
        matrix.with_inputs(self.inputs)
    }

    /// Has a tensor written as it is, where everything is.
    pub(super) fn keep_tensor(&self, tensor: &Tensor<'_>) {
        if let Some(mut writer) = self.writer() {
            let Tensor { name, dtype, shape, data } = tensor;
            let data = Cow::Owned(data.to_vec());
            writer.tensor(Tensor { name: name.clone(), dtype: *dtype, shape: shape.clone(), data });
        }
    }

    fn keep(&self, name: &str, matrix: &Matrix) -> Result<(), Error> {
        if let Some(mut writer) = self.writer() {
            writer.matrix(name, &matrix.storage().to_string(), matrix.packed())?;
        }
        Ok(())
    }

    fn writer(&self) -> Option<MutexGuard<'_, &'a mut PackedWriter>> {
        self.writer.as_ref().map(|writer| writer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A matrix as a packed file holds it.
    fn unpacked(&self, name: &str, packed: PackedMatrix, rows: usize, cols: usize) -> Result<Matrix, Error> {
        let fail = |error: &dyn std::fmt::Display| Error::Packed {
            path: self.source.path().to_path_buf(),
            what: format!("matrix {name}: {error}"),
        };
        let storage: Storage = packed.storage.parse().map_err(|error| fail(&error))?;
        let shared = packed.bytes;
        let found = shared.as_ref().len();
        // Filled up with zeros, which are not handed on.
        let fits = |&length: &usize| length.checked_next_multiple_of(PackedWriter::ALIGN) == Some(found);
        let Some(length) = packed_len(storage, rows, cols).filter(fits) else {
            return Err(fail(&format!("{found} bytes are not [{rows}, {cols}] in {storage}")));
        };
        let range = 0..length;
        let matrix = match self.placement {
            Placement::Mapped => {
                Matrix::from_packed(storage, rows, cols, Packed::Borrowed { owner: Arc::new(shared), range })
            }
            Placement::Copied => {
                let (bytes, release) = (&shared.as_ref()[range], &|range| shared.release(range));
                Matrix::from_packed(storage, rows, cols, Packed::Copied { bytes, release })
            }
        };
        Ok(self.counted(matrix.map_err(|error| fail(&error))?))
    }

    /// A matrix that GGUF holds in blocks, rearranged and not changed.
    fn repacked(&self, name: &str, blocks: &Blocks<'_>) -> Result<Matrix, Error> {
        let format: Option<BlockFormat> = match blocks.format {
            "Q8_0" => Some(BlockFormat::Q8_0),
            "Q4_0" => Some(BlockFormat::Q4_0),
            "Q4_K" => Some(BlockFormat::Q4K),
            "Q5_K" => Some(BlockFormat::Q5K),
            "Q6_K" => Some(BlockFormat::Q6K),
            _ => None,
        };
        let (rows, cols) = (blocks.rows, blocks.cols);
        let Some(format) = format else {
            let tensor = self.source.tensor(name)?;
            return self.pack(name, rows, cols, |row, out| tensor.read_f32(row * cols, out));
        };
        let matrix =
            Matrix::repack(self.pool, format, rows, cols, |row| blocks.row(row)).map_err(|error| match error {
                PackedError::Scale { row, .. } => self.refuse(name, row, f32::NAN),
                other => {
                    Error::Packed { path: self.source.path().to_path_buf(), what: format!("matrix {name}: {other}") }
                }
            })?;
        blocks.release();
        Ok(self.counted(matrix))
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
        let storage = self.recipe.storage(name);
        let limit = match storage {
            Storage::F32 | Storage::Bf16 => f32::INFINITY,
            // f16 rounds everything from 65520 up to infinity.
            Storage::F16 => 65520.0,
            // Scales are f16.
            _ => 65504.0,
        };
        let bad: Mutex<Option<(usize, f32)>> = Mutex::new(None);
        let matrix = Matrix::pack(self.pool, storage, rows, cols, |row, out| {
            fill(row, out);
            if let Some(&value) = out.iter().find(|value| value.is_nan() || value.abs() >= limit) {
                let mut bad = bad.lock().unwrap_or_else(PoisonError::into_inner);
                if bad.is_none_or(|(first, _)| row < first) {
                    *bad = Some((row, value));
                }
            }
        });
        match bad.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((row, value)) => Err(self.refuse(name, row, value)),
            None => Ok(self.counted(matrix)),
        }
    }

    fn refuse(&self, tensor: &str, row: usize, value: f32) -> Error {
        let path = self.source.path().to_path_buf();
        if value.is_finite() {
            let storage = self.recipe.storage(tensor);
            Error::OutOfRange { path, tensor: tensor.to_string(), row, value, storage }
        } else {
            Error::NonFiniteWeight { path, tensor: tensor.to_string(), row, value }
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
