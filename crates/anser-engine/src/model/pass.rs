//! What a mixer sees of a forward pass besides its own input.

use anser_kernels::linear::Product;
use anser_kernels::pool::Pool;
use anser_kernels::rows::for_rows;
use smallvec::SmallVec;

use super::Batch;
use super::loader::Norm;
use crate::executor::Observer;
use crate::{Error, Executor, State, Tap};

/// Marks a row that does not begin a sequence.
const NOT_FIRST: u32 = u32::MAX;

/// One slice a sequence; small batches stay on the stack.
pub(super) type PerSequence<T> = SmallVec<[T; 16]>;

/// The products of one parallel region.
pub(super) type Products<'a> = SmallVec<[Product<'a>; 8]>;

/// A forward pass under way: the shape of the batch, the states, and what earlier layers left behind.
pub(super) struct Pass<'a, 's> {
    pub(super) pool: &'a Pool,
    /// RWKV-7: values of layer 0, `[rows, C]`; written there, read by every later layer.
    pub(super) v_first: &'a mut Vec<f32>,
    pub(super) states: &'a mut [&'s mut State],
    pub(super) cu_seqlens: &'a [usize],
    pub(super) layer: usize,
    pub(super) rows: usize,
    width: usize,
    /// For every row the sequence it begins, or `NOT_FIRST`.
    starts: &'a [u32],
    observer: &'a mut Option<Observer>,
    check_numerics: bool,
}

impl<'a, 's> Pass<'a, 's> {
    pub(super) fn new(
        exec: &'a mut Executor,
        batch: &'a Batch<'_>,
        states: &'a mut [&'s mut State],
        width: usize,
    ) -> Pass<'a, 's> {
        let rows = batch.tokens.len();
        exec.starts.clear();
        exec.starts.resize(rows, NOT_FIRST);
        for (sequence, border) in batch.cu_seqlens.windows(2).enumerate() {
            if border[0] < border[1] {
                exec.starts[border[0]] = sequence as u32;
            }
        }
        Pass {
            pool: &exec.pool,
            v_first: &mut exec.v_first,
            states,
            cu_seqlens: batch.cu_seqlens,
            layer: 0,
            rows,
            width,
            starts: &exec.starts,
            observer: &mut exec.observer,
            check_numerics: exec.check_numerics,
        }
    }

    /// LayerNorm of every row of `x`.
    pub(super) fn norm(&self, norm: &Norm, x: &[f32], out: &mut [f32]) {
        let width = self.width;
        for_rows(self.pool, self.rows, [out], |row, [out]| norm.apply(&x[row * width..(row + 1) * width], out));
    }

    /// The previous token's vector for every row of `x` `[rows, C]`: the row above, or what `slot` remembers of the
    /// sequence.
    pub(super) fn shifted<'b>(&'b self, x: &'b [f32], slot: usize) -> Shifted<'b> {
        let remembered = self.states.iter().map(|state| state.slot(self.layer, slot)).collect();
        Shifted { x, width: self.width, starts: self.starts, remembered }
    }

    /// Keeps the last row of every sequence in `slot`, for the next pass.
    pub(super) fn remember(&mut self, x: &[f32], slot: usize) {
        for (state, border) in self.states.iter_mut().zip(self.cu_seqlens.windows(2)) {
            if border[0] < border[1] {
                let last = &x[(border[1] - 1) * self.width..border[1] * self.width];
                state.slot_mut(self.layer, slot).copy_from_slice(last);
            }
        }
    }

    /// One slice a sequence of the given slot of this layer.
    pub(super) fn slots(&mut self, slot: usize) -> PerSequence<&mut [f32]> {
        let layer = self.layer;
        self.states.iter_mut().map(|state| state.slot_mut(layer, slot)).collect()
    }

    /// Shows the residual stream to the observer and to the numerics check.
    pub(super) fn tap(&mut self, point: &'static str, x: &[f32]) -> Result<(), Error> {
        self.tap_rows(point, self.width, x)
    }

    /// As [`Pass::tap`], for rows of another width.
    pub(super) fn tap_rows(&mut self, point: &'static str, width: usize, values: &[f32]) -> Result<(), Error> {
        if let Some(observer) = self.observer {
            observer(&Tap { layer: self.layer, point, width, values });
        }
        if !self.check_numerics {
            return Ok(());
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(Error::NonFinite {
                layer: self.layer,
                point,
                row: at / width,
                channel: at % width,
                value: values[at],
            }),
            None => Ok(()),
        }
    }
}

/// Token shift: every row of a buffer beside the row of the token before it.
pub(super) struct Shifted<'a> {
    x: &'a [f32],
    width: usize,
    starts: &'a [u32],
    remembered: PerSequence<&'a [f32]>,
}

impl Shifted<'_> {
    /// The vectors of this token and of the one before it, each `[C]`.
    pub(super) fn row(&self, row: usize) -> (&[f32], &[f32]) {
        let x = &self.x[row * self.width..(row + 1) * self.width];
        let previous = match self.starts[row] {
            NOT_FIRST => &self.x[(row - 1) * self.width..row * self.width],
            sequence => self.remembered[sequence as usize],
        };
        (x, previous)
    }
}
