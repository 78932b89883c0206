//! Sizes and values a new model begins with: those of the official trainers.
//!
//! Every value is a pure function of the model's sizes, the tensor's name and the seed; the order in which tensors are
//! asked for does not matter.

mod orthogonal;

use anser_checkpoint::{Config, Ranks, Version};

use crate::error::Error;
use crate::groups::Architecture;
use crate::random::Random;
use orthogonal::orthogonal;

/// The official sizes of a model.
///
/// `head_size` is 64 unless given (RWKV-4 has none and takes none), `ffn` 4 C (RWKV-4 and 7) or 3.5 C rounded down to
/// a multiple of 32 (5.2 and 6). Low ranks follow the trainers' formulas: RWKV-7 (2.5, 2.5, 1.7, 5) * sqrt C for decay,
/// a, v and gate, each rounded to a multiple of 32, at least 32; RWKV-6 32 and 64, twice that at C = 4096.
///
/// # Errors
/// [`Error::Setting`] for what no model can be: a version that cannot be trained, sizes of 0 or beyond reason, fewer than
/// two layers (the official values divide by L - 1), a width that heads do not divide.
pub fn sizes(
    version: Version,
    vocab: usize,
    layers: usize,
    width: usize,
    head_size: Option<usize>,
    ffn: Option<usize>,
) -> Result<Config, Error> {
    trainable(version)?;
    within("vocab", vocab, 2, 1 << 24)?;
    within("layers", layers, 2, 1024)?;
    within("width", width, 2, 1 << 16)?;
    let head_size = match (version, head_size) {
        (Version::V4, None) => width,
        (Version::V4, Some(given)) => {
            return refuse("head_size", given, "no head size for v4, which has no heads: leave it out");
        }
        (_, None) if width < 64 => width,
        (_, None) => 64,
        (_, Some(given)) => given,
    };
    within("head_size", head_size, 1, width)?;
    if !width.is_multiple_of(head_size) {
        let (below, above) = (width / head_size * head_size, width.div_ceil(head_size) * head_size);
        let divisors: Vec<String> =
            [16, 32, 64, 128].iter().filter(|&&n| width.is_multiple_of(n)).map(usize::to_string).collect();
        let instead = match divisors.is_empty() {
            true => String::new(),
            false => format!(", or a head size that divides it (such as {})", divisors.join(", ")),
        };
        return refuse(
            "width",
            width,
            &format!("a multiple of the head size {head_size}, such as {below} or {above}{instead}"),
        );
    }
    let ffn = match (ffn, version) {
        (Some(given), _) => given,
        (None, Version::V4 | Version::V7) => 4 * width,
        (None, _) => (7 * width / 2 / 32 * 32).max(32),
    };
    within("ffn", ffn, 1, 1 << 20)?;
    Ok(Config {
        version,
        vocab,
        width,
        layers,
        heads: width / head_size,
        head_size,
        ffn,
        ranks: ranks(version, width),
        layer_norm_eps: Config::LAYER_NORM_EPS,
        group_norm_eps: Config::GROUP_NORM_EPS,
    })
}

fn trainable(version: Version) -> Result<(), Error> {
    match Architecture::of(version) {
        Some(_) => Ok(()),
        None => refuse("model", version, "v4, v5.2, v6 or v7: RWKV 5.0 and 5.1 run but are not trained"),
    }
}

fn refuse<T>(name: &'static str, found: impl ToString, expected: &str) -> Result<T, Error> {
    Err(Error::Setting { name, found: found.to_string(), expected: expected.to_string() })
}

fn within(name: &'static str, found: usize, least: usize, most: usize) -> Result<(), Error> {
    match (least..=most).contains(&found) {
        true => Ok(()),
        false => refuse(name, found, &format!("{least} to {most}")),
    }
}

pub(crate) fn ranks(version: Version, width: usize) -> Ranks {
    let of_root = |factor: f64| {
        let blocks = factor * (width as f64).sqrt() / 32.0;
        (blocks.round_ties_even() as usize * 32).max(32)
    };
    match version {
        Version::V6 if width == 4096 => Ranks { mix: 64, decay: 128, ..Ranks::default() },
        Version::V6 => Ranks { mix: 32, decay: 64, ..Ranks::default() },
        Version::V7 => Ranks { mix: 0, decay: of_root(2.5), a: of_root(2.5), v: of_root(1.7), g: of_root(5.0) },
        _ => Ranks::default(),
    }
}

