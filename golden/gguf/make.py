"""Writes the GGUF files of this folder and tensors.json, with the `gguf` package (0.19.0) and numpy only.

    python make.py        # in a virtual environment with `pip install gguf==0.19.0 numpy`

Weights come from ../lm; where a file needs blocks of 256 values they are random with a fixed seed. tensors.json holds
what `gguf.dequantize` makes of every tensor of every file.
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

HERE = Path(__file__).parent
NORMS = {"ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln"}
MATRICES = {
    "att.receptance": "time_mix_receptance", "att.key": "time_mix_key", "att.value": "time_mix_value",
    "att.gate": "time_mix_gate", "att.output": "time_mix_output",
    "ffn.key": "channel_mix_key", "ffn.value": "channel_mix_value", "ffn.receptance": "channel_mix_receptance",
}


def load(name):
    """Weights of a golden safetensors file as f32 (numpy has no bf16)."""
    raw = (HERE / f"../lm/{name}.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    weights = {}
    for tensor, info in header.items():
        if tensor.split(".")[0] in ("emb", "head", "ln_out", "blocks") and info["dtype"] == "BF16":
            begin, end = info["data_offsets"]
            bits = np.frombuffer(raw[8 + size + begin:8 + size + end], np.uint16)
            weights[tensor] = (bits.astype(np.uint32) << 16).view(np.float32).reshape(info["shape"])
    return weights


def shape_of(w):
    """Layers, width, vocabulary and feed-forward width."""
    layers = 1 + max(int(n.split(".")[1]) for n in w if n.startswith("blocks."))
    vocab, width = w["emb.weight"].shape
    return layers, width, vocab, w["blocks.0.ffn.key.weight"].shape[0]


def outer(w):
    return {
        "token_embd.weight": w["emb.weight"], "output.weight": w["head.weight"],
        "token_embd_norm.weight": w["blocks.0.ln0.weight"], "token_embd_norm.bias": w["blocks.0.ln0.bias"],
        "output_norm.weight": w["ln_out.weight"], "output_norm.bias": w["ln_out.bias"],
    }


def common(w, i, rescale):
    """Norms and matrices of block i."""
    out, power = {}, 2.0 ** (i // rescale if rescale else 0)
    for ours, theirs in NORMS.items():
        for part in ("weight", "bias"):
            out[f"blk.{i}.{theirs}.{part}"] = w[f"blocks.{i}.{ours}.{part}"]
    for ours, theirs in MATRICES.items():
        if f"blocks.{i}.{ours}.weight" in w:
            divided = ours in ("att.output", "ffn.value")
            out[f"blk.{i}.{theirs}.weight"] = w[f"blocks.{i}.{ours}.weight"] / np.float32(power if divided else 1)
    return out


def rwkv6(w, rescale, fused):
    t = outer(w)
    layers, width, _, _ = shape_of(w)
    for i in range(layers):
        t |= common(w, i, rescale)
        att, ffn, to = f"blocks.{i}.att.", f"blocks.{i}.ffn.", f"blk.{i}."
        mu = {j: w[f"{att}time_maa_{j}"].reshape(1, 1, width) for j in "wkvrg"}
        if fused:
            t[to + "time_mix_lerp_fused.weight"] = np.stack([mu[j] for j in "wkvrg"])
        else:
            t |= {f"{to}time_mix_lerp_{j}.weight": mu[j].ravel() for j in "wkvrg"}
        t[to + "time_mix_lerp_x.weight"] = w[att + "time_maa_x"].ravel()
        t[to + "time_mix_w1.weight"] = w[att + "time_maa_w1"].T
        t[to + "time_mix_w2.weight"] = w[att + "time_maa_w2"].transpose(0, 2, 1)
        t[to + "time_mix_first.weight"] = w[att + "time_faaaa"]
        t[to + "time_mix_decay.weight"] = w[att + "time_decay"].ravel()
        t[to + "time_mix_decay_w1.weight"] = w[att + "time_decay_w1"].T
        t[to + "time_mix_decay_w2.weight"] = w[att + "time_decay_w2"].T
        t[to + "channel_mix_lerp_k.weight"] = w[ffn + "time_maa_k"].ravel()
        t[to + "channel_mix_lerp_r.weight"] = w[ffn + "time_maa_r"].ravel()
    return t


def rwkv7(w):
    t = outer(w)
    layers, width, _, _ = shape_of(w)
    for i in range(layers):
        t |= common(w, i, 0)
        att, to = f"blocks.{i}.att.", f"blk.{i}."
        t[to + "time_mix_lerp_fused.weight"] = np.stack([w[f"{att}x_{j}"].reshape(1, 1, width) for j in "rwkvag"])
        for j in "wavg":
            # Block 0 has no value residual: its three tensors are copies of the a's, with the a's shapes.
            source = "a" if (i, j) == (0, "v") else j
            if j != "g":
                t[f"{to}time_mix_{j}0.weight"] = w[f"{att}{source}0"].ravel()
            t[f"{to}time_mix_{j}1.weight"] = w[f"{att}{source}1"].T
            t[f"{to}time_mix_{j}2.weight"] = w[f"{att}{source}2"].T
        for j in ("k_k", "k_a", "r_k"):
            t[f"{to}time_mix_{j}.weight"] = w[att + j].ravel()
        t[to + "channel_mix_lerp_k.weight"] = w[f"blocks.{i}.ffn.x_k"].ravel()
    return t


def is_matrix(name):
    return name in ("token_embd.weight", "output.weight") or any(name.endswith(m + ".weight") for m in MATRICES.values())


def random_blocks(rng, rows, cols, kind):
    """Blocks of random codes and scales, with f16 factors that give weights near 1/sqrt(cols)."""
    sizes = {Q.Q4_K: 144, Q.Q5_K: 176, Q.Q6_K: 210}
    blocks = rng.integers(0, 256, (rows * cols // 256, sizes[kind]), dtype=np.uint8)
    n = len(blocks)
    factor = lambda scale: (rng.uniform(-1, 1, n) * scale).astype(np.float16).view(np.uint8).reshape(n, 2)
    if kind == Q.Q6_K:
        blocks[:, 208:210] = factor(4e-5)
    else:
        blocks[:, 0:2], blocks[:, 2:4] = factor(2e-4), factor(1e-3)
    return blocks.reshape(rows, -1)


def write(name, arch, w, tensors, matrix_kinds, small, rescale=None, blocks=None):
    """matrix_kinds: types given to the matrices in turn; small: type of the other tensors with two or more axes."""
    layers, width, vocab, ffn = shape_of(w)
    out = GGUFWriter(HERE / f"{name}.gguf", arch)
    out.add_context_length(1048576)
    out.add_embedding_length(width)
    out.add_block_count(layers)
    out.add_feed_forward_length(ffn)
    out.add_layer_norm_eps(1e-5)
    out.add_head_count(0)
    if arch == "rwkv6":
        out.add_wkv_head_size(w["blocks.0.att.time_faaaa"].shape[1])
        out.add_time_mix_extra_dim(w["blocks.0.att.time_maa_w2"].shape[1])
        out.add_time_decay_extra_dim(w["blocks.0.att.time_decay_w1"].shape[1])
        if rescale is not None:
            out.add_rescale_every_n_layers(rescale)
    else:
        out.add_wkv_head_size(w["blocks.0.att.r_k"].shape[1])
        out.add_decay_lora_rank(w["blocks.1.att.w1"].shape[1])
        out.add_iclr_lora_rank(w["blocks.1.att.a1"].shape[1])
        out.add_value_residual_mix_lora_rank(w["blocks.1.att.v1"].shape[1])
        out.add_gate_lora_rank(w["blocks.1.att.g1"].shape[1])
    out.add_tokenizer_model("rwkv")
    out.add_token_list([f"<{i}>" for i in range(vocab)])
    turn = 0
    for tensor, values in tensors.items():
        squeezed = [n for n in values.shape if n > 1]
        if is_matrix(tensor):
            kind = matrix_kinds[turn % len(matrix_kinds)]
            turn += 1
        else:
            kind = small if len(squeezed) > 1 else Q.F32
        if blocks is not None and is_matrix(tensor):
            out.add_tensor(tensor, blocks(*values.shape, kind), raw_dtype=kind)
        elif kind in (Q.F32, Q.F16):
            out.add_tensor(tensor, np.ascontiguousarray(values, np.float32).astype(np.float16 if kind == Q.F16 else np.float32))
        else:
            out.add_tensor(tensor, quantize(np.ascontiguousarray(values, np.float32), kind), raw_dtype=kind)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def random_v7(rng, layers, width, vocab, ffn, head, rank):
    w = {"emb.weight": (vocab, width), "head.weight": (vocab, width), "ln_out.weight": (width,), "ln_out.bias": (width,),
         "blocks.0.ln0.weight": (width,), "blocks.0.ln0.bias": (width,)}
    for i in range(layers):
        b = f"blocks.{i}."
        for ln in ("ln1", "ln2", "att.ln_x"):
            w[f"{b}{ln}.weight"] = w[f"{b}{ln}.bias"] = (width,)
        for j in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a"):
            w[f"{b}att.{j}"] = (width,)
        for j in "wavg":
            w[f"{b}att.{j}1"], w[f"{b}att.{j}2"] = (width, rank), (rank, width)
        w[b + "att.r_k"], w[b + "ffn.x_k"] = (width // head, head), (width,)
        for j in ("receptance", "key", "value", "output"):
            w[f"{b}att.{j}.weight"] = (width, width)
        w[b + "ffn.key.weight"], w[b + "ffn.value.weight"] = (ffn, width), (width, ffn)
    return {k: (rng.standard_normal(s) * 0.1 + (k.endswith(("ln1.weight", "ln2.weight", "ln_x.weight", "ln0.weight", "ln_out.weight")))).astype(np.float32)
            for k, s in w.items()}


def oracle(path):
    entries = {}
    for t in GGUFReader(path).tensors:
        values = np.ascontiguousarray(dequantize(t.data, t.tensor_type), np.float32)
        entries[t.name] = {
            "type": t.tensor_type.name,
            "shape": [int(n) for n in reversed(t.shape)],
            "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
            "head": [float(x) for x in values.ravel()[:4]],
        }
    return entries


def main():
    v6, v7, v7n64 = load("train_v6"), load("train_v7"), load("infer_v7")
    # llama.cpp's v7 kernels want heads of 64: the same weights seen as one head; only r_k changes its shape.
    for name in [n for n in v7n64 if n.endswith("r_k")]:
        v7n64[name] = v7n64[name].reshape(1, 64)
    legacy = [Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1]

    write("rwkv6_f32", "rwkv6", v6, rwkv6(v6, 0, fused=False), [Q.F32], Q.F32)
    write("rwkv6_bf16", "rwkv6", v6, rwkv6(v6, 1, fused=True), [Q.BF16], Q.F32, rescale=1)
    write("rwkv6_legacy", "rwkv6", v6, rwkv6(v6, 1, fused=True), legacy, Q.F16, rescale=1)
    write("rwkv7_f32", "rwkv7", v7, rwkv7(v7), [Q.F32], Q.F32)
    write("rwkv7_f16", "rwkv7", v7, rwkv7(v7), [Q.F16], Q.F16)
    write("rwkv7_bf16_n64", "rwkv7", v7n64, rwkv7(v7n64), [Q.BF16], Q.F32)
    write("rwkv7_q8_0", "rwkv7", v7, rwkv7(v7), [Q.Q8_0], Q.F16)
    rng = np.random.default_rng(20)
    vk = random_v7(rng, layers=2, width=256, vocab=64, ffn=256, head=64, rank=8)
    write("rwkv7_k", "rwkv7", vk, rwkv7(vk), [Q.Q4_K, Q.Q5_K, Q.Q4_K, Q.Q6_K], Q.F16,
          blocks=lambda rows, cols, kind: random_blocks(rng, rows, cols, kind))

    files = {path.stem: oracle(path) for path in sorted(HERE.glob("*.gguf"))}
    (HERE / "tensors.json").write_text(json.dumps(files, indent=0) + "\n")


main()
