//! RWKV-7's time mix between its matrices: gates, recurrence, norm over heads, bonus.
//!
//! Per token and head, with s the logistic function:
//! ```text
//! decay = exp(-exp(-1/2) s(w))      rate = s(a)      v' = v + (v_first - v) s(m)     (layers above the first)
//! kk = k k_k / |k k_k|              k' = k (1 + (rate - 1) k_a)
//! S <- S diag(decay) + (S (-kk)) (kk rate)^T + v' k'^T        y = S r
//! out = (norm(y) + v' sum(r k' r_k)) g
//! ```

use std::f32::consts::E;
use std::sync::Arc;

use anser_kernels::activation::{exp1, sigmoid1};
use anser_kernels::dispatch;
use anser_kernels::norm::{LANES, group_norm, tree};
use anser_kernels::recurrence::{Heads, wkv7 as kernel};
use anser_kernels::simd::{Isa, Level, level};
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

use super::rows::{buffer, fetch_row, for_pieces, per_sequence, sum_pieces};
use super::{Array, Gradient, Inputs, Operation, lanes};
use crate::threads::pool;

/// What the recurrence reads, each [T, C] unless said otherwise.
#[derive(Clone, Debug)]
pub struct Wkv7<'a> {
    /// Receptance.
    pub r: &'a Tensor<2>,
    /// The decay before its two exponentials.
    pub w: &'a Tensor<2>,
    /// Key.
    pub k: &'a Tensor<2>,
    /// Value.
    pub v: &'a Tensor<2>,
    /// The in-context learning rate before its logistic function.
    pub a: &'a Tensor<2>,
    /// The gate.
    pub g: &'a Tensor<2>,
    /// In layers above the first: layer 0's values, and the mix towards them before its logistic function.
    pub first: Option<(&'a Tensor<2>, &'a Tensor<2>)>,
    /// `[C]`.
    pub k_k: &'a Tensor<1>,
    /// `[C]`.
    pub k_a: &'a Tensor<1>,
    /// [H, N].
    pub r_k: &'a Tensor<2>,
    /// Weight of the norm over heads, `[C]`.
    pub ln_weight: &'a Tensor<1>,
    /// Bias of the norm over heads, `[C]`.
    pub ln_bias: &'a Tensor<1>,
    /// The states before the first tokens, [S, H, key, value].
    pub state: &'a Tensor<4>,
}

/// The gated result [T, C], the final states [S, H, key, value], and, for the layers above, layer 0's values: those that
/// came, or this layer's own.
pub fn wkv7(x: &Wkv7<'_>, eps: f32, cu_seqlens: &Arc<[usize]>) -> (Tensor<2>, Tensor<4>, Tensor<2>) {
    let [heads, head_size] = x.r_k.dims();
    let op =
        Op { heads: Heads { heads, head_size }, eps, cu_seqlens: Arc::clone(cu_seqlens), residual: x.first.is_some() };
    let inputs = Inputs::new().with(x.r).with(x.w).with(x.k).with(x.v).with(x.a).with(x.g);
    let inputs = inputs.with(x.k_k).with(x.k_a).with(x.r_k).with(x.ln_weight).with(x.ln_bias).with(x.state);
    let inputs = match x.first {
        Some((v_first, mix)) => inputs.with(v_first).with(mix),
        None => inputs,
    };
    let mut outputs = inputs.run(op);
    (outputs.take(), outputs.take(), outputs.take())
}

