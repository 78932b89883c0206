//! Which parameters decay, and which learn faster than the rest.

use std::fmt;
use std::str::FromStr;

use anser_checkpoint::Version;
use serde::{Deserialize, Serialize};

/// What can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Architecture {
    /// RWKV-4.
    #[serde(rename = "v4")]
    V4,
    /// RWKV-5.2 (Eagle).
    #[serde(rename = "v5.2")]
    V5_2,
    /// RWKV-6 (Finch).
    #[serde(rename = "v6")]
    V6,
    /// RWKV-7 (Goose).
    #[serde(rename = "v7")]
    V7,
    /// A decoder-only transformer with softmax attention: the rival to compare with.
    #[serde(rename = "transformer")]
    Transformer,
}

impl Architecture {
    /// All of them, RWKV from old to new.
    pub const ALL: [Architecture; 5] =
        [Architecture::V4, Architecture::V5_2, Architecture::V6, Architecture::V7, Architecture::Transformer];

    /// The version of RWKV; `None` for the transformer.
    pub fn version(self) -> Option<Version> {
        match self {
            Architecture::V4 => Some(Version::V4),
            Architecture::V5_2 => Some(Version::V5_2),
            Architecture::V6 => Some(Version::V6),
            Architecture::V7 => Some(Version::V7),
            Architecture::Transformer => None,
        }
    }

    /// The architecture that trains this version of RWKV; `None` for 5.0 and 5.1, which only run.
    pub fn of(version: Version) -> Option<Architecture> {
        Architecture::ALL.into_iter().find(|architecture| architecture.version() == Some(version))
    }

    fn name(self) -> &'static str {
        match self {
            Architecture::V4 => "v4",
            Architecture::V5_2 => "v5.2",
            Architecture::V6 => "v6",
            Architecture::V7 => "v7",
            Architecture::Transformer => "transformer",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Architecture {
    type Err = String;

    fn from_str(text: &str) -> Result<Architecture, String> {
        Architecture::ALL
            .into_iter()
            .find(|architecture| architecture.name() == text)
            .ok_or_else(|| format!("unknown model `{text}`: expected v4, v5.2, v6, v7 or transformer"))
    }
}

/// How the optimiser treats a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Group {
    /// Multiplies the learning rate.
    pub lr_scale: f32,
    /// Whether weight decay applies.
    pub weight_decay: bool,
}

/// The group of the tensor with this official name.
///
/// Weight decay is for matrices: names that end in `.weight`, with at least two axes longer than 1. That leaves out the
/// norms, the token shifts, decays, bonuses and the low-rank pairs. With `layerwise` (the trainers' default) the
/// decays learn at twice the rate (`time_decay`, RWKV-7's `att.w0`) and RWKV-4's `time_first` at three times; without
/// it everything learns at the same rate.
pub fn group(architecture: Architecture, name: &str, shape: &[usize], layerwise: bool) -> Group {
    let axes = shape.iter().filter(|&&length| length > 1).count();
    Group {
        lr_scale: if layerwise { lr_scale(architecture, name) } else { 1.0 },
        weight_decay: name.ends_with(".weight") && axes >= 2,
    }
}

fn lr_scale(architecture: Architecture, name: &str) -> f32 {
    let parameter = name.rsplit('.').next().unwrap_or(name);
    match (architecture, parameter) {
        // RWKV-6's `time_decay_w1` and `time_decay_w2` are no decays but factors of one: they stay at 1.
        (Architecture::V4 | Architecture::V5_2 | Architecture::V6, "time_decay") => 2.0,
        (Architecture::V4 | Architecture::V5_2 | Architecture::V6, "time_first") => 3.0,
        (Architecture::V7, "w0") if name.ends_with("att.w0") => 2.0,
        _ => 1.0,
    }
}
