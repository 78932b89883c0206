//! Files that are known and not read, told by their tensors' names.

use super::Stored;
use crate::config::Version;
use crate::error::{Error, SHARD_HINT, is_shard};

/// A part of a name, what a file with such a name is, and what to do with it.
const KNOWN: [(&str, &str, &str); 12] = [
    (".ffn.s_emb", "RWKV-7a or 7b with DeepEmbed", "use the plain RWKV-7 model of the same size"),
    (".qkv.", "RWKV-7b (DeepEmbed attention)", "use the plain RWKV-7 model of the same size"),
    (".ffn.enn.", "RWKV-8 rc00 (DeepEmbed)", "use the plain RWKV-7 model of the same size"),
    ("rosa", "RWKV-8 ROSA", "use an RWKV-7 model"),
    (".att.time_mix_x", "web-rwkv's converted file (.st)", "open the .pth file it was made from"),
    (".att.time_mix_w1", "web-rwkv's converted file (.st)", "open the .pth file it was made from"),
    (".att.gate_w1", "the trainer's variant x060a of RWKV-6", "train or use the plain x060"),
    (".time_maa_rkvw_w1", "the trainer's variants x060b and x060c of RWKV-6", "train or use the plain x060"),
    (".lora_A", "an unmerged LoRA adapter", "merge it into its base model first"),
    (".lora_B", "an unmerged LoRA adapter", "merge it into its base model first"),
    (".bone", "an unmerged Bone adapter", "merge it into its base model first"),
    (
        "model.embed_tokens.",
        "a transformer or a model converted from one (ARWKV, QRWKV)",
        "use an RWKV-4 to 7 language model",
    ),
];

/// Refuses by name what would otherwise fail on some odd tensor, or not fail and compute something else.
pub(super) fn other_models(stored: &Stored<'_>) -> Result<(), Error> {
    for tensor in &stored.raw.tensors {
        if let Some((_, what, hint)) = KNOWN.iter().find(|(part, ..)| tensor.name.contains(part)) {
            return Err(unsupported(stored, format!("{what} (tensor `{}`)", tensor.name), hint));
        }
    }
    let shape = |name: &str| stored.get(name).map(|tensor| tensor.shape.as_slice()).unwrap_or(&[]);
    // Names as in official files, but the low-rank pairs are transposed, or `time_faaaa` is called `time_first`, which
    // official files hold as a logarithm.
    let (embedding, pair) = (shape("emb.weight"), shape("blocks.0.att.w1"));
    let transposed = embedding.len() == 2 && pair.len() == 2 && pair[0] != embedding[1] && pair[1] == embedding[1];
    let renamed = shape("blocks.0.att.time_first").len() == 2 && shape("blocks.0.att.time_first")[1] > 1;
    if transposed || (renamed && stored.get("blocks.0.att.ln_x.weight").is_some()) {
        let what = "web-rwkv's converted file (.st)".to_string();
        return Err(unsupported(stored, what, "open the .pth file it was made from"));
    }
    Ok(())
}

/// A file that holds no embedding under any known name.
pub(super) fn without_embedding(stored: &Stored<'_>) -> Error {
    let tensors = &stored.raw.tensors;
    if !tensors.is_empty() && tensors.iter().all(|tensor| tensor.name.ends_with(".time_state")) {
        let hint = "open the model, and give this file as its initial state";
        return unsupported(stored, "a file of tuned states as a model".into(), hint);
    }
    let what = match tensors.first() {
        Some(first) => {
            format!("a file of {} tensors without an embedding (the first is `{}`)", tensors.len(), first.name)
        }
        None => "a file without tensors".to_string(),
    };
    if tensors.first().is_some_and(|first| is_shard(stored.raw.files[first.file].path())) {
        return unsupported(stored, what, SHARD_HINT);
    }
    unsupported(
        stored,
        what,
        "expected `emb.weight` (official), `rwkv.embeddings.weight`, `model.embeddings.weight` or `token_embd.weight`",
    )
}

/// A tensor that is not part of the version.
pub(super) fn unknown(stored: &Stored<'_>, at: usize, version: Version) -> Error {
    let tensor = &stored.raw.tensors[at];
    Error::UnknownTensor {
        file: stored.raw.files[tensor.file].path().to_path_buf(),
        tensor: tensor.name.clone(),
        version,
    }
}

fn unsupported(stored: &Stored<'_>, what: String, hint: &str) -> Error {
    Error::Unsupported { file: stored.raw.files[0].path().to_path_buf(), what, hint: hint.into() }
}
