//! Timer's block: causal attention and a feed-forward network, each with its norm behind the sum.
//!
//! Source: Liu et al. 2024, "Timer: Generative Pre-trained Transformers Are Large Time Series Models";
//! thuml/Large-Time-Series-Model@1ff8d1a.

use burn::module::Module;

use super::Sizes;
use super::rimer::Taken;
use crate::error::Error;
use crate::layer::{Affine, Norm, Weights};
use crate::mixer::Pass;
use crate::op::attention::{Positions, attention};
use crate::op::gelu::gelu;

/// One block. Heads may fill less than the width: I = H N channels.
#[derive(Module, Debug)]
pub struct Block {
    /// [I, C].
    pub query: Affine,
    /// [I, C].
    pub key: Affine,
    /// [I, C].
    pub value: Affine,
    /// [C, I].
    pub out: Affine,
    /// Behind the attention.
    pub norm1: Norm,
    /// [F, C].
    pub conv1: Affine,
    /// [C, F].
    pub conv2: Affine,
    /// Behind the network.
    pub norm2: Norm,
}

impl Block {
    /// Reads a block.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes) -> Result<Block, Error> {
        let (w, c, inner) = (&mut weights, sizes.width, sizes.heads * sizes.head_size);
        Ok(Block {
            query: Affine::new(w.at("query"), inner, c)?,
            key: Affine::new(w.at("key"), inner, c)?,
            value: Affine::new(w.at("value"), inner, c)?,
            out: Affine::new(w.at("out"), c, inner)?,
            norm1: Norm::new(w.at("norm1"), c)?,
            conv1: Affine::new(w.at("conv1"), sizes.ffn, c)?,
            conv2: Affine::new(w.at("conv2"), c, sizes.ffn)?,
            norm2: Norm::new(w.at("norm2"), c)?,
        })
    }

    /// Attention and feed-forward network.
    pub fn forward(&self, pass: &mut Pass, sizes: &Sizes) {
        let x = &pass.x;
        let (q, k, v) = (self.query.forward(x), self.key.forward(x), self.value.forward(x));
        let y = attention(&q, &k, &v, sizes.heads, Positions::None, &pass.cu_seqlens);
        let x = self.norm1.layer_norm(&(x.clone() + self.out.forward(&y)), sizes.layer_norm_eps);
        let y = self.conv2.forward(&gelu(&self.conv1.forward(&x)));
        pass.x = self.norm2.layer_norm(&(x + y), sizes.layer_norm_eps);
    }
}

/// The tensor of the published file behind one of ours, as the file calls it.
pub fn published(name: &str) -> Option<(String, Taken)> {
    let outside = match name {
        "patch.weight" => Some("patch_embedding.value_embedding.weight"),
        "head.weight" => Some("proj.weight"),
        "head.bias" => Some("proj.bias"),
        "ln_out.weight" => Some("decoder.norm.weight"),
        "ln_out.bias" => Some("decoder.norm.bias"),
        _ => None,
    };
    if let Some(outside) = outside {
        return Some((format!("backbone.{outside}"), Taken::AsItIs));
    }
    let (layer, own) = name.strip_prefix("blocks.")?.split_once('.')?;
    let (part, kind) = own.split_once('.')?;
    let part = match part {
        "query" | "key" | "value" | "out" => format!("attention.{part}_projection"),
        "conv1" | "conv2" | "norm1" | "norm2" => part.to_string(),
        _ => return None,
    };
    Some((format!("backbone.decoder.attn_layers.{layer}.{part}.{kind}"), Taken::AsItIs))
}
