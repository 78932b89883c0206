//! Token files of Megatron: `NAME.bin` holds the tokens, `NAME.idx` where each document begins.
//!
//! `NAME.idx`, little-endian: magic `MMIDIDX\0\0`, u64 version 1, u8 token type, u64 number I of items, u64 number D of
//! document borders, i32 sizes `[I]` in tokens, i64 pointers `[I]` in bytes, i64 borders `[D]` in items, the first of them 0.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::fingerprint::{Fingerprint, Hashing};
use crate::Error;

const MAGIC: &[u8; 9] = b"MMIDIDX\0\0";
const HEADER: u64 = 9 + 8 + 1 + 8 + 8;

/// How a token is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// Two bytes: vocabularies of up to 65536.
    U16,
    /// Four bytes.
    I32,
}

impl TokenType {
    /// The smallest that holds every id of a vocabulary.
    pub fn for_vocab(vocab: usize) -> TokenType {
        if vocab <= 1 << 16 { TokenType::U16 } else { TokenType::I32 }
    }

    /// Bytes a token.
    pub fn bytes(self) -> u64 {
        match self {
            TokenType::U16 => 2,
            TokenType::I32 => 4,
        }
    }

    fn code(self) -> u8 {
        match self {
            TokenType::U16 => 8,
            TokenType::I32 => 4,
        }
    }

    fn of_code(code: u8) -> Result<TokenType, String> {
        match code {
            8 => Ok(TokenType::U16),
            4 => Ok(TokenType::I32),
            _ => Err(match ["", "u8", "i8", "i16", "i32", "i64", "f32", "f64", "u16"].get(usize::from(code)) {
                Some(name) if code > 0 => format!("tokens are stored as {name}: only u16 and i32 are read"),
                _ => format!("token type {code}: expected 8 (u16) or 4 (i32)"),
            }),
        }
    }
}

/// A pair of `.idx` and `.bin`, the tokens mapped, not read.
pub struct Binidx {
    file: PathBuf,
    opened: File,
    /// None where there is nothing to map.
    map: Option<Mmap>,
    kind: TokenType,
    /// Where documents begin, in tokens, and the number of tokens. [documents + 1]
    borders: Vec<u64>,
    fingerprints: [Fingerprint; 2],
}

impl Binidx {
    /// Opens a pair by the name of either file or the part they share.
    ///
    /// Every field of the index is checked against the sizes of both files.
    pub fn open(path: &Path) -> Result<Binidx, Error> {
        let stem = match path.extension().and_then(|extension| extension.to_str()) {
            Some("idx" | "bin") => path.with_extension(""),
            _ => path.to_path_buf(),
        };
        let (bin, idx) = (bin(&stem), idx(&stem));
        let bin_print = Fingerprint::stat(&bin)?;
        let (kind, borders, idx_print) = read_index(&idx, &bin, bin_print.bytes)?;
        let opened = File::open(&bin).map_err(Error::io(&bin))?;
        let map = if bin_print.bytes == 0 { None } else { Some(map(&opened).map_err(Error::io(&bin))?) };
        if map.as_ref().is_some_and(|map| map.len() as u64 != bin_print.bytes) {
            return Err(Error::DataChanged { file: bin, what: "its size changed while it was opened".to_string() });
        }
        Ok(Binidx { file: bin, opened, map, kind, borders, fingerprints: [bin_print, idx_print] })
    }

    /// The file with the tokens.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How tokens are stored.
    pub fn token_type(&self) -> TokenType {
        self.kind
    }

    /// Tokens in all.
    pub fn tokens(&self) -> u64 {
        self.borders.last().copied().unwrap_or(0)
    }

    /// Where documents begin, in tokens, and after them the number of tokens. [documents + 1]
    pub fn borders(&self) -> &[u64] {
        &self.borders
    }

    /// What both files were when they were opened: the tokens, the index.
    pub fn fingerprints(&self) -> &[Fingerprint; 2] {
        &self.fingerprints
    }

