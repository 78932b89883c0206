//! The think block at the start of a reply.

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// A piece of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Inside the think block.
    Think(String),
    /// The answer.
    Answer(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    /// In the block; `true` until something other than space came.
    Think(bool),
    Answer(bool),
}

/// Parts a reply into its think block and its answer, as it streams.
///
/// Only a block at the very start counts: a model may write about `<think>` later. The tags, and the space after each,
/// belong to neither part.
#[derive(Clone, Debug)]
pub struct ThinkSplitter {
    place: Place,
    /// The end of the text so far, which may be the beginning of a tag.
    held: String,
}

impl ThinkSplitter {
    /// A splitter for a reply the prompt has begun with `prefill` ([`Template::prefill`](super::Template::prefill)),
    /// which is not shown.
    pub fn new(prefill: &str) -> ThinkSplitter {
        let mut splitter = ThinkSplitter { place: Place::Start, held: String::new() };
        splitter.push(prefill);
        splitter
    }

    /// Takes the next piece of the reply.
    pub fn push(&mut self, text: &str) -> Vec<Segment> {
        let mut text = std::mem::take(&mut self.held) + text;
        let mut segments = Vec::new();
        loop {
            if !matches!(self.place, Place::Think(false) | Place::Answer(false)) {
                text.drain(..text.len() - text.trim_start().len());
            }
            if text.is_empty() {
                return segments;
            }
            match self.place {
                Place::Start if text.starts_with(OPEN) => {
                    text.drain(..OPEN.len());
                    self.place = Place::Think(true);
                }
                Place::Start if OPEN.starts_with(&text) => {
                    self.held = text;
                    return segments;
                }
                Place::Start => self.place = Place::Answer(true),
                Place::Think(_) => {
                    let (end, tag) = match text.find(CLOSE) {
                        Some(at) => (at, CLOSE.len()),
                        None => (text.len() - beginning(&text, CLOSE), 0),
                    };
                    if end > 0 {
                        segments.push(Segment::Think(text[..end].to_string()));
                        self.place = Place::Think(false);
                    }
                    text.drain(..end + tag);
                    if tag == 0 {
                        self.held = text;
                        return segments;
                    }
                    self.place = Place::Answer(true);
                }
                Place::Answer(_) => {
                    self.place = Place::Answer(false);
                    segments.push(Segment::Answer(text));
                    return segments;
                }
            }
        }
    }

    /// The end of the reply: what was held back as the beginning of a tag.
    pub fn finish(&mut self) -> Option<Segment> {
        let held = std::mem::take(&mut self.held);
        match self.place {
            _ if held.is_empty() => None,
            Place::Think(_) => Some(Segment::Think(held)),
            Place::Start | Place::Answer(_) => Some(Segment::Answer(held)),
        }
    }

    /// Whether the reply is inside its think block.
    pub fn thinking(&self) -> bool {
        matches!(self.place, Place::Think(_))
    }
}

/// Length of the longest end of `text` that begins `tag`.
fn beginning(text: &str, tag: &str) -> usize {
    (1..tag.len()).rev().find(|&n| text.ends_with(&tag[..n])).unwrap_or(0)
}

/// The think block of a whole reply, if it begins with one, and the answer after it; an unfinished block leaves no
/// answer. As [`ThinkSplitter`] parts it.
pub fn split_think(reply: &str) -> (Option<&str>, &str) {
    let Some(inside) = reply.trim_start().strip_prefix(OPEN) else { return (None, reply.trim_start()) };
    match inside.split_once(CLOSE) {
        Some((think, answer)) => (Some(think.trim_start()), answer.trim_start()),
        None => (Some(inside.trim_start()), ""),
    }
}
