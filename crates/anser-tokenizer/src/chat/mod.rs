//! Chat prompts: the formats RWKV models were trained on, and the jinja templates of Hugging Face directories.
//!
//! A template only arranges the messages it is given: no preset system prompt, no example turn.

mod jinja;
mod think;

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::Error;
pub use jinja::Jinja;
pub use think::{Segment, ThinkSplitter, split_think};

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// The result of a function the model called.
    Tool,
}

impl Role {
    /// `system`, `user`, `assistant` or `tool`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: Role, content: impl Into<String>) -> Message {
        Message { role, content: content.into() }
    }
}

/// Whether and how long a G1 model thinks before it answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Think {
    /// Nothing is said about it: the reply begins after `Assistant:`.
    #[default]
    Unset,
    /// An empty think block is put in the model's mouth, in two lines: `<think>\n</think`.
    Fake,
    /// The same in one line: `<think></think`.
    FakeInline,
    /// The think block is begun for the model: `<think`.
    Free,
    /// Begun, and `(think)` stands after the user's text.
    Hinted,
    /// Begun, and `(think a bit)` stands after the user's text.
    Short,
    /// Begun, and `(think a lot)` stands after the user's text.
    Long,
}

impl Think {
    const NAMES: [(&'static str, Think); 7] = [
        ("unset", Think::Unset),
        ("fake", Think::Fake),
        ("fake-inline", Think::FakeInline),
        ("free", Think::Free),
        ("hinted", Think::Hinted),
        ("short", Think::Short),
        ("long", Think::Long),
    ];

    /// What the assistant's turn is begun with. Without its closing `>`, which the model itself writes: the tokenizer
    /// would otherwise join it with what follows.
    fn opening(self) -> &'static str {
        match self {
            Think::Unset => "",
            Think::Fake => " <think>\n</think",
            Think::FakeInline => " <think></think",
            Think::Free | Think::Hinted | Think::Short | Think::Long => " <think",
        }
    }

    fn hint(self, style: HintStyle) -> &'static str {
        match (self, style) {
            (Think::Hinted, HintStyle::Parentheses) => " (think)",
            (Think::Short, HintStyle::Parentheses) => " (think a bit)",
            (Think::Long, HintStyle::Parentheses) => " (think a lot)",
            (Think::Hinted, HintStyle::Bare) => " think",
            (Think::Short, HintStyle::Bare) => " think a bit",
            (Think::Long, HintStyle::Bare) => " think a lot",
            (Think::Unset | Think::Fake | Think::FakeInline | Think::Free, _) => "",
        }
    }
}

impl fmt::Display for Think {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Think::NAMES.iter().find(|(_, think)| think == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for Think {
    type Err = Error;

    fn from_str(name: &str) -> Result<Think, Error> {
        Think::NAMES.iter().find(|(n, _)| *n == name).map(|(_, think)| *think).ok_or_else(|| Error::UnknownName {
            what: "think mode",
            found: name.to_string(),
            choices: "unset, fake, fake-inline, free, hinted, short, long",
        })
    }
}

/// How G1 models of different dates were taught the length hints of [`Think`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HintStyle {
    /// `question (think a bit)`: the later G1x models.
    #[default]
    Parentheses,
    /// `question think a bit`: the first models with hints, of 22 September 2025.
    Bare,
}

/// A prompt format. [`FromStr`] knows the built-in ones by name; [`Template::jinja`] compiles one of a model directory.
#[derive(Clone, Debug)]
pub enum Template {
    /// `User: ...\n\nAssistant: ...`: World models, RWKV-4 World to RWKV-7 World.
    World,
    /// The same with think blocks: RWKV-7 G1 and its successors.
    G1 {
        /// How length hints are spelled.
        hints: HintStyle,
    },
    /// `Bob: ...\n\nAlice: ...`: RWKV-4 Raven, chatting.
    Raven,
    /// `# Instruction:` and `# Response:` headings: RWKV-4 Raven, one instruction.
    RavenInstruct,
    /// `### Instruction:` and `### Response:` headings: early Raven and other Alpaca-trained models.
    Alpaca,
    /// No turns at all: what the model writes continues what the user wrote, and the user's next text is the next
    /// paragraph. For models that only ever read stories.
    Story,
    /// A Hugging Face `chat_template`.
    Jinja(Jinja),
}

/// What a prompt is rendered for.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// End with the opening of the assistant's turn. Default: yes.
    pub add_generation_prompt: bool,
    /// Think mode of that turn. G1 only; a jinja template gets `enable_thinking` (left undefined for `Unset`).
    pub think: Think,
    /// Whether the think blocks of earlier replies stay in. Default: yes. Not for jinja templates, which decide that
    /// themselves.
    pub keep_think: bool,
    /// `bos_token` of a jinja template: [`Tokenizer::special_token`](crate::Tokenizer::special_token). Left empty for
    /// World tokenizers, which have no token that text could spell.
    pub bos_token: String,
    /// `eos_token` of a jinja template, likewise.
    pub eos_token: String,
    /// Further variables of a jinja template (`tools`, `documents`, ...).
    pub variables: serde_json::Map<String, serde_json::Value>,
    /// What a jinja template's `strftime_now` calls now. Default: the time of rendering.
    pub now: Option<SystemTime>,
}

