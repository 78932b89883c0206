//! RWKV-6's time mix between its matrices: decay, recurrence, norm over heads, gate.
//!
//! Per token and head, S in [key, value] order:
//! ```text
//! decay = exp(-exp(w))
//! y = r (diag(bonus) k v^T + S)      S <- diag(decay) S + k v^T
//! out = norm(y) silu(g)
//! ```

use std::sync::Arc;

use anser_kernels::activation::{exp1, sigmoid1};
use anser_kernels::dispatch;
use anser_kernels::norm::group_norm;
use anser_kernels::pool::Pool;
use anser_kernels::recurrence::{Heads, wkv6 as kernel};
use anser_kernels::simd::{Isa, level};
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use super::rows::{buffer, for_pieces, per_sequence, sum_pieces};
use super::wkv7::heads_norm_composite;
use super::{Array, Gradient, Inputs, Operation, lanes};
use crate::threads::pool;

/// What the recurrence reads, each [T, C] unless said otherwise.
#[derive(Clone, Debug)]
pub struct Wkv6<'a> {
    /// Receptance.
    pub r: &'a Tensor<2>,
    /// The decay before its two exponentials.
    pub w: &'a Tensor<2>,
    /// Key.
    pub k: &'a Tensor<2>,
    /// Value.
    pub v: &'a Tensor<2>,
    /// The gate before its activation.
    pub g: &'a Tensor<2>,
    /// What the current token counts for (`time_faaaa`), [H, N].
    pub bonus: &'a Tensor<2>,
    /// Weight of the norm over heads, `[C]`.
    pub ln_weight: &'a Tensor<1>,
    /// Bias of the norm over heads, `[C]`.
    pub ln_bias: &'a Tensor<1>,
    /// The states before the first tokens, [S, H, key, value].
    pub state: &'a Tensor<4>,
}

/// The gated result [T, C] and the final states [S, H, key, value].
pub fn wkv6(x: &Wkv6<'_>, eps: f32, cu_seqlens: &Arc<[usize]>) -> (Tensor<2>, Tensor<4>) {
    let [heads, head_size] = x.bonus.dims();
    let op = Op { heads: Heads { heads, head_size }, eps, cu_seqlens: Arc::clone(cu_seqlens) };
    let inputs = Inputs::new().with(x.r).with(x.w).with(x.k).with(x.v).with(x.g);
    let inputs = inputs.with(x.bonus).with(x.ln_weight).with(x.ln_bias).with(x.state);
    let mut outputs = inputs.run(op);
    (outputs.take(), outputs.take())
}

/// [`wkv6`] in tensor operations, one token after the other.
pub fn wkv6_composite(x: &Wkv6<'_>, eps: f32, cu_seqlens: &Arc<[usize]>) -> (Tensor<2>, Tensor<4>) {
    let [heads, n] = x.bonus.dims();
    let [rows, width] = x.r.dims();
    let decay = x.w.clone().exp().neg().exp();
    let token = |t: &Tensor<2>, row: usize, shape: [usize; 3]| t.clone().slice([row..row + 1, 0..width]).reshape(shape);
    let bonus: Tensor<3> = x.bonus.clone().reshape([heads, n, 1]);
    let (mut ys, mut states) = (Vec::new(), Vec::new());
    for (s, ends) in cu_seqlens.windows(2).enumerate() {
        let mut state: Tensor<3> = x.state.clone().slice([s..s + 1, 0..heads, 0..n, 0..n]).reshape([heads, n, n]);
        for row in ends[0]..ends[1] {
            let column = |t: &Tensor<2>| token(t, row, [heads, n, 1]);
            let line = |t: &Tensor<2>| token(t, row, [heads, 1, n]);
            let kv = column(x.k).matmul(line(x.v));
            let y = line(x.r).matmul(kv.clone() * bonus.clone() + state.clone());
            state = state * column(&decay) + kv;
            ys.push(y.reshape([1, heads, n]));
        }
        states.push(state.reshape([1, heads, n, n]));
    }
    debug_assert_eq!(ys.len(), rows);
    let normed = heads_norm_composite(Tensor::cat(ys, 0), x.ln_weight, x.ln_bias, eps);
    (normed * silu(x.g.clone()), Tensor::cat(states, 0))
}

