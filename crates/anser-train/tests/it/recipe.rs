//! Initial values, parameter groups and schedules against what the trainers specify.

use anser_checkpoint::{Config, Version};
use anser_train::groups::{Architecture, Group, group};
use anser_train::init::{initial, initial_transformer, sizes};
use anser_train::schedule::{Curve, Schedule};
use proptest::prelude::*;

const TRAINED: [Version; 4] = [Version::V4, Version::V5_2, Version::V6, Version::V7];

fn config(version: Version) -> Config {
    let head_size = (version != Version::V4).then_some(32);
    sizes(version, 300, 3, 96, head_size, None).expect("sizes")
}

fn get(config: &Config, name: &str) -> Vec<f32> {
    let (_, shape) = config.tensors().into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}"));
    initial(config, name, &shape, 1).unwrap_or_else(|e| panic!("{e}"))
}

/// Checks a tensor of `width` values against a formula of the channel.
#[track_caller]
fn follows(config: &Config, name: &str, formula: impl Fn(f64) -> f64) {
    let values = get(config, name);
    assert_eq!(values.len(), config.width, "{name}");
    for (i, &x) in values.iter().enumerate() {
        let want = formula(i as f64);
        assert!((f64::from(x) - want).abs() < 1e-6, "{name}[{i}] = {x}, want {want}");
    }
}

/// Largest deviation of the shorter side's Gram matrix from `gain^2 I`, in parts of `gain^2`.
fn off_orthogonal(values: &[f32], rows: usize, cols: usize, gain: f64) -> f64 {
    let (count, length) = (rows.min(cols), rows.max(cols));
    let at = |vector: usize, i: usize| {
        f64::from(if rows > cols { values[i * cols + vector] } else { values[vector * cols + i] })
    };
    let mut worst = 0.0f64;
    for a in 0..count {
        for b in 0..=a {
            let dot: f64 = (0..length).map(|i| at(a, i) * at(b, i)).sum();
            worst = worst.max((dot / (gain * gain) - f64::from(u8::from(a == b))).abs());
        }
    }
    worst
}

#[track_caller]
fn is_orthogonal(config: &Config, name: &str, gain: f64) {
    let (_, shape) = config.tensors().into_iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("no {name}"));
    let off = off_orthogonal(&get(config, name), shape[0], shape[1], gain);
    assert!(off < 3e-6, "{name}: off by {off:e}");
}

#[test]
fn every_tensor_has_initial_values() {
    for version in TRAINED {
        let config = config(version);
        for (name, shape) in config.tensors() {
            let values = initial(&config, &name, &shape, 7).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
            assert!(values.iter().all(|x| x.is_finite()), "{name}");
            assert_eq!(values, initial(&config, &name, &shape, 7).expect("again"), "{name} must not change");
        }
        let (a, b) = (initial(&config, "head.weight", &[300, 96], 1), initial(&config, "head.weight", &[300, 96], 2));
        assert_ne!(a.expect("seed 1"), b.expect("seed 2"));
    }
}

#[test]
fn names_and_shapes_that_are_not_the_models_are_refused() {
    let config = config(Version::V7);
    for (name, shape) in [
        ("blocks.0.att.time_mix_k", vec![96]),
        ("blocks.3.ln1.weight", vec![96]),
        ("blocks.0.att.w0", vec![95]),
        ("emb.weight", vec![300]),
        ("nonsense", vec![]),
        ("blocks.0.att.w2", vec![96]),
    ] {
        let error = initial(&config, name, &shape, 0).expect_err(name).to_string();
        assert!(error.contains(name) && error.contains("rwkv7"), "{error}");
    }
    let old = Config { version: Version::V5_0, ..config };
    assert!(initial(&old, "emb.weight", &[300, 96], 0).is_err());
}

