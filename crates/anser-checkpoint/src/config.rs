//! Sizes of a model, and what follows from them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The generations of the RWKV language model, as the official runtime numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// RWKV-4: one decaying average a channel.
    #[serde(rename = "4")]
    V4,
    /// RWKV-5.0: matrix state, one decay a head, no gate.
    #[serde(rename = "5.0")]
    V5_0,
    /// RWKV-5.1: 5.0 with a gate.
    #[serde(rename = "5.1")]
    V5_1,
    /// RWKV-5.2 (Eagle): 5.1 with one decay a channel.
    #[serde(rename = "5.2")]
    V5_2,
    /// RWKV-6 (Finch): decay and token shift depend on the token.
    #[serde(rename = "6")]
    V6,
    /// RWKV-7 (Goose): the state is also erased along a learned direction.
    #[serde(rename = "7")]
    V7,
}

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Version; 6] = [Version::V4, Version::V5_0, Version::V5_1, Version::V5_2, Version::V6, Version::V7];

    /// True for 5.0, 5.1 and 5.2.
    pub fn is_v5(self) -> bool {
        matches!(self, Version::V5_0 | Version::V5_1 | Version::V5_2)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V4 => "4",
            Version::V5_0 => "5.0",
            Version::V5_1 => "5.1",
            Version::V5_2 => "5.2",
            Version::V6 => "6",
            Version::V7 => "7",
        })
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Version, String> {
        Version::ALL
            .into_iter()
            .find(|version| version.to_string() == text)
            .ok_or_else(|| format!("unknown RWKV version `{text}`, expected 4, 5.0, 5.1, 5.2, 6 or 7"))
    }
}

/// Inner widths of the low-rank pairs; 0 where the version has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ranks {
    /// RWKV-6 `time_maa_w1`/`w2`: rank of each of the five parts.
    pub mix: usize,
    /// RWKV-6 `time_decay_w1`/`w2`, RWKV-7 `w1`/`w2`.
    pub decay: usize,
    /// RWKV-7 `a1`/`a2` (in-context learning rate).
    pub a: usize,
    /// RWKV-7 `v1`/`v2` (value residual); 0 in a model of one layer that lacks them.
    pub v: usize,
    /// RWKV-7 `g1`/`g2` (gate).
    pub g: usize,
}

/// Sizes and constants of a language model. All sizes are read from the tensors' shapes, never from a size table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Generation.
    pub version: Version,
    /// Rows of the embedding, V.
    pub vocab: usize,
    /// Width of the residual stream, C.
    pub width: usize,
    /// Blocks, L.
    pub layers: usize,
    /// Heads, H; 1 for RWKV-4.
    pub heads: usize,
    /// Channels a head, N, with H * N = C; C for RWKV-4.
    pub head_size: usize,
    /// Inner width of the channel mix, F.
    pub ffn: usize,
    /// Ranks of the low-rank pairs.
    pub ranks: Ranks,
    /// Epsilon of every LayerNorm; 1e-5 in official models.
    pub layer_norm_eps: f32,
    /// Epsilon of `ln_x`, the norm over each head; 64e-5 in official models, unused in RWKV-4.
    pub group_norm_eps: f32,
}

impl Config {
    /// LayerNorm epsilon of every official model.
    pub const LAYER_NORM_EPS: f32 = 1e-5;
    /// GroupNorm epsilon of every official model, at any head size.
    pub const GROUP_NORM_EPS: f32 = 64e-5;

    /// Number of weights: `2VC + 4C + L * (weights of a block)`.
    ///
    /// | version | weights of a block |
    /// |---|---|
    /// | 4   | 5C^2 + 2CF + 11C |
    /// | 5.0 | 5C^2 + 2CF + 11C + 2H |
    /// | 5.1 | 6C^2 + 2CF + 12C + 2H |
    /// | 5.2 | 6C^2 + 2CF + 14C |
    /// | 6   | 6C^2 + 2CF + 16C + 10 R C + 2 D C (R mix rank, D decay rank) |
    /// | 7   | 4C^2 + 2CF + 19C + 2C (ranks w + a + v + g) |
    ///
    /// As in the official tables, RWKV-7 counts block 0's unused `v0`, `v1`, `v2`, whether the file holds them or not.
    pub fn parameters(&self) -> u64 {
        let [v, c, l, h, f] = [self.vocab, self.width, self.layers, self.heads, self.ffn].map(|x| x as u64);
        let [mix, decay, a, value, gate] =
            [self.ranks.mix, self.ranks.decay, self.ranks.a, self.ranks.v, self.ranks.g].map(|x| x as u64);
        let block = match self.version {
            Version::V4 => 5 * c * c + 2 * c * f + 11 * c,
            Version::V5_0 => 5 * c * c + 2 * c * f + 11 * c + 2 * h,
            Version::V5_1 => 6 * c * c + 2 * c * f + 12 * c + 2 * h,
            Version::V5_2 => 6 * c * c + 2 * c * f + 14 * c,
            Version::V6 => 6 * c * c + 2 * c * f + 16 * c + 10 * mix * c + 2 * decay * c,
            Version::V7 => 4 * c * c + 2 * c * f + 19 * c + 2 * c * (decay + a + value + gate),
        };
        2 * v * c + 4 * c + l * block
    }

    /// Numbers in the state of one sequence: `5CL` for RWKV-4, `L (2C + NC)` for the others. Times 4 for bytes in f32.
    pub fn state_elements(&self) -> u64 {
        let [c, l, n] = [self.width, self.layers, self.head_size].map(|x| x as u64);
        match self.version {
            Version::V4 => 5 * c * l,
            _ => l * (2 * c + n * c),
        }
    }

    /// Floating-point operations to process one token: `2 (parameters - VC)` for the matrices (the embedding is a
    /// look-up) plus the state's work a layer, about `12C` (RWKV-4), `7NC` (5 and 6), `9NC` (7).
    pub fn flops_per_token(&self) -> u64 {
        let [v, c, l, n] = [self.vocab, self.width, self.layers, self.head_size].map(|x| x as u64);
        let state = match self.version {
            Version::V4 => 12 * c,
            Version::V7 => 9 * n * c,
            _ => 7 * n * c,
        };
        2 * (self.parameters() - v * c) + l * state
    }

    /// Name of the architecture, as state files and GGUF spell it: `rwkv4`, `rwkv5`, `rwkv5.1`, `rwkv5.2`, `rwkv6`,
    /// `rwkv7`.
    pub fn architecture(&self) -> &'static str {
        match self.version {
            Version::V4 => "rwkv4",
            Version::V5_0 => "rwkv5",
            Version::V5_1 => "rwkv5.1",
            Version::V5_2 => "rwkv5.2",
            Version::V6 => "rwkv6",
            Version::V7 => "rwkv7",
        }
    }
}
