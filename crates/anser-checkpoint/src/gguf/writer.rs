//! Writes GGUF v3: the container, and the metadata that llama.cpp asks of `rwkv6` and `rwkv7`.

use std::borrow::Cow;
use std::io::{self, Write};
use std::path::Path;

use super::encode;
use super::{RWKV6, RWKV7, Width};
use crate::config::{Config, Version};
use crate::error::Error;
use crate::state::write_atomically;
use crate::tensor::{Dtype, Precision, check_data};

/// Where tensors begin.
const ALIGNMENT: usize = 32;
/// The converter's number for models without a bound.
const CONTEXT: u32 = 1 << 20;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    U32(u32),
    F32(f32),
    Text(String),
    /// Strings that need not be UTF-8.
    Texts(Vec<Vec<u8>>),
    I32s(Vec<i32>),
}

/// What the table says of a tensor.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) precision: Precision,
    /// Row-major; rows are whole blocks where the precision has blocks.
    pub(crate) shape: &'a [usize],
}

impl Entry<'_> {
    fn bytes(&self) -> usize {
        let elements: usize = self.shape.iter().product();
        match (self.precision, encode::format(self.precision)) {
            (Precision::Plain(dtype), _) => elements * dtype.bytes(),
            (_, Some(format)) => elements / format.elements * format.bytes,
            (_, None) => 0,
        }
    }

    /// The format's number of the type.
    fn code(&self) -> u32 {
        match self.precision {
            Precision::Plain(Dtype::F32) => 0,
            Precision::Plain(Dtype::F16) => 1,
            Precision::Q4_0 => 2,
            Precision::Q8_0 => 8,
            Precision::Plain(Dtype::Bf16) => 30,
        }
    }
}

/// The vocabulary as GGUF holds it.
#[derive(Clone, Debug, Default)]
pub enum Vocabulary {
    /// None: such a file runs on token numbers only.
    #[default]
    Absent,
    /// Byte strings, found by greedy longest match (World, or single bytes): the bytes of every id, `None` where an id has
    /// none. Shorter than the embedding is filled up.
    Trie(Vec<Option<Vec<u8>>>),
}

/// Writes a file whose tensors come one at a time, in order. It appears whole or not at all.
pub(crate) fn write<'a>(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Entry<'_>],
    mut data: impl FnMut(usize) -> Result<Cow<'a, [u8]>, Error>,
) -> Result<(), Error> {
    let mut header = Vec::new();
    header.extend_from_slice(b"GGUF");
    header.extend_from_slice(&3u32.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut header, key.as_bytes());
        entry(&mut header, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut header, tensor.name.as_bytes());
        header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
        for &length in tensor.shape.iter().rev() {
            header.extend_from_slice(&(length as u64).to_le_bytes());
        }
        header.extend_from_slice(&tensor.code().to_le_bytes());
        header.extend_from_slice(&(offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);

    write_atomically(path, |out| {
        out.write_all(&header)?;
        for (at, tensor) in tensors.iter().enumerate() {
            let bytes = data(at).and_then(|bytes| {
                check_data(path, tensor.name, tensor.shape, tensor.bytes(), &bytes)?;
                Ok(bytes)
            });
            let bytes = bytes.map_err(io::Error::other)?;
            out.write_all(&bytes)?;
            out.write_all(&[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])?;
        }
        Ok(())
    })
}

fn text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text);
}

fn entry(out: &mut Vec<u8>, value: &Value) {
    let kind = |out: &mut Vec<u8>, kinds: &[u32]| kinds.iter().for_each(|kind| out.extend(kind.to_le_bytes()));
    match value {
        Value::U32(x) => {
            kind(out, &[4]);
            out.extend(x.to_le_bytes());
        }
        Value::F32(x) => {
            kind(out, &[6]);
            out.extend(x.to_le_bytes());
        }
        Value::Text(x) => {
            kind(out, &[8]);
            text(out, x.as_bytes());
        }
        Value::Texts(list) => {
            kind(out, &[9, 8]);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|x| text(out, x));
        }
        Value::I32s(list) => {
            kind(out, &[9, 5]);
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }
    }
}

