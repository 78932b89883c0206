"""World tokenizer: pyrwkv-tokenizer against ours on the same text, interleaved, one thread each.

    python -m venv VENV && VENV/bin/pip install pyrwkv-tokenizer
    cargo bench -p anser-tokenizer --no-run          # prints the program's path
    VENV/bin/python benches/tokenizer_peers.py --program target/release/deps/world-* FILE...

Files are UTF-8 text; FILE.jsonl takes the `text` field of its rows (`--script NAME` only rows of that `script`).
Short texts are repeated to about `--megabytes`. Prints medians of the rounds in MB/s and their ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import pyrwkv_tokenizer


def text_of(path, script, megabytes):
    if path.suffix == ".jsonl":
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        text = "\n".join(row["text"] for row in rows if script is None or row.get("script") == script)
    else:
        text = path.read_text(encoding="utf-8")
    if not text:
        raise SystemExit(f"{path}: no text")
    size = len(text.encode())
    return text * max(1, round(megabytes * 1e6 / size))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--program", required=True, help="the built bench of anser-tokenizer")
    parser.add_argument("--script", help="only rows of this script")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=float, default=10)
    arguments = parser.parse_args()
    os.environ["RAYON_NUM_THREADS"] = "1"
    peer = pyrwkv_tokenizer.RWKVTokenizer()

    for path in arguments.files:
        text = text_of(path, arguments.script, arguments.megabytes)
        size = len(text.encode()) / 1e6
        theirs, ours = [], []
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            for _ in range(arguments.rounds):
                start = time.perf_counter()
                ids = peer.encode(text)
                theirs.append(size / (time.perf_counter() - start))
                command = [arguments.program, file.name, "1"]
                result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                assert result["tokens"] == len(ids), (result, len(ids))
                ours.append(result["median_mb_s"])
        theirs, ours = statistics.median(theirs), statistics.median(ours)
        print(f"{path.name}: {size:.1f} MB, pyrwkv-tokenizer {theirs:.1f} MB/s, anser {ours:.1f} MB/s, {ours / theirs:.2f}x")


main()
