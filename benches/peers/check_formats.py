#!/usr/bin/env python3
"""Checks what `anser convert` writes against the libraries that read it, and what they write against `anser`.

    check_formats.py --anser target/release/anser [--work DIR] [--only pth,gguf,...] [--model FILE.pth --peer-gguf FILE.gguf]

  pth           torch.load of the .pth; the package rwkv computes from it what anser does
  safetensors   safetensors.torch of the file with official names
  vocabulary    the World vocabulary in a directory against the package rwkv's
  v4            transformers' RwkvForCausalLM loads the directory, logits
  fla           flash-linear-attention's classes load the v6 and v7 directories, logits (Triton's CPU interpreter)
  gguf          the gguf package's view of every tensor; q8_0 and q4_0 blocks are its own quantiser's, byte for byte
  llama         llama.cpp loads our GGUF: same logits as anser, same greedy tokens; texts tokenise alike
  peer          with --model and --peer-gguf, two files of one model: llama.cpp's logits of our conversion and of the
                peer's file, and anser's of both

Needs what each part names: torch, safetensors, transformers, flash-linear-attention, rwkv, gguf, llama-cpp-python (or
its sources on PYTHONPATH and LLAMA_CPP_LIB_PATH at the folder of libllama.so). A part whose library is missing is
reported as not run. Models are the golden files of this repository.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "lm"
TOKENS = [1, 50, 7, 33, 60, 2, 19, 44]
TEXTS = ["The Eiffel tower", "  two  spaces\n\nlines\t", "日本語のテキスト", "\\x41 it's \"quoted\"", "🙂 naïve café"]


class Anser:
    def __init__(self, program):
        self.program = str(Path(program).resolve())

    def __call__(self, *args):
        done = subprocess.run([self.program, *map(str, args)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"anser {' '.join(map(str, args))}\n{done.stderr}")
        return done.stdout

    def convert(self, source, target, *args):
        return json.loads(self("convert", source, target, "--force", "--json", *args))

    def logits(self, model, tokens, dtype="f32"):
        import numpy as np

        ids = ",".join(map(str, tokens))
        return np.array(json.loads(self("logits", model, "--tokens", ids, "--all", "--json", "--dtype", dtype))["logits"],
                        dtype=np.float32)


def golden_model(name, work):
    """The weights of a golden file as a safetensors file: infer_* for v6 and v7 in the head size llama.cpp can do."""
    from safetensors.torch import load_file, save_file

    path = work / f"{name}.safetensors"
    weights = {k: t for k, t in load_file(GOLDEN / f"{name}.safetensors").items()
               if k.split(".")[0] in ("emb", "blocks", "ln_out", "head")}
    save_file(weights, path)
    return path


def far(a, b):
    import numpy as np

    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


def check(what, difference, bound):
    print(f"  {what}: {difference:.2e} (bound {bound:.0e})")
    if not difference <= bound:
        raise SystemExit(f"FAILED: {what}")


def pth(anser, work, _):
    import torch

    for version in ("v4", "v52", "v6", "v7"):
        source = GOLDEN / f"tiny_{version}.pth"
        for chain in (["a.safetensors"], ["hf/"], ["a.gguf"] if version in ("v6", "v7") else ["native"]):
            middle = work / f"pth-{version}-{chain[0]}"
            extra = ["--to", "hf", "--layout", "native"] if chain == ["native"] else []
            anser.convert(source, f"{middle}{'/' if chain[0].endswith('/') else ''}", *extra)
            anser.convert(middle, work / f"{version}.pth")
            theirs = torch.load(source, weights_only=True)
            ours = torch.load(work / f"{version}.pth", weights_only=True)
            unused = {f"blocks.0.att.v{i}" for i in range(3)}
            assert set(theirs) - unused == set(ours) - unused, set(theirs) ^ set(ours)
            for name, tensor in ours.items():
                assert tensor.shape == theirs[name].shape and tensor.dtype == theirs[name].dtype, name
                assert torch.equal(tensor, theirs[name]), name
        print(f"  {version}: torch.load gives the official tensors again, by way of safetensors, hf, gguf or native")
    os.environ.setdefault("RWKV_V7_ON", "1")
    os.environ.setdefault("RWKV_JIT_ON", "0")
    from rwkv.model import RWKV

    # The package reads the sizes of heads off 64 channels a head.
    source = golden_model("infer_v7", work)
    anser.convert(source, work / "pip.pth", "--dtype", "f32")
    state = torch.load(work / "pip.pth", weights_only=True)
    for name in list(state):
        if name.endswith("r_k"):
            state[name] = state[name].reshape(1, 64)
    torch.save(state, work / "pip64.pth")
    anser.convert(work / "pip64.pth", work / "pip64-ours.pth")
    model = RWKV(model=str(work / "pip64-ours"), strategy="cpu fp32")
    logits, _ = model.forward(TOKENS, None, full_output=True)
    check("package rwkv on a written .pth, logits", far(logits, anser.logits(work / "pip64-ours.pth", TOKENS)), 3e-5)


def safetensors(anser, work, _):
    import torch
    from safetensors.torch import load_file

    for version in ("v4", "v52", "v6", "v7"):
        target = work / f"official-{version}.safetensors"
        anser.convert(GOLDEN / f"tiny_{version}.pth", target)
        theirs = torch.load(GOLDEN / f"tiny_{version}.pth", weights_only=True)
        ours = load_file(target)
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[k], t) and ours[k].shape == t.shape for k, t in theirs.items()), version
        print(f"  {version}: {len(ours)} tensors equal")


def vocabulary(anser, work, _):
    import rwkv

    anser.convert(GOLDEN / "tiny_v7.pth", work / "world", "--to", "hf", "--tokenizer", "world", "--verify=tensors")
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER

    ours = TRIE_TOKENIZER(str(work / "world" / "rwkv_vocab_v20230424.txt"))
    theirs = TRIE_TOKENIZER(str(Path(rwkv.__file__).parent / "rwkv_vocab_v20230424.txt"))
    assert ours.idx2token == theirs.idx2token
    print(f"  {len(ours.idx2token)} entries equal")


def v4(anser, work, _):
    import torch
    from transformers import AutoModelForCausalLM

    source = golden_model("infer_v4", work)
    anser.convert(source, work / "v4-hf", "--to", "hf")
    model, report = AutoModelForCausalLM.from_pretrained(work / "v4-hf", dtype=torch.float32, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    with torch.no_grad():
        logits = model.eval()(torch.tensor([TOKENS])).logits[0]
    check(f"transformers {type(model).__name__}, logits", far(logits, anser.logits(source, TOKENS)), 3e-5)


def fla(anser, work, _):
    os.environ["TRITON_INTERPRET"] = "1"
    import torch
    from fla.models import RWKV6ForCausalLM, RWKV7ForCausalLM
    from triton.runtime.autotuner import Autotuner

    # The interpreter has no device to time candidates on: the first of each kernel's configurations will do.
    Autotuner.run = lambda self, *args, **kwargs: self.fn.run(*args, **kwargs, **self.configs[0].all_kwargs())
    for version, cls in (("v6", RWKV6ForCausalLM), ("v7", RWKV7ForCausalLM)):
        source = golden_model(f"infer_{version}", work)
        anser.convert(source, work / f"fla-{version}", "--to", "hf")
        model, report = cls.from_pretrained(work / f"fla-{version}", dtype=torch.float32, output_loading_info=True)
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
        for layer in model.model.layers:
            layer.attn.g_norm.eps = 64e-5  # what official weights want, which no config of fla can say
        with torch.no_grad():
            logits = model.eval()(torch.tensor([TOKENS]), use_cache=False).logits[0].float()
        check(f"fla {cls.__name__}, logits", far(logits, anser.logits(source, TOKENS)), 3e-5)


def gguf(anser, work, _):
    import numpy as np
    from gguf import GGMLQuantizationType as Type
    from gguf import GGUFReader, quants
    from safetensors.torch import load_file

    names = {"token_embd": "emb", "output": "head", "time_mix_receptance": "att.receptance", "time_mix_key": "att.key",
             "time_mix_value": "att.value", "time_mix_output": "att.output", "time_mix_gate": "att.gate",
             "channel_mix_key": "ffn.key", "channel_mix_value": "ffn.value", "channel_mix_receptance": "ffn.receptance"}
    for version in ("v6", "v7"):
        source = golden_model(f"infer_{version}", work)
        weights = load_file(source)
        for dtype in ("f32", "bf16", "f16", "q8_0", "q4_0"):
            target = work / f"{version}-{dtype}.gguf"
            anser.convert(source, target, "--dtype", dtype)
            reader, blocks = GGUFReader(target), 0
            assert all(t.data_offset % 32 == 0 for t in reader.tensors)
            for t in reader.tensors:
                parts = t.name.removesuffix(".weight").split(".")
                if parts[-1] not in names:
                    continue
                official = f"{names[parts[-1]]}.weight" if len(parts) == 1 else f"blocks.{parts[1]}.{names[parts[-1]]}.weight"
                values = weights[official].float().numpy()
                kind = Type(t.tensor_type)
                expected = values if kind == Type.F32 else quants.quantize(values, kind)
                got = np.asarray(t.data).view(np.uint8).reshape(-1)
                assert np.array_equal(got, np.ascontiguousarray(expected).view(np.uint8).reshape(-1)), (target, t.name)
                blocks += kind in (Type.Q8_0, Type.Q4_0)
            print(f"  {version} {dtype}: {len(reader.tensors)} tensors, matrices as the package writes them"
                  + (f", {blocks} in blocks" if blocks else ""))


class Llama:
    """A model in llama.cpp, on the CPU, fed with token numbers."""

    def __init__(self, path):
        import llama_cpp as api

        self.api = api
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(str(path).encode(), params)
        if not self.model:
            raise SystemExit(f"FAILED: llama.cpp does not load {path}")
        self.vocab = api.llama_model_get_vocab(self.model)
        self.size = api.llama_vocab_n_tokens(self.vocab)

    def context(self):
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_threads = 512, 512, 2
        return self.api.llama_init_from_model(self.model, params)

    def feed(self, context, tokens):
        import numpy as np

        ids = (self.api.llama_token * len(tokens))(*tokens)
        if self.api.llama_decode(context, self.api.llama_batch_get_one(ids, len(tokens))):
            raise SystemExit("FAILED: llama_decode")
        return np.ctypeslib.as_array(self.api.llama_get_logits_ith(context, -1), (self.size,)).copy()

    def logits(self, tokens):
        """Of every position, token by token."""
        import numpy as np

        context = self.context()
        return np.stack([self.feed(context, [token]) for token in tokens])

    def greedy(self, tokens, count):
        context, out = self.context(), []
        logits = self.feed(context, tokens)
        for _ in range(count):
            out.append(int(logits.argmax()))
            logits = self.feed(context, out[-1:])
        return out

    def tokenize(self, text):
        raw = text.encode()
        ids = (self.api.llama_token * (len(raw) + 8))()
        count = self.api.llama_tokenize(self.vocab, raw, len(raw), ids, len(ids), False, False)
        return list(ids[:count])


def quiet():
    """llama.cpp's talk goes nowhere."""
    import ctypes

    import llama_cpp as api

    global SILENT
    SILENT = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(SILENT, ctypes.c_void_p(0))


