//! Forecasters of series: patches in, the values that follow out, with any blocks of the house between.
//!
//! A channel of a series is cut into patches of P values, each a token. After every token a model says the next Q
//! values (Q = P: the next patch; more: several at once), from what the blocks remember of the patches before:
//! ```text
//! x[t] = patch p[t] (+ sinusoid of t)     h = blocks(x)     y[t] = head norm(h[t]) (+ sum_j skip[j] p[t-j])
//! ```
//! The linear path `skip` sees the last K patches, those before the first as zeros. Values are normalised
//! ([`crate::task::forecast`]) before they come here. Channels never see each other.
//!
//! Tensors: `patch.weight` [C, P], `blocks.{i}` as in the language models, `ln_out`, `head.weight` [Q, C], `head.bias`,
//! `skip.weight` [Q, K P], oldest value first.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use anser_checkpoint::{Config, Ranks, Version};
use burn::module::{Module, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{Architecture, Sizes, rimer, rwkv4, rwkv5, rwkv6, rwkv7, timer, transformer};
use crate::error::Error;
use crate::gradients::Trainable;
use crate::layer::{Affine, Linear, Norm, Read, Weights};
use crate::mixer::{BlockState, Pass};
use crate::op::embedding::embedding;

/// The blocks between patches and predictions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Backbone {
    /// Blocks of a version of RWKV; of RWKV-7, this is Rimer as its idea deserves.
    Rwkv(Version),
    /// Pre-norm blocks with rotary attention.
    Transformer,
    /// Rimer as it was released: one RWKV-7 time mix, and one matrix for a channel mix.
    RimerReleased,
    /// Timer: post-norm blocks with attention.
    Timer,
}

impl Backbone {
    /// All of them, RWKV from old to new.
    pub const ALL: [Backbone; 7] = [
        Backbone::Rwkv(Version::V4),
        Backbone::Rwkv(Version::V5_2),
        Backbone::Rwkv(Version::V6),
        Backbone::Rwkv(Version::V7),
        Backbone::Transformer,
        Backbone::Timer,
        Backbone::RimerReleased,
    ];

    fn name(self) -> &'static str {
        match self {
            Backbone::Rwkv(Version::V4) => "v4",
            Backbone::Rwkv(Version::V5_0) => "v5.0",
            Backbone::Rwkv(Version::V5_1) => "v5.1",
            Backbone::Rwkv(Version::V5_2) => "v5.2",
            Backbone::Rwkv(Version::V6) => "v6",
            Backbone::Rwkv(Version::V7) => "v7",
            Backbone::Transformer => "transformer",
            Backbone::Timer => "timer",
            Backbone::RimerReleased => "rimer-released",
        }
    }
}

impl fmt::Display for Backbone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Backbone {
    type Err = String;

    fn from_str(text: &str) -> Result<Backbone, String> {
        Backbone::ALL.into_iter().find(|backbone| backbone.name() == text).ok_or_else(|| {
            let names = Backbone::ALL.map(Backbone::name).join(", ");
            format!("unknown backbone `{text}`: expected one of {names}")
        })
    }
}

impl TryFrom<String> for Backbone {
    type Error = String;

    fn try_from(text: String) -> Result<Backbone, String> {
        text.parse()
    }
}

impl From<Backbone> for String {
    fn from(backbone: Backbone) -> String {
        backbone.to_string()
    }
}

/// Sizes and constants of a forecaster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesSizes {
    /// What kind of blocks.
    pub backbone: Backbone,
    /// Values a token, P.
    pub patch: usize,
    /// Values said after every token, Q.
    pub output: usize,
    /// Patches that the linear path sees, K; 0 for no such path.
    pub skip: usize,
    /// Width of the stream, C.
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
}

impl SeriesSizes {
    /// What the blocks need to know.
    pub fn blocks(&self) -> Sizes {
        let architecture = match self.backbone {
            Backbone::Rwkv(version) => Architecture::Rwkv(version),
            Backbone::RimerReleased => Architecture::Rwkv(Version::V7),
            Backbone::Transformer | Backbone::Timer => Architecture::Transformer,
        };
        Sizes {
            architecture,
            vocab: 0,
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            head_size: self.head_size,
            ffn: self.ffn,
            ranks: self.ranks,
            layer_norm_eps: Config::LAYER_NORM_EPS,
            group_norm_eps: Config::GROUP_NORM_EPS,
        }
    }

    /// Whether the blocks remember in states of constant size.
    pub fn has_state(&self) -> bool {
        matches!(self.backbone, Backbone::Rwkv(_) | Backbone::RimerReleased)
    }

    /// Whether patches are marked with their positions; RWKV's blocks know the order by themselves.
    fn sinusoids(&self) -> bool {
        matches!(self.backbone, Backbone::RimerReleased | Backbone::Timer)
    }

