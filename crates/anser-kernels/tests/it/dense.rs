use anser_kernels::activation;
use anser_kernels::linear::dense::{Mat, Plus, Product, matmul, matmuls};
use anser_kernels::pool::Pool;
use anser_kernels::simd::{Level, with_level};
use anser_testkit::Rng;
use proptest::prelude::*;

/// The product as documented: blocks of 256 terms, a chain of (fused) multiply-adds within each.
fn by_hand(level: Level, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], out: &mut [f32], add: bool) {
    let fused = level > Level::Portable || cfg!(any(target_arch = "aarch64", target_feature = "fma"));
    for i in 0..m {
        for j in 0..n {
            let out = &mut out[i * n + j];
            let mut first = !add;
            for start in (0..k).step_by(256) {
                let mut sum = 0.0f32;
                for l in start..k.min(start + 256) {
                    let (x, w) = (a[i * k + l], b[l * n + j]);
                    sum = if fused { w.mul_add(x, sum) } else { w * x + sum };
                }
                *out = if first { sum } else { *out + sum };
                first = false;
            }
            if k == 0 && !add {
                *out = 0.0;
            }
        }
    }
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..cols * rows).map(|i| values[i % rows * cols + i / rows]).collect()
}

fn check(shape: [usize; 3], seed: u64) {
    let [m, n, k] = shape;
    let mut rng = Rng(seed);
    let (a, b, y) = (rng.vec(m * k, 1.0), rng.vec(k * n, 1.0), rng.vec(m * n, 1.0));
    let (at, bt) = (transposed(&a, m, k), transposed(&b, k, n));
    let pools = [Pool::new(1), Pool::new(3)];
    for &level in Level::available() {
        for add in [false, true] {
            let mut want = y.clone();
            by_hand(level, shape, &a, &b, &mut want, add);
            for (a, b, what) in [
                (Mat::new(&a, m, k), Mat::new(&b, k, n), "a b"),
                (Mat::new(&at, k, m).t(), Mat::new(&b, k, n), "a^T b"),
                (Mat::new(&a, m, k), Mat::new(&bt, n, k).t(), "a b^T"),
                (Mat::new(&at, k, m).t(), Mat::new(&bt, n, k).t(), "a^T b^T"),
            ] {
                for pool in &pools {
                    let mut got = y.clone();
                    with_level(level, || matmul(pool, a, b, &mut got, add));
                    let same = got.iter().zip(&want).all(|(got, want)| got.to_bits() == want.to_bits());
                    assert!(same, "{what}, {level}, {shape:?}, add {add}, {} threads", pool.threads());
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_product_is_its_sums_to_the_bit(
        m in prop_oneof![0usize..30, 100usize..140],
        n in prop_oneof![0usize..70, Just(128)],
        k in prop_oneof![0usize..20, 250usize..300],
        seed in any::<u64>(),
    ) {
        check([m, n, k], seed);
    }
}

#[test]
fn shapes_of_training() {
    for (i, shape) in
        [[600, 64, 96], [130, 40, 256], [64, 64, 600], [32, 80, 520], [260, 33, 257], [510, 16, 513], [270, 200, 300]]
            .into_iter()
            .enumerate()
    {
        check(shape, i as u64);
    }
}

/// Products of different shapes in one go, with everything around them, against one after the other and by itself.
#[test]
fn what_surrounds_products() {
    let (m, n, k) = (130, 72, 300);
    let mut rng = Rng(7);
    let (a, b, y) = (rng.vec(m * k, 1.0), rng.vec(k * n, 1.0), rng.vec(m * n, 1.0));
    let (row, at, small) = (rng.vec(n, 1.0), rng.vec(m * n, 1.0), rng.vec(n * 20, 1.0));
    for &level in Level::available() {
        with_level(level, || {
            let pool = Pool::new(2);
            let squared = |x: &[f32]| {
                let mut x = x.to_vec();
                activation::relu2(&mut x);
                x
            };
            let (a2, b2) = (squared(&a), squared(&b));
            let mut start: Vec<f32> = (0..m).flat_map(|_| row.clone()).collect();
            matmul(&pool, Mat::new(&a2, m, k), Mat::new(&b, k, n), &mut start, true);
            let mut slope = y.clone();
            matmul(&pool, Mat::new(&a, m, k), Mat::new(&b2, k, n), &mut slope, true);
            slope.iter_mut().zip(&at).for_each(|(y, x)| *y *= 2.0 * x.max(0.0));
            let mut other = vec![0.0; m * 20];
            matmul(&pool, Mat::new(&y, m, n), Mat::new(&small, n, 20), &mut other, false);
            let mut transposed = vec![0.0; k * n];
            matmul(&pool, Mat::new(&a2, m, k).t(), Mat::new(&y, m, n), &mut transposed, false);

            let mut got = [vec![f32::NAN; m * n], vec![f32::NAN; m * n], vec![f32::NAN; m * 20], vec![f32::NAN; k * n]];
            let [first, second, third, fourth] = &mut got;
            let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, k, n));
            matmuls(
                &pool,
                &mut [
                    (Product::new(a.relu2(), b).plus(Plus::Row(&row)), first),
                    (Product::new(a, b.relu2()).plus(Plus::Rows(&y)).relu2_slope(&at), second),
                    (Product::new(Mat::new(&y, m, n), Mat::new(&small, n, 20)), third),
                    (Product::new(a.relu2().t(), Mat::new(&y, m, n)), fourth),
                ],
            );
            for (got, want) in got.iter().zip([start, slope, other, transposed]) {
                assert!(got.iter().zip(&want).all(|(got, want)| got.to_bits() == want.to_bits()), "{level}");
            }
        });
    }
}

#[test]
#[should_panic(expected = "product of 2 x 3 and 2 x 2")]
fn shapes_must_fit() {
    let values = [0.0; 6];
    matmul(&Pool::new(1), Mat::new(&values, 2, 3), Mat::new(&values[..4], 2, 2), &mut [0.0; 4], false);
}
