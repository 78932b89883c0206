//! Every recurrence against its golden file, its reference and itself.

use anser_kernels::pool::Pool;
use anser_kernels::recurrence::{Heads, Parameter, Real, wkv4, wkv5, wkv6, wkv7};
use anser_kernels::simd::{Level, with_level};
use anser_testkit::{Golden, Rng, assert_close, max_abs};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    V4,
    V5PerHead,
    V5PerChannel,
    V6,
    V7,
}

const VERSIONS: [Version; 5] = [Version::V4, Version::V5PerHead, Version::V5PerChannel, Version::V6, Version::V7];

/// The operands of a scan of any version, so that the laws are written once.
#[derive(Clone)]
struct Case {
    version: Version,
    heads: Heads,
    cu_seqlens: Vec<usize>,
    /// r, decay, k, v, a, b, each [ΣT, C]; a version takes what it knows.
    packed: [Vec<f32>; 6],
    /// (log) decay and bonus, constant over time.
    decay: Vec<f32>,
    bonus: Vec<f32>,
    states: Vec<Vec<f32>>,
}

type Results<T> = (Vec<T>, Vec<Vec<T>>);

impl Case {
    /// Random operands, with decays at and near their limits among them.
    fn random(version: Version, heads: Heads, lengths: &[usize], seed: u64) -> Case {
        let mut rng = Rng(seed);
        let mut cu_seqlens = vec![0];
        for length in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length);
        }
        let (width, n) = (heads.width(), heads.head_size);
        let elements = cu_seqlens[lengths.len()] * width;
        let mut packed: [Vec<f32>; 6] = std::array::from_fn(|_| rng.vec(elements, 1.0));
        packed[1] = (0..elements).map(|_| decay_factor(&mut rng)).collect();
        if version == Version::V4 {
            packed[2].iter_mut().for_each(|k| *k *= if rng.below(4) == 0 { 80.0 } else { 2.0 });
        }
        // a = -kk, b = kk * rate, kk of norm 1.
        let rates = rng.vec(elements, 0.5);
        for start in (0..elements).step_by(n) {
            let norm = packed[4][start..start + n].iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-3);
            for i in start..start + n {
                packed[4][i] /= norm;
                packed[5][i] = -packed[4][i] * (0.5 + rates[i]);
            }
        }
        let parameters = if version == Version::V5PerHead { heads.heads } else { width };
        let decay = (0..parameters).map(|_| match (version, rng.below(6)) {
            (Version::V4, 0) => -1e-6,
            (Version::V4, 1) => -60.0,
            (Version::V4, _) => -(2.0 * rng.uniform()).exp(),
            _ => decay_factor(&mut rng),
        });
        let decay = decay.collect();
        let bonus = rng.vec(parameters, 1.0);
        let states = lengths.iter().map(|_| match version {
            Version::V4 => {
                let mut state = wkv4::initial_state(width);
                if rng.below(2) == 0 {
                    state[..width].copy_from_slice(&rng.vec(width, 2.0));
                    state[width..2 * width].iter_mut().for_each(|bb| *bb = 1.0 + rng.uniform());
                    state[2 * width..].copy_from_slice(&rng.vec(width, 5.0));
                }
                state
            }
            _ => rng.vec(heads.state_len(), 1.0),
        });
        let states = states.collect();
        Case { version, heads, cu_seqlens, packed, decay, bonus, states }
    }

    fn scan(&self, pool: &Pool) -> Results<f32> {
        let (heads, cu) = (self.heads, &self.cu_seqlens);
        let [r, decay, k, v, a, b] = self.packed.each_ref().map(Vec::as_slice);
        let mut y = vec![f32::NAN; v.len()];
        let mut owned = self.states.clone();
        let states = &mut owned.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()[..];
        match self.version {
            Version::V4 => wkv4::scan(pool, cu, &wkv4::Inputs { k, v }, &self.decay, &self.bonus, states, &mut y),
            Version::V5PerHead | Version::V5PerChannel => {
                let (decay, bonus) = self.parameters(&self.decay, &self.bonus);
                wkv5::scan(pool, heads, cu, &wkv5::Inputs { r, k, v }, decay, bonus, states, &mut y);
            }
            Version::V6 => wkv6::scan(pool, heads, cu, &wkv6::Inputs { r, decay, k, v }, &self.bonus, states, &mut y),
            Version::V7 => wkv7::scan(pool, heads, cu, &wkv7::Inputs { r, decay, k, v, a, b }, states, &mut y),
        }
        (y, owned)
    }

    fn reference<T: Real + From<f32>>(&self) -> Results<T> {
        let (heads, cu) = (self.heads, &self.cu_seqlens);
        let owned = self.packed.each_ref().map(|x| widen::<T>(x));
        let [r, decay, k, v, a, b] = owned.each_ref().map(Vec::as_slice);
        let (fixed_decay, bonus) = (widen::<T>(&self.decay), widen::<T>(&self.bonus));
        let mut y = vec![T::ZERO; v.len()];
        let mut owned: Vec<Vec<T>> = self.states.iter().map(|state| widen(state)).collect();
        let states = &mut owned.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()[..];
        match self.version {
            Version::V4 => {
                wkv4::reference::scan(cu, &wkv4::Inputs { k, v }, &fixed_decay, &bonus, states, &mut y);
            }
            Version::V5PerHead | Version::V5PerChannel => {
                let (decay, bonus) = self.parameters(&fixed_decay, &bonus);
                wkv5::reference::scan(heads, cu, &wkv5::Inputs { r, k, v }, decay, bonus, states, &mut y);
            }
            Version::V6 => {
                wkv6::reference::scan(heads, cu, &wkv6::Inputs { r, decay, k, v }, &bonus, states, &mut y);
            }
            Version::V7 => {
                wkv7::reference::scan(heads, cu, &wkv7::Inputs { r, decay, k, v, a, b }, states, &mut y);
            }
        }
        (y, owned)
    }

    fn parameters<'a, T>(&self, decay: &'a [T], bonus: &'a [T]) -> (Parameter<'a, T>, Parameter<'a, T>) {
        match self.version {
            Version::V5PerHead => (Parameter::PerHead(decay), Parameter::PerHead(bonus)),
            _ => (Parameter::PerChannel(decay), Parameter::PerChannel(bonus)),
        }
    }

    /// Sequence `s` alone, token by token through `step`.
    fn steps(&self, s: usize) -> Results<f32> {
        let (heads, width) = (self.heads, self.heads.width());
        let mut state = self.states[s].clone();
        let mut ys = Vec::new();
        for t in self.cu_seqlens[s]..self.cu_seqlens[s + 1] {
            let [r, decay, k, v, a, b] = self.packed.each_ref().map(|x| &x[t * width..(t + 1) * width]);
            let mut y = vec![f32::NAN; width];
            match self.version {
                Version::V4 => {
                    wkv4::step(&wkv4::Inputs { k, v }, &self.decay, &self.bonus, &mut state, &mut y);
                }
                Version::V5PerHead | Version::V5PerChannel => {
                    let (decay, bonus) = self.parameters(&self.decay, &self.bonus);
                    wkv5::step(heads, &wkv5::Inputs { r, k, v }, decay, bonus, &mut state, &mut y);
                }
                Version::V6 => {
                    wkv6::step(heads, &wkv6::Inputs { r, decay, k, v }, &self.bonus, &mut state, &mut y);
                }
                Version::V7 => {
                    wkv7::step(heads, &wkv7::Inputs { r, decay, k, v, a, b }, &mut state, &mut y);
                }
            }
            ys.extend(y);
        }
        (ys, vec![state])
    }

    /// Rows `rows` of sequence `s`, as a batch of one that starts from `state`.
    fn part(&self, s: usize, rows: std::ops::Range<usize>, state: Vec<f32>) -> Case {
        let (first, width) = (self.cu_seqlens[s], self.heads.width());
        let elements = (first + rows.start) * width..(first + rows.end) * width;
        Case {
            cu_seqlens: vec![0, rows.len()],
            packed: self.packed.each_ref().map(|x| x[elements.clone()].to_vec()),
            states: vec![state],
            ..self.clone()
        }
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

fn widen<T: From<f32>>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&x| x.into()).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&x| x as f32).collect()
}

