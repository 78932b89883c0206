//! RWKV-6 "Finch" (x060).
//!
//! Time mix: the recurrence of 5.2 with a decay that depends on the token, behind a token shift that depends on it too
//! ("ddlerp"): a LoRA of the shifted input adds to the five mixing vectors.
//!
//! Source: BlinkDL/RWKV-LM, RWKV-v5 (src/model.py, x060). Traps: the parts of `time_maa_w1` and `w2` come in the order
//! w, k, v, r, g; GroupNorm has eps 64e-5.

use anser_kernels::activation::exp;
use anser_kernels::linear::{Epilogue, Matrix, Product, products};
use anser_kernels::norm::{group_norm, lerp};
use anser_kernels::recurrence::{Heads, wkv6};
use anser_kernels::rows::for_rows;
use smallvec::SmallVec;

use super::channel::{ChannelMix, Shares};
use super::loader::{Loader, Norm};
use super::pass::{Pass, Products};
use crate::Error;
use crate::executor::Arena;
use crate::state::{ATT_SHIFT, WKV};

/// Parts of the token shift's LoRA, in the order of the checkpoint: w, k, v, r, g.
const PARTS: usize = 5;

/// One layer.
pub(super) struct Block {
    heads: Heads,
    group_norm_eps: f32,
    norm: Norm,
    /// Shift of the LoRA's own input, `[C]`.
    mix_x: Vec<f32>,
    parts: [Part; PARTS],
    /// `decay = exp(-exp(base + up(tanh(down(x_w)))))`
    decay_base: Vec<f32>,
    decay_down: Matrix,
    decay_up: Matrix,
    /// `[H, N]`
    bonus: Vec<f32>,
    key: Matrix,
    value: Matrix,
    receptance: Matrix,
    gate: Matrix,
    output: Matrix,
    ln_x_weight: Vec<f32>,
    ln_x_bias: Vec<f32>,
    channel_mix: ChannelMix,
}

/// One of the five mixed inputs: `share = base + up(tanh(down(x_x)))`.
struct Part {
    base: Vec<f32>,
    down: Matrix,
    up: Matrix,
}

impl super::Block for Block {
    fn load(loader: &Loader<'_>, layer: usize) -> Result<Block, Error> {
        let config = loader.config();
        let att = format!("blocks.{layer}.att");
        let vector = |name: &str| loader.vector(&format!("{att}.{name}"));
        let matrix = |name: &str| loader.matrix(&format!("{att}.{name}.weight"));
        let factor = |name: &str| loader.factor(&format!("{att}.{name}"));

        let (width, rank) = (config.width, config.ranks.mix);
        let (down_name, up_name) = (format!("{att}.time_maa_w1"), format!("{att}.time_maa_w2"));
        // [C, 5 R] and [5, R, C]
        let (down, up) = (loader.vector(&down_name)?, loader.vector(&up_name)?);
        let part = |i: usize, letter: char| -> Result<Part, Error> {
            let up = &up[i * rank * width..(i + 1) * rank * width];
            Ok(Part {
                base: vector(&format!("time_maa_{letter}"))?,
                down: loader.transposed(&down_name, &down, width, PARTS * rank, i * rank, rank)?,
                up: loader.transposed(&up_name, up, rank, width, 0, width)?,
            })
        };
        Ok(Block {
            heads: Heads { heads: config.heads, head_size: config.head_size },
            group_norm_eps: config.group_norm_eps,
            norm: loader.norm(&format!("blocks.{layer}.ln1"))?,
            mix_x: vector("time_maa_x")?,
            parts: [part(0, 'w')?, part(1, 'k')?, part(2, 'v')?, part(3, 'r')?, part(4, 'g')?],
            decay_base: vector("time_decay")?,
            decay_down: factor("time_decay_w1")?,
            decay_up: factor("time_decay_w2")?,
            bonus: vector("time_faaaa")?,
            key: matrix("key")?,
            value: matrix("value")?,
            receptance: matrix("receptance")?,
            gate: matrix("gate")?,
            output: matrix("output")?,
            ln_x_weight: vector("ln_x.weight")?,
            ln_x_bias: vector("ln_x.bias")?,
            channel_mix: ChannelMix::load(loader, layer, Shares::Previous)?,
        })
    }

