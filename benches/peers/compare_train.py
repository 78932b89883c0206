#!/usr/bin/env python3
"""A training step of RWKV-7 in Anser and in eager torch, one after the other in every round.

    compare_train.py --anser target/release/anser --python .../python [--rounds 5] [--steps 3]

12 layers of 256 channels, vocabulary 4096, 4 sequences of 512 tokens, f32, 2 threads, AdamW and clipping included.
Prints medians, maxima and ratios, and writes benches/results/train-DATE-MACHINE.json.
"""

import argparse
import datetime
import json
import os
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from compare import own_group, run  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anser", type=Path, required=True)
    parser.add_argument("--python", type=Path, required=True, help="one that has torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of every process, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--timeout", type=int, default=600)
    parser.add_argument("--own-group", action="store_true", help="on a busy Linux machine, as root: see README.md")
    o = parser.parse_args()
    prepare = own_group if o.own_group else None
    contenders = {
        "anser": [o.anser, "bench", "--train", "--threads", o.threads, "--repeat", o.steps, "--json"],
        "torch": [o.python, HERE / "train_torch.py", "--threads", o.threads, "--steps", o.steps],
    }
    samples = {name: [] for name in contenders}
    loads = []
    for number in range(o.rounds):
        loads.append(os.getloadavg()[0])
        for name, command in contenders.items():
            samples[name].append(json.loads(run(command, o.timeout, prepare).splitlines()[-1]))
            print(f"round {number + 1}, {name}: {samples[name][-1]['train_tok_s']:.0f} tok/s", file=sys.stderr)
    table = {}
    for name, rows in samples.items():
        rates = [row["train_tok_s"] for row in rows]
        table[name] = {
            "median_tok_s": statistics.median(rates),
            "max_tok_s": max(row["train_tok_s_max"] for row in rows),
            "peak_rss_bytes": max(row["peak_rss_bytes"] for row in rows),
        }
    ratio = {key: table["anser"][key] / table["torch"][key] for key in ("median_tok_s", "max_tok_s", "peak_rss_bytes")}
    result = {"date": datetime.date.today().isoformat(), "machine": samples["anser"][0]["machine"],
              "torch": samples["torch"][0]["torch"], "commit": samples["anser"][0]["commit"], "load": loads,
              "summary": table, "anser_over_torch": ratio, "samples": samples}
    name = result["machine"]["cpu"].lower().replace(" ", "-")
    path = ROOT / "benches" / "results" / f"train-{result['date']}-{name}-x{result['machine']['cores']}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    for name, row in table.items():
        print(f"{name:6} median {row['median_tok_s']:7.0f} tok/s   max {row['max_tok_s']:7.0f}   "
              f"peak {row['peak_rss_bytes'] / 2**30:.2f} GiB")
    print(f"anser / torch: {ratio['median_tok_s']:.2f} (medians), {ratio['max_tok_s']:.2f} (maxima); memory "
          f"{ratio['peak_rss_bytes']:.2f}")
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
