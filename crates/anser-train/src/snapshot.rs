//! What a run needs to go on to the bit: weights and moments in f32, and where it stands.
//!
//! A snapshot is a folder `step-NNNNNNNN` with `weights.safetensors`, `moments.safetensors` and `progress.json`. It is
//! written beside its place and renamed, so it is whole or not there; the oldest go when there are too many.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anser_checkpoint::{Dtype, Tensor, write_safetensors};
use anser_nn::gradients::Trainable;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::optimizer::{Moments, Optimizer};

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Seconds spent training, over all parts of the run.
    pub seconds: f64,
    /// The best evaluation loss so far, in nats a token.
    pub best: Option<f64>,
    /// Evaluations since then.
    #[serde(default)]
    pub worse: u64,
}

const PREFIX: &str = "step-";

/// Snapshots in a folder, from old to new; none if there is no such folder.
///
/// # Errors
/// [`Error::Io`].
pub fn list(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io(folder)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name();
        let step = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|step| step.parse().ok());
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Writes a snapshot into `folder` and keeps the last `keep` of them.
///
/// # Errors
/// [`Error::Io`] or [`Error::Checkpoint`], a full disk for instance; snapshots there were stay.
pub fn save(
    folder: &Path,
    keep: usize,
    model: &impl Trainable,
    optimizer: &Optimizer,
    progress: &Progress,
) -> Result<PathBuf, Error> {
    let place = folder.join(format!("{PREFIX}{:08}", progress.step));
    let beside = folder.join(format!(".{PREFIX}{:08}.part", progress.step));
    let written = (|| {
        let _ = fs::remove_dir_all(&beside); // what an interrupted run left
        fs::create_dir_all(&beside).map_err(Error::io(&beside))?;
        let mut tensors = Vec::new();
        model.read(|name, shape, values| tensors.push(Tensor::from_f32(name, shape, Dtype::F32, values)));
        write_safetensors(&beside.join("weights.safetensors"), &tensors, &[])?;
        let each = |(name, moments): (&String, &Moments)| {
            let tensor =
                |kind, values: &[f32]| Tensor::from_f32(format!("{kind}.{name}"), [values.len()], Dtype::F32, values);
            [tensor("first", &moments.first), tensor("second", &moments.second)]
        };
        let tensors: Vec<Tensor<'_>> = optimizer.moments.iter().flat_map(each).collect();
        write_safetensors(&beside.join("moments.safetensors"), &tensors, &[])?;
        let path = beside.join("progress.json");
        let text = serde_json::to_vec_pretty(progress).map_err(|error| malformed(&path, error))?;
        fs::write(&path, text).map_err(Error::io(&path))?;
        if place.exists() {
            fs::remove_dir_all(&place).map_err(Error::io(&place))?;
        }
        fs::rename(&beside, &place).map_err(Error::io(&place))
    })();
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&beside); // the first error is the one to report
        return Err(error);
    }
    let all = list(folder)?;
    for (_, old) in &all[..all.len().saturating_sub(keep.max(1))] {
        fs::remove_dir_all(old).map_err(Error::io(old))?;
    }
    Ok(place)
}

fn malformed(file: &Path, what: impl std::fmt::Display) -> Error {
    Error::Malformed { file: file.to_path_buf(), what: what.to_string() }
}

/// A snapshot in memory.
pub struct Snapshot {
    /// The parameters by official name.
    pub weights: BTreeMap<String, Vec<f32>>,
    /// AdamW's memory.
    pub optimizer: Optimizer,
    /// Where the run stood.
    pub progress: Progress,
}

/// Reads a snapshot.
///
/// # Errors
/// [`Error::Io`], or [`Error::Malformed`] naming the file and what is wrong in it.
pub fn load(place: &Path) -> Result<Snapshot, Error> {
    let path = place.join("progress.json");
    let text = fs::read(&path).map_err(Error::io(&path))?;
    let progress: Progress = serde_json::from_slice(&text).map_err(|error| malformed(&path, error))?;
    let weights = tensors(&place.join("weights.safetensors"))?;
    let path = place.join("moments.safetensors");
    let mut optimizer = Optimizer { step: progress.step, moments: BTreeMap::new() };
    for (name, values) in tensors(&path)? {
        if let Some(name) = name.strip_prefix("first.") {
            optimizer.moments.entry(name.into()).or_default().first = values;
        } else if let Some(name) = name.strip_prefix("second.") {
            optimizer.moments.entry(name.into()).or_default().second = values;
        }
    }
    for (name, moments) in &optimizer.moments {
        let expected = weights.get(name).map_or(0, Vec::len);
        if moments.first.len() != expected || moments.second.len() != expected {
            let found = (moments.first.len(), moments.second.len());
            return Err(malformed(&path, format!("moments of `{name}` have {found:?} values, expected {expected}")));
        }
    }
    Ok(Snapshot { weights, optimizer, progress })
}

fn tensors(path: &Path) -> Result<BTreeMap<String, Vec<f32>>, Error> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| malformed(path, error))?;
    let mut out = BTreeMap::new();
    for (name, view) in file.iter() {
        if view.dtype() != safetensors::Dtype::F32 {
            return Err(malformed(path, format!("tensor `{name}` is {:?}, expected F32", view.dtype())));
        }
        let values = view.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        out.insert(name.to_string(), values);
    }
    Ok(out)
}
