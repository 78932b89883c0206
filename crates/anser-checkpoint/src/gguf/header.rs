//! The header of a GGUF file: metadata and the table of tensors.
//!
//! Layout, all little-endian: magic `GGUF`, u32 version (2 or 3, laid out alike), u64 tensor count, u64 entry count;
//! entries of {key, u32 type, value}; tensors of {name, u32 axes, u64 sizes (innermost first), u32 type, u64 offset};
//! then, at the next multiple of the alignment, the data, to which offsets are relative. A string is a u64 length and
//! its bytes; an array is a u32 type, a u64 count and its elements.
//!
//! Nothing is allocated by a count or a length that the rest of the file could not hold, and arrays (a vocabulary has
//! 65536 strings) stay in the file until they are asked for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::path::Path;

use super::quant::{READABLE, encoding};
use crate::error::Error;
use crate::raw::Encoding;

/// What is wrong with a header; [`Fault::in_file`] adds the file.
#[derive(Debug)]
pub(super) enum Fault {
    /// A rule of the format is broken, in words.
    Malformed(String),
    /// The file ends before what the header promises.
    Truncated { what: String, expected: u64, found: u64 },
    /// A tensor is stored in a type that is not read.
    Storage { tensor: String, found: String },
}

impl Fault {
    pub(super) fn in_file(self, file: &Path) -> Error {
        let file = file.to_path_buf();
        match self {
            Fault::Malformed(what) => Error::Malformed { file, what },
            Fault::Truncated { what, expected, found } => Error::Truncated { file, what, expected, found },
            Fault::Storage { tensor, found } => Error::Dtype { file, tensor, expected: READABLE, found },
        }
    }
}

impl From<String> for Fault {
    fn from(what: String) -> Fault {
        Fault::Malformed(what)
    }
}

type Result<T> = std::result::Result<T, Fault>;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml knows four axes.
const MAX_AXES: u32 = 4;
/// The format's bound on a key.
const MAX_NAME: usize = 65535;
/// Arrays of arrays deeper than this are refused: nobody writes them and reading them recurses.
const MAX_NESTING: u32 = 4;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A metadata value. Strings and arrays are places in the file.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Types u8, u16, u32, u64.
    Unsigned(u64),
    /// Types i8, i16, i32, i64.
    Signed(i64),
    /// Types f32, f64.
    Float(f64),
    /// Type bool; no key that is read has it.
    Bool,
    /// Bytes of a string, not necessarily UTF-8.
    String(Range<usize>),
    /// An array, elements unread.
    Array(Array),
}

impl Value {
    /// What it is, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "a whole number",
            Value::Float(_) => "a floating-point number",
            Value::Bool => "a truth value",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
        }
    }
}

/// An array whose elements are still in the file.
#[derive(Clone, Debug)]
pub(super) struct Array {
    element: u32,
    count: usize,
    bytes: Range<usize>,
}

impl Array {
    /// Number of elements.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The elements of an array of strings, as bytes; nothing if it is not one. `file` is the whole file.
    pub(super) fn strings<'a>(&self, file: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let count = if self.element == STRING { self.count } else { 0 };
        let mut cursor = Cursor { file: &file[..self.bytes.end], at: self.bytes.start };
        (0..count).map_while(move |_| cursor.string("element").ok().map(|place| &file[place]))
    }
}

/// One tensor of the table.
#[derive(Clone, Debug)]
pub(super) struct TensorInfo {
    /// How its values are stored.
    pub(super) encoding: Encoding,
    /// Axes in row-major order (the file's order reversed).
    pub(super) shape: Vec<usize>,
    /// Where its values are in the file.
    pub(super) bytes: Range<usize>,
}

/// Metadata and tensors of a GGUF file.
#[derive(Clone, Debug)]
pub(super) struct Header {
    /// Format version, 2 or 3.
    pub(super) version: u32,
    /// Metadata by key.
    pub(super) metadata: BTreeMap<String, Value>,
    /// Tensors by name.
    pub(super) tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Whether a file begins like GGUF.
    pub(super) fn recognises(file: &[u8]) -> bool {
        file.starts_with(MAGIC)
    }

