//! AdamW against f64, and bit-equality over levels and threads.

use anser_kernels::optimizer::{AdamW, adamw, first_non_finite, sum_of_squares};
use anser_kernels::pool::Pool;
use anser_kernels::simd::{Level, with_level};
use anser_testkit::Rng;
use proptest::prelude::*;

const HYPER: AdamW = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-18, weight_decay: 0.1, lr: 1e-3, step: 1 };

/// What `torch.optim.AdamW` documents, in f64.
fn exact(hyper: &AdamW, p: &mut f64, g: f64, m: &mut f64, v: &mut f64) {
    *p -= hyper.lr * hyper.weight_decay * *p;
    *m = hyper.beta1 * *m + (1.0 - hyper.beta1) * g;
    *v = hyper.beta2 * *v + (1.0 - hyper.beta2) * g * g;
    let m_hat = *m / (1.0 - hyper.beta1.powf(hyper.step as f64));
    let v_root = v.sqrt() / (1.0 - hyper.beta2.powf(hyper.step as f64)).sqrt();
    *p -= hyper.lr * m_hat / (v_root + hyper.eps);
}

#[test]
fn follows_the_formula_over_many_steps() {
    let pool = Pool::new(2);
    let n = 1000;
    for hyper in [HYPER, AdamW { eps: 1e-8, weight_decay: 0.0, beta2: 0.999, ..HYPER }, AdamW { beta1: 0.0, ..HYPER }] {
        let mut rng = Rng(3);
        let (mut p, mut m, mut v) = (rng.vec(n, 1.0), vec![0.0; n], vec![0.0; n]);
        let mut want: Vec<[f64; 3]> = p.iter().map(|&p| [f64::from(p), 0.0, 0.0]).collect();
        for step in 1..=20 {
            let hyper = AdamW { step, ..hyper };
            // Gradients of very different magnitudes, among them exact zeros.
            let g: Vec<f32> = (0..n).map(|i| rng.uniform() * 10f32.powi(-(i as i32 % 13))).collect();
            let g: Vec<f32> = g.iter().enumerate().map(|(i, &g)| if i % 7 == 0 { 0.0 } else { g }).collect();
            adamw(&pool, &hyper, &mut p, &g, 0.5, &mut m, &mut v);
            for (w, &g) in want.iter_mut().zip(&g) {
                let [p, m, v] = w;
                exact(&hyper, p, f64::from(g) * 0.5, m, v);
            }
        }
        for (i, [want_p, want_m, want_v]) in want.into_iter().enumerate() {
            assert!((f64::from(p[i]) - want_p).abs() < 2e-6, "p[{i}] = {}, want {want_p}", p[i]);
            assert!((f64::from(m[i]) - want_m).abs() <= 1e-6 * want_m.abs() + 1e-6 * want_v.sqrt() + 1e-30);
            assert!((f64::from(v[i]) - want_v).abs() <= 5e-6 * want_v + 1e-37, "v[{i}] = {}, want {want_v}", v[i]);
        }
    }
}

#[test]
fn the_first_step_of_a_gradient_is_the_learning_rate() {
    let pool = Pool::new(1);
    let (mut p, g) = (vec![0.0f32; 4], [1e-12f32, -3.0, 0.0, 250.0]);
    adamw(&pool, &HYPER, &mut p, &g, 1.0, &mut [0.0; 4], &mut [0.0; 4]);
    for (p, want) in p.iter().zip([-1e-3f32, 1e-3, 0.0, -1e-3]) {
        assert!((p - want).abs() < 1e-8, "{p} instead of {want}");
    }
}

#[test]
fn decay_alone_shrinks() {
    let mut p = vec![2.0f32];
    adamw(&Pool::new(1), &HYPER, &mut p, &[0.0], 1.0, &mut [0.0], &mut [0.0]);
    assert_eq!(p[0], 2.0 * (1.0f64 - 1e-4) as f32);
}

#[test]
#[should_panic(expected = "adamw: 2 parameters, 1 gradients")]
fn lengths_are_checked() {
    adamw(&Pool::new(1), &HYPER, &mut [0.0; 2], &[0.0], 1.0, &mut [0.0; 2], &mut [0.0; 2]);
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn threads_and_levels_agree_to_the_bit(n in 0usize..60_000, seed in any::<u64>(), step in 1u64..100_000) {
        let mut rng = Rng(seed);
        let (p, g, m) = (rng.vec(n, 1.0), rng.vec(n, 1e-3), rng.vec(n, 1e-3));
        let v: Vec<f32> = rng.vec(n, 1e-3).iter().map(|x| x * x).collect();
        let hyper = AdamW { step, ..HYPER };
        let mut first: Option<([Vec<u32>; 3], u64)> = None;
        for threads in [1, 3] {
            let pool = Pool::new(threads);
            for &level in Level::available() {
                let (mut p, mut m, mut v) = (p.clone(), m.clone(), v.clone());
                let squares = with_level(level, || {
                    adamw(&pool, &hyper, &mut p, &g, 0.7, &mut m, &mut v);
                    sum_of_squares(&pool, &g)
                });
                let got = ([bits(&p), bits(&m), bits(&v)], squares.to_bits());
                let want = first.get_or_insert_with(|| got.clone());
                prop_assert!(*want == got, "{threads} threads, {level}");
            }
        }
        let plain: f64 = g.iter().map(|&x| f64::from(x).powi(2)).sum();
        let squares = f64::from_bits(first.expect("ran").1);
        prop_assert!((squares - plain).abs() <= 1e-12 * plain);
    }

    #[test]
    fn the_first_bad_element_is_found(n in 1usize..30_000, at in any::<prop::sample::Index>(), which in 0usize..3) {
        let mut x = Rng(n as u64).vec(n, f32::MAX);
        let at = at.index(n);
        for &level in Level::available() {
            prop_assert_eq!(with_level(level, || first_non_finite(&x)), None);
        }
        for bad in at..n.min(at + 20) {
            x[bad] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][which];
        }
        for &level in Level::available() {
            prop_assert_eq!(with_level(level, || first_non_finite(&x)), Some(at));
        }
    }
}
