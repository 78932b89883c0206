//! Version, sizes and what follows from them, read off names and shapes.

use anser_checkpoint::{Config, Ranks, Version};

use crate::files::{Stored, open_golden, open_tensors, weights};

fn config(version: Version, vocab: usize, layers: usize, heads: usize, ffn: usize, ranks: Ranks) -> Config {
    Config {
        version,
        vocab,
        width: 64,
        layers,
        heads,
        head_size: 64 / heads,
        ffn,
        ranks,
        layer_norm_eps: 1e-5,
        group_norm_eps: 64e-5,
    }
}

#[test]
fn golden_models_have_their_sizes() {
    let none = Ranks::default();
    let v6 = |mix, decay| Ranks { mix, decay, ..none };
    let v7 = |decay, a, v, g| Ranks { mix: 0, decay, a, v, g };
    let expected = [
        ("lm/infer_v4", config(Version::V4, 256, 3, 1, 256, none)),
        ("lm/infer_v50", config(Version::V5_0, 256, 3, 2, 256, none)),
        ("lm/infer_v51", config(Version::V5_1, 256, 3, 2, 224, none)),
        ("lm/infer_v52", config(Version::V5_2, 256, 3, 2, 224, none)),
        ("lm/infer_v6", config(Version::V6, 256, 3, 2, 224, v6(32, 64))),
        ("lm/infer_v7", config(Version::V7, 256, 3, 2, 256, v7(32, 32, 32, 32))),
        ("lm/train_v4", config(Version::V4, 64, 2, 1, 160, none)),
        ("lm/train_v52", config(Version::V5_2, 64, 2, 2, 96, none)),
        ("lm/train_v6", config(Version::V6, 64, 2, 2, 96, v6(16, 24))),
        ("lm/train_v7", config(Version::V7, 64, 2, 2, 160, v7(16, 24, 8, 40))),
    ];
    for (golden, expected) in expected {
        let checkpoint = open_golden(golden);
        assert_eq!(checkpoint.config(), &expected, "{golden}");

        // The formula counts the weights there are, and block 0's value residual, which not every file holds.
        let held: usize = checkpoint.names().iter().map(|name| checkpoint.tensor(name).unwrap().elements()).sum();
        let absent = match golden {
            "lm/infer_v7" => 64 + 2 * 64 * 32,
            _ => 0,
        };
        assert_eq!(expected.parameters(), (held + absent) as u64, "{golden}");
    }
}

#[test]
fn one_block_is_enough() {
    for golden in ["lm/train_v4", "lm/infer_v50", "lm/infer_v51", "lm/train_v52", "lm/train_v6", "lm/train_v7"] {
        let whole = open_golden(golden);
        let mut tensors = weights(golden);
        tensors.retain(|name, _| !name.starts_with("blocks.") || name.starts_with("blocks.0."));
        let one = open_tensors(&tensors).unwrap();
        assert_eq!(one.config(), &Config { layers: 1, ..whole.config().clone() }, "{golden}");
    }
    let mut tensors = weights("lm/infer_v7");
    tensors.retain(|name, _| !name.starts_with("blocks.") || name.starts_with("blocks.0."));
    assert_eq!(open_tensors(&tensors).unwrap().config().ranks.v, 0);
}

#[test]
fn axes_of_length_one_do_not_matter() {
    for golden in ["lm/infer_v50", "lm/infer_v6", "lm/infer_v7"] {
        let plain = open_golden(golden);
        let mut tensors = weights(golden);
        for (name, tensor) in &mut tensors {
            let squeezed: Vec<usize> = tensor.shape.iter().copied().filter(|&length| length != 1).collect();
            tensor.shape = match squeezed[..] {
                [heads] if name.ends_with(".time_decay") && heads != 64 => vec![heads, 1, 1],
                [width] if !name.contains("ln") => vec![1, 1, width],
                _ => squeezed,
            };
        }
        let padded = open_tensors(&tensors).unwrap();
        assert_eq!(padded.config(), plain.config());
        for name in plain.names() {
            assert_eq!(padded.tensor(&name).unwrap().shape, plain.tensor(&name).unwrap().shape, "{name}");
        }
    }
}

