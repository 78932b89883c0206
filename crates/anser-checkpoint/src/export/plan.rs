//! Which tensors a format holds, under which names and in which precision.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Export, ExportOptions, FolderLayout, Part, Planned, Target, file_of, layout_of, round};
use crate::checkpoint::{Checkpoint, Layout};
use crate::config::{Config, Version};
use crate::error::Error;
use crate::gguf::encode::BLOCK;
use crate::layout::view::{View, stored_shape};
use crate::names::{self, Dim, Entry, Presence, Source};
use crate::tensor::{Dtype, Precision};

pub(super) fn plan(source: Arc<Checkpoint>, options: ExportOptions) -> Result<Export, Error> {
    let (config, target) = (source.config(), options.target);
    let layout = layout_of(target);
    if source.packed_header().is_some() {
        let hint = "a packed file holds rounded matrices in the engine's order; convert the model it was made from";
        return Err(unsupported(&source, "converting a packed file".into(), hint));
    }
    check_version(&source, target)?;
    check_epsilons(&source, target)?;
    if let Some(precision) = options.precision.filter(|precision| precision.dtype().is_none())
        && target != Target::Gguf
    {
        let hint = format!("write GGUF, or use f32, bf16 or f16 for {target}");
        return Err(unsupported(&source, format!("{precision} in {target}"), hint));
    }

    let table = names::table(config.version);
    let entry = |template: &str| table.iter().find(|entry| entry.official == template);
    let main = match options.precision {
        Some(precision) => precision.dtype(),
        None => None,
    };
    let main = main.unwrap_or(source.stored_dtype());
    let (mut planned, mut precisions) = (Vec::<Planned>::new(), HashMap::new());
    let mut at_name = HashMap::new();
    for official in source.names() {
        let (template, block) = split(&official);
        let Some(entry) = entry(&template) else {
            return Err(unsupported(&source, format!("tensor `{official}` in {target}"), "write .pth or safetensors"));
        };
        let Some(stored) = place(entry, layout, block) else {
            if matches!(entry.presence, Presence::LaterBlocks) {
                continue; // block 0's, which no model uses
            }
            let what = format!("the tuned initial state (tensor `{official}`) in {target}");
            return Err(unsupported(&source, what, "write .pth or safetensors, which hold it"));
        };
        let (official_shape, shape) = shapes(entry, layout, stored, config);
        let precision = match target {
            Target::Gguf => gguf_precision(entry, &official_shape, options.precision, main),
            _ => float_precision(&source, &official, options.precision, main)?,
        };
        let name = names::fill(stored.name, block);
        let part = Part { official: official.clone(), view: View::to_write(stored.take, &official_shape) };
        match at_name.get(&name) {
            None => {
                at_name.insert(name.clone(), planned.len());
                planned.push(Planned { name, precision, shape, parts: vec![part] });
            }
            Some(&at) => {
                let stacked: &mut Planned = &mut planned[at];
                if stacked.precision != precision {
                    stacked.precision = Precision::Plain(Dtype::F32);
                }
                stacked.parts.push(part);
            }
        }
    }
    for (name, official) in names::dummies(config.version, layout) {
        let (template, block) = split(official);
        if let Some(entry) = entry(&template)
            && let Some(stored) = place(entry, layout, block)
        {
            let (official_shape, shape) = shapes(entry, layout, stored, config);
            let precision = gguf_precision(entry, &official_shape, options.precision, main);
            let part = Part { official: official.to_string(), view: View::to_write(stored.take, &official_shape) };
            planned.push(Planned { name: name.to_string(), precision, shape, parts: vec![part] });
        }
    }
    for tensor in &planned {
        precisions.extend(tensor.parts.iter().map(|part| (part.official.clone(), tensor.precision)));
    }
    let main = options.precision.map_or(main, |precision| precision.dtype().unwrap_or(Dtype::F32));
    Ok(Export { source, options, planned, precisions, main })
}

/// `blocks.3.att.r_k` as `blocks.{}.att.r_k` and 3.
fn split(official: &str) -> (String, usize) {
    let numbered = official.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    match numbered.and_then(|(block, rest)| Some((block.parse().ok()?, rest))) {
        Some((block, rest)) => (format!("blocks.{{}}.{rest}"), block),
        None => (official.to_string(), 0),
    }
}

/// Where the layout keeps an official tensor, if it has a place for it.
fn place(entry: &Entry, layout: Layout, block: usize) -> Option<Source> {
    // Outside official files block 0 has no value residual.
    let unused = entry.presence == Presence::LaterBlocks && block == 0 && layout != Layout::Official;
    entry.sources(layout).first().copied().filter(|_| !unused)
}

/// The official shape, and the one the tensor is written with.
fn shapes(entry: &Entry, layout: Layout, stored: Source, config: &Config) -> (Vec<usize>, Vec<usize>) {
    let official: Vec<usize> = entry.shape.iter().map(|dim| dim.length(config)).collect();
    let shape = stored_shape(stored.take, &official);
    let shape = names::written_shape(config.version, layout, entry.official, shape);
    (official, shape)
}

