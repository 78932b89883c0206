//! Element-wise loops of gradients, one row each, compiled for every instruction set.

use anser_kernels::dispatch;
use anser_kernels::norm::{LANES, mean_and_scale, tree};
use anser_kernels::simd::Isa;

dispatch! {
    /// The gradients of `out = from + (to - from) * mix` for several mixes of the same two rows, added to those of each
    /// operand. `g` holds the gradients of whole results, of which this row begins at `start`; `g_mix` has a row a mix.
    pub(super) fn lerps_backward(
        g: &[Option<&[f32]>], start: usize, from: &[f32], to: &[f32], mixes: &[&[f32]], g_from: &mut [f32],
        g_to: &mut [f32], g_mix: &mut [f32],
    ) = lerps_backward_body;
    /// The gradient of a LayerNorm of x, whose mean and scale are `moments`, written; those of its weight and bias, added.
    pub(super) fn layer_norm_backward(
        g: &[f32], x: &[f32], weight: &[f32], moments: (f32, f32), gx: &mut [f32], g_weight: &mut [f32],
        g_bias: &mut [f32],
    ) = layer_norm_backward_body;
    /// As [`layer_norm_backward`] for a norm over each head.
    pub(super) fn group_norm_backward(
        heads: usize, g: &[f32], x: &[f32], weight: &[f32], eps: f32, gx: &mut [f32], g_weight: &mut [f32],
        g_bias: &mut [f32],
    ) = group_norm_backward_body;
    /// The mean of x and `1 / sqrt(variance + eps)`.
    pub(super) fn moments(x: &[f32], eps: f32) -> (f32, f32) = moments_body;
    /// `x += y`.
    pub(super) fn add(x: &mut [f32], y: &[f32]) = add_body;
    /// Adds every row to the sum of them, in order.
    pub(super) fn add_rows(sum: &mut [f32], rows: &[f32]) = add_rows_body;
}

#[inline(always)]
fn lerps_backward_body<I: Isa>(
    g: &[Option<&[f32]>],
    start: usize,
    from: &[f32],
    to: &[f32],
    mixes: &[&[f32]],
    g_from: &mut [f32],
    g_to: &mut [f32],
    g_mix: &mut [f32],
) {
    let width = from.len();
    let (whole, rest) = (width - width % LANES, width % LANES);
    for c in (0..whole).step_by(LANES) {
        lerps_block::<I, LANES>(g, start, c, from, to, mixes, g_from, g_to, g_mix);
    }
    for c in width - rest..width {
        lerps_block::<I, 1>(g, start, c, from, to, mixes, g_from, g_to, g_mix);
    }
}

/// Channels `c..c + N`: what is added up over the mixes stays in registers.
#[inline(always)]
fn lerps_block<I: Isa, const N: usize>(
    g: &[Option<&[f32]>],
    start: usize,
    c: usize,
    from: &[f32],
    to: &[f32],
    mixes: &[&[f32]],
    g_from: &mut [f32],
    g_to: &mut [f32],
    g_mix: &mut [f32],
) {
    let width = from.len();
    let (from, to) = (block::<N>(from, c), block::<N>(to, c));
    let (mut sum_from, mut sum_to) = (block::<N>(g_from, c), block::<N>(g_to, c));
    for ((g, mix), g_mix) in g.iter().zip(mixes).zip(g_mix.chunks_exact_mut(width)) {
        let Some(g) = g else { continue };
        let (g, mix, mut sum) = (block::<N>(g, start + c), block::<N>(mix, c), block::<N>(g_mix, c));
        for lane in 0..N {
            let through = g[lane] * mix[lane];
            sum_to[lane] += through;
            sum_from[lane] += g[lane] - through;
            sum[lane] = I::fma(g[lane], to[lane] - from[lane], sum[lane]);
        }
        g_mix[c..c + N].copy_from_slice(&sum);
    }
    g_from[c..c + N].copy_from_slice(&sum_from);
    g_to[c..c + N].copy_from_slice(&sum_to);
}

#[inline(always)]
fn block<const N: usize>(x: &[f32], start: usize) -> [f32; N] {
    let mut out = [0.0; N];
    out.copy_from_slice(&x[start..start + N]);
    out
}

#[inline(always)]
fn moments_body<I: Isa>(x: &[f32], eps: f32) -> (f32, f32) {
    mean_and_scale::<I>(x, eps)
}

#[inline(always)]
fn layer_norm_backward_body<I: Isa>(
    g: &[f32],
    x: &[f32],
    weight: &[f32],
    (mean, scale): (f32, f32),
    gx: &mut [f32],
    g_weight: &mut [f32],
    g_bias: &mut [f32],
) {
    let n = x.len();
    let (g, weight) = (&g[..n], &weight[..n]);
    let (gx, g_weight, g_bias) = (&mut gx[..n], &mut g_weight[..n], &mut g_bias[..n]);
    let (mut plain, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
    let ((gs, g_rest), (xs, x_rest)) = (g.as_chunks::<LANES>(), x.as_chunks::<LANES>());
    let (weights, weight_rest) = weight.as_chunks::<LANES>();
    for ((g, x), weight) in gs.iter().zip(xs).zip(weights) {
        for lane in 0..LANES {
            let (normal, gw) = ((x[lane] - mean) * scale, g[lane] * weight[lane]);
            plain[lane] += gw;
            along[lane] = I::fma(gw, normal, along[lane]);
        }
    }
    for lane in 0..x_rest.len() {
        let (normal, gw) = ((x_rest[lane] - mean) * scale, g_rest[lane] * weight_rest[lane]);
        plain[lane] += gw;
        along[lane] = I::fma(gw, normal, along[lane]);
    }
    let (plain, along) = (tree(plain) / n as f32, tree(along) / n as f32);
    for c in 0..n {
        let normal = (x[c] - mean) * scale;
        gx[c] = scale * (g[c] * weight[c] - plain - normal * along);
        g_weight[c] = I::fma(g[c], normal, g_weight[c]);
        g_bias[c] += g[c];
    }
}

#[inline(always)]
fn group_norm_backward_body<I: Isa>(
    heads: usize,
    g: &[f32],
    x: &[f32],
    weight: &[f32],
    eps: f32,
    gx: &mut [f32],
    g_weight: &mut [f32],
    g_bias: &mut [f32],
) {
    let n = x.len() / heads;
    for start in (0..heads * n).step_by(n.max(1)) {
        let head = start..start + n;
        let moments = mean_and_scale::<I>(&x[head.clone()], eps);
        layer_norm_backward_body::<I>(
            &g[head.clone()],
            &x[head.clone()],
            &weight[head.clone()],
            moments,
            &mut gx[head.clone()],
            &mut g_weight[head.clone()],
            &mut g_bias[head],
        );
    }
}

#[expect(clippy::extra_unused_type_parameters, reason = "the instruction set it is compiled for")]
#[inline(always)]
fn add_body<I: Isa>(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

#[inline(always)]
fn add_rows_body<I: Isa>(sum: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(sum.len().max(1)) {
        add_body::<I>(sum, row);
    }
}
