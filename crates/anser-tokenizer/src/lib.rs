//! Text to tokens and back for RWKV language models.
//!
//! - [`Tokenizer`]: the World vocabulary (embedded), bytes, or a Hugging Face `tokenizer.json`.
//! - [`Decoder`]: token ids to text as they come, never half a character, never a byte lost.
//! - [`StopMatcher`]: ends a reply at a stop string, across token borders.
//! - [`train_bpe`]: a vocabulary learned from one's own text.
//! - [`chat`]: the prompt formats the models were trained on, as data. Nothing is ever added behind the caller's back.

pub mod chat;
mod decoder;
mod error;
mod hugging_face;
mod stop;
mod tokenizer;
mod train;
mod trie;
pub mod vocabulary;
mod world;

pub use chat::{Message, RenderOptions, Role, Template};
pub use decoder::{Decoder, Utf8Stream};
pub use error::Error;
pub use hugging_face::HuggingFace;
pub use stop::StopMatcher;
pub use tokenizer::Tokenizer;
pub use train::{END_OF_DOCUMENT, SMALLEST_BPE, train_bpe};
pub use world::World;
