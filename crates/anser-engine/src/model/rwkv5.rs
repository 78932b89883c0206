//! RWKV-5 (5.0, 5.1) and 5.2 "Eagle".
//!
//! Time mix, per head of size N with state S `[key, value]`: `y = r (diag(bonus) k v^T + S)`, `S = diag(decay) S + k v^T`,
//! then GroupNorm, gate and output. Decay and bonus are one number a head in 5.0 and 5.1, one a key channel in 5.2; 5.0
//! has no gate.
//!
//! Source: BlinkDL/RWKV-LM, RWKV-v5. Traps: `decay = exp(-exp(time_decay))`; 5.0 stores the bonus as `time_first`, to be
//! exponentiated, the others as `time_faaaa`, used as it is; the trainer's `ln_x(y / 8)` with eps 1e-5 is eps 64e-5 on y.

use anser_kernels::linear::{Epilogue, Matrix, Product, products};
use anser_kernels::norm::group_norm;
use anser_kernels::recurrence::{Heads, Parameter, wkv5};
use anser_kernels::rows::for_rows;
use smallvec::smallvec;

use super::channel::{ChannelMix, Shares};
use super::loader::{Loader, Norm};
use super::pass::{Pass, Products};
use crate::Error;
use crate::executor::Arena;
use crate::state::{ATT_SHIFT, WKV};

/// One layer.
pub(super) struct Block {
    heads: Heads,
    group_norm_eps: f32,
    norm: Norm,
    /// Token shift of k, v, r, each `[C]`.
    mix: [Vec<f32>; 3],
    /// `[H, N]`, in (0, 1).
    decay: Vec<f32>,
    /// `[H, N]`
    bonus: Vec<f32>,
    key: Matrix,
    value: Matrix,
    receptance: Matrix,
    gate: Option<Gate>,
    output: Matrix,
    ln_x_weight: Vec<f32>,
    ln_x_bias: Vec<f32>,
    channel_mix: ChannelMix,
}

/// `silu(W x_g)`, from 5.1 on.
struct Gate {
    mix: Vec<f32>,
    weight: Matrix,
}

impl super::Block for Block {
    fn load(loader: &Loader<'_>, layer: usize) -> Result<Block, Error> {
        let config = loader.config();
        let att = format!("blocks.{layer}.att");
        let vector = |name: &str| loader.vector(&format!("{att}.{name}"));
        let matrix = |name: &str| loader.matrix(&format!("{att}.{name}.weight"));
        // One number a head is the same number for each of its channels.
        let per_channel = |values: Vec<f32>, f: fn(f32) -> f32| -> Vec<f32> {
            let repeats = config.width / values.len();
            values.into_iter().flat_map(|x| std::iter::repeat_n(f(x), repeats)).collect()
        };
        let bonus = if loader.has(&format!("{att}.time_first")) {
            per_channel(vector("time_first")?, f32::exp)
        } else {
            per_channel(vector("time_faaaa")?, |u| u)
        };
        let gate = if loader.has(&format!("{att}.gate.weight")) {
            Some(Gate { mix: vector("time_mix_g")?, weight: matrix("gate")? })
        } else {
            None
        };
        Ok(Block {
            heads: Heads { heads: config.heads, head_size: config.head_size },
            group_norm_eps: config.group_norm_eps,
            norm: loader.norm(&format!("blocks.{layer}.ln1"))?,
            mix: [vector("time_mix_k")?, vector("time_mix_v")?, vector("time_mix_r")?],
            decay: per_channel(vector("time_decay")?, |d| (-d.exp()).exp()),
            bonus,
            key: matrix("key")?,
            value: matrix("value")?,
            receptance: matrix("receptance")?,
            gate,
            output: matrix("output")?,
            ln_x_weight: vector("ln_x.weight")?,
            ln_x_bias: vector("ln_x.bias")?,
            channel_mix: ChannelMix::load(loader, layer, Shares::Current)?,
        })
    }

    fn time_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        let (rows, len) = (pass.rows, x.len());
        let gated = if self.gate.is_some() { len } else { 0 };
        let [normed, xk, xv, xr, xg, k, v, r, g, y] = arena.cut([len, len, len, len, gated, len, len, len, gated, len]);
        pass.norm(&self.norm, x, normed);
        let shifted = pass.shifted(normed, ATT_SHIFT);
        for_rows(pass.pool, rows, [&mut *xk, xv, xr, xg], |row, [xk, xv, xr, xg]| {
            let (x, previous) = shifted.row(row);
            for (out, mix) in [xk, xv, xr].into_iter().zip(&self.mix) {
                Shares::Current.mix(out, x, previous, mix);
            }
            if let Some(gate) = &self.gate {
                Shares::Current.mix(xg, x, previous, &gate.mix);
            }
        });
        drop(shifted);
        pass.remember(normed, ATT_SHIFT);
        let mut projections: Products<'_> = smallvec![
            Product { w: &self.key, x: xk, y: k, then: Epilogue::Store },
            Product { w: &self.value, x: xv, y: v, then: Epilogue::Store },
            Product { w: &self.receptance, x: xr, y: r, then: Epilogue::Store },
        ];
        if let Some(gate) = &self.gate {
            projections.push(Product { w: &gate.weight, x: xg, y: g, then: Epilogue::Silu });
        }
        products(pass.pool, &mut projections);
        drop(projections);

        let (decay, bonus) = (Parameter::PerChannel(&self.decay), Parameter::PerChannel(&self.bonus));
        let inputs = wkv5::Inputs { r, k, v };
        wkv5::scan(pass.pool, self.heads, pass.cu_seqlens, &inputs, decay, bonus, &mut pass.slots(WKV), y);
        for_rows(pass.pool, rows, [&mut *y], |row, [y]| {
            group_norm(y, self.heads.heads, &self.ln_x_weight, &self.ln_x_bias, self.group_norm_eps);
            if self.gate.is_some() {
                let g = &g[row * y.len()..];
                for (y, g) in y.iter_mut().zip(g) {
                    *y *= g;
                }
            }
        });
        products(pass.pool, &mut [Product { w: &self.output, x: y, y: x, then: Epilogue::Add }]);
    }

    fn channel_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        self.channel_mix.forward(pass, arena, x);
    }
}
