//! What can go wrong while a model is loaded or run.

use std::path::PathBuf;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] anser_checkpoint::Error),

    /// A weight is NaN or infinite.
    #[error(
        "{path}: tensor {tensor} holds {value} in row {row}: the weights are damaged, or were saved after training had diverged"
    )]
    NonFiniteWeight {
        /// The checkpoint.
        path: PathBuf,
        /// Official name of the tensor.
        tensor: String,
        /// Row of the first bad value.
        row: usize,
        /// The bad value.
        value: f32,
    },

    /// A weight is finite but too large for the storage that was asked for.
    #[error("{path}: tensor {tensor} holds {value} in row {row}, beyond the range of {storage}: use bf16 or f32")]
    OutOfRange {
        /// The checkpoint.
        path: PathBuf,
        /// Official name of the tensor.
        tensor: String,
        /// Row of the first value out of range.
        row: usize,
        /// The value.
        value: f32,
        /// The storage it does not fit.
        storage: anser_kernels::linear::Storage,
    },

    /// A packed file cannot be loaded or made.
    #[error("{path}: {what}: pack the original model again (anser quantize), or take it as it is")]
    Packed {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },

    /// A token id is not in the model's vocabulary.
    #[error(
        "token {token} at position {position} is outside the model's vocabulary of {vocab}: is this the model's tokenizer?"
    )]
    TokenOutOfRange {
        /// The token id.
        token: u32,
        /// Its row in the batch.
        position: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },

    /// The borders of a ragged batch do not describe its tokens and states.
    #[error("ragged batch: {what}: expected {expected}, found {found}")]
    Batch {
        /// What does not fit.
        what: &'static str,
        /// The value that would fit.
        expected: usize,
        /// The value given.
        found: usize,
    },

    /// A state was made for a model of other shapes.
    #[error(
        "sequence {sequence}: the state belongs to a model of other shapes: this model needs {expected} numbers, the state holds {found}"
    )]
    ForeignState {
        /// Index of the sequence in the batch.
        sequence: usize,
        /// Numbers the model's state has.
        expected: usize,
        /// Numbers the given state has.
        found: usize,
    },

    /// A value turned NaN or infinite during the forward pass; found by the numerics check.
    #[error("layer {layer}, {point}: {value} at row {row}, channel {channel}: the first non-finite value of this pass")]
    NonFinite {
        /// The layer (0-based).
        layer: usize,
        /// The place in the layer.
        point: &'static str,
        /// Row in the batch.
        row: usize,
        /// Channel.
        channel: usize,
        /// NaN or an infinity.
        value: f32,
    },

    /// The distribution over the next token cannot be formed.
    #[error(
        "the logits hold no finite maximum (NaN, or every token is banned): run with --check-numerics to see which layer is the first"
    )]
    NonFiniteLogits,

    /// A sampling option is out of its range.
    #[error("sampling option {field}: expected {expected}, found {found}")]
    Sampling {
        /// Name of the option.
        field: &'static str,
        /// The accepted range.
        expected: &'static str,
        /// The value given.
        found: String,
    },

    /// There is nothing to run: a request without a single token and without a state to continue from.
    #[error("the prompt is empty: give at least one token, or a state to continue from")]
    EmptyPrompt,
}
