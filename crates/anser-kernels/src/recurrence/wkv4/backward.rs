//! The gradient of WKV-4.
//!
//! Equations, per channel, with A = exp(pp) aa and B = exp(pp) bb before the token, GA and GB the gradients of both
//! after it, w = log_decay, u = bonus, and gy the gradient of y:
//! ```text
//! den = B + exp(u + k);  e = exp(u + k) gy / den
//! gk  = e (v - y) + exp(k) (v GA + GB);   gv = e + exp(k) GA
//! gu += e (v - y);                        gw += exp(w) (A GA + B GB)
//! GA <- exp(w) GA + gy / den;             GB <- exp(w) GB - y gy / den
//! ```
//! GA and GB shrink as A and B grow, so they are carried as ga and gb relative to an exponent of their own, pg: GA =
//! exp(pg) ga. It starts at -pp of the final state and follows max(w + pg, -log of den's scale), hence every exponent
//! of a product, such as pp + w + pg, is at most 0.
//!
//! **The state's gradient.** aa, bb and pp stand for two numbers, A and B: raising pp by d and scaling aa and bb by
//! exp(-d) is the same state, and whatever uses a state is taken to respect that. Rows aa and bb of a gradient are the
//! derivatives at fixed pp; row pp then can only be aa ga + bb gb. So that row is ignored on the way in, and written on
//! the way out, which is what a chain of scans needs. A fresh state has exp(pp) = 0, and a gradient of 0.
//!
//! **What is saved.** [`scan_saving`] keeps the state before every [`CHUNK`]-th token; [`scan`] replays the tokens of
//! one chunk at a time, in two hundred bytes a channel.
//!
//! Numerics: f32 throughout. Gradients are written, not added to what is there. Those of `log_decay` and `bonus` are
//! summed over the tokens of a sequence, then over sequences in ascending order, whatever the threads.
//!
//! Tested: reference = golden files and finite differences; fast = reference, with keys beyond the range of exp;
//! threads = one thread and batch = single to the bit; two halves with the state's gradient handed over = whole.

use std::ops::Range;

use super::super::{Span, check, share, split_unit, spread};
use super::{CHANNELS, Inputs, relative, token};
use crate::activation::exp1;
use crate::pool::{Pool, SharedMut};
use crate::simd::{Isa, Level, dispatch, level};

/// Tokens from one saved state to the next.
pub const CHUNK: usize = 16;

/// Where gradients go; all are written, whatever they held.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of `k`, [ΣT, C].
    pub k: &'a mut [T],
    /// Of `v`, [ΣT, C].
    pub v: &'a mut [T],
    /// Of `log_decay`, `[C]`, summed over all tokens. Times `log_decay` it is the gradient of time_decay.
    pub log_decay: &'a mut [T],
    /// Of `bonus`, `[C]`, summed over all tokens.
    pub bonus: &'a mut [T],
}

impl<T> Gradients<'_, T> {
    fn check(
        &self,
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        log_decay: &[T],
        bonus: &[T],
        state_grads: &[&mut [T]],
        y_grad: &[T],
    ) {
        x.check(cu_seqlens, log_decay, bonus, state_grads, y_grad);
        let width = log_decay.len();
        let packed = [("the gradient of k", self.k.len()), ("the gradient of v", self.v.len())];
        check("wkv4 backward", width, cu_seqlens, &packed, state_grads, 3 * width);
        for (name, got) in [("log_decay", self.log_decay.len()), ("bonus", self.bonus.len())] {
            assert!(got == width, "wkv4 backward: the gradient of {name} has {got} channels instead of {width}");
        }
    }
}

/// The equations, written out; every state is stored.
pub mod reference {
    use super::super::super::{Real, sequences};
    use super::super::{Inputs, reference};
    use super::Gradients;

