//! Every fused operation against its composite: results, and the gradient of every input.
//!
//! An operation is a line of [`OPS`]: what it reads, and how it runs both ways.

use std::sync::Arc;

use anser_nn::gradients::values;
use anser_nn::op::attention::{Positions, attention, attention_composite};
use anser_nn::op::cross_entropy::{Targets, cross_entropy, cross_entropy_composite};
use anser_nn::op::embedding::{embedding, embedding_composite};
use anser_nn::op::gate::{gate_add, gate_add_composite};
use anser_nn::op::gelu::{gelu, gelu_composite};
use anser_nn::op::layer_norm::{layer_norm, layer_norm_composite};
use anser_nn::op::linear::{
    affine, affine_composite, linear, linear_add, linear_composite, relu2_linear_add, relu2_linear_add_composite,
};
use anser_nn::op::low_rank::{Inner, LowRank, low_rank, low_rank_composite, low_ranks};
use anser_nn::op::relu2::{relu2, relu2_composite};
use anser_nn::op::seed::{seed, seed_composite};
use anser_nn::op::shift::{Toward, shift, shift_composite};
use anser_nn::op::shift6::{Shift6, shift6, shift6_composite};
use anser_nn::op::wkv4::{Wkv4, wkv4, wkv4_composite};
use anser_nn::op::wkv5::{Wkv5, wkv5, wkv5_composite};
use anser_nn::op::wkv6::{Wkv6, wkv6, wkv6_composite};
use anser_nn::op::wkv7::{Wkv7, wkv7, wkv7_composite};
use anser_nn::threads::set_threads;
use anser_testkit::{Rng, assert_close, max_abs};
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;

/// A tensor of any rank.
#[derive(Clone)]
enum Any {
    One(Tensor<1>),
    Two(Tensor<2>),
    Three(Tensor<3>),
    Four(Tensor<4>),
}

macro_rules! any {
    ($value:expr, $tensor:ident => $body:expr) => {
        match $value {
            Any::One($tensor) => $body,
            Any::Two($tensor) => $body,
            Any::Three($tensor) => $body,
            Any::Four($tensor) => $body,
        }
    };
}

impl Any {
    fn new(values: Vec<f32>, shape: &[usize], device: &Device) -> Any {
        let data = TensorData::new(values, shape.to_vec());
        match shape.len() {
            1 => Any::One(Tensor::from_data(data, device)),
            2 => Any::Two(Tensor::from_data(data, device)),
            3 => Any::Three(Tensor::from_data(data, device)),
            4 => Any::Four(Tensor::from_data(data, device)),
            rank => panic!("a tensor of rank {rank}"),
        }
    }

    fn one(&self) -> &Tensor<1> {
        let Any::One(tensor) = self else { panic!("not of rank 1") };
        tensor
    }

    fn two(&self) -> &Tensor<2> {
        let Any::Two(tensor) = self else { panic!("not of rank 2") };
        tensor
    }

    fn three(&self) -> &Tensor<3> {
        let Any::Three(tensor) = self else { panic!("not of rank 3") };
        tensor
    }

    fn four(&self) -> &Tensor<4> {
        let Any::Four(tensor) = self else { panic!("not of rank 4") };
        tensor
    }

    fn leaf(self) -> Any {
        match self {
            Any::One(tensor) => Any::One(tensor.require_grad()),
            Any::Two(tensor) => Any::Two(tensor.require_grad()),
            Any::Three(tensor) => Any::Three(tensor.require_grad()),
            Any::Four(tensor) => Any::Four(tensor.require_grad()),
        }
    }

    fn len(&self) -> usize {
        any!(self, tensor => tensor.dims().iter().product())
    }

    fn values(&self) -> Vec<f32> {
        any!(self, tensor => values(tensor.clone()))
    }

