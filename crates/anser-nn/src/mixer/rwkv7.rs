//! RWKV-7 (Goose).
//!
//! Source: Peng et al. 2025, "RWKV-7 Goose"; BlinkDL/RWKV-LM@524481d5, RWKV-v7/train_temp. Parameters have their
//! official names.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{BlockState, Pass};
use crate::error::Error;
use crate::layer::{Linear, Norm, Weights};
use crate::model::Sizes;
use crate::op::low_rank::{Inner, LowRank, low_ranks};
use crate::op::shift::{Toward, shift};
use crate::op::wkv7::{Wkv7, wkv7};

/// The time mix. Shapes: C width, H heads of N channels.
#[derive(Module, Debug)]
pub struct TimeMix {
    /// Shifts of the six inputs, `[C]` each.
    pub x_r: Param<Tensor<1>>,
    /// Of the decay.
    pub x_w: Param<Tensor<1>>,
    /// Of the key.
    pub x_k: Param<Tensor<1>>,
    /// Of the value.
    pub x_v: Param<Tensor<1>>,
    /// Of the in-context learning rate.
    pub x_a: Param<Tensor<1>>,
    /// Of the gate.
    pub x_g: Param<Tensor<1>>,
    /// The decay before its exponentials: `w0 + tanh(x w1) w2`.
    pub w0: Param<Tensor<1>>,
    /// [C, rank].
    pub w1: Param<Tensor<2>>,
    /// [rank, C].
    pub w2: Param<Tensor<2>>,
    /// The learning rate before its logistic function: `a0 + (x a1) a2`.
    pub a0: Param<Tensor<1>>,
    /// [C, rank].
    pub a1: Param<Tensor<2>>,
    /// [rank, C].
    pub a2: Param<Tensor<2>>,
    /// How far values lean to layer 0's, before its logistic function; layer 0 has these and never uses them, or lacks
    /// them.
    pub v0: Option<Param<Tensor<1>>>,
    /// [C, rank].
    pub v1: Option<Param<Tensor<2>>>,
    /// [rank, C].
    pub v2: Option<Param<Tensor<2>>>,
    /// The gate: `sigmoid(x g1) g2`.
    pub g1: Param<Tensor<2>>,
    /// [rank, C].
    pub g2: Param<Tensor<2>>,
    /// `[C]`.
    pub k_k: Param<Tensor<1>>,
    /// `[C]`.
    pub k_a: Param<Tensor<1>>,
    /// [H, N].
    pub r_k: Param<Tensor<2>>,
    /// [C, C].
    pub receptance: Linear,
    /// [C, C].
    pub key: Linear,
    /// [C, C].
    pub value: Linear,
    /// [C, C].
    pub output: Linear,
    /// The norm over heads.
    pub ln_x: Norm,
}

/// The channel mix.
#[derive(Module, Debug)]
pub struct ChannelMix {
    /// `[C]`.
    pub x_k: Param<Tensor<1>>,
    /// [F, C].
    pub key: Linear,
    /// [C, F].
    pub value: Linear,
}