/// [`wkv7`] in tensor operations, one token after the other.
pub fn wkv7_composite(x: &Wkv7<'_>, eps: f32, cu_seqlens: &Arc<[usize]>) -> (Tensor<2>, Tensor<4>, Tensor<2>) {
    let [heads, n] = x.r_k.dims();
    let [rows, width] = x.r.dims();
    let per_head = |t: Tensor<2>| t.reshape([rows, heads, n]);
    let decay = (sigmoid(x.w.clone()) * (-(-0.5f32).exp())).exp();
    let rate = sigmoid(x.a.clone());
    let v = match x.first {
        Some((v_first, mix)) => x.v.clone() + (v_first.clone() - x.v.clone()) * sigmoid(mix.clone()),
        None => x.v.clone(),
    };
    let z = per_head(x.k.clone() * x.k_k.clone().unsqueeze());
    let norm = (z.clone() * z.clone()).sum_dim(2).sqrt().clamp_min(1e-12);
    let kk = z / norm;
    let k = x.k.clone() * ((rate.clone() - 1.0) * x.k_a.clone().unsqueeze() + 1.0);
    let (r, decay, k, v, rate) = (per_head(x.r.clone()), per_head(decay), per_head(k), per_head(v), per_head(rate));
    let b = kk.clone() * rate;
    let token = |t: &Tensor<3>, row: usize| t.clone().slice([row..row + 1, 0..heads, 0..n]).reshape([heads, n]);
    let (mut ys, mut states) = (Vec::new(), Vec::new());
    for (s, ends) in cu_seqlens.windows(2).enumerate() {
        let mut state: Tensor<3> = x.state.clone().slice([s..s + 1, 0..heads, 0..n, 0..n]).reshape([heads, n, n]);
        for row in ends[0]..ends[1] {
            let column = |t: &Tensor<3>| token(t, row).reshape([heads, n, 1]);
            let line = |t: &Tensor<3>| token(t, row).reshape([heads, 1, n]);
            let sa = line(&kk).neg().matmul(state.clone());
            state = state * column(&decay) + column(&b).matmul(sa) + column(&k).matmul(line(&v));
            ys.push(line(&r).matmul(state.clone()).reshape([1, heads, n]));
        }
        states.push(state.reshape([1, heads, n, n]));
    }
    let y = Tensor::cat(ys, 0);
    let normed = heads_norm_composite(y, x.ln_weight, x.ln_bias, eps);
    let bonus = (r * k * x.r_k.clone().unsqueeze()).sum_dim(2) * v;
    let v_first = x.first.map_or(x.v, |(v_first, _)| v_first).clone();
    ((normed + bonus.reshape([rows, width])) * x.g.clone(), Tensor::cat(states, 0), v_first)
}

/// The norm over each head of y [T, H, N], scaled and shifted by `[C]`: [T, C].
pub(super) fn heads_norm_composite(y: Tensor<3>, weight: &Tensor<1>, bias: &Tensor<1>, eps: f32) -> Tensor<2> {
    let [rows, heads, n] = y.dims();
    let centred = y.clone() - y.mean_dim(2);
    let variance = (centred.clone() * centred.clone()).mean_dim(2);
    let normal = (centred / (variance + eps).sqrt()).reshape([rows, heads * n]);
    normal * weight.clone().unsqueeze() + bias.clone().unsqueeze()
}

#[derive(Debug)]
struct Op {
    heads: Heads,
    eps: f32,
    cu_seqlens: Arc<[usize]>,
    /// Whether values lean towards those of layer 0.
    residual: bool,
}

/// The inputs by name.
struct Named<'a> {
    r: &'a [f32],
    w: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    a: &'a [f32],
    g: &'a [f32],
    k_k: &'a [f32],
    k_a: &'a [f32],
    r_k: &'a [f32],
    ln_weight: &'a [f32],
    ln_bias: &'a [f32],
    state: &'a [f32],
    first: Option<(&'a [f32], &'a [f32])>,
}