    /// `sum(self * weights)`.
    fn along(&self, weights: &[f32]) -> Tensor<1> {
        let data = |shape: &[usize]| TensorData::new(weights.to_vec(), shape.to_vec());
        any!(self, tensor => {
            let device = tensor.device().inner();
            (tensor.clone() * Tensor::from_data(data(&tensor.dims()), &device)).sum()
        })
    }
}

/// Sizes of a case.
#[derive(Clone, Debug)]
struct Dims {
    heads: usize,
    n: usize,
    cu: Arc<[usize]>,
    seed: u64,
}

impl Dims {
    fn new(lens: &[usize], heads: usize, n: usize, seed: u64) -> Dims {
        let mut cu = vec![0];
        lens.iter().for_each(|len| cu.push(cu[cu.len() - 1] + len));
        Dims { heads, n, cu: cu.into(), seed }
    }

    fn t(&self) -> usize {
        self.cu[self.cu.len() - 1]
    }

    fn s(&self) -> usize {
        self.cu.len() - 1
    }

    fn c(&self) -> usize {
        self.heads * self.n
    }

    /// Tokens of a vocabulary of [`VOCAB`], one a row.
    fn tokens(&self) -> Arc<[u32]> {
        let mut rng = Rng(self.seed ^ 7);
        (0..self.t()).map(|_| rng.below(VOCAB) as u32).collect()
    }

    fn targets(&self) -> Targets {
        let mut rng = Rng(self.seed ^ 8);
        let weights = (0..self.t()).map(|_| rng.below(3) as f32 / 2.0).collect();
        Targets { tokens: self.tokens(), weights, denominator: self.t() as f32, l2_wrap: 0.0 }
    }
}

const VOCAB: usize = 37;
const RANK: usize = 5;
const EPS: f32 = 1e-5;

/// An input: its shape, its largest value, what is added to it.
type Input = (Vec<usize>, f32, f32);

fn rows(d: &Dims) -> Input {
    (vec![d.t(), d.c()], 1.0, 0.0)
}

fn vector(d: &Dims, centre: f32) -> Input {
    (vec![d.c()], 0.5, centre)
}

fn matrix(rows: usize, cols: usize) -> Input {
    (vec![rows, cols], 1.5 / (cols as f32).sqrt(), 0.0)
}

/// An operation, and how to run it: fused or as its composite.
struct Op {
    name: &'static str,
    inputs: fn(&Dims) -> Vec<Input>,
    run: fn(&[Any], &Dims, bool) -> Vec<Any>,
}