    fn time_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        let (rows, len) = (pass.rows, x.len());
        let (mix_rank, decay_rank) = (rows * self.parts[0].down.rows(), rows * self.decay_down.rows());
        let [normed, xx, xw, xk, xv, xr, xg, w, k, v, r, g, y, low, wd] =
            arena.cut([len, len, len, len, len, len, len, len, len, len, len, len, len, PARTS * mix_rank, decay_rank]);
        pass.norm(&self.norm, x, normed);
        let shifted = pass.shifted(normed, ATT_SHIFT);
        for_rows(pass.pool, rows, [&mut *xx], |row, [xx]| {
            let (x, previous) = shifted.row(row);
            lerp(x, previous, &self.mix_x, xx);
        });
        let mut down: Products<'_> = SmallVec::new();
        for (part, low) in self.parts.iter().zip(low.chunks_exact_mut(mix_rank.max(1))) {
            down.push(Product { w: &part.down, x: xx, y: low, then: Epilogue::Tanh });
        }
        products(pass.pool, &mut down);
        drop(down);
        let mut up: Products<'_> = SmallVec::new();
        let mixed = [&mut *xw, &mut *xk, &mut *xv, &mut *xr, &mut *xg];
        for ((part, low), mixed) in self.parts.iter().zip(low.chunks_exact(mix_rank.max(1))).zip(mixed) {
            up.push(Product { w: &part.up, x: low, y: mixed, then: Epilogue::Store });
        }
        products(pass.pool, &mut up);
        drop(up);
        // The five buffers hold the LoRA's share of the mixing vectors; now the mixed inputs themselves.
        for_rows(pass.pool, rows, [&mut *xw, xk, xv, xr, xg], |row, outs| {
            let (x, previous) = shifted.row(row);
            for (out, part) in outs.into_iter().zip(&self.parts) {
                for (((out, x), previous), base) in out.iter_mut().zip(x).zip(previous).zip(&part.base) {
                    *out = x + (previous - x) * (base + *out);
                }
            }
        });
        drop(shifted);
        pass.remember(normed, ATT_SHIFT);

        products(
            pass.pool,
            &mut [
                Product { w: &self.key, x: xk, y: k, then: Epilogue::Store },
                Product { w: &self.value, x: xv, y: v, then: Epilogue::Store },
                Product { w: &self.receptance, x: xr, y: r, then: Epilogue::Store },
                Product { w: &self.gate, x: xg, y: g, then: Epilogue::Silu },
                Product { w: &self.decay_down, x: xw, y: wd, then: Epilogue::Tanh },
            ],
        );
        products(pass.pool, &mut [Product { w: &self.decay_up, x: wd, y: w, then: Epilogue::Store }]);
        for_rows(pass.pool, rows, [&mut *w], |_, [w]| {
            for (w, base) in w.iter_mut().zip(&self.decay_base) {
                *w += base;
            }
            exp(w);
            w.iter_mut().for_each(|w| *w = -*w);
            exp(w);
        });
        let inputs = wkv6::Inputs { r, decay: w, k, v };
        wkv6::scan(pass.pool, self.heads, pass.cu_seqlens, &inputs, &self.bonus, &mut pass.slots(WKV), y);
        for_rows(pass.pool, rows, [&mut *y], |row, [y]| {
            group_norm(y, self.heads.heads, &self.ln_x_weight, &self.ln_x_bias, self.group_norm_eps);
            let g = &g[row * y.len()..];
            for (y, g) in y.iter_mut().zip(g) {
                *y *= g;
            }
        });
        products(pass.pool, &mut [Product { w: &self.output, x: y, y: x, then: Epilogue::Add }]);
    }

    fn channel_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        self.channel_mix.forward(pass, arena, x);
    }
}
