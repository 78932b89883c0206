//! From files to batches.
//!
//! [`Corpus`] holds tokens and document borders, read from text, JSON lines or [`binidx`] files. [`Packed`] and
//! [`MagicPrime`] draw training batches from it, each a pure function of the step, and [`Corpus::evaluation`] goes
//! through it once.

pub mod binidx;
mod conversation;
mod corpus;
mod evaluation;
mod fingerprint;
mod magic_prime;
mod packed;
mod sources;
mod text;

pub use binidx::{Binidx, BinidxWriter, TokenType};
pub use corpus::{Corpus, LoadOptions, Progress};
pub use evaluation::Evaluation;
pub use fingerprint::Fingerprint;
pub use magic_prime::{MagicPrime, magic_prime};
pub use packed::Packed;

/// One training batch: sequences packed one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// What the model reads. `[ΣT]`
    pub tokens: Vec<u32>,
    /// What it should say: the token after each. `[ΣT]`
    pub targets: Vec<u32>,
    /// 1 where the target counts in the loss, 0 where it does not. `[ΣT]`
    pub weights: Vec<f32>,
    /// Where sequences begin, and ΣT. Neither shift nor state crosses these borders. `[S + 1]`
    pub cu_seqlens: Vec<usize>,
}

impl Batch {
    /// A batch without sequences.
    pub fn new() -> Batch {
        Batch { tokens: Vec::new(), targets: Vec::new(), weights: Vec::new(), cu_seqlens: vec![0] }
    }

    /// Sequences in it.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// Sum of the weights: what the summed loss is divided by.
    pub fn weight(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w)).sum()
    }

    /// Ends the sequence that the tokens since the last border make; nothing if there are none.
    pub(crate) fn end_sequence(&mut self) {
        if self.cu_seqlens.last() != Some(&self.tokens.len()) {
            self.cu_seqlens.push(self.tokens.len());
        }
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}
