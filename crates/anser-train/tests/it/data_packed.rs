use std::collections::BTreeMap;

use anser_train::Error;
use anser_train::data::{Batch, Corpus, MagicPrime, Packed, magic_prime};
use proptest::prelude::*;

/// Documents whose every token tells document and place, so that a batch's tokens can be traced back.
fn traced(lengths: &[usize]) -> Vec<Vec<u32>> {
    let mut next = 0..;
    lengths.iter().map(|&length| next.by_ref().take(length).collect()).collect()
}

fn vocab(documents: &[Vec<u32>]) -> usize {
    documents.iter().map(Vec::len).sum::<usize>() + 1
}

fn check_shape(batch: &Batch) {
    let length = batch.tokens.len();
    assert_eq!((batch.targets.len(), batch.weights.len()), (length, length));
    assert_eq!((batch.cu_seqlens[0], batch.cu_seqlens[batch.sequences()]), (0, length));
    assert!(batch.cu_seqlens.windows(2).all(|border| border[0] < border[1]));
}

/// Inside a sequence every target is the next token, and every sequence lies in one document.
fn check_sequences(batch: &Batch, documents: &[Vec<u32>]) {
    check_shape(batch);
    for border in batch.cu_seqlens.windows(2) {
        let (tokens, targets) = (&batch.tokens[border[0]..border[1]], &batch.targets[border[0]..border[1]]);
        assert_eq!(tokens[1..], targets[..targets.len() - 1]);
        let whole = [tokens, &targets[targets.len() - 1..]].concat();
        assert!(documents.iter().any(|document| document.windows(whole.len()).any(|part| part == whole)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_target_once_an_epoch(
        lengths in prop::collection::vec(0usize..30, 1..12), context in 1usize..20, rows in 1usize..5, seed: u64,
    ) {
        let documents = traced(&lengths);
        let targets = lengths.iter().map(|length| length.saturating_sub(1)).sum::<usize>();
        prop_assume!(targets >= context);
        let corpus = Corpus::from_documents("test", &documents, vocab(&documents)).unwrap();
        prop_assert_eq!(corpus.targets(), targets as u64);
        let packed = Packed::new(&corpus, context, rows, seed).unwrap();
        let windows = targets.div_ceil(context);
        prop_assert_eq!(packed.windows(), windows as u64);

        // So many steps that they end with an epoch: each target as often as there are epochs.
        let mut seen = BTreeMap::new();
        for step in 0..windows as u64 {
            let batch = packed.batch(step).unwrap();
            check_sequences(&batch, &documents);
            prop_assert!(batch.weights.iter().all(|&weight| weight == 1.0));
            prop_assert!(batch.tokens.len() <= context * rows);
            batch.targets.iter().for_each(|&target| *seen.entry(target).or_insert(0) += 1);
        }
        prop_assert_eq!(packed.epoch(windows as u64), rows as u64);
        let expected = documents.iter().flat_map(|document| document.iter().skip(1));
        prop_assert_eq!(seen, expected.map(|&token| (token, rows)).collect::<BTreeMap<_, _>>());
    }

    #[test]
    fn a_resumed_run_draws_the_same(lengths in prop::collection::vec(2usize..30, 1..12), seed: u64, step in 0u64..50) {
        let documents = traced(&lengths);
        let corpus = Corpus::from_documents("test", &documents, vocab(&documents)).unwrap();
        let through = Packed::new(&corpus, 1, 3, seed).unwrap();
        (0..step).for_each(|earlier| drop(through.batch(earlier).unwrap()));
        let resumed = Packed::new(&corpus, 1, 3, seed).unwrap();
        prop_assert_eq!(through.batch(step).unwrap(), resumed.batch(step).unwrap());
    }

    #[test]
    fn evaluation_reads_everything_once_in_order(
        lengths in prop::collection::vec(0usize..30, 1..12), context in 1usize..20, max in 1usize..50,
    ) {
        let documents = traced(&lengths);
        prop_assume!(lengths.iter().any(|&length| length > 1));
        let corpus = Corpus::from_documents("test", &documents, vocab(&documents)).unwrap();
        let mut targets = Vec::new();
        for batch in corpus.evaluation(context, max).unwrap() {
            let batch = batch.unwrap();
            check_sequences(&batch, &documents);
            prop_assert!(batch.tokens.len() <= max);
            prop_assert!(batch.cu_seqlens.windows(2).all(|border| border[1] - border[0] <= context));
            targets.extend(batch.targets);
        }
        let expected = documents.iter().flat_map(|document| document.iter().skip(1)).copied().collect::<Vec<_>>();
        prop_assert_eq!(targets, expected);
    }

    #[test]
    fn held_out_and_kept_are_all(lengths in prop::collection::vec(2usize..30, 1..12), fraction in 0.05f64..0.95) {
        let documents = traced(&lengths);
        let corpus = Corpus::from_documents("test", &documents, vocab(&documents)).unwrap();
        let Ok((kept, held)) = corpus.hold_out(fraction) else {
            // Only so few tokens that a side would have nothing to predict.
            prop_assert!(corpus.documents() == 1 && (lengths[0] as f64 * fraction.min(1.0 - fraction)) < 2.0);
            return Ok(());
        };
        let tokens = |corpus: &Corpus| (0..corpus.documents()).flat_map(|i| corpus.document(i).unwrap()).collect::<Vec<_>>();
        prop_assert_eq!([tokens(&kept), tokens(&held)].concat(), documents.concat());
        let wanted = corpus.tokens() as f64 * fraction;
        let largest = if documents.len() == 1 { 1 } else { *lengths.iter().max().unwrap() };
        prop_assert!((held.tokens() as f64 - wanted).abs() <= largest as f64 + 0.5, "{} of {wanted}", held.tokens());
        prop_assert!(documents.len() == 1 || kept.documents() + held.documents() == corpus.documents());
    }
}

#[test]
fn order_and_borders_move_between_epochs_and_seeds() {
    let documents = traced(&[1000]);
    let corpus = Corpus::from_documents("test", &documents, 1001).unwrap();
    let firsts = |seed, epoch: u64| {
        let packed = Packed::new(&corpus, 100, 1, seed).unwrap();
        (0..10).map(|i| packed.batch(epoch * 10 + i).unwrap().tokens[0]).collect::<Vec<_>>()
    };
    let first = firsts(0, 0);
    assert!(first.windows(2).any(|pair| pair[0] > pair[1]), "windows are shuffled too: {first:?}");
    for other in [firsts(0, 1), firsts(1, 0)] {
        assert_ne!(first, other);
        assert_ne!(first.iter().map(|token| token % 100).min(), other.iter().map(|token| token % 100).min());
    }
}

#[test]
fn too_little_data_is_an_error() {
    let corpus = |documents: &[Vec<u32>]| Corpus::from_documents("here", documents, 10);
    assert!(matches!(corpus(&[]), Err(Error::EmptyCorpus { documents: 0, tokens: 0, .. })));
    assert!(matches!(corpus(&[vec![1], vec![2]]), Err(Error::EmptyCorpus { documents: 2, tokens: 2, .. })));
    let Err(error) = corpus(&[vec![1, 2], vec![3, 10]]) else { panic!("10 is no token") };
    assert_eq!(
        error.to_string(),
        "here: token 1 of document 1 is 10, the model's vocabulary has 10 (ids 0 to 9): was the data made with another \
         tokenizer?"
    );
    let small = corpus(&[vec![1, 2, 3], vec![1, 2]]).unwrap();
    assert!(matches!(Packed::new(&small, 4, 1, 0), Err(Error::CorpusTooShort { available: 3, context: 4, .. })));
    assert!(matches!(Packed::new(&small, 0, 1, 0), Err(Error::Setting { name: "context", .. })));
    assert!(matches!(Packed::new(&small, 1, 0, 0), Err(Error::Setting { name: "batch", .. })));
    assert!(matches!(MagicPrime::new(&small, 4, 1), Err(Error::CorpusTooShort { .. })));
    assert!(matches!(small.hold_out(1.0), Err(Error::Setting { .. })));
    assert!(matches!(small.hold_out(f64::NAN), Err(Error::Setting { .. })));
    assert!(matches!(corpus(&[vec![1, 2, 3]]).unwrap().hold_out(0.3), Err(Error::CannotSplit { .. })));
}

#[test]
fn primes_of_known_data() {
    assert_eq!(magic_prime(1_498_226_207, 512), Some(2_926_181));
    assert_eq!(magic_prime(332_115_325_534, 4096), Some(81_082_817));
    assert_eq!(magic_prime(3 * 512, 512), Some(2));
    assert_eq!(magic_prime(3 * 512 - 1, 512), None);
    assert_eq!(magic_prime(100, 0), None);
}

#[test]
fn magic_prime_visits_every_slot_once() {
    let documents = traced(&[40, 1, 300, 0, 170]);
    let corpus = Corpus::from_documents("test", &documents, 512).unwrap();
    let sampler = MagicPrime::new(&corpus, 7, 3).unwrap();
    // 511 tokens are 73 slots; 71 is the largest such prime below.
    let p = sampler.prime();
    assert_eq!(p, 71);
    // floor(71 · 0.618...) = 43: 43 · i³ mod 71, by hand for i = 1, 2, 3.
    assert_eq!([1, 2, 3].map(|i| sampler.offset(i)), [43 * 7, (344 % 71) * 7, (1161 % 71) * 7]);
    let mut slots = (1..=p).map(|i| sampler.offset(i) / 7).collect::<Vec<_>>();
    slots.sort_unstable();
    assert_eq!(slots, (0..p).collect::<Vec<_>>());

    let batch = sampler.batch(5).unwrap();
    check_shape(&batch);
    assert_eq!(batch.cu_seqlens, [0, 7, 14, 21]);
    for (row, sample) in (16..19).enumerate() {
        let from = sampler.offset(sample) as u32;
        assert_eq!(batch.tokens[7 * row..7 * row + 7], (from..from + 7).collect::<Vec<_>>());
        assert_eq!(batch.targets[7 * row..7 * row + 7], (from + 1..from + 8).collect::<Vec<_>>());
    }
}

#[test]
fn something_of_several_documents_is_kept() {
    let documents = traced(&[2, 2]);
    let corpus = Corpus::from_documents("test", &documents, vocab(&documents)).unwrap();
    let (kept, held) = corpus.hold_out(0.95).unwrap();
    assert_eq!((kept.documents(), held.documents()), (1, 1));
}
