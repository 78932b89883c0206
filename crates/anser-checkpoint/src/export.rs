//! Writing an opened model in another format: the reverse of `layout`, by the same tables.
//!
//! [`Export::plan`] decides every tensor's name, shape and precision, and refuses what the format cannot hold, before
//! anything is written. Writing and checking hold one tensor at a time.

mod folder;
mod plan;
mod round;

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Layout};
use crate::config::{Config, Version};
use crate::error::Error;
use crate::gguf::writer::{self, Vocabulary};
use crate::layout::view::View;
use crate::pth_writer::stream_pth;
use crate::safetensors::stream_safetensors;
use crate::tensor::{Dtype, Precision, Tensor, TensorInfo};

/// A format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The official trainer's file.
    Pth,
    /// One safetensors file with official names.
    Safetensors,
    /// A Hugging Face directory: `model.safetensors`, `config.json`, `generation_config.json` and side files.
    Folder(FolderLayout),
    /// llama.cpp's, RWKV-6 and 7.
    Gguf,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Target::Pth => "a .pth file",
            Target::Safetensors => "a safetensors file",
            Target::Folder(FolderLayout::Transformers) => "a Hugging Face directory of transformers' layout",
            Target::Folder(FolderLayout::Fla) => "a Hugging Face directory of flash-linear-attention's layout",
            Target::Folder(FolderLayout::Native) => "a Hugging Face directory of the native layout",
            Target::Gguf => "GGUF",
        })
    }
}

/// Whose names the tensors of a Hugging Face directory carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderLayout {
    /// transformers' own class (v4); the names of the code published with the v5 and v6 models.
    Transformers,
    /// flash-linear-attention's classes (v6, v7).
    Fla,
    /// Official names, any version.
    Native,
}

impl FolderLayout {
    /// What a version is published in: transformers' for 4 and 5, flash-linear-attention's for 6 and 7.
    pub fn usual(version: Version) -> FolderLayout {
        match version {
            Version::V6 | Version::V7 => FolderLayout::Fla,
            _ => FolderLayout::Transformers,
        }
    }
}

/// How to write a model, and what belongs to it beside the weights.
#[derive(Clone, Debug)]
pub struct ExportOptions {
    /// The format.
    pub target: Target,
    /// Precision of the weights; `None` keeps every value exactly, in the source's main type where that holds it. GGUF
    /// applies it to matrices and keeps vectors and token-shift pairs in f32, as llama.cpp wants them.
    pub precision: Option<Precision>,
    /// The model's name, for GGUF.
    pub name: String,
    /// The vocabulary, for GGUF.
    pub vocabulary: Vocabulary,
    /// File names and contents to put into a directory: vocabulary, chat template.
    pub files: Vec<(String, Vec<u8>)>,
}

impl ExportOptions {
    /// Exact values, nothing beside the weights.
    pub fn new(target: Target) -> ExportOptions {
        let (name, files) = ("rwkv".to_string(), Vec::new());
        ExportOptions { target, precision: None, name, vocabulary: Vocabulary::Absent, files }
    }
}

/// Called with the bytes done so far; breaking ends the work with [`Error::Stopped`].
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// A model to be written: every tensor's name, shape and precision.
#[derive(Debug)]
pub struct Export {
    source: Arc<Checkpoint>,
    options: ExportOptions,
    planned: Vec<Planned>,
    /// By official name.
    precisions: HashMap<String, Precision>,
    main: Dtype,
}

/// A tensor of the file to be written.
#[derive(Debug)]
struct Planned {
    name: String,
    precision: Precision,
    shape: Vec<usize>,
    /// The official tensors in it.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    official: String,
    view: View,
}

impl Planned {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    fn info(&self) -> TensorInfo {
        let dtype = self.precision.dtype().unwrap_or(Dtype::F32);
        TensorInfo { name: self.name.clone(), dtype, shape: self.shape.clone() }
    }
}

impl Export {
    /// Decides how `source` is written.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what the format cannot hold: another version, a tuned initial state, epsilons, a
    /// block precision outside GGUF.
    pub fn plan(source: Arc<Checkpoint>, options: ExportOptions) -> Result<Export, Error> {
        plan::plan(source, options)
    }

    /// The model that is written.
    pub fn source(&self) -> &Arc<Checkpoint> {
        &self.source
    }

    /// The type that most weights have in the result; F32 where they are blocks, which widen to it.
    pub fn dtype(&self) -> Dtype {
        self.main
    }