#[test]
fn norms_embeddings_and_outputs() {
    for version in TRAINED {
        let config = config(version);
        for name in ["blocks.0.ln0", "blocks.1.ln1", "blocks.2.ln2", "ln_out"] {
            follows(&config, &format!("{name}.weight"), |_| 1.0);
            follows(&config, &format!("{name}.bias"), |_| 0.0);
        }
        for name in ["blocks.0.att.output.weight", "blocks.2.ffn.value.weight"] {
            assert!(get(&config, name).iter().all(|&x| x == 0.0), "{name}");
        }
        let bound = if version == Version::V4 { 6e-4 } else { 1e-4f32 };
        let emb = get(&config, "emb.weight");
        let (mean, square) = emb.iter().fold((0.0, 0.0), |(m, s), &x| (m + f64::from(x), s + f64::from(x).powi(2)));
        let (mean, deviation) = (mean / emb.len() as f64, (square / emb.len() as f64).sqrt());
        assert!(emb.iter().all(|x| x.abs() <= bound));
        assert!(mean.abs() < 0.02 * f64::from(bound));
        assert!((deviation / f64::from(bound) - (1.0f64 / 3.0).sqrt()).abs() < 0.01, "{deviation}");
        if version != Version::V4 {
            follows(&config, "blocks.1.att.ln_x.weight", |_| (2.0f64 / 3.0).powf(0.7));
            follows(&config, "blocks.1.att.ln_x.bias", |_| 0.0);
        }
    }
}

#[test]
fn orthogonal_matrices_and_their_gains() {
    let head = 0.5 * (300.0f64 / 96.0).sqrt();
    for version in TRAINED {
        let config = config(version);
        is_orthogonal(&config, "head.weight", head);
        is_orthogonal(&config, "blocks.1.att.value.weight", 1.0);
        if version == Version::V4 {
            is_orthogonal(&config, "blocks.1.ffn.key.weight", 2.0);
            assert!(get(&config, "blocks.0.att.key.weight").iter().all(|&x| x == 0.0));
            assert!(get(&config, "blocks.0.att.receptance.weight").iter().all(|&x| x == 0.0));
        } else {
            is_orthogonal(&config, "blocks.1.ffn.key.weight", 1.0);
            is_orthogonal(&config, "blocks.0.att.key.weight", 0.1);
            is_orthogonal(&config, "blocks.2.att.receptance.weight", 1.0);
        }
        if matches!(version, Version::V5_2 | Version::V6) {
            is_orthogonal(&config, "blocks.2.att.gate.weight", 0.1);
        }
        if version != Version::V7 {
            assert!(get(&config, "blocks.0.ffn.receptance.weight").iter().all(|&x| x == 0.0));
        }
    }
    let v7 = config(Version::V7);
    for name in ["w", "a", "v", "g"] {
        is_orthogonal(&v7, &format!("blocks.1.att.{name}2"), 0.1);
        assert!(get(&v7, &format!("blocks.1.att.{name}1")).iter().all(|&x| x == 0.0));
    }
    // A small vocabulary's head, and a low rank above the width.
    let small = sizes(Version::V7, 12, 2, 16, Some(16), None).expect("sizes");
    is_orthogonal(&small, "head.weight", 0.5);
    is_orthogonal(&small, "blocks.1.att.w2", 0.1 * 2f64.sqrt());
}

#[test]
fn matrices_wider_than_a_panel_are_orthogonal() {
    let config = sizes(Version::V7, 700, 2, 320, Some(64), None).expect("sizes");
    is_orthogonal(&config, "head.weight", 0.5 * (700.0f64 / 320.0).sqrt());
    for block in 0..2 {
        is_orthogonal(&config, &format!("blocks.{block}.att.value.weight"), 1.0);
        is_orthogonal(&config, &format!("blocks.{block}.att.receptance.weight"), 1.0);
    }
    // Uniform among rotations: the trace of one of size n has mean 0 and deviation 1, entries 1/sqrt n.
    let values = get(&config, "blocks.0.att.value.weight");
    let trace: f32 = (0..320).map(|i| values[i * 320 + i]).sum();
    assert!(trace.abs() < 5.0, "{trace}");
    let largest = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(largest < 7.0 / 320f32.sqrt(), "{largest}");
}