const OPS: &[Op] = &[
    Op {
        name: "shift towards the current row",
        inputs: shift_inputs,
        run: |x, d, f| run_shift(x, d, f, Toward::Current),
    },
    Op {
        name: "shift towards the row before",
        inputs: shift_inputs,
        run: |x, d, f| run_shift(x, d, f, Toward::Previous),
    },
    Op { name: "low_rank", inputs: low_rank_inputs, run: |x, _, f| run_low_rank(x, f, Inner::Identity) },
    Op { name: "low_rank, tanh", inputs: low_rank_inputs, run: |x, _, f| run_low_rank(x, f, Inner::Tanh) },
    Op { name: "low_rank, sigmoid", inputs: low_rank_inputs, run: |x, _, f| run_low_rank(x, f, Inner::Sigmoid) },
    Op {
        name: "low_rank without bias",
        inputs: |d| low_rank_inputs(d).into_iter().take(3).collect(),
        run: |x, _, f| run_low_rank(x, f, Inner::Sigmoid),
    },
    Op {
        name: "linear",
        inputs: |d| vec![rows(d), matrix(11, d.c())],
        run: |x, _, fused| {
            let op = if fused { linear } else { linear_composite };
            vec![Any::Two(op(x[0].two(), x[1].two()))]
        },
    },
    Op {
        name: "linear_add",
        inputs: |d| vec![rows(d), matrix(11, d.c()), (vec![d.t(), 11], 1.0, 0.0)],
        run: |x, _, fused| {
            let (x, w, residual) = (x[0].two(), x[1].two(), x[2].two());
            vec![Any::Two(match fused {
                true => linear_add(x, w, residual),
                false => residual.clone() + linear_composite(x, w),
            })]
        },
    },
    Op {
        name: "relu2_linear_add",
        inputs: |d| vec![rows(d), matrix(11, d.c()), (vec![d.t(), 11], 1.0, 0.0)],
        run: |x, _, fused| {
            let op = if fused { relu2_linear_add } else { relu2_linear_add_composite };
            vec![Any::Two(op(x[0].two(), x[1].two(), x[2].two()))]
        },
    },
    Op {
        name: "low_ranks, then another reader of each x",
        inputs: several_low_rank_inputs,
        run: |x, _, fused| {
            let maps = several_low_ranks(x);
            let (ys, xs) = match fused {
                true => low_ranks(maps),
                false => (maps.map(|map| low_rank_composite(&map)), maps.map(|map| map.x.clone())),
            };
            ys.into_iter().chain(xs).map(Any::Two).collect()
        },
    },
    Op {
        name: "low_ranks, of which one is not used",
        inputs: several_low_rank_inputs,
        run: |x, _, fused| {
            let maps = several_low_ranks(x);
            let ([first, _, last], [_, passed, _]) = match fused {
                true => low_ranks(maps),
                false => (maps.map(|map| low_rank_composite(&map)), maps.map(|map| map.x.clone())),
            };
            [first, last, passed].map(Any::Two).into()
        },
    },
    Op {
        name: "affine",
        inputs: |d| vec![rows(d), matrix(11, d.c()), (vec![11], 0.5, 0.0)],
        run: |x, _, fused| {
            let op = if fused { affine } else { affine_composite };
            vec![Any::Two(op(x[0].two(), x[1].two(), x[2].one()))]
        },
    },
    Op {
        name: "gelu",
        inputs: |d| vec![(vec![d.t(), d.c()], 4.0, 0.0)],
        run: |x, _, fused| vec![Any::Two(if fused { gelu } else { gelu_composite }(x[0].two()))],
    },
    Op {
        name: "relu2",
        inputs: |d| vec![rows(d)],
        run: |x, _, fused| vec![Any::Two(if fused { relu2 } else { relu2_composite }(x[0].two()))],
    },
    Op {
        name: "gate_add",
        inputs: |d| vec![rows(d), rows(d), rows(d)],
        run: |x, _, fused| {
            let op = if fused { gate_add } else { gate_add_composite };
            vec![Any::Two(op(x[0].two(), x[1].two(), x[2].two()))]
        },
    },
    Op {
        name: "layer_norm",
        inputs: |d| vec![rows(d), vector(d, 1.0), vector(d, 0.0)],
        run: |x, _, fused| {
            let op = if fused { layer_norm } else { layer_norm_composite };
            vec![Any::Two(op(x[0].two(), x[1].one(), x[2].one(), EPS))]
        },
    },
    Op {
        name: "embedding",
        inputs: |d| vec![(vec![VOCAB, d.c()], 1.0, 0.0)],
        run: |x, d, fused| {
            let op = if fused { embedding } else { embedding_composite };
            vec![Any::Two(op(x[0].two(), &d.tokens()))]
        },
    },
    Op {
        name: "cross_entropy",
        inputs: |d| vec![rows(d), matrix(VOCAB, d.c())],
        run: |x, d, fused| {
            let op = if fused { cross_entropy } else { cross_entropy_composite };
            vec![Any::One(op(x[0].two(), x[1].two(), &d.targets()))]
        },
    },
    Op {
        // Terms of one sign: where thousands cancel, the order of summation is all that is left of them.
        name: "seed",
        inputs: |d| vec![(vec![d.t(), d.c()], 1.0, 1.0)],
        run: |x, d, fused| {
            let mut rng = Rng(d.seed ^ 9);
            let (x, constant) = (x[0].two(), (0..d.t() * d.c()).map(|_| rng.uniform().abs()).collect::<Vec<_>>());
            let constant = Tensor::from_data(TensorData::new(constant, [d.t(), d.c()]), &x.device().inner());
            vec![Any::One(if fused { seed(x, &constant) } else { seed_composite(x, &constant) })]
        },
    },
    Op { name: "wkv7", inputs: |d| wkv7_inputs(d).into_iter().take(12).collect(), run: run_wkv7 },
    Op { name: "wkv7 above the first layer", inputs: wkv7_inputs, run: run_wkv7 },
    Op { name: "shift6", inputs: shift6_inputs, run: run_shift6 },
    Op { name: "wkv4", inputs: wkv4_inputs, run: run_wkv4 },
    Op { name: "wkv5", inputs: wkv5_inputs, run: run_wkv5 },
    Op { name: "wkv6", inputs: wkv6_inputs, run: run_wkv6 },
    Op {
        name: "attention",
        inputs: attention_inputs,
        run: |x, d, fused| run_attention(x, d, fused, Positions::Rotary),
    },
    Op {
        name: "attention without positions",
        inputs: attention_inputs,
        run: |x, d, fused| run_attention(x, d, fused, Positions::None),
    },
];

