use std::collections::{BTreeMap, BTreeSet};

use anser_train::Error;
use anser_train::data::Batch;
use anser_train::tasks::{Group, Split, Task};
use proptest::prelude::*;

const SPLITS: [Split; 2] = [Split::Train, Split::Test];

fn tasks() -> Vec<Task> {
    vec![
        Task::Parity { length: 20 },
        Task::Words { group: Group::S5, length: 12 },
        Task::Words { group: Group::A5, length: 12 },
        Task::Mqar { vocab: 64, length: 32, pairs: 4, power: 0.01, passes: 1 },
        Task::Mqar { vocab: 66, length: 64, pairs: 8, power: 1.0, passes: 3 },
        Task::Copy { symbols: 10, count: 7 },
        Task::Flag { values: 3, noise: 5, distance: 9 },
    ]
}

fn rows(batch: &Batch) -> impl Iterator<Item = (&[u32], &[u32], &[f32])> {
    batch.cu_seqlens.windows(2).map(|border| {
        let row = border[0]..border[1];
        (&batch.tokens[row.clone()], &batch.targets[row.clone()], &batch.weights[row])
    })
}

/// Where something counts, with its target.
fn counted<'a>(targets: &'a [u32], weights: &'a [f32]) -> impl Iterator<Item = (usize, u32)> + 'a {
    assert!(weights.iter().all(|&weight| weight == 0.0 || weight == 1.0));
    targets.iter().copied().enumerate().filter(|&(i, _)| weights[i] == 1.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn batches_are_pure_functions_of_the_step(seed: u64, step in 0u64..1000) {
        for task in tasks() {
            for split in SPLITS {
                let batch = task.batch(seed, split, step, 6).unwrap();
                prop_assert_eq!(&batch, &task.batch(seed, split, step, 6).unwrap());
                prop_assert_eq!(batch.sequences(), 6);
                prop_assert!(rows(&batch).all(|(tokens, _, _)| tokens.len() == task.length()));
                let in_vocab = |ids: &[u32]| ids.iter().all(|&id| (id as usize) < task.vocab());
                prop_assert!(in_vocab(&batch.tokens) && in_vocab(&batch.targets));
                // The same examples, three at a time.
                let halves = [2 * step, 2 * step + 1].map(|step| task.batch(seed, split, step, 3).unwrap());
                prop_assert_eq!(&batch.tokens, &[&halves[0].tokens[..], &halves[1].tokens].concat());
            }
            let train = task.batch(seed, Split::Train, step, 6).unwrap();
            prop_assert_ne!(&train.tokens, &task.batch(seed, Split::Test, step, 6).unwrap().tokens);
            prop_assert_ne!(&train.tokens, &task.batch(seed, Split::Train, step + 1, 6).unwrap().tokens);
            prop_assert_ne!(&train.tokens, &task.batch(seed ^ 1, Split::Train, step, 6).unwrap().tokens);
        }
    }

    #[test]
    fn parity_counts_ones(seed: u64) {
        let batch = Task::Parity { length: 30 }.batch(seed, Split::Train, 0, 4).unwrap();
        for (tokens, targets, weights) in rows(&batch) {
            prop_assert_eq!(counted(targets, weights).count(), 30);
            for (i, target) in counted(targets, weights) {
                prop_assert_eq!(target, tokens[..=i].iter().sum::<u32>() % 2);
            }
        }
    }

    #[test]
    fn words_multiply_to_their_targets(seed: u64) {
        for group in [Group::S5, Group::A5] {
            let batch = Task::Words { group, length: 25 }.batch(seed, Split::Test, 3, 3).unwrap();
            for (tokens, targets, weights) in rows(&batch) {
                prop_assert_eq!(counted(targets, weights).count(), 25);
                for (i, target) in counted(targets, weights) {
                    // Each thing on its way through the permutations, one after the other.
                    let product = [0u8, 1, 2, 3, 4].map(|thing| {
                        tokens[..=i].iter().fold(thing, |x, &g| group.element(g as usize)[x as usize])
                    });
                    prop_assert_eq!(group.element(target as usize), product);
                }
            }
        }
    }

    #[test]
    fn mqar_answers_are_the_keys_values(seed: u64, pairs in 1usize..9, passes in 1usize..3, more in 0usize..20) {
        let length = 2 * pairs * (passes + 1) + 2 * more;
        let vocab = length + 2;
        let task = Task::Mqar { vocab, length, pairs, power: 0.01, passes };
        for (tokens, targets, weights) in rows(&task.batch(seed, Split::Train, 0, 4).unwrap()) {
            let context = 2 * pairs * passes;
            let pair = |i: usize| (tokens[2 * i], tokens[2 * i + 1]);
            let values = (0..pairs).map(pair).collect::<BTreeMap<_, _>>();
            prop_assert_eq!(values.len(), pairs);
            prop_assert_eq!(values.values().collect::<BTreeSet<_>>().len(), pairs);
            let half = vocab as u32 / 2;
            prop_assert!(values.iter().all(|(&key, &value)| (1..half).contains(&key) && value >= half));
            (0..pairs * passes).for_each(|i| assert_eq!(pair(i), pair(i % pairs)));
            let asked = counted(targets, weights).map(|(i, target)| {
                assert!(i >= context && (i - context) % 2 == 0);
                assert_eq!(values[&tokens[i]], target);
                tokens[i]
            });
            prop_assert_eq!(asked.collect::<BTreeSet<_>>(), values.keys().copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(counted(targets, weights).count(), pairs);
        }
    }

    #[test]
    fn copy_repeats(seed: u64, symbols in 1usize..20, count in 1usize..20) {
        let task = Task::Copy { symbols, count };
        for (tokens, targets, weights) in rows(&task.batch(seed, Split::Train, 0, 3).unwrap()) {
            prop_assert_eq!(tokens[count], symbols as u32);
            prop_assert_eq!(&tokens[count + 1..], &tokens[..count - 1]);
            let answers = counted(targets, weights).collect::<Vec<_>>();
            let expected = tokens[..count].iter().enumerate().map(|(i, &token)| (count + i, token)).collect::<Vec<_>>();
            prop_assert_eq!(answers, expected);
        }
    }

    #[test]
    fn flags_are_asked_for_after_the_noise(seed: u64, values in 1usize..9, noise in 1usize..9, distance in 0usize..40) {
        let task = Task::Flag { values, noise, distance };
        for (tokens, targets, weights) in rows(&task.batch(seed, Split::Train, 0, 3).unwrap()) {
            prop_assert!((tokens[0] as usize) < values);
            let between = &tokens[1..=distance];
            prop_assert!(between.iter().all(|&token| (values..values + noise).contains(&(token as usize))));
            prop_assert_eq!(tokens[distance + 1] as usize, values + noise);
            prop_assert_eq!(counted(targets, weights).collect::<Vec<_>>(), [(distance + 1, tokens[0])]);
        }
    }
}

#[test]
fn elements_are_numbered_and_a5_is_closed() {
    for group in [Group::S5, Group::A5] {
        let all = (0..group.order()).map(|i| group.element(i)).collect::<Vec<_>>();
        assert_eq!(all[0], [0, 1, 2, 3, 4]);
        assert!(all.is_sorted() && all.windows(2).all(|pair| pair[0] != pair[1]));
        for (i, &a) in all.iter().enumerate() {
            assert_eq!(group.number(a), i);
            for &b in &all {
                let product = a.map(|x| b[usize::from(x)]);
                assert_eq!(group.element(group.number(product)), product);
            }
        }
    }
}

/// With power 1 queries are spread evenly, with a small one they crowd after the pairs as the formula says.
#[test]
fn mqar_gaps_follow_their_distribution() {
    for power in [0.01, 1.0] {
        let task = Task::Mqar { vocab: 66, length: 64, pairs: 1, power, passes: 1 };
        let places = 31;
        let batch = task.batch(1, Split::Train, 0, 4000).unwrap();
        let mut seen = vec![0.0; places];
        for (_, targets, weights) in rows(&batch) {
            counted(targets, weights).for_each(|(i, _)| seen[(i - 2) / 2] += 1.0 / 4000.0);
        }
        let total = (0..places).map(|g| ((g + 1) as f64).powf(power - 1.0)).sum::<f64>();
        for (g, &share) in seen.iter().enumerate() {
            let expected = ((g + 1) as f64).powf(power - 1.0) / total;
            let deviation = (expected * (1.0 - expected) / 4000.0).sqrt();
            assert!((share - expected).abs() < 5.0 * deviation, "power {power}, gap {g}: {share}, expected {expected}");
        }
    }
}

#[test]
fn sizes_that_make_no_task() {
    let mqar = |vocab, length, pairs, power, passes| Task::Mqar { vocab, length, pairs, power, passes };
    let wrong = [
        (Task::Parity { length: 0 }, "length"),
        (Task::Parity { length: usize::MAX }, "length"),
        (Task::Copy { symbols: 0, count: 3 }, "symbols"),
        (Task::Copy { symbols: usize::MAX, count: 3 }, "vocab"),
        (Task::Copy { symbols: 3, count: 0 }, "length"),
        (Task::Flag { values: 0, noise: 1, distance: 1 }, "values"),
        (Task::Flag { values: 1, noise: 0, distance: 1 }, "noise"),
        (mqar(64, 64, 4, 0.01, 1), "vocab"),
        (mqar(65, 32, 4, 0.01, 1), "vocab"),
        (mqar(64, 31, 4, 0.01, 1), "length"),
        (mqar(64, 14, 4, 0.01, 1), "length"),
        (mqar(64, 32, usize::MAX, 0.01, 1), "length"),
        (mqar(64, 32, 0, 0.01, 1), "pairs"),
        (mqar(64, 32, 4, 0.01, 0), "passes"),
        (mqar(64, 32, 4, 0.0, 1), "power"),
        (mqar(64, 32, 4, f64::NAN, 1), "power"),
    ];
    for (task, setting) in wrong {
        let Err(Error::Setting { name, .. }) = task.batch(0, Split::Train, 0, 1) else { panic!("{task:?} is made") };
        assert_eq!(name, setting, "{task:?}");
    }
}

#[test]
fn tasks_are_settings() {
    for task in tasks() {
        let text = toml::to_string(&task).unwrap();
        assert_eq!(toml::from_str::<Task>(&text).unwrap(), task, "{text}");
    }
    let short = "task = \"mqar\"\nvocab = 8192\nlength = 64\npairs = 4";
    let expected = Task::Mqar { vocab: 8192, length: 64, pairs: 4, power: 0.01, passes: 1 };
    assert_eq!(toml::from_str::<Task>(short).unwrap(), expected);
    assert!(toml::from_str::<Task>("task = \"parity\"\nlength = 3\nwidth = 4").is_err());
}
