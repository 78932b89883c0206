//! RWKV-5.2 (Eagle): embedding, blocks, head.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Sizes, Skeleton};
use crate::error::Error;
use crate::layer::{Linear, Norm, Weights};
use crate::mixer::rwkv5::{ChannelMix, TimeMix};
use crate::mixer::{BlockState, Pass};

/// The model; parameters have their official names.
#[derive(Module, Debug)]
pub struct Rwkv5 {
    /// Table of embeddings.
    pub emb: super::Embedding,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// The last norm.
    pub ln_out: Norm,
    /// [V, C].
    pub head: Linear,
}

/// One block.
#[derive(Module, Debug)]
pub struct Block {
    /// The norm of the embeddings; block 0 of a language model alone has it.
    pub ln0: Option<Norm>,
    /// Before the time mix.
    pub ln1: Norm,
    /// Before the channel mix.
    pub ln2: Norm,
    /// Time mix.
    pub att: TimeMix,
    /// Channel mix.
    pub ffn: ChannelMix,
}

impl Block {
    /// Reads a block, with `ln0` if it begins a language model.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes, ln0: bool) -> Result<Block, Error> {
        let (w, c) = (&mut weights, sizes.width);
        Ok(Block {
            ln0: if ln0 { Some(Norm::new(w.at("ln0"), c)?) } else { None },
            ln1: Norm::new(w.at("ln1"), c)?,
            ln2: Norm::new(w.at("ln2"), c)?,
            att: TimeMix::new(w.at("att"), sizes)?,
            ffn: ChannelMix::new(w.at("ffn"), sizes)?,
        })
    }

    /// Time mix and channel mix.
    pub fn forward(&self, pass: &mut Pass, sizes: &Sizes, state: &mut BlockState) {
        self.att.forward(pass, &self.ln1, sizes, state);
        self.ffn.forward(pass, &self.ln2, sizes, state);
    }
}

impl Rwkv5 {
    /// Reads the model.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(weights: &mut Weights<'_>, sizes: &Sizes) -> Result<Rwkv5, Error> {
        let c = sizes.width;
        let emb = super::Embedding::new(weights.at("emb"), sizes.vocab, c)?;
        let mut blocks = Vec::with_capacity(sizes.layers);
        for layer in 0..sizes.layers {
            let weights = weights.at(&format!("blocks.{layer}"));
            blocks.push(Block::new(weights, sizes, layer == 0)?);
        }
        let ln_out = Norm::new(weights.at("ln_out"), c)?;
        Ok(Rwkv5 { emb, blocks, ln_out, head: Linear::new(weights.at("head"), sizes.vocab, c)? })
    }
}

impl Skeleton for Rwkv5 {
    fn embed(&self, tokens: &Arc<[u32]>, sizes: &Sizes) -> Tensor<2> {
        self.emb.forward(tokens, self.blocks[0].ln0.as_ref(), sizes)
    }

    fn block(&self, layer: usize, pass: &mut Pass, sizes: &Sizes, state: &mut BlockState) {
        self.blocks[layer].forward(pass, sizes, state);
    }

    fn head(&self) -> (&Norm, &Linear) {
        (&self.ln_out, &self.head)
    }
}
