//! One gradient, however it is computed: block by block, piece by piece, in micro-batches, on threads of their own.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use anser_nn::gradients::{Gradients, Trainable, values};
use anser_nn::mixer::BlockState;
use anser_nn::model::{LanguageModel, Sizes};
use anser_nn::op::cross_entropy::Targets;
use anser_nn::task::language::{Packed, Plan, evaluate, gradients, loss};
use anser_nn::task::scalar;
use anser_nn::threads::inline;
use anser_testkit::{Rng, assert_close, max_abs};
use burn::module::{ModuleVisitor, Param};
use burn::tensor::{Device, Gradients as Graph, Tensor};

use crate::golden;

/// Golden files whose models are tried.
const GOLDEN: &[&str] = &["lm/train_v4", "lm/train_v52", "lm/train_v6", "lm/train_v7"];

/// A small transformer of random weights.
pub(crate) fn transformer(sizes: &Sizes, seed: u64) -> LanguageModel {
    let mut rng = Rng(seed);
    let mut read = |name: &str, shape: &[usize]| {
        let (scale, centre) = match (shape.len(), name.ends_with("weight")) {
            (1, true) => (0.1, 1.0),
            (1, false) => (0.1, 0.0),
            _ => (2.0 / (shape[1] as f32).sqrt(), 0.0),
        };
        Ok((0..shape.iter().product()).map(|_| rng.uniform() * scale + centre).collect())
    };
    LanguageModel::new(sizes, &Device::flex().autodiff(), &|_| true, &mut read).unwrap()
}

/// Models with a state.
fn recurrent() -> impl Iterator<Item = (&'static str, LanguageModel)> {
    GOLDEN.iter().map(|name| (*name, golden::model(name)))
}

fn baseline() -> (&'static str, LanguageModel) {
    ("transformer", transformer(&Sizes::transformer(64, 2, 48, 16, 64), 1))
}

/// Random sequences of these lengths in a vocabulary of 64, of which some targets are masked.
fn batch(lens: &[usize], seed: u64) -> Packed {
    let mut rng = Rng(seed);
    let rows: usize = lens.iter().sum();
    let mut draw = |n: usize| -> Vec<u32> { (0..rows).map(|_| rng.below(n) as u32).collect() };
    let (tokens, next, halves) = (draw(64), draw(64), draw(3));
    let mut cu_seqlens = vec![0];
    lens.iter().for_each(|len| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len));
    let targets = Targets {
        tokens: next.into(),
        weights: halves.into_iter().map(|half| half as f32 / 2.0).collect(),
        denominator: rows as f32,
        l2_wrap: 1e-4,
    };
    Packed { tokens: tokens.into(), cu_seqlens: cu_seqlens.into(), targets }
}

/// Sequences that end in different pieces of 16 or 25 tokens, one of them empty.
const LENS: [usize; 5] = [33, 7, 0, 64, 1];

/// The same gradients, to `bound` of each tensor's largest.
#[track_caller]
fn assert_same(what: &str, got: &Gradients, want: &Gradients, bound: f32) {
    assert_eq!(got.tensors.len(), want.tensors.len(), "{what}");
    for ((name, got), (same, want)) in got.tensors.iter().zip(&want.tensors) {
        assert_eq!(name, same, "{what}");
        let zeros = |values: &[f32], like: &[f32]| match values.len() {
            0 => vec![0.0; like.len()],
            _ => values.to_vec(),
        };
        let (got, want) = (zeros(got, want), zeros(want, got));
        assert_close(&format!("{what}: {name}"), &got, &want, bound * max_abs(&want) + 1e-9);
    }
}

/// The gradient of every parameter, taken from a graph without the help of the crate's own plans.
pub(crate) fn take(model: &LanguageModel, graph: &mut Graph) -> Gradients {
    struct Take<'a> {
        path: Vec<String>,
        graph: &'a mut Graph,
        found: Gradients,
    }
    impl ModuleVisitor for Take<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad_remove(self.graph).map(values).unwrap_or_default();
            self.found.tensors.push((self.path.join("."), gradient));
        }
    }
    let mut visitor = Take { path: Vec::new(), graph, found: Gradients::default() };
    model.visit(&mut visitor);
    visitor.found
}

#[test]
fn block_by_block() {
    let batch = batch(&LENS, 1);
    for (name, model) in recurrent().chain(std::iter::once(baseline())) {
        let whole = gradients(&model, &batch, &Plan::default());
        let by_block = gradients(&model, &batch, &Plan { checkpoint: true, ..Plan::default() });
        assert_close(name, &[by_block.loss], &[whole.loss], 1e-6 * whole.loss);
        assert_same(name, &by_block.gradients, &whole.gradients, 1e-5);
    }
}

#[test]
fn piece_by_piece_with_gradients_through_states() {
    let batch = batch(&LENS, 2);
    for (name, model) in recurrent() {
        let whole = gradients(&model, &batch, &Plan::default());
        for (chunk, checkpoint) in [(16, false), (25, true), (64, false)] {
            let plan = Plan { chunk: Some(chunk), state_gradient: true, checkpoint, ..Plan::default() };
            let pieces = gradients(&model, &batch, &plan);
            let what = format!("{name}, {plan:?}");
            assert_close(&what, &[pieces.loss], &[whole.loss], 1e-6 * whole.loss);
            assert_same(&what, &pieces.gradients, &whole.gradients, 1e-5);
        }
    }
}

