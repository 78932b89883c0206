//! Conversations to documents in which only the assistant's replies count.

use std::ops::Range;

use anser_tokenizer::{Message, RenderOptions, Role, Tokenizer};
use serde_json::Value;

use super::LoadOptions;
use super::corpus::Builder;
use super::text::Place;
use crate::Error;

/// Appends a conversation as one document.
pub(super) fn read(
    messages: &[Value],
    place: &Place<'_>,
    options: &LoadOptions,
    builder: &mut Builder,
) -> Result<(), Error> {
    let messages =
        messages.iter().enumerate().map(|(i, value)| message(i, value, place)).collect::<Result<Vec<_>, _>>()?;
    let document = render(&messages, options, place)?;
    for piece in &document.pieces {
        push(&document.text[piece.text.clone()], piece.learned, options, place, builder)?;
    }
    let replied = messages.last().is_some_and(|message| message.role == Role::Assistant);
    builder.end_document(replied, place.file)
}

fn message(i: usize, value: &Value, place: &Place<'_>) -> Result<Message, Error> {
    const ROLES: &str = "`system`, `user`, `assistant` or `tool`";
    let field = |name: &str| format!("`{name}` of message {}", i + 1);
    let Value::Object(object) = value else {
        return Err(place.wrong_type(format!("message {}", i + 1), "an object with `role` and `content`", value));
    };
    let text = |name: &str, expected: &'static str| match object.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(place.wrong_type(field(name), expected, other)),
        None => Err(place.missing(&field(name), object)),
    };
    let role = match text("role", ROLES)?.as_str() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" => Role::Tool,
        other => return Err(place.wrong_type(field("role"), ROLES, &Value::String(other.to_string()))),
    };
    Ok(Message::new(role, text("content", "a string")?.clone()))
}

struct Document {
    text: String,
    pieces: Vec<Piece>,
}

/// A part of the text that is tokenised by itself, because it would be when the model is used: what it is given is
/// tokenised without knowing the reply.
struct Piece {
    text: Range<usize>,
    /// How many bytes at its begin count in the loss.
    learned: usize,
}

fn render(messages: &[Message], options: &LoadOptions, place: &Place<'_>) -> Result<Document, Error> {
    let special = |name| options.tokenizer.special_token(name).unwrap_or_default().to_string();
    let told = RenderOptions {
        add_generation_prompt: false,
        bos_token: special("bos_token"),
        eos_token: special("eos_token"),
        ..RenderOptions::default()
    };
    let asked = RenderOptions { add_generation_prompt: true, ..told.clone() };
    let render = |count: usize, options: &RenderOptions, template: &anser_tokenizer::Template| {
        template.render(&messages[..count], options).map_err(place.tokenizer())
    };
    let problem = |problem: String| Error::Conversation { file: place.file.into(), line: place.line, problem };

    let mut text = render(messages.len(), &told, &options.template)?;
    let stops = options.template.stops();
    // The piece that is open: where it begins, and how much of it counts.
    let (mut pieces, mut begin, mut learned) = (Vec::new(), 0, 0);
    for (i, _) in messages.iter().enumerate().filter(|(_, message)| message.role == Role::Assistant) {
        let before = render(i, &asked, &options.template)?;
        let after = render(i + 1, &told, &options.template)?;
        if before.len() < begin || !after.starts_with(&before) || !text.starts_with(&after) {
            let template = options.template.name();
            return Err(problem(format!(
                "the {template} chat template writes message {} differently once the conversation goes on, so the \
                 tokens of that reply cannot be told: keep the conversation up to its first such reply, or use another \
                 template",
                i + 1
            )));
        }
        pieces.push(Piece { text: begin..before.len(), learned });
        // A reply ends with its stop, which stands inside of it (a mark of its own) or is how the next turn begins.
        let inside = stops
            .iter()
            .filter_map(|stop| after[before.len()..].find(stop).map(|at| before.len() + at + stop.len()))
            .min();
        let end = inside.unwrap_or(after.len());
        pieces.push(Piece { text: before.len()..end, learned: end - before.len() });
        begin = end;
        learned = match inside {
            Some(_) => 0,
            None => stops.iter().find(|stop| text[end..].starts_with(*stop)).map_or(0, String::len),
        };
        if i + 1 == messages.len() {
            text.truncate(end);
            // Without a token that ends documents, the stop alone can end the last reply.
            if let (None, None, Some(stop)) = (inside, options.tokenizer.end_of_document(), stops.first()) {
                text.push_str(stop);
                learned = stop.len();
            }
        }
    }
    if pieces.is_empty() {
        return Err(problem("no message has the role `assistant`: there is nothing to learn".to_string()));
    }
    pieces.push(Piece { text: begin..text.len(), learned });
    Ok(Document { text, pieces })
}

/// Tokenises a piece; the tokens that begin in its first `learned` bytes count.
fn push(
    text: &str,
    learned: usize,
    options: &LoadOptions,
    place: &Place<'_>,
    builder: &mut Builder,
) -> Result<(), Error> {
    let ids = options.tokenizer.encode(text.as_bytes()).map_err(place.tokenizer())?;
    let count = if learned == text.len() { ids.len() } else { tokens_within(&options.tokenizer, &ids, learned) };
    builder.push(&ids[..count], true, place.file)?;
    builder.push(&ids[count..], false, place.file)
}

/// How many of `ids` begin in the first `bytes` bytes of what they spell.
fn tokens_within(tokenizer: &Tokenizer, ids: &[u32], bytes: usize) -> usize {
    let mut begin = 0;
    ids.iter()
        .position(|&id| {
            let here = begin;
            begin += tokenizer.token_bytes(id).map_or(0, |token| token.len());
            here >= bytes
        })
        .unwrap_or(ids.len())
}
