use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anser_tokenizer::{Template, Tokenizer};

use super::sources::{self, Source};
use super::{Batch, Binidx, Fingerprint, TokenType, text};
use crate::Error;

/// How files become tokens.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Text to tokens. A document ends with [`Tokenizer::end_of_document`] where there is one. Token files (.bin) are
    /// taken as they are.
    pub tokenizer: Tokenizer,
    /// How conversations are written.
    pub template: Template,
    /// A line of a .txt that separates documents, such as `<|endoftext|>`; the empty string for blank lines. Without
    /// one, a file is one document.
    pub separator: Option<String>,
    /// The model's vocabulary: ids are below it.
    pub vocab: usize,
}

/// How far loading is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The file being read.
    pub file: &'a Path,
    /// Bytes read, of all files.
    pub bytes: u64,
    /// Bytes there are.
    pub total: u64,
    /// Documents finished.
    pub documents: u64,
    /// Tokens made.
    pub tokens: u64,
}

/// Documents as tokens. Cheap to clone; clones and parts share the tokens.
#[derive(Clone)]
pub struct Corpus {
    name: String,
    parts: Vec<Part>,
    fingerprints: Arc<[Fingerprint]>,
    vocab: usize,
}

/// Documents that lie one after the other in one store.
#[derive(Clone)]
struct Part {
    store: Arc<Store>,
    /// Where documents begin in the store, and where the last one ends. [documents + 1]
    borders: Arc<[u64]>,
    /// Documents in the parts before.
    before: u64,
}

/// The tokens of one or several files.
enum Store {
    Memory { tokens: Tokens, ignored: Bits },
    Mapped(Binidx),
}

enum Tokens {
    U16(Vec<u16>),
    U32(Vec<u32>),
}

/// A set of token positions.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn insert(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            let words = range.end.div_ceil(64) as usize;
            self.0.resize(words.max(self.0.len()), 0);
            range.for_each(|i| self.0[(i / 64) as usize] |= 1 << (i % 64));
        }
    }

    fn contains(&self, i: u64) -> bool {
        self.0.get((i / 64) as usize).is_some_and(|word| word >> (i % 64) & 1 == 1)
    }
}

impl Store {
    fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<(), Error> {
        match self {
            Store::Memory { tokens, .. } => {
                let range = range.start as usize..range.end as usize;
                match tokens {
                    Tokens::U16(tokens) => out.extend(tokens[range].iter().map(|&token| u32::from(token))),
                    Tokens::U32(tokens) => out.extend_from_slice(&tokens[range]),
                }
                Ok(())
            }
            Store::Mapped(file) => file.read(range, out),
        }
    }

    fn ignored(&self, token: u64) -> bool {
        match self {
            Store::Memory { ignored, .. } => ignored.contains(token),
            Store::Mapped(_) => false,
        }
    }
}

/// Collects the documents of text files.
pub(super) struct Builder {
    tokens: Tokens,
    ignored: Bits,
    borders: Vec<u64>,
    vocab: usize,
    end: Option<u32>,
}

impl Builder {
    fn new(vocab: usize, end: Option<u32>) -> Builder {
        let tokens = match TokenType::for_vocab(vocab) {
            TokenType::U16 => Tokens::U16(Vec::new()),
            TokenType::I32 => Tokens::U32(Vec::new()),
        };
        Builder { tokens, ignored: Bits::default(), borders: vec![0], vocab, end }
    }

    pub(super) fn tokens(&self) -> u64 {
        match &self.tokens {
            Tokens::U16(tokens) => tokens.len() as u64,
            Tokens::U32(tokens) => tokens.len() as u64,
        }
    }

    pub(super) fn documents(&self) -> u64 {
        self.borders.len() as u64 - 1
    }

