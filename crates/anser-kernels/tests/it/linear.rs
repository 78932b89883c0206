use anser_kernels::activation;
use anser_kernels::linear::{Epilogue, InputBits, Matrix, Product, Storage, products, products_at};
use anser_kernels::pool::Pool;
use anser_kernels::simd::Level;
use anser_testkit::Rng;
use half::{bf16, f16};
use proptest::prelude::*;

const STORAGES: [Storage; 3] = [Storage::F32, Storage::Bf16, Storage::F16];
/// Storages with what they are multiplied with.
const KINDS: [(Storage, InputBits); 4] = [
    (Storage::F32, InputBits::ThirtyTwo),
    (Storage::Bf16, InputBits::ThirtyTwo),
    (Storage::F16, InputBits::ThirtyTwo),
    (Storage::Bf16, InputBits::Sixteen),
];
const EPILOGUES: [Epilogue; 6] =
    [Epilogue::Store, Epilogue::Add, Epilogue::Relu2, Epilogue::Tanh, Epilogue::Sigmoid, Epilogue::Silu];

fn rounded(storage: Storage, value: f32) -> f32 {
    match storage {
        Storage::F32 => value,
        Storage::Bf16 if value.abs() < 2f32.powi(-56) => 0.0,
        Storage::Bf16 => bf16::from_f32(value).to_f32(),
        Storage::F16 => f16::from_f32(value).to_f32(),
        _ => unreachable!("only floats here"),
    }
}

fn pack(pool: &Pool, storage: Storage, cols: usize, values: &[f32]) -> Matrix {
    let row = |r: usize| &values[r * cols..(r + 1) * cols];
    Matrix::pack(pool, storage, values.len() / cols, cols, |r, out| out.copy_from_slice(row(r)))
}

/// What a value of x becomes.
fn input(inputs: InputBits, value: f32) -> f32 {
    if inputs == InputBits::Sixteen { rounded(Storage::Bf16, value) } else { value }
}

