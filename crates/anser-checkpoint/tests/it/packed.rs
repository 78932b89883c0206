//! Packed files: names and bytes come back, and no description of them is believed unchecked. What the bytes mean is
//! the engine's to test.

use std::path::Path;

use anser_checkpoint::{
    Checkpoint, Container, Dtype, Error, PackedHeader, PackedTokenizer, PackedWriter, Tensor, TokenizerHint,
};
use proptest::prelude::*;
use safetensors::SafeTensors;

use crate::allocation::peak;
use crate::files::{File, open_bytes, open_golden, with_header};

const VERSIONS: [&str; 6] = ["infer_v4", "infer_v50", "infer_v51", "infer_v52", "infer_v6", "infer_v7"];

/// What stands for a packed matrix: a few bytes, other ones for every name.
fn packed(name: &str) -> Vec<u8> {
    name.bytes().cycle().take(3 * name.len() + 1).collect()
}

fn is_matrix(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && name.ends_with(".weight") && name != "emb.weight"
}

fn owned(tensor: Tensor<'_>) -> Tensor<'static> {
    let Tensor { name, dtype, shape, data } = tensor;
    Tensor { name, dtype, shape, data: data.into_owned().into() }
}

fn describe(original: &Checkpoint) -> PackedHeader {
    let mut header =
        PackedHeader::new(original.config().clone(), "int8".into(), original.fingerprint(), original.stored_dtype());
    header.chat_template = Some("{{ messages[0].content }}".into());
    header.tokenizer = PackedTokenizer::Json("{\"model\": \"\\u00e9\"}".into());
    header
}

/// A writer that has been given the whole model but for what `skip` names.
fn filled(original: &Checkpoint, path: &Path, skip: &str) -> PackedWriter {
    let mut writer = PackedWriter::create(path, describe(original)).unwrap();
    for name in original.names().into_iter().filter(|name| name != skip) {
        let tensor = original.tensor(&name).unwrap();
        if is_matrix(&name, &tensor.shape) {
            writer.matrix(&name, "int8", &packed(&name)).unwrap();
        } else {
            writer.tensor(owned(tensor));
        }
    }
    writer
}

/// A whole packed file of RWKV-7.
fn whole() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.anser");
    filled(&open_golden("lm/infer_v7"), &path, "").finish().unwrap();
    std::fs::read(&path).unwrap()
}

/// Length of the header with its own length before it.
fn header_end(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

#[test]
fn names_and_bytes_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.anser");
    for version in VERSIONS {
        let original = open_golden(&format!("lm/{version}"));
        let size = filled(&original, &path, "").finish().unwrap();
        assert_eq!(size, std::fs::metadata(&path).unwrap().len(), "{version}");
        let model = Checkpoint::open(&path).unwrap();
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(sorted(model.names()), sorted(original.names()), "{version}");
        assert_eq!(model.config(), original.config(), "{version}");
        assert_eq!(model.fingerprint(), original.fingerprint(), "{version}");
        assert_eq!(model.stored_dtype(), original.stored_dtype(), "{version}");
        assert_eq!(model.chat_template(), Some("{{ messages[0].content }}"));
        assert_eq!(model.tokenizer(), TokenizerHint::Json("{\"model\": \"\\u00e9\"}".into()));
        assert_eq!((model.format().container, model.format().to_string()), (Container::Packed, "packed".into()));
        assert_eq!(model.packed_header().unwrap().recipe, "int8");
        assert!(original.packed_header().is_none() && original.packed("head.weight").is_none());
        assert!(!model.has("blocks.9.ln1.weight") && model.packed("blocks.9.ln1.weight").is_none());
        for name in original.names() {
            let was = original.tensor(&name).unwrap();
            assert!(model.has(&name), "{version} {name}");
            if !is_matrix(&name, &was.shape) {
                let is = model.tensor(&name).unwrap();
                assert_eq!((is.dtype, &is.shape, &is.data), (was.dtype, &was.shape, &was.data), "{version} {name}");
                assert!(model.packed(&name).is_none(), "{version} {name}");
                continue;
            }
            let error = model.tensor(&name).unwrap_err();
            assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(&name), "{error}");
            let matrix = model.packed(&name).unwrap();
            assert_eq!((&matrix.shape[..], matrix.storage.as_str()), (&was.shape[..], "int8"), "{version} {name}");
            matrix.bytes.release(0..usize::MAX);
            let (bytes, expected) = (matrix.bytes.as_ref(), packed(&name));
            assert_eq!(bytes.len(), expected.len().next_multiple_of(PackedWriter::ALIGN), "{version} {name}");
            assert_eq!(bytes.as_ptr().align_offset(PackedWriter::ALIGN), 0, "{version} {name}");
            assert!(bytes.starts_with(&expected) && bytes[expected.len()..].iter().all(|&b| b == 0));
        }
        // A matrix outlives the checkpoint it came from.
        let head = model.packed("head.weight").unwrap();
        drop(model);
        assert!(head.bytes.as_ref().starts_with(&packed("head.weight")));
    }
}

