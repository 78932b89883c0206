//! LayerNorm over the channels of every row.

use anser_kernels::norm;
use anser_kernels::simd::level;
use burn::tensor::Tensor;

use super::rows::{buffer, for_pieces, sum_pieces};
use super::{Array, Gradient, Inputs, Operation, lanes};
use crate::threads::pool;

/// `(x - mean) / sqrt(variance + eps) * weight + bias`: x [T, C], weight and bias `[C]`.
pub fn layer_norm(x: &Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>, eps: f32) -> Tensor<2> {
    let [_, width] = x.dims();
    Inputs::new().with(x).with(weight).with(bias).run(LayerNorm { width, eps }).take()
}

/// [`layer_norm`] in tensor operations.
pub fn layer_norm_composite(x: &Tensor<2>, weight: &Tensor<1>, bias: &Tensor<1>, eps: f32) -> Tensor<2> {
    let centred = x.clone() - x.clone().mean_dim(1);
    let variance = (centred.clone() * centred.clone()).mean_dim(1);
    centred / (variance + eps).sqrt() * weight.clone().unsqueeze() + bias.clone().unsqueeze()
}

#[derive(Debug)]
struct LayerNorm {
    width: usize,
    eps: f32,
}

impl Operation for LayerNorm {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let &[x, weight, bias] = inputs else { unreachable!("LayerNorm has three inputs") };
        let rows = x.len() / self.width;
        let mut y = buffer(x.len());
        for_pieces(&pool(), rows, [&mut y], |rows, [y]| {
            let x = x[rows.start * self.width..rows.end * self.width].chunks_exact(self.width);
            for (x, y) in x.zip(y.chunks_exact_mut(self.width)) {
                norm::layer_norm(x, weight, bias, self.eps, y);
            }
        });
        (vec![Array::new(y, &[rows, self.width])], Vec::new())
    }

    fn backward(&self, inputs: &[&[f32]], _: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let (&[x, weight, _], Some(gy)) = (inputs, outputs[0]) else {
            return inputs.iter().map(|_| Gradient::None).collect();
        };
        let (width, level) = (self.width, level());
        let mut gx = buffer(x.len());
        let sums = sum_pieces(&pool(), x.len() / width, [&mut gx], 2 * width, |rows, [gx], sums| {
            let (g_weight, g_bias) = sums.split_at_mut(width);
            let part = rows.start * width..rows.end * width;
            let (x, gy) = (x[part.clone()].chunks_exact(width), gy[part].chunks_exact(width));
            for ((x, gy), gx) in x.zip(gy).zip(gx.chunks_exact_mut(width)) {
                let moments = lanes::moments(level, x, self.eps);
                lanes::layer_norm_backward(level, gy, x, weight, moments, gx, g_weight, g_bias);
            }
        });
        vec![Gradient::Values(gx), Gradient::Values(sums[..width].to_vec()), Gradient::Values(sums[width..].to_vec())]
    }
}
