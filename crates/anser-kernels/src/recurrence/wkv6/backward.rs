//! The gradient of WKV-6, and the part of WKV-5's that is the same.
//!
//! Equations, per head and backwards over the tokens, with gy the gradient of y, S the state before the token and D the
//! gradient of the state after it:
//! ```text
//! gr_i     = sum_j (bonus_i k_i v_j + S_ij) gy_j
//! gk_i     = sum_j (bonus_i r_i gy_j + D_ij) v_j
//! gv_j     = sum_i (bonus_i r_i gy_j + D_ij) k_i
//! gdecay_i = sum_j D_ij S_ij;  gbonus_i += r_i k_i sum_j v_j gy_j
//! D_ij    <- decay_i D_ij + r_i gy_j
//! ```
//! **What is saved.** Going backwards needs every S. A decay may be 0, so S cannot be won back from its successor;
//! [`scan_saving`] keeps S before every [`CHUNK`]-th token, and [`scan`] replays the tokens of one chunk at a time.
//!
//! **Lanes.** Three of the four sums over the state run over values, one over keys. The replayed S and D are therefore
//! held as [value, key], lanes over keys, so that only gv needs a horizontal step; that one is taken once a token, after
//! all blocks of keys have added their registers.
//!
//! Numerics: f32 throughout, fused where the level fuses. Gradients are written, not added to what is there. `bonus` is
//! summed over the tokens of a sequence, then over sequences in ascending order, whatever the threads.
//!
//! Tested: reference = golden files and finite differences; fast = reference; threads = one thread and batch = single to
//! the bit; two halves with the state's gradient handed over = whole.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::super::vector::{One, Vector, for_columns};
use super::super::{Heads, Span, check, share, split_unit, spread};
use super::{Inputs, Operands, dot3, head};
use crate::norm::tree;
use crate::pool::{Pool, SharedMut};
use crate::simd::{Isa, dispatch, level};

/// Tokens from one saved state to the next.
pub const CHUNK: usize = 16;

/// The widest block of keys, in lanes: two of the widest registers.
const BLOCK: usize = 32;

/// The most lanes of a register.
const LANES: usize = 16;

/// Where gradients go; all are written, whatever they held.
#[derive(Debug)]
pub struct Gradients<'a, T> {
    /// Of `r`, [ΣT, C].
    pub r: &'a mut [T],
    /// Of the decay factor, [ΣT, C].
    pub decay: &'a mut [T],
    /// Of `k`, [ΣT, C].
    pub k: &'a mut [T],
    /// Of `v`, [ΣT, C].
    pub v: &'a mut [T],
    /// Of `bonus`, [H, N], summed over all tokens.
    pub bonus: &'a mut [T],
}

impl<T> Gradients<'_, T> {
    fn check(
        &self,
        heads: Heads,
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        bonus: &[T],
        state_grads: &[&mut [T]],
        y_grad: &[T],
    ) {
        x.check(heads, cu_seqlens, bonus, state_grads, y_grad);
        let packed = [
            ("the gradient of r", self.r.len()),
            ("the gradient of decay", self.decay.len()),
            ("the gradient of k", self.k.len()),
            ("the gradient of v", self.v.len()),
        ];
        check("wkv6 backward", heads.width(), cu_seqlens, &packed, state_grads, heads.state_len());
        let (got, want) = (self.bonus.len(), heads.width());
        assert!(got == want, "wkv6 backward: the gradient of bonus has {got} elements instead of {want}");
    }
}

