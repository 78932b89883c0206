//! The one error of this crate.

use std::path::PathBuf;

/// What can go wrong while preparing or running a training.
///
/// Every variant says where it happened, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, read, map or write a file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A setting has a value nothing can be done with.
    #[error("{name} is {found}: expected {expected}")]
    Setting {
        /// The setting's name, as the flag is called.
        name: &'static str,
        /// What was given.
        found: String,
        /// What would do.
        expected: String,
    },
    /// A tensor the architecture does not have, or not in this shape.
    #[error("{architecture} has no tensor `{tensor}` of shape {shape:?}: there are no initial values for it")]
    NoInitialValue {
        /// The tensor's name.
        tensor: String,
        /// The shape asked for.
        shape: Vec<usize>,
        /// The model's kind.
        architecture: &'static str,
    },
    /// A key of a settings file that is no setting.
    #[error("{}:{line}: unknown setting `{key}`{hint}", file.display())]
    UnknownSetting {
        /// The settings file.
        file: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// What was probably meant, as the end of the sentence; empty if nothing is near.
        hint: String,
    },
    /// A settings file that is no TOML, or holds a value of another type.
    #[error("{}: {problem}", file.display())]
    SettingsFile {
        /// The settings file.
        file: PathBuf,
        /// Where and what, as the parser says it.
        problem: String,
    },
    /// A path, folder or pattern names no data.
    #[error(
        "no data at {pattern}: expected .txt, .jsonl or .idx + .bin files, a folder of them or a pattern such as `data/*.jsonl`"
    )]
    NoFiles {
        /// What was given.
        pattern: String,
    },
    /// A data file whose name says nothing this crate reads.
    #[error("{}: expected .txt, .jsonl, .idx or .bin", file.display())]
    UnknownData {
        /// The file.
        file: PathBuf,
    },
    /// Data without two tokens in a row: nothing to predict.
    #[error(
        "{data} holds {documents} documents and {tokens} tokens, and none of them follows another: nothing to learn from"
    )]
    EmptyCorpus {
        /// The files, or what else it was made from.
        data: String,
        /// Documents found.
        documents: u64,
        /// Tokens found.
        tokens: u64,
    },
    /// Less data than one window.
    #[error("{data} has {available} tokens to predict, one window needs {context}: use a shorter context or more data")]
    CorpusTooShort {
        /// The files.
        data: String,
        /// Targets there are.
        available: u64,
        /// Targets one window has.
        context: usize,
    },
    /// A corpus that cannot be cut in a part to train on and one to hold out.
    #[error("{data}: holding out {fraction} of {tokens} tokens in {documents} documents leaves nothing on one side")]
    CannotSplit {
        /// The files.
        data: String,
        /// The part asked for.
        fraction: f64,
        /// Tokens there are.
        tokens: u64,
        /// Documents there are.
        documents: u64,
    },
    /// A line is no JSON.
    #[error("{}:{line}:{column}: not valid JSON: {problem}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column in bytes, from 1.
        column: usize,
        /// What the parser stumbled over.
        problem: String,
    },
    /// A line of JSON lacks what it is read for.
    #[error("{}:{line}: no field {expected}, found {found}", file.display())]
    MissingField {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The field or fields looked for.
        expected: String,
        /// The fields there are.
        found: String,
    },
    /// A field of a line of JSON holds something else than it should.
    #[error("{}:{line}: {field} is {found}, expected {expected}", file.display())]
    FieldType {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The field.
        field: String,
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: String,
    },
    /// A line is not UTF-8.
    #[error("{}:{line}:{column}: not UTF-8: JSON lines must be", file.display())]
    InvalidUtf8 {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column in bytes, from 1, of the first byte that belongs to no character.
        column: usize,
    },
    /// A line longer than is read into memory at once.
    #[error("{}:{line}: the line is longer than {limit} bytes: is this a .jsonl file?", file.display())]
    LineTooLong {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// The longest line that is read.
        limit: u64,
    },
    /// A conversation whose replies cannot be told apart from the rest.
    #[error("{}:{line}: {problem}", file.display())]
    Conversation {
        /// The file.
        file: PathBuf,
        /// Line, from 1.
        line: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// The tokenizer or the chat template refused a text.
    #[error("{}:{line}: {source}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// Line where the text begins, from 1.
        line: u64,
        /// What it said.
        source: anser_tokenizer::Error,
    },
    /// A token the model has no embedding for.
    #[error(
        "{data}: token {position} of document {document} is {id}, the model's vocabulary has {vocab} (ids 0 to {last}): \
         was the data made with another tokenizer?", last = vocab.saturating_sub(1)
    )]
    TokenOutsideVocabulary {
        /// The file or files.
        data: String,
        /// Document, from 0.
        document: u64,
        /// Token in the document, from 0.
        position: u64,
        /// The token.
        id: u32,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// A file ends before the data its own header promises.
    #[error("{}: {what} needs {expected} bytes, the file has {found}", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// The part that is cut off.
        what: String,
        /// Bytes promised.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// A file breaks the rules of its format.
    #[error("{}: {what}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Which rule, in words.
        what: String,
    },
    /// A data file is no longer what the run began with.
    #[error("data file changed under the run: {}: {what}", file.display())]
    DataChanged {
        /// The file.
        file: PathBuf,
        /// What changed.
        what: String,
    },
    /// A loss or a gradient is no number any more.
    #[error(
        "step {step}: {what}; the model of the last snapshot is untouched. A lower learning rate, gradient clipping or a \
         longer warm-up usually helps"
    )]
    NotFinite {
        /// The step that was not done.
        step: u64,
        /// The first tensor found to be bad.
        what: String,
    },
    /// A checkpoint could not be read or written.
    #[error(transparent)]
    Checkpoint(#[from] anser_checkpoint::Error),
    /// A tokenizer's file could not be read.
    #[error(transparent)]
    Vocabulary(#[from] anser_tokenizer::Error),
    /// The model refused what it was given.
    #[error(transparent)]
    Model(#[from] anser_nn::Error),
    /// A series could not be read or does not suffice.
    #[error(transparent)]
    Series(#[from] anser_series::Error),
}

impl Error {
    /// An [`Error::Io`] for `file`, as the argument of `map_err`.
    pub fn io(file: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
        let file = file.into();
        move |source| Error::Io { file, source }
    }
}
