//! A pickle machine that can make tensors, dictionaries, lists, tuples, strings and numbers, and nothing else.
//!
//! Objects live in one arena and refer to each other by index: sharing costs nothing, cycles are harmless (nothing walks
//! them), and nothing recurses. The number of operations is bounded, hence also time and memory. Names of classes and
//! functions are compared with the few that torch.save writes for plain tensors; any other one is refused, by name.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use crate::error::Error;
use crate::raw::MappedFile;
use crate::tensor::Dtype;

/// More than ten times what the largest published model's pickle has.
const MAX_OPERATIONS: usize = 1 << 20;
/// Torch itself goes no further than 64 axes; weights have three at most.
const MAX_AXES: usize = 8;

/// What a storage holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    Weights(Dtype),
    /// Any other of torch's types: its name and bytes an element.
    Other(&'static str, usize),
}

impl Element {
    pub(super) fn bytes(self) -> usize {
        match self {
            Element::Weights(dtype) => dtype.bytes(),
            Element::Other(_, bytes) => bytes,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Weights(dtype) => write!(f, "{dtype}"),
            Element::Other(name, _) => f.write_str(name),
        }
    }
}

/// A tensor as pickled: a strided window on a storage.
#[derive(Clone, Debug)]
pub(super) struct PickledTensor<'a> {
    pub(super) element: Element,
    pub(super) key: &'a str,
    /// First element.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    /// In elements, one an axis.
    pub(super) strides: Vec<usize>,
}

/// Index of an object in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Id(u32);

#[derive(Clone, Copy, Debug)]
enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
}