/// The equations, written out; every state is stored.
pub mod reference {
    use super::super::super::{Heads, Real, sequences};
    use super::super::{Inputs, reference};
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
        bonus: &[T],
        states: &[&[T]],
        y_grad: &[T],
        state_grads: &mut [&mut [T]],
        grads: &mut Gradients<'_, T>,
    ) {
        grads.check(heads, cu_seqlens, x, bonus, state_grads, y_grad);
        assert!(states.len() == state_grads.len(), "wkv6 backward: one initial state a sequence");
        let (width, n) = (heads.width(), heads.head_size);
        grads.v.fill(T::ZERO);
        grads.bonus.fill(T::ZERO);
        for ((rows, state), d) in sequences(cu_seqlens).zip(states).zip(state_grads) {
            let (mut state, mut y) = (state.to_vec(), vec![T::ZERO; width]);
            let mut before = Vec::with_capacity(rows.len());
            for t in rows.clone() {
                before.push(state.clone());
                reference::step(heads, &x.rows(t * width..(t + 1) * width), bonus, &mut state, &mut y);
            }
            for (t, s) in rows.zip(before).rev() {
                for c in 0..width {
                    let (own, first) = (t * width + c, t * width + c / n * n);
                    let (r, decay, k, u) = (x.r[own], x.decay[own], x.k[own], bonus[c]);
                    let (mut gr, mut gk, mut gdecay, mut gbonus) = (T::ZERO, T::ZERO, T::ZERO, T::ZERO);
                    for j in 0..n {
                        let (v, gy, s, d) = (x.v[first + j], y_grad[first + j], s[c * n + j], &mut d[c * n + j]);
                        gr += (u * k * v + s) * gy;
                        gk += (u * r * gy + *d) * v;
                        grads.v[first + j] += (u * r * gy + *d) * k;
                        gdecay += *d * s;
                        gbonus += r * k * v * gy;
                        *d = decay * *d + r * gy;
                    }
                    (grads.r[own], grads.k[own], grads.decay[own]) = (gr, gk, gdecay);
                    grads.bonus[c] += gbonus;
                }
            }
        }
    }
}

/// Elements that [`scan_saving`] saves of a batch.
pub fn saved_len(heads: Heads, cu_seqlens: &[usize]) -> usize {
    slot(cu_seqlens, cu_seqlens.len() - 1) * heads.state_len()
}

/// Elements of scratch that [`scan`] wants for a batch of `sequences` on a pool of `threads`.
pub fn workspace_len(threads: usize, heads: Heads, sequences: usize) -> usize {
    2 * heads.width() * sequences + threads * scratch_len(heads)
}

/// The first saved state of sequence `s`. Each sequence gets a slot for every [`CHUNK`] packed rows begun.
fn slot(cu_seqlens: &[usize], s: usize) -> usize {
    cu_seqlens[s] / CHUNK + s
}

fn scratch_len(heads: Heads) -> usize {
    let n = heads.head_size;
    n * (n + CHUNK * (BLOCK + LANES + 1))
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
    bonus: &[f32],
    states: &mut [&mut [f32]],
    y: &mut [f32],
    saved: &mut [f32],
) {
    x.check(heads, cu_seqlens, bonus, states, y);
    let batch = Batch { heads, cu_seqlens, r: x.r, decay: x.decay, per_token: true, k: x.k, v: x.v, bonus };
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
    bonus: &[f32],
    saved: &[f32],
    y_grad: &[f32],
    state_grads: &mut [&mut [f32]],
    grads: &mut Gradients<'_, f32>,
    workspace: &mut [f32],
) {
    grads.check(heads, cu_seqlens, x, bonus, state_grads, y_grad);
    let batch = Batch { heads, cu_seqlens, r: x.r, decay: x.decay, per_token: true, k: x.k, v: x.v, bonus };
    let rows = Rows {
        r: SharedMut::new(grads.r),
        decay: Some(SharedMut::new(grads.decay)),
        k: SharedMut::new(grads.k),
        v: SharedMut::new(grads.v),
    };
    batch.backward(pool, saved, y_grad, state_grads, &rows, workspace, None, grads.bonus);
}

/// A batch of RWKV-5 or RWKV-6 whose shapes were checked.
pub(in super::super) struct Batch<'a> {
    pub heads: Heads,
    pub cu_seqlens: &'a [usize],
    /// [ΣT, C], like k and v.
    pub r: &'a [f32],
    /// [ΣT, C] or [H, N].
    pub decay: &'a [f32],
    pub per_token: bool,
    pub k: &'a [f32],
    pub v: &'a [f32],
    /// [H, N].
    pub bonus: &'a [f32],
}

