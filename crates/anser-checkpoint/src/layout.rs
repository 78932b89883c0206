//! From the stored tensors to the official ones: which version, which sizes, where each tensor is and how it is turned.

mod refuse;
mod sizes;
pub(crate) mod view;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::checkpoint::{Layout, OpenOptions};
use crate::config::{Config, Version};
use crate::error::Error;
use crate::names::{self, Entry, Presence, Source, Take};
use crate::packed::Contents;
use crate::raw::{Encoding, RawModel, RawTensor};
use crate::tensor::Dtype;
use view::View;

/// A model whose every tensor was found and fits.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) layout: Layout,
    pub(crate) config: Config,
    pub(crate) tensors: Vec<Located>,
}

/// An official tensor and where it is.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) name: String,
    /// Index into [`RawModel::tensors`].
    pub(crate) raw: usize,
    view: View,
    /// The values are to be multiplied by two to this power.
    exponent: usize,
}

impl Located {
    pub(crate) fn shape(&self) -> &[usize] {
        &self.view.shape
    }

    /// The tensor's elements out of its file's bytes.
    pub(crate) fn read<'a>(&self, raw: &RawTensor, file: &'a [u8]) -> (Dtype, Cow<'a, [u8]>) {
        let stored = &file[raw.range.clone()];
        let (dtype, data) = match raw.encoding {
            Encoding::Plain(dtype) => (dtype, self.view.take(Cow::Borrowed(stored), dtype.bytes())),
            Encoding::Blocks(format) => {
                let widened = f32_bytes(raw.elements(), format.elements, |start, values| {
                    let block = start / format.elements * format.bytes;
                    (format.decode)(&stored[block..block + values.len() / format.elements * format.bytes], values);
                });
                (Dtype::F32, self.view.take(Cow::Owned(widened), 4))
            }
        };
        if self.exponent == 0 {
            return (dtype, data);
        }
        // In f32, since f16 may not hold the products.
        let (size, factor) = (dtype.bytes(), self.factor());
        let scaled = f32_bytes(data.len() / size, 1, |start, values| {
            dtype.widen(&data[start * size..], values);
            values.iter_mut().for_each(|value| *value *= factor);
        });
        (Dtype::F32, Cow::Owned(scaled))
    }

    /// One element, by its row-major position in the official tensor.
    pub(crate) fn element(&self, raw: &RawTensor, file: &[u8], index: usize) -> f32 {
        let (stored, at) = (&file[raw.range.clone()], self.view.position(index));
        let value = match raw.encoding {
            Encoding::Plain(dtype) => {
                let mut value = [0.0];
                dtype.widen(&stored[at * dtype.bytes()..(at + 1) * dtype.bytes()], &mut value);
                value[0]
            }
            Encoding::Blocks(format) => {
                let mut values = vec![0.0; format.elements];
                let block = at / format.elements;
                (format.decode)(&stored[block * format.bytes..(block + 1) * format.bytes], &mut values);
                values[at % format.elements]
            }
        };
        value * self.factor()
    }

    /// Whether the stored tensor is the official one as it is.
    pub(crate) fn is_whole(&self, raw: &RawTensor) -> bool {
        self.exponent == 0 && self.view.is_row_major() && self.view.shape == raw.shape
    }

    fn factor(&self) -> f32 {
        (self.exponent as f32).exp2()
    }
}

/// The plain tensors of a packed file, whose sizes its header states: everything there, of the shape it must have.
pub(crate) fn resolve_packed(raw: &RawModel, contents: &Contents, options: &OpenOptions) -> Result<Model, Error> {
    let file = || raw.files[0].path().to_path_buf();
    let mut config = contents.header.config.clone();
    config.layer_norm_eps = options.layer_norm_eps.unwrap_or(config.layer_norm_eps);
    config.group_norm_eps = options.group_norm_eps.unwrap_or(config.group_norm_eps);
    let version = config.version;
    let mut tensors = Vec::with_capacity(raw.tensors.len());
    for (at, stored) in raw.tensors.iter().enumerate() {
        let Some(shape) = config.shape(&stored.name) else {
            return Err(Error::UnknownTensor { file: file(), tensor: stored.name.clone(), version });
        };
        let view = View::new(Take::Whole, &shape, stored).map_err(|expected| Error::Shape {
            file: file(),
            tensor: stored.name.clone(),
            expected,
            found: stored.shape.clone(),
        })?;
        tensors.push(Located { name: stored.name.clone(), raw: at, view, exponent: 0 });
    }
    if let Some(unknown) = contents.names().find(|name| config.shape(name).is_none_or(|shape| shape.len() != 2)) {
        return Err(Error::UnknownTensor { file: file(), tensor: unknown.clone(), version });
    }
    let plain: HashSet<&String> = raw.tensors.iter().map(|tensor| &tensor.name).collect();
    let there = |name: &String| contents.has(name) || plain.contains(name);
    let spellings = config.spellings();
    if let Some((_, both)) = spellings.iter().find(|(first, second)| there(first) && there(second)) {
        return Err(Error::UnknownTensor { file: file(), tensor: both.clone(), version });
    }
    let missing =
        |name: &String| !there(name) && !spellings.iter().any(|(first, second)| first == name && there(second));
    match config.tensors().into_iter().map(|(name, _)| name).find(missing) {
        Some(tensor) => Err(Error::MissingTensor { file: file(), tensor, version }),
        None => Ok(Model { layout: Layout::Official, config, tensors }),
    }
}