/// What a tensor begins with, before it is written out.
enum Start {
    /// The same number everywhere.
    Fill(f64),
    /// A function of the flat index.
    Each(Box<dyn Fn(usize) -> f64>),
    /// Uniform in [-bound, bound).
    Uniform(f64),
    /// Normal with this deviation.
    Normal(f64),
    /// A random orthogonal matrix times this gain.
    Orthogonal(f64),
}

impl Start {
    fn each(f: impl Fn(usize) -> f64 + 'static) -> Start {
        Start::Each(Box::new(f))
    }

    fn values(self, name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
        let elements = shape.iter().product();
        let purpose = format!("init {name}");
        let mut random = Random::new(seed, &purpose, 0);
        match self {
            Start::Fill(value) => vec![value as f32; elements],
            Start::Each(f) => (0..elements).map(|i| f(i) as f32).collect(),
            Start::Uniform(bound) => (0..elements).map(|_| (bound * (2.0 * random.uniform() - 1.0)) as f32).collect(),
            Start::Normal(deviation) => (0..elements).map(|_| (deviation * random.normal()) as f32).collect(),
            Start::Orthogonal(gain) => orthogonal(shape[0], shape[1], gain, seed, &purpose),
        }
    }
}

/// The official initial values, row-major, of the tensor with this official name and shape in a model of these sizes.
///
/// One thing the official trainer takes from elsewhere: RWKV-4's embedding is uniform within the learning rate, here
/// within that rate's default of 6e-4. A model of one layer, which the official code divides by zero for, is
/// treated as the first layer of a deeper one.
///
/// # Errors
/// [`Error::Setting`] for a version that cannot be trained, [`Error::NoInitialValue`] for a name that is none of the
/// version's or a shape that is not the tensor's.
pub fn initial(config: &Config, name: &str, shape: &[usize], seed: u64) -> Result<Vec<f32>, Error> {
    trainable(config.version)?;
    let start = start(config, name, shape).ok_or_else(|| Error::NoInitialValue {
        tensor: name.to_string(),
        shape: shape.to_vec(),
        architecture: config.architecture(),
    })?;
    Ok(start.values(name, shape, seed))
}

/// GPT-2's initial values for the decoder-only transformer: matrices normal with deviation 0.02, those that write to the
/// residual stream (`att.output`, `ffn.value`) divided by `sqrt(2 layers)`, norms 1 and 0.
///
/// # Errors
/// [`Error::NoInitialValue`] for a name or shape the transformer does not have.
pub fn initial_transformer(layers: usize, name: &str, shape: &[usize], seed: u64) -> Result<Vec<f32>, Error> {
    let (_, parameter) = split(name);
    let start = match (parameter, shape.len()) {
        ("att.output.weight" | "ffn.value.weight", 2) => Some(Start::Normal(0.02 / (2.0 * layers as f64).sqrt())),
        (
            "emb.weight" | "head.weight" | "att.query.weight" | "att.key.weight" | "att.value.weight"
            | "ffn.key.weight",
            2,
        ) => Some(Start::Normal(0.02)),
        ("ln1.weight" | "ln2.weight" | "ln_out.weight", 1) => Some(Start::Fill(1.0)),
        ("ln1.bias" | "ln2.bias" | "ln_out.bias", 1) => Some(Start::Fill(0.0)),
        _ => None,
    };
    let start = start.ok_or_else(|| Error::NoInitialValue {
        tensor: name.to_string(),
        shape: shape.to_vec(),
        architecture: "transformer",
    })?;
    Ok(start.values(name, shape, seed))
}

/// The block's index, 0 outside the blocks, and the name without it.
fn split(name: &str) -> (usize, &str) {
    let inside = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    match inside.and_then(|(block, rest)| Some((block.parse().ok()?, rest))) {
        Some(found) => found,
        None => (0, name),
    }
}