def llama(anser, work, _):
    import torch
    from safetensors.torch import load_file, save_file

    quiet()
    for version in ("v6", "v7"):
        source = golden_model(f"infer_{version}", work)
        if version == "v7":  # its CPU kernel wants heads of 64 channels
            weights = load_file(source)
            save_file({k: t.reshape(1, 64).contiguous() if k.endswith("r_k") else t for k, t in weights.items()}, source)
        for dtype, bound in (("f32", 3e-5), ("bf16", 1e-1), ("f16", 1e-2)):
            target = work / f"llama-{version}-{dtype}.gguf"
            anser.convert(source, target, "--dtype", dtype)
            check(f"llama.cpp, {version} {dtype}, logits", far(Llama(target).logits(TOKENS), anser.logits(target, TOKENS)),
                  bound)
    anser.convert("demo", work / "demo.gguf")
    check("llama.cpp, the demo model without a vocabulary, logits",
          far(Llama(work / "demo.gguf").logits(TOKENS), anser.logits(work / "demo.gguf", TOKENS)), 0.2)
    # The vocabulary: a model of 65536 rows.
    weights = load_file(golden_model("infer_v6", work))
    for name in ("emb.weight", "head.weight"):
        weights[name] = torch.cat([weights[name], torch.zeros(65536 - 256, 64, dtype=weights[name].dtype)])
    save_file(weights, work / "world.safetensors")
    anser.convert(work / "world.safetensors", work / "world.gguf")
    model = Llama(work / "world.gguf")
    from rwkv.rwkv_tokenizer import TRIE_TOKENIZER
    import rwkv

    tokenizer = TRIE_TOKENIZER(str(Path(rwkv.__file__).parent / "rwkv_vocab_v20230424.txt"))
    for text in TEXTS:
        assert model.tokenize(text) == tokenizer.encode(text), text
    print(f"  World vocabulary: {len(TEXTS)} texts tokenise as in the package rwkv")
    anser.convert(work / "world.gguf", work / "world-back.safetensors")
    back = load_file(work / "world-back.safetensors")
    assert all(torch.equal(back[k].reshape(t.shape), t) for k, t in weights.items())