    /// A ragged batch: `states` are the initial ones, `y_grad` is [ΣT, C], `state_grads` one [3, C] a sequence, gradient
    /// of the final state in and of the initial state out (see the module about row pp).
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub fn scan<T: Real>(
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        log_decay: &[T],
        bonus: &[T],
        states: &[&[T]],
        y_grad: &[T],
        state_grads: &mut [&mut [T]],
        grads: &mut Gradients<'_, T>,
    ) {
        grads.check(cu_seqlens, x, log_decay, bonus, state_grads, y_grad);
        assert!(states.len() == state_grads.len(), "wkv4 backward: one initial state a sequence");
        let width = log_decay.len();
        grads.log_decay.fill(T::ZERO);
        grads.bonus.fill(T::ZERO);
        for ((rows, initial), state_grad) in sequences(cu_seqlens).zip(states).zip(state_grads) {
            let (mut state, mut y) = (initial.to_vec(), vec![T::ZERO; width]);
            let mut before = Vec::with_capacity(rows.len());
            for t in rows.clone() {
                before.push(state.clone());
                reference::step(&x.rows(t * width..(t + 1) * width), log_decay, bonus, &mut state, &mut y);
                before.push(y.clone());
            }
            for c in 0..width {
                let (w, u) = (log_decay[c], bonus[c]);
                let (mut ga, mut gb, mut pg) = (state_grad[c], state_grad[width + c], -state[2 * width + c]);
                for (at, t) in rows.clone().enumerate().rev() {
                    let (s, y) = (&before[2 * at], before[2 * at + 1][c]);
                    let (aa, bb, pp) = (s[c], s[width + c], s[2 * width + c]);
                    let e = t * width + c;
                    let (k, v, gy) = (x.k[e], x.v[e], y_grad[e]);

                    let q = pp.max(u + k);
                    let g = gy / ((pp - q).exp() * bb + (u + k - q).exp());
                    let own = (u + k - q).exp() * g;
                    let later = (k + pg).exp();
                    grads.k[e] = own * (v - y) + later * (v * ga + gb);
                    grads.v[e] = own + later * ga;
                    grads.bonus[c] += own * (v - y);
                    grads.log_decay[c] += (pp + w + pg).exp() * (aa * ga + bb * gb);

                    let next = (w + pg).max(-q);
                    let (e1, e2) = ((w + pg - next).exp(), (-q - next).exp());
                    ga = e1 * ga + e2 * g;
                    gb = e1 * gb - e2 * g * y;
                    pg = next;
                }
                let scale = (pg + initial[2 * width + c]).exp();
                (state_grad[c], state_grad[width + c]) = (scale * ga, scale * gb);
                state_grad[2 * width + c] = scale * (initial[c] * ga + initial[width + c] * gb);
            }
        }
    }
}

/// Elements that [`scan_saving`] saves of a batch of C = `width`.
pub fn saved_len(width: usize, cu_seqlens: &[usize]) -> usize {
    slot(cu_seqlens, cu_seqlens.len() - 1) * 3 * width
}

/// Elements of scratch that [`scan`] wants for a batch of `sequences`.
pub fn workspace_len(width: usize, sequences: usize) -> usize {
    2 * width * sequences
}

/// The first saved state of sequence `s`. Each sequence gets one, and another for every [`CHUNK`] packed rows it ends.
fn slot(cu_seqlens: &[usize], s: usize) -> usize {
    cu_seqlens[s] / CHUNK + s
}

/// Calls `f` with ranges of (block of channels, sequence), sequences without rows among them.
fn for_units(pool: &Pool, width: usize, cu_seqlens: &[usize], f: impl Fn(Range<usize>) + Sync) {
    let blocks = width.div_ceil(CHANNELS);
    if cu_seqlens.ends_with(&[0]) {
        f(0..blocks * (cu_seqlens.len() - 1));
    } else {
        spread(pool, blocks, cu_seqlens, 100 * CHANNELS, f);
    }
}

