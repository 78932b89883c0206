//! The small low-rank maps of RWKV-6 and RWKV-7: `y = bias + act(x a) b`. Those that do not wait for each other are one
//! operation: each by itself is too little work to share between threads well.

use std::ops::Range;

use anser_kernels::activation;
use anser_kernels::dispatch;
use anser_kernels::simd::{Isa, level};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::linear::product_gradients;
use super::rows::{Rows, buffer, for_pieces, sum_pieces};
use super::{Array, Gradient, Inputs, Operation, Outputs, lanes};
use crate::threads::pool;
use anser_kernels::linear::dense::{Mat, Plus, Product, matmuls};

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

/// `bias + inner(x a) b`, of the result [T, O].
#[derive(Clone, Copy, Debug)]
pub struct LowRank<'a> {
    /// [T, C].
    pub x: &'a Tensor<2>,
    /// [C, R].
    pub a: &'a Tensor<2>,
    /// [R, O].
    pub b: &'a Tensor<2>,
    /// `[O]`.
    pub bias: Option<&'a Tensor<1>>,
    /// What stands between the two.
    pub inner: Inner,
}

/// The result of one map.
pub fn low_rank(map: &LowRank<'_>) -> Tensor<2> {
    run(std::slice::from_ref(map)).take()
}

/// The results of several maps, up to four of as many rows, and each one's x for the next that reads it.
pub fn low_ranks<const N: usize>(maps: [LowRank<'_>; N]) -> ([Tensor<2>; N], [Tensor<2>; N]) {
    const { assert!(N <= 4, "a node has at most sixteen inputs") };
    let mut outputs = run(&maps);
    (std::array::from_fn(|_| outputs.take()), std::array::from_fn(|_| outputs.take()))
}

fn run(maps: &[LowRank<'_>]) -> Outputs {
    let mut inputs = Inputs::new();
    let (mut shapes, mut xs) = (Vec::new(), Vec::new());
    let mut first = 0;
    for map in maps {
        inputs = inputs.with(map.x).with(map.a).with(map.b);
        if let Some(bias) = map.bias {
            inputs = inputs.with(bias);
        }
        let ([inputs, rank], [_, outputs]) = (map.a.dims(), map.b.dims());
        let given = first..first + 3 + usize::from(map.bias.is_some());
        xs.push(first);
        first = given.end;
        shapes.push(Shape { given, inputs, rank, outputs, inner: map.inner });
    }
    inputs.run(LowRanks { maps: shapes, xs })
}

/// [`low_rank`] in tensor operations.
pub fn low_rank_composite(map: &LowRank<'_>) -> Tensor<2> {
    let h = map.x.clone().matmul(map.a.clone());
    let h = match map.inner {
        Inner::Identity => h,
        Inner::Tanh => h.tanh(),
        Inner::Sigmoid => sigmoid(h),
    };
    let y = h.matmul(map.b.clone());
    match map.bias {
        Some(bias) => y + bias.clone().unsqueeze(),
        None => y,
    }
}

#[derive(Debug)]
struct LowRanks {
    maps: Vec<Shape>,
    /// The input of each map that is x.
    xs: Vec<usize>,
}

#[derive(Debug)]
struct Shape {
    /// x, a, b and perhaps bias among the inputs of the operation.
    given: Range<usize>,
    inputs: usize,
    rank: usize,
    outputs: usize,
    inner: Inner,
}

impl Shape {
    /// x, a and b.
    fn factors<'a>(&self, inputs: &[&'a [f32]], rows: usize) -> [Mat<'a>; 3] {
        let [x, a, b] = [0, 1, 2].map(|i| inputs[self.given.start + i]);
        [Mat::new(x, rows, self.inputs), Mat::new(a, self.inputs, self.rank), Mat::new(b, self.rank, self.outputs)]
    }

    fn bias<'a>(&self, inputs: &[&'a [f32]]) -> Option<&'a [f32]> {
        inputs[self.given.clone()].get(3).copied()
    }
}

impl LowRanks {
    fn rows(&self, inputs: &[&[f32]]) -> usize {
        inputs[0].len() / self.maps[0].inputs
    }
}

