//! Gradients of WKV-7.
//!
//! Source: the equations of [`super`], differentiated; BlinkDL/RWKV-LM@524481d5, RWKV-v7/train_temp/cuda, has the same
//! with S un-wound instead of replayed.
//!
//! Equations, per head, from the last token to the first. G_ij is the loss' gradient of S_ij, at first that of the
//! final state and at last that of the initial one; g of an operand is the loss' gradient of it; S is the state after
//! the token and S' the one before it:
//! ```text
//! G_ij <- G_ij + r_i gy_j
//! gr_i = sum_j S_ij gy_j       gdecay_i = sum_j G_ij S'_ij    gk_i = sum_j G_ij v_j    gb_i = sum_j G_ij sa_j
//! gv_j = sum_i G_ij k_i        gsa_j = sum_i G_ij b_i         ga_i = sum_j S'_ij gsa_j
//! G_ij <- decay_i G_ij + a_i gsa_j
//! ```
//! `gdecay` is the gradient of the factor. A caller whose parameter is raw, with decay = exp(-exp(-0.5) * s) and
//! s = sigmoid(raw), multiplies it by -exp(-0.5) * decay * s * (1 - s).
//!
//! **What is saved.** The backward pass needs every S', which would be N floats a channel and token. Kept are S before
//! every [`CHUNK`]th token and sa of every token: N / 16 + 1 floats. The states in between are replayed from there,
//! with the very operations of the forward pass, hence the same to the bit. Un-winding them from the end,
//! S' = (S - k v - b sa) / decay, would need no room for a replayed chunk, but multiplies rounding errors by up to 1.83
//! a token, and a decay of 0 has no inverse at all.
//!
//! **Order.** The fast form holds S and G as [value, key] in its workspace, both padded: of the sums above five run
//! over values and two over keys, and sums over rows are the cheap ones. A row of S or of G meets no other row but in
//! sums, so a few rows at a time pass through a whole chunk, forth and back, and stay in the first-level cache, or in
//! registers where those of a head are enough for them. Each sum has one fixed order, so gradients are equal to the bit
//! in any batch and on any number of threads.
//!
//! Tested: reference = golden file and finite differences in f64; fast = reference; batch = single to the bit.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::super::vector::{One, Vector, arrived, copy_past, for_columns};
use super::super::{GRAIN, Heads, Span, check, share, split_unit, spread};
use super::{Inputs, correction, update};
use crate::pool::{Pool, SharedMut};
#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{Isa, Level, Portable, dispatch, fetch, level};
use crate::transpose::transpose;

/// Tokens from one saved state to the next.
pub const CHUNK: usize = 16;

/// What the forward pass saves for the backward pass: `B` is `&mut [f32]` for the one and `&[f32]` for the other.
#[derive(Clone, Copy, Debug)]
pub struct Saved<B> {
    /// S before every [`CHUNK`]th token of each sequence, its first one included: [`saved_states_len`] elements, as
    /// [slots, H, key, value]. Sequence s has the slots from `cu_seqlens[s] / CHUNK + s` on; a few stay unused.
    pub states: B,
    /// sa of every token, [ΣT, C].
    pub sa: B,
}

/// Elements of [`Saved::states`].
pub fn saved_states_len(heads: Heads, cu_seqlens: &[usize]) -> usize {
    slot(cu_seqlens, cu_seqlens.len() - 1) * heads.state_len()
}

/// The first slot of sequence s. They do not overlap: floor(start / 16) grows by at least floor(length / 16) to the
/// next.
fn slot(cu_seqlens: &[usize], s: usize) -> usize {
    cu_seqlens[s] / CHUNK + s
}

/// The gradients of [`Inputs`], each [ΣT, C]. Those of r, k and v are added to what is there, since a block's bonus reads
/// these three too; the others are overwritten.
#[derive(Clone, Copy, Debug)]
pub struct Gradients<B> {
    /// Of receptance.
    pub r: B,
    /// Of the decay factor.
    pub decay: B,
    /// Of the key.
    pub k: B,
    /// Of the value.
    pub v: B,
    /// Of what the correction reads.
    pub a: B,
    /// Of where the correction is written.
    pub b: B,
}

impl<T> Gradients<&mut [T]> {
    fn check(&self, heads: Heads, cu_seqlens: &[usize], gy: &[T], state_gradients: &[&mut [T]]) {
        let packed = [
            ("the gradient of y", gy.len()),
            ("the gradient of r", self.r.len()),
            ("the gradient of decay", self.decay.len()),
            ("the gradient of k", self.k.len()),
            ("the gradient of v", self.v.len()),
            ("the gradient of a", self.a.len()),
            ("the gradient of b", self.b.len()),
        ];
        check("wkv7 backward", heads.width(), cu_seqlens, &packed, state_gradients, heads.state_len());
    }
}

