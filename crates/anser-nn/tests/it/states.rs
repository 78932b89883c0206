//! States: gradients through them against torch, values against the engine.

use std::sync::Arc;

use anser_engine::{Batch, Executor, Logits, Recipe, Source, State, Synthetic, Version, load};
use anser_nn::gradients::values;
use anser_nn::mixer::BlockState;
use anser_nn::model::LanguageModel;
use anser_nn::op::cross_entropy::Targets;
use anser_nn::op::seed::seed;
use anser_nn::task::language::{Packed, loss};
use anser_testkit::{Golden, Rng, assert_close, max_abs};
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;

use crate::{golden, plans};

/// Versions that the engine and this crate both know.
const VERSIONS: [Version; 4] = [Version::V4, Version::V5_2, Version::V6, Version::V7];

fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
}

/// `golden/train/states_*`: gradients of initial states, and of parameters, through a weighted sum of final states.
fn check(name: &str, weights: &str) {
    let (golden, steps) = (Golden::open(name), Golden::open(weights));
    let model = golden::model(weights);
    let device = Device::flex().autodiff();
    let (c, sizes) = (model.sizes().width, model.sizes().clone());
    let read = |prefix: &str, layer: usize| BlockState {
        att_shift: tensor(golden.f32(&format!("{prefix}.{layer}.att_x")), [1, c], &device),
        wkv: tensor(
            golden.f32(&format!("{prefix}.{layer}.wkv")),
            [1, sizes.heads, sizes.head_size, sizes.head_size],
            &device,
        ),
        ffn_shift: tensor(golden.f32(&format!("{prefix}.{layer}.ffn_x")), [1, c], &device),
    };
    let leaf = |state: BlockState| BlockState {
        att_shift: state.att_shift.require_grad(),
        wkv: state.wkv.require_grad(),
        ffn_shift: state.ffn_shift.require_grad(),
    };
    let initial: Vec<BlockState> = (0..sizes.layers).map(|layer| leaf(read("in.state", layer))).collect();
    let (tokens, next) = (steps.tokens("in.tokens"), steps.tokens("in.targets"));
    let rows = tokens.len();
    let targets =
        Targets { tokens: next.into(), weights: vec![1.0; rows].into(), denominator: rows as f32, l2_wrap: 0.0 };
    let batch = Packed { tokens: tokens.into(), cu_seqlens: [0, rows].into(), targets };

    let mut running = initial.clone();
    let mut total = loss(&model, &batch, &mut running);
    assert_close("loss", &values(total.clone()), golden.f32("out.loss"), 1e-5);
    for (layer, state) in running.into_iter().enumerate() {
        let slots = [
            ("att_x", values(state.att_shift.clone())),
            ("wkv", values(state.wkv.clone())),
            ("ffn_x", values(state.ffn_shift.clone())),
        ];
        for (slot, got) in slots {
            let want = golden.f32(&format!("out.state.{layer}.{slot}"));
            assert_close(&format!("{name}: final {slot} of layer {layer}"), &got, want, 1e-5 * max_abs(want));
        }
        let weight = read("in.state_grad", layer);
        total = total + seed(&state.att_shift, &weight.att_shift);
        total = total + seed(&state.wkv, &weight.wkv) + seed(&state.ffn_shift, &weight.ffn_shift);
    }
    let want = golden.f32("out.total");
    assert_close("total", &values(total.clone()), want, 1e-5 * max_abs(want));

    let mut graph = total.backward();
    for (layer, state) in initial.iter().enumerate() {
        let gradients = [
            ("att_x", values(state.att_shift.grad_remove(&mut graph).unwrap())),
            ("wkv", values(state.wkv.grad_remove(&mut graph).unwrap())),
            ("ffn_x", values(state.ffn_shift.grad_remove(&mut graph).unwrap())),
        ];
        for (slot, got) in gradients {
            let want = golden.f32(&format!("grad.in.state.{layer}.{slot}"));
            assert_close(&format!("{name}: gradient of {slot} of layer {layer}"), &got, want, 1e-5 * max_abs(want));
        }
    }
    let gradients = plans::take(&model, &mut graph);
    let mut compared = 0;
    for parameter in golden.names().filter_map(|name| name.strip_prefix("grad.")) {
        if parameter.starts_with("in.") {
            continue;
        }
        let want = golden.f32(&format!("grad.{parameter}"));
        let got = gradients.get(parameter).unwrap_or_else(|| panic!("no parameter {parameter}"));
        assert_close(&format!("{name}: gradient of {parameter}"), got, want, 3e-5 * max_abs(want));
        compared += 1;
    }
    assert!(compared > 5);
}

