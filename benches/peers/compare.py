#!/usr/bin/env python3
"""Anser beside its peers on one synthetic model, interleaved; README.md says how to build and install the peers.

    compare.py --anser target/release/anser --llama-bench .../llama-bench --python .../python [--size 0.1b] [--rounds 5]

Every round runs each contender once, in turn, each in a process of its own: what a neighbour on the machine takes, it
takes from all of them alike. A contender whose program is not named is left out, and the table says so.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
METRICS = ("prefill_tok_s", "decode_tok_s")


def own_group():
    """A scheduling group of highest weight for this process: on Linux, nice alone does nothing across sessions."""
    os.setsid()
    Path("/proc/self/autogroup").write_text("-20")
    os.nice(-20)


def run(command, timeout, prepare=None):
    out = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, preexec_fn=prepare)
    if out.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {out.returncode}: {(out.stderr or out.stdout)[-600:]}")
    return out.stdout


def number(value):
    """`anser bench` may report a figure as a number or as its median and maximum."""
    return float(value["median"] if isinstance(value, dict) else value)


def anser(options, storage):
    command = [options.anser, "bench", model(options, storage), "--threads", options.threads, "--prefill",
               options.prefill, "--decode", options.decode, "--batch", 1, "--repeat", 1, "--json"]
    out = json.loads(run(command, options.timeout, options.prepare))
    return {metric: number(out[metric]) for metric in METRICS}


def llama(options, storage):
    command = [options.llama_bench, "-m", model(options, storage), "-t", options.threads, "-p", options.prefill, "-n",
               options.decode, "-r", 1, "-o", "json"]
    rows = json.loads(run(command, options.timeout, options.prepare))
    return {"prefill_tok_s" if row["n_prompt"] else "decode_tok_s": row["avg_ts"] for row in rows}


def pip_rwkv(options, _):
    path = options.models / f"rwkv7-{options.size}.pth"
    command = [options.python, HERE / "pip_rwkv.py", path, "cpu fp32", options.threads, options.prefill,
               options.decode]
    out = run(command, options.timeout, options.prepare)
    return json.loads(out.strip().splitlines()[-1])


# name: the option that names its program, the function, the storages it runs with. The package's bf16 is ten to thirty
# times slower than its f32 on a CPU without bf16 arithmetic (measured on an AMD EPYC).
CONTENDERS = {"anser": ("anser", anser, ("bf16", "f32")), "llama.cpp": ("llama_bench", llama, ("bf16", "f32")),
              "pip rwkv": ("python", pip_rwkv, ("f32",))}


def model(options, storage):
    return options.models / f"rwkv7-{options.size}-{storage}.gguf"


def machine():
    cpu = platform.processor() or platform.machine()
    try:
        cpu = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M).group(1)
    except (OSError, AttributeError):
        pass
    return {"cpu": cpu.strip(), "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}


def load():
    return [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None


def commit():
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return out.stdout.strip() or "unknown"


def versions(options):
    out = {}
    if options.llama_bench:
        probe = subprocess.run([options.llama_bench, "--version"], capture_output=True, text=True)
        found = re.search(r"version.*", probe.stderr + probe.stdout)
        out["llama.cpp"] = found.group(0) if found else "unknown"
    if options.python:
        code = "from importlib.metadata import version as v; print('rwkv', v('rwkv'), 'torch', v('torch'))"
        out["pip rwkv"] = run([options.python, "-c", code], 60).strip()
    return out


def table(samples, absent):
    lines = [f"{'storage':8} {'what':14} {'contender':10} {'median':>9} {'max':>9}  anser/peer (medians, maxima)"]
    for storage in sorted({key[1] for key in samples}):
        for metric in METRICS:
            ours = samples.get(("anser", storage), {}).get(metric)
            for name in CONTENDERS:
                values = samples.get((name, storage), {}).get(metric)
                if not values:
                    continue
                middle, best = statistics.median(values), max(values)
                ratio = ""
                if ours and name != "anser":
                    ratio = f"  {statistics.median(ours) / middle:.2f}  {max(ours) / best:.2f}"
                lines.append(f"{storage:8} {metric:14} {name:10} {middle:9.1f} {best:9.1f}{ratio}")
    return "\n".join(lines + [f"not run: {name}" for name in absent])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anser", type=Path)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--python", type=Path, help="an interpreter with torch and rwkv (and gguf, to make the models)")
    parser.add_argument("--models", type=Path, required=True, help="folder of the synthetic models; made when missing")
    parser.add_argument("--size", default="0.1b", choices=["0.1b", "0.4b", "1.5b"])
    parser.add_argument("--storage", default="bf16,f32", help="which of bf16, f32 (default both)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one process")
    parser.add_argument("--own-group", action="store_true",
                        help="run every contender in a scheduling group of highest weight (Linux, root)")
    parser.add_argument("--out", type=Path, help="result file (default benches/results/DATE-MACHINE.json; - for none)")
    options = parser.parse_args()
    options.prepare = own_group if options.own_group else None
    storages = options.storage.split(",")
    present = {name: (fn, able) for name, (flag, fn, able) in CONTENDERS.items() if getattr(options, flag)}
    absent = [name for name in CONTENDERS if name not in present]
    if not all(model(options, s).exists() for s in storages):
        if not options.python:
            sys.exit(f"{options.models} lacks the models: name --python, or run make_synthetic.py yourself")
        run([options.python, HERE / "make_synthetic.py", options.models, options.size], 3600)

    samples, failures, loads = {}, [], [load()]
    for round_number in range(options.rounds):
        for storage in storages:
            for name, (contender, able) in present.items():
                if storage not in able:
                    continue
                try:
                    speed = contender(options, storage)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    failures.append(f"round {round_number + 1}: {storage} {name}: {error}")
                    print(failures[-1], file=sys.stderr, flush=True)
                    continue
                for metric in METRICS:
                    samples.setdefault((name, storage), {}).setdefault(metric, []).append(speed[metric])
                print(f"round {round_number + 1}: {storage} {name}: prefill {speed['prefill_tok_s']:.1f}, "
                      f"decode {speed['decode_tok_s']:.1f} tok/s", file=sys.stderr, flush=True)
        loads.append(load())
    print(table(samples, absent))

    if str(options.out) == "-":
        return
    about = machine()
    slug = re.sub(r"[^a-z0-9]+", "-", f"{about['cpu']}-x{about['cores']}".lower()).strip("-")
    out = options.out or HERE.parent / "results" / f"{datetime.date.today()}-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "machine": about,
        "commit": commit(), "versions": versions(options), "model": f"synthetic rwkv7 {options.size}",
        "threads": options.threads, "prefill": options.prefill, "decode": options.decode, "rounds": options.rounds,
        "own_group": options.own_group, "load_average": loads, "not_run": absent, "failures": failures,
        "results": [{"contender": name, "storage": storage, "metric": metric, "median": statistics.median(values),
                     "max": max(values), "samples": values}
                    for (name, storage), metrics in samples.items() for metric, values in metrics.items()],
    }, indent=1) + "\n")
    print(f"written: {os.path.relpath(out)}", file=sys.stderr)


if __name__ == "__main__":
    main()
