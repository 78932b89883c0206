//! The gradients of WKV-4, 5 and 6: golden files, finite differences, fast against reference, and the laws of a batch.

use anser_kernels::pool::Pool;
use anser_kernels::recurrence::{Heads, Parameter, Real, wkv4, wkv5, wkv6};
use anser_kernels::simd::{Level, with_level};
use anser_testkit::{Golden, Rng, assert_close, max_abs};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    V4,
    V5PerHead,
    V5PerChannel,
    V6,
}

const VERSIONS: [Version; 4] = [Version::V4, Version::V5PerHead, Version::V5PerChannel, Version::V6];

/// A batch of any version, with the gradients of its results.
#[derive(Clone)]
struct Case<T> {
    version: Version,
    heads: Heads,
    cu_seqlens: Vec<usize>,
    /// r, decay, k, v, each [ΣT, C]; a version takes what it knows.
    packed: [Vec<T>; 4],
    /// (log) decay and bonus, constant over time.
    decay: Vec<T>,
    bonus: Vec<T>,
    states: Vec<Vec<T>>,
    y_grad: Vec<T>,
    state_grads: Vec<Vec<T>>,
}

/// Gradients of everything that goes in; of what a version does not have, empty or zero.
#[derive(Clone)]
struct Grads<T> {
    packed: [Vec<T>; 4],
    decay: Vec<T>,
    bonus: Vec<T>,
    states: Vec<Vec<T>>,
}

/// One of the gradients.
type Pick = fn(&Grads<f64>) -> &Vec<f64>;

const PACKED: [&str; 4] = ["r", "decay", "k", "v"];

impl<T> std::fmt::Debug for Case<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} cu_seqlens {:?}", self.version, self.heads, self.cu_seqlens)
    }
}

