//! Gradients and parameters as plain slices under official names: what optimisers, files and threads exchange.

use burn::backend::Flex;
use burn::module::{ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients as Graph, Tensor};

/// A model whose parameters have names.
pub trait Trainable: Sized {
    /// Calls the visitor with every parameter.
    fn visit(&self, visitor: &mut impl ModuleVisitor);

    /// Replaces every parameter by what the mapper makes of it.
    fn map(self, mapper: &mut impl ModuleMapper) -> Self;

    /// Calls `f(name, shape, values)` for every parameter.
    fn read(&self, f: impl FnMut(&str, &[usize], &[f32])) {
        self.visit(&mut Read { path: Path::default(), f });
    }

    /// Calls `f(name, shape, values)` for every parameter, which may change the values in place. No graph of the model
    /// may be alive, or values are copied.
    fn update(self, f: impl FnMut(&str, &[usize], &mut [f32])) -> Self {
        self.map(&mut Update { path: Path::default(), f })
    }
}

/// The gradient of every trained parameter, in the model's order; empty where nothing depended on it.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    /// Official name and values, row-major.
    pub tensors: Vec<(String, Vec<f32>)>,
}

impl Gradients {
    /// Takes the gradients of a model's parameters out of a finished backward pass.
    pub(crate) fn take(model: &impl Trainable, graph: &mut Graph) -> Gradients {
        let mut visitor = Take { path: Path::default(), graph, tensors: Vec::new() };
        model.visit(&mut visitor);
        Gradients { tensors: visitor.tensors }
    }

    /// Adds another gradient of the same model.
    pub fn add(&mut self, other: Gradients) {
        if self.tensors.is_empty() {
            *self = other;
            return;
        }
        for ((_, own), (_, other)) in self.tensors.iter_mut().zip(other.tensors) {
            match (own.is_empty(), other.is_empty()) {
                (_, true) => {}
                (true, false) => *own = other,
                (false, false) => own.iter_mut().zip(other).for_each(|(own, other)| *own += other),
            }
        }
    }

    /// The gradient of a parameter.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.tensors.iter().find(|(own, _)| own == name).map(|(_, values)| &values[..])
    }
}

/// The name of the parameter a traversal stands at.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn name(&self) -> String {
        self.0.join(".")
    }
}

struct Take<'a> {
    path: Path,
    graph: &'a mut Graph,
    tensors: Vec<(String, Vec<f32>)>,
}

impl ModuleVisitor for Take<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let values = match param.val().grad_remove(self.graph) {
            Some(gradient) => values(gradient),
            None => Vec::new(),
        };
        self.tensors.push((self.path.name(), values));
    }
}

/// The values of a tensor, row-major; without a copy when nothing else holds them.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    match tensor.inner().into_data().try_into_vec::<f32>() {
        Ok(values) => values,
        Err(error) => unreachable!("models compute in f32: {error:?}"),
    }
}

struct Read<F> {
    path: Path,
    f: F,
}

impl<F: FnMut(&str, &[usize], &[f32])> ModuleVisitor for Read<F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.base().inner();
        let shape = tensor.dims();
        match tensor.try_into_primitive::<Flex>().map(|tensor| tensor.to_contiguous()) {
            Ok(tensor) => (self.f)(&self.path.name(), &shape, tensor.as_slice().unwrap_or_default()),
            Err(error) => unreachable!("models live on the CPU: {error:?}"),
        }
    }
}

struct Update<F> {
    path: Path,
    f: F,
}

impl<F: FnMut(&str, &[usize], &mut [f32])> ModuleMapper for Update<F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let (id, tensor, mapper) = param.consume();
        let (graph, shape) = (tensor.is_autodiff(), tensor.dims());
        let mut primitive = match tensor.inner().try_into_primitive::<Flex>() {
            Ok(tensor) => tensor,
            Err(error) => unreachable!("models live on the CPU: {error:?}"),
        };
        (self.f)(&name, &shape, primitive.storage_mut());
        let tensor = Tensor::from_primitive::<Flex>(primitive);
        let tensor = if graph { Tensor::from_inner(tensor).require_grad() } else { tensor };
        Param::from_mapped_value(id, tensor, mapper)
    }
}