impl<'a> Named<'a> {
    fn new(inputs: &[&'a [f32]]) -> Named<'a> {
        let &[r, w, k, v, a, g, k_k, k_a, r_k, ln_weight, ln_bias, state, ref first @ ..] = inputs else {
            unreachable!("wkv7 has twelve inputs or fourteen")
        };
        let first = match first {
            &[v_first, mix] => Some((v_first, mix)),
            _ => None,
        };
        Named { r, w, k, v, a, g, k_k, k_a, r_k, ln_weight, ln_bias, state, first }
    }
}

/// What the kernel reads besides r, each [T, C].
struct Prepared {
    decay: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Prepared {
    fn inputs<'a>(&'a self, r: &'a [f32]) -> kernel::Inputs<'a, f32> {
        kernel::Inputs { r, decay: &self.decay, k: &self.k, v: &self.v, a: &self.a, b: &self.b }
    }
}

/// exp(-1/2), as the trainers have it.
const SLOWEST: f32 = 0.606_530_66;

impl Op {
    fn prepare(&self, x: &Named<'_>) -> Prepared {
        let (level, width, n) = (level(), self.heads.width(), self.heads.head_size);
        let len = x.r.len();
        let [mut decay, mut k, mut v, mut a, mut b] = std::array::from_fn(|_| buffer(len));
        let outs = [&mut decay[..], &mut k[..], &mut v[..], &mut a[..], &mut b[..]];
        for_pieces(&pool(), len / width, outs, |rows, outs| {
            let [decay, k, v, a, b] = outs;
            for (own, row) in rows.enumerate() {
                let (from, to) = (row * width..(row + 1) * width, own * width..(own + 1) * width);
                [x.w, x.k, x.a, x.v].iter().for_each(|x| fetch_row(x, row, width));
                [&decay, &k, &v, &a, &b].iter().for_each(|x| fetch_row(x, own, width));
                if let Some((v_first, mix)) = x.first {
                    [v_first, mix].iter().for_each(|x| fetch_row(x, row, width));
                }
                let v = &mut v[to.clone()];
                v.copy_from_slice(&x.v[from.clone()]);
                if let Some((v_first, mix)) = x.first {
                    lean(level, v, &v_first[from.clone()], &mix[from.clone()]);
                }
                prepare_row(
                    level,
                    n,
                    [&x.w[from.clone()], &x.k[from.clone()], &x.a[from], x.k_k, x.k_a],
                    &mut decay[to.clone()],
                    &mut k[to.clone()],
                    &mut a[to.clone()],
                    &mut b[to],
                );
            }
        });
        Prepared { decay, k, v, a, b }
    }
}

// What is written is an argument of its own: only then does the compiler know that nothing else overlaps it, which it
// must to vectorise.
dispatch! {
    /// `v += (first - v) sigmoid(mix)`.
    fn lean(v: &mut [f32], first: &[f32], mix: &[f32]) = lean_body;
    /// From [w, k, a, k_k, k_a] to [decay, k', -kk, kk rate].
    fn prepare_row(
        n: usize, x: [&[f32]; 5], decay: &mut [f32], k: &mut [f32], a: &mut [f32], b: &mut [f32],
    ) = prepare_row_body;
    /// Adds the bonus `v' sum(r k' r_k)` to a row.
    fn add_bonus(n: usize, x: [&[f32]; 4], out: &mut [f32]) = add_bonus_body;
    /// `x *= y`.
    fn multiply(x: &mut [f32], y: &[f32]) = multiply_body;
    /// From the gradient of a row of the result to those of g, of the norm's result, and, through the bonus, of r, k',
    /// v' and (added) r_k. x is [gout, g, norm + bonus, r, k', v', r_k].
    fn bonus_backward(
        n: usize, x: [&[f32]; 7], gg: &mut [f32], gy: &mut [f32], gr: &mut [f32], gk: &mut [f32], gv: &mut [f32],
        g_rk: &mut [f32],
    ) = bonus_backward_body;
    /// From the gradients of what the kernel read to those of its raw inputs, in place: of decay to w, of k' to k (the
    /// bonus' part included), of b to a. Those of k_k and k_a are added. `g_kk` and `z` are scratch.
    fn raw_backward(
        n: usize, x: RawInputs<'_>, g_minus: &[f32], gw: &mut [f32], gk: &mut [f32], ga: &mut [f32],
        gk_k: &mut [f32], gk_a: &mut [f32], g_kk: &mut [f32], z: &mut [f32],
    ) = raw_backward_body;
    /// The gradients of `v' = v + (first - v) sigmoid(mix)`: from gv' in `gv` to gv in place, those of first and mix
    /// written. x is [v, first, mix].
    fn lean_backward(x: [&[f32]; 3], gv: &mut [f32], g_first: &mut [f32], g_mix: &mut [f32]) = lean_backward_body;
}

#[inline(always)]
fn lean_body<I: Isa>(v: &mut [f32], first: &[f32], mix: &[f32]) {
    let n = v.len();
    let (first, mix) = (&first[..n], &mix[..n]);
    for c in 0..n {
        v[c] = I::fma(first[c] - v[c], sigmoid1::<I>(mix[c]), v[c]);
    }
}

/// The sum of x y over one head.
#[inline(always)]
fn dot<I: Isa>(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x.iter().zip(y) {
        for lane in 0..LANES {
            sums[lane] = I::fma(x[lane], y[lane], sums[lane]);
        }
    }
    for ((sum, x), y) in sums.iter_mut().zip(x_rest).zip(y_rest) {
        *sum = I::fma(*x, *y, *sum);
    }
    tree(sums)
}

/// The sum of x y z over one head.
#[inline(always)]
fn dot3<I: Isa>(x: &[f32], y: &[f32], z: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (y, y_rest) = y.as_chunks::<LANES>();
    let (z, z_rest) = z.as_chunks::<LANES>();
    for ((x, y), z) in x.iter().zip(y).zip(z) {
        for lane in 0..LANES {
            sums[lane] = I::fma(x[lane] * y[lane], z[lane], sums[lane]);
        }
    }
    for (((sum, x), y), z) in sums.iter_mut().zip(x_rest).zip(y_rest).zip(z_rest) {
        *sum = I::fma(x * y, *z, *sum);
    }
    tree(sums)
}

#[inline(always)]
fn prepare_row_body<I: Isa>(
    n: usize,
    [w, k, a, k_k, k_a]: [&[f32]; 5],
    decay: &mut [f32],
    k_out: &mut [f32],
    a_out: &mut [f32],
    b_out: &mut [f32],
) {
    let width = w.len();
    let (k, a, k_k, k_a) = (&k[..width], &a[..width], &k_k[..width], &k_a[..width]);
    let (decay, k_out) = (&mut decay[..width], &mut k_out[..width]);
    let (a_out, b_out) = (&mut a_out[..width], &mut b_out[..width]);
    for c in 0..width {
        decay[c] = exp1::<I>(-SLOWEST * sigmoid1::<I>(w[c]));
        let rate = sigmoid1::<I>(a[c]);
        k_out[c] = k[c] * I::fma(rate - 1.0, k_a[c], 1.0);
        a_out[c] = k[c] * k_k[c];
        b_out[c] = rate;
    }
    for (a, b) in a_out.chunks_exact_mut(n).zip(b_out.chunks_exact_mut(n)) {
        let scale = 1.0 / dot::<I>(a, a).sqrt().max(1e-12);
        for c in 0..n {
            let kk = a[c] * scale;
            a[c] = -kk;
            b[c] *= kk;
        }
    }
}

#[inline(always)]
fn add_bonus_body<I: Isa>(n: usize, [r, k, v, r_k]: [&[f32]; 4], out: &mut [f32]) {
    for (h, out) in out.chunks_exact_mut(n).enumerate() {
        let head = h * n..(h + 1) * n;
        let (r, k, v, r_k) = (&r[head.clone()], &k[head.clone()], &v[head.clone()], &r_k[head]);
        let bonus = dot3::<I>(r, k, r_k);
        for c in 0..n {
            out[c] = I::fma(v[c], bonus, out[c]);
        }
    }
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn multiply_body<I: Isa>(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x *= y;
    }
}

#[inline(always)]
fn bonus_backward_body<I: Isa>(
    n: usize,
    [g_out, g, normed, r, k, v, r_k]: [&[f32]; 7],
    gg: &mut [f32],
    gy: &mut [f32],
    gr: &mut [f32],
    gk: &mut [f32],
    gv: &mut [f32],
    g_rk: &mut [f32],
) {
    let width = g_out.len();
    let (g, normed, gg, gy) = (&g[..width], &normed[..width], &mut gg[..width], &mut gy[..width]);
    for c in 0..width {
        gg[c] = g_out[c] * normed[c];
        gy[c] = g_out[c] * g[c];
    }
    for start in (0..width).step_by(n) {
        let head = start..start + n;
        let (r, k, v, r_k) = (&r[head.clone()], &k[head.clone()], &v[head.clone()], &r_k[head.clone()]);
        let (gr, gk, gv) = (&mut gr[head.clone()], &mut gk[head.clone()], &mut gv[head.clone()]);
        let (g_rk, gy) = (&mut g_rk[head.clone()], &gy[head]);
        let (bonus, g_bonus) = (dot3::<I>(r, k, r_k), dot::<I>(gy, v));
        for c in 0..n {
            gv[c] = gy[c] * bonus;
            gr[c] = g_bonus * k[c] * r_k[c];
            gk[c] = g_bonus * r[c] * r_k[c];
            g_rk[c] = I::fma(g_bonus * r[c], k[c], g_rk[c]);
        }
    }
}

/// One row of what [`raw_backward`] reads.
#[derive(Clone, Copy)]
struct RawInputs<'a> {
    w: &'a [f32],
    k: &'a [f32],
    a: &'a [f32],
    k_k: &'a [f32],
    k_a: &'a [f32],
    decay: &'a [f32],
    minus_kk: &'a [f32],
}

#[inline(always)]
fn raw_backward_body<I: Isa>(
    n: usize,
    x: RawInputs<'_>,
    g_minus: &[f32],
    out_w: &mut [f32],
    out_k: &mut [f32],
    out_a: &mut [f32],
    out_kk: &mut [f32],
    out_ka: &mut [f32],
    g_kk: &mut [f32],
    z: &mut [f32],
) {
    let width = x.w.len();
    let (w, k, a, k_k) = (x.w, &x.k[..width], &x.a[..width], &x.k_k[..width]);
    let (k_a, decay, minus_kk) = (&x.k_a[..width], &x.decay[..width], &x.minus_kk[..width]);
    let g_minus = &g_minus[..width];
    let (out_w, out_k, out_a) = (&mut out_w[..width], &mut out_k[..width], &mut out_a[..width]);
    let (out_kk, out_ka) = (&mut out_kk[..width], &mut out_ka[..width]);
    let (g_kk, z) = (&mut g_kk[..width], &mut z[..width]);
    for c in 0..width {
        let s = sigmoid1::<I>(w[c]);
        out_w[c] = out_w[c] * decay[c] * (-SLOWEST) * s * (1.0 - s);
        let rate = sigmoid1::<I>(a[c]);
        let (g_k, g_b) = (out_k[c], out_a[c]);
        let g_rate = I::fma(g_k * k[c], k_a[c], -g_b * minus_kk[c]);
        out_a[c] = g_rate * rate * (1.0 - rate);
        out_ka[c] = I::fma(g_k * k[c], rate - 1.0, out_ka[c]);
        // The direct way through k' here, the way through kk below.
        out_k[c] = g_k * I::fma(rate - 1.0, k_a[c], 1.0);
        g_kk[c] = I::fma(g_b, rate, -g_minus[c]);
        z[c] = k[c] * k_k[c];
    }
    for start in (0..width).step_by(n) {
        let head = start..start + n;
        let (k, k_k, minus_kk) = (&k[head.clone()], &k_k[head.clone()], &minus_kk[head.clone()]);
        let (g_kk, z) = (&g_kk[head.clone()], &z[head.clone()]);
        let (out_k, out_kk) = (&mut out_k[head.clone()], &mut out_kk[head]);
        let norm = dot::<I>(z, z).sqrt();
        let scale = 1.0 / norm.max(1e-12);
        // Below the floor the norm is a constant, and kk no longer of length 1.
        let along = if norm > 1e-12 { dot::<I>(minus_kk, g_kk) } else { 0.0 };
        for c in 0..n {
            let gz = I::fma(-minus_kk[c], along, g_kk[c]) * scale;
            out_k[c] = I::fma(gz, k_k[c], out_k[c]);
            out_kk[c] = I::fma(gz, k[c], out_kk[c]);
        }
    }
}

#[inline(always)]
fn lean_backward_body<I: Isa>([v, first, mix]: [&[f32]; 3], gv: &mut [f32], g_first: &mut [f32], g_mix: &mut [f32]) {
    let n = gv.len();
    let (v, first, mix) = (&v[..n], &first[..n], &mix[..n]);
    let (g_first, g_mix) = (&mut g_first[..n], &mut g_mix[..n]);
    for c in 0..n {
        let s = sigmoid1::<I>(mix[c]);
        g_first[c] = gv[c] * s;
        g_mix[c] = gv[c] * (first[c] - v[c]) * s * (1.0 - s);
        gv[c] -= g_first[c];
    }
}

impl Op {
    /// norm(y) + bonus, for row `row`.
    fn finish_row(&self, level: Level, x: &Named<'_>, p: &Prepared, row: usize, y: &[f32], out: &mut [f32]) {
        let (width, n) = (self.heads.width(), self.heads.head_size);
        let row = row * width..(row + 1) * width;
        out.copy_from_slice(y);
        group_norm(out, self.heads.heads, x.ln_weight, x.ln_bias, self.eps);
        add_bonus(level, n, [&x.r[row.clone()], &p.k[row.clone()], &p.v[row], x.r_k], out);
    }
}

impl Operation for Op {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        debug_assert!((E.powf(-0.5) - SLOWEST).abs() < 1e-7);
        let (pool, level, heads, cu) = (pool(), level(), self.heads, &self.cu_seqlens);
        let x = Named::new(inputs);
        let (width, rows, sequences) = (heads.width(), x.r.len() / heads.width(), cu.len() - 1);
        let p = self.prepare(&x);
        let mut state = x.state.to_vec();
        let mut y = buffer(x.r.len());
        let mut saved = {
            let mut states = per_sequence(&mut state, sequences);
            if saving {
                let mut kept = buffer(kernel::backward::saved_states_len(heads, cu));
                let mut sa = buffer(x.r.len());
                let into = kernel::backward::Saved { states: &mut kept[..], sa: &mut sa[..] };
                kernel::backward::scan_saving(&pool, heads, cu, &p.inputs(x.r), &mut states, &mut y, into);
                vec![kept, sa]
            } else {
                kernel::scan(&pool, heads, cu, &p.inputs(x.r), &mut states, &mut y);
                Vec::new()
            }
        };
        let mut out = buffer(y.len());
        for_pieces(&pool, rows, [&mut out], |rows, [out]| {
            for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
                [&y, x.r, &p.k, &p.v, x.g].iter().for_each(|x| fetch_row(x, row, width));
                self.finish_row(level, &x, &p, row, &y[row * width..(row + 1) * width], out);
                multiply(level, out, &x.g[row * width..(row + 1) * width]);
            }
        });
        if saving {
            let Prepared { decay, k, v, a, b } = p;
            saved.extend([y, decay, k, v, a, b]);
        }
        let shape = [sequences, heads.heads, heads.head_size, heads.head_size];
        (vec![Array::new(out, &[rows, width]), Array::new(state, &shape)], saved)
    }

