//! The receptance of a channel mix, added to the residual stream: `residual + sigmoid(r) * v`.

use anser_kernels::activation::sigmoid1;
use anser_kernels::dispatch;
use anser_kernels::simd::{Isa, level};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::rows::{buffer, for_pieces};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;

/// `residual + sigmoid(r) * v`, all [T, C].
pub fn gate_add(residual: &Tensor<2>, r: &Tensor<2>, v: &Tensor<2>) -> Tensor<2> {
    let [rows, width] = r.dims();
    Inputs::new().with(residual).with(r).with(v).run(Gate { rows, width }).take()
}

/// [`gate_add`] in tensor operations.
pub fn gate_add_composite(residual: &Tensor<2>, r: &Tensor<2>, v: &Tensor<2>) -> Tensor<2> {
    residual.clone() + sigmoid(r.clone()) * v.clone()
}

#[derive(Debug)]
struct Gate {
    rows: usize,
    width: usize,
}

dispatch! {
    fn forward(residual: &[f32], r: &[f32], v: &[f32], y: &mut [f32]) = forward_body;
    fn backward(g: &[f32], r: &[f32], v: &[f32], gr: &mut [f32], gv: &mut [f32]) = backward_body;
}

#[inline(always)]
fn forward_body<I: Isa>(residual: &[f32], r: &[f32], v: &[f32], y: &mut [f32]) {
    let n = y.len();
    let (residual, r, v) = (&residual[..n], &r[..n], &v[..n]);
    for i in 0..n {
        y[i] = I::fma(sigmoid1::<I>(r[i]), v[i], residual[i]);
    }
}

#[inline(always)]
fn backward_body<I: Isa>(g: &[f32], r: &[f32], v: &[f32], gr: &mut [f32], gv: &mut [f32]) {
    let n = g.len();
    let (r, v, gr, gv) = (&r[..n], &v[..n], &mut gr[..n], &mut gv[..n]);
    for i in 0..n {
        let s = sigmoid1::<I>(r[i]);
        gv[i] = g[i] * s;
        gr[i] = g[i] * v[i] * s * (1.0 - s);
    }
}

impl Operation for Gate {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let mut y = buffer(self.rows * self.width);
        for_pieces(&pool(), self.rows, [&mut y], |rows, [y]| {
            let part = rows.start * self.width..rows.end * self.width;
            let [residual, r, v] = [0, 1, 2].map(|i| &inputs[i][part.clone()]);
            forward(level(), residual, r, v, y);
        });
        (vec![Array::new(y, &[self.rows, self.width])], Vec::new())
    }

    fn backward(&self, inputs: &[&[f32]], _: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let Some(g) = outputs[0] else { return inputs.iter().map(|_| Gradient::None).collect() };
        let (mut gr, mut gv) = (buffer(g.len()), buffer(g.len()));
        for_pieces(&pool(), self.rows, [&mut gr, &mut gv], |rows, [gr, gv]| {
            let part = rows.start * self.width..rows.end * self.width;
            backward(level(), &g[part.clone()], &inputs[1][part.clone()], &inputs[2][part], gr, gv);
        });
        vec![Gradient::Output(0), Gradient::Values(gr), Gradient::Values(gv)]
    }
}
