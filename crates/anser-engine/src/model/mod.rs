//! The language models: one file a version, each read as weights, then time mix, then channel mix.
//!
//! What all versions share stands here: the skeleton of section "embedding, blocks, head", the loading of weights into
//! the engine's storage, and the ragged batch.

mod channel;
mod embedding;
mod loader;
mod pass;
mod rwkv4;
mod rwkv5;
mod rwkv6;
mod rwkv7;

use std::path::Path;
use std::sync::Arc;

use anser_checkpoint::{Blocks, Checkpoint, Config, Dtype, PackedHeader, PackedMatrix, PackedWriter, Tensor, Version};
use anser_kernels::linear::{Epilogue, InputBits, Matrix, Product, products};

use crate::executor::Arena;
use crate::recipe::Recipe;
use crate::state::Layout;
use crate::{Error, Executor, State};
use embedding::Embedding;
use loader::{Loader, Norm};
use pass::Pass;

/// A language model: weights and configuration, immutable, shared between threads and sequences.
pub trait Model: Send + Sync {
    /// Version and sizes.
    fn config(&self) -> &Config;

    /// How the matrices are stored: by which recipe, or in the blocks of a quantised file.
    fn storage(&self) -> &str;

    /// Bytes of weights that a pass may touch, an embedding left in its file not counted.
    fn weight_bytes(&self) -> usize;

    /// The state before the first token: zeros, or the tuned initial state that the checkpoint carries.
    fn new_state(&self) -> State;

    /// Reads `batch.tokens`, advances `states` (one a sequence) and writes `[n, V]` raw scores into `logits`, in the
    /// order of the batch, where n is given by [`Batch::logits`].
    ///
    /// # Errors
    /// When the batch does not fit the model ([`Error::Batch`], [`Error::TokenOutOfRange`], [`Error::ForeignState`]),
    /// all before any state is touched; [`Error::NonFinite`] under [`Executor::check_numerics`].
    fn forward(
        &self,
        exec: &mut Executor,
        batch: &Batch<'_>,
        states: &mut [&mut State],
        logits: &mut Vec<f32>,
    ) -> Result<(), Error>;
}

/// A ragged batch: sequence `s` owns the tokens `cu_seqlens[s]..cu_seqlens[s + 1]`.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// The tokens of all sequences, one after the other.
    pub tokens: &'a [u32],
    /// Borders of the sequences: starts at 0, ends at the number of tokens, never falls. A sequence may be empty.
    pub cu_seqlens: &'a [usize],
    /// Which rows get logits.
    pub logits: Logits<'a>,
}

/// The rows of a batch whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits<'a> {
    /// None: the states alone are wanted.
    None,
    /// The last token of every sequence that has a token.
    Last,
    /// Every token.
    All,
    /// These rows of the packed batch, ascending.
    Rows(&'a [usize]),
}

/// Where a model's weights come from: a checkpoint, or made up.
pub trait Source: Send + Sync {
    /// The file, for messages.
    fn path(&self) -> &Path;
    /// Version and sizes.
    fn config(&self) -> &Config;
    /// How the large matrices are stored.
    fn dtype(&self) -> Dtype;
    /// Whether a tensor is there, by its official name.
    fn has(&self, name: &str) -> bool;
    /// A tensor by its official name, in its official orientation, axes of length 1 dropped.
    ///
    /// # Errors
    /// When the tensor is missing or cannot be read.
    fn tensor(&self, name: &str) -> Result<Tensor<'_>, anser_checkpoint::Error>;
    /// The recipe that a packed source was made by.
    fn recipe(&self) -> Option<&str> {
        None
    }
    /// A matrix that is there packed already; then [`Source::tensor`] does not read it.
    fn packed(&self, _name: &str) -> Option<PackedMatrix> {
        None
    }
    /// A matrix as the blocks it is quantised in, where it is.
    fn blocks(&self, _name: &str) -> Option<Blocks<'_>> {
        None
    }
}

