use super::packed::check;
use super::{Batch, Corpus};
use crate::Error;

/// The sampling of the official RWKV trainer: slots of `context` tokens of the corpus as one string, visited in an order
/// that a cube modulo a prime gives, without regard to documents.
///
/// Sample number i (from 1) reads slot `(⌊p (√5-1)/2⌋ i³) mod p`, where p is [`magic_prime`]. Since p mod 3 = 2, cubing
/// is a permutation: p samples in a row visit every slot once. Every window is one sequence.
pub struct MagicPrime {
    corpus: Corpus,
    context: u64,
    rows: usize,
    prime: u64,
    factor: u64,
}

/// The largest prime p with p mod 3 = 2 that is at most ⌊tokens / context⌋ - 1; none if there is none.
pub fn magic_prime(tokens: u64, context: u64) -> Option<u64> {
    let slots = tokens.checked_div(context)?.checked_sub(1)?;
    (2..=slots).rev().find(|&n| n % 3 == 2 && is_prime(n))
}

/// By trial: some candidates of n = 10^9 take a millisecond in all.
fn is_prime(n: u64) -> bool {
    n >= 2 && (2..).take_while(|&d: &u64| d.saturating_mul(d) <= n).all(|d| !n.is_multiple_of(d))
}

impl MagicPrime {
    /// Batches of `rows` windows of `context` targets.
    ///
    /// # Errors
    /// [`Error::Setting`] if either is 0 or the corpus is several token files, which are no one string;
    /// [`Error::CorpusTooShort`] if it has less than three windows.
    pub fn new(corpus: &Corpus, context: usize, rows: usize) -> Result<MagicPrime, Error> {
        check(context, rows)?;
        if corpus.stream().is_none() {
            return Err(Error::Setting {
                name: "data",
                found: corpus.name().to_string(),
                expected: "one pair of .idx and .bin for magic-prime sampling".to_string(),
            });
        }
        let prime = magic_prime(corpus.tokens(), context as u64).ok_or_else(|| Error::CorpusTooShort {
            data: corpus.name().to_string(),
            available: corpus.tokens(),
            context,
        })?;
        // In double precision, rounding and all, as the official trainer computes it.
        let factor = (prime as f64 * ((5f64.sqrt() - 1.0) / 2.0)) as u64;
        Ok(MagicPrime { corpus: corpus.clone(), context: context as u64, rows, prime, factor })
    }

    /// Number of slots, all visited once in as many samples.
    pub fn prime(&self) -> u64 {
        self.prime
    }

    /// The first token of sample `sample`, counted from 1.
    pub fn offset(&self, sample: u64) -> u64 {
        let p = u128::from(self.prime);
        let i = u128::from(sample) % p;
        let slot = u128::from(self.factor) % p * (i * i % p * i % p) % p;
        slot as u64 * self.context
    }

    /// The batch of step `step`, counted from 0: samples `step·rows + 1` and following, as one device draws them.
    pub fn batch(&self, step: u64) -> Result<Batch, Error> {
        let mut batch = Batch::new();
        let Some(stream) = self.corpus.stream() else { return Ok(batch) };
        for row in 1..=self.rows as u64 {
            let sample = step.wrapping_mul(self.rows as u64).wrapping_add(row);
            stream.read(self.offset(sample), self.context, &mut batch)?;
            batch.end_sequence();
        }
        Ok(batch)
    }
}