    /// Appends to the document, the tokens that `learn` as targets.
    pub(super) fn push(&mut self, ids: &[u32], learn: bool, file: &Path) -> Result<(), Error> {
        let begin = self.tokens();
        if let Some(i) = ids.iter().position(|&id| id as usize >= self.vocab) {
            return Err(Error::TokenOutsideVocabulary {
                data: file.display().to_string(),
                document: self.documents(),
                position: begin - self.document() + i as u64,
                id: ids[i],
                vocab: self.vocab,
            });
        }
        match &mut self.tokens {
            Tokens::U16(tokens) => tokens.extend(ids.iter().map(|&id| id as u16)),
            Tokens::U32(tokens) => tokens.extend_from_slice(ids),
        }
        if !learn {
            self.ignored.insert(begin..self.tokens());
        }
        Ok(())
    }

    /// Ends the document, if it has any token, with the token for that, unless the text itself spelled it.
    pub(super) fn end_document(&mut self, learn: bool, file: &Path) -> Result<(), Error> {
        if self.tokens() == self.document() {
            return Ok(());
        }
        if let Some(end) = self.end
            && self.last() != Some(end)
        {
            self.push(&[end], learn, file)?;
        }
        self.borders.push(self.tokens());
        Ok(())
    }

    /// Where the document that is being collected begins.
    fn document(&self) -> u64 {
        self.borders.last().copied().unwrap_or(0)
    }

    fn last(&self) -> Option<u32> {
        match &self.tokens {
            Tokens::U16(tokens) => tokens.last().map(|&token| u32::from(token)),
            Tokens::U32(tokens) => tokens.last().copied(),
        }
    }

    fn finish(self) -> Part {
        let store = Store::Memory { tokens: self.tokens, ignored: self.ignored };
        Part { store: Arc::new(store), borders: self.borders.into(), before: 0 }
    }
}

impl Corpus {
    /// Reads .txt, .jsonl and .idx + .bin files: paths, folders or patterns with `*`.
    ///
    /// The order of documents is that of `paths`, a folder's files by name, but for text, which comes before token
    /// files. Text is held in memory as two bytes a token (four for vocabularies above 65536), token files are mapped.
    ///
    /// - .txt: one document, or several ([`LoadOptions::separator`]). It is tokenised in pieces of about a megabyte
    ///   that end at a line's end.
    /// - .jsonl: an object a line, with a string `text`, or else with `messages` = `[{"role", "content"}]`, in which
    ///   only the assistant's replies and what ends them count in the loss. Empty lines are passed over.
    /// - .idx + .bin: see [`binidx`](super::binidx).
    ///
    /// `progress` is called about once a megabyte.
    pub fn load(
        paths: &[PathBuf],
        options: &LoadOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<Corpus, Error> {
        let sources = sources::find(paths)?;
        let mut total = 0;
        for file in sources.iter().flat_map(Source::files) {
            total += Fingerprint::stat(&file)?.bytes;
        }
        let mut builder = Builder::new(options.vocab, options.tokenizer.end_of_document());
        let (mut mapped, mut fingerprints, mut done) = (Vec::new(), Vec::<Fingerprint>::new(), 0);
        for source in &sources {
            let file = match source {
                Source::Text(file) | Source::JsonLines(file) | Source::Binidx(file) => file,
            };
            let known = fingerprints.len();
            let mut report = |builder: &Builder, bytes| {
                let (documents, tokens) = (builder.documents(), builder.tokens());
                progress(Progress { file, bytes: done + bytes, total, documents, tokens });
            };
            match source {
                Source::Text(file) => fingerprints.push(text::read_text(file, options, &mut builder, &mut report)?),
                Source::JsonLines(file) => {
                    fingerprints.push(text::read_json_lines(file, options, &mut builder, &mut report)?);
                }
                Source::Binidx(stem) => {
                    let file = Binidx::open(&super::binidx::bin(stem))?;
                    fingerprints.extend(file.fingerprints().iter().cloned());
                    let borders = file.borders().into();
                    mapped.push(Part { store: Arc::new(Store::Mapped(file)), borders, before: 0 });
                }
            }
            done += fingerprints[known..].iter().map(|print| print.bytes).sum::<u64>();
        }
        let name = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Corpus::new(name, std::iter::once(builder.finish()).chain(mapped).collect(), fingerprints.into(), options.vocab)
    }

    /// A corpus of documents that are in memory, `name` in messages. Every token counts in the loss.
    pub fn from_documents(name: &str, documents: &[Vec<u32>], vocab: usize) -> Result<Corpus, Error> {
        let mut builder = Builder::new(vocab, None);
        for document in documents {
            builder.push(document, true, Path::new(name))?;
            builder.end_document(true, Path::new(name))?;
        }
        Corpus::new(name.to_string(), vec![builder.finish()], Arc::from([]), vocab)
    }

    fn new(name: String, parts: Vec<Part>, fingerprints: Arc<[Fingerprint]>, vocab: usize) -> Result<Corpus, Error> {
        let mut corpus = Corpus { name, parts, fingerprints, vocab };
        corpus.parts.retain(|part| part.borders.len() > 1);
        let mut before = 0;
        for part in &mut corpus.parts {
            part.before = before;
            before += part.borders.len() as u64 - 1;
        }
        if corpus.targets() == 0 {
            let (documents, tokens) = (corpus.documents(), corpus.tokens());
            return Err(Error::EmptyCorpus { data: corpus.name, documents, tokens });
        }
        Ok(corpus)
    }

    /// The paths it was made from, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ids are below this.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Number of documents.
    pub fn documents(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.before + part.borders.len() as u64 - 1)
    }

