//! Gradients of wkv7 against the golden file, finite differences, the reference and themselves.

use anser_kernels::pool::Pool;
use anser_kernels::recurrence::wkv7::backward::{self, CHUNK, Gradients, Saved, saved_states_len, workspace_len};
use anser_kernels::recurrence::wkv7::{self, Inputs};
use anser_kernels::recurrence::{Heads, Real};
use anser_kernels::simd::{Level, with_level};
use anser_testkit::{Golden, Rng, assert_close, max_abs};
use proptest::prelude::*;

const OPERANDS: [&str; 6] = ["r", "decay", "k", "v", "a", "b"];

/// A ragged batch and the gradients of its results.
#[derive(Clone)]
struct Case<T> {
    heads: Heads,
    cu_seqlens: Vec<usize>,
    /// r, decay, k, v, a, b, each [ΣT, C].
    packed: [Vec<T>; 6],
    states: Vec<Vec<T>>,
    gy: Vec<T>,
    gstates: Vec<Vec<T>>,
}

/// Gradients of r, decay, k, v, a, b and of the initial states.
type Results<T> = ([Vec<T>; 6], Vec<Vec<T>>);

impl<T> std::fmt::Debug for Case<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} cu_seqlens {:?}", self.heads, self.cu_seqlens)
    }
}

impl Case<f32> {
    /// Random operands: decays near both limits, a = -kk and b = kk * rate with kk of norm 1.
    fn random(heads: Heads, lengths: &[usize], seed: u64) -> Case<f32> {
        let mut rng = Rng(seed);
        let mut cu_seqlens = vec![0];
        for length in lengths {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length);
        }
        let elements = cu_seqlens[lengths.len()] * heads.width();
        let mut packed: [Vec<f32>; 6] = std::array::from_fn(|_| rng.vec(elements, 1.0));
        packed[1].iter_mut().for_each(|decay| {
            *decay = match rng.below(4) {
                0 => 0.5452 + 1e-3 * decay.abs(),
                1 => 1.0 - 1e-6,
                _ => 0.775 + 0.225 * *decay,
            }
        });
        let n = heads.head_size;
        for start in (0..elements).step_by(n) {
            let norm = packed[4][start..start + n].iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-3);
            for i in start..start + n {
                packed[4][i] /= norm;
                packed[5][i] = -packed[4][i] * (0.5 + 0.5 * packed[5][i]);
            }
        }
        let gy = rng.vec(elements, 1.0);
        let mut states = || lengths.iter().map(|_| rng.vec(heads.state_len(), 1.0)).collect();
        Case { heads, cu_seqlens, packed, states: states(), gy, gstates: states() }
    }

    fn widen(&self) -> Case<f64> {
        let widen = |x: &Vec<f32>| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        Case {
            heads: self.heads,
            cu_seqlens: self.cu_seqlens.clone(),
            packed: self.packed.each_ref().map(widen),
            states: self.states.iter().map(widen).collect(),
            gy: widen(&self.gy),
            gstates: self.gstates.iter().map(widen).collect(),
        }
    }

    /// Forward and backward; every buffer holds NaN before, and the forward pass must be that of `wkv7::scan`.
    fn fast(&self, pool: &Pool) -> Results<f32> {
        self.fast_onto(pool, fresh(self.gy.len()))
    }

    /// The gradients that gradients become.
    fn fast_onto(&self, pool: &Pool, mut out: [Vec<f32>; 6]) -> Results<f32> {
        let (heads, cu, x, elements) = (self.heads, &self.cu_seqlens, &self.inputs(), self.gy.len());
        let (mut y, mut want_y) = (vec![f32::NAN; elements], vec![f32::NAN; elements]);
        let (mut states, mut want_states) = (self.states.clone(), self.states.clone());
        wkv7::scan(pool, heads, cu, x, &mut slices(&mut want_states), &mut want_y);
        let (mut saved_states, mut sa) = (vec![f32::NAN; saved_states_len(heads, cu)], vec![f32::NAN; elements]);
        let saved = Saved { states: &mut saved_states[..], sa: &mut sa[..] };
        backward::scan_saving(pool, heads, cu, x, &mut slices(&mut states), &mut y, saved);
        assert!(bits(&y) == bits(&want_y), "y differs");
        assert!(bits(&states.concat()) == bits(&want_states.concat()), "the final states differ");

        let saved = Saved { states: &saved_states[..], sa: &sa[..] };
        let mut workspace = vec![f32::NAN; workspace_len(pool.threads(), heads)];
        let mut gstates = self.gstates.clone();
        let gradients = gradients(&mut out);
        backward::scan(pool, heads, cu, x, saved, &self.gy, &mut slices(&mut gstates), gradients, &mut workspace);
        (out, gstates)
    }
}

