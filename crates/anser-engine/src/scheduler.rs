//! Many requests through one model: prompts are read beside running decodes, in one ragged batch a step.

use std::collections::VecDeque;

use crate::sampling::{Choice, Sampler, Sampling};
use crate::{Batch, Error, Executor, Logits, Model, State};

/// Names a request of a [`Scheduler`].
pub type RequestId = u64;

/// What to generate.
#[derive(Debug, Clone)]
pub struct Request {
    /// The tokens to read first; may be empty only if `pending` or a state says what comes before.
    pub prompt: Vec<u32>,
    /// The state to continue from; `None` starts afresh.
    pub state: Option<State>,
    /// How to draw tokens.
    pub sampling: Sampling,
    /// Most tokens to produce.
    pub max_tokens: usize,
    /// Tokens that end the text (and are reported, as the last one).
    pub stop_tokens: Vec<u32>,
}

/// Why a request ended.
#[derive(Debug)]
pub enum Finish {
    /// A stop token was drawn.
    Stop,
    /// `max_tokens` were produced.
    Length,
    /// The caller took it back.
    Cancelled,
    /// The request failed; the others go on.
    Failed(Error),
}

/// What a step brought.
#[derive(Debug)]
pub enum Event {
    /// A token was drawn.
    Token {
        /// The request.
        id: RequestId,
        /// The token and its log-probability.
        choice: Choice,
    },
    /// A request ended.
    Finished {
        /// The request.
        id: RequestId,
        /// Why.
        finish: Finish,
        /// Its state: it has read the prompt and all tokens produced but the last, which nothing was drawn from.
        state: State,
    },
}

struct Running {
    id: RequestId,
    state: State,
    sampler: Sampler,
    /// Tokens still to read: what is left of the prompt, or the token drawn last.
    unread: VecDeque<u32>,
    left: usize,
    stop_tokens: Vec<u32>,
}

/// Runs requests side by side. What a request produces does not depend on the others, nor on when it was submitted.
pub struct Scheduler<'a> {
    model: &'a dyn Model,
    max_batch: usize,
    next_id: RequestId,
    waiting: VecDeque<Running>,
    running: Vec<Running>,
    tokens: Vec<u32>,
    borders: Vec<usize>,
    wanted: Vec<usize>,
    logits: Vec<f32>,
}

/// Rows of one pass; running decodes come first, prompts take what is left.
const ROWS: usize = 256;

impl<'a> Scheduler<'a> {
    /// A scheduler that runs at most `max_batch` requests at once.
    pub fn new(model: &'a dyn Model, max_batch: usize) -> Scheduler<'a> {
        Scheduler {
            model,
            max_batch: max_batch.clamp(1, ROWS),
            next_id: 0,
            waiting: VecDeque::new(),
            running: Vec::new(),
            tokens: Vec::new(),
            borders: Vec::new(),
            wanted: Vec::new(),
            logits: Vec::new(),
        }
    }

    /// Takes a request in; it starts as soon as a place is free.
    ///
    /// # Errors
    /// [`Error::EmptyPrompt`] without a single token to read, [`Error::TokenOutOfRange`] for a token the model does not
    /// know, [`Error::ForeignState`] for a state of another model, [`Error::Sampling`] for an option out of range.
    pub fn submit(&mut self, request: Request) -> Result<RequestId, Error> {
        let vocab = self.model.config().vocab;
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        if let Some(position) = request.prompt.iter().position(|&token| token as usize >= vocab) {
            return Err(Error::TokenOutOfRange { token: request.prompt[position], position, vocab });
        }
        let fresh = self.model.new_state();
        let state = request.state.unwrap_or_else(|| fresh.clone());
        if state.slots() != fresh.slots() {
            let (expected, found) = (fresh.values().len(), state.values().len());
            return Err(Error::ForeignState { sequence: 0, expected, found });
        }
        let sampler = Sampler::new(&request.sampling, vocab)?;
        let id = self.next_id;
        self.next_id += 1;
        let (left, stop_tokens) = (request.max_tokens, request.stop_tokens);
        self.waiting.push_back(Running { id, state, sampler, unread: request.prompt.into(), left, stop_tokens });
        Ok(id)
    }

    /// Ends a request early; `None` if it is not there (any more).
    pub fn cancel(&mut self, id: RequestId) -> Option<Event> {
        let request = match self.running.iter().position(|r| r.id == id) {
            Some(at) => self.running.remove(at),
            None => self.waiting.iter().position(|r| r.id == id).and_then(|at| self.waiting.remove(at))?,
        };
        Some(Event::Finished { id, finish: Finish::Cancelled, state: request.state })
    }

    /// Whether every request has ended.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// One pass over everything that runs, and what it brought.
    ///
    /// # Errors
    /// When the pass itself fails ([`Model::forward`]); what concerns one request only ends that request.
    pub fn step(&mut self, exec: &mut Executor) -> Result<Vec<Event>, Error> {
        while self.running.len() < self.max_batch
            && let Some(request) = self.waiting.pop_front()
        {
            self.running.push(request);
        }
        self.tokens.clear();
        self.borders.clear();
        self.borders.push(0);
        self.wanted.clear();
        // Every running request reads at least one token, so a long prompt never stalls the others.
        let mut spare = ROWS - self.running.len().min(ROWS);
        for request in &mut self.running {
            let count = request.unread.len().min(1 + spare);
            spare -= count - 1;
            self.tokens.extend(request.unread.drain(..count));
            self.borders.push(self.tokens.len());
            if request.unread.is_empty() {
                self.wanted.push(self.tokens.len() - 1);
            }
        }
        let batch = Batch { tokens: &self.tokens, cu_seqlens: &self.borders, logits: Logits::Rows(&self.wanted) };
        let mut states: Vec<&mut State> = self.running.iter_mut().map(|request| &mut request.state).collect();
        self.model.forward(exec, &batch, &mut states, &mut self.logits)?;

        let mut events = Vec::new();
        let mut rows = self.logits.chunks_exact(self.model.config().vocab);
        let mut ended = Vec::new();
        for (at, request) in self.running.iter_mut().enumerate() {
            if !request.unread.is_empty() {
                continue;
            }
            let finish = if request.left == 0 {
                rows.next();
                Some(Finish::Length)
            } else {
                request.draw(rows.next().unwrap_or_default(), &mut events)
            };
            ended.extend(finish.map(|finish| (at, finish)));
        }
        // From the back, so that the positions before stay true; reported in order.
        let first = events.len();
        for (at, finish) in ended.into_iter().rev() {
            let request = self.running.remove(at);
            events.insert(first, Event::Finished { id: request.id, finish, state: request.state });
        }
        Ok(events)
    }
}

impl Running {
    /// Draws the next token from its logits `[V]`.
    fn draw(&mut self, logits: &[f32], events: &mut Vec<Event>) -> Option<Finish> {
        let choice = match self.sampler.sample(logits) {
            Ok(choice) => choice,
            Err(error) => return Some(Finish::Failed(error)),
        };
        if let Err(error) = self.sampler.accept(choice.token) {
            return Some(Finish::Failed(error));
        }
        let token = choice.token;
        events.push(Event::Token { id: self.id, choice });
        self.left -= 1;
        if self.stop_tokens.contains(&token) {
            return Some(Finish::Stop);
        }
        if self.left == 0 {
            return Some(Finish::Length);
        }
        self.unread.push_back(token);
        None
    }
}