    fn check(&self) -> Result<(), Error> {
        // Far beyond any model, and far from where products of sizes overflow.
        const MOST: usize = 1 << 24;
        for (name, found, least) in [
            ("patch", self.patch, 1),
            ("output", self.output, 1),
            ("skip", self.skip, 0),
            ("width", self.width, 1),
            ("layers", self.layers, 1),
            ("heads", self.heads, 1),
            ("head_size", self.head_size, 1),
            ("ffn", self.ffn, 1),
        ] {
            if !(least..=MOST).contains(&found) {
                return Err(Error::Size { name, found, least, most: MOST });
            }
        }
        // Timer's heads may fill less than the width.
        let fills = self.backbone == Backbone::Timer || self.heads * self.head_size == self.width;
        let attends = matches!(self.backbone, Backbone::Timer | Backbone::Transformer);
        if !fills || (attends && !self.head_size.is_multiple_of(2)) {
            return Err(Error::Heads { width: self.width, head_size: self.head_size });
        }
        Ok(())
    }
}

/// A block of a forecaster.
trait Block: Module {
    fn new(weights: Weights<'_>, sizes: &Sizes, layer: usize) -> Result<Self, Error>;
    fn forward(&self, pass: &mut Pass, sizes: &Sizes, state: &mut BlockState);
}

/// The blocks of a version of RWKV, without the norm behind an embedding.
macro_rules! rwkv_block {
    ($($version:ident),+) => { $(
        impl Block for $version::Block {
            fn new(weights: Weights<'_>, sizes: &Sizes, _: usize) -> Result<Self, Error> {
                $version::Block::new(weights, sizes, false)
            }

            fn forward(&self, pass: &mut Pass, sizes: &Sizes, state: &mut BlockState) {
                self.forward(pass, sizes, state);
            }
        }
    )+ };
}
rwkv_block!(rwkv4, rwkv5, rwkv6);

impl Block for rwkv7::Block {
    fn new(weights: Weights<'_>, sizes: &Sizes, layer: usize) -> Result<Self, Error> {
        rwkv7::Block::new(weights, sizes, false, layer > 0)
    }

    fn forward(&self, pass: &mut Pass, sizes: &Sizes, state: &mut BlockState) {
        self.forward(pass, sizes, state);
    }
}

impl Block for rimer::Block {
    fn new(weights: Weights<'_>, sizes: &Sizes, _: usize) -> Result<Self, Error> {
        rimer::Block::new(weights, sizes)
    }