/// The sequences cut into pieces of `chunk` tokens, each a sequence of its own; pieces of one time stay together.
fn cut(batch: &Packed, chunk: usize) -> Packed {
    let mut cu_seqlens = vec![0];
    for ends in batch.cu_seqlens.windows(2) {
        cu_seqlens.extend((ends[0]..ends[1]).step_by(chunk).skip(1));
        cu_seqlens.push(ends[1]);
    }
    cu_seqlens.dedup();
    Packed { cu_seqlens: cu_seqlens.into(), ..batch.clone() }
}

/// A model without states sees each piece alone, whatever the plan says about states.
#[test]
fn pieces_cut_the_context_of_a_transformer() {
    let (name, model) = baseline();
    assert!(!model.has_state());
    let batch = batch(&LENS, 3);
    let alone = gradients(&model, &cut(&batch, 16), &Plan::default());
    for (state_gradient, checkpoint) in [(false, false), (true, false), (false, true), (true, true)] {
        let plan = Plan { chunk: Some(16), state_gradient, checkpoint, ..Plan::default() };
        let pieces = gradients(&model, &batch, &plan);
        assert_close(name, &[pieces.loss], &[alone.loss], 1e-6 * alone.loss);
        assert_same(name, &pieces.gradients, &alone.gradients, 1e-5);
    }
    let states = model.initial_states(3);
    let mut after = states.clone();
    model.forward(&batch.tokens, &[0, 33, 40, 105].into(), &mut after);
    for (before, after) in states.iter().zip(after) {
        assert_eq!(after.wkv.dims(), [3, 1, 1, 1]);
        assert_eq!(values(before.wkv.clone()), values(after.wkv));
        assert_eq!(values(before.att_shift.clone()), values(after.att_shift));
    }
}

#[test]
fn truncated_pieces_have_the_whole_loss() {
    let batch = batch(&LENS, 4);
    for (name, model) in recurrent() {
        assert!(model.has_state());
        let whole = gradients(&model, &batch, &Plan::default());
        let truncated = |chunk| gradients(&model, &batch, &Plan { chunk: Some(chunk), ..Plan::default() });
        let (pieces, one_piece) = (truncated(16), truncated(64));
        assert_close(name, &[pieces.loss], &[whole.loss], 1e-6 * whole.loss);
        assert_eq!(one_piece.loss, whole.loss, "{name}");
        assert_eq!(one_piece.gradients.tensors, whole.gradients.tensors, "{name}: all sequences fit one piece");
    }
}

/// Pieces that forget are sequences of their own.
#[test]
fn pieces_that_forget() {
    let batch = batch(&LENS, 9);
    for (name, model) in recurrent() {
        let alone = gradients(&model, &cut(&batch, 16), &Plan::default());
        let plan = Plan { chunk: Some(16), forget: true, ..Plan::default() };
        let pieces = gradients(&model, &batch, &plan);
        assert_close(name, &[pieces.loss], &[alone.loss], 1e-6 * alone.loss);
        assert_same(name, &pieces.gradients, &alone.gradients, 1e-5);
    }
}

/// Where only the last piece counts, the truncated gradient is that of the last piece given its initial state.
#[test]
fn the_last_piece_given_its_state() {
    let (chunk, lens) = (16, [48, 40, 33]);
    let mut batch = batch(&lens, 5);
    let (mut weights, mut last) = (vec![0.0; batch.tokens.len()], (Vec::new(), Vec::new(), Vec::new()));
    let (mut before, mut ends_before, mut ends_last) = (Vec::new(), vec![0], vec![0]);
    for ends in batch.cu_seqlens.windows(2) {
        let from = ends[0] + 2 * chunk;
        weights[from..ends[1]].fill(1.0);
        before.extend_from_slice(&batch.tokens[ends[0]..from]);
        last.0.extend_from_slice(&batch.tokens[from..ends[1]]);
        last.1.extend_from_slice(&batch.targets.tokens[from..ends[1]]);
        last.2.extend_from_slice(&weights[from..ends[1]]);
        ends_before.push(before.len());
        ends_last.push(last.0.len());
    }
    batch.targets.weights = weights.into();
    let targets = Targets { tokens: last.1.into(), weights: last.2.into(), ..batch.targets };
    let last = Packed { tokens: last.0.into(), cu_seqlens: ends_last.into(), targets };
    let (before, ends_before): (Arc<[u32]>, Arc<[usize]>) = (before.into(), ends_before.into());

    for (name, model) in recurrent() {
        let plain = model.without_graph();
        let mut states = plain.initial_states(lens.len());
        plain.forward(&before, &ends_before, &mut states);
        let lift = |state: &BlockState| BlockState {
            att_shift: Tensor::from_inner(state.att_shift.clone()),
            wkv: Tensor::from_inner(state.wkv.clone()),
            ffn_shift: Tensor::from_inner(state.ffn_shift.clone()),
        };
        let mut states: Vec<BlockState> = states.iter().map(lift).collect();
        let alone = take(&model, &mut loss(&model, &last, &mut states).backward());
        for checkpoint in [false, true] {
            let plan = Plan { chunk: Some(chunk), checkpoint, ..Plan::default() };
            assert_same(name, &gradients(&model, &batch, &plan).gradients, &alone, 1e-5);
        }
    }
}

