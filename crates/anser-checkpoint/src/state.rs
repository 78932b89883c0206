//! The state of a sequence as a list of named slots, in memory and as a file.
//!
//! A state is what a model remembers of the tokens it has read. It is made of slots, each with an owner (a layer, or the
//! model), a name, a shape, a kind and an orientation, so that a state can be saved, checked, looked at and blended
//! without knowing the model. `docs/formats.md` describes the file.

mod convert;
mod file;

pub(crate) use file::write_atomically;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Version};
use crate::error::Error;

/// `pp` of an RWKV-4 state that has read nothing: the greatest exponent so far, of no terms.
const EMPTY_MAX: f32 = -1e38;

/// Who a slot belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A block, counted from 0.
    Layer(usize),
    /// The model as a whole.
    Model,
}

/// How a slot's content relates to time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// Numbers of constant meaning: they may be blended.
    Fixed,
    /// The last `shape[0]` entries, the oldest at `position`.
    Ring {
        /// Index along the first axis that is overwritten next.
        position: usize,
    },
    /// One entry a token along the first axis; the shape is what is filled.
    Growing,
    /// A count, not a quantity.
    Counter,
}

/// Which axis of a slot is which.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Orientation {
    /// One axis of channels.
    Vector,
    /// `[heads, key, value]`: Anser's matrix states, all versions.
    KeyValue,
    /// `[heads, value, key]`: matrix states as PyTorch files hold them.
    ValueKey,
    /// `[rows, channels]` with these row names, separated by commas: `aa,bb,pp` of RWKV-4.
    Rows(Cow<'static, str>),
}

/// One named part of a state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Layer or model.
    pub owner: Owner,
    /// Name within the owner: `att_shift`, `wkv`, `ffn_shift` in language models.
    pub name: Cow<'static, str>,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Relation to time.
    pub kind: SlotKind,
    /// Meaning of the axes.
    pub orientation: Orientation,
}

impl Slot {
    /// Numbers in the slot.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The slot's full name, as files spell it: `layers.3.wkv`, `model.count`.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner {
            Owner::Layer(layer) => write!(f, "layers.{layer}.{}", self.name),
            Owner::Model => write!(f, "model.{}", self.name),
        }
    }
}

impl Config {
    /// The slots of this model's state, layer by layer: `att_shift` `[C]` (the last LN1 output), `wkv`
    /// (`[H, key, value]`; RWKV-4: `[3, C]`, the rows `aa`, `bb`, `pp`), `ffn_shift` `[C]` (the last LN2 output).
    pub fn state_slots(&self) -> Vec<Slot> {
        let (wkv, orientation) = match self.version {
            Version::V4 => (vec![3, self.width], Orientation::Rows(Cow::Borrowed("aa,bb,pp"))),
            _ => (vec![self.heads, self.head_size, self.head_size], Orientation::KeyValue),
        };
        let parts = [
            ("att_shift", vec![self.width], Orientation::Vector),
            ("wkv", wkv, orientation),
            ("ffn_shift", vec![self.width], Orientation::Vector),
        ];
        let slot = |layer, (name, shape, orientation): &(&'static str, Vec<usize>, Orientation)| Slot {
            owner: Owner::Layer(layer),
            name: Cow::Borrowed(*name),
            shape: shape.clone(),
            kind: SlotKind::Fixed,
            orientation: orientation.clone(),
        };
        (0..self.layers).flat_map(|layer| parts.iter().map(move |part| slot(layer, part))).collect()
    }
}

/// What a state file says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StateHeader {
    /// Version of the file format, [`StateHeader::FORMAT_VERSION`] when made here.
    pub format_version: u32,
    /// Fingerprint of the model that made the state ([`Checkpoint::fingerprint`](crate::Checkpoint::fingerprint)); empty
    /// when it is not known.
    pub fingerprint: String,
    /// Architecture of that model, `rwkv7`.
    pub architecture: String,
    /// Tokens the state has read.
    pub tokens: u64,
    /// The last of those tokens, the newest last; may be empty.
    pub last_tokens: Vec<u32>,
    /// Program that wrote the file.
    pub created_by: String,
}

impl StateHeader {
    /// The format version written here.
    pub const FORMAT_VERSION: u32 = 1;

    /// A header of the present format version.
    pub fn new(fingerprint: &str, architecture: &str, tokens: u64) -> StateHeader {
        StateHeader {
            format_version: Self::FORMAT_VERSION,
            fingerprint: fingerprint.to_string(),
            architecture: architecture.to_string(),
            tokens,
            last_tokens: Vec::new(),
            created_by: concat!("anser ", env!("CARGO_PKG_VERSION")).to_string(),
        }
    }
}

/// Which states a model accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Only its own: the fingerprints must agree.
    SameModel,
    /// Every state of the same architecture and shapes, as states travel between fine-tunes of one base.
    SameShapes,
}

