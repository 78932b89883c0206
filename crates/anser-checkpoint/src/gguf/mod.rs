//! GGUF files of llama.cpp, architectures `rwkv6` and `rwkv7`.
//!
//! Names and orientations are in the name tables; here are the container and what its metadata adds to the shapes.

pub(crate) mod encode;
mod header;
mod quant;
pub(crate) mod writer;

use std::sync::Arc;

use crate::checkpoint::{Container, TokenizerHint};
use crate::error::Error;
use crate::raw::{Hints, MappedFile, RawModel, RawTensor};
use header::Header;

/// Whether a file begins like GGUF.
pub(crate) fn recognises(file: &[u8]) -> bool {
    Header::recognises(file)
}

/// Reads the table of tensors and the metadata; the values stay in the file.
///
/// # Errors
/// A broken container, another architecture than RWKV-6 and RWKV-7, a storage type that is not read, metadata that
/// contradicts the tensors' shapes.
pub(crate) fn read(file: Arc<MappedFile>) -> Result<RawModel, Error> {
    let header = Header::parse(file.bytes()).map_err(|fault| fault.in_file(file.path()))?;
    let model = Model { header: &header, file: &file };
    let architecture = header.string(file.bytes(), "general.architecture").unwrap_or_default();
    let widths = match architecture {
        "rwkv6" => RWKV6,
        "rwkv7" => RWKV7,
        other => return Err(model.refuse(other)),
    };
    model.check_widths(architecture, widths)?;
    let hints = Hints {
        head_size: model.width(architecture, "wkv.head_size")?,
        layer_norm_eps: model.layer_norm_eps(architecture)?,
        rescale_every: model.width(architecture, "rescale_every_n_layers")?.unwrap_or(0),
        tokenizer: model.tokenizer(),
        chat_template: header.string(file.bytes(), "tokenizer.chat_template").map(str::to_string),
        ..Hints::default()
    };
    let container = Container::Gguf(header.version);
    let tensors = header
        .tensors
        .into_iter()
        .map(|(name, tensor)| RawTensor {
            name,
            encoding: tensor.encoding,
            shape: tensor.shape,
            strides: None,
            file: 0,
            range: tensor.bytes,
        })
        .collect();
    Ok(RawModel { container, files: vec![file], tensors, hints })
}

/// A metadata key (after the architecture's name), a tensor and its axis that have the same length.
type Width = (&'static str, &'static str, usize);

const RWKV6: &[Width] = &[
    ("embedding_length", "token_embd.weight", 1),
    ("feed_forward_length", "blk.0.channel_mix_key.weight", 0),
    ("wkv.head_size", "blk.0.time_mix_first.weight", 1),
    ("time_mix_extra_dim", "blk.0.time_mix_w2.weight", 2),
    ("time_decay_extra_dim", "blk.0.time_mix_decay_w1.weight", 0),
];

const RWKV7: &[Width] = &[
    ("embedding_length", "token_embd.weight", 1),
    ("feed_forward_length", "blk.0.channel_mix_key.weight", 0),
    ("attention.decay_lora_rank", "blk.0.time_mix_w1.weight", 0),
    ("attention.iclr_lora_rank", "blk.0.time_mix_a1.weight", 0),
    // Block 0 holds a dummy of another rank.
    ("attention.value_residual_mix_lora_rank", "blk.1.time_mix_v1.weight", 0),
    ("attention.gate_lora_rank", "blk.0.time_mix_g1.weight", 0),
];

struct Model<'a> {
    header: &'a Header,
    file: &'a MappedFile,
}

impl Model<'_> {
    fn refuse(&self, architecture: &str) -> Error {
        let hint = match architecture {
            "rwkv6qwen2" | "arwkv7" => "models converted from Qwen come with a later release; rwkv6 and rwkv7 are read",
            _ => "this is not an RWKV language model; rwkv6 and rwkv7 are read",
        };
        Error::Unsupported {
            file: self.file.path().to_path_buf(),
            what: format!("the GGUF architecture `{architecture}`"),
            hint: hint.into(),
        }
    }

    /// A length from the metadata.
    fn width(&self, architecture: &str, key: &str) -> Result<Option<usize>, Error> {
        let value = self.header.unsigned(&format!("{architecture}.{key}"));
        let value = value.map_err(|fault| fault.in_file(self.file.path()))?;
        // A length that does not fit fits no tensor either.
        Ok(value.map(|x| usize::try_from(x).unwrap_or(usize::MAX)))
    }

    /// Shapes decide; metadata that is there must agree with them.
    fn check_widths(&self, architecture: &str, widths: &[Width]) -> Result<(), Error> {
        let blocks =
            self.header.tensors.keys().filter_map(|name| name.strip_prefix("blk.")?.split('.').next()?.parse().ok());
        let blocks: usize = blocks.max().map_or(0, |last: usize| last.saturating_add(1));
        self.agree(architecture, "block_count", "the number of blocks among the tensors", Some(blocks))?;
        for &(key, tensor, axis) in widths {
            let found = self.header.tensors.get(tensor).and_then(|t| t.shape.get(axis).copied());
            self.agree(architecture, key, &format!("axis {axis} of `{tensor}`"), found)?;
        }
        Ok(())
    }

    fn agree(&self, architecture: &str, key: &str, what: &str, shape: Option<usize>) -> Result<(), Error> {
        match (self.width(architecture, key)?, shape) {
            (Some(metadata), Some(shape)) if metadata != shape => Err(Error::Config {
                file: self.file.path().to_path_buf(),
                what: what.into(),
                expected: format!("{metadata} as {architecture}.{key} says"),
                found: shape.to_string(),
            }),
            _ => Ok(()),
        }
    }

    fn layer_norm_eps(&self, architecture: &str) -> Result<Option<f32>, Error> {
        let key = format!("{architecture}.attention.layer_norm_epsilon");
        let eps = self.header.float(&key).map_err(|fault| fault.in_file(self.file.path()))?;
        match eps {
            Some(eps) if !(eps > 0.0 && eps < 1.0) => Err(Error::Config {
                file: self.file.path().to_path_buf(),
                what: key,
                expected: "a number between 0 and 1".into(),
                found: eps.to_string(),
            }),
            eps => Ok(eps.map(|eps| eps as f32)),
        }
    }

    /// Told from a few entries, so that 65536 strings are not read at every start. `None` if the file has no vocabulary.
    fn tokenizer(&self) -> Option<TokenizerHint> {
        let bytes = self.file.bytes();
        let kind = self.header.string(bytes, "tokenizer.ggml.model")?;
        let tokens = self.header.array("tokenizer.ggml.tokens")?;
        if kind != "rwkv" {
            return Some(TokenizerHint::Unknown);
        }
        if tokens.count() == 256 {
            return Some(TokenizerHint::Byte);
        }
        // World: ids 1..=256 are the single bytes, and 261 is the empty line.
        let mut single = tokens.strings(bytes).skip(1);
        let world = (0..=255).all(|byte| single.next().and_then(unescape).as_deref() == Some(&[byte]))
            && single.nth(4).and_then(unescape).as_deref() == Some(b"\n\n");
        Some(if world { TokenizerHint::World } else { TokenizerHint::Unknown })
    }
}

/// The bytes of a token as the converter escapes them: printable ASCII as it is, `\\`, `\n`, `\r`, `\t`, `\xHH`.
fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match *rest.next()? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'x' => {
                let mut digit = || (*rest.next()? as char).to_digit(16);
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    Some(out)
}
