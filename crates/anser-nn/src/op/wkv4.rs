//! RWKV-4's time mix between its matrices: recurrence, receptance.
//!
//! Per token and channel, with w = -exp(time_decay) and u = time_first:
//! ```text
//! wkv_t = (sum_{i<t} exp((t-1-i) w + k_i) v_i + exp(u + k_t) v_t) / (the same without v)
//! out_t = sigmoid(r_t) wkv_t
//! ```
//! A state [3, C] has both sums, aa and bb, relative to an exponent pp, see [`anser_kernels::recurrence::wkv4`].
//!
//! **The state's gradient.** aa and bb at another pp are the same state, and whatever uses a state is taken to respect
//! that: the gradient of the final pp is not read, that of the initial one follows from those of aa and bb.

use std::sync::Arc;

use anser_kernels::activation::{exp1, sigmoid1};
use anser_kernels::dispatch;
use anser_kernels::recurrence::wkv4 as kernel;
use anser_kernels::simd::{Isa, level};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::rows::{buffer, for_pieces, per_sequence};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;

/// What the recurrence reads.
#[derive(Clone, Debug)]
pub struct Wkv4<'a> {
    /// Receptance before its logistic function, [T, C].
    pub r: &'a Tensor<2>,
    /// Key, [T, C].
    pub k: &'a Tensor<2>,
    /// Value, [T, C].
    pub v: &'a Tensor<2>,
    /// The decay before its two exponentials (`time_decay`), `[C]`.
    pub decay: &'a Tensor<1>,
    /// What is added to the current token's key (`time_first`), `[C]`.
    pub bonus: &'a Tensor<1>,
    /// The states before the first tokens, [S, 1, 3, C] with rows aa, bb, pp.
    pub state: &'a Tensor<4>,
}

/// The gated result [T, C] and the final states [S, 1, 3, C].
pub fn wkv4(x: &Wkv4<'_>, cu_seqlens: &Arc<[usize]>) -> (Tensor<2>, Tensor<4>) {
    let [width] = x.bonus.dims();
    let op = Op { width, cu_seqlens: Arc::clone(cu_seqlens) };
    let inputs = Inputs::new().with(x.r).with(x.k).with(x.v).with(x.decay).with(x.bonus).with(x.state);
    let mut outputs = inputs.run(op);
    (outputs.take(), outputs.take())
}

/// [`wkv4`] in tensor operations, one token after the other. Every maximum is a constant to the gradient: no result
/// depends on the exponent that the sums are relative to.
pub fn wkv4_composite(x: &Wkv4<'_>, cu_seqlens: &Arc<[usize]>) -> (Tensor<2>, Tensor<4>) {
    let [rows, width] = x.r.dims();
    let w = x.decay.clone().exp().neg().reshape([1, width]);
    let u: Tensor<2> = x.bonus.clone().reshape([1, width]);
    let (mut ys, mut states) = (Vec::new(), Vec::new());
    for (s, ends) in cu_seqlens.windows(2).enumerate() {
        let part =
            |i: usize| -> Tensor<2> { x.state.clone().slice([s..s + 1, 0..1, i..i + 1, 0..width]).reshape([1, width]) };
        let (aa, bb, initial) = (part(0), part(1), part(2));
        let mut pp = initial.clone().detach();
        let same = (initial - pp.clone()).exp();
        let (mut aa, mut bb) = (aa * same.clone(), bb * same);
        for row in ends[0]..ends[1] {
            let token = |t: &Tensor<2>| t.clone().slice([row..row + 1, 0..width]);
            let (k, v) = (token(x.k), token(x.v));
            let own = k.clone() + u.clone();
            let q = pp.clone().max_pair(own.clone()).detach();
            let (e1, e2) = ((pp.clone() - q.clone()).exp(), (own - q).exp());
            let wkv = (e1.clone() * aa.clone() + e2.clone() * v.clone()) / (e1 * bb.clone() + e2);
            ys.push(sigmoid(token(x.r)) * wkv);

            let faded = pp + w.clone();
            pp = faded.clone().max_pair(k.clone()).detach();
            let (e1, e2) = ((faded - pp.clone()).exp(), (k - pp.clone()).exp());
            aa = e1.clone() * aa + e2.clone() * v;
            bb = e1 * bb + e2;
        }
        states.push(Tensor::cat(vec![aa, bb, pp], 0).reshape([1, 1, 3, width]));
    }
    debug_assert_eq!(ys.len(), rows);
    (Tensor::cat(ys, 0), Tensor::cat(states, 0))
}