dispatch! {
    /// `exp(-exp(w))`.
    pub(super) fn decays(w: &[f32], decay: &mut [f32]) = decays_body;
    /// The gradient of w, from that of `decay = exp(-exp(w))`, in place.
    pub(super) fn decays_backward(w: &[f32], decay: &[f32], g: &mut [f32]) = decays_backward_body;
    /// `y *= silu(g)`.
    fn gate(g: &[f32], y: &mut [f32]) = gate_body;
    /// The gradients of `y silu(g)`: that of g, and in place of y that of y.
    fn gate_backward(g_out: &[f32], g: &[f32], y: &mut [f32], gg: &mut [f32]) = gate_backward_body;
}

#[inline(always)]
fn decays_body<I: Isa>(w: &[f32], decay: &mut [f32]) {
    for (decay, w) in decay.iter_mut().zip(w) {
        *decay = exp1::<I>(-exp1::<I>(*w));
    }
}

#[inline(always)]
fn decays_backward_body<I: Isa>(w: &[f32], decay: &[f32], g: &mut [f32]) {
    let n = g.len();
    let (w, decay) = (&w[..n], &decay[..n]);
    for c in 0..n {
        // Above 88 the exponential is infinite, and the decay 0 long before.
        g[c] *= -exp1::<I>(w[c].min(88.0)) * decay[c];
    }
}

#[inline(always)]
fn gate_body<I: Isa>(g: &[f32], y: &mut [f32]) {
    for (y, g) in y.iter_mut().zip(g) {
        *y *= g * sigmoid1::<I>(*g);
    }
}

#[inline(always)]
fn gate_backward_body<I: Isa>(g_out: &[f32], g: &[f32], y: &mut [f32], gg: &mut [f32]) {
    let n = y.len();
    let (g_out, g, gg) = (&g_out[..n], &g[..n], &mut gg[..n]);
    for c in 0..n {
        let s = sigmoid1::<I>(g[c]);
        gg[c] = g_out[c] * y[c] * s * I::fma(g[c], 1.0 - s, 1.0);
        y[c] = g_out[c] * g[c] * s;
    }
}

/// How the time mixes of RWKV-5.2 and 6 end: `norm(y) silu(g)`, with a norm over each head.
pub(super) struct Finish<'a> {
    pub(super) heads: Heads,
    pub(super) eps: f32,
    /// [T, C].
    pub(super) g: &'a [f32],
    /// Weight of the norm, `[C]`.
    pub(super) weight: &'a [f32],
    /// Bias of the norm, `[C]`.
    pub(super) bias: &'a [f32],
}

/// The gradients of a [`Finish`].
pub(super) struct Finished {
    /// [T, C].
    pub(super) g: Vec<f32>,
    /// [T, C].
    pub(super) y: Vec<f32>,
    /// `[C]`.
    pub(super) weight: Gradient,
    /// `[C]`.
    pub(super) bias: Gradient,
}

impl Finish<'_> {
    /// From y [T, C] to the result, in place.
    pub(super) fn forward(&self, pool: &Pool, y: &mut [f32]) {
        let (width, level) = (self.heads.width(), level());
        for_pieces(pool, y.len() / width, [y], |rows, [y]| {
            for row in y.chunks_exact_mut(width) {
                group_norm(row, self.heads.heads, self.weight, self.bias, self.eps);
            }
            gate(level, &self.g[rows.start * width..rows.end * width], y);
        });
    }

    /// From y and the gradient of the result, [T, C] both.
    pub(super) fn backward(&self, pool: &Pool, y: &[f32], g_out: &[f32]) -> Finished {
        let (heads, width, level) = (self.heads.heads, self.heads.width(), level());
        let (mut gg, mut gy) = (buffer(y.len()), buffer(y.len()));
        let sums = sum_pieces(pool, y.len() / width, [&mut gg, &mut gy], 2 * width, |rows, [gg, gy], sums| {
            let (g_weight, g_bias) = sums.split_at_mut(width);
            let mut normed = vec![0.0; width];
            for ((row, gg), gy) in rows.zip(gg.chunks_exact_mut(width)).zip(gy.chunks_exact_mut(width)) {
                let [y, g_out, g] = [y, g_out, self.g].map(|s| &s[row * width..(row + 1) * width]);
                normed.copy_from_slice(y);
                group_norm(&mut normed, heads, self.weight, self.bias, self.eps);
                gate_backward(level, g_out, g, &mut normed, gg);
                lanes::group_norm_backward(level, heads, &normed, y, self.weight, self.eps, gy, g_weight, g_bias);
            }
        });
        let [weight, bias] = [&sums[..width], &sums[width..]].map(|g| Gradient::Values(g.to_vec()));
        Finished { g: gg, y: gy, weight, bias }
    }
}

