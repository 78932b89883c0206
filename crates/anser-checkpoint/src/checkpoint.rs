//! A model's file or files, opened.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::config::{Config, Version};
use crate::error::Error;
use crate::layout::{self, Located};
use crate::open;
use crate::packed::{Contents, PackedHeader, PackedMatrix};
use crate::raw::{Encoding, MappedFile, RawModel};
use crate::tensor::{Dtype, Tensor};

/// What kind of file holds the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// torch.save since PyTorch 1.6.
    PthZip,
    /// torch.save before that: a row of pickles and then the storages.
    PthLegacy,
    /// safetensors.
    Safetensors,
    /// GGUF, with the version of the container format.
    Gguf(u32),
    /// A model as the engine keeps it in memory, made by `anser quantize`.
    Packed,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Container::PthZip => f.write_str("PyTorch .pth (zip)"),
            Container::PthLegacy => f.write_str("PyTorch .pth (legacy)"),
            Container::Safetensors => f.write_str("safetensors"),
            Container::Gguf(version) => write!(f, "GGUF v{version}"),
            Container::Packed => f.write_str("packed"),
        }
    }
}

/// Whose names the tensors carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The official trainer's, also of native RWKV-7 folders.
    Official,
    /// Hugging Face transformers' RWKV-4, and the custom code published for RWKV-5 and 6.
    HuggingFace,
    /// flash-linear-attention's.
    Fla,
    /// llama.cpp's.
    Gguf,
}

/// Container, names and number of files of a checkpoint; displays as one phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Kind of file.
    pub container: Container,
    /// Whose tensor names.
    pub layout: Layout,
    /// Number of files that hold tensors.
    pub files: usize,
    version: Version,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = match self.version {
            version if version.is_v5() => "5".to_string(),
            version => version.to_string(),
        };
        match self.layout {
            Layout::Official | Layout::Gguf => write!(f, "{}", self.container)?,
            Layout::HuggingFace if self.version == Version::V4 => f.write_str("Hugging Face (transformers rwkv4)")?,
            Layout::HuggingFace => write!(f, "Hugging Face (custom-code rwkv{generation})")?,
            Layout::Fla => write!(f, "Hugging Face (fla rwkv{generation})")?,
        }
        if self.files > 1 { write!(f, ", {} files", self.files) } else { Ok(()) }
    }
}

/// Where the vocabulary of a checkpoint is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenizerHint {
    /// The World vocabulary: its file is in the folder, GGUF names it, or the embedding has its size.
    World,
    /// One token a byte (256 embedding rows).
    Byte,
    /// A `tokenizer.json` beside the weights.
    File(PathBuf),
    /// The text of a `tokenizer.json` inside the file.
    Json(String),
    /// Nothing tells.
    Unknown,
}

/// What may be overridden when opening.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Epsilon of the LayerNorms instead of the file's or 1e-5.
    pub layer_norm_eps: Option<f32>,
    /// Epsilon of `ln_x` instead of 64e-5. For models trained in flash-linear-attention give what that trained with: 1e-5
    /// for its rwkv6, head size times 1e-5 for its rwkv7 (the same as the default at 64 channels a head).
    pub group_norm_eps: Option<f32>,
}

/// A model's weights, mapped into memory and known by their official names.
///
/// Opening reads names and shapes only and checks every one of them; the weights themselves are touched when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    raw: RawModel,
    format: Format,
    config: Config,
    tensors: Vec<Located>,
    by_name: HashMap<String, usize>,
    tokenizer: TokenizerHint,
    packed: Option<Contents>,
}

impl Checkpoint {
    /// Opens a `.pth`, `.safetensors`, `*.index.json` or `.gguf` file, or a folder that holds one model. The format is
    /// told from the content, not from the extension.
    ///
    /// # Errors
    /// If the file is unreadable, damaged, of another format or another kind of model, or if any tensor is missing,
    /// unknown, or of a shape that does not fit the others.
    pub fn open(path: &Path) -> Result<Checkpoint, Error> {
        Checkpoint::open_with(path, &OpenOptions::default())
    }