impl TimeMix {
    /// Reads the time mix of a block; `lean` if it may have `v0`, `v1`, `v2`.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes, lean: bool) -> Result<TimeMix, Error> {
        let (c, ranks) = (sizes.width, sizes.ranks);
        let w = &mut weights;
        Ok(TimeMix {
            x_r: w.param("x_r", [c])?,
            x_w: w.param("x_w", [c])?,
            x_k: w.param("x_k", [c])?,
            x_v: w.param("x_v", [c])?,
            x_a: w.param("x_a", [c])?,
            x_g: w.param("x_g", [c])?,
            w0: w.param("w0", [c])?,
            w1: w.param("w1", [c, ranks.decay])?,
            w2: w.param("w2", [ranks.decay, c])?,
            a0: w.param("a0", [c])?,
            a1: w.param("a1", [c, ranks.a])?,
            a2: w.param("a2", [ranks.a, c])?,
            v0: if lean { Some(w.param("v0", [c])?) } else { None },
            v1: if lean { Some(w.param("v1", [c, ranks.v])?) } else { None },
            v2: if lean { Some(w.param("v2", [ranks.v, c])?) } else { None },
            g1: w.param("g1", [c, ranks.g])?,
            g2: w.param("g2", [ranks.g, c])?,
            k_k: w.param("k_k", [c])?,
            k_a: w.param("k_a", [c])?,
            r_k: w.param("r_k", [sizes.heads, sizes.head_size])?,
            receptance: Linear::new(w.at("receptance"), c, c)?,
            key: Linear::new(w.at("key"), c, c)?,
            value: Linear::new(w.at("value"), c, c)?,
            output: Linear::new(w.at("output"), c, c)?,
            ln_x: Norm::new(w.at("ln_x"), c)?,
        })
    }

    /// Adds the time mix of `norm(x)` to the stream.
    pub fn forward(&self, pass: &mut Pass, norm: &Norm, sizes: &Sizes, state: &mut BlockState) {
        let mixes = [&self.x_r, &self.x_w, &self.x_k, &self.x_v, &self.x_a, &self.x_g].map(|mix| mix.val());
        let (weight, bias) = (norm.weight.val(), norm.bias.val());
        let (mixed, att_shift, x) = shift(
            &pass.x,
            &weight,
            &bias,
            sizes.layer_norm_eps,
            &state.att_shift,
            &pass.cu_seqlens,
            Toward::Previous,
            &mixes.each_ref(),
        );
        let [xr, xw, xk, xv, xa, xg] = &mixed[..] else { unreachable!("six mixes give six inputs") };
        let (r, k) = (self.receptance.forward(xr), self.key.forward(xk));
        let (w0, w1, w2) = (self.w0.val(), self.w1.val(), self.w2.val());
        let (a0, a1, a2) = (self.a0.val(), self.a1.val(), self.a2.val());
        let (g1, g2) = (self.g1.val(), self.g2.val());
        let maps = [
            LowRank { x: xw, a: &w1, b: &w2, bias: Some(&w0), inner: Inner::Tanh },
            LowRank { x: xa, a: &a1, b: &a2, bias: Some(&a0), inner: Inner::Identity },
            LowRank { x: xg, a: &g1, b: &g2, bias: None, inner: Inner::Sigmoid },
        ];
        let (w, a, g, v, lean) = match (&pass.v_first, &self.v0, &self.v1, &self.v2) {
            (Some(v_first), Some(v0), Some(v1), Some(v2)) => {
                let (v0, v1, v2) = (v0.val(), v1.val(), v2.val());
                let mix = LowRank { x: xv, a: &v1, b: &v2, bias: Some(&v0), inner: Inner::Identity };
                let [decay, rate, gate] = maps;
                let ([w, a, g, mix], [.., xv]) = low_ranks([decay, rate, gate, mix]);
                (w, a, g, self.value.forward(&xv), Some((v_first.clone(), mix)))
            }
            _ => {
                let ([w, a, g], _) = low_ranks(maps);
                (w, a, g, self.value.forward(xv), None)
            }
        };
        let (k_k, k_a, r_k) = (self.k_k.val(), self.k_a.val(), self.r_k.val());
        let (ln_weight, ln_bias) = (self.ln_x.weight.val(), self.ln_x.bias.val());
        let inputs = Wkv7 {
            r: &r,
            w: &w,
            k: &k,
            v: &v,
            a: &a,
            g: &g,
            first: lean.as_ref().map(|(v_first, mix)| (v_first, mix)),
            k_k: &k_k,
            k_a: &k_a,
            r_k: &r_k,
            ln_weight: &ln_weight,
            ln_bias: &ln_bias,
            state: &state.wkv,
        };
        let (y, wkv, v_first) = wkv7(&inputs, sizes.group_norm_eps, &pass.cu_seqlens);
        pass.x = self.output.forward_add(&y, &x);
        if pass.v_first.is_none() || inputs.first.is_some() {
            pass.v_first = Some(v_first);
        }
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
            x_k: weights.param("x_k", [c])?,
            key: Linear::new(weights.at("key"), f, c)?,
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
            &[&self.x_k.val()],
        );
        pass.x = self.value.relu2_forward_add(&self.key.forward(&mixed[0]), &x);
        state.ffn_shift = ffn_shift;
    }
}
