#!/usr/bin/env python3
"""What rounding the weights costs, in Anser and in llama.cpp: mean KL of the predictions from those of the same model in
16 bits, on one text, beside the size of the file.

    benches/peers/compare_quality.py --anser target/release/anser --model MODEL.pth --reference MODEL-f32.gguf \\
        --text TEXT MODEL-Q8_0.gguf MODEL-Q4_K_M.gguf

llama.cpp's own reference is the model in f32, since it rounds activations to bf16 beside bf16 weights. Needs
llama-cpp-python (or its sources on PYTHONPATH and LLAMA_CPP_LIB_PATH at the folder of libllama.so) and numpy.
"""

import argparse
import ctypes
import json
import pathlib
import subprocess
import sys

import numpy as np


class Llama:
    """A GGUF file on the CPU."""

    def __init__(self, path):
        self.params = api.llama_model_default_params()
        self.model = api.llama_model_load_from_file(str(path).encode(), self.params)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.vocab = api.llama_model_get_vocab(self.model)
        self.size = api.llama_vocab_n_tokens(self.vocab)

    def tokens(self, text, limit):
        ids = (api.llama_token * (len(text) + 8))()
        count = api.llama_tokenize(self.vocab, text, len(text), ids, len(ids), False, False)
        return list(ids[:min(count, limit)])

    def log_probabilities(self, tokens):
        """[T, V], one token at a time."""
        params = api.llama_context_default_params()
        params.n_threads = 2
        context = api.llama_init_from_model(self.model, params)
        rows = np.empty((len(tokens), self.size), np.float32)
        for row, token in zip(rows, tokens):
            ids = (api.llama_token * 1)(token)
            if api.llama_decode(context, api.llama_batch_get_one(ids, 1)):
                raise SystemExit("llama_decode failed")
            row[:] = np.ctypeslib.as_array(api.llama_get_logits_ith(context, -1), (self.size,))
        api.llama_free(context)
        rows -= rows.max(1, keepdims=True)
        rows -= np.log(np.exp(rows).sum(1, keepdims=True))
        return rows

    def free(self):
        api.llama_model_free(self.model)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anser", required=True)
    parser.add_argument("--model", required=True, help="what anser quantizes")
    parser.add_argument("--reference", required=True, help="the same model as GGUF in f32")
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("gguf", nargs="+", help="the same model quantised")
    options = parser.parse_args()

    output = subprocess.run([options.anser, "quantize", options.model, "--text", options.text, "--tokens",
                             str(options.tokens), "--json"], check=True, capture_output=True, text=True).stdout
    rows = [{"engine": "anser", "format": row["recipe"], "bytes": row["bytes"], "kl": row["kl"],
             "same_top": row["same_top"]} for row in json.loads(output)["recipes"]]

    reference = Llama(options.reference)
    tokens = reference.tokens(pathlib.Path(options.text).read_bytes(), options.tokens)[:-1]
    expected = reference.log_probabilities(tokens)
    reference.free()
    for path in options.gguf:
        model = Llama(path)
        found = model.log_probabilities(tokens)
        model.free()
        kl = (np.exp(expected, dtype=np.float64) * (expected - found)).sum(1).mean()
        same = (expected.argmax(1) == found.argmax(1)).mean()
        rows.append({"engine": "llama.cpp", "format": pathlib.Path(path).stem.rsplit("-", 1)[-1],
                     "bytes": pathlib.Path(path).stat().st_size, "kl": float(kl), "same_top": float(same)})
    if options.json:
        return print(json.dumps(rows))
    for row in rows:
        print(f"{row['engine']:<10} {row['format']:<8} {row['bytes'] / 1e6:8.1f} MB   KL {row['kl']:.6f}   "
              f"same top {100 * row['same_top']:.1f} %")


if __name__ == "__main__":
    import llama_cpp as api

    SILENT = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(SILENT, ctypes.c_void_p(0))
    sys.exit(main())
