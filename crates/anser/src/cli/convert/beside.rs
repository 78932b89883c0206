//! What belongs to a model beside its weights: the vocabulary and the chat template.

use std::path::{Path, PathBuf};

use anser::demo;
use anser_checkpoint::{Checkpoint, Target, TokenizerHint, Vocabulary};
use anser_tokenizer::{Tokenizer, World, vocabulary};
use anyhow::{Context, Result};

use crate::cli::model::{ModelArgs, named_tokenizer};

/// Files of a Hugging Face directory that say how text becomes tokens.
const KEPT: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "hf_rwkv_tokenizer.py",
    WORLD,
];
/// Under this name converters and readers look for the World vocabulary.
const WORLD: &str = "rwkv_vocab_v20230424.txt";

/// The vocabulary in the form a target takes it.
#[derive(Default)]
pub(super) struct Beside {
    pub(super) vocabulary: Vocabulary,
    pub(super) files: Vec<(String, Vec<u8>)>,
    /// What the user should know about it.
    pub(super) note: Option<String>,
}

/// Finds the vocabulary: `named` by the user, or the source's own.
pub(super) fn gather(from: &ModelArgs, checkpoint: &Checkpoint, named: Option<&str>, target: Target) -> Result<Beside> {
    let tokenizer = match named {
        Some(name) => Ok(named_tokenizer(name)?),
        None => from.tokenizer_of(checkpoint)?,
    };
    let mut beside = Beside::default();
    match target {
        Target::Pth | Target::Safetensors => {
            if let Ok(Tokenizer::HuggingFace(_)) = &tokenizer {
                let note =
                    "the file holds weights only: pass --tokenizer with the model's tokenizer.json when using it";
                beside.note = Some(note.to_string());
            }
        }
        Target::Gguf => match &tokenizer {
            Ok(Tokenizer::World(world)) => beside.vocabulary = Vocabulary::Trie(tokens(world)),
            Ok(Tokenizer::Byte) => {
                beside.vocabulary = Vocabulary::Trie((0..=u8::MAX).map(|byte| Some(vec![byte])).collect());
            }
            Ok(Tokenizer::HuggingFace(_)) => {
                let note = "GGUF of RWKV takes the World vocabulary or bytes, not this tokenizer.json: the file holds no \
                            vocabulary, and llama.cpp runs it on token numbers only";
                beside.note = Some(note.to_string());
            }
            Err(_) => {
                let note =
                    "the source's vocabulary is not known: the file holds none; --tokenizer world or byte puts one in";
                beside.note = Some(note.to_string());
            }
        },
        Target::Folder(_) => {
            beside.files = files(from, checkpoint, named)?;
            let spelled = |files: &[(String, Vec<u8>)]| {
                files.iter().any(|(name, _)| name == "tokenizer.json" || name.starts_with("rwkv_vocab"))
            };
            if let (false, Ok(Tokenizer::World(world))) = (spelled(&beside.files), &tokenizer) {
                let entries = (0..world.vocab_size() as u32).filter_map(|id| Some((id, world.token_bytes(id)?)));
                beside.files.push((WORLD.to_string(), vocabulary::write(entries).into_bytes()));
            }
            if tokenizer.is_err() {
                let note =
                    "the source's vocabulary is not known: the directory holds none; --tokenizer FILE puts one in";
                beside.note = Some(note.to_string());
            }
        }
    }
    Ok(beside)
}

/// The bytes of every id.
fn tokens(world: &World) -> Vec<Option<Vec<u8>>> {
    (0..world.vocab_size() as u32).map(|id| world.token_bytes(id).map(<[u8]>::to_vec)).collect()
}

/// The vocabulary's own files, as they are: the one named, or those beside the source's weights.
fn files(from: &ModelArgs, checkpoint: &Checkpoint, named: Option<&str>) -> Result<Vec<(String, Vec<u8>)>> {
    if let Some(file) = named.map(Path::new).filter(|file| file.is_file()) {
        let json = file.extension().is_some_and(|extension| extension == "json");
        return Ok(vec![(if json { "tokenizer.json" } else { WORLD }.to_string(), read(file)?)]);
    }
    if named.is_some() {
        return Ok(Vec::new());
    }
    if from.built_in() {
        return Ok(vec![("tokenizer.json".to_string(), demo::tokenizer_json().as_bytes().to_vec())]);
    }
    if let TokenizerHint::Json(text) = checkpoint.tokenizer() {
        return Ok(vec![("tokenizer.json".to_string(), text.into_bytes())]);
    }
    let Some(folder) = folder(checkpoint) else { return Ok(Vec::new()) };
    let there = KEPT.iter().map(|name| (name.to_string(), folder.join(name))).filter(|(_, path)| path.is_file());
    there.map(|(name, path)| Ok((name, read(&path)?))).collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The Hugging Face directory that the source is or lies in, told by its config.json.
fn folder(checkpoint: &Checkpoint) -> Option<PathBuf> {
    let path = checkpoint.path();
    let folder = if path.is_dir() { path } else { path.parent()? };
    folder.join("config.json").is_file().then(|| folder.to_path_buf())
}
