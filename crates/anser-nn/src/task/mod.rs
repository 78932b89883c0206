//! What models are trained for.

pub mod forecast;
pub mod language;
pub mod stream;

use burn::tensor::Tensor;

use crate::gradients::Gradients;

/// A loss and its gradient.
#[derive(Clone, Debug)]
pub struct Step {
    /// The loss.
    pub loss: f32,
    /// By every parameter.
    pub gradients: Gradients,
}

/// The value of a loss.
pub fn scalar(loss: &Tensor<1>) -> f32 {
    loss.clone().inner().into_scalar()
}