#[test]
fn gradients_through_states_of_rwkv7() {
    check("train/states_v7", "lm/train_v7");
}

#[test]
fn gradients_through_states_of_rwkv6() {
    check("train/states_v6", "lm/train_v6");
}

/// The same random model in the engine and here: logits and final states.
fn engine_agrees(version: Version, heads: usize, head_size: usize, layers: usize, lens: &[usize], seed: u64) {
    const VOCAB: usize = 48;
    let config = Synthetic::config(version, VOCAB, heads, head_size, layers, 40, [3, 5, 4, 2, 6]);
    let source = Arc::new(Synthetic::new(config.clone(), seed));
    let mut rng = Rng(seed);
    let mut cu_seqlens = vec![0];
    lens.iter().for_each(|len| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len));
    let tokens: Vec<u32> = (0..cu_seqlens[lens.len()]).map(|_| rng.below(VOCAB) as u32).collect();

    let mut exec = Executor::new(1);
    let engine = load(source.clone(), &exec, &Recipe::F32.into()).unwrap();
    let mut states: Vec<State> = lens.iter().map(|_| engine.new_state()).collect();
    let mut logits = Vec::new();
    let batch = Batch { tokens: &tokens, cu_seqlens: &cu_seqlens, logits: Logits::All };
    engine.forward(&mut exec, &batch, &mut states.iter_mut().collect::<Vec<_>>(), &mut logits).unwrap();

    let mut read = |name: &str, _: &[usize]| Ok(source.tensor(name)?.to_f32());
    let model = LanguageModel::new(&(&config).into(), &Device::flex(), &|name| source.has(name), &mut read).unwrap();
    let mut own = model.initial_states(lens.len());
    let x = model.forward(&tokens.into(), &cu_seqlens.into(), &mut own);
    let what = format!("RWKV-{version}, {heads} x {head_size}, {layers} layers, {lens:?}, seed {seed}");
    assert_close(&format!("{what}: logits"), &values(model.logits(&x)), &logits, 3e-5 * max_abs(&logits));

    // The engine's slots in its order: of every layer the time mix's shift, the recurrence, the channel mix's shift.
    let slots: Vec<Vec<f32>> = own
        .into_iter()
        .flat_map(|state| [values(state.att_shift), values(state.wkv), values(state.ffn_shift)])
        .collect();
    for (s, state) in states.iter().enumerate().filter(|(s, _)| lens[*s] > 0) {
        let mut theirs = state.values();
        for (index, slot) in slots.iter().enumerate() {
            let each = slot.len() / lens.len();
            let (want, rest) = theirs.split_at(each);
            theirs = rest;
            // RWKV-4's rows of sums and of maxima have scales of their own.
            let part = if version == Version::V4 && index % 3 == 1 { each / 3 } else { each };
            for (got, want) in slot[s * each..(s + 1) * each].chunks(part).zip(want.chunks(part)) {
                let bound = 3e-5 * max_abs(want).max(1e-3);
                assert_close(&format!("{what}: slot {index} of sequence {s}"), got, want, bound);
            }
        }
        assert!(theirs.is_empty(), "{what}: {} values too many", theirs.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn forward_is_that_of_the_engine(
        (heads, head_size) in prop_oneof![Just((1, 16)), Just((2, 8)), Just((3, 16)), Just((2, 64))],
        layers in 1usize..4,
        lens in prop::collection::vec(prop_oneof![Just(0), Just(1), 2usize..24, 60usize..90], 1..4),
        seed in any::<u64>(),
    ) {
        prop_assume!(lens.iter().sum::<usize>() > 0);
        VERSIONS.iter().for_each(|version| engine_agrees(*version, heads, head_size, layers, &lens, seed));
    }
}
