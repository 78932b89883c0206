//! Language modelling: the next token's cross-entropy over packed sequences, and its gradient, whole or in pieces.
//!
//! In pieces of time ([`Plan::chunk`]) or of depth ([`Plan::checkpoint`]) the gradient is the same as whole, up to
//! rounding; only memory and time differ. Both work alike: a piece's inputs become leaves, its outputs are [seeded](seed)
//! with the gradient that the pieces after it left, and the backward pass of the piece yields the gradient for the
//! pieces before.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Gradients as Graph, Tensor};

use crate::gradients::Gradients;
use crate::mixer::{BlockState, Pass};
use crate::model::LanguageModel;
use crate::op::cross_entropy::{Targets, cross_entropy};
use crate::op::seed::seed;

use super::{Step, scalar};

/// Packed sequences and what follows each of their tokens.
#[derive(Clone, Debug)]
pub struct Packed {
    /// `[ΣT]`.
    pub tokens: Arc<[u32]>,
    /// Borders of the S sequences, S + 1 numbers.
    pub cu_seqlens: Arc<[usize]>,
    /// Next tokens and weights.
    pub targets: Targets,
}

/// How a gradient is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Keep each block's inputs only, and run it again for its gradient: memory of one block instead of all.
    pub checkpoint: bool,
    /// Cut sequences into pieces of this many tokens, states carried on: memory of one piece. A model without states
    /// ([`LanguageModel::has_state`]) sees nothing of the pieces before: its context is cut.
    pub chunk: Option<usize>,
    /// With `chunk`: begin every piece with nothing instead of the state that the piece before left.
    pub forget: bool,
    /// With `chunk`: carry gradients back through the states too, so that nothing is truncated; every piece runs twice.
    pub state_gradient: bool,
}

/// The loss of sequences that begin with `states`, which become the final ones.
pub fn loss(model: &LanguageModel, batch: &Packed, states: &mut [BlockState]) -> Tensor<1> {
    let x = model.forward(&batch.tokens, &batch.cu_seqlens, states);
    head_loss(model, &x, &batch.targets)
}

/// The loss of sequences that begin with nothing, outside of any graph, at most `piece` tokens of each at a time: memory
/// does not grow with their length. The same to rounding as [`loss`]; a model without states takes them whole.
pub fn evaluate(model: &LanguageModel, batch: &Packed, piece: usize) -> f64 {
    let model = model.without_graph();
    let mut states = model.initial_states(batch.cu_seqlens.len() - 1);
    let longest = batch.longest();
    let piece = if model.has_state() { piece.clamp(1, longest.max(1)) } else { longest.max(1) };
    let pieces = longest.div_ceil(piece);
    let each = |index: usize| {
        let part = batch.part(index * piece..(index + 1) * piece);
        f64::from(scalar(&loss(&model, &part, &mut states)))
    };
    (0..pieces).map(each).sum()
}

fn head_loss(model: &LanguageModel, x: &Tensor<2>, targets: &Targets) -> Tensor<1> {
    let (norm, head) = model.head();
    let x = norm.layer_norm(x, model.sizes().layer_norm_eps);
    cross_entropy(&x, &head.matrix(), targets)
}

/// The loss and its gradient, for sequences that begin with nothing.
pub fn gradients(model: &LanguageModel, batch: &Packed, plan: &Plan) -> Step {
    let mut states = model.initial_states(batch.cu_seqlens.len() - 1);
    let longest = batch.longest();
    let chunk = match plan.chunk {
        Some(chunk) if chunk.max(1) < longest => chunk.max(1),
        _ => return piece(model, batch, &mut states, None, plan.checkpoint).0,
    };
    let pieces = longest.div_ceil(chunk);
    let part = |index: usize| batch.part(index * chunk..(index + 1) * chunk);
    let mut total = Step { loss: 0.0, gradients: Gradients::default() };
    if !plan.state_gradient {
        for index in 0..pieces {
            if plan.forget {
                states = model.initial_states(batch.cu_seqlens.len() - 1);
            }
            let (step, _) = piece(model, &part(index), &mut states, None, plan.checkpoint);
            total.loss += step.loss;
            total.gradients.add(step.gradients);
        }
        return total;
    }
    // The states before every piece, then the gradients from the last piece to the first.
    let plain = model.without_graph();
    let mut before = Vec::with_capacity(pieces);
    for index in 0..pieces {
        before.push(detached(&states));
        if index + 1 < pieces {
            let part = part(index);
            plain.forward(&part.tokens, &part.cu_seqlens, &mut states);
        }
    }
    let mut after = None;
    for (index, mut states) in before.into_iter().enumerate().rev() {
        let (step, gradient) = piece(model, &part(index), &mut states, Some(after.as_deref()), plan.checkpoint);
        total.loss += step.loss;
        total.gradients.add(step.gradients);
        after = Some(gradient);
    }
    total
}