#[derive(Debug)]
enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(&'a str),
    Bytes,
    Tuple(Box<[Id]>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Callable(Callable),
    StorageType(Element),
    Storage(Element, &'a str),
    Tensor(Box<PickledTensor<'a>>),
}

/// An entry of a dictionary, seen from outside.
pub(super) enum Entry<'p, 'a> {
    Tensor(&'p PickledTensor<'a>),
    Dict,
    Other(&'static str),
}

/// The machine: reads pickles one after another from a range of a file.
pub(super) struct Pickle<'a> {
    file: &'a MappedFile,
    bytes: &'a [u8],
    at: usize,
    start: usize,
    operations: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    storages: HashMap<&'a str, Element>,
}

impl<'a> Pickle<'a> {
    pub(super) fn new(file: &'a MappedFile, range: Range<usize>) -> Pickle<'a> {
        Pickle {
            file,
            bytes: &file.bytes()[range.clone()],
            at: 0,
            start: range.start,
            operations: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            storages: HashMap::new(),
        }
    }

    /// Position in the file after the last pickle.
    pub(super) fn position(&self) -> usize {
        self.start + self.at
    }

    pub(super) fn integer(&self, id: Id) -> Option<i64> {
        match self.value(id) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// A boolean entry of a dictionary.
    pub(super) fn flag(&self, dict: Id, name: &str) -> Option<bool> {
        let Value::Dict(entries) = self.value(dict) else { return None };
        entries.iter().rev().find_map(|&(key, value)| match (self.value(key), self.value(value)) {
            (Value::Text(text), Value::Bool(flag)) if *text == name => Some(*flag),
            _ => None,
        })
    }

    /// The strings of a list of strings.
    pub(super) fn texts(&self, list: Id) -> Option<Vec<&'a str>> {
        let Value::List(items) = self.value(list) else { return None };
        items.iter().map(|&item| self.text(item)).collect()
    }

    /// The entries of a dictionary: names (`None` where the key is no string) and what they name.
    pub(super) fn entries(&self, dict: Id) -> Option<Vec<(Option<&'a str>, Entry<'_, 'a>)>> {
        let Value::Dict(entries) = self.value(dict) else { return None };
        let entry = |&(key, value): &(Id, Id)| {
            let entry = match self.value(value) {
                Value::Tensor(tensor) => Entry::Tensor(tensor),
                Value::Dict(_) => Entry::Dict,
                _ => Entry::Other(self.describe(value)),
            };
            (self.text(key), entry)
        };
        Some(entries.iter().map(entry).collect())
    }

    /// The type of a storage that some tensor referred to.
    pub(super) fn storage_element(&self, key: &str) -> Option<Element> {
        self.storages.get(key).copied()
    }

    /// What an object is, for messages.
    pub(super) fn describe(&self, id: Id) -> &'static str {
        match self.value(id) {
            Value::None => "None",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float => "a number",
            Value::Text(_) => "a string",
            Value::Bytes => "bytes",
            Value::Tuple(_) => "a tuple",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dictionary",
            Value::Callable(_) | Value::StorageType(_) => "a function or class",
            Value::Storage(..) => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }

    /// Runs the next pickle and returns the object it makes.
    pub(super) fn load(&mut self) -> Result<Id, Error> {
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        loop {
            self.operations += 1;
            if self.operations > MAX_OPERATIONS {
                return Err(self.fault("takes more operations than any list of weights"));
            }
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                0x80 => match self.take(1)?[0] {
                    0..=5 => {}
                    version => return Err(self.fault(&format!("is of protocol {version}, expected at most 5"))),
                },
                0x95 => {
                    self.take(8)?;
                }
                b'N' => self.push(Value::None),
                0x88 => self.push(Value::Bool(true)),
                0x89 => self.push(Value::Bool(false)),
                b'K' => {
                    let value = self.take(1)?[0].into();
                    self.push(Value::Int(value));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.array()?).into();
                    self.push(Value::Int(value));
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.array()?).into();
                    self.push(Value::Int(value));
                }
                0x8a => self.long()?,
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Float);
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.array()?).into();
                    self.push_text(length)?;
                }
                0x8c => {
                    let length = self.take(1)?[0].into();
                    self.push_text(length)?;
                }
                0x8d => {
                    let length = u64::from_le_bytes(self.array()?);
                    self.push_text(length)?;
                }
                b'C' => {
                    let length = self.take(1)?[0].into();
                    self.take(length)?;
                    self.push(Value::Bytes);
                }
                b'B' => {
                    let length = u32::from_le_bytes(self.array()?);
                    self.take_long(length.into())?;
                    self.push(Value::Bytes);
                }
                b'(' => self.marks.push(self.stack.len()),
                b')' => self.push(Value::Tuple(Box::new([]))),
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Value::Tuple(items.into()));
                }
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(opcode - 0x84))?;
                    self.push(Value::Tuple(items.into()));
                }
                b']' => self.push(Value::List(Vec::new())),
                b'}' => self.push(Value::Dict(Vec::new())),
                b'a' => {
                    let items = self.pop_many(1)?;
                    self.append(items)?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let items = self.pop_many(2)?;
                    self.set_items(items)?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.set_items(items)?;
                }
                b'q' => {
                    let key = self.take(1)?[0].into();
                    self.remember(key)?;
                }
                b'r' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.remember(key)?;
                }
                0x94 => {
                    let key = self.memo.len() as u32;
                    self.remember(key)?;
                }
                b'h' => {
                    let key = self.take(1)?[0].into();
                    self.recall(key)?;
                }
                b'j' => {
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.push_global(module, name)?;
                }
                0x93 => {
                    let names = self.pop_many(2)?;
                    match (self.text(names[0]), self.text(names[1])) {
                        (Some(module), Some(name)) => self.push_global(module, name)?,
                        _ => return Err(self.fault("names a class by something else than strings")),
                    }
                }
                // INST: the name of a class to call.
                b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    return Err(self.foreign(module, name));
                }
                b'Q' => self.persistent()?,
                b'R' => self.reduce()?,
                // State for an object just made; torch sets `_metadata` on ordered dictionaries this way.
                b'b' => {
                    self.pop()?;
                    match self.stack.last().map(|&id| self.value(id)) {
                        Some(Value::Dict(_)) => {}
                        _ => return Err(self.fault("sets attributes of something that is not a dictionary")),
                    }
                }
                other => {
                    return Err(self.fault(&format!("has operation 0x{other:02x}, which torch.save does not write")));
                }
            }
        }
    }

    fn value(&self, id: Id) -> &Value<'a> {
        &self.values[id.0 as usize]
    }

    fn text(&self, id: Id) -> Option<&'a str> {
        match self.value(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        self.integer(id).and_then(|value| usize::try_from(value).ok())
    }

    fn fault(&self, what: &str) -> Error {
        self.file.malformed(format!("the pickle {what} (before byte {})", self.position()))
    }

    fn foreign(&self, module: &str, name: &str) -> Error {
        // At most a line of text: the names come from the file.
        let global: String = format!("{module}.{name}").chars().take(120).collect();
        Error::ForeignPickle { file: self.file.path().to_path_buf(), global }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        match taken {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(Error::Truncated {
                file: self.file.path().to_path_buf(),
                what: format!("the pickle at byte {}", self.position()),
                expected: count as u64,
                found: (self.bytes.len() - self.at) as u64,
            }),
        }
    }

    fn take_long(&mut self, count: u64) -> Result<&'a [u8], Error> {
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn line(&mut self) -> Result<&'a str, Error> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = end.and_then(|end| std::str::from_utf8(&rest[..end]).ok());
        match line {
            Some(line) => {
                self.at += line.len() + 1;
                Ok(line)
            }
            None => Err(self.fault("names a class by no line of text")),
        }
    }

    fn push(&mut self, value: Value<'a>) {
        // MAX_OPERATIONS bounds the arena far below u32.
        self.stack.push(Id(self.values.len() as u32));
        self.values.push(value);
    }

    fn push_text(&mut self, length: u64) -> Result<(), Error> {
        match std::str::from_utf8(self.take_long(length)?) {
            Ok(text) => {
                self.push(Value::Text(text));
                Ok(())
            }
            Err(_) => Err(self.fault("holds a string that is not UTF-8")),
        }
    }

    fn long(&mut self) -> Result<(), Error> {
        let length = self.take(1)?[0].into();
        let digits = self.take(length)?;
        if digits.len() > 8 {
            return Err(self.fault("holds an integer of more than 64 bits"));
        }
        let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut bytes = [if negative { 0xff } else { 0 }; 8];
        bytes[..digits.len()].copy_from_slice(digits);
        self.push(Value::Int(i64::from_le_bytes(bytes)));
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, Error> {
        Ok(self.pop_many(1)?[0])
    }

    /// The top `count` objects, the top one last.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, Error> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.len().checked_sub(count).filter(|&at| at >= floor) {
            Some(at) => Ok(self.stack.split_off(at)),
            None => Err(self.fault("takes more from its stack than is there")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Error> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => Err(self.fault("goes back to a mark that is not there")),
        }
    }

    fn append(&mut self, mut items: Vec<Id>) -> Result<(), Error> {
        match self.stack.last().map(|id| &mut self.values[id.0 as usize]) {
            Some(Value::List(list)) => {
                list.append(&mut items);
                Ok(())
            }
            _ => Err(self.fault("appends to something that is not a list")),
        }
    }

    fn set_items(&mut self, items: Vec<Id>) -> Result<(), Error> {
        match self.stack.last().map(|id| &mut self.values[id.0 as usize]) {
            Some(Value::Dict(dict)) if items.len().is_multiple_of(2) => {
                dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err(self.fault("sets entries of something that is not a dictionary")),
        }
    }

    fn remember(&mut self, key: u32) -> Result<(), Error> {
        match self.stack.last() {
            Some(&id) => {
                self.memo.insert(key, id);
                Ok(())
            }
            None => Err(self.fault("remembers an object that is not there")),
        }
    }

    fn recall(&mut self, key: u32) -> Result<(), Error> {
        match self.memo.get(&key) {
            Some(&id) => {
                self.stack.push(id);
                Ok(())
            }
            None => Err(self.fault("recalls an object that it did not remember")),
        }
    }

    fn push_global(&mut self, module: &'a str, name: &'a str) -> Result<(), Error> {
        let value = match (module, name) {
            ("collections", "OrderedDict") => Value::Callable(Callable::OrderedDict),
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Value::Callable(Callable::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Value::Callable(Callable::RebuildParameter),
            ("torch" | "torch.cuda", _) => match storage_type(name) {
                Some(element) => Value::StorageType(element),
                None => return Err(self.foreign(module, name)),
            },
            _ => return Err(self.foreign(module, name)),
        };
        self.push(value);
        Ok(())
    }

    /// `('storage', type, key, location, number of elements[, view])`
    fn persistent(&mut self) -> Result<(), Error> {
        let id = self.pop()?;
        let Value::Tuple(fields) = self.value(id) else {
            return Err(self.fault("refers to a storage by something else than a tuple"));
        };
        let is_view = fields.get(5).is_some_and(|&view| !matches!(self.value(view), Value::None));
        let (kind, element, key) = match fields[..] {
            [kind, element, key, _, _] | [kind, element, key, _, _, _] if !is_view => (kind, element, key),
            _ => return Err(self.fault("refers to a storage in a way that torch.save does not")),
        };
        match (self.text(kind), self.value(element), self.text(key)) {
            (Some("storage"), &Value::StorageType(element), Some(key)) => {
                self.storages.insert(key, element);
                self.push(Value::Storage(element, key));
                Ok(())
            }
            _ => Err(self.fault("refers to a storage in a way that torch.save does not")),
        }
    }

    fn reduce(&mut self) -> Result<(), Error> {
        let operands = self.pop_many(2)?;
        let (&Value::Callable(callable), Value::Tuple(arguments)) = (self.value(operands[0]), self.value(operands[1]))
        else {
            return Err(self.fault("calls something that cannot be called"));
        };
        match (callable, &arguments[..]) {
            (Callable::OrderedDict, []) => self.push(Value::Dict(Vec::new())),
            (Callable::RebuildTensor, &[storage, offset, shape, strides, ..]) => {
                match self.tensor(storage, offset, shape, strides) {
                    Some(tensor) => self.push(Value::Tensor(Box::new(tensor))),
                    None => return Err(self.fault("describes a tensor that cannot be")),
                }
            }
            (Callable::RebuildParameter, &[tensor, ..]) if matches!(self.value(tensor), Value::Tensor(_)) => {
                self.stack.push(tensor);
            }
            _ => return Err(self.fault("makes an object from arguments that do not fit")),
        }
        Ok(())
    }

    fn tensor(&self, storage: Id, offset: Id, shape: Id, strides: Id) -> Option<PickledTensor<'a>> {
        let &Value::Storage(element, key) = self.value(storage) else { return None };
        let sizes = |id: Id| -> Option<Vec<usize>> {
            match self.value(id) {
                Value::Tuple(items) if items.len() <= MAX_AXES => items.iter().map(|&item| self.size(item)).collect(),
                _ => None,
            }
        };
        let (shape, strides) = (sizes(shape)?, sizes(strides)?);
        let offset = self.size(offset)?;
        (shape.len() == strides.len()).then_some(PickledTensor { element, key, offset, shape, strides })
    }
}

fn storage_type(name: &str) -> Option<Element> {
    Some(match name {
        "FloatStorage" => Element::Weights(Dtype::F32),
        "HalfStorage" => Element::Weights(Dtype::F16),
        "BFloat16Storage" => Element::Weights(Dtype::Bf16),
        "DoubleStorage" => Element::Other("float64", 8),
        "LongStorage" => Element::Other("int64", 8),
        "IntStorage" => Element::Other("int32", 4),
        "ShortStorage" => Element::Other("int16", 2),
        "CharStorage" => Element::Other("int8", 1),
        "ByteStorage" => Element::Other("uint8", 1),
        "BoolStorage" => Element::Other("bool", 1),
        _ => return None,
    })
}