    fn forward(&self, pass: &mut Pass, sizes: &Sizes, state: &mut BlockState) {
        self.forward(pass, sizes, state);
    }
}

/// Attention keeps no state.
macro_rules! attention_block {
    ($($version:ident),+) => { $(
        impl Block for $version::Block {
            fn new(weights: Weights<'_>, sizes: &Sizes, _: usize) -> Result<Self, Error> {
                $version::Block::new(weights, sizes)
            }

            fn forward(&self, pass: &mut Pass, sizes: &Sizes, _: &mut BlockState) {
                self.forward(pass, sizes);
            }
        }
    )+ };
}
attention_block!(transformer, timer);

/// The parameters around blocks of one kind.
#[derive(Module, Debug)]
struct Parts<B: Module> {
    patch: Linear,
    blocks: Vec<B>,
    ln_out: Option<Norm>,
    head: Affine,
    skip: Option<Linear>,
}

impl<B: Block> Parts<B> {
    fn new(weights: &mut Weights<'_>, s: &SeriesSizes) -> Result<Parts<B>, Error> {
        let sizes = s.blocks();
        let patch = Linear::new(weights.at("patch"), s.width, s.patch)?;
        let blocks = (0..s.layers).map(|layer| B::new(weights.at(&format!("blocks.{layer}")), &sizes, layer));
        let blocks = blocks.collect::<Result<_, _>>()?;
        let ln_out = match s.backbone {
            Backbone::RimerReleased => None,
            _ => Some(Norm::new(weights.at("ln_out"), s.width)?),
        };
        let head = Affine::new(weights.at("head"), s.output, s.width)?;
        let skip = match s.skip {
            0 => None,
            patches => Some(Linear::new(weights.at("skip"), s.output, patches * s.patch)?),
        };
        Ok(Parts { patch, blocks, ln_out, head, skip })
    }
}

#[derive(Clone, Debug)]
enum Parameters {
    V4(Parts<rwkv4::Block>),
    V5_2(Parts<rwkv5::Block>),
    V6(Parts<rwkv6::Block>),
    V7(Parts<rwkv7::Block>),
    Transformer(Parts<transformer::Block>),
    RimerReleased(Parts<rimer::Block>),
    Timer(Parts<timer::Block>),
}

/// Calls `$body` with `$parts` bound to the parameters of whatever kind.
macro_rules! each {
    ($parameters:expr, $parts:ident => $body:expr) => {
        match $parameters {
            Parameters::V4($parts) => $body,
            Parameters::V5_2($parts) => $body,
            Parameters::V6($parts) => $body,
            Parameters::V7($parts) => $body,
            Parameters::Transformer($parts) => $body,
            Parameters::RimerReleased($parts) => $body,
            Parameters::Timer($parts) => $body,
        }
    };
}

/// The parameters of whatever kind, each made into others of its kind.
macro_rules! map_each {
    ($parameters:expr, $parts:ident => $body:expr) => {
        match $parameters {
            Parameters::V4($parts) => Parameters::V4($body),
            Parameters::V5_2($parts) => Parameters::V5_2($body),
            Parameters::V6($parts) => Parameters::V6($body),
            Parameters::V7($parts) => Parameters::V7($body),
            Parameters::Transformer($parts) => Parameters::Transformer($body),
            Parameters::RimerReleased($parts) => Parameters::RimerReleased($body),
            Parameters::Timer($parts) => Parameters::Timer($body),
        }
    };
}

/// Patches of S rows (a row is one channel of one window), and where predictions are asked for.
#[derive(Clone, Debug)]
pub struct Patches {
    /// Normalised values, [ΣN, P].
    pub values: Vec<f32>,
    /// Borders of the rows, in patches, S + 1 numbers.
    pub cu_seqlens: Arc<[usize]>,
    /// The patches after which predictions are asked for; none for all.
    pub asked: Option<Arc<[u32]>>,
}

impl Patches {
    /// The last patch of every row, for [`Patches::asked`]; rows have at least one.
    pub fn last(cu_seqlens: &[usize]) -> Arc<[u32]> {
        cu_seqlens[1..].iter().map(|&end| end as u32 - 1).collect()
    }
}

/// What a forecaster remembers of each of S rows.
#[derive(Clone, Debug)]
pub struct SeriesState {
    /// The blocks' states.
    pub blocks: Vec<BlockState>,
    /// Patches seen.
    positions: Vec<usize>,
    /// The last K patches, [S, K P], oldest first, for the linear path.
    recent: Vec<f32>,
}

/// A forecaster that can be trained.
#[derive(Clone, Debug)]
pub struct SeriesModel {
    sizes: SeriesSizes,
    device: Device,
    parameters: Parameters,
}

impl SeriesModel {
    /// A forecaster whose tensors `read(name, shape)` returns, on `device`.
    ///
    /// # Errors
    /// [`Error::Version`], [`Error::Heads`], [`Error::Size`], [`Error::NotFinite`], or what `read` returns.
    pub fn new(sizes: &SeriesSizes, device: &Device, read: &mut Read<'_>) -> Result<SeriesModel, Error> {
        sizes.check()?;
        let mut checked = crate::layer::finite(read);
        let weights = &mut Weights::new(device, &mut checked);
        let parameters = match sizes.backbone {
            Backbone::Rwkv(Version::V4) => Parameters::V4(Parts::new(weights, sizes)?),
            Backbone::Rwkv(Version::V5_2) => Parameters::V5_2(Parts::new(weights, sizes)?),
            Backbone::Rwkv(Version::V6) => Parameters::V6(Parts::new(weights, sizes)?),
            Backbone::Rwkv(Version::V7) => Parameters::V7(Parts::new(weights, sizes)?),
            Backbone::Rwkv(version) => return Err(Error::Version { version: version.to_string() }),
            Backbone::Transformer => Parameters::Transformer(Parts::new(weights, sizes)?),
            Backbone::RimerReleased => Parameters::RimerReleased(Parts::new(weights, sizes)?),
            Backbone::Timer => Parameters::Timer(Parts::new(weights, sizes)?),
        };
        Ok(SeriesModel { sizes: sizes.clone(), device: device.clone(), parameters })
    }

    /// Sizes and constants.
    pub fn sizes(&self) -> &SeriesSizes {
        &self.sizes
    }

    /// How many numbers the model consists of.
    pub fn parameters(&self) -> usize {
        each!(&self.parameters, parts => parts.num_params())
    }

    /// The states of `rows` rows that have seen nothing.
    pub fn initial_state(&self, rows: usize) -> SeriesState {
        SeriesState {
            blocks: self.sizes.blocks().initial_states(rows, &self.device),
            positions: vec![0; rows],
            recent: vec![0.0; rows * self.sizes.skip * self.sizes.patch],
        }
    }

