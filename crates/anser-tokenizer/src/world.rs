//! The World tokenizer: greedy longest match over a vocabulary of byte strings.

use std::borrow::Cow;

use crate::Error;
use crate::hugging_face::byte_fallback;
use crate::trie::Trie;
use crate::vocabulary::{self, MAX_ENTRY, MAX_ID};

/// The published World vocabulary as [`World::to_bytes`] writes it; made by `cargo xtask world-vocab`.
static WORLD: &Aligned<[u8]> = &Aligned(*include_bytes!("world.bin"));

/// On a cache line, so that no trie node straddles two.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

const MAGIC: &[u8; 8] = b"ANSERVOC";
const FORMAT: u32 = 1;
/// Magic, format, number of trie slots, of ids, bytes of text; then zeros. Keeps what follows on a cache line.
const HEADER: usize = 64;

/// A vocabulary of byte strings and its greedy tokenizer: at each position the longest entry that fits.
///
/// No pre-tokenisation, no merges, no normalisation and no special tokens: `<|endoftext|>` is plain characters. With
/// all 256 single bytes in the vocabulary, as in the published one, every byte string can be encoded.
#[derive(Clone)]
pub struct World {
    trie: Trie,
    /// By id: offset into `text` in the low 24 bits, length in the high 8 (0: no such entry). Little-endian.
    spans: Cow<'static, [[u8; 4]]>,
    text: Cow<'static, [u8]>,
    published: bool,
}

impl World {
    /// The published World vocabulary (`rwkv_vocab_v20230424`), used in place: nothing is parsed or copied.
    pub fn published() -> World {
        match World::from_static(&WORLD.0) {
            Ok(world) => World { published: true, ..world },
            Err(error) => unreachable!("world.bin is checked by a test: {error}"),
        }
    }

    /// A vocabulary of `(id, bytes)` entries in any order.
    ///
    /// Ids stay below 2^20, entries have 1 to 255 bytes, and both are unique; else [`Error::Vocabulary`].
    pub fn from_entries(entries: &[(u32, Vec<u8>)]) -> Result<World, Error> {
        let mut sorted: Vec<(&[u8], u32)> = entries.iter().map(|(id, bytes)| (bytes.as_slice(), *id)).collect();
        sorted.sort_unstable();
        if let Some(&(bytes, id)) = sorted.iter().find(|e| e.0.is_empty() || e.0.len() > MAX_ENTRY || e.1 > MAX_ID) {
            let length = bytes.len();
            let limits = format!("ids go up to {MAX_ID}, entries have 1 to {MAX_ENTRY} bytes");
            return Err(Error::Vocabulary(format!("entry {id} of {length} bytes: {limits}")));
        }
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::Vocabulary(format!("ids {} and {} have the same bytes", pair[0].1, pair[1].1)));
        }
        if sorted.iter().map(|e| e.0.len()).sum::<usize>() >= 1 << 24 {
            return Err(Error::Vocabulary("16 MiB of text or more".to_string()));
        }
        let trie = Trie::build(&sorted)?;

        let ids = sorted.iter().map(|e| e.1 as usize + 1).max().unwrap_or(0);
        let (mut spans, mut text) = (vec![[0; 4]; ids], Vec::new());
        let mut keeper: &[u8] = &[];
        // Backwards through the sorted entries, a prefix follows the entry it begins: it lies in that entry's text.
        for &(bytes, id) in sorted.iter().rev() {
            if !keeper.starts_with(bytes) {
                keeper = bytes;
                text.extend_from_slice(bytes);
            }
            let offset = text.len() - keeper.len();
            let span = &mut spans[id as usize];
            if *span != [0; 4] {
                return Err(Error::Vocabulary(format!("id {id} stands twice")));
            }
            *span = ((bytes.len() as u32) << 24 | offset as u32).to_le_bytes();
        }
        let published = is_published(|id| bytes_at(&spans, &text, id));
        Ok(World { trie, spans: Cow::Owned(spans), text: Cow::Owned(text), published })
    }

    /// The vocabulary of an `rwkv_vocab*.txt` file's text.
    pub fn from_vocabulary(text: &str) -> Result<World, Error> {
        World::from_entries(&vocabulary::parse(text)?)
    }

    /// The tables as one little-endian block that [`World::from_static`] uses in place.
    pub fn to_bytes(&self) -> Vec<u8> {
        let nodes = self.trie.nodes();
        let mut out = Vec::with_capacity(HEADER + nodes.len() * 8 + self.spans.len() * 4 + self.text.len());
        out.extend_from_slice(MAGIC);
        for count in [FORMAT, nodes.len() as u32, self.spans.len() as u32, self.text.len() as u32] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.resize(HEADER, 0);
        out.extend_from_slice(nodes.as_flattened());
        out.extend_from_slice(self.spans.as_flattened());
        out.extend_from_slice(&self.text);
        out
    }

    /// Reads the block that [`World::to_bytes`] made, without copying it.
    pub fn from_static(block: &'static [u8]) -> Result<World, Error> {
        let (header, rest) = block.split_at_checked(HEADER).ok_or(Error::Table("cut short"))?;
        let (fields, _) = header.as_chunks::<4>();
        if &header[..8] != MAGIC || u32::from_le_bytes(fields[2]) != FORMAT {
            return Err(Error::Table("not a table of this format"));
        }
        let [nodes, spans, text] = [3, 4, 5].map(|i| u32::from_le_bytes(fields[i]) as usize);
        let nodes_end = nodes.saturating_mul(8);
        let spans_end = nodes_end.saturating_add(spans.saturating_mul(4));
        if rest.len() != spans_end.saturating_add(text) {
            return Err(Error::Table("its size differs from what its header says"));
        }
        let (nodes, spans) = (rest[..nodes_end].as_chunks().0, rest[nodes_end..spans_end].as_chunks().0);
        let trie = Trie::from_nodes(Cow::Borrowed(nodes))?;
        let text = Cow::Borrowed(&rest[spans_end..]);
        Ok(World { trie, spans: Cow::Borrowed(spans), text, published: false })
    }

    /// Whether this is the published vocabulary, whatever it was loaded from.
    pub fn is_published(&self) -> bool {
        self.published
    }

    /// The ids of `text`. Fails only where the vocabulary lacks a single byte ([`Error::Unencodable`]).
    pub fn encode(&self, text: &[u8]) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 4);
        self.trie
            .encode(text, &mut ids)
            .map_err(|position| Error::Unencodable { byte: text[position], position })
            .map(|()| ids)
    }

    /// The bytes of an entry; `None` for an id without one, such as 0.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        bytes_at(&self.spans, &self.text, id)
    }

    /// One more than the largest id: 65530 for the published vocabulary, whose models pad it to 65536.
    pub fn vocab_size(&self) -> usize {
        self.spans.len()
    }
}

