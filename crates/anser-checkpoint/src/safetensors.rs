//! safetensors files: the header's length, a JSON header, the tensors' bytes.
//!
//! Read by hand (one map), because the published crate adds up the offsets a file claims without a check against
//! overflow, and written by hand, because it keeps metadata in random order: the same model gives the same bytes here.
//! The tests hold both against that crate.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::checkpoint::Container;
use crate::error::Error;
use crate::raw::{Encoding, Hints, MappedFile, RawModel, RawTensor};
use crate::state::write_atomically;
use crate::tensor::{Dtype, Tensor, check_tensors};

/// The header's entry that is no tensor.
const METADATA: &str = "__metadata__";

/// The format's own limit.
const MAX_HEADER: u64 = 100_000_000;

/// Whether a file begins like safetensors: a header length that can be, and then JSON.
pub(crate) fn recognises(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{') && header_length(bytes).is_some_and(|length| length <= MAX_HEADER)
}

fn header_length(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<8>().map(|length| u64::from_le_bytes(*length))
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// The header's entries, without the free-form `__metadata__`.
struct Header(Vec<(String, Info)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut entries, mut seen) = (Vec::new(), BTreeSet::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    if name == METADATA {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value::<Info>()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Reads the header and checks that the tensors fill the rest of the file without gap or overlap.
pub(crate) fn read(file: Arc<MappedFile>) -> Result<RawModel, Error> {
    let bytes = file.bytes();
    let truncated = |what: &str, expected: u64| Error::Truncated {
        file: file.path().to_path_buf(),
        what: what.into(),
        expected,
        found: bytes.len() as u64,
    };
    let length = header_length(bytes).filter(|&length| length <= MAX_HEADER).unwrap_or(MAX_HEADER) as usize;
    let header = bytes.get(8..8 + length).ok_or_else(|| truncated("the header", 8 + length as u64))?;
    let Header(mut entries) = serde_json::from_slice(header)
        .map_err(|e| file.malformed(format!("the safetensors header is damaged: {e}")))?;
    entries.sort_by_key(|(_, info)| info.data_offsets);

    let data = 8 + length;
    let mut at = 0u64;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, info) in entries {
        let Some(dtype) = dtype(&info.dtype) else {
            return Err(Error::Dtype {
                file: file.path().to_path_buf(),
                tensor: name,
                expected: "F32, F16 or BF16",
                found: info.dtype,
            });
        };
        let shape: Option<Vec<usize>> = info.shape.iter().map(|&length| usize::try_from(length).ok()).collect();
        let elements = shape.iter().flatten().try_fold(1usize, |n, &length| n.checked_mul(length));
        let size = elements.and_then(|n| n.checked_mul(dtype.bytes()));
        let (start, end) = info.data_offsets;
        let (Some(shape), Some(size)) = (shape, size.filter(|&size| end.checked_sub(start) == Some(size as u64)))
        else {
            return Err(file.malformed(format!(
                "tensor `{name}` of shape {:?} in {dtype} cannot fill bytes {start}..{end}",
                info.shape
            )));
        };
        if start != at {
            return Err(
                file.malformed(format!("tensor `{name}` starts at byte {start}, expected {at}: a gap or overlap"))
            );
        }
        at = end;
        let start = usize::try_from(start).ok().and_then(|start| data.checked_add(start));
        let range = start.and_then(|start| Some(start..start.checked_add(size)?));
        let Some(range) = range.filter(|range| range.end <= bytes.len()) else {
            return Err(truncated(&format!("tensor `{name}`"), end.saturating_add(data as u64)));
        };
        tensors.push(RawTensor { name, encoding: Encoding::Plain(dtype), shape, strides: None, file: 0, range });
    }
    if at != (bytes.len() - data) as u64 {
        return Err(file.malformed(format!("the tensors end at byte {at}, the data at {}", bytes.len() - data)));
    }
    Ok(RawModel { container: Container::Safetensors, files: vec![file], tensors, hints: Hints::default() })
}

fn dtype(name: &str) -> Option<Dtype> {
    match name {
        "F32" => Some(Dtype::F32),
        "F16" => Some(Dtype::F16),
        "BF16" => Some(Dtype::Bf16),
        _ => None,
    }
}

/// Writes `tensors` as one safetensors file, with `metadata` as its free-form strings (`("format", "pt")` is what
/// transformers asks for). The same arguments give the same bytes. The file appears whole or not at all.
///
/// Named `model.safetensors` with official names, it and its folder open with [`Checkpoint::open`], and a
/// `tokenizer.json` beside it is found.
///
/// [`Checkpoint::open`]: crate::Checkpoint::open
///
/// # Errors
/// [`Error::Malformed`] when two tensors or two strings have one name or a tensor's bytes do not fill its shape;
/// [`Error::Io`] with the operating system's reason (a full disk, no permission, no such folder).
pub fn write_safetensors(path: &Path, tensors: &[Tensor<'_>], metadata: &[(String, String)]) -> Result<(), Error> {
    check_tensors(path, tensors)?;
    let malformed = |what: String| Error::Malformed { file: path.to_path_buf(), what };
    if tensors.iter().any(|tensor| tensor.name == METADATA) {
        return Err(malformed(format!("no tensor can be called `{METADATA}`")));
    }
    let strings: BTreeMap<&str, &str> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    if strings.len() < metadata.len() {
        return Err(malformed("two strings of the metadata have one name".into()));
    }
    // Wide elements first, so that each lies at a multiple of its size.
    let mut tensors: Vec<&Tensor<'_>> = tensors.iter().collect();
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bytes()));
    let entries = tensors.iter().map(|tensor| (tensor.name.clone(), tensor.dtype, &tensor.shape[..]));
    let header = header(entries, (!strings.is_empty()).then(|| json!(strings)));
    if header.len() as u64 > MAX_HEADER {
        return Err(malformed(format!("the header would have {} bytes, the format allows {MAX_HEADER}", header.len())));
    }
    write_atomically(path, |out| {
        out.write_all(&header)?;
        tensors.iter().try_for_each(|tensor| out.write_all(&tensor.data))
    })
}

/// The header and its length, for tensors that follow each other in this order.
pub(crate) fn header<'a>(
    tensors: impl Iterator<Item = (String, Dtype, &'a [usize])>,
    metadata: Option<Value>,
) -> Vec<u8> {
    let (mut entries, mut end) = (Map::new(), 0);
    for (name, dtype, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * dtype.bytes();
        let dtype = match dtype {
            Dtype::F32 => "F32",
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
        };
        entries.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    entries.extend(metadata.map(|metadata| (METADATA.to_string(), metadata)));
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' '); // tensors start aligned
    [&(text.len() as u64).to_le_bytes(), &text[..]].concat()
}
