//! Rimer as it was released: one block, whose channel mix is a single matrix.
//!
//! Source: Alic-Li/BlackGoose_Rimer@6d6757a, with the RWKV-7 attention of rwkv-fla 0.7.202503140658. What Rimer means
//! to be, several whole blocks of RWKV-7 that share the values of layer 0, is [`super::series`] over
//! [`super::rwkv7::Block`].

use burn::module::Module;

use super::Sizes;
use crate::error::Error;
use crate::layer::{Affine, Norm, Weights};
use crate::mixer::rwkv7::TimeMix;
use crate::mixer::{BlockState, Pass};

/// The block.
#[derive(Module, Debug)]
pub struct Block {
    /// Before the time mix.
    pub ln1: Norm,
    /// Before the matrix.
    pub ln2: Norm,
    /// Time mix of a first layer.
    pub att: TimeMix,
    /// [C, C] and a bias.
    pub mlp: Affine,
}

impl Block {
    /// Reads the block.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes) -> Result<Block, Error> {
        let (w, c) = (&mut weights, sizes.width);
        Ok(Block {
            ln1: Norm::new(w.at("ln1"), c)?,
            ln2: Norm::new(w.at("ln2"), c)?,
            att: TimeMix::new(w.at("att"), sizes, false)?,
            mlp: Affine::new(w.at("mlp"), c, c)?,
        })
    }

    /// Time mix and matrix. Every block has values of its own: none leans towards those of the first.
    pub fn forward(&self, pass: &mut Pass, sizes: &Sizes, state: &mut BlockState) {
        self.att.forward(pass, &self.ln1, sizes, state);
        pass.v_first = None;
        let x = self.ln2.layer_norm(&pass.x, sizes.layer_norm_eps);
        pass.x = pass.x.clone() + self.mlp.forward(&x);
    }
}

/// The tensor of the published file behind one of ours, as the file calls it, and how it is taken from there.
///
/// The file holds everything twice; the copies under `decoder.`, `proj.` and `enc_embedding.` are left alone.
pub fn published(name: &str) -> Option<(String, Taken)> {
    let own = match name {
        "patch.weight" => return Some(("backbone.patch_embedding.value_embedding.weight".into(), Taken::AsItIs)),
        "head.weight" => return Some(("backbone.proj.weight".into(), Taken::AsItIs)),
        "head.bias" => return Some(("backbone.proj.bias".into(), Taken::AsItIs)),
        _ => name.strip_prefix("blocks.0.")?,
    };
    let (own, taken) = match own {
        "ln1.weight" => ("norm1.weight", Taken::AsItIs),
        "ln1.bias" => ("norm1.bias", Taken::AsItIs),
        "ln2.weight" => ("norm2.weight", Taken::AsItIs),
        "ln2.bias" => ("norm2.bias", Taken::AsItIs),
        "mlp.weight" => ("mlp.value.weight", Taken::AsItIs),
        "mlp.bias" => ("mlp.value.bias", Taken::AsItIs),
        "att.x_r" => ("attn.rwkv7.x_x", Taken::Row(0)),
        "att.x_w" => ("attn.rwkv7.x_x", Taken::Row(1)),
        "att.x_k" => ("attn.rwkv7.x_x", Taken::Row(2)),
        "att.x_v" => ("attn.rwkv7.x_x", Taken::Row(3)),
        "att.x_a" => ("attn.rwkv7.x_x", Taken::Row(4)),
        "att.x_g" => ("attn.rwkv7.x_x", Taken::Row(5)),
        "att.w0" => ("attn.rwkv7.w_lora.lora.2.bias", Taken::AsItIs),
        "att.w1" => ("attn.rwkv7.w_lora.lora.0.weight", Taken::Turned),
        "att.w2" => ("attn.rwkv7.w_lora.lora.2.weight", Taken::Turned),
        "att.a0" => ("attn.rwkv7.a_lora.lora.2.bias", Taken::AsItIs),
        "att.a1" => ("attn.rwkv7.a_lora.lora.0.weight", Taken::Turned),
        "att.a2" => ("attn.rwkv7.a_lora.lora.2.weight", Taken::Turned),
        "att.g1" => ("attn.rwkv7.g_lora.lora.0.weight", Taken::Turned),
        "att.g2" => ("attn.rwkv7.g_lora.lora.2.weight", Taken::Turned),
        "att.k_k" => ("attn.rwkv7.k_k", Taken::AsItIs),
        "att.k_a" => ("attn.rwkv7.k_a", Taken::AsItIs),
        "att.r_k" => ("attn.rwkv7.r_k", Taken::AsItIs),
        "att.receptance.weight" => ("attn.rwkv7.r_proj.weight", Taken::AsItIs),
        "att.key.weight" => ("attn.rwkv7.k_proj.weight", Taken::AsItIs),
        "att.value.weight" => ("attn.rwkv7.v_proj.weight", Taken::AsItIs),
        "att.output.weight" => ("attn.rwkv7.o_proj.weight", Taken::AsItIs),
        "att.ln_x.weight" => ("attn.rwkv7.g_norm.weight", Taken::AsItIs),
        "att.ln_x.bias" => ("attn.rwkv7.g_norm.bias", Taken::AsItIs),
        _ => return None,
    };
    Some((format!("backbone.decoder.{own}"), taken))
}

/// How a tensor is taken from a published one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The same values.
    AsItIs,
    /// Rows are columns there.
    Turned,
    /// One of its rows.
    Row(usize),
}
