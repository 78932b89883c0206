//! The sampler against the reference's distributions, and the laws every option must keep.

use anser_engine::Error;
use anser_engine::sampling::{Order, Sampler, Sampling, log_probability, top_log_probabilities, uncounted_by_pip};
use anser_testkit::{Golden, Rng, assert_close};
use proptest::prelude::*;

fn sampler(options: &Sampling, vocab: usize) -> Sampler {
    Sampler::new(options, vocab).expect("valid options")
}

/// The definition, spelled out: every filter sorts.
fn oracle(options: &Sampling, logits: &[f32]) -> Vec<f64> {
    let softmax = |logits: &[f64]| -> Vec<f64> {
        let max = logits.iter().fold(f64::NEG_INFINITY, |m, &l| m.max(l));
        let weights: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    };
    let renormalise = |p: &mut Vec<f64>| {
        let total: f64 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= total);
    };
    let by = |key: &dyn Fn(usize) -> f64, n: usize| -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
        order
    };
    let nucleus = |p: &mut Vec<f64>, key: &dyn Fn(&[f64], usize) -> f64, target: f32| {
        if target >= 1.0 {
            return;
        }
        let alive: Vec<f64> = p.clone();
        let (mut sum, mut last) = (0.0, f64::INFINITY);
        for i in by(&|i| if alive[i] > 0.0 { key(&alive, i) } else { f64::NEG_INFINITY }, alive.len()) {
            if sum >= target as f64 && last.is_finite() {
                break;
            }
            sum += alive[i];
            last = key(&alive, i);
        }
        for i in 0..alive.len() {
            if alive[i] > 0.0 && key(&alive, i) < last {
                p[i] = 0.0;
            }
        }
    };
    let top_k = |p: &mut Vec<f64>| {
        if options.top_k > 0 {
            let alive = p.clone();
            for &i in by(&|i| alive[i], alive.len()).iter().skip(options.top_k) {
                p[i] = 0.0;
            }
        }
    };
    let top_p = |p: &mut Vec<f64>| nucleus(p, &|p, i| p[i], options.top_p);
    let typical = |p: &mut Vec<f64>| {
        let entropy: f64 = p.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
        nucleus(p, &|p, i| -(-p[i].ln() - entropy).abs(), options.typical);
    };
    let min_p = |p: &mut Vec<f64>| {
        let least = options.min_p as f64 * p.iter().fold(0.0f64, |m, &p| m.max(p));
        p.iter_mut().filter(|p| **p < least).for_each(|p| *p = 0.0);
    };

    let temperature = options.temperature as f64;
    let wide: Vec<f64> = logits.iter().map(|&l| l as f64).collect();
    match options.order {
        Order::Standard => {
            let mut p = softmax(&wide.iter().map(|l| l / temperature).collect::<Vec<_>>());
            top_k(&mut p);
            renormalise(&mut p);
            typical(&mut p);
            renormalise(&mut p);
            top_p(&mut p);
            min_p(&mut p);
            renormalise(&mut p);
            p
        }
        Order::Pip => {
            let mut p = softmax(&wide);
            top_p(&mut p);
            top_k(&mut p);
            renormalise(&mut p);
            typical(&mut p);
            min_p(&mut p);
            softmax(&p.iter().map(|p| p.ln() / temperature).collect::<Vec<_>>())
        }
    }
}

/// Distinct logits a fixed step apart in random order: no ties for rounding to decide.
fn distinct_logits(seed: u64, vocab: usize, step: f32) -> Vec<f32> {
    let mut rng = Rng(seed);
    let mut logits: Vec<f32> = (0..vocab).map(|i| i as f32 * step).collect();
    for i in (1..vocab).rev() {
        logits.swap(i, rng.below(i + 1));
    }
    logits
}