    /// Reads the header of a whole file. All tensors lie inside the file and do not overlap.
    ///
    /// # Errors
    /// Anything that breaks the format's rules, or a storage type that is not read.
    pub(super) fn parse(file: &[u8]) -> Result<Header> {
        if !Header::recognises(file) {
            return Err(Fault::Malformed("the file does not begin with GGUF".into()));
        }
        let mut cursor = Cursor { file, at: MAGIC.len() };
        let version = cursor.u32("version")?;
        if !(2..=3).contains(&version) {
            let swapped = if (2..=3).contains(&version.swap_bytes()) { " (a big-endian file)" } else { "" };
            return Err(
                format!("GGUF version {version}{swapped} is not read, only little-endian versions 2 and 3").into()
            );
        }
        let tensor_count = cursor.u64("tensor count")?;
        let entry_count = cursor.u64("metadata count")?;
        // The smallest tensor takes 24 bytes of table, the smallest entry 13.
        cursor.holds(tensor_count, 24, "tensors")?;
        cursor.holds(entry_count, 13, "metadata entries")?;

        let mut metadata = BTreeMap::new();
        for _ in 0..entry_count {
            let key = cursor.name("metadata key")?;
            let kind = cursor.u32(&key)?;
            let value = cursor.value(kind, &key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("metadata key {key:?} appears twice").into());
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Unsigned(a)) if a.is_power_of_two() => *a,
            Some(Value::Unsigned(a)) => return Err(format!("general.alignment {a} is not a power of two").into()),
            Some(other) => {
                return Err(format!("general.alignment must be a whole number, found {}", other.kind()).into());
            }
        };

        let mut tensors = BTreeMap::new();
        for _ in 0..tensor_count {
            let name = cursor.name("tensor name")?;
            let tensor = cursor.tensor(&name, alignment)?;
            match tensors.entry(name) {
                Entry::Occupied(entry) => return Err(format!("tensor {} appears twice", entry.key()).into()),
                Entry::Vacant(entry) => entry.insert(tensor),
            };
        }
        let data_start = (cursor.at as u64)
            .checked_next_multiple_of(alignment)
            .and_then(|start| usize::try_from(start).ok())
            .ok_or_else(|| format!("general.alignment {alignment} is larger than the file"))?;
        place(&mut tensors, data_start, file.len())?;
        Ok(Header { version, metadata, tensors })
    }

    /// A string entry; `None` if it is absent, not a string or not UTF-8.
    pub(super) fn string<'a>(&self, file: &'a [u8], key: &str) -> Option<&'a str> {
        match self.metadata.get(key) {
            Some(Value::String(place)) => std::str::from_utf8(&file[place.clone()]).ok(),
            _ => None,
        }
    }

    /// A whole number that is not negative; `None` if it is absent.
    ///
    /// # Errors
    /// If the entry is of another kind.
    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(x)) => Ok(Some(*x)),
            Some(Value::Signed(x)) if *x >= 0 => Ok(Some(*x as u64)),
            Some(other) => {
                Err(format!("metadata {key} must be a whole number that is not negative, found {}", other.kind())
                    .into())
            }
        }
    }

    /// A number; `None` if it is absent.
    ///
    /// # Errors
    /// If the entry is of another kind.
    pub(super) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(other) => {
                Err(format!("metadata {key} must be a floating-point number, found {}", other.kind()).into())
            }
        }
    }

    /// An array entry; `None` if it is absent or not an array.
    pub(super) fn array(&self, key: &str) -> Option<&Array> {
        match self.metadata.get(key) {
            Some(Value::Array(array)) => Some(array),
            _ => None,
        }
    }
}

/// Turns offsets relative to the data into places in the file, inside it and apart from each other.
fn place(tensors: &mut BTreeMap<String, TensorInfo>, data_start: usize, file_len: usize) -> Result<()> {
    for (name, tensor) in tensors.iter_mut() {
        let start = tensor.bytes.start.checked_add(data_start);
        let end = tensor.bytes.end.checked_add(data_start);
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len => tensor.bytes = start..end,
            _ => {
                return Err(Fault::Truncated {
                    what: format!("tensor `{name}`"),
                    expected: end.unwrap_or(usize::MAX) as u64,
                    found: file_len as u64,
                });
            }
        }
    }
    let mut order: Vec<(&String, &TensorInfo)> = tensors.iter().collect();
    order.sort_by_key(|(_, tensor)| tensor.bytes.start);
    for pair in order.windows(2) {
        if pair[0].1.bytes.end > pair[1].1.bytes.start {
            return Err(format!("tensors {} and {} overlap", pair[0].0, pair[1].0).into());
        }
    }
    Ok(())
}