impl Source for Checkpoint {
    fn path(&self) -> &Path {
        self.path()
    }
    fn config(&self) -> &Config {
        self.config()
    }
    fn dtype(&self) -> Dtype {
        self.stored_dtype()
    }
    fn has(&self, name: &str) -> bool {
        self.has(name)
    }
    fn tensor(&self, name: &str) -> Result<Tensor<'_>, anser_checkpoint::Error> {
        self.tensor(name)
    }
    fn recipe(&self) -> Option<&str> {
        self.packed_header().map(|header| header.recipe.as_str())
    }
    fn packed(&self, name: &str) -> Option<PackedMatrix> {
        self.packed(name)
    }
    fn blocks(&self, name: &str) -> Option<Blocks<'_>> {
        self.blocks(name)
    }
}

/// How to load a model.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Storage of the matrices; `None` keeps what the checkpoint has, blocks of a quantised file included.
    pub recipe: Option<Recipe>,
    /// Where the matrices of a packed file are held.
    pub placement: Placement,
    /// What quantised matrices and those in bf16 are multiplied with: the fewest bits that go with the storage (8, and 16
    /// beside bf16), unless asked for more. Each is an arithmetic of its own.
    pub inputs: InputBits,
}

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions { recipe: None, placement: Placement::default(), inputs: InputBits::Eight }
    }
}

impl From<Recipe> for LoadOptions {
    /// The matrices by this recipe, everything else as by default.
    fn from(recipe: Recipe) -> LoadOptions {
        LoadOptions { recipe: Some(recipe), ..LoadOptions::default() }
    }
}

/// Where the matrices of a packed file are held. Everything else is copied when it is packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Placement {
    /// In the mapped file: the start takes no time, and processes share the memory.
    #[default]
    Mapped,
    /// In memory of its own, in huge pages where the system grants them: decoding is faster by what translating the
    /// addresses of small pages costs. The file's pages are released while they are copied.
    Copied,
}

/// Loads the weights of `source`, packed for the kernels with the threads of `exec`.
///
/// # Errors
/// [`Error::Checkpoint`] when a tensor is missing or does not fit, [`Error::NonFiniteWeight`] and
/// [`Error::OutOfRange`] when a weight cannot be used.
pub fn load(source: Arc<dyn Source>, exec: &Executor, options: &LoadOptions) -> Result<Box<dyn Model>, Error> {
    read(source, exec, options, None)
}

/// Loads `source` by `options` and writes it to `path` as a packed file, which loads as the same model; returns the model
/// and the size of the file. `header` is what the file says about itself.
///
/// # Errors
/// As [`load`]; [`Error::Checkpoint`] when the file cannot be written, [`Error::Packed`] when `source` is packed already.
pub fn pack(
    source: Arc<dyn Source>,
    exec: &Executor,
    options: &LoadOptions,
    path: &Path,
    header: PackedHeader,
) -> Result<(Box<dyn Model>, u64), Error> {
    if let Some(known) = source.recipe() {
        let what = format!("it is packed already, as {known}");
        return Err(Error::Packed { path: source.path().to_path_buf(), what });
    }
    let mut writer = PackedWriter::create(path, header)?;
    let model = read(source, exec, options, Some(&mut writer))?;
    Ok((model, writer.finish()?))
}

/// Loads a model; what is loaded goes to `writer` too.
fn read(
    source: Arc<dyn Source>,
    exec: &Executor,
    options: &LoadOptions,
    writer: Option<&mut PackedWriter>,
) -> Result<Box<dyn Model>, Error> {
    let loader = &Loader::new(source.as_ref(), &exec.pool, options, writer)?;
    Ok(match source.config().version {
        Version::V4 => Box::new(Rwkv::<rwkv4::Block>::load(&source, loader)?),
        Version::V5_0 | Version::V5_1 | Version::V5_2 => Box::new(Rwkv::<rwkv5::Block>::load(&source, loader)?),
        Version::V6 => Box::new(Rwkv::<rwkv6::Block>::load(&source, loader)?),
        Version::V7 => Box::new(Rwkv::<rwkv7::Block>::load(&source, loader)?),
    })
}