#[test]
fn token_shifts_decays_and_bonuses() {
    let c = 96.0;
    let zigzag = |i: f64| (i + 1.0) % 3.0 - 1.0;
    // Layer 1 of 3: r01 = 1/2, r10 = 2/3.
    let (up, down) = (0.5f64, 2.0f64 / 3.0);
    for version in [Version::V4, Version::V5_2] {
        let config = config(version);
        follows(&config, "blocks.1.att.time_mix_k", |i| (i / c).powf(down));
        follows(&config, "blocks.1.att.time_mix_v", |i| (i / c).powf(down) + 0.3 * up);
        follows(&config, "blocks.1.att.time_mix_r", |i| (i / c).powf(down / 2.0));
        follows(&config, "blocks.1.ffn.time_mix_k", |i| (i / c).powf(down));
        follows(&config, "blocks.1.ffn.time_mix_r", |i| (i / c).powf(down));
    }
    let v4 = config(Version::V4);
    follows(&v4, "blocks.1.att.time_decay", |i| -5.0 + 8.0 * (i / (c - 1.0)).powf(0.7 + 1.3 * up));
    follows(&v4, "blocks.1.att.time_first", |i| 0.3f64.ln() + 0.5 * zigzag(i));
    for version in [Version::V5_2, Version::V6] {
        let config = config(version);
        follows(&config, "blocks.1.att.time_decay", |i| -6.0 + 5.0 * (i / (c - 1.0)).powf(0.7 + 1.3 * up));
        follows(&config, "blocks.1.att.time_faaaa", |i| up * (1.0 - i / (c - 1.0)) + 0.1 * zigzag(i));
    }
    follows(&config(Version::V5_2), "blocks.1.att.time_mix_g", |i| (i / c).powf(down / 2.0));
    let v6 = config(Version::V6);
    for part in ["x", "w", "k"] {
        follows(&v6, &format!("blocks.1.att.time_maa_{part}"), |i| 1.0 - (i / c).powf(down));
    }
    follows(&v6, "blocks.1.att.time_maa_v", |i| 1.0 - ((i / c).powf(down) + 0.3 * up));
    for part in ["r", "g"] {
        follows(&v6, &format!("blocks.1.att.time_maa_{part}"), |i| 1.0 - (i / c).powf(down / 2.0));
        follows(&v6, &format!("blocks.1.ffn.time_maa_{}", part.replace('g', "k")), |i| {
            1.0 - (i / c).powf(down.powi(3))
        });
    }
    for name in ["time_maa_w2", "time_decay_w2"] {
        let values = get(&v6, &format!("blocks.1.att.{name}"));
        assert!(values.iter().all(|x| x.abs() <= 0.01) && values.iter().any(|x| x.abs() > 0.009), "{name}");
        assert!(get(&v6, &format!("blocks.1.att.{}", name.replace("w2", "w1"))).iter().all(|&x| x == 0.0));
    }
    let v7 = config(Version::V7);
    for (parts, power) in [(["r", "g"], 0.2), (["w", "a"], 0.9), (["k", "v"], 0.7)] {
        for part in parts {
            follows(&v7, &format!("blocks.1.att.x_{part}"), |i| 1.0 - (i / c).powf(power * down));
        }
    }
    follows(&v7, "blocks.1.ffn.x_k", |i| 1.0 - (i / c).powf(down.powi(4)));
    let linear = |i: f64| i / (c - 1.0) - 0.5;
    let z = |i: f64| ((i % 32.0 - 15.5) / 15.5) * ((i % 32.0 - 15.5) / 15.5).abs();
    let ramp = |i: f64| -6.0 + 6.0 * (i / (c - 1.0)).powf(1.0 + up.powf(0.3));
    follows(&v7, "blocks.1.att.w0", |i| ramp(i) + 0.5 + 2.5 * z(i));
    follows(&v7, "blocks.1.att.a0", |i| -0.19 + 0.3 * z(i) + 0.4 * linear(i));
    follows(&v7, "blocks.1.att.v0", |i| 0.73 - 0.4 * linear(i));
    follows(&v7, "blocks.1.att.k_k", |i| 0.71 - 0.1 * linear(i));
    follows(&v7, "blocks.1.att.k_a", |_| 1.02);
    follows(&v7, "blocks.1.att.r_k", |_| -0.04);
    // The first channel takes the previous token only, in every layer.
    for version in [Version::V6, Version::V7] {
        let config = config(version);
        let name = if version == Version::V6 { "att.time_maa_k" } else { "att.x_k" };
        assert!((0..3).all(|block| get(&config, &format!("blocks.{block}.{name}"))[0] == 1.0));
    }
}