#[derive(Debug)]
struct Op {
    heads: Heads,
    eps: f32,
    cu_seqlens: Arc<[usize]>,
}

impl Op {
    fn decay(&self, w: &[f32]) -> Vec<f32> {
        let width = self.heads.width();
        let mut decay = buffer(w.len());
        for_pieces(&pool(), w.len() / width, [&mut decay], |rows, [decay]| {
            decays(level(), &w[rows.start * width..rows.end * width], decay);
        });
        decay
    }
}

impl Operation for Op {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let &[r, w, k, v, g, bonus, weight, bias, state] = inputs else { unreachable!("wkv6 has nine inputs") };
        let (pool, heads, cu) = (pool(), self.heads, &self.cu_seqlens);
        let (width, sequences) = (heads.width(), cu.len() - 1);
        let decay = self.decay(w);
        let x = kernel::Inputs { r, decay: &decay, k, v };
        let (mut state, mut y) = (state.to_vec(), buffer(r.len()));
        let saved = {
            let mut states = per_sequence(&mut state, sequences);
            if saving {
                let mut kept = buffer(kernel::backward::saved_len(heads, cu));
                kernel::backward::scan_saving(&pool, heads, cu, &x, bonus, &mut states, &mut y, &mut kept);
                vec![kept, y.clone()]
            } else {
                kernel::scan(&pool, heads, cu, &x, bonus, &mut states, &mut y);
                Vec::new()
            }
        };
        Finish { heads, eps: self.eps, g, weight, bias }.forward(&pool, &mut y);
        let shape = [sequences, heads.heads, heads.head_size, heads.head_size];
        (vec![Array::new(y, &[r.len() / width, width]), Array::new(state, &shape)], saved)
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        _: &[bool],
    ) -> Vec<Gradient> {
        let &[r, w, k, v, g, bonus, weight, bias, state] = inputs else { unreachable!("wkv6 has nine inputs") };
        let [kept, y] = &saved[..] else { unreachable!("wkv6 saves two buffers") };
        let (pool, heads, cu) = (pool(), self.heads, &self.cu_seqlens);
        let (width, sequences) = (heads.width(), cu.len() - 1);
        let nothing = if outputs[0].is_none() { vec![0.0; r.len()] } else { Vec::new() };
        let g_out = outputs[0].unwrap_or(&nothing);
        let finished = Finish { heads, eps: self.eps, g, weight, bias }.backward(&pool, y, g_out);

        let decay = self.decay(w);
        let mut g_state = outputs[1].map_or_else(|| vec![0.0; state.len()], <[f32]>::to_vec);
        let [mut gr, mut gw, mut gk, mut gv] = std::array::from_fn(|_| buffer(r.len()));
        let mut g_bonus = buffer(width);
        let mut workspace = buffer(kernel::backward::workspace_len(pool.threads(), heads, sequences));
        kernel::backward::scan(
            &pool,
            heads,
            cu,
            &kernel::Inputs { r, decay: &decay, k, v },
            bonus,
            kept,
            &finished.y,
            &mut per_sequence(&mut g_state, sequences),
            &mut kernel::backward::Gradients {
                r: &mut gr,
                decay: &mut gw,
                k: &mut gk,
                v: &mut gv,
                bonus: &mut g_bonus,
            },
            &mut workspace,
        );
        for_pieces(&pool, r.len() / width, [&mut gw], |rows, [gw]| {
            let part = rows.start * width..rows.end * width;
            decays_backward(level(), &w[part.clone()], &decay[part], gw);
        });
        let mut gradients: Vec<Gradient> = [gr, gw, gk, gv, finished.g, g_bonus].map(Gradient::Values).into();
        gradients.extend([finished.weight, finished.bias, Gradient::Values(g_state)]);
        gradients
    }
}
