//! Fused operations: everything between two matrices that something else may own.
//!
//! An operation is one node of the graph with a hand-written gradient. It has up to three bodies and one meaning: a
//! *composite* one in Burn's tensor operations (any device, differentiable by itself, the oracle of the tests), a CPU
//! one over plain slices (the [`Operation`] of this module), and later a GPU kernel behind the same boundary. Each
//! file holds one operation: its function, its composite, its slices.
//!
//! **Several outputs.** A node of Burn's graph has one output. An operation with several becomes one node without
//! values and a *port* a result: a port's gradient is laid aside and the node is told that it came; the node runs when
//! all its ports have, and takes the gradients together.
//!
//! **Inputs handed on.** Where a tensor has several readers, Burn adds up their gradients one by one, on one thread. An
//! operation can instead hand an input on as a further result ([`Operation::passed`]) for the next reader to take: the
//! gradient of what comes after then arrives with those of the other results, and is added in passing.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, Backend, BackendTensor, DispatchAutodiffContext, DispatchKindConversion, DispatchTensor,
    Flex, TensorMetadata,
};
use burn::tensor::{FloatDType, Shape, Tensor, TensorData};

pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod gate;
pub mod gelu;
mod lanes;
pub mod layer_norm;
pub mod linear;
pub mod low_rank;
pub mod relu2;
mod rows;
pub mod seed;
pub mod shift;
pub mod shift6;
pub mod wkv4;
pub mod wkv5;
pub mod wkv6;
pub mod wkv7;

/// A result of an operation: its values, row-major, and their shape.
#[derive(Debug)]
pub struct Array {
    /// The values, as many as the product of the shape.
    pub values: Vec<f32>,
    /// The shape.
    pub shape: Vec<usize>,
}

impl Array {
    fn new(values: Vec<f32>, shape: &[usize]) -> Array {
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        Array { values, shape: shape.to_vec() }
    }
}

/// The gradient of an input.
#[derive(Debug)]
pub enum Gradient {
    /// Nobody asked for it.
    None,
    /// These values, in the input's shape.
    Values(Vec<f32>),
    /// The gradient of the output of this index, unchanged.
    Output(usize),
}

/// An operation on the CPU: plain slices in, plain slices out.
pub trait Operation: fmt::Debug + Send + Sync + 'static {
    /// The results, and, if `saving`, what [`Operation::backward`] wants to find again besides the inputs.
    fn forward(&self, inputs: &[&[f32]], saving: bool) -> (Vec<Array>, Vec<Vec<f32>>);

    /// The inputs that are handed on, unchanged: further results after those of [`Operation::forward`].
    fn passed(&self) -> &[usize] {
        &[]
    }

    /// The gradients of the inputs that are `wanted`. `outputs` has the gradient of each result, none where nothing
    /// depends on it.
    fn backward(
        &self,
        inputs: &[&[f32]],
        saved: Vec<Vec<f32>>,
        outputs: &[Option<&[f32]>],
        wanted: &[bool],
    ) -> Vec<Gradient>;
}

/// An operation as it travels through Burn.
#[derive(Clone, Debug)]
pub struct Handle(Arc<dyn Operation>);

/// What the forward pass of an operation leaves for its backward pass, which takes it: once.
#[derive(Clone)]
pub struct Saved(Arc<Mutex<Option<Vec<Vec<f32>>>>>);

impl fmt::Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Saved")
    }
}

/// A backend that can run fused operations.
pub trait Fused: Backend {
    /// The results of an operation.
    fn fused(op: Handle, inputs: Vec<FloatTensor<Self>>) -> Vec<FloatTensor<Self>>;

    /// The results, and what the backward pass needs.
    fn fused_saving(op: Handle, inputs: Vec<FloatTensor<Self>>) -> (Vec<FloatTensor<Self>>, Saved);

    /// The gradients of the wanted inputs, in their order, from those of the results that are present, in their order.
    fn fused_backward(
        op: Handle,
        inputs: Vec<FloatTensor<Self>>,
        saved: Saved,
        present: Vec<bool>,
        gradients: Vec<FloatTensor<Self>>,
        wanted: Vec<bool>,
    ) -> Vec<FloatTensor<Self>>;
}

impl Fused for Flex {
    fn fused(op: Handle, inputs: Vec<FlexTensor>) -> Vec<FlexTensor> {
        run(&op, inputs, false).0
    }

    fn fused_saving(op: Handle, inputs: Vec<FlexTensor>) -> (Vec<FlexTensor>, Saved) {
        let (outputs, saved) = run(&op, inputs, true);
        (outputs, Saved(Arc::new(Mutex::new(Some(saved)))))
    }

