//! The name tables: every tensor of every version, with its shape and where each layout keeps it.
//!
//! One file a version. A row reads: official name, official shape, when it must be there, and its sources in the Hugging
//! Face layout of transformers (and of the custom code published for v5 and v6), in flash-linear-attention's, and in
//! GGUF. `{}` stands for the block's index. A source is the stored tensor's name and how the official tensor is
//! [taken](Take) from it.

mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv7;

use crate::checkpoint::Layout;
use crate::config::{Config, Version};

/// Length of an axis, in terms of the model's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dim {
    /// V
    Vocab,
    /// C
    Width,
    /// F
    Ffn,
    /// H
    Heads,
    /// N
    HeadSize,
    /// Rank of v6's token-shift pairs.
    MixRank,
    /// Rank of the decay pair (v6, v7).
    DecayRank,
    /// Rank of v7's in-context learning rate pair.
    ARank,
    /// Rank of v7's value residual pair.
    VRank,
    /// Rank of v7's gate pair.
    GRank,
    /// The five parts of v6's token shift.
    Five,
    /// Five times the mix rank.
    FiveMixRanks,
}

impl Dim {
    /// Its length in a model of these sizes.
    pub(crate) fn length(self, config: &Config) -> usize {
        match self {
            Dim::Vocab => config.vocab,
            Dim::Width => config.width,
            Dim::Ffn => config.ffn,
            Dim::Heads => config.heads,
            Dim::HeadSize => config.head_size,
            Dim::MixRank => config.ranks.mix,
            Dim::DecayRank => config.ranks.decay,
            Dim::ARank => config.ranks.a,
            Dim::VRank => config.ranks.v,
            Dim::GRank => config.ranks.g,
            Dim::Five => 5,
            Dim::FiveMixRanks => config.ranks.mix.saturating_mul(5),
        }
    }
}

/// When a tensor must be in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Always.
    Required,
    /// It may be there.
    Optional,
    /// In block 0 and nowhere else.
    FirstBlock,
    /// In every block; block 0 may lack it, and never uses it.
    LaterBlocks,
    /// Exactly one of this and the official name given.
    InsteadOf(&'static str),
}

/// How an official tensor is taken from a stored one. Nothing but [`Take::Rescaled`] computes with the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// As it is.
    Whole,
    /// Entry `index` of `of` stacked along a leading axis: stored `[of, ..official]`.
    Part { index: usize, of: usize },
    /// The last two axes are swapped in the file.
    Transposed,
    /// All axes are flattened into one in the file.
    Flat,
    /// Official `[C, P*R]`, stored transposed as `[P*R, C]`; official part p is stored part `order[p]`.
    TransposedParts(&'static [usize]),
    /// Official `[P, R, C]`, stored side by side and transposed as `[C, P*R]`; official part p is stored part `order[p]`.
    JoinedParts(&'static [usize]),
    /// The values of block i are stored divided by `2^(i / rescale_every)`.
    Rescaled,
}

/// Where a layout keeps a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// Stored name, `{}` for the block's index.
    pub(crate) name: &'static str,
    /// How to take the official tensor out of it.
    pub(crate) take: Take,
}

/// Stored under this name, as it is.
pub(crate) const fn same(name: &'static str) -> Source {
    Source { name, take: Take::Whole }
}

/// Stored under this name, to be taken so.
pub(crate) const fn by(name: &'static str, take: Take) -> Source {
    Source { name, take }
}

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// Official name, `{}` for the block's index.
    pub(crate) official: &'static str,
    /// Official shape, axes of length 1 left out.
    pub(crate) shape: &'static [Dim],
    /// When it must be there.
    pub(crate) presence: Presence,
    /// Sources in the Hugging Face layout (v4 to v6); the first one present counts.
    pub(crate) hf: &'static [Source],
    /// Sources in flash-linear-attention's layout (v6, v7).
    pub(crate) fla: &'static [Source],
    /// Sources in GGUF (v6, v7).
    pub(crate) gguf: &'static [Source],
}

impl Entry {
    /// Whether the tensor exists once a block.
    pub(crate) fn in_blocks(&self) -> bool {
        self.official.contains("{}")
    }

    /// Where `layout` keeps it.
    pub(crate) fn sources(&self, layout: Layout) -> Vec<Source> {
        match layout {
            Layout::Official => vec![same(self.official)],
            Layout::HuggingFace => self.hf.to_vec(),
            Layout::Fla => self.fla.to_vec(),
            Layout::Gguf => self.gguf.to_vec(),
        }
    }
}