/// The sequence of a unit, and the channels of its rows.
fn locate(width: usize, cu_seqlens: &[usize], unit: usize) -> (usize, Span) {
    let (block, s) = split_unit(unit, cu_seqlens);
    let first = block * CHANNELS;
    let (rows, size) = (cu_seqlens[s]..cu_seqlens[s + 1], CHANNELS.min(width - first));
    (s, Span { start: rows.start * width + first, stride: width, size, tokens: rows.len() })
}

/// [`super::scan`] that also saves in `saved`, of [`saved_len`] elements, what [`scan`] needs. Its results are the same
/// to the bit.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan_saving(
    pool: &Pool,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    log_decay: &[f32],
    bonus: &[f32],
    states: &mut [&mut [f32]],
    y: &mut [f32],
    saved: &mut [f32],
) {
    x.check(cu_seqlens, log_decay, bonus, states, y);
    let width = log_decay.len();
    let (got, want) = (saved.len(), saved_len(width, cu_seqlens));
    assert!(got == want, "wkv4 backward: saved has {got} elements instead of {want}");
    let (level, states, y, saved) = (level(), share(states), SharedMut::new(y), SharedMut::new(saved));
    for_units(pool, width, cu_seqlens, |units| {
        for unit in units {
            let (s, span) = locate(width, cu_seqlens, unit);
            let first = span.start % width;
            let channels = first..first + span.size;
            let at = |row: usize| row * width + first..row * width + first + span.size;
            // SAFETY: the pool hands out every unit once, and these channels of this sequence's state, saved states and
            // rows of y are its own; the three ranges are disjoint, and slots do not reach into the next sequence's.
            let [aa, bb, pp] = [0, 1, 2].map(|row| unsafe { states[s].range(at(row)) });
            let (w, u) = (&log_decay[channels.clone()], &bonus[channels]);
            for t in 0..span.tokens.max(1) {
                if t % CHUNK == 0 {
                    let saved_row = (slot(cu_seqlens, s) + t / CHUNK) * 3;
                    for (row, values) in [&*aa, &*bb, &*pp].into_iter().enumerate() {
                        // SAFETY: as above.
                        unsafe { saved.range(at(saved_row + row)) }.copy_from_slice(values);
                    }
                }
                if t < span.tokens {
                    // SAFETY: as above.
                    let y = unsafe { y.range(span.row(t)) };
                    token(level, &x.k[span.row(t)], &x.v[span.row(t)], w, u, aa, bb, pp, y);
                }
            }
        }
    });
}

/// The gradients of a ragged batch over the pool's threads: `saved` is from [`scan_saving`] with the same inputs,
/// `y_grad` is [ΣT, C], `state_grads` one [3, C] a sequence, gradient of the final state in and of the initial state out
/// (see the module about row pp); `workspace` has [`workspace_len`] elements of any content.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan(
    pool: &Pool,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    log_decay: &[f32],
    bonus: &[f32],
    saved: &[f32],
    y_grad: &[f32],
    state_grads: &mut [&mut [f32]],
    grads: &mut Gradients<'_, f32>,
    workspace: &mut [f32],
) {
    grads.check(cu_seqlens, x, log_decay, bonus, state_grads, y_grad);
    let (width, sequences) = (log_decay.len(), cu_seqlens.len() - 1);
    let (got, want) = (saved.len(), saved_len(width, cu_seqlens));
    assert!(got == want, "wkv4 backward: saved has {got} elements instead of {want}");
    let (got, want) = (workspace.len(), workspace_len(width, sequences));
    assert!(got >= want, "wkv4 backward: the workspace has {got} elements instead of {want}");

    // [S, 2, C]: the sums over a sequence's tokens for log_decay and bonus.
    let partial = &mut workspace[..want];
    let shared_partial = SharedMut::new(&mut *partial);
    let (level, state_grads) = (level(), share(state_grads));
    let (to_k, to_v) = (SharedMut::new(&mut *grads.k), SharedMut::new(&mut *grads.v));
    for_units(pool, width, cu_seqlens, |units| {
        for unit in units {
            let (s, span) = locate(width, cu_seqlens, unit);
            let first = span.start % width;
            let channels = first..first + span.size;
            let at = |row: usize| row * width + first..row * width + first + span.size;
            // SAFETY: the pool hands out every unit once, and these channels of this sequence's state and sums are its
            // own; the ranges are disjoint.
            let state_grad = [0, 1, 2].map(|row| unsafe { state_grads[s].range(at(row)) });
            // SAFETY: as above.
            let sums = [0, 1].map(|which| unsafe { shared_partial.range(at(2 * s + which)) });
            let (w, u) = (&log_decay[channels.clone()], &bonus[channels]);
            let saved = &saved[slot(cu_seqlens, s) * 3 * width + first..];
            unit_backward(level, span, x, w, u, saved, y_grad, state_grad, &to_k, &to_v, sums);
        }
    });
    for (which, out) in [&mut *grads.log_decay, &mut *grads.bonus].into_iter().enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            *out = (0..sequences).map(|s| partial[(2 * s + which) * width + c]).sum();
        }
    }
}

