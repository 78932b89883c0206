#!/usr/bin/env python3
"""Writes a random RWKV-7 of a published size: official .pth in bf16, and GGUF with bf16 and f32 matrices.

    make_synthetic.py OUT [0.1b | 0.4b | 1.5b]

Speed does not depend on the values as long as none is denormal, infinite or NaN, so the scales below only keep the
activations tame. All files of one size hold the same numbers. Needs torch, numpy, gguf, and the vocabulary file that
the `rwkv` package ships (llama.cpp refuses a file whose vocabulary is not as long as the embedding).
"""

import ast
import importlib.util
import math
import sys
from pathlib import Path

import gguf
import numpy as np
import torch

VOCAB, HEAD = 65536, 64
# layers, width, LoRA ranks of w, a, v, g
SIZES = {"0.1b": (12, 768, (64, 64, 32, 128)), "0.4b": (24, 1024, (64, 64, 32, 128)),
         "1.5b": (24, 2048, (96, 96, 64, 256))}


def model(layers, width, ranks, seed=7):
    generator = torch.Generator().manual_seed(seed)

    def normal(std, *shape, mean=0.0):
        return (mean + std * torch.randn(*shape, generator=generator)).to(torch.bfloat16)

    def uniform(low, high, *shape):
        return (low + (high - low) * torch.rand(*shape, generator=generator)).to(torch.bfloat16)

    w = {"emb.weight": normal(0.3, VOCAB, width)}

    def norm(name):
        w[f"{name}.weight"], w[f"{name}.bias"] = normal(0.1, width, mean=1.0), normal(0.02, width)

    for i in range(layers):
        b, a, f = f"blocks.{i}.", f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for name in ["ln0"] * (i == 0) + ["ln1", "ln2"]:
            norm(b + name)
        for part in "rwkvag":
            w[f"{a}x_{part}"] = uniform(0, 1, 1, 1, width)
        for part, rank in zip("wavg", ranks):
            if part == "v" and i == 0:
                continue
            if part != "g":
                low, high = (-6, -1) if part == "w" else (-0.5, 0.5)
                w[f"{a}{part}0"] = uniform(low, high, 1, 1, width)
            w[f"{a}{part}1"] = normal(1 / math.sqrt(width), width, rank)
            w[f"{a}{part}2"] = normal(0.1, rank, width)
        w[f"{a}k_k"], w[f"{a}k_a"] = normal(0.05, 1, 1, width, mean=0.85), normal(0.05, 1, 1, width, mean=1.0)
        w[f"{a}r_k"] = normal(0.1, width // HEAD, HEAD)
        for name in ("receptance", "key", "value", "output"):
            w[f"{a}{name}.weight"] = normal(0.6 / math.sqrt(width), width, width)
        norm(f"{a}ln_x")
        w[f"{f}x_k"] = uniform(0, 1, 1, 1, width)
        w[f"{f}key.weight"] = normal(0.6 / math.sqrt(width), 4 * width, width)
        w[f"{f}value.weight"] = normal(0.3 / math.sqrt(width), width, 4 * width)
    norm("ln_out")
    w["head.weight"] = normal(1 / math.sqrt(width), VOCAB, width)
    return w


def gguf_tensors(w, layers):
    """(GGUF name, tensor, whether it takes the file's matrix type) for every tensor, in llama.cpp's orientation."""
    outer = {"emb.weight": "token_embd.weight", "head.weight": "output.weight"}
    for name, t in w.items():
        if name in outer:
            yield outer[name], t, True
    for ours, theirs in (("blocks.0.ln0", "token_embd_norm"), ("ln_out", "output_norm")):
        for kind in ("weight", "bias"):
            yield f"{theirs}.{kind}", w[f"{ours}.{kind}"], False
    for i in range(layers):
        b, o = f"blocks.{i}.", f"blk.{i}."
        for ours, theirs in (("ln1", "attn_norm"), ("ln2", "attn_norm_2"), ("att.ln_x", "time_mix_ln")):
            for kind in ("weight", "bias"):
                yield f"{o}{theirs}.{kind}", w[f"{b}{ours}.{kind}"], False
        fused = torch.stack([w[f"{b}att.x_{part}"] for part in "rwkvag"])
        yield f"{o}time_mix_lerp_fused.weight", fused, False
        yield f"{o}channel_mix_lerp_k.weight", w[f"{b}ffn.x_k"], False
        for name in ("k_k", "k_a", "r_k"):
            yield f"{o}time_mix_{name}.weight", w[f"{b}att.{name}"].flatten(), False
        for part in "wavg":
            # llama.cpp wants a v LoRA in block 0 as well, where the model has none: any tensors of a fitting shape.
            source = "a" if part == "v" and i == 0 else part
            if part != "g":
                yield f"{o}time_mix_{part}0.weight", w[f"{b}att.{source}0"].flatten(), False
            for half in "12":
                yield f"{o}time_mix_{part}{half}.weight", w[f"{b}att.{source}{half}"].t(), part != "w"
        for name in ("receptance", "key", "value", "output"):
            yield f"{o}time_mix_{name}.weight", w[f"{b}att.{name}.weight"], True
        for name in ("key", "value"):
            yield f"{o}channel_mix_{name}.weight", w[f"{b}ffn.{name}.weight"], True


def vocabulary():
    """The World vocabulary as llama.cpp stores it: bytes outside printable ASCII escaped, unused ids padded."""
    package = Path(importlib.util.find_spec("rwkv").origin).parent
    tokens = [b"<s>"]
    for line in (package / "rwkv_vocab_v20230424.txt").read_text(encoding="utf-8").splitlines():
        text = ast.literal_eval(line[line.index(" ") + 1:line.rindex(" ")])
        raw = text if isinstance(text, bytes) else text.encode()
        tokens.append("".join(chr(c) if 32 <= c < 127 and c != 92 else f"\\x{c:02x}" if c != 92 else "\\\\"
                              for c in raw).encode())
    return tokens + [b"<unused %d>" % i for i in range(len(tokens), VOCAB)]


def write_gguf(path, w, layers, width, ranks, bf16):
    out = gguf.GGUFWriter(path, "rwkv7")
    out.add_name("synthetic")
    out.add_context_length(1 << 20)
    out.add_embedding_length(width)
    out.add_block_count(layers)
    out.add_feed_forward_length(4 * width)
    out.add_head_count(0)
    out.add_layer_norm_eps(1e-5)
    out.add_wkv_head_size(HEAD)
    for add, rank in zip((out.add_decay_lora_rank, out.add_iclr_lora_rank, out.add_value_residual_mix_lora_rank,
                          out.add_gate_lora_rank), ranks):
        add(rank)
    out.add_file_type(gguf.LlamaFileType.MOSTLY_BF16 if bf16 else gguf.LlamaFileType.ALL_F32)
    out.add_tokenizer_model("rwkv")
    out.add_token_list(vocabulary())
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    for name, t, matrix in gguf_tensors(w, layers):
        values = np.ascontiguousarray(t.float().numpy())
        if matrix and bf16:
            kind = gguf.GGMLQuantizationType.BF16
            out.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            out.add_tensor(name, values)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def main():
    folder, size = Path(sys.argv[1]), (sys.argv[2:] + ["0.1b"])[0]
    layers, width, ranks = SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    w = model(layers, width, ranks)
    print(f"rwkv7-{size}: {sum(t.numel() for t in w.values()):,} parameters")
    torch.save(w, folder / f"rwkv7-{size}.pth")
    write_gguf(folder / f"rwkv7-{size}-bf16.gguf", w, layers, width, ranks, bf16=True)
    write_gguf(folder / f"rwkv7-{size}-f32.gguf", w, layers, width, ranks, bf16=False)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3 or sys.argv[2:] and sys.argv[2] not in SIZES:
        sys.exit(__doc__)
    main()
