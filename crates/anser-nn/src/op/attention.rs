//! Causal softmax attention: the memory of the transformers that RWKV is compared with.
//!
//! Per sequence and head, with R(t) the rotation of position t (Su et al. 2021, base 10000, channel i paired with
//! channel i + N/2; positions are counted from the sequence's first token), or none:
//! ```text
//! s[t, j] = (R(t) q[t]) . (R(j) k[j]) / sqrt(N)   (j <= t)      y[t] = sum_j softmax(s[t])[j] v[j]
//! ```
//! Scores are never held whole: a block of queries at a time meets all keys before it. The backward pass computes them
//! again from each row's log-sum-exp, which is all that the forward pass saves.

use std::sync::Arc;

use anser_kernels::activation::exp1;
use anser_kernels::dispatch;
use anser_kernels::norm::{LANES, tree};
use anser_kernels::pool::Pool;
use anser_kernels::recurrence::Heads;
use anser_kernels::simd::{Isa, Level, level};
use burn::tensor::activation::softmax;
use burn::tensor::{Tensor, TensorData};

use super::rows::{Rows, buffer};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;
use anser_kernels::linear::dense::{Mat, matmul};

/// Base of the rotary frequencies.
const BASE: f64 = 10_000.0;

/// How attention knows where a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Queries and keys are turned by their positions.
    Rotary,
    /// It does not: positions, if any, are in the stream.
    None,
}

/// Attention of every token to itself and those before it in its sequence: q, k, v [T, C], each head C / `heads`
/// channels, result [T, C].
///
/// # Panics
/// When `heads` does not cut C into heads of an even number of channels, or `cu_seqlens` does not end at T.
pub fn attention(
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
    heads: usize,
    positions: Positions,
    cu_seqlens: &Arc<[usize]>,
) -> Tensor<2> {
    let [rows, width] = q.dims();
    assert!(width.is_multiple_of(2 * heads), "{width} channels are no {heads} heads of an even number of channels");
    assert_eq!(cu_seqlens.last(), Some(&rows), "the last sequence ends at the last row");
    let heads = Heads { heads, head_size: width / heads };
    let op = Attention { heads, positions, cu_seqlens: Arc::clone(cu_seqlens) };
    Inputs::new().with(q).with(k).with(v).run(op).take()
}

/// [`attention`] in tensor operations, one sequence after the other.
pub fn attention_composite(
    q: &Tensor<2>,
    k: &Tensor<2>,
    v: &Tensor<2>,
    heads: usize,
    positions: Positions,
    cu_seqlens: &Arc<[usize]>,
) -> Tensor<2> {
    let [_, width] = q.dims();
    let (n, device) = (width / heads, q.device().inner());
    let mut ys = Vec::new();
    for ends in cu_seqlens.windows(2).filter(|ends| ends[0] < ends[1]) {
        let len = ends[1] - ends[0];
        let turns = Turns::new(len, n, positions);
        let table = |values: Vec<f32>| Tensor::<3>::from_data(TensorData::new(values, [1, len, n / 2]), &device);
        let (cos, sin) = (table(turns.cos), table(turns.sin));
        let cut =
            |x: &Tensor<2>| x.clone().slice([ends[0]..ends[1], 0..width]).reshape([len, heads, n]).swap_dims(0, 1);
        let rotate = |x: Tensor<3>| {
            let low = x.clone().slice([0..heads, 0..len, 0..n / 2]);
            let high = x.slice([0..heads, 0..len, n / 2..n]);
            let (c, s) = (|x: &Tensor<3>| x.clone() * cos.clone(), |x: &Tensor<3>| x.clone() * sin.clone());
            Tensor::cat(vec![c(&low) - s(&high), c(&high) + s(&low)], 2)
        };
        let future = (0..len * len).map(|i| if i % len > i / len { -1e30 } else { 0.0 }).collect();
        let future = Tensor::<3>::from_data(TensorData::new(future, [1, len, len]), &device);
        let scores = rotate(cut(q)).matmul(rotate(cut(k)).swap_dims(1, 2)) * (n as f32).sqrt().recip() + future;
        ys.push(softmax(scores, 2).matmul(cut(v)).swap_dims(0, 1).reshape([len, width]));
    }
    Tensor::cat(ys, 0)
}

/// Cosines and sines of the rotations of positions `0..len`, [len, N/2] each.
struct Turns {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl Turns {
    fn new(len: usize, head_size: usize, positions: Positions) -> Turns {
        let half = head_size / 2;
        // f64: at position 10^5 an f32 angle is already off by 1 %.
        let frequencies: Vec<f64> = match positions {
            Positions::Rotary => (0..half).map(|i| BASE.powf(-(i as f64) / half as f64)).collect(),
            Positions::None => vec![0.0; half],
        };
        let angles = || (0..len).flat_map(|t| frequencies.iter().map(move |f| t as f64 * f));
        Turns { cos: angles().map(|a| a.cos() as f32).collect(), sin: angles().map(|a| a.sin() as f32).collect(), half }
    }

