//! Tests of anser-tokenizer against golden files and properties.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions, not in their helpers

mod chat;
mod decoder;
mod hostile;
mod hugging_face;
mod stop;
mod train;
mod world;

use serde::Deserialize;

/// A case of `golden/lm/tokenizer_*.json`: text, or bytes in hexadecimal where they are no text.
#[derive(Deserialize)]
struct Case {
    text: Option<String>,
    hex: Option<String>,
    ids: Vec<u32>,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let Some(hex) = &self.hex else { return self.text.clone().expect("a case has text or hex").into_bytes() };
        let digits = |i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex is hexadecimal");
        (0..hex.len()).step_by(2).map(digits).collect()
    }
}

fn golden_json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = anser_testkit::golden_dir().join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
