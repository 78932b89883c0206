//! Packed files: a model as the engine keeps it in memory, quantised or not, so that starting needs no more than mapping
//! the file.
//!
//! The container is safetensors. The matrices come first, as plain bytes (`U8`) that only `anser-kernels` can read, each
//! at a multiple of 64 bytes of the file; the small tensors follow under their official names, shapes and types. The
//! string `anser` of the header's metadata is a JSON object ([`PackedHeader`]) with what shapes of bytes cannot tell.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::checkpoint::{Container, TokenizerHint};
use crate::config::{Config, Version};
use crate::error::Error;
use crate::raw::{Hints, MappedFile, RawModel};
use crate::safetensors::{self, Entries};
use crate::state::write_atomically;
use crate::tensor::{Dtype, Tensor, check_tensors};

/// The metadata string that makes a safetensors file a packed one.
const KEY: &str = "anser";

/// Version of the layout of bytes; files of another one are refused.
const VERSION: u32 = 3;

/// What a packed file says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PackedHeader {
    version: u32,
    /// Sizes and constants.
    pub config: Config,
    /// Name of the recipe it was quantised by.
    pub recipe: String,
    /// Fingerprint of the checkpoint it was made from: states go from one to the other.
    pub fingerprint: String,
    /// The type most weights of that checkpoint had.
    pub dtype: Dtype,
    /// Which vocabulary.
    pub tokenizer: PackedTokenizer,
    /// Jinja text.
    pub chat_template: Option<String>,
    matrices: BTreeMap<String, Form>,
}

/// The vocabulary of a packed file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PackedTokenizer {
    /// The World vocabulary.
    World,
    /// One token a byte.
    Byte,
    /// The text of a `tokenizer.json`.
    Json(String),
    /// Nothing tells.
    Unknown,
}

/// How a matrix is laid down.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Form {
    /// Name of a storage of `anser-kernels`.
    storage: String,
}

impl PackedHeader {
    /// For a model of these sizes; matrices are added by the writer.
    pub fn new(config: Config, recipe: String, fingerprint: String, dtype: Dtype) -> PackedHeader {
        PackedHeader {
            version: VERSION,
            config,
            recipe,
            fingerprint,
            dtype,
            tokenizer: PackedTokenizer::Unknown,
            chat_template: None,
            matrices: BTreeMap::new(),
        }
    }
}

/// A matrix of a packed file. Its bytes are shared with the mapped file.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    /// Name of the storage.
    pub storage: String,
    /// The official tensor's shape. Factors of low-rank maps are packed transposed.
    pub shape: [usize; 2],
    /// The bytes, filled up with zeros to a multiple of [`PackedWriter::ALIGN`] and beginning at one.
    pub bytes: SharedBytes,
}

/// A part of a mapped file that keeps the mapping alive.
#[derive(Clone, Debug)]
pub struct SharedBytes {
    file: Arc<MappedFile>,
    range: Range<usize>,
}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }
}

impl SharedBytes {
    /// Lets the system take the memory behind some of the bytes; they come from the file again when touched.
    pub fn release(&self, range: Range<usize>) {
        let place = |at: usize| self.range.start + at.min(self.range.len());
        self.file.release(place(range.start)..place(range.end));
    }
}

/// What a packed file holds besides its plain tensors.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) header: PackedHeader,
    matrices: BTreeMap<String, (Form, Range<usize>)>,
}

impl Contents {
    /// Names of the matrices.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.matrices.keys()
    }

    pub(crate) fn has(&self, official: &str) -> bool {
        self.matrices.contains_key(official)
    }

    /// A matrix of official shape `shape`.
    pub(crate) fn matrix(&self, file: &Arc<MappedFile>, official: &str, shape: &[usize]) -> Option<PackedMatrix> {
        let (form, range) = self.matrices.get(official)?;
        let bytes = SharedBytes { file: file.clone(), range: range.clone() };
        Some(PackedMatrix { storage: form.storage.clone(), shape: shape.try_into().ok()?, bytes })
    }
}

