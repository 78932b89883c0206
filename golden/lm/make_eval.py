"""Writes the evaluation files eval_*.jsonl, eval_text.txt and their expected scores eval_tiny.json.

The scores are those of infer_v7's weights under the PyPI package `rwkv`; README.md says how each is computed. A random
model is right by chance only, so the rows are searched for: a few are made to be answered correctly.
"""

import json
import math
import random

import torch

from reference import LM, Reference, weights

WORDS = ("river stone lamp winter paper green slow open tall garden bread silver cloud late quiet road house seven "
         "music letter field early boat child answer north glass morning").split()


class Scorer:
    def __init__(self):
        self.reference = Reference(weights("infer_v7"))

    def logprobs(self, tokens, state=None):
        logits, state = self.reference.forward(tokens, state)
        return torch.log_softmax(logits, -1), state

    def score(self, context, candidate):
        """Sum of log p over the candidate's bytes, and whether each of them was the argmax."""
        src, dst = [0] + list(context.encode()), list(candidate.encode())
        rows = self.logprobs(src + dst)[0][len(src) - 1:-1]
        total = sum(rows[i, token].double().item() for i, token in enumerate(dst))
        return total, all(rows[i].argmax().item() == token for i, token in enumerate(dst)), margin(rows)


def margin(rows):
    """Smallest distance between the best and the second token: how far a verdict is from tipping over."""
    top = rows.topk(2, -1).values
    return (top[:, 0] - top[:, 1]).min().item()


def sentence(rng, words):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def mean_and_stderr(values):
    n = len(values)
    mean = sum(values) / n
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n)


def accuracy(entry, key, rights):
    entry[key], entry[f"{key}_stderr"] = mean_and_stderr([float(r) for r in rights])


def lambada(scorer, rng):
    # Ordinary rows: the last word is simply the last word. Some hold other scripts, line breaks, double spaces.
    texts = [sentence(rng, rng.randint(3, 14)) for _ in range(10)]
    texts += ["The bird sang, \"Go home.\"\n\nNobody  moved", "Die Straße führt über die Brücke nach Köln",
              "\u5927\u96c1 \u98de\u8fc7 \u957f\u6c5f", "a b", " lead", "tail "]
    # Rows the model gets right: in random text, places where the space and what follows it are what it would write.
    right = 0
    while right < 6:
        text = sentence(rng, 12)
        rows = scorer.logprobs([0] + list(text.encode()))[0]
        for end in (rows.argmax(-1) == ord(" ")).nonzero().flatten().tolist():
            context = text[:end]
            if not context or right == 6:
                continue
            following = scorer.logprobs([0] + list(context.encode()) + [ord(" ")])[0][-1].argmax().item()
            if 33 <= following < 127:
                candidate = f"{context} {chr(following)}"
                total, greedy, gap = scorer.score(context, " " + chr(following))
                if greedy and gap > 1e-2:
                    texts.append(candidate)
                    right += 1
    rng.shuffle(texts)
    rows = []
    for text in texts:
        context, word = text.rsplit(" ", 1)
        total, greedy, gap = scorer.score(context, " " + word)
        assert gap > 1e-4, text
        rows.append({"logprob": total, "right": greedy})
    out = {"file": "eval_lambada.jsonl", "rows": len(rows)}
    accuracy(out, "accuracy", [r["right"] for r in rows])
    mean, error = mean_and_stderr([r["logprob"] for r in rows])
    out["mean_logprob"], out["perplexity"] = mean, math.exp(-mean)
    out["perplexity_stderr"] = math.exp(-mean) * error
    out["per_row"] = rows
    return [{"text": t} for t in texts], out


def choose(scorer, context, candidates, answer):
    scores = [scorer.score(context, c)[0] for c in candidates]
    per_byte = [s / len(c.encode()) for s, c in zip(scores, candidates)]
    for values in (scores, per_byte):
        ranked = sorted(values, reverse=True)
        assert ranked[0] - ranked[1] > 1e-3, context
    best, best_norm = scores.index(max(scores)), per_byte.index(max(per_byte))
    return {"logprobs": scores, "choice": best, "choice_norm": best_norm, "right": best == answer,
            "right_norm": best_norm == answer}


def mcq_context(row):
    if "prompt" in row:
        return row["prompt"]
    subject = row.get("subject")
    first = "User: " + (f"You are a very talented expert in {subject.replace('_', ' ')}. " if subject else "")
    lines = [first + "Answer this question:", row["question"]]
    lines += [f"{chr(65 + i)}. {c}" for i, c in enumerate(row["choices"])]
    return ("\n".join(lines) + "\n\nAssistant: The answer is").replace("\r\n", "\n").strip()


