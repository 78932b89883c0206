//! The search for codes and scales of f32 values.

use half::f16;

use super::super::BLOCK;
use super::GROUP;
use super::layout::{Layout, Row, Scales};
use crate::simd::{Isa, dispatch};

/// Partial sums, so that they are computed side by side.
const LANES: usize = 8;

dispatch! {
    /// The row of codes whose weights come closest to `values`, in squared error weighted by `importance`. The same on
    /// every level.
    pub(in super::super) fn quantise(layout: Layout, values: &[f32], importance: Option<&[f32]>) -> Row = quantise_body;
}

#[expect(clippy::extra_unused_type_parameters, reason = "what `dispatch!` calls has one")]
#[inline(always)]
fn quantise_body<I: Isa>(layout: Layout, values: &[f32], importance: Option<&[f32]>) -> Row {
    let mut row = Row::new(layout, values.len());
    for (b, values) in values.chunks(BLOCK).enumerate() {
        let importance = importance.map(|importance| &importance[b * BLOCK..][..values.len()]);
        let mut block = [Group::default(); BLOCK / GROUP];
        let groups = values.len().div_ceil(GROUP);
        for (g, group) in block[..groups].iter_mut().enumerate() {
            *group = Group::new(&values[g * GROUP..], importance.map(|importance| &importance[g * GROUP..]));
        }
        let codes = &mut row.codes[b * BLOCK..][..groups * GROUP];
        let first = b * BLOCK / GROUP;
        match layout.scales {
            Scales::Affine => {
                let scales = &mut row.s[first..first + groups];
                let minima = &mut row.m[first..first + groups];
                (row.d[b], row.dmin[b]) = affine(&block[..groups], codes, scales, minima);
            }
            Scales::Half { .. } | Scales::Sixteen => {
                for ((group, codes), d) in block.iter().zip(codes.chunks_mut(GROUP)).zip(&mut row.d[first..]) {
                    *d = symmetric(group, codes);
                }
            }
        }
    }
    row
}

/// A group of values and how much the error of each counts, filled up with zeros.
#[derive(Clone, Copy)]
struct Group {
    x: [f32; GROUP],
    w: [f32; GROUP],
}

impl Default for Group {
    fn default() -> Group {
        Group { x: [0.0; GROUP], w: [0.0; GROUP] }
    }
}

impl Group {
    #[inline(always)]
    fn new(values: &[f32], importance: Option<&[f32]>) -> Group {
        let mut group = Group::default();
        for i in 0..values.len().min(GROUP) {
            group.x[i] = values[i];
            group.w[i] = importance.map_or(1.0, |importance| importance[i]);
        }
        // Where no input ever comes, all codes are as good: those of the values' own error then.
        let all = group.w.iter().sum::<f32>();
        if all.is_nan() || all <= 0.0 {
            group.w = [1.0; GROUP];
        }
        group
    }

    /// The codes nearest to `(x + minimum) / scale`, and their error.
    #[inline(always)]
    fn codes(&self, scale: f32, minimum: f32, lowest: f32, highest: f32) -> ([f32; GROUP], f32) {
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let (mut q, mut errors) = ([0.0; GROUP], [0.0; GROUP]);
        for i in 0..GROUP {
            q[i] = nearest((self.x[i] + minimum) * inverse).clamp(lowest, highest);
            let off = scale * q[i] - minimum - self.x[i];
            errors[i] = self.w[i] * off * off;
        }
        (q, sum(&errors))
    }
}

/// A sum in [`LANES`] partial sums. The terms come from a loop of their own: with sums in it, it would not be vectorised.
#[inline(always)]
fn sum(terms: &[f32; GROUP]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for terms in terms.as_chunks::<LANES>().0 {
        for (lane, term) in lanes.iter_mut().zip(terms) {
            *lane += term;
        }
    }
    lanes.iter().sum()
}

/// To nearest, ties to even, for what is not beyond 2^22.
#[inline(always)]
fn nearest(value: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    value.clamp(-1e6, 1e6) + SHIFT - SHIFT
}

/// The nearest f16 that is finite; 0 for NaN.
fn half(value: f32) -> f16 {
    if value.is_nan() { f16::ZERO } else { f16::from_f32(value.clamp(0.0, f16::MAX.to_f32())) }
}

/// Signed codes and their scale.
#[inline(always)]
fn symmetric(group: &Group, codes: &mut [i8]) -> f16 {
    let largest = group.x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let mut best = (f16::ZERO, [0.0; GROUP], f32::INFINITY);
    // The largest value becomes the largest code, or nearly; a little beyond it may serve the others better.
    for steps in [127.0, 126.0, 126.5, 127.5, 128.0] {
        let scale = half(largest / steps);
        let (q, error) = group.codes(scale.to_f32(), 0.0, -127.0, 127.0);
        if error < best.2 {
            best = (scale, q, error);
        }
    }
    codes.iter_mut().zip(best.1).for_each(|(code, q)| *code = q as i8);
    best.0
}

