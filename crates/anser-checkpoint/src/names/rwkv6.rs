//! RWKV-6 (Finch).
//!
//! The five parts of the token shift are in the order w, k, v, r, g in official files and GGUF, r, w, k, v, g in
//! flash-linear-attention.

use super::Dim::{DecayRank, Ffn, Five, FiveMixRanks, HeadSize, Heads, MixRank, Vocab, Width};
use super::Take::{JoinedParts, Part, Rescaled, Transposed, TransposedParts};
use super::{Dim, Entry, Presence, Source, by, rwkv5, same};

const fn row(
    official: &'static str,
    shape: &'static [Dim],
    hf: &'static [Source],
    fla: &'static [Source],
    gguf: &'static [Source],
) -> Entry {
    Entry { official, shape, presence: Presence::Required, hf, fla, gguf }
}

/// Where flash-linear-attention keeps the parts w, k, v, r, g.
const FLA_ORDER: &[usize] = &[1, 2, 3, 0, 4];

const fn fla_bias(index: usize) -> Source {
    by("model.layers.{}.attn.x_bias", Part { index, of: 5 })
}

const fn gguf_lerp(index: usize) -> Source {
    by("blk.{}.time_mix_lerp_fused.weight", Part { index, of: 5 })
}

#[rustfmt::skip]
const TABLE: [Entry; 35] = [
    row("emb.weight", &[Vocab, Width], &[same("rwkv.embeddings.weight")], &[same("model.embeddings.weight")], &[same("token_embd.weight")]),
    Entry {
        presence: Presence::FirstBlock,
        ..row("blocks.{}.ln0.weight", &[Width], &[same("rwkv.blocks.{}.pre_ln.weight")], &[same("model.layers.{}.pre_norm.weight")], &[same("token_embd_norm.weight")])
    },
    Entry {
        presence: Presence::FirstBlock,
        ..row("blocks.{}.ln0.bias", &[Width], &[same("rwkv.blocks.{}.pre_ln.bias")], &[same("model.layers.{}.pre_norm.bias")], &[same("token_embd_norm.bias")])
    },
    row("blocks.{}.ln1.weight", &[Width], &[same("rwkv.blocks.{}.ln1.weight")], &[same("model.layers.{}.attn_norm.weight")], &[same("blk.{}.attn_norm.weight")]),
    row("blocks.{}.ln1.bias", &[Width], &[same("rwkv.blocks.{}.ln1.bias")], &[same("model.layers.{}.attn_norm.bias")], &[same("blk.{}.attn_norm.bias")]),
    row("blocks.{}.ln2.weight", &[Width], &[same("rwkv.blocks.{}.ln2.weight")], &[same("model.layers.{}.ffn_norm.weight")], &[same("blk.{}.attn_norm_2.weight")]),
    row("blocks.{}.ln2.bias", &[Width], &[same("rwkv.blocks.{}.ln2.bias")], &[same("model.layers.{}.ffn_norm.bias")], &[same("blk.{}.attn_norm_2.bias")]),
    row("blocks.{}.att.time_maa_x", &[Width], &[same("rwkv.blocks.{}.attention.time_maa_x")], &[same("model.layers.{}.attn.x_proj.0.mu")], &[same("blk.{}.time_mix_lerp_x.weight")]),
    row("blocks.{}.att.time_maa_w", &[Width], &[same("rwkv.blocks.{}.attention.time_maa_w")], &[fla_bias(1)], &[gguf_lerp(0), same("blk.{}.time_mix_lerp_w.weight")]),
    row("blocks.{}.att.time_maa_k", &[Width], &[same("rwkv.blocks.{}.attention.time_maa_k")], &[fla_bias(2)], &[gguf_lerp(1), same("blk.{}.time_mix_lerp_k.weight")]),
    row("blocks.{}.att.time_maa_v", &[Width], &[same("rwkv.blocks.{}.attention.time_maa_v")], &[fla_bias(3)], &[gguf_lerp(2), same("blk.{}.time_mix_lerp_v.weight")]),
    row("blocks.{}.att.time_maa_r", &[Width], &[same("rwkv.blocks.{}.attention.time_maa_r")], &[fla_bias(0)], &[gguf_lerp(3), same("blk.{}.time_mix_lerp_r.weight")]),
    row("blocks.{}.att.time_maa_g", &[Width], &[same("rwkv.blocks.{}.attention.time_maa_g")], &[fla_bias(4)], &[gguf_lerp(4), same("blk.{}.time_mix_lerp_g.weight")]),
    row("blocks.{}.att.time_maa_w1", &[Width, FiveMixRanks], &[same("rwkv.blocks.{}.attention.time_maa_w1")], &[by("model.layers.{}.attn.x_proj.0.linear.weight", TransposedParts(FLA_ORDER))], &[by("blk.{}.time_mix_w1.weight", Transposed)]),
    row("blocks.{}.att.time_maa_w2", &[Five, MixRank, Width], &[same("rwkv.blocks.{}.attention.time_maa_w2")], &[by("model.layers.{}.attn.x_proj.2.weight", JoinedParts(FLA_ORDER))], &[by("blk.{}.time_mix_w2.weight", Transposed)]),
    row("blocks.{}.att.time_decay", &[Width], &[same("rwkv.blocks.{}.attention.time_decay")], &[same("model.layers.{}.attn.w_proj.linear.lora.2.bias"), same("model.layers.{}.attn.w_proj.lora.2.bias")], &[same("blk.{}.time_mix_decay.weight")]),
    row("blocks.{}.att.time_decay_w1", &[Width, DecayRank], &[same("rwkv.blocks.{}.attention.time_decay_w1")], &[by("model.layers.{}.attn.w_proj.linear.lora.0.weight", Transposed), by("model.layers.{}.attn.w_proj.lora.0.weight", Transposed)], &[by("blk.{}.time_mix_decay_w1.weight", Transposed)]),
    row("blocks.{}.att.time_decay_w2", &[DecayRank, Width], &[same("rwkv.blocks.{}.attention.time_decay_w2")], &[by("model.layers.{}.attn.w_proj.linear.lora.2.weight", Transposed), by("model.layers.{}.attn.w_proj.lora.2.weight", Transposed)], &[by("blk.{}.time_mix_decay_w2.weight", Transposed)]),
    row("blocks.{}.att.time_faaaa", &[Heads, HeadSize], &[same("rwkv.blocks.{}.attention.time_faaaa")], &[same("model.layers.{}.attn.bonus")], &[same("blk.{}.time_mix_first.weight")]),
    row("blocks.{}.att.receptance.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.receptance.weight")], &[same("model.layers.{}.attn.r_proj.linear.weight")], &[same("blk.{}.time_mix_receptance.weight")]),
    row("blocks.{}.att.key.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.key.weight")], &[same("model.layers.{}.attn.k_proj.linear.weight")], &[same("blk.{}.time_mix_key.weight")]),
    row("blocks.{}.att.value.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.value.weight")], &[same("model.layers.{}.attn.v_proj.linear.weight")], &[same("blk.{}.time_mix_value.weight")]),
    row("blocks.{}.att.gate.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.gate.weight")], &[same("model.layers.{}.attn.g_proj.linear.weight")], &[same("blk.{}.time_mix_gate.weight")]),
    row("blocks.{}.att.output.weight", &[Width, Width], &[same("rwkv.blocks.{}.attention.output.weight")], &[same("model.layers.{}.attn.o_proj.weight")], &[by("blk.{}.time_mix_output.weight", Rescaled)]),
    row("blocks.{}.att.ln_x.weight", &[Width], &[same("rwkv.blocks.{}.attention.ln_x.weight")], &[same("model.layers.{}.attn.g_norm.weight")], &[same("blk.{}.time_mix_ln.weight")]),
    row("blocks.{}.att.ln_x.bias", &[Width], &[same("rwkv.blocks.{}.attention.ln_x.bias")], &[same("model.layers.{}.attn.g_norm.bias")], &[same("blk.{}.time_mix_ln.bias")]),
    rwkv5::TIME_STATE,
    row("blocks.{}.ffn.time_maa_k", &[Width], &[same("rwkv.blocks.{}.feed_forward.time_maa_k")], &[same("model.layers.{}.ffn.key.mu")], &[same("blk.{}.channel_mix_lerp_k.weight")]),
    row("blocks.{}.ffn.time_maa_r", &[Width], &[same("rwkv.blocks.{}.feed_forward.time_maa_r")], &[same("model.layers.{}.ffn.receptance.mu")], &[same("blk.{}.channel_mix_lerp_r.weight")]),
    row("blocks.{}.ffn.key.weight", &[Ffn, Width], &[same("rwkv.blocks.{}.feed_forward.key.weight")], &[same("model.layers.{}.ffn.key.linear.weight")], &[same("blk.{}.channel_mix_key.weight")]),
    row("blocks.{}.ffn.receptance.weight", &[Width, Width], &[same("rwkv.blocks.{}.feed_forward.receptance.weight")], &[same("model.layers.{}.ffn.receptance.linear.weight")], &[same("blk.{}.channel_mix_receptance.weight")]),
    row("blocks.{}.ffn.value.weight", &[Width, Ffn], &[same("rwkv.blocks.{}.feed_forward.value.weight")], &[same("model.layers.{}.ffn.value.weight")], &[by("blk.{}.channel_mix_value.weight", Rescaled)]),
    row("ln_out.weight", &[Width], &[same("rwkv.ln_out.weight")], &[same("model.norm.weight")], &[same("output_norm.weight")]),
    row("ln_out.bias", &[Width], &[same("rwkv.ln_out.bias")], &[same("model.norm.bias")], &[same("output_norm.bias")]),
    row("head.weight", &[Vocab, Width], &[same("head.weight")], &[same("lm_head.weight")], &[same("output.weight")]),
];

pub(super) fn table() -> Vec<Entry> {
    TABLE.to_vec()
}
