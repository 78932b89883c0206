//! Models written in every format, and what they are when read back.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anser_checkpoint::{
    Checkpoint, Dtype, Error, Export, ExportOptions, FolderLayout, Precision, Target, Tensor, TokenizerHint,
    Vocabulary, write_safetensors,
};
use anser_testkit::golden_dir;
use safetensors::SafeTensors;
use tempfile::TempDir;

use crate::allocation;
use crate::files::{File, Stored, open_golden, open_tensors, weights};

const TARGETS: [Target; 6] = [
    Target::Pth,
    Target::Safetensors,
    Target::Folder(FolderLayout::Transformers),
    Target::Folder(FolderLayout::Fla),
    Target::Folder(FolderLayout::Native),
    Target::Gguf,
];

/// Infer_* and train_* differ in ranks, and in whether block 0 has a value residual.
const MODELS: [&str; 10] = [
    "infer_v4",
    "infer_v50",
    "infer_v51",
    "infer_v52",
    "infer_v6",
    "infer_v7",
    "train_v4",
    "train_v52",
    "train_v6",
    "train_v7",
];

fn on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn options(target: Target, precision: Option<Precision>) -> ExportOptions {
    let tokens = (0..=255u8).map(|byte| Some(vec![byte])).collect();
    ExportOptions { precision, vocabulary: Vocabulary::Trie(tokens), ..ExportOptions::new(target) }
}

/// Writes and verifies; the folder, the path in it, and the result.
fn convert(source: Checkpoint, target: Target, precision: Option<Precision>) -> (TempDir, PathBuf, Checkpoint) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("result");
    let export = Export::plan(Arc::new(source), options(target, precision)).unwrap();
    let mut seen = 0;
    export
        .write(&path, &mut |done| {
            assert!(done >= seen && done <= export.work());
            seen = done;
            ControlFlow::Continue(())
        })
        .unwrap();
    let written = export.verify(&path, &mut on).unwrap_or_else(|e| panic!("{target}: {e}"));
    (folder, path, written)
}

fn holds(version: &str, target: Target) -> bool {
    match target {
        Target::Gguf | Target::Folder(FolderLayout::Fla) => version.contains("v6") || version.contains("v7"),
        Target::Folder(FolderLayout::Transformers) => !version.contains("v7"),
        _ => true,
    }
}

fn assert_same(a: &Checkpoint, b: &Checkpoint, what: &str) {
    let used = |c: &Checkpoint| -> Vec<String> {
        let unused = |name: &String| name.starts_with("blocks.0.att.v") && name.len() == "blocks.0.att.v0".len();
        c.names().into_iter().filter(|name| !unused(name)).collect()
    };
    assert_eq!(a.config(), b.config(), "{what}");
    assert_eq!(a.fingerprint(), b.fingerprint(), "{what}");
    assert_eq!(used(a), used(b), "{what}");
    for name in used(a) {
        let (x, y) = (a.tensor(&name).unwrap(), b.tensor(&name).unwrap());
        assert_eq!((x.dtype, &x.shape, &x.data), (y.dtype, &y.shape, &y.data), "{what} {name}");
    }
}

#[test]
fn from_every_format_to_every_other_and_back() {
    for model in MODELS {
        for first in TARGETS.into_iter().filter(|&target| holds(model, target)) {
            let (_folder, path, there) = convert(open_golden(&format!("lm/{model}")), first, None);
            drop(there);
            // All pairs for one model a version, each format on its own for its siblings.
            let pairs = ["infer_v4", "infer_v52", "infer_v6", "infer_v7"].contains(&model);
            for second in TARGETS.into_iter().filter(|&target| holds(model, target) && (pairs || target == first)) {
                let (_folder, path, _) = convert(Checkpoint::open(&path).unwrap(), second, None);
                // GGUF holds vectors in f32; on the way back they take the type of the matrices again.
                let (_folder, _, back) = convert(Checkpoint::open(&path).unwrap(), Target::Safetensors, None);
                assert_same(&open_golden(&format!("lm/{model}")), &back, &format!("{model}: {first}, {second}"));
            }
        }
    }
}

