//! LayerNorm, token shift and the interpolations of a mixer's inputs: what stands before the matrices of every mixer
//! but RWKV-6's time mix.

use std::sync::Arc;

use anser_kernels::norm::{layer_norm, lerp};
use anser_kernels::simd::{fetch, level};
use burn::tensor::Tensor;

use super::layer_norm::layer_norm_composite;
use super::rows::{AHEAD, Borders, Rows, buffer, fetch_row, for_pieces, sum_pieces};
use super::{Array, Gradient, Inputs, Operation, lanes};
use crate::threads::pool;

/// Which way a mix interpolates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// `previous + (current - previous) * mix`: RWKV-4 and 5.
    Current,
    /// `current + (previous - current) * mix`: RWKV-6 and 7.
    Previous,
}

/// Normalises x [T, C] with `weight` and `bias` `[C]`, then interpolates every row with the normalised row before it,
/// once a mix `[C]`: as many results [T, C]. The row before a sequence's first is its row of `state` [S, C]; the next
/// result has what the states become, each sequence's last normalised row. The last is x, for whoever adds to it.
pub fn shift(
    x: &Tensor<2>,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    eps: f32,
    state: &Tensor<2>,
    cu_seqlens: &Arc<[usize]>,
    toward: Toward,
    mixes: &[&Tensor<1>],
) -> (Vec<Tensor<2>>, Tensor<2>, Tensor<2>) {
    let [_, width] = x.dims();
    let op = Shift { width, eps, cu_seqlens: Arc::clone(cu_seqlens), toward };
    let inputs = Inputs::new().with(x).with(weight).with(bias).with(state);
    let mut outputs = mixes.iter().fold(inputs, |inputs, mix| inputs.with(mix)).run(op);
    (mixes.iter().map(|_| outputs.take()).collect(), outputs.take(), outputs.take())
}

/// [`shift`] in tensor operations.
pub fn shift_composite(
    x: &Tensor<2>,
    weight: &Tensor<1>,
    bias: &Tensor<1>,
    eps: f32,
    state: &Tensor<2>,
    cu_seqlens: &Arc<[usize]>,
    toward: Toward,
    mixes: &[&Tensor<1>],
) -> (Vec<Tensor<2>>, Tensor<2>, Tensor<2>) {
    let h = layer_norm_composite(x, weight, bias, eps);
    let (previous, last) = previous_rows(&h, state, cu_seqlens);
    let mixed = |mix: &&Tensor<1>| {
        let mix: Tensor<2> = (*mix).clone().unsqueeze();
        let (from, to) = match toward {
            Toward::Current => (&previous, &h),
            Toward::Previous => (&h, &previous),
        };
        from.clone() + (to.clone() - from.clone()) * mix
    };
    (mixes.iter().map(mixed).collect(), last, x.clone())
}

/// For every row of h [T, C] the row before it, and the last row of each sequence [S, C]; states [S, C] stand before
/// the first rows, and for sequences without any.
pub(super) fn previous_rows(h: &Tensor<2>, state: &Tensor<2>, cu_seqlens: &[usize]) -> (Tensor<2>, Tensor<2>) {
    let [_, width] = h.dims();
    let (mut previous, mut last) = (Vec::new(), Vec::new());
    for (s, ends) in cu_seqlens.windows(2).enumerate() {
        let own = state.clone().slice([s..s + 1, 0..width]);
        if ends[0] == ends[1] {
            last.push(own);
            continue;
        }
        previous.push(own);
        if ends[1] - ends[0] > 1 {
            previous.push(h.clone().slice([ends[0]..ends[1] - 1, 0..width]));
        }
        last.push(h.clone().slice([ends[1] - 1..ends[1], 0..width]));
    }
    (Tensor::cat(previous, 0), Tensor::cat(last, 0))
}

#[derive(Debug)]
struct Shift {
    width: usize,
    eps: f32,
    cu_seqlens: Arc<[usize]>,
    toward: Toward,
}