/// One product, from y of given values.
fn product(level: Level, pool: &Pool, w: &Matrix, x: &[f32], y: &[f32], then: Epilogue) -> Vec<f32> {
    let mut y = y.to_vec();
    products_at(level, pool, &mut [Product { w, x, y: &mut y, then }]);
    y
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

fn epilogue(then: Epilogue, sum: f64, y: f64) -> f64 {
    match then {
        Epilogue::Store => sum,
        Epilogue::Add => y + sum,
        Epilogue::Relu2 => sum.max(0.0).powi(2),
        Epilogue::Tanh => sum.tanh(),
        Epilogue::Sigmoid => 1.0 / (1.0 + (-sum).exp()),
        Epilogue::Silu => sum / (1.0 + (-sum).exp()),
    }
}

/// A random problem: values of W [rows, cols], x [t, cols] and y [t, rows].
struct Case {
    rows: usize,
    cols: usize,
    w: Vec<f32>,
    x: Vec<f32>,
    y: Vec<f32>,
}

fn case(rng: &mut Rng, t: usize, rows: usize, cols: usize) -> Case {
    Case { rows, cols, w: rng.vec(rows * cols, 1.0), x: rng.vec(t * cols, 1.0), y: rng.vec(t * rows, 1.0) }
}

/// Compares with the same product in f64; the bound grows with the square root of the number of terms.
fn check_against_f64(level: Level, pool: &Pool, (storage, inputs): (Storage, InputBits), c: &Case, then: Epilogue) {
    let w = pack(pool, storage, c.cols, &c.w).with_inputs(inputs);
    let got = product(level, pool, &w, &c.x, &c.y, then);
    for (at, &got) in got.iter().enumerate() {
        let (t, row) = (at / c.rows, at % c.rows);
        let terms = c.w[row * c.cols..][..c.cols].iter().zip(&c.x[t * c.cols..][..c.cols]);
        let sum: f64 = terms.map(|(&w, &x)| rounded(storage, w) as f64 * input(inputs, x) as f64).sum();
        let want = epilogue(then, sum, c.y[at] as f64);
        let slope = if then == Epilogue::Relu2 { 2.0 * sum.abs() + 1.0 } else { 1.0 };
        let tolerance = f64::from(f32::EPSILON) * 16.0 * (4.0 + c.cols as f64).sqrt() * slope;
        assert!(
            (got as f64 - want).abs() <= tolerance,
            "{level} {storage} {inputs:?} {then:?} [{}, {}] at ({t}, {row}): {got}, want {want} within {tolerance:e}",
            c.rows,
            c.cols,
        );
    }
}

/// The blocks of a product of bf16 with bf16: of every two columns the second first.
fn pairwise(w: &[f32], x: &[f32]) -> Vec<f32> {
    let term = |sum: f32, w: f32, x: f32| rounded(Storage::Bf16, w).mul_add(rounded(Storage::Bf16, x), sum);
    let block = |(w, x): (&[f32], &[f32])| {
        w.chunks(2).zip(x.chunks(2)).fold(0.0, |sum, pair| match pair {
            (&[w, v], &[x, y]) => term(term(sum, v, y), w, x),
            (w, x) => term(sum, w[0], x[0]),
        })
    };
    w.chunks(256).zip(x.chunks(256)).map(block).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_are_right_for_any_shape(
        t in prop_oneof![0usize..40, Just(64)], rows in 1usize..80, cols in prop_oneof![1usize..70, 250usize..530],
        kind in 0usize..4, then in 0usize..6, threads in 1usize..4, seed: u64,
    ) {
        let c = case(&mut Rng(seed), t, rows, cols);
        for &level in Level::available() {
            check_against_f64(level, &Pool::new(threads), KINDS[kind], &c, EPILOGUES[then]);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_company(
        t in 2usize..40, rows in 1usize..150, cols in prop_oneof![1usize..40, 200usize..600],
        kind in 0usize..4, then in 0usize..6, seed: u64,
    ) {
        let ((storage, inputs), then) = (KINDS[kind], EPILOGUES[then]);
        let c = case(&mut Rng(seed), t, rows, cols);
        let (one, three) = (Pool::new(1), Pool::new(3));
        let w = pack(&three, storage, cols, &c.w).with_inputs(inputs);
        for &level in Level::available() {
            let together = product(level, &three, &w, &c.x, &c.y, then);
            for row in 0..t {
                let (x, y) = (&c.x[row * cols..][..cols], &c.y[row * rows..][..rows]);
                let alone = product(level, &one, &w, x, y, then);
                prop_assert_eq!(bits(&alone), bits(&together[row * rows..][..rows]), "{} row {}", level, row);
            }
        }
    }

    #[test]
    fn bf16_by_bf16_is_its_definition_to_the_bit(
        t in 1usize..40, rows in 1usize..80, cols in prop_oneof![1usize..70, 250usize..530], spread in 0i32..120,
        add: bool, threads in 1usize..4, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let mut c = case(&mut rng, t, rows, cols);
        // Magnitudes far apart, of which some drop out, and sums that cancel.
        let mut scale = |value: &mut f32| *value *= 2f32.powi(rng.below(spread as usize + 1) as i32 - spread);
        c.w.iter_mut().for_each(&mut scale);
        c.x.iter_mut().for_each(&mut scale);
        for w in c.w.chunks_mut(2) {
            if let [first, second] = w {
                *second = if spread % 2 == 0 { -*first } else { *second };
            }
        }
        let w = pack(&Pool::new(2), Storage::Bf16, cols, &c.w).with_inputs(InputBits::Sixteen);
        let then = if add { Epilogue::Add } else { Epilogue::Store };
        let want: Vec<f32> = (0..t * rows).map(|at| {
            let (row, out) = (at / rows, at % rows);
            let start = if add { c.y[at] } else { 0.0 };
            let sum = pairwise(&c.w[out * cols..][..cols], &c.x[row * cols..][..cols]);
            sum.into_iter().fold(None, |sum, block| Some(match sum {
                None if !add => block,
                None => start + block,
                Some(sum) => sum + block,
            })).unwrap_or(start)
        }).collect();
        for &level in Level::available() {
            let got = product(level, &Pool::new(threads), &w, &c.x, &c.y, then);
            prop_assert_eq!(bits(&got), bits(&want), "{}", level);
        }
    }

    #[test]
    fn weights_are_rounded_to_nearest_even(values in prop::collection::vec(any::<u32>(), 1..60), storage in 0usize..3) {
        let storage = STORAGES[storage];
        let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
        let pool = Pool::new(1);
        for cols in [1, values.len()] {
            let rows = values.len() / cols;
            let padded = if storage == Storage::Bf16 { cols.next_multiple_of(2) } else { cols };
            let w = pack(&pool, storage, cols, &values);
            prop_assert_eq!((w.rows(), w.cols(), w.storage()), (rows, cols, storage));
            prop_assert_eq!(w.bytes(), rows.next_multiple_of(16) * padded * storage.bits() as usize / 8);
            let mut out = vec![0.0; cols];
            for row in 0..rows {
                w.unpack_row(row, &mut out);
                for (&got, &value) in out.iter().zip(&values[row * cols..]) {
                    let want = rounded(storage, value);
                    prop_assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(), "{value:e}: {got:e}");
                }
            }
        }
    }
}

#[test]
fn decoding_equals_prefill_bit_for_bit_at_model_sizes() {
    let mut rng = Rng(7);
    let (one, two) = (Pool::new(1), Pool::new(2));
    for (t, rows, cols) in [(300, 96, 1024), (258, 100, 768), (31, 777, 513)] {
        let c = case(&mut rng, t, rows, cols);
        for (storage, inputs) in KINDS {
            let w = pack(&two, storage, cols, &c.w).with_inputs(inputs);
            for &level in Level::available() {
                let all = product(level, &two, &w, &c.x, &c.y, Epilogue::Add);
                // Every path for a few rows, and rows at both ends of the chunks of many.
                for (from, n) in
                    [(0, 1), (1, 2), (t - 3, 3), (t / 2, 4), (t / 2 - 2, 5), (t - 6, 6), (t - 8, 7), (3, 13)]
                {
                    let (x, y) = (&c.x[from * cols..][..n * cols], &c.y[from * rows..][..n * rows]);
                    let some = product(level, &one, &w, x, y, Epilogue::Add);
                    assert!(
                        bits(&some) == bits(&all[from * rows..][..n * rows]),
                        "{level} {storage} {inputs:?} rows {from} + {n}"
                    );
                }
            }
        }
    }
}

#[test]
fn several_products_share_a_region() {
    let mut rng = Rng(3);
    let pool = Pool::new(3);
    // More than fit in one region, of unlike sizes, some without rows.
    let cases: Vec<Case> = (0..40).map(|i| case(&mut rng, [1, 0, 17][i % 3], 1 + 37 * i, 1 + 29 * (i % 11))).collect();
    let matrices: Vec<Matrix> = (cases.iter().enumerate())
        .map(|(i, c)| pack(&pool, Storage::Bf16, c.cols, &c.w).with_inputs(KINDS[1 + i % 3].1))
        .collect();
    let mut outputs: Vec<Vec<f32>> = cases.iter().map(|c| c.y.clone()).collect();
    let mut all: Vec<Product> = (cases.iter().zip(&matrices).zip(&mut outputs).enumerate())
        .map(|(i, ((c, w), y))| Product { w, x: &c.x, y, then: EPILOGUES[i % 6] })
        .collect();
    products(&pool, &mut all);
    for (i, ((c, w), y)) in cases.iter().zip(&matrices).zip(&outputs).enumerate() {
        let alone = product(Level::Avx512Bf16, &Pool::new(1), w, &c.x, &c.y, EPILOGUES[i % 6]);
        assert!(bits(&alone) == bits(y), "product {i}");
    }
}

#[test]
fn what_bf16_is_too_coarse_for_counts_as_zero() {
    let pool = Pool::new(1);
    let tiny = [f32::from_bits(1), f32::MIN_POSITIVE, -1e-20, 1.387e-17, 0.0, -0.0];
    let w = pack(&pool, Storage::Bf16, tiny.len(), &tiny).with_inputs(InputBits::Sixteen);
    let ones = pack(&pool, Storage::Bf16, tiny.len(), &[1e30; 6]).with_inputs(InputBits::Sixteen);
    for &level in Level::available() {
        for t in [1, 2, 30] {
            let run = |w: &Matrix, x: [f32; 6]| product(level, &pool, w, &x.repeat(t), &vec![1.0; t], Epilogue::Store);
            assert_eq!(run(&w, [1e30; 6]), vec![0.0; t], "{level}");
            assert_eq!(run(&ones, tiny), vec![0.0; t], "{level}");
            let smallest = 2f32.powi(-56);
            assert_eq!(run(&ones, [smallest, 0.0, 0.0, 0.0, 0.0, 0.0])[0], rounded(Storage::Bf16, 1e30) * smallest);
        }
    }
}

#[test]
fn inputs_are_what_the_storage_goes_with() {
    let pool = Pool::new(1);
    let (eight, sixteen, all) = (InputBits::Eight, InputBits::Sixteen, InputBits::ThirtyTwo);
    for (storage, expected) in [
        (Storage::F32, [all, all, all]),
        (Storage::F16, [all, all, all]),
        (Storage::Bf16, [sixteen, sixteen, all]),
        (Storage::Int8, [eight, sixteen, sixteen]),
    ] {
        let found = [eight, sixteen, all].map(|asked| pack(&pool, storage, 3, &[1.0; 3]).with_inputs(asked).inputs());
        assert_eq!(found, expected, "{storage}");
        assert_eq!(pack(&pool, storage, 3, &[1.0; 3]).inputs(), expected[2], "{storage}");
    }
}

#[test]
fn nan_and_infinity_pass_through() {
    let pool = Pool::new(1);
    for (storage, inputs) in KINDS {
        let w = pack(&pool, storage, 2, &[1.0, 1.0, 0.0, 1.0, f32::INFINITY, 1.0, f32::NAN, 1.0]).with_inputs(inputs);
        for &level in Level::available() {
            for t in [1, 9] {
                for then in EPILOGUES {
                    let run = |x: [f32; 2]| product(level, &pool, &w, &x.repeat(t), &vec![0.0; 4 * t], then);
                    // Only the rows that meet the bad value show it, and no epilogue hides it.
                    let y = run([f32::NAN, 1.0]);
                    assert!(y.iter().all(|y| y.is_nan()), "{level} {storage} {then:?} {y:?}");
                    let y = run([1.0, 1.0]);
                    for y in y.chunks(4) {
                        assert!(y[0].is_finite() && y[1].is_finite() && y[3].is_nan(), "{storage} {then:?} {y:?}");
                        assert!(y[2] == epilogue(then, f64::INFINITY, 0.0) as f32 || then == Epilogue::Silu);
                    }
                    let y = run([f32::INFINITY, 1.0]);
                    assert!(y.chunks(4).all(|y| y[1].is_nan()), "0 times infinity: {y:?}");
                }
            }
        }
    }
}

#[test]
fn epilogues_are_the_activation_functions() {
    let mut rng = Rng(11);
    let pool = Pool::new(2);
    let c = case(&mut rng, 9, 70, 300);
    let w = pack(&pool, Storage::F32, c.cols, &c.w);
    let run = |then| {
        let mut y = c.y.clone();
        products(&pool, &mut [Product { w: &w, x: &c.x, y: &mut y, then }]);
        y
    };
    let functions = [
        (Epilogue::Relu2, activation::relu2 as fn(&mut [f32])),
        (Epilogue::Tanh, activation::tanh),
        (Epilogue::Sigmoid, activation::sigmoid),
        (Epilogue::Silu, activation::silu),
    ];
    for (then, function) in functions {
        let mut want = run(Epilogue::Store);
        function(&mut want);
        assert!(bits(&run(then)) == bits(&want), "{then:?}");
    }
}

#[test]
fn weights_outlive_their_neighbours_in_a_slab() {
    let pool = Pool::new(2);
    let sizes = [3usize, 700, 2_000, 9_000, 5, 1_500];
    let constant = |n: usize| Matrix::pack(&pool, Storage::F32, n, 500, |row, out| out.fill((row * 7 + n) as f32));
    let mut matrices: Vec<Matrix> = sizes.iter().map(|&n| constant(n)).collect();
    matrices.remove(1);
    matrices.push(constant(701));
    let mut out = vec![0.0; 500];
    for w in &matrices {
        for row in [0, w.rows() / 2, w.rows() - 1] {
            w.unpack_row(row, &mut out);
            assert!(out.iter().all(|&v| v == (row * 7 + w.rows()) as f32), "{w:?} row {row}");
        }
    }
}

#[test]
#[should_panic(expected = "x has 7 elements and y 8, which are not [T, 3] and [T, 4]")]
fn wrong_shapes_are_refused() {
    let pool = Pool::new(1);
    let w = Matrix::pack(&pool, Storage::F32, 4, 3, |_, out| out.fill(1.0));
    products(&pool, &mut [Product { w: &w, x: &[0.0; 7], y: &mut [0.0; 8], then: Epilogue::Store }]);
}

#[test]
fn storage_has_names() {
    for storage in STORAGES {
        assert_eq!(storage.to_string().parse(), Ok(storage));
    }
    let error = "f8".parse::<Storage>().expect_err("no such format");
    assert_eq!(
        error.to_string(),
        "unknown weight format \"f8\"; expected f32, bf16, f16, int8, int4, q4_0, q5_k or q6_k"
    );
}
