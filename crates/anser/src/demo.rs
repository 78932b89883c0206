//! The model that is part of the program: small, trained by it, and what every command takes when no model is named.

use anser_checkpoint::{Checkpoint, Error, OpenOptions};
use anser_tokenizer::Tokenizer;

/// Its name, which stands where a path would.
pub const NAME: &str = "demo";

static WEIGHTS: &[u8] = include_bytes!("../assets/demo.safetensors");
static TOKENIZER: &str = include_str!("../assets/demo-tokenizer.json");

/// Opens the weights; nothing is copied.
///
/// # Errors
/// As [`Checkpoint::open`]: only if the program was built with a damaged file.
pub fn checkpoint(options: &OpenOptions) -> Result<Checkpoint, Error> {
    Checkpoint::from_static_with(NAME, WEIGHTS, options)
}

/// The vocabulary.
///
/// # Errors
/// Only if the program was built with a damaged file.
pub fn tokenizer() -> Result<Tokenizer, anser_tokenizer::Error> {
    Tokenizer::from_bytes(TOKENIZER.as_bytes(), None)
}

/// The vocabulary, as the text of a `tokenizer.json`.
pub fn tokenizer_json() -> &'static str {
    TOKENIZER
}
