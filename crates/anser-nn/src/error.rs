//! What can go wrong with a model.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor came with another number of values than its shape has.
    #[error("tensor `{name}` should have {expected} values, {found} were given")]
    Values {
        /// Official name.
        name: String,
        /// Product of the shape.
        expected: usize,
        /// Number given.
        found: usize,
    },
    /// A version that this crate cannot train.
    #[error("RWKV-{version} runs but does not train here; 4, 5.2, 6 and 7 do")]
    Version {
        /// The version asked for.
        version: String,
    },
    /// A width that heads of this size do not fill, or a size that rotary positions cannot pair.
    #[error(
        "a model of width {width} cannot have heads of {head_size} channels: a number that divides {width} is needed, with attention an even one"
    )]
    Heads {
        /// Channels of the stream.
        width: usize,
        /// Channels a head.
        head_size: usize,
    },
    /// A size that no model has.
    #[error("{name} is {found}: a model needs {least} to {most}")]
    Size {
        /// The size.
        name: &'static str,
        /// Its value.
        found: usize,
        /// The smallest that can be.
        least: usize,
        /// The largest that is taken.
        most: usize,
    },
    /// A model that cannot go on from a state of constant size.
    #[error(
        "{backbone} keeps no state that a stream could carry: forecast from windows, or take a model of RWKV blocks"
    )]
    NoState {
        /// The model's blocks.
        backbone: String,
    },
    /// Windows or predictions that patches do not fill.
    #[error(
        "a look-back of {look_back} and predictions of {output} values: both must be multiples of the patch of {patch}"
    )]
    LookBack {
        /// Rows of a window.
        look_back: usize,
        /// Values a token.
        patch: usize,
        /// Values said at once.
        output: usize,
    },
    /// A value of a checkpoint is NaN or infinite.
    #[error("tensor `{name}` has {value} at element {index}; a model with such a value cannot be trained")]
    NotFinite {
        /// Official name.
        name: String,
        /// Row-major position.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Reading the checkpoint failed.
    #[error(transparent)]
    Checkpoint(#[from] anser_checkpoint::Error),
}
