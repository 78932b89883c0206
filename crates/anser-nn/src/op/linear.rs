//! `y = x W^T`, optionally added to a residual stream or a bias.

use anser_kernels::pool::Pool;
use burn::tensor::Tensor;

use super::rows::{buffer, for_pieces, sum_pieces};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;
use anser_kernels::linear::dense::{Mat, matmul};

/// `x W^T`: x [T, I], weight [O, I] as official files store it, result [T, O].
pub fn linear(x: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    let ([_, inputs], [outputs, _]) = (x.dims(), weight.dims());
    Inputs::new().with(x).with(weight).run(Linear { inputs, outputs, plus: Plus::Nothing }).take()
}

/// `residual + x W^T`: residual [T, O].
pub fn linear_add(x: &Tensor<2>, weight: &Tensor<2>, residual: &Tensor<2>) -> Tensor<2> {
    let ([_, inputs], [outputs, _]) = (x.dims(), weight.dims());
    Inputs::new().with(x).with(weight).with(residual).run(Linear { inputs, outputs, plus: Plus::Rows }).take()
}

/// `x W^T + bias`: bias `[O]`.
pub fn affine(x: &Tensor<2>, weight: &Tensor<2>, bias: &Tensor<1>) -> Tensor<2> {
    let ([_, inputs], [outputs, _]) = (x.dims(), weight.dims());
    Inputs::new().with(x).with(weight).with(bias).run(Linear { inputs, outputs, plus: Plus::Bias }).take()
}

/// [`affine`] in tensor operations.
pub fn affine_composite(x: &Tensor<2>, weight: &Tensor<2>, bias: &Tensor<1>) -> Tensor<2> {
    linear_composite(x, weight) + bias.clone().unsqueeze()
}

/// [`linear`] in tensor operations.
pub fn linear_composite(x: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    x.clone().matmul(weight.clone().transpose())
}

/// What the product is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plus {
    Nothing,
    /// One vector in every row.
    Bias,
    /// A row each.
    Rows,
}

#[derive(Debug)]
struct Linear {
    inputs: usize,
    outputs: usize,
    plus: Plus,
}

impl Operation for Linear {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let (x, w) = (inputs[0], inputs[1]);
        let rows = x.len() / self.inputs;
        let (pool, mut y) = (pool(), buffer(rows * self.outputs));
        match self.plus {
            Plus::Nothing => {}
            Plus::Bias => for_pieces(&pool, rows, [&mut y], |_, [y]| {
                y.chunks_exact_mut(self.outputs).for_each(|y| y.copy_from_slice(inputs[2]));
            }),
            Plus::Rows => for_pieces(&pool, rows, [&mut y], |rows, [y]| {
                y.copy_from_slice(&inputs[2][rows.start * self.outputs..rows.end * self.outputs]);
            }),
        }
        let (x, w) = (Mat::new(x, rows, self.inputs), Mat::new(w, self.outputs, self.inputs));
        matmul(&pool, x, w.t(), &mut y, self.plus != Plus::Nothing);
        (vec![Array::new(y, &[rows, self.outputs])], Vec::new())
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        _: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        wanted: &[bool],
    ) -> Vec<Gradient> {
        let pool = pool();
        let Some(gy) = outputs[0] else { return inputs.iter().map(|_| Gradient::None).collect() };
        let mut gradients = product_gradients(&pool, inputs[0], inputs[1], gy, [self.inputs, self.outputs], wanted);
        match self.plus {
            Plus::Nothing => {}
            Plus::Bias => {
                let rows = gy.len() / self.outputs;
                let sums = sum_pieces(&pool, rows, [], self.outputs, |rows, [], sums| {
                    for gy in gy[rows.start * self.outputs..rows.end * self.outputs].chunks_exact(self.outputs) {
                        sums.iter_mut().zip(gy).for_each(|(sum, gy)| *sum += gy);
                    }
                });
                gradients.push(Gradient::Values(sums));
            }
            Plus::Rows => gradients.push(Gradient::Output(0)),
        }
        gradients
    }
}

/// Gradients of x [T, I] and w [O, I] of `x w^T`, from that of the result.
pub(super) fn product_gradients(
    pool: &Pool,
    x: &[f32],
    w: &[f32],
    gy: &[f32],
    [inputs, outputs]: [usize; 2],
    wanted: &[bool],
) -> Vec<Gradient> {
    let rows = gy.len() / outputs;
    let gy = Mat::new(gy, rows, outputs);
    let gx = wanted[0].then(|| {
        let mut gx = buffer(rows * inputs);
        matmul(pool, gy, Mat::new(w, outputs, inputs), &mut gx, false);
        gx
    });
    let gw = wanted[1].then(|| {
        let mut gw = buffer(outputs * inputs);
        matmul(pool, gy.t(), Mat::new(x, rows, inputs), &mut gw, false);
        gw
    });
    [gx, gw].map(|g| g.map_or(Gradient::None, Gradient::Values)).into()
}
