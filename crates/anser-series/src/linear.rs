//! The linear forecast: one matrix, fitted in closed form.

use std::ops::Range;

use crate::Error;

/// `y = last + W (x - last) + b`: the H values that follow are a linear function of the L values before, all as distances
/// from the last of these. One matrix for all columns, each of which is forecast from its own past.
#[derive(Clone, Debug, PartialEq)]
pub struct Linear {
    /// L, rows of a window.
    pub look_back: usize,
    /// H, rows of a forecast.
    pub horizon: usize,
    /// [H, L + 1], row by row: a weight for every value of the window, the oldest first, and a constant. The last value's
    /// weight is 0, for its distance from itself is.
    pub weight: Vec<f64>,
}

impl Linear {
    /// The ridge regression over every window of values [T, `width`] whose forecast begins at one of `origins`, and over
    /// every column: the weights that have the least sum of squared errors plus `lambda` times the sum of their squares,
    /// the constants left out of the latter. Scale the columns first: they share errors and ridge. Told the steps done and
    /// all steps as it goes.
    ///
    /// # Errors
    /// [`Error::Argument`] for a look-back or horizon of 0, for no origin, and for a `lambda` that is negative or no
    /// number; [`Error::Singular`].
    ///
    /// # Panics
    /// When the windows of `origins` exceed the values.
    pub fn fit(
        values: &[f64],
        width: usize,
        origins: Range<usize>,
        look_back: usize,
        horizon: usize,
        lambda: f64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Linear, Error> {
        for (name, value) in [("look-back", look_back), ("horizon", horizon), ("the number of windows", origins.len())]
        {
            if value == 0 {
                return Err(Error::Argument { name, found: "0".into(), expected: "at least 1".into() });
            }
        }
        if !(lambda >= 0.0 && lambda.is_finite()) {
            let (found, expected) = (lambda.to_string(), "a number from 0".into());
            return Err(Error::Argument { name: "lambda", found, expected });
        }
        let rows = values.len().checked_div(width).unwrap_or(0);
        assert!(look_back <= origins.start && origins.end - 1 + horizon <= rows, "windows {origins:?} of {rows} rows");
        let steps = (2 * look_back + horizon) as u64;
        let moments = Moments::sum(values, width, &origins, look_back, horizon, &mut |done| progress(done, steps));
        let (mut gram, mut solution) = moments.of_distances();
        let noise = f64::EPSILON * look_back as f64;
        let noise = [noise * moments.largest(), noise * moments.count];
        factor(&mut gram, look_back, lambda, noise, &mut |row| progress((look_back + horizon + row) as u64, steps))?;
        solve(&gram, &mut solution, look_back, horizon);
        let mut weight = vec![0.0; horizon * (look_back + 1)];
        for (h, weight) in weight.chunks_exact_mut(look_back + 1).enumerate() {
            for at in 0..look_back - 1 {
                weight[at] = solution[at * horizon + h];
            }
            weight[look_back] = solution[(look_back - 1) * horizon + h];
        }
        progress(steps, steps);
        Ok(Linear { look_back, horizon, weight })
    }

    /// The forecast `out` `[H]` of one column's window `[L]`.
    ///
    /// # Panics
    /// When the lengths are others.
    pub fn predict(&self, window: &[f64], out: &mut [f64]) {
        assert!(
            window.len() == self.look_back && out.len() == self.horizon,
            "a window and a forecast of the fit's lengths"
        );
        let last = window[self.look_back - 1];
        let distances: Vec<f64> = window.iter().map(|x| x - last).collect();
        for (out, weight) in out.iter_mut().zip(self.weight.chunks_exact(self.look_back + 1)) {
            *out = last + dot(&weight[..self.look_back], &distances) + weight[self.look_back];
        }
    }

    /// The forecast [H, `width`] of a window [L, `width`], both row by row.
    ///
    /// # Panics
    /// When the window has another length.
    pub fn forecast(&self, window: &[f64], width: usize) -> Vec<f64> {
        assert_eq!(window.len(), self.look_back * width, "a window of the fit's length");
        let mut forecast = vec![0.0; self.horizon * width];
        let mut out = vec![0.0; self.horizon];
        for column in 0..width {
            let window: Vec<f64> = window.iter().skip(column).step_by(width).copied().collect();
            self.predict(&window, &mut out);
            forecast.iter_mut().skip(column).step_by(width).zip(&out).for_each(|(forecast, out)| *forecast = *out);
        }
        forecast
    }
}

/// Sums over all samples v, each the L + H values of a window and what follows, less their column's mean.
struct Moments {
    look_back: usize,
    horizon: usize,
    /// Samples.
    count: f64,
    /// [L + H]: sums of v_i.
    first: Vec<f64>,
    /// [L, L + H]: sums of v_i v_j, where i <= j.
    second: Vec<f64>,
}

impl Moments {
    fn sum(
        values: &[f64],
        width: usize,
        origins: &Range<usize>,
        look_back: usize,
        horizon: usize,
        progress: &mut dyn FnMut(u64),
    ) -> Moments {
        let (n, length) = (origins.len(), look_back + horizon);
        let used = &values[(origins.start - look_back) * width..(origins.end - 1 + horizon) * width];
        let columns: Vec<Vec<f64>> = (0..width)
            .map(|column| {
                let x: Vec<f64> = used.iter().skip(column).step_by(width).copied().collect();
                let mean = x.iter().sum::<f64>() / x.len() as f64;
                x.into_iter().map(|x| x - mean).collect()
            })
            .collect();
        let mut first = vec![0.0; length];
        for x in &columns {
            let mut sum: f64 = x[..n].iter().sum();
            for i in 0..length {
                first[i] += sum;
                if i + 1 < length {
                    sum += x[n + i] - x[i];
                }
            }
        }
        // Windows slide by a row, so the sum for (i + 1, j + 1) is that for (i, j) without its first product and with
        // the next one: only the first of every diagonal is summed in full.
        let mut second = vec![0.0; look_back * length];
        for lag in 0..length {
            let mut sum: f64 = columns.iter().map(|x| dot(&x[..n], &x[lag..lag + n])).sum();
            for i in 0..look_back.min(length - lag) {
                second[i * length + i + lag] = sum;
                if i + lag + 1 < length {
                    sum += columns.iter().map(|x| x[n + i] * x[n + i + lag] - x[i] * x[i + lag]).sum::<f64>();
                }
            }
            progress(lag as u64);
        }
        Moments { look_back, horizon, count: (n * width) as f64, first, second }
    }

