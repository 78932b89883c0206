//! Packing of a matrix into panels.

use std::fmt;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::memory::Weights;
use super::{PANEL, Storage};
use crate::pool::Pool;

/// A matrix of shape [rows = out, cols = in], packed for [`products`](super::products).
///
/// Sixteen rows form a panel, in which column follows column: `panel[k][j]` is the weight of output `j` of the panel
/// for input `k`. The last panel is filled up with zeros. It lives in anonymous memory backed by huge pages where the
/// system grants them.
pub struct Matrix {
    storage: Storage,
    rows: usize,
    cols: usize,
    weights: Weights,
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix([{}, {}], {})", self.rows, self.cols, self.storage)
    }
}

/// The place of output `j` within a panel's column. bf16 keeps outputs j and j + 8 in one 32-bit word, low and high:
/// a shift widens one vector of eight, a mask the other.
fn place(storage: Storage, j: usize) -> usize {
    match storage {
        Storage::Bf16 => 2 * (j % 8) + j / 8,
        Storage::F32 | Storage::F16 => j,
    }
}

impl Matrix {
    /// Packs a matrix: `fill(row, out)` writes the `cols` values of row `row`. It is called once for each row, from
    /// several threads. Values are rounded to nearest even into `storage`.
    ///
    /// # Panics
    /// If `cols` is 0.
    pub fn pack(
        pool: &Pool,
        storage: Storage,
        rows: usize,
        cols: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Matrix {
        assert!(cols > 0, "a matrix needs at least one column");
        let panel_bytes = PANEL * cols * storage.bytes();
        let mut weights = Weights::new(rows.div_ceil(PANEL) * panel_bytes);
        pool.run_rows(weights.bytes_mut(), panel_bytes, 1, |panel, out| {
            let mut values = vec![0.0f32; PANEL * cols];
            for (j, row) in (panel * PANEL..rows).take(PANEL).enumerate() {
                fill(row, &mut values[j * cols..(j + 1) * cols]);
            }
            pack_panel(storage, cols, &values, out);
        });
        Matrix { storage, rows, cols, weights }
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

    /// Writes row `row`, as stored, to `out`.
    ///
    /// # Panics
    /// If there is no such row or `out` does not have `cols` elements.
    pub fn unpack_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows, "row {row} of a matrix of {}", self.rows);
        assert_eq!(out.len(), self.cols, "unpack_row: {} elements for {} columns", out.len(), self.cols);
        let panel_bytes = PANEL * self.cols * self.storage.bytes();
        let panel = &self.weights.bytes()[row / PANEL * panel_bytes..][..panel_bytes];
        let place = place(self.storage, row % PANEL);
        for (k, out) in out.iter_mut().enumerate() {
            let at = k * PANEL + place;
            *out = match self.storage {
                Storage::F32 => f32::from_ne_bytes(word(panel, at)),
                Storage::Bf16 => bf16::from_ne_bytes(word(panel, at)).to_f32(),
                Storage::F16 => f16::from_ne_bytes(word(panel, at)).to_f32(),
            };
        }
    }

    /// The first packed weight.
    pub(super) fn start(&self) -> *const u8 {
        self.weights.as_ptr()
    }
}

/// The `at`-th word of `N` bytes.
fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut word = [0; N];
    word.copy_from_slice(&bytes[at * N..][..N]);
    word
}

/// Interleaves sixteen rows of `cols` values.
fn pack_panel(storage: Storage, cols: usize, values: &[f32], out: &mut [u8]) {
    let mut column = [0.0f32; PANEL];
    for (k, out) in out.chunks_exact_mut(PANEL * storage.bytes()).enumerate() {
        for j in 0..PANEL {
            column[place(storage, j)] = values[j * cols + k];
        }
        match storage {
            Storage::F32 => store(out, column.map(f32::to_ne_bytes)),
            Storage::Bf16 => store(out, column.map(|v| bf16::from_f32(v).to_ne_bytes())),
            Storage::F16 => {
                let mut halves = [f16::ZERO; PANEL];
                halves.convert_from_f32_slice(&column);
                store(out, halves.map(f16::to_ne_bytes));
            }
        }
    }
}

fn store<const N: usize>(out: &mut [u8], words: [[u8; N]; PANEL]) {
    out.copy_from_slice(words.as_flattened());
}