/// aa, bb and pp of a block of channels.
type State = [[f32; CHANNELS]; 3];

/// All tokens of a block of channels of one sequence. `saved` begins with the block's first saved aa; `w`, `u`,
/// `state_grad` and `sums` (for log_decay and bonus) are the block's. Only `scan` calls this: the elements of `span` in
/// `to_k` and `to_v` are its own.
fn unit_backward(
    level: Level,
    span: Span,
    x: &Inputs<'_, f32>,
    w: &[f32],
    u: &[f32],
    saved: &[f32],
    y_grad: &[f32],
    state_grad: [&mut [f32]; 3],
    to_k: &SharedMut<'_, f32>,
    to_v: &SharedMut<'_, f32>,
    sums: [&mut [f32]; 2],
) {
    let n = span.size;
    let [ga, gb, gpp] = state_grad;
    let [gw, gu] = sums;
    gw.fill(0.0);
    gu.fill(0.0);
    let mut pg = [0.0; CHANNELS];
    let mut before: [State; CHUNK + 1] = [[[0.0; CHANNELS]; 3]; CHUNK + 1];

    // A sequence without tokens has a chunk without tokens.
    let chunks = span.tokens.div_ceil(CHUNK).max(1);
    for chunk in (0..chunks).rev() {
        let tile = chunk * CHUNK..span.tokens.min((chunk + 1) * CHUNK);
        for (row, values) in before[0].iter_mut().enumerate() {
            values[..n].copy_from_slice(&saved[(chunk * 3 + row) * span.stride..][..n]);
        }
        for (at, t) in tile.clone().enumerate() {
            let (old, new) = before.split_at_mut(at + 1);
            advance(level, &x.k[span.row(t)], &x.v[span.row(t)], w, &old[at], &mut new[0]);
        }
        if chunk + 1 == chunks {
            for (pg, pp) in pg.iter_mut().zip(&before[tile.len()][2]) {
                *pg = -pp;
            }
        }
        for (at, t) in tile.enumerate().rev() {
            // SAFETY: these elements are ours, see `unit_backward`.
            let (gk, gv) = unsafe { (to_k.range(span.row(t)), to_v.range(span.row(t))) };
            let (k, v, gy) = (&x.k[span.row(t)], &x.v[span.row(t)], &y_grad[span.row(t)]);
            token_backward(level, k, v, gy, w, u, &before[at], ga, gb, &mut pg[..n], gk, gv, gw, gu);
        }
    }

    initial_grads(level, &before[0], &pg[..n], ga, gb, gpp);
}

