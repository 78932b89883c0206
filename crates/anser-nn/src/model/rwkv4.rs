//! RWKV-4 (Dove): embedding, blocks, head.

use std::sync::Arc;

use anser_kernels::recurrence::wkv4;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Sizes, Skeleton};
use crate::error::Error;
use crate::layer::{Linear, Norm, Weights};
use crate::mixer::rwkv4::{ChannelMix, TimeMix};
use crate::mixer::{BlockState, Pass};

/// The model; parameters have their official names.
#[derive(Module, Debug)]
pub struct Rwkv4 {
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

/// What the recurrences of `sequences` sequences begin with, [S, 1, 3, C]: rows aa and bb 0, pp an exponent whose power
/// is 0.
pub(super) fn initial_state(sequences: usize, width: usize, device: &Device) -> Tensor<4> {
    let sums = Tensor::zeros([sequences, 1, 2, width], device);
    Tensor::cat(vec![sums, Tensor::full([sequences, 1, 1, width], wkv4::INITIAL_MAX, device)], 2)
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

impl Rwkv4 {
    /// Reads the model.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(weights: &mut Weights<'_>, sizes: &Sizes) -> Result<Rwkv4, Error> {
        let c = sizes.width;
        let emb = super::Embedding::new(weights.at("emb"), sizes.vocab, c)?;
        let mut blocks = Vec::with_capacity(sizes.layers);
        for layer in 0..sizes.layers {
            let weights = weights.at(&format!("blocks.{layer}"));
            blocks.push(Block::new(weights, sizes, layer == 0)?);
        }
        let ln_out = Norm::new(weights.at("ln_out"), c)?;
        Ok(Rwkv4 { emb, blocks, ln_out, head: Linear::new(weights.at("head"), sizes.vocab, c)? })
    }
}

impl Skeleton for Rwkv4 {
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
