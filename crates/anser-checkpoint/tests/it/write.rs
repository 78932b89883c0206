//! Models that are written, and models that are part of the program.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anser_checkpoint::{Checkpoint, Container, Dtype, Error, Tensor, TokenizerHint, write_safetensors};
use anser_testkit::Golden;
use half::{bf16, f16};
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::files::{open_golden, safetensors, weights};

const VERSIONS: [&str; 6] = ["infer_v4", "infer_v50", "infer_v51", "infer_v52", "infer_v6", "infer_v7"];

fn official(checkpoint: &Checkpoint) -> Vec<Tensor<'_>> {
    checkpoint.names().iter().map(|name| checkpoint.tensor(name).unwrap()).collect()
}

#[test]
fn written_models_are_the_same_models() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for version in VERSIONS {
        let original = open_golden(&format!("lm/{version}"));
        write_safetensors(&path, &official(&original), &[]).unwrap();
        let copy = Checkpoint::open(&path).unwrap();
        assert_eq!(copy.names(), original.names(), "{version}");
        assert_eq!(copy.config(), original.config(), "{version}");
        assert_eq!(copy.fingerprint(), original.fingerprint(), "{version}");
        assert_eq!(copy.format().to_string(), "safetensors");
        for name in original.names() {
            let (was, is) = (original.tensor(&name).unwrap(), copy.tensor(&name).unwrap());
            assert_eq!((is.dtype, &is.shape, &is.data), (was.dtype, &was.shape, &was.data), "{version} {name}");
            assert!(matches!(is.data, Cow::Borrowed(_)), "{version} {name} was copied");
        }
    }
}

#[test]
fn a_folder_of_weights_and_tokenizer_opens_by_both_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let original = open_golden("lm/infer_v7");
    write_safetensors(&path, &official(&original), &[("format".into(), "pt".into())]).unwrap();
    // Nothing else there: the vocabulary's size decides.
    for opened in [&path, folder.path()] {
        assert_eq!(Checkpoint::open(opened).unwrap().tokenizer(), TokenizerHint::Byte);
    }
    let tokenizer = folder.path().join("tokenizer.json");
    std::fs::write(&tokenizer, "{}").unwrap();
    for opened in [&path, folder.path()] {
        let checkpoint = Checkpoint::open(opened).unwrap();
        assert_eq!(checkpoint.tokenizer(), TokenizerHint::File(tokenizer.clone()));
        assert_eq!(checkpoint.fingerprint(), original.fingerprint());
    }
}

#[test]
fn the_published_crate_reads_what_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let metadata = [("step".to_string(), "100".to_string()), ("a \"quoted\" key".to_string(), "goose\n".to_string())];
    let tensors = [
        Tensor::from_f32("narrow", [3], Dtype::Bf16, &[1.0, -2.5, 1e-3]),
        Tensor::from_f32("scalar", [], Dtype::F16, &[0.5]),
        Tensor::from_f32("wide", [2, 1, 2], Dtype::F32, &[1e-30, 2.0, 3.0, f32::MAX]),
        Tensor::from_f32("empty", [0, 4], Dtype::F32, &[]),
    ];
    write_safetensors(&path, &tensors, &metadata).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), tensors.len());
    for tensor in &tensors {
        let view = file.tensor(&tensor.name).unwrap();
        assert_eq!((view.shape(), view.data()), (&tensor.shape[..], &tensor.data[..]), "{}", tensor.name);
        let at = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
        assert!(at.is_multiple_of(tensor.dtype.bytes()), "{} is not aligned", tensor.name);
    }
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let read: BTreeMap<String, String> = header.metadata().clone().unwrap().into_iter().collect();
    assert_eq!(read, metadata.clone().into_iter().collect());

    // The same model is the same file, in whatever order the strings come.
    let [first, second] = metadata;
    write_safetensors(&path, &tensors, &[second, first]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn what_cannot_be_written_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, "old").unwrap();
    let one = |name: &str| Tensor::from_f32(name, [2], Dtype::F32, &[1.0, 2.0]);
    let short = Tensor::from_f32("short", [3], Dtype::F32, &[1.0, 2.0]);
    let twice = [("a".to_string(), String::new()), ("a".to_string(), String::new())];
    for (tensors, metadata, part) in [
        (vec![one("a"), one("a")], &[][..], "two tensors"),
        (vec![short], &[], "needs 12 bytes, 8 given"),
        (vec![one("__metadata__")], &[], "__metadata__"),
        (vec![one("a")], &twice, "metadata"),
    ] {
        let error = write_safetensors(&path, &tensors, metadata).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }) && error.to_string().contains(part), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a draft was left");
    let nowhere = folder.path().join("none/model.safetensors");
    assert!(matches!(write_safetensors(&nowhere, &[one("a")], &[]), Err(Error::Io { file, .. }) if file == nowhere));
}

#[test]
fn a_model_in_the_program_is_the_one_in_the_file() {
    for version in VERSIONS {
        let golden = format!("lm/{version}");
        let bytes: &'static [u8] = safetensors(&weights(&golden)).leak();
        let embedded = Checkpoint::from_static("demo", bytes).unwrap();
        let original = open_golden(&golden);
        assert_eq!(embedded.path().to_str(), Some("demo"));
        assert_eq!(embedded.format().container, Container::Safetensors);
        assert_eq!(embedded.fingerprint(), original.fingerprint(), "{version}");
        for name in embedded.names() {
            let tensor = embedded.tensor(&name).unwrap();
            assert!(matches!(tensor.data, Cow::Borrowed(data) if bytes.as_ptr_range().contains(&data.as_ptr())));
        }
        assert_eq!(embedded.tensor("emb.weight").unwrap().to_f32(), Golden::open(&golden).f32("emb.weight"));
    }
    for bytes in [&b""[..], b"goose", b"{\"weight_map\": {}}"] {
        let error = Checkpoint::from_static("demo", bytes).unwrap_err();
        assert!(matches!(error, Error::UnknownFormat { .. }) && error.to_string().starts_with("demo: "), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No value of the type is nearer; of two as near, the one with an even last digit is taken.
    #[test]
    fn rounding_is_to_nearest_even(value in -70000.0f32..70000.0, scale in -20i32..1) {
        let value = value * (scale as f32).exp2();
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let tensor = Tensor::from_f32("t", [1], dtype, &[value]);
            let got = tensor.to_f32()[0];
            let bits = u16::from_le_bytes([tensor.data[0], tensor.data[1]]);
            let widen = |bits| if dtype == Dtype::Bf16 { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() };
            prop_assert_eq!(got, widen(bits));
            if got.is_infinite() {
                prop_assert!(value.abs() >= 65520.0);
                continue;
            }
            let distance = |x: f32| (f64::from(x) - f64::from(value)).abs();
            for near in [bits.wrapping_sub(1), bits.wrapping_add(1)].map(widen).into_iter().filter(|x| x.is_finite()) {
                prop_assert!(distance(got) <= distance(near), "{value} became {got}, {near} is nearer");
                prop_assert!(distance(got) < distance(near) || bits & 1 == 0, "{value} became the odd {got}");
            }
        }
    }
}
