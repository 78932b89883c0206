//! The rows of a table that tokens name.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};

use super::rows::{buffer, for_pieces};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;

/// Rows `tokens` of `table` [V, C]: [T, C].
///
/// # Panics
/// When a token has no row.
pub fn embedding(table: &Tensor<2>, tokens: &Arc<[u32]>) -> Tensor<2> {
    let [vocab, width] = table.dims();
    if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
        panic!("token {token} in an embedding of {vocab} rows");
    }
    Inputs::new().with(table).run(Embedding { vocab, width, tokens: Arc::clone(tokens) }).take()
}

/// [`embedding`] in tensor operations.
pub fn embedding_composite(table: &Tensor<2>, tokens: &Arc<[u32]>) -> Tensor<2> {
    let indices: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
    let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [tokens.len()]), &table.device().inner());
    table.clone().select(0, indices)
}

#[derive(Debug)]
struct Embedding {
    vocab: usize,
    width: usize,
    tokens: Arc<[u32]>,
}

impl Operation for Embedding {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let (rows, width) = (self.tokens.len(), self.width);
        let mut x = buffer(rows * width);
        for_pieces(&pool(), rows, [&mut x], |rows, [x]| {
            for (&token, x) in self.tokens[rows].iter().zip(x.chunks_exact_mut(width)) {
                let start = token as usize * width;
                x.copy_from_slice(&inputs[0][start..start + width]);
            }
        });
        (vec![Array::new(x, &[rows, width])], Vec::new())
    }

    fn backward(&self, inputs: &[&[f32]], _: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let Some(g) = outputs[0] else { return inputs.iter().map(|_| Gradient::None).collect() };
        let width = self.width;
        let mut g_table = vec![0.0; self.vocab * width];
        for (&token, g) in self.tokens.iter().zip(g.chunks_exact(width)) {
            let start = token as usize * width;
            g_table[start..start + width].iter_mut().zip(g).for_each(|(sum, g)| *sum += g);
        }
        vec![Gradient::Values(g_table)]
    }
}