impl Case<f32> {
    fn random(version: Version, heads: Heads, lengths: &[usize], seed: u64) -> Case<f32> {
        let mut rng = Rng(seed);
        let heads = match version {
            Version::V4 => Heads { heads: 1, head_size: heads.width() },
            _ => heads,
        };
        let mut cu_seqlens = vec![0];
        for length in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length);
        }
        let width = heads.width();
        let elements = cu_seqlens[lengths.len()] * width;
        let mut packed: [Vec<f32>; 4] = std::array::from_fn(|_| rng.vec(elements, 1.0));
        packed[1] = (0..elements).map(|_| decay_factor(&mut rng)).collect();
        let parameters = if version == Version::V5PerHead { heads.heads } else { width };
        let decay = (0..parameters).map(|_| match (version, rng.below(6)) {
            (Version::V4, 0) => -1e-6,
            (Version::V4, 1) => -60.0,
            (Version::V4, _) => -(2.0 * rng.uniform()).exp(),
            _ => decay_factor(&mut rng),
        });
        let decay = decay.collect();
        let bonus = rng.vec(parameters, 1.0);
        let state_len = if version == Version::V4 { 3 * width } else { heads.state_len() };
        let states = lengths.iter().map(|_| match version {
            Version::V4 => {
                let mut state = wkv4::initial_state(width);
                if rng.below(2) == 0 {
                    state[..width].copy_from_slice(&rng.vec(width, 2.0));
                    state[width..2 * width].iter_mut().for_each(|bb| *bb = 1.0 + 0.5 * rng.uniform());
                    state[2 * width..].copy_from_slice(&rng.vec(width, 2.0));
                }
                state
            }
            _ => rng.vec(state_len, 1.0),
        });
        let states = states.collect();
        let state_grads = lengths.iter().map(|_| rng.vec(state_len, 1.0)).collect();
        let y_grad = rng.vec(elements, 1.0);
        Case { version, heads, cu_seqlens, packed, decay, bonus, states, y_grad, state_grads }
    }

    fn widen(&self) -> Case<f64> {
        let all = |lists: &[Vec<f32>]| lists.iter().map(|list| widen(list)).collect();
        Case {
            version: self.version,
            heads: self.heads,
            cu_seqlens: self.cu_seqlens.clone(),
            packed: self.packed.each_ref().map(|x| widen(x)),
            decay: widen(&self.decay),
            bonus: widen(&self.bonus),
            states: all(&self.states),
            y_grad: widen(&self.y_grad),
            state_grads: all(&self.state_grads),
        }
    }

    /// The fast form; its saving forward is checked against the plain one.
    fn fast(&self, pool: &Pool) -> Grads<f32> {
        let (heads, cu, width) = (self.heads, &self.cu_seqlens, self.heads.width());
        let [r, decay, k, v] = self.packed.each_ref().map(Vec::as_slice);
        let mut owned = self.states.clone();
        let mut plain = self.states.clone();
        let states = &mut owned.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()[..];
        let plain_states = &mut plain.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()[..];
        let (mut y, mut plain_y) = (vec![f32::NAN; v.len()], vec![f32::NAN; v.len()]);
        let nan = |len: usize| vec![f32::NAN; len];
        let mut out = Grads {
            packed: std::array::from_fn(|_| nan(v.len())),
            decay: nan(width),
            bonus: nan(width),
            states: self.state_grads.clone(),
        };
        let [out_r, out_decay, out_k, out_v] = out.packed.each_mut().map(Vec::as_mut_slice);
        let state_grads = &mut out.states.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()[..];
        match self.version {
            Version::V4 => {
                let x = wkv4::Inputs { k, v };
                let mut saved = nan(wkv4::backward::saved_len(width, cu));
                let mut workspace = nan(wkv4::backward::workspace_len(width, states.len()));
                wkv4::scan(pool, cu, &x, &self.decay, &self.bonus, plain_states, &mut plain_y);
                wkv4::backward::scan_saving(pool, cu, &x, &self.decay, &self.bonus, states, &mut y, &mut saved);
                let (log_decay, bonus) = (&mut out.decay[..], &mut out.bonus[..]);
                let grads = &mut wkv4::backward::Gradients { k: out_k, v: out_v, log_decay, bonus };
                let (w, u) = (&self.decay, &self.bonus);
                wkv4::backward::scan(pool, cu, &x, w, u, &saved, &self.y_grad, state_grads, grads, &mut workspace);
                out_r.fill(0.0);
                out_decay.fill(0.0);
            }
            Version::V5PerHead | Version::V5PerChannel => {
                let x = wkv5::Inputs { r, k, v };
                let (w, u) = (self.parameter(&self.decay), self.parameter(&self.bonus));
                let mut saved = nan(wkv5::backward::saved_len(heads, cu));
                let mut workspace = nan(wkv5::backward::workspace_len(pool.threads(), heads, states.len()));
                wkv5::scan(pool, heads, cu, &x, w, u, plain_states, &mut plain_y);
                wkv5::backward::scan_saving(pool, heads, cu, &x, w, u, states, &mut y, &mut saved);
                let (decay, bonus) = (&mut out.decay[..], &mut out.bonus[..]);
                let grads = &mut wkv5::backward::Gradients { r: out_r, k: out_k, v: out_v, decay, bonus };
                let y_grad = &self.y_grad;
                wkv5::backward::scan(pool, heads, cu, &x, w, u, &saved, y_grad, state_grads, grads, &mut workspace);
                out_decay.fill(0.0);
            }
            Version::V6 => {
                let x = wkv6::Inputs { r, decay, k, v };
                let u = &self.bonus;
                let mut saved = nan(wkv6::backward::saved_len(heads, cu));
                let mut workspace = nan(wkv6::backward::workspace_len(pool.threads(), heads, states.len()));
                wkv6::scan(pool, heads, cu, &x, u, plain_states, &mut plain_y);
                wkv6::backward::scan_saving(pool, heads, cu, &x, u, states, &mut y, &mut saved);
                let bonus = &mut out.bonus[..];
                let grads = &mut wkv6::backward::Gradients { r: out_r, decay: out_decay, k: out_k, v: out_v, bonus };
                let y_grad = &self.y_grad;
                wkv6::backward::scan(pool, heads, cu, &x, u, &saved, y_grad, state_grads, grads, &mut workspace);
                out.decay.fill(0.0);
            }
        }
        assert!(bits(&y) == bits(&plain_y), "the saving scan's y differs");
        assert!(bits(&owned.concat()) == bits(&plain.concat()), "the saving scan's states differ");
        out
    }

    /// Sequence `s` alone.
    fn single(&self, s: usize) -> Case<f32> {
        let width = self.heads.width();
        let rows = self.cu_seqlens[s]..self.cu_seqlens[s + 1];
        let elements = rows.start * width..rows.end * width;
        Case {
            cu_seqlens: vec![0, rows.len()],
            packed: self.packed.each_ref().map(|x| x[elements.clone()].to_vec()),
            states: vec![self.states[s].clone()],
            y_grad: self.y_grad[elements].to_vec(),
            state_grads: vec![self.state_grads[s].clone()],
            ..self.clone()
        }
    }
}