impl Packed {
    /// Tokens of the longest sequence.
    fn longest(&self) -> usize {
        self.cu_seqlens.windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0)
    }

    /// Of every sequence the tokens at `range`, counted from its beginning; those it has not are left out.
    fn part(&self, range: Range<usize>) -> Packed {
        let (mut tokens, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        let mut cu_seqlens = vec![0];
        for ends in self.cu_seqlens.windows(2) {
            let own = (ends[0] + range.start).min(ends[1])..(ends[0] + range.end).min(ends[1]);
            tokens.extend_from_slice(&self.tokens[own.clone()]);
            targets.extend_from_slice(&self.targets.tokens[own.clone()]);
            weights.extend_from_slice(&self.targets.weights[own]);
            cu_seqlens.push(tokens.len());
        }
        let targets = Targets { tokens: targets.into(), weights: weights.into(), ..self.targets };
        Packed { tokens: tokens.into(), cu_seqlens: cu_seqlens.into(), targets }
    }

    /// The rows of the sequences `range`.
    pub fn sequences(&self, range: Range<usize>) -> Packed {
        let rows = self.cu_seqlens[range.start]..self.cu_seqlens[range.end];
        let cu_seqlens = self.cu_seqlens[range.start..=range.end].iter().map(|end| end - rows.start).collect();
        let targets = Targets {
            tokens: self.targets.tokens[rows.clone()].into(),
            weights: self.targets.weights[rows.clone()].into(),
            ..self.targets
        };
        Packed { tokens: self.tokens[rows].into(), cu_seqlens, targets }
    }
}

/// The same values outside of any graph.
fn detached(states: &[BlockState]) -> Vec<BlockState> {
    let each = |state: &BlockState| BlockState {
        att_shift: state.att_shift.clone().detach(),
        wkv: state.wkv.clone().detach(),
        ffn_shift: state.ffn_shift.clone().detach(),
    };
    states.iter().map(each).collect()
}

/// The same values as leaves whose gradients are asked for.
fn leaves(states: &[BlockState]) -> Vec<BlockState> {
    let each = |state: &BlockState| BlockState {
        att_shift: state.att_shift.clone().detach().require_grad(),
        wkv: state.wkv.clone().detach().require_grad(),
        ffn_shift: state.ffn_shift.clone().detach().require_grad(),
    };
    states.iter().map(each).collect()
}

/// Seeds for the final states of blocks.
fn seed_states(states: &[BlockState], gradients: &[BlockState], objective: &mut Vec<Tensor<1>>) {
    for (state, gradient) in states.iter().zip(gradients) {
        objective.push(seed(&state.att_shift, &gradient.att_shift));
        objective.push(seed(&state.wkv, &gradient.wkv));
        objective.push(seed(&state.ffn_shift, &gradient.ffn_shift));
    }
}