    fn fused_backward(
        op: Handle,
        inputs: Vec<FlexTensor>,
        saved: Saved,
        present: Vec<bool>,
        gradients: Vec<FlexTensor>,
        wanted: Vec<bool>,
    ) -> Vec<FlexTensor> {
        let saved = saved.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let saved = saved.expect("an operation's gradient is computed once: graphs are not retained");
        let inputs = contiguous(inputs);
        let gradients = contiguous(gradients);
        let mut arrived = gradients.iter();
        let outputs: Vec<Option<&FlexTensor>> =
            present.iter().map(|&is| if is { arrived.next() } else { None }).collect();
        let slices: Vec<Option<&[f32]>> = outputs.iter().map(|output| output.map(slice)).collect();
        let found = op.0.backward(&inputs.iter().map(slice).collect::<Vec<_>>(), saved, &slices, &wanted);
        let mut out = Vec::with_capacity(found.len());
        for ((gradient, input), wanted) in found.into_iter().zip(&inputs).zip(wanted) {
            if !wanted {
                continue;
            }
            out.push(match gradient {
                Gradient::Values(values) => tensor(values, input.layout().shape().clone()),
                Gradient::Output(index) => match outputs[index] {
                    Some(output) => output.clone(),
                    None => FlexTensor::zeros(input.layout().shape().clone(), input.dtype()),
                },
                Gradient::None => FlexTensor::zeros(input.layout().shape().clone(), input.dtype()),
            });
        }
        out
    }
}

fn run(op: &Handle, inputs: Vec<FlexTensor>, saving: bool) -> (Vec<FlexTensor>, Vec<Vec<f32>>) {
    let inputs = contiguous(inputs);
    let (outputs, saved) = op.0.forward(&inputs.iter().map(slice).collect::<Vec<_>>(), saving);
    let outputs = outputs.into_iter().map(|array| tensor(array.values, Shape::from(array.shape)));
    let passed = op.0.passed().iter().map(|&input| inputs[input].clone());
    (outputs.chain(passed).collect(), saved)
}

fn contiguous(tensors: Vec<FlexTensor>) -> Vec<FlexTensor> {
    tensors.into_iter().map(|t| if t.as_slice::<f32>().is_some() { t } else { t.to_contiguous() }).collect()
}

fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("models compute in contiguous f32")
}

fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The gradients that the ports of a node have laid aside.
type Tray<B> = Arc<Mutex<Vec<Option<FloatTensor<B>>>>>;

/// What a node keeps for its backward step.
struct Kept<B: Backend> {
    op: Handle,
    inputs: Vec<FloatTensor<B>>,
    saved: Saved,
    /// One place an output; without ports none.
    tray: Tray<B>,
}

impl<B: Backend> Clone for Kept<B> {
    fn clone(&self) -> Self {
        Kept {
            op: self.op.clone(),
            inputs: self.inputs.clone(),
            saved: self.saved.clone(),
            tray: Arc::clone(&self.tray),
        }
    }
}

impl<B: Backend> fmt::Debug for Kept<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.op)
    }
}

#[derive(Debug)]
struct Node;

impl<B: Fused, const N: usize> Backward<B, N> for Node {
    type State = Kept<B>;

    fn backward(self, ops: Ops<Kept<B>, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let arrived = grads.consume::<B>(&ops.node);
        let Kept { op, inputs, saved, tray } = ops.state;
        let mut tray = std::mem::take(&mut *tray.lock().unwrap_or_else(PoisonError::into_inner));
        if tray.is_empty() {
            tray.push(Some(arrived));
        }
        let present = tray.iter().map(Option::is_some).collect();
        let gradients = tray.into_iter().flatten().collect();
        let wanted: Vec<bool> = ops.parents.iter().map(Option::is_some).collect();
        let found = B::fused_backward(op, inputs, saved, present, gradients, wanted);
        for (parent, gradient) in ops.parents.iter().flatten().zip(found) {
            grads.register::<B>(parent.id, gradient);
        }
    }
}

#[derive(Debug)]
struct Port;

/// A port's place in its node's tray.
struct Place<B: Backend> {
    tray: Tray<B>,
    index: usize,
}

impl<B: Backend> Clone for Place<B> {
    fn clone(&self) -> Self {
        Place { tray: Arc::clone(&self.tray), index: self.index }
    }
}

impl<B: Backend> fmt::Debug for Place<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}", self.index)
    }
}

impl<B: Backend> Backward<B, 1> for Port {
    type State = Place<B>;

    fn backward(self, ops: Ops<Place<B>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let arrived = grads.consume::<B>(&ops.node);
        let notice = B::float_zeros(Shape::from([1]), &arrived.device(), FloatDType::F32);
        ops.state.tray.lock().unwrap_or_else(PoisonError::into_inner)[ops.state.index] = Some(arrived);
        if let [Some(node)] = ops.parents {
            grads.register::<B>(node.id, notice);
        }
    }
}

