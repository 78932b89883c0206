//! The parameters that every model is made of, and where their values come from.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::error::Error;
use crate::op::layer_norm::layer_norm;
use crate::op::linear::{affine, linear, linear_add, relu2_linear_add};
use crate::op::relu2::relu2;

/// Returns the values of a tensor, row-major, by its official name and shape.
pub type Read<'a> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> + 'a;

/// `read`, refusing values that are no numbers.
pub(crate) fn finite(read: &mut Read<'_>) -> impl FnMut(&str, &[usize]) -> Result<Vec<f32>, Error> {
    |name, shape| {
        let values = read(name, shape)?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(Error::NotFinite { name: name.into(), index, value: values[index] }),
            None => Ok(values),
        }
    }
}

/// Where a model under construction takes its values from: a checkpoint or an initialisation, by official names.
pub struct Weights<'a> {
    device: &'a Device,
    read: &'a mut Read<'a>,
    prefix: String,
}

impl<'a> Weights<'a> {
    /// `read(name, shape)` returns the values of a tensor, row-major; the parameters live on `device`.
    pub fn new(device: &'a Device, read: &'a mut Read<'a>) -> Self {
        Weights { device, read, prefix: String::new() }
    }

    /// The same, for names that begin with `name` and a dot.
    pub fn at(&mut self, name: &str) -> Weights<'_> {
        Weights { device: self.device, read: &mut *self.read, prefix: format!("{}{name}.", self.prefix) }
    }

    /// The parameter `name` of a shape.
    ///
    /// # Errors
    /// What reading returned, or [`Error::Values`] for another number of values.
    pub fn param<const D: usize>(&mut self, name: &str, shape: [usize; D]) -> Result<Param<Tensor<D>>, Error> {
        let name = format!("{}{name}", self.prefix);
        let values = (self.read)(&name, &shape)?;
        let expected = shape.iter().product();
        if values.len() != expected {
            return Err(Error::Values { name, expected, found: values.len() });
        }
        Ok(Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device)))
    }
}

/// Weight and bias of a norm, `[C]` each.
#[derive(Module, Debug)]
pub struct Norm {
    /// Scale.
    pub weight: Param<Tensor<1>>,
    /// Shift.
    pub bias: Param<Tensor<1>>,
}

impl Norm {
    /// Reads `weight` and `bias`.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, width: usize) -> Result<Norm, Error> {
        Ok(Norm { weight: weights.param("weight", [width])?, bias: weights.param("bias", [width])? })
    }

    /// LayerNorm of x [T, C].
    pub fn layer_norm(&self, x: &Tensor<2>, eps: f32) -> Tensor<2> {
        layer_norm(x, &self.weight.val(), &self.bias.val(), eps)
    }
}

/// A matrix [out, in] that an adapter may stand beside: the one linear map of every model.
#[derive(Module, Debug)]
pub struct Linear {
    /// The matrix.
    pub weight: Param<Tensor<2>>,
    /// A low-rank update of it.
    pub lora: Option<Lora>,
}

/// A low-rank update `scale * up down` of a matrix (LoRA, Hu et al. 2021).
#[derive(Module, Debug)]
pub struct Lora {
    /// [R, in].
    pub down: Param<Tensor<2>>,
    /// [out, R].
    pub up: Param<Tensor<2>>,
    /// alpha / R.
    pub scale: f32,
}

impl Linear {
    /// Reads `weight`, [out, in].
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, outputs: usize, inputs: usize) -> Result<Linear, Error> {
        Ok(Linear { weight: weights.param("weight", [outputs, inputs])?, lora: None })
    }

    /// The matrix in effect, adapter included, [out, in].
    pub fn matrix(&self) -> Tensor<2> {
        match &self.lora {
            Some(lora) => self.weight.val() + lora.up.val().matmul(lora.down.val()).mul_scalar(lora.scale),
            None => self.weight.val(),
        }
    }

    /// `x W^T`: x [T, in].
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        let y = linear(x, &self.weight.val());
        self.adapt(x, y)
    }

    /// `residual + x W^T`.
    pub fn forward_add(&self, x: &Tensor<2>, residual: &Tensor<2>) -> Tensor<2> {
        let y = linear_add(x, &self.weight.val(), residual);
        self.adapt(x, y)
    }

    /// `residual + max(x, 0)^2 W^T`.
    pub fn relu2_forward_add(&self, x: &Tensor<2>, residual: &Tensor<2>) -> Tensor<2> {
        match &self.lora {
            // The adapter reads the squares too.
            Some(_) => self.forward_add(&relu2(x), residual),
            None => relu2_linear_add(x, &self.weight.val(), residual),
        }
    }

    fn adapt(&self, x: &Tensor<2>, y: Tensor<2>) -> Tensor<2> {
        match &self.lora {
            Some(lora) => {
                let h = linear(x, &lora.down.val()).mul_scalar(lora.scale);
                linear_add(&h, &lora.up.val(), &y)
            }
            None => y,
        }
    }
}

/// A matrix [out, in] with a bias.
#[derive(Module, Debug)]
pub struct Affine {
    /// The matrix.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Param<Tensor<1>>,
}

impl Affine {
    /// Reads `weight` and `bias`.
    ///
    /// # Errors
    /// As [`Weights::param`].
    pub fn new(mut weights: Weights<'_>, outputs: usize, inputs: usize) -> Result<Affine, Error> {
        Ok(Affine { weight: weights.param("weight", [outputs, inputs])?, bias: weights.param("bias", [outputs])? })
    }

    /// `x W^T + b`: x [T, in].
    pub fn forward(&self, x: &Tensor<2>) -> Tensor<2> {
        affine(x, &self.weight.val(), &self.bias.val())
    }
}
