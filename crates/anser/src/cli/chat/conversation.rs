//! A conversation as messages, and the states the model had at its turns.
//!
//! What the model is to read is always what the template renders of the messages. A turn goes on from the latest kept
//! state whose text that rendering begins with; if the past was changed (undo, a dropped think block, another system
//! prompt), that is an earlier one, and only what comes after it is read again.

use std::collections::VecDeque;

use anser_engine::sampling::Sampling;
use anser_engine::{Event, Executor, Finish, Model, Request, Scheduler, State, prefill};
use anser_tokenizer::chat::Think;
use anser_tokenizer::{Message, RenderOptions, Role, Template, Tokenizer};
use anyhow::Result;

use crate::cli::output::Interrupt;
use crate::cli::reply::Reply;

/// Kept states: two a turn. Beyond that the text is read again.
const KEPT: usize = 16;

pub(super) struct Conversation {
    pub(super) messages: Vec<Message>,
    pub(super) template: Template,
    pub(super) options: RenderOptions,
    base: State,
    /// What separates the first turn from what the base state has read.
    joint: &'static str,
    /// Text read since the base, and the state after it; oldest first.
    kept: VecDeque<(Vec<u8>, State)>,
}

/// What one reply is drawn with.
pub(super) struct Draw<'a> {
    pub(super) sampling: Sampling,
    pub(super) max_tokens: usize,
    pub(super) stops: &'a [String],
    pub(super) interrupt: &'a Interrupt,
}

impl Conversation {
    pub(super) fn new(base: State, template: Template, options: RenderOptions) -> Conversation {
        let mut conversation = Conversation {
            messages: Vec::new(),
            template,
            options,
            base: base.clone(),
            joint: "",
            kept: VecDeque::new(),
        };
        conversation.restart(base);
        conversation
    }

    /// Forgets everything and goes on from `base`.
    pub(super) fn restart(&mut self, base: State) {
        self.messages.clear();
        self.kept.clear();
        self.joint = match self.template {
            Template::Jinja(_) => "",
            _ if base.tokens() == 0 => "",
            _ => "\n\n",
        };
        self.base = base;
    }

    /// Removes the last turn: its reply and what was asked. `false` when there is none.
    pub(super) fn undo(&mut self) -> bool {
        match self.messages.iter().rposition(|m| m.role == Role::User) {
            Some(at) => self.messages.truncate(at),
            None => return false,
        }
        true
    }

    /// Sets the system prompt; empty removes it.
    pub(super) fn set_system(&mut self, text: &str) {
        self.messages.retain(|m| m.role != Role::System);
        if !text.is_empty() {
            self.messages.insert(0, Message::new(Role::System, text));
        }
    }

    /// The state that has read the whole conversation, up to the last turn's end.
    pub(super) fn state(&mut self, model: &dyn Model, exec: &mut Executor, tokenizer: &Tokenizer) -> Result<State> {
        if self.messages.is_empty() {
            return Ok(self.base.clone());
        }
        let text = self.render(&self.past())?;
        self.read(text.as_bytes(), model, exec, tokenizer)
    }