#[test]
fn the_published_crate_reads_the_container() {
    let bytes = whole();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let head = file.tensor("head.weight").unwrap();
    assert_eq!(format!("{:?}", head.dtype()), "U8");
    assert!(head.data().starts_with(&packed("head.weight")));
    assert_eq!(file.tensor("ln_out.bias").unwrap().shape(), [64]);
    assert_eq!(bytes, whole(), "the same model gives the same bytes");
}

#[test]
fn every_vocabulary_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.anser");
    let original = open_golden("lm/infer_v7");
    for (tokenizer, hint) in [
        (PackedTokenizer::World, TokenizerHint::World),
        (PackedTokenizer::Byte, TokenizerHint::Byte),
        (PackedTokenizer::Json("{}".into()), TokenizerHint::Json("{}".into())),
        (PackedTokenizer::Unknown, TokenizerHint::Unknown),
    ] {
        let mut header = describe(&original);
        (header.tokenizer, header.chat_template) = (tokenizer, None);
        let mut writer = PackedWriter::create(&path, header).unwrap();
        original.names().iter().for_each(|name| writer.tensor(owned(original.tensor(name).unwrap())));
        writer.finish().unwrap();
        let model = Checkpoint::open(&path).unwrap();
        assert_eq!((model.tokenizer(), model.chat_template()), (hint, None));
    }
}

#[test]
fn what_is_no_model_is_not_written_or_not_read() {
    let original = open_golden("lm/infer_v7");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.anser");
    let tensor = |name: &str| owned(original.tensor(name).unwrap());

    let mut two_matrices = filled(&original, &path, "");
    two_matrices.matrix("head.weight", "int8", &[1; 64]).unwrap();
    let mut two_tensors = filled(&original, &path, "");
    two_tensors.tensor(tensor("ln_out.bias"));
    let mut both = filled(&original, &path, "");
    both.tensor(tensor("head.weight"));
    let mut short = filled(&original, &path, "ln_out.bias");
    short.tensor(Tensor { data: vec![0; 6].into(), ..tensor("ln_out.bias") });
    for (writer, what) in [
        (two_matrices, "two tensors are called `head.weight`"),
        (two_tensors, "two tensors are called `ln_out.bias`"),
        (both, "two tensors are called `head.weight`"),
        (short, "`ln_out.bias` of shape [64]"),
    ] {
        let error = writer.finish().unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }) && error.to_string().contains(what), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a draft was left");
    }
    let nowhere = folder.path().join("none/model.anser");
    let error = PackedWriter::create(&nowhere, describe(&original)).unwrap_err();
    assert!(matches!(error, Error::Io { file, .. } if file == nowhere));

    let open = |writer: PackedWriter| {
        writer.finish().unwrap();
        Checkpoint::open(&path).unwrap_err()
    };
    for missing in ["head.weight", "ln_out.bias", "blocks.2.att.w1"] {
        let error = open(filled(&original, &path, missing));
        assert!(matches!(&error, Error::MissingTensor { tensor, .. } if tensor == missing), "{error}");
    }
    for (name, instead) in [("blocks.3.att.key.weight", ""), ("goose.weight", ""), ("ln_out.bias", "ln_out.bias")] {
        let mut writer = filled(&original, &path, instead);
        writer.matrix(name, "int8", &[1; 64]).unwrap();
        let error = open(writer);
        assert!(matches!(&error, Error::UnknownTensor { tensor, .. } if tensor == name), "{error}");
    }
    let eagle = open_golden("lm/infer_v50");
    let mut writer = filled(&eagle, &path, "");
    writer.tensor(Tensor::from_f32("blocks.1.att.time_faaaa", [eagle.config().heads], Dtype::F32, &[1.0, 1.0]));
    assert!(matches!(open(writer), Error::UnknownTensor { tensor, .. } if tensor == "blocks.1.att.time_first"));
    let mut writer = filled(&original, &path, "ln_out.bias");
    writer.tensor(Tensor::from_f32("ln_out.bias", [32], Dtype::F32, &[0.0; 32]));
    assert!(matches!(open(writer), Error::Shape { tensor, .. } if tensor == "ln_out.bias"));
}