/// One layer of one version.
trait Block: Sized + Send + Sync {
    /// Reads `blocks.{layer}.*`.
    fn load(loader: &Loader<'_>, layer: usize) -> Result<Self, Error>;
    /// Adds the time mix to the residual stream `x` `[rows, C]` and advances the states.
    fn time_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]);
    /// Adds the channel mix to the residual stream.
    fn channel_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]);
}

/// The skeleton of every version: embedding, LN0, blocks, LN_out, head.
struct Rwkv<B> {
    config: Config,
    storage: String,
    initial: State,
    weight_bytes: usize,
    embedding: Embedding,
    ln0: Norm,
    blocks: Vec<B>,
    ln_out: Norm,
    head: Matrix,
}

impl<B: Block> Rwkv<B> {
    fn load(source: &Arc<dyn Source>, loader: &Loader<'_>) -> Result<Self, Error> {
        let config = source.config().clone();
        let blocks = (0..config.layers).map(|layer| B::load(loader, layer)).collect::<Result<_, _>>()?;
        let (ln0, ln_out) = (loader.norm("blocks.0.ln0")?, loader.norm("ln_out")?);
        let head = loader.matrix("head.weight")?;
        let initial = loader.initial_state(&Arc::new(Layout::new(&config)))?;
        let embedding = Embedding::load(source, loader)?;
        let (storage, weight_bytes) = (loader.storage(), loader.bytes());
        Ok(Rwkv { config, storage, initial, weight_bytes, embedding, ln0, blocks, ln_out, head })
    }

    fn check(&self, batch: &Batch<'_>, states: &[&mut State]) -> Result<(), Error> {
        let borders = batch.cu_seqlens;
        let fail = |what, expected, found| Err(Error::Batch { what, expected, found });
        if borders.len() != states.len() + 1 {
            return fail("number of borders (one more than states)", states.len() + 1, borders.len());
        }
        if borders[0] != 0 || borders[states.len()] != batch.tokens.len() {
            return fail(
                "last border (the number of tokens; the first is 0)",
                batch.tokens.len(),
                borders[states.len()],
            );
        }
        if let Some(pair) = borders.windows(2).find(|pair| pair[0] > pair[1]) {
            return fail("a border lies before the one it follows", pair[0], pair[1]);
        }
        for (sequence, state) in states.iter().enumerate() {
            if state.values().len() != self.initial.values().len() || state.layout.slots != self.initial.layout.slots {
                let (expected, found) = (self.initial.values().len(), state.values().len());
                return Err(Error::ForeignState { sequence, expected, found });
            }
        }
        if let Logits::Rows(rows) = batch.logits {
            if let Some(pair) = rows.windows(2).find(|pair| pair[0] >= pair[1]) {
                return fail("rows that want logits must ascend: the least row that fits", pair[0] + 1, pair[1]);
            }
            if let Some(&last) = rows.last().filter(|&&last| last >= batch.tokens.len()) {
                return fail("a row that wants logits lies behind the last one", batch.tokens.len(), last);
            }
        }
        match batch.tokens.iter().position(|&token| token as usize >= self.config.vocab) {
            Some(position) => {
                Err(Error::TokenOutOfRange { token: batch.tokens[position], position, vocab: self.config.vocab })
            }
            None => Ok(()),
        }
    }
}

impl<B: Block> Model for Rwkv<B> {
    fn config(&self) -> &Config {
        &self.config
    }