def peer(anser, work, args):
    if not args.model or not args.peer_gguf:
        print("  not run: no --model and --peer-gguf")
        return
    quiet()
    ours = work / "peer.gguf"
    report = anser.convert(args.model, ours)
    print(f"  {report['format']}, {report['dtype']}, {report['bytes'] / 1e6:.1f} MB, written and verified in {report['seconds']:.1f} s")
    tokens = [1000, 33, 4711, 261, 52000, 11]
    a, b = Llama(ours), Llama(args.peer_gguf)
    theirs = b.logits(tokens)
    check("llama.cpp: our file against the peer's, logits", far(a.logits(tokens), theirs), 0.0)
    assert a.greedy(tokens, 24) == b.greedy(tokens, 24)
    print("  24 greedy tokens equal")
    for text in TEXTS:
        assert a.tokenize(text) == b.tokenize(text), text
    scale = float(abs(theirs).max())
    check(f"anser: our file against the source, logits (largest {scale:.1f})",
          far(anser.logits(ours, tokens), anser.logits(args.model, tokens)), 0.0)
    check("anser: the peer's file against the source, logits",
          far(anser.logits(args.peer_gguf, tokens), anser.logits(args.model, tokens)), 0.0)
    # bf16 weights, but llama.cpp rounds activations to bf16 as well.
    check("anser against llama.cpp, logits over the largest", far(anser.logits(ours, tokens), theirs) / scale, 3e-2)
    anser.convert(args.peer_gguf, work / "peer-back.pth")
    import torch

    source, back = (torch.load(path, weights_only=True) for path in (args.model, work / "peer-back.pth"))
    assert all(torch.equal(back[k], t) and back[k].shape == t.shape for k, t in source.items())
    print("  the peer's GGUF back to .pth: every tensor equal")


PARTS = {f.__name__: f for f in (pth, safetensors, vocabulary, v4, fla, gguf, llama, peer)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anser", required=True)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--peer-gguf", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for name in args.only.split(","):
            print(name, flush=True)
            try:
                PARTS[name](Anser(args.anser), Path(work), args)
            except ImportError as missing:
                print(f"  not run: {missing}")


if __name__ == "__main__":
    main()
