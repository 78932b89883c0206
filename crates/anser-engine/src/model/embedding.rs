//! The embedding table: rows are looked up, never multiplied, so it stays in the file where the layout allows.

use std::borrow::Cow;
use std::sync::Arc;

use anser_checkpoint::Tensor;

use super::Source;
use super::loader::Norm;
use crate::Error;
use crate::executor::Arena;

const NAME: &str = "emb.weight";

/// Rows `[V, C]` of the embedding.
pub(super) struct Embedding {
    source: Arc<dyn Source>,
    /// A copy, where the file does not hold the table as plain rows; else it is read from the mapped file row by row.
    copy: Option<Tensor<'static>>,
}

impl Embedding {
    pub(super) fn new(source: &Arc<dyn Source>) -> Result<Embedding, Error> {
        let table = source.tensor(NAME)?;
        let copy = match table.data {
            Cow::Borrowed(_) => None,
            Cow::Owned(data) => Some(Tensor { data: Cow::Owned(data), ..table }),
        };
        Ok(Embedding { source: source.clone(), copy })
    }

    /// Bytes of the copy.
    pub(super) fn bytes(&self) -> usize {
        self.copy.as_ref().map_or(0, |table| table.data.len())
    }

    /// `x = LN0(emb[token])` for every row, in f32.
    ///
    /// # Errors
    /// [`Error::NonFiniteWeight`]: rows are checked as they are used, since reading the whole table at load would touch
    /// memory that most runs never need.
    pub(super) fn look_up(&self, arena: &mut Arena, tokens: &[u32], ln0: &Norm, x: &mut [f32]) -> Result<(), Error> {
        let mapped;
        let table = match &self.copy {
            Some(table) => table,
            None => {
                mapped = self.source.tensor(NAME)?;
                &mapped
            }
        };
        let width = ln0.width();
        let [raw] = arena.cut([width]);
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