    /// Reads what the user said and writes the reply, piece by piece, to `show`. The messages then hold both.
    pub(super) fn reply(
        &mut self,
        said: &str,
        draw: Draw<'_>,
        model: &dyn Model,
        exec: &mut Executor,
        tokenizer: &Tokenizer,
        mut show: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        self.messages.push(Message::new(Role::User, said));
        let text = match self.render(&self.options) {
            Ok(text) => text.into_bytes(),
            Err(error) => {
                self.messages.pop();
                return Err(error);
            }
        };
        // From here on the turn stands as the model reads it, hints included.
        let think = self.options.think;
        let hinted = self.template.hinted(said, think);
        if !matches!(self.template, Template::Jinja(_))
            && let Some(message) = self.messages.last_mut()
        {
            message.content = hinted;
        }
        // Keep the state at the end of the user's turn, where a reply without its think block begins as well.
        let turn = self.render(&self.past())?.into_bytes();
        if turn.len() < text.len() && text.starts_with(&turn) {
            self.read(&turn, model, exec, tokenizer)?;
        }

        let (mut read, state) = self.latest(&text);
        let prompt = tokenizer.encode(&text[read.len()..])?;
        let mut scheduler = Scheduler::new(model, 1);
        let end = tokenizer.end_of_document();
        let id = scheduler.submit(Request {
            prompt,
            state: Some(state),
            sampling: draw.sampling,
            max_tokens: draw.max_tokens,
            stop_tokens: end.into_iter().collect(),
        })?;
        let mut reply = Reply::new(tokenizer, draw.stops, false);
        let mut shown = Vec::new();
        let (finish, state) = 'run: loop {
            if draw.interrupt.requested()
                && let Some(Event::Finished { finish, state, .. }) = scheduler.cancel(id)
            {
                break (finish, state);
            }
            for event in scheduler.step(exec)? {
                match event {
                    Event::Token { choice, .. } => {
                        let new = reply.push(choice);
                        show(&String::from_utf8_lossy(&new))?;
                        shown.extend(new);
                        if reply.stopped()
                            && let Some(Event::Finished { finish, state, .. }) = scheduler.cancel(id)
                        {
                            break 'run (finish, state);
                        }
                    }
                    Event::Finished { finish, state, .. } => break 'run (finish, state),
                }
            }
        };
        if let Finish::Failed(error) = finish {
            return Err(error.into());
        }
        let rest = reply.finish();
        show(&String::from_utf8_lossy(&rest))?;
        shown.extend(rest);

        // The state has read everything but the last token drawn.
        read = text;
        let unread = reply.tokens.len().saturating_sub(1);
        read.extend(tokenizer.decode(&reply.tokens[..unread]));
        self.keep(read, state);
        let written = String::from_utf8_lossy(&shown);
        let content = format!("{}{}", self.template.prefill(think).trim_start(), written);
        let content = if matches!(self.template, Template::Story) { &content[..] } else { content.trim() };
        self.messages.push(Message::new(Role::Assistant, content));
        Ok(())
    }

    fn render(&self, options: &RenderOptions) -> Result<String> {
        Ok(self.joint.to_string() + &self.template.render(&self.messages, options)?)
    }

    /// How to render what was said, without the opening of another reply.
    fn past(&self) -> RenderOptions {
        RenderOptions { add_generation_prompt: false, think: Think::Unset, ..self.options.clone() }
    }

    /// The latest kept state on the way to `text`, with the text it has read.
    fn latest(&self, text: &[u8]) -> (Vec<u8>, State) {
        let kept = self.kept.iter().filter(|(read, _)| text.starts_with(read) && read.len() < text.len());
        match kept.max_by_key(|(read, _)| read.len()) {
            Some((read, state)) => (read.clone(), state.clone()),
            None => (Vec::new(), self.base.clone()),
        }
    }

    /// The state after exactly `text`; kept.
    fn read(&mut self, text: &[u8], model: &dyn Model, exec: &mut Executor, tokenizer: &Tokenizer) -> Result<State> {
        if let Some((_, state)) = self.kept.iter().find(|(read, _)| read == text) {
            return Ok(state.clone());
        }
        let (read, mut state) = self.latest(text);
        let tokens = tokenizer.encode(&text[read.len()..])?;
        if !tokens.is_empty() {
            prefill(model, exec, &[&tokens], &mut [&mut state], &mut Vec::new(), &mut |_| {})?;
        }
        self.keep(text.to_vec(), state.clone());
        Ok(state)
    }

    fn keep(&mut self, read: Vec<u8>, state: State) {
        self.kept.retain(|(text, _)| *text != read);
        self.kept.push_back((read, state));
        if self.kept.len() > KEPT {
            self.kept.pop_front();
        }
    }
}
