//! `y = x W^T`, optionally of the square of x's positive part, optionally added to a residual stream or a bias.

use anser_kernels::pool::Pool;
use anser_kernels::simd::level;
use burn::tensor::Tensor;

use super::relu2::relu2_composite;
use super::rows::{buffer, sum_pieces};
use super::{Array, Gradient, Inputs, Operation, lanes};
use crate::threads::pool;
use anser_kernels::linear::dense::{Mat, Plus, Product, matmuls};

/// `x W^T`: x [T, I], weight [O, I] as official files store it, result [T, O].
pub fn linear(x: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    run(Inputs::new().with(x).with(weight), weight, Added::Nothing, false)
}

/// `residual + x W^T`: residual [T, O].
pub fn linear_add(x: &Tensor<2>, weight: &Tensor<2>, residual: &Tensor<2>) -> Tensor<2> {
    run(Inputs::new().with(x).with(weight).with(residual), weight, Added::Rows, false)
}

/// `residual + max(x, 0)^2 W^T`: what every channel mix without a gate ends with.
pub fn relu2_linear_add(x: &Tensor<2>, weight: &Tensor<2>, residual: &Tensor<2>) -> Tensor<2> {
    run(Inputs::new().with(x).with(weight).with(residual), weight, Added::Rows, true)
}

/// [`relu2_linear_add`] in tensor operations.
pub fn relu2_linear_add_composite(x: &Tensor<2>, weight: &Tensor<2>, residual: &Tensor<2>) -> Tensor<2> {
    residual.clone() + linear_composite(&relu2_composite(x), weight)
}

/// `x W^T + bias`: bias `[O]`.
pub fn affine(x: &Tensor<2>, weight: &Tensor<2>, bias: &Tensor<1>) -> Tensor<2> {
    run(Inputs::new().with(x).with(weight).with(bias), weight, Added::Bias, false)
}

/// [`affine`] in tensor operations.
pub fn affine_composite(x: &Tensor<2>, weight: &Tensor<2>, bias: &Tensor<1>) -> Tensor<2> {
    linear_composite(x, weight) + bias.clone().unsqueeze()
}

/// [`linear`] in tensor operations.
pub fn linear_composite(x: &Tensor<2>, weight: &Tensor<2>) -> Tensor<2> {
    x.clone().matmul(weight.clone().transpose())
}

/// The product of what `given` begins with, x and weight.
fn run(given: Inputs, weight: &Tensor<2>, added: Added, relu2: bool) -> Tensor<2> {
    let [outputs, inputs] = weight.dims();
    given.run(Linear { inputs, outputs, added, relu2 }).take()
}

/// What the product is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Added {
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
    added: Added,
    /// Whether x goes through `max(x, 0)^2` first.
    relu2: bool,
}

impl Operation for Linear {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let (x, w) = (inputs[0], inputs[1]);
        let rows = x.len() / self.inputs;
        let mut y = buffer(rows * self.outputs);
        let plus = match self.added {
            Added::Nothing => Plus::Nothing,
            Added::Bias => Plus::Row(inputs[2]),
            Added::Rows => Plus::Rows(inputs[2]),
        };
        let product = Product::new(self.x(x, rows), Mat::new(w, self.outputs, self.inputs).t()).plus(plus);
        matmuls(&pool(), &mut [(product, &mut y)]);
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
        let rows = gy.len() / self.outputs;
        let (x, g) = (self.x(inputs[0], rows), Mat::new(gy, rows, self.outputs));
        let gx = Product::new(g, Mat::new(inputs[1], self.outputs, self.inputs));
        let gx = if self.relu2 { gx.relu2_slope(inputs[0]) } else { gx };
        let gw = Product::new(g.t(), x);
        let mut gradients = product_gradients(&pool, [wanted[0].then_some(gx), wanted[1].then_some(gw)]);
        match self.added {
            Added::Nothing => {}
            Added::Bias => {
                let level = level();
                let sums = sum_pieces(&pool, rows, [], self.outputs, |rows, [], sums| {
                    lanes::add_rows(level, sums, &gy[rows.start * self.outputs..rows.end * self.outputs]);
                });
                gradients.push(Gradient::Values(sums));
            }
            Added::Rows => gradients.push(Gradient::Output(0)),
        }
        gradients
    }
}

impl Linear {
    /// What the weight is multiplied with.
    fn x<'a>(&self, x: &'a [f32], rows: usize) -> Mat<'a> {
        let x = Mat::new(x, rows, self.inputs);
        if self.relu2 { x.relu2() } else { x }
    }
}

/// The products that somebody wants, computed together.
pub(super) fn product_gradients<'a>(
    pool: &Pool,
    products: impl IntoIterator<Item = Option<Product<'a>>>,
) -> Vec<Gradient> {
    let with_room = |product: Option<Product<'a>>| product.map(|product| (product, buffer(product.outputs())));
    let mut out: Vec<_> = products.into_iter().map(with_room).collect();
    let mut wanted: Vec<_> = out.iter_mut().flatten().map(|(product, out)| (*product, &mut out[..])).collect();
    matmuls(pool, &mut wanted);
    out.into_iter().map(|out| out.map_or(Gradient::None, |(_, out)| Gradient::Values(out))).collect()
}
