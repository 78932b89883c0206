//! GGUF: values against the `gguf` package, names against the official files, and files that lie.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anser_checkpoint::{Checkpoint, Config, Dtype, Error, TokenizerHint, Version};
use anser_testkit::{Golden, Rng, golden_dir};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&golden_dir().join(format!("gguf/{name}.gguf"))).expect(name)
}

fn sha256(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The tensors that keep their orientation in GGUF: (official, GGUF) names, `{}` for the block.
const MATRICES: [(&str, &str); 10] = [
    ("emb.weight", "token_embd.weight"),
    ("head.weight", "output.weight"),
    ("blocks.{}.att.receptance.weight", "blk.{}.time_mix_receptance.weight"),
    ("blocks.{}.att.key.weight", "blk.{}.time_mix_key.weight"),
    ("blocks.{}.att.value.weight", "blk.{}.time_mix_value.weight"),
    ("blocks.{}.att.gate.weight", "blk.{}.time_mix_gate.weight"),
    ("blocks.{}.att.output.weight", "blk.{}.time_mix_output.weight"),
    ("blocks.{}.ffn.key.weight", "blk.{}.channel_mix_key.weight"),
    ("blocks.{}.ffn.value.weight", "blk.{}.channel_mix_value.weight"),
    ("blocks.{}.ffn.receptance.weight", "blk.{}.channel_mix_receptance.weight"),
];

#[test]
fn every_storage_type_has_the_values_of_the_gguf_package() {
    let oracle: serde_json::Value =
        serde_json::from_slice(&std::fs::read(golden_dir().join("gguf/tensors.json")).unwrap()).unwrap();
    let mut types = BTreeSet::new();
    for (file, tensors) in oracle.as_object().unwrap() {
        let checkpoint = open(file);
        // make.py halves block 1's output matrices in these two.
        let rescaled = matches!(file.as_str(), "rwkv6_bf16" | "rwkv6_legacy");
        for (official, stored) in MATRICES {
            for block in 0..if official.contains("{}") { checkpoint.config().layers } else { 1 } {
                let (official, stored) =
                    (official.replace("{}", &block.to_string()), stored.replace("{}", &block.to_string()));
                let Some(expected) = tensors.get(&stored) else { continue };
                let tensor = checkpoint.tensor(&official).unwrap();
                let mut values = tensor.to_f32();
                if rescaled && block == 1 && (official.contains("output") || official.contains("ffn.value")) {
                    values.iter_mut().for_each(|x| *x /= 2.0);
                }
                assert_eq!(serde_json::json!(tensor.shape), expected["shape"], "{file} {official}");
                assert_eq!(sha256(&values), expected["sha256"], "{file} {official}: begins {:?}", &values[..4]);
                types.insert(expected["type"].as_str().unwrap().to_string());
            }
        }
    }
    let all = ["BF16", "F16", "F32", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"];
    assert_eq!(types.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

/// Every official tensor, with `r_k` of the shape given.
fn assert_equals_official(file: &str, golden: &str, head_size: usize) {
    let (checkpoint, golden) = (open(file), Golden::open(golden));
    let v7 = checkpoint.config().version == Version::V7;
    let official: BTreeSet<&str> = golden
        .names()
        .filter(|name| ["blocks", "emb", "head", "ln_out"].contains(&name.split('.').next().unwrap()))
        .filter(|name| !(v7 && name.starts_with("blocks.0.att.v") && name.len() == "blocks.0.att.v0".len()))
        .collect();
    let names = checkpoint.names();
    assert_eq!(names.iter().map(String::as_str).collect::<BTreeSet<_>>(), official, "{file}");
    for name in official {
        let tensor = checkpoint.tensor(name).unwrap();
        let mut shape: Vec<usize> = golden.shape(name).iter().copied().filter(|&n| n > 1).collect();
        if name.ends_with("r_k") {
            shape = vec![checkpoint.config().width / head_size, head_size];
        }
        assert_eq!(tensor.shape, shape, "{file} {name}");
        assert!(tensor.to_f32() == golden.f32(name), "{file} {name}: values differ");
    }
}

#[test]
fn rwkv6_equals_the_official_tensors() {
    assert_equals_official("rwkv6_f32", "lm/train_v6", 32);
    assert_equals_official("rwkv6_bf16", "lm/train_v6", 32);
}

#[test]
fn rwkv7_equals_the_official_tensors() {
    assert_equals_official("rwkv7_f32", "lm/train_v7", 32);
    assert_equals_official("rwkv7_bf16_n64", "lm/infer_v7", 64);
}

#[test]
fn sizes_come_from_shapes_and_metadata() {
    let v6 = open("rwkv6_legacy");
    let config: &Config = v6.config();
    assert_eq!((config.version, config.vocab, config.width, config.layers), (Version::V6, 64, 64, 2));
    assert_eq!((config.heads, config.head_size, config.ffn), (2, 32, 96));
    assert_eq!((config.ranks.mix, config.ranks.decay), (16, 24));
    assert_eq!(v6.stored_dtype(), Dtype::F32);
    let v7 = open("rwkv7_f16");
    let (config, ranks) = (v7.config(), v7.config().ranks);
    assert_eq!((config.version, config.heads, config.head_size, config.ffn), (Version::V7, 2, 32, 160));
    assert_eq!((ranks.decay, ranks.a, ranks.v, ranks.g), (16, 24, 8, 40));
    assert_eq!((config.layer_norm_eps, config.group_norm_eps), (1e-5, 64e-5));
    assert_eq!(v7.stored_dtype(), Dtype::F16);
    assert!(v7.format().to_string().contains("GGUF v3"), "{}", v7.format());
    assert_eq!(open("rwkv7_bf16_n64").config().heads, 1);
}

#[test]
fn an_exact_conversion_keeps_the_fingerprint() {
    let pth = Checkpoint::open(&golden_dir().join("lm/tiny_v6.pth")).unwrap();
    assert_eq!(open("rwkv6_f32").fingerprint(), pth.fingerprint());
    assert_eq!(open("rwkv6_bf16").fingerprint(), pth.fingerprint());
    assert_ne!(open("rwkv6_legacy").fingerprint(), pth.fingerprint());
}

/// A GGUF file to be written, right or wrong.
#[derive(Clone)]
struct File {
    version: u32,
    alignment: u64,
    metadata: Vec<(String, u32, Vec<u8>)>,
    /// Name, axes innermost first, type code, bytes.
    tensors: Vec<(String, Vec<u64>, u32, Vec<u8>)>,
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

impl File {
    /// A random RWKV-7 of two blocks, width 4 in heads of 2, vocabulary 6, F = 8, ranks w1 a2 v3 g5, all F32.
    fn tiny() -> File {
        let mut rng = Rng(7);
        let mut tensors = Vec::new();
        let mut add = |name: String, axes: &[u64]| {
            let values = rng.vec(axes.iter().product::<u64>() as usize, 0.5);
            tensors.push((name, axes.to_vec(), 0, values.iter().flat_map(|x| x.to_le_bytes()).collect()));
        };
        let (c, v, f) = (4, 6, 8);
        for (name, axes) in [("token_embd.weight", &[c, v][..]), ("output.weight", &[c, v])] {
            add(name.into(), axes);
        }
        for name in ["token_embd_norm", "output_norm"] {
            add(format!("{name}.weight"), &[c]);
            add(format!("{name}.bias"), &[c]);
        }
        for block in 0..2 {
            let name = |part: &str| format!("blk.{block}.{part}");
            for part in ["attn_norm", "attn_norm_2", "time_mix_ln"] {
                add(name(&format!("{part}.weight")), &[c]);
                add(name(&format!("{part}.bias")), &[c]);
            }
            add(name("time_mix_lerp_fused.weight"), &[c, 1, 1, 6]);
            for (letter, rank) in [("w", 1), ("a", 2), ("v", if block == 0 { 2 } else { 3 }), ("g", 5)] {
                if letter != "g" {
                    add(name(&format!("time_mix_{letter}0.weight")), &[c]);
                }
                add(name(&format!("time_mix_{letter}1.weight")), &[c, rank]);
                add(name(&format!("time_mix_{letter}2.weight")), &[rank, c]);
            }
            for part in ["time_mix_k_k", "time_mix_k_a", "time_mix_r_k", "channel_mix_lerp_k"] {
                add(name(&format!("{part}.weight")), &[c]);
            }
            for part in ["receptance", "key", "value", "output"] {
                add(name(&format!("time_mix_{part}.weight")), &[c, c]);
            }
            add(name("channel_mix_key.weight"), &[c, f]);
            add(name("channel_mix_value.weight"), &[f, c]);
        }
        let mut file = File { version: 3, alignment: 32, metadata: Vec::new(), tensors };
        file.set("general.architecture", 8, string(b"rwkv7"));
        file.set("rwkv7.wkv.head_size", 4, 2u32.to_le_bytes().to_vec());
        file.set("rwkv7.attention.layer_norm_epsilon", 6, 1e-5f32.to_le_bytes().to_vec());
        file
    }

    fn set(&mut self, key: &str, kind: u32, value: Vec<u8>) {
        self.metadata.retain(|(old, ..)| old != key);
        self.metadata.push((key.into(), kind, value));
    }

    fn tensor(&mut self, name: &str) -> &mut (String, Vec<u64>, u32, Vec<u8>) {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.metadata {
            out.extend([string(key.as_bytes()), kind.to_le_bytes().to_vec(), value.clone()].concat());
        }
        let mut offset = 0u64;
        for (name, axes, kind, data) in &self.tensors {
            out.extend(string(name.as_bytes()));
            out.extend((axes.len() as u32).to_le_bytes());
            axes.iter().for_each(|axis| out.extend(axis.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + data.len() as u64).next_multiple_of(self.alignment);
        }
        for (.., data) in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment as usize), 0);
            out.extend(data);
        }
        out
    }

    fn open(&self) -> Result<Checkpoint, Error> {
        open_bytes(&self.bytes())
    }

    #[track_caller]
    fn error(&self) -> String {
        self.open().expect_err("the file is refused").to_string()
    }
}

fn open_bytes(bytes: &[u8]) -> Result<Checkpoint, Error> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    // The mapping outlives the name.
    Checkpoint::open(file.path())
}

/// Opens and, where that goes well, reads everything: neither may panic.
fn survive(bytes: &[u8]) {
    if let Ok(checkpoint) = open_bytes(bytes) {
        for name in checkpoint.names() {
            if let Ok(tensor) = checkpoint.tensor(&name) {
                assert!(tensor.to_f32().len() <= 8 * bytes.len());
            }
        }
        checkpoint.fingerprint();
    }
}

#[test]
fn a_file_written_here_is_read() {
    let file = File::tiny();
    let checkpoint = file.open().unwrap();
    let ranks = checkpoint.config().ranks;
    assert_eq!((ranks.decay, ranks.a, ranks.v, ranks.g), (1, 2, 3, 5));
    assert_eq!(checkpoint.config().heads, 2);
    assert_eq!(checkpoint.tensor("blocks.1.att.v1").unwrap().shape, [4, 3]);
    assert!(!checkpoint.has("blocks.0.att.v1"), "block 0's value residual is a dummy");

    let mut version2 = file.clone();
    version2.version = 2;
    assert_eq!(version2.open().unwrap().fingerprint(), checkpoint.fingerprint());

    let mut wide = file.clone();
    wide.alignment = 256;
    wide.set("general.alignment", 4, 256u32.to_le_bytes().to_vec());
    assert_eq!(wide.open().unwrap().fingerprint(), checkpoint.fingerprint());
}

#[test]
fn nested_arrays_and_every_metadata_type_are_stepped_over() {
    let mut file = File::tiny();
    for (kind, size) in [(0, 1), (1, 1), (2, 2), (3, 2), (4, 4), (5, 4), (6, 4), (7, 1), (10, 8), (11, 8), (12, 8)] {
        file.set(&format!("some.scalar.{kind}"), kind, vec![1; size]);
        let elements = [&kind.to_le_bytes()[..], &3u64.to_le_bytes(), &vec![1; 3 * size]].concat();
        file.set(&format!("some.array.{kind}"), 9, elements);
    }
    let strings = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &string(b"\xff\xfe"), &string(b"")].concat();
    let nested = [&9u32.to_le_bytes()[..], &2u64.to_le_bytes(), &strings, &strings].concat();
    file.set("some.strings", 9, strings);
    file.set("some.nested", 9, nested);
    file.set("some.bytes", 8, string(b"\xff"));
    file.open().unwrap();
}

#[test]
fn the_vocabulary_is_told_from_a_few_tokens() {
    assert_eq!(open("rwkv7_bf16_n64").tokenizer(), TokenizerHint::Byte);
    assert_eq!(open("rwkv7_q8_0").tokenizer(), TokenizerHint::Unknown);

    let mut file = File::tiny();
    for name in ["token_embd.weight", "output.weight"] {
        let tensor = file.tensor(name);
        (tensor.1, tensor.3) = (vec![4, 65536], vec![0; 4 * 4 * 65536]);
    }
    let mut tokens = vec![8, 0, 0, 0];
    tokens.extend(65536u64.to_le_bytes());
    for id in 0..65536 {
        let text = match id {
            // As the converter escapes them.
            1..=256 if (33..127).contains(&(id - 1)) && id - 1 != 92 => char::from((id - 1) as u8).to_string(),
            93 => "\\\\".into(),
            1..=256 => format!("\\x{:02x}", id - 1),
            261 => "\\n\\n".into(),
            other => format!("<{other}>"),
        };
        tokens.extend(string(text.as_bytes()));
    }
    file.set("tokenizer.ggml.tokens", 9, tokens);
    file.set("tokenizer.ggml.model", 8, string(b"rwkv"));
    file.set("tokenizer.chat_template", 8, string("{{ 'é' }}".as_bytes()));
    let checkpoint = file.open().unwrap();
    assert_eq!(checkpoint.tokenizer(), TokenizerHint::World);
    assert_eq!(checkpoint.chat_template(), Some("{{ 'é' }}"));
    file.set("tokenizer.ggml.model", 8, string(b"gpt2"));
    assert_eq!(file.open().unwrap().tokenizer(), TokenizerHint::Unknown);
}

#[test]
fn wrong_shapes_are_named() {
    for (tensor, axes) in [
        ("blk.1.time_mix_key.weight", vec![4, 5]),
        ("blk.0.time_mix_lerp_fused.weight", vec![4, 1, 1, 5]),
        ("blk.1.time_mix_w1.weight", vec![4, 2]),
        ("blk.0.time_mix_r_k.weight", vec![2, 2]),
        ("token_embd_norm.bias", vec![8]),
    ] {
        let mut file = File::tiny();
        let place = file.tensor(tensor);
        place.3 = vec![0; 4 * axes.iter().product::<u64>() as usize];
        place.1 = axes;
        let error = file.error();
        assert!(error.contains(tensor) && error.contains("expected"), "{tensor}: {error}");
    }
    let mut file = File::tiny();
    file.tensors.retain(|tensor| tensor.0 != "blk.1.time_mix_g2.weight");
    assert!(file.error().contains("blk.1.time_mix_g2.weight"), "{}", file.error());
}

#[test]
fn metadata_that_contradicts_the_shapes_is_refused() {
    for (key, value) in [
        ("rwkv7.embedding_length", 8u32),
        ("rwkv7.block_count", 3),
        ("rwkv7.feed_forward_length", 4),
        ("rwkv7.attention.decay_lora_rank", 2),
        ("rwkv7.attention.value_residual_mix_lora_rank", 2),
        ("rwkv7.wkv.head_size", 3),
        ("rwkv7.wkv.head_size", 0),
        ("rwkv7.wkv.head_size", u32::MAX),
    ] {
        let mut file = File::tiny();
        file.set(key, 4, value.to_le_bytes().to_vec());
        assert!(file.open().is_err(), "{key} = {value}");
    }
    for eps in [0.0, -1e-5, f32::NAN, f32::INFINITY] {
        let mut file = File::tiny();
        file.set("rwkv7.attention.layer_norm_epsilon", 6, eps.to_le_bytes().to_vec());
        assert!(file.error().contains("epsilon"));
    }
    let mut file = File::tiny();
    file.metadata.retain(|(key, ..)| key != "rwkv7.wkv.head_size");
    assert!(file.open().is_err(), "r_k is flattened, so nothing else tells the head size");
}

#[test]
fn what_is_not_read_is_named() {
    for (architecture, expected) in [("llama", "llama"), ("arwkv7", "arwkv7"), ("rwkv6qwen2", "rwkv6qwen2")] {
        let mut file = File::tiny();
        file.set("general.architecture", 8, string(architecture.as_bytes()));
        let error = file.open().err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.hint().unwrap().contains("rwkv7"));
    }
    for (code, name) in [(16, "IQ2_XXS"), (10, "Q2_K"), (39, "MXFP4"), (5, "number 5"), (1 << 31, "number 2147483648")]
    {
        let mut file = File::tiny();
        file.tensor("output.weight").2 = code;
        let error = file.error();
        assert!(error.contains(name) && error.contains("output.weight"), "{error}");
    }
    for version in [0, 1, 4, 3u32.swap_bytes()] {
        let mut file = File::tiny();
        file.version = version;
        assert!(file.error().contains("version"), "{}", file.error());
    }
}

