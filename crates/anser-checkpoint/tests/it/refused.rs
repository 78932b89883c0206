//! Files that are whole but not one RWKV model: refused, saying which tensor, what was expected and what was found.

use anser_checkpoint::{Checkpoint, Error, Version};
use anser_testkit::golden_dir;

use crate::files::{File, Stored, Tensors, open_bytes, open_tensors, weights};

fn refuse(change: impl FnOnce(&mut Tensors)) -> Error {
    let mut tensors = weights("lm/infer_v7");
    change(&mut tensors);
    open_tensors(&tensors).expect_err("the model should be refused")
}

#[test]
fn a_missing_tensor() {
    for (tensor, version) in
        [("ln_out.bias", Version::V7), ("blocks.1.att.v1", Version::V7), ("blocks.0.ln0.weight", Version::V7)]
    {
        let error = refuse(|tensors| drop(tensors.remove(tensor)));
        assert!(
            matches!(&error, Error::MissingTensor { tensor: found, version: v, .. } if found == tensor && *v == version),
            "{error}"
        );
    }
    let gap = refuse(|tensors| tensors.retain(|name, _| !name.starts_with("blocks.1.")));
    assert!(gap.to_string().contains("`blocks.1."), "{gap}");
    let far =
        refuse(|tensors| drop(tensors.insert(format!("blocks.{}.ln1.weight", usize::MAX), Stored::f32(&[64], 1.0))));
    assert!(far.to_string().contains("`blocks.3."), "{far}");
}

#[test]
fn an_unknown_tensor() {
    for name in ["blocks.1.att.x_q", "extra", "blocks.1.ln0.weight"] {
        let error = refuse(|tensors| drop(tensors.insert(name.into(), Stored::f32(&[64], 1.0))));
        assert!(matches!(&error, Error::UnknownTensor { tensor, .. } if tensor == name), "{error}");
        assert!(error.to_string().contains("RWKV-7"), "{error}");
    }
}