impl Shift {
    /// (from, to) of the interpolation.
    fn ends<'a>(&self, current: &'a [f32], previous: &'a [f32]) -> (&'a [f32], &'a [f32]) {
        match self.toward {
            Toward::Current => (previous, current),
            Toward::Previous => (current, previous),
        }
    }
}

/// The normalised row at `row`, and what the token shift sees before it: walks up and down the rows of a piece.
pub(super) struct Normal<'a> {
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) state: &'a [f32],
    pub(super) width: usize,
    pub(super) eps: f32,
}

impl Normal<'_> {
    /// Normalises row `row` into `out`, and returns its mean and scale.
    pub(super) fn row(&self, row: usize, out: &mut [f32]) -> (f32, f32) {
        let x = &self.x[row * self.width..(row + 1) * self.width];
        layer_norm(x, self.weight, self.bias, self.eps, out)
    }

    /// Writes what the shift sees before `row`; returns its mean and scale, if that is a row.
    pub(super) fn before(&self, row: usize, borders: &Borders, out: &mut [f32]) -> Option<(f32, f32)> {
        match borders.first(row) {
            Some(s) => {
                out.copy_from_slice(&self.state[s * self.width..(s + 1) * self.width]);
                None
            }
            None => Some(self.row(row - 1, out)),
        }
    }

    /// The states after the rows: each sequence's last normalised row.
    pub(super) fn last(&self, cu_seqlens: &[usize]) -> Vec<f32> {
        let mut last = self.state.to_vec();
        for (ends, last) in cu_seqlens.windows(2).zip(last.chunks_exact_mut(self.width)) {
            if ends[0] < ends[1] {
                self.row(ends[1] - 1, last);
            }
        }
        last
    }
}

impl Operation for Shift {
    fn forward(&self, inputs: &[&[f32]], _: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let width = self.width;
        let rows = inputs[0].len() / width;
        let normal =
            Normal { x: inputs[0], weight: inputs[1], bias: inputs[2], state: inputs[3], width, eps: self.eps };
        let mixes = &inputs[4..];
        let borders = Borders::new(&self.cu_seqlens);
        let mut outs: Vec<Vec<f32>> = mixes.iter().map(|_| buffer(rows * width)).collect();
        let shared: Vec<_> = outs.iter_mut().map(|out| Rows::new(out, width)).collect();
        for_pieces(&pool(), rows, [], |rows, []| {
            let (mut current, mut previous) = (vec![0.0; width], vec![0.0; width]);
            normal.before(rows.start, &borders, &mut previous);
            for row in rows {
                fetch_row(normal.x, row, width);
                shared.iter().for_each(|out| out.fetch(row));
                if borders.first(row).is_some() {
                    normal.before(row, &borders, &mut previous);
                }
                normal.row(row, &mut current);
                let (from, to) = self.ends(&current, &previous);
                for (mix, out) in mixes.iter().zip(&shared) {
                    lerp(from, to, mix, out.row(row));
                }
                std::mem::swap(&mut current, &mut previous);
            }
        });
        let last = normal.last(&self.cu_seqlens);
        let sequences = self.cu_seqlens.len() - 1;
        let mut arrays: Vec<Array> = outs.into_iter().map(|out| Array::new(out, &[rows, width])).collect();
        arrays.push(Array::new(last, &[sequences, width]));
        (arrays, Vec::new())
    }

    fn passed(&self) -> &[usize] {
        &[0]
    }