dispatch! {
    /// `g *= 1 - h^2`.
    fn tanh_slope(g: &mut [f32], h: &[f32]) = tanh_slope_body;
    /// `g *= h (1 - h)`.
    fn sigmoid_slope(g: &mut [f32], h: &[f32]) = sigmoid_slope_body;
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn tanh_slope_body<I: Isa>(g: &mut [f32], h: &[f32]) {
    g.iter_mut().zip(h).for_each(|(g, h)| *g *= 1.0 - h * h);
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn sigmoid_slope_body<I: Isa>(g: &mut [f32], h: &[f32]) {
    g.iter_mut().zip(h).for_each(|(g, h)| *g *= h * (1.0 - h));
}

impl Operation for LowRanks {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let (pool, rows) = (pool(), self.rows(inputs));
        let mut hs: Vec<Vec<f32>> = self.maps.iter().map(|map| buffer(rows * map.rank)).collect();
        let inner = |(map, h): (&Shape, _)| {
            let [x, a, _] = map.factors(inputs, rows);
            (Product::new(x, a), h)
        };
        matmuls(&pool, &mut self.maps.iter().zip(hs.iter_mut().map(Vec::as_mut_slice)).map(inner).collect::<Vec<_>>());
        let shared: Vec<Rows<'_>> = self.maps.iter().zip(&mut hs).map(|(map, h)| Rows::new(h, map.rank)).collect();
        for_pieces(&pool, rows, [], |rows, []| {
            for (map, h) in self.maps.iter().zip(&shared) {
                let h = rows.clone().map(|row| h.row(row));
                match map.inner {
                    Inner::Identity => {}
                    Inner::Tanh => h.for_each(activation::tanh),
                    Inner::Sigmoid => h.for_each(activation::sigmoid),
                }
            }
        });
        let mut ys: Vec<Vec<f32>> = self.maps.iter().map(|map| buffer(rows * map.outputs)).collect();
        let mut outer = Vec::new();
        for ((map, h), y) in self.maps.iter().zip(&hs).zip(&mut ys) {
            let [.., b] = map.factors(inputs, rows);
            let plus = map.bias(inputs).map_or(Plus::Nothing, Plus::Row);
            outer.push((Product::new(Mat::new(h, rows, map.rank), b).plus(plus), &mut y[..]));
        }
        matmuls(&pool, &mut outer);
        let arrays = self.maps.iter().zip(ys).map(|(map, y)| Array::new(y, &[rows, map.outputs])).collect();
        (arrays, if saving { hs } else { Vec::new() })
    }

    fn passed(&self) -> &[usize] {
        &self.xs
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        hs: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        wanted: &[bool],
    ) -> Vec<Gradient> {
        let (pool, level, rows) = (pool(), level(), self.rows(inputs));
        let (g_ys, g_passed) = outputs.split_at(self.maps.len());
        let mut gradients: Vec<Gradient> = inputs.iter().map(|_| Gradient::None).collect();
        // What a map whose result nobody used leaves to its x.
        for (index, &x) in self.xs.iter().enumerate() {
            gradients[x] = Gradient::Output(self.maps.len() + index);
        }
        let used = || {
            self.maps
                .iter()
                .zip(&hs)
                .zip(g_ys)
                .zip(g_passed)
                .filter_map(|(((map, h), gy), passed)| gy.map(|gy| (map, h, gy, *passed)))
        };
        let mut ghs: Vec<Vec<f32>> = used().map(|(map, ..)| buffer(rows * map.rank)).collect();
        let mut outer = Vec::new();
        for ((map, _, gy, _), gh) in used().zip(&mut ghs) {
            let [.., b] = map.factors(inputs, rows);
            outer.push((Product::new(Mat::new(gy, rows, map.outputs), b.t()), &mut gh[..]));
        }
        matmuls(&pool, &mut outer);
        let shared: Vec<Rows<'_>> = used().zip(&mut ghs).map(|((map, ..), gh)| Rows::new(gh, map.rank)).collect();
        let biased = || used().filter(|(map, ..)| map.bias(inputs).is_some());
        let widths = biased().map(|(map, ..)| map.outputs).sum();
        // Through what stands between, and the biases: sums over rows.
        let sums = sum_pieces(&pool, rows, [], widths, |rows, [], mut sums| {
            for ((map, h, ..), gh) in used().zip(&shared) {
                for row in rows.clone() {
                    let (gh, h) = (gh.row(row), &h[row * map.rank..(row + 1) * map.rank]);
                    match map.inner {
                        Inner::Identity => {}
                        Inner::Tanh => tanh_slope(level, gh, h),
                        Inner::Sigmoid => sigmoid_slope(level, gh, h),
                    }
                }
            }
            for (map, _, gy, _) in biased() {
                let (sum, rest) = std::mem::take(&mut sums).split_at_mut(map.outputs);
                lanes::add_rows(level, sum, &gy[rows.start * map.outputs..rows.end * map.outputs]);
                sums = rest;
            }
        });
        let mut products = Vec::new();
        for ((map, h, gy, passed), gh) in used().zip(&ghs) {
            let [x, a, _] = map.factors(inputs, rows);
            let (g, gh) = (Mat::new(gy, rows, map.outputs), Mat::new(gh, rows, map.rank));
            let plus = passed.map_or(Plus::Nothing, Plus::Rows);
            let each = [
                Product::new(gh, a.t()).plus(plus),
                Product::new(x.t(), gh),
                Product::new(Mat::new(h, rows, map.rank).t(), g),
            ];
            products.extend(map.given.clone().zip(each).map(|(input, product)| wanted[input].then_some(product)));
        }
        let mut products = product_gradients(&pool, products).into_iter();
        let mut sums = &sums[..];
        for (map, ..) in used() {
            for input in map.given.clone() {
                gradients[input] = if input == map.given.start + 3 {
                    let (sum, rest) = sums.split_at(map.outputs);
                    sums = rest;
                    Gradient::Values(sum.to_vec())
                } else {
                    products.next().unwrap_or(Gradient::None)
                };
            }
        }
        gradients
    }
}