impl Default for RenderOptions {
    fn default() -> RenderOptions {
        RenderOptions {
            add_generation_prompt: true,
            think: Think::Unset,
            keep_think: true,
            bos_token: String::new(),
            eos_token: String::new(),
            variables: serde_json::Map::new(),
            now: None,
        }
    }
}

impl FromStr for Template {
    type Err = Error;

    fn from_str(name: &str) -> Result<Template, Error> {
        match name {
            "world" => Ok(Template::World),
            "g1" => Ok(Template::G1 { hints: HintStyle::Parentheses }),
            "g1-bare" => Ok(Template::G1 { hints: HintStyle::Bare }),
            "raven" => Ok(Template::Raven),
            "raven-instruct" => Ok(Template::RavenInstruct),
            "alpaca" => Ok(Template::Alpaca),
            "story" => Ok(Template::Story),
            _ => Err(Error::UnknownName {
                what: "chat template",
                found: name.to_string(),
                choices: "world, g1, g1-bare, raven, raven-instruct, alpaca, story",
            }),
        }
    }
}

impl Template {
    /// Compiles the `chat_template` of a Hugging Face directory.
    pub fn jinja(source: &str) -> Result<Template, Error> {
        Jinja::new(source).map(Template::Jinja)
    }

    /// The name [`FromStr`] knows, or `jinja`.
    pub fn name(&self) -> &'static str {
        match self {
            Template::World => "world",
            Template::G1 { hints: HintStyle::Parentheses } => "g1",
            Template::G1 { hints: HintStyle::Bare } => "g1-bare",
            Template::Raven => "raven",
            Template::RavenInstruct => "raven-instruct",
            Template::Alpaca => "alpaca",
            Template::Story => "story",
            Template::Jinja(_) => "jinja",
        }
    }

    /// The whole prompt.
    ///
    /// The built-in templates join turns by a blank line, so text from outside must not hold one: user, system and tool
    /// texts get LF line ends, no runs of newlines, and no space around ([`clean`]). Replies are the model's own and
    /// are only trimmed ([`Template::Story`] leaves them as they are). [`Think`]'s hint is appended to the last user turn. Without a generation prompt the text ends
    /// with the last turn, no newline after it.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, Error> {
        if let Template::Jinja(template) = self {
            return template.render(messages, options);
        }
        let last_user = messages.iter().rposition(|m| m.role == Role::User);
        let mut turns = Vec::with_capacity(messages.len() + 1);
        for (i, message) in messages.iter().enumerate() {
            let hinted = Some(i) == last_user && options.add_generation_prompt;
            turns.push(self.turn(message, if hinted { options.think } else { Think::Unset }, options)?);
        }
        if options.add_generation_prompt {
            turns.push(self.opening(options)?);
        }
        if matches!(self, Template::Story) {
            return Ok(story(messages, &turns));
        }
        Ok(turns.join("\n\n"))
    }

    /// The text to append for `new` turns to a state that has read `earlier` ones, the last of them a reply the model
    /// has just written (without the stop after it): what [`render`](Template::render) of them all has after that
    /// reply.
    ///
    /// A jinja template may render earlier turns otherwise once there are later ones, and then there is no such text:
    /// `None`, and the conversation is to be read anew. The built-in templates always have one. It fits what `render`
    /// makes of the whole as long as replies have no space around them but the one after `Assistant:`, and hints given
    /// in earlier turns stand in their messages ([`hinted`](Template::hinted)).
    pub fn next_turn(
        &self,
        earlier: &[Message],
        new: &[Message],
        options: &RenderOptions,
    ) -> Result<Option<String>, Error> {
        let Template::Jinja(template) = self else {
            return self
                .render(new, options)
                .map(|text| if earlier.is_empty() { text } else { format!("\n\n{text}") })
                .map(Some);
        };
        let whole = template.render(&[earlier, new].concat(), options)?;
        let Some((reply, before)) = earlier.split_last() else { return Ok(Some(whole)) };
        let held = template.render(before, &RenderOptions { add_generation_prompt: true, ..options.clone() })?;
        Ok(whole.strip_prefix(&(held + &reply.content)).map(str::to_string))
    }

    /// The user's text as the template writes it with this think mode's hint: what to keep as that turn's content, if a
    /// later rendering is to repeat what the model has read.
    pub fn hinted(&self, content: &str, think: Think) -> String {
        strip(&(clean(content) + self.hint(think))).to_string()
    }

    /// What the assistant's turn is begun with after its name; the reply continues it (`<think`, for one). Empty for
    /// jinja templates: see the end of what they render.
    pub fn prefill(&self, think: Think) -> &'static str {
        match self {
            Template::G1 { .. } => think.opening(),
            _ => "",
        }
    }

    /// The strings that end a reply.
    pub fn stops(&self) -> Vec<String> {
        let stops: &[&str] = match self {
            Template::World | Template::G1 { .. } => &["\n\nUser"],
            Template::Raven => &["\n\nBob"],
            Template::RavenInstruct => &["\n\n# Instruction"],
            Template::Alpaca => &["\n\n### Instruction"],
            // It ends where the document does.
            Template::Story => &[],
            Template::Jinja(template) => template.stops(),
        };
        stops.iter().map(|stop| stop.to_string()).collect()
    }

    fn hint(&self, think: Think) -> &'static str {
        match self {
            Template::G1 { hints } => think.hint(*hints),
            _ => "",
        }
    }

    fn turn(&self, message: &Message, think: Think, options: &RenderOptions) -> Result<String, Error> {
        let unsupported =
            || Error::Unsupported { template: self.name(), what: format!("a {} message", message.role.as_str()) };
        let (user, assistant, system) = match self {
            Template::World | Template::G1 { .. } => ("User: ", "Assistant: ", "System: "),
            Template::Raven => ("Bob: ", "Alice: ", ""),
            Template::RavenInstruct => ("# Instruction:\n", "# Response:\n", ""),
            Template::Alpaca => ("### Instruction:\n", "### Response:\n", ""),
            Template::Story => ("", "", ""),
            Template::Jinja(_) => return Err(unsupported()),
        };
        Ok(match message.role {
            Role::Assistant if matches!(self, Template::Story) => message.content.clone(),
            Role::User => format!("{user}{}", self.hinted(&message.content, think)),
            Role::System => format!("{system}{}", clean(&message.content)),
            Role::Assistant if options.keep_think => format!("{assistant}{}", strip(&message.content)),
            Role::Assistant => format!("{assistant}{}", strip(split_think(&message.content).1)),
            Role::Tool => match self {
                Template::World | Template::G1 { .. } => format!("{user}Function output:\n{}", clean(&message.content)),
                _ => return Err(unsupported()),
            },
        })
    }

    fn opening(&self, options: &RenderOptions) -> Result<String, Error> {
        let name = match self {
            Template::G1 { .. } => return Ok(format!("Assistant:{}", options.think.opening())),
            Template::World => "Assistant:",
            Template::Raven => "Alice:",
            Template::RavenInstruct => "# Response:\n",
            Template::Alpaca => "### Response:\n",
            Template::Story | Template::Jinja(_) => "",
        };
        match options.think {
            Think::Unset => Ok(name.to_string()),
            think => Err(Error::Unsupported { template: self.name(), what: format!("think mode `{think}`") }),
        }
    }
}

/// Replies go on from the text before them, everything else is a paragraph.
fn story(messages: &[Message], turns: &[String]) -> String {
    let mut text = String::new();
    for (message, turn) in messages.iter().zip(turns) {
        if message.role != Role::Assistant && !text.is_empty() {
            text += "\n\n";
        }
        text += turn;
    }
    text
}

/// LF line ends, runs of newlines made one, no space around: so that text from outside cannot begin a turn.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.replace("\r\n", "\n").chars() {
        if c != '\n' || !out.ends_with('\n') {
            out.push(c);
        }
    }
    strip(&out).to_string()
}

/// Python's `str.strip()`, which the formats were defined with: it also takes the separators U+001C to U+001F.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}'))
}