    fn backward(&self, inputs: &[&[f32]], _: Vec<Vec<f32>>, outputs: &[Option<&[f32]>], _: &[bool]) -> Vec<Gradient> {
        let width = self.width;
        let rows = inputs[0].len() / width;
        let normal =
            Normal { x: inputs[0], weight: inputs[1], bias: inputs[2], state: inputs[3], width, eps: self.eps };
        let mixes = &inputs[4..];
        let (g_mixed, g_last, g_passed) = (&outputs[..mixes.len()], outputs[mixes.len()], outputs[mixes.len() + 1]);
        let borders = Borders::new(&self.cu_seqlens);
        let level = level();
        let sequences = self.cu_seqlens.len() - 1;
        let mut g_state = vec![0.0; sequences * width];
        let state = Rows::new(&mut g_state, width);
        let mut gx = buffer(rows * width);
        // What row `row` passes to the row before it, and the mixes' gradients on the way.
        let backward =
            |row: usize, now: &[f32], before: &[f32], g_now: &mut [f32], g_before: &mut [f32], g_mix: &mut [f32]| {
                let (from, to) = self.ends(now, before);
                let (g_from, g_to) = match self.toward {
                    Toward::Previous => (g_now, g_before),
                    Toward::Current => (g_before, g_now),
                };
                lanes::lerps_backward(level, g_mixed, row * width, from, to, mixes, g_from, g_to, g_mix);
            };
        let sums = sum_pieces(&pool(), rows, [&mut gx], (2 + mixes.len()) * width, |rows, [gx], sums| {
            let (g_norm, g_mix) = sums.split_at_mut(2 * width);
            let (g_weight, g_bias) = g_norm.split_at_mut(width);
            let mut unused = vec![0.0; g_mix.len()];
            let [mut now, mut before, mut g_now, mut g_before, mut ignored] = std::array::from_fn(|_| vec![0.0; width]);
            // What the row after this piece passes into it.
            let after = rows.end;
            if after * width < normal.x.len() && borders.first(after).is_none() {
                normal.row(after, &mut now);
                normal.before(after, &borders, &mut before);
                backward(after, &now, &before, &mut ignored, &mut g_before, &mut unused);
            }
            let mut moments = normal.row(rows.end - 1, &mut now);
            for row in rows.clone().rev() {
                for values in g_mixed.iter().chain([&g_passed]).flatten().chain([&normal.x]) {
                    fetch(values.as_ptr().wrapping_add(row * width).wrapping_sub(AHEAD * width), width);
                }
                fetch(gx.as_ptr().wrapping_add((row - rows.start) * width).wrapping_sub(AHEAD * width), width);
                // g_before now is what the next row passes to this one.
                std::mem::swap(&mut g_now, &mut g_before);
                g_before.fill(0.0);
                if let Some(s) = borders.last(row) {
                    match g_last {
                        Some(g) => g_now.copy_from_slice(&g[s * width..(s + 1) * width]),
                        None => g_now.fill(0.0),
                    }
                }
                let earlier = normal.before(row, &borders, &mut before);
                backward(row, &now, &before, &mut g_now, &mut g_before, g_mix);
                let x = &normal.x[row * width..(row + 1) * width];
                let out = (row - rows.start) * width;
                let gx = &mut gx[out..out + width];
                lanes::layer_norm_backward(level, &g_now, x, normal.weight, moments, gx, g_weight, g_bias);
                if let Some(g) = g_passed {
                    lanes::add(level, gx, &g[row * width..(row + 1) * width]);
                }
                if let Some(earlier) = earlier {
                    moments = earlier;
                    std::mem::swap(&mut now, &mut before);
                } else if let Some(s) = borders.first(row) {
                    state.row(s).copy_from_slice(&g_before);
                    g_before.fill(0.0);
                    if row > rows.start {
                        moments = normal.row(row - 1, &mut now);
                    }
                }
            }
        });
        // A sequence without rows hands its state on.
        if let Some(g) = g_last {
            for (s, _) in self.cu_seqlens.windows(2).enumerate().filter(|(_, ends)| ends[0] == ends[1]) {
                g_state[s * width..(s + 1) * width].copy_from_slice(&g[s * width..(s + 1) * width]);
            }
        }
        let mut gradients = vec![Gradient::Values(gx)];
        gradients.extend(sums.chunks_exact(width).take(2).map(|g| Gradient::Values(g.to_vec())));
        gradients.push(Gradient::Values(g_state));
        gradients.extend(sums.chunks_exact(width).skip(2).map(|g| Gradient::Values(g.to_vec())));
        gradients
    }
}