    /// Official names of the tensors that the result holds.
    pub fn names(&self) -> Vec<String> {
        self.source.names().into_iter().filter(|name| self.precisions.contains_key(name)).collect()
    }

    /// Whether the result holds a tensor, by its official name.
    pub fn has(&self, official: &str) -> bool {
        self.precisions.contains_key(official)
    }

    /// Whether every value is written as it is.
    ///
    /// # Errors
    /// As [`Export::tensor`].
    pub fn is_exact(&self) -> Result<bool, Error> {
        for (official, &precision) in &self.precisions {
            let tensor = self.source.tensor(official)?;
            if !round::is_exact(&tensor, precision) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Bytes that [`Export::write`] and [`Export::verify`] report in the end: four a weight.
    pub fn work(&self) -> u64 {
        self.planned.iter().map(|planned| planned.elements() as u64 * 4).sum()
    }

    /// What the reader of the result should know: where its usual loaders compute something else.
    pub fn notes(&self) -> Vec<String> {
        plan::notes(self.source.config(), self.options.target)
    }

    /// A tensor by its official name, with the values that the result holds.
    ///
    /// # Errors
    /// If there is no such tensor; [`Error::OutOfRange`] if a value does not fit the type.
    pub fn tensor(&self, official: &str) -> Result<Tensor<'_>, Error> {
        let tensor = self.source.tensor(official)?;
        match self.precisions.get(official) {
            Some(&precision) => round::widened(self.source.path(), tensor, precision),
            None => Err(Error::NoSuchTensor { file: self.source.path().to_path_buf(), tensor: official.to_string() }),
        }
    }

    /// Writes the model to `path`: a file that appears whole or not at all, or a directory that must not exist yet and is
    /// removed when anything fails.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::OutOfRange`], [`Error::Stopped`].
    pub fn write(&self, path: &Path, progress: Progress<'_>) -> Result<(), Error> {
        match self.options.target {
            Target::Pth => {
                let infos: Vec<TensorInfo> = self.planned.iter().map(Planned::info).collect();
                stream_pth(path, &infos, self.feed(path, progress))
            }
            Target::Safetensors => self.write_safetensors(path, progress),
            Target::Gguf => self.write_gguf(path, progress),
            Target::Folder(layout) => {
                let io = |source| Error::Io { file: path.to_path_buf(), source };
                fs::create_dir(path).map_err(io)?;
                let written = self.write_folder(path, layout, progress);
                if written.is_err() {
                    // The first failure is the one to tell.
                    let _ = fs::remove_dir_all(path);
                }
                written
            }
        }
    }

    /// Opens what [`Export::write`] wrote and compares sizes and every tensor, to the bit.
    ///
    /// # Errors
    /// [`Error::Differs`] names the first that is not as it should be; any error of opening; [`Error::Stopped`].
    pub fn verify(&self, path: &Path, progress: Progress<'_>) -> Result<Checkpoint, Error> {
        let written = Checkpoint::open(path)?;
        let differs = |what: String, expected: String, found: String| Error::Differs {
            file: path.to_path_buf(),
            what,
            expected,
            found,
        };
        let (expected, found) = (comparable(self.source.config()), comparable(written.config()));
        if expected != found {
            return Err(differs("the model's sizes".into(), format!("{expected:?}"), format!("{found:?}")));
        }
        let (names, there) = (self.names(), written.names());
        if let Some(name) = there.iter().find(|name| !self.precisions.contains_key(*name)) {
            return Err(differs(format!("tensor `{name}`"), "not to be there".into(), "there".into()));
        }
        let mut done = 0;
        for name in &names {
            if !written.has(name) {
                return Err(differs(format!("tensor `{name}`"), "there".into(), "missing".into()));
            }
            let (expected, found) = (self.tensor(name)?, written.tensor(name)?);
            if expected.shape != found.shape {
                let (expected, found) = (format!("{:?}", expected.shape), format!("{:?}", found.shape));
                return Err(differs(format!("the shape of tensor `{name}`"), expected, found));
            }
            if let Some((index, expected, found)) = round::first_difference(&expected, &found) {
                let what = format!("tensor `{name}`, element {index},");
                return Err(differs(what, expected.to_string(), found.to_string()));
            }
            done += expected.elements() as u64 * 4;
            self.source.release(name);
            written.release(name);
            if progress(done).is_break() {
                return Err(Error::Stopped { file: path.to_path_buf() });
            }
        }
        Ok(written)
    }

    fn write_safetensors(&self, path: &Path, progress: Progress<'_>) -> Result<(), Error> {
        let infos: Vec<TensorInfo> = self.planned.iter().map(Planned::info).collect();
        stream_safetensors(path, &infos, &[("format".into(), "pt".into())], self.feed(path, progress))
    }

    fn write_gguf(&self, path: &Path, progress: Progress<'_>) -> Result<(), Error> {
        let entries: Vec<writer::Entry<'_>> = self
            .planned
            .iter()
            .map(|planned| writer::Entry { name: &planned.name, precision: planned.precision, shape: &planned.shape })
            .collect();
        let metadata = writer::metadata(
            self.source.config(),
            &self.options.name,
            self.options.precision.unwrap_or(Precision::Plain(self.main)),
            &entries,
            &self.options.vocabulary,
            self.source.chat_template(),
        );
        writer::write(path, &metadata, &entries, self.feed(path, progress))
    }

    fn write_folder(&self, path: &Path, layout: FolderLayout, progress: Progress<'_>) -> Result<(), Error> {
        self.write_safetensors(&path.join("model.safetensors"), progress)?;
        let mut files = folder::config(self.source.config(), layout, self.main);
        files.extend(self.options.files.iter().cloned());
        let template = self.source.chat_template().filter(|_| {
            // A copied tokenizer_config.json may hold it, but a file of its own is read first everywhere.
            !files.iter().any(|(name, _)| name == "chat_template.jinja")
        });
        files.extend(template.map(|text| ("chat_template.jinja".to_string(), text.as_bytes().to_vec())));
        for (name, content) in files {
            let file = path.join(name);
            let written = fs::File::create(&file).and_then(|mut out| {
                io::Write::write_all(&mut out, &content)?;
                out.sync_all()
            });
            written.map_err(|source| Error::Io { file, source })?;
        }
        Ok(())
    }

    /// The bytes of each planned tensor, for a writer of the file `path`.
    fn feed<'a>(
        &'a self,
        path: &Path,
        progress: Progress<'a>,
    ) -> impl FnMut(usize) -> Result<Cow<'a, [u8]>, Error> + 'a {
        let (path, mut done, mut last) = (path.to_path_buf(), 0, None);
        move |at| {
            if progress(done).is_break() {
                return Err(Error::Stopped { file: path.clone() });
            }
            done += self.planned[at].elements() as u64 * 4;
            // What was handed out before is written by now.
            last.into_iter()
                .flat_map(|last: &Planned| &last.parts)
                .for_each(|part| self.source.release(&part.official));
            last = Some(&self.planned[at]);
            self.data(&self.planned[at])
        }
    }

