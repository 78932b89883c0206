//! Forecasting: normalised patches, what follows them, and the gradient of the squared error.
//!
//! Per channel of a window, `z = (x - mean) / deviation` with the window's own mean and deviation
//! `sqrt(variance + 1e-5)` (of the population), both constants to the gradient; predictions are turned back by them.

use burn::tensor::{Tensor, TensorData};

use super::{Step, scalar};
use crate::gradients::{Gradients, values};
use crate::model::series::{Patches, SeriesModel};

/// Mean and deviation of a channel of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Mean.
    pub mean: f32,
    /// `sqrt(variance + 1e-5)`.
    pub deviation: f32,
}

impl Norm {
    /// Of these values; of none, mean 0.
    pub fn of(x: &[f32]) -> Norm {
        let count = x.len().max(1) as f64;
        let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
        let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        Norm { mean: mean as f32, deviation: (variance + 1e-5).sqrt() as f32 }
    }

    /// `(x - mean) / deviation`.
    pub fn apply(&self, x: f32) -> f32 {
        (x - self.mean) / self.deviation
    }

    /// `z deviation + mean`.
    pub fn undo(&self, z: f32) -> f32 {
        z * self.deviation + self.mean
    }
}

/// Windows to learn from: patches, what follows the asked ones, and how much each value counts.
#[derive(Clone, Debug)]
pub struct Windows {
    /// What the model sees.
    pub patches: Patches,
    /// What follows each asked patch, normalised, [asked, Q]; anything where nothing is known.
    pub targets: Vec<f32>,
    /// How much each counts, [asked, Q]; 0 where nothing is known. The loss is the sum of weighted squares.
    pub weights: Vec<f32>,
}

/// The loss `sum(weights (predictions - targets)^2)`.
pub fn loss(model: &SeriesModel, windows: &Windows) -> Tensor<1> {
    let mut state = model.initial_state(windows.patches.cu_seqlens.len() - 1);
    let predictions = model.forward(&windows.patches, &mut state);
    let device = predictions.device().inner();
    let constant =
        |values: &[f32]| Tensor::<2>::from_data(TensorData::new(values.to_vec(), predictions.dims()), &device);
    let off = predictions.clone() - constant(&windows.targets);
    (off.clone() * off * constant(&windows.weights)).sum()
}

/// The loss and its gradient.
pub fn gradients(model: &SeriesModel, windows: &Windows) -> Step {
    let loss = loss(model, windows);
    let mut graph = loss.clone().backward();
    Step { loss: scalar(&loss), gradients: Gradients::take(model, &mut graph) }
}

/// Predictions [asked, Q] for rows that begin with nothing. `model` is outside of any graph
/// ([`SeriesModel::without_graph`]).
pub fn predict(model: &SeriesModel, patches: &Patches) -> Vec<f32> {
    let mut state = model.initial_state(patches.cu_seqlens.len() - 1);
    values(model.forward(patches, &mut state))
}

/// Tokens that one forward pass of a forecast takes.
const TOKENS: usize = 8192;

/// The `horizon` values after each of S windows [S, `look_back`]: [S, `horizon`]. Predictions are taken for known, the
/// oldest values leave, mean and deviation are those of the new window, and so on.
///
/// # Panics
/// When `look_back` holds no whole patch, or `windows` no whole windows.
pub fn roll(model: &SeriesModel, windows: &[f32], look_back: usize, horizon: usize) -> Vec<f32> {
    let s = model.sizes();
    assert!(look_back >= s.patch && windows.len().is_multiple_of(look_back), "windows of whole patches");
    let patches = look_back / s.patch;
    let seen = patches * s.patch;
    let mut out = Vec::with_capacity(windows.len() / look_back * horizon);
    for group in windows.chunks((TOKENS / patches).max(1) * look_back) {
        let mut rows: Vec<Vec<f32>> = group.chunks_exact(look_back).map(<[f32]>::to_vec).collect();
        let cu_seqlens: Vec<usize> = (0..=rows.len()).map(|row| row * patches).collect();
        let asked = Some(Patches::last(&cu_seqlens));
        let mut input = Patches { values: Vec::new(), cu_seqlens: cu_seqlens.into(), asked };
        while rows[0].len() < look_back + horizon {
            // As many values as whole patches hold, the last ones.
            let windows = || rows.iter().map(|row| &row[row.len() - seen..]);
            let norms: Vec<Norm> = windows().map(Norm::of).collect();
            input.values =
                windows().zip(&norms).flat_map(|(window, norm)| window.iter().map(|&x| norm.apply(x))).collect();
            let said = predict(model, &input);
            for ((row, norm), said) in rows.iter_mut().zip(&norms).zip(said.chunks_exact(s.output)) {
                row.extend(said.iter().map(|&z| norm.undo(z)));
            }
        }
        rows.iter().for_each(|row| out.extend_from_slice(&row[look_back..look_back + horizon]));
    }
    out
}
