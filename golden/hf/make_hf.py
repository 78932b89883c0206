"""Writes the Hugging Face style directories of golden/hf from the weights of golden/lm.

    make_hf.py             all directories
    make_hf.py run v6      logits of fla's own class on fla_v6 (Triton's CPU interpreter); v7 likewise

README.md beside this file says what each directory is.
"""

import json
import os
import shutil
import sys
from pathlib import Path

HF = Path(__file__).resolve().parent
sys.path.insert(0, str(HF.parent / "lm"))
if sys.argv[1:2] == ["run"]:
    os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from reference import read, weights  # noqa: E402

LAYERS, WIDTH, VOCAB, HEADS, HEAD = 3, 64, 256, 2, 32


def renamed(w, rules):
    """Applies (from, to) text replacements in order to every name."""
    out = {}
    for name, t in w.items():
        for old, new in rules:
            name = name.replace(old, new)
        out[name] = t.contiguous()
    return out


# The outer names of the old `rwkv` class and of the custom code for v5 and v6 built on it.
SKELETON = [("blocks.0.ln0.", "blocks.0.pre_ln."), (".att.", ".attention."), (".ffn.", ".feed_forward."),
            ("blocks.", "rwkv.blocks."), ("emb.weight", "rwkv.embeddings.weight"), ("ln_out.", "rwkv.ln_out.")]


def fresh(name):
    folder = HF / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def write(name, tensors, config):
    folder = fresh(name)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def v4():
    """transformers' own class writes the directory, and must give the golden logits."""
    from transformers import RwkvConfig, RwkvForCausalLM

    names = [(f".time_mix_{s}", f".time_mix_{l}") for s, l in (("k", "key"), ("v", "value"), ("r", "receptance"))]
    state = renamed(weights("infer_v4"), SKELETON + names)
    model = RwkvForCausalLM(RwkvConfig(vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS)).eval()
    model.load_state_dict(state, strict=True)
    golden = read("infer_v4")
    with torch.no_grad():
        logits = model(golden["in.tokens"].long()[None]).logits[0]
    print("transformers v4 against golden", (logits - golden["out.logits_seq"]).abs().max().item())
    again = RwkvForCausalLM(model.config).train()  # eval mode divides the later layers' weights in place
    again.load_state_dict(state, strict=True)
    again.to(torch.bfloat16).save_pretrained(fresh("v4"))
    stored = load_file(HF / "v4/model.safetensors")
    assert all(torch.equal(stored[k], t.reshape(stored[k].shape)) for k, t in state.items()), "bf16 round trip"