fn attention_inputs(d: &Dims) -> Vec<Input> {
    vec![(vec![d.t(), d.c()], 2.0, 0.0), (vec![d.t(), d.c()], 2.0, 0.0), rows(d)]
}

fn run_attention(x: &[Any], d: &Dims, fused: bool, positions: Positions) -> Vec<Any> {
    let op = if fused { attention } else { attention_composite };
    vec![Any::Two(op(x[0].two(), x[1].two(), x[2].two(), d.heads, positions, &d.cu))]
}

/// x, weight, bias, state, three mixes.
fn shift_inputs(d: &Dims) -> Vec<Input> {
    let mut inputs = vec![rows(d), vector(d, 1.0), vector(d, 0.0), (vec![d.s(), d.c()], 1.0, 0.0)];
    inputs.extend((0..3).map(|_| vector(d, 0.5)));
    inputs
}

fn run_shift(x: &[Any], d: &Dims, fused: bool, toward: Toward) -> Vec<Any> {
    let op = if fused { shift } else { shift_composite };
    let mixes: Vec<&Tensor<1>> = x[4..].iter().map(Any::one).collect();
    let (mixed, last, passed) = op(x[0].two(), x[1].one(), x[2].one(), EPS, x[3].two(), &d.cu, toward, &mixes);
    mixed.into_iter().chain([last, passed]).map(Any::Two).collect()
}

fn low_rank_inputs(d: &Dims) -> Vec<Input> {
    let c = d.c();
    vec![rows(d), (vec![c, RANK], 0.5, 0.0), (vec![RANK, c], 0.5, 0.0), vector(d, 0.0)]
}

fn run_low_rank(x: &[Any], fused: bool, inner: Inner) -> Vec<Any> {
    let op = if fused { low_rank } else { low_rank_composite };
    vec![Any::Two(op(&low_rank_of(x, inner)))]
}

fn low_rank_of(x: &[Any], inner: Inner) -> LowRank<'_> {
    LowRank { x: x[0].two(), a: x[1].two(), b: x[2].two(), bias: x.get(3).map(Any::one), inner }
}

/// Three maps of several ranks and widths, the one between without bias.
fn several_low_rank_inputs(d: &Dims) -> Vec<Input> {
    let map = |rank: usize, outputs: usize| {
        [rows(d), (vec![d.c(), rank], 0.5, 0.0), (vec![rank, outputs], 0.5, 0.0), (vec![outputs], 0.5, 0.0)]
    };
    let [first, second, third] = [map(RANK, d.c()), map(1, 11), map(7, 2)];
    first.into_iter().chain(second.into_iter().take(3)).chain(third).collect()
}