#[test]
fn official_files_have_the_shapes_that_trainers_load() {
    for version in ["v4", "v52", "v6", "v7"] {
        let source = Checkpoint::open(&golden_dir().join(format!("lm/tiny_{version}.pth"))).unwrap();
        let (_folder, path, _) = convert(source, Target::Safetensors, None);
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let expected = weights(&format!("lm/train_{version}"));
        assert_eq!(file.len(), expected.len());
        for (name, tensor) in expected {
            let view = file.tensor(&name).unwrap();
            assert_eq!((view.shape(), view.data()), (&tensor.shape[..], &tensor.data[..]), "{version} {name}");
        }
    }
}

/// What transformers' and flash-linear-attention's own classes saved.
#[test]
fn directories_are_those_that_the_libraries_write() {
    for (name, golden, layout) in [
        ("v4", "infer_v4", FolderLayout::Transformers),
        ("custom_v6", "infer_v6", FolderLayout::Transformers),
        ("fla_v6", "infer_v6", FolderLayout::Fla),
        ("fla_v7", "infer_v7", FolderLayout::Fla),
    ] {
        let (_folder, path, _) = convert(open_golden(&format!("lm/{golden}")), Target::Folder(layout), None);
        let theirs = std::fs::read(golden_dir().join("hf").join(name).join("model.safetensors")).unwrap();
        let ours = std::fs::read(path.join("model.safetensors")).unwrap();
        let (theirs, ours) = (SafeTensors::deserialize(&theirs).unwrap(), SafeTensors::deserialize(&ours).unwrap());
        assert_eq!(ours.len(), theirs.len(), "{name}");
        for (tensor, view) in theirs.tensors() {
            let found = ours.tensor(&tensor).unwrap_or_else(|e| panic!("{name} {tensor}: {e}"));
            assert_eq!((found.dtype(), found.data()), (view.dtype(), view.data()), "{name} {tensor}");
            // The custom code was never a package's: its shapes are the official files'.
            if !name.starts_with("custom") {
                assert_eq!(found.shape(), view.shape(), "{name} {tensor}");
            }
        }
        let json = |path: &Path| -> serde_json::Value {
            serde_json::from_slice(&std::fs::read(path.join("config.json")).unwrap()).unwrap()
        };
        let (theirs, ours) = (json(&golden_dir().join("hf").join(name)), json(&path));
        for (key, value) in ours.as_object().unwrap() {
            let agree = match theirs.get(key) {
                // The class computes it from the width.
                Some(serde_json::Value::Null) | None => true,
                Some(other) if value.is_number() => value.as_f64() == other.as_f64(),
                Some(other) => value == other,
            };
            assert!(agree, "{name}: {key} is {value}, theirs {:?}", theirs.get(key));
        }
    }
}

#[test]
fn gguf_says_what_llama_cpp_asks() {
    for (model, golden) in [("train_v6", "rwkv6_f32"), ("train_v7", "rwkv7_f32")] {
        let f32 = Some(Precision::Plain(Dtype::F32));
        let (_folder, path, written) = convert(open_golden(&format!("lm/{model}")), Target::Gguf, f32);
        let golden = Checkpoint::open(&golden_dir().join(format!("gguf/{golden}.gguf"))).unwrap();
        assert_same(&golden, &written, model);
        let bytes = std::fs::read(path).unwrap();
        let has = |key: &str| bytes.windows(key.len()).any(|window| window == key.as_bytes());
        for key in ["context_length", "attention.layer_norm_epsilon", "wkv.head_size", "feed_forward_length"] {
            assert!(has(key), "{model} {key}");
        }
        assert_eq!(has("blk.0.time_mix_v2.weight"), model == "train_v7");
    }
    // 256 tokens of one byte each are told from the World vocabulary.
    let hint = |model: &str, vocabulary: Vocabulary| {
        let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(open_golden(model)));
        let path = folder.path().join("model.gguf");
        let options = ExportOptions { vocabulary, ..ExportOptions::new(Target::Gguf) };
        Export::plan(source, options).unwrap().write(&path, &mut on).unwrap();
        Checkpoint::open(&path).unwrap().tokenizer()
    };
    assert_eq!(hint("lm/infer_v7", options(Target::Gguf, None).vocabulary), TokenizerHint::Byte);
    assert_eq!(hint("lm/train_v7", Vocabulary::Absent), TokenizerHint::Unknown);
}

