//! Packing of a matrix into panels.
#![allow(unsafe_code)]

use std::fmt;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::memory::{Owner, Weights};
use super::quant::layout::{Layout, Row, Steps};
use super::quant::pack::quantise;
use super::quant::repack::BlockFormat;
use super::rounded;
use super::{Float, InputBits, Kind, PANEL, Storage, packed_len};
use crate::pool::{Pool, SharedMut};
use crate::simd::level;

/// A matrix of shape [rows = out, cols = in], packed for [`products`](super::products).
///
/// Sixteen rows form a panel, and the last panel is filled up with zeros. Of f32 and f16, column follows column:
/// `panel[k][j]` is the weight of output `j` of the panel for input `k`. Of bf16, pair of columns follows pair of columns:
/// `panel[k / 2][j][k % 2]`, zeros beside an odd last one. Of codes there are two planes, each panel after
/// panel: codes, then scales. They live in anonymous memory backed by huge pages where the system grants them, or are
/// borrowed ([`Packed::Borrowed`]).
pub struct Matrix {
    storage: Storage,
    rows: usize,
    cols: usize,
    inputs: InputBits,
    weights: Weights,
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix([{}, {}], {})", self.rows, self.cols, self.storage)
    }
}

/// Bytes of a packed matrix: what [`Matrix::packed`] shows.
#[derive(Clone)]
pub enum Packed<'a> {
    /// To be copied into memory of the matrix.
    Copied {
        /// The packed matrix.
        bytes: &'a [u8],
        /// Told, range by range of `bytes`, what has been read and is not needed any more, so that the pages of a
        /// mapped file can be given back while the rest is copied.
        release: &'a dyn Fn(Range<usize>),
    },
    /// To be used in place, kept alive by the matrix. Copied after all where it does not start at an address that is a
    /// multiple of 64.
    Borrowed {
        /// Holds the packed matrix.
        owner: Owner,
        /// Where in the owner's bytes.
        range: Range<usize>,
    },
}

impl fmt::Debug for Packed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Packed::Copied { bytes, .. } => write!(f, "Copied({} bytes)", bytes.len()),
            Packed::Borrowed { range, .. } => write!(f, "Borrowed({range:?})"),
        }
    }
}

/// Why bytes are not a packed matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PackedError {
    /// No matrix has that shape: no columns, or more bytes than can be counted.
    Shape {
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
    },
    /// The number of bytes is not that of a matrix of this shape.
    Length {
        /// The storage asked for.
        storage: Storage,
        /// Rows asked for.
        rows: usize,
        /// Columns asked for.
        cols: usize,
        /// Bytes such a matrix takes.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// The range lies outside the owner's bytes.
    Range {
        /// The range asked for.
        range: Range<usize>,
        /// Bytes the owner has.
        length: usize,
    },
    /// A scale is NaN or infinite.
    Scale {
        /// The row it belongs to.
        row: usize,
        /// The first column it belongs to.
        col: usize,
    },
}

impl fmt::Display for PackedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PackedError::Shape { rows, cols } => write!(f, "no packed matrix has the shape [{rows}, {cols}]"),
            PackedError::Length { storage, rows, cols, expected, found } => write!(
                f,
                "a packed {storage} matrix of [{rows}, {cols}] takes {expected} bytes, but there are {found}: the \
                 file is cut off or of another version"
            ),
            PackedError::Range { range, length } => {
                write!(f, "bytes {} to {} of {length}: the file is cut off", range.start, range.end)
            }
            PackedError::Scale { row, col } => write!(
                f,
                "the scale of row {row} from column {col} on is not a finite number: the file is damaged; write it anew"
            ),
        }
    }
}

impl std::error::Error for PackedError {}

/// The place of column `k` of output `j` in a panel, in weights.
fn place(float: Float, k: usize, j: usize) -> usize {
    match float {
        Float::Bf16 => (k / 2 * PANEL + j) * 2 + k % 2,
        Float::F32 | Float::F16 => k * PANEL + j,
    }
}

/// Bytes that are copied before their source is released.
const COPIED_AT_ONCE: usize = 4 << 20;