/// The precision of a tensor where all have one: that asked for, or else the main type if it holds every value.
fn float_precision(
    source: &Checkpoint,
    official: &str,
    asked: Option<Precision>,
    main: Dtype,
) -> Result<Precision, Error> {
    if let Some(precision) = asked {
        return Ok(precision);
    }
    let tensor = source.tensor(official)?;
    let main = Precision::Plain(main);
    Ok(if round::is_exact(&tensor, main) { main } else { Precision::Plain(tensor.dtype) })
}

/// llama.cpp's products take matrices of any type; everything else they are given must be f32. Token-shift and decay pairs
/// are f32 too, as in its own files.
fn gguf_precision(entry: &Entry, shape: &[usize], asked: Option<Precision>, main: Dtype) -> Precision {
    let float = Precision::Plain(main);
    let large = entry.official.ends_with(".weight") && shape.len() == 2;
    let pair = matches!(entry.shape, [Dim::Width, _] | [_, Dim::Width])
        && [Dim::ARank, Dim::VRank, Dim::GRank].iter().any(|rank| entry.shape.contains(rank));
    match asked {
        _ if !large && !pair => Precision::Plain(Dtype::F32),
        // Rows of whole blocks only; the head decides most and gets the better type.
        Some(Precision::Q4_0) if large && entry.official == "head.weight" && shape[1].is_multiple_of(BLOCK) => {
            Precision::Q8_0
        }
        Some(precision) if precision.dtype().is_some() || (large && shape[1].is_multiple_of(BLOCK)) => precision,
        _ => float,
    }
}

fn check_version(source: &Checkpoint, target: Target) -> Result<(), Error> {
    let version = source.config().version;
    let refuse = |hint: &str| Err(unsupported(source, format!("RWKV-{version} in {target}"), hint));
    match (target, version) {
        (Target::Gguf, Version::V6 | Version::V7) => Ok(()),
        (Target::Gguf, _) => {
            refuse("llama.cpp knows RWKV-6 and 7; write .pth, safetensors or a Hugging Face directory")
        }
        (Target::Folder(FolderLayout::Fla), Version::V6 | Version::V7) => Ok(()),
        (Target::Folder(FolderLayout::Fla), _) => {
            refuse("flash-linear-attention knows RWKV-6 and 7; use the layout transformers or native")
        }
        (Target::Folder(FolderLayout::Transformers), Version::V7) => refuse("use the layout fla or native"),
        _ => Ok(()),
    }
}

/// A format that cannot say which epsilons a model has would make another model of it.
fn check_epsilons(source: &Checkpoint, target: Target) -> Result<(), Error> {
    let config = source.config();
    let (layer, group) = (config.layer_norm_eps, config.group_norm_eps);
    let official_layer = layer == Config::LAYER_NORM_EPS;
    let official_group = group == Config::GROUP_NORM_EPS || config.version == Version::V4;
    let holds = match target {
        Target::Pth | Target::Safetensors => official_layer && official_group,
        Target::Gguf => official_group,
        Target::Folder(FolderLayout::Fla) if official_layer => official_group,
        Target::Folder(FolderLayout::Fla) => group == fla_group_eps(config),
        Target::Folder(_) => official_group || divisor(group).is_some(),
    };
    if holds {
        return Ok(());
    }
    let what = format!("the epsilons {layer:e} (layer norm) and {group:e} (group norm) in {target}");
    let hint = match target {
        Target::Folder(_) => "write the layout native",
        _ => "a Hugging Face directory (--to hf --layout native) says them in its config.json",
    };
    Err(unsupported(source, what, hint))
}

/// The epsilon of `ln_x` in flash-linear-attention's classes.
fn fla_group_eps(config: &Config) -> f32 {
    let factor = if config.version == Version::V7 { config.head_size as f32 } else { 1.0 };
    factor * config.layer_norm_eps
}

/// What `ln_x`'s input is divided by before a norm with epsilon 1e-5, which is the way configs tell its epsilon.
pub(super) fn divisor(group_norm_eps: f32) -> Option<f32> {
    let divisor = (group_norm_eps / 1e-5).sqrt();
    [divisor, divisor.round()].into_iter().find(|d| 1e-5 * d * d == group_norm_eps)
}

/// Where the usual loaders of the result compute something else than the model.
pub(super) fn notes(config: &Config, target: Target) -> Vec<String> {
    let mut notes = Vec::new();
    match (target, config.version) {
        (Target::Folder(FolderLayout::Fla), version) if config.layer_norm_eps == Config::LAYER_NORM_EPS => {
            let theirs = fla_group_eps(config);
            if (theirs - config.group_norm_eps).abs() > 1e-9 {
                notes.push(format!(
                    "flash-linear-attention's rwkv{version} takes {theirs:e} as the epsilon of g_norm, official weights \
                     want {:e}: set every g_norm.eps after loading it there",
                    config.group_norm_eps
                ));
            }
        }
        (Target::Folder(FolderLayout::Transformers), version) if version != Version::V4 => notes.push(
            "transformers has no class for it: it needs the code published with the models beside it".to_string(),
        ),
        (Target::Gguf, Version::V7) if !config.head_size.is_multiple_of(64) => notes.push(format!(
            "llama.cpp computes RWKV-7 wrongly on CPUs for heads of {} channels: its kernel wants multiples of 64",
            config.head_size
        )),
        _ => {}
    }
    notes
}

fn unsupported(source: &Checkpoint, what: String, hint: impl Into<String>) -> Error {
    Error::Unsupported { file: file_of(source), what, hint: hint.into() }
}