#[test]
fn a_wrong_shape() {
    let cases: [(&str, &[usize], &[usize]); 5] = [
        ("ln_out.weight", &[63], &[64]),
        ("blocks.2.ffn.key.weight", &[255, 64], &[256, 64]),
        ("blocks.2.att.w2", &[64, 32], &[32, 64]),
        ("blocks.1.att.r_k", &[1, 64], &[2, 32]),
        ("head.weight", &[64, 256], &[256, 64]),
    ];
    for (name, wrong, right) in cases {
        let error = refuse(|tensors| drop(tensors.insert(name.into(), Stored::f32(wrong, 1.0))));
        match &error {
            Error::Shape { tensor, expected, found, .. } => {
                assert_eq!((tensor.as_str(), &expected[..], &found[..]), (name, right, wrong), "{error}");
            }
            other => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn sizes_that_do_not_fit_each_other() {
    let heads = refuse(|tensors| {
        for block in 0..3 {
            tensors.insert(format!("blocks.{block}.att.r_k"), Stored::f32(&[3, 32], 1.0));
        }
    });
    assert!(matches!(heads, Error::Config { .. }) && heads.to_string().contains("64"), "{heads}");
    for (name, shape) in [("emb.weight", &[0, 64][..]), ("emb.weight", &[64]), ("blocks.0.att.w1", &[64, 0])] {
        let error = refuse(|tensors| {
            tensors.insert(name.into(), Stored::f32(shape, 1.0));
            if name == "emb.weight" {
                tensors.insert("head.weight".into(), Stored::f32(shape, 1.0));
            } else {
                (1..3)
                    .for_each(|block| drop(tensors.insert(format!("blocks.{block}.att.w1"), Stored::f32(shape, 1.0))));
                (0..3).for_each(|block| {
                    drop(tensors.insert(format!("blocks.{block}.att.w2"), Stored::f32(&[0, 64], 1.0)))
                });
            }
        });
        assert!(matches!(error, Error::Config { .. }), "{error}");
        assert!(error.to_string().contains(name) && error.to_string().contains("2 axes"), "{error}");
    }
}

#[test]
fn a_wrong_dtype() {
    let integers =
        |dtype: &str, bytes: usize| Stored { dtype: dtype.into(), shape: vec![64], data: vec![0; 64 * bytes] };
    for (dtype, bytes) in [("I64", 8), ("F64", 8), ("I8", 1), ("F8_E4M3", 1)] {
        let error = refuse(|tensors| drop(tensors.insert("ln_out.bias".into(), integers(dtype, bytes))));
        assert!(
            matches!(&error, Error::Dtype { tensor, found, .. } if tensor == "ln_out.bias" && found == dtype),
            "{error}"
        );
    }
}

#[test]
fn models_that_are_known_and_not_read() {
    let cases: [(&str, &[usize], &str); 8] = [
        ("blocks.1.ffn.s_emb.weight", &[256, 1024], "DeepEmbed"),
        ("blocks.1.qkv.qq.weight", &[256, 64], "RWKV-7b"),
        ("blocks.1.ffn.enn.weight", &[256, 64], "RWKV-8"),
        ("blocks.1.rosa.e", &[64], "ROSA"),
        ("blocks.1.att.time_mix_x", &[64], "web-rwkv"),
        ("blocks.1.att.key.lora_A", &[8, 64], "LoRA"),
        ("model.embed_tokens.weight", &[256, 64], "transformer"),
        ("blocks.1.att.gate_w1", &[64, 64], "x060a"),
    ];
    for (name, shape, what) in cases {
        let error = refuse(|tensors| drop(tensors.insert(name.into(), Stored::f32(shape, 1.0))));
        assert!(matches!(error, Error::Unsupported { .. }), "{name}: {error}");
        assert!(error.to_string().contains(what) && error.to_string().contains(name), "{error}");
        assert!(error.hint().is_some());
    }
}

/// web-rwkv keeps the names of RWKV-7 and turns the low-rank pairs; of 5.2 it renames the bonus to that of 5.0.
#[test]
fn converted_files_with_official_names() {
    let turned = refuse(|tensors| {
        for block in 0..3 {
            tensors.insert(format!("blocks.{block}.att.w1"), Stored::f32(&[32, 64], 1.0));
            tensors.insert(format!("blocks.{block}.att.w2"), Stored::f32(&[64, 32], 1.0));
        }
    });
    assert!(turned.to_string().contains("web-rwkv"), "{turned}");
    let mut tensors = weights("lm/infer_v52");
    for block in 0..3 {
        let bonus = tensors.remove(&format!("blocks.{block}.att.time_faaaa")).unwrap();
        tensors.insert(format!("blocks.{block}.att.time_first"), bonus);
    }
    let renamed = open_tensors(&tensors).unwrap_err();
    assert!(renamed.to_string().contains("web-rwkv"), "{renamed}");
}

#[test]
fn a_bonus_in_both_spellings_is_ambiguous() {
    let mut tensors = weights("lm/infer_v50");
    tensors.insert("blocks.1.att.time_faaaa".into(), Stored::f32(&[2], 1.0));
    assert!(matches!(open_tensors(&tensors), Err(Error::UnknownTensor { .. })));
    for block in 0..3 {
        let bonus = tensors.remove(&format!("blocks.{block}.att.time_first")).unwrap();
        tensors.insert(format!("blocks.{block}.att.time_faaaa"), bonus);
    }
    let checkpoint = open_tensors(&tensors).unwrap();
    assert!(checkpoint.has("blocks.2.att.time_faaaa") && !checkpoint.has("blocks.2.att.time_first"));
}

#[test]
fn a_tensor_under_two_wrappers() {
    let error = refuse(|tensors| drop(tensors.insert("_forward_module.ln_out.bias".into(), Stored::f32(&[64], 1.0))));
    assert!(error.to_string().contains("twice"), "{error}");
}

#[test]
fn files_of_other_kinds() {
    let cases: [(&[u8], &str); 8] = [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (&[0x66, 0x6d, 0x67, 0x67, 100, 0, 0, 0], "rwkv.cpp"),
        (b"\x80\x04\x95", "a pickle that torch.save did not write"),
        (b"hello, world", "first bytes"),
        (b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "first bytes"),
        (b"\0", "first bytes"),
    ];
    for (bytes, what) in cases {
        let error = open_bytes(bytes).unwrap_err();
        assert!(error.to_string().contains(what), "{what}: {error}");
        assert!(error.hint().is_some());
    }
    assert!(matches!(Checkpoint::open("/no/such/model.pth".as_ref()), Err(Error::Io { .. })));
    let state = Checkpoint::open(&golden_dir().join("state/time_state_v7.pth")).unwrap_err();
    assert!(state.to_string().contains("tuned states"), "{state}");
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(Checkpoint::open(empty.path()), Err(Error::UnknownFormat { .. })));
}

/// Writes an index beside one shard and opens it.
fn with_index(index: &str) -> Error {
    let file = File::new("shard.safetensors", &crate::files::safetensors(&weights("lm/infer_v4")));
    let path = file.folder.path().join("model.safetensors.index.json");
    std::fs::write(&path, index).unwrap();
    Checkpoint::open(&path).unwrap_err()
}

#[test]
fn indices_that_lie() {
    for outside in
        ["../shard.safetensors", "/etc/passwd", "a/../shard.safetensors", "..", "", "a\\b", "./shard.safetensors"]
    {
        let index = serde_json::json!({ "weight_map": { "emb.weight": outside } });
        let error = with_index(&index.to_string());
        assert!(error.to_string().contains("not a file name"), "{outside}: {error}");
    }
    let missing = with_index(r#"{"weight_map": {"emb.weight": "model-00001-of-00002.safetensors"}}"#);
    assert!(
        matches!(&missing, Error::Io { file, .. } if file.ends_with("model-00001-of-00002.safetensors")),
        "{missing}"
    );
    let lacking = with_index(r#"{"weight_map": {"nothing": "shard.safetensors"}}"#);
    assert!(lacking.to_string().contains("`nothing`"), "{lacking}");
    let partial = with_index(r#"{"weight_map": {"emb.weight": "shard.safetensors"}}"#);
    assert!(partial.to_string().contains("nowhere"), "{partial}");
    for broken in ["{}", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": 1}}"#, "{\"weight_map\""] {
        let error = with_index(broken);
        assert!(matches!(error, Error::Malformed { .. }), "{broken}: {error}");
    }
}

#[test]
fn side_files_that_are_broken_are_named() {
    let file = File::new("model.safetensors", &crate::files::safetensors(&weights("lm/infer_v4")));
    std::fs::write(file.folder.path().join("config.json"), "{").unwrap();
    let error = Checkpoint::open(file.folder.path()).unwrap_err();
    assert!(error.to_string().contains("config.json"), "{error}");
}
