//! RWKV-5.0, 5.1 and 5.2 (Eagle). Not in GGUF, not in flash-linear-attention.

use super::Dim::{HeadSize, Heads, Width};
use super::{Dim, Entry, Presence, Source, rwkv4, same};
use crate::config::Version;

const fn row(official: &'static str, shape: &'static [Dim], hf: &'static [Source]) -> Entry {
    Entry { official, shape, presence: Presence::Required, hf, fla: &[], gguf: &[] }
}

const HEAD_NORM: [Entry; 2] = [
    row("blocks.{}.att.ln_x.weight", &[Width], &[same("rwkv.blocks.{}.attention.ln_x.weight")]),
    row("blocks.{}.att.ln_x.bias", &[Width], &[same("rwkv.blocks.{}.attention.ln_x.bias")]),
];

const GATE: [Entry; 2] = [
    row(
        "blocks.{}.att.time_mix_g",
        &[Width],
        &[same("rwkv.blocks.{}.attention.time_mix_gate"), same("rwkv.blocks.{}.attention.time_mix_g")],
    ),
    row("blocks.{}.att.gate.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.gate.weight")]),
];

const DECAY: &[Source] = &[same("rwkv.blocks.{}.attention.time_decay")];
const FAAAA: &[Source] = &[same("rwkv.blocks.{}.attention.time_faaaa")];
const FIRST: &[Source] = &[same("rwkv.blocks.{}.attention.time_first")];

/// The bonus is `time_faaaa` itself, or exp(`time_first`) in older files.
const SCALAR: [Entry; 3] = [
    row("blocks.{}.att.time_decay", &[Heads], DECAY),
    Entry {
        presence: Presence::InsteadOf("blocks.{}.att.time_first"),
        ..row("blocks.{}.att.time_faaaa", &[Heads], FAAAA)
    },
    Entry {
        presence: Presence::InsteadOf("blocks.{}.att.time_faaaa"),
        ..row("blocks.{}.att.time_first", &[Heads], FIRST)
    },
];

const VECTOR: [Entry; 2] = [
    row("blocks.{}.att.time_decay", &[Heads, HeadSize], DECAY),
    row("blocks.{}.att.time_faaaa", &[Heads, HeadSize], FAAAA),
];

/// A tuned initial state, `[H, value, key]` on disk.
pub(super) const TIME_STATE: Entry = Entry {
    presence: Presence::Optional,
    ..row("blocks.{}.att.time_state", &[Heads, HeadSize, HeadSize], &[same("rwkv.blocks.{}.attention.time_state")])
};

pub(super) fn table(version: Version) -> Vec<Entry> {
    let mut rows = [&rwkv4::AROUND[..], &rwkv4::TIME_MIX, &HEAD_NORM, &[TIME_STATE]].concat();
    if version != Version::V5_0 {
        rows.extend(GATE);
    }
    if version == Version::V5_2 {
        rows.extend(VECTOR)
    } else {
        rows.extend(SCALAR)
    }
    rows
}
