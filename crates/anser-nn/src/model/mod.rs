//! Models, one file a version: parameters top to bottom, and how they meet. Language models share the skeleton of this
//! file, forecasters that of [`series`].

pub mod dlinear;
pub mod rimer;
pub mod rwkv4;
pub mod rwkv5;
pub mod rwkv6;
pub mod rwkv7;
pub mod series;
pub mod timer;
pub mod transformer;

use std::sync::Arc;

use anser_checkpoint::{Checkpoint, Config, Ranks, Version};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

use crate::error::Error;
use crate::gradients::Trainable;
use crate::layer::{Linear, Norm, Read, Weights, finite};
use crate::mixer::{BlockState, Pass};
use crate::op::embedding::embedding;

/// What kind of model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// A version of RWKV.
    Rwkv(Version),
    /// The baseline: softmax attention, no state.
    Transformer,
}

/// Sizes and constants of a model; the fields are those of [`Config`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// What kind of model.
    pub architecture: Architecture,
    /// Rows of the embedding, V.
    pub vocab: usize,
    /// Width of the residual stream, C.
    pub width: usize,
    /// Blocks, L.
    pub layers: usize,
    /// Heads, H; 1 for RWKV-4.
    pub heads: usize,
    /// Channels a head, N; C for RWKV-4.
    pub head_size: usize,
    /// Inner width of the channel mix, F.
    pub ffn: usize,
    /// Ranks of the low-rank pairs.
    pub ranks: Ranks,
    /// Epsilon of every LayerNorm.
    pub layer_norm_eps: f32,
    /// Epsilon of the norm over heads.
    pub group_norm_eps: f32,
}

impl From<&Config> for Sizes {
    fn from(config: &Config) -> Sizes {
        Sizes {
            architecture: Architecture::Rwkv(config.version),
            vocab: config.vocab,
            width: config.width,
            layers: config.layers,
            heads: config.heads,
            head_size: config.head_size,
            ffn: config.ffn,
            ranks: config.ranks,
            layer_norm_eps: config.layer_norm_eps,
            group_norm_eps: config.group_norm_eps,
        }
    }
}

impl Sizes {
    /// The configuration of a version of RWKV; none of other architectures.
    pub fn config(&self) -> Option<Config> {
        let Architecture::Rwkv(version) = self.architecture else { return None };
        Some(Config {
            version,
            vocab: self.vocab,
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            head_size: self.head_size,
            ffn: self.ffn,
            ranks: self.ranks,
            layer_norm_eps: self.layer_norm_eps,
            group_norm_eps: self.group_norm_eps,
        })
    }

    /// The states of `sequences` sequences that have seen nothing, one a block.
    pub fn initial_states(&self, sequences: usize, device: &Device) -> Vec<BlockState> {
        let shift = || Tensor::zeros([sequences, self.width], device);
        (0..self.layers)
            .map(|_| BlockState {
                att_shift: shift(),
                wkv: match self.architecture {
                    Architecture::Transformer => Tensor::zeros([sequences, 1, 1, 1], device),
                    Architecture::Rwkv(Version::V4) => rwkv4::initial_state(sequences, self.width, device),
                    Architecture::Rwkv(_) => {
                        Tensor::zeros([sequences, self.heads, self.head_size, self.head_size], device)
                    }
                },
                ffn_shift: shift(),
            })
            .collect()
    }

    /// A transformer of heads of `head_size` channels, an even number that divides `width`.
    pub fn transformer(vocab: usize, layers: usize, width: usize, head_size: usize, ffn: usize) -> Sizes {
        Sizes {
            architecture: Architecture::Transformer,
            vocab,
            width,
            layers,
            heads: width / head_size.max(1),
            head_size,
            ffn,
            ranks: Ranks::default(),
            layer_norm_eps: Config::LAYER_NORM_EPS,
            group_norm_eps: Config::GROUP_NORM_EPS,
        }
    }
}

