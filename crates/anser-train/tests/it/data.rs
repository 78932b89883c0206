use anser_train::random::{Permutation, Random};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn permutations_are_permutations(n in 0u64..600, seed: u64) {
        let order = Permutation::new(n, &mut Random::new(seed, "test", 0));
        let mut there = (0..n).map(|i| order.get(i)).collect::<Vec<_>>();
        there.sort_unstable();
        prop_assert_eq!(there, (0..n).collect::<Vec<_>>());
        prop_assert_eq!((order.len(), order.get(n)), (n, n));
    }

    #[test]
    fn streams_depend_on_seed_purpose_and_index(seed: u64, index: u64) {
        let draw = |seed, purpose, index| Random::new(seed, purpose, index).bits();
        let first = draw(seed, "a", index);
        prop_assert_eq!(first, draw(seed, "a", index));
        for other in [draw(seed ^ 1, "a", index), draw(seed, "b", index), draw(seed, "aa", index), draw(seed, "a", !index)] {
            prop_assert_ne!(first, other);
        }
    }
}

/// A run's numbers must stay what they are: these are pinned.
#[test]
fn the_generator_stays_the_same() {
    let mut random = Random::new(42, "pinned", 7);
    let bits = [random.bits(), random.bits()];
    let order = Permutation::new(10, &mut Random::new(42, "pinned", 8));
    insta::assert_snapshot!(format!("{bits:x?} {:?}", (0..10).map(|i| order.get(i)).collect::<Vec<_>>()));
}

#[test]
fn draws_have_their_distributions() {
    const N: usize = 20_000;
    let mut random = Random::new(3, "distributions", 0);
    let mut counts = [0; 7];
    (0..N).for_each(|_| counts[random.below(7) as usize] += 1);
    assert!(counts.iter().all(|&count| (count as f64 - N as f64 / 7.0).abs() < 250.0), "{counts:?}");
    assert_eq!((random.below(0), random.below(1)), (0, 0));
    let moments = |draws: Vec<f64>| {
        let mean = draws.iter().sum::<f64>() / N as f64;
        (mean, draws.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / N as f64)
    };
    let (mean, variance) = moments((0..N).map(|_| random.uniform()).collect());
    assert!((mean - 0.5).abs() < 0.01 && (variance - 1.0 / 12.0).abs() < 0.003, "{mean} {variance}");
    let (mean, variance) = moments((0..N).map(|_| random.normal()).collect());
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
    // Where the first of four things goes, by shuffling and by a permutation.
    let (mut shuffled, mut permuted) = ([0; 4], [0; 4]);
    for i in 0..N as u64 {
        let mut items = [0, 1, 2, 3];
        random.shuffle(&mut items);
        shuffled[items.iter().position(|&item| item == 0).unwrap()] += 1;
        permuted[Permutation::new(4, &mut Random::new(3, "permutations", i)).get(0) as usize] += 1;
    }
    for counts in [shuffled, permuted] {
        assert!(counts.iter().all(|&count: &i32| (f64::from(count) - N as f64 / 4.0).abs() < 320.0), "{counts:?}");
    }
}
