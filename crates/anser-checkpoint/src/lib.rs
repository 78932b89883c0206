//! Reads RWKV checkpoints: official `.pth` files, safetensors (single and sharded), the Hugging Face layouts, GGUF; and
//! states as files. Writes models as safetensors and `.pth`, and packed files, which hold matrices in the engine's form.
//! [`Export`] writes an opened model in any of the formats that are read.
//!
//! [`Checkpoint::open`] tells the format from the content, the version and all sizes from names and shapes, checks every
//! tensor's shape, and then gives tensors by their official names in their official orientation, whatever the file calls
//! them. Files are mapped, not read: a tensor that lies in the file as the official one does is borrowed from there.
//!
//! [`TensorFile`] opens any file of named tensors without asking which model they make.
//!
//! The crate knows names and bytes, nothing of how a model runs. From the ground up: `raw` (mapped files and the
//! tensors in them) → `pth`, `safetensors`, `gguf` (containers) → `open` (which container, folders and shards) → `names`
//! (one table a version) → `layout` (version, sizes, windows on the stored tensors) → [`Checkpoint`] → `export`
//! (the same tables the other way).

mod checkpoint;
mod config;
mod error;
mod export;
mod folder;
mod gguf;
mod layout;
mod names;
mod open;
mod packed;
mod plain;
mod pth;
mod pth_writer;
mod raw;
mod safetensors;
pub mod state;
mod tensor;

pub use checkpoint::{Blocks, Checkpoint, Container, Format, Layout, OpenOptions, TokenizerHint};
pub use config::{Config, Ranks, Version};
pub use error::Error;
pub use export::{Export, ExportOptions, FolderLayout, Progress, Target};
pub use gguf::writer::Vocabulary;
pub use packed::{PackedHeader, PackedMatrix, PackedTokenizer, PackedWriter, SharedBytes};
pub use plain::TensorFile;
pub use pth_writer::{stream_pth, write_pth};
pub use safetensors::{stream_safetensors, write_safetensors};
pub use tensor::{Dtype, Precision, Tensor, TensorInfo};
