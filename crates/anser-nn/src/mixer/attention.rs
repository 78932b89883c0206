//! The mixes of the transformer baseline: softmax attention with rotary positions, a feed-forward network with relu².
//! Neither shifts tokens nor keeps a state.

use burn::module::Module;

use super::Pass;
use crate::error::Error;
use crate::layer::{Linear, Norm, Weights};
use crate::model::Sizes;
use crate::op::attention::{Positions, attention};

/// The time mix: attention of H heads.
#[derive(Module, Debug)]
pub struct Attention {
    /// [C, C].
    pub query: Linear,
    /// [C, C].
    pub key: Linear,
    /// [C, C].
    pub value: Linear,
    /// [C, C].
    pub output: Linear,
}

/// The channel mix.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// [F, C].
    pub key: Linear,
    /// [C, F].
    pub value: Linear,
}

impl Attention {
    /// Reads the time mix of a block.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes) -> Result<Attention, Error> {
        let c = sizes.width;
        Ok(Attention {
            query: Linear::new(weights.at("query"), c, c)?,
            key: Linear::new(weights.at("key"), c, c)?,
            value: Linear::new(weights.at("value"), c, c)?,
            output: Linear::new(weights.at("output"), c, c)?,
        })
    }

    /// Adds the attention of `norm(x)` to the stream.
    pub fn forward(&self, pass: &mut Pass, norm: &Norm, sizes: &Sizes) {
        let x = norm.layer_norm(&pass.x, sizes.layer_norm_eps);
        let (q, k, v) = (self.query.forward(&x), self.key.forward(&x), self.value.forward(&x));
        let y = attention(&q, &k, &v, sizes.heads, Positions::Rotary, &pass.cu_seqlens);
        pass.x = self.output.forward_add(&y, &pass.x);
    }
}

impl FeedForward {
    /// Reads the channel mix of a block.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes) -> Result<FeedForward, Error> {
        let (c, f) = (sizes.width, sizes.ffn);
        Ok(FeedForward { key: Linear::new(weights.at("key"), f, c)?, value: Linear::new(weights.at("value"), c, f)? })
    }

    /// Adds the network of `norm(x)` to the stream.
    pub fn forward(&self, pass: &mut Pass, norm: &Norm, sizes: &Sizes) {
        let x = norm.layer_norm(&pass.x, sizes.layer_norm_eps);
        pass.x = self.value.relu2_forward_add(&self.key.forward(&x), &pass.x);
    }
}