/// Gradients of packed rows, [ΣT, C] each.
pub(in super::super) struct Rows<'a> {
    pub r: SharedMut<'a, f32>,
    /// None where the decay stays.
    pub decay: Option<SharedMut<'a, f32>>,
    pub k: SharedMut<'a, f32>,
    pub v: SharedMut<'a, f32>,
}

impl Batch<'_> {
    /// What head `h` reads from its token `first` on, where the head's rows are `span`.
    fn operands(&self, h: usize, span: Span, first: usize) -> Operands<'_> {
        let channels = h * span.size..(h + 1) * span.size;
        let (decay, decay_stride) = if self.per_token {
            (&self.decay[span.start + first * span.stride..], span.stride)
        } else {
            (&self.decay[channels.clone()], 0)
        };
        Operands { r: self.r, decay, decay_stride, k: self.k, v: self.v, bonus: &self.bonus[channels] }
    }

    /// The (head, sequence, rows) of a unit; None where there are no rows.
    fn unit(&self, unit: usize) -> Option<(usize, usize, Span)> {
        let (h, s) = split_unit(unit, self.cu_seqlens);
        let span = Span::new(self.heads, h, self.cu_seqlens[s]..self.cu_seqlens[s + 1]);
        (span.tokens > 0).then_some((h, s, span))
    }

    /// Where the saved state of a head before the first token of the sequence's chunk `chunk` lies.
    fn saved(&self, h: usize, s: usize, chunk: usize) -> Range<usize> {
        let n = self.heads.head_size;
        let start = ((slot(self.cu_seqlens, s) + chunk) * self.heads.heads + h) * n * n;
        start..start + n * n
    }

    /// The forward scan, a chunk at a time.
    pub(in super::super) fn save(&self, pool: &Pool, states: &mut [&mut [f32]], y: &mut [f32], saved: &mut [f32]) {
        let (got, want) = (saved.len(), saved_len(self.heads, self.cu_seqlens));
        assert!(got == want, "wkv backward: saved has {got} elements instead of {want}");
        let (level, states, y, saved) = (level(), share(states), SharedMut::new(y), SharedMut::new(saved));
        let n = self.heads.head_size;
        spread(pool, self.heads.heads, self.cu_seqlens, 3 * n * n, |units| {
            for (h, s, span) in units.filter_map(|unit| self.unit(unit)) {
                // SAFETY: the pool hands out every unit once, and this head's matrix of this sequence is its own.
                let state = unsafe { states[s].range(h * n * n..(h + 1) * n * n) };
                for first in (0..span.tokens).step_by(CHUNK) {
                    // SAFETY: as above; slots of a sequence do not reach into the next one's.
                    unsafe { saved.range(self.saved(h, s, first / CHUNK)) }.copy_from_slice(state);
                    let tokens = CHUNK.min(span.tokens - first);
                    let chunk = Span { start: span.start + first * span.stride, tokens, ..span };
                    head(level, chunk, &self.operands(h, span, first), state, &y);
                }
            }
        });
    }

    /// The gradients; `decay_grad` [H, N] is written where the decay stays, else `rows.decay`.
    pub(in super::super) fn backward(
        &self,
        pool: &Pool,
        saved: &[f32],
        y_grad: &[f32],
        state_grads: &mut [&mut [f32]],
        rows: &Rows<'_>,
        workspace: &mut [f32],
        decay_grad: Option<&mut [f32]>,
        bonus_grad: &mut [f32],
    ) {
        let (heads, sequences) = (self.heads, self.cu_seqlens.len() - 1);
        let (got, want) = (saved.len(), saved_len(heads, self.cu_seqlens));
        assert!(got == want, "wkv backward: saved has {got} elements instead of {want}");
        let (got, want) = (workspace.len(), workspace_len(pool.threads(), heads, sequences));
        assert!(got >= want, "wkv backward: the workspace has {got} elements instead of {want}");

        let (partial, scratch) = workspace.split_at_mut(2 * heads.width() * sequences);
        partial.fill(0.0);
        let n = heads.head_size;
        let (level, state_grads, shared_partial) = (level(), share(state_grads), SharedMut::new(&mut *partial));
        let free: Mutex<Vec<&mut [f32]>> =
            Mutex::new(scratch.chunks_exact_mut(scratch_len(heads).max(1)).take(pool.threads()).collect());
        spread(pool, heads.heads, self.cu_seqlens, 8 * n * n, |units| {
            let claimed = free.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let scratch = claimed.unwrap_or_default();
            for unit in units {
                let Some((h, s, span)) = self.unit(unit) else { continue };
                // SAFETY: the pool hands out every unit once; this head's matrix of this sequence and this unit's
                // partial sums are its own.
                let (state_grad, partial) = unsafe {
                    let state_grad = state_grads[s].range(h * n * n..(h + 1) * n * n);
                    (state_grad, shared_partial.range(unit * 2 * n..(unit + 1) * 2 * n))
                };
                let saved = &saved[self.saved(h, s, 0).start..];
                let x = self.operands(h, span, 0);
                unit_backward(level, span, &x, saved, heads.state_len(), y_grad, state_grad, rows, partial, scratch);
            }
            free.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        });

        // Units are numbered head by head.
        let sum = |which: usize, out: &mut [f32]| {
            for (c, out) in out.iter_mut().enumerate() {
                let (h, i) = (c / n, c % n);
                *out = (0..sequences).map(|s| partial[(2 * (h * sequences + s) + which) * n + i]).sum();
            }
        };
        if let Some(decay_grad) = decay_grad {
            sum(0, decay_grad);
        }
        sum(1, bonus_grad);
    }
}