fn several_low_ranks(x: &[Any]) -> [LowRank<'_>; 3] {
    [low_rank_of(&x[..4], Inner::Tanh), low_rank_of(&x[4..7], Inner::Sigmoid), low_rank_of(&x[7..], Inner::Identity)]
}

fn wkv7_inputs(d: &Dims) -> Vec<Input> {
    let mut inputs: Vec<Input> = (0..6).map(|_| rows(d)).collect();
    inputs[1].2 = -2.0;
    inputs.extend([vector(d, 0.8), vector(d, 1.0), (vec![d.heads, d.n], 0.5, 0.0), vector(d, 1.0), vector(d, 0.0)]);
    inputs.extend([(vec![d.s(), d.heads, d.n, d.n], 0.5, 0.0), rows(d), rows(d)]);
    inputs
}

fn run_wkv7(x: &[Any], d: &Dims, fused: bool) -> Vec<Any> {
    let inputs = Wkv7 {
        r: x[0].two(),
        w: x[1].two(),
        k: x[2].two(),
        v: x[3].two(),
        a: x[4].two(),
        g: x[5].two(),
        k_k: x[6].one(),
        k_a: x[7].one(),
        r_k: x[8].two(),
        ln_weight: x[9].one(),
        ln_bias: x[10].one(),
        state: x[11].four(),
        first: x.get(12).map(|first| (first.two(), x[13].two())),
    };
    let op = if fused { wkv7 } else { wkv7_composite };
    let (y, state, v_first) = op(&inputs, 64e-5, &d.cu);
    vec![Any::Two(y), Any::Four(state), Any::Two(v_first)]
}

/// x, weight, bias, state, mix of the low-rank part, five mixes, the two factors.
fn shift6_inputs(d: &Dims) -> Vec<Input> {
    let mut inputs = vec![rows(d), vector(d, 1.0), vector(d, 0.0), (vec![d.s(), d.c()], 1.0, 0.0)];
    inputs.extend((0..6).map(|_| vector(d, 0.5)));
    inputs.extend([(vec![d.c(), 5 * RANK], 0.3, 0.0), (vec![5, RANK, d.c()], 0.3, 0.0)]);
    inputs
}

fn run_shift6(x: &[Any], d: &Dims, fused: bool) -> Vec<Any> {
    let inputs = Shift6 {
        x: x[0].two(),
        weight: x[1].one(),
        bias: x[2].one(),
        state: x[3].two(),
        mix_x: x[4].one(),
        mixes: std::array::from_fn(|i| x[5 + i].one()),
        down: x[10].two(),
        up: x[11].three(),
    };
    let (mixed, last) = if fused { shift6 } else { shift6_composite }(&inputs, EPS, &d.cu);
    mixed.into_iter().chain([last]).map(Any::Two).collect()
}

/// The states' sums lie between 1/2 and 3/2: a denominator is never near 0.
fn wkv4_inputs(d: &Dims) -> Vec<Input> {
    vec![rows(d), rows(d), rows(d), vector(d, -1.0), vector(d, 0.0), (vec![d.s(), 1, 3, d.c()], 0.5, 1.0)]
}

fn run_wkv4(x: &[Any], d: &Dims, fused: bool) -> Vec<Any> {
    let inputs =
        Wkv4 { r: x[0].two(), k: x[1].two(), v: x[2].two(), decay: x[3].one(), bonus: x[4].one(), state: x[5].four() };
    let (y, state) = if fused { wkv4 } else { wkv4_composite }(&inputs, &d.cu);
    vec![Any::Two(y), Any::Four(state)]
}

/// r, k, v, g; decay and bonus a head and channel; the norm; the state.
fn wkv5_inputs(d: &Dims) -> Vec<Input> {
    let mut inputs: Vec<Input> = (0..4).map(|_| rows(d)).collect();
    inputs.extend([(vec![d.heads, d.n], 1.0, -2.0), (vec![d.heads, d.n], 0.5, 0.0)]);
    inputs.extend([vector(d, 1.0), vector(d, 0.0), (vec![d.s(), d.heads, d.n, d.n], 0.5, 0.0)]);
    inputs
}

