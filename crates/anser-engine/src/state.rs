//! What one sequence remembers.

use std::ops::Range;
use std::sync::Arc;

use anser_checkpoint::Config;
use anser_checkpoint::state::{Slot, StateFile, StateHeader};
use anser_kernels::recurrence::wkv4;

use crate::Error;

/// Slots a layer has, in this order.
pub(crate) const ATT_SHIFT: usize = 0;
pub(crate) const WKV: usize = 1;
pub(crate) const FFN_SHIFT: usize = 2;
const SLOTS: usize = 3;

/// Where the slots of a model's state lie; shared by all its states.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) slots: Vec<Slot>,
    ranges: Vec<Range<usize>>,
    architecture: String,
}

impl Layout {
    pub(crate) fn new(config: &Config) -> Layout {
        let slots = config.state_slots();
        let mut end = 0;
        let ranges = slots
            .iter()
            .map(|slot| {
                let start = end;
                end += slot.shape.iter().product::<usize>();
                start..end
            })
            .collect();
        Layout { slots, ranges, architecture: config.architecture().to_string() }
    }

    fn len(&self) -> usize {
        self.ranges.last().map_or(0, |r| r.end)
    }
}

/// The state of one sequence: for every layer the last inputs of its two token shifts and its recurrence's memory.
///
/// A clone is a fork. The size never depends on how many tokens were read.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) layout: Arc<Layout>,
    data: Vec<f32>,
    pub(crate) tokens: u64,
}

impl State {
    pub(crate) fn zero(layout: &Arc<Layout>, config: &Config) -> State {
        let mut state = State { layout: layout.clone(), data: vec![0.0; layout.len()], tokens: 0 };
        if config.version == anser_checkpoint::Version::V4 {
            for layer in 0..config.layers {
                // Rows aa, bb, pp: pp is a running maximum, empty at the start.
                state.slot_mut(layer, WKV)[2 * config.width..].fill(wkv4::INITIAL_MAX);
            }
        }
        state
    }

    /// Number of tokens this state has read.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The named slots, in the order of [`State::values`].
    pub fn slots(&self) -> &[Slot] {
        &self.layout.slots
    }

    /// All numbers of the state, slot after slot.
    pub fn values(&self) -> &[f32] {
        &self.data
    }

    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        self.data.len() * size_of::<f32>()
    }

    pub(crate) fn slot(&self, layer: usize, slot: usize) -> &[f32] {
        &self.data[self.layout.ranges[layer * SLOTS + slot].clone()]
    }

    pub(crate) fn slot_mut(&mut self, layer: usize, slot: usize) -> &mut [f32] {
        &mut self.data[self.layout.ranges[layer * SLOTS + slot].clone()]
    }

    /// The state as a file in memory; `fingerprint` names the model it belongs to.
    pub fn to_file(&self, fingerprint: &str) -> StateFile {
        let header = StateHeader::new(fingerprint, &self.layout.architecture, self.tokens);
        let slots = self.layout.slots.iter().zip(&self.layout.ranges);
        StateFile {
            header,
            slots: slots.map(|(slot, range)| (slot.clone(), self.data[range.clone()].to_vec())).collect(),
        }
    }

    /// Replaces this state by a file's, which must have been checked against the model
    /// ([`StateFile::check`](anser_checkpoint::state::StateFile::check)).
    ///
    /// # Errors
    /// [`Error::ForeignState`] when the slots differ in number or size.
    pub fn restore(&mut self, file: &StateFile) -> Result<(), Error> {
        let found = file.slots.iter().map(|(_, values)| values.len()).sum();
        let same = file.slots.len() == self.layout.ranges.len()
            && file.slots.iter().zip(&self.layout.ranges).all(|((_, values), range)| values.len() == range.len());
        if !same {
            return Err(Error::ForeignState { sequence: 0, expected: self.data.len(), found });
        }
        for ((_, values), range) in file.slots.iter().zip(&self.layout.ranges) {
            self.data[range.clone()].copy_from_slice(values);
        }
        self.tokens = file.header.tokens;
        Ok(())
    }
}
