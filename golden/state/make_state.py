"""Writes tuned initial states as torch.save makes them, and what the PyPI package `rwkv` computes from them.

time_state_<version>.pth: blocks.<i>.att.time_state [H, value, key] for the model of lm/infer_<version>, as state tuning
writes them: bf16 for RWKV-5.2, f32 for 6; for 7 bf16 views of one storage whose last two axes are swapped in memory, to
exercise strides and shared storages.

time_state.safetensors: for each version `state.<version>.<i>` (the values, f32, as on disk) and `out.<version>.logits`
[T, V] after each of `in.tokens`, starting from that state with zero token shifts. RWKV-5.2 and 6 through the package's
own loading of `time_state` tensors in a model file; its RWKV-7 does not look for them, so its state list is filled, in
the layout [value, key] that state tuning and the package share there.

One process a version (see lm/reference.py): without arguments the script runs itself.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "lm"))
from reference import Reference, weights  # noqa: E402

VERSIONS = {"v52": 5, "v6": 6, "v7": 7}
TOKENS = [72, 101, 0, 255, 32, 10, 113, 7]


def one(version, out):
    model = weights(f"infer_{version}")
    layers = 1 + max(int(key.split(".")[1]) for key in model if key.startswith("blocks."))
    heads, size = model["blocks.0.att." + ("r_k" if version == "v7" else "time_faaaa")].shape
    generator = torch.Generator().manual_seed(VERSIONS[version])
    values = torch.randn(layers, heads, size, size, generator=generator).mul(0.3).to(torch.bfloat16)
    if version == "v7":
        values = values.transpose(2, 3)
    names = [f"blocks.{i}.att.time_state" for i in range(layers)]
    states = dict(zip(names, values.float().clone() if version == "v6" else values))
    torch.save(states, HERE / f"time_state_{version}.pth")

    if version == "v7":
        reference = Reference(model)
        state = reference.forward([0])[1]
        for i in range(layers):
            state[3 * i].zero_()
            state[3 * i + 1].copy_(values[i].float())
            state[3 * i + 2].zero_()
        logits, _ = reference.forward(TOKENS, state)
    else:
        logits, _ = Reference(model | {k: t.clone() for k, t in states.items()}).forward(TOKENS)
    result = {f"state.{version}.{i}": values[i].float().contiguous() for i in range(layers)}
    save_file(result | {f"out.{version}.logits": logits.contiguous()}, out)


def main():
    if len(sys.argv) == 3:
        one(*sys.argv[1:])
        return
    everything = {"in.tokens": torch.tensor(TOKENS)}
    with tempfile.TemporaryDirectory() as folder:
        for version in VERSIONS:
            part = f"{folder}/{version}.safetensors"
            subprocess.run([sys.executable, __file__, version, part], check=True)
            everything |= load_file(part)
    source = "rwkv==0.8.32 in f32 on the weights of lm/infer_*, started from time_state_<version>.pth"
    save_file(everything, HERE / "time_state.safetensors", {"source": source})


main()