impl Matrix {
    /// Packs a matrix: `fill(row, out)` writes the `cols` values of row `row`. It is called once for each row, from
    /// several threads. Floats are rounded to nearest even (what bf16 drops besides, [`Storage::Bf16`] says); codes and
    /// scales are searched for the least squared error.
    /// NaN and infinite values have no codes: the caller refuses them before.
    ///
    /// # Panics
    /// If `cols` is 0, or if the storage is not made from values ([`Storage::is_made_from_values`]).
    pub fn pack(
        pool: &Pool,
        storage: Storage,
        rows: usize,
        cols: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Matrix {
        Matrix::pack_weighted(pool, storage, rows, cols, None, fill)
    }

    /// [`Matrix::pack`], with the weight of every column in the squared error that codes are searched by: the mean
    /// square of the column's input, for instance, which makes it the error of the product. Without, all count the
    /// same. Floats do not look at it.
    ///
    /// # Panics
    /// As [`Matrix::pack`], and if there is not one importance for each column.
    pub fn pack_weighted(
        pool: &Pool,
        storage: Storage,
        rows: usize,
        cols: usize,
        importance: Option<&[f32]>,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Matrix {
        assert!(storage.is_made_from_values(), "{storage} is not made from values");
        if let Some(importance) = importance {
            assert_eq!(importance.len(), cols, "{} importances for {cols} columns", importance.len());
        }
        let level = level();
        match storage.kind() {
            Kind::Float(float) => {
                let mut matrix = Matrix::zeroed(storage, rows, cols);
                let panel_bytes = float.panel_bytes(cols);
                pool.run_rows(matrix.weights.bytes_mut(), panel_bytes, 1, |panel, out| {
                    let mut values = vec![0.0f32; PANEL * cols];
                    for (j, row) in (panel * PANEL..rows).take(PANEL).enumerate() {
                        fill(row, &mut values[j * cols..(j + 1) * cols]);
                    }
                    pack_panel(float, cols, &values, out);
                });
                matrix
            }
            Kind::Codes(layout) => Matrix::from_rows(pool, storage, layout, rows, cols, |row| {
                let mut values = vec![0.0; cols];
                fill(row, &mut values);
                quantise(level, layout, &values, importance)
            }),
        }
    }

    /// Packs a matrix of blocks as GGUF has them, without loss: `blocks(row)` are the bytes of row `row`, in which
    /// block follows block. The storage is [`BlockFormat::storage`].
    ///
    /// # Errors
    /// [`PackedError::Scale`] for a scale that is NaN or infinite.
    ///
    /// # Panics
    /// If `cols` is 0 or not a multiple of the block's columns, or a row has the wrong number of bytes.
    pub fn repack<'a>(
        pool: &Pool,
        format: BlockFormat,
        rows: usize,
        cols: usize,
        blocks: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Result<Matrix, PackedError> {
        assert!(
            cols.is_multiple_of(format.columns()),
            "{cols} columns are not whole blocks of {} ({format:?})",
            format.columns()
        );
        let storage = format.storage();
        let Kind::Codes(layout) = storage.kind() else { unreachable!("block formats have codes") };
        let bytes = cols / format.columns() * format.bytes();
        let matrix = Matrix::from_rows(pool, storage, layout, rows, cols, |row| {
            let blocks = blocks(row);
            assert_eq!(blocks.len(), bytes, "row {row} has {} bytes; {cols} columns have {bytes}", blocks.len());
            format.row(layout, cols, blocks)
        });
        matrix.with_finite_scales()
    }

    /// A matrix from its packed bytes, those of [`Matrix::packed`]. Looks at the scales (none may be NaN or infinite),
    /// not at the codes: any of them are valid. Little-endian machines only, like the format.
    ///
    /// # Errors
    /// See [`PackedError`].
    pub fn from_packed(storage: Storage, rows: usize, cols: usize, bytes: Packed<'_>) -> Result<Matrix, PackedError> {
        let expected = packed_len(storage, rows, cols).ok_or(PackedError::Shape { rows, cols })?;
        let check = |found: usize| match found == expected {
            true => Ok(()),
            false => Err(PackedError::Length { storage, rows, cols, expected, found }),
        };
        let weights = match bytes {
            Packed::Copied { bytes, release } => {
                check(bytes.len())?;
                copy(bytes, release)
            }
            Packed::Borrowed { owner, range } => {
                let all = (*owner).as_ref();
                let part = all
                    .get(range.clone())
                    .ok_or_else(|| PackedError::Range { range: range.clone(), length: all.len() })?;
                check(part.len())?;
                Weights::borrow(&owner, range).unwrap_or_else(|| copy(part, &|_| ()))
            }
        };
        Matrix { storage, rows, cols, inputs: storage.inputs(InputBits::ThirtyTwo), weights }.with_finite_scales()
    }

    /// This matrix, unless one of its scales is NaN or infinite.
    fn with_finite_scales(self) -> Result<Matrix, PackedError> {
        if let Kind::Codes(layout) = self.storage.kind() {
            let scales = &self.packed()[self.scales_at(layout)..];
            for (panel, scales) in scales.chunks_exact(layout.scale_bytes(self.cols)).enumerate() {
                if let Some((j, col)) = layout.bad_scale(self.cols, scales) {
                    return Err(PackedError::Scale { row: panel * PANEL + j, col });
                }
            }
        }
        Ok(self)
    }

    /// The same matrix, multiplied with inputs of so many bits, or of the next more that its storage goes with; without
    /// this, of the most.
    #[must_use]
    pub fn with_inputs(self, inputs: InputBits) -> Matrix {
        Matrix { inputs: self.storage.inputs(inputs), ..self }
    }

    /// What inputs become before they are multiplied.
    pub fn inputs(&self) -> InputBits {
        self.inputs
    }

    /// What the integers of inputs are counted in, if the matrix has codes.
    pub(super) fn steps(&self) -> Steps {
        match self.storage.kind() {
            Kind::Codes(layout) => layout.steps(self.inputs),
            Kind::Float(_) => Steps::Sixteen,
        }
    }

    /// The number of outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format of the weights.
    pub fn storage(&self) -> Storage {
        self.storage
    }

    /// Bytes of the packed weights, padding included.
    pub fn bytes(&self) -> usize {
        self.weights.len()
    }

    /// The packed weights, for files: [`packed_len`] bytes, little-endian.
    pub fn packed(&self) -> &[u8] {
        self.weights.bytes()
    }

    /// Writes row `row`, as stored, to `out`.
    ///
    /// # Panics
    /// If there is no such row or `out` does not have `cols` elements.
    pub fn unpack_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {}", self.rows);
        assert_eq!(out.len(), self.cols, "unpack_row: {} elements for {} columns", out.len(), self.cols);
        let float = match self.storage.kind() {
            Kind::Float(float) => float,
            Kind::Codes(layout) => return self.row(layout, row).values(layout, out),
        };
        let panel_bytes = float.panel_bytes(self.cols);
        let panel = &self.packed()[row / PANEL * panel_bytes..][..panel_bytes];
        for (k, out) in out.iter_mut().enumerate() {
            let at = place(float, k, row % PANEL);
            *out = match float {
                Float::F32 => f32::from_le_bytes(word(panel, at)),
                Float::Bf16 => bf16::from_le_bytes(word(panel, at)).to_f32(),
                Float::F16 => f16::from_le_bytes(word(panel, at)).to_f32(),
            };
        }
    }

    /// The first packed weight.
    pub(super) fn start(&self) -> *const u8 {
        self.weights.as_ptr()
    }

    /// The first byte of the plane of scales.
    pub(super) fn scales_at(&self, layout: Layout) -> usize {
        self.rows.div_ceil(PANEL) * layout.code_bytes(self.cols)
    }

    /// Codes and scales of a row.
    pub(super) fn row(&self, layout: Layout, row: usize) -> Row {
        let (panel, j) = (row / PANEL, row % PANEL);
        let (codes, scales) = self.packed().split_at(self.scales_at(layout));
        layout.read(
            j,
            self.cols,
            &codes[panel * layout.code_bytes(self.cols)..],
            &scales[panel * layout.scale_bytes(self.cols)..],
        )
    }

    /// A matrix whose bytes are still to be written.
    fn zeroed(storage: Storage, rows: usize, cols: usize) -> Matrix {
        assert!(cols > 0, "a matrix needs at least one column");
        let length = packed_len(storage, rows, cols);
        assert!(length.is_some(), "[{rows}, {cols}] is more than can be addressed");
        let weights = Weights::new(length.unwrap_or(0));
        Matrix { storage, rows, cols, inputs: storage.inputs(InputBits::ThirtyTwo), weights }
    }

    /// A matrix of codes, row by row.
    fn from_rows(
        pool: &Pool,
        storage: Storage,
        layout: Layout,
        rows: usize,
        cols: usize,
        quantised: impl Fn(usize) -> Row + Sync,
    ) -> Matrix {
        let mut matrix = Matrix::zeroed(storage, rows, cols);
        let scales_at = matrix.scales_at(layout);
        let (codes, scales) = matrix.weights.bytes_mut().split_at_mut(scales_at);
        let (code_bytes, scale_bytes) = (layout.code_bytes(cols), layout.scale_bytes(cols));
        let (codes, scales) = (SharedMut::new(codes), SharedMut::new(scales));
        pool.run(rows.div_ceil(PANEL), 1, |panels| {
            for panel in panels {
                // SAFETY: `run` hands out disjoint ranges of panels.
                let (codes, scales) = unsafe {
                    (
                        codes.range(panel * code_bytes..(panel + 1) * code_bytes),
                        scales.range(panel * scale_bytes..(panel + 1) * scale_bytes),
                    )
                };
                codes.fill(0);
                scales.fill(0);
                for (j, row) in (panel * PANEL..rows).take(PANEL).enumerate() {
                    layout.write(&quantised(row), j, codes, scales);
                }
            }
        });
        matrix
    }
}

/// The bytes, copied piece by piece.
fn copy(bytes: &[u8], release: &dyn Fn(Range<usize>)) -> Weights {
    let mut weights = Weights::new(bytes.len());
    let out = weights.bytes_mut();
    for start in (0..bytes.len()).step_by(COPIED_AT_ONCE) {
        let range = start..bytes.len().min(start + COPIED_AT_ONCE);
        out[range.clone()].copy_from_slice(&bytes[range.clone()]);
        release(range);
    }
    weights
}

/// The `at`-th word of `N` bytes.
fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut word = [0; N];
    word.copy_from_slice(&bytes[at * N..][..N]);
    word
}

