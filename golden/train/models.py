"""RWKV-4, 5.2, 6 and 7 in plain torch: one sequence, the recurrence as a loop over tokens, any float type.

A model is its official names with tensors. A state is one dictionary a layer: `att_x` and `ffn_x` [C], the LayerNorm
outputs of the token before, and `wkv`: [H, N, N] as [key, value] for every version with a matrix state (official files
of version 7 hold [value, key]), the rows aa, bb, pp of [3, C] for version 4.
"""

import torch
from torch.nn.functional import group_norm, layer_norm

GROUP_NORM_EPS = 64e-5


def layers(w):
    return 1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))


def zero_state(w, version, head_size):
    width = w["emb.weight"].shape[1]
    like = w["emb.weight"]
    state = []
    for _ in range(layers(w)):
        if version == "4":
            wkv = like.new_zeros(3, width)
            wkv[2] = -1e38
        else:
            wkv = like.new_zeros(width // head_size, head_size, head_size)
        state.append({"att_x": like.new_zeros(width), "wkv": wkv, "ffn_x": like.new_zeros(width)})
    return state


def norm(w, name, x):
    return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def before(x, first):
    """The previous token's rows; `first` stands before the first."""
    return torch.cat([first[None], x[:-1]])


def forward(w, version, head_size, tokens, state):
    """Logits [T, V] and the state after the last token."""
    x = norm(w, "blocks.0.ln0", w["emb.weight"][tokens])
    after, shared = [], {}
    for i, old in enumerate(state):
        block = f"blocks.{i}"
        p = {name.removeprefix(f"{block}.att."): t for name, t in w.items() if name.startswith(f"{block}.att.")}
        normed = norm(w, f"{block}.ln1", x)
        out, wkv = TIME_MIX[version](p, i, head_size, normed, before(normed, old["att_x"]), old["wkv"], shared)
        x = x + out
        p = {name.removeprefix(f"{block}.ffn."): t for name, t in w.items() if name.startswith(f"{block}.ffn.")}
        normed_ffn = norm(w, f"{block}.ln2", x)
        x = x + channel_mix(p, version, normed_ffn, before(normed_ffn, old["ffn_x"]))
        after.append({"att_x": normed[-1], "wkv": wkv, "ffn_x": normed_ffn[-1]})
    return norm(w, "ln_out", x) @ w["head.weight"].T, after


def channel_mix(p, version, x, last):
    if version == "7":
        key = torch.relu((x + (last - x) * p["x_k"].flatten()) @ p["key.weight"].T) ** 2
        return key @ p["value.weight"].T
    if version == "6":
        xk, xr = (x + (last - x) * p[f"time_maa_{j}"].flatten() for j in "kr")
    else:
        xk, xr = (last + (x - last) * p[f"time_mix_{j}"].flatten() for j in "kr")
    key = torch.relu(xk @ p["key.weight"].T) ** 2
    return torch.sigmoid(xr @ p["receptance.weight"].T) * (key @ p["value.weight"].T)


def time_mix_4(p, _layer, _head_size, x, last, wkv, _shared):
    xk, xv, xr = (last + (x - last) * p[f"time_mix_{j}"].flatten() for j in "kvr")
    k, v = xk @ p["key.weight"].T, xv @ p["value.weight"].T
    w, u = -torch.exp(p["time_decay"]), p["time_first"]
    aa, bb, pp = wkv
    rows = []
    for t in range(len(x)):
        q = torch.maximum(pp, u + k[t])
        e1, e2 = torch.exp(pp - q), torch.exp(u + k[t] - q)
        rows.append((e1 * aa + e2 * v[t]) / (e1 * bb + e2))
        q = torch.maximum(pp + w, k[t])
        e1, e2 = torch.exp(pp + w - q), torch.exp(k[t] - q)
        aa, bb, pp = e1 * aa + e2 * v[t], e1 * bb + e2, q
    y = torch.sigmoid(xr @ p["receptance.weight"].T) * torch.stack(rows)
    return y @ p["output.weight"].T, torch.stack([aa, bb, pp])


def bonus_recurrence(r, k, v, decay, bonus, state):
    """Versions 5.2 and 6: r, k, v, decay [T, H, N], bonus [H, N]."""
    rows = []
    for t in range(len(r)):
        outer = k[t, :, :, None] * v[t, :, None, :]
        rows.append(torch.einsum("hk,hkv->hv", r[t], bonus[:, :, None] * outer + state))
        state = decay[t, :, :, None] * state + outer
    return torch.stack(rows), state


def head_norm(p, y, heads):
    return group_norm(y.reshape(len(y), -1), heads, p["ln_x.weight"], p["ln_x.bias"], GROUP_NORM_EPS)


def time_mix_52(p, _layer, head_size, x, last, wkv, _shared):
    xr, xk, xv, xg = (last + (x - last) * p[f"time_mix_{j}"].flatten() for j in "rkvg")
    split = (len(x), -1, head_size)
    r, k, v = ((z @ p[f"{name}.weight"].T).reshape(split) for z, name in
               ((xr, "receptance"), (xk, "key"), (xv, "value")))
    decay = torch.exp(-torch.exp(p["time_decay"])).expand(len(x), -1, -1)
    y, wkv = bonus_recurrence(r, k, v, decay, p["time_faaaa"], wkv)
    gate = torch.nn.functional.silu(xg @ p["gate.weight"].T)
    return (head_norm(p, y, r.shape[1]) * gate) @ p["output.weight"].T, wkv


def time_mix_6(p, _layer, head_size, x, last, wkv, _shared):
    d = last - x
    mixed = torch.tanh((x + d * p["time_maa_x"].flatten()) @ p["time_maa_w1"]).reshape(len(x), 5, -1)
    xw, xk, xv, xr, xg = (x + d * (p[f"time_maa_{j}"].flatten() + mixed[:, n] @ p["time_maa_w2"][n])
                          for n, j in enumerate("wkvrg"))
    split = (len(x), -1, head_size)
    r, k, v = ((z @ p[f"{name}.weight"].T).reshape(split) for z, name in
               ((xr, "receptance"), (xk, "key"), (xv, "value")))
    raw = p["time_decay"].flatten() + torch.tanh(xw @ p["time_decay_w1"]) @ p["time_decay_w2"]
    y, wkv = bonus_recurrence(r, k, v, torch.exp(-torch.exp(raw)).reshape(split), p["time_faaaa"], wkv)
    gate = torch.nn.functional.silu(xg @ p["gate.weight"].T)
    return (head_norm(p, y, r.shape[1]) * gate) @ p["output.weight"].T, wkv


def time_mix_7(p, layer, head_size, x, last, wkv, shared):
    d = last - x
    xr, xw, xk, xv, xa, xg = (x + d * p[f"x_{j}"].flatten() for j in "rwkvag")
    split = (len(x), -1, head_size)
    r, k, v = xr @ p["receptance.weight"].T, xk @ p["key.weight"].T, xv @ p["value.weight"].T
    raw = p["w0"].flatten() + torch.tanh(xw @ p["w1"]) @ p["w2"]
    decay = torch.exp(-torch.sigmoid(raw) * torch.tensor(-0.5, dtype=x.dtype).exp()).reshape(split)
    a = torch.sigmoid(p["a0"].flatten() + (xa @ p["a1"]) @ p["a2"])
    gate = torch.sigmoid(xg @ p["g1"]) @ p["g2"]
    kk = torch.nn.functional.normalize((k * p["k_k"].flatten()).reshape(split), dim=-1, eps=1e-12)
    k = k * (1 + (a - 1) * p["k_a"].flatten())
    if layer == 0:
        shared["v"] = v
    else:
        v = v + (shared["v"] - v) * torch.sigmoid(p["v0"].flatten() + (xv @ p["v1"]) @ p["v2"])
    r, k, v, a = (z.reshape(split) for z in (r, k, v, a))
    rows = []
    for t in range(len(x)):
        removed = torch.einsum("hk,hkv->hv", -kk[t], wkv)
        wkv = (decay[t, :, :, None] * wkv + (kk[t] * a[t])[:, :, None] * removed[:, None, :]
               + k[t, :, :, None] * v[t, :, None, :])
        rows.append(torch.einsum("hk,hkv->hv", r[t], wkv))
    y = head_norm(p, torch.stack(rows), r.shape[1])
    y = y + ((r * k * p["r_k"]).sum(-1, keepdim=True) * v).reshape(len(x), -1)
    return (y * gate) @ p["output.weight"].T, wkv


TIME_MIX = {"4": time_mix_4, "5.2": time_mix_52, "6": time_mix_6, "7": time_mix_7}
