use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use crate::hugging_face::Content;
use crate::{Decoder, Error, HuggingFace, World};

/// Largest tokenizer file that is read, in bytes.
const MAX_FILE: u64 = 256 << 20;

/// Text to token ids and back. Cheap to clone; clones share their tables.
#[derive(Clone)]
pub enum Tokenizer {
    /// Greedy longest match over byte strings: the RWKV World vocabulary, or another in its format.
    World(Arc<World>),
    /// One id a byte: models with a vocabulary of 256.
    Byte,
    /// A `tokenizer.json` of the Hugging Face library.
    HuggingFace(Arc<HuggingFace>),
}

impl Tokenizer {
    /// The published World vocabulary (`rwkv_vocab_v20230424`), embedded.
    pub fn world() -> Tokenizer {
        Tokenizer::World(Arc::new(World::published()))
    }

    /// One id a byte.
    pub fn byte() -> Tokenizer {
        Tokenizer::Byte
    }

    /// Reads a Hugging Face `tokenizer.json` or an `rwkv_vocab*.txt` file, told apart by content.
    ///
    /// A `tokenizer.json` that holds the World vocabulary gives [`Tokenizer::World`]. Beside any other, a
    /// `tokenizer_config.json` is read for the end of document and the special tokens. Errors name the file.
    pub fn from_file(path: &Path) -> Result<Tokenizer, Error> {
        let bytes = read(path)?;
        let config = path.with_file_name("tokenizer_config.json");
        let config = if config.is_file() { Some(read(&config)?) } else { None };
        Tokenizer::from_bytes(&bytes, config.as_deref()).map_err(|error| error.in_file(path))
    }

    /// [`from_file`](Tokenizer::from_file) for a file in memory, and the `tokenizer_config.json` that belongs to it.
    pub fn from_bytes(file: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Tokenizer, Error> {
        if file.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{') {
            return Ok(match HuggingFace::parse(file, tokenizer_config)? {
                Content::World => Tokenizer::world(),
                Content::Other(tokenizer) => Tokenizer::HuggingFace(Arc::new(*tokenizer)),
            });
        }
        let text = std::str::from_utf8(file).map_err(|e| {
            let position = e.valid_up_to();
            Error::Vocabulary(format!("neither JSON nor text: byte {position} begins an invalid UTF-8 sequence"))
        })?;
        let world = World::from_vocabulary(text)?;
        if world.vocab_size() == 0 {
            return Err(Error::Vocabulary("the file is empty".to_string()));
        }
        Ok(Tokenizer::World(Arc::new(world)))
    }

    /// The ids of `text`; nothing is added at either end.
    ///
    /// World, byte and byte-level BPE tokenizers take any bytes; other Hugging Face tokenizers need UTF-8
    /// ([`Error::InvalidUtf8`]). Hugging Face tokenizers recognise their special tokens where the text spells them.
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, Error> {
        match self {
            Tokenizer::World(world) => world.encode(text),
            Tokenizer::Byte => Ok(text.iter().map(|&byte| u32::from(byte)).collect()),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.encode(text),
        }
    }

    /// The bytes a token stands for, perhaps not whole characters; `None` for an id that has none.
    pub fn token_bytes(&self, id: u32) -> Option<Cow<'_, [u8]>> {
        match self {
            Tokenizer::World(world) => world.token_bytes(id).map(Cow::Borrowed),
            Tokenizer::Byte => u8::try_from(id).ok().map(|byte| Cow::Owned(vec![byte])),
            Tokenizer::HuggingFace(tokenizer) => tokenizer.token_bytes(id).map(Cow::Borrowed),
        }
    }

    /// The bytes of the tokens put together; ids that have none add nothing.
    ///
    /// `decode(encode(text)) == text` for World and byte tokenizers, and for byte-level ones that do not normalise.
    /// The other way round does not hold: keep ids, not text, in a session.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().filter_map(|&id| self.token_bytes(id)).fold(Vec::new(), |mut text, bytes| {
            text.extend_from_slice(&bytes);
            text
        })
    }

    /// One more than the largest id with bytes. A model's vocabulary may be padded beyond it (World: 65530 to 65536).
    pub fn vocab_size(&self) -> usize {
        match self {
            Tokenizer::World(world) => world.vocab_size(),
            Tokenizer::Byte => 256,
            Tokenizer::HuggingFace(tokenizer) => tokenizer.vocab_size(),
        }
    }

    /// The id that ends a document: 0 in World vocabularies. Generation stops there.
    pub fn end_of_document(&self) -> Option<u32> {
        match self {
            Tokenizer::World(_) => Some(0),
            Tokenizer::Byte => None,
            Tokenizer::HuggingFace(tokenizer) => tokenizer.end_of_document(),
        }
    }

    /// The text of a special token such as `bos_token`, if a `tokenizer_config.json` gave it: what chat templates ask
    /// for. World and byte tokenizers have none.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        match self {
            Tokenizer::HuggingFace(tokenizer) => tokenizer.special_token(name),
            Tokenizer::World(_) | Tokenizer::Byte => None,
        }
    }

    /// What it is, in words: `World`, `World-type vocabulary`, `byte`, `Hugging Face BPE`.
    pub fn name(&self) -> &str {
        match self {
            Tokenizer::World(world) if world.is_published() => "World",
            Tokenizer::World(_) => "World-type vocabulary",
            Tokenizer::Byte => "byte",
            Tokenizer::HuggingFace(tokenizer) => tokenizer.name(),
        }
    }

    /// A decoder for a stream of this tokenizer's ids.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokenizer({}, {} ids)", self.name(), self.vocab_size())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Io { path: path.to_path_buf(), source };
    let too_large = |bytes| Error::TooLarge { path: path.to_path_buf(), bytes, limit: MAX_FILE };
    let file = std::fs::File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    if bytes > MAX_FILE {
        return Err(too_large(bytes));
    }
    // A pipe has no size beforehand.
    let mut content = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 > MAX_FILE {
        return Err(too_large(content.len() as u64));
    }
    Ok(content)
}
