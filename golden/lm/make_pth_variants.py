"""Writes tiny_v7_legacy.pth and pth_variants/: one RWKV-7 model in the ways that torch.save can write it.

Every value is exact in f16 and bf16, so all files hold the same numbers; model.safetensors is the f32 comparison copy
and carries logits by the PyPI package `rwkv`.
"""

from collections import OrderedDict

import torch
from safetensors.torch import save_file

from reference import LM, Reference, weights

LAYERS, WIDTH, HEADS, VOCAB, FFN = 2, 32, 2, 48, 72
RANKS = {"w": 8, "a": 4, "v": 12, "g": 20}
OUT = LM / "pth_variants"


def model(generator):
    def uniform(low, high, *shape):
        x = low + (high - low) * torch.rand(*shape, generator=generator)
        return ((x * 128).round() / 128).to(torch.bfloat16).float()

    w = OrderedDict({"emb.weight": uniform(-1, 1, VOCAB, WIDTH)})

    def norm(name):
        w[f"{name}.weight"] = uniform(0.5, 1.5, WIDTH)
        w[f"{name}.bias"] = uniform(-0.3, 0.3, WIDTH)

    for i in range(LAYERS):
        for name in ["ln0"] * (i == 0) + ["ln1", "ln2"]:
            norm(f"blocks.{i}.{name}")
        a, f = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for part in "rwkvag":
            w[f"{a}x_{part}"] = uniform(0.05, 0.95, 1, 1, WIDTH)
        for part, rank in RANKS.items():
            if part == "v" and i == 0:
                continue
            if part != "g":
                w[f"{a}{part}0"] = uniform(-2, 1, 1, 1, WIDTH)
            w[f"{a}{part}1"] = uniform(-0.3, 0.3, WIDTH, rank)
            w[f"{a}{part}2"] = uniform(-0.4, 0.4, rank, WIDTH)
        w[f"{a}k_k"], w[f"{a}k_a"] = uniform(0.5, 1, 1, 1, WIDTH), uniform(0.5, 1.5, 1, 1, WIDTH)
        w[f"{a}r_k"] = uniform(-0.5, 0.5, HEADS, WIDTH // HEADS)
        for name in ["receptance", "key", "value", "output"]:
            w[f"{a}{name}.weight"] = uniform(-0.3, 0.3, WIDTH, WIDTH)
        norm(f"{a}ln_x")
        w[f"{f}x_k"] = uniform(0.05, 0.95, 1, 1, WIDTH)
        w[f"{f}key.weight"] = uniform(-0.3, 0.3, FFN, WIDTH)
        w[f"{f}value.weight"] = uniform(-0.2, 0.2, WIDTH, FFN)
    norm("ln_out")
    w["head.weight"] = uniform(-0.3, 0.3, VOCAB, WIDTH)
    return w


def one_storage(w):
    """All tensors as views of one storage; matrices lie there transposed, so that offsets and strides both matter."""
    flat = torch.cat([(t.t() if t.dim() == 2 else t).reshape(-1) for t in w.values()])
    out, at = OrderedDict(), 0
    for name, t in w.items():
        piece = flat[at:at + t.numel()]
        out[name] = piece.view(t.shape[1], t.shape[0]).t() if t.dim() == 2 else piece.view(t.shape)
        assert torch.equal(out[name], t)
        at += t.numel()
    return out


def as_module_state(w):
    """What Module.state_dict() under DeepSpeed gives: prefixed names, parameters, and a `_metadata` attribute."""
    out = OrderedDict((f"_forward_module.{k}", torch.nn.Parameter(t, requires_grad=True)) for k, t in w.items())
    out._metadata = OrderedDict({"": {"version": 1}, "_forward_module": {"version": 1}})
    return out


def main():
    generator = torch.Generator().manual_seed(7007)
    w = model(generator)
    tokens = torch.randint(0, VOCAB, (20,), generator=generator)
    logits, _ = Reference(w).forward(tokens.tolist())
    save_file({**w, "in.tokens": tokens.to(torch.int32), "out.logits_seq": logits.contiguous()},
              OUT / "model.safetensors", {"version": "7", "source": "rwkv==0.8.32 (cpu fp32)"})
    half = OrderedDict((k, t.half()) for k, t in w.items())
    assert all(torch.equal(half[k].float(), t) and torch.equal(t.bfloat16().float(), t) for k, t in w.items())
    torch.save(dict(w), OUT / "f32.pth")
    torch.save(half, OUT / "f16.pth")
    torch.save(OrderedDict((k, t.bfloat16().squeeze()) for k, t in w.items()), OUT / "bf16_squeezed.pth")
    torch.save(one_storage(half), OUT / "shared_storage.pth")
    torch.save(as_module_state(w), OUT / "deepspeed_prefix.pth")
    torch.save(half, OUT / "legacy_f16.pth", _use_new_zipfile_serialization=False)
    torch.save(one_storage(w), OUT / "legacy_shared_storage.pth", _use_new_zipfile_serialization=False)
    torch.save(weights("train_v7"), LM / "tiny_v7_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
