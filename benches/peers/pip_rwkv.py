#!/usr/bin/env python3
"""Speed of the PyPI package `rwkv` on the CPU, printed as a line of JSON.

    pip_rwkv.py MODEL.pth STRATEGY THREADS PREFILL DECODE
"""

import json
import os
import sys
import time

path, strategy, threads, prefill, decode = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
os.environ.update(RWKV_V7_ON="1", RWKV_JIT_ON="1", RWKV_CUDA_ON="0")

import torch  # noqa: E402

torch.set_num_threads(threads)
from rwkv.model import RWKV  # noqa: E402

model = RWKV(model=path.removesuffix(".pth"), strategy=strategy)
prompt = [1 + i * 7919 % 60000 for i in range(prefill)]
speed = {}
for _ in range(2):  # the first pass only lets torch's compiler settle
    start = time.perf_counter()
    logits, state = model.forward(prompt, None)
    speed["prefill_tok_s"] = prefill / (time.perf_counter() - start)
    start = time.perf_counter()
    for _ in range(decode):
        logits, state = model.forward([int(logits.argmax())], state)
    speed["decode_tok_s"] = decode / (time.perf_counter() - start)
print("\n" + json.dumps(speed))
