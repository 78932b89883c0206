#!/usr/bin/env python3
"""What part of the words that the demo model writes occur in its training text.

    words.py --anser target/release/anser --train train.jsonl [--model DIR] [--texts 40] [--tokens 200]
"""

import argparse
import json
import re
import subprocess
import tempfile
from pathlib import Path

WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
BEGINNINGS = ["Once upon a time", "There was once a king", "The old woman said", "In the middle of the forest",
              "\"Dear me,\" said", "Next morning", "The prince", "A long time ago there lived"]


def words(text):
    return [word.lower() for word in WORD.findall(text)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--anser", required=True)
    parser.add_argument("--train", required=True, type=Path)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=200)
    o = parser.parse_args()
    known = set()
    with o.train.open() as lines:
        for line in lines:
            known.update(words(json.loads(line)["text"]))
    with tempfile.TemporaryDirectory() as folder:
        prompts, out = Path(folder, "prompts.jsonl"), Path(folder, "texts.jsonl")
        rows = [{"id": str(i), "prompt": BEGINNINGS[i % len(BEGINNINGS)], "seed": i} for i in range(o.texts)]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        subprocess.run([o.anser, "generate", o.model, "--input", str(prompts), "--output", str(out), "--max-tokens",
                        str(o.tokens)], check=True)
        texts = [json.loads(line)["text"] for line in out.read_text().splitlines()]
    # The last word may be cut off by the length.
    written = [word for text in texts for word in words(text)[:-1]]
    strange = sorted({word for word in written if word not in known})
    share = sum(word in known for word in written) / max(len(written), 1)
    print(json.dumps({"texts": len(texts), "words": len(written), "known": share, "strange": strange[:40]}))


if __name__ == "__main__":
    main()
