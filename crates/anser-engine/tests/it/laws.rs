//! The equalities every model keeps, on random tiny models of every version and storage. All of them hold to the bit:
//! batch = single, chunked = sequential, prefill = decode, padded = unpadded, resumed = uninterrupted.

use std::sync::Arc;

use anser_engine::{
    Batch, Config, Executor, InputBits, LoadOptions, Logits, Model, Recipe, State, Synthetic, Version, load,
};
use anser_testkit::Rng;
use proptest::prelude::*;

use crate::run;

/// A random tiny model: head sizes 8..=128, widths and ranks that are multiples of nothing in particular.
fn any_model() -> impl Strategy<Value = (Config, LoadOptions, u64)> {
    let version = prop::sample::select(Version::ALL.to_vec());
    let head_size = prop::sample::select(vec![8usize, 11, 16, 24, 32, 64, 100, 128]);
    let ranks = (1usize..20, 1usize..20, 1usize..20, 1usize..20, 1usize..20);
    let sizes = (1usize..=3, 1usize..=3, 3usize..70, 5usize..90);
    let inputs = prop::sample::select(vec![InputBits::ThirtyTwo, InputBits::Sixteen, InputBits::Eight]);
    let options = (prop::sample::select(Recipe::ALL.to_vec()), inputs)
        .prop_map(|(recipe, inputs)| LoadOptions { inputs, ..recipe.into() });
    (version, head_size, ranks, sizes, options, any::<u64>()).prop_map(
        |(version, head_size, (mix, decay, a, v, g), (heads, layers, vocab, ffn), options, seed)| {
            let heads = if head_size >= 64 { 1 } else { heads };
            let config = Synthetic::config(version, vocab, heads, head_size, layers, ffn, [mix, decay, a, v, g]);
            (config, options, seed)
        },
    )
}

fn model(config: &Config, options: LoadOptions, seed: u64, exec: &Executor) -> Box<dyn Model> {
    let source = Synthetic::new(config.clone(), seed);
    load(Arc::new(source), exec, &options).unwrap()
}

