//! LayerNorm, token shift and the interpolations of RWKV-6's time mix, which depend on the token ("ddlerp").
//!
//! With h the normalised row, d the row before it minus h, R the rank, `low_j` columns j R to (j + 1) R of low:
//! ```text
//! low = tanh((h + d mix_x) down)
//! out_j = h + d (mix_j + low_j up_j)      j in w, k, v, r, g: the order of the checkpoints
//! ```

use std::sync::Arc;

use anser_kernels::activation;
use anser_kernels::dispatch;
use anser_kernels::norm::lerp;
use anser_kernels::pool::Pool;
use anser_kernels::simd::{Isa, level};
use burn::tensor::Tensor;

use super::layer_norm::layer_norm_composite;
use super::rows::{Borders, buffer, for_pieces, sum_pieces};
use super::shift::{Normal, previous_rows};
use super::{Array, Gradient, Inputs, Operation, lanes};
use crate::threads::pool;
use anser_kernels::linear::dense::{Mat, matmul};

/// Mixed inputs: w, k, v, r, g.
pub const PARTS: usize = 5;

/// What the shift reads.
#[derive(Clone, Debug)]
pub struct Shift6<'a> {
    /// The residual stream, [T, C].
    pub x: &'a Tensor<2>,
    /// Weight of the norm, `[C]`.
    pub weight: &'a Tensor<1>,
    /// Bias of the norm, `[C]`.
    pub bias: &'a Tensor<1>,
    /// The normalised rows before the first tokens, [S, C].
    pub state: &'a Tensor<2>,
    /// The mix of the low-rank part's own input, `[C]`.
    pub mix_x: &'a Tensor<1>,
    /// The constant parts of the mixes, `[C]` each, in the order w, k, v, r, g.
    pub mixes: [&'a Tensor<1>; PARTS],
    /// The first factors side by side, [C, 5 R].
    pub down: &'a Tensor<2>,
    /// The second factors, [5, R, C].
    pub up: &'a Tensor<3>,
}

/// The mixed inputs w, k, v, r, g, [T, C] each, and each sequence's last normalised row [S, C].
pub fn shift6(x: &Shift6<'_>, eps: f32, cu_seqlens: &Arc<[usize]>) -> ([Tensor<2>; PARTS], Tensor<2>) {
    let [_, rank, width] = x.up.dims();
    let op = Op { width, rank, eps, cu_seqlens: Arc::clone(cu_seqlens) };
    let inputs = Inputs::new().with(x.x).with(x.weight).with(x.bias).with(x.state).with(x.mix_x);
    let inputs = x.mixes.iter().fold(inputs, |inputs, mix| inputs.with(mix));
    let mut outputs = inputs.with(x.down).with(x.up).run(op);
    (std::array::from_fn(|_| outputs.take()), outputs.take())
}

/// [`shift6`] in tensor operations.
pub fn shift6_composite(x: &Shift6<'_>, eps: f32, cu_seqlens: &Arc<[usize]>) -> ([Tensor<2>; PARTS], Tensor<2>) {
    let [_, rank, width] = x.up.dims();
    let [rows, _] = x.x.dims();
    let h = layer_norm_composite(x.x, x.weight, x.bias, eps);
    let (previous, last) = previous_rows(&h, x.state, cu_seqlens);
    let d = previous - h.clone();
    let low = (h.clone() + d.clone() * x.mix_x.clone().unsqueeze()).matmul(x.down.clone()).tanh();
    let mixed = std::array::from_fn(|j| {
        let low = low.clone().slice([0..rows, j * rank..(j + 1) * rank]);
        let up = x.up.clone().slice([j..j + 1, 0..rank, 0..width]).reshape([rank, width]);
        h.clone() + d.clone() * (low.matmul(up) + x.mixes[j].clone().unsqueeze())
    });
    (mixed, last)
}

dispatch! {
    /// `out = h + (previous - h) (mix + out)`.
    fn mix(h: &[f32], previous: &[f32], mix: &[f32], out: &mut [f32]) = mix_body;
    /// `out = x - y`.
    fn difference(x: &[f32], y: &[f32], out: &mut [f32]) = difference_body;
    /// The gradients of `h + d share`, d being the row before minus h, from g: added to those of both rows and, as the
    /// sum over rows, of the share's constant part; in place of the share its gradient.
    fn mix_backward(
        g: &[f32], d: &[f32], share: &mut [f32], g_now: &mut [f32], g_before: &mut [f32], g_mix: &mut [f32],
    ) = mix_backward_body;
}

