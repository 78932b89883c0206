//! Jinja chat templates of Hugging Face directories, in the environment `apply_chat_template` gives them.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value, from_args};
use minijinja::{AutoEscape, Environment, ErrorKind, State, UndefinedBehavior, context};
use minijinja_contrib::pycompat;

use super::{Message, RenderOptions, Think};
use crate::Error;

/// Instructions a template may run: thousands of turns, but no endless loop.
const FUEL: u64 = 10_000_000;

/// Bytes a template may write.
const MAX_OUTPUT: usize = 64 << 20;

/// A compiled `chat_template`.
#[derive(Clone)]
pub struct Jinja {
    environment: Arc<Environment<'static>>,
    stops: &'static [&'static str],
}

const NAME: &str = "chat_template";

impl Jinja {
    pub(super) fn new(source: &str) -> Result<Jinja, Error> {
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(explain)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(python_method);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(explain)?;

        // A turn's end is where the next speaker is named, or a mark of its own.
        let stops: &[&str] = if source.contains("<|im_end|>") {
            &["<|im_end|>"]
        } else if source.contains("User:") {
            &["\n\nUser"]
        } else {
            &[]
        };
        Ok(Jinja { environment: Arc::new(environment), stops })
    }

    pub(super) fn stops(&self) -> &'static [&'static str] {
        self.stops
    }

    pub(super) fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String, Error> {
        let enable_thinking = match options.think {
            Think::Unset => Value::UNDEFINED,
            Think::Fake | Think::FakeInline => Value::from(false),
            Think::Free | Think::Hinted | Think::Short | Think::Long => Value::from(true),
        };
        let now = options.now.unwrap_or_else(SystemTime::now);
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let variables = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt => options.add_generation_prompt,
            bos_token => options.bos_token.as_str(),
            eos_token => options.eos_token.as_str(),
            enable_thinking => enable_thinking,
            tools => Value::from(()),
            documents => Value::from(()),
            __now => since_epoch,
        };
        // The caller's variables come first where both have a name.
        let variables = context! { ..Value::from(Serde(&options.variables)), ..variables };
        let mut out = Limited(Vec::new());
        let template = self.environment.get_template(NAME).map_err(explain)?;
        template.render_captured_to(variables, &mut out).map_err(explain)?;
        Ok(String::from_utf8_lossy(&out.0).into_owned())
    }
}

impl fmt::Debug for Jinja {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Jinja")
    }
}

/// The error with the line it happened on and what lies beneath it.
fn explain(error: minijinja::Error) -> Error {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Error::Template(text)
}

/// A buffer that refuses to grow without end.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other("the template writes more than 64 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `{% generation %}` and its end mark replies for training and render nothing: an `if true` in their place keeps the
/// tags' whitespace control.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let word = tag[..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match word {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        out.push_str(&tag[..end].replacen(word, replacement, 1));
        rest = &tag[end..];
    }
    out + rest
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

fn strftime_now(state: &State, format: String) -> Result<String, minijinja::Error> {
    let invalid = |e: jiff::Error| minijinja::Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}"));
    let seconds = state.lookup("__now").and_then(|now| i64::try_from(now).ok()).unwrap_or(0);
    let now = jiff::Timestamp::from_second(seconds).map_err(invalid)?.to_zoned(jiff::tz::TimeZone::system());
    jiff::fmt::strtime::format(&format, &now).map_err(invalid)
}

/// The methods of Python's types that templates call.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    let Some(text) = value.as_str() else { return pycompat::unknown_method_callback(state, value, method, args) };
    match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "title" => {
            from_args::<()>(args)?;
            Ok(Value::from(title(text)))
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// Capitals after everything that is no letter, as Python has it.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        in_word = c.is_alphabetic();
    }
    out
}

/// `json.dumps`, with the options `apply_chat_template` passes through. Nothing is escaped for HTML.
fn to_json(value: Value, kwargs: Kwargs) -> Result<Value, minijinja::Error> {
    let invalid = |what: &str| minijinja::Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"));
    if value.is_undefined() {
        return Err(invalid("the value is undefined"));
    }
    let indent = match kwargs.get::<Option<Value>>("indent")? {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => match (value.as_str(), usize::try_from(value.clone())) {
            (Some(text), _) => Some(text.to_string()),
            (None, Ok(width)) if width <= 64 => Some(" ".repeat(width)),
            _ => return Err(invalid("indent is a text or a small number")),
        },
    };
    let (item, key) = match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("separators are two texts")),
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
    };
    let style = JsonStyle {
        indent,
        item,
        key,
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let value = serde_json::to_value(&value).map_err(|e| invalid(&e.to_string()))?;
    let mut out = String::new();
    style.write(&value, 0, &mut out);
    Ok(Value::from(out))
}

struct JsonStyle {
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl JsonStyle {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.begin(i, depth, out);
                    self.write(item, depth + 1, out);
                }
                self.end(']', depth, out);
            }
            serde_json::Value::Object(map) if !map.is_empty() => {
                let mut entries: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                out.push('{');
                for (i, (key, value)) in entries.into_iter().enumerate() {
                    self.begin(i, depth, out);
                    self.scalar(&serde_json::Value::from(key.as_str()), out);
                    out.push_str(&self.key);
                    self.write(value, depth + 1, out);
                }
                self.end('}', depth, out);
            }
            scalar => self.scalar(scalar, out),
        }
    }

    fn begin(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(&self.item);
        }
        self.new_line(depth + 1, out);
    }

    fn end(&self, bracket: char, depth: usize, out: &mut String) {
        self.new_line(depth, out);
        out.push(bracket);
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    }

    fn scalar(&self, value: &serde_json::Value, out: &mut String) {
        let text = value.to_string();
        if !self.ensure_ascii {
            out.push_str(&text);
            return;
        }
        for c in text.chars() {
            match c {
                c if c.is_ascii() => out.push(c),
                c => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
    }
}
