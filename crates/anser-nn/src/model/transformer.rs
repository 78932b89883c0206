//! The baseline: a decoder of pre-norm blocks with causal softmax attention, for comparisons with RWKV.
//!
//! It differs from RWKV-7's skeleton in what its blocks remember (attention instead of a recurrence, rotary positions
//! instead of token shifts) and has no norm behind the embeddings. It has no official files; its tensors are named
//! after RWKV's:
//! `emb.weight` [V, C], `blocks.{i}.ln1.{weight,bias}`, `blocks.{i}.att.{query,key,value,output}.weight` [C, C],
//! `blocks.{i}.ln2.{weight,bias}`, `blocks.{i}.ffn.key.weight` [F, C], `blocks.{i}.ffn.value.weight` [C, F],
//! `ln_out.{weight,bias}`, `head.weight` [V, C].

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Tensor;

use super::{Sizes, Skeleton};
use crate::error::Error;
use crate::layer::{Linear, Norm, Weights};
use crate::mixer::attention::{Attention, FeedForward};
use crate::mixer::{BlockState, Pass};

/// The model.
#[derive(Module, Debug)]
pub struct Transformer {
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
    /// Before the attention.
    pub ln1: Norm,
    /// Before the feed-forward network.
    pub ln2: Norm,
    /// Attention.
    pub att: Attention,
    /// Feed-forward network.
    pub ffn: FeedForward,
}

impl Block {
    /// Reads a block.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, sizes: &Sizes) -> Result<Block, Error> {
        let (w, c) = (&mut weights, sizes.width);
        Ok(Block {
            ln1: Norm::new(w.at("ln1"), c)?,
            ln2: Norm::new(w.at("ln2"), c)?,
            att: Attention::new(w.at("att"), sizes)?,
            ffn: FeedForward::new(w.at("ffn"), sizes)?,
        })
    }

    /// Attention and feed-forward network.
    pub fn forward(&self, pass: &mut Pass, sizes: &Sizes) {
        self.att.forward(pass, &self.ln1, sizes);
        self.ffn.forward(pass, &self.ln2, sizes);
    }
}

impl Transformer {
    /// Reads the model.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(weights: &mut Weights<'_>, sizes: &Sizes) -> Result<Transformer, Error> {
        let c = sizes.width;
        let emb = super::Embedding::new(weights.at("emb"), sizes.vocab, c)?;
        let mut blocks = Vec::with_capacity(sizes.layers);
        for layer in 0..sizes.layers {
            blocks.push(Block::new(weights.at(&format!("blocks.{layer}")), sizes)?);
        }
        let ln_out = Norm::new(weights.at("ln_out"), c)?;
        Ok(Transformer { emb, blocks, ln_out, head: Linear::new(weights.at("head"), sizes.vocab, c)? })
    }
}

impl Skeleton for Transformer {
    fn embed(&self, tokens: &Arc<[u32]>, sizes: &Sizes) -> Tensor<2> {
        self.emb.forward(tokens, None, sizes)
    }

    fn block(&self, layer: usize, pass: &mut Pass, sizes: &Sizes, _: &mut BlockState) {
        self.blocks[layer].forward(pass, sizes);
    }

    fn head(&self) -> (&Norm, &Linear) {
        (&self.ln_out, &self.head)
    }
}
