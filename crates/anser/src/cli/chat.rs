//! `anser chat`: a conversation in the terminal, or over a pipe.

mod conversation;
mod input;

use std::path::{Path, PathBuf};

use anser_checkpoint::Version;
use anser_engine::sampling::Sampling;
use anser_tokenizer::chat::{Segment, Think, ThinkSplitter};
use anser_tokenizer::{RenderOptions, Template, Tokenizer};
use anyhow::{Context, Result};
use clap::ValueEnum;

use super::error::{Interrupted, usage};
use super::generate;
use super::model::{Loaded, ModelArgs, StateArgs};
use super::output::{self, Interrupt};
use super::sampling::SamplingArgs;
use conversation::{Conversation, Draw};
use input::{Input, Line};

const COMMANDS: &str = "\
/save FILE     keep the conversation's state
/load FILE     go on from a kept state
/undo          take the last turn back
/reset         begin anew
/system TEXT   set the system prompt; without TEXT remove it
/state         what the model remembers, in numbers
/help          this list
/quit          end (or Ctrl-D)
A line that begins with // is sent with one slash. Ctrl-C ends a reply.
";

/// Talk with a model
#[derive(clap::Args)]
#[command(after_help = "\
Commands in the chat: /save FILE, /load FILE, /undo, /reset, /system TEXT, /state, /help, /quit.
Replies go to stdout, everything else to stderr; lines may come from a pipe. Nothing is put before
the conversation that you did not write. Sampling defaults: temperature 1, top-p 0.3, presence and
frequency penalties 0.5, as the reference chat demo. The template story, the built-in model's, has no
turns: replies continue what you write, with generate's sampling defaults and at most 256 tokens.

Examples:
  anser chat
  anser chat model.pth
  anser chat rwkv7-g1.pth --think-mode free --think hide --drop-think
  echo \"What is a goose?\" | anser chat model.pth --temperature 0")]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,

    /// world, g1, g1-bare, raven, raven-instruct, alpaca, story, or a jinja file [default: told from the checkpoint]
    #[arg(long, value_name = "NAME|FILE", help_heading = "Chat")]
    template: Option<String>,

    /// The system prompt
    #[arg(long, value_name = "TEXT", help_heading = "Chat")]
    system: Option<String>,

    /// How think blocks are shown: show with their tags, dim, or hide
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value_t = ThinkDisplay::Dim,
        hide_possible_values = true,
        help_heading = "Chat"
    )]
    think: ThinkDisplay,

    /// Whether and how long to think: unset, fake, fake-inline, free, hinted, short, long
    #[arg(long, value_name = "MODE", default_value = "unset", value_parser = parse_think, help_heading = "Chat")]
    think_mode: Think,

    /// Drop the think blocks of earlier replies from what the model reads
    #[arg(long, help_heading = "Chat")]
    drop_think: bool,

    /// Most tokens of a reply [default: 4096; 256 of a story]
    #[arg(short = 'n', long, value_name = "N", help_heading = "Chat")]
    max_tokens: Option<usize>,

    /// End a reply before this string as well; may be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, help_heading = "Chat")]
    stop: Vec<String>,

    #[command(flatten)]
    state: StateArgs,

    /// Keep the state when the chat ends
    #[arg(long, value_name = "FILE", help_heading = "State")]
    save_state: Option<PathBuf>,

    /// Where typed lines are kept [default: anser/chat_history in the user's state folder]
    #[arg(long, value_name = "FILE", help_heading = "Chat")]
    history: Option<PathBuf>,

    #[command(flatten)]
    sampling: SamplingArgs,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum ThinkDisplay {
    Show,
    // With their tags where there is no colour.
    Dim,
    Hide,
}

fn parse_think(name: &str) -> Result<Think, String> {
    name.parse().map_err(|error: anser_tokenizer::Error| error.to_string())
}

