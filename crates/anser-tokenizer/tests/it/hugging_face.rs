use std::io::Write;
use std::path::PathBuf;

use anser_tokenizer::{Error, Tokenizer, World};
use serde::Deserialize;
use serde_json::json;

use crate::{Case, golden_json};

#[derive(Deserialize)]
struct TinyCase {
    text: String,
    ids: Vec<u32>,
    decoded: String,
}

fn tiny(name: &str) -> Tokenizer {
    Tokenizer::from_file(&anser_testkit::golden_dir().join(format!("tokenizer/{name}.json"))).unwrap()
}

#[test]
fn tiny_vocabularies_agree_with_the_python_package() {
    for name in ["tiny_bpe", "tiny_fallback"] {
        let tokenizer = tiny(name);
        assert_eq!(tokenizer.name(), "Hugging Face BPE");
        let cases: Vec<TinyCase> = golden_json(&format!("tokenizer/{name}_cases.json"));
        for case in cases {
            let ids = tokenizer.encode(case.text.as_bytes()).unwrap();
            assert_eq!(ids, case.ids, "{name}: {:?}", case.text);
            assert_eq!(tokenizer.decode(&ids), case.decoded.as_bytes(), "{name}: {:?}", case.text);
            // Token by token it is the same text.
            let mut decoder = tokenizer.decoder();
            let mut text: String = ids.iter().map(|&id| decoder.push(id)).collect();
            text += &decoder.finish();
            assert_eq!(text, case.decoded, "{name}");
        }
    }
}

#[test]
fn end_of_document_and_special_tokens() {
    assert_eq!(tiny("tiny_bpe").end_of_document(), Some(0));
    assert_eq!(tiny("tiny_fallback").end_of_document(), Some(2));
    let json = std::fs::read(anser_testkit::golden_dir().join("tokenizer/tiny_bpe.json")).unwrap();
    let config = json!({"eos_token": {"content": "<|call|>"}, "bos_token": "<|endoftext|>", "pad_token": null});
    let tokenizer = Tokenizer::from_bytes(&json, Some(config.to_string().as_bytes())).unwrap();
    assert_eq!(tokenizer.end_of_document(), Some(476));
    assert_eq!(tokenizer.special_token("bos_token"), Some("<|endoftext|>"));
    assert_eq!(tokenizer.special_token("eos_token"), Some("<|call|>"));
    assert_eq!(tokenizer.special_token("pad_token"), None);
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_position() {
    let error = tiny("tiny_fallback").encode(b"goose\xff").unwrap_err();
    assert!(matches!(error, Error::InvalidUtf8 { position: 5, .. }), "{error}");
    assert!(error.to_string().contains("byte 5"), "{error}");
}

#[test]
fn byte_level_vocabularies_take_any_bytes() {
    let tokenizer = tiny("tiny_bpe");
    for text in [&b"goose\xff"[..], b"\x80\xbf river \xe5\xa4", b"\xf0\x9f\xa6", b"\xc0\x00\xff\xffgoose"] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(tokenizer.decode(&ids), text);
    }
}

/// A big published vocabulary, which is not part of the repository: from the folder `ANSER_TOKENIZERS`, or one beside
/// the checkout.
fn published(name: &str) -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/tokenizers");
    let folder = std::env::var_os("ANSER_TOKENIZERS");
    let path = folder.as_ref().map_or_else(|| PathBuf::from(beside), PathBuf::from).join(name);
    if path.is_file() {
        return Some(path);
    }
    assert!(folder.is_none(), "ANSER_TOKENIZERS is set but has no {name}");
    // Straight to the stream: the test harness swallows what `eprintln!` prints.
    let _ = writeln!(std::io::stderr(), "golden cases not run: no {name} (set ANSER_TOKENIZERS to its folder)");
    None
}

#[test]
fn neox_20b_golden_cases_if_the_file_is_present() {
    #[derive(Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }
    let golden: Cases = golden_json("lm/tokenizer_20b.json");
    let Some(path) = published("20B_tokenizer.json") else { return };
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    assert_eq!((tokenizer.vocab_size(), tokenizer.end_of_document()), (50277, Some(0)));
    for case in golden.cases {
        assert_eq!(tokenizer.encode(&case.bytes()).unwrap(), case.ids, "{:?}", case.text);
        assert_eq!(tokenizer.decode(&case.ids), case.bytes());
    }
}

#[test]
fn qwen2_round_trips_if_the_file_is_present() {
    let Some(path) = published("qwen2_tokenizer.json") else { return };
    let tokenizer = Tokenizer::from_file(&path).unwrap();
    for text in ["Hello, 世界! 🦢", "  def f(x):\n\treturn x**2\r\n", "<|im_end|>"] {
        let ids = tokenizer.encode(text.as_bytes()).unwrap();
        assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    }
    assert_eq!(tokenizer.encode(b"<|im_end|>").unwrap().len(), 1);
}

/// How a native RWKV-7 directory may spell the World vocabulary.
fn world_as_json(spell: impl Fn(&[u8]) -> String) -> Vec<u8> {
    let world = World::published();
    let vocab: serde_json::Map<String, serde_json::Value> =
        (1..65530).map(|id| (spell(world.token_bytes(id).unwrap()), json!(id))).collect();
    assert_eq!(vocab.len(), 65529);
    let end = json!({
        "id": 0, "content": "<|rwkv_tokenizer_end_of_text|>", "special": true,
        "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
    });
    json!({"version": "1.0", "added_tokens": [end], "model": {"type": "BPE", "vocab": vocab, "merges": []}})
        .to_string()
        .into_bytes()
}

fn byte_level(bytes: &[u8]) -> String {
    let visible = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let hidden: Vec<u8> = (0..=255).filter(|&b| !visible(b)).collect();
    let spell = |&b: &u8| match hidden.iter().position(|&h| h == b) {
        Some(n) => char::from_u32(0x100 + n as u32).unwrap(),
        None => char::from(b),
    };
    bytes.iter().map(spell).collect()
}

#[test]
fn the_world_vocabulary_in_a_tokenizer_json_becomes_world() {
    let byte_fallback = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_string(),
        Err(_) if bytes.len() == 1 => format!("<0x{:02X}>", bytes[0]),
        Err(_) => format!("b'{bytes:02x?}'"),
    };
    for json in [world_as_json(byte_level), world_as_json(byte_fallback)] {
        let tokenizer = Tokenizer::from_bytes(&json, None).unwrap();
        assert_eq!(tokenizer.name(), "World");
        assert_eq!(tokenizer.end_of_document(), Some(0));
    }
    // One entry changed, and it is another vocabulary.
    let other = world_as_json(|bytes| if bytes == b" goose" { "gooses!".to_string() } else { byte_level(bytes) });
    assert_ne!(Tokenizer::from_bytes(&other, None).unwrap().name(), "World");
}