fn gradient_of<const D: usize>(leaf: &Tensor<D>, graph: &mut Graph) -> Tensor<D> {
    leaf.grad_remove(graph).unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

/// The gradients of initial states.
fn take_states(leaves: &[BlockState], graph: &mut Graph) -> Vec<BlockState> {
    let each = |state: &BlockState| BlockState {
        att_shift: gradient_of(&state.att_shift, graph),
        wkv: gradient_of(&state.wkv, graph),
        ffn_shift: gradient_of(&state.ffn_shift, graph),
    };
    leaves.iter().map(each).collect()
}

/// The gradients of one piece of time. `states` are the initial ones and become the final ones, outside of any graph.
/// `after`: none if gradients through the states are not asked for, else those of the final states (none: zero); then
/// those of the initial states are returned.
fn piece(
    model: &LanguageModel,
    batch: &Packed,
    states: &mut [BlockState],
    after: Option<Option<&[BlockState]>>,
    checkpoint: bool,
) -> (Step, Vec<BlockState>) {
    if checkpoint {
        return piece_by_block(model, batch, states, after);
    }
    let initial = if after.is_some() { leaves(states) } else { detached(states) };
    let mut running = initial.clone();
    let loss = loss(model, batch, &mut running);
    let mut objective = vec![loss.clone()];
    if let Some(Some(gradients)) = after {
        seed_states(&running, gradients, &mut objective);
    }
    states.clone_from_slice(&detached(&running));
    drop(running);
    let mut graph = total(objective).backward();
    let through = if after.is_some() { take_states(&initial, &mut graph) } else { Vec::new() };
    let gradients = Gradients::take(model, &mut graph);
    (Step { loss: scalar(&loss), gradients }, through)
}

fn total(objective: Vec<Tensor<1>>) -> Tensor<1> {
    let mut terms = objective.into_iter();
    let first = terms.next().expect("an objective has a term");
    terms.fold(first, |sum, term| sum + term)
}

/// As [`piece`], block by block.
fn piece_by_block(
    model: &LanguageModel,
    batch: &Packed,
    states: &mut [BlockState],
    after: Option<Option<&[BlockState]>>,
) -> (Step, Vec<BlockState>) {
    let plain = model.without_graph();
    let mut pass = Pass { x: plain.embed(&batch.tokens), v_first: None, cu_seqlens: Arc::clone(&batch.cu_seqlens) };
    let mut inputs = Vec::with_capacity(states.len());
    for (layer, state) in states.iter_mut().enumerate() {
        let plain_state = BlockState {
            att_shift: state.att_shift.clone().inner(),
            wkv: state.wkv.clone().inner(),
            ffn_shift: state.ffn_shift.clone().inner(),
        };
        inputs.push((pass.x.clone(), plain_state.clone()));
        *state = plain_state;
        plain.block(layer, &mut pass, state);
    }
    let v_first = pass.v_first;

    let leaf = |x: &Tensor<2>| Tensor::from_inner(x.clone()).require_grad();
    let x = leaf(&pass.x);
    let loss = head_loss(model, &x, &batch.targets);
    let mut graph = loss.backward();
    let mut gx = gradient_of(&x, &mut graph);
    let mut gradients = Gradients::take(model, &mut graph);
    let mut g_first: Option<Tensor<2>> = None;
    let mut through = Vec::new();
    for (layer, (x, state)) in inputs.into_iter().enumerate().rev() {
        let x = leaf(&x);
        let first = if layer == 0 { None } else { v_first.as_ref().map(leaf) };
        let state = BlockState {
            att_shift: Tensor::from_inner(state.att_shift),
            wkv: Tensor::from_inner(state.wkv),
            ffn_shift: Tensor::from_inner(state.ffn_shift),
        };
        let state = if after.is_some() { leaves(&[state]) } else { vec![state] };
        let mut running = state.clone();
        let cu_seqlens = Arc::clone(&batch.cu_seqlens);
        let mut pass = Pass { x: x.clone(), v_first: first.clone(), cu_seqlens };
        model.block(layer, &mut pass, &mut running[0]);
        let mut objective = vec![seed(&pass.x, &gx)];
        if let (0, Some(v_first), Some(gradient)) = (layer, &pass.v_first, &g_first) {
            objective.push(seed(v_first, gradient));
        }
        if let Some(Some(gradients)) = after {
            seed_states(&running, &gradients[layer..=layer], &mut objective);
        }
        drop((pass, running));
        let mut graph = total(objective).backward();
        gx = gradient_of(&x, &mut graph);
        if let Some(first) = first {
            let gradient = gradient_of(&first, &mut graph);
            g_first = Some(match g_first {
                Some(sum) => sum + gradient,
                None => gradient,
            });
        }
        if after.is_some() {
            through.extend(take_states(&state, &mut graph));
        }
        gradients.add(Gradients::take(model, &mut graph));
    }
    through.reverse();

    let x = model.embed(&batch.tokens);
    let mut graph = seed(&x, &gx).backward();
    gradients.add(Gradients::take(model, &mut graph));
    for state in states {
        *state = BlockState {
            att_shift: Tensor::from_inner(state.att_shift.clone()),
            wkv: Tensor::from_inner(state.wkv.clone()),
            ffn_shift: Tensor::from_inner(state.ffn_shift.clone()),
        };
    }
    (Step { loss: scalar(&loss), gradients }, through)
}