#[test]
fn tables_that_lie_are_refused() {
    let cases: BTreeMap<&str, fn(&mut File)> = BTreeMap::from([
        ("appears twice", (|file| file.tensors[1].0 = "token_embd.weight".into()) as fn(&mut File)),
        ("metadata key", |file| file.metadata.push(file.metadata[0].clone())),
        ("axes", |file| file.tensors[0].1 = vec![1; 5]),
        ("empty axis", |file| file.tensors[0].1 = vec![u64::MAX, 0, u64::MAX]),
        ("impossible size", |file| file.tensors[0].1 = vec![1 << 62, 1 << 62]),
        ("impossible size ", |file| file.tensors[0].1 = vec![u64::MAX]),
        ("token_embd.weight", |file| file.tensors[0].1 = vec![1 << 40]),
        ("overlap", |file| file.tensors[0].1 = vec![4, 60]),
        ("needs a multiple of 32", |file| file.tensors[0].2 = 8),
        ("unknown type", |file| file.set("x", 13, vec![])),
        ("array of the unknown type", |file| file.set("x", 9, vec![0xff; 12])),
        ("power of two", |file| file.set("general.alignment", 4, 24u32.to_le_bytes().to_vec())),
        ("power of two ", |file| file.set("general.alignment", 4, 0u32.to_le_bytes().to_vec())),
        ("whole number", |file| file.set("general.alignment", 8, string(b"32"))),
        ("the alignment", |file| file.set("general.alignment", 10, (1u64 << 63).to_le_bytes().to_vec())),
        ("elements", |file| file.set("x", 9, [&8u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat())),
        ("deep", |file| {
            let level = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
            file.set("x", 9, level.repeat(10_000));
        }),
        ("UTF-8", |file| {
            let mut raw = std::mem::take(&mut file.tensors[0].0).into_bytes();
            raw[0] = b'?';
            file.tensors[0].0 = String::from_utf8(raw).unwrap();
        }),
    ]);
    for (expected, spoil) in cases {
        let mut file = File::tiny();
        spoil(&mut file);
        let mut bytes = file.bytes();
        if expected == "UTF-8" {
            let at = bytes.windows(5).position(|w| w == b"?oken").unwrap();
            bytes[at] = 0xff;
        }
        let error = open_bytes(&bytes).err().unwrap_or_else(|| panic!("{expected}: not refused")).to_string();
        assert!(error.contains(expected.trim_end()), "{expected}: {error}");
    }
    // Counts beyond anything the file could hold, at their places in the header.
    for at in [8, 16] {
        let mut bytes = File::tiny().bytes();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(open_bytes(&bytes).is_err());
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let bytes = File::tiny().bytes();
    for end in (0..bytes.len() - 1).step_by(37) {
        assert!(open_bytes(&bytes[..end]).is_err(), "{end} of {}", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8u8), 1..6)) {
        let mut bytes = File::tiny().bytes();
        // The header is where bits matter.
        let header = bytes.len() * 3 / 4;
        for (at, bit) in flips {
            bytes[at.index(header)] ^= 1 << bit;
        }
        survive(&bytes);
    }

    #[test]
    fn arbitrary_headers_never_panic(tail in prop::collection::vec(any::<u8>(), 0..400)) {
        survive(&[b"GGUF\x03\0\0\0", &tail[..]].concat());
    }
}