impl<T: Real> Case<T> {
    fn inputs(&self) -> Inputs<'_, T> {
        let [r, decay, k, v, a, b] = self.packed.each_ref().map(Vec::as_slice);
        Inputs { r, decay, k, v, a, b }
    }

    fn reference(&self) -> Results<T> {
        self.reference_onto(std::array::from_fn(|_| vec![T::ZERO; self.gy.len()]))
    }

    /// The gradients that gradients become.
    fn reference_onto(&self, mut out: [Vec<T>; 6]) -> Results<T> {
        let mut gstates = self.gstates.clone();
        let states: Vec<&[T]> = self.states.iter().map(Vec::as_slice).collect();
        let (x, gradients) = (self.inputs(), gradients(&mut out));
        let gstates_in_out = &mut slices(&mut gstates);
        backward::reference::scan(self.heads, &self.cu_seqlens, &x, &states, &self.gy, gstates_in_out, gradients);
        (out, gstates)
    }

    fn forward(&self) -> (Vec<T>, Vec<Vec<T>>) {
        let (mut y, mut states) = (vec![T::ZERO; self.gy.len()], self.states.clone());
        wkv7::reference::scan(self.heads, &self.cu_seqlens, &self.inputs(), &mut slices(&mut states), &mut y);
        (y, states)
    }

    /// Rows `rows` of sequence `s`, as a batch of one between the given state and gradient.
    fn part(&self, s: usize, rows: std::ops::Range<usize>, state: Vec<T>, gstate: Vec<T>) -> Case<T> {
        let (first, width) = (self.cu_seqlens[s], self.heads.width());
        let elements = (first + rows.start) * width..(first + rows.end) * width;
        Case {
            heads: self.heads,
            cu_seqlens: vec![0, rows.len()],
            packed: self.packed.each_ref().map(|x| x[elements.clone()].to_vec()),
            states: vec![state],
            gy: self.gy[elements].to_vec(),
            gstates: vec![gstate],
        }
    }
}

fn slices<T>(vectors: &mut [Vec<T>]) -> Vec<&mut [T]> {
    vectors.iter_mut().map(Vec::as_mut_slice).collect()
}

/// Gradients before any: r, decay, k, v, a, b. What is not added to is overwritten.
fn fresh(elements: usize) -> [Vec<f32>; 6] {
    [0.0, f32::NAN, 0.0, 0.0, f32::NAN, f32::NAN].map(|x| vec![x; elements])
}

