use super::packed::check;
use super::{Batch, Corpus};
use crate::Error;

/// All of a corpus once, in order. An iterator over its batches.
pub struct Evaluation<'a> {
    corpus: &'a Corpus,
    context: u64,
    max_tokens: u64,
    /// The next target: its document and its place there.
    document: u64,
    from: u64,
}

impl Corpus {
    /// Batches that hold every target once, in order: documents in sequences of `context` (the last one shorter), as
    /// many as fit in `max_tokens` a batch.
    ///
    /// A sequence is never longer than a batch may be, so `max_tokens` below `context` shortens it.
    pub fn evaluation(&self, context: usize, max_tokens: usize) -> Result<Evaluation<'_>, Error> {
        check(context, max_tokens)?;
        let context = context.min(max_tokens) as u64;
        Ok(Evaluation { corpus: self, context, max_tokens: max_tokens as u64, document: 0, from: 0 })
    }
}

impl Iterator for Evaluation<'_> {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Result<Batch, Error>> {
        let mut batch = Batch::new();
        while self.document < self.corpus.documents() {
            let count = (self.corpus.targets_of(self.document) - self.from).min(self.context);
            if batch.tokens.len() as u64 + count > self.max_tokens {
                break;
            }
            if count == 0 {
                (self.document, self.from) = (self.document + 1, 0);
                continue;
            }
            if let Err(error) = self.corpus.read(self.document, self.from, count, &mut batch) {
                // What follows would have the same trouble, or none that anyone could trust.
                self.document = self.corpus.documents();
                return Some(Err(error));
            }
            batch.end_sequence();
            self.from += count;
        }
        (!batch.tokens.is_empty()).then_some(Ok(batch))
    }
}