/// [.., rows, columns] with the last two axes exchanged.
fn transpose(matrices: &[f32], n: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(matrices.len());
    for matrix in matrices.chunks_exact(n * n) {
        out.extend((0..n * n).map(|e| matrix[e % n * n + e / n]));
    }
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[track_caller]
fn assert_same(what: &str, (y, states): &Results<f32>, (want_y, want_states): &Results<f32>) {
    assert!(bits(y) == bits(want_y), "{what}: y differs");
    assert!(states.len() == want_states.len());
    for (state, want) in states.iter().zip(want_states) {
        assert!(bits(state) == bits(want), "{what}: the final state differs");
    }
}

/// References in f32 and f64 and the fast form on every level against a golden y and final states.
fn check_golden(case: &Case, y: &[f32], states: Option<&[f32]>) {
    let check = |what: &str, got: &Results<f32>, tolerance: f32| {
        assert_close(&format!("{what} y"), &got.0, y, tolerance * max_abs(y));
        if let Some(states) = states {
            assert_close(&format!("{what} state"), &got.1.concat(), states, tolerance * max_abs(states));
        }
    };
    let (exact_y, exact_states) = case.reference::<f64>();
    // Even in f64 the decay was rounded to f32, and its error adds up over the tokens.
    check("f64 reference", &(narrow(&exact_y), exact_states.iter().map(|s| narrow(s)).collect()), 1e-6);
    check("f32 reference", &case.reference::<f32>(), 2e-6);
    for &level in Level::available() {
        check(&format!("{level}"), &with_level(level, || case.scan(&Pool::new(2))), 2e-6);
    }
}

fn golden_case(golden: &Golden, version: Version, heads: Heads, decay: Vec<f32>) -> Case {
    let [sequences, tokens] = [golden.shape("in.v")[0], golden.shape("in.v")[1]];
    let mut case = Case::random(version, heads, &vec![tokens; sequences], 0);
    let tensor = |name: &str| golden.f32(name).to_vec();
    (case.packed[2], case.packed[3]) = (tensor("in.k"), tensor("in.v"));
    if version != Version::V4 {
        case.packed[0] = tensor("in.r");
        case.states.iter_mut().for_each(|state| state.fill(0.0));
    } else {
        case.states.iter_mut().for_each(|state| *state = wkv4::initial_state(heads.width()));
    }
    if version != Version::V7 {
        case.bonus = tensor("in.u");
    }
    match version {
        Version::V6 | Version::V7 => case.packed[1] = decay,
        _ => case.decay = decay,
    }
    case
}

/// Decays in f64: what the golden files were computed from, rounded once.
fn map(values: &[f32], f: impl Fn(f64) -> f64) -> Vec<f32> {
    values.iter().map(|&x| f(x as f64) as f32).collect()
}

#[test]
fn wkv4_equals_golden() {
    let golden = Golden::open("lm/wkv4_kernel");
    let decay = map(golden.f32("in.w"), |w| -w.exp());
    let case = golden_case(&golden, Version::V4, Heads { heads: 1, head_size: 32 }, decay);
    check_golden(&case, golden.f32("out.y"), None);
}

#[test]
fn wkv5_equals_golden() {
    let golden = Golden::open("lm/wkv5_kernel_n64");
    let decay = map(golden.f32("in.w"), |w| (-w.exp()).exp());
    let case = golden_case(&golden, Version::V5PerChannel, Heads { heads: 1, head_size: 64 }, decay);
    check_golden(&case, golden.f32("out.y"), Some(golden.f32("out.state")));
}

#[test]
fn wkv6_equals_golden() {
    let golden = Golden::open("lm/wkv6_kernel_n64");
    let decay = map(golden.f32("in.w"), |w| (-w.exp()).exp());
    let mut case = golden_case(&golden, Version::V6, Heads { heads: 1, head_size: 64 }, decay);
    case.states = vec![golden.f32("in.s0").to_vec()];
    check_golden(&case, golden.f32("out.y"), Some(golden.f32("out.state")));
}

#[test]
fn wkv7_equals_golden() {
    let golden = Golden::open("lm/wkv7_kernel_n64");
    let decay = map(golden.f32("in.w"), |w| (-(-0.5f64).exp() / (1.0 + (-w).exp())).exp());
    let mut case = golden_case(&golden, Version::V7, Heads { heads: 2, head_size: 64 }, decay);
    (case.packed[4], case.packed[5]) = (golden.f32("in.a").to_vec(), golden.f32("in.b").to_vec());
    case.states = vec![transpose(golden.f32("in.s0"), 64)];
    check_golden(&case, golden.f32("out.y"), Some(&transpose(golden.f32("out.state"), 64)));
}

/// RWKV-4's state is a fraction with a common exponent: its value, not its representation, is checked against f64.
#[test]
fn wkv4_survives_large_keys() {
    let k = [-3e4, 200.0, -200.0, 199.0, 3e4, 0.0, f32::MIN / 4.0, 88.0];
    let v = [1.0, 2.0, -3.0, 4.0, 5.0, -6.0, 7.0, 8.0];
    let x = wkv4::Inputs { k: &k, v: &v };
    let (log_decay, bonus) = ([-0.1], [0.5]);
    let mut want = [0.0f64; 8];
    let mut state = [0.0f64, 0.0, -1e38];
    let (wide_k, wide_v) = (k.map(f64::from), v.map(f64::from));
    let wide = wkv4::Inputs { k: &wide_k, v: &wide_v };
    wkv4::reference::scan(&[0, 8], &wide, &[-0.1], &[0.5], &mut [&mut state], &mut want);
    for &level in Level::available() {
        let (mut state, mut y) = (wkv4::initial_state(1), [f32::NAN; 8]);
        with_level(level, || {
            wkv4::scan(&Pool::new(1), &[0, 8], &x, &log_decay, &bonus, &mut [&mut state], &mut y);
        });
        assert_close("wkv", &y, &narrow(&want), 1e-5);
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let size = prop_oneof![1usize..=128, Just(8), Just(32), Just(64), Just(128)];
    (0..VERSIONS.len(), 1usize..=3, size, prop::collection::vec(0usize..=36, 1..=4), any::<u64>()).prop_map(
        |(version, heads, head_size, lengths, seed)| {
            Case::random(VERSIONS[version], Heads { heads, head_size }, &lengths, seed)
        },
    )
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} cu_seqlens {:?}", self.version, self.heads, self.cu_seqlens)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fast_equals_reference(case in any_case()) {
        let (want_y, want_states) = case.reference::<f32>();
        for &level in Level::available() {
            let (y, states) = with_level(level, || case.scan(&Pool::new(2)));
            assert_close("y", &y, &want_y, 1e-5 * max_abs(&want_y).max(1.0));
            for (state, want) in states.iter().zip(&want_states) {
                match case.version {
                    // aa, bb and pp have scales of their own, and pp of a fresh state dwarfs the rest.
                    Version::V4 => for (row, want) in state.chunks(state.len() / 3).zip(want.chunks(want.len() / 3)) {
                        assert_close("state", row, want, 1e-5 * max_abs(want).max(1.0));
                    },
                    _ => assert_close("state", state, want, 1e-5 * max_abs(want).max(1.0)),
                }
            }
        }
    }

    #[test]
    fn a_sequence_is_computed_the_same_way_in_any_company(case in any_case(), cut in 0.0..1.0) {
        for &level in Level::available() {
            with_level(level, || {
                let whole = case.scan(&Pool::new(1));
                for threads in [2, 3] {
                    assert_same("threads", &case.scan(&Pool::new(threads)), &whole);
                }
                let (pool, width) = (Pool::new(1), case.heads.width());
                for s in 0..case.states.len() {
                    let rows = case.cu_seqlens[s]..case.cu_seqlens[s + 1];
                    let own = (whole.0[rows.start * width..rows.end * width].to_vec(), vec![whole.1[s].clone()]);
                    let single = case.part(s, 0..rows.len(), case.states[s].clone()).scan(&pool);
                    assert_same("single", &single, &own);
                    assert_same("steps", &case.steps(s), &own);

                    let cut = (cut * rows.len() as f64) as usize;
                    let (mut y, states) = case.part(s, 0..cut, case.states[s].clone()).scan(&pool);
                    let (rest, states) = case.part(s, cut..rows.len(), states[0].clone()).scan(&pool);
                    y.extend(rest);
                    assert_same("split", &(y, states), &own);
                }
            });
        }
    }
}

