"""Writes steps_v*.safetensors (three optimiser steps) and states_v*.safetensors (gradients through states).

Everything is computed in f64 and stored as f32. The models (models.py) are first held against golden/lm/train_v*:
logits, loss and every gradient, with and without L2Wrap. Then the same steps are run once more in f32, which shows
what a good f32 implementation can reach.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from models import forward, zero_state

HERE = Path(__file__).resolve().parent
LM = HERE.parent / "lm"
FILES = {"4": "v4", "5.2": "v52", "6": "v6", "7": "v7"}
STEPS, LR, DECAY, CLIP, L2WRAP, BETAS = 3, 1e-3, 0.1, 1.0, 1e-4, (0.9, 0.99)
EPS = {"4": 1e-8, "5.2": 1e-18, "6": 1e-18, "7": 1e-18}
# Written by trainers, used by nothing: no gradient.
UNUSED = {f"blocks.0.att.v{n}" for n in "012"}
# What is kept of the gradients through states: one of each kind, first layer, and what sits nearest to the state.
KEPT = {
    "6": ["emb.weight", "blocks.0.att.time_decay", "blocks.0.att.time_faaaa", "blocks.0.att.time_decay_w1",
          "blocks.0.att.key.weight", "blocks.1.att.time_maa_x", "blocks.1.att.ln_x.weight", "blocks.1.ffn.time_maa_k"],
    "7": ["emb.weight", "blocks.0.att.w0", "blocks.0.att.w1", "blocks.0.att.a0", "blocks.0.att.k_k", "blocks.0.att.k_a",
          "blocks.0.att.key.weight", "blocks.1.att.v0", "blocks.1.att.x_k", "blocks.1.att.r_k", "blocks.1.ffn.x_k"],
}


def read(version):
    with safe_open(LM / f"train_{FILES[version]}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, int(file.metadata()["head_size"])


def parameters(golden, dtype):
    results = ("in.", "out.", "grad.", "grad_no_l2wrap.")
    return {name: t.to(dtype).requires_grad_() for name, t in golden.items() if not name.startswith(results)}


def cross_entropy(logits, targets, l2wrap):
    """The reported loss, and the loss whose gradient is taken: half the square of each row's largest logit, times the
    factor, has the gradient that L2Wrap adds."""
    loss = torch.nn.functional.cross_entropy(logits, targets)
    wrap = 0.5 * L2WRAP / len(targets) * (logits.max(-1).values ** 2).sum()
    return loss, loss + wrap if l2wrap else loss


def compute(golden, head_size, version, w, l2wrap=True):
    tokens, targets = golden["in.tokens"].long(), golden["in.targets"].long()
    logits, _ = forward(w, version, head_size, tokens, zero_state(w, version, head_size))
    loss, total = cross_entropy(logits, targets, l2wrap)
    return logits, loss, total


def relative(got, expected):
    return ((got - expected).abs().max() / expected.abs().max()).item()


def prove(golden, head_size, version):
    """The model against golden/lm, to 1e-5."""
    w = parameters(golden, torch.float64)
    logits, loss, total = compute(golden, head_size, version, w)
    total.backward()
    worst = max((relative(w[name.removeprefix("grad.")].grad, t.double()), name)
                for name, t in golden.items() if name.startswith("grad."))
    loss_error = abs(loss.item() - golden["out.loss"].item())
    logits_error = (logits - golden["out.logits"].double()).abs().max().item()
    w = parameters(golden, torch.float64)
    compute(golden, head_size, version, w, l2wrap=False)[2].backward()
    plain = max((relative(w[name.removeprefix("grad_no_l2wrap.")].grad, t.double()), name)
                for name, t in golden.items() if name.startswith("grad_no_l2wrap."))
    print(f"{version}: loss {loss_error:.1e}, logits {logits_error:.1e}, gradients {worst}, without L2Wrap {plain}")
    assert loss_error < 1e-5 and logits_error < 3e-5 and worst[0] < 1e-5 and plain[0] < 1e-5


def group(version, name, t):
    """(learning rate's factor, weight decay) of a parameter."""
    factor = 1.0
    if version == "7":
        factor = 2.0 if name.endswith("att.w0") else 1.0
    elif name.endswith("att.time_decay"):
        factor = 2.0
    elif name.endswith("att.time_first"):
        factor = 3.0
    decayed = name.endswith(".weight") and t.squeeze().dim() >= 2
    return factor, DECAY if decayed else 0.0


def train(golden, head_size, version, dtype):
    """The weights after each step, losses and gradient norms before each step, and every step's gradients."""
    w = parameters(golden, dtype)
    groups = {}
    for name, t in w.items():
        if name not in UNUSED or version != "7":
            groups.setdefault(group(version, name, t), []).append(t)
    optimiser = torch.optim.AdamW(
        [{"params": tensors, "lr": LR * factor, "weight_decay": decay} for (factor, decay), tensors in groups.items()],
        betas=BETAS, eps=EPS[version], foreach=False)
    trained = [t for tensors in groups.values() for t in tensors]
    losses, norms, gradients = [], [], []
    for _ in range(STEPS):
        optimiser.zero_grad()
        _, loss, total = compute(golden, head_size, version, w)
        total.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(trained, CLIP).item())
        gradients.append({name: t.grad.clone() for name, t in w.items() if t.grad is not None})
        optimiser.step()
    return {name: t.detach() for name, t in w.items() if t.grad is not None}, losses, norms, gradients


