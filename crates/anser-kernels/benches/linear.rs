//! Speed of the matrix products: the weights of one token of a 12 x 768 RWKV-7 (bytes per second against the memory's
//! bandwidth), and products of a prefill of 256 tokens (an "element" is a floating-point operation).
//!
//! `ANSER_THREADS` sets the number of threads (default: all cores).

use std::hint::black_box;
use std::time::Duration;

use anser_kernels::linear::{Epilogue, InputBits, Matrix, Product, Storage, products};
use anser_kernels::pool::Pool;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const WIDTH: usize = 768;
const FFN: usize = 4 * WIDTH;
const LAYERS: usize = 12;
const VOCAB: usize = 65536;

/// [out, in] of the matrices of a layer, grouped as they can run together: r, k, v and the first halves of the low-rank
/// maps; their second halves; the output; the channel mix.
const LAYER: [&[[usize; 2]]; 5] = [
    &[[WIDTH, WIDTH], [WIDTH, WIDTH], [WIDTH, WIDTH], [64, WIDTH], [64, WIDTH], [32, WIDTH], [128, WIDTH]],
    &[[WIDTH, 64], [WIDTH, 64], [WIDTH, 32], [WIDTH, 128]],
    &[[WIDTH, WIDTH]],
    &[[FFN, WIDTH]],
    &[[WIDTH, FFN]],
];

fn pool() -> Pool {
    let threads = std::env::var("ANSER_THREADS").ok().and_then(|n| n.parse().ok());
    Pool::new(threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())))
}

/// Storages, and the bits of the inputs that they are multiplied with.
const FLOATS: [(Storage, InputBits); 4] = [
    (Storage::F32, InputBits::ThirtyTwo),
    (Storage::Bf16, InputBits::ThirtyTwo),
    (Storage::F16, InputBits::ThirtyTwo),
    (Storage::Bf16, InputBits::Sixteen),
];
const CODES: [(Storage, InputBits); 4] = [
    (Storage::Int8, InputBits::Sixteen),
    (Storage::Int4, InputBits::Sixteen),
    (Storage::Int8, InputBits::Eight),
    (Storage::Int4, InputBits::Eight),
];

fn name((storage, inputs): (Storage, InputBits)) -> String {
    match (storage, inputs) {
        (Storage::Bf16, InputBits::Sixteen) => format!("{storage} with bf16 inputs"),
        (_, InputBits::ThirtyTwo | InputBits::Sixteen) => storage.to_string(),
        (_, InputBits::Eight) => format!("{storage} with 8-bit inputs"),
    }
}

fn matrix(pool: &Pool, (storage, inputs): (Storage, InputBits), [rows, cols]: [usize; 2]) -> Matrix {
    let value = |row: usize, k: usize| ((row * 31 + k * 17) % 101) as f32 * 0.01 - 0.5;
    Matrix::pack(pool, storage, rows, cols, |row, out| {
        out.iter_mut().enumerate().for_each(|(k, out)| *out = value(row, k));
    })
    .with_inputs(inputs)
}

fn decode(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group(format!("token, {} threads", pool.threads()));
    for storage in FLOATS.into_iter().chain(CODES) {
        let region = |shapes: &[[usize; 2]]| shapes.iter().map(|&s| matrix(&pool, storage, s)).collect();
        let mut regions: Vec<Vec<Matrix>> = (0..LAYERS).flat_map(|_| LAYER.map(region)).collect();
        regions.push(vec![matrix(&pool, storage, [VOCAB, WIDTH])]);
        for rows in [1, 4, 16] {
            let x = vec![0.5; rows * FFN];
            let mut y: Vec<Vec<f32>> = (0..LAYER[0].len()).map(|_| vec![0.0; rows * VOCAB]).collect();
            group.throughput(Throughput::Bytes(regions.iter().flatten().map(|w| w.bytes() as u64).sum()));
            group.bench_function(format!("{} x {rows}", name(storage)), |bencher| {
                bencher.iter(|| {
                    for region in &regions {
                        let mut all: Vec<Product> = (region.iter().zip(&mut y))
                            .map(|(w, y)| Product {
                                w,
                                x: &x[..rows * w.cols()],
                                y: &mut y[..rows * w.rows()],
                                then: Epilogue::Store,
                            })
                            .collect();
                        products(&pool, black_box(&mut all));
                    }
                })
            });
        }
    }
    group.finish();
}

fn prefill(criterion: &mut Criterion) {
    let pool = pool();
    let mut group = criterion.benchmark_group(format!("product, {} threads", pool.threads()));
    for storage in FLOATS.into_iter().chain(CODES) {
        for [rows, cols, outputs] in [[256, WIDTH, WIDTH], [256, WIDTH, FFN], [256, FFN, WIDTH], [16, WIDTH, FFN]] {
            let w = matrix(&pool, storage, [outputs, cols]);
            let x = vec![0.5; rows * cols];
            let mut y = vec![0.0; rows * outputs];
            group.throughput(Throughput::Elements((2 * rows * cols * outputs) as u64));
            group.bench_function(format!("{} {rows}x{cols}x{outputs}", name(storage)), |bencher| {
                bencher.iter(|| products(&pool, &mut [Product { w: &w, x: &x, y: &mut y, then: Epilogue::Store }]))
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .without_plots();
    targets = decode, prefill
}
criterion_main!(benches);