/// Size of one value of a fixed-size type.
fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// A place in the file and what is read there. Every read checks what is left.
struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    /// Checks that `count` items of at least `size` bytes can follow.
    fn holds(&self, count: u64, size: u64, what: &str) -> Result<usize> {
        let left = self.file.len() - self.at;
        let bytes = count.saturating_mul(size);
        if bytes > left as u64 {
            let (what, expected) =
                (format!("the header's claim of {count} {what}"), bytes.saturating_add(self.at as u64));
            return Err(Fault::Truncated { what, expected, found: self.file.len() as u64 });
        }
        Ok(count as usize)
    }

    /// Steps over `len` bytes.
    fn take(&mut self, len: u64, what: &str) -> Result<Range<usize>> {
        let len = self.holds(len, 1, &format!("bytes of {what}"))?;
        let start = self.at;
        self.at += len;
        Ok(start..self.at)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let place = self.take(N as u64, what)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.file[place]);
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<Range<usize>> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let place = self.string(what)?;
        if place.len() > MAX_NAME {
            return Err(format!("a {what} of {} bytes, at most {MAX_NAME} are allowed", place.len()).into());
        }
        let bytes = &self.file[place];
        std::str::from_utf8(bytes)
            .map(str::to_string)
            .map_err(|_| format!("the {what} {:?} is not UTF-8", String::from_utf8_lossy(bytes)).into())
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0 => Value::Unsigned(self.array::<1>(key)?[0].into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Value::Unsigned(self.u32(key)?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array(key)?).into()),
            7 => {
                self.take(1, key)?;
                Value::Bool
            }
            STRING => Value::String(self.string(key)?),
            ARRAY => Value::Array(self.skip_array(key, 0)?),
            10 => Value::Unsigned(self.u64(key)?),
            11 => Value::Signed(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            other => return Err(format!("metadata {key} has the unknown type {other}").into()),
        })
    }

    /// Reads an array's head and steps over its elements.
    fn skip_array(&mut self, key: &str, nesting: u32) -> Result<Array> {
        if nesting == MAX_NESTING {
            return Err(format!("metadata {key} nests arrays more than {MAX_NESTING} deep").into());
        }
        let element = self.u32(key)?;
        let claimed = self.u64(key)?;
        let what = format!("elements of {key}");
        let start = self.at;
        let count = match (element, fixed_size(element)) {
            (_, Some(size)) => {
                let count = self.holds(claimed, size, &what)?;
                self.at += count * size as usize;
                count
            }
            (STRING, _) => {
                let count = self.holds(claimed, 8, &what)?;
                for _ in 0..count {
                    self.string(&what)?;
                }
                count
            }
            (ARRAY, _) => {
                let count = self.holds(claimed, 12, &what)?;
                for _ in 0..count {
                    self.skip_array(key, nesting + 1)?;
                }
                count
            }
            (other, _) => return Err(format!("metadata {key} is an array of the unknown type {other}").into()),
        };
        Ok(Array { element, count, bytes: start..self.at })
    }

    /// Reads one row of the tensor table; the place is still relative to the data.
    fn tensor(&mut self, name: &str, alignment: u64) -> Result<TensorInfo> {
        let axes = self.u32(name)?;
        if axes > MAX_AXES {
            return Err(format!("tensor `{name}` has {axes} axes, at most {MAX_AXES} are allowed").into());
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            shape.push(self.u64(name)?);
        }
        let code = self.u32(name)?;
        let encoding = encoding(code).map_err(|found| Fault::Storage { tensor: name.to_string(), found })?;
        let offset = self.u64(name)?;
        if !offset.is_multiple_of(alignment) {
            return Err(
                format!("tensor `{name}` begins at {offset}, not at a multiple of the alignment {alignment}").into()
            );
        }
        if shape.contains(&0) {
            return Err(format!("tensor `{name}` has an empty axis in {shape:?}").into());
        }
        let row = shape.first().copied().unwrap_or(1);
        if let Encoding::Blocks(format) = encoding
            && !row.is_multiple_of(format.elements as u64)
        {
            return Err(format!(
                "tensor `{name}` has rows of {row} values, {} needs a multiple of {}",
                format.name, format.elements
            )
            .into());
        }
        let end = shape
            .iter()
            .try_fold(1u64, |product, &axis| product.checked_mul(axis))
            .and_then(|elements| encoding.bytes(usize::try_from(elements).ok()?))
            .and_then(|size| usize::try_from(offset).ok()?.checked_add(size));
        let Some(end) = end else {
            return Err(format!("tensor `{name}` claims the impossible size {shape:?}").into());
        };
        shape.reverse();
        let shape = shape.into_iter().map(|axis| axis as usize).collect();
        Ok(TensorInfo { encoding, shape, bytes: offset as usize..end })
    }
}