pub(crate) fn run(args: Args) -> Result<()> {
    let interrupt = Interrupt::listen()?;
    let mut loaded = args.model.load()?;
    let template = template(&args, &loaded)?;
    let special = |name| loaded.tokenizer().map(|t: &Tokenizer| t.special_token(name).unwrap_or_default().to_string());
    let options = RenderOptions {
        think: args.think_mode,
        keep_think: !args.drop_think,
        bos_token: special("bos_token")?,
        eos_token: special("eos_token")?,
        ..RenderOptions::default()
    };
    let stops = [template.stops(), args.stop.clone()].concat();
    let base = loaded.state(&args.state)?;
    let tells_stories = matches!(template, Template::Story);
    if tells_stories {
        eprintln!("write how a story begins and the model goes on; /reset begins another, /help lists the commands");
    } else {
        eprintln!("{} template; /help lists the commands, Ctrl-D ends", template.name());
    }
    let mut conversation = Conversation::new(base, template, options);
    if let Some(system) = &args.system {
        conversation.set_system(system);
    }
    let sampling = args.sampling.resolve(&match tells_stories {
        true => generate::defaults(),
        false => Sampling { top_p: 0.3, presence: 0.5, frequency: 0.5, ..Sampling::default() },
    });
    let max_tokens = args.max_tokens.unwrap_or(if tells_stories { 256 } else { 4096 });

    let mut input = Input::open(args.history.clone())?;
    let mut turn = 0;
    loop {
        let line = match input.line()? {
            Line::Text(line) => line,
            Line::Cancelled => {
                eprintln!("Ctrl-D or /quit ends the chat");
                continue;
            }
            Line::End => break,
        };
        let said = line.trim();
        if said.is_empty() {
            continue;
        }
        if let Some(command) = said.strip_prefix('/').filter(|rest| !rest.starts_with('/')) {
            let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
            if matches!(name, "quit" | "exit") {
                break;
            }
            if let Err(error) = obey(name, rest.trim(), &mut conversation, &mut loaded, args.state.allow_foreign_state)
            {
                eprintln!("error: {error:#}");
            }
            continue;
        }
        let said = said.strip_prefix("//").map_or_else(|| said.to_string(), |rest| format!("/{rest}"));
        let draw = Draw {
            // Another seed each turn, or like questions would get like answers.
            sampling: Sampling { seed: sampling.seed.map(|seed| seed.wrapping_add(turn)), ..sampling.clone() },
            max_tokens,
            stops: &stops,
            interrupt: &interrupt,
        };
        turn += 1;
        let mut display = Display::new(args.think, conversation.template.prefill(args.think_mode));
        let (model, exec, tokenizer) = loaded.parts()?;
        conversation.reply(&said, draw, model, exec, tokenizer, |text| display.show(text))?;
        display.finish()?;
        if interrupt.requested() {
            if matches!(input, Input::Pipe) {
                return Err(Interrupted.into());
            }
            interrupt.clear();
        }
    }
    match &args.save_state {
        Some(path) => save(path, &mut conversation, &mut loaded),
        None => Ok(()),
    }
}

/// Runs one of the chat's commands.
fn obey(
    name: &str,
    rest: &str,
    conversation: &mut Conversation,
    loaded: &mut Loaded,
    allow_foreign: bool,
) -> Result<()> {
    let file = || match rest {
        "" => Err(usage(format!("/{name} needs a file name"), "")),
        path => Ok(PathBuf::from(path)),
    };
    match name {
        "save" => {
            let path = file()?;
            save(&path, conversation, loaded)?;
            eprintln!("saved to {}", path.display());
        }
        "load" => {
            let state = loaded.load_state(&file()?, allow_foreign)?;
            eprintln!("going on after {} tokens", state.tokens());
            conversation.restart(state);
        }
        "undo" if conversation.undo() => eprintln!("took the last turn back"),
        "undo" => eprintln!("there is no turn to take back"),
        "reset" => {
            conversation.restart(loaded.model.new_state());
            eprintln!("the conversation begins anew");
        }
        "system" => {
            conversation.set_system(rest);
            eprintln!("{}", if rest.is_empty() { "no system prompt" } else { "system prompt set" });
        }
        "state" => {
            let (model, exec, tokenizer) = loaded.parts()?;
            let state = conversation.state(model, exec, tokenizer)?;
            let (messages, slots) = (conversation.messages.len(), state.slots().len());
            eprintln!("{} tokens read, {messages} messages; {slots} slots, {} bytes", state.tokens(), state.bytes());
        }
        "help" => eprint!("{COMMANDS}"),
        _ => eprintln!("there is no command /{name}; /help lists them"),
    }
    Ok(())
}

