//! The inner product with a constant: how a gradient computed elsewhere enters a graph.

use burn::tensor::Tensor;

use super::{Array, Gradient, Inputs, Operation};

/// `sum(x * gradient)`, `[1]`: its gradient by x is `gradient`, which has x's shape and is a constant.
pub fn seed<const D: usize>(x: &Tensor<D>, gradient: &Tensor<D>) -> Tensor<1> {
    Inputs::new().with(x).with(&gradient.clone().inner()).run(Seed).take()
}

/// [`seed`] in tensor operations.
pub fn seed_composite<const D: usize>(x: &Tensor<D>, gradient: &Tensor<D>) -> Tensor<1> {
    (x.clone() * gradient.clone().inner()).sum()
}

#[derive(Debug)]
struct Seed;

impl Operation for Seed {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let sum: f64 = inputs[0].iter().zip(inputs[1]).map(|(&x, &g)| f64::from(x) * f64::from(g)).sum();
        (vec![Array::new(vec![sum as f32], &[1])], Vec::new())
    }

    fn backward(&self, inputs: &[&[f32]], _: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let scale = outputs[0].map_or(0.0, |g| g[0]);
        vec![Gradient::Values(inputs[1].iter().map(|g| g * scale).collect()), Gradient::None]
    }
}