fn gradients<T>(out: &mut [Vec<T>; 6]) -> Gradients<&mut [T]> {
    let [r, decay, k, v, a, b] = out.each_mut().map(Vec::as_mut_slice);
    Gradients { r, decay, k, v, a, b }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
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

#[track_caller]
fn assert_same(what: &str, (got, got_states): &Results<f32>, (want, want_states): &Results<f32>) {
    for operand in 0..6 {
        assert!(bits(&got[operand]) == bits(&want[operand]), "{what}: the gradient of {} differs", OPERANDS[operand]);
    }
    assert!(bits(&got_states.concat()) == bits(&want_states.concat()), "{what}: the states' gradient differs");
}

/// decay, and its derivative by raw.
fn decay(raw: f64) -> (f64, f64) {
    let (rate, sigmoid) = ((-0.5f64).exp(), 1.0 / (1.0 + (-raw).exp()));
    let decay = (-rate * sigmoid).exp();
    (decay, -rate * decay * sigmoid * (1.0 - sigmoid))
}

#[test]
fn gradients_equal_golden() {
    let golden = Golden::open("lm/wkv7_kernel_n64");
    let tensor = |name: &str| golden.f32(name).to_vec();
    let raw = golden.f64("in.w");
    let mut case = Case {
        heads: Heads { heads: 2, head_size: 64 },
        cu_seqlens: vec![0, 32],
        packed: ["in.r", "in.w", "in.k", "in.v", "in.a", "in.b"].map(tensor),
        states: vec![transpose(golden.f32("in.s0"), 64)],
        gy: tensor("in.gy"),
        gstates: vec![transpose(golden.f32("in.gstate"), 64)],
    };
    let check = |what: &str, (mut got, gstates): Results<f64>, relative: f32, absolute: f32| {
        for (gradient, &raw) in got[1].iter_mut().zip(&raw) {
            *gradient *= decay(raw).1;
        }
        let check = |name: &str, got: &[f64], want: &[f32]| {
            assert_close(&format!("{what} {name}"), &narrow(got), want, relative * max_abs(want) + absolute);
        };
        for (operand, name) in ["grad.r", "grad.w", "grad.k", "grad.v", "grad.a", "grad.b"].into_iter().enumerate() {
            check(name, &got[operand], golden.f32(name));
        }
        check("grad.s0", &gstates[0], &transpose(golden.f32("grad.s0"), 64));
    };

    let mut wide = case.widen();
    wide.packed[1] = raw.iter().map(|&raw| decay(raw).0).collect();
    // The golden gradients themselves were rounded to f32.
    check("f64 reference", wide.reference(), 2e-7, 0.0);
    case.packed[1] = narrow(&wide.packed[1]);
    let widen = |x: Vec<f32>| x.into_iter().map(f64::from).collect::<Vec<f64>>();
    for &level in Level::available() {
        let (got, gstates) = with_level(level, || case.fast(&Pool::new(2)));
        let got = (got.map(widen), gstates.into_iter().map(widen).collect());
        check(&level.to_string(), got, 5e-6, 1e-6);
    }
}

fn any_case(size: impl Strategy<Value = usize>, longest: usize) -> impl Strategy<Value = Case<f32>> {
    (1usize..=3, size, prop::collection::vec(0..=longest, 1..=4), any::<u64>())
        .prop_map(|(heads, head_size, lengths, seed)| Case::random(Heads { heads, head_size }, &lengths, seed))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reference_equals_finite_differences(case in any_case(1usize..=3, 4)) {
        const STEP: f64 = 1e-5;
        let mut case = case.widen();
        let (gradients, gstates) = case.reference();
        let loss = |case: &Case<f64>| {
            let (y, states) = case.forward();
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            dot(&y, &case.gy) + dot(&states.concat(), &case.gstates.concat())
        };
        let mut check = |name: &str, want: f64, place: &dyn Fn(&mut Case<f64>) -> &mut f64| {
            let value = *place(&mut case);
            *place(&mut case) = value + STEP;
            let above = loss(&case);
            *place(&mut case) = value - STEP;
            let slope = (above - loss(&case)) / (2.0 * STEP);
            *place(&mut case) = value;
            assert!((slope - want).abs() <= 1e-8 * (1.0 + want.abs()), "{name}: gradient {want}, slope {slope}");
        };
        for (operand, gradient) in gradients.iter().enumerate() {
            for (e, &want) in gradient.iter().enumerate() {
                check(OPERANDS[operand], want, &move |case| &mut case.packed[operand][e]);
            }
        }
        for (s, gradient) in gstates.iter().enumerate() {
            for (e, &want) in gradient.iter().enumerate() {
                check("initial state", want, &move |case| &mut case.states[s][e]);
            }
        }
    }

    #[test]
    fn two_halves_are_the_whole(case in any_case(1usize..=9, 20), cut in 0.0..1.0) {
        let case = case.widen();
        let (width, whole) = (case.heads.width(), case.reference());
        for s in 0..case.states.len() {
            let rows = case.cu_seqlens[s]..case.cu_seqlens[s + 1];
            let cut = (cut * rows.len() as f64) as usize;
            let none = vec![0.0; case.heads.state_len()];
            let mut first = case.part(s, 0..cut, case.states[s].clone(), none);
            let (_, middle) = first.forward();
            let second = case.part(s, cut..rows.len(), middle[0].clone(), case.gstates[s].clone()).reference();
            first.gstates = second.1;
            let first = first.reference();
            for operand in 0..6 {
                let halves = [&first.0[operand][..], &second.0[operand]].concat();
                assert_eq!(halves, whole.0[operand][rows.start * width..rows.end * width], "{}", OPERANDS[operand]);
            }
            assert_eq!(first.1[0], whole.1[s], "initial state");
        }
    }

    #[test]
    fn fast_equals_reference(case in any_case(prop_oneof![1usize..=80, Just(16), Just(64)], 2 * CHUNK + 9)) {
        let (want, want_states) = case.widen().reference();
        for &level in Level::available() {
            let (got, got_states) = with_level(level, || case.fast(&Pool::new(2)));
            let check = |name: &str, got: &[f32], want: &[f64]| {
                let want = narrow(want);
                assert_close(&format!("{level} {name}"), got, &want, 5e-6 * max_abs(&want) + 1e-6);
            };
            for operand in 0..6 {
                check(OPERANDS[operand], &got[operand], &want[operand]);
            }
            for (got, want) in got_states.iter().zip(&want_states) {
                check("initial state", got, want);
            }
        }
    }

    #[test]
    fn a_sequence_has_the_same_gradients_in_any_company(case in any_case(1usize..=80, 2 * CHUNK + 9)) {
        for &level in Level::available() {
            with_level(level, || {
                let whole = case.fast(&Pool::new(1));
                for threads in [2, 3] {
                    assert_same("threads", &case.fast(&Pool::new(threads)), &whole);
                }
                let width = case.heads.width();
                for s in 0..case.states.len() {
                    let rows = case.cu_seqlens[s]..case.cu_seqlens[s + 1];
                    let own = whole.0.each_ref().map(|x| x[rows.start * width..rows.end * width].to_vec());
                    let single = case.part(s, 0..rows.len(), case.states[s].clone(), case.gstates[s].clone());
                    assert_same("single", &single.fast(&Pool::new(1)), &(own, vec![whole.1[s].clone()]));
                }
            });
        }
    }
}

#[test]
fn a_batch_of_nothing_keeps_the_states_gradient() {
    let case = Case::random(Heads { heads: 2, head_size: 3 }, &[0, 0], 1);
    assert_eq!(case.fast(&Pool::new(2)).1, case.gstates);
    assert_eq!(case.reference().1, case.gstates);
    Case::random(Heads { heads: 2, head_size: 3 }, &[], 1).fast(&Pool::new(2));
}

/// Head sizes that fill whole registers and that do not take differing ways.
#[test]
fn gradients_of_r_k_and_v_are_added() {
    for head_size in [16, 20] {
        let case = Case::random(Heads { heads: 2, head_size }, &[19], 7);
        let (pool, threes) = (Pool::new(1), std::array::from_fn(|_| vec![3.0; case.gy.len()]));
        let reference = [case.reference_onto(threes.clone()), case.reference()];
        for [(have, _), (want, _)] in [[case.fast_onto(&pool, threes), case.fast(&pool)], reference] {
            for (g, before) in [3.0, 0.0, 3.0, 3.0, 0.0, 0.0].into_iter().enumerate() {
                for (have, want) in have[g].iter().zip(&want[g]) {
                    let want = before + want;
                    assert!((have - want).abs() <= 1e-5 * (1.0 + want.abs()), "gradient {g}: {have} instead of {want}");
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "wkv7 backward: saved sa has 4 elements instead of 8")]
fn wrong_lengths_name_the_buffer() {
    let case = Case::random(Heads { heads: 1, head_size: 4 }, &[2], 1);
    let (heads, cu) = (case.heads, &case.cu_seqlens);
    let saved = Saved { states: &vec![0.0; saved_states_len(heads, cu)][..], sa: &[0.0; 4] };
    let mut out = std::array::from_fn(|_| vec![0.0; 8]);
    let (mut gstates, mut workspace) = (case.gstates.clone(), vec![0.0; workspace_len(1, heads)]);
    let (pool, x, gstates) = (Pool::new(1), case.inputs(), &mut slices(&mut gstates));
    backward::scan(&pool, heads, cu, &x, saved, &case.gy, gstates, gradients(&mut out), &mut workspace);
}