/// `None` if the model has no such tensor.
fn start(config: &Config, name: &str, shape: &[usize]) -> Option<Start> {
    let (layer, parameter) = split(name);
    let elements: usize = shape.iter().product();
    let matrix = parameter.ends_with(".weight") && !parameter.contains("ln");
    if layer >= config.layers || (matrix && shape.len() != 2) {
        return None;
    }
    // The longer side's excess, as the gain that keeps a product's output of the input's size.
    let tall = |shape: &[usize]| (shape[0] as f64 / shape[1] as f64).sqrt().max(1.0);
    let everywhere = match parameter {
        "ln0.weight" | "ln1.weight" | "ln2.weight" | "ln_out.weight" => Some(Start::Fill(1.0)),
        "ln0.bias" | "ln1.bias" | "ln2.bias" | "ln_out.bias" => Some(Start::Fill(0.0)),
        "emb.weight" if config.version == Version::V4 => Some(Start::Uniform(6e-4)),
        "emb.weight" => Some(Start::Uniform(1e-4)),
        "head.weight" => Some(Start::Orthogonal(0.5 * tall(shape))),
        "att.value.weight" => Some(Start::Orthogonal(1.0)),
        "att.output.weight" | "ffn.value.weight" => Some(Start::Fill(0.0)),
        "att.ln_x.weight" if config.version != Version::V4 => {
            Some(Start::Fill(((layer + 1) as f64 / config.layers as f64).powf(0.7)))
        }
        "att.ln_x.bias" if config.version != Version::V4 => Some(Start::Fill(0.0)),
        _ => None,
    };
    if everywhere.is_some() {
        return everywhere;
    }
    if !matrix && !parameter.ends_with(['1', '2']) && elements != config.width {
        return None;
    }
    let place = Place::new(config, layer);
    match config.version {
        Version::V4 => v4(&place, parameter, shape, tall),
        Version::V5_2 => v5(&place, parameter),
        Version::V6 => v6(&place, parameter),
        Version::V7 => v7(&place, parameter, shape, tall),
        Version::V5_0 | Version::V5_1 => None,
    }
}

/// Where a tensor is in the model.
#[derive(Clone, Copy)]
struct Place {
    /// 0 in the first layer to 1 in the last.
    up: f64,
    /// 1 in the first layer to nearly 0 in the last.
    down: f64,
    width: usize,
    head_size: usize,
}

impl Place {
    fn new(config: &Config, layer: usize) -> Place {
        Place {
            up: layer as f64 / config.layers.saturating_sub(1).max(1) as f64,
            down: 1.0 - layer as f64 / config.layers as f64,
            width: config.width,
            head_size: config.head_size,
        }
    }

    /// 0 at the first channel to nearly 1 at the last.
    fn below_one(&self, channel: usize) -> f64 {
        channel as f64 / self.width as f64
    }

    /// 0 at the first channel to 1 at the last.
    fn up_to_one(&self, channel: usize) -> f64 {
        channel as f64 / self.width.saturating_sub(1).max(1) as f64
    }

    /// `(i/C)^power + plus`: how much of the current token each channel takes.
    fn shift(self, power: f64, plus: f64) -> impl Fn(usize) -> f64 {
        move |i| self.below_one(i).powf(power) + plus
    }

    /// One minus [`Place::shift`]: how much of the previous token, as RWKV-6 and 7 store it.
    fn unshift(self, power: f64, plus: f64) -> Start {
        let shift = self.shift(power, plus);
        Start::each(move |i| 1.0 - shift(i))
    }

    /// `from + (to - from) (i / (C-1))^(0.7 + 1.3 up)`
    fn decay(self, from: f64, to: f64) -> Start {
        let power = 0.7 + 1.3 * self.up;
        Start::each(move |i| from + (to - from) * self.up_to_one(i).powf(power))
    }
}

/// -1, 0, 1 in turn, beginning with 0.
fn zigzag(i: usize) -> f64 {
    ((i + 1) % 3) as f64 - 1.0
}

fn v4(at: &Place, parameter: &str, shape: &[usize], tall: impl Fn(&[usize]) -> f64) -> Option<Start> {
    let at = *at;
    Some(match parameter {
        "att.receptance.weight" | "att.key.weight" | "ffn.receptance.weight" => Start::Fill(0.0),
        "ffn.key.weight" => Start::Orthogonal(tall(shape)),
        "att.time_mix_k" | "ffn.time_mix_k" | "ffn.time_mix_r" => Start::each(at.shift(at.down, 0.0)),
        "att.time_mix_v" => Start::each(at.shift(at.down, 0.3 * at.up)),
        "att.time_mix_r" => Start::each(at.shift(0.5 * at.down, 0.0)),
        "att.time_decay" => at.decay(-5.0, 3.0),
        "att.time_first" => Start::each(|i| 0.3f64.ln() + 0.5 * zigzag(i)),
        _ => return None,
    })
}