    /// Number of tokens.
    pub fn tokens(&self) -> u64 {
        self.parts.iter().map(|part| part.borders[part.borders.len() - 1] - part.borders[0]).sum()
    }

    /// Tokens that follow another in their document, so can be predicted.
    pub fn targets(&self) -> u64 {
        (0..self.documents()).map(|document| self.targets_of(document)).sum()
    }

    /// Targets of one document: its length less one.
    pub(super) fn targets_of(&self, document: u64) -> u64 {
        let (_, range) = self.find(document);
        (range.end - range.start).saturating_sub(1)
    }

    /// The tokens of document `document`, counted from 0.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn document(&self, document: u64) -> Result<Vec<u32>, Error> {
        let (part, range) = self.find(document);
        let mut tokens = Vec::new();
        part.store.read(range.clone(), &mut tokens)?;
        self.check(&tokens, document, 0)?;
        Ok(tokens)
    }

    /// What every file was when it was read.
    pub fn fingerprints(&self) -> &[Fingerprint] {
        &self.fingerprints
    }

    /// Fails, naming the file, if one of the files is no longer what was read.
    pub fn verify_unchanged(&self) -> Result<(), Error> {
        self.fingerprints.iter().try_for_each(Fingerprint::verify)
    }

    /// Reads all of it once and fails at the first token outside the vocabulary. Text was checked when it was loaded,
    /// and batches check what they hold: this is for token files that are to be checked before a long run.
    pub fn verify_vocabulary(&self) -> Result<(), Error> {
        let mut tokens = Vec::new();
        for document in 0..self.documents() {
            let (part, range) = self.find(document);
            if matches!(*part.store, Store::Memory { .. }) {
                continue;
            }
            // In pieces: a file may be one document.
            let mut from = range.start;
            while from < range.end {
                let to = range.end.min(from + (1 << 20));
                tokens.clear();
                part.store.read(from..to, &mut tokens)?;
                self.check(&tokens, document, from - range.start)?;
                from = to;
            }
        }
        Ok(())
    }

    /// The corpus without its tail, and the tail: about `fraction` of the tokens, to be held out.
    ///
    /// A single document is cut in two; of several, whole documents go to one side or the other.
    ///
    /// # Errors
    /// [`Error::Setting`] if the fraction is not between 0 and 1, [`Error::CannotSplit`] if one side would hold nothing
    /// to predict.
    pub fn hold_out(&self, fraction: f64) -> Result<(Corpus, Corpus), Error> {
        if !(fraction > 0.0 && fraction < 1.0) {
            let expected = "a fraction between 0 and 1".to_string();
            return Err(Error::Setting { name: "valid-fraction", found: fraction.to_string(), expected });
        }
        let (tokens, documents) = (self.tokens(), self.documents());
        let kept = (tokens as f64 * (1.0 - fraction)).round() as u64;
        let (mut head, mut tail) = (Vec::new(), Vec::new());
        if let ([part], 1) = (&self.parts[..], documents) {
            let cut = part.borders[0] + kept;
            head.push(Part { borders: [part.borders[0], cut].into(), ..part.clone() });
            tail.push(Part { borders: [cut, part.borders[1]].into(), ..part.clone() });
        } else {
            let mut begin = 0;
            for part in &self.parts {
                // Documents that begin before the cut are kept; the very first always is, and the very last never.
                let starts = &part.borders[..part.borders.len() - 1];
                let here = starts.partition_point(|&start| begin + (start - part.borders[0]) < kept.max(1));
                let here = here.min((documents - 1).saturating_sub(part.before) as usize);
                head.push(Part { borders: part.borders[..=here].into(), ..part.clone() });
                tail.push(Part { borders: part.borders[here..].into(), ..part.clone() });
                begin += part.borders[starts.len()] - part.borders[0];
            }
        }
        let side = |parts| Corpus::new(self.name.clone(), parts, self.fingerprints.clone(), self.vocab).ok();
        side(head).zip(side(tail)).ok_or_else(|| Error::CannotSplit {
            data: self.name.clone(),
            fraction,
            tokens,
            documents,
        })
    }

    /// Appends `count` tokens of a document, from its token `from` on, and the targets after them, to a batch.
    pub(super) fn read(&self, document: u64, from: u64, count: u64, batch: &mut Batch) -> Result<(), Error> {
        let (part, range) = self.find(document);
        let begin = range.start + from;
        self.read_run(&part.store, begin, count, batch, |position| (document, from + position))
    }

    /// The same with the corpus as one string of tokens, whatever its documents; `None` if it is not in one place.
    pub(super) fn stream(&self) -> Option<Stream<'_>> {
        match &self.parts[..] {
            [part] => Some(Stream { corpus: self, part }),
            _ => None,
        }
    }

    fn read_run(
        &self,
        store: &Store,
        begin: u64,
        count: u64,
        batch: &mut Batch,
        place: impl Fn(u64) -> (u64, u64),
    ) -> Result<(), Error> {
        let mut ids = Vec::with_capacity(count as usize + 1);
        store.read(begin..begin + count + 1, &mut ids)?;
        if let Some(i) = ids.iter().position(|&id| id as usize >= self.vocab) {
            let (document, position) = place(i as u64);
            return Err(self.outside(ids[i], document, position));
        }
        batch.tokens.extend_from_slice(&ids[..count as usize]);
        batch.targets.extend_from_slice(&ids[1..]);
        batch.weights.extend((1..=count).map(|i| if store.ignored(begin + i) { 0.0 } else { 1.0 }));
        Ok(())
    }

    fn check(&self, ids: &[u32], document: u64, from: u64) -> Result<(), Error> {
        match ids.iter().position(|&id| id as usize >= self.vocab) {
            Some(i) => Err(self.outside(ids[i], document, from + i as u64)),
            None => Ok(()),
        }
    }

    fn outside(&self, id: u32, document: u64, position: u64) -> Error {
        Error::TokenOutsideVocabulary { data: self.name.clone(), document, position, id, vocab: self.vocab }
    }

    /// The part that holds a document, and where in its store.
    fn find(&self, document: u64) -> (&Part, Range<u64>) {
        let part = &self.parts[self.parts.partition_point(|part| part.before <= document) - 1];
        let i = (document - part.before) as usize;
        (part, part.borders[i]..part.borders[i + 1])
    }
}

impl std::fmt::Debug for Corpus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Corpus({}, {} tokens in {} documents)", self.name, self.tokens(), self.documents())
    }
}

/// A corpus as one string of tokens.
pub(super) struct Stream<'a> {
    corpus: &'a Corpus,
    part: &'a Part,
}

impl Stream<'_> {
    /// Appends `count` tokens and the targets after them.
    pub(super) fn read(&self, from: u64, count: u64, batch: &mut Batch) -> Result<(), Error> {
        let begin = self.part.borders[0] + from;
        self.corpus.read_run(&self.part.store, begin, count, batch, |position| {
            let token = begin + position;
            let document = self.part.borders.partition_point(|&border| border <= token) - 1;
            (self.part.before + document as u64, token - self.part.borders[document])
        })
    }
}
