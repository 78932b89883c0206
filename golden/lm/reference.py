"""What the generators share: reading golden weights and running the PyPI package `rwkv` on them.

The package decides between RWKV-7 and the older versions when it is imported, hence one process serves one kind.
"""

import os
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open

LM = Path(__file__).resolve().parent
RESULT_PREFIXES = ("in.", "out.", "state.", "mid.", "grad.", "grad_no_l2wrap.")


def read(name):
    """All tensors of lm/<name>.safetensors, as stored."""
    with safe_open(LM / f"{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}


def weights(name):
    """The model of a golden file: its official names, as stored (bf16)."""
    return {key: t for key, t in read(name).items() if not key.startswith(RESULT_PREFIXES)}


class Reference:
    """The package's model in f32 on the CPU, one thread; one calling convention for all versions."""

    def __init__(self, model):
        os.environ["RWKV_V7_ON"] = "1" if any(key.endswith("att.r_k") for key in model) else "0"
        os.environ["RWKV_JIT_ON"] = "0"
        os.environ["RWKV_CUDA_ON"] = "0"
        torch.set_num_threads(1)
        from rwkv.model import RWKV

        with tempfile.TemporaryDirectory() as folder:
            # f32, because the package folds ln0 into the embedding in the file's type.
            torch.save({key: t.float() for key, t in model.items()}, f"{folder}/model.pth")
            quiet = {} if os.environ["RWKV_V7_ON"] == "1" else {"verbose": False}
            self.model = RWKV(model=f"{folder}/model", strategy="cpu fp32", **quiet)

    def forward(self, tokens, state=None):
        """Logits after every token [T, V] and the state; `state` is left as it was."""
        copy = None if state is None else [t.clone() for t in state]
        with torch.no_grad():
            logits, after = self.model.forward(list(tokens), copy, full_output=True)
        return logits.float().reshape(len(tokens), -1), [t.clone() for t in after]

    def steps(self, tokens, state=None):
        """The same, one token a call."""
        rows = []
        for token in tokens:
            row, state = self.forward([token], state)
            rows.append(row)
        return torch.cat(rows), state
