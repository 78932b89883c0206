use anser_tokenizer::{Error, Tokenizer, World, vocabulary};
use proptest::prelude::*;
use serde::Deserialize;

use crate::{Case, golden_json};

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[test]
fn golden_cases_of_the_official_tokenizer() {
    let tokenizer = Tokenizer::world();
    let golden: Cases = golden_json("lm/tokenizer_world.json");
    assert_eq!(golden.cases.len(), 73);
    for case in golden.cases {
        let text = case.bytes();
        assert_eq!(tokenizer.encode(&text).unwrap(), case.ids, "{:?}", case.text);
        assert_eq!(tokenizer.decode(&case.ids), text, "{:?}", case.text);
    }
}

#[test]
fn the_published_vocabulary() {
    let tokenizer = Tokenizer::world();
    assert_eq!(tokenizer.name(), "World");
    assert_eq!(tokenizer.vocab_size(), 65530);
    assert_eq!(tokenizer.end_of_document(), Some(0));
    assert_eq!(tokenizer.token_bytes(0), None);
    assert_eq!(tokenizer.token_bytes(65530), None);
    assert_eq!(tokenizer.token_bytes(u32::MAX), None);
    assert_eq!(tokenizer.token_bytes(261).as_deref(), Some(&b"\n\n"[..]));
    // Every single byte has an id, so every byte string can be encoded; every entry alone encodes to itself.
    for id in 1..65530 {
        let bytes = tokenizer.token_bytes(id).unwrap();
        assert!(id > 256 || *bytes == [(id - 1) as u8]);
        assert_eq!(tokenizer.encode(&bytes).unwrap(), [id]);
    }
}

#[test]
fn special_tokens_are_plain_text() {
    let tokenizer = Tokenizer::world();
    let ids = tokenizer.encode(b"<|endoftext|>").unwrap();
    assert!(ids.len() > 1 && !ids.contains(&0));
}

/// The published vocabulary in the form of its text file.
fn vocabulary_text(line_end: &str) -> String {
    let world = World::published();
    let entry = |id: u32| {
        let bytes = world.token_bytes(id).unwrap();
        let literal: String = match std::str::from_utf8(bytes) {
            Ok(text) if text.contains('\'') => format!("\"{}\"", escape(text).replace('"', "\\\"")),
            Ok(text) => format!("'{}'", escape(text)),
            Err(_) => format!("b'{}'", bytes.iter().map(|b| format!("\\x{b:02x}")).collect::<String>()),
        };
        format!("{id} {literal} {}{line_end}", bytes.len())
    };
    (1..65530).map(entry).collect()
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

#[test]
fn a_vocabulary_file_loads_with_either_line_end() {
    let folder = tempfile::tempdir().unwrap();
    for (name, line_end) in [("lf.txt", "\n"), ("crlf.txt", "\r\n")] {
        let path = folder.path().join(name);
        std::fs::write(&path, vocabulary_text(line_end)).unwrap();
        assert_eq!(Tokenizer::from_file(&path).unwrap().name(), "World", "{name}");
    }
}

#[test]
fn the_embedded_table_is_what_its_vocabulary_gives() {
    let built = World::from_entries(&vocabulary::parse(&vocabulary_text("\n")).unwrap()).unwrap();
    let table = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/src/world.bin")).unwrap();
    assert!(built.to_bytes() == table, "run `cargo xtask world-vocab`");
    assert!(table.len() < 1 << 21, "{} bytes", table.len());
}

#[test]
fn a_written_vocabulary_is_the_published_one() {
    let world = World::published();
    let entries = (1..world.vocab_size() as u32).filter_map(|id| Some((id, world.token_bytes(id)?)));
    let text = vocabulary::write(entries);
    assert_eq!(Tokenizer::from_bytes(text.as_bytes(), None).unwrap().name(), "World");
}

#[test]
fn another_vocabulary_of_the_same_kind() {
    let text = "1 'a' 1\n2 'ab' 2\n7 'b' 1\n5 b'\\xff' 1\n";
    let tokenizer = Tokenizer::from_bytes(text.as_bytes(), None).unwrap();
    assert_eq!(tokenizer.name(), "World-type vocabulary");
    assert_eq!(tokenizer.vocab_size(), 8);
    assert_eq!(tokenizer.encode(b"aabb\xff").unwrap(), [1, 2, 7, 5]);
    assert_eq!(tokenizer.token_bytes(3), None);
    let error = tokenizer.encode(b"abc").unwrap_err();
    assert!(matches!(error, Error::Unencodable { byte: b'c', position: 2 }), "{error}");
}

#[test]
fn contradictory_vocabularies_are_refused() {
    let message = |text: &str| Tokenizer::from_bytes(text.as_bytes(), None).unwrap_err().to_string();
    assert!(message("1 'a' 1\n2 'a' 1\n").contains("ids 1 and 2 have the same bytes"));
    assert!(message("1 'a' 1\n1 'b' 1\n").contains("id 1 stands twice"));
    assert!(message("").contains("empty"));
    assert!(message(" \n").contains("line 1"));
    let error = Tokenizer::from_bytes(b"1 '\xff' 1", None).unwrap_err();
    assert!(error.to_string().contains("byte 3"), "{error}");
}

/// The definition: at each position the longest entry that is a prefix of the rest.
fn naive(entries: &[(u32, Vec<u8>)], mut text: &[u8]) -> Option<Vec<u32>> {
    let mut ids = Vec::new();
    while !text.is_empty() {
        let (id, bytes) = entries.iter().filter(|(_, b)| text.starts_with(b)).max_by_key(|(_, b)| b.len())?;
        ids.push(*id);
        text = &text[bytes.len()..];
    }
    Some(ids)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_round_trip(text in prop::collection::vec(any::<u8>(), 0..400)) {
        for tokenizer in [Tokenizer::world(), Tokenizer::byte()] {
            let ids = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text.clone());
        }
    }

    #[test]
    fn text_round_trips(text in "\\PC{0,60}") {
        let tokenizer = Tokenizer::world();
        let ids = tokenizer.encode(text.as_bytes()).unwrap();
        prop_assert!(ids.len() <= text.len());
        prop_assert_eq!(tokenizer.decode(&ids), text.as_bytes());
    }

    #[test]
    fn the_trie_is_the_definition(
        entries in prop::collection::btree_set(prop::collection::vec(prop::sample::select(vec![0u8, 1, 97, 98, 255]), 1..6), 0..40),
        text in prop::collection::vec(prop::sample::select(vec![0u8, 1, 97, 98, 255]), 0..40),
    ) {
        let entries: Vec<(u32, Vec<u8>)> = (3..).step_by(2).zip(entries).collect();
        let world = World::from_entries(&entries).unwrap();
        prop_assert_eq!(world.encode(&text).ok(), naive(&entries, &text));
        for (id, bytes) in &entries {
            prop_assert_eq!(world.token_bytes(*id), Some(bytes.as_slice()));
        }
    }
}
