//! Differentiable models of the RWKV family, on Burn.