    /// `out = scale R(position) x`, or with the inverse rotation if `back`; x and `out` are one head.
    fn rotate(&self, position: usize, back: bool, scale: f32, x: &[f32], out: &mut [f32]) {
        let row = position * self.half..(position + 1) * self.half;
        let (cos, sin) = (&self.cos[row.clone()], &self.sin[row]);
        let ((low, high), (out_low, out_high)) = (x.split_at(self.half), out.split_at_mut(self.half));
        for i in 0..self.half {
            let (c, s) = (cos[i] * scale, if back { -sin[i] } else { sin[i] } * scale);
            out_low[i] = low[i] * c - high[i] * s;
            out_high[i] = high[i] * c + low[i] * s;
        }
    }
}

/// Queries that meet their keys at once.
const BLOCK: usize = 128;

dispatch! {
    /// From scores to their softmax, in place, over the first `seen`; the rest becomes 0. Returns the log-sum-exp.
    fn softmax_row(scores: &mut [f32], seen: usize) -> f32 = softmax_row_body;
    /// From scores to their softmax again, and from its gradient in `g` to that of the scores, both in place.
    fn softmax_row_backward(scores: &mut [f32], g: &mut [f32], seen: usize, log_sum: f32) = softmax_row_backward_body;
}

#[inline(always)]
fn softmax_row_body<I: Isa>(scores: &mut [f32], seen: usize) -> f32 {
    let (scores, future) = scores.split_at_mut(seen);
    future.fill(0.0);
    let max = scores.iter().fold(f32::NEG_INFINITY, |max, &x| if x > max { x } else { max });
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = scores.as_chunks_mut::<LANES>();
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
    let scale = 1.0 / sum;
    for x in scores.iter_mut() {
        *x *= scale;
    }
    max + sum.ln()
}

#[inline(always)]
fn softmax_row_backward_body<I: Isa>(scores: &mut [f32], g: &mut [f32], seen: usize, log_sum: f32) {
    let ((p, p_future), (g, g_future)) = (scores.split_at_mut(seen), g.split_at_mut(seen));
    p_future.fill(0.0);
    g_future.fill(0.0);
    let mut along = [0.0f32; LANES];
    let whole = seen - seen % LANES;
    for start in (0..whole).step_by(LANES) {
        for lane in 0..LANES {
            let j = start + lane;
            p[j] = exp1::<I>(p[j] - log_sum);
            along[lane] = I::fma(p[j], g[j], along[lane]);
        }
    }
    for j in whole..seen {
        p[j] = exp1::<I>(p[j] - log_sum);
        along[j - whole] = I::fma(p[j], g[j], along[j - whole]);
    }
    let along = tree(along);
    for j in 0..seen {
        g[j] = p[j] * (g[j] - along);
    }
}

#[derive(Debug)]
struct Attention {
    heads: Heads,
    positions: Positions,
    cu_seqlens: Arc<[usize]>,
}

/// One head of one sequence.
struct Unit<'a> {
    /// The sequence's first row.
    start: usize,
    /// Its rows.
    len: usize,
    head: usize,
    heads: Heads,
    pool: &'a Pool,
    level: Level,
    turns: &'a Turns,
}