def custom():
    config = {"vocab_size": VOCAB, "hidden_size": WIDTH, "attention_hidden_size": WIDTH, "head_size": HEAD,
              "num_hidden_layers": LAYERS, "intermediate_size": None, "layer_norm_epsilon": 1e-5, "rescale_every": 6,
              "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}
    for version, source in (("5", "infer_v52"), ("6", "infer_v6")):
        write(f"custom_v{version}", renamed(weights(source), SKELETON),
              {"architectures": [f"Rwkv{version}ForCausalLM"], "model_type": f"rwkv{version}",
               "auto_map": {"AutoConfig": f"configuration_rwkv{version}.Rwkv{version}Config",
                            "AutoModelForCausalLM": f"modeling_rwkv{version}.Rwkv{version}ForCausalLM"}, **config})


FLA_OUTER = [("emb.weight", "model.embeddings.weight"), ("ln_out.", "model.norm."), ("head.weight", "lm_head.weight"),
             ("blocks.", "model.layers."), (".ln0.", ".pre_norm."), (".ln1.", ".attn_norm."), (".ln2.", ".ffn_norm."),
             (".att.ln_x.", ".attn.g_norm."), (".att.receptance.", ".attn.r_proj."), (".att.key.", ".attn.k_proj."),
             (".att.value.", ".attn.v_proj."), (".att.output.", ".attn.o_proj."), (".att.gate.", ".attn.g_proj."),
             (".att.", ".attn.")]


def lora(out, prefix, down, up, bias):
    """fla's LoRA module: Linear, activation, Linear (+ bias), both in [out, in] form."""
    out[f"{prefix}.lora.0.weight"], out[f"{prefix}.lora.2.weight"] = down.t().contiguous(), up.t().contiguous()
    if bias is not None:
        out[f"{prefix}.lora.2.bias"] = bias.flatten()


def fla_v7():
    w, loras = weights("infer_v7"), {}
    for i in range(LAYERS):
        a, f = f"blocks.{i}.att.", f"blocks.{i}.ffn."
        for part in "wavg":
            if a + part + "1" in w:
                lora(loras, f"model.layers.{i}.attn.{part}_lora", w.pop(f"{a}{part}1"), w.pop(f"{a}{part}2"),
                     w.pop(f"{a}{part}0", None))
        for flat in (f"{a}k_k", f"{a}k_a", f"{f}x_k"):
            w[flat] = w[flat].flatten()
    from fla.models import RWKV7Config, RWKV7ForCausalLM

    config = RWKV7Config(hidden_size=WIDTH, num_hidden_layers=LAYERS, head_dim=HEAD, decay_low_rank_dim=32,
                         a_low_rank_dim=32, v_low_rank_dim=32, gate_low_rank_dim=32, intermediate_size=256,
                         vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, fuse_cross_entropy=False, fuse_norm=False)
    save_fla("fla_v7", RWKV7ForCausalLM(config), renamed(w, FLA_OUTER) | loras)


def fla_v6():
    w, rest = weights("infer_v6"), {}
    order = [3, 0, 1, 2, 4]  # official parts w,k,v,r,g to fla's r,w,k,v,g
    for i in range(LAYERS):
        a, f, o = f"blocks.{i}.att.", f"blocks.{i}.ffn.", f"model.layers.{i}.attn."
        down, up = w.pop(a + "time_maa_w1"), w.pop(a + "time_maa_w2")
        down = down.view(WIDTH, 5, -1)[:, order].reshape(WIDTH, -1)
        rest[o + "x_proj.0.mu"] = w.pop(a + "time_maa_x").flatten()
        rest[o + "x_proj.0.linear.weight"] = down.t().contiguous()
        rest[o + "x_proj.2.weight"] = up[order].reshape(-1, WIDTH).t().contiguous()
        rest[o + "x_bias"] = torch.stack([w.pop(f"{a}time_maa_{part}").flatten() for part in "rwkvg"])
        lora(rest, o + "w_proj.linear", w.pop(a + "time_decay_w1"), w.pop(a + "time_decay_w2"), w.pop(a + "time_decay"))
        rest[o + "bonus"] = w.pop(a + "time_faaaa")
        for part, name in (("k", "key"), ("r", "receptance")):
            rest[f"model.layers.{i}.ffn.{name}.mu"] = w.pop(f"{f}time_maa_{part}").flatten()
    inner = [(f".ffn.{n}.weight", f".ffn.{n}.linear.weight") for n in ("key", "receptance")]
    inner += [(f".attn.{p}_proj.weight", f".attn.{p}_proj.linear.weight") for p in "rkvg"]
    from fla.models import RWKV6Config, RWKV6ForCausalLM

    config = RWKV6Config(hidden_size=WIDTH, num_hidden_layers=LAYERS, num_heads=HEADS, expand_k=1.0, expand_v=1.0,
                         proj_low_rank_dim=32, gate_low_rank_dim=64, intermediate_size=224, vocab_size=VOCAB,
                         bos_token_id=0, eos_token_id=0, fuse_cross_entropy=False, fuse_norm=False)
    save_fla("fla_v6", RWKV6ForCausalLM(config), renamed(w, FLA_OUTER + inner) | rest)


def save_fla(name, model, state):
    model.load_state_dict(state, strict=True)
    model.to(torch.bfloat16).save_pretrained(fresh(name))
    stored = load_file(HF / name / "model.safetensors")
    assert stored.keys() == state.keys() and all(torch.equal(stored[k], t) for k, t in state.items())


def run_fla(version):
    """The class's own logits: with the epsilon its config gives, and with 64e-5 in every group norm."""
    from fla.models import RWKV6ForCausalLM, RWKV7ForCausalLM

    from triton.runtime.autotuner import Autotuner

    # The interpreter has no device to time candidates on: the first of each kernel's configurations will do.
    Autotuner.run = lambda self, *args, **kwargs: self.fn.run(*args, **kwargs, **self.configs[0].all_kwargs())
    cls = {"v6": RWKV6ForCausalLM, "v7": RWKV7ForCausalLM}[version]
    golden = read(f"infer_{version}")
    model = cls.from_pretrained(HF / f"fla_{version}", torch_dtype=torch.float32).eval()
    norms = [layer.attn.g_norm for layer in model.model.layers]
    out = {}
    for key, eps in (("out.logits_own_eps", norms[0].eps), ("out.logits_eps64e-5", 64e-5)):
        for norm in norms:
            norm.eps = eps
        with torch.no_grad():
            out[key] = model(golden["in.tokens"].long()[None], use_cache=False).logits[0].float().contiguous()
        print(version, key, eps, "against golden", (out[key] - golden["out.logits_seq"]).abs().max().item(), flush=True)
    save_file(out, HF / f"fla_{version}_logits.safetensors", {"source": "fla-core 0.6.0, Triton's CPU interpreter"})


def native_v7():
    w = weights("infer_v7")
    config = {"architectures": ["Rwkv7ForCausalLM"], "model_type": "rwkv7", "vocab_size": VOCAB, "hidden_size": WIDTH,
              "num_hidden_layers": LAYERS, "head_size": HEAD, "intermediate_size": 256, "torch_dtype": "bfloat16"}
    # Three shards under `model.`, the head without prefix; the last block is torn between two of them.
    folder = fresh("native_v7_sharded")
    named = {k if k.startswith("head.") else f"model.{k}": t for k, t in w.items()}
    names = sorted(named)
    cuts = [0, len(names) // 3, 2 * len(names) // 3, len(names)]
    index = {}
    for s in range(3):
        file = f"model-{s + 1:05}-of-00003.safetensors"
        save_file({k: named[k] for k in names[cuts[s]:cuts[s + 1]]}, folder / file, {"format": "pt"})
        index |= {k: file for k in names[cuts[s]:cuts[s + 1]]}
    size = sum(t.numel() * t.element_size() for t in w.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": size}, "weight_map": index}, indent=1) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    # One file under torch.compile's and the class's prefixes: the small model of lm/pth_variants.
    small = {k: t.bfloat16() for k, t in weights("pth_variants/model").items()}
    write("native_v7_prefixed", {f"_orig_mod.{k}" if k.startswith("head.") else f"_orig_mod.rwkv7.{k}": t
                                 for k, t in small.items()},
          config | {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2, "head_size": 16,
                    "intermediate_size": 72})


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run_fla(sys.argv[2])
    else:
        v4()
        custom()
        fla_v6()
        fla_v7()
        native_v7()
        for file in HF.glob("*/*"):
            file.chmod(0o644)