    fn storage(&self) -> &str {
        &self.storage
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    fn new_state(&self) -> State {
        self.initial.clone()
    }

    fn forward(
        &self,
        exec: &mut Executor,
        batch: &Batch<'_>,
        states: &mut [&mut State],
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        self.check(batch, states)?;
        let (rows, width) = (batch.tokens.len(), self.config.width);
        // Scratch keeps what it held: every buffer is written before it is read.
        let mut x = std::mem::take(&mut exec.stream);
        let mut arena = std::mem::take(&mut exec.arena);
        x.resize(rows * width, 0.0);
        let mut pass = Pass::new(exec, batch, states, width);
        let mut run = || {
            self.embedding.look_up(&mut arena, batch.tokens, &self.ln0, &mut x)?;
            pass.tap("embedding", &x)?;
            for (layer, block) in self.blocks.iter().enumerate() {
                pass.layer = layer;
                block.time_mix(&mut pass, &mut arena, &mut x);
                pass.tap("time mix", &x)?;
                block.channel_mix(&mut pass, &mut arena, &mut x);
                pass.tap("channel mix", &x)?;
            }
            pass.layer = self.config.layers;
            self.score(&mut pass, &mut arena, batch, &x, logits)
        };
        let result = run();
        if result.is_ok() {
            for (state, border) in states.iter_mut().zip(batch.cu_seqlens.windows(2)) {
                state.tokens += (border[1] - border[0]) as u64;
            }
        }
        (exec.stream, exec.arena) = (x, arena);
        result
    }
}

impl<B> Rwkv<B> {
    /// LN_out and the head, for the rows whose logits are wanted.
    fn score(
        &self,
        pass: &mut Pass<'_, '_>,
        arena: &mut Arena,
        batch: &Batch<'_>,
        x: &[f32],
        logits: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let (rows, width) = (batch.tokens.len(), self.config.width);
        let [normed] = arena.cut([rows * width]);
        let mut count = 0;
        let mut keep = |row: usize| {
            let out = &mut normed[count * width..(count + 1) * width];
            self.ln_out.apply(&x[row * width..(row + 1) * width], out);
            count += 1;
        };
        match batch.logits {
            Logits::None => {}
            Logits::All => (0..rows).for_each(&mut keep),
            Logits::Rows(wanted) => wanted.iter().copied().for_each(&mut keep),
            Logits::Last => batch.cu_seqlens.windows(2).filter(|w| w[0] < w[1]).for_each(|w| keep(w[1] - 1)),
        }
        logits.resize(count * self.config.vocab, 0.0);
        let x = &normed[..count * width];
        products(pass.pool, &mut [Product { w: &self.head, x, y: logits, then: Epilogue::Store }]);
        pass.tap_rows("head", self.config.vocab, logits)
    }
}

/// Rows of a prompt that are worth one pass: enough to reuse every weight, few enough for the caches.
const PREFILL_ROWS: usize = 256;

/// Reads long prompts, each into its own state, in passes of bounded size, and writes the logits of every prompt's last
/// token `[S, V]` into `logits`. `progress` hears the number of tokens read after each pass.
///
/// # Errors
/// [`Error::EmptyPrompt`] when a prompt has no token; otherwise as [`Model::forward`].
pub fn prefill(
    model: &dyn Model,
    exec: &mut Executor,
    prompts: &[&[u32]],
    states: &mut [&mut State],
    logits: &mut Vec<f32>,
    progress: &mut dyn FnMut(usize),
) -> Result<(), Error> {
    if prompts.len() != states.len() {
        return Err(Error::Batch {
            what: "number of states (one a prompt)",
            expected: prompts.len(),
            found: states.len(),
        });
    }
    if prompts.iter().any(|prompt| prompt.is_empty()) {
        return Err(Error::EmptyPrompt);
    }
    logits.clear();
    let mut one = Vec::new();
    let mut read = 0;
    for (prompt, state) in prompts.iter().zip(states.iter_mut()) {
        let last = (prompt.len() - 1) / PREFILL_ROWS;
        for (i, tokens) in prompt.chunks(PREFILL_ROWS).enumerate() {
            let wanted = if i == last { Logits::Last } else { Logits::None };
            let batch = Batch { tokens, cu_seqlens: &[0, tokens.len()], logits: wanted };
            model.forward(exec, &batch, &mut [state], &mut one)?;
            read += tokens.len();
            progress(read);
        }
        logits.extend_from_slice(&one);
    }
    Ok(())
}
