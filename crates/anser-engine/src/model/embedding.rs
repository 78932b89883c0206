//! The embedding table: rows are looked up, never multiplied, so it stays in the file where the layout allows.

use std::borrow::Cow;
use std::sync::Arc;

use anser_checkpoint::Tensor;
use anser_kernels::linear::Matrix;

use super::Source;
use super::loader::{Loader, Norm};
use crate::Error;
use crate::executor::Arena;

const NAME: &str = "emb.weight";

/// Rows `[V, C]` of the embedding.
pub(super) struct Embedding {
    source: Arc<dyn Source>,
    table: Table,
}

enum Table {
    /// Plain rows in the mapped file, read row by row.
    InFile,
    /// A copy, where the file does not hold the table as plain rows.
    Copy(Tensor<'static>),
    /// Integer codes.
    Codes(Matrix),
}

impl Embedding {
    pub(super) fn load(source: &Arc<dyn Source>, loader: &Loader<'_>) -> Result<Embedding, Error> {
        let table = if loader.has_codes(NAME) {
            Table::Codes(loader.matrix(NAME)?)
        } else {
            let table = source.tensor(NAME)?;
            loader.keep_tensor(&table);
            match table.data {
                Cow::Borrowed(_) => Table::InFile,
                Cow::Owned(data) => {
                    loader.count(data.len());
                    Table::Copy(Tensor { data: Cow::Owned(data), ..table })
                }
            }
        };
        Ok(Embedding { source: source.clone(), table })
    }

    /// `x = LN0(emb[token])` for every row, in f32.
    ///
    /// # Errors
    /// [`Error::NonFiniteWeight`]: rows are checked as they are used, since reading the whole table at load would touch
    /// memory that most runs never need.
    pub(super) fn look_up(&self, arena: &mut Arena, tokens: &[u32], ln0: &Norm, x: &mut [f32]) -> Result<(), Error> {
        let width = ln0.width();
        let [raw] = arena.cut([width]);
        let mapped;
        let table = match &self.table {
            Table::Codes(codes) => {
                for (out, &token) in x.chunks_exact_mut(width).zip(tokens) {
                    codes.unpack_row(token as usize, raw);
                    ln0.apply(raw, out);
                }
                return Ok(());
            }
            Table::Copy(table) => table,
            Table::InFile => {
                mapped = self.source.tensor(NAME)?;
                &mapped
            }
        };
        for (out, &token) in x.chunks_exact_mut(width).zip(tokens) {
            table.read_f32(token as usize * width, raw);
            if let Some(&value) = raw.iter().find(|value| !value.is_finite()) {
                let (path, tensor) = (self.source.path().to_path_buf(), NAME.to_string());
                return Err(Error::NonFiniteWeight { path, tensor, row: token as usize, value });
            }
            ln0.apply(raw, out);
        }
        Ok(())
    }
}
