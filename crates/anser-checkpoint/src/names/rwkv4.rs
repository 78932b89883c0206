//! RWKV-4. Not in GGUF, not in flash-linear-attention.

use super::Dim::{Ffn, Vocab, Width};
use super::{Dim, Entry, Presence, Source, same};

const fn row(official: &'static str, shape: &'static [Dim], hf: &'static [Source]) -> Entry {
    Entry { official, shape, presence: Presence::Required, hf, fla: &[], gguf: &[] }
}

/// Tensors outside the time mix, which v5 shares.
pub(super) const AROUND: [Entry; 16] = [
    row("emb.weight", &[Vocab, Width], &[same("rwkv.embeddings.weight")]),
    Entry {
        presence: Presence::FirstBlock,
        ..row("blocks.{}.ln0.weight", &[Width], &[same("rwkv.blocks.{}.pre_ln.weight")])
    },
    Entry {
        presence: Presence::FirstBlock,
        ..row("blocks.{}.ln0.bias", &[Width], &[same("rwkv.blocks.{}.pre_ln.bias")])
    },
    row("blocks.{}.ln1.weight", &[Width], &[same("rwkv.blocks.{}.ln1.weight")]),
    row("blocks.{}.ln1.bias", &[Width], &[same("rwkv.blocks.{}.ln1.bias")]),
    row("blocks.{}.ln2.weight", &[Width], &[same("rwkv.blocks.{}.ln2.weight")]),
    row("blocks.{}.ln2.bias", &[Width], &[same("rwkv.blocks.{}.ln2.bias")]),
    row(
        "blocks.{}.ffn.time_mix_k",
        &[Width],
        &[same("rwkv.blocks.{}.feed_forward.time_mix_key"), same("rwkv.blocks.{}.feed_forward.time_mix_k")],
    ),
    row(
        "blocks.{}.ffn.time_mix_r",
        &[Width],
        &[same("rwkv.blocks.{}.feed_forward.time_mix_receptance"), same("rwkv.blocks.{}.feed_forward.time_mix_r")],
    ),
    row("blocks.{}.ffn.key.weight", &[Ffn, Width], &[same("rwkv.blocks.{}.feed_forward.key.weight")]),
    row("blocks.{}.ffn.receptance.weight", &[Width, Width], &[same("rwkv.blocks.{}.feed_forward.receptance.weight")]),
    row("blocks.{}.ffn.value.weight", &[Width, Ffn], &[same("rwkv.blocks.{}.feed_forward.value.weight")]),
    row("ln_out.weight", &[Width], &[same("rwkv.ln_out.weight")]),
    row("ln_out.bias", &[Width], &[same("rwkv.ln_out.bias")]),
    row("head.weight", &[Vocab, Width], &[same("head.weight")]),
    row("blocks.{}.att.output.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.output.weight")]),
];

/// The token shift and matrices that v4 and v5 share.
pub(super) const TIME_MIX: [Entry; 6] = [
    row(
        "blocks.{}.att.time_mix_k",
        &[Width],
        &[same("rwkv.blocks.{}.attention.time_mix_key"), same("rwkv.blocks.{}.attention.time_mix_k")],
    ),
    row(
        "blocks.{}.att.time_mix_v",
        &[Width],
        &[same("rwkv.blocks.{}.attention.time_mix_value"), same("rwkv.blocks.{}.attention.time_mix_v")],
    ),
    row(
        "blocks.{}.att.time_mix_r",
        &[Width],
        &[same("rwkv.blocks.{}.attention.time_mix_receptance"), same("rwkv.blocks.{}.attention.time_mix_r")],
    ),
    row("blocks.{}.att.key.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.key.weight")]),
    row("blocks.{}.att.value.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.value.weight")]),
    row("blocks.{}.att.receptance.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.receptance.weight")]),
];

/// `time_decay` is the logarithm of the negative log decay; `time_first` is the bonus in log space.
const RECURRENCE: [Entry; 2] = [
    row("blocks.{}.att.time_decay", &[Width], &[same("rwkv.blocks.{}.attention.time_decay")]),
    row("blocks.{}.att.time_first", &[Width], &[same("rwkv.blocks.{}.attention.time_first")]),
];

pub(super) fn table() -> Vec<Entry> {
    [&AROUND[..], &TIME_MIX, &RECURRENCE].concat()
}