#[test]
#[should_panic(expected = "wkv7: k has 63 elements, but [rows, C] is [1, 64]")]
fn a_wrong_length_names_the_operand() {
    let x = [0.0f32; 64];
    let inputs = wkv7::Inputs { r: &x, decay: &x, k: &x[..63], v: &x, a: &x, b: &x };
    wkv7::step(Heads { heads: 1, head_size: 64 }, &inputs, &mut [0.0; 64 * 64], &mut [0.0; 64]);
}

#[test]
#[should_panic(expected = "cu_seqlens must start at 0 and never fall")]
fn falling_borders_are_refused() {
    let inputs = wkv4::Inputs { k: &[0.0f32; 2], v: &[0.0; 2] };
    let (mut first, mut second) = (wkv4::initial_state(1), wkv4::initial_state(1));
    let states = &mut [&mut first[..], &mut second[..]];
    wkv4::scan(&Pool::new(1), &[0, 3, 2], &inputs, &[-1.0], &[0.0], states, &mut [0.0; 2]);
}

#[test]
fn a_batch_of_nothing_is_fine() {
    let inputs = wkv7::Inputs::<f32> { r: &[], decay: &[], k: &[], v: &[], a: &[], b: &[] };
    let heads = Heads { heads: 2, head_size: 2 };
    wkv7::scan(&Pool::new(2), heads, &[0], &inputs, &mut [], &mut []);
    let mut state = [1.0; 8];
    wkv7::scan(&Pool::new(2), heads, &[0, 0], &inputs, &mut [&mut state], &mut []);
    assert_eq!(state, [1.0; 8]);
}