dispatch! {
    /// All tokens of one head of one sequence. `saved` begins with the head's first state and has its next one
    /// `saved_stride` elements on; `state_grad` is [N, N]; `partial` [2, N] gets the sums over tokens for decay (where
    /// it stays) and bonus. Only `Batch::backward` calls this: the elements of `span` in `rows` are its own.
    fn unit_backward(span: Span, x: &Operands<'_>, saved: &[f32], saved_stride: usize, y_grad: &[f32],
        state_grad: &mut [f32], rows: &Rows<'_>, partial: &mut [f32], scratch: &mut [f32]) = unit_backward_body;
}

/// A thread's scratch.
struct Scratch<'a> {
    /// D, [value, key].
    d: &'a mut [f32],
    /// S before each token of a chunk, a block of keys only: [CHUNK, value, keys of the block].
    replay: &'a mut [f32],
    /// What each lane has of gv: [CHUNK, value, lanes of a register].
    gv: &'a mut [f32],
    /// [CHUNK, key].
    gdecay: &'a mut [f32],
}

#[inline(always)]
fn unit_backward_body<I: Isa + Vector>(
    span: Span,
    x: &Operands<'_>,
    saved: &[f32],
    saved_stride: usize,
    y_grad: &[f32],
    state_grad: &mut [f32],
    rows: &Rows<'_>,
    partial: &mut [f32],
    scratch: &mut [f32],
) {
    let n = span.size;
    assert!(state_grad.len() == n * n && partial.len() == 2 * n && x.bonus.len() == n);
    let (d, scratch) = scratch.split_at_mut(n * n);
    let (replay, scratch) = scratch.split_at_mut(CHUNK * n * BLOCK);
    let (gv, gdecay) = scratch.split_at_mut(CHUNK * n * LANES);
    let mut scratch = Scratch { d, replay, gv, gdecay: &mut gdecay[..CHUNK * n] };
    let (decay_sum, bonus_sum) = partial.split_at_mut(n);

    transpose(state_grad, scratch.d, n);
    for chunk in (0..span.tokens.div_ceil(CHUNK)).rev() {
        let tile = chunk * CHUNK..span.tokens.min((chunk + 1) * CHUNK);
        let saved = &saved[chunk * saved_stride..][..n * n];
        let (mut own, mut vg) = ([0.0; CHUNK], [0.0; CHUNK]);
        for (at, t) in tile.clone().enumerate() {
            own[at] = dot3::<I>(&x.r[span.row(t)], x.bonus, &x.k[span.row(t)]);
            vg[at] = dot::<I>(&x.v[span.row(t)], &y_grad[span.row(t)]);
        }
        scratch.gv[..tile.len() * n * I::WIDTH].fill(0.0);
        // SAFETY: the only caller is `unit_backward`, compiled for `I` and on a CPU that has it; `columns` gets columns
        // that exist; the elements of `span` in `rows` are ours.
        unsafe {
            let lanes = I::WIDTH;
            for_columns!(
                I,
                n,
                columns,
                2,
                (span, tile.clone(), x, saved, y_grad, &vg, rows, bonus_sum, &mut scratch, lanes)
            );
        }
        for (at, t) in tile.enumerate() {
            let row = span.row(t);
            let gy = &y_grad[row.clone()];
            // SAFETY: as above.
            let gv = unsafe { rows.v.range(row.clone()) };
            let lanes = scratch.gv[at * n * I::WIDTH..].chunks_exact_mut(I::WIDTH);
            for ((gv, gy), lanes) in gv.iter_mut().zip(gy).zip(lanes) {
                *gv = <I as Isa>::fma(own[at], *gy, horizontal(lanes));
            }
            let gdecay = &scratch.gdecay[at * n..(at + 1) * n];
            match &rows.decay {
                // SAFETY: as above.
                Some(decay) => unsafe { decay.range(row) }.copy_from_slice(gdecay),
                None => decay_sum.iter_mut().zip(gdecay).for_each(|(sum, g)| *sum += g),
            }
        }
    }
    transpose(scratch.d, state_grad, n);
}

