//! What Hugging Face folders say beside the weights: constants, vocabulary, chat template.

use std::path::Path;

use serde_json::Value;

use crate::checkpoint::TokenizerHint;
use crate::config::Config;
use crate::error::Error;
use crate::open::MAX_SIDE_FILE;
use crate::raw::RawModel;

/// Completes a model's hints with what lies in its folder; what the container itself said stays.
pub(crate) fn add_hints(folder: &Path, model: &mut RawModel) -> Result<(), Error> {
    if let Some(config) = json(&folder.join("config.json"))? {
        add_constants(&config, model);
    }
    let hints = &mut model.hints;
    if hints.tokenizer.is_none() {
        hints.tokenizer = tokenizer(folder);
    }
    if hints.chat_template.is_none() {
        hints.chat_template = match text(&folder.join("chat_template.jinja"))? {
            Some(template) => Some(template),
            None => json(&folder.join("tokenizer_config.json"))?.and_then(|config| template(&config)),
        };
    }
    Ok(())
}

/// Epsilons from config.json.
///
/// flash-linear-attention gives `ln_x` the epsilon `norm_eps` (rwkv6) or `head_dim * norm_eps` (rwkv7); official weights
/// that were converted to it want 64e-5 all the same, and carry the same config. With official LayerNorms (`norm_eps` is
/// 1e-5) the two cannot be told apart, and official weights are the common case: 64e-5 stands. Any other `norm_eps` cannot
/// be official weights, so that the library's own rule holds. [`crate::OpenOptions`] overrides both.
fn add_constants(config: &Value, model: &mut RawModel) {
    let number =
        |key: &str| config.get(key).and_then(Value::as_f64).map(|x| x as f32).filter(|x| x.is_finite() && *x > 0.0);
    let hints = &mut model.hints;
    if let Some(eps) = number("norm_eps") {
        hints.layer_norm_eps = Some(eps);
        if eps != Config::LAYER_NORM_EPS {
            let is_v7 = config.get("model_type").and_then(Value::as_str) == Some("rwkv7");
            let head_dim = if is_v7 { number("head_dim").unwrap_or(64.0) } else { 1.0 };
            hints.group_norm_eps = Some(head_dim * eps);
        }
    } else {
        hints.layer_norm_eps = number("layer_norm_epsilon");
        // The custom code of v5 and v6 divides by it before a norm with epsilon 1e-5.
        hints.group_norm_eps = match number("head_size_divisor") {
            Some(divisor) if divisor != 8.0 => Some(1e-5 * divisor * divisor),
            _ => None,
        };
    }
}

fn tokenizer(folder: &Path) -> Option<TokenizerHint> {
    let json = folder.join("tokenizer.json");
    if json.is_file() {
        return Some(TokenizerHint::File(json));
    }
    let is_world = |name: &str| name.starts_with("rwkv_vocab") && name.ends_with(".txt");
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    entries.any(|entry| is_world(&entry.file_name().to_string_lossy())).then_some(TokenizerHint::World)
}

/// The template in tokenizer_config.json: a string, or a list of named ones.
fn template(config: &Value) -> Option<String> {
    match config.get("chat_template")? {
        Value::String(template) => Some(template.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"));
            default?.get("template")?.as_str().map(str::to_string)
        }
        _ => None,
    }
}

fn json(path: &Path) -> Result<Option<Value>, Error> {
    let Some(text) = text(path)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(e) => Err(Error::Malformed { file: path.to_path_buf(), what: format!("not JSON: {e}") }),
    }
}

/// A text file beside the weights, if there is one.
fn text(path: &Path) -> Result<Option<String>, Error> {
    let io = |source| Error::Io { file: path.to_path_buf(), source };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
        Ok(metadata) if metadata.len() > MAX_SIDE_FILE => {
            return Err(Error::Malformed { file: path.to_path_buf(), what: "more than 64 MiB of text".into() });
        }
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(io)
}
