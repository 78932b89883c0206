//! Anser: one toolkit for the RWKV family. This crate re-exports the libraries the program is made of.

pub use anser_checkpoint as checkpoint;
pub use anser_engine as engine;
pub use anser_kernels as kernels;
pub use anser_tokenizer as tokenizer;
