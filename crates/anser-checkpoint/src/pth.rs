//! torch.save files, zip and legacy.
//!
//! Why not the `pytorch-reader` crate: it is careful with hostile files, but it reads every tensor into a buffer of its
//! own and does not tell where in the file the bytes lie, so nothing can be borrowed from a mapping; and a tensor that
//! expands one stored number to gigabytes (stride 0) is only bounded by a constant of 10 GB. Here a tensor is a range of
//! the mapped file, and may not have more elements than its storage.

mod pickle;

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;
use std::sync::Arc;

use zip::{CompressionMethod, ZipArchive};

use crate::checkpoint::Container;
use crate::error::Error;
use crate::raw::{Encoding, Hints, MappedFile, RawModel, RawTensor};
use pickle::{Element, Entry, Pickle, PickledTensor};

/// First bytes of a zip archive.
pub(crate) const ZIP_MAGIC: &[u8] = b"PK\x03\x04";
/// First bytes of a legacy file: the pickled number 0x1950a86a20f9469cfc6c.
pub(crate) const LEGACY_MAGIC: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// Byte order and protocol version follow the magic number as pickles of their own.
const LEGACY_PROTOCOL: i64 = 1001;

/// Reads a zip made by torch.save: `<root>/data.pkl` and `<root>/data/<key>`, stored uncompressed.
pub(crate) fn read_zip(file: Arc<MappedFile>) -> Result<RawModel, Error> {
    let bytes = file.bytes();
    let fault = |e: zip::result::ZipError| file.malformed(format!("the zip archive is damaged: {e}"));
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(fault)?;
    let mut entries: HashMap<String, Range<usize>> = HashMap::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(fault)?;
        let name = entry.name().map_err(fault)?.into_owned();
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(Error::Unsupported {
                file: file.path().to_path_buf(),
                what: format!("a compressed or encrypted zip entry (`{name}`)"),
                hint: "torch.save stores weights uncompressed; unpack the archive and look for the .pth inside".into(),
            });
        }
        let range = entry.data_start().and_then(|start| {
            let start = usize::try_from(start).ok()?;
            let end = start.checked_add(usize::try_from(entry.size()).ok()?)?;
            Some(start..end)
        });
        let Some(range) = range.filter(|range| range.end <= bytes.len()) else {
            return Err(Error::Truncated {
                file: file.path().to_path_buf(),
                what: format!("zip entry `{name}`"),
                expected: entry.size(),
                found: bytes.len() as u64,
            });
        };
        entries.insert(name, range);
    }

    let is_pickle = |name: &&String| **name == "data.pkl" || name.ends_with("/data.pkl");
    let Some(root) = entries.keys().filter(is_pickle).min_by_key(|name| name.len()) else {
        return Err(Error::UnknownFormat {
            file: file.path().to_path_buf(),
            found: "a zip archive without data.pkl, so not made by torch.save".into(),
        });
    };
    let root = root.strip_suffix("data.pkl").unwrap_or_default().to_string();
    if let Some(order) = entries.get(&format!("{root}byteorder"))
        && &bytes[order.clone()] != b"little"
    {
        return Err(big_endian(&file));
    }

    let mut pickle = Pickle::new(&file, entries[&format!("{root}data.pkl")].clone());
    let root_value = pickle.load()?;
    let tensors = state_dict(&file, &pickle, root_value)?;
    let locate = |tensor: &PickledTensor<'_>| {
        entries.get(&format!("{root}data/{}", tensor.key)).cloned().ok_or_else(|| {
            file.malformed(format!("the pickle refers to storage {}, which the archive does not hold", tensor.key))
        })
    };
    model(&file, Container::PthZip, tensors, locate)
}

/// Reads torch.save's format before 1.6: five pickles, then every storage as a count and its bytes.
pub(crate) fn read_legacy(file: Arc<MappedFile>) -> Result<RawModel, Error> {
    let bytes = file.bytes();
    let mut pickle = Pickle::new(&file, LEGACY_MAGIC.len()..bytes.len());
    let protocol = pickle.load()?;
    if pickle.integer(protocol) != Some(LEGACY_PROTOCOL) {
        return Err(file.malformed("the legacy PyTorch file does not state protocol 1001"));
    }
    let system = pickle.load()?;
    if pickle.flag(system, "little_endian") == Some(false) {
        return Err(big_endian(&file));
    }
    let root = pickle.load()?;
    let keys = pickle.load()?;
    let tensors = state_dict(&file, &pickle, root)?;
    let Some(keys) = pickle.texts(keys) else {
        return Err(file.malformed("the legacy PyTorch file does not list its storages"));
    };

    let mut storages: HashMap<&str, Range<usize>> = HashMap::new();
    let mut at = pickle.position();
    for key in keys {
        let Some(element) = pickle.storage_element(key) else {
            return Err(file.malformed(format!("storage {key} is listed but belongs to no tensor")));
        };
        let range = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()).and_then(|count| {
            let size = usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(element.bytes())?;
            Some(at + 8..(at + 8).checked_add(size)?)
        });
        let Some(range) = range.filter(|range| range.end <= bytes.len()) else {
            return Err(Error::Truncated {
                file: file.path().to_path_buf(),
                what: format!("storage {key} at byte {at}"),
                expected: 8 + element.bytes() as u64,
                found: bytes.len().saturating_sub(at) as u64,
            });
        };
        at = range.end;
        storages.insert(key, range);
    }
    let locate = |tensor: &PickledTensor<'_>| {
        let range = storages.get(tensor.key).cloned();
        range.ok_or_else(|| file.malformed(format!("storage {} is not in the file", tensor.key)))
    };
    model(&file, Container::PthLegacy, tensors, locate)
}