    /// The bytes of one tensor of the file.
    fn data(&self, planned: &Planned) -> Result<Cow<'_, [u8]>, Error> {
        let path = self.source.path();
        let part = |part: &Part| -> Result<Cow<'_, [u8]>, Error> {
            let tensor = self.source.tensor(&part.official)?;
            round::stored(path, tensor, planned.precision)
        };
        match (&planned.parts[..], planned.precision.dtype()) {
            ([only], _) if only.view.is_row_major() => part(only),
            (parts, dtype) => {
                let size = dtype.unwrap_or(Dtype::F32).bytes();
                let mut out = vec![0; planned.elements() * size];
                for piece in parts {
                    piece.view.put(&part(piece)?, size, &mut out);
                }
                Ok(Cow::Owned(out))
            }
        }
    }
}

/// RWKV-4 has no group norm, and a file may say something about it all the same.
fn comparable(config: &Config) -> Config {
    let mut config = config.clone();
    if config.version == Version::V4 {
        config.group_norm_eps = Config::GROUP_NORM_EPS;
    }
    config
}

/// Whose names a target's tensors carry.
fn layout_of(target: Target) -> Layout {
    match target {
        Target::Pth | Target::Safetensors | Target::Folder(FolderLayout::Native) => Layout::Official,
        Target::Folder(FolderLayout::Transformers) => Layout::HuggingFace,
        Target::Folder(FolderLayout::Fla) => Layout::Fla,
        Target::Gguf => Layout::Gguf,
    }
}

/// The file for messages.
fn file_of(source: &Checkpoint) -> PathBuf {
    source.path().to_path_buf()
}
