use anser_kernels::activation;
use anser_kernels::linear::{Epilogue, Matrix, Product, Storage, products, products_at};
use anser_kernels::pool::Pool;
use anser_kernels::simd::Level;
use anser_testkit::Rng;
use half::{bf16, f16};
use proptest::prelude::*;

const STORAGES: [Storage; 3] = [Storage::F32, Storage::Bf16, Storage::F16];
const EPILOGUES: [Epilogue; 6] =
    [Epilogue::Store, Epilogue::Add, Epilogue::Relu2, Epilogue::Tanh, Epilogue::Sigmoid, Epilogue::Silu];

fn rounded(storage: Storage, value: f32) -> f32 {
    match storage {
        Storage::F32 => value,
        Storage::Bf16 => bf16::from_f32(value).to_f32(),
        Storage::F16 => f16::from_f32(value).to_f32(),
        _ => unreachable!("only floats here"),
    }
}

fn pack(pool: &Pool, storage: Storage, cols: usize, values: &[f32]) -> Matrix {
    let row = |r: usize| &values[r * cols..(r + 1) * cols];
    Matrix::pack(pool, storage, values.len() / cols, cols, |r, out| out.copy_from_slice(row(r)))
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
fn check_against_f64(level: Level, pool: &Pool, storage: Storage, c: &Case, then: Epilogue) {
    let w = pack(pool, storage, c.cols, &c.w);
    let got = product(level, pool, &w, &c.x, &c.y, then);
    for (at, &got) in got.iter().enumerate() {
        let (t, row) = (at / c.rows, at % c.rows);
        let terms = c.w[row * c.cols..][..c.cols].iter().zip(&c.x[t * c.cols..][..c.cols]);
        let sum: f64 = terms.map(|(&w, &x)| rounded(storage, w) as f64 * x as f64).sum();
        let want = epilogue(then, sum, c.y[at] as f64);
        let slope = if then == Epilogue::Relu2 { 2.0 * sum.abs() + 1.0 } else { 1.0 };
        let tolerance = f64::from(f32::EPSILON) * 16.0 * (4.0 + c.cols as f64).sqrt() * slope;
        assert!(
            (got as f64 - want).abs() <= tolerance,
            "{level} {storage} {then:?} [{}, {}] at ({t}, {row}): {got}, want {want} within {tolerance:e}",
            c.rows,
            c.cols,
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_are_right_for_any_shape(
        t in prop_oneof![0usize..20, Just(64)], rows in 1usize..80, cols in prop_oneof![1usize..70, 250usize..530],
        storage in 0usize..3, then in 0usize..6, threads in 1usize..4, seed: u64,
    ) {
        let c = case(&mut Rng(seed), t, rows, cols);
        for &level in Level::available() {
            check_against_f64(level, &Pool::new(threads), STORAGES[storage], &c, EPILOGUES[then]);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_company(
        t in 2usize..40, rows in 1usize..150, cols in prop_oneof![1usize..40, 200usize..600],
        storage in 0usize..3, then in 0usize..6, seed: u64,
    ) {
        let (storage, then) = (STORAGES[storage], EPILOGUES[then]);
        let c = case(&mut Rng(seed), t, rows, cols);
        let (one, three) = (Pool::new(1), Pool::new(3));
        let w = pack(&three, storage, cols, &c.w);
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
    fn weights_are_rounded_to_nearest_even(values in prop::collection::vec(any::<u32>(), 1..60), storage in 0usize..3) {
        let storage = STORAGES[storage];
        let values: Vec<f32> = values.into_iter().map(f32::from_bits).collect();
        let pool = Pool::new(1);
        for cols in [1, values.len()] {
            let rows = values.len() / cols;
            let w = pack(&pool, storage, cols, &values);
            prop_assert_eq!((w.rows(), w.cols(), w.storage()), (rows, cols, storage));
            prop_assert_eq!(w.bytes(), rows.next_multiple_of(16) * cols * storage.bits() as usize / 8);
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
        for storage in STORAGES {
            let w = pack(&two, storage, cols, &c.w);
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
                        "{level} {storage} rows {from} + {n}"
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
    let matrices: Vec<Matrix> = cases.iter().map(|c| pack(&pool, Storage::Bf16, c.cols, &c.w)).collect();
    let mut outputs: Vec<Vec<f32>> = cases.iter().map(|c| c.y.clone()).collect();
    let mut all: Vec<Product> = (cases.iter().zip(&matrices).zip(&mut outputs).enumerate())
        .map(|(i, ((c, w), y))| Product { w, x: &c.x, y, then: EPILOGUES[i % 6] })
        .collect();
    products(&pool, &mut all);
    for (i, ((c, w), y)) in cases.iter().zip(&matrices).zip(&outputs).enumerate() {
        let alone = product(Level::Avx512, &Pool::new(1), w, &c.x, &c.y, EPILOGUES[i % 6]);
        assert!(bits(&alone) == bits(y), "product {i}");
    }
}

#[test]
fn nan_and_infinity_pass_through() {
    let pool = Pool::new(1);
    for storage in STORAGES {
        let w = pack(&pool, storage, 2, &[1.0, 1.0, 0.0, 1.0, f32::INFINITY, 1.0, f32::NAN, 1.0]);
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
