use std::ops::Range;
use std::sync::{Arc, Mutex};

use anser_kernels::activation;
use anser_kernels::linear::quant::reference;
use anser_kernels::linear::{
    BlockFormat, Epilogue, InputBits, Matrix, Packed, PackedError, Product, Storage, packed_len, products, products_at,
};
use anser_kernels::pool::Pool;
use anser_kernels::simd::Level;
use anser_testkit::Rng;
use half::f16;
use proptest::prelude::*;

const MADE: [Storage; 2] = [Storage::Int8, Storage::Int4];
const FORMATS: [BlockFormat; 5] =
    [BlockFormat::Q8_0, BlockFormat::Q4_0, BlockFormat::Q4K, BlockFormat::Q5K, BlockFormat::Q6K];
const EPILOGUES: [Epilogue; 6] =
    [Epilogue::Store, Epilogue::Add, Epilogue::Relu2, Epilogue::Tanh, Epilogue::Sigmoid, Epilogue::Silu];

fn pack(pool: &Pool, storage: Storage, cols: usize, values: &[f32]) -> Matrix {
    let row = |r: usize| &values[r * cols..(r + 1) * cols];
    Matrix::pack(pool, storage, values.len() / cols, cols, |r, out| out.copy_from_slice(row(r)))
}

/// Random blocks of a format. Only d and dmin are kept in bounds: all other bytes mean something.
fn blocks(rng: &mut Rng, format: BlockFormat, rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..rows * cols / format.columns() * format.bytes()).map(|_| byte(rng)).collect();
    for block in bytes.chunks_exact_mut(format.bytes()) {
        let mut half = |at: usize| {
            let value = f16::from_f32(rng.vec(1, 0.01)[0]).to_le_bytes();
            block[at..at + 2].copy_from_slice(&value);
        };
        match format {
            BlockFormat::Q8_0 | BlockFormat::Q4_0 => half(0),
            BlockFormat::Q4K | BlockFormat::Q5K => (half(0), half(2)).0,
            BlockFormat::Q6K => half(208),
        }
    }
    bytes
}

fn byte(rng: &mut Rng) -> u8 {
    (rng.vec(1, 1.0)[0].to_bits() >> 3) as u8
}

fn repack(pool: &Pool, format: BlockFormat, rows: usize, cols: usize, bytes: &[u8]) -> Matrix {
    let length = bytes.len() / rows;
    Matrix::repack(pool, format, rows, cols, |row| &bytes[row * length..][..length])
        .unwrap_or_else(|error| panic!("{format:?}: {error}"))
}

#[test]
fn blocks_with_a_scale_that_is_no_number_are_refused() {
    for format in FORMATS {
        let (rows, cols) = (20, 2 * format.columns());
        let whole = blocks(&mut Rng(5), format, rows, cols);
        for bad in [f16::NAN, f16::INFINITY] {
            let mut bytes = whole.clone();
            let at = (2 * 17 + 1) * format.bytes() + if format == BlockFormat::Q6K { 208 } else { 0 };
            bytes[at..at + 2].copy_from_slice(&bad.to_le_bytes());
            let length = bytes.len() / rows;
            let error = Matrix::repack(&Pool::new(2), format, rows, cols, |row| &bytes[row * length..][..length]);
            let error = error.unwrap_err();
            assert!(matches!(error, PackedError::Scale { row: 17, .. }), "{format:?}: {error}");
        }
    }
}

/// Kinds of [`matrix`] that take inputs of 16 bits, and how many there are.
const SIXTEEN: usize = MADE.len() + FORMATS.len();
const KINDS: usize = 2 * SIXTEEN;