fn bytes_at<'a>(spans: &[[u8; 4]], text: &'a [u8], id: u32) -> Option<&'a [u8]> {
    let span = u32::from_le_bytes(*spans.get(id as usize)?);
    let (offset, length) = ((span & 0xff_ffff) as usize, (span >> 24) as usize);
    if length == 0 { None } else { text.get(offset..offset + length) }
}

/// Whether the entries are those of the published vocabulary.
fn is_published<'a>(token_bytes: impl Fn(u32) -> Option<&'a [u8]>) -> bool {
    let Ok(world) = World::from_static(&WORLD.0) else { return false };
    let ids = world.vocab_size() as u32;
    token_bytes(ids).is_none() && (0..ids).all(|id| token_bytes(id) == world.token_bytes(id))
}

/// Whether a Hugging Face vocabulary is the published World vocabulary in disguise.
///
/// `token` gives the JSON spelling of an id. Directories differ in how they spell bytes that are no text: in the
/// alphabet of byte-level BPE, as `<0xE4>`, or in some form of their own. So each entry that is text must be spelled
/// one way throughout, byte-level or plain, and the 486 entries that are not text are only compared in the former.
pub(crate) fn is_world_in_disguise<'a>(
    token: impl Fn(u32) -> Option<&'a str>,
    byte_level: impl Fn(&str) -> Option<Vec<u8>>,
) -> bool {
    let Ok(world) = World::from_static(&WORLD.0) else { return false };
    let entries = || (1..world.vocab_size() as u32).map(|id| (token(id), world.token_bytes(id)));
    let plain = |token: Option<&str>, bytes: Option<&[u8]>| match (token, bytes) {
        (Some(token), Some(&[byte])) if byte_fallback(token) == Some(byte) => true,
        (Some(token), Some(bytes)) => std::str::from_utf8(bytes).map_or(true, |text| text == token),
        _ => false,
    };
    entries().all(|(token, bytes)| token.and_then(&byte_level).as_deref() == bytes)
        || entries().all(|(token, bytes)| plain(token, bytes))
}
