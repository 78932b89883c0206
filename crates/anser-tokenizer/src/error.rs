use std::path::{Path, PathBuf};

/// What can go wrong while loading a tokenizer, encoding text or rendering a chat.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read tokenizer file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is larger than any tokenizer.
    #[error("{} has {bytes} bytes, more than the {limit} a tokenizer file may have: is it a model instead?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The largest size that is read.
        limit: u64,
    },
    /// A line of a `rwkv_vocab*.txt` file is not `id literal length`.
    #[error("vocabulary line {line}: {problem} (expected `id 'text' length` or `id b'bytes' length`)")]
    VocabularyLine {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The vocabulary as a whole cannot be used.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
    /// A table made by [`World::to_bytes`](crate::World::to_bytes) is damaged.
    #[error("embedded vocabulary table: {0}")]
    Table(&'static str),
    /// A Hugging Face `tokenizer.json` cannot be used.
    #[error("tokenizer.json: {0}")]
    HuggingFace(String),
    /// A vocabulary cannot be learned from what was given.
    #[error("training a tokenizer: {0}")]
    Training(String),
    /// Text for a tokenizer that only knows Unicode.
    #[error(
        "the {tokenizer} tokenizer needs UTF-8 text: byte {position} begins an invalid sequence \
         (the World, byte and byte-level BPE tokenizers take any bytes)"
    )]
    InvalidUtf8 {
        /// The tokenizer's name.
        tokenizer: String,
        /// Offset of the first byte that is not UTF-8.
        position: usize,
    },
    /// No entry of the vocabulary begins with this byte.
    #[error("byte {byte:#04x} at position {position} cannot be encoded: no entry of the vocabulary begins with it")]
    Unencodable {
        /// The byte.
        byte: u8,
        /// Its offset in the text.
        position: usize,
    },
    /// A message this template has no place for.
    #[error("the {template} chat template cannot express {what}")]
    Unsupported {
        /// The template's name.
        template: &'static str,
        /// The role or option.
        what: String,
    },
    /// A jinja template failed to compile or to render.
    #[error("chat template: {0}")]
    Template(String),
    /// A name given on a command line or in a request is not one of the choices.
    #[error("unknown {what} `{found}`: expected one of {choices}")]
    UnknownName {
        /// What kind of thing was named.
        what: &'static str,
        /// The name given.
        found: String,
        /// The names there are.
        choices: &'static str,
    },
    /// The error of one file, with the file's name.
    #[error("{}: {source}", path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Error>,
    },
}

impl Error {
    pub(crate) fn in_file(self, path: &Path) -> Error {
        Error::InFile { path: path.to_path_buf(), source: Box::new(self) }
    }
}
