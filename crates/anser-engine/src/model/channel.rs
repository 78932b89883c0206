//! The channel mix of versions 4 to 6: `sigmoid(W_r x_r) * W_v relu(W_k x_k)^2`.

use anser_kernels::linear::{Epilogue, Matrix, Product, products};
use anser_kernels::norm::lerp;
use anser_kernels::rows::for_rows;

use super::loader::{Loader, Norm};
use super::pass::Pass;
use crate::Error;
use crate::executor::Arena;
use crate::state::FFN_SHIFT;

/// Which of the two tokens a stored token-shift vector multiplies.
#[derive(Clone, Copy)]
pub(super) enum Shares {
    /// `x * mu + previous * (1 - mu)`: versions 4 and 5, tensors `time_mix_*`.
    Current,
    /// `x + (previous - x) * m`: version 6, tensors `time_maa_*`.
    Previous,
}

impl Shares {
    /// Mixes one row, all `[C]`.
    pub(super) fn mix(self, out: &mut [f32], x: &[f32], previous: &[f32], share: &[f32]) {
        match self {
            Shares::Current => lerp(previous, x, share, out),
            Shares::Previous => lerp(x, previous, share, out),
        }
    }

    fn tensor(self) -> &'static str {
        match self {
            Shares::Current => "time_mix",
            Shares::Previous => "time_maa",
        }
    }
}

/// Weights of one layer's channel mix.
pub(super) struct ChannelMix {
    norm: Norm,
    shares: Shares,
    mix_k: Vec<f32>,
    mix_r: Vec<f32>,
    key: Matrix,
    receptance: Matrix,
    value: Matrix,
}

impl ChannelMix {
    pub(super) fn load(loader: &Loader<'_>, layer: usize, shares: Shares) -> Result<ChannelMix, Error> {
        let (block, mix) = (format!("blocks.{layer}"), shares.tensor());
        Ok(ChannelMix {
            norm: loader.norm(&format!("{block}.ln2"))?,
            shares,
            mix_k: loader.vector(&format!("{block}.ffn.{mix}_k"))?,
            mix_r: loader.vector(&format!("{block}.ffn.{mix}_r"))?,
            key: loader.matrix(&format!("{block}.ffn.key.weight"))?,
            receptance: loader.matrix(&format!("{block}.ffn.receptance.weight"))?,
            value: loader.matrix(&format!("{block}.ffn.value.weight"))?,
        })
    }

    /// Adds the channel mix to the residual stream `x` `[rows, C]`.
    pub(super) fn forward(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        let (rows, len) = (pass.rows, x.len());
        let [normed, xk, xr, k, r, v] = arena.cut([len, len, len, rows * self.key.rows(), len, len]);
        pass.norm(&self.norm, x, normed);
        let shifted = pass.shifted(normed, FFN_SHIFT);
        for_rows(pass.pool, rows, [&mut *xk, xr], |row, [xk, xr]| {
            let (x, previous) = shifted.row(row);
            self.shares.mix(xk, x, previous, &self.mix_k);
            self.shares.mix(xr, x, previous, &self.mix_r);
        });
        drop(shifted);
        pass.remember(normed, FFN_SHIFT);
        products(
            pass.pool,
            &mut [
                Product { w: &self.key, x: xk, y: k, then: Epilogue::Relu2 },
                Product { w: &self.receptance, x: xr, y: r, then: Epilogue::Sigmoid },
            ],
        );
        products(pass.pool, &mut [Product { w: &self.value, x: k, y: v, then: Epilogue::Store }]);
        for ((x, r), v) in x.iter_mut().zip(r).zip(v) {
            *x += *r * *v;
        }
    }
}
