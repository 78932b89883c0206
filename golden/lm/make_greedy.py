"""Writes greedy.json: greedy continuations of the infer_* models under the PyPI package `rwkv`.

A continuation is cut before the first step whose two best logits lie within 1e-3, so that rounding cannot change it.
"""

import json
import subprocess
import sys

from reference import LM, Reference, read, weights

MODELS = ["infer_v4", "infer_v50", "infer_v51", "infer_v52", "infer_v6", "infer_v7"]
PROMPTS = ["The geese", "0\n\n", None]  # None: the first 12 of the file's own in.tokens
LENGTH, MARGIN = 40, 1e-3


def continuation(reference, prompt):
    logits, state = reference.forward(prompt)
    tokens, smallest = [], float("inf")
    while len(tokens) < LENGTH:
        best = logits[-1].topk(2)
        gap = (best.values[0] - best.values[1]).item()
        if gap <= MARGIN:
            break
        smallest = min(smallest, gap)
        tokens.append(best.indices[0].item())
        logits, state = reference.forward(tokens[-1:], state)
    return {"prompt": prompt, "tokens": tokens, "smallest_margin": smallest}


def one(name):
    reference, own = Reference(weights(name)), read(name)["in.tokens"].tolist()[:12]
    return [continuation(reference, own if p is None else list(p.encode())) for p in PROMPTS]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print("RESULT" + json.dumps(one(sys.argv[1])))
    else:
        cases = {}
        for name in MODELS:  # a process each: the package serves either RWKV-7 or the older versions
            out = subprocess.run([sys.executable, __file__, name], check=True, capture_output=True, text=True).stdout
            cases[name] = json.loads(out[out.index("RESULT") + 6:])
            print(name, [(len(c["tokens"]), round(c["smallest_margin"], 4)) for c in cases[name]])
        lines = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, rows)) + "\n ]" for name, rows in cases.items()]
        (LM / "greedy.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