def mcq(scorer, rng, file, prompts):
    rows, results = [], []
    for i in range(12):
        count = [4, 4, 2, 5, 3][i % 5]
        choices = [sentence(rng, rng.randint(1, 4)) for _ in range(count)]
        if prompts:
            row = {"prompt": sentence(rng, 8), "choices": [" " + c for c in choices], "answer": rng.randrange(count)}
        else:
            row = {"question": sentence(rng, 9) + ("\r\n(a) b?" if i == 3 else "?"), "subject": "abstract_algebra",
                   "choices": choices, "answer": rng.randrange(count)}
            if i % 3 == 2:
                del row["subject"]
        candidates = row["choices"] if prompts else [f" {chr(65 + k)}" for k in range(count)]
        results.append(choose(scorer, mcq_context(row), candidates, row["answer"]))
        rows.append(row)
    out = {"file": file, "rows": len(rows)}
    accuracy(out, "accuracy", [r["right"] for r in results])
    accuracy(out, "accuracy_norm", [r["right_norm"] for r in results])
    out["per_row"] = results
    return rows, out


def classify(scorer, rng):
    labels, prompt = ["sad", "glad", "neither of the two"], "Review: {text}\nMood:"
    rows, results = [{"labels": labels, "prompt": prompt}], []
    for i in range(14):
        label = rng.randrange(len(labels))
        row = {"text": sentence(rng, rng.randint(2, 12)), "label": label if i % 2 else labels[label]}
        candidates = [" " + name for name in labels]
        results.append(choose(scorer, prompt.replace("{text}", row["text"], 1), candidates, label))
        rows.append(row)
    out = {"file": "eval_classify.jsonl", "rows": len(results)}
    accuracy(out, "accuracy", [r["right"] for r in results])
    accuracy(out, "accuracy_norm", [r["right_norm"] for r in results])
    out["per_row"] = results
    return rows, out


def perplexity(scorer, rng):
    text = "\ufeffGeese fly north. \u5927\u96c1\u98de\u8fc7\u3002\r\n".encode()
    while len(text) < 2046:
        text += (sentence(rng, rng.randint(4, 11)).capitalize() + rng.choice([".\n", "! ", "? ", ".\n\n"])).encode()
    text = text[:2046] + b"\n\n"

    def one_pass(tokens, chunk):
        rows, state = [], None
        for start in range(0, len(tokens), chunk):
            part, state = scorer.logprobs(tokens[start:start + chunk], state)
            rows.append(part)
        rows = torch.cat(rows)
        return [rows[i, token].double().item() for i, token in enumerate(tokens[1:])]

    def summary(values):
        nats = -sum(values) / len(values)
        return {"tokens": len(values), "nats_per_token": nats, "perplexity": math.exp(nats),
                "bits_per_byte": nats / math.log(2)}

    values = one_pass(list(text), 256)
    odd = one_pass(list(text), 100)
    out = {"file": "eval_text.txt", **summary(values)}
    out["bos"] = summary(one_pass([0] + list(text), 256))
    out["logprobs_at"] = {str(i): values[i - 1] for i in
                          [1, 2, 255, 256, 257, 511, 512, 513, 767, 768, 1023, 1024, 1025, 2046, 2047]}
    out["max_diff_chunk_256_vs_100"] = max(abs(a - b) for a, b in zip(values, odd))
    return text, out


def main():
    scorer, rng = Scorer(), random.Random(20)
    expected = {"model": "infer_v7", "tokenizer": "byte", "source": "rwkv==0.8.32 (cpu fp32)"}

    def lines(name, rows):
        (LM / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8",
                               newline="\n")

    rows, expected["lambada"] = lambada(scorer, rng)
    lines("eval_lambada.jsonl", rows)
    rows, expected["mcq"] = mcq(scorer, rng, "eval_mcq.jsonl", prompts=False)
    lines("eval_mcq.jsonl", rows)
    rows, expected["mcq_prompt"] = mcq(scorer, rng, "eval_mcq_prompt.jsonl", prompts=True)
    lines("eval_mcq_prompt.jsonl", rows)
    rows, expected["classify"] = classify(scorer, rng)
    lines("eval_classify.jsonl", rows)
    text, expected["perplexity"] = perplexity(scorer, rng)
    (LM / "eval_text.txt").write_bytes(text)
    (LM / "eval_tiny.json").write_text(json.dumps(expected, indent=1) + "\n")
    for task, entry in expected.items():
        if isinstance(entry, dict):
            print(task, {k: v for k, v in entry.items() if k not in ("per_row", "logprobs_at")})


if __name__ == "__main__":
    main()
