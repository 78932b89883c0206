//! What a container reader hands over: named pieces of mapped files, before anybody asks which model they make.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;

use crate::checkpoint::{Container, TokenizerHint};
use crate::error::Error;
use crate::packed::Contents;
use crate::tensor::Dtype;

/// A file mapped into memory or part of the program, with the path for messages.
///
/// The mapping shows later changes of the file, and touching it after another process truncated the file ends this one:
/// replace model files by renaming, never by writing into them.
#[derive(Debug)]
pub(crate) struct MappedFile {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl MappedFile {
    /// Maps `path`; an empty file maps to no bytes.
    pub(crate) fn open(path: &Path) -> Result<Arc<MappedFile>, Error> {
        let io = |source| Error::Io { file: path.to_path_buf(), source };
        let file = std::fs::File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(Error::UnknownFormat {
                file: path.to_path_buf(),
                found: "something that is not a file".into(),
            });
        }
        let bytes = if metadata.len() == 0 { Bytes::Static(&[]) } else { Bytes::Mapped(map(&file).map_err(io)?) };
        Ok(Arc::new(MappedFile { path: path.to_path_buf(), bytes }))
    }

    /// Bytes that are in memory for good; `name` stands for the path.
    pub(crate) fn of_static(name: &str, bytes: &'static [u8]) -> Arc<MappedFile> {
        Arc::new(MappedFile { path: PathBuf::from(name), bytes: Bytes::Static(bytes) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Static(bytes) => bytes,
        }
    }

    /// Lets the system take the memory behind these bytes; they come from the file again when touched.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            release(map, range);
        }
        #[cfg(not(unix))]
        let _ = range;
    }

    /// A container rule broken in this file.
    pub(crate) fn malformed(&self, what: impl Into<String>) -> Error {
        Error::Malformed { file: self.path.clone(), what: what.into() }
    }
}

#[allow(unsafe_code)]
fn map(file: &std::fs::File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is private and read-only and only ever seen as plain bytes, every value of which is valid; a
    // file changed underneath changes numbers, not the soundness of the readers, which take nothing from the mapping
    // twice where the second look must agree with the first.
    unsafe { Mmap::map(file) }
}

#[cfg(unix)]
#[allow(unsafe_code)]
fn release(map: &Mmap, range: Range<usize>) {
    // SAFETY: the mapping is of a file and never written, so that a page that was dropped reads the same again. Failure
    // only means that the memory stays.
    let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len()) };
}

/// How the elements of a raw tensor are laid down.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Encoding {
    /// One after another, each by itself.
    Plain(Dtype),
    /// Quantised in blocks of consecutive elements (GGUF).
    Blocks(&'static BlockFormat),
}

/// A block-quantised type: how many elements and bytes a block has, and how to widen blocks to f32.
#[derive(Debug)]
pub(crate) struct BlockFormat {
    /// As the format calls it, `Q4_K`.
    pub(crate) name: &'static str,
    /// Elements a block.
    pub(crate) elements: usize,
    /// Bytes a block.
    pub(crate) bytes: usize,
    /// Widens whole blocks: `out.len() == elements * (bytes.len() / bytes a block)`.
    pub(crate) decode: fn(&[u8], &mut [f32]),
}

impl Encoding {
    /// Bytes of `elements` elements in row-major order, `None` on overflow or when they do not fill whole blocks.
    pub(crate) fn bytes(self, elements: usize) -> Option<usize> {
        match self {
            Encoding::Plain(dtype) => elements.checked_mul(dtype.bytes()),
            Encoding::Blocks(format) => elements
                .is_multiple_of(format.elements)
                .then(|| (elements / format.elements).checked_mul(format.bytes))?,
        }
    }
}

/// One tensor of a container.
#[derive(Clone, Debug)]
pub(crate) struct RawTensor {
    /// Name as it stands in the file.
    pub(crate) name: String,
    /// Type of its elements.
    pub(crate) encoding: Encoding,
    /// Axes in torch's order (last axis contiguous unless `strides` says otherwise).
    pub(crate) shape: Vec<usize>,
    /// Distance in elements along each axis, when it is not row-major (only `Plain`, only .pth views).
    pub(crate) strides: Option<Vec<usize>>,
    /// Index into [`RawModel::files`].
    pub(crate) file: usize,
    /// Its bytes in that file. Readers guarantee: inside the file, and exactly `encoding.bytes(product of shape)` long
    /// for row-major tensors, long enough for the last element of strided ones.
    pub(crate) range: Range<usize>,
}

impl RawTensor {
    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Facts a container states beside its tensors.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// N, where shapes do not tell it (GGUF flattens `r_k`).
    pub(crate) head_size: Option<usize>,
    /// Epsilon of the LayerNorms.
    pub(crate) layer_norm_eps: Option<f32>,
    /// Epsilon of `ln_x`.
    pub(crate) group_norm_eps: Option<f32>,
    /// `att.output` and `ffn.value` of block i are stored divided by `2^(i / rescale_every)`; 0 for not at all.
    pub(crate) rescale_every: usize,
    /// Where the vocabulary is.
    pub(crate) tokenizer: Option<TokenizerHint>,
    /// Jinja text.
    pub(crate) chat_template: Option<String>,
    /// Free-form strings of a safetensors header.
    pub(crate) strings: BTreeMap<String, String>,
    /// What a packed file holds.
    pub(crate) packed: Option<Contents>,
}

/// Everything read from one model's file or files.
#[derive(Debug)]
pub(crate) struct RawModel {
    pub(crate) container: Container,
    pub(crate) files: Vec<Arc<MappedFile>>,
    pub(crate) tensors: Vec<RawTensor>,
    pub(crate) hints: Hints,
}