dispatch! {
    /// `-exp(x)`.
    fn minus_exp(x: &[f32], out: &mut [f32]) = minus_exp_body;
    /// `y *= sigmoid(r)`.
    fn gate(r: &[f32], y: &mut [f32]) = gate_body;
    /// The gradients of r and of y in `sigmoid(r) y`.
    fn gate_backward(g: &[f32], r: &[f32], y: &[f32], gr: &mut [f32], gy: &mut [f32]) = gate_backward_body;
}

#[inline(always)]
fn minus_exp_body<I: Isa>(x: &[f32], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = -exp1::<I>(*x);
    }
}

#[inline(always)]
fn gate_body<I: Isa>(r: &[f32], y: &mut [f32]) {
    for (y, r) in y.iter_mut().zip(r) {
        *y *= sigmoid1::<I>(*r);
    }
}

#[inline(always)]
fn gate_backward_body<I: Isa>(g: &[f32], r: &[f32], y: &[f32], gr: &mut [f32], gy: &mut [f32]) {
    let n = g.len();
    let (r, y, gr, gy) = (&r[..n], &y[..n], &mut gr[..n], &mut gy[..n]);
    for c in 0..n {
        let s = sigmoid1::<I>(r[c]);
        gr[c] = g[c] * y[c] * s * (1.0 - s);
        gy[c] = g[c] * s;
    }
}

#[derive(Debug)]
struct Op {
    width: usize,
    cu_seqlens: Arc<[usize]>,
}

impl Op {
    fn log_decay(&self, raw: &[f32]) -> Vec<f32> {
        let mut log_decay = buffer(self.width);
        minus_exp(level(), raw, &mut log_decay);
        log_decay
    }
}

impl Operation for Op {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let &[r, k, v, raw, bonus, state] = inputs else { unreachable!("wkv4 has six inputs") };
        let (pool, width, cu) = (pool(), self.width, &self.cu_seqlens);
        let (rows, sequences) = (r.len() / width, cu.len() - 1);
        let (log_decay, x) = (self.log_decay(raw), kernel::Inputs { k, v });
        let (mut state, mut y) = (state.to_vec(), buffer(r.len()));
        let saved = {
            let mut states = per_sequence(&mut state, sequences);
            if saving {
                let mut kept = buffer(kernel::backward::saved_len(width, cu));
                kernel::backward::scan_saving(&pool, cu, &x, &log_decay, bonus, &mut states, &mut y, &mut kept);
                vec![kept, y.clone()]
            } else {
                kernel::scan(&pool, cu, &x, &log_decay, bonus, &mut states, &mut y);
                Vec::new()
            }
        };
        for_pieces(&pool, rows, [&mut y], |rows, [y]| {
            gate(level(), &r[rows.start * width..rows.end * width], y);
        });
        (vec![Array::new(y, &[rows, width]), Array::new(state, &[sequences, 1, 3, width])], saved)
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        _: &[bool],
    ) -> Vec<Gradient> {
        let &[r, k, v, raw, bonus, state] = inputs else { unreachable!("wkv4 has six inputs") };
        let [kept, y] = &saved[..] else { unreachable!("wkv4 saves two buffers") };
        let (pool, width, cu) = (pool(), self.width, &self.cu_seqlens);
        let sequences = cu.len() - 1;
        let nothing = if outputs[0].is_none() { vec![0.0; r.len()] } else { Vec::new() };
        let g_out = outputs[0].unwrap_or(&nothing);
        let [mut gr, mut gy, mut gk, mut gv] = std::array::from_fn(|_| buffer(r.len()));
        for_pieces(&pool, r.len() / width, [&mut gr, &mut gy], |rows, [gr, gy]| {
            let [g_out, r, y] = [g_out, r, &y[..]].map(|s| &s[rows.start * width..rows.end * width]);
            gate_backward(level(), g_out, r, y, gr, gy);
        });

        let log_decay = self.log_decay(raw);
        let mut g_state = outputs[1].map_or_else(|| vec![0.0; state.len()], <[f32]>::to_vec);
        let (mut g_raw, mut g_bonus) = (buffer(width), buffer(width));
        let mut workspace = buffer(kernel::backward::workspace_len(width, sequences));
        kernel::backward::scan(
            &pool,
            cu,
            &kernel::Inputs { k, v },
            &log_decay,
            bonus,
            kept,
            &gy,
            &mut per_sequence(&mut g_state, sequences),
            &mut kernel::backward::Gradients { k: &mut gk, v: &mut gv, log_decay: &mut g_raw, bonus: &mut g_bonus },
            &mut workspace,
        );
        g_raw.iter_mut().zip(&log_decay).for_each(|(g, log_decay)| *g *= log_decay);
        [gr, gk, gv, g_raw, g_bonus, g_state].map(Gradient::Values).into()
    }
}
