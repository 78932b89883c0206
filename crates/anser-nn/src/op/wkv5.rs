//! RWKV-5.2's time mix between its matrices: recurrence, norm over heads, gate.
//!
//! That of [`wkv6`](super::wkv6) with a decay that is a parameter instead of an input: `exp(-exp(time_decay))`.

use std::sync::Arc;

use anser_kernels::recurrence::{Heads, Parameter, wkv5 as kernel};
use anser_kernels::simd::level;
use burn::tensor::Tensor;

use super::rows::{buffer, per_sequence};
use super::wkv6::{Finish, Wkv6, decays, decays_backward, wkv6_composite};
use super::{Array, Gradient, Inputs, Operation};
use crate::threads::pool;

/// What the recurrence reads, each [T, C] unless said otherwise.
#[derive(Clone, Debug)]
pub struct Wkv5<'a> {
    /// Receptance.
    pub r: &'a Tensor<2>,
    /// Key.
    pub k: &'a Tensor<2>,
    /// Value.
    pub v: &'a Tensor<2>,
    /// The gate before its activation.
    pub g: &'a Tensor<2>,
    /// The decay before its two exponentials, [H, N].
    pub decay: &'a Tensor<2>,
    /// What the current token counts for (`time_faaaa`), [H, N].
    pub bonus: &'a Tensor<2>,
    /// Weight of the norm over heads, `[C]`.
    pub ln_weight: &'a Tensor<1>,
    /// Bias of the norm over heads, `[C]`.
    pub ln_bias: &'a Tensor<1>,
    /// The states before the first tokens, [S, H, key, value].
    pub state: &'a Tensor<4>,
}

/// The gated result [T, C] and the final states [S, H, key, value].
pub fn wkv5(x: &Wkv5<'_>, eps: f32, cu_seqlens: &Arc<[usize]>) -> (Tensor<2>, Tensor<4>) {
    let [heads, head_size] = x.bonus.dims();
    let op = Op { heads: Heads { heads, head_size }, eps, cu_seqlens: Arc::clone(cu_seqlens) };
    let inputs = Inputs::new().with(x.r).with(x.k).with(x.v).with(x.g);
    let inputs = inputs.with(x.decay).with(x.bonus).with(x.ln_weight).with(x.ln_bias).with(x.state);
    let mut outputs = inputs.run(op);
    (outputs.take(), outputs.take())
}

/// [`wkv5`] in tensor operations, one token after the other.
pub fn wkv5_composite(x: &Wkv5<'_>, eps: f32, cu_seqlens: &Arc<[usize]>) -> (Tensor<2>, Tensor<4>) {
    let [rows, width] = x.r.dims();
    let w = x.decay.clone().reshape([1, width]).repeat_dim(0, rows);
    let x = Wkv6 {
        r: x.r,
        w: &w,
        k: x.k,
        v: x.v,
        g: x.g,
        bonus: x.bonus,
        ln_weight: x.ln_weight,
        ln_bias: x.ln_bias,
        state: x.state,
    };
    wkv6_composite(&x, eps, cu_seqlens)
}

#[derive(Debug)]
struct Op {
    heads: Heads,
    eps: f32,
    cu_seqlens: Arc<[usize]>,
}

impl Operation for Op {
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>) {
        let &[r, k, v, g, raw, bonus, weight, bias, state] = inputs else { unreachable!("wkv5 has nine inputs") };
        let (pool, heads, cu) = (pool(), self.heads, &self.cu_seqlens);
        let (width, sequences) = (heads.width(), cu.len() - 1);
        let mut decay = buffer(width);
        decays(level(), raw, &mut decay);
        let (decay, bonus) = (Parameter::PerChannel(&decay[..]), Parameter::PerChannel(bonus));
        let x = kernel::Inputs { r, k, v };
        let (mut state, mut y) = (state.to_vec(), buffer(r.len()));
        let saved = {
            let mut states = per_sequence(&mut state, sequences);
            if saving {
                let mut kept = buffer(kernel::backward::saved_len(heads, cu));
                kernel::backward::scan_saving(&pool, heads, cu, &x, decay, bonus, &mut states, &mut y, &mut kept);
                vec![kept, y.clone()]
            } else {
                kernel::scan(&pool, heads, cu, &x, decay, bonus, &mut states, &mut y);
                Vec::new()
            }
        };
        Finish { heads, eps: self.eps, g, weight, bias }.forward(&pool, &mut y);
        let shape = [sequences, heads.heads, heads.head_size, heads.head_size];
        (vec![Array::new(y, &[r.len() / width, width]), Array::new(state, &shape)], saved)
    }

    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        _: &[bool],
    ) -> Vec<Gradient> {
        let &[r, k, v, g, raw, bonus, weight, bias, state] = inputs else { unreachable!("wkv5 has nine inputs") };
        let [kept, y] = &saved[..] else { unreachable!("wkv5 saves two buffers") };
        let (pool, heads, cu) = (pool(), self.heads, &self.cu_seqlens);
        let (width, sequences) = (heads.width(), cu.len() - 1);
        let nothing = if outputs[0].is_none() { vec![0.0; r.len()] } else { Vec::new() };
        let g_out = outputs[0].unwrap_or(&nothing);
        let finished = Finish { heads, eps: self.eps, g, weight, bias }.backward(&pool, y, g_out);

        let mut decay = buffer(width);
        decays(level(), raw, &mut decay);
        let mut g_state = outputs[1].map_or_else(|| vec![0.0; state.len()], <[f32]>::to_vec);
        let [mut gr, mut gk, mut gv] = std::array::from_fn(|_| buffer(r.len()));
        let (mut g_raw, mut g_bonus) = (buffer(width), buffer(width));
        let mut workspace = buffer(kernel::backward::workspace_len(pool.threads(), heads, sequences));
        kernel::backward::scan(
            &pool,
            heads,
            cu,
            &kernel::Inputs { r, k, v },
            Parameter::PerChannel(&decay),
            Parameter::PerChannel(bonus),
            kept,
            &finished.y,
            &mut per_sequence(&mut g_state, sequences),
            &mut kernel::backward::Gradients {
                r: &mut gr,
                k: &mut gk,
                v: &mut gv,
                decay: &mut g_raw,
                bonus: &mut g_bonus,
            },
            &mut workspace,
        );
        decays_backward(level(), raw, &decay, &mut g_raw);
        let mut gradients: Vec<Gradient> = [gr, gk, gv, finished.g, g_raw, g_bonus].map(Gradient::Values).into();
        gradients.extend([finished.weight, finished.bias, Gradient::Values(g_state)]);
        gradients
    }
}
