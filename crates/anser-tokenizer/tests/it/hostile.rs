use anser_tokenizer::{Error, Tokenizer};
use proptest::prelude::*;
use serde_json::{Value, json};

fn tiny() -> Vec<u8> {
    std::fs::read(anser_testkit::golden_dir().join("tokenizer/tiny_bpe.json")).unwrap()
}

fn with(change: impl Fn(&mut Value)) -> Result<Tokenizer, Error> {
    let mut json: Value = serde_json::from_slice(&tiny()).unwrap();
    change(&mut json);
    Tokenizer::from_bytes(json.to_string().as_bytes(), None)
}

#[test]
fn malformed_json_is_an_error() {
    for bytes in [
        &b"{"[..],
        b"{}",
        b"  {\"model\": 3}",
        b"{\"model\": {\"vocab\": {\"a\": -1}}}",
        b"{\"model\": {\"vocab\": []}}",
    ] {
        let error = Tokenizer::from_bytes(bytes, None).unwrap_err();
        assert!(matches!(error, Error::HuggingFace(_)), "{error}");
    }
    let deep = format!("{{\"model\": {}", "[".repeat(100_000));
    assert!(Tokenizer::from_bytes(deep.as_bytes(), None).is_err());
}

#[test]
fn an_id_does_not_size_the_tables() {
    let error = with(|json| json["model"]["vocab"]["goose!"] = json!(4_000_000_000u32)).unwrap_err();
    assert!(error.to_string().contains("token id 4000000000 is larger"), "{error}");
    let error = with(|json| json["added_tokens"][0]["id"] = json!(2_000_000)).unwrap_err();
    assert!(error.to_string().contains("token id 2000000 is larger"), "{error}");
}

#[test]
fn decoders_that_join_tokens_are_refused_by_name() {
    let error = with(|json| {
        json["pre_tokenizer"] = Value::Null;
        json["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    });
    assert!(error.unwrap_err().to_string().contains("decoder WordPiece"));
}

#[test]
fn missing_files_are_named() {
    let error = Tokenizer::from_file(std::path::Path::new("no/such/tokenizer.json")).unwrap_err();
    assert!(error.to_string().contains("no/such/tokenizer.json"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vocab.txt");
    std::fs::write(&path, "1 'a' 2\n").unwrap();
    let error = Tokenizer::from_file(&path).unwrap_err().to_string();
    assert!(error.contains("vocab.txt") && error.contains("line 1"), "{error}");
}

#[test]
fn a_megabyte_of_one_byte() {
    let tokenizer = Tokenizer::world();
    for byte in [b' ', b'\n', 0, 0xff, b'a'] {
        let text = vec![byte; 1 << 20];
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).len(), text.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a damaged file loads as, using it does not panic.
    #[test]
    fn damaged_files_are_errors_or_tokenizers(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut json = tiny();
        let at = at.index(json.len());
        json[at] = byte;
        if cut {
            json.truncate(at);
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&json, None)
            && let Ok(ids) = tokenizer.encode("The goose 大雁 <|call|>".as_bytes())
        {
            tokenizer.decode(&ids);
        }
    }

    #[test]
    fn damaged_vocabularies_are_errors_or_tokenizers(lines in prop::collection::vec("[0-9]{0,3} ?b?['\"][a\\\\x0-9u'\"中]{0,6}['\"]? ?[0-9]{0,2}", 0..6)) {
        if let Ok(tokenizer) = Tokenizer::from_bytes(lines.join("\n").as_bytes(), None) {
            let _ = tokenizer.encode(b"a1");
        }
    }
}