    /// Appends the tokens of `range` to `out`. Negative numbers of an i32 file become ids beyond any vocabulary.
    ///
    /// # Errors
    /// [`Error::DataChanged`] if the file has been cut meanwhile, [`Error::Truncated`] if the range is beyond it.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        // Reading a page of the mapping that the file no longer has would end the process.
        let now = self.opened.metadata().map_err(Error::io(&self.file))?.len();
        let then = self.fingerprints[0].bytes;
        if now < then {
            let what = format!("it had {then} bytes, now {now}");
            return Err(Error::DataChanged { file: self.file.clone(), what });
        }
        let past_end = || Error::Truncated {
            file: self.file.clone(),
            what: format!("tokens {} to {}", range.start, range.end),
            expected: range.end.saturating_mul(self.kind.bytes()),
            found: then,
        };
        let at = |token: u64| token.checked_mul(self.kind.bytes()).and_then(|byte| usize::try_from(byte).ok());
        let bytes = match (at(range.start), at(range.end), &self.map) {
            (Some(start), Some(end), Some(map)) => map.get(start..end).ok_or_else(past_end)?,
            _ => return Err(past_end()),
        };
        match self.kind {
            TokenType::U16 => {
                out.extend(bytes.as_chunks().0.iter().map(|&token| u32::from(u16::from_le_bytes(token))));
            }
            TokenType::I32 => out.extend(bytes.as_chunks().0.iter().map(|&token| u32::from_le_bytes(token))),
        }
        Ok(())
    }
}

#[allow(unsafe_code)]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the mapping is read-only and only ever seen as plain bytes, every value of which is valid; ids are checked
    // after they are copied out. `read` checks the file's length first, so that no lost page is touched.
    unsafe { Mmap::map(file) }
}

pub(super) fn bin(stem: &Path) -> PathBuf {
    with_suffix(stem, ".bin")
}

pub(super) fn idx(stem: &Path) -> PathBuf {
    with_suffix(stem, ".idx")
}

/// Not `with_extension`, which would take `v1` off `pile.v1`.
fn with_suffix(stem: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(stem);
    name.push(suffix);
    PathBuf::from(name)
}

/// Token type, document borders in tokens, and the index file's fingerprint.
fn read_index(idx: &Path, bin: &Path, bin_bytes: u64) -> Result<(TokenType, Vec<u64>, Fingerprint), Error> {
    let print = Fingerprint::stat(idx)?;
    let malformed = |what: String| Error::Malformed { file: idx.to_path_buf(), what };
    let truncated =
        |what: String, expected| Error::Truncated { file: idx.to_path_buf(), what, expected, found: print.bytes };
    if print.bytes < HEADER {
        return Err(truncated("the header".to_string(), HEADER));
    }
    let mut reader = BufReader::new(Hashing::open(idx)?);
    let mut magic = [0; 9];
    reader.read_exact(&mut magic).map_err(Error::io(idx))?;
    if &magic != MAGIC {
        return Err(malformed(format!("begins with {:?}, expected {:?}", ascii(&magic), ascii(MAGIC))));
    }
    let version = u64::from_le_bytes(take(&mut reader, idx)?);
    if version != 1 {
        return Err(malformed(format!("version {version}, expected 1")));
    }
    let [code] = take(&mut reader, idx)?;
    let kind = TokenType::of_code(code).map_err(malformed)?;
    let items = u64::from_le_bytes(take(&mut reader, idx)?);
    let documents = u64::from_le_bytes(take(&mut reader, idx)?);
    let needed = HEADER as u128 + 12 * u128::from(items) + 8 * u128::from(documents);
    let claim = format!("an index of {items} items and {documents} document borders");
    if needed > u128::from(print.bytes) {
        return Err(truncated(claim, u64::try_from(needed).unwrap_or(u64::MAX)));
    }
    if needed < u128::from(print.bytes) {
        return Err(malformed(format!("{claim} takes {needed} bytes, the file has {}", print.bytes)));
    }

    // From here on both counts are smaller than the file.
    let reserved = |count: u64| {
        let mut list = Vec::new();
        list.try_reserve_exact(usize::try_from(count).unwrap_or(usize::MAX))
            .map_err(|_| malformed(format!("{claim} does not fit in memory")))?;
        Ok::<_, Error>(list)
    };
    let mut starts = reserved(items + 1)?;
    let mut tokens = 0u64;
    for item in 0..items {
        starts.push(tokens);
        let size = i32::from_le_bytes(take(&mut reader, idx)?);
        let size = u64::try_from(size).map_err(|_| malformed(format!("item {item} has size {size}")))?;
        tokens += size;
    }
    starts.push(tokens);
    for item in 0..items {
        let pointer = i64::from_le_bytes(take(&mut reader, idx)?);
        let expected = starts[item as usize] * kind.bytes();
        if u64::try_from(pointer) != Ok(expected) {
            return Err(malformed(format!("item {item} begins at byte {pointer}, expected {expected}")));
        }
    }
    if tokens * kind.bytes() > bin_bytes {
        return Err(Error::Truncated {
            file: bin.to_path_buf(),
            what: format!("{tokens} tokens of {} bytes, as {} says,", kind.bytes(), idx.display()),
            expected: tokens * kind.bytes(),
            found: bin_bytes,
        });
    }
    if tokens * kind.bytes() < bin_bytes {
        let what = format!("has {bin_bytes} bytes, {} speaks of {}", idx.display(), tokens * kind.bytes());
        return Err(Error::Malformed { file: bin.to_path_buf(), what });
    }

    let mut borders = reserved(documents)?;
    let mut last = 0;
    for document in 0..documents {
        let item = i64::from_le_bytes(take(&mut reader, idx)?);
        let valid = u64::try_from(item).ok().filter(|&i| i >= last && i <= items && (document > 0 || i == 0));
        last = valid.ok_or_else(|| {
            malformed(format!("document border {document} is item {item}, expected one from {last} to {items}"))
        })?;
        borders.push(starts[last as usize]);
    }
    // Tools that never end a document leave only the 0: then every item is one.
    let borders = match documents {
        0 | 1 => starts,
        _ if last == items => borders,
        _ => return Err(malformed(format!("documents end at item {last}, expected {items}"))),
    };
    Ok((kind, borders, print.with_content(reader.into_inner())?))
}

