//! RWKV-4.
//!
//! Time mix, per channel: a weighted mean of all earlier values, `exp(k)` the weight, fading by `exp(log_decay)` a step,
//! the current value's weight raised by the bonus; `out = W_o (sigmoid(r) * wkv)`.
//!
//! Source: BlinkDL/RWKV-LM, RWKV-v4neo. Trap: `time_decay` is stored so that `log_decay = -exp(time_decay)`; the bonus
//! `time_first` is used as it is.

use anser_kernels::linear::{Epilogue, Matrix, Product, products};
use anser_kernels::recurrence::wkv4;
use anser_kernels::rows::for_rows;

use super::channel::{ChannelMix, Shares};
use super::loader::{Loader, Norm};
use super::pass::Pass;
use crate::Error;
use crate::executor::Arena;
use crate::state::{ATT_SHIFT, WKV};

/// One layer.
pub(super) struct Block {
    norm: Norm,
    /// Token shift of k, v, r, each `[C]`.
    mix: [Vec<f32>; 3],
    /// Negative, `[C]`.
    log_decay: Vec<f32>,
    /// `[C]`
    bonus: Vec<f32>,
    key: Matrix,
    value: Matrix,
    receptance: Matrix,
    output: Matrix,
    channel_mix: ChannelMix,
}

impl super::Block for Block {
    fn load(loader: &Loader<'_>, layer: usize) -> Result<Block, Error> {
        let att = format!("blocks.{layer}.att");
        let vector = |name: &str| loader.vector(&format!("{att}.{name}"));
        let matrix = |name: &str| loader.matrix(&format!("{att}.{name}.weight"));
        Ok(Block {
            norm: loader.norm(&format!("blocks.{layer}.ln1"))?,
            mix: [vector("time_mix_k")?, vector("time_mix_v")?, vector("time_mix_r")?],
            log_decay: vector("time_decay")?.into_iter().map(|d| -d.exp()).collect(),
            bonus: vector("time_first")?,
            key: matrix("key")?,
            value: matrix("value")?,
            receptance: matrix("receptance")?,
            output: matrix("output")?,
            channel_mix: ChannelMix::load(loader, layer, Shares::Current)?,
        })
    }

    fn time_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        let (rows, len) = (pass.rows, x.len());
        let [normed, xk, xv, xr, k, v, r, y] = arena.cut([len; 8]);
        pass.norm(&self.norm, x, normed);
        let shifted = pass.shifted(normed, ATT_SHIFT);
        for_rows(pass.pool, rows, [&mut *xk, xv, xr], |row, outs| {
            let (x, previous) = shifted.row(row);
            for (out, mix) in outs.into_iter().zip(&self.mix) {
                Shares::Current.mix(out, x, previous, mix);
            }
        });
        drop(shifted);
        pass.remember(normed, ATT_SHIFT);
        products(
            pass.pool,
            &mut [
                Product { w: &self.key, x: xk, y: k, then: Epilogue::Store },
                Product { w: &self.value, x: xv, y: v, then: Epilogue::Store },
                Product { w: &self.receptance, x: xr, y: r, then: Epilogue::Sigmoid },
            ],
        );
        let inputs = wkv4::Inputs { k, v };
        wkv4::scan(pass.pool, pass.cu_seqlens, &inputs, &self.log_decay, &self.bonus, &mut pass.slots(WKV), y);
        for (y, r) in y.iter_mut().zip(r) {
            *y *= *r;
        }
        products(pass.pool, &mut [Product { w: &self.output, x: y, y: x, then: Epilogue::Add }]);
    }

    fn channel_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        self.channel_mix.forward(pass, arena, x);
    }
}
