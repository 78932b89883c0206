//! RWKV-6 (Finch).
//!
//! Source: Peng et al. 2024, "Eagle and Finch"; BlinkDL/RWKV-LM@524481d5, RWKV-v5 (x060). Parameters have their official
//! names.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{BlockState, Pass};
use crate::error::Error;
use crate::layer::{Linear, Norm, Weights};
use crate::model::Sizes;
use crate::op::gate::gate_add;
use crate::op::low_rank::{Inner, LowRank, low_rank};
use crate::op::relu2::relu2;
use crate::op::shift::{Toward, shift};
use crate::op::shift6::{PARTS, Shift6, shift6};
use crate::op::wkv6::{Wkv6, wkv6};

/// The time mix. Shapes: C width, H heads of N channels.
#[derive(Module, Debug)]
pub struct TimeMix {
    /// Shift of the input of the low-rank part, `[C]`.
    pub time_maa_x: Param<Tensor<1>>,
    /// Constant parts of the shifts of the five inputs, `[C]` each: of the decay.
    pub time_maa_w: Param<Tensor<1>>,
    /// Of the key.
    pub time_maa_k: Param<Tensor<1>>,
    /// Of the value.
    pub time_maa_v: Param<Tensor<1>>,
    /// Of the receptance.
    pub time_maa_r: Param<Tensor<1>>,
    /// Of the gate.
    pub time_maa_g: Param<Tensor<1>>,
    /// The first factors of the low-rank part, in the order w, k, v, r, g: [C, 5 rank].
    pub time_maa_w1: Param<Tensor<2>>,
    /// The second factors, in the same order: [5, rank, C].
    pub time_maa_w2: Param<Tensor<3>>,
    /// The decay before its exponentials: `time_decay + tanh(x time_decay_w1) time_decay_w2`.
    pub time_decay: Param<Tensor<1>>,
    /// [C, rank].
    pub time_decay_w1: Param<Tensor<2>>,
    /// [rank, C].
    pub time_decay_w2: Param<Tensor<2>>,
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

/// The channel mix.
#[derive(Module, Debug)]
pub struct ChannelMix {
    /// Shift of the key's input, `[C]`.
    pub time_maa_k: Param<Tensor<1>>,
    /// Of the receptance's, `[C]`.
    pub time_maa_r: Param<Tensor<1>>,
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
        let (c, ranks) = (sizes.width, sizes.ranks);
        let w = &mut weights;
        Ok(TimeMix {
            time_maa_x: w.param("time_maa_x", [c])?,
            time_maa_w: w.param("time_maa_w", [c])?,
            time_maa_k: w.param("time_maa_k", [c])?,
            time_maa_v: w.param("time_maa_v", [c])?,
            time_maa_r: w.param("time_maa_r", [c])?,
            time_maa_g: w.param("time_maa_g", [c])?,
            time_maa_w1: w.param("time_maa_w1", [c, PARTS * ranks.mix])?,
            time_maa_w2: w.param("time_maa_w2", [PARTS, ranks.mix, c])?,
            time_decay: w.param("time_decay", [c])?,
            time_decay_w1: w.param("time_decay_w1", [c, ranks.decay])?,
            time_decay_w2: w.param("time_decay_w2", [ranks.decay, c])?,
            time_faaaa: w.param("time_faaaa", [sizes.heads, sizes.head_size])?,
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
        let mixes = [&self.time_maa_w, &self.time_maa_k, &self.time_maa_v, &self.time_maa_r, &self.time_maa_g]
            .map(|mix| mix.val());
        let inputs = Shift6 {
            x: &pass.x,
            weight: &norm.weight.val(),
            bias: &norm.bias.val(),
            state: &state.att_shift,
            mix_x: &self.time_maa_x.val(),
            mixes: mixes.each_ref(),
            down: &self.time_maa_w1.val(),
            up: &self.time_maa_w2.val(),
        };
        let ([xw, xk, xv, xr, xg], att_shift) = shift6(&inputs, sizes.layer_norm_eps, &pass.cu_seqlens);
        let (r, k, v) = (self.receptance.forward(&xr), self.key.forward(&xk), self.value.forward(&xv));
        let g = self.gate.forward(&xg);
        let w = low_rank(&LowRank {
            x: &xw,
            a: &self.time_decay_w1.val(),
            b: &self.time_decay_w2.val(),
            bias: Some(&self.time_decay.val()),
            inner: Inner::Tanh,
        });
        let inputs = Wkv6 {
            r: &r,
            w: &w,
            k: &k,
            v: &v,
            g: &g,
            bonus: &self.time_faaaa.val(),
            ln_weight: &self.ln_x.weight.val(),
            ln_bias: &self.ln_x.bias.val(),
            state: &state.wkv,
        };
        let (y, wkv) = wkv6(&inputs, sizes.group_norm_eps, &pass.cu_seqlens);
        pass.x = self.output.forward_add(&y, &pass.x);
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
            time_maa_k: weights.param("time_maa_k", [c])?,
            time_maa_r: weights.param("time_maa_r", [c])?,
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
            Toward::Previous,
            &[&self.time_maa_k.val(), &self.time_maa_r.val()],
        );
        let [xk, xr] = &mixed[..] else { unreachable!("two mixes give two inputs") };
        let v = self.value.forward(&relu2(&self.key.forward(xk)));
        pass.x = gate_add(&x, &self.receptance.forward(xr), &v);
        state.ffn_shift = ffn_shift;
    }
}
