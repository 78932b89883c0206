//! Which container a path is, folders and shards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::raw::{MappedFile, RawModel};
use crate::{folder, gguf, pth, safetensors};

/// The names under which Hugging Face folders keep weights, in the order transformers looks for them.
const FOLDER_WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// Larger JSON beside weights is no such file.
pub(crate) const MAX_SIDE_FILE: u64 = 64 << 20;

/// Reads the container or containers at `path`; no weights are touched.
pub(crate) fn read(path: &Path) -> Result<RawModel, Error> {
    if path.is_dir() {
        return read_folder(path);
    }
    let mut model = read_file(path)?;
    let named_by_folder = path.file_name().is_some_and(|name| FOLDER_WEIGHTS.iter().any(|known| name == *known));
    if let Some(folder) = path.parent().filter(|_| named_by_folder) {
        folder::add_hints(folder, &mut model)?;
    }
    Ok(model)
}

fn read_folder(folder: &Path) -> Result<RawModel, Error> {
    let weights = match FOLDER_WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file()) {
        Some(weights) => weights,
        None => only_model(folder)?,
    };
    let mut model = read_file(&weights)?;
    folder::add_hints(folder, &mut model)?;
    Ok(model)
}

/// The one model file of a folder without the usual names.
fn only_model(folder: &Path) -> Result<PathBuf, Error> {
    let io = |source| Error::Io { file: folder.to_path_buf(), source };
    let mut models = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["pth", "pt", "safetensors", "gguf"].contains(&extension) && path.is_file() {
            models.push(path);
        }
    }
    models.sort();
    let found = match models.len() {
        1 => return Ok(models.remove(0)),
        0 => "a folder without any of them".to_string(),
        count => {
            let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
            let names: Vec<String> = models.iter().take(4).filter_map(name).collect();
            format!("a folder of {count} models ({}{})", names.join(", "), if count > 4 { ", ..." } else { "" })
        }
    };
    Err(Error::UnknownFormat { file: folder.to_path_buf(), found })
}

fn read_file(path: &Path) -> Result<RawModel, Error> {
    let file = MappedFile::open(path)?;
    if file.bytes().starts_with(b"{") && path.extension().is_some_and(|extension| extension == "json") {
        read_index(&file)
    } else {
        read_bytes(file)
    }
}

/// Reads a container that is one file.
pub(crate) fn read_bytes(file: Arc<MappedFile>) -> Result<RawModel, Error> {
    let bytes = file.bytes();
    if bytes.starts_with(pth::ZIP_MAGIC) {
        pth::read_zip(file)
    } else if bytes.starts_with(pth::LEGACY_MAGIC) {
        pth::read_legacy(file)
    } else if gguf::recognises(bytes) {
        gguf::read(file)
    } else if safetensors::recognises(bytes) {
        safetensors::read(file)
    } else {
        Err(unknown(&file))
    }
}

fn unknown(file: &MappedFile) -> Error {
    let (bytes, path) = (file.bytes(), file.path().to_path_buf());
    let unsupported =
        |what: &str, hint: &str| Error::Unsupported { file: path.clone(), what: what.into(), hint: hint.into() };
    if bytes.starts_with(&0x6767_6d66u32.to_le_bytes()) || bytes.starts_with(&0x6767_6a74u32.to_le_bytes()) {
        return unsupported("rwkv.cpp's .bin", "open the .pth it was made from, or a GGUF file");
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return unsupported("a Git LFS pointer instead of the file itself", "run `git lfs pull`, or download the file");
    }
    let text = |start: &[u8]| bytes.len() >= start.len() && bytes[..start.len()].eq_ignore_ascii_case(start);
    let found = if bytes.is_empty() {
        "an empty file".to_string()
    } else if text(b"<!doctype") || text(b"<html") {
        "a web page, perhaps an error message instead of a download".to_string()
    } else if bytes.starts_with(&[0x80]) {
        "a pickle that torch.save did not write".to_string()
    } else if bytes.get(257..262) == Some(b"ustar") {
        "a tar archive (PyTorch before 0.1.10, or packed files)".to_string()
    } else {
        format!("the first bytes {:02x?}", &bytes[..bytes.len().min(8)])
    };
    Error::UnknownFormat { file: path, found }
}

/// Reads every shard that an index lists. Shards lie beside the index, and hold what the index says.
fn read_index(index: &MappedFile) -> Result<RawModel, Error> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    if index.bytes().len() as u64 > MAX_SIDE_FILE {
        return Err(index.malformed("an index of more than 64 MiB"));
    }
    let Index { weight_map } = serde_json::from_slice(index.bytes())
        .map_err(|e| index.malformed(format!("not an index of shards (`weight_map`): {e}")))?;
    let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (tensor, shard) in &weight_map {
        shards.entry(shard).or_default().push(tensor);
    }

    let folder = index.path().parent().unwrap_or(Path::new(""));
    let mut whole: Option<RawModel> = None;
    for (shard, tensors) in shards {
        let plain = Path::new(shard).file_name().is_some_and(|name| name == shard) && !shard.contains(['/', '\\']);
        if !plain {
            return Err(index.malformed(format!("the shard `{shard}` is not a file name; shards lie beside the index")));
        }
        let path = folder.join(shard);
        let file = MappedFile::open(&path)?;
        let mut part = if safetensors::recognises(file.bytes()) {
            safetensors::read(file)?
        } else if file.bytes().starts_with(pth::ZIP_MAGIC) {
            pth::read_zip(file)?
        } else {
            return Err(unknown(&file));
        };
        check_shard(&part, &tensors, &weight_map)?;
        match &mut whole {
            None => whole = Some(part),
            Some(whole) => {
                part.tensors.iter_mut().for_each(|tensor| tensor.file = whole.files.len());
                whole.files.append(&mut part.files);
                whole.tensors.append(&mut part.tensors);
            }
        }
    }
    whole.ok_or_else(|| index.malformed("the index lists no shards"))
}

/// A shard holds the tensors that the index puts there, and none that it puts elsewhere.
fn check_shard(part: &RawModel, listed: &[&str], weight_map: &BTreeMap<String, String>) -> Result<(), Error> {
    let file: &Arc<MappedFile> = &part.files[0];
    let mut held: Vec<&str> = part.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    held.sort_unstable();
    if let Some(missing) = listed.iter().find(|name| held.binary_search(name).is_err()) {
        return Err(file.malformed(format!("tensor `{missing}`, which the index puts here, is missing")));
    }
    if let Some(extra) = held.iter().find(|name| listed.binary_search(name).is_err()) {
        let place = weight_map.get(*extra).map_or("nowhere", String::as_str);
        return Err(file.malformed(format!("tensor `{extra}` is here, the index puts it into {place}")));
    }
    Ok(())
}
