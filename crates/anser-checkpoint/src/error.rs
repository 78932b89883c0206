//! The one error of this crate.

use std::path::PathBuf;

use crate::config::Version;

/// What went wrong while reading or writing a model or state file.
///
/// Every variant says in which file (and tensor) it happened, what was expected and what was found; [`Error::hint`] says
/// what to do about it where there is something to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to open, map, read or write a file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The file ends before the data its own header promises.
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
    /// The container (zip, pickle, safetensors header, GGUF header, JSON) breaks its own rules.
    #[error("{}: {what}", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Which rule, in words.
        what: String,
    },
    /// The first bytes belong to no format this crate reads.
    #[error("{}: expected a .pth, .safetensors or .gguf file or a Hugging Face folder, found {found}", file.display())]
    UnknownFormat {
        /// The file or folder.
        file: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// A file that is recognised and deliberately not read.
    #[error("{}: {what} is not supported", file.display())]
    Unsupported {
        /// The file.
        file: PathBuf,
        /// What it is.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// A pickle names an object other than tensors and dictionaries; reading it could run code, so it is refused.
    #[error("{}: the pickle asks for `{global}`; only plain tensors and dictionaries are read", file.display())]
    ForeignPickle {
        /// The file.
        file: PathBuf,
        /// Module and name of the object.
        global: String,
    },
    /// A tensor that every checkpoint of this version has is absent.
    #[error("{}: tensor `{tensor}` is missing (the file looks like RWKV-{version})", file.display())]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// Name as it would stand in the file.
        tensor: String,
        /// The version told from the other names.
        version: Version,
    },
    /// A tensor that is asked for by name is not in the file.
    #[error("{}: tensor `{tensor}` is missing", file.display())]
    Absent {
        /// The file.
        file: PathBuf,
        /// Its name.
        tensor: String,
    },
    /// A tensor that RWKV of this version does not have: computing without it would give wrong numbers.
    #[error("{}: tensor `{tensor}` is not part of RWKV-{version}", file.display())]
    UnknownTensor {
        /// The file.
        file: PathBuf,
        /// Name as it stands in the file.
        tensor: String,
        /// The version told from the other names.
        version: Version,
    },
    /// A tensor has another shape than the other tensors of the file imply.
    #[error("{}: tensor `{tensor}` has shape {found:?}, expected {expected:?}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// Name as it stands in the file.
        tensor: String,
        /// The shape that fits the rest of the model, axes of length 1 left out.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that holds no weights.
    #[error("{}: tensor `{tensor}` is stored as {found}, expected {expected}", file.display())]
    Dtype {
        /// The file.
        file: PathBuf,
        /// Name as it stands in the file.
        tensor: String,
        /// The types that can be read.
        expected: &'static str,
        /// The type in the file.
        found: String,
    },
    /// The sizes read from the tensors do not fit each other (heads times head size is not the width, for example).
    #[error("{}: {what}: expected {expected}, found {found}", file.display())]
    Config {
        /// The file.
        file: PathBuf,
        /// The size in question.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A tensor was asked for that this checkpoint does not have.
    #[error("{}: the checkpoint has no tensor `{tensor}`", file.display())]
    NoSuchTensor {
        /// The file.
        file: PathBuf,
        /// The official name asked for.
        tensor: String,
    },
    /// A weight is infinite or not a number.
    #[error("{}: tensor `{tensor}` holds {value} at element {index}, expected finite weights", file.display())]
    NonFinite {
        /// The file.
        file: PathBuf,
        /// Official name.
        tensor: String,
        /// Row-major position of the first such element.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A weight is too large for the type it is to be written in.
    #[error("{}: tensor `{tensor}` holds {value} at element {index}, which {dtype} cannot", file.display())]
    OutOfRange {
        /// The file it was read from.
        file: PathBuf,
        /// Official name.
        tensor: String,
        /// Row-major position of the first such element.
        index: usize,
        /// The value.
        value: f32,
        /// The type asked for.
        dtype: String,
    },
    /// A written model read back is not the one that was to be written.
    #[error("{}: {what} is {found} after reading back, expected {expected}", file.display())]
    Differs {
        /// The file that was written.
        file: PathBuf,
        /// The first tensor (and element) or size that differs.
        what: String,
        /// What was to be written.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The caller's progress function asked to stop.
    #[error("{}: stopped before it was whole", file.display())]
    Stopped {
        /// The file that was being written or checked.
        file: PathBuf,
    },
    /// A state belongs to another model, or two states do not fit each other.
    #[error("{}: {what} is {found}, expected {expected}", file.display())]
    StateMismatch {
        /// The state file.
        file: PathBuf,
        /// What differs: fingerprint, architecture, number of layers, a slot's shape.
        what: String,
        /// The model's.
        expected: String,
        /// The state's.
        found: String,
    },
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Io { .. } => None,
            Error::Truncated { .. } => Some("download or copy the file again; it is incomplete".into()),
            Error::Malformed { .. } => Some("the file is damaged or not what its first bytes claim; fetch it again".into()),
            Error::UnknownFormat { .. } => {
                Some("give the model file itself, or the folder that holds config.json and *.safetensors".into())
            }
            Error::Unsupported { hint, .. } => Some(hint.clone()),
            Error::ForeignPickle { .. } => Some(
                "save the bare weights again with torch.save(model.state_dict(), ...); a file from a source you do not \
                 trust may be an attack"
                    .into(),
            ),
            Error::MissingTensor { file, .. } if is_shard(file) => {
                Some(SHARD_HINT.into())
            }
            Error::Absent { .. } => Some("the file is incomplete, or of another kind of model".into()),
            Error::MissingTensor { .. } => Some("the file is incomplete, or an adapter rather than a model".into()),
            Error::UnknownTensor { .. } => {
                Some("merge adapters first; variants with extra parts cannot run without them".into())
            }
            Error::Shape { .. } | Error::Config { .. } => {
                Some("the tensors of this file do not belong to one model of the official layout".into())
            }
            Error::Dtype { .. } => Some("convert the weights to float32, float16 or bfloat16".into()),
            Error::NoSuchTensor { .. } => Some("the names present are listed by `anser info`".into()),
            Error::NonFinite { .. } => Some("the training run diverged or the file is damaged; use an earlier checkpoint".into()),
            Error::OutOfRange { .. } => Some("write it as bf16, which has the range of f32, or as f32".into()),
            Error::Differs { .. } => Some("write it again; if it differs again, this is a fault of the program".into()),
            Error::Stopped { .. } => None,
            Error::StateMismatch { .. } => Some("use the state with the model that made it".into()),
        }
    }
}

/// For files that [`is_shard`] tells.
pub(crate) const SHARD_HINT: &str = "this is one shard of several; open the folder or the *.index.json beside it";

/// Whether a file is named as one of several, `model-00001-of-00003.safetensors`.
pub(crate) fn is_shard(file: &std::path::Path) -> bool {
    file.file_name().is_some_and(|name| name.to_string_lossy().contains("-of-"))
}