/// The table of a version.
pub(crate) fn table(version: Version) -> Vec<Entry> {
    match version {
        Version::V4 => rwkv4::table(),
        Version::V5_0 | Version::V5_1 | Version::V5_2 => rwkv5::table(version),
        Version::V6 => rwkv6::table(),
        Version::V7 => rwkv7::table(),
    }
}

/// Stored names that a layout holds without meaning, passed over when read, and the official tensors of which copies
/// are written under them.
pub(crate) fn dummies(version: Version, layout: Layout) -> &'static [(&'static str, &'static str)] {
    match (version, layout) {
        // Block 0 has no value residual; llama.cpp wants copies of a0, a1, a2 in its place.
        (Version::V7, Layout::Gguf) => &[
            ("blk.0.time_mix_v0.weight", "blocks.0.att.a0"),
            ("blk.0.time_mix_v1.weight", "blocks.0.att.a1"),
            ("blk.0.time_mix_v2.weight", "blocks.0.att.a2"),
        ],
        _ => &[],
    }
}

/// The shape a tensor is written with: `stored`, with the axes of length 1 that the layout's own loaders insist on.
/// `official` is a name of the table, `blocks.{}.att.x_r`.
pub(crate) fn written_shape(version: Version, layout: Layout, official: &str, stored: Vec<usize>) -> Vec<usize> {
    let name = official.rsplit('.').next().unwrap_or(official);
    let token_shift = ["time_mix_", "time_maa_", "x_"].iter().any(|start| name.starts_with(start));
    let vector = stored.len() == 1;
    let ones = match layout {
        Layout::Official | Layout::HuggingFace => {
            let per_channel = matches!(name, "w0" | "a0" | "v0" | "k_k" | "k_a");
            vector && (token_shift || per_channel || (name == "time_decay" && version == Version::V6))
        }
        Layout::Fla => vector && token_shift && version == Version::V7 && official.contains(".att."),
        // The stacked vectors.
        Layout::Gguf => token_shift && stored.len() == 2 && !matches!(name, "time_maa_w1" | "time_maa_w2"),
    };
    match (ones, layout) {
        (false, _) => stored,
        (true, Layout::Gguf) => vec![stored[0], 1, 1, stored[1]],
        (true, _) => vec![1, 1, stored[0]],
    }
}

/// A name with the block's index filled in.
pub(crate) fn fill(name: &str, block: usize) -> String {
    name.replacen("{}", &block.to_string(), 1)
}

impl Config {
    /// The official shape of a tensor, `None` where models of this version have none of that name.
    pub(crate) fn shape(&self, official: &str) -> Option<Vec<usize>> {
        let (generic, block) = match official.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
            Some((block, rest)) => (format!("blocks.{{}}.{rest}"), block.parse().ok()?),
            None => (official.to_string(), 0),
        };
        let entry = table(self.version).into_iter().find(|entry| entry.official == generic)?;
        let known = block < self.layers && fill(entry.official, block) == official;
        known.then(|| entry.shape.iter().map(|dim| dim.length(self)).collect())
    }

    /// Tensors that have two official names, of which a checkpoint holds one: first the one that
    /// [`Config::tensors`] lists.
    pub(crate) fn spellings(&self) -> Vec<(String, String)> {
        let rows = table(self.version);
        let later = rows.iter().enumerate().filter_map(|(at, entry)| match entry.presence {
            Presence::InsteadOf(first) if rows[..at].iter().any(|row| row.official == first) => {
                Some((first, entry.official))
            }
            _ => None,
        });
        let in_blocks = |(first, second)| (0..self.layers).map(move |block| (fill(first, block), fill(second, block)));
        later.flat_map(in_blocks).collect()
    }

    /// Official name and shape of every tensor that a checkpoint of these sizes must hold, row by row of the table.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (rows, mut tensors) = (table(self.version), Vec::new());
        for (at, entry) in rows.iter().enumerate() {
            let shape: Vec<usize> = entry.shape.iter().map(|dim| dim.length(self)).collect();
            // Of two names for one thing the first in the table counts.
            let second = |other| rows[..at].iter().any(|earlier| earlier.official == other);
            let blocks = match (entry.in_blocks(), entry.presence) {
                (_, Presence::Optional) => 0..0,
                (_, Presence::InsteadOf(other)) if second(other) => 0..0,
                (false, _) | (true, Presence::FirstBlock) => 0..1,
                (true, Presence::Required | Presence::InsteadOf(_)) => 0..self.layers,
                (true, Presence::LaterBlocks) => 1..self.layers,
            };
            tensors.extend(blocks.map(|block| (fill(entry.official, block), shape.clone())));
        }
        tensors
    }
}