    /// The largest sum of squares: what rounding errors are to be measured by.
    fn largest(&self) -> f64 {
        let length = self.look_back + self.horizon;
        (0..self.look_back).map(|i| self.second[i * length + i]).fold(0.0, f64::max)
    }

    /// The normal equations of u_i = v_i - v_l, l the window's last place: the sums of u_i u_j as [L, L], where j <= i, and
    /// those of u_i u_{L + h} as [L, H]. In both the last place, where u is 0, is the constant's.
    fn of_distances(&self) -> (Vec<f64>, Vec<f64>) {
        let (size, horizon, length) = (self.look_back, self.horizon, self.look_back + self.horizon);
        let last = size - 1;
        let at = |i: usize, j: usize| self.second[i * length + j];
        let (mut gram, mut moments) = (vec![0.0; size * size], vec![0.0; size * horizon]);
        for i in 0..last {
            for j in 0..=i {
                gram[i * size + j] = at(j, i) - at(i, last) - at(j, last) + at(last, last);
            }
            for h in 0..horizon {
                moments[i * horizon + h] = at(i, size + h) - at(i, last) - at(last, size + h) + at(last, last);
            }
            gram[last * size + i] = self.first[i] - self.first[last];
        }
        gram[last * size + last] = self.count;
        for h in 0..horizon {
            moments[last * horizon + h] = self.first[size + h] - self.first[last];
        }
        (gram, moments)
    }
}

/// Adds `lambda` to the diagonal of a matrix [`size`, `size`], but for its last place, and replaces its lower triangle by
/// its Cholesky factor. A pivot not above `noise`, which the last place has its own of, is none.
fn factor(
    a: &mut [f64],
    size: usize,
    lambda: f64,
    noise: [f64; 2],
    progress: &mut dyn FnMut(usize),
) -> Result<(), Error> {
    for i in 0..size {
        let (above, row) = a.split_at_mut(i * size);
        for j in 0..i {
            row[j] = (row[j] - dot(&row[..j], &above[j * size..j * size + j])) / above[j * size + j];
        }
        let (ridge, noise) = if i + 1 < size { (lambda, noise[0]) } else { (0.0, noise[1]) };
        let pivot = row[i] + ridge - dot(&row[..i], &row[..i]);
        if pivot.is_nan() || pivot <= noise {
            return Err(Error::Singular { pivot: i, value: pivot, lambda });
        }
        row[i] = pivot.sqrt();
        progress(i);
    }
    Ok(())
}

/// Replaces b [`size`, `width`] by the solution of a x = b, given the Cholesky factor of a.
fn solve(factor: &[f64], b: &mut [f64], size: usize, width: usize) {
    let subtract = |from: &mut [f64], times: f64, what: &[f64]| {
        from.iter_mut().zip(what).for_each(|(from, what)| *from -= times * what);
    };
    for i in 0..size {
        let (above, row) = b.split_at_mut(i * width);
        let row = &mut row[..width];
        for j in 0..i {
            subtract(row, factor[i * size + j], &above[j * width..(j + 1) * width]);
        }
        row.iter_mut().for_each(|x| *x /= factor[i * size + i]);
    }
    for i in (0..size).rev() {
        let (above, below) = b.split_at_mut((i + 1) * width);
        let row = &mut above[i * width..];
        for j in i + 1..size {
            subtract(row, factor[j * size + i], &below[(j - i - 1) * width..(j - i) * width]);
        }
        row.iter_mut().for_each(|x| *x /= factor[i * size + i]);
    }
}

/// The scalar product, in eight sums, which is what makes it fast, and in an order that depends on the length alone.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a8, b8) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f64 = a8.remainder().iter().zip(b8.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a8.zip(b8) {
        for lane in 0..8 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    sums.iter().sum::<f64>() + rest
}