fn any_options() -> impl Strategy<Value = Sampling> {
    let filter = (0.0f32..1.0, 0usize..40, 0.0f32..0.9, 0.01f32..1.0);
    (0.1f32..3.0, filter, any::<bool>(), any::<[bool; 4]>()).prop_map(|(temperature, filters, pip, on)| {
        let (top_p, top_k, min_p, typical) = filters;
        Sampling {
            temperature,
            top_p: if on[0] { top_p } else { 1.0 },
            top_k: if on[1] { top_k } else { 0 },
            min_p: if on[2] { min_p } else { 0.0 },
            typical: if on[3] { typical } else { 1.0 },
            order: if pip { Order::Pip } else { Order::Standard },
            seed: Some(1),
            ..Sampling::default()
        }
    })
}

#[test]
fn pip_order_gives_the_reference_distributions() {
    let golden = Golden::open("lm/sampling");
    let logits = golden.f32("in.logits");
    // [temperature, top_p, top_k], as the file's metadata lists them.
    let cases =
        [(1.0, 0.85, 0), (0.7, 0.9, 0), (1.3, 0.5, 0), (0.0, 0.5, 0), (1.0, 1.0, 5), (2.0, 0.95, 10), (1.0, 0.0, 0)];
    let listed =
        "[[1.0, 0.85, 0], [0.7, 0.9, 0], [1.3, 0.5, 0], [0, 0.5, 0], [1.0, 1.0, 5], [2.0, 0.95, 10], [1.0, 0.0, 0]]";
    assert_eq!(golden.metadata("cases"), listed);
    for (i, (temperature, top_p, top_k)) in cases.into_iter().enumerate() {
        let options = Sampling { temperature, top_p, top_k, order: Order::Pip, ..Sampling::default() };
        let got = sampler(&options, logits.len()).probabilities(logits).unwrap();
        assert_close(&format!("case {i}"), &got, golden.f32(&format!("out.case{i}.probs")), 1e-6);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn filters_agree_with_their_definition(options in any_options(), seed: u64, vocab in 1usize..300, step in 0.01f32..0.3) {
        let logits = distinct_logits(seed, vocab, step);
        let got = sampler(&options, vocab).probabilities(&logits).unwrap();
        let want = oracle(&options, &logits);
        // A mass that meets a filter's border within rounding may fall on either side of it.
        // Probabilities that f32 can hardly hold are no filter's doing.
        let matters = |g: f32, w: f64| w.max(g as f64) > 1e-20;
        let differ = got.iter().zip(&want).filter(|&(&g, &w)| (g > 0.0) != (w > 0.0) && matters(g, w)).count();
        prop_assert!(differ <= 1, "{differ} tokens kept differently");
        if differ == 0 {
            for (token, (g, w)) in got.iter().zip(&want).enumerate() {
                prop_assert!((*g as f64 - w).abs() <= 2e-6, "token {token}: {g}, by definition {w}");
            }
        }
    }

    #[test]
    fn distributions_sum_to_one_and_leave_out_the_banned(
        options in any_options(), seed: u64, vocab in 2usize..300, banned in prop::collection::vec(any::<u32>(), 0..20),
    ) {
        let logits = Rng(seed).vec(vocab, 8.0);
        // Token 0 is never banned: something must be left.
        let banned: Vec<u32> = banned.iter().map(|b| 1 + b % (vocab as u32 - 1)).collect();
        let options = Sampling { banned: banned.clone(), logit_bias: vec![(0, 3.0)], ..options };
        let mut sampler = sampler(&options, vocab);
        let p = sampler.probabilities(&logits).unwrap();
        prop_assert!((p.iter().map(|&p| p as f64).sum::<f64>() - 1.0).abs() < 1e-5);
        for _ in 0..20 {
            let token = sampler.sample(&logits).unwrap().token;
            prop_assert!(!banned.contains(&token));
            prop_assert!(p[token as usize] > 0.0);
        }
    }

    #[test]
    fn greedy_and_the_cold_limit_take_the_largest(seed: u64, vocab in 1usize..300, pip: bool) {
        let logits = distinct_logits(seed, vocab, 0.1);
        let largest = (0..vocab).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
        let order = if pip { Order::Pip } else { Order::Standard };
        let only = [
            Sampling { temperature: 0.0, order, ..Sampling::default() },
            Sampling { temperature: 1e-4, order, ..Sampling::default() },
            Sampling { temperature: f32::MIN_POSITIVE, order, ..Sampling::default() },
            Sampling { top_k: 1, temperature: 1000.0, order, ..Sampling::default() },
            Sampling { top_p: 0.0, order, ..Sampling::default() },
            Sampling { min_p: 1.0, order, ..Sampling::default() },
        ];
        for options in only {
            prop_assert_eq!(sampler(&options, vocab).sample(&logits).unwrap().token, largest, "{:?}", options);
        }
    }

    #[test]
    fn a_seed_gives_one_text_whatever_happened_between(options in any_options(), seed: u64) {
        let options = Sampling { seed: Some(seed), frequency: 0.3, presence: 0.1, ..options };
        let mut rng = Rng(seed);
        let rows: Vec<Vec<f32>> = (0..12).map(|_| rng.vec(50, 5.0)).collect();
        let text = |noise: bool| -> Vec<u32> {
            let mut sampler = sampler(&options, 50);
            rows.iter().map(|row| {
                if noise {
                    sampler.probabilities(&rows[0]).unwrap();
                    sampler.sample(&[f32::NAN; 50]).unwrap_err();
                }
                let token = sampler.sample(row).unwrap().token;
                sampler.accept(token).unwrap();
                token
            }).collect()
        };
        prop_assert_eq!(text(false), text(true));
    }

    #[test]
    fn log_probabilities_are_the_models(seed: u64, vocab in 1usize..3000, n in 0usize..20) {
        let mut logits = Rng(seed).vec(vocab, 10.0);
        if vocab > 3 {
            logits[1] = f32::NEG_INFINITY;
            logits[3] = logits[2];
        }
        let total: f64 = logits.iter().map(|&l| (l as f64).exp()).sum();
        let want = |token: u32| (logits[token as usize] as f64 - total.ln()) as f32;
        let top = top_log_probabilities(&logits, n).unwrap();
        let mut sorted: Vec<u32> = (0..vocab as u32).filter(|&t| logits[t as usize] > f32::NEG_INFINITY).collect();
        sorted.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        sorted.truncate(n);
        prop_assert_eq!(top.iter().map(|&(t, _)| t).collect::<Vec<_>>(), sorted);
        for (token, logprob) in top {
            prop_assert!((logprob - want(token)).abs() < 1e-5);
            prop_assert_eq!(logprob, log_probability(&logits, token));
        }
        // Penalties and filters change the draw, not the log-probability that is reported.
        let options = Sampling { temperature: 0.5, top_k: 3, seed: Some(seed), ..Sampling::default() };
        let choice = sampler(&options, vocab).sample(&logits).unwrap();
        prop_assert_eq!(choice.logprob, log_probability(&logits, choice.token));
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits = Rng(7).vec(40, 2.0);
    for order in [Order::Standard, Order::Pip] {
        let options = Sampling { temperature: 0.8, top_p: 0.9, seed: Some(11), order, ..Sampling::default() };
        let mut sampler = sampler(&options, 40);
        let p = sampler.probabilities(&logits).unwrap();
        let (draws, mut counts) = (20_000, [0u32; 40]);
        for _ in 0..draws {
            counts[sampler.sample(&logits).unwrap().token as usize] += 1;
        }
        let (mut chi2, mut cells) = (0.0, 0);
        for (&count, &p) in counts.iter().zip(&p) {
            let expected = p as f64 * draws as f64;
            match p > 0.0 {
                true => (chi2, cells) = (chi2 + (count as f64 - expected).powi(2) / expected, cells + 1),
                false => assert_eq!(count, 0),
            }
        }
        // Mean cells - 1, standard deviation sqrt(2 (cells - 1)): four of them is a failure in one of ten thousand seeds.
        let freedom = (cells - 1) as f64;
        assert!(cells > 5 && chi2 < freedom + 4.0 * (2.0 * freedom).sqrt(), "chi2 {chi2} over {cells} cells");
    }
}

#[test]
fn neighbouring_seeds_are_unrelated() {
    let logits = vec![0.0; 1 << 16];
    let draw = |seed| -> Vec<u32> {
        let mut sampler = sampler(&Sampling { seed: Some(seed), ..Sampling::default() }, logits.len());
        (0..8).map(|_| sampler.sample(&logits).unwrap().token).collect()
    };
    let streams: Vec<Vec<u32>> = (0..8).map(draw).collect();
    let mut all: Vec<u32> = streams.concat();
    all.sort_unstable();
    all.dedup();
    assert!(all.len() >= 62, "64 draws of 65536 repeat: {streams:?}");
}

#[test]
fn a_seed_is_the_same_text_for_ever() {
    // Frozen: saved seeds must keep their meaning from one release to the next.
    let logits: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32 * 0.05).collect();
    let mut sampler = sampler(&Sampling { seed: Some(42), top_p: 0.9, ..Sampling::default() }, 100);
    let text: Vec<u32> = (0..8).map(|_| sampler.sample(&logits).unwrap().token).collect();
    assert_eq!(text, [8, 59, 59, 35, 54, 81, 8, 54]);
}

#[test]
fn penalties_follow_the_reference_rules() {
    let options =
        Sampling { presence: 0.5, frequency: 0.25, penalty_decay: 0.5, uncounted: vec![2], ..Sampling::default() };
    let logits = vec![0.0f32; 4];
    let mut sampler = sampler(&options, 4);
    for token in [1, 2, 1, 3] {
        sampler.accept(token).unwrap();
    }
    // Counts: token 1: (1 * .5 * .5 + 1) * .5 = .625; token 2 is seen but not counted; token 3: 1.
    let adjusted = [0.0, -0.5 - 0.25 * 0.625, -0.5, -0.75f32];
    let total: f32 = adjusted.iter().map(|l| l.exp()).sum();
    let want: Vec<f32> = adjusted.iter().map(|l| l.exp() / total).collect();
    assert_close("penalised", &sampler.probabilities(&logits).unwrap(), &want, 1e-6);
    sampler.forget();
    assert_close("forgotten", &sampler.probabilities(&logits).unwrap(), &[0.25; 4], 1e-7);

    let options = Sampling { repetition: 2.0, ..Sampling::default() };
    let mut sampler = Sampler::new(&options, 3).unwrap();
    sampler.accept(0).unwrap();
    sampler.accept(1).unwrap();
    let adjusted = [0.5, -2.0, 0.5f32];
    let total: f32 = adjusted.iter().map(|l| l.exp()).sum();
    let want: Vec<f32> = adjusted.iter().map(|l| l.exp() / total).collect();
    assert_close("repetition", &sampler.probabilities(&[1.0, -1.0, 0.5]).unwrap(), &want, 1e-6);
}

#[test]
fn the_reference_does_not_count_blanks_and_digits() {
    for text in [" ", "\t", " \t", "7", "12", "0123456789", ""] {
        assert!(uncounted_by_pip(text.as_bytes()), "{text:?}");
    }
    for text in ["21", "a", " 1", "\n", "  ", "01234567890"] {
        assert!(!uncounted_by_pip(text.as_bytes()), "{text:?}");
    }
}

#[test]
fn ties() {
    let logits = [1.0, 3.0, 3.0, 3.0, -0.0, 0.0];
    let p = |options: Sampling| sampler(&options, 6).probabilities(&logits).unwrap();
    assert_eq!(p(Sampling::greedy())[1], 1.0, "greedy takes the lowest id");
    let third = p(Sampling { top_p: 0.1, ..Sampling::default() });
    assert_close("top-p keeps ties", &third, &[0.0, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0, 0.0], 1e-6);
    let half = p(Sampling { top_k: 2, ..Sampling::default() });
    assert_close("top-k keeps exactly k, low ids first", &half, &[0.0, 0.5, 0.5, 0.0, 0.0, 0.0], 1e-6);
    let five = p(Sampling { top_k: 5, ..Sampling::default() });
    assert!(five[4] > 0.0 && five[5] == 0.0, "-0 and 0 tie");
}

#[test]
fn extreme_logits() {
    let huge = [f32::MAX, f32::MIN, f32::NEG_INFINITY, f32::MAX];
    for order in [Order::Standard, Order::Pip] {
        for temperature in [0.0, 0.5, 1.0, 1000.0] {
            let filters = Sampling { typical: 0.9, top_p: 0.99, min_p: 0.01, top_k: 4, ..Sampling::default() };
            let options = Sampling { temperature, order, repetition: 0.01, presence: -100.0, ..filters };
            let mut sampler = sampler(&options, 4);
            sampler.accept(0).unwrap();
            let p = sampler.probabilities(&huge).unwrap();
            assert!(p[1] == 0.0 && p[2] == 0.0 && p.iter().all(|p| p.is_finite()), "{options:?}: {p:?}");
            let choice = sampler.sample(&huge).unwrap();
            assert!(choice.logprob.is_finite() && [0, 3].contains(&choice.token));
        }
    }
}

#[test]
fn what_cannot_be_drawn_from_is_refused() {
    for options in [Sampling::greedy(), Sampling::default(), Sampling::pip()] {
        let mut sampler = sampler(&options, 3);
        for logits in [[0.0, f32::NAN, 1.0], [0.0, f32::INFINITY, 1.0], [f32::NEG_INFINITY; 3]] {
            assert!(matches!(sampler.sample(&logits), Err(Error::NonFiniteLogits)));
            assert!(matches!(sampler.probabilities(&logits), Err(Error::NonFiniteLogits)));
            assert!(matches!(top_log_probabilities(&logits, 2), Err(Error::NonFiniteLogits)));
        }
        assert!(matches!(sampler.sample(&[0.0; 4]), Err(Error::Batch { expected: 3, found: 4, .. })));
        assert!(matches!(sampler.accept(3), Err(Error::TokenOutOfRange { token: 3, vocab: 3, .. })));
    }
    let mut sampler = sampler(&Sampling { banned: vec![0, 1, 2], ..Sampling::default() }, 3);
    assert!(matches!(sampler.sample(&[0.0; 3]), Err(Error::NonFiniteLogits)));
    assert!(matches!(top_log_probabilities(&[], 2), Err(Error::NonFiniteLogits)));
}

#[test]
fn options_out_of_range_are_named() {
    let message = |options: Sampling| Sampler::new(&options, 10).unwrap_err().to_string();
    let base = Sampling::default;
    let messages = [
        message(Sampling { temperature: -1.0, ..base() }),
        message(Sampling { temperature: f32::NAN, ..base() }),
        message(Sampling { top_p: 1.5, ..base() }),
        message(Sampling { min_p: -0.1, ..base() }),
        message(Sampling { typical: f32::INFINITY, ..base() }),
        message(Sampling { presence: 101.0, ..base() }),
        message(Sampling { frequency: f32::NAN, ..base() }),
        message(Sampling { repetition: 0.0, ..base() }),
        message(Sampling { penalty_decay: 2.0, ..base() }),
        message(Sampling { logit_bias: vec![(3, f32::NAN)], ..base() }),
        message(Sampling { logit_bias: vec![(10, 1.0)], ..base() }),
        message(Sampling { banned: vec![11], ..base() }),
        message(Sampling { uncounted: vec![12], ..base() }),
    ];
    let expected = [
        "sampling option temperature: expected 0 (greedy) to 1000, found -1",
        "sampling option temperature: expected 0 (greedy) to 1000, found NaN",
        "sampling option top_p: expected 0 to 1 (1 keeps all), found 1.5",
        "sampling option min_p: expected 0 (keeps all) to 1, found -0.1",
        "sampling option typical: expected 0 to 1 (1 keeps all), found inf",
        "sampling option presence: expected -100 to 100 (0 is off), found 101",
        "sampling option frequency: expected -100 to 100 (0 is off), found NaN",
        "sampling option repetition: expected 0.01 to 100 (1 is off), found 0",
        "sampling option penalty_decay: expected 0 to 1 (1 never forgets), found 2",
        "sampling option logit_bias: expected -1000 to 1000, or -inf, found NaN for token 3",
        "sampling option logit_bias: expected tokens of the model's vocabulary, found token 10 of a vocabulary of 10",
        "sampling option banned: expected tokens of the model's vocabulary, found token 11 of a vocabulary of 10",
        "sampling option uncounted: expected tokens of the model's vocabulary, found token 12 of a vocabulary of 10",
    ];
    assert_eq!(messages.each_ref().map(String::as_str), expected);
}
