//! Probabilities of given texts: the common ground of perplexity and of every evaluation.

use crate::{Batch, Error, Executor, Logits, Model, State, sampling};

/// How likely one token was, given everything before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Natural logarithm of the token's probability.
    pub logprob: f32,
    /// Whether the token was the most likely one.
    pub greedy: bool,
}

/// Rows of one pass.
const ROWS: usize = 256;

/// Scores the tokens `first..` of every sequence (`(tokens, first)`, `first >= 1`) given the tokens before them.
///
/// A sequence's state ends up having read all its tokens but the last, so that a long text is scored in slices: the
/// next slice begins with the last token of this one.
///
/// # Errors
/// [`Error::EmptyPrompt`] when `first` is 0 (nothing stands before the first token); otherwise as [`Model::forward`].
pub fn score(
    model: &dyn Model,
    exec: &mut Executor,
    sequences: &[(&[u32], usize)],
    states: &mut [&mut State],
) -> Result<Vec<Vec<Score>>, Error> {
    if sequences.len() != states.len() {
        let (expected, found) = (sequences.len(), states.len());
        return Err(Error::Batch { what: "number of states (one a sequence)", expected, found });
    }
    if sequences.iter().any(|&(_, first)| first == 0) {
        return Err(Error::EmptyPrompt);
    }
    let vocab = model.config().vocab;
    let mut scores: Vec<Vec<Score>> = sequences.iter().map(|(tokens, _)| Vec::with_capacity(tokens.len())).collect();
    let mut read = vec![0; sequences.len()];
    let (mut tokens, mut wanted, mut targets, mut logits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    loop {
        // As much of the unfinished sequences as fits one pass.
        tokens.clear();
        wanted.clear();
        targets.clear();
        let mut borders = vec![0];
        let mut chosen = Vec::new();
        for (s, (sequence, first)) in sequences.iter().enumerate() {
            let end = sequence.len().saturating_sub(1).min(read[s] + ROWS - tokens.len());
            if end <= read[s] {
                continue;
            }
            for at in read[s]..end {
                if at + 1 >= *first {
                    wanted.push(tokens.len());
                    targets.push((s, sequence[at + 1]));
                }
                tokens.push(sequence[at]);
            }
            read[s] = end;
            borders.push(tokens.len());
            chosen.push(s);
        }
        if tokens.is_empty() {
            return Ok(scores);
        }
        if let Some(position) = targets.iter().position(|&(_, target)| target as usize >= vocab) {
            return Err(Error::TokenOutOfRange { token: targets[position].1, position, vocab });
        }
        let batch = Batch { tokens: &tokens, cu_seqlens: &borders, logits: Logits::Rows(&wanted) };
        let mut chosen = chosen.into_iter().peekable();
        let mut taking: Vec<&mut State> = states
            .iter_mut()
            .enumerate()
            .filter_map(|(s, state)| chosen.next_if_eq(&s).map(|_| &mut **state))
            .collect();
        model.forward(exec, &batch, &mut taking, &mut logits)?;
        for (row, &(s, target)) in logits.chunks_exact(vocab).zip(&targets) {
            let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if !best.is_finite() {
                return Err(Error::NonFiniteLogits);
            }
            let logprob = sampling::log_probability(row, target);
            // Ties go to the lowest id, as in greedy decoding.
            let greedy = row.iter().position(|&x| x == best) == Some(target as usize);
            scores[s].push(Score { logprob, greedy });
        }
    }
}