#[inline(always)]
fn mix_body<I: Isa>(h: &[f32], previous: &[f32], mix: &[f32], out: &mut [f32]) {
    let n = out.len();
    let (h, previous, mix) = (&h[..n], &previous[..n], &mix[..n]);
    for c in 0..n {
        out[c] = I::fma(previous[c] - h[c], mix[c] + out[c], h[c]);
    }
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn difference_body<I: Isa>(x: &[f32], y: &[f32], out: &mut [f32]) {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = x - y;
    }
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn mix_backward_body<I: Isa>(
    g: &[f32],
    d: &[f32],
    share: &mut [f32],
    g_now: &mut [f32],
    g_before: &mut [f32],
    g_mix: &mut [f32],
) {
    let n = g.len();
    let (d, share) = (&d[..n], &mut share[..n]);
    let (g_now, g_before, g_mix) = (&mut g_now[..n], &mut g_before[..n], &mut g_mix[..n]);
    for c in 0..n {
        let through = g[c] * share[c];
        g_before[c] += through;
        g_now[c] += g[c] - through;
        share[c] = g[c] * d[c];
        g_mix[c] += share[c];
    }
}

#[derive(Debug)]
struct Op {
    width: usize,
    rank: usize,
    eps: f32,
    cu_seqlens: Arc<[usize]>,
}

/// The inputs by name.
struct Named<'a> {
    normal: Normal<'a>,
    mix_x: &'a [f32],
    mixes: &'a [&'a [f32]],
    down: &'a [f32],
    up: &'a [f32],
}

/// The normalised rows and what the shift sees before them.
struct Shifted<'a> {
    h: Vec<f32>,
    state: &'a [f32],
    width: usize,
    borders: Borders,
}

impl Shifted<'_> {
    fn now(&self, row: usize) -> &[f32] {
        &self.h[row * self.width..(row + 1) * self.width]
    }

    fn before(&self, row: usize) -> &[f32] {
        match self.borders.first(row) {
            Some(s) => &self.state[s * self.width..(s + 1) * self.width],
            None => self.now(row - 1),
        }
    }
}

impl Op {
    fn named<'a>(&self, inputs: &'a [&'a [f32]]) -> Named<'a> {
        let &[x, weight, bias, state, mix_x, ref mixes @ .., down, up] = inputs else {
            unreachable!("shift6 has twelve inputs")
        };
        let normal = Normal { x, weight, bias, state, width: self.width, eps: self.eps };
        Named { normal, mix_x, mixes, down, up }
    }

    fn shifted<'a>(&self, pool: &Pool, x: &Named<'a>) -> Shifted<'a> {
        let mut h = buffer(x.normal.x.len());
        for_pieces(pool, h.len() / self.width, [&mut h], |rows, [h]| {
            for (row, h) in rows.zip(h.chunks_exact_mut(self.width)) {
                x.normal.row(row, h);
            }
        });
        Shifted { h, state: x.normal.state, width: self.width, borders: Borders::new(&self.cu_seqlens) }
    }

    /// The low-rank part's own input, [T, C].
    fn inner(&self, pool: &Pool, x: &Named<'_>, shifted: &Shifted<'_>) -> Vec<f32> {
        let mut inner = buffer(shifted.h.len());
        for_pieces(pool, inner.len() / self.width, [&mut inner], |rows, [inner]| {
            for (row, inner) in rows.zip(inner.chunks_exact_mut(self.width)) {
                lerp(shifted.now(row), shifted.before(row), x.mix_x, inner);
            }
        });
        inner
    }

    /// Part `j` of the second factors, [R, C].
    fn up<'a>(&self, x: &Named<'a>, j: usize) -> Mat<'a> {
        let len = self.rank * self.width;
        Mat::new(&x.up[j * len..(j + 1) * len], self.rank, self.width)
    }
}

