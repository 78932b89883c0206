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
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Each with whether more is better.
METRICS = {"prefill_tok_s": True, "decode_tok_s": True, "batch_tok_s": True, "start_ms": False, "peak_mb": False}

# The formats that are compared with each other: what Anser runs and what llama.cpp runs.
FORMATS = {"f32": ("f32.gguf", "f32.gguf"), "bf16": ("bf16.gguf", "bf16.gguf"), "8bit": ("int8.anser", "Q8_0.gguf"),
           "4bit": ("int4.anser", "Q4_K_M.gguf")}

# One token after this is what a start is timed by.
PROMPT = "Once upon a time"


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


def timed(options, command):
    """Wall time in ms and peak memory in MB of a process from its start to its end, the best of three."""
    best = None
    for _ in range(3):
        began = time.perf_counter()
        process = subprocess.Popen([str(c) for c in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, preexec_fn=options.prepare)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"{command[0]} ended with {status}")
        best = min(best or (1e9, 0), ((time.perf_counter() - began) * 1e3, usage.ru_maxrss * 1024 / 1e6))
    return {"start_ms": best[0], "peak_mb": best[1]}


def anser(options, name):
    path = model(options, FORMATS[name][0])
    command = [options.anser, "bench", path, "--threads", options.threads, "--prefill", options.prefill, "--decode",
               options.decode, "--batch", options.batch, "--repeat", 1, "--json"]
    if path.suffix == ".anser":
        # As a process that stays would; the start is timed with the weights mapped.
        command.append("--copy-weights")
    out = json.loads(run(command, options.timeout, options.prepare))
    speeds = {metric: float(out[metric]) for metric in ("prefill_tok_s", "decode_tok_s", "batch_tok_s")}
    return speeds | timed(options, [options.anser, "generate", path, "--threads", options.threads, "--tokenizer", "world",
                                    "--prompt", PROMPT, "--max-tokens", 1])


def llama(options, name):
    path = model(options, FORMATS[name][1])
    command = [options.llama_bench, "-m", path, "-t", options.threads, "-p", options.prefill, "-n", options.decode,
               "-r", 1, "-o", "json"]
    rows = json.loads(run(command, options.timeout, options.prepare))
    out = {"prefill_tok_s" if row["n_prompt"] else "decode_tok_s": row["avg_ts"] for row in rows}
    batched, completion = (options.llama_bench.with_name(f"llama-{name}") for name in ("batched-bench", "completion"))
    if batched.exists():
        command = [batched, "-m", path, "-t", options.threads, "-npp", 32, "-ntg", 24, "-npl", options.batch, "-c",
                   64 * options.batch, "--output-format", "jsonl"]
        lines = run(command, options.timeout, options.prepare).splitlines()
        out["batch_tok_s"] = [json.loads(line) for line in lines if line.startswith("{")][-1]["speed_tg"]
    if completion.exists():
        out |= timed(options, [completion, "-m", path, "-t", options.threads, "-p", PROMPT, "-n", 1, "-no-cnv",
                               "--no-warmup"])
    return out


def pip_rwkv(options, _):
    path = options.models / f"rwkv7-{options.size}.pth"
    command = [options.python, HERE / "pip_rwkv.py", path, "cpu fp32", options.threads, options.prefill,
               options.decode]
    out = run(command, options.timeout, options.prepare)
    return json.loads(out.strip().splitlines()[-1])


# name: the option that names its program, the function, the formats it runs with. The package's bf16 is ten to thirty
# times slower than its f32 on a CPU without bf16 arithmetic (measured on an AMD EPYC).
CONTENDERS = {"anser": ("anser", anser, tuple(FORMATS)), "llama.cpp": ("llama_bench", llama, tuple(FORMATS)),
              "pip rwkv": ("python", pip_rwkv, ("f32",))}


def model(options, suffix):
    return options.models / f"rwkv7-{options.size}-{suffix}"


