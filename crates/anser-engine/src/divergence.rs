//! How far one model's predictions are from another's: what quantisation costs.

use anser_kernels::activation::log_softmax;

use crate::{Batch, Error, Executor, Logits, Model};

/// Two models on one text.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Divergence {
    /// Predicted tokens.
    pub tokens: usize,
    /// Mean loss of the reference, in nats a token.
    pub reference_nats: f64,
    /// Mean loss of the model.
    pub nats: f64,
    /// Mean Kullback-Leibler divergence of the model's predictions from the reference's, `KL(reference || model)`, in
    /// nats a token.
    pub kl: f64,
    /// Share of the places where both find the same token most likely.
    pub same_top: f64,
}

/// Rows of one pass.
const ROWS: usize = 128;

/// Reads `tokens` with both models, states carried, and compares their predictions of every token but the first.
/// `progress` hears the number of tokens read, and ends the comparison by answering `false`: the result is then `None`.
///
/// # Errors
/// [`Error::EmptyPrompt`] when there are fewer than two tokens; otherwise as [`Model::forward`].
pub fn divergence(
    reference: &dyn Model,
    model: &dyn Model,
    exec: &mut Executor,
    tokens: &[u32],
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Divergence>, Error> {
    let Some((_, targets)) = tokens.split_first().filter(|(_, targets)| !targets.is_empty()) else {
        return Err(Error::EmptyPrompt);
    };
    let vocab = model.config().vocab;
    if reference.config().vocab != vocab {
        let (what, expected) = ("vocabulary of the reference", reference.config().vocab);
        return Err(Error::Batch { what, expected, found: vocab });
    }
    let mut states = [reference.new_state(), model.new_state()];
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    let (mut total, mut same) = (Divergence { tokens: targets.len(), ..Divergence::default() }, 0);
    for (i, targets) in targets.chunks(ROWS).enumerate() {
        let tokens = &tokens[i * ROWS..i * ROWS + targets.len()];
        let batch = Batch { tokens, cu_seqlens: &[0, tokens.len()], logits: Logits::All };
        let [first, second] = &mut states;
        reference.forward(exec, &batch, &mut [first], &mut expected)?;
        model.forward(exec, &batch, &mut [second], &mut found)?;
        for ((p, q), &target) in expected.chunks_exact_mut(vocab).zip(found.chunks_exact_mut(vocab)).zip(targets) {
            if target as usize >= vocab {
                return Err(Error::TokenOutOfRange { token: target, position: i * ROWS, vocab });
            }
            log_softmax(p);
            log_softmax(q);
            total.reference_nats -= f64::from(p[target as usize]);
            total.nats -= f64::from(q[target as usize]);
            total.kl += p.iter().zip(&*q).map(|(&p, &q)| f64::from(p.exp() * (p - q))).sum::<f64>();
            same += usize::from(top(p) == top(q));
        }
        if !progress(i * ROWS + tokens.len()) {
            return Ok(None);
        }
    }
    let count = total.tokens as f64;
    for sum in [&mut total.reference_nats, &mut total.nats, &mut total.kl] {
        *sum /= count;
    }
    total.same_top = same as f64 / count;
    Ok(Some(total))
}

fn top(row: &[f32]) -> Option<usize> {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]))
}
