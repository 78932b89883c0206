//! AdamW over a model: moments in f32 under the parameters' names, one fused pass a tensor.

use std::collections::BTreeMap;

use anser_kernels::optimizer::{AdamW, adamw, first_non_finite, sum_of_squares};
use anser_nn::gradients::{Gradients, Trainable};
use anser_nn::threads::pool;

use crate::groups::Group;

/// The two moments of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Of the gradient.
    pub first: Vec<f32>,
    /// Of its square.
    pub second: Vec<f32>,
}

/// What AdamW remembers between steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Optimizer {
    /// Steps done.
    pub step: u64,
    /// By official name; tensors without a gradient have none.
    pub moments: BTreeMap<String, Moments>,
}

impl Optimizer {
    /// One step. `hyper` is that of a tensor whose group is neutral; its `step` is set here. `group` says how a tensor
    /// is treated, `scale` multiplies every gradient (clipping). Tensors without a gradient are left alone.
    pub fn step<M: Trainable>(
        &mut self,
        model: M,
        gradients: &Gradients,
        scale: f32,
        hyper: &AdamW,
        group: impl Fn(&str, &[usize]) -> Group,
    ) -> M {
        self.step += 1;
        let pool = pool();
        let mut given = gradients.tensors.iter();
        model.update(|name, shape, values| {
            // The model is traversed in the order in which its gradients were taken.
            let Some((_, gradient)) = given.next().filter(|(own, gradient)| own == name && !gradient.is_empty()) else {
                return;
            };
            let moments = self
                .moments
                .entry(name.to_string())
                .or_insert_with(|| Moments { first: vec![0.0; values.len()], second: vec![0.0; values.len()] });
            let group = group(name, shape);
            let hyper = AdamW {
                lr: hyper.lr * f64::from(group.lr_scale),
                weight_decay: if group.weight_decay { hyper.weight_decay } else { 0.0 },
                step: self.step,
                ..*hyper
            };
            adamw(&pool, &hyper, values, gradient, scale, &mut moments.first, &mut moments.second);
        })
    }
}

/// The Euclidean norm of all gradients together.
pub fn norm(gradients: &Gradients) -> f64 {
    let pool = pool();
    gradients.tensors.iter().map(|(_, values)| sum_of_squares(&pool, values)).sum::<f64>().sqrt()
}

/// The first tensor with a NaN or an infinity: of the parameters, or else of the gradients, in words.
pub fn not_finite(model: &impl Trainable, gradients: &Gradients) -> Option<String> {
    let mut found = None;
    model.read(|name, _, values| {
        if found.is_none()
            && let Some(index) = first_non_finite(values)
        {
            found = Some(format!("parameter `{name}` is {} at element {index}", values[index]));
        }
    });
    let bad = |(name, values): &(String, Vec<f32>)| {
        let index = first_non_finite(values)?;
        Some(format!("the gradient of `{name}` is {} at element {index}", values[index]))
    };
    found.or_else(|| gradients.tensors.iter().find_map(bad))
}