def make_models(options):
    """What is missing of the models that the formats need."""
    missing = [name for name in options.formats for suffix in FORMATS[name] if not model(options, suffix).exists()]
    if not missing:
        return
    source = options.models / f"rwkv7-{options.size}.pth"
    if not source.exists() or not model(options, "bf16.gguf").exists():
        if not options.python:
            sys.exit(f"{options.models} lacks the models: name --python, or run make_synthetic.py yourself")
        run([options.python, HERE / "make_synthetic.py", options.models, options.size], 3600)
    for name in missing:
        ours, theirs = (model(options, suffix) for suffix in FORMATS[name])
        if ours.suffix == ".anser" and not ours.exists() and options.anser:
            run([options.anser, "quantize", source, ours, "--recipe", ours.stem.rsplit("-", 1)[-1]], 3600)
        if not theirs.exists() and options.llama_bench:
            quantize = options.llama_bench.with_name("llama-quantize")
            run([quantize, model(options, "bf16.gguf"), theirs, theirs.stem.rsplit("-", 1)[-1]], 3600)


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
    lines = [f"{'format':8} {'what':14} {'contender':10} {'median':>9} {'best':>9}  Anser is so many times better "
             "(medians, bests)"]
    for name in FORMATS:
        for metric, more in METRICS.items():
            best = max if more else min
            ours = samples.get(("anser", name), {}).get(metric)
            for contender in CONTENDERS:
                values = samples.get((contender, name), {}).get(metric)
                if not values:
                    continue
                ratio = ""
                if ours and contender != "anser":
                    pairs = [(statistics.median(ours), statistics.median(values)), (best(ours), best(values))]
                    ratio = "".join(f"  {a / b if more else b / a:.2f}" for a, b in pairs)
                lines.append(f"{name:8} {metric:14} {contender:10} {statistics.median(values):9.1f} "
                             f"{best(values):9.1f}{ratio}")
    return "\n".join(lines + [f"not run: {name}" for name in absent])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anser", type=Path)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--python", type=Path, help="an interpreter with torch and rwkv (and gguf, to make the models)")
    parser.add_argument("--models", type=Path, required=True, help="folder of the synthetic models; made when missing")
    parser.add_argument("--size", default="0.1b", choices=["0.1b", "0.4b", "1.5b"])
    parser.add_argument("--formats", default=",".join(FORMATS), help="which of f32, bf16, 8bit, 4bit (default all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="sequences decoded side by side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one process")
    parser.add_argument("--own-group", action="store_true",
                        help="run every contender in a scheduling group of highest weight (Linux, root)")
    parser.add_argument("--out", type=Path, help="result file (default benches/results/DATE-MACHINE.json; - for none)")
    options = parser.parse_args()
    options.prepare = own_group if options.own_group else None
    options.formats = options.formats.split(",")
    present = {name: (fn, able) for name, (flag, fn, able) in CONTENDERS.items() if getattr(options, flag)}
    absent = [name for name in CONTENDERS if name not in present]
    make_models(options)

    samples, failures, loads = {}, [], [load()]
    for round_number in range(options.rounds):
        for format_name in options.formats:
            for name, (contender, able) in present.items():
                if format_name not in able:
                    continue
                try:
                    speed = contender(options, format_name)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    failures.append(f"round {round_number + 1}: {format_name} {name}: {error}")
                    print(failures[-1], file=sys.stderr, flush=True)
                    continue
                for metric, value in speed.items():
                    samples.setdefault((name, format_name), {}).setdefault(metric, []).append(value)
                figures = ", ".join(f"{metric} {value:.1f}" for metric, value in speed.items())
                print(f"round {round_number + 1}: {format_name} {name}: {figures}", file=sys.stderr, flush=True)
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
        "threads": options.threads, "prefill": options.prefill, "decode": options.decode, "batch": options.batch,
        "rounds": options.rounds,
        "own_group": options.own_group, "load_average": loads, "not_run": absent, "failures": failures,
        "results": [{"contender": name, "format": format_name, "metric": metric, "median": statistics.median(values),
                     "best": (max if METRICS[metric] else min)(values), "samples": values}
                    for (name, format_name), metrics in samples.items() for metric, values in metrics.items()],
    }, indent=1) + "\n")
    print(f"written: {os.path.relpath(out)}", file=sys.stderr)


if __name__ == "__main__":
    main()
