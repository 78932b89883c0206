use std::sync::{Arc, Mutex, PoisonError};

use super::{Batch, Corpus};
use crate::Error;
use crate::random::{Permutation, Random};

/// Training batches of whole windows: every target of the corpus once an epoch, in another order each epoch.
///
/// An epoch puts the documents in a random order, one after the other, closes them to a ring, and cuts the ring at a
/// random place into windows of `context` targets (one of them shorter, if the targets do not divide). A step takes the
/// next `rows` windows, themselves in random order; the last step of an epoch takes the rest from the next. Where a
/// window runs over the end of a document, a new sequence begins; so it does at every window.
///
/// The first token of a document is read, but predicted from nothing, so it is no target.
pub struct Packed {
    corpus: Corpus,
    context: u64,
    rows: usize,
    seed: u64,
    targets: u64,
    /// The epochs last used. A step may need two.
    epochs: Mutex<Vec<Arc<Epoch>>>,
}

/// One epoch's order.
struct Epoch {
    index: u64,
    documents: Permutation,
    /// Where in the ring each document begins, in the order of the epoch; then the number of targets.
    begins: Vec<u64>,
    windows: Permutation,
    /// Where the first window begins.
    offset: u64,
}

impl Packed {
    /// Batches of `rows` windows of `context` targets.
    ///
    /// # Errors
    /// [`Error::Setting`] if either is 0, [`Error::CorpusTooShort`] if the corpus does not fill one window.
    pub fn new(corpus: &Corpus, context: usize, rows: usize, seed: u64) -> Result<Packed, Error> {
        check(context, rows)?;
        let targets = corpus.targets();
        if targets < context as u64 {
            return Err(Error::CorpusTooShort { data: corpus.name().to_string(), available: targets, context });
        }
        let epochs = Mutex::new(Vec::new());
        Ok(Packed { corpus: corpus.clone(), context: context as u64, rows, seed, targets, epochs })
    }

    /// Windows in an epoch.
    pub fn windows(&self) -> u64 {
        self.targets.div_ceil(self.context)
    }

    /// The epoch that the first window of a step belongs to.
    pub fn epoch(&self, step: u64) -> u64 {
        step.saturating_mul(self.rows as u64) / self.windows()
    }

    /// The batch of step `step`, counted from 0: a pure function of the corpus, the settings and the step.
    pub fn batch(&self, step: u64) -> Result<Batch, Error> {
        let mut batch = Batch::new();
        for row in 0..self.rows as u64 {
            let window = step.saturating_mul(self.rows as u64).saturating_add(row);
            let epoch = self.order(window / self.windows());
            self.window(&epoch, window % self.windows(), &mut batch)?;
        }
        Ok(batch)
    }

    fn window(&self, epoch: &Epoch, i: u64, batch: &mut Batch) -> Result<(), Error> {
        let begin = epoch.windows.get(i) * self.context;
        let mut left = self.context.min(self.targets - begin);
        let mut at = (epoch.offset + begin) % self.targets;
        while left > 0 {
            // Documents without targets begin where the next one does: the last that begins here is meant.
            let place = epoch.begins.partition_point(|&b| b <= at) - 1;
            let from = at - epoch.begins[place];
            let count = left.min(epoch.begins[place + 1] - at);
            self.corpus.read(epoch.documents.get(place as u64), from, count, batch)?;
            batch.end_sequence();
            left -= count;
            at = (at + count) % self.targets;
        }
        Ok(())
    }

    fn order(&self, index: u64) -> Arc<Epoch> {
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(epoch) = epochs.iter().find(|epoch| epoch.index == index) {
            return epoch.clone();
        }
        let mut random = Random::new(self.seed, "data: epoch", index);
        let documents = Permutation::new(self.corpus.documents(), &mut random);
        let mut begins = Vec::with_capacity(documents.len() as usize + 1);
        begins.push(0);
        let mut end = 0;
        for place in 0..documents.len() {
            end += self.corpus.targets_of(documents.get(place));
            begins.push(end);
        }
        let windows = Permutation::new(self.windows(), &mut random);
        let epoch = Arc::new(Epoch { index, documents, begins, windows, offset: random.below(self.context) });
        if epochs.len() == 2 {
            epochs.remove(0);
        }
        epochs.push(epoch.clone());
        epoch
    }
}

pub(super) fn check(context: usize, rows: usize) -> Result<(), Error> {
    let zero = |name| Error::Setting { name, found: "0".to_string(), expected: "1 or more".to_string() };
    match (context, rows) {
        (0, _) => Err(zero("context")),
        (_, 0) => Err(zero("batch")),
        _ => Ok(()),
    }
}
