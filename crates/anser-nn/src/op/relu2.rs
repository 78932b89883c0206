//! `max(x, 0)^2`, the activation of every channel mix.

use anser_kernels::activation;
use burn::tensor::Tensor;
use burn::tensor::activation::relu;

use super::rows::{buffer, for_pieces};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;

/// `max(x, 0)^2`: x [T, F].
pub fn relu2(x: &Tensor<2>) -> Tensor<2> {
    let [rows, width] = x.dims();
    Inputs::new().with(x).run(Relu2 { rows, width }).take()
}

/// [`relu2`] in tensor operations.
pub fn relu2_composite(x: &Tensor<2>) -> Tensor<2> {
    let x = relu(x.clone());
    x.clone() * x
}

#[derive(Debug)]
struct Relu2 {
    rows: usize,
    width: usize,
}

impl Operation for Relu2 {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let mut y = buffer(inputs[0].len());
        for_pieces(&pool(), self.rows, [&mut y], |rows, [y]| {
            for (row, y) in rows.zip(y.chunks_exact_mut(self.width)) {
                y.copy_from_slice(&inputs[0][row * self.width..(row + 1) * self.width]);
                activation::relu2(y);
            }
        });
        (vec![Array::new(y, &[self.rows, self.width])], Vec::new())
    }

    fn backward(&self, inputs: &[&[f32]], _: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let Some(gy) = outputs[0] else { return vec![Gradient::None] };
        let mut gx = buffer(gy.len());
        for_pieces(&pool(), self.rows, [&mut gx], |rows, [gx]| {
            let part = rows.start * self.width..rows.end * self.width;
            for ((gx, gy), x) in gx.iter_mut().zip(&gy[part.clone()]).zip(&inputs[0][part]) {
                *gx = 2.0 * x.max(0.0) * gy;
            }
        });
        vec![Gradient::Values(gx)]
    }
}
