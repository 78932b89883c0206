#!/usr/bin/env python3
"""RWKV-7 training steps in eager torch, the recurrence in chunks of 16: what `anser bench --train` is compared with.

    train_torch.py [--threads 2] [--layers 12] [--width 256] [--vocab 4096] [--context 512] [--rows 4] [--steps 3]

Prints a JSON object. The chunk form solves, per chunk, a unit lower-triangular system for the correction (S a) of every
token; `--check` compares it with a loop over tokens.
"""

import argparse
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

CHUNK, HEAD = 16, 64
SLOWEST = 0.6065306597


def loop(r, log_decay, k, v, a, b):
    rows, tokens, heads, n = r.shape
    state = r.new_zeros(rows, heads, n, n)  # [value, key]
    out = []
    for t in range(tokens):
        correction = state @ a[:, t].unsqueeze(-1)
        state = state * log_decay[:, t].exp().unsqueeze(-2) + correction @ b[:, t].unsqueeze(-2)
        state = state + v[:, t].unsqueeze(-1) @ k[:, t].unsqueeze(-2)
        out.append((state @ r[:, t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(out, 1)


def chunked(r, log_decay, k, v, a, b):
    rows, tokens, heads, n = r.shape
    chunks = tokens // CHUNK
    r, log_decay, k, v, a, b = (
        x.view(rows, chunks, CHUNK, heads, n).transpose(2, 3) for x in (r, log_decay, k, v, a, b))
    after = log_decay.cumsum(-2)
    before = after - log_decay
    r_in, a_in = r * after.exp(), a * before.exp()
    k_out, b_out = k * (-after).exp(), b * (-after).exp()
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool).tril()
    strict = lower.tril(-1)
    a_b = (a_in @ b_out.mT).masked_fill(~strict, 0)
    a_k = (a_in @ k_out.mT).masked_fill(~strict, 0)
    r_b = (r_in @ b_out.mT).masked_fill(~lower, 0)
    r_k = (r_in @ k_out.mT).masked_fill(~lower, 0)
    solved = torch.linalg.solve_triangular(
        torch.eye(CHUNK) - a_b, torch.cat([a_k @ v, a_in], -1), upper=False, unitriangular=True)
    own, through = solved[..., :n], solved[..., n:]
    end = after[..., -1:, :]
    k_end, b_end = k * (end - after).exp(), b * (end - after).exp()
    add, turn = v.mT @ k_end + own.mT @ b_end, through.mT @ b_end
    y_own, y_through = r_k @ v + r_b @ own, r_in + r_b @ through
    state = r.new_zeros(rows, heads, n, n)
    out = []
    for chunk in range(chunks):
        out.append(y_own[:, chunk] + y_through[:, chunk] @ state.mT)
        state = state * end[:, chunk].exp() + state @ turn[:, chunk] + add[:, chunk]
    return torch.stack(out, 1).transpose(2, 3).reshape(rows, tokens, heads, n)


class Block(nn.Module):
    def __init__(self, first, width):
        super().__init__()
        self.first, self.heads = first, width // HEAD
        matrix = lambda *shape: nn.Parameter(torch.randn(*shape) * 0.02)
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Parameter(torch.rand(6, width))
        self.w0, self.a0, self.v0 = (nn.Parameter(torch.zeros(width)) for _ in range(3))
        ranks = [max(32, round(f * width ** 0.5 / 32) * 32) for f in (2.5, 2.5, 1.7, 5)]
        self.down = nn.ParameterList(matrix(width, rank) for rank in ranks)
        self.up = nn.ParameterList(matrix(rank, width) for rank in ranks)
        self.k_k, self.k_a = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))
        self.r_k = matrix(self.heads, HEAD)
        self.receptance, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.ln_x = nn.GroupNorm(self.heads, width, eps=64e-5)
        self.ffn_mix = nn.Parameter(torch.rand(width))
        self.ffn_key, self.ffn_value = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x, v_first):
        rows, tokens, width = x.shape
        heads = lambda z: z.view(rows, tokens, self.heads, HEAD)
        low = lambda z, i, inner: inner(z @ self.down[i]) @ self.up[i]
        plain = lambda z: z
        h = self.ln1(x)
        delta = functional.pad(h, (0, 0, 1, -1)) - h
        xr, xw, xk, xv, xa, xg = (h + delta * mix for mix in self.mix)
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)
        log_decay = -SLOWEST * torch.sigmoid(self.w0 + low(xw, 0, torch.tanh))
        rate = torch.sigmoid(self.a0 + low(xa, 1, plain))
        if self.first:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + low(xv, 2, plain))
        gate = low(xg, 3, torch.sigmoid)
        kk = functional.normalize(heads(k * self.k_k), dim=-1)
        k = k * (1 + (rate - 1) * self.k_a)
        y = chunked(heads(r), heads(log_decay), heads(k), heads(v), -kk, kk * heads(rate))
        y = self.ln_x(y.reshape(rows * tokens, width)).view(rows, tokens, width)
        bonus = (heads(r * k) * self.r_k).sum(-1, keepdim=True) * heads(v)
        x = x + self.output((y + bonus.reshape(rows, tokens, width)) * gate)
        h = self.ln2(x)
        h = h + (functional.pad(h, (0, 0, 1, -1)) - h) * self.ffn_mix
        return x + self.ffn_value(torch.relu(self.ffn_key(h)) ** 2), v_first


class Model(nn.Module):
    def __init__(self, o):
        super().__init__()
        self.emb, self.ln0 = nn.Embedding(o.vocab, o.width), nn.LayerNorm(o.width)
        self.blocks = nn.ModuleList(Block(i == 0, o.width) for i in range(o.layers))
        self.ln_out, self.head = nn.LayerNorm(o.width), nn.Linear(o.width, o.vocab, bias=False)

    def forward(self, tokens):
        x, v_first = self.ln0(self.emb(tokens)), None
        for block in self.blocks:
            x, v_first = block(x, v_first)
        return self.head(self.ln_out(x))


def check():
    draw = lambda: torch.randn(2, 64, 2, HEAD)
    kk = functional.normalize(draw(), dim=-1)
    operands = draw(), -SLOWEST * torch.sigmoid(draw()), draw(), draw(), -kk, kk * torch.sigmoid(draw())
    expected = loop(*operands)
    print(json.dumps({"difference": (chunked(*operands) - expected).abs().max().item(), "largest": expected.abs().max().item()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in dict(threads=2, layers=12, width=256, vocab=4096, context=512, rows=4, steps=3).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--check", action="store_true", help="compare the chunk form with the loop")
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    torch.manual_seed(1)
    if o.check:
        return check()
    model = Model(o)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(0, o.vocab, (o.rows, o.context))
    targets = torch.randint(0, o.vocab, (o.rows * o.context,))
    rates = []
    for _ in range(o.steps + 1):
        began = time.perf_counter()
        loss = functional.cross_entropy(model(tokens).view(-1, o.vocab), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        rates.append(o.rows * o.context / (time.perf_counter() - began))
    peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"train_tok_s": statistics.median(rates[1:]), "train_tok_s_max": max(rates[1:]),
                      "peak_rss_bytes": peak, "parameters": parameters, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