/// A state with its header: the content of a state file.
#[derive(Clone, Debug, PartialEq)]
pub struct StateFile {
    /// What the state belongs to.
    pub header: StateHeader,
    /// The slots in the model's order, each with its numbers, row-major.
    pub slots: Vec<(Slot, Vec<f32>)>,
}

/// One slot at a glance.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotSummary {
    /// Full name, `layers.3.wkv`.
    pub name: String,
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// Euclidean norm of the finite values.
    pub norm: f64,
    /// Smallest finite value; 0 when there is none.
    pub min: f32,
    /// Largest finite value; 0 when there is none.
    pub max: f32,
    /// How many values are NaN or infinite.
    pub non_finite: usize,
}

impl StateFile {
    /// The state of a model that has read nothing.
    pub fn zero(config: &Config, fingerprint: &str) -> StateFile {
        let slots = config.state_slots().into_iter().map(|slot| {
            let mut values = vec![0.0; slot.elements()];
            if let Orientation::Rows(_) = slot.orientation {
                values[2 * config.width..].fill(EMPTY_MAX);
            }
            (slot, values)
        });
        StateFile { header: StateHeader::new(fingerprint, config.architecture(), 0), slots: slots.collect() }
    }

    /// Checks that a model of this `config` and `fingerprint` can go on from this state; `file` is named in errors.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] names the first of architecture, number of slots, slot name, shape, kind, orientation,
    /// finiteness and (with [`Accept::SameModel`]) fingerprint that does not fit.
    pub fn check(&self, file: &Path, config: &Config, fingerprint: &str, accept: Accept) -> Result<(), Error> {
        let mismatch = |what: String, found: String, expected: String| {
            Err(Error::StateMismatch { file: file.to_path_buf(), what, expected, found })
        };
        if self.header.architecture != config.architecture() {
            let found = self.header.architecture.clone();
            return mismatch("the state's architecture".into(), found, config.architecture().into());
        }
        same_slots(file, self.slots.iter().map(|(slot, _)| slot), &config.state_slots())?;
        for (slot, values) in &self.slots {
            if values.len() != slot.elements() {
                let what = format!("the number of values of slot {slot}");
                return mismatch(what, values.len().to_string(), slot.elements().to_string());
            }
            if let Some(at) = values.iter().position(|v| !v.is_finite()) {
                return mismatch(
                    format!("value {at} of slot {slot}"),
                    values[at].to_string(),
                    "a finite number".into(),
                );
            }
        }
        if accept == Accept::SameModel && (self.header.fingerprint != fingerprint || fingerprint.is_empty()) {
            let expected = format!(
                "{} (architecture and shapes fit: a fine-tune of the same base may be allowed to use it)",
                abbreviate(fingerprint)
            );
            let found = abbreviate(&self.header.fingerprint);
            return mismatch("the fingerprint of the state's model".into(), found, expected);
        }
        Ok(())
    }

    /// The weighted sum of states of one model, for mixing personas or interpolating between two texts.
    ///
    /// Matrix states and token shifts are summed as they are. An RWKV-4 state holds a numerator `aa e^pp` and a
    /// denominator `bb e^pp`; those are summed, over the parts' greatest `pp`, so weights must not be negative there. A
    /// part of weight 0 has no influence at all. Weights need not sum to 1. The header is the first part's, its token
    /// count the greatest of the parts', its last tokens empty.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when there is no part, a weight is not finite (or negative where it must not be), the parts differ in
    /// architecture, fingerprint or slots, or a slot is not [`SlotKind::Fixed`].
    pub fn blend(parts: &[(&StateFile, f32)]) -> Result<StateFile, Error> {
        let mismatch = |part: usize, what: &str, found: String, expected: &str| {
            let (what, expected) = (what.to_string(), expected.to_string());
            Err(Error::StateMismatch { file: part_name(part), what, expected, found })
        };
        let Some((first, _)) = parts.first() else {
            return mismatch(0, "the number of states", "0".into(), "at least 1");
        };
        let slots: Vec<Slot> = first.slots.iter().map(|(slot, _)| slot.clone()).collect();
        for (i, (part, weight)) in parts.iter().enumerate() {
            if !weight.is_finite() {
                return mismatch(i, "the weight", weight.to_string(), "a finite number");
            }
            if part.header.architecture != first.header.architecture {
                return mismatch(i, "the architecture", part.header.architecture.clone(), &first.header.architecture);
            }
            if part.header.fingerprint != first.header.fingerprint {
                let (found, expected) = (abbreviate(&part.header.fingerprint), abbreviate(&first.header.fingerprint));
                return mismatch(i, "the fingerprint of the state's model", found, &expected);
            }
            same_slots(&part_name(i), part.slots.iter().map(|(slot, _)| slot), &slots)?;
            for (slot, values) in &part.slots {
                if slot.kind != SlotKind::Fixed {
                    let found = format!("{:?}", slot.kind).to_lowercase();
                    return mismatch(i, &format!("the kind of slot {slot}"), found, "fixed: no other can be blended");
                }
                if *weight < 0.0 && matches!(slot.orientation, Orientation::Rows(_)) {
                    return mismatch(i, "the weight", weight.to_string(), "at least 0: the state holds quotients");
                }
                if values.len() != slot.elements() {
                    let (what, found) = (format!("the number of values of slot {slot}"), values.len().to_string());
                    return mismatch(i, &what, found, &slot.elements().to_string());
                }
            }
        }
        let blended = slots.into_iter().enumerate().map(|(index, slot)| {
            let terms: Vec<(f64, &[f32])> = parts
                .iter()
                .filter(|(_, w)| *w != 0.0)
                .map(|(part, w)| (*w as f64, &part.slots[index].1[..]))
                .collect();
            let values = match slot.orientation {
                Orientation::Rows(_) => blend_quotients(slot.elements() / 3, &terms),
                _ => (0..slot.elements()).map(|i| weighted_sum(terms.iter().map(|(w, x)| (*w, x[i])))).collect(),
            };
            (slot, values)
        });
        let mut header = first.header.clone();
        header.tokens = parts.iter().map(|(part, _)| part.header.tokens).max().unwrap_or(0);
        header.last_tokens.clear();
        Ok(StateFile { header, slots: blended.collect() })
    }

