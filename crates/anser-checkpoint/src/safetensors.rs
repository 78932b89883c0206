//! safetensors files: the header's length, a JSON header, the tensors' bytes.
//!
//! Read by hand (one map), because the published crate adds up the offsets a file claims without a check against
//! overflow, and written by hand, because it keeps metadata in random order: the same model gives the same bytes here.
//! The tests hold both against that crate.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::checkpoint::Container;
use crate::error::Error;
use crate::packed;
use crate::raw::{Encoding, Hints, MappedFile, RawModel, RawTensor};
use crate::state::write_atomically;
use crate::tensor::{Dtype, Tensor, TensorInfo, check_data, check_names, check_tensors};

/// The header's entry that is no tensor.
pub(crate) const METADATA: &str = "__metadata__";

/// The format's own limit.
pub(crate) const MAX_HEADER: u64 = 100_000_000;

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

/// The header's entries, and the strings of the free-form `__metadata__`.
struct Header(Vec<(String, Info)>, BTreeMap<String, String>);

/// The tensors of a file with their places in it.
#[derive(Default)]
pub(crate) struct Entries {
    /// What is stored as numbers.
    pub(crate) plain: Vec<RawTensor>,
    /// Name and bytes of what is stored as `U8`.
    pub(crate) bytes: Vec<(String, Range<usize>)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut entries, mut seen, mut metadata) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("`{name}` is there twice")));
                    }
                    if name == METADATA {
                        // Whatever is no string has no meaning to anybody.
                        if let Value::Object(values) = map.next_value()? {
                            metadata.extend(values.into_iter().filter_map(|(key, value)| match value {
                                Value::String(text) => Some((key, text)),
                                _ => None,
                            }));
                        }
                    } else {
                        entries.push((name, map.next_value::<Info>()?));
                    }
                }
                Ok(Header(entries, metadata))
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
    let Header(mut entries, metadata) = serde_json::from_slice(header)
        .map_err(|e| file.malformed(format!("the safetensors header is damaged: {e}")))?;
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let packed = packed::header(&file, &metadata)?;

    let data = 8 + length;
    let mut at = 0u64;
    let mut tensors = Entries::default();
    for (name, info) in entries {
        let as_bytes = packed.is_some() && info.dtype == "U8";
        let Some(size) = dtype(&info.dtype).map(Dtype::bytes).or(as_bytes.then_some(1)) else {
            return Err(Error::Dtype {
                file: file.path().to_path_buf(),
                tensor: name,
                expected: "F32, F16 or BF16",
                found: info.dtype,
            });
        };
        let shape: Option<Vec<usize>> = info.shape.iter().map(|&length| usize::try_from(length).ok()).collect();
        let elements = shape.iter().flatten().try_fold(1usize, |n, &length| n.checked_mul(length));
        let size = elements.and_then(|n| n.checked_mul(size));
        let (start, end) = info.data_offsets;
        let (Some(shape), Some(size)) = (shape, size.filter(|&size| end.checked_sub(start) == Some(size as u64)))
        else {
            return Err(file.malformed(format!(
                "tensor `{name}` of shape {:?} in {} cannot fill bytes {start}..{end}",
                info.shape, info.dtype
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
        match dtype(&info.dtype) {
            Some(dtype) => {
                let encoding = Encoding::Plain(dtype);
                tensors.plain.push(RawTensor { name, encoding, shape, strides: None, file: 0, range });
            }
            None => tensors.bytes.push((name, range)),
        }
    }
    if at != (bytes.len() - data) as u64 {
        return Err(file.malformed(format!("the tensors end at byte {at}, the data at {}", bytes.len() - data)));
    }
    if let Some(header) = packed {
        return packed::read(file, header, tensors);
    }
    let hints = Hints { strings: metadata, ..Hints::default() };
    Ok(RawModel { container: Container::Safetensors, files: vec![file], tensors: tensors.plain, hints })
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
    let infos = check_tensors(path, tensors)?;
    stream_safetensors(path, &infos, metadata, |at| Ok(Cow::Borrowed(&*tensors[at].data)))
}

/// [`write_safetensors`] for tensors that are not all in memory: `data` is asked once for the bytes of each, tensors of
/// wide elements first and otherwise in order.
///
/// # Errors
/// As [`write_safetensors`], and whatever `data` answers.
pub fn stream_safetensors<'a>(
    path: &Path,
    tensors: &[TensorInfo],
    metadata: &[(String, String)],
    mut data: impl FnMut(usize) -> Result<Cow<'a, [u8]>, Error>,
) -> Result<(), Error> {
    check_names(path, tensors.iter().map(|tensor| tensor.name.as_str()))?;
    let malformed = |what: String| Error::Malformed { file: path.to_path_buf(), what };
    if tensors.iter().any(|tensor| tensor.name == METADATA) {
        return Err(malformed(format!("no tensor can be called `{METADATA}`")));
    }
    let strings: BTreeMap<&str, &str> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    if strings.len() < metadata.len() {
        return Err(malformed("two strings of the metadata have one name".into()));
    }
    // Wide elements first, so that each lies at a multiple of its size.
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&at| std::cmp::Reverse(tensors[at].dtype.bytes()));
    let entries = order.iter().map(|&at| (tensors[at].name.clone(), tensors[at].dtype, &tensors[at].shape[..]));
    let header = header(entries, (!strings.is_empty()).then(|| json!(strings)));
    if header.len() as u64 > MAX_HEADER {
        return Err(malformed(format!("the header would have {} bytes, the format allows {MAX_HEADER}", header.len())));
    }
    write_atomically(path, |out| {
        out.write_all(&header)?;
        order.iter().try_for_each(|&at| {
            let info = &tensors[at];
            let bytes = data(at).and_then(|bytes| {
                check_data(path, &info.name, &info.shape, info.bytes(), &bytes)?;
                Ok(bytes)
            });
            out.write_all(&bytes.map_err(std::io::Error::other)?)
        })
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
        let dtype = dtype_name(dtype);
        entries.insert(name, json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
    }
    entries.extend(metadata.map(|metadata| (METADATA.to_string(), metadata)));
    framed(Value::Object(entries), 8)
}

/// A header with its length before it, filled up with spaces so that the tensors start at a multiple of `align`.
pub(crate) fn framed(header: Value, align: usize) -> Vec<u8> {
    let mut text = header.to_string().into_bytes();
    text.resize((8 + text.len()).next_multiple_of(align) - 8, b' ');
    [&(text.len() as u64).to_le_bytes(), &text[..]].concat()
}

/// The format's name of a type.
pub(crate) fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
    }
}