fn big_endian(file: &MappedFile) -> Error {
    Error::Unsupported {
        file: file.path().to_path_buf(),
        what: "a big-endian file".into(),
        hint: "load and save it again with torch on a little-endian machine".into(),
    }
}

/// The name and tensor of every entry of the top-level dictionary.
fn state_dict<'a, 'p>(
    file: &MappedFile,
    pickle: &'p Pickle<'a>,
    root: pickle::Id,
) -> Result<Vec<(&'a str, &'p PickledTensor<'a>)>, Error> {
    let Some(entries) = pickle.entries(root) else {
        return Err(
            file.malformed(format!("the top level is {}, expected a dictionary of tensors", pickle.describe(root)))
        );
    };
    let mut tensors = Vec::with_capacity(entries.len());
    for (key, entry) in entries {
        match (key, entry) {
            (Some(name), Entry::Tensor(tensor)) => tensors.push((name, tensor)),
            (Some(name @ ("_strategy" | "_version" | "_rescale_layer")), _) => {
                return Err(Error::Unsupported {
                    file: file.path().to_path_buf(),
                    what: format!("a file converted by the pip package `rwkv` (it has `{name}`)"),
                    hint: "its matrices are transposed and its first norm is folded in; open the original .pth".into(),
                });
            }
            (Some(name), Entry::Dict) => {
                return Err(Error::Unsupported {
                    file: file.path().to_path_buf(),
                    what: format!("a training checkpoint with a dictionary under `{name}`"),
                    hint: format!("save the weights alone: torch.save(torch.load(file)[\"{name}\"], ...)"),
                });
            }
            (key, Entry::Other(what)) => {
                let name = key.unwrap_or("a key that is not a string");
                return Err(file.malformed(format!("`{name}` is {what}, expected a tensor")));
            }
            (None, _) => return Err(file.malformed("a tensor's name is not a string")),
        }
    }
    Ok(tensors)
}

/// Puts every tensor's range into the file, checked against its storage.
fn model(
    file: &Arc<MappedFile>,
    container: Container,
    pickled: Vec<(&str, &PickledTensor<'_>)>,
    locate: impl Fn(&PickledTensor<'_>) -> Result<Range<usize>, Error>,
) -> Result<RawModel, Error> {
    let mut tensors = Vec::with_capacity(pickled.len());
    for (name, tensor) in pickled {
        let Element::Weights(dtype) = tensor.element else {
            return Err(Error::Dtype {
                file: file.path().to_path_buf(),
                tensor: name.to_string(),
                expected: "float32, float16 or bfloat16",
                found: tensor.element.to_string(),
            });
        };
        let storage = locate(tensor)?;
        let outside = |what: &str| {
            let PickledTensor { offset, shape, strides, .. } = tensor;
            file.malformed(format!(
                "tensor `{name}` {what}: shape {shape:?}, strides {strides:?}, offset {offset}, storage of {} bytes",
                storage.len()
            ))
        };
        let stored = storage.len() / dtype.bytes();
        let elements = tensor.shape.iter().try_fold(1usize, |n, &length| n.checked_mul(length));
        let Some(elements) = elements.filter(|&n| n <= stored) else {
            return Err(outside("has more elements than its storage"));
        };
        // The last element's place behind the first one.
        let reach =
            tensor.shape.iter().zip(&tensor.strides).try_fold(0usize, |sum, (&length, &stride)| {
                sum.checked_add(stride.checked_mul(length.saturating_sub(1))?)
            });
        let end = reach.and_then(|reach| tensor.offset.checked_add(reach)?.checked_add(usize::from(elements > 0)));
        let Some(end) = end.filter(|&end| end <= stored) else {
            return Err(outside("lies outside its storage"));
        };
        tensors.push(RawTensor {
            name: name.to_string(),
            encoding: Encoding::Plain(dtype),
            shape: tensor.shape.clone(),
            strides: Some(tensor.strides.clone()),
            file: 0,
            range: storage.start + tensor.offset.min(end) * dtype.bytes()..storage.start + end * dtype.bytes(),
        });
    }
    Ok(RawModel { container, files: vec![file.clone()], tensors, hints: Hints::default() })
}