    fn passed(&self) -> &[usize] {
        if self.residual { &[12] } else { &[3] }
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        _: &[bool],
    ) -> Vec<Gradient> {
        let (pool, level, heads, cu) = (pool(), level(), self.heads, &self.cu_seqlens);
        let (width, n) = (heads.width(), heads.head_size);
        let x = Named::new(inputs);
        let (len, rows) = (x.r.len(), x.r.len() / width);
        let Ok([kept, sa, y, decay, k, v, a, b]) = <[Vec<f32>; 8]>::try_from(saved) else {
            unreachable!("wkv7 saves eight buffers")
        };
        let p = Prepared { decay, k, v, a, b };
        let nothing = if outputs[0].is_none() { vec![0.0; len] } else { Vec::new() };
        let g_out = outputs[0].unwrap_or(&nothing);

        // Gate, bonus and norm. The gradient of y takes its place.
        let mut gy = y;
        let [mut gg, mut gr, mut gk, mut gv] = std::array::from_fn(|_| buffer(len));
        let outs = [&mut gg[..], &mut gy[..], &mut gr[..], &mut gk[..], &mut gv[..]];
        let norm_sums = sum_pieces(&pool, rows, outs, 3 * width, |rows, outs, sums| {
            let [gg, gy, gr, gk, gv] = outs;
            let (g_rk, g_norm) = sums.split_at_mut(width);
            let (g_weight, g_bias) = g_norm.split_at_mut(width);
            let [mut y, mut normed, mut g_normed] = std::array::from_fn(|_| vec![0.0; width]);
            for (own, row) in rows.enumerate() {
                let (from, to) = (row * width..(row + 1) * width, own * width..(own + 1) * width);
                [g_out, x.g, x.r, &p.k, &p.v].iter().for_each(|x| fetch_row(x, row, width));
                [&gg, &gy, &gr, &gk, &gv].iter().for_each(|x| fetch_row(x, own, width));
                y.copy_from_slice(&gy[to.clone()]);
                self.finish_row(level, &x, &p, row, &y, &mut normed);
                let [g_out, g, r, k, v] = [g_out, x.g, x.r, &p.k, &p.v].map(|s| &s[from.clone()]);
                bonus_backward(
                    level,
                    n,
                    [g_out, g, &normed, r, k, v, x.r_k],
                    &mut gg[to.clone()],
                    &mut g_normed,
                    &mut gr[to.clone()],
                    &mut gk[to.clone()],
                    &mut gv[to.clone()],
                    g_rk,
                );
                let (gy, heads) = (&mut gy[to], heads.heads);
                lanes::group_norm_backward(level, heads, &g_normed, &y, x.ln_weight, self.eps, gy, g_weight, g_bias);
            }
        });

        // The recurrence.
        let mut g_state = outputs[1].map_or_else(|| vec![0.0; x.state.len()], <[f32]>::to_vec);
        let [mut g_decay, mut g_minus, mut g_b] = std::array::from_fn(|_| buffer(len));
        let into = kernel::backward::Gradients {
            r: &mut gr[..],
            decay: &mut g_decay[..],
            k: &mut gk[..],
            v: &mut gv[..],
            a: &mut g_minus[..],
            b: &mut g_b[..],
        };
        let mut workspace = buffer(kernel::backward::workspace_len(pool.threads(), heads));
        kernel::backward::scan(
            &pool,
            heads,
            cu,
            &p.inputs(x.r),
            kernel::backward::Saved { states: &kept, sa: &sa },
            &gy,
            &mut per_sequence(&mut g_state, cu.len() - 1),
            into,
            &mut workspace,
        );

        // From what the kernel read to the raw inputs, where it lies: memory is what these passes wait for.
        let [mut gw, mut ga, mut g_mix] = [g_decay, g_b, g_minus];
        let mut g_first = if x.first.is_some() { buffer(len) } else { Vec::new() };
        let outs = [&mut gk[..], &mut gv[..], &mut gw[..], &mut ga[..], &mut g_first, &mut g_mix];
        let raw_sums = sum_pieces(&pool, rows, outs, 2 * width, |rows, outs, sums| {
            let [gk, gv, gw, ga, g_first, g_mix] = outs;
            let (k_k, k_a) = sums.split_at_mut(width);
            let [mut g_kk, mut z] = std::array::from_fn(|_| vec![0.0; width]);
            for (own, row) in rows.clone().enumerate() {
                let (from, to) = (row * width..(row + 1) * width, own * width..(own + 1) * width);
                [x.w, x.k, x.a, &p.decay, &p.a].iter().for_each(|x| fetch_row(x, row, width));
                [&gk, &gw, &ga, &g_mix].iter().for_each(|x| fetch_row(x, own, width));
                let [w, k, a, decay, minus_kk] = [x.w, x.k, x.a, &p.decay, &p.a].map(|s| &s[from.clone()]);
                raw_backward(
                    level,
                    n,
                    RawInputs { w, k, a, k_k: x.k_k, k_a: x.k_a, decay, minus_kk },
                    &g_mix[to.clone()],
                    &mut gw[to.clone()],
                    &mut gk[to.clone()],
                    &mut ga[to],
                    k_k,
                    k_a,
                    &mut g_kk,
                    &mut z,
                );
            }
            let part = rows.start * width..rows.end * width;
            if let Some((v_first, mix)) = x.first {
                let x = [x.v, v_first, mix].map(|s| &s[part.clone()]);
                lean_backward(level, x, gv, g_first, g_mix);
            }
            if let Some(g) = outputs[2] {
                lanes::add(level, if self.residual { g_first } else { gv }, &g[part]);
            }
        });

        let part = |sums: &[f32], i: usize| Gradient::Values(sums[i * width..(i + 1) * width].to_vec());
        let mut gradients: Vec<Gradient> = [gr, gw, gk, gv, ga, gg].map(Gradient::Values).into();
        gradients.extend([part(&raw_sums, 0), part(&raw_sums, 1), part(&norm_sums, 0)]);
        gradients.extend([part(&norm_sums, 1), part(&norm_sums, 2), Gradient::Values(g_state)]);
        if self.residual {
            gradients.extend([Gradient::Values(g_first), Gradient::Values(g_mix)]);
        }
        gradients
    }
}