def steps(version):
    golden, head_size = read(version)
    prove(golden, head_size, version)
    after, losses, norms, gradients = train(golden, head_size, version, torch.float64)
    near, near_losses, near_norms, near_gradients = train(golden, head_size, version, torch.float32)
    # What rounding to f32 does: in units of the learning rate.
    difference = {name: (near[name].double() - t).abs() / LR for name, t in after.items()}
    every = torch.cat([d.flatten() for d in difference.values()])
    print(f"  losses {losses}, norms {norms}")
    print(f"  f32: loss {max(abs(a - b) for a, b in zip(losses, near_losses)):.1e}, norm "
          f"{max(abs(a - b) / b for a, b in zip(near_norms, norms)):.1e}; weights, in learning rates: "
          f"largest {every.max():.3g}, above 0.1: {int((every > 0.1).sum())}, above 0.01: {int((every > 0.01).sum())}, "
          f"above 1e-3: {int((every > 1e-3).sum())} of {len(every)}, mean {every.mean():.1e}")
    worst = sorted(((d.max().item(), name) for name, d in difference.items()), reverse=True)[:5]
    print("  worst", [(f"{value:.2g}", name) for value, name in worst])
    weak = [(f"{g.abs().max():.1e}", name) for name, g in gradients[0].items() if g.abs().max() < 1e-6]
    zero = {name: int((g == 0).sum()) for name, g in gradients[0].items() if (g == 0).any()}
    print("  gradients below 1e-6:", weak, "elements exactly 0:", zero)
    stored = {f"after.{name}": t.float().contiguous() for name, t in after.items()}
    stored["out.loss"] = torch.tensor(losses, dtype=torch.float32)
    stored["out.grad_norm"] = torch.tensor(norms, dtype=torch.float32)
    save_file(stored, HERE / f"steps_{FILES[version]}.safetensors", {
        "version": version, "head_size": str(head_size), "start": f"lm/train_{FILES[version]}", "steps": str(STEPS),
        "lr": str(LR), "betas": "0.9,0.99", "eps": str(EPS[version]), "weight_decay": str(DECAY), "clip": str(CLIP),
        "l2wrap": str(L2WRAP), "source": "golden/train/make_train.py, torch f64",
    })


def states(version):
    golden, head_size = read(version)
    w = parameters(golden, torch.float64)
    generator = torch.Generator().manual_seed(7)

    def random(shape):
        return (0.5 * torch.randn(shape, generator=generator)).float().double()

    state = [{name: random(t.shape).requires_grad_() for name, t in layer.items()}
             for layer in zero_state(w, version, head_size)]
    weights = [{name: random(t.shape) for name, t in layer.items()} for layer in state]
    logits, after = forward(w, version, head_size, golden["in.tokens"].long(), state)
    loss, _ = cross_entropy(logits, golden["in.targets"].long(), l2wrap=False)
    total = loss + sum((layer[name] * g[name]).sum() for layer, g in zip(after, weights) for name in layer)
    total.backward()
    stored = {"out.loss": loss.detach(), "out.total": total.detach(), "out.logits_last": logits[-1].detach()}
    for i, layer in enumerate(state):
        for name, t in layer.items():
            stored[f"in.state.{i}.{name}"] = t.detach()
            stored[f"in.state_grad.{i}.{name}"] = weights[i][name]
            stored[f"out.state.{i}.{name}"] = after[i][name].detach()
            stored[f"grad.in.state.{i}.{name}"] = t.grad
    for name in KEPT[version]:
        stored[f"grad.{name}"] = w[name].grad
    save_file({name: t.float().reshape(t.shape or (1,)).contiguous() for name, t in stored.items()},
              HERE / f"states_{FILES[version]}.safetensors", {
        "version": version, "head_size": str(head_size), "weights": f"lm/train_{FILES[version]}",
        "wkv": "[H, key, value]", "l2wrap": "0", "source": "golden/train/make_train.py, torch f64",
    })
    differences(version, golden, head_size, w, state, weights)


def differences(version, golden, head_size, w, state, weights):
    """The gradient of the initial state against a finite difference along a random direction."""
    generator = torch.Generator().manual_seed(8)
    direction = [{name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in layer.items()}
                 for layer in state]

    def value(step):
        moved = [{name: t + step * d[name] for name, t in layer.items()} for layer, d in zip(state, direction)]
        with torch.no_grad():
            logits, after = forward(w, version, head_size, golden["in.tokens"].long(), moved)
            loss, _ = cross_entropy(logits, golden["in.targets"].long(), l2wrap=False)
            return loss + sum((layer[name] * g[name]).sum() for layer, g in zip(after, weights) for name in layer)

    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    exact = sum((t.grad * d[name]).sum() for layer, d in zip(state, direction) for name, t in layer.items())
    print(f"{version}: gradient of the state against finite differences {abs(slope - exact) / abs(exact):.1e}")
    assert abs(slope - exact) < 1e-6 * abs(exact)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for version in FILES:
        steps(version)
    for version in ("6", "7"):
        states(version)