#[test]
fn micro_batches_add_up() {
    let batch = batch(&LENS, 6);
    for (name, model) in recurrent().chain(std::iter::once(baseline())) {
        let whole = gradients(&model, &batch, &Plan::default());
        let (mut loss, mut sum) = (0.0, Gradients::default());
        for range in [0..2, 2..3, 3..5] {
            let step = gradients(&model, &batch.sequences(range), &Plan::default());
            loss += step.loss;
            sum.add(step.gradients);
        }
        assert_close(name, &[loss], &[whole.loss], 1e-6 * whole.loss);
        assert_same(name, &sum, &whole.gradients, 1e-5);
    }
}

#[test]
fn shards_on_threads_of_their_own() {
    let (report, done) = channel();
    std::thread::spawn(move || {
        let batch = batch(&LENS, 7);
        for (name, model) in recurrent().chain(std::iter::once(baseline())) {
            let whole = gradients(&model, &batch, &Plan::default());
            for repetition in 0..20 {
                // Plans that keep one graph and plans that keep many.
                let chunk = if repetition % 4 < 2 { None } else { Some(25) };
                let plan = Plan {
                    checkpoint: repetition % 2 == 1,
                    chunk: chunk.filter(|_| model.has_state()),
                    state_gradient: true,
                    ..Plan::default()
                };
                let forks: Vec<_> = [0..1, 1..3, 3..5].map(|range| (model.fork(), batch.sequences(range))).into();
                let mut sum = Gradients::default();
                std::thread::scope(|scope| {
                    let shard = |(fork, part): (LanguageModel, Packed)| inline(|| gradients(&fork, &part, &plan));
                    let running: Vec<_> = forks.into_iter().map(|fork| scope.spawn(move || shard(fork))).collect();
                    running.into_iter().for_each(|shard| sum.add(shard.join().unwrap().gradients));
                });
                assert_same(&format!("{name}, {plan:?}"), &sum, &whole.gradients, 1e-5);
            }
        }
        report.send(()).unwrap();
    });
    if let Err(error) = done.recv_timeout(Duration::from_secs(600)) {
        panic!("shards differ or wait for each other for ever: {error}");
    }
}

/// Loss of the transformer along each tensor's gradient, by central differences.
#[test]
fn finite_differences_of_a_transformer() {
    let model = transformer(&Sizes::transformer(64, 2, 16, 8, 24), 2);
    let mut batch = batch(&[9, 0, 14], 8);
    batch.targets.l2_wrap = 0.0;
    let step = gradients(&model, &batch, &Plan::default());
    let names: Vec<String> = step.gradients.tensors.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), 2 + 2 * 10 + 2);
    for name in names {
        let gradient = step.gradients.get(&name).unwrap();
        let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
        assert!(norm > 1e-4, "{name} has a gradient");
        let moved = |by: f32| {
            let moved = model.fork().update(|own, _, values| {
                if own == name {
                    values.iter_mut().zip(gradient).for_each(|(value, g)| *value += by * g / norm);
                }
            });
            let plain = moved.without_graph();
            let mut states = plain.initial_states(3);
            values(loss(&plain, &batch, &mut states))[0]
        };
        let h = 2e-2;
        let slope = (moved(h) - moved(-h)) / (2.0 * h);
        assert!((slope - norm).abs() < 1e-2 * norm + 2e-5, "{name}: slope {slope}, gradient {norm}");
    }
}

#[test]
fn heads_that_do_not_fit_are_an_error() {
    let device = Device::flex();
    for head_size in [0, 5, 7, 10] {
        let sizes = Sizes::transformer(8, 1, 14, head_size, 8);
        let mut read = |_: &str, shape: &[usize]| Ok(vec![0.0; shape.iter().product()]);
        let error = LanguageModel::new(&sizes, &device, &|_| true, &mut read).unwrap_err();
        assert!(error.to_string().contains(&format!("heads of {head_size} channels")), "{error}");
    }
}

#[test]
fn an_evaluation_in_pieces_is_the_whole_loss() {
    for (name, model) in recurrent().chain(std::iter::once(baseline())) {
        let batch = batch(&[70, 0, 1, 33], 5);
        let mut states = model.initial_states(4);
        let whole = scalar(&loss(&model, &batch, &mut states));
        for piece in [1, 16, 64, 1000] {
            let got = evaluate(&model, &batch, piece) as f32;
            assert!((got - whole).abs() <= 1e-5 * whole, "{name} in pieces of {piece}: {got}, whole {whole}");
        }
    }
}
