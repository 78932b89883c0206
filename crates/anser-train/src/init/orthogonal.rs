//! Random orthogonal matrices.

use anser_kernels::linear::{Epilogue, Matrix, Product, Storage, products};
use anser_kernels::pool::Pool;

use crate::random::Random;

/// Vectors that are made orthonormal together; the rest is matrix products.
const PANEL: usize = 128;

/// A `[rows, cols]` matrix, row-major, whose shorter side's vectors are orthogonal and of length `gain`, drawn uniformly
/// among all such matrices: `W^T W = gain^2 I` when it is tall, `W W^T = gain^2 I` when it is wide.
///
/// A normal random matrix is made orthonormal panel by panel (Gram and Schmidt between panels, a Cholesky factor of the
/// Gram matrix within one), each panel until nothing changes any more. Products are f32 with a fixed order of
/// summation, factors f64: the result does not depend on the number of threads.
pub(super) fn orthogonal(rows: usize, cols: usize, gain: f64, seed: u64, purpose: &str) -> Vec<f32> {
    let (count, length) = (rows.min(cols), rows.max(cols));
    if count == 0 {
        return Vec::new();
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let pool = Pool::new(if rows * cols < 1 << 14 { 1 } else { threads });
    // The vectors lie along rows; `across` holds the finished ones along columns.
    let mut vectors = vec![0.0f32; count * length];
    let scale = 1.0 / (length as f64).sqrt();
    pool.run_rows(&mut vectors, length, 1, |row, out| {
        let mut random = Random::new(seed, purpose, row as u64);
        out.fill_with(|| (random.normal() * scale) as f32);
    });
    let mut across = vec![0.0f32; length * count];
    for start in (0..count).step_by(PANEL) {
        let end = (start + PANEL).min(count);
        let (done, rest) = vectors.split_at_mut(start * length);
        let panel = &mut rest[..(end - start) * length];
        orthonormalise(&pool, done, &across, count, start, panel, length);
        transpose(panel, end - start, length, &mut across[start..], count);
    }
    let mut result = if rows > cols { across } else { vectors };
    for x in &mut result {
        *x = (f64::from(*x) * gain) as f32;
    }
    result
}

/// Makes the rows of `panel` `[n, length]` orthonormal, and orthogonal to the rows of `done` `[start, length]`, which
/// `across` `[length, count]` holds in its first `start` columns.
fn orthonormalise(
    pool: &Pool,
    done: &[f32],
    across: &[f32],
    count: usize,
    start: usize,
    panel: &mut [f32],
    length: usize,
) {
    let n = panel.len() / length;
    let finished = (start > 0).then(|| {
        let rows = |row: usize, out: &mut [f32]| out.copy_from_slice(&done[row * length..][..length]);
        let columns = |row: usize, out: &mut [f32]| out.copy_from_slice(&across[row * count..][..start]);
        (
            Matrix::pack(pool, Storage::F32, start, length, rows),
            Matrix::pack(pool, Storage::F32, length, start, columns),
        )
    });
    let mut turned = vec![0.0f32; panel.len()];
    // Two rounds do for a tall matrix; a square one's last panel is ill-conditioned and takes one or two more.
    for _ in 0..8 {
        let mut off = 0.0f32;
        if let Some((rows, columns)) = &finished {
            let mut shares = vec![0.0f32; n * start];
            multiply(pool, rows, panel, &mut shares, Epilogue::Store);
            for share in &mut shares {
                off = off.max(share.abs());
                *share = -*share;
            }
            multiply(pool, columns, &shares, panel, Epilogue::Add);
        }
        let mut gram = vec![0.0f32; n * n];
        let itself = Matrix::pack(pool, Storage::F32, n, length, |row, out| {
            out.copy_from_slice(&panel[row * length..][..length]);
        });
        multiply(pool, &itself, panel, &mut gram, Epilogue::Store);
        for (at, &g) in gram.iter().enumerate() {
            off = off.max((g - f32::from(at % n == at / n)).abs());
        }
        let factor = inverse_factor(&gram, n);
        transpose(panel, n, length, &mut turned, n);
        let turned_panel = Matrix::pack(pool, Storage::F32, length, n, |row, out| {
            out.copy_from_slice(&turned[row * n..][..n]);
        });
        multiply(pool, &turned_panel, &factor, panel, Epilogue::Store);
        // What was off by this much before the round is off by its square, or by rounding, after it.
        if off < 1e-4 {
            return;
        }
    }
}

fn multiply(pool: &Pool, w: &Matrix, x: &[f32], y: &mut [f32], then: Epilogue) {
    products(pool, &mut [Product { w, x, y, then }]);
}

/// The inverse of the lower Cholesky factor of `gram` `[n, n]`. Where rounding has made it indefinite a little is added to
/// the diagonal: the rows then come out nearer to orthonormal, and the next round finishes.
fn inverse_factor(gram: &[f32], n: usize) -> Vec<f32> {
    let trace: f64 = (0..n).map(|i| f64::from(gram[i * n + i])).sum();
    let mut shift = 0.0;
    let factor = loop {
        if let Some(factor) = cholesky(gram, n, shift) {
            break factor;
        }
        shift = (shift * 10.0).max(1e-6 * trace / n as f64).max(f64::MIN_POSITIVE);
    };
    // Row i of the inverse: L[i][i] * X[i] = e_i - sum over j < i of L[i][j] * X[j].
    let mut inverse = vec![0.0f64; n * n];
    for i in 0..n {
        let (above, row) = inverse.split_at_mut(i * n);
        row[i] = 1.0;
        for j in 0..i {
            let l = factor[i * n + j];
            for k in 0..=j {
                row[k] -= l * above[j * n + k];
            }
        }
        for x in &mut row[..=i] {
            *x /= factor[i * n + i];
        }
    }
    inverse.into_iter().map(|x| x as f32).collect()
}

/// The lower factor L of `gram + shift I = L L^T`; `None` if that is not positive definite.
fn cholesky(gram: &[f32], n: usize, shift: f64) -> Option<Vec<f64>> {
    let mut factor = vec![0.0f64; n * n];
    for i in 0..n {
        for j in 0..=i {
            let (row, other) = (&factor[i * n..][..j], &factor[j * n..][..j]);
            let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
            let mut x = f64::from(gram[i * n + j]) - dot;
            if i == j {
                x += shift;
                // Below this there is nothing but the rounding of the Gram matrix.
                if x.is_nan() || x <= 1e-7 * f64::from(gram[i * n + i]) {
                    return None;
                }
                factor[i * n + i] = x.sqrt();
            } else {
                factor[i * n + j] = x / factor[j * n + j];
            }
        }
    }
    Some(factor)
}

/// Writes the transpose of `from` `[rows, cols]` to `to`, whose rows are `stride` apart.
fn transpose(from: &[f32], rows: usize, cols: usize, to: &mut [f32], stride: usize) {
    const TILE: usize = 16;
    for left in (0..cols).step_by(TILE) {
        for top in (0..rows).step_by(TILE) {
            for col in left..(left + TILE).min(cols) {
                for row in top..(top + TILE).min(rows) {
                    to[col * stride + row] = from[row * cols + col];
                }
            }
        }
    }
}