impl<T: Real> Case<T> {
    fn parameter<'a>(&self, values: &'a [T]) -> Parameter<'a, T> {
        match self.version {
            Version::V5PerHead => Parameter::PerHead(values),
            _ => Parameter::PerChannel(values),
        }
    }

    fn forward(&self) -> (Vec<T>, Vec<Vec<T>>) {
        let (heads, cu) = (self.heads, &self.cu_seqlens);
        let [r, decay, k, v] = self.packed.each_ref().map(Vec::as_slice);
        let mut y = vec![T::ZERO; v.len()];
        let mut owned = self.states.clone();
        let states = &mut owned.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()[..];
        match self.version {
            Version::V4 => {
                wkv4::reference::scan(cu, &wkv4::Inputs { k, v }, &self.decay, &self.bonus, states, &mut y);
            }
            Version::V5PerHead | Version::V5PerChannel => {
                let (w, u) = (self.parameter(&self.decay), self.parameter(&self.bonus));
                wkv5::reference::scan(heads, cu, &wkv5::Inputs { r, k, v }, w, u, states, &mut y);
            }
            Version::V6 => {
                wkv6::reference::scan(heads, cu, &wkv6::Inputs { r, decay, k, v }, &self.bonus, states, &mut y);
            }
        }
        (y, owned)
    }

    fn reference(&self) -> Grads<T> {
        let (heads, cu, width) = (self.heads, &self.cu_seqlens, self.heads.width());
        let [r, decay, k, v] = self.packed.each_ref().map(Vec::as_slice);
        let mut out = Grads {
            packed: std::array::from_fn(|_| vec![T::ZERO; v.len()]),
            decay: vec![T::ZERO; width],
            bonus: vec![T::ZERO; width],
            states: self.state_grads.clone(),
        };
        let [out_r, out_decay, out_k, out_v] = out.packed.each_mut().map(Vec::as_mut_slice);
        let states = &self.states.iter().map(Vec::as_slice).collect::<Vec<_>>()[..];
        let state_grads = &mut out.states.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()[..];
        let y_grad = &self.y_grad;
        match self.version {
            Version::V4 => {
                let (w, u, x) = (&self.decay, &self.bonus, wkv4::Inputs { k, v });
                let (log_decay, bonus) = (&mut out.decay[..], &mut out.bonus[..]);
                let grads = &mut wkv4::backward::Gradients { k: out_k, v: out_v, log_decay, bonus };
                wkv4::backward::reference::scan(cu, &x, w, u, states, y_grad, state_grads, grads);
            }
            Version::V5PerHead | Version::V5PerChannel => {
                let (w, u) = (self.parameter(&self.decay), self.parameter(&self.bonus));
                let (decay, bonus) = (&mut out.decay[..], &mut out.bonus[..]);
                let grads = &mut wkv5::backward::Gradients { r: out_r, k: out_k, v: out_v, decay, bonus };
                let x = wkv5::Inputs { r, k, v };
                wkv5::backward::reference::scan(heads, cu, &x, w, u, states, y_grad, state_grads, grads);
            }
            Version::V6 => {
                let (u, x) = (&self.bonus, wkv6::Inputs { r, decay, k, v });
                let bonus = &mut out.bonus[..];
                let grads = &mut wkv6::backward::Gradients { r: out_r, decay: out_decay, k: out_k, v: out_v, bonus };
                wkv6::backward::reference::scan(heads, cu, &x, u, states, y_grad, state_grads, grads);
            }
        }
        out
    }
}