/// All that llama.cpp asks of a model of these sizes. Lengths are read off the tensors, by the table that checks them when
/// a file is read.
pub(crate) fn metadata(
    config: &Config,
    name: &str,
    precision: Precision,
    tensors: &[Entry<'_>],
    vocabulary: &Vocabulary,
    chat_template: Option<&str>,
) -> Vec<(String, Value)> {
    let architecture = config.architecture();
    let widths: &[Width] = if config.version == Version::V7 { RWKV7 } else { RWKV6 };
    let mut entries = vec![
        ("general.architecture".to_string(), Value::Text(architecture.into())),
        ("general.type".to_string(), Value::Text("model".into())),
        ("general.name".to_string(), Value::Text(name.into())),
        ("general.file_type".to_string(), Value::U32(file_type(precision))),
    ];
    if precision.dtype().is_none() {
        entries.push(("general.quantization_version".to_string(), Value::U32(2)));
    }
    let mut own = |key: &str, value: Value| entries.push((format!("{architecture}.{key}"), value));
    own("context_length", Value::U32(CONTEXT));
    own("block_count", Value::U32(config.layers as u32));
    own("attention.head_count", Value::U32(0));
    own("attention.layer_norm_epsilon", Value::F32(config.layer_norm_eps));
    if config.version == Version::V6 {
        // The weights are written as they are, not divided block by block.
        own("rescale_every_n_layers", Value::U32(0));
    } else {
        own("wkv.head_size", Value::U32(config.head_size as u32));
    }
    for &(key, tensor, axis) in widths {
        let shape = tensors.iter().find(|entry| entry.name == tensor).map(|entry| entry.shape[axis]);
        // A model of one block has no value residual; what stands in its place there has the rank of `a`.
        own(key, Value::U32(shape.unwrap_or(config.ranks.a) as u32));
    }
    own("vocab_size", Value::U32(config.vocab as u32));
    entries.extend(tokens(config.vocab, vocabulary));
    entries.extend(chat_template.map(|text| ("tokenizer.chat_template".to_string(), Value::Text(text.into()))));
    entries
}

fn tokens(vocab: usize, vocabulary: &Vocabulary) -> Vec<(String, Value)> {
    // What text is made of, what ends a document, what stands for nothing.
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    const UNUSED: i32 = 5;
    let Vocabulary::Trie(known) = vocabulary else {
        return vec![("tokenizer.ggml.model".into(), Value::Text("none".into()))];
    };
    let (mut texts, mut kinds) = (Vec::with_capacity(vocab), Vec::with_capacity(vocab));
    for id in 0..vocab {
        let (text, kind) = match known.get(id).and_then(Option::as_ref) {
            Some(bytes) => (escape(bytes), NORMAL),
            None if id == 0 => (b"<s>".to_vec(), CONTROL),
            None => (format!("[PAD{id}]").into_bytes(), UNUSED),
        };
        texts.push(text);
        kinds.push(kind);
    }
    vec![
        ("tokenizer.ggml.model".into(), Value::Text("rwkv".into())),
        ("tokenizer.ggml.tokens".into(), Value::Texts(texts)),
        ("tokenizer.ggml.token_type".into(), Value::I32s(kinds)),
        ("tokenizer.ggml.bos_token_id".into(), Value::U32(0)),
        ("tokenizer.ggml.eos_token_id".into(), Value::U32(0)),
    ]
}

/// Printable ASCII as it is, the backslash doubled, every other byte as `\xHH`.
fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\\' => out.extend_from_slice(br"\\"),
            b' '..=b'~' => out.push(byte),
            _ => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
        }
    }
    out
}

fn file_type(precision: Precision) -> u32 {
    match precision {
        Precision::Plain(Dtype::F32) => 0,
        Precision::Plain(Dtype::F16) => 1,
        Precision::Q4_0 => 2,
        Precision::Q8_0 => 7,
        Precision::Plain(Dtype::Bf16) => 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_bytes_are_read_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(super::super::unescape(&escape(&all)), Some(all));
        assert_eq!(escape("a\\\n\u{e9}".as_bytes()), br"a\\\x0a\xc3\xa9");
    }
}
