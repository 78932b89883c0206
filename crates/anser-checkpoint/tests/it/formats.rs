//! Every layout gives the official tensors.

use std::borrow::Cow;
use std::path::Path;

use anser_checkpoint::{Checkpoint, Container, Dtype, Error, Layout, OpenOptions, TokenizerHint};
use anser_testkit::{Golden, golden_dir};

use crate::files::{File, open_golden, open_tensors, safetensors, weights};

fn open(path: &str) -> Checkpoint {
    Checkpoint::open(&golden_dir().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// Every tensor of `checkpoint` has the values of the golden file's, and none is lacking.
fn assert_same_values(checkpoint: &Checkpoint, golden: &str) {
    let reference = open_golden(golden);
    let file = Golden::open(golden);
    assert_eq!(checkpoint.names(), reference.names(), "{golden}");
    assert_eq!(checkpoint.config(), reference.config(), "{golden}");
    for name in checkpoint.names() {
        let tensor = checkpoint.tensor(&name).unwrap();
        let official: Vec<usize> = reference.tensor(&name).unwrap().shape;
        assert_eq!(tensor.shape, official, "{name}");
        assert_eq!(tensor.shape.iter().product::<usize>(), tensor.elements(), "{name}");
        assert_eq!(tensor.to_f32(), file.f32(&name), "{name}");
    }
}

#[test]
fn official_pth_files_are_bit_equal_to_their_copies() {
    for version in ["v4", "v52", "v6", "v7"] {
        let checkpoint = open(&format!("lm/tiny_{version}.pth"));
        assert_eq!(checkpoint.format().container, Container::PthZip);
        assert_eq!(checkpoint.stored_dtype(), Dtype::Bf16);
        let copies = weights(&format!("lm/train_{version}"));
        assert_eq!(checkpoint.names().len(), copies.len());
        for (name, copy) in &copies {
            let tensor = checkpoint.tensor(name).unwrap();
            assert_eq!(copy.dtype, "BF16");
            assert_eq!((tensor.dtype, &tensor.data[..]), (Dtype::Bf16, &copy.data[..]), "{name}");
            assert!(matches!(tensor.data, Cow::Borrowed(_)), "{name} was copied");
        }
        assert_same_values(&checkpoint, &format!("lm/train_{version}"));
    }
}

#[test]
fn every_way_torch_saves() {
    let legacy = open("lm/tiny_v7_legacy.pth");
    assert_eq!(legacy.format().to_string(), "PyTorch .pth (legacy)");
    assert_same_values(&legacy, "lm/train_v7");

    let variants = [
        ("f32", Container::PthZip, Dtype::F32),
        ("f16", Container::PthZip, Dtype::F16),
        ("bf16_squeezed", Container::PthZip, Dtype::Bf16),
        ("shared_storage", Container::PthZip, Dtype::F32),
        ("deepspeed_prefix", Container::PthZip, Dtype::F32),
        ("legacy_f16", Container::PthLegacy, Dtype::F16),
        ("legacy_shared_storage", Container::PthLegacy, Dtype::F32),
    ];
    for (name, container, dtype) in variants {
        let checkpoint = open(&format!("lm/pth_variants/{name}.pth"));
        assert_same_values(&checkpoint, "lm/pth_variants/model");
        assert_eq!(checkpoint.format().container, container, "{name}");
        if !name.contains("shared") {
            assert_eq!(checkpoint.stored_dtype(), dtype, "{name}");
        }
    }
}

#[test]
fn hugging_face_folders() {
    let folders = [
        ("v4", "lm/infer_v4", "Hugging Face (transformers rwkv4)"),
        ("custom_v5", "lm/infer_v52", "Hugging Face (custom-code rwkv5)"),
        ("custom_v6", "lm/infer_v6", "Hugging Face (custom-code rwkv6)"),
        ("fla_v6", "lm/infer_v6", "Hugging Face (fla rwkv6)"),
        ("fla_v7", "lm/infer_v7", "Hugging Face (fla rwkv7)"),
        ("native_v7_sharded", "lm/infer_v7", "safetensors, 3 files"),
        ("native_v7_prefixed", "lm/pth_variants/model", "safetensors"),
    ];
    for (folder, golden, format) in folders {
        let checkpoint = open(&format!("hf/{folder}"));
        assert_same_values(&checkpoint, golden);
        assert_eq!(checkpoint.format().to_string(), format);
        assert_eq!(checkpoint.stored_dtype(), Dtype::Bf16);
        // Values as f32 decide, not the format.
        assert_eq!(checkpoint.fingerprint(), open_golden(golden).fingerprint(), "{folder}");
    }
    assert_same_values(&open("hf/native_v7_sharded/model.safetensors.index.json"), "lm/infer_v7");
    assert_same_values(&open("hf/fla_v6/model.safetensors"), "lm/infer_v6");
}

#[test]
fn tensors_that_lie_as_the_official_ones_are_borrowed() {
    let checkpoint = open("hf/fla_v7");
    for (name, borrowed) in [
        ("emb.weight", true),
        ("blocks.1.att.receptance.weight", true),
        ("blocks.1.att.x_r", true),
        ("blocks.1.att.w1", false),
    ] {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(matches!(tensor.data, Cow::Borrowed(_)), borrowed, "{name}");
    }
}

#[test]
fn one_shard_says_that_it_is_one() {
    let path = golden_dir().join("hf/native_v7_sharded/model-00001-of-00003.safetensors");
    let error = Checkpoint::open(&path).unwrap_err();
    let hint = error.hint().unwrap_or_default();
    assert!(matches!(error, Error::MissingTensor { .. } | Error::Unsupported { .. }), "{error}");
    assert!(hint.contains("index.json"), "{error}: {hint}");
}

#[test]
fn fingerprints_tell_models_apart() {
    let names = ["lm/infer_v4", "lm/infer_v52", "lm/infer_v6", "lm/infer_v7", "lm/train_v7"];
    let mut prints: Vec<String> = names.iter().map(|name| open_golden(name).fingerprint()).collect();
    prints.sort();
    prints.dedup();
    assert_eq!(prints.len(), names.len());
    assert!(prints.iter().all(|print| print.len() == 64));

    let whole = open("lm/tiny_v7.pth").fingerprint();
    let mut tensors = weights("lm/train_v7");
    for part in ["v0", "v1", "v2"] {
        tensors.remove(&format!("blocks.0.att.{part}"));
    }
    assert_eq!(open_tensors(&tensors).unwrap().fingerprint(), whole, "block 0's value residual is never used");
}

/// A folder with the weights of a golden file under `model.safetensors` and these side files.
fn folder(golden: &str, side_files: &[(&str, &str)]) -> File {
    let file = File::new("model.safetensors", &safetensors(&weights(golden)));
    for (name, text) in side_files {
        std::fs::write(file.folder.path().join(name), text).unwrap();
    }
    file
}

fn epsilons(path: &Path, options: &OpenOptions) -> (f32, f32) {
    let checkpoint = Checkpoint::open_with(path, options).unwrap();
    (checkpoint.config().layer_norm_eps, checkpoint.config().group_norm_eps)
}

#[test]
fn epsilons_come_from_config_json_where_it_cannot_be_an_official_model() {
    let plain = OpenOptions::default();
    let cases = [
        (r#"{"model_type": "rwkv7", "norm_eps": 1e-5, "head_dim": 32}"#, (1e-5, 64e-5)),
        (r#"{"model_type": "rwkv7", "norm_eps": 1e-6, "head_dim": 32}"#, (1e-6, 32e-6)),
        (r#"{"model_type": "rwkv6", "norm_eps": 1e-6}"#, (1e-6, 1e-6)),
        (r#"{"model_type": "rwkv", "layer_norm_epsilon": 1e-6}"#, (1e-6, 64e-5)),
        (r#"{"layer_norm_epsilon": 1e-5, "head_size_divisor": 8}"#, (1e-5, 64e-5)),
        (r#"{"layer_norm_epsilon": 1e-5, "head_size_divisor": 4}"#, (1e-5, 16e-5)),
        (r#"{"norm_eps": "1e-6"}"#, (1e-5, 64e-5)),
    ];
    for (config, expected) in cases {
        let file = folder("lm/infer_v7", &[("config.json", config)]);
        let found = epsilons(file.folder.path(), &plain);
        assert!((found.0 - expected.0).abs() < 1e-9 && (found.1 - expected.1).abs() < 1e-9, "{config}: {found:?}");
        assert_eq!(epsilons(&file.path, &plain), found, "the file inside is the same model");
    }
    let options = OpenOptions { layer_norm_eps: Some(0.5), group_norm_eps: Some(1e-5) };
    assert_eq!(epsilons(folder("lm/infer_v7", &[]).folder.path(), &options), (0.5, 1e-5));
}

#[test]
fn vocabulary_and_chat_template() {
    let hint = |file: &File| Checkpoint::open(file.folder.path()).unwrap().tokenizer();
    assert_eq!(hint(&folder("lm/infer_v7", &[])), TokenizerHint::Byte);
    assert_eq!(hint(&folder("lm/train_v7", &[])), TokenizerHint::Unknown);
    assert_eq!(hint(&folder("lm/train_v7", &[("rwkv_vocab_v20230424.txt", "")])), TokenizerHint::World);
    let json = folder("lm/train_v7", &[("tokenizer.json", "{}")]);
    assert_eq!(hint(&json), TokenizerHint::File(json.folder.path().join("tokenizer.json")));

    let template = |files: &[(&str, &str)]| {
        let file = folder("lm/train_v7", files);
        Checkpoint::open(file.folder.path()).unwrap().chat_template().map(str::to_string)
    };
    assert_eq!(template(&[]), None);
    let config = ("tokenizer_config.json", r#"{"chat_template": "{{ config }}"}"#);
    assert_eq!(template(&[config]).as_deref(), Some("{{ config }}"));
    assert_eq!(template(&[config, ("chat_template.jinja", "{{ file }}")]).as_deref(), Some("{{ file }}"));
    let named = r#"{"chat_template": [{"name": "default", "template": "{{ named }}"}]}"#;
    assert_eq!(template(&[("tokenizer_config.json", named)]).as_deref(), Some("{{ named }}"));
}

#[test]
fn a_folder_with_one_model_of_any_name() {
    let bytes = std::fs::read(golden_dir().join("lm/tiny_v6.pth")).unwrap();
    let file = File::new("RWKV-x060.pth", &bytes);
    assert_same_values(&Checkpoint::open(file.folder.path()).unwrap(), "lm/train_v6");

    std::fs::write(file.folder.path().join("other.safetensors"), b"").unwrap();
    let error = Checkpoint::open(file.folder.path()).unwrap_err().to_string();
    assert!(error.contains("2 models") && error.contains("other.safetensors"), "{error}");
}

#[test]
fn names_tell_the_layout_not_the_extension() {
    let file = File::new("weights.txt", &std::fs::read(golden_dir().join("lm/tiny_v4.pth")).unwrap());
    let checkpoint = file.open().unwrap();
    assert_eq!(checkpoint.format().layout, Layout::Official);
    assert!(checkpoint.has("blocks.1.att.time_first") && !checkpoint.has("blocks.2.att.time_first"));
    assert_eq!(checkpoint.path(), file.path);
    assert!(matches!(checkpoint.tensor("blocks.2.att.time_first"), Err(Error::NoSuchTensor { .. })));
}