fn run_wkv5(x: &[Any], d: &Dims, fused: bool) -> Vec<Any> {
    let inputs = Wkv5 {
        r: x[0].two(),
        k: x[1].two(),
        v: x[2].two(),
        g: x[3].two(),
        decay: x[4].two(),
        bonus: x[5].two(),
        ln_weight: x[6].one(),
        ln_bias: x[7].one(),
        state: x[8].four(),
    };
    let (y, state) = if fused { wkv5 } else { wkv5_composite }(&inputs, 64e-5, &d.cu);
    vec![Any::Two(y), Any::Four(state)]
}

/// As RWKV-5's, with a decay a token.
fn wkv6_inputs(d: &Dims) -> Vec<Input> {
    let mut inputs = wkv5_inputs(d);
    inputs[4] = (vec![d.t(), d.c()], 1.0, -2.0);
    inputs
}

fn run_wkv6(x: &[Any], d: &Dims, fused: bool) -> Vec<Any> {
    let inputs = Wkv6 {
        r: x[0].two(),
        k: x[1].two(),
        v: x[2].two(),
        g: x[3].two(),
        w: x[4].two(),
        bonus: x[5].two(),
        ln_weight: x[6].one(),
        ln_bias: x[7].one(),
        state: x[8].four(),
    };
    let (y, state) = if fused { wkv6 } else { wkv6_composite }(&inputs, 64e-5, &d.cu);
    vec![Any::Two(y), Any::Four(state)]
}

/// Results and gradients of a random weighted sum of the results; `skip`, if it names one of several, is left out of
/// the sum.
fn compute(op: &Op, d: &Dims, fused: bool, skip: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
    let device = Device::flex().autodiff();
    let mut rng = Rng(d.seed);
    let leaf = |(shape, scale, centre): Input| {
        let values = (0..shape.iter().product()).map(|_| rng.uniform() * scale + centre).collect();
        Any::new(values, &shape, &device).leaf()
    };
    let inputs: Vec<Any> = (op.inputs)(d).into_iter().map(leaf).collect();
    let outputs = (op.run)(&inputs, d, fused);
    let mut rng = Rng(d.seed ^ 1);
    let mut objective: Option<Tensor<1>> = None;
    for (index, output) in outputs.iter().enumerate() {
        let weights = rng.vec(output.len(), 1.0);
        if outputs.len() > 1 && index == skip {
            continue;
        }
        let term = output.along(&weights);
        objective = Some(match objective {
            Some(sum) => sum + term,
            None => term,
        });
    }
    let mut graph = objective.unwrap().backward();
    let gradient = |input: &Any| {
        any!(input, tensor => match tensor.grad_remove(&mut graph) {
            Some(gradient) => values(gradient),
            None => vec![0.0; tensor.dims().iter().product()],
        })
    };
    (outputs.iter().map(Any::values).collect(), inputs.iter().map(gradient).collect())
}