/// Codes 0 to 15 of the groups of a block, scales and minima, and their units d and dmin.
#[inline(always)]
fn affine(groups: &[Group], codes: &mut [i8], scales: &mut [u8], minima: &mut [u8]) -> (f16, f16) {
    let mut fits = [(0.0f32, 0.0f32); BLOCK / GROUP];
    for (fit, group) in fits.iter_mut().zip(groups) {
        *fit = best_range(group);
    }
    let d = unit(fits.iter().fold(0.0, |largest, fit| largest.max(fit.0)));
    let dmin = unit(fits.iter().fold(0.0, |largest, fit| largest.max(fit.1)));
    let (unit, unit_min) = (d.to_f32(), dmin.to_f32());
    for (g, (group, fit)) in groups.iter().zip(fits).enumerate() {
        let steps = |value: f32, unit: f32| if unit > 0.0 { nearest(value / unit).clamp(0.0, 255.0) } else { 0.0 };
        let (s, m) = (steps(fit.0, unit), steps(fit.1, unit_min));
        let mut best = (0u8, 0u8, [0.0; GROUP], f32::INFINITY);
        // Rounding both moved the optimum: look at the neighbours.
        for s in [s, s - 1.0, s + 1.0] {
            for m in [m, m - 1.0, m + 1.0] {
                let (s, m) = (s.clamp(0.0, 255.0), m.clamp(0.0, 255.0));
                let (q, error) = group.codes(unit * s, unit_min * m, 0.0, 15.0);
                if error < best.3 {
                    best = (s as u8, m as u8, q, error);
                }
            }
        }
        (scales[g], minima[g]) = (best.0, best.1);
        codes[g * GROUP..][..GROUP].iter_mut().zip(best.2).for_each(|(code, q)| *code = q as i8);
    }
    (d, dmin)
}

/// The f16 of which 255 reach `largest`.
fn unit(largest: f32) -> f16 {
    let unit = half(largest / 255.0);
    // Small units are coarse; one too small would cut the largest off.
    if unit.to_f32() * 255.5 < largest && unit < f16::MAX { f16::from_bits(unit.to_bits() + 1) } else { unit }
}

/// Scale and minimum, not negative, with the least error that was found: from ranges around that of the values, codes
/// for the range and the best line for the codes, twice.
#[inline(always)]
fn best_range(group: &Group) -> (f32, f32) {
    let lowest = group.x.iter().fold(0.0f32, |lowest, &x| lowest.min(x));
    let highest = group.x.iter().fold(f32::NEG_INFINITY, |highest, &x| highest.max(x));
    let range = highest - lowest;
    if !(range > 0.0 && range.is_finite()) {
        return (0.0, if lowest.is_finite() { -lowest } else { 0.0 });
    }
    let mut best = (range / 15.0, -lowest, f32::INFINITY);
    for step in 0..16 {
        let mut scale = range / (13.6 + 0.3 * step as f32);
        // A narrower range is taken off both ends, so the middle stays.
        let mut minimum = (-lowest - (range - 15.0 * scale).max(0.0) * 0.5).max(0.0);
        for _ in 0..2 {
            let (q, error) = group.codes(scale, minimum, 0.0, 15.0);
            if error < best.2 {
                best = (scale, minimum, error);
            }
            (scale, minimum) = line(group, &q);
            if scale.is_nan() || scale <= 0.0 {
                break;
            }
        }
        let (_, error) = group.codes(scale, minimum, 0.0, 15.0);
        if scale > 0.0 && error < best.2 {
            best = (scale, minimum, error);
        }
    }
    (best.0, best.1)
}

/// The line `x = scale q - minimum` of least squares, minimum not negative.
#[inline(always)]
fn line(group: &Group, q: &[f32; GROUP]) -> (f32, f32) {
    let mut terms = [[0.0f32; GROUP]; 5];
    for i in 0..GROUP {
        let (w, x, q) = (group.w[i], group.x[i], q[i]);
        (terms[0][i], terms[1][i], terms[2][i]) = (w, w * q, w * q * q);
        (terms[3][i], terms[4][i]) = (w * x, w * q * x);
    }
    let [w1, wq, wqq, wx, wqx] = [sum(&terms[0]), sum(&terms[1]), sum(&terms[2]), sum(&terms[3]), sum(&terms[4])];
    let determinant = w1 * wqq - wq * wq;
    if determinant > 0.0 {
        let scale = (w1 * wqx - wq * wx) / determinant;
        let minimum = (wq * wqx - wqq * wx) / determinant;
        if minimum >= 0.0 {
            return (scale, minimum);
        }
    }
    (if wqq > 0.0 { wqx / wqq } else { 0.0 }, 0.0)
}
