//! RWKV-7 (Goose).
//!
//! Low-rank pairs are used as `x @ w1 @ w2` in official files and kept the other way round everywhere else. GGUF stacks
//! the six token-shift vectors in the order r, w, k, v, a, g.

use super::Dim::{ARank, DecayRank, Ffn, GRank, HeadSize, Heads, VRank, Vocab, Width};
use super::Take::{Flat, Part, Transposed};
use super::{Dim, Entry, Presence, Source, by, rwkv5, same};

const fn row(official: &'static str, shape: &'static [Dim], fla: &'static [Source], gguf: &'static [Source]) -> Entry {
    Entry { official, shape, presence: Presence::Required, hf: &[], fla, gguf }
}

const fn gguf_lerp(index: usize) -> Source {
    by("blk.{}.time_mix_lerp_fused.weight", Part { index, of: 6 })
}

#[rustfmt::skip]
const TABLE: [Entry; 40] = [
    row("emb.weight", &[Vocab, Width], &[same("model.embeddings.weight")], &[same("token_embd.weight")]),
    Entry {
        presence: Presence::FirstBlock,
        ..row("blocks.{}.ln0.weight", &[Width], &[same("model.layers.{}.pre_norm.weight")], &[same("token_embd_norm.weight")])
    },
    Entry {
        presence: Presence::FirstBlock,
        ..row("blocks.{}.ln0.bias", &[Width], &[same("model.layers.{}.pre_norm.bias")], &[same("token_embd_norm.bias")])
    },
    row("blocks.{}.ln1.weight", &[Width], &[same("model.layers.{}.attn_norm.weight")], &[same("blk.{}.attn_norm.weight")]),
    row("blocks.{}.ln1.bias", &[Width], &[same("model.layers.{}.attn_norm.bias")], &[same("blk.{}.attn_norm.bias")]),
    row("blocks.{}.ln2.weight", &[Width], &[same("model.layers.{}.ffn_norm.weight")], &[same("blk.{}.attn_norm_2.weight")]),
    row("blocks.{}.ln2.bias", &[Width], &[same("model.layers.{}.ffn_norm.bias")], &[same("blk.{}.attn_norm_2.bias")]),
    row("blocks.{}.att.x_r", &[Width], &[same("model.layers.{}.attn.x_r")], &[gguf_lerp(0)]),
    row("blocks.{}.att.x_w", &[Width], &[same("model.layers.{}.attn.x_w")], &[gguf_lerp(1)]),
    row("blocks.{}.att.x_k", &[Width], &[same("model.layers.{}.attn.x_k")], &[gguf_lerp(2)]),
    row("blocks.{}.att.x_v", &[Width], &[same("model.layers.{}.attn.x_v")], &[gguf_lerp(3)]),
    row("blocks.{}.att.x_a", &[Width], &[same("model.layers.{}.attn.x_a")], &[gguf_lerp(4)]),
    row("blocks.{}.att.x_g", &[Width], &[same("model.layers.{}.attn.x_g")], &[gguf_lerp(5)]),
    row("blocks.{}.att.w0", &[Width], &[same("model.layers.{}.attn.w_lora.lora.2.bias")], &[same("blk.{}.time_mix_w0.weight")]),
    row("blocks.{}.att.w1", &[Width, DecayRank], &[by("model.layers.{}.attn.w_lora.lora.0.weight", Transposed)], &[by("blk.{}.time_mix_w1.weight", Transposed)]),
    row("blocks.{}.att.w2", &[DecayRank, Width], &[by("model.layers.{}.attn.w_lora.lora.2.weight", Transposed)], &[by("blk.{}.time_mix_w2.weight", Transposed)]),
    row("blocks.{}.att.a0", &[Width], &[same("model.layers.{}.attn.a_lora.lora.2.bias")], &[same("blk.{}.time_mix_a0.weight")]),
    row("blocks.{}.att.a1", &[Width, ARank], &[by("model.layers.{}.attn.a_lora.lora.0.weight", Transposed)], &[by("blk.{}.time_mix_a1.weight", Transposed)]),
    row("blocks.{}.att.a2", &[ARank, Width], &[by("model.layers.{}.attn.a_lora.lora.2.weight", Transposed)], &[by("blk.{}.time_mix_a2.weight", Transposed)]),
    Entry {
        presence: Presence::LaterBlocks,
        ..row("blocks.{}.att.v0", &[Width], &[same("model.layers.{}.attn.v_lora.lora.2.bias")], &[same("blk.{}.time_mix_v0.weight")])
    },
    Entry {
        presence: Presence::LaterBlocks,
        ..row("blocks.{}.att.v1", &[Width, VRank], &[by("model.layers.{}.attn.v_lora.lora.0.weight", Transposed)], &[by("blk.{}.time_mix_v1.weight", Transposed)])
    },
    Entry {
        presence: Presence::LaterBlocks,
        ..row("blocks.{}.att.v2", &[VRank, Width], &[by("model.layers.{}.attn.v_lora.lora.2.weight", Transposed)], &[by("blk.{}.time_mix_v2.weight", Transposed)])
    },
    row("blocks.{}.att.g1", &[Width, GRank], &[by("model.layers.{}.attn.g_lora.lora.0.weight", Transposed)], &[by("blk.{}.time_mix_g1.weight", Transposed)]),
    row("blocks.{}.att.g2", &[GRank, Width], &[by("model.layers.{}.attn.g_lora.lora.2.weight", Transposed)], &[by("blk.{}.time_mix_g2.weight", Transposed)]),
    row("blocks.{}.att.k_k", &[Width], &[same("model.layers.{}.attn.k_k")], &[same("blk.{}.time_mix_k_k.weight")]),
    row("blocks.{}.att.k_a", &[Width], &[same("model.layers.{}.attn.k_a")], &[same("blk.{}.time_mix_k_a.weight")]),
    row("blocks.{}.att.r_k", &[Heads, HeadSize], &[same("model.layers.{}.attn.r_k")], &[by("blk.{}.time_mix_r_k.weight", Flat)]),
    row("blocks.{}.att.receptance.weight", &[Width, Width], &[same("model.layers.{}.attn.r_proj.weight")], &[same("blk.{}.time_mix_receptance.weight")]),
    row("blocks.{}.att.key.weight", &[Width, Width], &[same("model.layers.{}.attn.k_proj.weight")], &[same("blk.{}.time_mix_key.weight")]),
    row("blocks.{}.att.value.weight", &[Width, Width], &[same("model.layers.{}.attn.v_proj.weight")], &[same("blk.{}.time_mix_value.weight")]),
    row("blocks.{}.att.output.weight", &[Width, Width], &[same("model.layers.{}.attn.o_proj.weight")], &[same("blk.{}.time_mix_output.weight")]),
    row("blocks.{}.att.ln_x.weight", &[Width], &[same("model.layers.{}.attn.g_norm.weight")], &[same("blk.{}.time_mix_ln.weight")]),
    row("blocks.{}.att.ln_x.bias", &[Width], &[same("model.layers.{}.attn.g_norm.bias")], &[same("blk.{}.time_mix_ln.bias")]),
    rwkv5::TIME_STATE,
    row("blocks.{}.ffn.x_k", &[Width], &[same("model.layers.{}.ffn.x_k")], &[same("blk.{}.channel_mix_lerp_k.weight")]),
    row("blocks.{}.ffn.key.weight", &[Ffn, Width], &[same("model.layers.{}.ffn.key.weight")], &[same("blk.{}.channel_mix_key.weight")]),
    row("blocks.{}.ffn.value.weight", &[Width, Ffn], &[same("model.layers.{}.ffn.value.weight")], &[same("blk.{}.channel_mix_value.weight")]),
    row("ln_out.weight", &[Width], &[same("model.norm.weight")], &[same("output_norm.weight")]),
    row("ln_out.bias", &[Width], &[same("model.norm.bias")], &[same("output_norm.bias")]),
    row("head.weight", &[Vocab, Width], &[same("lm_head.weight")], &[same("output.weight")]),
];

pub(super) fn table() -> Vec<Entry> {
    TABLE.to_vec()
}
