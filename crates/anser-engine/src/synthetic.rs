//! Made-up models: random weights of any version and size, for measurements and for tests.

use std::borrow::Cow;
use std::path::Path;

use anser_checkpoint::{Config, Dtype, Ranks, Tensor, Version};

use crate::model::Source;

/// A model of random weights.
///
/// The weights are scaled so that activations stay of order one, and are exactly representable in bf16 and f16: they
/// are small multiples of a power of two. The same seed gives the same model.
#[derive(Debug, Clone)]
pub struct Synthetic {
    config: Config,
    seed: u64,
    shapes: Vec<(String, Vec<usize>)>,
}

/// Integers in `centre - half ..= centre + half`, times `2^-exponent`.
struct Grid {
    centre: i32,
    half: i32,
    exponent: i32,
}

impl Synthetic {
    /// A model of the given sizes.
    pub fn new(config: Config, seed: u64) -> Synthetic {
        let shapes = config.tensors();
        Synthetic { config, seed, shapes }
    }

    /// RWKV-7 in the sizes of the published World models: `"0.1b"` (12 layers of 768), `"0.4b"` (24 of 1024) and
    /// `"1.5b"` (24 of 2048), vocabulary 65536.
    pub fn preset(name: &str) -> Option<Synthetic> {
        let (layers, width, [decay, a, v, g]) = match name {
            "0.1b" => (12, 768, [64, 64, 32, 128]),
            "0.4b" => (24, 1024, [64, 64, 32, 128]),
            "1.5b" => (24, 2048, [96, 96, 64, 256]),
            _ => return None,
        };
        let config = Synthetic::config(Version::V7, 65536, width / 64, 64, layers, 4 * width, [0, decay, a, v, g]);
        Some(Synthetic::new(config, 0))
    }

    /// A model of two small layers.
    pub fn tiny(version: Version, seed: u64) -> Synthetic {
        Synthetic::new(Synthetic::config(version, 64, 2, 8, 2, 40, [3, 5, 4, 2, 6]), seed)
    }

    /// Sizes with the official constants; `ranks` are mix, decay, a, v, g, of which a version takes what it has.
    pub fn config(
        version: Version,
        vocab: usize,
        heads: usize,
        head_size: usize,
        layers: usize,
        ffn: usize,
        ranks: [usize; 5],
    ) -> Config {
        let width = heads * head_size;
        let (heads, head_size) = if version == Version::V4 { (1, width) } else { (heads, head_size) };
        let [mix, decay, a, v, g] = ranks;
        let ranks = match version {
            Version::V6 => Ranks { mix, decay, ..Ranks::default() },
            Version::V7 => Ranks { mix: 0, decay, a, v, g },
            _ => Ranks::default(),
        };
        Config {
            version,
            vocab,
            width,
            layers,
            heads,
            head_size,
            ffn,
            ranks,
            layer_norm_eps: Config::LAYER_NORM_EPS,
            group_norm_eps: Config::GROUP_NORM_EPS,
        }
    }

    /// Where the values of a tensor lie.
    fn grid(&self, name: &str, shape: &[usize]) -> Grid {
        let grid = |centre, half, exponent| Grid { centre, half, exponent };
        // What a weight is told by: "w0" of "blocks.3.att.w0", "ln1.weight" of "blocks.3.ln1.weight".
        let local = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')).map_or(name, |(_, local)| local);
        let field = local.rsplit('.').next().unwrap_or(local);
        match (self.config.version, field) {
            (_, "bias") => grid(0, 13, 8),
            (_, "weight") if shape.len() == 1 => grid(128, 13, 7),
            (_, "weight") if name == "emb.weight" => grid(0, 127, 8),
            (_, "weight") => grid(0, 127, 7 + half_log2(shape[1])),
            (Version::V4, "time_decay") => grid(-64, 96, 5),
            (_, "time_decay" | "w0") => grid(-96, 64, 5),
            (_, "time_first" | "time_faaaa") => grid(0, 64, 7),
            (_, "k_k" | "k_a") => grid(118, 13, 7),
            (_, "r_k") => grid(0, 25, 7),
            (_, "a0" | "v0") => grid(0, 64, 7),
            (_, "time_maa_w1" | "time_decay_w1" | "w1" | "a1" | "v1" | "g1") => grid(0, 127, 7 + half_log2(shape[0])),
            (_, "time_maa_w2" | "time_decay_w2" | "w2" | "a2" | "v2" | "g2") => grid(0, 127, 9),
            // Token shifts: shares between 0 and 1.
            _ => grid(64, 63, 7),
        }
    }
}

/// log2 of the square root, rounded: weights of that scale keep a product's variance.
fn half_log2(n: usize) -> i32 {
    ((n.max(1) as f32).log2() / 2.0).round() as i32
}

impl Source for Synthetic {
    fn path(&self) -> &Path {
        Path::new("synthetic model")
    }

    fn config(&self) -> &Config {
        &self.config
    }

    fn dtype(&self) -> Dtype {
        Dtype::Bf16
    }

    fn has(&self, name: &str) -> bool {
        self.shapes.iter().any(|(known, _)| known == name)
    }

    fn tensor(&self, name: &str) -> Result<Tensor<'_>, anser_checkpoint::Error> {
        let Some((_, shape)) = self.shapes.iter().find(|(known, _)| known == name) else {
            let (file, version) = (self.path().to_path_buf(), self.config.version);
            return Err(anser_checkpoint::Error::MissingTensor { file, tensor: name.to_string(), version });
        };
        let Grid { centre, half, exponent } = self.grid(name, shape);
        let (unit, span) = (2f32.powi(-exponent), (2 * half + 1) as u64);
        let mut random = name
            .bytes()
            .fold(self.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3));
        let elements: usize = shape.iter().product();
        let mut data = Vec::with_capacity(elements * Dtype::Bf16.bytes());
        for _ in 0..elements {
            // The high half of a 64-bit linear congruential generator is good enough to fill matrices.
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let value = (centre - half) as f32 + (((random >> 32) * span) >> 32) as f32;
            // Exact: the integer has at most eight bits.
            data.extend_from_slice(&((value * unit).to_bits() >> 16).to_le_bytes()[..2]);
        }
        Ok(Tensor { name: name.to_string(), dtype: Dtype::Bf16, shape: shape.clone(), data: Cow::Owned(data) })
    }
}