#[test]
fn official_sizes() {
    let ranks = |c: usize| {
        let r = sizes(Version::V7, 65536, 12, c, None, None).expect("sizes").ranks;
        (r.decay, r.a, r.v, r.g)
    };
    assert_eq!(ranks(512), (64, 64, 32, 128));
    assert_eq!(ranks(768), (64, 64, 32, 128));
    assert_eq!(ranks(1024), (64, 64, 64, 160));
    assert_eq!(ranks(2048), (128, 128, 64, 224));
    assert_eq!(ranks(2560), (128, 128, 96, 256));
    assert_eq!(ranks(4096), (160, 160, 96, 320));
    let v7 = sizes(Version::V7, 65536, 12, 768, None, None).expect("sizes");
    assert_eq!((v7.heads, v7.head_size, v7.ffn), (12, 64, 3072));
    let v6 = sizes(Version::V6, 65536, 24, 2048, None, None).expect("sizes");
    assert_eq!((v6.ffn, v6.ranks.mix, v6.ranks.decay), (7168, 32, 64));
    let v4 = sizes(Version::V4, 50277, 12, 768, None, None).expect("sizes");
    assert_eq!((v4.heads, v4.head_size, v4.ffn, v4.parameters()), (1, 768, 3072, 169_342_464));
}

#[test]
fn impossible_sizes_say_what_to_do() {
    let message = |result: Result<Config, anser_train::Error>| result.expect_err("must be refused").to_string();
    let odd = message(sizes(Version::V7, 256, 4, 200, None, None));
    assert!(odd.contains("192 or 256"), "{odd}");
    let one = message(sizes(Version::V7, 256, 1, 256, None, None));
    assert!(one.contains("layers is 1") && one.contains("2 to"), "{one}");
    assert!(message(sizes(Version::V4, 256, 4, 256, Some(64), None)).contains("leave it out"));
    assert!(message(sizes(Version::V5_1, 256, 4, 256, None, None)).contains("v5.2"));
    for (vocab, layers, width, head, ffn) in [
        (0, 4, 256, None, None),
        (256, 4, 0, None, None),
        (256, 4, usize::MAX, None, None),
        (256, usize::MAX, 256, None, None),
        (256, 4, 256, Some(0), None),
        (256, 4, 256, Some(512), None),
        (256, 4, 256, None, Some(0)),
        (usize::MAX, 4, 256, None, None),
    ] {
        message(sizes(Version::V6, vocab, layers, width, head, ffn));
    }
}

#[test]
fn the_transformer_begins_as_gpt2() {
    let deviation = |name: &str| {
        let values = initial_transformer(8, name, &[200, 100], 3).expect(name);
        let square: f64 = values.iter().map(|&x| f64::from(x).powi(2)).sum();
        (square / values.len() as f64).sqrt()
    };
    for name in ["emb.weight", "blocks.2.att.query.weight", "blocks.7.ffn.key.weight", "head.weight"] {
        assert!((deviation(name) - 0.02).abs() < 4e-4, "{name}");
    }
    for name in ["blocks.2.att.output.weight", "blocks.7.ffn.value.weight"] {
        assert!((deviation(name) - 0.005).abs() < 1e-4, "{name}");
    }
    assert_eq!(initial_transformer(8, "blocks.0.ln1.weight", &[3], 0).expect("norm"), [1.0; 3]);
    assert_eq!(initial_transformer(8, "ln_out.bias", &[3], 0).expect("norm"), [0.0; 3]);
    assert!(initial_transformer(8, "blocks.0.att.w0", &[3], 0).is_err());
}

#[test]
fn groups_of_each_version() {
    let plain = Group { lr_scale: 1.0, weight_decay: false };
    let matrix = Group { weight_decay: true, ..plain };
    for (version, name, shape, want) in [
        (Architecture::V7, "blocks.1.att.w0", vec![96], Group { lr_scale: 2.0, ..plain }),
        (Architecture::V7, "blocks.1.att.w1", vec![96, 32], plain),
        (Architecture::V7, "blocks.1.att.r_k", vec![3, 32], plain),
        (Architecture::V7, "blocks.1.att.ln_x.weight", vec![96], plain),
        (Architecture::V7, "emb.weight", vec![256, 96], matrix),
        (Architecture::V7, "head.weight", vec![256, 96], matrix),
        (Architecture::V6, "blocks.0.att.time_decay", vec![96], Group { lr_scale: 2.0, ..plain }),
        (Architecture::V6, "blocks.0.att.time_decay_w1", vec![96, 64], plain),
        (Architecture::V6, "blocks.0.att.time_maa_w2", vec![5, 32, 96], plain),
        (Architecture::V5_2, "blocks.0.att.time_decay", vec![3, 32], Group { lr_scale: 2.0, ..plain }),
        (Architecture::V5_2, "blocks.0.att.time_faaaa", vec![3, 32], plain),
        (Architecture::V4, "blocks.0.att.time_first", vec![96], Group { lr_scale: 3.0, ..plain }),
        (Architecture::V4, "blocks.0.att.time_mix_k", vec![1, 1, 96], plain),
        (Architecture::V4, "blocks.0.ffn.value.weight", vec![96, 384], matrix),
        (Architecture::Transformer, "blocks.0.att.query.weight", vec![96, 96], matrix),
        (Architecture::Transformer, "blocks.0.ln1.weight", vec![96], plain),
    ] {
        assert_eq!(group(version, name, &shape, true), want, "{version} {name}");
        assert_eq!(group(version, name, &shape, false), Group { lr_scale: 1.0, ..want }, "{version} {name}");
    }
    for architecture in Architecture::ALL {
        assert_eq!(architecture.to_string().parse(), Ok(architecture));
    }
}

