"""Fills corpus/<target>/ from the golden files; needs Python's standard library only.

    python3 seed.py
"""

import hashlib
import json
import math
import struct
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
GOLDEN = HERE / "../golden"


def seed(target, name, data):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def gguf_header(data):
    """Everything before the first tensor: the target supplies zeros as data."""
    tensors, entries = struct.unpack_from("<QQ", data, 8)
    at = 24
    scalar = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}

    def string():
        nonlocal at
        at += 8 + struct.unpack_from("<Q", data, at)[0]

    def value(kind):
        nonlocal at
        if kind == 8:
            string()
        elif kind == 9:
            element, count = struct.unpack_from("<IQ", data, at)
            at += 12
            for _ in range(count):
                value(element)
        else:
            at += scalar[kind]

    for _ in range(entries):
        string()
        at += 4
        value(struct.unpack_from("<I", data, at - 4)[0])
    for _ in range(tensors):
        string()
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 12
    return data[:at]


def packed(path, version, storage):
    """The header of a packed file of this model, as the program would write it."""
    data = path.read_bytes()
    known = json.loads(data[8:8 + struct.unpack_from("<Q", data)[0]])
    shapes = {name: info["shape"] for name, info in known.items() if name.split(".")[0] in ("emb", "blocks", "ln_out", "head")}
    matrices, tensors, end = {}, {}, 0
    for name, shape in shapes.items():
        if name.startswith("blocks.0.att.v") and name[-1].isdigit():
            continue
        factor = name.rsplit(".", 1)[1] in ("w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2")
        if len(shape) == 2 and (factor or name.endswith(".weight")):
            matrices[name] = {"storage": "int8" if factor else storage}
        else:
            tensors[name] = shape
    header = {}
    for name, form in matrices.items():
        rows, cols = shapes[name] if name.endswith(".weight") else reversed(shapes[name])
        groups = -(-cols // 32)
        panel = 16 * (34 * groups if form["storage"] == "int8" else 18 * groups + 4 * -(-cols // 256))
        length = -(-(-(-rows // 16) * panel) // 64) * 64
        header[name] = {"dtype": "U8", "shape": [length], "data_offsets": [end, end + length]}
        end += length
    for name, shape in tensors.items():
        length = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + length]}
        end += length
    vocab, width = shapes["emb.weight"]
    heads, head_size = shapes.get("blocks.0.att.r_k", [1, width])
    rank = lambda letter: shapes.get(f"blocks.1.att.{letter}1", [0, 0])[1]
    config = {
        "version": version, "vocab": vocab, "width": width, "layers": 1 + max(int(n.split(".")[1]) for n in shapes if n.startswith("blocks")),
        "heads": heads, "head_size": head_size, "ffn": shapes["blocks.0.ffn.key.weight"][0],
        "ranks": {"mix": 0, "decay": rank("w"), "a": rank("a"), "v": rank("v"), "g": rank("g")},
        "layer_norm_eps": 1e-5, "group_norm_eps": 64e-5,
    }
    description = {
        "version": 2, "config": config, "recipe": storage, "fingerprint": "0" * 64, "dtype": "bf16", "tokenizer": "byte",
        "chat_template": None, "matrices": matrices,
    }
    header["__metadata__"] = {"anser": json.dumps(description)}
    text = json.dumps(header)
    text += " " * (-(8 + len(text)) % 64)
    return struct.pack("<Q", len(text)) + text.encode()


def state():
    """A state of one layer, as the program writes it."""
    slots, header, end, values = [], {}, 0, b""
    for name, shape, orientation in (("att_shift", [4], "vector"), ("wkv", [2, 2, 2], "key_value"), ("ffn_shift", [4], "vector")):
        count = shape[0] if len(shape) == 1 else 8
        name = f"layers.0.{name}"
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + 4 * count]}
        slots.append({"name": name, "kind": "fixed", "orientation": orientation})
        values += struct.pack(f"<{count}f", *range(count))
        end += 4 * count
    header["__metadata__"] = {
        "format": "anser-state", "format_version": "1", "architecture": "rwkv7", "fingerprint": "0" * 64, "tokens": "3",
        "last_tokens": "[1,2,3]", "created_by": "seed", "checksum": hashlib.sha256(values).hexdigest(),
        "slots": json.dumps(slots),
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def main():
    for path in (GOLDEN / "gguf").glob("*.gguf"):
        seed("gguf", path.name, gguf_header(path.read_bytes()))
    for path in [*(GOLDEN / "hf").glob("*/*.safetensors"), *(GOLDEN / "lm").glob("infer_*.safetensors")]:
        data = path.read_bytes()
        length = struct.unpack_from("<Q", data)[0]
        seed("safetensors", f"{path.parent.name}_{path.name}", data[:8 + length])
    for name, version in (("infer_v4", "4"), ("infer_v7", "7")):
        for storage in ("int8", "int4"):
            seed("packed", f"{name}_{storage}", packed(GOLDEN / f"lm/{name}.safetensors", version, storage))
    for path in (GOLDEN / "lm").rglob("*.pth"):
        data = path.read_bytes()
        if len(data) < 100_000:
            seed("pth", path.name, data)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                (pickle,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
                seed("pickle", path.name, archive.read(pickle))
    sharded = GOLDEN / "hf/native_v7_sharded"
    seed("folder", "index", b"\0" + (sharded / "model.safetensors.index.json").read_bytes())
    for path in (GOLDEN / "hf").glob("*/config.json"):
        seed("folder", path.parent.name, b"\1" + path.read_bytes())
    seed("folder", "tokenizer_config", b'\2{"chat_template": "{{ messages[0].content }}", "eos_token": "</s>"}')
    seed("state", "v7", state())
    for path in (GOLDEN / "tokenizer").glob("tiny*.json"):
        seed("tokenizer", path.name, path.read_bytes())
    seed("tokenizer", "vocabulary.txt", b"1 '\\x00' 1\n2 'a' 1\n3 b'\\xe4\\xb8' 2\n4 ' a b' 4\n5 \"don't\" 5\n")
    cases = json.loads((GOLDEN / "lm/tokenizer_world.json").read_text())
    for i, case in enumerate(cases["cases"] if isinstance(cases, dict) else cases):
        data = bytes.fromhex(case["hex"])
        seed("world", str(i), data)
    for path in (GOLDEN / "chat").glob("*.jinja"):
        seed("chat", path.name, path.read_bytes() + b"\n===\nHello\n\nUser: there")
    example = (HERE / "../examples/load.csv").read_bytes().splitlines(keepends=True)
    seed("table", "load", b"".join(example[:40]))
    seed("table", "semicolons", b"Zeit;T (\xb0C)\n01.02.2026 00:00;1,5\n01.02.2026 01:00;-9999\n01.02.2026 02:00;2,5\n")
    seed("stop", "defaults", b"Hello\n\nUser: there")
    seed("stop", "several", b"abab\nba\nEnd\n\nxabaabab and the End")


main()