/// The differentiable backend over `B`.
type Graph<B> = Autodiff<B, NoCheckpointing>;

/// Records an operation of `N` inputs.
fn record<B: Fused, const N: usize>(op: Handle, inputs: Vec<FloatTensor<Graph<B>>>) -> Vec<FloatTensor<Graph<B>>> {
    let guards: [_; N] = std::array::from_fn(|i| inputs[i].node());
    let primitives: Vec<FloatTensor<B>> = inputs.into_iter().map(|input| input.into_primitive()).collect();
    match Backward::<B, N>::prepare::<NoCheckpointing>(Node, guards).compute_bound().stateful() {
        OpsKind::UnTracked(_) => B::fused(op, primitives).into_iter().map(Graph::<B>::from_inner).collect(),
        OpsKind::Tracked(prep) => {
            let (mut outputs, saved) = B::fused_saving(op.clone(), primitives.clone());
            let tray: Tray<B> = Arc::new(Mutex::new(Vec::new()));
            let kept = Kept { op, inputs: primitives, saved, tray: Arc::clone(&tray) };
            if outputs.len() == 1 {
                return outputs.pop().map(|output| prep.finish(kept, output)).into_iter().collect();
            }
            *tray.lock().unwrap_or_else(PoisonError::into_inner) = outputs.iter().map(|_| None).collect();
            let nothing = B::float_zeros(Shape::from([1]), &outputs[0].device(), FloatDType::F32);
            let node = prep.finish(kept, nothing);
            let port = |(index, output)| {
                let place = Place { tray: Arc::clone(&tray), index };
                match Backward::<B, 1>::prepare::<NoCheckpointing>(Port, [node.node()]).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish(place, output),
                    OpsKind::UnTracked(prep) => prep.finish(output),
                }
            };
            outputs.into_iter().enumerate().map(port).collect()
        }
    }
}

/// Runs an operation on tensors of backend `B`, inside a graph if one of them is.
fn dispatch<B: Fused>(op: Handle, inputs: Vec<DispatchTensor>) -> Vec<DispatchTensor>
where
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Graph<B>>,
{
    let plain = |tensor: DispatchTensor| match <DispatchTensor as DispatchKindConversion<B>>::try_into_backend(tensor) {
        Ok(tensor) => tensor.float(),
        Err(error) => panic!("an input of {op:?}: {error}"),
    };
    if inputs.iter().all(|input| input.autodiff == DispatchAutodiffContext::Disabled) {
        let outputs = B::fused(op.clone(), inputs.into_iter().map(plain).collect());
        return outputs
            .into_iter()
            .map(|output| <DispatchTensor as DispatchKindConversion<B>>::from_backend(BackendTensor::Float(output)))
            .collect();
    }
    let inputs: Vec<FloatTensor<Graph<B>>> = inputs
        .into_iter()
        .map(|tensor| match tensor.autodiff {
            DispatchAutodiffContext::Disabled => Graph::<B>::from_inner(plain(tensor)),
            DispatchAutodiffContext::Enabled(_) => {
                match <DispatchTensor as DispatchKindConversion<Graph<B>>>::try_into_backend(tensor) {
                    Ok(tensor) => tensor.float(),
                    Err(error) => panic!("an input of {op:?}: {error}"),
                }
            }
        })
        .collect();
    macro_rules! by_count {
        ($($n:literal)+) => {
            match inputs.len() {
                $($n => record::<B, $n>(op, inputs),)+
                n => unreachable!("{op:?} has {n} inputs"),
            }
        };
    }
    by_count!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
        .into_iter()
        .map(|output| <DispatchTensor as DispatchKindConversion<Graph<B>>>::from_backend(BackendTensor::Float(output)))
        .collect()
}

/// Tensors of any rank as the inputs of an operation.
pub(crate) struct Inputs(Vec<DispatchTensor>);

impl Inputs {
    pub(crate) fn new() -> Inputs {
        Inputs(Vec::new())
    }

    pub(crate) fn with<const D: usize>(mut self, tensor: &Tensor<D>) -> Inputs {
        self.0.push(tensor.clone().into_dispatch());
        self
    }

    /// Runs `op` on the inputs.
    pub(crate) fn run(self, op: impl Operation) -> Outputs {
        Outputs(dispatch::<Flex>(Handle(Arc::new(op)), self.0).into_iter())
    }
}

/// The results of an operation, taken one by one in their order.
pub(crate) struct Outputs(std::vec::IntoIter<DispatchTensor>);

impl Outputs {
    /// The next result.
    pub(crate) fn take<const D: usize>(&mut self) -> Tensor<D> {
        Tensor::from_dispatch(self.0.next().expect("an operation returns as many results as its function takes"))
    }
}
