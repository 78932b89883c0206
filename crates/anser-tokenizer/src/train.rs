//! A byte-level BPE vocabulary learned from text.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, TokenizerBuilder, TokenizerImpl};

use crate::Error;
use crate::hugging_face::guarded;
use crate::vocabulary::MAX_ID;

/// The text of token 0 in vocabularies made by [`train_bpe`]: the end of a document.
pub const END_OF_DOCUMENT: &str = "<|endoftext|>";

/// Tokens every vocabulary of [`train_bpe`] holds: the end of a document and one for each byte.
pub const SMALLEST_BPE: usize = 257;

type ByteLevelBpe =
    TokenizerImpl<BPE, tokenizers::NormalizerWrapper, ByteLevel, tokenizers::PostProcessorWrapper, ByteLevel>;

/// Learns a byte-level BPE vocabulary from `documents` and returns it as the text of a `tokenizer.json`.
///
/// Token 0 is [`END_OF_DOCUMENT`], 1 to 256 are the bytes, the rest are merges in the order they were learned, so that
/// any text can be encoded and decodes to itself. Words are cut as in GPT-2 (a space belongs to the word after it),
/// nothing is normalised. A pair must occur twice to be merged: a short text gives fewer tokens than `vocab_size`
/// (from [`SMALLEST_BPE`]). The result depends on the texts and their number, not on their order or on threads.
///
/// `progress` gets the bytes read so far, after each document. Time goes into reading; the merges of a few thousand
/// tokens take seconds. Memory is that of the distinct words.
///
/// # Errors
/// [`Error::Training`] if `vocab_size` is too small or too large, or if there is no text.
pub fn train_bpe<D>(
    documents: impl Iterator<Item = D> + Send,
    vocab_size: usize,
    mut progress: impl FnMut(u64) + Send,
) -> Result<Vec<u8>, Error>
where
    D: AsRef<str> + Send,
{
    if !(SMALLEST_BPE..=MAX_ID as usize + 1).contains(&vocab_size) {
        let limit = MAX_ID as usize + 1;
        return Err(Error::Training(format!(
            "a vocabulary of {vocab_size} tokens: expected {SMALLEST_BPE} (every byte and the end of a document) to {limit}"
        )));
    }
    let words = ByteLevel::new(false, true, true);
    let mut tokenizer: ByteLevelBpe = guarded(|| {
        TokenizerBuilder::new()
            .with_model(BPE::default())
            .with_pre_tokenizer(Some(words))
            .with_decoder(Some(words))
            .build()
    })?;
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect::<HashSet<char>>())
        .special_tokens(vec![AddedToken::from(END_OF_DOCUMENT, true)])
        .build();
    let read = AtomicU64::new(0);
    let counted = documents.inspect(|document| {
        let bytes = document.as_ref().len() as u64;
        progress(read.fetch_add(bytes, Ordering::Relaxed) + bytes);
    });
    guarded(|| tokenizer.train(&mut trainer, counted).map(|_| ()))?;
    if read.into_inner() == 0 {
        return Err(Error::Training("there is no text: every document is empty".to_string()));
    }
    guarded(|| tokenizer.to_string(false)).map(String::into_bytes)
}
