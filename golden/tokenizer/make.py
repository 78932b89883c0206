"""Writes two small Hugging Face tokenizers and the ids the Python package gives for some texts.

    python -m venv venv && venv/bin/pip install tokenizers==0.23.3
    venv/bin/python golden/tokenizer/make.py

tiny_bpe.json: byte-level BPE as in GPT-NeoX and Qwen, with special and added tokens.
tiny_fallback.json: BPE with a sign for the space and <0x00>..<0xFF> for the bytes it has no token for, as in Llama.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent

TEXT = [
    "A goose walks to the river and the other geese follow the goose along the river bank.",
    "The state of a recurrent network has one size however long the text grows.",
    "Ask the goose a question, and the goose will answer the question in its own words.",
    "大雁向南飞,一会儿排成一个人字,一会儿排成一个一字。大雁飞过河,河边的人看大雁。",
    "Die Gans geht an den Fluss, und die anderen Gänse folgen der Gans über den Fluss.",
    "def scan(state, tokens):\n    for token in tokens:\n        state = step(state, token)\n    return state\n",
] * 4

CASES = [
    "",
    "a",
    " ",
    "\n\n",
    "The goose follows the river.",
    "the   other    geese\t\r\n",
    "大雁飞过河。鹅!",
    "Gänse über Füße, naïve café",
    "😀👨‍👩‍👧 and 🦢",
    "User: What is a goose?\n\nAssistant:",
    "<|endoftext|>The end<|endoftext|>",
    "tool <|call|> here",
    "x = step(state, 3.14159)  # π\n",
    "\u0000\u007f\u00ad\ufeff\U0010ffff",
    "مرحبا שלום हिन्दी ไทย",
]


def write(name, tokenizer):
    tokenizer.save(str(HERE / f"{name}.json"), pretty=False)
    cases = []
    for text in CASES:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({"text": text, "ids": ids, "decoded": tokenizer.decode(ids, skip_special_tokens=False)})
    path = HERE / f"{name}_cases.json"
    path.write_text(json.dumps(cases, ensure_ascii=True, indent=0) + "\n")
    print(name, (HERE / f"{name}.json").stat().st_size, "bytes", tokenizer.get_vocab_size(), "tokens")


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_tokens([AddedToken("<|call|>", special=False), AddedToken("   ", normalized=False)])
    write("tiny_bpe", tokenizer)


def fallback():
    pieces = Tokenizer(models.BPE())
    pieces.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(vocab_size=260, show_progress=False)
    pieces.train_from_iterator(TEXT, trainer)
    learned = json.loads(pieces.to_str())["model"]

    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for token in sorted(learned["vocab"], key=learned["vocab"].get):
        vocab.setdefault(token, len(vocab))
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    write("tiny_fallback", tokenizer)


byte_level()
fallback()