    /// Every slot at a glance, in order.
    pub fn summary(&self) -> Vec<SlotSummary> {
        let summarise = |(slot, values): &(Slot, Vec<f32>)| {
            let finite = || values.iter().copied().filter(|v| v.is_finite());
            SlotSummary {
                name: slot.to_string(),
                shape: slot.shape.clone(),
                norm: finite().map(|v| (v as f64).powi(2)).sum::<f64>().sqrt(),
                min: finite().reduce(f32::min).unwrap_or(0.0),
                max: finite().reduce(f32::max).unwrap_or(0.0),
                non_finite: values.len() - finite().count(),
            }
        };
        self.slots.iter().map(summarise).collect()
    }
}

/// How errors of a blend name its parts, which have no file.
fn part_name(part: usize) -> PathBuf {
    PathBuf::from(format!("state {} of the blend", part + 1))
}

fn same_slots<'a>(
    file: &Path,
    found: impl ExactSizeIterator<Item = &'a Slot> + Clone,
    expected: &[Slot],
) -> Result<(), Error> {
    let mismatch = |what: String, found: String, expected: String| {
        Err(Error::StateMismatch { file: file.to_path_buf(), what, expected, found })
    };
    for (found, expected) in found.clone().zip(expected) {
        if (found.owner, &found.name) != (expected.owner, &expected.name) {
            return mismatch("a slot".into(), found.to_string(), expected.to_string());
        }
        if found.shape != expected.shape {
            let (found_shape, expected_shape) = (format!("{:?}", found.shape), format!("{:?}", expected.shape));
            return mismatch(format!("the shape of slot {found}"), found_shape, expected_shape);
        }
        if found.orientation != expected.orientation {
            let what = format!("the orientation of slot {found}");
            return mismatch(what, format!("{:?}", found.orientation), format!("{:?}", expected.orientation));
        }
        if found.kind != expected.kind {
            let what = format!("the kind of slot {found}");
            return mismatch(what, format!("{:?}", found.kind), format!("{:?}", expected.kind));
        }
    }
    if found.len() != expected.len() {
        return mismatch("the number of slots".into(), found.len().to_string(), expected.len().to_string());
    }
    Ok(())
}

/// Enough of a fingerprint to tell two apart.
fn abbreviate(fingerprint: &str) -> String {
    match fingerprint.char_indices().nth(12) {
        None if fingerprint.is_empty() => "unknown".to_string(),
        None => fingerprint.to_string(),
        Some((end, _)) => format!("{}...", &fingerprint[..end]),
    }
}

/// Summed in f64 from -0, the neutral element that keeps the sign of a zero.
fn weighted_sum(terms: impl Iterator<Item = (f64, f32)>) -> f32 {
    terms.fold(-0.0, |sum: f64, (weight, x)| sum + weight * x as f64) as f32
}

/// Rows aa, bb, pp of `width` channels each, of several RWKV-4 states.
fn blend_quotients(width: usize, terms: &[(f64, &[f32])]) -> Vec<f32> {
    let mut out = vec![0.0; 3 * width];
    for channel in 0..width {
        let max = terms.iter().map(|(_, x)| x[2 * width + channel]).fold(EMPTY_MAX, f32::max);
        let scaled = |row: usize| {
            weighted_sum(terms.iter().map(|(w, x)| {
                let scale = ((x[2 * width + channel] - max) as f64).exp();
                (w * scale, x[row * width + channel])
            }))
        };
        out[channel] = if terms.is_empty() { 0.0 } else { scaled(0) };
        out[width + channel] = if terms.is_empty() { 0.0 } else { scaled(1) };
        out[2 * width + channel] = max;
    }
    out
}