impl Unit<'_> {
    /// Where the head's part of row `row` of the sequence lies among all heads of all rows.
    fn place(&self, row: usize) -> usize {
        (self.start + row) * self.heads.heads + self.head
    }

    /// The head's part of row `row` of x [T, C].
    fn of<'a>(&self, x: &'a [f32], row: usize) -> &'a [f32] {
        let n = self.heads.head_size;
        &x[self.place(row) * n..(self.place(row) + 1) * n]
    }

    /// The head's part of x [T, C], [len, N].
    fn gather(&self, x: &[f32]) -> Vec<f32> {
        (0..self.len).flat_map(|row| self.of(x, row)).copied().collect()
    }

    /// The same, scaled and turned to its positions.
    fn gather_turned(&self, x: &[f32], scale: f32) -> Vec<f32> {
        let n = self.heads.head_size;
        let mut out = buffer(self.len * n);
        for (row, out) in out.chunks_exact_mut(n).enumerate() {
            self.turns.rotate(row, false, scale, self.of(x, row), out);
        }
        out
    }

    /// `a b`, or added, on this thread.
    fn product(&self, a: Mat<'_>, b: Mat<'_>, out: &mut [f32], add: bool) {
        matmul(self.pool, a, b, out, add);
    }

    fn forward(&self, [q, k, v]: [&[f32]; 3], y: &Rows<'_>, log_sums: &Rows<'_>) {
        let n = self.heads.head_size;
        let (q, k, v) = (self.gather_turned(q, scale(n)), self.gather_turned(k, 1.0), self.gather(v));
        let mut scores = buffer(BLOCK.min(self.len) * self.len);
        let mut out = buffer(BLOCK.min(self.len) * n);
        for first in (0..self.len).step_by(BLOCK) {
            let end = (first + BLOCK).min(self.len);
            let count = end - first;
            let (scores, out) = (&mut scores[..count * end], &mut out[..count * n]);
            let keys = Mat::new(&k[..end * n], end, n);
            self.product(Mat::new(&q[first * n..end * n], count, n), keys.t(), scores, false);
            for (own, scores) in scores.chunks_exact_mut(end).enumerate() {
                let row = first + own;
                log_sums.row(self.place(row))[0] = softmax_row(self.level, scores, row + 1);
            }
            self.product(Mat::new(scores, count, end), Mat::new(&v[..end * n], end, n), out, false);
            for (own, out) in out.chunks_exact(n).enumerate() {
                y.row(self.place(first + own)).copy_from_slice(out);
            }
        }
    }

    fn backward(&self, [q, k, v]: [&[f32]; 3], log_sums: &[f32], gy: &[f32], [gq, gk, gv]: [&Rows<'_>; 3]) {
        let n = self.heads.head_size;
        let (q, k, v) = (self.gather_turned(q, scale(n)), self.gather_turned(k, 1.0), self.gather(v));
        let gy = self.gather(gy);
        let held = BLOCK.min(self.len);
        let (mut p, mut g) = (buffer(held * self.len), buffer(held * self.len));
        let mut gq_turned = buffer(held * n);
        let (mut gk_turned, mut gv_sum) = (vec![0.0; self.len * n], vec![0.0; self.len * n]);
        for first in (0..self.len).step_by(BLOCK) {
            let end = (first + BLOCK).min(self.len);
            let count = end - first;
            let (p, g) = (&mut p[..count * end], &mut g[..count * end]);
            let gq_turned = &mut gq_turned[..count * n];
            let (seen, own) = (..end * n, first * n..end * n);
            let (keys, values) = (Mat::new(&k[seen], end, n), Mat::new(&v[seen], end, n));
            let (queries, gy) = (Mat::new(&q[own.clone()], count, n), Mat::new(&gy[own], count, n));
            self.product(queries, keys.t(), p, false);
            self.product(gy, values.t(), g, false);
            for (own, (p, g)) in p.chunks_exact_mut(end).zip(g.chunks_exact_mut(end)).enumerate() {
                let row = first + own;
                softmax_row_backward(self.level, p, g, row + 1, log_sums[self.place(row)]);
            }
            let (p, g) = (Mat::new(p, count, end), Mat::new(g, count, end));
            self.product(p.t(), gy, &mut gv_sum[seen], true);
            self.product(g.t(), queries, &mut gk_turned[seen], true);
            self.product(g, keys, gq_turned, false);
            for (own, g) in gq_turned.chunks_exact(n).enumerate() {
                let row = first + own;
                self.turns.rotate(row, true, scale(n), g, gq.row(self.place(row)));
            }
        }
        for (row, (g_key, g_value)) in gk_turned.chunks_exact(n).zip(gv_sum.chunks_exact(n)).enumerate() {
            self.turns.rotate(row, true, 1.0, g_key, gk.row(self.place(row)));
            gv.row(self.place(row)).copy_from_slice(g_value);
        }
    }
}

/// `1 / sqrt(N)`.
fn scale(head_size: usize) -> f32 {
    (head_size as f32).sqrt().recip()
}

impl Attention {
    /// Calls `f` with every head of every sequence, in parallel.
    fn for_units(&self, f: impl Fn(&Unit<'_>) + Sync) {
        let (pool, level, heads) = (pool(), level(), self.heads);
        let longest = self.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0);
        let turns = Turns::new(longest, heads.head_size, self.positions);
        let sequences = self.cu_seqlens.len() - 1;
        pool.run(sequences * heads.heads, 1, |units| {
            for unit in units {
                let (s, head) = (unit / heads.heads, unit % heads.heads);
                let (start, len) = (self.cu_seqlens[s], self.cu_seqlens[s + 1] - self.cu_seqlens[s]);
                f(&Unit { start, len, head, heads, pool: &pool, level, turns: &turns });
            }
        });
    }
}

impl Operation for Attention {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let &[q, k, v] = inputs else { unreachable!("attention has three inputs") };
        let (width, n) = (self.heads.width(), self.heads.head_size);
        let mut y = buffer(q.len());
        let mut log_sums = buffer(q.len() / n);
        {
            let (y, log_sums) = (Rows::new(&mut y, n), Rows::new(&mut log_sums, 1));
            self.for_units(|unit| unit.forward([q, k, v], &y, &log_sums));
        }
        let saved = if saving { vec![log_sums] } else { Vec::new() };
        (vec![Array::new(y, &[q.len() / width, width])], saved)
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        _: &[bool],
    ) -> Vec<Gradient> {
        let (&[q, k, v], Some(gy)) = (inputs, outputs[0]) else {
            return inputs.iter().map(|_| Gradient::None).collect();
        };
        let n = self.heads.head_size;
        let mut gradients: [Vec<f32>; 3] = std::array::from_fn(|_| buffer(q.len()));
        {
            let [gq, gk, gv] = gradients.each_mut().map(|g| Rows::new(g, n));
            self.for_units(|unit| unit.backward([q, k, v], &saved[0], gy, [&gq, &gk, &gv]));
        }
        gradients.map(Gradient::Values).into()
    }
}
