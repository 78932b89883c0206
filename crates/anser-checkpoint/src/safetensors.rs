//! safetensors files: the header's length, a JSON header, the tensors' bytes.
//!
//! The published crate writes these files for us elsewhere; here the header is read by hand (one map), because the crate
//! adds up the offsets a file claims without a check against overflow.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use crate::checkpoint::Container;
use crate::error::Error;
use crate::raw::{Encoding, Hints, MappedFile, RawModel, RawTensor};
use crate::tensor::Dtype;

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
                    if name == "__metadata__" {
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