impl Operation for Op {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let (pool, width, rank) = (pool(), self.width, self.rank);
        let x = self.named(inputs);
        let rows = x.normal.x.len() / width;
        let shifted = self.shifted(&pool, &x);
        let inner = self.inner(&pool, &x, &shifted);
        let mut side_by_side = buffer(rows * PARTS * rank);
        let down = Mat::new(x.down, width, PARTS * rank);
        matmul(&pool, Mat::new(&inner, rows, width), down, &mut side_by_side, false);
        // [T, R] each.
        let mut low: [Vec<f32>; PARTS] = std::array::from_fn(|_| buffer(rows * rank));
        for_pieces(&pool, rows, low.each_mut().map(|low| &mut low[..]), |rows, mut low| {
            for (own, row) in rows.enumerate() {
                let parts = side_by_side[row * PARTS * rank..(row + 1) * PARTS * rank].chunks_exact(rank);
                for (low, part) in low.iter_mut().zip(parts) {
                    low[own * rank..(own + 1) * rank].copy_from_slice(part);
                }
            }
            low.into_iter().for_each(activation::tanh);
        });
        let mut mixed: [Vec<f32>; PARTS] = std::array::from_fn(|_| buffer(rows * width));
        for (j, (low, mixed)) in low.iter().zip(&mut mixed).enumerate() {
            matmul(&pool, Mat::new(low, rows, rank), self.up(&x, j), mixed, false);
        }
        for_pieces(&pool, rows, mixed.each_mut().map(|mixed| &mut mixed[..]), |rows, mixed| {
            for (mixed, base) in mixed.into_iter().zip(x.mixes) {
                for (row, mixed) in rows.clone().zip(mixed.chunks_exact_mut(width)) {
                    mix(level(), shifted.now(row), shifted.before(row), base, mixed);
                }
            }
        });
        let last = x.normal.last(&self.cu_seqlens);
        let mut arrays: Vec<Array> = mixed.into_iter().map(|mixed| Array::new(mixed, &[rows, width])).collect();
        arrays.push(Array::new(last, &[self.cu_seqlens.len() - 1, width]));
        (arrays, if saving { low.into() } else { Vec::new() })
    }

    fn backward(&self, inputs: &[&[f32]], low: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let (pool, level, width, rank) = (pool(), level(), self.width, self.rank);
        let x = self.named(inputs);
        let (len, rows) = (x.normal.x.len(), x.normal.x.len() / width);
        let shifted = self.shifted(&pool, &x);
        let inner = self.inner(&pool, &x, &shifted);
        let nothing = if outputs[..PARTS].iter().any(Option::is_none) { vec![0.0; len] } else { Vec::new() };
        let g_mixed: [&[f32]; PARTS] = std::array::from_fn(|j| outputs[j].unwrap_or(&nothing));
        let g_last = outputs[PARTS];

        // The shares of the row before, then in their place their gradients.
        let mut shares: [Vec<f32>; PARTS] = std::array::from_fn(|_| buffer(len));
        for_pieces(&pool, rows, shares.each_mut().map(|share| &mut share[..]), |_, shares| {
            for (share, base) in shares.into_iter().zip(x.mixes) {
                share.chunks_exact_mut(width).for_each(|share| share.copy_from_slice(base));
            }
        });
        for (j, (low, share)) in low.iter().zip(&mut shares).enumerate() {
            matmul(&pool, Mat::new(low, rows, rank), self.up(&x, j), share, true);
        }
        let [mut d, mut g_now, mut g_before] = std::array::from_fn(|_| buffer(len));
        let [a, b, c, e, f] = shares.each_mut().map(|share| &mut share[..]);
        let outs = [a, b, c, e, f, &mut d, &mut g_now, &mut g_before];
        let mix_sums = sum_pieces(&pool, rows, outs, PARTS * width, |rows, outs, sums| {
            let [a, b, c, e, f, d, g_now, g_before] = outs;
            let mut shares = [a, b, c, e, f];
            g_now.fill(0.0);
            g_before.fill(0.0);
            for (own, row) in rows.enumerate() {
                let (from, to) = (row * width..(row + 1) * width, own * width..(own + 1) * width);
                let (d, g_now, g_before) = (&mut d[to.clone()], &mut g_now[to.clone()], &mut g_before[to.clone()]);
                difference(level, shifted.before(row), shifted.now(row), d);
                let parts = g_mixed.iter().zip(&mut shares).zip(sums.chunks_exact_mut(width));
                for ((g, share), g_mix) in parts {
                    mix_backward(level, &g[from.clone()], d, &mut share[to.clone()], g_now, g_before, g_mix);
                }
            }
        });

        // Through the low-rank part.
        let mut g_up = buffer(PARTS * rank * width);
        let mut g_low: [Vec<f32>; PARTS] = std::array::from_fn(|_| buffer(rows * rank));
        for (j, g_up) in g_up.chunks_exact_mut(rank * width).enumerate() {
            let g_share = Mat::new(&shares[j], rows, width);
            matmul(&pool, g_share, self.up(&x, j).t(), &mut g_low[j], false);
            matmul(&pool, Mat::new(&low[j], rows, rank).t(), g_share, g_up, false);
        }
        let mut side_by_side = buffer(rows * PARTS * rank);
        for_pieces(&pool, rows, [&mut side_by_side], |rows, [side_by_side]| {
            for (row, parts) in rows.zip(side_by_side.chunks_exact_mut(PARTS * rank)) {
                for ((out, g), low) in parts.chunks_exact_mut(rank).zip(&g_low).zip(&low) {
                    let part = row * rank..(row + 1) * rank;
                    for ((out, g), low) in out.iter_mut().zip(&g[part.clone()]).zip(&low[part]) {
                        *out = g * (1.0 - low * low);
                    }
                }
            }
        });
        let g_low = Mat::new(&side_by_side, rows, PARTS * rank);
        let mut g_inner = buffer(len);
        matmul(&pool, g_low, Mat::new(x.down, width, PARTS * rank).t(), &mut g_inner, false);
        let mut g_down = buffer(width * PARTS * rank);
        matmul(&pool, Mat::new(&inner, rows, width).t(), g_low, &mut g_down, false);
        let g_mix_x = sum_pieces(&pool, rows, [&mut g_now, &mut g_before], width, |rows, outs, g_mix_x| {
            let [g_now, g_before] = outs;
            let mut share = vec![0.0; width];
            let both = g_now.chunks_exact_mut(width).zip(g_before.chunks_exact_mut(width));
            for (row, (g_now, g_before)) in rows.zip(both) {
                let part = row * width..(row + 1) * width;
                share.copy_from_slice(x.mix_x);
                mix_backward(level, &g_inner[part.clone()], &d[part], &mut share, g_now, g_before, g_mix_x);
            }
        });

        // Through the shift and the norm. A sequence without rows hands its state on.
        let mut g_state = g_last.map_or_else(|| vec![0.0; x.normal.state.len()], <[f32]>::to_vec);
        for (ends, g_state) in self.cu_seqlens.windows(2).zip(g_state.chunks_exact_mut(width)) {
            if ends[0] < ends[1] {
                g_state.copy_from_slice(&g_before[ends[0] * width..(ends[0] + 1) * width]);
            }
        }
        let mut gx = buffer(len);
        let norm_sums = sum_pieces(&pool, rows, [&mut gx, &mut g_now], 2 * width, |rows, [gx, g_now], sums| {
            let (g_weight, g_bias) = sums.split_at_mut(width);
            let both = gx.chunks_exact_mut(width).zip(g_now.chunks_exact_mut(width));
            for (row, (gx, g_now)) in rows.zip(both) {
                let later = match (shifted.borders.last(row), g_last) {
                    (None, _) => Some(&g_before[(row + 1) * width..(row + 2) * width]),
                    (Some(s), Some(g_last)) => Some(&g_last[s * width..(s + 1) * width]),
                    (Some(_), None) => None,
                };
                if let Some(later) = later {
                    lanes::add(level, g_now, later);
                }
                let own = &x.normal.x[row * width..(row + 1) * width];
                let moments = lanes::moments(level, own, self.eps);
                lanes::layer_norm_backward(level, g_now, own, x.normal.weight, moments, gx, g_weight, g_bias);
            }
        });

        let mut gradients = vec![Gradient::Values(gx)];
        gradients.extend(norm_sums.chunks_exact(width).map(|g| Gradient::Values(g.to_vec())));
        gradients.extend([g_state, g_mix_x].map(Gradient::Values));
        gradients.extend(mix_sums.chunks_exact(width).map(|g| Gradient::Values(g.to_vec())));
        gradients.extend([g_down, g_up].map(Gradient::Values));
        gradients
    }
}
