//! Token ids back to text, as they come.

use crate::Tokenizer;

/// Turns bytes that arrive in any pieces into text, whole characters at a time.
///
/// Over any split of the input the pieces add up to what [`String::from_utf8_lossy`] makes of the whole: bytes that
/// may still become a character are held back, bytes that no longer can become U+FFFD.
#[derive(Clone, Debug, Default)]
pub struct Utf8Stream {
    /// The start of a character, at most three bytes.
    pending: Vec<u8>,
}

impl Utf8Stream {
    /// Takes the next bytes and returns the text that is now certain.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let joined;
        let bytes = if self.pending.is_empty() {
            bytes
        } else {
            self.pending.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.pending);
            &joined
        };
        let mut text = String::with_capacity(bytes.len());
        let mut chunks = bytes.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if chunks.peek().is_none() && could_become_a_character(invalid) {
                self.pending = invalid.to_vec();
            } else if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }

    /// The end of the input: U+FFFD if it stopped inside a character, else nothing. The stream starts afresh.
    pub fn finish(&mut self) -> String {
        let rest = std::mem::take(&mut self.pending);
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// The bytes held back: the start of a character.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }
}

fn could_become_a_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Decodes a stream of token ids: [`Tokenizer::decoder`].
///
/// For output that must keep every byte as it is, write [`Tokenizer::token_bytes`] instead.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    stream: Utf8Stream,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> Decoder<'a> {
        Decoder { tokenizer, stream: Utf8Stream::default() }
    }

    /// Takes the next id and returns the characters it completes. An id without bytes adds nothing.
    pub fn push(&mut self, id: u32) -> String {
        match self.tokenizer.token_bytes(id) {
            Some(bytes) => self.stream.push(&bytes),
            None => String::new(),
        }
    }

    /// Takes bytes that were not tokens, for example of a stop string cut away.
    pub fn push_bytes(&mut self, bytes: &[u8]) -> String {
        self.stream.push(bytes)
    }

    /// The end of the text: U+FFFD if it stopped inside a character, else nothing. The decoder starts afresh.
    pub fn finish(&mut self) -> String {
        self.stream.finish()
    }
}
