//! `tokenizer.json` of the Hugging Face `tokenizers` library.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::Error;
use crate::vocabulary::MAX_ID;
use crate::world::is_world_in_disguise;

/// A Hugging Face tokenizer and the bytes of each of its tokens.
pub struct HuggingFace {
    tokenizer: tokenizers::Tokenizer,
    name: String,
    /// By id.
    bytes: Vec<Option<Box<[u8]>>>,
    /// The token of each single byte, in byte-level vocabularies that have them all.
    single: Option<Box<[u32; 256]>>,
    special: BTreeMap<String, String>,
    end_of_document: Option<u32>,
}

/// What a `tokenizer.json` holds.
pub(crate) enum Content {
    /// The World vocabulary, written as a Hugging Face one.
    World,
    Other(Box<HuggingFace>),
}

/// The parts of the file that tell how tokens are spelled.
#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    decoder: Option<Value>,
    pre_tokenizer: Option<Value>,
}

#[derive(Deserialize)]
struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    vocab: Vocabulary,
    #[serde(default)]
    byte_fallback: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Vocabulary {
    Ids(HashMap<String, u32>),
    Scores(Vec<(String, IgnoredAny)>),
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// How a vocabulary spells bytes.
enum Spelling {
    /// One character a byte, in the alphabet of byte-level BPE.
    ByteLevel,
    /// As they are, but for a sign that stands for a space and perhaps `<0x0A>` for a byte.
    Text { space: Option<String>, byte_fallback: bool },
}

/// Ends of documents by name, for files without a `tokenizer_config.json` that says which.
const ENDS_OF_DOCUMENT: [&str; 5] =
    ["<|endoftext|>", "<|rwkv_tokenizer_end_of_text|>", "<|end_of_text|>", "</s>", "<eos>"];

impl HuggingFace {
    /// Reads a `tokenizer.json` and, if there is one, the `tokenizer_config.json` beside it.
    pub(crate) fn parse(json: &[u8], config: Option<&[u8]>) -> Result<Content, Error> {
        let file: File = serde_json::from_slice(json).map_err(|e| Error::HuggingFace(e.to_string()))?;
        let texts = texts_by_id(&file)?;
        if texts.is_empty() {
            return Err(Error::HuggingFace("the vocabulary is empty".to_string()));
        }
        if is_world_in_disguise(|id| texts.get(id as usize).copied().flatten(), byte_level) {
            return Ok(Content::World);
        }
        let spelling = spelling(&file)?;
        let mut bytes: Vec<Option<Box<[u8]>>> =
            texts.iter().map(|text| text.map(|text| spelling.bytes(text).into())).collect();
        let single = if matches!(spelling, Spelling::ByteLevel) { single_bytes(&bytes) } else { None };
        // Added tokens are text, whatever the vocabulary's alphabet.
        for token in &file.added_tokens {
            bytes[token.id as usize] = Some(token.content.as_bytes().into());
        }

        let special = special_tokens(config)?;
        let id_of = |text: &str| texts.iter().position(|t| *t == Some(text)).map(|id| id as u32);
        let end_of_document = match special.get("eos_token") {
            Some(text) => id_of(text),
            None => ENDS_OF_DOCUMENT.iter().find_map(|text| id_of(text)),
        };

        let mut tokenizer = guarded(|| tokenizers::Tokenizer::from_bytes(json))?;
        // A prompt is never cut nor padded behind the caller's back.
        guarded(|| tokenizer.with_truncation(None).map(|_| ()))?;
        tokenizer.with_padding(None);
        let name = format!("Hugging Face {}", file.model.kind.as_deref().unwrap_or("vocabulary"));
        Ok(Content::Other(Box::new(HuggingFace { tokenizer, name, bytes, single, special, end_of_document })))
    }

    /// The ids of `text`, special tokens in it recognised, none added around it. What is no UTF-8 becomes tokens of
    /// single bytes where the vocabulary has them all, and is an error elsewhere.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        let mut position = 0;
        for chunk in text.utf8_chunks() {
            if !chunk.valid().is_empty() {
                let encoding = guarded(|| self.tokenizer.encode_fast(chunk.valid(), false))?;
                ids.extend_from_slice(encoding.get_ids());
            }
            position += chunk.valid().len();
            if !chunk.invalid().is_empty() {
                let Some(single) = &self.single else {
                    return Err(Error::InvalidUtf8 { tokenizer: self.name.clone(), position });
                };
                ids.extend(chunk.invalid().iter().map(|&byte| single[usize::from(byte)]));
                position += chunk.invalid().len();
            }
        }
        Ok(ids)
    }

    /// The bytes a token stands for.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.bytes.get(id as usize)?.as_deref()
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// `Hugging Face BPE`, or whichever model the file names.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `eos_token` of the `tokenizer_config.json` beside the file, else a token with one of the usual names.
    pub fn end_of_document(&self) -> Option<u32> {
        self.end_of_document
    }

    /// The text of `bos_token`, `eos_token` and their like from `tokenizer_config.json`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special.get(name).map(String::as_str)
    }
}

/// The library panics on some inconsistent files; here that is one more malformed file.
pub(crate) fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::HuggingFace(error.to_string())),
        Err(_) => Err(Error::HuggingFace("its parts contradict each other".to_string())),
    }
}