/// Interleaves sixteen rows of `cols` values.
fn pack_panel(float: Float, cols: usize, values: &[f32], out: &mut [u8]) {
    let column =
        |k: usize| -> [f32; PANEL] { std::array::from_fn(|j| if k < cols { values[j * cols + k] } else { 0.0 }) };
    match float {
        Float::F32 => {
            for (k, out) in out.chunks_exact_mut(PANEL * 4).enumerate() {
                store(out, column(k).map(f32::to_le_bytes));
            }
        }
        Float::Bf16 => {
            for (pair, out) in out.chunks_exact_mut(PANEL * 4).enumerate() {
                let [first, second] = [column(2 * pair), column(2 * pair + 1)];
                let word = |j: usize| u32::from(rounded::round(first[j])) | u32::from(rounded::round(second[j])) << 16;
                store(out, std::array::from_fn(|j| word(j).to_le_bytes()));
            }
        }
        Float::F16 => {
            for (k, out) in out.chunks_exact_mut(PANEL * 2).enumerate() {
                let mut halves = [f16::ZERO; PANEL];
                halves.convert_from_f32_slice(&column(k));
                store(out, halves.map(f16::to_le_bytes));
            }
        }
    }
}

fn store<const N: usize>(out: &mut [u8], words: [[u8; N]; PANEL]) {
    out.copy_from_slice(words.as_flattened());
}