/// The table of embeddings, [V, C].
#[derive(Module, Debug)]
pub struct Embedding {
    /// The table.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    fn new(mut weights: Weights<'_>, vocab: usize, width: usize) -> Result<Embedding, Error> {
        Ok(Embedding { weight: weights.param("weight", [vocab, width])? })
    }

    fn forward(&self, tokens: &Arc<[u32]>, ln0: Option<&Norm>, sizes: &Sizes) -> Tensor<2> {
        let x = embedding(&self.weight.val(), tokens);
        match ln0 {
            Some(norm) => norm.layer_norm(&x, sizes.layer_norm_eps),
            None => x,
        }
    }
}

/// What every version answers to.
trait Skeleton {
    /// The stream before the first block, [T, C].
    fn embed(&self, tokens: &Arc<[u32]>, sizes: &Sizes) -> Tensor<2>;
    /// Runs a block: writes the stream and the block's states.
    fn block(&self, layer: usize, pass: &mut Pass, sizes: &Sizes, state: &mut BlockState);
    /// The last norm and the head.
    fn head(&self) -> (&Norm, &Linear);
}

/// The parameters of a model of any version.
#[derive(Clone, Debug)]
enum Parameters {
    V4(rwkv4::Rwkv4),
    V5_2(rwkv5::Rwkv5),
    V6(rwkv6::Rwkv6),
    V7(rwkv7::Rwkv7),
    Transformer(transformer::Transformer),
}

/// Calls `$body` with `$model` bound to the parameters of whatever version.
macro_rules! each {
    ($parameters:expr, $model:ident => $body:expr) => {
        match $parameters {
            Parameters::V4($model) => $body,
            Parameters::V5_2($model) => $body,
            Parameters::V6($model) => $body,
            Parameters::V7($model) => $body,
            Parameters::Transformer($model) => $body,
        }
    };
}

/// A language model that can be trained.
#[derive(Clone, Debug)]
pub struct LanguageModel {
    sizes: Sizes,
    device: Device,
    parameters: Parameters,
}

impl LanguageModel {
    /// A model whose tensors `read(official name, shape)` returns, on `device`; `has` says which of the optional ones
    /// there are.
    ///
    /// # Errors
    /// [`Error::Version`], [`Error::NotFinite`], or what `read` returns.
    pub fn new(
        sizes: &Sizes,
        device: &Device,
        has: &dyn Fn(&str) -> bool,
        read: &mut Read<'_>,
    ) -> Result<LanguageModel, Error> {
        let mut checked = finite(read);
        let mut weights = Weights::new(device, &mut checked);
        let parameters = match sizes.architecture {
            Architecture::Rwkv(Version::V4) => Parameters::V4(rwkv4::Rwkv4::new(&mut weights, sizes)?),
            Architecture::Rwkv(Version::V5_2) => Parameters::V5_2(rwkv5::Rwkv5::new(&mut weights, sizes)?),
            Architecture::Rwkv(Version::V6) => Parameters::V6(rwkv6::Rwkv6::new(&mut weights, sizes)?),
            Architecture::Rwkv(Version::V7) => Parameters::V7(rwkv7::Rwkv7::new(&mut weights, sizes, has)?),
            Architecture::Transformer => {
                let Sizes { width, heads, head_size, .. } = *sizes;
                if heads == 0 || heads * head_size != width || head_size % 2 == 1 {
                    return Err(Error::Heads { width, head_size });
                }
                Parameters::Transformer(transformer::Transformer::new(&mut weights, sizes)?)
            }
            Architecture::Rwkv(version) => return Err(Error::Version { version: version.to_string() }),
        };
        Ok(LanguageModel { sizes: sizes.clone(), device: device.clone(), parameters })
    }

    /// The model in a checkpoint.
    ///
    /// # Errors
    /// As [`LanguageModel::new`], or reading fails.
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<LanguageModel, Error> {
        let has = |name: &str| checkpoint.has(name);
        let mut read = |name: &str, _: &[usize]| Ok(checkpoint.tensor(name)?.to_f32());
        LanguageModel::new(&checkpoint.config().into(), device, &has, &mut read)
    }

    /// Sizes and constants.
    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// How many numbers the model consists of.
    pub fn parameters(&self) -> usize {
        each!(&self.parameters, model => model.num_params())
    }