fn texts_by_id(file: &File) -> Result<Vec<Option<&str>>, Error> {
    let vocabulary: Vec<(u32, &str)> = match &file.model.vocab {
        Vocabulary::Ids(ids) => ids.iter().map(|(text, &id)| (id, text.as_str())).collect(),
        Vocabulary::Scores(list) => (0..).zip(list.iter().map(|(text, _)| text.as_str())).collect(),
    };
    let added = file.added_tokens.iter().map(|token| (token.id, token.content.as_str()));
    let mut texts = Vec::new();
    for (id, text) in vocabulary.into_iter().chain(added) {
        if id > MAX_ID {
            return Err(Error::HuggingFace(format!("token id {id} is larger than {MAX_ID}")));
        }
        if texts.len() <= id as usize {
            texts.resize(id as usize + 1, None);
        }
        texts[id as usize] = Some(text);
    }
    Ok(texts)
}

/// The token of each byte, if every byte has one. Of several the first.
fn single_bytes(tokens: &[Option<Box<[u8]>>]) -> Option<Box<[u32; 256]>> {
    let mut single = Box::new([None; 256]);
    for (id, token) in tokens.iter().enumerate() {
        if let Some([byte]) = token.as_deref() {
            single[usize::from(*byte)].get_or_insert(id as u32);
        }
    }
    single.iter().all(Option::is_some).then(|| Box::new(single.map(Option::unwrap_or_default)))
}

/// `value` and the members of a `Sequence`, however deep serde_json lets them nest.
fn parts(value: &Value) -> Vec<&Value> {
    let mut all = vec![value];
    for key in ["decoders", "pretokenizers"] {
        all.extend(value.get(key).and_then(Value::as_array).into_iter().flatten().flat_map(parts));
    }
    all
}

fn spelling(file: &File) -> Result<Spelling, Error> {
    let kind = |part: &Value| part.get("type").and_then(Value::as_str).map(str::to_string);
    let pre_tokenizers = file.pre_tokenizer.as_ref().map(parts).unwrap_or_default();
    let decoders = file.decoder.as_ref().map(parts).unwrap_or_default();
    let (mut space, mut byte_fallback) = (None, file.model.byte_fallback);
    if pre_tokenizers.iter().any(|part| kind(part).as_deref() == Some("ByteLevel")) {
        return Ok(Spelling::ByteLevel);
    }
    for part in decoders {
        match kind(part).as_deref() {
            Some("ByteLevel") => return Ok(Spelling::ByteLevel),
            Some("ByteFallback") => byte_fallback = true,
            Some("Metaspace") => space = part.get("replacement").and_then(Value::as_str).map(str::to_string),
            Some("Replace") if part.get("content").and_then(Value::as_str) == Some(" ") => {
                space = part.pointer("/pattern/String").and_then(Value::as_str).map(str::to_string);
            }
            // These act across tokens.
            Some(other @ ("WordPiece" | "BPEDecoder" | "CTC")) => {
                let problem = format!("decoder {other}: its tokens have no bytes of their own, so they cannot stream");
                return Err(Error::HuggingFace(problem));
            }
            _ => {}
        }
    }
    Ok(Spelling::Text { space: space.filter(|sign| !sign.is_empty()), byte_fallback })
}

impl Spelling {
    fn bytes(&self, token: &str) -> Vec<u8> {
        match self {
            // A token outside the alphabet can only be meant as it is.
            Spelling::ByteLevel => byte_level(token).unwrap_or_else(|| token.as_bytes().to_vec()),
            Spelling::Text { space, byte_fallback: fallback } => match (byte_fallback(token), space) {
                (Some(byte), _) if *fallback => vec![byte],
                (_, Some(space)) => token.replace(space.as_str(), " ").into_bytes(),
                _ => token.as_bytes().to_vec(),
            },
        }
    }
}

/// The byte that `<0x0A>` stands for.
pub(crate) fn byte_fallback(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The bytes of a token in byte-level BPE's alphabet: bytes that are visible in Latin-1 stand for themselves, the other
/// 68 are U+0100 onwards in order. `None` if a character is outside it.
fn byte_level(token: &str) -> Option<Vec<u8>> {
    let visible = |c: u32| matches!(c, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    token
        .chars()
        .map(|c| match c as u32 {
            c if visible(c) => Some(c as u8),
            c @ 0x100..=0x120 => Some((c - 0x100) as u8),
            c @ 0x121..=0x142 => Some((c - 0x121 + 0x7f) as u8),
            0x143 => Some(0xad),
            _ => None,
        })
        .collect()
}

/// `bos_token`, `eos_token`, ... of a `tokenizer_config.json`: strings, or objects with a `content`.
fn special_tokens(config: Option<&[u8]>) -> Result<BTreeMap<String, String>, Error> {
    let Some(config) = config else { return Ok(BTreeMap::new()) };
    let config: serde_json::Map<String, Value> =
        serde_json::from_slice(config).map_err(|e| Error::HuggingFace(format!("tokenizer_config.json: {e}")))?;
    let text = |value: &Value| value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string);
    Ok(config
        .iter()
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_alphabet_covers_every_byte_once() {
        let mut seen = [0; 256];
        for c in (0..0x200).filter_map(char::from_u32) {
            if let Some(bytes) = byte_level(&c.to_string()) {
                seen[bytes[0] as usize] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!(byte_level("ĠaĊ").as_deref(), Some(&b" a\n"[..]));
        assert_eq!(byte_level("a b"), None);
    }
}
