//! RWKV-5.2 (Eagle). Its channel mix is that of [RWKV-4](super::rwkv4).
//!
//! Source: Peng et al. 2024, "Eagle and Finch"; BlinkDL/RWKV-LM@524481d5, RWKV-v5. Parameters have their official names.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

pub use super::rwkv4::ChannelMix;
use super::{BlockState, Pass};
use crate::error::Error;
use crate::layer::{Linear, Norm, Weights};
use crate::model::Sizes;
use crate::op::shift::{Toward, shift};
use crate::op::wkv5::{Wkv5, wkv5};

/// The time mix. Shapes: C width, H heads of N channels.
#[derive(Module, Debug)]
pub struct TimeMix {
    /// Shifts of the four inputs, `[C]` each.
    pub time_mix_k: Param<Tensor<1>>,
    /// Of the value.
    pub time_mix_v: Param<Tensor<1>>,
    /// Of the receptance.
    pub time_mix_r: Param<Tensor<1>>,
    /// Of the gate.
    pub time_mix_g: Param<Tensor<1>>,
    /// The decay before its two exponentials, [H, N].
    pub time_decay: Param<Tensor<2>>,
    /// What the current token counts for, [H, N].
    pub time_faaaa: Param<Tensor<2>>,
    /// [C, C].
    pub receptance: Linear,
    /// [C, C].
    pub key: Linear,
    /// [C, C].
    pub value: Linear,
    /// [C, C].
    pub output: Linear,
    /// [C, C].
    pub gate: Linear,
    /// The norm over heads.
    pub ln_x: Norm,
}

impl TimeMix {
    /// Reads the time mix of a block.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes) -> Result<TimeMix, Error> {
        let (c, heads, head_size) = (sizes.width, sizes.heads, sizes.head_size);
        let w = &mut weights;
        Ok(TimeMix {
            time_mix_k: w.param("time_mix_k", [c])?,
            time_mix_v: w.param("time_mix_v", [c])?,
            time_mix_r: w.param("time_mix_r", [c])?,
            time_mix_g: w.param("time_mix_g", [c])?,
            time_decay: w.param("time_decay", [heads, head_size])?,
            time_faaaa: w.param("time_faaaa", [heads, head_size])?,
            receptance: Linear::new(w.at("receptance"), c, c)?,
            key: Linear::new(w.at("key"), c, c)?,
            value: Linear::new(w.at("value"), c, c)?,
            output: Linear::new(w.at("output"), c, c)?,
            gate: Linear::new(w.at("gate"), c, c)?,
            ln_x: Norm::new(w.at("ln_x"), c)?,
        })
    }

    /// Adds the time mix of `norm(x)` to the stream.
    pub fn forward(&self, pass: &mut Pass, norm: &Norm, sizes: &Sizes, state: &mut BlockState) {
        let mixes = [&self.time_mix_k, &self.time_mix_v, &self.time_mix_r, &self.time_mix_g].map(|mix| mix.val());
        let (mixed, att_shift, x) = shift(
            &pass.x,
            &norm.weight.val(),
            &norm.bias.val(),
            sizes.layer_norm_eps,
            &state.att_shift,
            &pass.cu_seqlens,
            Toward::Current,
            &mixes.each_ref(),
        );
        let [xk, xv, xr, xg] = &mixed[..] else { unreachable!("four mixes give four inputs") };
        let (r, k, v) = (self.receptance.forward(xr), self.key.forward(xk), self.value.forward(xv));
        let g = self.gate.forward(xg);
        let (decay, bonus) = (self.time_decay.val(), self.time_faaaa.val());
        let (ln_weight, ln_bias) = (self.ln_x.weight.val(), self.ln_x.bias.val());
        let inputs = Wkv5 {
            r: &r,
            k: &k,
            v: &v,
            g: &g,
            decay: &decay,
            bonus: &bonus,
            ln_weight: &ln_weight,
            ln_bias: &ln_bias,
            state: &state.wkv,
        };
        let (y, wkv) = wkv5(&inputs, sizes.group_norm_eps, &pass.cu_seqlens);
        pass.x = self.output.forward_add(&y, &x);
        (state.att_shift, state.wkv) = (att_shift, wkv);
    }
}
