//! From drawn tokens to what the user sees: whole characters, nothing of a stop string.

use anser_engine::sampling::Choice;
use anser_tokenizer::{StopMatcher, Tokenizer, Utf8Stream};

/// The text of one generation as it grows.
pub(crate) struct Reply<'t> {
    tokenizer: &'t Tokenizer,
    matcher: StopMatcher,
    /// `None` lets raw bytes through.
    characters: Option<Utf8Stream>,
    stopped: bool,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logprobs: Vec<f32>,
}

impl<'t> Reply<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer, stops: &[String], raw: bool) -> Reply<'t> {
        Reply {
            tokenizer,
            matcher: StopMatcher::new(stops),
            characters: (!raw).then(Utf8Stream::default),
            stopped: false,
            tokens: Vec::new(),
            logprobs: Vec::new(),
        }
    }

    /// Takes the next token and returns the bytes that can be shown now.
    pub(crate) fn push(&mut self, choice: Choice) -> Vec<u8> {
        self.tokens.push(choice.token);
        self.logprobs.push(choice.logprob);
        let bytes = self.tokenizer.token_bytes(choice.token).unwrap_or_default();
        let safe = self.matcher.push_bytes(&bytes);
        self.stopped = self.matcher.stopped().is_some();
        self.characters(safe)
    }

    /// Whether a stop string was met.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped
    }

    /// The rest: what was held back in case it became a stop string or a character.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        let rest = self.matcher.finish_bytes();
        let mut out = self.characters(rest);
        if let Some(characters) = &mut self.characters {
            out.extend_from_slice(characters.finish().as_bytes());
        }
        out
    }

    fn characters(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        match &mut self.characters {
            Some(characters) => characters.push(&bytes).into_bytes(),
            None => bytes,
        }
    }
}