    /// [`Checkpoint::open`] with constants overridden.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Checkpoint, Error> {
        Checkpoint::resolve(path, open::read(path)?, options)
    }

    /// Opens a model that is part of the program (`include_bytes!`): a safetensors file, or any other format that is one
    /// file. Nothing is copied. `name` stands for the path, in messages too; [`Checkpoint::tokenizer`] can only tell the
    /// vocabulary from its size.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Checkpoint, Error> {
        Checkpoint::from_static_with(name, bytes, &OpenOptions::default())
    }

    /// [`Checkpoint::from_static`] with constants overridden.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_static_with(name: &str, bytes: &'static [u8], options: &OpenOptions) -> Result<Checkpoint, Error> {
        Checkpoint::resolve(Path::new(name), open::read_bytes(MappedFile::of_static(name, bytes))?, options)
    }

    fn resolve(path: &Path, mut raw: RawModel, options: &OpenOptions) -> Result<Checkpoint, Error> {
        let packed = raw.hints.packed.take();
        let model = match &packed {
            Some(contents) => layout::resolve_packed(&raw, contents, options)?,
            None => layout::resolve(&raw, options)?,
        };
        let format = Format {
            container: raw.container,
            layout: model.layout,
            files: raw.files.len(),
            version: model.config.version,
        };
        let tokenizer = match raw.hints.tokenizer.take() {
            Some(hint) => hint,
            None => match model.config.vocab {
                256 => TokenizerHint::Byte,
                // 65529 ids and id 0, padded to the next power of two by every official model.
                65530..=65536 => TokenizerHint::World,
                _ => TokenizerHint::Unknown,
            },
        };
        let by_name = model.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Checkpoint {
            path: path.to_path_buf(),
            raw,
            format,
            config: model.config,
            tensors: model.tensors,
            by_name,
            tokenizer,
            packed,
        })
    }

    /// The path it was opened by, or the name of a model that is part of the program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Container and layout.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Sizes and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Official names of the tensors present, in the model's order. Optional ones (`time_state`, block 0's `v0`, `v1`,
    /// `v2`) are listed when the file has them.
    pub fn names(&self) -> Vec<String> {
        let packed = self.packed.iter().flat_map(Contents::names);
        packed.chain(self.tensors.iter().map(|tensor| &tensor.name)).cloned().collect()
    }

    /// Whether a tensor of this official name is present.
    pub fn has(&self, official: &str) -> bool {
        self.by_name.contains_key(official) || self.packed.as_ref().is_some_and(|packed| packed.has(official))
    }

    /// A matrix of a packed file, `None` for everything that [`Checkpoint::tensor`] reads.
    pub fn packed(&self, official: &str) -> Option<PackedMatrix> {
        let contents = self.packed.as_ref()?;
        // Asked for by name alone, so that a file cannot say another shape than its sizes do.
        let shape = contents.header.config.shape(official)?;
        contents.matrix(&self.raw.files[0], official, &shape)
    }

    /// What a packed file says about itself.
    pub fn packed_header(&self) -> Option<&PackedHeader> {
        self.packed.as_ref().map(|contents| &contents.header)
    }

    /// A tensor by its official name, in official orientation; borrowed from the mapping where the file holds it so.
    ///
    /// # Errors
    /// If there is no such tensor, or it is a matrix of a packed file.
    pub fn tensor(&self, official: &str) -> Result<Tensor<'_>, Error> {
        let located = self.locate(official)?;
        let raw = &self.raw.tensors[located.raw];
        let (dtype, data) = located.read(raw, self.file(located).bytes());
        Ok(Tensor { name: official.to_string(), dtype, shape: located.shape().to_vec(), data })
    }

    /// Lets the system take the memory behind a tensor that was read; it comes from the file again when touched.
    pub fn release(&self, official: &str) {
        if let Ok(located) = self.locate(official) {
            self.file(located).release(self.raw.tensors[located.raw].range.clone());
        }
    }

    /// A matrix as the blocks of a quantised file, where it is stored so in official orientation and unscaled.
    pub fn blocks(&self, official: &str) -> Option<Blocks<'_>> {
        let located = &self.tensors[*self.by_name.get(official)?];
        let raw = &self.raw.tensors[located.raw];
        let (Encoding::Blocks(format), &[rows, cols]) = (raw.encoding, located.shape()) else { return None };
        let fits = located.is_whole(raw) && cols.is_multiple_of(format.elements);
        fits.then(|| Blocks {
            format: format.name,
            rows,
            cols,
            row_bytes: cols / format.elements * format.bytes,
            file: self.file(located),
            range: raw.range.clone(),
        })
    }

    /// The type most weights are stored in; F32 for quantised GGUF, which is widened when read; what the original had for
    /// a packed file.
    pub fn stored_dtype(&self) -> Dtype {
        self.packed.as_ref().map_or_else(|| layout::main_dtype(&self.raw), |packed| packed.header.dtype)
    }

    /// Where the vocabulary is.
    pub fn tokenizer(&self) -> TokenizerHint {
        self.tokenizer.clone()
    }

    /// The jinja chat template that lies beside the weights or inside GGUF.
    pub fn chat_template(&self) -> Option<&str> {
        self.raw.hints.chat_template.as_deref()
    }

    /// Sha256 (hex) over the config and up to 64 evenly spaced values of every tensor, as f32: the same model has the
    /// same fingerprint in every format that holds its values exactly. Block 0's unused `v0`, `v1`, `v2` do not count.
    /// A packed file has that of the checkpoint it was made from.
    pub fn fingerprint(&self) -> String {
        if let Some(packed) = &self.packed {
            return packed.header.fingerprint.clone();
        }
        let config = &self.config;
        let ranks = &config.ranks;
        let mut hash = Sha256::new();
        hash.update(format!(
            "rwkv{} V{} C{} L{} H{} N{} F{} ranks {} {} {} {} {} eps {:08x} {:08x}\n",
            config.version,
            config.vocab,
            config.width,
            config.layers,
            config.heads,
            config.head_size,
            config.ffn,
            ranks.mix,
            ranks.decay,
            ranks.a,
            ranks.v,
            ranks.g,
            config.layer_norm_eps.to_bits(),
            config.group_norm_eps.to_bits(),
        ));
        let mut tensors: Vec<&Located> = self.tensors.iter().filter(|tensor| !is_unused(&tensor.name)).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        for located in tensors {
            let (raw, bytes) = (&self.raw.tensors[located.raw], self.file(located).bytes());
            hash.update(format!("{} {:?}\n", located.name, located.shape()));
            let elements: usize = located.shape().iter().product();
            let samples = elements.min(64);
            for sample in 0..samples {
                let value = located.element(raw, bytes, (elements / samples) * sample);
                // Adding zero makes -0 and 0 one value.
                hash.update((value + 0.0).to_bits().to_le_bytes());
            }
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn locate(&self, official: &str) -> Result<&Located, Error> {
        match self.by_name.get(official) {
            Some(&at) => Ok(&self.tensors[at]),
            None if self.has(official) => Err(Error::Unsupported {
                file: self.path.clone(),
                what: format!("reading the packed matrix `{official}` as numbers"),
                hint: "a packed file runs as it is; for anything else take the model it was made from".into(),
            }),
            None => Err(Error::NoSuchTensor { file: self.path.clone(), tensor: official.to_string() }),
        }
    }

    fn file(&self, located: &Located) -> &MappedFile {
        &self.raw.files[self.raw.tensors[located.raw].file]
    }
}

/// A quantised matrix in official orientation, block after block, row after row.
#[derive(Clone, Debug)]
pub struct Blocks<'a> {
    /// The type's name in its format, `Q4_K`.
    pub format: &'static str,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    row_bytes: usize,
    file: &'a MappedFile,
    range: Range<usize>,
}

impl Blocks<'_> {
    /// The blocks of a row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.file.bytes()[self.range.clone()][row * self.row_bytes..(row + 1) * self.row_bytes]
    }

    /// Lets the system take the memory behind the blocks; they come from the file again when touched.
    pub fn release(&self) {
        self.file.release(self.range.clone());
    }
}

fn is_unused(official: &str) -> bool {
    matches!(official, "blocks.0.att.v0" | "blocks.0.att.v1" | "blocks.0.att.v2")
}