fn tokens(rng: &mut Rng, n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|_| rng.below(vocab) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn batch_is_single_and_padding_is_invisible((config, options, seed) in any_model(), lengths in prop::collection::vec(0usize..9, 1..6)) {
        let mut exec = Executor::new(2);
        let model = model(&config, options, seed, &exec);
        let mut rng = Rng(seed);
        // Every sequence first reads a little on its own, so that no state of the batch is zero.
        let warm: Vec<State> = lengths.iter().map(|_| {
            let mut state = model.new_state();
            run(&*model, &mut exec, &tokens(&mut rng, 2, config.vocab), &mut state);
            state
        }).collect();
        let texts: Vec<Vec<u32>> = lengths.iter().map(|&n| tokens(&mut rng, n, config.vocab)).collect();
        let mut single_logits = Vec::new();
        let mut single_states = warm.clone();
        for (text, state) in texts.iter().zip(&mut single_states) {
            if !text.is_empty() {
                single_logits.extend(run(&*model, &mut exec, text, state));
            }
        }
        // The same in one ragged batch, on another number of threads. Empty sequences are the batch's padding.
        let mut exec = Executor::new(3);
        let packed = texts.concat();
        let mut borders = vec![0];
        for text in &texts {
            borders.push(borders[borders.len() - 1] + text.len());
        }
        let mut states = warm;
        let mut logits = Vec::new();
        let mut refs: Vec<&mut State> = states.iter_mut().collect();
        let batch = Batch { tokens: &packed, cu_seqlens: &borders, logits: Logits::All };
        model.forward(&mut exec, &batch, &mut refs, &mut logits).unwrap();
        prop_assert_eq!(logits, single_logits);
        for (batched, single) in states.iter().zip(&single_states) {
            prop_assert_eq!(batched.values(), single.values());
            prop_assert_eq!(batched.tokens(), single.tokens());
        }
    }

    #[test]
    fn chunked_is_sequential_and_prefill_is_decode((config, options, seed) in any_model(), cuts in prop::collection::vec(1usize..7, 1..5)) {
        let mut exec = Executor::new(2);
        let model = model(&config, options, seed, &exec);
        let mut rng = Rng(seed);
        let text = tokens(&mut rng, cuts.iter().sum(), config.vocab);
        let mut whole_state = model.new_state();
        let whole = run(&*model, &mut exec, &text, &mut whole_state);
        let (mut state, mut logits, mut at) = (model.new_state(), Vec::new(), 0);
        for cut in &cuts {
            logits.extend(run(&*model, &mut exec, &text[at..at + cut], &mut state));
            at += cut;
        }
        prop_assert_eq!(&logits, &whole);
        prop_assert_eq!(state.values(), whole_state.values());
        let (mut state, mut logits) = (model.new_state(), Vec::new());
        for token in &text {
            logits.extend(run(&*model, &mut exec, &[*token], &mut state));
        }
        prop_assert_eq!(&logits, &whole);
        prop_assert_eq!(state.values(), whole_state.values());
        prop_assert!(whole.iter().all(|x| x.is_finite()));
    }

    #[test]
    fn resumed_is_uninterrupted((config, options, seed) in any_model(), before in 1usize..6, after in 1usize..6) {
        let mut exec = Executor::new(1);
        let model = model(&config, options, seed, &exec);
        let mut rng = Rng(seed);
        let text = tokens(&mut rng, before + after, config.vocab);
        let mut state = model.new_state();
        run(&*model, &mut exec, &text[..before], &mut state);
        let fork = state.clone();
        let uninterrupted = run(&*model, &mut exec, &text[before..], &mut state);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.safetensors");
        fork.to_file("fingerprint").save(&path).unwrap();
        let file = anser_checkpoint::state::StateFile::load(&path).unwrap();
        // A new process: the model is loaded again.
        let model = self::model(&config, options, seed, &exec);
        let mut resumed = model.new_state();
        resumed.restore(&file).unwrap();
        prop_assert_eq!(resumed.tokens(), before as u64);
        prop_assert_eq!(run(&*model, &mut exec, &text[before..], &mut resumed), uninterrupted);
        prop_assert_eq!(resumed.values(), state.values());
    }

    #[test]
    fn last_and_chosen_rows_are_rows_of_all((config, options, seed) in any_model(), lengths in prop::collection::vec(0usize..5, 1..4)) {
        let mut exec = Executor::new(2);
        let model = model(&config, options, seed, &exec);
        let mut rng = Rng(seed);
        let packed = tokens(&mut rng, lengths.iter().sum(), config.vocab);
        let mut borders = vec![0];
        for n in &lengths {
            borders.push(borders[borders.len() - 1] + n);
        }
        let forward = |exec: &mut Executor, logits: Logits<'_>| {
            let mut states: Vec<State> = lengths.iter().map(|_| model.new_state()).collect();
            let mut refs: Vec<&mut State> = states.iter_mut().collect();
            let mut out = Vec::new();
            let batch = Batch { tokens: &packed, cu_seqlens: &borders, logits };
            model.forward(exec, &batch, &mut refs, &mut out).unwrap();
            out
        };
        let all = forward(&mut exec, Logits::All);
        let row = |row: usize| &all[row * config.vocab..(row + 1) * config.vocab];
        let last: Vec<f32> = borders.windows(2).filter(|w| w[0] < w[1]).flat_map(|w| row(w[1] - 1)).copied().collect();
        prop_assert_eq!(forward(&mut exec, Logits::Last), last);
        let chosen: Vec<usize> = (0..packed.len()).step_by(2).collect();
        let rows: Vec<f32> = chosen.iter().flat_map(|&r| row(r)).copied().collect();
        prop_assert_eq!(forward(&mut exec, Logits::Rows(&chosen)), rows);
        prop_assert!(forward(&mut exec, Logits::None).is_empty());
    }
}

/// 16-bit storage only rounds the weights: on weights it holds exactly the results are those of f32.
#[test]
fn storage_changes_nothing_on_representable_weights() {
    for version in Version::ALL {
        let mut exec = Executor::new(2);
        let config = Synthetic::config(version, 40, 2, 16, 2, 50, [3, 5, 7, 9, 11]);
        // Synthetic weights are multiples of 2^-7 below 1 in magnitude: exact in bf16 and f16.
        let text: Vec<u32> = (0..12).map(|i| i * 3 % 40).collect();
        let results: Vec<Vec<f32>> = [Recipe::F32, Recipe::BF16, Recipe::F16]
            .into_iter()
            .map(|recipe| {
                let options = LoadOptions { inputs: InputBits::ThirtyTwo, ..recipe.into() };
                let model = model(&config, options, 5, &exec);
                run(&*model, &mut exec, &text, &mut model.new_state())
            })
            .collect();
        assert_eq!(results[0], results[1], "version {version}, bf16");
        assert_eq!(results[0], results[2], "version {version}, f16");
    }
}