impl Case<f64> {
    /// The sum of results times their gradients. RWKV-4's aa and bb are taken at the scales exp(pp) of `scales`, so that
    /// the loss depends on the numbers that a state stands for alone.
    fn loss(&self, scales: &[Vec<f64>]) -> f64 {
        let (y, states) = self.forward();
        let mut loss = dot(&y, &self.y_grad);
        for ((state, grad), scales) in states.iter().zip(&self.state_grads).zip(scales) {
            if self.version == Version::V4 {
                let width = self.heads.width();
                for c in 0..width {
                    let sums = state[c] * grad[c] + state[width + c] * grad[width + c];
                    loss += (state[2 * width + c] - scales[2 * width + c]).exp() * sums;
                }
            } else {
                loss += dot(state, grad);
            }
        }
        loss
    }
}

fn decay_factor(rng: &mut Rng) -> f32 {
    match rng.below(6) {
        0 => 0.0,
        1 => 1e-30,
        2 => 1.0 - 1e-6,
        3 => 1.0,
        _ => 0.5 + 0.5 * rng.uniform(),
    }
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn max64(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |max, x| max.max(x.abs()))
}

#[track_caller]
fn assert_close64(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((g - w).abs() <= tolerance, "{what}[{i}] is {g}, expected {w} within {tolerance:e}");
    }
}

/// The gradient in the reference and, on every level, the fast form; `map` is the chain rule to what the file has.
fn check_golden(golden: &Golden, case: &Case<f64>, names: &[(&str, Pick)], raw_decay: impl Fn(usize) -> f64) {
    let single = Case {
        version: case.version,
        heads: case.heads,
        cu_seqlens: case.cu_seqlens.clone(),
        packed: case.packed.each_ref().map(|x| narrow(x)),
        decay: narrow(&case.decay),
        bonus: narrow(&case.bonus),
        states: case.states.iter().map(|x| narrow(x)).collect(),
        y_grad: narrow(&case.y_grad),
        state_grads: case.state_grads.iter().map(|x| narrow(x)).collect(),
    };
    // The file's values were rounded to f32.
    let mut got = vec![("reference".to_string(), case.reference(), 1e-7, 0.0)];
    for &level in Level::available() {
        let grads = with_level(level, || single.fast(&Pool::new(2)));
        let grads = Grads {
            packed: grads.packed.each_ref().map(|x| widen(x)),
            decay: widen(&grads.decay),
            bonus: widen(&grads.bonus),
            states: grads.states.iter().map(|x| widen(x)).collect(),
        };
        got.push((level.to_string(), grads, 1e-5, 1e-6));
    }
    for (form, grads, relative, absolute) in got {
        for (name, pick) in names {
            let want = golden.f64(&format!("grad.{name}"));
            let mut values = pick(&grads).clone();
            if *name == "w" {
                values.iter_mut().enumerate().for_each(|(i, g)| *g *= raw_decay(i));
            }
            assert_close64(&format!("{form} {name}"), &values, &want, relative * max64(&want) + absolute);
        }
    }
}