/// A chunk of tokens over R registers' worth of keys: replays S, then goes backwards.
///
/// # Safety
/// `column..column + R * WIDTH` is within 0..N, `saved` has N * N elements; the elements of `span` in `rows` are ours;
/// otherwise as for [`Vector`].
#[inline(always)]
unsafe fn columns<V: Vector, const R: usize>(
    column: usize,
    span: Span,
    tile: Range<usize>,
    x: &Operands<'_>,
    saved: &[f32],
    y_grad: &[f32],
    vg: &[f32; CHUNK],
    rows: &Rows<'_>,
    bonus_sum: &mut [f32],
    scratch: &mut Scratch<'_>,
    lanes: usize,
) {
    let (n, width) = (span.size, R * V::WIDTH);
    assert!(width <= BLOCK && lanes <= LANES && tile.len() <= CHUNK);
    let replay = &mut scratch.replay[..CHUNK * n * width];
    for (i, row) in saved[column * n..(column + width) * n].chunks_exact(n).enumerate() {
        for (j, s) in row.iter().enumerate() {
            replay[j * width + i] = *s;
        }
    }
    // SAFETY: by the contract above; `s`, `d` and `gv` walk over the values' rows of scratch of the asserted sizes, and
    // what is written to `rows` and `bonus_sum` are the columns of one token of the head.
    unsafe {
        let mut s = replay.as_mut_ptr();
        for t in tile.start..tile.end - 1 {
            let v = &x.v[span.row(t)][..n];
            let (mut decay, mut k) = ([V::splat(0.0); R], [V::splat(0.0); R]);
            for b in 0..R {
                decay[b] = V::load(x.decay[t * x.decay_stride..][..n].as_ptr().add(column + b * V::WIDTH));
                k[b] = V::load(x.k[span.row(t)].as_ptr().add(column + b * V::WIDTH));
            }
            let next = s.add(n * width);
            for (j, v) in v.iter().enumerate() {
                let v = V::splat(*v);
                for b in 0..R {
                    let at = j * width + b * V::WIDTH;
                    V::store(V::fma(decay[b], V::load(s.add(at)), V::mul(k[b], v)), next.add(at));
                }
            }
            s = next;
        }

        for (local, t) in tile.enumerate().rev() {
            let row = span.row(t);
            let (v, gy) = (&x.v[row.clone()][..n], &y_grad[row.clone()][..n]);
            let zero = [V::splat(0.0); R];
            let (mut r, mut decay, mut k) = (zero, zero, zero);
            for b in 0..R {
                let at = column + b * V::WIDTH;
                r[b] = V::load(x.r[row.clone()].as_ptr().add(at));
                decay[b] = V::load(x.decay[t * x.decay_stride..][..n].as_ptr().add(at));
                k[b] = V::load(x.k[row.clone()].as_ptr().add(at));
            }
            let (mut gr, mut gk, mut gdecay) = (zero, zero, zero);
            let mut s = replay.as_ptr().add(local * n * width);
            let mut d = scratch.d.as_mut_ptr().add(column);
            let mut gv = scratch.gv.as_mut_ptr().add(local * n * lanes);
            for j in 0..n {
                let (v, gy) = (V::splat(v[j]), V::splat(gy[j]));
                let mut sum = V::load(gv);
                for b in 0..R {
                    let (state, grad) = (V::load(s.add(b * V::WIDTH)), V::load(d.add(b * V::WIDTH)));
                    gr[b] = V::fma(gy, state, gr[b]);
                    gk[b] = V::fma(v, grad, gk[b]);
                    gdecay[b] = V::fma(state, grad, gdecay[b]);
                    sum = V::fma(k[b], grad, sum);
                    V::store(V::fma(decay[b], grad, V::mul(r[b], gy)), d.add(b * V::WIDTH));
                }
                V::store(sum, gv);
                s = s.add(width);
                d = d.wrapping_add(n);
                gv = gv.add(lanes);
            }
            let vg = V::splat(vg[local]);
            let columns = row.start + column..row.start + column + width;
            let (to_r, to_k) = (rows.r.range(columns.clone()), rows.k.range(columns));
            let to_decay = &mut scratch.gdecay[local * n + column..][..width];
            let bonus = &mut bonus_sum[column..column + width];
            for b in 0..R {
                let at = b * V::WIDTH;
                let u = V::mul(vg, V::load(x.bonus.as_ptr().add(column + at)));
                V::store(V::fma(u, k[b], gr[b]), to_r.as_mut_ptr().add(at));
                V::store(V::fma(u, r[b], gk[b]), to_k.as_mut_ptr().add(at));
                V::store(gdecay[b], to_decay.as_mut_ptr().add(at));
                let bonus = bonus.as_mut_ptr().add(at);
                V::store(V::fma(V::mul(r[b], k[b]), vg, V::load(bonus)), bonus);
            }
        }
    }
}

/// `to[j, i] = from[i, j]` of [N, N].
#[inline(always)]
fn transpose(from: &[f32], to: &mut [f32], n: usize) {
    for i in 0..n {
        for j in 0..n {
            to[j * n + i] = from[i * n + j];
        }
    }
}

/// The sum of a register's lanes, a power of two; it is spent.
#[inline(always)]
fn horizontal(lanes: &mut [f32]) -> f32 {
    let mut half = lanes.len();
    while half > 1 {
        half /= 2;
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// `sum_i x_i y_i`.
#[inline(always)]
fn dot<I: Isa>(x: &[f32], y: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((xs, x), (ys, y)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for lane in 0..LANES {
            sums[lane] = I::fma(x[lane], y[lane], sums[lane]);
        }
    }
    for ((sum, &x), &y) in sums.iter_mut().zip(x).zip(y) {
        *sum = I::fma(x, y, *sum);
    }
    tree(sums)
}
