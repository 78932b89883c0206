//! `x Phi(x)` with Phi the normal distribution, the activation of transformers since BERT (Hendrycks and Gimpel 2016),
//! in its exact form.

use anser_kernels::activation::exp1;
use anser_kernels::dispatch;
use anser_kernels::simd::{Isa, level};
use burn::tensor::Tensor;
use burn::tensor::activation;

use super::rows::{buffer, for_pieces};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;

/// `x Phi(x)`: x [T, F]. The error is below 5e-7 of the larger of |x| and 1.
pub fn gelu(x: &Tensor<2>) -> Tensor<2> {
    let [rows, width] = x.dims();
    Inputs::new().with(x).run(Gelu { rows, width }).take()
}

/// [`gelu`] in tensor operations.
pub fn gelu_composite(x: &Tensor<2>) -> Tensor<2> {
    activation::gelu(x.clone())
}

dispatch! {
    fn forward(x: &[f32], y: &mut [f32]) = forward_body;
    fn backward(x: &[f32], gy: &[f32], gx: &mut [f32]) = backward_body;
}

#[inline(always)]
fn forward_body<I: Isa>(x: &[f32], y: &mut [f32]) {
    for (&x, y) in x.iter().zip(y) {
        *y = x * normal::<I>(x).0;
    }
}

#[inline(always)]
fn backward_body<I: Isa>(x: &[f32], gy: &[f32], gx: &mut [f32]) {
    for ((&x, gy), gx) in x.iter().zip(gy).zip(gx) {
        let (distribution, density) = normal::<I>(x);
        *gx = gy * I::fma(x, density, distribution);
    }
}

/// The normal distribution and its density. The error function is approximation 7.1.26 of Abramowitz and Stegun,
/// Handbook of Mathematical Functions (1964), whose error is below 1.5e-7.
#[inline(always)]
fn normal<I: Isa>(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    let magnitude = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let gauss = exp1::<I>(-magnitude * magnitude);
    let t = 1.0 / I::fma(magnitude, 0.327_591_1, 1.0);
    let p = 1.061_405_4;
    let p = I::fma(p, t, -1.453_152);
    let p = I::fma(p, t, 1.421_413_7);
    let p = I::fma(p, t, -0.284_496_74);
    let p = I::fma(p, t, 0.254_829_6);
    // Half of 1 - erf, the part of the distribution beyond |x|.
    let beyond = 0.5 * p * t * gauss;
    (if x < 0.0 { beyond } else { 1.0 - beyond }, DENSITY * gauss)
}

#[derive(Debug)]
struct Gelu {
    rows: usize,
    width: usize,
}

impl Operation for Gelu {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let (level, mut y) = (level(), buffer(inputs[0].len()));
        for_pieces(&pool(), self.rows, [&mut y], |rows, [y]| {
            forward(level, &inputs[0][rows.start * self.width..rows.end * self.width], y);
        });
        (vec![Array::new(y, &[self.rows, self.width])], Vec::new())
    }

    fn backward(&self, inputs: &[&[f32]], _: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let Some(gy) = outputs[0] else { return vec![Gradient::None] };
        let (level, mut gx) = (level(), buffer(gy.len()));
        for_pieces(&pool(), self.rows, [&mut gx], |rows, [gx]| {
            let part = rows.start * self.width..rows.end * self.width;
            backward(level, &inputs[0][part.clone()], &gy[part], gx);
        });
        vec![Gradient::Values(gx)]
    }
}
