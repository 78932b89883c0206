//! RWKV-4 (Dove).
//!
//! Source: Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer Era"; BlinkDL/RWKV-LM@524481d5, RWKV-v4neo.
//! Parameters have their official names.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{BlockState, Pass};
use crate::error::Error;
use crate::layer::{Linear, Norm, Weights};
use crate::model::Sizes;
use crate::op::gate::gate_add;
use crate::op::relu2::relu2;
use crate::op::shift::{Toward, shift};
use crate::op::wkv4::{Wkv4, wkv4};

/// The time mix. Shapes: C width.
#[derive(Module, Debug)]
pub struct TimeMix {
    /// The decay before its two exponentials, `[C]`.
    pub time_decay: Param<Tensor<1>>,
    /// What is added to the current token's key, `[C]`.
    pub time_first: Param<Tensor<1>>,
    /// Shifts of the three inputs, `[C]` each.
    pub time_mix_k: Param<Tensor<1>>,
    /// Of the value.
    pub time_mix_v: Param<Tensor<1>>,
    /// Of the receptance.
    pub time_mix_r: Param<Tensor<1>>,
    /// [C, C].
    pub key: Linear,
    /// [C, C].
    pub value: Linear,
    /// [C, C].
    pub receptance: Linear,
    /// [C, C].
    pub output: Linear,
}

/// The channel mix of RWKV-4 and 5.
#[derive(Module, Debug)]
pub struct ChannelMix {
    /// Shift of the key's input, `[C]`.
    pub time_mix_k: Param<Tensor<1>>,
    /// Of the receptance's, `[C]`.
    pub time_mix_r: Param<Tensor<1>>,
    /// [F, C].
    pub key: Linear,
    /// [C, C].
    pub receptance: Linear,
    /// [C, F].
    pub value: Linear,
}

impl TimeMix {
    /// Reads the time mix of a block.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes) -> Result<TimeMix, Error> {
        let c = sizes.width;
        let w = &mut weights;
        Ok(TimeMix {
            time_decay: w.param("time_decay", [c])?,
            time_first: w.param("time_first", [c])?,
            time_mix_k: w.param("time_mix_k", [c])?,
            time_mix_v: w.param("time_mix_v", [c])?,
            time_mix_r: w.param("time_mix_r", [c])?,
            key: Linear::new(w.at("key"), c, c)?,
            value: Linear::new(w.at("value"), c, c)?,
            receptance: Linear::new(w.at("receptance"), c, c)?,
            output: Linear::new(w.at("output"), c, c)?,
        })
    }

    /// Adds the time mix of `norm(x)` to the stream.
    pub fn forward(&self, pass: &mut Pass, norm: &Norm, sizes: &Sizes, state: &mut BlockState) {
        let mixes = [&self.time_mix_k, &self.time_mix_v, &self.time_mix_r].map(|mix| mix.val());
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
        let [xk, xv, xr] = &mixed[..] else { unreachable!("three mixes give three inputs") };
        let (k, v, r) = (self.key.forward(xk), self.value.forward(xv), self.receptance.forward(xr));
        let (decay, bonus) = (self.time_decay.val(), self.time_first.val());
        let inputs = Wkv4 { r: &r, k: &k, v: &v, decay: &decay, bonus: &bonus, state: &state.wkv };
        let (y, wkv) = wkv4(&inputs, &pass.cu_seqlens);
        pass.x = self.output.forward_add(&y, &x);
        (state.att_shift, state.wkv) = (att_shift, wkv);
    }
}

impl ChannelMix {
    /// Reads the channel mix of a block.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes) -> Result<ChannelMix, Error> {
        let (c, f) = (sizes.width, sizes.ffn);
        Ok(ChannelMix {
            time_mix_k: weights.param("time_mix_k", [c])?,
            time_mix_r: weights.param("time_mix_r", [c])?,
            key: Linear::new(weights.at("key"), f, c)?,
            receptance: Linear::new(weights.at("receptance"), c, c)?,
            value: Linear::new(weights.at("value"), c, f)?,
        })
    }

    /// Adds the channel mix of `norm(x)` to the stream.
    pub fn forward(&self, pass: &mut Pass, norm: &Norm, sizes: &Sizes, state: &mut BlockState) {
        let (mixed, ffn_shift, x) = shift(
            &pass.x,
            &norm.weight.val(),
            &norm.bias.val(),
            sizes.layer_norm_eps,
            &state.ffn_shift,
            &pass.cu_seqlens,
            Toward::Current,
            &[&self.time_mix_k.val(), &self.time_mix_r.val()],
        );
        let [xk, xr] = &mixed[..] else { unreachable!("two mixes give two inputs") };
        let v = self.value.forward(&relu2(&self.key.forward(xk)));
        pass.x = gate_add(&x, &self.receptance.forward(xr), &v);
        state.ffn_shift = ffn_shift;
    }
}