/// Little-endian f32 of `elements` values, filled a few thousand at a time and in whole multiples of `block`.
fn f32_bytes(elements: usize, block: usize, fill: impl Fn(usize, &mut [f32])) -> Vec<u8> {
    let mut bytes = vec![0; elements * 4];
    let mut values = vec![0.0; 4096usize.next_multiple_of(block)];
    let chunk = values.len();
    for (index, out) in bytes.chunks_mut(chunk * 4).enumerate() {
        let values = &mut values[..out.len() / 4];
        fill(index * chunk, values);
        for (out, value) in out.chunks_exact_mut(4).zip(values) {
            out.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// The type that holds most elements.
pub(crate) fn main_dtype(raw: &RawModel) -> Dtype {
    let count = |dtype: Dtype| -> usize {
        let stored = |tensor: &&RawTensor| match tensor.encoding {
            Encoding::Plain(plain) => plain == dtype,
            Encoding::Blocks(_) => dtype == Dtype::F32,
        };
        raw.tensors.iter().filter(stored).map(RawTensor::elements).sum()
    };
    [Dtype::Bf16, Dtype::F16, Dtype::F32].into_iter().max_by_key(|&dtype| count(dtype)).unwrap_or(Dtype::F32)
}

/// The stored tensors by their names without wrappers' prefixes.
pub(crate) struct Stored<'a> {
    raw: &'a RawModel,
    by_name: HashMap<String, usize>,
}

impl<'a> Stored<'a> {
    fn new(raw: &'a RawModel) -> Result<Stored<'a>, Error> {
        let mut by_name = HashMap::new();
        for (at, tensor) in raw.tensors.iter().enumerate() {
            if by_name.insert(bare(&tensor.name), at).is_some() {
                return Err(raw.files[tensor.file].malformed(format!("tensor `{}` is there twice", tensor.name)));
            }
        }
        Ok(Stored { raw, by_name })
    }

    fn get(&self, name: &str) -> Option<&'a RawTensor> {
        self.by_name.get(name).map(|&at| &self.raw.tensors[at])
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }
}

/// A name without what DeepSpeed, torch.compile and Hugging Face wrappers put before official names.
fn bare(name: &str) -> String {
    let mut name = name;
    while let Some(rest) = name.strip_prefix("_forward_module.") {
        name = rest;
    }
    let name = name.replace("_orig_mod.", "");
    for prefix in ["model.", "rwkv7."] {
        if let Some(rest) = name.strip_prefix(prefix)
            && ["emb.", "blocks.", "ln_out.", "head."].iter().any(|start| rest.starts_with(start))
        {
            return rest.to_string();
        }
    }
    name
}

fn layout(stored: &Stored<'_>) -> Result<Layout, Error> {
    let embeddings = [
        ("emb.weight", Layout::Official),
        ("rwkv.embeddings.weight", Layout::HuggingFace),
        ("model.embeddings.weight", Layout::Fla),
        ("token_embd.weight", Layout::Gguf),
    ];
    match embeddings.iter().find(|(name, _)| stored.by_name.contains_key(*name)) {
        Some((_, layout)) => Ok(*layout),
        None => Err(refuse::without_embedding(stored)),
    }
}

fn block_prefix(layout: Layout) -> &'static str {
    match layout {
        Layout::Official => "blocks.",
        Layout::HuggingFace => "rwkv.blocks.",
        Layout::Fla => "model.layers.",
        Layout::Gguf => "blk.",
    }
}

/// The version, told from all names at once (and for v5 from the shape of the decay).
fn version(stored: &Stored<'_>, layout: Layout) -> Version {
    let any = |ends: &[&str]| stored.names().any(|name| ends.iter().any(|end| name.ends_with(end)));
    let vector_decay = || {
        stored.by_name.iter().any(|(name, &at)| {
            // Per-head decays may come as [H], [H, 1] or [H, 1, 1].
            let shape = &stored.raw.tensors[at].shape;
            name.ends_with(".time_decay") && shape.len() == 2 && shape[1] > 1
        })
    };
    match layout {
        Layout::Fla if any(&[".attn.k_k", ".attn.r_k"]) => Version::V7,
        Layout::Fla => Version::V6,
        Layout::Gguf if any(&[".time_mix_k_k.weight", ".time_mix_r_k.weight"]) => Version::V7,
        Layout::Gguf => Version::V6,
        _ if any(&[".att.k_k", ".att.r_k"]) => Version::V7,
        _ if any(&[".time_maa_x"]) => Version::V6,
        _ if any(&[".ln_x.weight"]) => match (vector_decay(), any(&[".gate.weight"])) {
            (true, _) => Version::V5_2,
            (false, true) => Version::V5_1,
            (false, false) => Version::V5_0,
        },
        _ => Version::V4,
    }
}

/// One official tensor that is in the file.
struct Found {
    entry: Entry,
    block: usize,
    source: Source,
    raw: usize,
}

/// Finds version, sizes and every tensor, and checks that all fit.
pub(crate) fn resolve(raw: &RawModel, options: &OpenOptions) -> Result<Model, Error> {
    let stored = Stored::new(raw)?;
    refuse::other_models(&stored)?;
    let layout = layout(&stored)?;
    let version = version(&stored, layout);
    let prefix = block_prefix(layout);
    let index = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    // A block's index is as good as its tensors: an absurd one fails on the first block that is not there.
    let layers = stored.names().filter_map(index).max().map_or(1, |last| last.saturating_add(1));

    let found = find_all(&stored, layout, version, layers)?;
    let mut config = sizes::infer(&stored, &found, version, layers)?;
    config.layer_norm_eps = options.layer_norm_eps.or(raw.hints.layer_norm_eps).unwrap_or(Config::LAYER_NORM_EPS);
    config.group_norm_eps = options.group_norm_eps.or(raw.hints.group_norm_eps).unwrap_or(Config::GROUP_NORM_EPS);

    let mut tensors = Vec::with_capacity(found.len());
    for Found { entry, block, source, raw: at } in found {
        let shape: Vec<usize> = entry.shape.iter().map(|dim| dim.length(&config)).collect();
        let tensor = &raw.tensors[at];
        let view = View::new(source.take, &shape, tensor).map_err(|expected| Error::Shape {
            file: raw.files[tensor.file].path().to_path_buf(),
            tensor: tensor.name.clone(),
            expected,
            found: tensor.shape.clone(),
        })?;
        let exponent = match (source.take, raw.hints.rescale_every) {
            (Take::Rescaled, every) if every > 0 => block / every,
            _ => 0,
        };
        tensors.push(Located { name: names::fill(entry.official, block), raw: at, view, exponent });
    }
    Ok(Model { layout, config, tensors })
}

/// Every official tensor of the version with its source; refuses missing and left-over ones.
fn find_all(stored: &Stored<'_>, layout: Layout, version: Version, layers: usize) -> Result<Vec<Found>, Error> {
    let table = names::table(version);
    let dummies = names::dummies(version, layout);
    let ignored = |name: &str| dummies.iter().any(|(dummy, _)| *dummy == name);
    let lookup = |entry: &Entry, block: usize| {
        entry.sources(layout).into_iter().find_map(|source| {
            let name = names::fill(source.name, block);
            let raw = *stored.by_name.get(&name)?;
            (!ignored(&name)).then_some(Found { entry: *entry, block, source, raw })
        })
    };
    let missing = |entry: &Entry, block: usize| {
        let source = entry.sources(layout).first().map_or(entry.official, |source| source.name);
        Error::MissingTensor {
            file: stored.raw.files[0].path().to_path_buf(),
            tensor: names::fill(source, block),
            version,
        }
    };

    let (outside, inside): (Vec<Entry>, Vec<Entry>) = table.iter().partition(|entry| !entry.in_blocks());
    let rows = outside.iter().map(|entry| (entry, 0));
    let blocks = (0..layers).flat_map(|block| inside.iter().map(move |entry| (entry, block)));
    let mut all = Vec::new();
    for (entry, block) in rows.chain(blocks) {
        if entry.presence == Presence::FirstBlock && block > 0 {
            continue;
        }
        let found = lookup(entry, block);
        let needed = match entry.presence {
            Presence::Required | Presence::FirstBlock => true,
            Presence::LaterBlocks => block > 0,
            Presence::Optional => false,
            Presence::InsteadOf(other) => {
                let other = table.iter().find(|row| row.official == other).and_then(|row| lookup(row, block));
                match (&found, other) {
                    (None, None) => true,
                    // Both: which of the two the trainer used cannot be told.
                    (Some(found), Some(_)) => return Err(refuse::unknown(stored, found.raw, version)),
                    _ => false,
                }
            }
        };
        match found {
            Some(found) => all.push(found),
            None if needed => return Err(missing(entry, block)),
            None => {}
        }
    }

    let mut used = vec![false; stored.raw.tensors.len()];
    all.iter().for_each(|found| used[found.raw] = true);
    let mut left = stored.by_name.iter().filter(|(name, at)| !used[**at] && !ignored(name));
    // The first in the file's order, so that the message does not change from run to run.
    match left.by_ref().map(|(_, &at)| at).min() {
        Some(at) => Err(refuse::unknown(stored, at, version)),
        None => Ok(all),
    }
}