/// A random matrix: of values for the first two kinds, of blocks for the others (cols then is made whole blocks). The
/// second half of the kinds takes inputs of 8 bits.
fn matrix(rng: &mut Rng, kind: usize, rows: usize, cols: usize) -> Matrix {
    let pool = Pool::new(2);
    if kind >= SIXTEEN {
        return matrix(rng, kind - SIXTEEN, rows, cols).with_inputs(InputBits::Eight);
    }
    if kind < MADE.len() {
        return pack(&pool, MADE[kind], cols, &rng.vec(rows * cols, 1.0));
    }
    let format = FORMATS[kind - MADE.len()];
    let cols = cols.next_multiple_of(format.columns());
    let bytes = blocks(rng, format, rows, cols);
    repack(&pool, format, rows, cols, &bytes)
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

/// Rows of x of all sizes, among them zero, tiny and huge ones and single spikes.
fn rows_of_x(rng: &mut Rng, t: usize, cols: usize) -> Vec<f32> {
    let mut x = rng.vec(t * cols, 1.0);
    for (row, x) in x.chunks_mut(cols).enumerate() {
        match row % 7 {
            1 => x.fill(0.0),
            2 => x.iter_mut().for_each(|x| *x *= 1e-32),
            3 => x.iter_mut().for_each(|x| *x *= 1e30),
            4 => x[cols / 2] = 1e4,
            5 => x.fill(-3.0),
            _ => {}
        }
    }
    x
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_of_codes_equal_the_reference(
        t in prop_oneof![0usize..8, 8usize..61], rows in 1usize..80, cols in prop_oneof![1usize..70, 220usize..600],
        kind in 0..KINDS, add: bool, threads in 1usize..4, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let w = matrix(&mut rng, kind, rows, cols);
        let cols = w.cols();
        let (x, y) = (rows_of_x(&mut rng, t, cols), rng.vec(t * rows, 1.0));
        let then = if add { Epilogue::Add } else { Epilogue::Store };
        for &level in Level::available() {
            let got = product(level, &Pool::new(threads), &w, &x, &y, then);
            let mut want = y.clone();
            for (x, y) in x.chunks(cols).zip(want.chunks_mut(rows)) {
                reference(level, &w, x, y, then);
            }
            prop_assert_eq!(bits(&got), bits(&want), "{} {:?} {} rows", level, w, t);
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_company(
        t in 2usize..60, rows in 1usize..150, cols in prop_oneof![1usize..40, 200usize..600],
        kind in 0..KINDS, then in 0usize..6, seed: u64,
    ) {
        let mut rng = Rng(seed);
        let w = matrix(&mut rng, kind, rows, cols);
        let (cols, then) = (w.cols(), EPILOGUES[then]);
        let (x, y) = (rng.vec(t * cols, 1.0), rng.vec(t * rows, 1.0));
        let (one, three) = (Pool::new(1), Pool::new(3));
        for &level in Level::available() {
            let together = product(level, &three, &w, &x, &y, then);
            for row in 0..t {
                let alone = product(level, &one, &w, &x[row * cols..][..cols], &y[row * rows..][..rows], then);
                prop_assert_eq!(bits(&alone), bits(&together[row * rows..][..rows]), "{} row {}", level, row);
            }
        }
    }

    #[test]
    fn packed_bytes_make_the_same_matrix(kind in 0usize..7, rows in 1usize..50, cols in 1usize..600, seed: u64) {
        let w = matrix(&mut Rng(seed), kind, rows, cols);
        prop_assert_eq!(Some(w.packed().len()), packed_len(w.storage(), rows, w.cols()));
        for packed in both_ways(w.packed()) {
            let again = Matrix::from_packed(w.storage(), rows, w.cols(), packed).unwrap();
            prop_assert!(again.packed() == w.packed());
            let (mut want, mut got) = (vec![0.0; w.cols()], vec![0.0; w.cols()]);
            w.unpack_row(rows - 1, &mut want);
            again.unpack_row(rows - 1, &mut got);
            prop_assert_eq!(bits(&got), bits(&want));
        }
    }

    #[test]
    fn blocks_keep_their_values(format in 0usize..5, rows in 1usize..40, blocks_in_row in 1usize..5, seed: u64) {
        let format = FORMATS[format];
        let cols = blocks_in_row * format.columns();
        let bytes = blocks(&mut Rng(seed), format, rows, cols);
        let w = repack(&Pool::new(2), format, rows, cols, &bytes);
        prop_assert_eq!(w.storage(), format.storage());
        let mut got = vec![0.0; cols];
        for (row, bytes) in bytes.chunks(bytes.len() / rows).enumerate() {
            w.unpack_row(row, &mut got);
            let want: Vec<f32> = bytes.chunks(format.bytes()).flat_map(|block| values(format, block)).collect();
            prop_assert_eq!(bits(&got), bits(&want), "{:?} row {}", format, row);
        }
    }

    #[test]
    fn codes_are_close_to_the_values(
        cols in 1usize..400, scale in -20i32..10, shift in -1.0f32..1.0, seed: u64, storage in 0usize..2,
    ) {
        let scale = (scale as f32).exp2();
        let values: Vec<f32> = Rng(seed).vec(cols, 1.0).iter().map(|v| (v + shift) * scale).collect();
        let w = pack(&Pool::new(1), MADE[storage], cols, &values);
        let mut got = vec![0.0; cols];
        w.unpack_row(0, &mut got);
        for (got, want) in got.chunks(256).zip(values.chunks(256)) {
            // Half a step of 127 or 15; the largest values may give up as much again for the others.
            let group = if MADE[storage] == Storage::Int8 { 32 } else { 256 };
            for (got, want) in got.chunks(group).zip(want.chunks(group)) {
                let (low, high) = want.iter().fold((0.0f32, 0.0f32), |(l, h), &v| (l.min(v), h.max(v)));
                // f16 cannot hold steps below 6e-8.
                let step = if MADE[storage] == Storage::Int8 { high.max(-low) / 127.0 } else { (high - low) / 15.0 };
                let bound = 1.1 * step + 4e-6;
                for (got, want) in got.iter().zip(want) {
                    prop_assert!((got - want).abs() <= bound, "{want} became {got}, bound {bound}");
                }
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The values of a block, column by column from the definition of the format.
fn values(format: BlockFormat, block: &[u8]) -> Vec<f32> {
    let nibble = |byte: u8, upper: bool| if upper { byte >> 4 } else { byte & 15 };
    (0..format.columns())
        .map(|k| match format {
            BlockFormat::Q8_0 => half_at(block, 0) * f32::from(block[2 + k] as i8),
            BlockFormat::Q4_0 => half_at(block, 0) * (f32::from(nibble(block[2 + k % 16], k >= 16)) - 8.0),
            BlockFormat::Q4K | BlockFormat::Q5K => {
                let group = k / 32;
                let s = &block[4..16];
                let (scale, minimum) = if group < 4 {
                    (s[group] & 63, s[group + 4] & 63)
                } else {
                    (s[group + 4] & 15 | (s[group - 4] >> 6) << 4, s[group + 4] >> 4 | (s[group] >> 6) << 4)
                };
                let five = format == BlockFormat::Q5K;
                let nibbles = &block[if five { 48 } else { 16 }..];
                let mut code = nibble(nibbles[group / 2 * 32 + k % 32], group % 2 == 1);
                if five && block[16 + k % 32] & (1 << group) != 0 {
                    code += 16;
                }
                let (d, dmin) = (half_at(block, 0), half_at(block, 2));
                (d * f32::from(scale)) * f32::from(code) - dmin * f32::from(minimum)
            }
            BlockFormat::Q6K => {
                let (half, within) = (k / 128, k % 128);
                let low = nibble(block[half * 64 + within % 64], within >= 64);
                let high = block[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
                let code = f32::from(low + 16 * high) - 32.0;
                (half_at(block, 208) * f32::from(block[192 + k / 16] as i8)) * code
            }
        })
        .collect()
}

/// Bytes to be copied, and the same borrowed (from places aligned and not).
fn both_ways(bytes: &[u8]) -> Vec<Packed<'_>> {
    let mut all = vec![Packed::Copied { bytes, release: &|_| () }];
    for offset in [0, 1] {
        let mut owner = vec![0u8; bytes.len() + 128];
        let start = owner.as_ptr().align_offset(64) + offset;
        owner[start..start + bytes.len()].copy_from_slice(bytes);
        all.push(Packed::Borrowed { owner: Arc::new(owner), range: start..start + bytes.len() });
    }
    all
}

#[test]
fn borrowed_weights_stay_where_they_are() {
    let w = matrix(&mut Rng(5), 1, 40, 300);
    let mut owner = vec![0u8; w.packed().len() + 64];
    let start = owner.as_ptr().align_offset(64);
    owner[start..start + w.packed().len()].copy_from_slice(w.packed());
    let place = owner[start..].as_ptr();
    let owner = Arc::new(owner);
    let range = start..start + w.packed().len();
    let borrowed = Matrix::from_packed(w.storage(), 40, 300, Packed::Borrowed { owner: owner.clone(), range }).unwrap();
    assert_eq!(borrowed.packed().as_ptr(), place);
    assert_eq!(Arc::strong_count(&owner), 2);
    drop(owner);
    let (x, y) = (Rng(6).vec(300, 1.0), [0.0; 40]);
    let run = |w: &Matrix| product(Level::Avx512Bf16, &Pool::new(1), w, &x, &y, Epilogue::Store);
    assert_eq!(bits(&run(&borrowed)), bits(&run(&w)));
}

#[test]
fn copying_tells_what_it_has_read() {
    let w = Matrix::pack(&Pool::new(2), Storage::F32, 1600, 1000, |row, out| out.fill(row as f32));
    let read = Mutex::new(Vec::new());
    let release = |range: Range<usize>| read.lock().unwrap().push(range);
    let bytes = w.packed();
    let again = Matrix::from_packed(Storage::F32, 1600, 1000, Packed::Copied { bytes, release: &release }).unwrap();
    assert!(again.packed() == bytes);
    let read = read.into_inner().unwrap();
    assert!(read.len() > 1 && read[0].start == 0 && read[read.len() - 1].end == bytes.len());
    assert!(read.windows(2).all(|pair| pair[0].end == pair[1].start));
}

#[test]
fn bytes_that_are_no_matrix_are_refused() {
    for kind in 0..7 {
        let w = matrix(&mut Rng(9), kind, 20, 300);
        let (storage, cols) = (w.storage(), w.cols());
        let refused = |bytes: &[u8]| {
            let packed = Packed::Copied { bytes, release: &|_| () };
            Matrix::from_packed(storage, 20, cols, packed).expect_err("refused")
        };
        let length = w.packed().len();
        assert_eq!(
            refused(&w.packed()[..length - 1]),
            PackedError::Length { storage, rows: 20, cols, expected: length, found: length - 1 }
        );
        // The scales of the last panel end the matrix; every f16 in them is found, wherever it lies.
        let mut bytes = w.packed().to_vec();
        let infinity = f16::INFINITY.to_le_bytes();
        let per_panel = 32
            * match storage {
                Storage::Int8 | Storage::Q4_0 => cols.div_ceil(32),
                Storage::Int4 | Storage::Q5K => 2 * cols.div_ceil(256) + cols.div_ceil(32),
                _ => cols.div_ceil(256) + cols.div_ceil(32),
            };
        bytes[length - per_panel + 2 * 3..][..2].copy_from_slice(&infinity);
        let error = refused(&bytes);
        assert_eq!(error, PackedError::Scale { row: 19, col: 0 }, "{storage}");
        assert!(error.to_string().contains("row 19"));
    }
    let packed = |storage, rows, cols, range| {
        let owner = Arc::new(vec![0u8; 100]);
        Matrix::from_packed(storage, rows, cols, Packed::Borrowed { owner, range }).expect_err("refused")
    };
    assert_eq!(packed(Storage::F32, 1, 1, 50..200), PackedError::Range { range: 50..200, length: 100 });
    assert_eq!(packed(Storage::F32, 1, 0, 0..0), PackedError::Shape { rows: 1, cols: 0 });
    for storage in Storage::ALL {
        for (rows, cols) in [(usize::MAX, 1), (1, usize::MAX), (usize::MAX / 2, 9), (1 << 40, 1 << 40), (5, 0)] {
            assert_eq!(packed_len(storage, rows, cols), None, "{storage} [{rows}, {cols}]");
            assert_eq!(packed(storage, rows, cols, 0..64), PackedError::Shape { rows, cols });
        }
    }
}

#[test]
fn importance_shifts_the_error() {
    let (pool, cols) = (Pool::new(1), 256);
    let values = Rng(3).vec(16 * cols, 1.0);
    let importance: Vec<f32> = (0..cols).map(|k| if k % 4 == 0 { 100.0 } else { 1.0 }).collect();
    let errors = |importance: Option<&[f32]>, storage: Storage| {
        let w = Matrix::pack_weighted(&pool, storage, 16, cols, importance, |row, out| {
            out.copy_from_slice(&values[row * cols..][..cols]);
        });
        let mut out = vec![0.0; cols];
        let (mut important, mut others) = (0.0, 0.0);
        for row in 0..16 {
            w.unpack_row(row, &mut out);
            for (k, (got, want)) in out.iter().zip(&values[row * cols..]).enumerate() {
                *(if k % 4 == 0 { &mut important } else { &mut others }) += (got - want) * (got - want);
            }
        }
        (important, others)
    };
    for storage in MADE {
        let (plain, weighted) = (errors(None, storage), errors(Some(&importance), storage));
        assert!(weighted.0 < plain.0, "{storage}: {weighted:?} {plain:?}");
        assert!(weighted.0 + weighted.1 >= plain.0 + plain.1);
    }
}

#[test]
fn packing_survives_any_values() {
    let extremes = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, 1e-45, 65504.0, 1e30];
    for storage in MADE {
        for &value in &extremes {
            for &other in &extremes {
                let w = Matrix::pack(&Pool::new(1), storage, 3, 70, |row, out| {
                    out.fill(value);
                    out[row] = other;
                });
                let packed = Packed::Copied { bytes: w.packed(), release: &|_| () };
                assert!(Matrix::from_packed(storage, 3, 70, packed).is_ok(), "{storage} {value} {other}");
            }
        }
        let w = Matrix::pack(&Pool::new(1), storage, 3, 70, |_, out| out.fill(0.0));
        let mut out = [1.0; 70];
        w.unpack_row(2, &mut out);
        assert_eq!(out, [0.0; 70]);
    }
}

#[test]
fn storages_of_all_kinds_share_a_region() {
    let mut rng = Rng(4);
    let pool = Pool::new(3);
    let shapes = [(70, 300), (33, 64), (500, 300), (16, 31)];
    let mut matrices: Vec<Matrix> = (0..40)
        .map(|i| {
            let (rows, cols) = shapes[i % 4];
            if i.is_multiple_of(9) {
                pack(&pool, Storage::Bf16, cols, &rng.vec(rows * cols, 1.0))
            } else {
                matrix(&mut rng, i % KINDS, rows, cols)
            }
        })
        .collect();
    // Every kind beside every other on one and the same x, which each rounds in its own way.
    matrices.extend((0..KINDS).map(|kind| matrix(&mut rng, kind, 24, 256)));
    for t in [1, 2, 5, 40] {
        // Matrices of as many columns have the same input, or one of their own.
        let shared = rng.vec(t * 600, 1.0);
        let own = rng.vec(t * 600, 1.0);
        let x = |i: usize| &(if i < 40 && i.is_multiple_of(5) { &own } else { &shared })[..t * matrices[i].cols()];
        let mut outputs: Vec<Vec<f32>> = matrices.iter().map(|w| vec![0.5; t * w.rows()]).collect();
        let mut all: Vec<Product> = (matrices.iter().zip(&mut outputs).enumerate())
            .map(|(i, (w, y))| Product { w, x: x(i), y, then: EPILOGUES[i % 6] })
            .collect();
        products(&pool, &mut all);
        for (i, (w, y)) in matrices.iter().zip(&outputs).enumerate() {
            let y0 = vec![0.5; t * w.rows()];
            let alone = product(Level::Avx512Bf16, &Pool::new(1), w, x(i), &y0, EPILOGUES[i % 6]);
            assert!(bits(&alone) == bits(y), "product {i} of {t} rows");
        }
    }
}

#[test]
fn decoding_equals_prefill_bit_for_bit_at_model_sizes() {
    let mut rng = Rng(7);
    let (one, two) = (Pool::new(1), Pool::new(2));
    for (t, rows, cols, kind) in [
        (300, 96, 1024, 1),
        (258, 100, 768, 0),
        (31, 777, 513, 1),
        (270, 50, 512, 6),
        (259, 90, 800, 7),
        (261, 70, 512, 8),
    ] {
        let w = matrix(&mut rng, kind, rows, cols);
        let (x, y) = (rng.vec(t * cols, 1.0), rng.vec(t * rows, 1.0));
        for &level in Level::available() {
            let all = product(level, &two, &w, &x, &y, Epilogue::Add);
            for (from, n) in [(0, 1), (1, 2), (t - 3, 3), (t / 2, 4), (t - 6, 6), (t - 8, 7), (3, 13), (1, 24), (2, 25)]
            {
                let some = product(
                    level,
                    &one,
                    &w,
                    &x[from * cols..][..n * cols],
                    &y[from * rows..][..n * rows],
                    Epilogue::Add,
                );
                assert!(bits(&some) == bits(&all[from * rows..][..n * rows]), "{level} {w:?} rows {from} + {n}");
            }
        }
    }
}

#[test]
fn levels_that_fuse_agree_to_the_bit() {
    let mut rng = Rng(8);
    for kind in 0..KINDS {
        let w = matrix(&mut rng, kind, 50, 700);
        let (x, y) = (rng.vec(9 * w.cols(), 1.0), vec![0.0; 9 * 50]);
        let run = |level| product(level, &Pool::new(1), &w, &x, &y, Epilogue::Store);
        let portable = run(Level::Portable);
        for &level in &Level::available()[1..] {
            let got = run(level);
            assert_eq!(bits(&got), bits(&run(Level::available()[1])), "{level}");
            let largest = got.iter().fold(0.0f32, |a, v| a.max(v.abs()));
            for (got, want) in got.iter().zip(&portable) {
                assert!((got - want).abs() <= 2e-6 * largest, "{level}: {got}, portable {want}");
            }
        }
    }
}

#[test]
fn products_are_those_of_the_stored_weights() {
    let mut rng = Rng(12);
    for kind in 0..KINDS {
        let w = matrix(&mut rng, kind, 64, 768);
        let x = rng.vec(768, 1.0);
        let y = product(Level::Avx512Bf16, &Pool::new(1), &w, &x, &[0.0; 64], Epilogue::Store);
        let (mut row, mut error, mut size) = (vec![0.0; 768], 0.0, 0.0);
        for (r, &y) in y.iter().enumerate() {
            w.unpack_row(r, &mut row);
            let want: f64 = row.iter().zip(&x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
            error += (f64::from(y) - want).powi(2);
            size += want * want;
        }
        // 16 bits of x: about 1 in 100,000. 8 bits: about 1 in 200.
        let bound = if w.inputs() == InputBits::Sixteen { 3e-5 } else { 7e-3 };
        assert!((error / size).sqrt() < bound, "{w:?}: {:e}", (error / size).sqrt());
    }
}

#[test]
fn nan_and_infinity_in_x_show() {
    for (kind, bad) in [(1, f32::NAN), (1, f32::INFINITY), (8, f32::NEG_INFINITY), (7, f32::NAN)] {
        let w = matrix(&mut Rng(2), kind, 20, 600);
        for t in [1, 5, 40] {
            let mut x = vec![1.0; t * 600];
            x[(t - 1) * 600 + 300] = bad;
            for &level in Level::available() {
                let y = product(level, &Pool::new(1), &w, &x, &vec![0.0; t * 20], Epilogue::Store);
                let (good, last) = y.split_at((t - 1) * 20);
                assert!(good.iter().all(|y| y.is_finite()) && last.iter().all(|y| y.is_nan()), "{level} {t}");
            }
        }
    }
}

#[test]
fn blocks_with_scales_for_sixteen_columns_take_inputs_of_sixteen_bits() {
    let six = matrix(&mut Rng(2), SIXTEEN + 6, 20, 256);
    assert_eq!((six.storage(), six.inputs()), (Storage::Q6K, InputBits::Sixteen));
    assert_eq!(matrix(&mut Rng(2), SIXTEEN, 20, 256).inputs(), InputBits::Eight);
}

#[test]
fn epilogues_are_the_activation_functions() {
    let mut rng = Rng(11);
    let w = matrix(&mut rng, 0, 70, 300);
    for t in [1, 9, 30] {
        let (x, y) = (rng.vec(t * 300, 1.0), vec![0.0; t * 70]);
        let run = |then| product(Level::Avx512Bf16, &Pool::new(2), &w, &x, &y, then);
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
}

#[test]
fn storages_have_names_and_sizes() {
    for storage in Storage::ALL {
        assert_eq!(storage.to_string().parse(), Ok(storage));
    }
    assert_eq!((Storage::Int8.bits(), Storage::Int4.bits(), Storage::Bf16.bits()), (8.5, 4.625, 16.0));
}
