//! The head and the loss: `mean cross-entropy of x W^T`, without ever holding all logits.
//!
//! The logits of some rows at a time are computed, turned into their gradient and multiplied on: the gradients of x and
//! W are ready when the forward pass is, and the backward pass only scales them.

use std::sync::Arc;

use anser_kernels::activation::exp1;
use anser_kernels::dispatch;
use anser_kernels::norm::{LANES, tree};
use anser_kernels::simd::{Isa, level};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};

use super::rows::{Rows, buffer, for_pieces};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;
use anser_kernels::linear::dense::{Mat, Plus, Product, matmul, matmuls};

/// What the next tokens are, and how much each counts.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The next token of every row, `[T]`.
    pub tokens: Arc<[u32]>,
    /// How much each row counts, `[T]`; 0 where the target is masked.
    pub weights: Arc<[f32]>,
    /// What the weighted sum is divided by: the sum of all weights of an optimiser step, so that micro-batches add up
    /// to one batch.
    pub denominator: f32,
    /// L2Wrap: `factor / denominator` times the largest logit of every row that counts is added to the gradient at
    /// that logit, which pulls logits back towards zero; the loss does not show it. 1e-4 in the official trainers,
    /// 0 for none.
    pub l2_wrap: f32,
}

/// The weighted mean cross-entropy, in nats, `[1]`: x [T, C] is the normalised output of the last block, `head` [V, C].
///
/// # Panics
/// When a target has no row in `head`.
pub fn cross_entropy(x: &Tensor<2>, head: &Tensor<2>, targets: &Targets) -> Tensor<1> {
    let [vocab, width] = head.dims();
    if let Some(token) = targets.tokens.iter().find(|&&token| token as usize >= vocab) {
        panic!("target {token} in a vocabulary of {vocab}");
    }
    Inputs::new().with(x).with(head).run(CrossEntropy { vocab, width, targets: targets.clone() }).take()
}

/// [`cross_entropy`] in tensor operations; without L2Wrap, which no loss has for its gradient.
pub fn cross_entropy_composite(x: &Tensor<2>, head: &Tensor<2>, targets: &Targets) -> Tensor<1> {
    let device = x.device().inner();
    let rows = targets.tokens.len();
    let tokens: Vec<i64> = targets.tokens.iter().map(|&token| i64::from(token)).collect();
    let tokens = Tensor::<2, Int>::from_data(TensorData::new(tokens, [rows, 1]), &device);
    let weights = Tensor::<2>::from_data(TensorData::new(targets.weights.to_vec(), [rows, 1]), &device);
    let log_p = log_softmax(x.clone().matmul(head.clone().transpose()), 1).gather(1, tokens);
    (log_p * weights).sum() * (-1.0 / targets.denominator)
}

#[derive(Debug)]
struct CrossEntropy {
    vocab: usize,
    width: usize,
    targets: Targets,
}

/// Logits held at once, in elements.
const HELD: usize = 2 << 20;

dispatch! {
    /// From logits to their gradient, in place: `(softmax - one hot) * scale`, `wrap * largest` added at the largest.
    /// Returns the row's cross-entropy.
    fn row(logits: &mut [f32], target: usize, scale: f32, wrap: f32) -> f32 = row_body;
}

#[inline(always)]
fn row_body<I: Isa>(logits: &mut [f32], target: usize, scale: f32, wrap: f32) -> f32 {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            maxima[lane] = if chunk[lane] > maxima[lane] { chunk[lane] } else { maxima[lane] };
        }
    }
    let max = maxima.iter().chain(rest).fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    let argmax = logits.iter().position(|&x| x == max);
    let wanted = logits[target];

    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = logits.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            chunk[lane] = exp1::<I>(chunk[lane] - max);
            sums[lane] += chunk[lane];
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *x = exp1::<I>(*x - max);
        *sum += *x;
    }
    let sum = tree(sums);
    let factor = scale / sum;
    for x in logits.iter_mut() {
        *x *= factor;
    }
    logits[target] -= scale;
    if let Some(argmax) = argmax {
        logits[argmax] += wrap * max;
    }
    sum.ln() - (wanted - max)
}

impl Operation for CrossEntropy {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let &[x, head] = inputs else { unreachable!("the loss has two inputs") };
        let Targets { tokens, weights, denominator, l2_wrap } = &self.targets;
        let (pool, level, width, vocab) = (pool(), level(), self.width, self.vocab);
        let rows = x.len() / width;
        let each = (HELD / vocab).clamp(16, 1024);
        let (mut gx, mut g_head) = match saving {
            true => (buffer(rows * width), buffer(vocab * width)),
            false => (Vec::new(), Vec::new()),
        };
        if rows == 0 {
            g_head.fill(0.0);
        }
        let head = Mat::new(head, vocab, width);
        let mut losses = vec![0.0f32; rows];
        let mut logits = buffer(each.min(rows) * vocab);
        for start in (0..rows).step_by(each) {
            let part = start..(start + each).min(rows);
            let count = part.len();
            let logits = &mut logits[..count * vocab];
            let x = Mat::new(&x[part.start * width..part.end * width], count, width);
            matmul(&pool, x, head.t(), logits, false);
            let losses = Rows::new(&mut losses[part.clone()], 1);
            for_pieces(&pool, count, [&mut *logits], |piece, [logits]| {
                for (logits, own) in logits.chunks_exact_mut(vocab).zip(piece) {
                    let (target, weight) = (tokens[part.start + own] as usize, weights[part.start + own]);
                    let wrap = if weight == 0.0 { 0.0 } else { l2_wrap / denominator };
                    losses.row(own)[0] = row(level, logits, target, weight / denominator, wrap) * weight;
                }
            });
            if saving {
                let g = Mat::new(logits, count, vocab);
                let plus = if start > 0 { Plus::Out } else { Plus::Nothing };
                let gx = &mut gx[part.start * width..part.end * width];
                matmuls(&pool, &mut [(Product::new(g.t(), x).plus(plus), &mut g_head), (Product::new(g, head), gx)]);
            }
        }
        // f64: the mean must not depend on how many rows there are.
        let loss = losses.iter().map(|&loss| f64::from(loss)).sum::<f64>() / f64::from(*denominator);
        (vec![Array::new(vec![loss as f32], &[1])], if saving { vec![gx, g_head] } else { Vec::new() })
    }

    fn backward(&self, _: &[&[f32]], saved: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let scale = outputs[0].map_or(0.0, |g| g[0]);
        let scaled = |mut g: Vec<f32>| {
            if scale != 1.0 {
                g.iter_mut().for_each(|g| *g *= scale);
            }
            Gradient::Values(g)
        };
        saved.into_iter().map(scaled).collect()
    }
}