#[test]
fn precisions() {
    for (precision, bound) in [("f32", 0.0), ("bf16", 0.0), ("f16", 1e-3), ("q8_0", 1e-2), ("q4_0", 0.15)] {
        let asked: Precision = precision.parse().unwrap();
        let (_folder, _, written) = convert(open_golden("lm/infer_v7"), Target::Gguf, Some(asked));
        let source = open_golden("lm/infer_v7");
        for name in source.names() {
            let (was, is) = (source.tensor(&name).unwrap().to_f32(), written.tensor(&name).unwrap().to_f32());
            let largest = was.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let error = was.iter().zip(&is).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
            let plain = name.contains("ln") || name.contains(".x_");
            assert!(error <= if plain { 0.0 } else { bound * largest }, "{precision} {name}: {error} of {largest}");
        }
        assert_eq!(asked.to_string(), precision);
    }
    assert!("q2_k".parse::<Precision>().is_err());
    // Rows that are no whole blocks, as the low-rank pairs, stay in the source's type.
    let (_folder, _, written) = convert(open_golden("lm/pth_variants/model"), Target::Gguf, Some(Precision::Q4_0));
    assert_eq!(written.tensor("blocks.1.ffn.value.weight").unwrap().shape, [32, 72]);
}

#[test]
fn a_mixed_file_keeps_every_value() {
    let mut tensors = weights("lm/train_v7");
    let odd = Stored::f32(&tensors["ln_out.weight"].shape.clone(), 1.0 + f32::EPSILON);
    tensors.insert("ln_out.weight".into(), odd);
    let even = Stored::f32(&tensors["ln_out.bias"].shape.clone(), 0.5);
    tensors.insert("ln_out.bias".into(), even);
    let source = open_tensors(&tensors).unwrap();
    let print = source.fingerprint();
    let (_folder, _, written) = convert(source, Target::Pth, None);
    assert_eq!(written.fingerprint(), print);
    let dtype = |name: &str| written.tensor(name).unwrap().dtype;
    assert_eq!((dtype("ln_out.weight"), dtype("ln_out.bias")), (Dtype::F32, Dtype::Bf16));
}

#[track_caller]
fn refused(source: Checkpoint, target: Target, precision: Option<&str>, part: &str) {
    let precision = precision.map(|text| text.parse().unwrap());
    let error = Export::plan(Arc::new(source), options(target, precision)).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }) && error.hint().is_some(), "{error}");
    assert!(error.to_string().contains(part), "{error}");
}

#[test]
fn what_a_format_cannot_hold() {
    let fla = Target::Folder(FolderLayout::Fla);
    refused(open_golden("lm/infer_v4"), Target::Gguf, None, "RWKV-4 in GGUF");
    refused(open_golden("lm/infer_v52"), Target::Gguf, None, "RWKV-5.2 in GGUF");
    refused(open_golden("lm/infer_v51"), fla, None, "RWKV-5.1");
    refused(open_golden("lm/infer_v7"), Target::Folder(FolderLayout::Transformers), None, "RWKV-7");
    refused(open_golden("lm/infer_v7"), Target::Pth, Some("q8_0"), "q8_0 in a .pth file");
    let mut tuned = weights("lm/infer_v6");
    for block in 0..3 {
        tuned.insert(format!("blocks.{block}.att.time_state"), Stored::f32(&[2, 32, 32], 0.5));
    }
    for target in [Target::Gguf, fla] {
        refused(open_tensors(&tuned).unwrap(), target, None, "blocks.0.att.time_state");
    }
    let (_folder, _, written) = convert(open_tensors(&tuned).unwrap(), Target::Pth, None);
    assert!(written.has("blocks.2.att.time_state"));

    let file = File::new("model.safetensors", &crate::files::safetensors(&weights("lm/infer_v7")));
    std::fs::write(
        file.folder.path().join("config.json"),
        r#"{"norm_eps": 1e-6, "model_type": "rwkv7", "head_dim": 32}"#,
    )
    .unwrap();
    let trained_there = || Checkpoint::open(file.folder.path()).unwrap();
    for target in [Target::Pth, Target::Safetensors, Target::Gguf] {
        refused(trained_there(), target, None, "epsilons");
    }
    let (_folder, _, written) = convert(trained_there(), fla, None);
    assert_eq!(written.config(), trained_there().config());
}