fn golden_case(golden: &Golden, version: Version, heads: Heads) -> Case<f64> {
    let [sequences, tokens] = [golden.shape("in.v")[0], golden.shape("in.v")[1]];
    let mut case = Case::random(version, heads, &vec![tokens; sequences], 0).widen();
    (case.packed[2], case.packed[3]) = (golden.f64("in.k"), golden.f64("in.v"));
    (case.y_grad, case.bonus) = (golden.f64("in.gy"), golden.f64("in.u"));
    case.state_grads.iter_mut().for_each(|grad| grad.fill(0.0));
    case.states.iter_mut().for_each(|state| state.fill(0.0));
    if version == Version::V4 {
        let initial = widen(&wkv4::initial_state(heads.width()));
        case.states.iter_mut().for_each(|state| state.clone_from(&initial));
        case.decay = golden.f64("in.w").iter().map(|w| -w.exp()).collect();
    } else {
        case.packed[0] = golden.f64("in.r");
        let decay = golden.f64("in.w").iter().map(|w| (-w.exp()).exp()).collect();
        if version == Version::V6 { case.packed[1] = decay } else { case.decay = decay }
    }
    case
}

#[test]
fn wkv4_equals_golden() {
    let golden = Golden::open("lm/wkv4_kernel");
    let case = golden_case(&golden, Version::V4, Heads { heads: 1, head_size: 32 });
    check_golden(
        &golden,
        &case,
        &[("k", |g| &g.packed[2]), ("v", |g| &g.packed[3]), ("w", |g| &g.decay), ("u", |g| &g.bonus)],
        |i| case.decay[i],
    );
}

#[test]
fn wkv5_equals_golden() {
    let golden = Golden::open("lm/wkv5_kernel_n64");
    let case = golden_case(&golden, Version::V5PerChannel, Heads { heads: 1, head_size: 64 });
    check_golden(
        &golden,
        &case,
        &[
            ("r", |g| &g.packed[0]),
            ("k", |g| &g.packed[2]),
            ("v", |g| &g.packed[3]),
            ("w", |g| &g.decay),
            ("u", |g| &g.bonus),
        ],
        |i| case.decay[i] * case.decay[i].ln(),
    );
}

#[test]
fn wkv6_equals_golden() {
    let golden = Golden::open("lm/wkv6_kernel_n64");
    let mut case = golden_case(&golden, Version::V6, Heads { heads: 1, head_size: 64 });
    (case.states, case.state_grads) = (vec![golden.f64("in.s0")], vec![golden.f64("in.gstate")]);
    check_golden(
        &golden,
        &case,
        &[
            ("r", |g| &g.packed[0]),
            ("k", |g| &g.packed[2]),
            ("v", |g| &g.packed[3]),
            ("w", |g| &g.packed[1]),
            ("u", |g| &g.bonus),
            ("s0", |g| &g.states[0]),
        ],
        |i| case.packed[1][i] * case.packed[1][i].ln(),
    );
}

/// Keys far beyond what exp can hold, in every order.
#[test]
fn wkv4_survives_large_keys() {
    let mut case = Case::random(Version::V4, Heads { heads: 1, head_size: 70 }, &[40, 0, 3], 5);
    let mut rng = Rng(9);
    for k in &mut case.packed[2] {
        *k *= if rng.below(3) == 0 { 120.0 } else { 3.0 };
    }
    compare(&case, 1e-4);
    case.packed[2].iter_mut().for_each(|k| *k *= 1e4);
    let grads = case.fast(&Pool::new(1));
    assert!(grads.packed.concat().iter().chain(&grads.decay).chain(&grads.bonus).all(|g| g.is_finite()));
    assert!(grads.states.concat().iter().all(|g| g.is_finite()));
}

/// Fast on every level against the reference in f64.
#[track_caller]
fn compare(case: &Case<f32>, tolerance: f32) {
    let want = case.widen().reference();
    for &level in Level::available() {
        let got = with_level(level, || case.fast(&Pool::new(2)));
        let check = |what: &str, got: &[f32], want: &[f64]| {
            let want = narrow(want);
            assert_close(&format!("{level} {what}"), got, &want, tolerance * max_abs(&want).max(1e-2));
        };
        for i in 0..4 {
            check(PACKED[i], &got.packed[i], &want.packed[i]);
        }
        check("parameter decay", &got.decay, &want.decay);
        check("bonus", &got.bonus, &want.bonus);
        for (got, want) in got.states.iter().zip(&want.states) {
            check("state", got, want);
        }
    }
}