fn save(path: &Path, conversation: &mut Conversation, loaded: &mut Loaded) -> Result<()> {
    let (model, exec, tokenizer) = loaded.parts()?;
    let state = conversation.state(model, exec, tokenizer)?;
    loaded.save_state(&state, path)
}

/// The template asked for, else the checkpoint's own, else what models of this kind were trained on.
fn template(args: &Args, loaded: &Loaded) -> Result<Template> {
    let Some(name) = &args.template else {
        if let Some(source) = loaded.checkpoint.chat_template() {
            return Template::jinja(source).context("the checkpoint's chat template (--template names another)");
        }
        if loaded.built_in {
            return Ok(Template::Story);
        }
        let file = loaded.checkpoint.path().to_string_lossy().to_lowercase();
        let name = match loaded.checkpoint.config().version {
            Version::V4 if file.contains("raven") => "raven",
            Version::V7 if file.contains("g1") => "g1",
            _ => "world",
        };
        return Ok(name.parse()?);
    };
    if Path::new(name).is_file() {
        let source = std::fs::read_to_string(name).with_context(|| format!("cannot read {name}"))?;
        return Template::jinja(&source).with_context(|| name.clone());
    }
    name.parse().map_err(|error: anser_tokenizer::Error| usage(error.to_string(), "or pass the path of a jinja file"))
}

/// Writes a reply to stdout, its think block as the user wants it.
struct Display {
    splitter: ThinkSplitter,
    think: ThinkDisplay,
    styled: bool,
    thinking: bool,
    text: String,
}

impl Display {
    fn new(think: ThinkDisplay, prefill: &str) -> Display {
        let splitter = ThinkSplitter::new(prefill.trim_start());
        Display { splitter, think, styled: output::styled(), thinking: false, text: String::new() }
    }

    fn show(&mut self, text: &str) -> Result<()> {
        for segment in self.splitter.push(text) {
            self.segment(segment)?;
        }
        Ok(())
    }

    fn segment(&mut self, segment: Segment) -> Result<()> {
        let dim = self.think == ThinkDisplay::Dim && self.styled;
        let (open, close) = if dim { ("\x1b[2m", "\x1b[0m\n\n") } else { ("<think>\n", "\n</think>\n\n") };
        match segment {
            Segment::Think(_) if self.think == ThinkDisplay::Hide => Ok(()),
            Segment::Think(text) => {
                let open = if std::mem::replace(&mut self.thinking, true) { "" } else { open };
                self.write(&format!("{open}{text}"))
            }
            Segment::Answer(text) => {
                let close = if std::mem::take(&mut self.thinking) { close } else { "" };
                self.write(&format!("{close}{text}"))
            }
        }
    }

    fn finish(&mut self) -> Result<()> {
        if let Some(segment) = self.splitter.finish() {
            self.segment(segment)?;
        }
        if std::mem::take(&mut self.thinking) && self.styled {
            self.write("\x1b[0m")?;
        }
        if self.text.ends_with('\n') { Ok(()) } else { self.write("\n") }
    }

    fn write(&mut self, text: &str) -> Result<()> {
        output::text(text)?;
        self.text = text.to_string();
        Ok(())
    }
}
