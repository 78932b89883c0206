//! DLinear: a moving average and what is left of it, each through a matrix of its own. The simplest rival of every
//! forecaster with depth.
//!
//! Source: Zeng et al. 2023, "Are Transformers Effective for Time Series Forecasting?"; cure-lab/LTSF-Linear@0c11366.
//! ```text
//! trend[t] = mean x[t-12..=t+12], the ends repeated      y = W_seasonal (x - trend) + b_seasonal + W_trend trend + b_trend
//! ```

use burn::module::{Module, ModuleMapper, ModuleVisitor};
use burn::tensor::{Device, Tensor, TensorData};

use crate::error::Error;
use crate::gradients::{Gradients, Trainable, values};
use crate::layer::{Affine, Read, Weights};
use crate::task::{Step, scalar};

/// Width of the moving average.
const KERNEL: usize = 25;

/// The model; channels share it and never see each other.
#[derive(Module, Debug)]
pub struct DLinear {
    seasonal: Affine,
    trend: Affine,
}

impl DLinear {
    /// Reads the model: L values in, H out.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(look_back: usize, horizon: usize, device: &Device, read: &mut Read<'_>) -> Result<DLinear, Error> {
        let mut weights = Weights::new(device, read);
        Ok(DLinear {
            seasonal: Affine::new(weights.at("seasonal"), horizon, look_back)?,
            trend: Affine::new(weights.at("trend"), horizon, look_back)?,
        })
    }

    /// How many numbers the model consists of.
    pub fn parameters(&self) -> usize {
        self.num_params()
    }

    /// The H values after each of S windows [S, L].
    pub fn forward(&self, windows: &[f32]) -> Tensor<2> {
        let [_, look_back] = self.seasonal.weight.dims();
        let device = self.seasonal.weight.val().device().inner();
        let trend: Vec<f32> = windows.chunks_exact(look_back).flat_map(average).collect();
        let rest: Vec<f32> = windows.iter().zip(&trend).map(|(x, trend)| x - trend).collect();
        let rows = windows.len() / look_back;
        let tensor = |values| Tensor::<2>::from_data(TensorData::new(values, [rows, look_back]), &device);
        self.seasonal.forward(&tensor(rest)) + self.trend.forward(&tensor(trend))
    }

    /// The mean squared error against `targets` [S, H], and its gradient.
    pub fn gradients(&self, windows: &[f32], targets: &[f32]) -> Step {
        let predictions = self.forward(windows);
        let device = predictions.device().inner();
        let targets = Tensor::<2>::from_data(TensorData::new(targets.to_vec(), predictions.dims()), &device);
        let off = predictions - targets;
        let loss = (off.clone() * off).mean();
        let mut graph = loss.clone().backward();
        Step { loss: scalar(&loss), gradients: Gradients::take(self, &mut graph) }
    }

    /// The H values after each of S windows, outside of any graph.
    pub fn predict(&self, windows: &[f32]) -> Vec<f32> {
        values(self.valid().forward(windows))
    }
}

impl Trainable for DLinear {
    fn visit(&self, visitor: &mut impl ModuleVisitor) {
        Module::visit(self, visitor);
    }

    fn map(self, mapper: &mut impl ModuleMapper) -> DLinear {
        Module::map(self, mapper)
    }
}

/// The moving average of a window.
fn average(x: &[f32]) -> Vec<f32> {
    let half = KERNEL as isize / 2;
    let last = x.len() as isize - 1;
    let at = |t: isize| f64::from(x[t.clamp(0, last) as usize]);
    let mut sum: f64 = (-half..=half).map(at).sum();
    let mut out = Vec::with_capacity(x.len());
    for t in 0..=last {
        out.push((sum / KERNEL as f64) as f32);
        sum += at(t + half + 1) - at(t - half);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::average;

    #[test]
    fn moving_average() {
        let x: Vec<f32> = (0..40).map(|t| (t * t % 17) as f32).collect();
        let got = average(&x);
        for (t, got) in got.iter().enumerate() {
            let at = |i: i32| x[(t as i32 + i).clamp(0, 39) as usize];
            let want = (-12..=12).map(at).sum::<f32>() / 25.0;
            assert!((got - want).abs() < 1e-5, "{t}: {got}, {want}");
        }
    }
}