    /// Where the parameters are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The stream before the first block, [T, C].
    pub fn embed(&self, tokens: &Arc<[u32]>) -> Tensor<2> {
        each!(&self.parameters, model => model.embed(tokens, &self.sizes))
    }

    /// Runs a block: writes the stream and the block's states.
    pub fn block(&self, layer: usize, pass: &mut Pass, state: &mut BlockState) {
        each!(&self.parameters, model => model.block(layer, pass, &self.sizes, state))
    }

    /// The last norm and the head.
    pub fn head(&self) -> (&Norm, &Linear) {
        each!(&self.parameters, model => model.head())
    }

    /// Whether sequences leave a state behind that later tokens read; a transformer's blocks return theirs, all zero,
    /// as they came.
    pub fn has_state(&self) -> bool {
        self.sizes.architecture != Architecture::Transformer
    }

    /// The states of `sequences` sequences that have seen nothing, one a block.
    pub fn initial_states(&self, sequences: usize) -> Vec<BlockState> {
        self.sizes.initial_states(sequences, &self.device)
    }

    /// The output of the last block [T, C] after tokens `[ΣT]`; `states` are read and written.
    pub fn forward(&self, tokens: &Arc<[u32]>, cu_seqlens: &Arc<[usize]>, states: &mut [BlockState]) -> Tensor<2> {
        let mut pass = Pass { x: self.embed(tokens), v_first: None, cu_seqlens: Arc::clone(cu_seqlens) };
        for (layer, state) in states.iter_mut().enumerate() {
            self.block(layer, &mut pass, state);
        }
        pass.x
    }

    /// Logits [T, V] of the output of the last block.
    pub fn logits(&self, x: &Tensor<2>) -> Tensor<2> {
        let (norm, head) = self.head();
        head.forward(&norm.layer_norm(x, self.sizes.layer_norm_eps))
    }

    /// The same parameters, shared, outside of any graph: for evaluation.
    pub fn without_graph(&self) -> LanguageModel {
        let parameters = match &self.parameters {
            Parameters::V4(model) => Parameters::V4(model.valid()),
            Parameters::V5_2(model) => Parameters::V5_2(model.valid()),
            Parameters::V6(model) => Parameters::V6(model.valid()),
            Parameters::V7(model) => Parameters::V7(model.valid()),
            Parameters::Transformer(model) => Parameters::Transformer(model.valid()),
        };
        LanguageModel { sizes: self.sizes.clone(), device: self.device.clone().without_autodiff(), parameters }
    }

    /// The same parameters as leaves of a graph of their own, for a thread of its own. (Burn's graphs merge where they
    /// share a leaf, and threads that run them then wait for each other for ever.)
    pub fn fork(&self) -> LanguageModel {
        let parameters = match self.parameters.clone() {
            Parameters::V4(model) => Parameters::V4(model.fork(&self.device)),
            Parameters::V5_2(model) => Parameters::V5_2(model.fork(&self.device)),
            Parameters::V6(model) => Parameters::V6(model.fork(&self.device)),
            Parameters::V7(model) => Parameters::V7(model.fork(&self.device)),
            Parameters::Transformer(model) => Parameters::Transformer(model.fork(&self.device)),
        };
        LanguageModel { sizes: self.sizes.clone(), device: self.device.clone(), parameters }
    }
}

impl Trainable for LanguageModel {
    fn visit(&self, visitor: &mut impl ModuleVisitor) {
        each!(&self.parameters, model => model.visit(visitor));
    }

    fn map(self, mapper: &mut impl ModuleMapper) -> LanguageModel {
        let parameters = match self.parameters {
            Parameters::V4(model) => Parameters::V4(model.map(mapper)),
            Parameters::V5_2(model) => Parameters::V5_2(model.map(mapper)),
            Parameters::V6(model) => Parameters::V6(model.map(mapper)),
            Parameters::V7(model) => Parameters::V7(model.map(mapper)),
            Parameters::Transformer(model) => Parameters::Transformer(model.map(mapper)),
        };
        LanguageModel { parameters, ..self }
    }
}
