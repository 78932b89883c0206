//! The small low-rank maps of RWKV-6 and RWKV-7: `y = bias + act(x a) b`.

use anser_kernels::activation;
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::linear::product_gradients;
use super::rows::{buffer, for_pieces, sum_pieces};
use super::{Array, Gradient, Inputs, Operation, Outputs};
use crate::threads::pool;
use anser_kernels::linear::dense::{Mat, Plus, Product, matmul, matmuls};

/// What stands between the two factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Nothing.
    Identity,
    /// The hyperbolic tangent.
    Tanh,
    /// The logistic function.
    Sigmoid,
}

/// `bias + inner(x a) b`: x [T, C], a [C, R], b [R, O], bias `[O]`, result [T, O].
pub fn low_rank(x: &Tensor<2>, a: &Tensor<2>, b: &Tensor<2>, bias: Option<&Tensor<1>>, inner: Inner) -> Tensor<2> {
    run(x, a, b, bias, inner).take()
}

/// [`low_rank`], and x for the next that reads it.
pub fn low_rank_passing(
    x: &Tensor<2>,
    a: &Tensor<2>,
    b: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    inner: Inner,
) -> (Tensor<2>, Tensor<2>) {
    let mut outputs = run(x, a, b, bias, inner);
    (outputs.take(), outputs.take())
}

fn run(x: &Tensor<2>, a: &Tensor<2>, b: &Tensor<2>, bias: Option<&Tensor<1>>, inner: Inner) -> Outputs {
    let ([inputs, rank], [_, outputs]) = (a.dims(), b.dims());
    let op = LowRank { inputs, rank, outputs, inner };
    let tensors = Inputs::new().with(x).with(a).with(b);
    match bias {
        Some(bias) => tensors.with(bias),
        None => tensors,
    }
    .run(op)
}

/// [`low_rank`] in tensor operations.
pub fn low_rank_composite(
    x: &Tensor<2>,
    a: &Tensor<2>,
    b: &Tensor<2>,
    bias: Option<&Tensor<1>>,
    inner: Inner,
) -> Tensor<2> {
    let h = x.clone().matmul(a.clone());
    let h = match inner {
        Inner::Identity => h,
        Inner::Tanh => h.tanh(),
        Inner::Sigmoid => sigmoid(h),
    };
    let y = h.matmul(b.clone());
    match bias {
        Some(bias) => y + bias.clone().unsqueeze(),
        None => y,
    }
}

#[derive(Debug)]
struct LowRank {
    inputs: usize,
    rank: usize,
    outputs: usize,
    inner: Inner,
}

impl Operation for LowRank {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let pool = pool();
        let rows = inputs[0].len() / self.inputs;
        let x = Mat::new(inputs[0], rows, self.inputs);
        let mut h = buffer(rows * self.rank);
        matmul(&pool, x, Mat::new(inputs[1], self.inputs, self.rank), &mut h, false);
        if self.inner != Inner::Identity {
            for_pieces(&pool, rows, [&mut h], |_, [h]| match self.inner {
                Inner::Tanh => activation::tanh(h),
                _ => activation::sigmoid(h),
            });
        }
        let mut y = buffer(rows * self.outputs);
        let (a, b) = (Mat::new(&h, rows, self.rank), Mat::new(inputs[2], self.rank, self.outputs));
        let plus = inputs.get(3).map_or(Plus::Nothing, |bias| Plus::Row(bias));
        matmuls(&pool, &mut [(Product::new(a, b).plus(plus), &mut y)]);
        (vec![Array::new(y, &[rows, self.outputs])], if saving { vec![h] } else { Vec::new() })
    }

    fn passed(&self) -> &[usize] {
        &[0]
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        wanted: &[bool],
    ) -> Vec<Gradient> {
        let pool = pool();
        let Some(gy) = outputs[0] else {
            let mut gradients: Vec<Gradient> = inputs.iter().map(|_| Gradient::None).collect();
            gradients[0] = Gradient::Output(1);
            return gradients;
        };
        let h = &saved[0];
        let rows = inputs[0].len() / self.inputs;
        let (x, a) = (Mat::new(inputs[0], rows, self.inputs), Mat::new(inputs[1], self.inputs, self.rank));
        let (b, g) = (Mat::new(inputs[2], self.rank, self.outputs), Mat::new(gy, rows, self.outputs));
        let mut gh = buffer(rows * self.rank);
        matmul(&pool, g, b.t(), &mut gh, false);
        for_pieces(&pool, rows, [&mut gh], |rows, [gh]| {
            let h = &h[rows.start * self.rank..rows.end * self.rank];
            match self.inner {
                Inner::Identity => {}
                Inner::Tanh => gh.iter_mut().zip(h).for_each(|(g, h)| *g *= 1.0 - h * h),
                Inner::Sigmoid => gh.iter_mut().zip(h).for_each(|(g, h)| *g *= h * (1.0 - h)),
            }
        });
        let gh = Mat::new(&gh, rows, self.rank);
        let plus = outputs[1].map_or(Plus::Nothing, Plus::Rows);
        let mut gradients = product_gradients(
            &pool,
            [
                wanted[0].then_some(Product::new(gh, a.t()).plus(plus)),
                wanted[1].then_some(Product::new(x.t(), gh)),
                wanted[2].then_some(Product::new(Mat::new(h, rows, self.rank).t(), g)),
            ],
        );
        if inputs.len() == 4 {
            gradients.push(Gradient::Values(column_sums(&pool, gy, rows, self.outputs)));
        }
        gradients
    }
}

/// The sum of the rows of `values` [rows, width].
fn column_sums(pool: &anser_kernels::pool::Pool, values: &[f32], rows: usize, width: usize) -> Vec<f32> {
    sum_pieces(pool, rows, [], width, |rows, [], sums| {
        for row in values[rows.start * width..rows.end * width].chunks_exact(width) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
    })
}