/// Opens, reads everything there is, and reports the most memory held meanwhile.
fn survive(bytes: &[u8]) -> usize {
    let file = File::new("model.anser", bytes);
    peak(|| {
        let Ok(model) = file.open() else { return };
        let _ = (model.config().parameters(), model.config().flops_per_token(), model.config().state_elements());
        for name in model.names() {
            match model.packed(&name) {
                Some(matrix) => assert!(matrix.bytes.as_ref().len() <= bytes.len()),
                // Whatever is no matrix is a tensor, or was described as one that it cannot be.
                None => drop(model.tensor(&name).map(|tensor| tensor.elements())),
            }
        }
        let _ = model.fingerprint();
    })
}

fn warranted(bytes: &[u8]) -> usize {
    64 * bytes.len() + (1 << 20)
}

#[test]
fn a_cut_off_file_is_refused_wherever_it_ends() {
    let bytes = whole();
    for end in (0..bytes.len()).step_by(bytes.len() / 150).chain(bytes.len() - 70..bytes.len()).chain(0..40) {
        assert!(open_bytes(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
    }
    assert!(open_bytes(&[&bytes[..], &[0]].concat()).is_err(), "a byte too many");
}

#[test]
fn descriptions_that_lie() {
    let bytes = whole();
    let end = header_end(&bytes);
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    let text = header["__metadata__"]["anser"].as_str().unwrap().to_string();
    let description: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut with = |text: String| {
        header["__metadata__"]["anser"] = text.into();
        with_header(&header.to_string(), &bytes[end..])
    };
    open_bytes(&with(text)).unwrap();
    let huge = [0, 1, 3, 1 << 31, u64::from(u32::MAX), 1 << 40, u64::MAX];
    for field in ["vocab", "width", "layers", "heads", "head_size", "ffn", "ranks/a", "ranks/decay", "ranks/v"] {
        for size in huge {
            let mut lie = description.clone();
            let place = lie.pointer_mut(&format!("/config/{field}")).unwrap();
            if place.as_u64() == Some(size) {
                continue;
            }
            *place = size.into();
            let file = with(lie.to_string());
            assert!(survive(&file) < warranted(&file), "{field} {size}");
            // Sizes that only matrices have are held against their bytes by whoever knows the storages.
            let refused = ["width", "layers", "heads", "head_size"].contains(&field) || size == u64::MAX;
            assert!(!refused || open_bytes(&file).is_err(), "{field} {size}");
        }
    }
    for (field, value, what) in [
        ("version", "2".parse().unwrap(), "version 2 of packed files"),
        ("config", serde_json::Value::Null, "damaged"),
        ("matrices", serde_json::json!({}), "nothing says what they mean"),
        ("tokenizer", "klingon".into(), "damaged"),
        ("dtype", "f64".into(), "damaged"),
    ] {
        let mut lie = description.clone();
        lie[field] = value;
        let error = open_bytes(&with(lie.to_string())).unwrap_err();
        assert!(error.to_string().contains(what), "{field}: {error}");
    }
    for eps in ["layer_norm_eps", "group_norm_eps"] {
        for value in [0.0, -1.0, 1.0] {
            let mut lie = description.clone();
            lie["config"][eps] = value.into();
            let error = open_bytes(&with(lie.to_string())).unwrap_err();
            assert!(matches!(error, Error::Config { .. }), "{eps} {value}: {error}");
        }
    }
    let mut more = description.clone();
    more["matrices"]["blocks.0.att.goose.weight"] = serde_json::json!({ "storage": "int8" });
    assert!(matches!(open_bytes(&with(more.to_string())), Err(Error::MissingTensor { .. })));
    for text in ["", "{}", "[]", "{\"version\":3}", "null"] {
        let error = open_bytes(&with(text.into())).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }) && error.to_string().contains("damaged"), "{text}: {error}");
    }
    // Without a description the matrices are bytes of an unknown type.
    header["__metadata__"] = serde_json::json!({ "format": "pt" });
    let error = open_bytes(&with_header(&header.to_string(), &bytes[end..])).unwrap_err();
    assert!(matches!(&error, Error::Dtype { found, .. } if found == "U8"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_headers_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = whole();
        let end = header_end(&bytes);
        for (at, byte, likely) in changes {
            // What headers are made of changes more than noise does.
            let byte = if likely { b"0123456789,:{}[]\"\\x "[usize::from(byte) % 20] } else { byte };
            bytes[8 + at.index(end - 8)] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        prop_assert!(survive(&bytes) < warranted(&bytes));
    }

    #[test]
    fn arbitrary_descriptions_never_panic(text in "[\\[\\]{}\":,0-9a-z_ ]{0,120}") {
        let metadata = serde_json::json!({ "__metadata__": { "anser": format!("{{\"version\":2,{text}") } });
        survive(&with_header(&metadata.to_string(), &[]));
    }
}