fn take<const N: usize>(reader: &mut impl Read, idx: &Path) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).map_err(Error::io(idx))?;
    Ok(bytes)
}

fn ascii(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Writes a pair of `.idx` and `.bin`, one document after the other; each is one item.
pub struct BinidxWriter {
    stem: PathBuf,
    out: BufWriter<File>,
    kind: TokenType,
    sizes: Vec<i32>,
}

impl BinidxWriter {
    /// Begins `STEM.bin`. There is no `STEM.idx` before [`finish`](BinidxWriter::finish), and an old one is removed.
    pub fn create(stem: &Path, kind: TokenType) -> Result<BinidxWriter, Error> {
        let (bin, idx) = (bin(stem), idx(stem));
        match std::fs::remove_file(&idx) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(idx)(e)),
            _ => {}
        }
        let out = BufWriter::new(File::create(&bin).map_err(Error::io(&bin))?);
        Ok(BinidxWriter { stem: stem.to_path_buf(), out, kind, sizes: Vec::new() })
    }

    /// Appends a document. Nothing is added: the token that ends a document is the caller's.
    pub fn push(&mut self, document: &[u32]) -> Result<(), Error> {
        let bin = bin(&self.stem);
        let limit = match self.kind {
            TokenType::U16 => u32::from(u16::MAX),
            TokenType::I32 => i32::MAX as u32,
        };
        if let Some(position) = document.iter().position(|&id| id > limit) {
            return Err(Error::TokenOutsideVocabulary {
                data: bin.display().to_string(),
                document: self.sizes.len() as u64,
                position: position as u64,
                id: document[position],
                vocab: limit as usize + 1,
            });
        }
        let size = i32::try_from(document.len()).map_err(|_| Error::Malformed {
            file: bin.clone(),
            what: format!("document {} has {} tokens, at most {} fit", self.sizes.len(), document.len(), i32::MAX),
        })?;
        for &id in document {
            let bytes = id.to_le_bytes();
            self.out.write_all(&bytes[..self.kind.bytes() as usize]).map_err(Error::io(&bin))?;
        }
        self.sizes.push(size);
        Ok(())
    }

    /// Writes the index.
    pub fn finish(self) -> Result<(), Error> {
        let (bin, idx) = (bin(&self.stem), idx(&self.stem));
        self.out.into_inner().map_err(|e| Error::io(bin)(e.into_error()))?;
        let write = || {
            let mut out = BufWriter::new(File::create(&idx)?);
            out.write_all(MAGIC)?;
            out.write_all(&1u64.to_le_bytes())?;
            out.write_all(&[self.kind.code()])?;
            out.write_all(&(self.sizes.len() as u64).to_le_bytes())?;
            out.write_all(&(self.sizes.len() as u64 + 1).to_le_bytes())?;
            for size in &self.sizes {
                out.write_all(&size.to_le_bytes())?;
            }
            let mut pointer = 0u64;
            for &size in &self.sizes {
                out.write_all(&pointer.to_le_bytes())?;
                pointer += u64::from(size.unsigned_abs()) * self.kind.bytes();
            }
            for border in 0..=self.sizes.len() as u64 {
                out.write_all(&border.to_le_bytes())?;
            }
            out.flush()
        };
        write().map_err(Error::io(&idx))
    }
}
