//! An official tensor as a strided window on a stored one.

use std::borrow::Cow;

use crate::names::Take;
use crate::raw::RawTensor;

/// One axis of the window.
#[derive(Clone, Copy, Debug)]
struct Axis {
    length: usize,
    /// Distance in stored elements.
    stride: usize,
    /// The stored position of each entry, where they are in another order.
    order: Option<&'static [usize]>,
}

impl Axis {
    fn offset(&self, index: usize) -> usize {
        self.order.map_or(index, |order| order[index]) * self.stride
    }
}

/// A window on a stored tensor.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The official shape.
    pub(super) shape: Vec<usize>,
    /// As many elements as `shape`, in the same order; may split an axis of it.
    axes: Vec<Axis>,
    /// First stored element.
    start: usize,
}

impl View {
    /// The window that `take` describes, or the stored shape it would need.
    pub(super) fn new(take: Take, shape: &[usize], raw: &RawTensor) -> Result<View, Vec<usize>> {
        let product = || shape.iter().product();
        let (expected, parts): (Vec<usize>, usize) = match take {
            Take::Whole | Take::Rescaled => (shape.to_vec(), 1),
            Take::Part { of, .. } => ([&[of], shape].concat(), 1),
            Take::Flat => (vec![product()], 1),
            Take::Transposed | Take::TransposedParts(_) => {
                let mut stored = shape.to_vec();
                let last = stored.len() - 1;
                stored.swap(last - 1, last);
                (stored, if let Take::TransposedParts(order) = take { order.len() } else { 1 })
            }
            Take::JoinedParts(order) => (vec![shape[2], shape[0] * shape[1]], order.len()),
        };
        let strides = match_axes(&expected, raw).ok_or_else(|| expected.clone())?;
        let axis = |at: usize| Axis { length: expected[at], stride: strides[at], order: None };
        let plain = || (0..expected.len()).map(axis).collect::<Vec<Axis>>();

        let (mut axes, mut start) = (plain(), 0);
        match take {
            Take::Whole | Take::Rescaled => {}
            Take::Part { index, .. } => {
                start = index * axes.remove(0).stride;
            }
            Take::Flat => axes = split(axes[0].stride, shape),
            Take::Transposed => {
                let last = axes.len() - 1;
                axes.swap(last - 1, last);
            }
            Take::TransposedParts(order) | Take::JoinedParts(order) => {
                // Stored [P*R, C] or [C, P*R].
                let (long, width) = match take {
                    Take::JoinedParts(_) => (axes[1], axes[0]),
                    _ => (axes[0], axes[1]),
                };
                let rank = long.length / parts;
                let part = Axis { length: parts, stride: rank * long.stride, order: Some(order) };
                let rank = Axis { length: rank, stride: long.stride, order: None };
                axes = match take {
                    Take::JoinedParts(_) => vec![part, rank, width],
                    _ => vec![width, part, rank],
                };
            }
        }
        Ok(View { shape: shape.to_vec(), axes, start })
    }

    /// Stored position of the official element at row-major `index`.
    pub(super) fn position(&self, index: usize) -> usize {
        let (mut rest, mut at) = (index, self.start);
        for axis in self.axes.iter().rev() {
            at += axis.offset(rest % axis.length);
            rest /= axis.length;
        }
        at
    }

    /// The official elements, `size` bytes each, out of the stored ones; not copied where they lie so.
    pub(super) fn take<'a>(&self, stored: Cow<'a, [u8]>, size: usize) -> Cow<'a, [u8]> {
        let elements: usize = self.shape.iter().product();
        if self.is_row_major() {
            let range = self.start * size..(self.start + elements) * size;
            return match stored {
                Cow::Borrowed(stored) => Cow::Borrowed(&stored[range]),
                Cow::Owned(stored) if range == (0..stored.len()) => Cow::Owned(stored),
                Cow::Owned(stored) => Cow::Owned(stored[range].to_vec()),
            };
        }
        // A window without axes is row-major.
        let (outer, inner) = self.axes.split_at(self.axes.len() - 1);
        let (inner, mut out) = (inner[0], Vec::with_capacity(elements * size));
        let rows = View { shape: Vec::new(), axes: outer.to_vec(), start: self.start };
        for row in 0..elements / inner.length.max(1) {
            let start = rows.position(row);
            for index in 0..inner.length {
                let at = start + inner.offset(index);
                out.extend_from_slice(&stored[at * size..(at + 1) * size]);
            }
        }
        Cow::Owned(out)
    }

    fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.axes.iter().rev().filter(|axis| axis.length != 1).all(|axis| {
            let fits = axis.stride == expected && axis.order.is_none();
            expected *= axis.length;
            fits
        })
    }
}

