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
pub(crate) struct View {
    /// The official shape.
    pub(crate) shape: Vec<usize>,
    /// As many elements as `shape`, in the same order; may split an axis of it.
    axes: Vec<Axis>,
    /// First stored element.
    start: usize,
}

impl View {
    /// The window that `take` describes, or the stored shape it would need.
    pub(crate) fn new(take: Take, shape: &[usize], raw: &RawTensor) -> Result<View, Vec<usize>> {
        let expected = stored_shape(take, shape);
        let strides = match_axes(&expected, &raw.shape, raw.strides.as_deref()).ok_or_else(|| expected.clone())?;
        Ok(View::on(take, shape, &expected, &strides))
    }

    /// The window on a stored tensor that has just the shape it needs, row-major.
    pub(crate) fn to_write(take: Take, shape: &[usize]) -> View {
        let stored = stored_shape(take, shape);
        let strides: Vec<usize> = split(1, &stored).iter().map(|axis| axis.stride).collect();
        View::on(take, shape, &stored, &strides)
    }

    fn on(take: Take, shape: &[usize], expected: &[usize], strides: &[usize]) -> View {
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
                let parts = order.len();
                let rank = long.length / parts;
                let part = Axis { length: parts, stride: rank * long.stride, order: Some(order) };
                let rank = Axis { length: rank, stride: long.stride, order: None };
                axes = match take {
                    Take::JoinedParts(_) => vec![part, rank, width],
                    _ => vec![width, part, rank],
                };
            }
        }
        View { shape: shape.to_vec(), axes, start }
    }

    /// Stored position of the official element at row-major `index`.
    pub(crate) fn position(&self, index: usize) -> usize {
        let (mut rest, mut at) = (index, self.start);
        for axis in self.axes.iter().rev() {
            at += axis.offset(rest % axis.length);
            rest /= axis.length;
        }
        at
    }

    /// The official elements, `size` bytes each, out of the stored ones; not copied where they lie so.
    pub(crate) fn take<'a>(&self, stored: Cow<'a, [u8]>, size: usize) -> Cow<'a, [u8]> {
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

    /// The reverse of [`View::take`]: puts the official elements where the stored ones are.
    pub(crate) fn put(&self, official: &[u8], size: usize, stored: &mut [u8]) {
        if self.is_row_major() {
            stored[self.start * size..][..official.len()].copy_from_slice(official);
            return;
        }
        let (outer, inner) = self.axes.split_at(self.axes.len() - 1);
        let inner = inner[0];
        let rows = View { shape: Vec::new(), axes: outer.to_vec(), start: self.start };
        for (row, elements) in official.chunks_exact(inner.length.max(1) * size).enumerate() {
            let start = rows.position(row);
            for (index, element) in elements.chunks_exact(size).enumerate() {
                let at = (start + inner.offset(index)) * size;
                stored[at..at + size].copy_from_slice(element);
            }
        }
    }

    /// Whether the official elements lie one after the other, as the official tensor has them.
    pub(crate) fn is_row_major(&self) -> bool {
        let mut expected = 1;
        self.axes.iter().rev().filter(|axis| axis.length != 1).all(|axis| {
            let fits = axis.stride == expected && axis.order.is_none();
            expected *= axis.length;
            fits
        })
    }
}

/// The shape of the stored tensor out of which `take` gives an official one of this shape.
pub(crate) fn stored_shape(take: Take, official: &[usize]) -> Vec<usize> {
    match take {
        Take::Whole | Take::Rescaled => official.to_vec(),
        Take::Part { of, .. } => [&[of], official].concat(),
        Take::Flat => vec![official.iter().product()],
        Take::Transposed | Take::TransposedParts(_) => {
            let mut stored = official.to_vec();
            let last = stored.len() - 1;
            stored.swap(last - 1, last);
            stored
        }
        Take::JoinedParts(_) => vec![official[2], official[0] * official[1]],
    }
}

/// Strides of the stored tensor along the axes `expected`, if it has them; axes of length 1 may be left out or added.
fn match_axes(expected: &[usize], shape: &[usize], strides: Option<&[usize]>) -> Option<Vec<usize>> {
    let row_major: Vec<usize> = split(1, shape).iter().map(|axis| axis.stride).collect();
    let strides = strides.unwrap_or(&row_major);
    let mut stored = shape.iter().zip(strides).filter(|(length, _)| **length != 1);
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
        // Writing is the reverse of reading.
        let mut stored = vec![0xff; 60];
        view.put(&out, 1, &mut stored);
        assert_eq!(view.take(Cow::Borrowed(&stored), 1), out, "{take:?}");
        assert_eq!(stored.iter().filter(|&&byte| byte != 0xff).count(), out.len(), "{take:?}");
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