/// The header of a packed file, if this metadata is one's.
pub(crate) fn header(file: &MappedFile, metadata: &BTreeMap<String, String>) -> Result<Option<PackedHeader>, Error> {
    let Some(text) = metadata.get(KEY) else { return Ok(None) };
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let damaged = |e: serde_json::Error| file.malformed(format!("the description of a packed model is damaged: {e}"));
    let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
    if version != VERSION {
        return Err(Error::Unsupported {
            file: file.path().to_path_buf(),
            what: format!("version {version} of packed files (this program reads {VERSION})"),
            hint: "quantize the original model again with this program".into(),
        });
    }
    serde_json::from_str(text).map_err(damaged).map(Some)
}

/// Puts the tensors of a packed file to their places.
pub(crate) fn read(file: Arc<MappedFile>, header: PackedHeader, entries: Entries) -> Result<RawModel, Error> {
    check_config(&file, &header.config, entries.plain.len() + entries.bytes.len())?;
    let mut matrices = BTreeMap::new();
    for (name, range) in entries.bytes {
        let Some(form) = header.matrices.get(&name) else {
            return Err(file.malformed(format!("`{name}` is stored as bytes, and nothing says what they mean")));
        };
        matrices.insert(name, (form.clone(), range));
    }
    if let Some(missing) = header.matrices.keys().find(|name| !matrices.contains_key(*name)) {
        let (tensor, version) = (missing.clone(), header.config.version);
        return Err(Error::MissingTensor { file: file.path().to_path_buf(), tensor, version });
    }
    let tokenizer = match &header.tokenizer {
        PackedTokenizer::World => TokenizerHint::World,
        PackedTokenizer::Byte => TokenizerHint::Byte,
        PackedTokenizer::Json(text) => TokenizerHint::Json(text.clone()),
        PackedTokenizer::Unknown => TokenizerHint::Unknown,
    };
    let hints = Hints {
        tokenizer: Some(tokenizer),
        chat_template: header.chat_template.clone(),
        packed: Some(Contents { header, matrices }),
        ..Hints::default()
    };
    Ok(RawModel { container: Container::Packed, files: vec![file], tensors: entries.plain, hints })
}

/// Sizes that may be believed: nothing is allocated by them before this. Every other container derives them from the
/// tensors.
fn check_config(file: &MappedFile, config: &Config, tensors: usize) -> Result<(), Error> {
    let fail = |what: &str, expected: String, found: usize| {
        let (file, what, found) = (file.path().to_path_buf(), what.to_string(), found.to_string());
        Err(Error::Config { file, what, expected, found })
    };
    if config.layers == 0 || config.layers > tensors {
        return fail("layers", format!("1 to {tensors}, the number of tensors"), config.layers);
    }
    for (what, size) in
        [("vocab", config.vocab), ("width", config.width), ("head_size", config.head_size), ("ffn", config.ffn)]
    {
        if size == 0 || size > u32::MAX as usize {
            return fail(what, "1 to 4294967295".into(), size);
        }
    }
    let ranks = &config.ranks;
    for rank in [ranks.mix, ranks.decay, ranks.a, ranks.v, ranks.g] {
        if rank > u32::MAX as usize {
            return fail("a rank", "0 to 4294967295".into(), rank);
        }
    }
    if config.heads.checked_mul(config.head_size) != Some(config.width)
        || (config.version == Version::V4 && config.heads != 1)
    {
        return fail("heads", format!("{} / {}", config.width, config.head_size), config.heads);
    }
    for eps in [config.layer_norm_eps, config.group_norm_eps] {
        if !(eps > 0.0 && eps < 1.0) {
            return Err(Error::Config {
                file: file.path().to_path_buf(),
                what: "an epsilon".into(),
                expected: "a number between 0 and 1".into(),
                found: eps.to_string(),
            });
        }
    }
    Ok(())
}