/// Strides of the stored tensor along the axes `expected`, if it has them; axes of length 1 may be left out or added.
fn match_axes(expected: &[usize], raw: &RawTensor) -> Option<Vec<usize>> {
    let row_major: Vec<usize> = split(1, &raw.shape).iter().map(|axis| axis.stride).collect();
    let strides = raw.strides.as_ref().unwrap_or(&row_major);
    let mut stored = raw.shape.iter().zip(strides).filter(|(length, _)| **length != 1);
    let matched = expected.iter().map(|&length| match length {
        1 => Some(0),
        _ => stored.next().filter(|(found, _)| **found == length).map(|(_, &stride)| stride),
    });
    let matched: Option<Vec<usize>> = matched.collect();
    matched.filter(|_| stored.next().is_none())
}

/// Row-major axes of these lengths, `stride` apart at the innermost.
fn split(stride: usize, lengths: &[usize]) -> Vec<Axis> {
    let mut stride = stride;
    let mut axes: Vec<Axis> = lengths
        .iter()
        .rev()
        .map(|&length| {
            let axis = Axis { length, stride, order: None };
            stride = stride.saturating_mul(length);
            axis
        })
        .collect();
    axes.reverse();
    axes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::Encoding;
    use crate::tensor::Dtype;

    fn raw(shape: &[usize], strides: Option<&[usize]>) -> RawTensor {
        RawTensor {
            name: "t".into(),
            encoding: Encoding::Plain(Dtype::F32),
            shape: shape.to_vec(),
            strides: strides.map(<[usize]>::to_vec),
            file: 0,
            range: 0..0,
        }
    }

    fn taken(take: Take, shape: &[usize], stored: &RawTensor) -> Vec<u8> {
        let bytes: Vec<u8> = (0..60).collect();
        let view = View::new(take, shape, stored).unwrap();
        let out = view.take(Cow::Borrowed(&bytes), 1).into_owned();
        let one_by_one: Vec<u8> = (0..out.len()).map(|at| bytes[view.position(at)]).collect();
        assert_eq!(out, one_by_one, "{take:?}");
        out
    }

    #[test]
    fn takes() {
        assert_eq!(taken(Take::Whole, &[2, 3], &raw(&[1, 2, 3], None)), [0, 1, 2, 3, 4, 5]);
        assert_eq!(taken(Take::Whole, &[2, 3], &raw(&[2, 3], Some(&[1, 2]))), [0, 2, 4, 1, 3, 5]);
        assert_eq!(taken(Take::Part { index: 1, of: 2 }, &[3], &raw(&[2, 1, 1, 3], None)), [3, 4, 5]);
        assert_eq!(taken(Take::Transposed, &[2, 3], &raw(&[3, 2], None)), [0, 2, 4, 1, 3, 5]);
        assert_eq!(taken(Take::Transposed, &[2, 1, 2], &raw(&[2, 2, 1], None)), [0, 1, 2, 3]);
        assert_eq!(taken(Take::Flat, &[2, 2], &raw(&[4], None)), [0, 1, 2, 3]);
        // Two parts of rank 2 over a width of 1, stored second part first.
        assert_eq!(taken(Take::TransposedParts(&[1, 0]), &[1, 4], &raw(&[4, 1], None)), [2, 3, 0, 1]);
        assert_eq!(
            taken(Take::JoinedParts(&[1, 0]), &[2, 2, 3], &raw(&[3, 4], None)),
            [2, 6, 10, 3, 7, 11, 0, 4, 8, 1, 5, 9]
        );
    }

    #[test]
    fn wrong_shapes_name_the_right_one() {
        assert_eq!(View::new(Take::Transposed, &[2, 3], &raw(&[2, 3], None)).unwrap_err(), [3, 2]);
        assert_eq!(View::new(Take::Flat, &[2, 3], &raw(&[2, 3], None)).unwrap_err(), [6]);
        assert_eq!(View::new(Take::Whole, &[6], &raw(&[2, 3], None)).unwrap_err(), [6]);
    }
}
