//! The gradient of WKV-5: that of [`wkv6::backward`](super::super::wkv6::backward) with a decay that stays, whose
//! gradient is therefore summed over tokens and sequences.
//!
//! Decay and bonus may be one number a head or one a channel; their gradients are always given a channel, [H, N]. What a
//! head shares has the sum over its channels as its gradient, see [`per_head`].
//!
//! Numerics, order of sums and tests are those of WKV-6.

use super::super::wkv6::backward::{Batch, Rows};
pub use super::super::wkv6::backward::{CHUNK, saved_len, workspace_len};
use super::super::{Heads, Parameter, check};
use super::{Inputs, per_channel};
use crate::pool::{Pool, SharedMut};

/// Where gradients go; all are written, whatever they held.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of `r`, [ΣT, C].
    pub r: &'a mut [T],
    /// Of `k`, [ΣT, C].
    pub k: &'a mut [T],
    /// Of `v`, [ΣT, C].
    pub v: &'a mut [T],
    /// Of the decay factor, [H, N], summed over all tokens.
    pub decay: &'a mut [T],
    /// Of `bonus`, [H, N], summed over all tokens.
    pub bonus: &'a mut [T],
}

impl<T: Copy> Gradients<'_, T> {
    fn check(
        &self,
        heads: Heads,
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        decay: Parameter<'_, T>,
        bonus: Parameter<'_, T>,
        state_grads: &[&mut [T]],
        y_grad: &[T],
    ) {
        x.check(heads, cu_seqlens, decay, bonus, state_grads, y_grad);
        let packed = [
            ("the gradient of r", self.r.len()),
            ("the gradient of k", self.k.len()),
            ("the gradient of v", self.v.len()),
        ];
        check("wkv5 backward", heads.width(), cu_seqlens, &packed, state_grads, heads.state_len());
        for (name, got) in [("decay", self.decay.len()), ("bonus", self.bonus.len())] {
            let want = heads.width();
            assert!(got == want, "wkv5 backward: the gradient of {name} has {got} elements instead of {want}");
        }
    }
}

/// The gradient of a parameter that the channels of a head share, `[H]`, from that of each channel, [H, N].
///
/// # Panics
/// When the lengths do not fit `heads`.
pub fn per_head(heads: Heads, channels: &[f32], out: &mut [f32]) {
    assert!(channels.len() == heads.width() && out.len() == heads.heads, "the lengths do not fit {heads:?}");
    for (h, out) in out.iter_mut().enumerate() {
        *out = channels[h * heads.head_size..(h + 1) * heads.head_size].iter().sum();
    }
}

/// The equations, by way of those of WKV-6 with the same decay at every token.
pub mod reference {
    use super::super::super::{Heads, Parameter, Real, wkv6};
    use super::super::Inputs;
    use super::Gradients;

    /// A ragged batch: `states` are the initial ones, `y_grad` is [ΣT, C], `state_grads` one [H, key, value] a sequence,
    /// gradient of the final state in and of the initial state out.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub fn scan<T: Real>(
        heads: Heads,
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        decay: Parameter<'_, T>,
        bonus: Parameter<'_, T>,
        states: &[&[T]],
        y_grad: &[T],
        state_grads: &mut [&mut [T]],
        grads: &mut Gradients<'_, T>,
    ) {
        grads.check(heads, cu_seqlens, x, decay, bonus, state_grads, y_grad);
        let width = heads.width();
        let spell = |parameter: Parameter<'_, T>| -> Vec<T> {
            (0..width).map(|c| parameter.at(heads, c / heads.head_size, c % heads.head_size)).collect()
        };
        let (decay, bonus) = (spell(decay), spell(bonus));
        let decays: Vec<T> = (0..x.k.len()).map(|e| decay[e % width]).collect();
        let mut decay_grads = vec![T::ZERO; x.k.len()];
        let x = wkv6::Inputs { r: x.r, decay: &decays, k: x.k, v: x.v };
        let mut all = wkv6::backward::Gradients {
            r: &mut *grads.r,
            decay: &mut decay_grads,
            k: &mut *grads.k,
            v: &mut *grads.v,
            bonus: &mut *grads.bonus,
        };
        wkv6::backward::reference::scan(heads, cu_seqlens, &x, &bonus, states, y_grad, state_grads, &mut all);
        grads.decay.fill(T::ZERO);
        for (e, g) in decay_grads.into_iter().enumerate() {
            grads.decay[e % width] += g;
        }
    }
}

/// [`super::scan`] that also saves in `saved`, of [`saved_len`] elements, what [`scan`] needs. Its results are the same
/// to the bit.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan_saving(
    pool: &Pool,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    decay: Parameter<'_, f32>,
    bonus: Parameter<'_, f32>,
    states: &mut [&mut [f32]],
    y: &mut [f32],
    saved: &mut [f32],
) {
    x.check(heads, cu_seqlens, decay, bonus, states, y);
    let (decay, bonus) = (per_channel(heads, decay), per_channel(heads, bonus));
    let (decay, bonus) = (&*decay, &*bonus);
    let batch = Batch { heads, cu_seqlens, r: x.r, decay, per_token: false, k: x.k, v: x.v, bonus };
    batch.save(pool, states, y, saved);
}

/// The gradients of a ragged batch over the pool's threads: `saved` is from [`scan_saving`] with the same inputs,
/// `y_grad` is [ΣT, C], `state_grads` one [H, key, value] a sequence, gradient of the final state in and of the initial
/// state out; `workspace` has [`workspace_len`] elements of any content.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan(
    pool: &Pool,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    decay: Parameter<'_, f32>,
    bonus: Parameter<'_, f32>,
    saved: &[f32],
    y_grad: &[f32],
    state_grads: &mut [&mut [f32]],
    grads: &mut Gradients<'_, f32>,
    workspace: &mut [f32],
) {
    grads.check(heads, cu_seqlens, x, decay, bonus, state_grads, y_grad);
    let (decay, bonus) = (per_channel(heads, decay), per_channel(heads, bonus));
    let (decay, bonus) = (&*decay, &*bonus);
    let batch = Batch { heads, cu_seqlens, r: x.r, decay, per_token: false, k: x.k, v: x.v, bonus };
    let rows = Rows { r: SharedMut::new(grads.r), decay: None, k: SharedMut::new(grads.k), v: SharedMut::new(grads.v) };
    batch.backward(pool, saved, y_grad, state_grads, &rows, workspace, Some(grads.decay), grads.bonus);
}