dispatch! {
    // One call a token: what a function gets as `&mut` is known not to overlap, or these loops would not be vectorised.
    fn advance(k: &[f32], v: &[f32], w: &[f32], old: &State, new: &mut State) = advance_body;
    fn token_backward(k: &[f32], v: &[f32], gy: &[f32], w: &[f32], u: &[f32], state: &State, ga: &mut [f32],
        gb: &mut [f32], pg: &mut [f32], gk: &mut [f32], gv: &mut [f32], gw: &mut [f32],
        gu: &mut [f32]) = token_backward_body;
    fn initial_grads(state: &State, pg: &[f32], ga: &mut [f32], gb: &mut [f32], gpp: &mut [f32]) = initial_grads_body;
}

/// The state after a token.
#[inline(always)]
fn advance_body<I: Isa>(k: &[f32], v: &[f32], w: &[f32], old: &State, new: &mut State) {
    let n = k.len().min(CHANNELS);
    let (k, v, w) = (&k[..n], &v[..n], &w[..n]);
    let [aa, bb, pp] = old;
    let [new_aa, new_bb, new_pp] = new;
    for c in 0..n {
        let (q, e1, e2) = relative::<I>(pp[c] + w[c], k[c]);
        new_aa[c] = I::fma(e1, aa[c], e2 * v[c]);
        new_bb[c] = I::fma(e1, bb[c], e2);
        new_pp[c] = q;
    }
}

/// One token of some channels: `ga`, `gb`, `pg` are those after the token on entry and before it on return.
#[inline(always)]
fn token_backward_body<I: Isa>(
    k: &[f32],
    v: &[f32],
    gy: &[f32],
    w: &[f32],
    u: &[f32],
    state: &State,
    ga: &mut [f32],
    gb: &mut [f32],
    pg: &mut [f32],
    gk: &mut [f32],
    gv: &mut [f32],
    gw: &mut [f32],
    gu: &mut [f32],
) {
    let n = k.len().min(CHANNELS);
    let (k, v, gy, w, u) = (&k[..n], &v[..n], &gy[..n], &w[..n], &u[..n]);
    let (ga, gb, pg) = (&mut ga[..n], &mut gb[..n], &mut pg[..n]);
    let (gk, gv, gw, gu) = (&mut gk[..n], &mut gv[..n], &mut gw[..n], &mut gu[..n]);
    let [aa, bb, pp] = state;
    for c in 0..n {
        let (q, e1, e2) = relative::<I>(pp[c], u[c] + k[c]);
        let den = I::fma(e1, bb[c], e2);
        let y = I::fma(e1, aa[c], e2 * v[c]) / den;
        let g = gy[c] / den;
        let own = e2 * g;
        let own_k = own * (v[c] - y);
        let later = exp1::<I>(k[c] + pg[c]);
        gk[c] = I::fma(later, I::fma(v[c], ga[c], gb[c]), own_k);
        gv[c] = I::fma(later, ga[c], own);
        gu[c] += own_k;
        gw[c] = I::fma(exp1::<I>(pp[c] + w[c] + pg[c]), I::fma(aa[c], ga[c], bb[c] * gb[c]), gw[c]);

        let (next, e1, e2) = relative::<I>(w[c] + pg[c], -q);
        ga[c] = I::fma(e1, ga[c], e2 * g);
        gb[c] = I::fma(e1, gb[c], -(e2 * g * y));
        pg[c] = next;
    }
}

/// The gradient of the state before the first token, [3, channels].
#[inline(always)]
fn initial_grads_body<I: Isa>(state: &State, pg: &[f32], ga: &mut [f32], gb: &mut [f32], gpp: &mut [f32]) {
    let [aa, bb, pp] = state;
    for c in 0..pg.len().min(CHANNELS) {
        let scale = exp1::<I>(pg[c] + pp[c]);
        (ga[c], gb[c]) = (scale * ga[c], scale * gb[c]);
        gpp[c] = I::fma(aa[c], ga[c], bb[c] * gb[c]);
    }
}