/// The equations, written out, with every state kept.
pub mod reference {
    use super::super::super::{Heads, Real, Span, sequences};
    use super::super::Inputs;
    use super::Gradients;

    /// Gradients of a ragged batch: `states` are the initial states, `gy` [ΣT, C] is the gradient of y, and
    /// `state_gradients`, one [H, key, value] a sequence, are those of the final states in and of the initial ones out.
    ///
    /// # Panics
    /// When the lengths do not fit each other.
    pub fn scan<T: Real>(
        heads: Heads,
        cu_seqlens: &[usize],
        x: &Inputs<'_, T>,
        states: &[&[T]],
        gy: &[T],
        state_gradients: &mut [&mut [T]],
        out: Gradients<&mut [T]>,
    ) {
        x.check(heads, cu_seqlens, state_gradients, gy);
        out.check(heads, cu_seqlens, gy, state_gradients);
        assert!(states.len() == state_gradients.len(), "wkv7 backward: {} initial states", states.len());
        let n = heads.head_size;
        for ((rows, state), state_gradient) in sequences(cu_seqlens).zip(states).zip(state_gradients) {
            for h in 0..heads.heads {
                let span = Span::new(heads, h, rows.clone());
                let matrix = h * n * n..(h + 1) * n * n;
                let mut saved = vec![state[matrix.clone()].to_vec()];
                let mut saved_sa = Vec::new();
                for t in 0..span.tokens {
                    let x = x.rows(span.row(t));
                    let mut s = saved[t].clone();
                    let mut sa = vec![T::ZERO; n];
                    for i in 0..n {
                        for j in 0..n {
                            sa[j] += x.a[i] * s[i * n + j];
                        }
                    }
                    for i in 0..n {
                        for j in 0..n {
                            s[i * n + j] = x.decay[i] * s[i * n + j] + x.b[i] * sa[j] + x.k[i] * x.v[j];
                        }
                    }
                    saved.push(s);
                    saved_sa.push(sa);
                }

                let g = &mut state_gradient[matrix];
                for t in (0..span.tokens).rev() {
                    let (row, before, after, sa) = (span.row(t), &saved[t], &saved[t + 1], &saved_sa[t]);
                    let (x, gy) = (x.rows(row.clone()), &gy[row.clone()]);
                    let mut gsa = vec![T::ZERO; n];
                    let first = row.start;
                    for gradient in [&mut *out.decay, &mut *out.a, &mut *out.b] {
                        gradient[row.clone()].fill(T::ZERO);
                    }
                    for i in 0..n {
                        for j in 0..n {
                            let e = i * n + j;
                            g[e] += x.r[i] * gy[j];
                            out.r[first + i] += after[e] * gy[j];
                            out.decay[first + i] += g[e] * before[e];
                            out.k[first + i] += g[e] * x.v[j];
                            out.b[first + i] += g[e] * sa[j];
                            out.v[first + j] += g[e] * x.k[i];
                            gsa[j] += g[e] * x.b[i];
                        }
                    }
                    for i in 0..n {
                        for j in 0..n {
                            let e = i * n + j;
                            out.a[first + i] += before[e] * gsa[j];
                            g[e] = x.decay[i] * g[e] + x.a[i] * gsa[j];
                        }
                    }
                }
            }
        }
    }
}

/// [`super::scan`], with the same results to the bit, that saves what [`scan`] needs.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan_saving(
    pool: &Pool,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    states: &mut [&mut [f32]],
    y: &mut [f32],
    saved: Saved<&mut [f32]>,
) {
    x.check(heads, cu_seqlens, states, y);
    check_saved(heads, cu_seqlens, saved.states, saved.sa);
    let (level, states, y) = (level(), share(states), SharedMut::new(y));
    let saved = Saved { states: SharedMut::new(saved.states), sa: SharedMut::new(saved.sa) };
    let work = 5 * heads.head_size * heads.head_size;
    // SAFETY: the shapes were checked, and the pool hands out every unit once.
    spread(pool, heads.heads, cu_seqlens, work, |units| unsafe {
        scan_saving_units(level, units, heads, cu_seqlens, x, &states, &y, &saved);
    });
}