fn any_case(max_size: usize, max_heads: usize, max_tokens: usize) -> impl Strategy<Value = Case<f32>> {
    (0..VERSIONS.len(), 1..=max_heads, 1..=max_size, prop::collection::vec(0..=max_tokens, 1..=3), any::<u64>())
        .prop_map(|(version, heads, head_size, lengths, seed)| {
            Case::random(VERSIONS[version], Heads { heads, head_size }, &lengths, seed)
        })
}

/// Every input in turn, with its gradient.
fn for_inputs(case: &mut Case<f64>, grads: &Grads<f64>, mut f: impl FnMut(&mut Case<f64>, &str, Place, f64)) {
    let (heads, version) = (case.heads, case.version);
    for (which, name) in PACKED.into_iter().enumerate() {
        for i in 0..case.packed[which].len() {
            f(case, name, Place::Packed(which, i), grads.packed[which][i]);
        }
    }
    if version != Version::V6 {
        for i in 0..case.decay.len() {
            f(case, "parameter decay", Place::Decay(i), parameter_grad(heads, version, &grads.decay, i));
        }
    }
    for i in 0..case.bonus.len() {
        f(case, "bonus", Place::Bonus(i), parameter_grad(heads, version, &grads.bonus, i));
    }
    for s in 0..case.states.len() {
        for i in 0..case.states[s].len() {
            f(case, "state", Place::State(s, i), grads.states[s][i]);
        }
    }
}

#[derive(Clone, Copy)]
enum Place {
    Packed(usize, usize),
    Decay(usize),
    Bonus(usize),
    State(usize, usize),
}

fn at(case: &mut Case<f64>, place: Place) -> &mut f64 {
    match place {
        Place::Packed(which, i) => &mut case.packed[which][i],
        Place::Decay(i) => &mut case.decay[i],
        Place::Bonus(i) => &mut case.bonus[i],
        Place::State(s, i) => &mut case.states[s][i],
    }
}