fn schedule(curve: Curve) -> Schedule {
    Schedule { curve, lr: 6e-4, lr_final: 6e-5, warmup: 10, total: 1000, decay_fraction: 0.2 }
}

#[test]
fn the_warm_up_is_the_official_one() {
    for curve in Curve::ALL {
        let schedule = schedule(curve);
        for step in 0..10 {
            let want = 6e-4 * (0.01 + 0.99 * step as f64 / 10.0);
            assert!((schedule.at(step) - want).abs() < 1e-12, "{curve:?} at {step}");
        }
        assert_eq!(schedule.at(10), 6e-4, "{curve:?}");
    }
}

#[test]
fn the_curves_pass_through_known_points() {
    let close = |got: f64, want: f64| assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
    close(schedule(Curve::Cosine).at(505), 3.3e-4);
    close(schedule(Curve::Exponential).at(505), (6e-4f64 * 6e-5).sqrt());
    assert_eq!(schedule(Curve::Wsd).at(800), 6e-4);
    close(schedule(Curve::Wsd).at(900), 3.3e-4);
    close(schedule(Curve::WsdSqrt).at(850), 3.3e-4);
    assert_eq!(schedule(Curve::Constant).at(5000), 6e-4);
    // The author's log of the demo run: after 40320 of 2926181 samples.
    let demo = Schedule { warmup: 160, total: 2_926_181, ..schedule(Curve::Cosine) };
    assert!((demo.at(40320) - 0.00059975).abs() < 1e-8, "{}", demo.at(40320));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn schedules_rise_then_fall_and_end_at_the_final_rate(
        lr in 1e-6f64..1.0, ratio in 0.0f64..1.0, warmup in 0u64..50, length in 1u64..3000, fraction in 0.01f64..1.0,
        which in 0..Curve::ALL.len(), at in any::<prop::sample::Index>(),
    ) {
        let curve = Curve::ALL[which];
        let total = warmup + length;
        let lr_final = if curve == Curve::Exponential { lr * ratio.max(1e-3) } else { lr * ratio };
        let schedule = Schedule { curve, lr, lr_final, warmup, total, decay_fraction: fraction };
        let position = at.index(total as usize + 10) as u64;
        let (here, next) = (schedule.at(position), schedule.at(position + 1));
        prop_assert!(here > 0.0 || position >= total);
        prop_assert!(here <= lr * (1.0 + 1e-12));
        if position < warmup && !matches!(curve, Curve::Wsd | Curve::WsdSqrt) {
            prop_assert!(next >= here);
        } else if position >= warmup {
            prop_assert!(next <= here * (1.0 + 1e-12));
            prop_assert!(here >= lr_final * (1.0 - 1e-12));
        }
        if curve != Curve::Constant {
            prop_assert_eq!(schedule.at(total), lr_final);
            prop_assert_eq!(schedule.at(u64::MAX), lr_final);
        }
    }

    #[test]
    fn any_shape_is_orthogonal(rows in 1usize..90, cols in 1usize..90, seed in any::<u64>()) {
        let config = config(Version::V7);
        let values = initial(&config, "head.weight", &[rows, cols], seed).expect("head");
        let gain = 0.5 * (rows as f64 / cols as f64).sqrt().max(1.0);
        let off = off_orthogonal(&values, rows, cols, gain);
        prop_assert!(off < 3e-6, "{rows} x {cols}: {off:e}");
    }
}