/// Writes a packed file matrix by matrix: each goes to a temporary file at once, so that no more than one is held.
#[derive(Debug)]
pub struct PackedWriter {
    path: PathBuf,
    header: PackedHeader,
    /// Bytes of the matrices, in the order of `matrices`.
    spill: std::fs::File,
    matrices: Vec<(String, usize)>,
    tensors: Vec<Tensor<'static>>,
}

impl PackedWriter {
    /// Matrices begin at multiples of so many bytes, which is what the kernels ask for, and are filled up with zeros.
    pub const ALIGN: usize = 64;

    /// Begins a file that will be `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing can be written to its folder.
    pub fn create(path: &Path, header: PackedHeader) -> Result<PackedWriter, Error> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let spill = tempfile::tempfile_in(folder).map_err(|source| Error::Io { file: path.to_path_buf(), source })?;
        Ok(PackedWriter { path: path.to_path_buf(), header, spill, matrices: Vec::new(), tensors: Vec::new() })
    }

    /// Adds a matrix by its official name, packed as `storage`.
    ///
    /// # Errors
    /// [`Error::Io`], a full disk above all.
    pub fn matrix(&mut self, official: &str, storage: &str, bytes: &[u8]) -> Result<(), Error> {
        let padding = bytes.len().next_multiple_of(Self::ALIGN) - bytes.len();
        self.spill
            .write_all(bytes)
            .and_then(|()| self.spill.write_all(&[0; Self::ALIGN][..padding]))
            .map_err(|source| Error::Io { file: self.path.clone(), source })?;
        self.matrices.push((official.to_string(), bytes.len() + padding));
        self.header.matrices.insert(official.to_string(), Form { storage: storage.to_string() });
        Ok(())
    }

    /// Adds a tensor as it is.
    pub fn tensor(&mut self, tensor: Tensor<'static>) {
        self.tensors.push(tensor);
    }

    /// Writes the file, which appears whole or not at all; returns its size in bytes.
    ///
    /// # Errors
    /// [`Error::Malformed`] when two entries have one name; [`Error::Io`].
    pub fn finish(mut self) -> Result<u64, Error> {
        check_tensors(&self.path, &self.tensors)?;
        let mut names = BTreeSet::new();
        let plain = self.tensors.iter().map(|tensor| &tensor.name);
        if let Some(twice) = self.matrices.iter().map(|(name, _)| name).chain(plain).find(|name| !names.insert(*name)) {
            let what = format!("two tensors are called `{twice}`");
            return Err(Error::Malformed { file: self.path.clone(), what });
        }
        // Wide elements first, so that each lies at a multiple of its size.
        self.tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype.bytes()));
        let (mut entries, mut end) = (Map::new(), 0);
        let mut add = |name: &str, dtype: &str, shape: Value, length: usize| {
            entries.insert(name.into(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [end, end + length] }));
            end += length;
        };
        for (name, length) in &self.matrices {
            add(name, "U8", json!([length]), *length);
        }
        for tensor in &self.tensors {
            add(&tensor.name, safetensors::dtype_name(tensor.dtype), json!(tensor.shape), tensor.data.len());
        }
        let description = serde_json::to_string(&self.header).map_err(io::Error::from);
        let description = description.map_err(|source| Error::Io { file: self.path.clone(), source })?;
        entries.insert(safetensors::METADATA.into(), json!({ KEY: description }));
        let header = safetensors::framed(Value::Object(entries), Self::ALIGN);
        if header.len() as u64 > safetensors::MAX_HEADER {
            let (found, most) = (header.len(), safetensors::MAX_HEADER);
            let what = format!("the header would have {found} bytes, the format allows {most}");
            return Err(Error::Malformed { file: self.path.clone(), what });
        }
        let size = header.len() + end;
        let spill = &mut self.spill;
        write_atomically(&self.path, |out| {
            out.write_all(&header)?;
            spill.rewind()?;
            io::copy(spill, out)?;
            self.tensors.iter().try_for_each(|tensor| out.write_all(&tensor.data))
        })?;
        Ok(size as u64)
    }
}
