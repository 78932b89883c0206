"""Writes infer_v50.safetensors and infer_v51.safetensors: RWKV-5.0 and 5.1 through the PyPI package `rwkv`.

5.0 has no gate and stores the logarithm of its bonus as `time_first`; 5.1 has a gate and stores the bonus itself as
`time_faaaa`. Both have one decay and one bonus a head. Three layers, because the package finds the number of heads
only from the second layer on.
"""

import torch
from safetensors.torch import save_file

from reference import LM, Reference

LAYERS, WIDTH, HEADS, VOCAB, TOKENS = 3, 64, 2, 256, 48


def model(version, ffn, generator):
    def uniform(low, high, *shape):
        return (low + (high - low) * torch.rand(*shape, generator=generator)).to(torch.bfloat16)

    def matrix(rows, cols):
        bound = 1.7 / cols**0.5
        return uniform(-bound, bound, rows, cols)

    w = {"emb.weight": uniform(-1, 1, VOCAB, WIDTH)}

    def norm(name):
        w[f"{name}.weight"] = uniform(0.5, 1.5, WIDTH)
        w[f"{name}.bias"] = uniform(-0.3, 0.3, WIDTH)

    for i in range(LAYERS):
        b = f"blocks.{i}"
        for name in ["ln0"] * (i == 0) + ["ln1", "ln2"]:
            norm(f"{b}.{name}")
        for part in "kvr" + "g" * (version == "5.1"):
            w[f"{b}.att.time_mix_{part}"] = uniform(0.05, 0.95, 1, 1, WIDTH)
        w[f"{b}.att.time_decay"] = uniform(-4, 1, HEADS)
        w[f"{b}.att." + {"5.0": "time_first", "5.1": "time_faaaa"}[version]] = uniform(-1, 1, HEADS)
        for name in ["receptance", "key", "value", "output"] + ["gate"] * (version == "5.1"):
            w[f"{b}.att.{name}.weight"] = matrix(WIDTH, WIDTH)
        norm(f"{b}.att.ln_x")
        for part in "kr":
            w[f"{b}.ffn.time_mix_{part}"] = uniform(0.05, 0.95, 1, 1, WIDTH)
        w[f"{b}.ffn.key.weight"] = matrix(ffn, WIDTH)
        w[f"{b}.ffn.receptance.weight"] = matrix(WIDTH, WIDTH)
        w[f"{b}.ffn.value.weight"] = matrix(WIDTH, ffn)
    norm("ln_out")
    w["head.weight"] = matrix(VOCAB, WIDTH)
    return w


def make(version, name, ffn, seed):
    generator = torch.Generator().manual_seed(seed)
    w = model(version, ffn, generator)
    tokens = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    reference = Reference(w)
    assert f"{reference.model.version:.1f}" == version, reference.model.version
    whole, whole_state = reference.forward(tokens.tolist())
    stepped, state = reference.steps(tokens.tolist())
    difference = (whole - stepped).abs().max().item()
    for a, b in zip(state, whole_state):
        difference_state = (a - b).abs().max().item()
        assert difference_state < 1e-4, difference_state
    w["in.tokens"] = tokens.to(torch.int32)
    w["out.logits_seq"] = whole.contiguous()
    w["out.logits_step_last8"] = stepped[-8:].contiguous()
    for i in range(LAYERS):
        for j, slot in enumerate(["att_xx", "att_kv", "ffn_xx"]):
            w[f"state.{i}.{slot}"] = state[i * 3 + j].contiguous()
    save_file(w, LM / f"{name}.safetensors", {
        "version": version, "n_layer": str(LAYERS), "n_embd": str(WIDTH), "dim_ffn": str(ffn), "vocab": str(VOCAB),
        "head_size": str(WIDTH // HEADS), "seed": str(seed), "source": "rwkv==0.8.32 (cpu fp32)",
        "max_diff_seq_vs_step": str(difference),
        "note": "weights bf16-exact; compute f32; out.logits_step_last8 = tokens 40..47 fed one at a time, "
                "out.logits_seq whole sequence; state.* after token 48 (stepwise), att_kv [H, key, value]",
    })
    print(name, "sequence against step", difference, "logits std", whole.std().item())


if __name__ == "__main__":
    make("5.0", "infer_v50", 256, 5050)
    make("5.1", "infer_v51", 224, 5151)