fn parameter_grad(heads: Heads, version: Version, channels: &[f64], i: usize) -> f64 {
    match version {
        Version::V5PerHead => channels[i * heads.head_size..(i + 1) * heads.head_size].iter().sum(),
        _ => channels[i],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reference_equals_finite_differences(case in any_case(3, 2, 4)) {
        let mut case = case.widen();
        let grads = case.reference();
        let scales = case.forward().1;
        for_inputs(&mut case, &grads, |case, name, place, grad| {
            let (x, step) = (*at(case, place), 1e-5);
            *at(case, place) = x + step;
            let above = case.loss(&scales);
            *at(case, place) = x - step;
            let below = case.loss(&scales);
            *at(case, place) = x;
            let numeric = (above - below) / (2.0 * step);
            assert!((numeric - grad).abs() <= 1e-6 * (1.0 + grad.abs()), "{name}: {grad}, numerically {numeric}");
        });
    }

    #[test]
    fn halves_of_the_reference_give_the_whole(case in any_case(5, 2, 12), cut in 0.0..1.0) {
        let case = case.single(0).widen();
        let whole = case.reference();
        let (tokens, width) = (case.cu_seqlens[1], case.heads.width());
        let cut = (cut * tokens as f64) as usize;
        let half = |rows: std::ops::Range<usize>| {
            let elements = rows.start * width..rows.end * width;
            Case {
                cu_seqlens: vec![0, rows.len()],
                packed: case.packed.each_ref().map(|x| x[elements.clone()].to_vec()),
                y_grad: case.y_grad[elements].to_vec(),
                ..case.clone()
            }
        };
        let (mut first, mut second) = (half(0..cut), half(cut..tokens));
        second.states = first.forward().1;
        let after = second.reference();
        first.state_grads.clone_from(&after.states);
        let before = first.reference();
        let check = |what: &str, got: &[f64], want: &[f64]| {
            assert_close64(what, got, want, 1e-12 * (1.0 + max64(want)));
        };
        for i in 0..4 {
            check(PACKED[i], &[&before.packed[i][..], &after.packed[i]].concat(), &whole.packed[i]);
        }
        let sum = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x + y).collect::<Vec<_>>();
        check("parameter decay", &sum(&before.decay, &after.decay), &whole.decay);
        check("bonus", &sum(&before.bonus, &after.bonus), &whole.bonus);
        check("state", &before.states[0], &whole.states[0]);
    }

    #[test]
    fn fast_equals_reference(case in any_case(80, 2, 40)) {
        compare(&case, 2e-5);
    }

    #[test]
    fn a_sequence_is_computed_the_same_way_in_any_company(case in any_case(80, 3, 40)) {
        for &level in Level::available() {
            with_level(level, || {
                let whole = case.fast(&Pool::new(1));
                for threads in [2, 3] {
                    let other = case.fast(&Pool::new(threads));
                    for i in 0..4 {
                        assert!(bits(&other.packed[i]) == bits(&whole.packed[i]), "threads: {}", PACKED[i]);
                    }
                    assert!(bits(&other.decay) == bits(&whole.decay), "threads: parameter decay");
                    assert!(bits(&other.bonus) == bits(&whole.bonus), "threads: bonus");
                    assert!(bits(&other.states.concat()) == bits(&whole.states.concat()), "threads: states");
                }
                let width = case.heads.width();
                let (mut decay, mut bonus) = (vec![0.0; width], vec![0.0; width]);
                for s in 0..case.states.len() {
                    let own = case.single(s).fast(&Pool::new(1));
                    let elements = case.cu_seqlens[s] * width..case.cu_seqlens[s + 1] * width;
                    for i in 0..4 {
                        let want = &whole.packed[i][elements.clone()];
                        assert!(bits(&own.packed[i]) == bits(want), "single: {}", PACKED[i]);
                    }
                    assert!(bits(&own.states[0]) == bits(&whole.states[s]), "single: state");
                    decay.iter_mut().zip(&own.decay).for_each(|(sum, g)| *sum += g);
                    bonus.iter_mut().zip(&own.bonus).for_each(|(sum, g)| *sum += g);
                }
                // Compared as numbers: a sum may begin with 0 or with -0.
                assert!(decay == whole.decay && bonus == whole.bonus, "single: parameters");
            });
        }
    }
}

#[test]
fn batches_of_nothing_are_fine() {
    for version in VERSIONS {
        for (heads, head_size) in [(2, 0), (0, 3), (2, 3)] {
            for lengths in [&[][..], &[0], &[0, 0], &[2]] {
                compare(&Case::random(version, Heads { heads, head_size }, lengths, 1), 2e-5);
            }
        }
    }
}

#[test]
fn what_a_head_shares_has_the_sum_of_its_channels() {
    let mut out = [0.0; 2];
    wkv5::backward::per_head(Heads { heads: 2, head_size: 3 }, &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0], &mut out);
    assert_eq!(out, [7.0, 56.0]);
}

#[test]
#[should_panic(expected = "wkv6 backward: the gradient of k has 3 elements, but [rows, C] is [2, 2]")]
fn a_wrong_length_names_the_gradient() {
    let heads = Heads { heads: 1, head_size: 2 };
    let x = wkv6::Inputs { r: &[0.0; 4], decay: &[0.0; 4], k: &[0.0; 4], v: &[0.0; 4] };
    let (r, decay, k, v, bonus) = (&mut [0.0; 4], &mut [0.0; 4], &mut [0.0; 3], &mut [0.0; 4], &mut [0.0; 2]);
    let grads = &mut wkv6::backward::Gradients { r, decay, k, v, bonus };
    let states = &mut [&mut [0.0f32; 4][..]];
    let saved = vec![0.0; wkv6::backward::saved_len(heads, &[0, 2])];
    wkv6::backward::scan(&Pool::new(1), heads, &[0, 2], &x, &[0.0; 2], &saved, &[0.0; 4], states, grads, &mut []);
}