/// What RWKV-5.2 and 6 share.
fn v5_and_v6(at: &Place, parameter: &str) -> Option<Start> {
    let at = *at;
    Some(match parameter {
        "att.receptance.weight" | "ffn.key.weight" => Start::Orthogonal(1.0),
        "att.key.weight" | "att.gate.weight" => Start::Orthogonal(0.1),
        "ffn.receptance.weight" => Start::Fill(0.0),
        "att.time_decay" => at.decay(-6.0, -1.0),
        "att.time_faaaa" => Start::each(move |i| at.up * (1.0 - at.up_to_one(i)) + 0.1 * zigzag(i)),
        _ => return None,
    })
}

fn v5(at: &Place, parameter: &str) -> Option<Start> {
    Some(match parameter {
        "att.time_mix_k" | "ffn.time_mix_k" | "ffn.time_mix_r" => Start::each(at.shift(at.down, 0.0)),
        "att.time_mix_v" => Start::each(at.shift(at.down, 0.3 * at.up)),
        "att.time_mix_r" | "att.time_mix_g" => Start::each(at.shift(0.5 * at.down, 0.0)),
        _ => return v5_and_v6(at, parameter),
    })
}

fn v6(at: &Place, parameter: &str) -> Option<Start> {
    Some(match parameter {
        "att.time_maa_x" | "att.time_maa_w" | "att.time_maa_k" => at.unshift(at.down, 0.0),
        "att.time_maa_v" => at.unshift(at.down, 0.3 * at.up),
        "att.time_maa_r" | "att.time_maa_g" => at.unshift(0.5 * at.down, 0.0),
        "ffn.time_maa_k" | "ffn.time_maa_r" => at.unshift(at.down.powi(3), 0.0),
        "att.time_maa_w1" | "att.time_decay_w1" => Start::Fill(0.0),
        "att.time_maa_w2" | "att.time_decay_w2" => Start::Uniform(0.01),
        _ => return v5_and_v6(at, parameter),
    })
}

fn v7(at: &Place, parameter: &str, shape: &[usize], tall: impl Fn(&[usize]) -> f64) -> Option<Start> {
    let at = *at;
    // -0.5 at the first channel to 0.5 at the last.
    let linear = move |i| at.up_to_one(i) - 0.5;
    // -1 at a head's first channel to 1 at its last, squared with the sign kept.
    let within_head = move |i: usize| {
        let half = (at.head_size.saturating_sub(1)) as f64 / 2.0;
        let z = ((i % at.head_size) as f64 - half) / half.max(0.5);
        z * z.abs()
    };
    Some(match parameter {
        "att.receptance.weight" | "ffn.key.weight" => Start::Orthogonal(1.0),
        "att.key.weight" => Start::Orthogonal(0.1),
        "att.x_r" | "att.x_g" => at.unshift(0.2 * at.down, 0.0),
        "att.x_w" | "att.x_a" => at.unshift(0.9 * at.down, 0.0),
        "att.x_k" | "att.x_v" => at.unshift(0.7 * at.down, 0.0),
        "ffn.x_k" => at.unshift(at.down.powi(4), 0.0),
        "att.w0" => {
            let power = 1.0 + at.up.powf(0.3);
            Start::each(move |i| -5.5 + 6.0 * at.up_to_one(i).powf(power) + 2.5 * within_head(i))
        }
        "att.a0" => Start::each(move |i| -0.19 + 0.3 * within_head(i) + 0.4 * linear(i)),
        "att.v0" => Start::each(move |i| 0.73 - 0.4 * linear(i)),
        "att.k_k" => Start::each(move |i| 0.71 - 0.1 * linear(i)),
        "att.k_a" => Start::Fill(1.02),
        "att.r_k" => Start::Fill(-0.04),
        "att.w1" | "att.a1" | "att.v1" | "att.g1" => Start::Fill(0.0),
        "att.w2" | "att.a2" | "att.v2" | "att.g2" if shape.len() == 2 => Start::Orthogonal(0.1 * tall(shape)),
        _ => return None,
    })
}