    /// Predictions [asked, Q] after patches; `state` is read and written. Attention sees the patches of this call alone.
    pub fn forward(&self, patches: &Patches, state: &mut SeriesState) -> Tensor<2> {
        let s = &self.sizes;
        let device = self.device.clone().without_autodiff();
        let rows = patches.values.len() / s.patch;
        let tokens = Tensor::from_data(TensorData::new(patches.values.clone(), [rows, s.patch]), &device);
        let marks = s.sinusoids().then(|| {
            let values = sinusoids(&patches.cu_seqlens, &state.positions, s.width);
            Tensor::<2>::from_data(TensorData::new(values, [rows, s.width]), &device)
        });
        let lags = (s.skip > 0).then(|| {
            let (count, values) = lags(patches, state, s);
            Tensor::<2>::from_data(TensorData::new(values, [count, s.skip * s.patch]), &device)
        });
        for (position, ends) in state.positions.iter_mut().zip(patches.cu_seqlens.windows(2)) {
            *position += ends[1] - ends[0];
        }
        let blocks = s.blocks();
        each!(&self.parameters, parts => {
            let x = parts.patch.forward(&tokens);
            let x = match marks {
                Some(marks) => x + marks,
                None => x,
            };
            let mut pass = Pass { x, v_first: None, cu_seqlens: Arc::clone(&patches.cu_seqlens) };
            for (block, state) in parts.blocks.iter().zip(&mut state.blocks) {
                Block::forward(block, &mut pass, &blocks, state);
            }
            let x = match &patches.asked {
                Some(asked) => embedding(&pass.x, asked),
                None => pass.x,
            };
            let x = match &parts.ln_out {
                Some(norm) => norm.layer_norm(&x, blocks.layer_norm_eps),
                None => x,
            };
            let y = parts.head.forward(&x);
            match (&parts.skip, lags) {
                (Some(skip), Some(lags)) => skip.forward_add(&lags, &y),
                _ => y,
            }
        })
    }

    /// The same parameters, shared, outside of any graph: for forecasts.
    pub fn without_graph(&self) -> SeriesModel {
        let parameters = map_each!(&self.parameters, parts => parts.valid());
        SeriesModel { sizes: self.sizes.clone(), device: self.device.clone().without_autodiff(), parameters }
    }

    /// The same parameters as leaves of a graph of their own, for a thread of its own.
    pub fn fork(&self) -> SeriesModel {
        let parameters = map_each!(self.parameters.clone(), parts => parts.fork(&self.device));
        SeriesModel { sizes: self.sizes.clone(), device: self.device.clone(), parameters }
    }
}

impl Trainable for SeriesModel {
    fn visit(&self, visitor: &mut impl ModuleVisitor) {
        each!(&self.parameters, parts => parts.visit(visitor));
    }

    fn map(self, mapper: &mut impl ModuleMapper) -> SeriesModel {
        let parameters = map_each!(self.parameters, parts => parts.map(mapper));
        SeriesModel { parameters, ..self }
    }
}

/// The marks of positions, [ΣN, C]: sines at even channels, cosines at odd ones, base 10000 (Vaswani et al. 2017).
fn sinusoids(cu_seqlens: &[usize], before: &[usize], width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(cu_seqlens.last().copied().unwrap_or(0) * width);
    for (ends, before) in cu_seqlens.windows(2).zip(before) {
        for position in *before..before + ends[1] - ends[0] {
            for channel in 0..width {
                let frequency = 10_000f64.powf(-((channel / 2 * 2) as f64) / width as f64);
                let angle = position as f64 * frequency;
                out.push(if channel % 2 == 0 { angle.sin() } else { angle.cos() } as f32);
            }
        }
    }
    out
}

/// The last K patches before and at every asked patch, oldest first, and how many are asked for; the state then has the
/// last of all.
fn lags(patches: &Patches, state: &mut SeriesState, s: &SeriesSizes) -> (usize, Vec<f32>) {
    let window = s.skip * s.patch;
    // A row's values behind those that the state remembers: every window is a part of it.
    let whole: Vec<Vec<f32>> = patches
        .cu_seqlens
        .windows(2)
        .zip(state.recent.chunks_exact(window))
        .map(|(ends, recent)| [recent, &patches.values[ends[0] * s.patch..ends[1] * s.patch]].concat())
        .collect();
    let all: Vec<u32>;
    let asked = match &patches.asked {
        Some(asked) => &asked[..],
        None => {
            all = (0..(patches.values.len() / s.patch) as u32).collect();
            &all
        }
    };
    let mut out = Vec::with_capacity(asked.len() * window);
    for &token in asked {
        let token = token as usize;
        let row = patches.cu_seqlens.partition_point(|&end| end <= token) - 1;
        let start = (token - patches.cu_seqlens[row] + 1) * s.patch;
        out.extend_from_slice(&whole[row][start..start + window]);
    }
    for (recent, whole) in state.recent.chunks_exact_mut(window).zip(&whole) {
        recent.copy_from_slice(&whole[whole.len() - window..]);
    }
    (asked.len(), out)
}