#[test]
fn too_large_for_f16() {
    let mut tensors = weights("lm/train_v7");
    tensors.insert("ln_out.bias".into(), Stored::f32(&[64], 1e5));
    let folder = tempfile::tempdir().unwrap();
    for target in [Target::Pth, Target::Safetensors, Target::Folder(FolderLayout::Fla)] {
        let source = Arc::new(open_tensors(&tensors).unwrap());
        let export = Export::plan(source, options(target, Some(Precision::Plain(Dtype::F16)))).unwrap();
        let error = export.write(&folder.path().join("model"), &mut on).unwrap_err();
        assert!(matches!(&error, Error::OutOfRange { tensor, .. } if tensor == "ln_out.bias"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was left");
    }
}

#[test]
fn stopping_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    for target in [Target::Pth, Target::Safetensors, Target::Folder(FolderLayout::Native), Target::Gguf] {
        let export = Export::plan(Arc::new(open_golden("lm/infer_v7")), options(target, None)).unwrap();
        let half = export.work() / 2;
        let mut stop = |done| if done > half { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        assert!(matches!(export.write(&path, &mut stop), Err(Error::Stopped { .. })), "{target}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{target}");
        export.write(&path, &mut on).unwrap();
        assert!(matches!(export.verify(&path, &mut stop), Err(Error::Stopped { .. })), "{target}");
        if path.is_dir() { std::fs::remove_dir_all(&path).unwrap() } else { std::fs::remove_file(&path).unwrap() }
    }
}

#[test]
fn verifying_names_the_tensor_that_differs() {
    let source = open_golden("lm/infer_v7");
    let mut tensors: Vec<Tensor<'_>> = source.names().iter().map(|name| source.tensor(name).unwrap()).collect();
    let export = Export::plan(Arc::new(open_golden("lm/infer_v7")), ExportOptions::new(Target::Safetensors)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let at = tensors.iter().position(|tensor| tensor.name == "blocks.2.ffn.key.weight").unwrap();
    tensors[at].data.to_mut()[2 * 777] ^= 1;
    write_safetensors(&path, &tensors, &[]).unwrap();
    let error = export.verify(&path, &mut on).unwrap_err().to_string();
    assert!(error.contains("blocks.2.ffn.key.weight") && error.contains("element 777"), "{error}");

    let file = File::new("other.safetensors", &crate::files::safetensors(&weights("lm/train_v7")));
    let error = export.verify(&file.path, &mut on).unwrap_err();
    assert!(matches!(&error, Error::Differs { what, .. } if what == "the model's sizes"), "{error}");
    std::fs::write(&path, "cut").unwrap();
    assert!(export.verify(&path, &mut on).is_err());
}

/// A vocabulary so large that one tensor outweighs all others, many blocks so that they all outweigh it.
#[test]
fn memory_is_bounded_by_the_largest_tensor() {
    let mut tensors = weights("lm/infer_v7");
    let block: Vec<(String, Stored)> =
        tensors.iter().filter(|(name, _)| name.starts_with("blocks.2.")).map(|(n, t)| (n.clone(), t.clone())).collect();
    for layer in 3..40 {
        tensors
            .extend(block.iter().map(|(name, t)| (name.replace("blocks.2.", &format!("blocks.{layer}.")), t.clone())));
    }
    let elements = |t: &Stored| t.shape.iter().product::<usize>();
    let largest = tensors.values().map(elements).max().unwrap() * 4;
    let all: usize = tensors.values().map(elements).sum::<usize>() * 4;
    let source = Arc::new(open_tensors(&tensors).unwrap());
    for target in [Target::Pth, Target::Safetensors, Target::Folder(FolderLayout::Fla), Target::Gguf] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        let export = Export::plan(source.clone(), options(target, Some(Precision::Plain(Dtype::F32)))).unwrap();
        // Beside the tensor: the header and its table of names, a few hundred bytes a tensor.
        let bound = 3 * largest + (256 << 10) + 4096 * tensors.len();
        let written = allocation::peak(|| export.write(&path, &mut on).unwrap());
        assert!(written < bound && bound < all, "{target}: {written} of {bound}, the model has {all}");
        let verified = allocation::peak(|| drop(export.verify(&path, &mut on).unwrap()));
        assert!(verified < bound, "{target}: {verified} of {bound}");
    }
}