/// [`scan_saving`] for some units only, on this thread: unit `h * S + s` is head h of sequence s, of S sequences.
///
/// # Safety
/// All shapes are as [`scan_saving`] wants them, and while this runs nothing else touches the given units' part of
/// `states` and `saved.states` (their head's matrices) and of `y` and `saved.sa` (their head's channels in their
/// sequence's rows).
pub unsafe fn scan_saving_units(
    level: Level,
    units: Range<usize>,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    states: &[SharedMut<'_, f32>],
    y: &SharedMut<'_, f32>,
    saved: &Saved<SharedMut<'_, f32>>,
) {
    let matrix = heads.head_size * heads.head_size;
    for unit in units {
        let (h, s) = split_unit(unit, cu_seqlens);
        let span = Span::new(heads, h, cu_seqlens[s]..cu_seqlens[s + 1]);
        let first = slot(cu_seqlens, s) * heads.state_len() + h * matrix;
        // SAFETY: this head's matrix is ours by this function's contract.
        let state = unsafe { states[s].range(h * matrix..(h + 1) * matrix) };
        saving_head(level, span, x, state, y, saved, first);
    }
}

/// Gradients of a ragged batch over the pool's threads: `saved` is what [`scan_saving`] saved, `gy` [ΣT, C] is the
/// gradient of y, and `state_gradients`, one [H, key, value] a sequence, are those of the final states in and of the
/// initial ones out. `workspace` has at least [`workspace_len`] elements, whatever they are.
///
/// # Panics
/// When the lengths do not fit each other.
pub fn scan(
    pool: &Pool,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    saved: Saved<&[f32]>,
    gy: &[f32],
    state_gradients: &mut [&mut [f32]],
    out: Gradients<&mut [f32]>,
    workspace: &mut [f32],
) {
    x.check(heads, cu_seqlens, state_gradients, gy);
    out.check(heads, cu_seqlens, gy, state_gradients);
    check_saved(heads, cu_seqlens, saved.states, saved.sa);
    let (each, needed) = (Workspace::new(heads.head_size).len(), workspace_len(pool.threads(), heads));
    assert!(workspace.len() >= needed, "wkv7 backward: workspace has {} of {needed} elements", workspace.len());

    let (level, states, units) = (level(), share(state_gradients), heads.heads * (cu_seqlens.len() - 1));
    let out = Gradients {
        r: SharedMut::new(out.r),
        decay: SharedMut::new(out.decay),
        k: SharedMut::new(out.k),
        v: SharedMut::new(out.v),
        a: SharedMut::new(out.a),
        b: SharedMut::new(out.b),
    };
    let work = 13 * heads.head_size * gy.len();
    let workers = pool.threads().min(units).min(work.div_ceil(GRAIN));
    let start = workspace.as_ptr().align_offset(ALIGN * size_of::<f32>()).min(ALIGN - 1);
    let workspace = SharedMut::new(&mut workspace[start..]);
    let next = AtomicUsize::new(0);
    // A unit of the pool is a worker with a workspace of its own, which takes heads as long as there are any.
    pool.run(workers, 1, |workers| {
        for worker in workers {
            // SAFETY: the pool hands out every worker once.
            let workspace = unsafe { workspace.range(worker * each..(worker + 1) * each) };
            loop {
                let unit = next.fetch_add(1, Ordering::Relaxed);
                if unit >= units {
                    break;
                }
                // SAFETY: the shapes were checked, and the counter hands out every unit once.
                unsafe { scan_units(level, unit..unit + 1, heads, cu_seqlens, x, saved, gy, &states, &out, workspace) };
            }
        }
    });
}

/// Elements of workspace that [`scan`] wants for a pool of so many threads; [`scan_units`] wants those of one.
pub fn workspace_len(threads: usize, heads: Heads) -> usize {
    threads * Workspace::new(heads.head_size).len() + ALIGN - 1
}

/// [`scan`] for some units only, on this thread: unit `h * S + s` is head h of sequence s, of S sequences.
///
/// # Safety
/// All shapes are as [`scan`] wants them, and while this runs nothing else touches the given units' part of
/// `state_gradients` (their head's matrix) and of `out` (their head's channels in their sequence's rows).
pub unsafe fn scan_units(
    level: Level,
    units: Range<usize>,
    heads: Heads,
    cu_seqlens: &[usize],
    x: &Inputs<'_, f32>,
    saved: Saved<&[f32]>,
    gy: &[f32],
    state_gradients: &[SharedMut<'_, f32>],
    out: &Gradients<SharedMut<'_, f32>>,
    workspace: &mut [f32],
) {
    let matrix = heads.head_size * heads.head_size;
    for unit in units {
        let (h, s) = split_unit(unit, cu_seqlens);
        let span = Span::new(heads, h, cu_seqlens[s]..cu_seqlens[s + 1]);
        if span.tokens == 0 {
            continue;
        }
        let first = slot(cu_seqlens, s) * heads.state_len() + h * matrix;
        // SAFETY: this head's matrix is ours by this function's contract.
        let g = unsafe { state_gradients[s].range(h * matrix..(h + 1) * matrix) };
        gradients_head(level, span, x, saved, first, gy, g, out, workspace);
    }
}

fn check_saved(heads: Heads, cu_seqlens: &[usize], states: &[f32], sa: &[f32]) {
    let (rows, len) = (cu_seqlens[cu_seqlens.len() - 1], saved_states_len(heads, cu_seqlens));
    assert!(states.len() == len, "wkv7 backward: saved states have {} elements instead of {len}", states.len());
    let len = rows * heads.width();
    assert!(sa.len() == len, "wkv7 backward: saved sa has {} elements instead of {len}", sa.len());
}

dispatch! {
    /// The forward pass of one head, `state` is [N, N] and its saved states start at element `first`. Only
    /// `scan_saving_units` calls this: the elements of y and `saved` that belong to the head are its own.
    fn saving_head(
        span: Span,
        x: &Inputs<'_, f32>,
        state: &mut [f32],
        y: &SharedMut<'_, f32>,
        saved: &Saved<SharedMut<'_, f32>>,
        first: usize,
    ) = saving_head_body;

    /// The backward pass of one head, `g` is [N, N]. Only `scan_units` calls this: the elements of `out` that
    /// belong to the head are its own.
    fn gradients_head(
        span: Span,
        x: &Inputs<'_, f32>,
        saved: Saved<&[f32]>,
        first: usize,
        gy: &[f32],
        g: &mut [f32],
        out: &Gradients<SharedMut<'_, f32>>,
        workspace: &mut [f32],
    ) = gradients_head_body;
}

#[inline(always)]
fn saving_head_body<I: Isa + Vector>(
    span: Span,
    x: &Inputs<'_, f32>,
    state: &mut [f32],
    y: &SharedMut<'_, f32>,
    saved: &Saved<SharedMut<'_, f32>>,
    first: usize,
) {
    let n = span.size;
    assert!(state.len() == n * n);
    let mut slot = first;
    for start in (0..span.tokens).step_by(super::TILE) {
        // SAFETY: the only caller is `saving_head`, compiled for `I` and on a CPU that has it; `saving_columns` gets
        // columns that exist; the elements of y and `saved` are ours, see `saving_head`.
        unsafe {
            if start.is_multiple_of(CHUNK) {
                copy_past::<I>(state, saved.states.range(slot..slot + n * n));
                slot += span.stride * n;
            }
            let tile = start..span.tokens.min(start + super::TILE);
            for_columns!(I, n, saving_columns, 4, (span, tile.clone(), x, state, y, &saved.sa));
        }
    }
    arrived();
}

/// A tile of tokens over R registers' worth of columns of the state, as in the forward pass without saving.
///
/// # Safety
/// As for the functions of [`super`] that this calls: the columns exist, and the elements of y and sa in `span` are
/// ours.
#[inline(always)]
unsafe fn saving_columns<V: Vector, const R: usize>(
    column: usize,
    span: Span,
    tile: Range<usize>,
    x: &Inputs<'_, f32>,
    state: &mut [f32],
    y: &SharedMut<'_, f32>,
    saved_sa: &SharedMut<'_, f32>,
) {
    // SAFETY: by the contract above.
    unsafe {
        let mut sa = correction::<V, R>(column, &x.a[span.row(tile.start)], state);
        for t in tile.clone() {
            let row = span.row(t);
            let token = x.rows(row.clone());
            let columns = row.start + column..row.start + column + R * V::WIDTH;
            let later = span.row(t + super::TILE).start + column;
            x.fetch(later, R * V::WIDTH);
            for result in [y, saved_sa] {
                fetch(result.start().wrapping_add(later), R * V::WIDTH);
            }
            let save = saved_sa.range(columns.clone());
            for j in 0..R {
                V::store(sa[j], save.as_mut_ptr().add(j * V::WIDTH));
            }
            let out = y.range(columns);
            sa = if t + 1 < tile.end {
                update::<V, R, true>(column, &token, &x.a[span.row(t + 1)], &sa, state, out)
            } else {
                update::<V, R, false>(column, &token, token.a, &sa, state, out)
            };
        }
    }
}

/// f32 that the rows of a workspace are padded and aligned to: the widest register, and a cache line.
const ALIGN: usize = 16;
/// Registers of a row that are kept from token to token, where there are enough of them: a head of 64 in AVX-512.
const HELD: usize = 4;
/// Values whose rows of S and G pass through a chunk together.
const ROWS: usize = 4;

/// A token's operands, a row each: where they lie or, if N fills no whole registers, padded in workspace.
const R: usize = 0;
const DECAY: usize = 1;
const K: usize = 2;
const A: usize = 3;
const B: usize = 4;
const V: usize = 5;
const SA: usize = 6;
const GY: usize = 7;
const OPERANDS: usize = 8;

/// A token's gradients in workspace, one padded row each.
const G_R: usize = 0;
const G_DECAY: usize = 1;
const G_K: usize = 2;
const G_A: usize = 3;
const G_B: usize = 4;
const G_V: usize = 5;
const GRADIENTS: usize = 6;

/// How a thread's workspace is laid out: S before a chunk [rows, lanes] and G [rows, lanes], both [value, key]; a block
/// of rows of S after each token of the chunk [CHUNK, ROWS, lanes]; then [CHUNK, OPERANDS, lanes] and
/// [CHUNK, GRADIENTS, lanes]. What pads N is 0. The room for operands is unused where N fills whole registers.
#[derive(Clone, Copy)]
struct Workspace {
    n: usize,
    /// N, padded to whole registers.
    lanes: usize,
    /// N, padded to whole blocks of rows.
    rows: usize,
}

impl Workspace {
    fn new(n: usize) -> Workspace {
        Workspace { n, lanes: n.next_multiple_of(ALIGN), rows: n.next_multiple_of(ROWS) }
    }

    fn len(self) -> usize {
        (2 * self.rows + CHUNK * (ROWS + OPERANDS + GRADIENTS)) * self.lanes
    }
}

#[inline(always)]
fn gradients_head_body<I: Isa + Sums>(
    span: Span,
    x: &Inputs<'_, f32>,
    saved: Saved<&[f32]>,
    first: usize,
    gy: &[f32],
    g_state: &mut [f32],
    out: &Gradients<SharedMut<'_, f32>>,
    workspace: &mut [f32],
) {
    let layout = Workspace::new(span.size);
    let Workspace { n, lanes, rows } = layout;
    let workspace = &mut workspace[..layout.len()];
    workspace.fill(0.0);
    let (state, rest) = workspace.split_at_mut(rows * lanes);
    let (g, rest) = rest.split_at_mut(rows * lanes);
    let (states, rest) = rest.split_at_mut(CHUNK * ROWS * lanes);
    let (operands, sums) = rest.split_at_mut(CHUNK * OPERANDS * lanes);
    assert!(g_state.len() == n * n && sums.len() == CHUNK * GRADIENTS * lanes);

    let packed = [x.r, x.decay, x.k, x.a, x.b, x.v, saved.sa, gy];
    let gradients = [&out.r, &out.decay, &out.k, &out.a, &out.b, &out.v];
    // SAFETY: the caller is compiled for `I`; either side has n rows and columns, here and below.
    unsafe { transpose::<I>(g_state.as_ptr(), n, g.as_mut_ptr(), lanes, n, n) };
    for chunk in (0..span.tokens.div_ceil(CHUNK)).rev() {
        let tokens = chunk * CHUNK..span.tokens.min((chunk + 1) * CHUNK);
        let saved_state = first + chunk * span.stride * n;
        let saved_states = &saved.states[saved_state..saved_state + n * n];
        // SAFETY: as above.
        unsafe { transpose::<I>(saved_states.as_ptr(), n, state.as_mut_ptr(), lanes, n, n) };
        let (mut operand_rows, mut operand_step) =
            (packed.map(|operand| operand[span.row(tokens.start)].as_ptr()), span.stride);
        if n < lanes {
            for (t, operands) in tokens.clone().zip(operands.chunks_exact_mut(OPERANDS * lanes)) {
                for (from, to) in packed.iter().zip(operands.chunks_exact_mut(lanes)) {
                    to[..n].copy_from_slice(&from[span.row(t)]);
                }
            }
            operand_rows = std::array::from_fn(|operand| operands[operand * lanes..].as_ptr());
            operand_step = OPERANDS * lanes;
        }
        sums.fill(0.0);
        for j in (0..rows).step_by(ROWS) {
            // A share of what this chunk will write, and of what the one before it will read.
            for t in (j / ROWS..CHUNK).step_by(rows / ROWS) {
                let start = span.row(tokens.start).start + t * span.stride;
                for gradient in gradients {
                    // SAFETY: nothing is written.
                    fetch(unsafe { gradient.start() }.wrapping_add(start), n);
                }
                if chunk > 0 {
                    let start = start - CHUNK * span.stride;
                    packed.iter().for_each(|operand| fetch(operand.as_ptr().wrapping_add(start), n));
                }
            }
            if chunk > 0 {
                let state = saved_state - span.stride * n + j * n;
                fetch(saved.states.as_ptr().wrapping_add(state), ROWS * n);
            }
            // SAFETY: the only caller is `gradients_head`, compiled for `I` and on a CPU that has it; these rows of S
            // and G exist, and so do the states, operands and gradients of the chunk's tokens.
            unsafe {
                let block = Block {
                    lanes,
                    j,
                    tokens: tokens.len(),
                    operands: operand_rows,
                    operand_step,
                    state: state.as_ptr().add(j * lanes),
                    states: states.as_mut_ptr(),
                    g: g.as_mut_ptr().add(j * lanes),
                    sums: sums.as_mut_ptr(),
                };
                if lanes == HELD * I::WIDTH && I::LEVEL >= Level::Avx512 {
                    chunk_rows::<I, HELD>(&block);
                } else {
                    chunk_rows::<I, 0>(&block);
                }
            }
        }
        for (t, sums) in tokens.zip(sums.chunks_exact(GRADIENTS * lanes)) {
            for (gradient, sums) in sums.chunks_exact(lanes).enumerate() {
                // SAFETY: this head's elements of `out` are ours.
                let to = unsafe { gradients[gradient].range(span.row(t)) };
                if matches!(gradient, G_R | G_K | G_V) {
                    to.iter_mut().zip(sums).for_each(|(to, sum)| *to += sum);
                } else {
                    to.copy_from_slice(&sums[..n]);
                }
            }
        }
    }
    // SAFETY: as above.
    unsafe { transpose::<I>(g.as_ptr(), lanes, g_state.as_mut_ptr(), n, n, n) };
}

/// Some rows of S and G and a chunk of tokens.
struct Block {
    lanes: usize,
    /// The first row.
    j: usize,
    /// Tokens of the chunk.
    tokens: usize,
    /// The first token's operands, and the elements from a token to the next.
    operands: [*const f32; OPERANDS],
    operand_step: usize,
    /// The rows of S before the chunk.
    state: *const f32,
    /// Those after each token.
    states: *mut f32,
    /// The rows of G.
    g: *mut f32,
    /// The gradients of each token.
    sums: *mut f32,
}

impl Block {
    /// Lanes of a row.
    #[inline(always)]
    fn lanes<W: Vector, const C: usize>(&self) -> usize {
        if C > 0 { C * W::WIDTH } else { self.lanes }
    }

    /// Registers of a row.
    #[inline(always)]
    fn registers<W: Vector, const C: usize>(&self) -> usize {
        self.lanes::<W, C>() / W::WIDTH
    }

    /// A token's operands.
    #[inline(always)]
    fn token(&self, t: usize) -> [*const f32; OPERANDS] {
        self.operands.map(|operand| operand.wrapping_add(t * self.operand_step))
    }

    /// A token's gradients.
    #[inline(always)]
    fn sums<W: Vector, const C: usize>(&self, t: usize) -> [*mut f32; GRADIENTS] {
        let lanes = self.lanes::<W, C>();
        std::array::from_fn(|gradient| self.sums.wrapping_add((t * GRADIENTS + gradient) * lanes))
    }
}

/// A chunk of tokens over [`ROWS`] rows of S and G, of [value, key]: nothing in the equations connects one value with
/// another but the sums over values, so a block of rows and its states stay in the first-level cache. Adds to the
/// gradients of every token. C: registers of a row, if the block's rows stay in registers; 0 if they do not fit.
///
/// # Safety
/// The pointers are valid for the rows and tokens they are said to hold; otherwise as for [`Vector`].
#[inline(always)]
unsafe fn chunk_rows<W: Sums, const C: usize>(x: &Block) {
    // SAFETY: by the contract above.
    unsafe {
        let each = ROWS * x.lanes::<W, C>();
        let mut s = Held::<W, C>::new(x.state.cast_mut(), x);
        for t in 0..x.tokens {
            replay::<W, C>(x, t, &mut s, x.states.add(t * each));
        }
        let mut g = Held::<W, C>::new(x.g, x);
        for t in (0..x.tokens).rev() {
            let before = if t == 0 { x.state } else { x.states.add((t - 1) * each) };
            let gsa = arrive::<W, C>(x, t, &mut g);
            stay::<W, C>(x, t, before, &g);
            leave::<W, C>(x, t, before, &gsa, &mut g);
        }
        g.put_back();
    }
}

/// The rows of a block: C registers each, or, if C is 0, in memory.
struct Held<W: Vector, const C: usize> {
    registers: [[W::F32; C]; ROWS],
    rows: *mut f32,
    lanes: usize,
}

impl<W: Vector, const C: usize> Held<W, C> {
    #[inline(always)]
    unsafe fn new(rows: *mut f32, x: &Block) -> Self {
        // SAFETY: by the contract of `chunk_rows`, here and below.
        unsafe {
            let lanes = x.lanes::<W, C>();
            let mut registers = [[W::splat(0.0); C]; ROWS];
            for q in 0..ROWS {
                for c in 0..C {
                    registers[q][c] = W::load(rows.add(q * lanes + c * W::WIDTH));
                }
            }
            Held { registers, rows, lanes }
        }
    }

    /// Register `c` of row `q`.
    #[inline(always)]
    unsafe fn get(&self, q: usize, c: usize) -> W::F32 {
        // SAFETY: as above.
        unsafe { if C > 0 { self.registers[q][c] } else { W::load(self.rows.add(q * self.lanes + c * W::WIDTH)) } }
    }

    #[inline(always)]
    unsafe fn set(&mut self, q: usize, c: usize, value: W::F32) {
        if C > 0 {
            self.registers[q][c] = value;
        } else {
            // SAFETY: as above.
            unsafe { W::store(value, self.rows.add(q * self.lanes + c * W::WIDTH)) };
        }
    }

    /// Writes what was held in registers.
    #[inline(always)]
    unsafe fn put_back(&self) {
        for q in 0..ROWS {
            for c in 0..C {
                // SAFETY: as above.
                unsafe { W::store(self.registers[q][c], self.rows.add(q * self.lanes + c * W::WIDTH)) };
            }
        }
    }
}

/// For each row of a block, its element of one operand in all lanes.
#[inline(always)]
unsafe fn splats<W: Vector>(from: *const f32) -> [W::F32; ROWS] {
    // SAFETY: by the contract of `chunk_rows`.
    unsafe {
        let mut out = [W::splat(0.0); ROWS];
        for q in 0..ROWS {
            out[q] = W::splat(*from.add(q));
        }
        out
    }
}

/// The next state from the one before, and gr.
///
/// # Safety
/// As for [`chunk_rows`]; `t` is a token of the chunk.
#[inline(always)]
unsafe fn replay<W: Vector, const C: usize>(x: &Block, t: usize, s: &mut Held<W, C>, after: *mut f32) {
    // SAFETY: by the contract above.
    unsafe {
        let (token, to) = (x.token(t), x.sums::<W, C>(t)[G_R]);
        let v = splats::<W>(token[V].add(x.j));
        let sa = splats::<W>(token[SA].add(x.j));
        let gy = splats::<W>(token[GY].add(x.j));
        for c in 0..x.registers::<W, C>() {
            let column = c * W::WIDTH;
            let [decay, k, b] = [DECAY, K, B].map(|operand| W::load(token[operand].add(column)));
            let mut sum = W::load(to.add(column));
            for q in 0..ROWS {
                let new = W::fma(v[q], k, W::fma(sa[q], b, W::mul(s.get(q, c), decay)));
                W::store(new, after.add(q * x.lanes::<W, C>() + column));
                if C > 0 {
                    s.set(q, c, new);
                }
                sum = W::fma(gy[q], new, sum);
            }
            W::store(sum, to.add(column));
        }
        if C == 0 {
            s.rows = after;
        }
    }
}

/// Adds what y says to G, then gsa: a sum over keys, lane by lane and then over the lanes.
///
/// # Safety
/// As for [`replay`].
#[inline(always)]
unsafe fn arrive<W: Sums, const C: usize>(x: &Block, t: usize, g: &mut Held<W, C>) -> [f32; ROWS] {
    // SAFETY: by the contract above.
    unsafe {
        let token = x.token(t);
        let mut gsa = [W::splat(0.0); ROWS];
        let gy = splats::<W>(token[GY].add(x.j));
        for c in 0..x.registers::<W, C>() {
            let [r, b] = [R, B].map(|operand| W::load(token[operand].add(c * W::WIDTH)));
            for q in 0..ROWS {
                let new = W::fma(gy[q], r, g.get(q, c));
                g.set(q, c, new);
                gsa[q] = W::fma(new, b, gsa[q]);
            }
        }
        let mut out = [0.0; ROWS];
        W::sums(gsa, out.as_mut_ptr());
        out
    }
}

/// What does not wait for gsa: gv, a sum over keys, and the sums over values but ga.
///
/// # Safety
/// As for [`replay`]; `before` is S before the token.
#[inline(always)]
unsafe fn stay<W: Sums, const C: usize>(x: &Block, t: usize, before: *const f32, g: &Held<W, C>) {
    // SAFETY: by the contract above.
    unsafe {
        let (token, sums) = (x.token(t), x.sums::<W, C>(t));
        let mut gv = [W::splat(0.0); ROWS];
        let v = splats::<W>(token[V].add(x.j));
        let sa = splats::<W>(token[SA].add(x.j));
        for c in 0..x.registers::<W, C>() {
            let column = c * W::WIDTH;
            let k = W::load(token[K].add(column));
            let to = [G_DECAY, G_K, G_B].map(|gradient| sums[gradient].add(column));
            let [mut gdecay, mut gk, mut gb] = to.map(|to| W::load(to));
            for q in 0..ROWS {
                let (s, now) = (W::load(before.add(q * x.lanes::<W, C>() + column)), g.get(q, c));
                gv[q] = W::fma(now, k, gv[q]);
                gdecay = W::fma(now, s, gdecay);
                gk = W::fma(now, v[q], gk);
                gb = W::fma(now, sa[q], gb);
            }
            for (sum, to) in [gdecay, gk, gb].into_iter().zip(to) {
                W::store(sum, to);
            }
        }
        // These values are this block's alone.
        W::sums(gv, sums[G_V].add(x.j));
    }
}

/// ga, and G on its way to the token before.
///
/// # Safety
/// As for [`stay`].
#[inline(always)]
unsafe fn leave<W: Vector, const C: usize>(
    x: &Block,
    t: usize,
    before: *const f32,
    gsa: &[f32; ROWS],
    g: &mut Held<W, C>,
) {
    // SAFETY: by the contract above.
    unsafe {
        let (token, to) = (x.token(t), x.sums::<W, C>(t)[G_A]);
        let gsa = splats::<W>(gsa.as_ptr());
        for c in 0..x.registers::<W, C>() {
            let column = c * W::WIDTH;
            let [decay, a] = [DECAY, A].map(|operand| W::load(token[operand].add(column)));
            let mut ga = W::load(to.add(column));
            for q in 0..ROWS {
                let s = W::load(before.add(q * x.lanes::<W, C>() + column));
                ga = W::fma(s, gsa[q], ga);
                g.set(q, c, W::fma(a, gsa[q], W::mul(g.get(q, c), decay)));
            }
            W::store(ga, to.add(column));
        }
    }
}

/// Registers whose lanes can be added up.
///
/// # Safety
/// As for [`Vector`].
trait Sums: Vector {
    /// Writes the sum over the lanes of each of four registers to `to`.
    unsafe fn sums(x: [Self::F32; ROWS], to: *mut f32);
}

impl Sums for Portable {
    #[inline(always)]
    unsafe fn sums(x: [[f32; 4]; ROWS], to: *mut f32) {
        for q in 0..ROWS {
            // SAFETY: by the contract of the trait.
            unsafe { to.add(q).write((x[q][0] + x[q][2]) + (x[q][1] + x[q][3])) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Sums for Avx2 {
    #[inline(always)]
    unsafe fn sums(x: [__m256; ROWS], to: *mut f32) {
        // SAFETY: by the contract of the trait.
        unsafe {
            let [a, b, c, d] = x;
            let ab = _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let cd = _mm256_add_ps(_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            let even = _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd);
            let odd = _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd);
            let halves = _mm256_add_ps(even, odd);
            _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves)));
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Sums for Avx512 {
    #[inline(always)]
    unsafe fn sums(x: [__m512; ROWS], to: *mut f32) {
        // SAFETY: by the contract of the trait.
        unsafe {
            let mut halves = [_mm256_setzero_ps(); ROWS];
            for q in 0..ROWS {
                halves[q] = _mm256_add_ps(_mm512_castps512_ps256(x[q]), _mm512_extractf32x8_ps::<1>(x[q]));
            }
            <Avx2 as Sums>::sums(halves, to);
        }
    }
}
