//! Sizes and values a new forecaster begins with.

use anser_checkpoint::{Config, Ranks, Version};
use anser_nn::model::series::{Backbone, SeriesModel, SeriesSizes};
use anser_series::linear::Linear;

use crate::Error;
use crate::init;
use crate::random::Random;

/// What a user decides about a forecaster's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What kind of blocks.
    pub backbone: Backbone,
    /// Values a token.
    pub patch: usize,
    /// Values said at once.
    pub output: usize,
    /// Patches that the linear path sees; 0 for none.
    pub skip: usize,
    /// Width of the stream.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Channels a head.
    pub head_size: usize,
    /// Inner width of the channel mix.
    pub ffn: usize,
}

impl Shape {
    /// All sizes.
    ///
    /// # Errors
    /// [`Error::Setting`] for sizes of 0 or beyond reason, or a width that heads do not divide.
    pub fn sizes(&self) -> Result<SeriesSizes, Error> {
        let Shape { backbone, patch, output, skip, width, layers, head_size, ffn } = *self;
        for (name, value, most) in [
            ("patch", patch, 1 << 16),
            ("output", output, 1 << 16),
            ("width", width, 1 << 16),
            ("layers", layers, 1024),
            ("head_size", head_size, 1 << 16),
            ("ffn", ffn, 1 << 20),
        ] {
            if !(1..=most).contains(&value) {
                return Err(Error::Setting { name, found: value.to_string(), expected: format!("1 to {most}") });
            }
        }
        if !output.is_multiple_of(patch) {
            let expected = format!("a multiple of the patch of {patch}");
            return Err(Error::Setting { name: "output", found: output.to_string(), expected });
        }
        let head_size = if backbone == Backbone::Rwkv(Version::V4) { width } else { head_size };
        if !width.is_multiple_of(head_size) {
            let expected = format!("a divisor of the width of {width}");
            return Err(Error::Setting { name: "head_size", found: head_size.to_string(), expected });
        }
        let ranks = match backbone {
            Backbone::Rwkv(version) => init::ranks(version, width),
            // Those of the release, whose v is not used.
            Backbone::RimerReleased => Ranks { decay: 64, a: 64, v: 16, g: 128, ..Ranks::default() },
            Backbone::Transformer | Backbone::Timer => Ranks::default(),
        };
        let heads = width / head_size;
        Ok(SeriesSizes { backbone, patch, output, skip, width, layers, heads, head_size, ffn, ranks })
    }
}

/// A new model. Blocks begin as in the official trainers; with a linear path the head begins at zero, so that the model
/// says what the path does, and that is the closed form's `linear` where it is given.
///
/// # Errors
/// [`Error::NoInitialValue`] for sizes that no model has.
///
/// # Panics
/// When `linear` has another look-back than the path, or says less than the model.
pub fn initial(sizes: &SeriesSizes, linear: Option<&Linear>, seed: u64) -> Result<SeriesModel, Error> {
    let mut failed = None;
    let mut read = |name: &str, shape: &[usize]| {
        let values = values(sizes, linear, name, shape, seed).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            vec![0.0; shape.iter().product()]
        });
        Ok(values)
    };
    let model = SeriesModel::new(sizes, &anser_nn::cpu(), &mut read)?;
    failed.map_or(Ok(model), Err)
}

fn values(
    sizes: &SeriesSizes,
    linear: Option<&Linear>,
    name: &str,
    shape: &[usize],
    seed: u64,
) -> Result<Vec<f32>, Error> {
    let elements: usize = shape.iter().product();
    let uniform = |bound: f64| {
        let mut random = Random::new(seed, &format!("init {name}"), 0);
        (0..elements).map(|_| (bound * (2.0 * random.uniform() - 1.0)) as f32).collect()
    };
    // As torch's Linear: within one over the root of the inputs.
    let matrix = |inputs: usize| uniform(1.0 / (inputs as f64).sqrt());
    let Some(inside) = name.strip_prefix("blocks.") else {
        return Ok(match name {
            "ln_out.weight" => vec![1.0; elements],
            "skip.weight" => linear.map_or_else(|| vec![0.0; elements], |linear| path(linear, shape)),
            "head.weight" if sizes.skip > 0 => vec![0.0; elements],
            "head.bias" | "ln_out.bias" => vec![0.0; elements],
            _ => matrix(shape[1]),
        });
    };
    let part = inside.split_once('.').map_or(inside, |(_, part)| part);
    match sizes.backbone {
        Backbone::Rwkv(version) => init::initial(&config(sizes, version), name, shape, seed),
        Backbone::Transformer => init::initial_transformer(sizes.layers, name, shape, seed),
        Backbone::RimerReleased if part.starts_with("mlp.") => Ok(matrix(sizes.width)),
        Backbone::RimerReleased => init::initial(&config(sizes, Version::V7), name, shape, seed),
        Backbone::Timer => Ok(match part {
            "norm1.weight" | "norm2.weight" => vec![1.0; elements],
            "norm1.bias" | "norm2.bias" => vec![0.0; elements],
            // A bias has the bound of its matrix; only conv2's and out's inputs are not the width.
            "conv2.weight" | "conv2.bias" => matrix(sizes.ffn),
            "out.weight" | "out.bias" => matrix(sizes.heads * sizes.head_size),
            _ => matrix(sizes.width),
        }),
    }
}

/// What the official initial values ask for.
fn config(sizes: &SeriesSizes, version: Version) -> Config {
    Config {
        version,
        vocab: 0,
        width: sizes.width,
        layers: sizes.layers,
        heads: sizes.heads,
        head_size: sizes.head_size,
        ffn: sizes.ffn,
        ranks: sizes.ranks,
        layer_norm_eps: Config::LAYER_NORM_EPS,
        group_norm_eps: Config::GROUP_NORM_EPS,
    }
}

/// The closed form as a matrix [Q, L] on the window itself. Its constants are left out: in a window's own units they are
/// none.
fn path(linear: &Linear, shape: &[usize]) -> Vec<f32> {
    let (output, look_back) = (shape[0], shape[1]);
    assert!(linear.look_back == look_back && linear.horizon >= output, "the closed form of this window");
    let mut out = Vec::with_capacity(output * look_back);
    for row in linear.weight.chunks_exact(look_back + 1).take(output) {
        let weights = &row[..look_back];
        out.extend(weights.iter().map(|&w| w as f32));
        // Distances from the last value: what is taken from it comes back with it.
        let last = out.len() - 1;
        out[last] += (1.0 - weights.iter().sum::<f64>()) as f32;
    }
    out
}