fn check(op: &Op, d: &Dims, skip: usize) {
    let (fused, composite) = (compute(op, d, true, skip), compute(op, d, false, skip));
    let compare = |what: &str, fused: &[Vec<f32>], composite: &[Vec<f32>]| {
        for (index, (fused, composite)) in fused.iter().zip(composite).enumerate() {
            // Where terms of size 1 cancel, their rounding stays.
            let bound = 1e-5 * max_abs(composite) + 5e-7;
            assert_close(&format!("{}, {what} {index}, {d:?}", op.name), fused, composite, bound);
        }
    };
    compare("result", &fused.0, &composite.0);
    compare("gradient of input", &fused.1, &composite.1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fused_is_composite(
        lens in prop::collection::vec(prop_oneof![Just(0), Just(1), 2usize..20, 60usize..72], 1..4),
        (heads, n) in prop_oneof![Just((1, 16)), Just((2, 8)), Just((3, 12))],
        seed in any::<u64>(),
        skip in 0usize..8,
    ) {
        prop_assume!(lens.iter().sum::<usize>() > 0);
        OPS.iter().for_each(|op| check(op, &Dims::new(&lens, heads, n, seed), skip));
    }
}

#[test]
fn every_kind_of_sequence_in_one_batch() {
    let d = Dims::new(&[0, 1, 70, 0, 17, 1, 0], 2, 8, 1);
    let failed: Vec<&str> = OPS
        .iter()
        .filter(|op| std::panic::catch_unwind(|| check(op, &d, usize::MAX)).is_err())
        .map(|op| op.name)
        .collect();
    assert!(failed.is_empty(), "{failed:?} differ from their composites");
}

/// Attention cuts its queries into blocks: sequences beyond one.
#[test]
fn attention_over_several_blocks() {
    let op = OPS.iter().find(|op| op.name == "attention").unwrap();
    check(op, &Dims::new(&[3, 300, 0, 128, 129], 2, 16, 5), usize::MAX);
}

#[test]
fn attention_of_a_batch_is_that_of_its_sequences() {
    let op = OPS.iter().find(|op| op.name == "attention").unwrap();
    let lens = [5, 0, 140, 1];
    let (heads, n) = (2, 8);
    let d = Dims::new(&lens, heads, n, 3);
    let device = Device::flex().autodiff();
    let packed: Vec<Vec<f32>> = (0..4).map(|i| Rng(i).vec(d.t() * d.c(), 2.0)).collect();
    let run = |rows: std::ops::Range<usize>, cu: &Dims| {
        let part = |i: usize| packed[i][rows.start * d.c()..rows.end * d.c()].to_vec();
        let inputs: Vec<Any> = (0..3).map(|i| Any::new(part(i), &[rows.len(), d.c()], &device).leaf()).collect();
        let y = (op.run)(&inputs, cu, true);
        let mut graph = y[0].along(&part(3)).backward();
        let mut found = vec![y[0].values()];
        found.extend(inputs.iter().map(|x| values(x.two().grad_remove(&mut graph).unwrap())));
        found
    };
    let together = run(0..d.t(), &d);
    for (s, len) in lens.into_iter().enumerate().filter(|(_, len)| *len > 0) {
        let alone = run(d.cu[s]..d.cu[s + 1], &Dims::new(&[len], heads, n, 3));
        for (together, alone) in together.iter().zip(alone) {
            assert_eq!(together[d.cu[s] * d.c()..d.cu[s + 1] * d.c()], alone, "sequence {s}");
        }
    }
}

/// A batch without a row: weights get zeros, states pass through.
#[test]
fn no_rows() {
    let d = Dims::new(&[0, 0], 2, 8, 1);
    for op in OPS.iter().filter(|op| op.name != "cross_entropy") {
        let (results, gradients) = compute(op, &d, true, usize::MAX);
        assert!(results.iter().chain(&gradients).flatten().all(|x| x.is_finite()), "{}", op.name);
        for (gradient, (shape, _, _)) in gradients.iter().zip((op.inputs)(&d)) {
            if shape[0] != d.s() || shape.len() < 2 || shape[1..] == [d.n] {
                assert!(gradient.iter().all(|&g| g == 0.0), "{}: a gradient of {shape:?}", op.name);
            }
        }
    }
}

#[test]
fn threads_change_no_bit() {
    let d = Dims::new(&[1, 200, 0, 75, 16], 3, 12, 2);
    let with = |threads: usize| -> Vec<_> {
        set_threads(threads);
        OPS.iter().map(|op| compute(op, &d, true, usize::MAX)).collect()
    };
    let one = with(1);
    for threads in [2, 3] {
        for (op, (one, more)) in OPS.iter().zip(one.iter().zip(with(threads))) {
            assert_eq!(*one, more, "{} with {threads} threads", op.name);
        }
    }
}