/// One head, where `[H, N]` is easily taken for `[N]` and `[H]` for a number.
#[test]
fn one_head() {
    for golden in ["lm/infer_v50", "lm/infer_v52", "lm/infer_v6", "lm/infer_v7"] {
        let mut tensors = weights(golden);
        for (name, tensor) in &mut tensors {
            if ["time_decay", "time_faaaa", "time_first", "r_k"].iter().any(|end| name.ends_with(end)) {
                tensor.shape = match tensor.shape[..] {
                    [2, 32] => vec![1, 64],
                    [2] => {
                        tensor.data.truncate(tensor.data.len() / 2);
                        vec![1]
                    }
                    ref other => other.to_vec(),
                };
            }
        }
        let checkpoint = open_tensors(&tensors).unwrap();
        assert_eq!((checkpoint.config().heads, checkpoint.config().head_size), (1, 64), "{golden}");
    }
}

#[test]
fn a_tuned_state_may_be_in_the_file() {
    let mut tensors = weights("lm/infer_v6");
    for block in 0..3 {
        tensors.insert(format!("blocks.{block}.att.time_state"), Stored::f32(&[2, 32, 32], 0.5));
    }
    let checkpoint = open_tensors(&tensors).unwrap();
    assert_eq!(checkpoint.tensor("blocks.1.att.time_state").unwrap().shape, [2, 32, 32]);
    assert_ne!(checkpoint.fingerprint(), open_golden("lm/infer_v6").fingerprint());
}

fn released(version: Version, vocab: usize, layers: usize, width: usize, ffn: usize, ranks: [usize; 5]) -> Config {
    let heads = if version == Version::V4 { 1 } else { width / 64 };
    let [mix, decay, a, v, g] = ranks;
    Config {
        version,
        vocab,
        width,
        layers,
        heads,
        head_size: width / heads,
        ffn,
        ranks: Ranks { mix, decay, a, v, g },
        layer_norm_eps: 1e-5,
        group_norm_eps: 64e-5,
    }
}

#[test]
fn published_parameter_counts() {
    let million = |config: &Config| config.parameters() as f64 / 1e6;
    let close = |config: Config, expected: f64| {
        assert!((million(&config) - expected).abs() < 0.05, "{} against {expected}", million(&config));
    };
    close(released(Version::V4, 50277, 12, 768, 4 * 768, [0; 5]), 169.34);
    close(released(Version::V4, 50277, 24, 2048, 4 * 2048, [0; 5]), 1515.1);
    close(released(Version::V5_2, 65536, 24, 1024, 3584, [0; 5]), 461.7);
    close(released(Version::V6, 65536, 24, 2048, 7168, [32, 64, 0, 0, 0]), 1599.9);
    close(released(Version::V7, 65536, 12, 768, 3072, [0, 64, 64, 32, 128]), 191.08);
    close(released(Version::V7, 65536, 24, 1024, 4096, [0, 64, 64, 32, 128]), 450.83);
    close(released(Version::V7, 65536, 32, 4096, 16384, [0, 128, 128, 96, 480]), 7199.9);
}

#[test]
fn state_and_work_per_token() {
    let small = released(Version::V7, 65536, 24, 1024, 4096, [0, 64, 64, 32, 128]);
    assert_eq!(small.state_elements(), 66 * 1024 * 24);
    let large = released(Version::V7, 65536, 32, 4096, 16384, [0, 128, 128, 96, 480]);
    let matrices = large.flops_per_token() - 32 * 9 * 64 * 4096;
    assert_eq!(matrices, 2 * (large.parameters() - 65536 * 4096));
    assert!((matrices as f64 / 1e9 - 13.863).abs() < 0.001);
    let v4 = released(Version::V4, 50277, 12, 768, 4 * 768, [0; 5]);
    assert_eq!(v4.state_elements(), 5 * 768 * 12);
}

#[test]
fn versions_have_names() {
    for version in Version::ALL {
        assert_eq!(version.to_string().parse::<Version>(), Ok(version));
    }
    assert!("5".parse::<Version>().unwrap_err().contains("5.2"));
}
