use std::time::{Duration, SystemTime};

use anser_tokenizer::chat::{HintStyle, Segment, Think, ThinkSplitter, split_think};
use anser_tokenizer::{Error, Message, RenderOptions, Role, Template};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::golden_json;

#[derive(Deserialize)]
struct Cases {
    jinja: Vec<JinjaCase>,
    builtin: Vec<BuiltinCase>,
}

#[derive(Deserialize)]
struct JinjaCase {
    template: String,
    title: String,
    messages: Vec<Message>,
    add_generation_prompt: bool,
    variables: Map<String, Value>,
    text: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct BuiltinCase {
    template: String,
    think: String,
    title: String,
    messages: Vec<Message>,
    text: String,
}

fn cases() -> Cases {
    golden_json("chat/cases.json")
}

fn jinja(name: &str) -> Template {
    let path = anser_testkit::golden_dir().join(format!("chat/{name}.jinja"));
    Template::jinja(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn jinja_templates_render_as_transformers_does() {
    for case in cases().jinja {
        let mut variables = case.variables;
        // The think mode is an option of ours; the rest goes in as it is.
        let think = match variables.remove("enable_thinking") {
            Some(Value::Bool(true)) => Think::Free,
            Some(_) => Think::Fake,
            None => Think::Unset,
        };
        let options = RenderOptions {
            add_generation_prompt: case.add_generation_prompt,
            think,
            bos_token: "<|endoftext|>".into(),
            eos_token: "<|call|>".into(),
            variables,
            ..RenderOptions::default()
        };
        let what = format!("{} / {}", case.template, case.title);
        match (jinja(&case.template).render(&case.messages, &options), case.text, case.error) {
            (Ok(text), Some(wanted), None) => assert_eq!(text, wanted, "{what}"),
            (Err(error), None, Some(wanted)) => assert!(error.to_string().contains(&wanted), "{what}: {error}"),
            (found, wanted, error) => panic!("{what}: {found:?}, expected {wanted:?} {error:?}"),
        }
    }
}

#[test]
fn builtin_templates_follow_the_official_rules() {
    for case in cases().builtin {
        let template: Template = case.template.parse().unwrap();
        assert_eq!(template.name(), case.template);
        let options = RenderOptions { think: case.think.parse().unwrap(), ..RenderOptions::default() };
        let text = template.render(&case.messages, &options).unwrap();
        assert_eq!(text, case.text, "{} {} / {}", case.template, case.think, case.title);
        assert_eq!(case.think.parse::<Think>().unwrap().to_string(), case.think);
    }
}

fn user(text: &str) -> Message {
    Message::new(Role::User, text)
}

fn assistant(text: &str) -> Message {
    Message::new(Role::Assistant, text)
}

const G1: Template = Template::G1 { hints: HintStyle::Parentheses };

#[test]
fn nothing_hidden_and_no_space_at_the_end() {
    let options = RenderOptions::default();
    assert_eq!(Template::World.render(&[user("Hi")], &options).unwrap(), "User: Hi\n\nAssistant:");
    assert_eq!(Template::World.render(&[], &options).unwrap(), "Assistant:");
    assert_eq!(Template::World.stops(), ["\n\nUser"]);
    assert_eq!(jinja("rwkv7").stops(), ["\n\nUser"]);
    assert_eq!(jinja("chatml").stops(), ["<|im_end|>"]);
}

#[test]
fn a_story_is_continued_as_it_was_written() {
    let options = RenderOptions::default();
    let beginning = [user("Once upon\n\na time ")];
    assert_eq!(Template::Story.render(&beginning, &options).unwrap(), "Once upon\na time");
    let told = [user("Once"), assistant(", there was a goose. "), user("The goose"), assistant(" flew.")];
    let text = "Once, there was a goose. \n\nThe goose flew.";
    assert_eq!(Template::Story.render(&told, &options).unwrap(), text);
    assert_eq!(Template::Story.render(&[], &options).unwrap(), "");
    assert_eq!(Template::Story.next_turn(&told[..2], &told[2..3], &options).unwrap().unwrap(), "\n\nThe goose");
    let error = Template::Story.render(&told, &RenderOptions { think: Think::Free, ..Default::default() });
    assert!(error.unwrap_err().to_string().contains("story"));
    assert!(Template::Story.stops().is_empty());
    assert!(matches!("story".parse(), Ok(Template::Story)));
}

#[test]
fn think_blocks_can_be_dropped_from_history() {
    let turns = [user("1+1?"), assistant("<think>\nEasy.\n</think>\n2"), user("Sure?")];
    let options = RenderOptions { keep_think: false, think: Think::Free, ..RenderOptions::default() };
    let text = G1.render(&turns, &options).unwrap();
    assert_eq!(text, "User: 1+1?\n\nAssistant: 2\n\nUser: Sure?\n\nAssistant: <think");
}

#[test]
fn what_a_template_cannot_say_is_refused() {
    let error = Template::World.render(&[user("x")], &RenderOptions { think: Think::Free, ..Default::default() });
    assert_eq!(error.unwrap_err().to_string(), "the world chat template cannot express think mode `free`");
    let error = Template::Raven.render(&[Message::new(Role::Tool, "x")], &RenderOptions::default());
    assert_eq!(error.unwrap_err().to_string(), "the raven chat template cannot express a tool message");
    assert!("chatgpt".parse::<Template>().unwrap_err().to_string().contains("raven-instruct"));
    assert!("deep".parse::<Think>().unwrap_err().to_string().contains("fake-inline"));
}

/// What a session's state has read after a conversation in which the model gave these replies.
fn heard(template: &Template, turns: &[(String, String)], options: &RenderOptions) -> (String, Vec<Message>) {
    let (mut text, mut messages) = (String::new(), Vec::new());
    for (question, reply) in turns {
        let new = [user(question)];
        text += &template.next_turn(&messages, &new, options).unwrap().expect("built-in templates always continue");
        text += reply;
        let content = format!("{}{reply}", template.prefill(options.think));
        messages.extend([user(&template.hinted(question, options.think)), assistant(&content)]);
    }
    (text, messages)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn turn_by_turn_is_the_whole(
        turns in prop::collection::vec(("[ a\\n中]{0,8}", "[a中]([a\\n中 ]{0,6}[a中])?"), 1..4),
        mode in 0usize..4,
    ) {
        let think = [Think::Unset, Think::Fake, Think::Free, Think::Short][mode];
        // A reply begins with the space after "Assistant:", or ends the tag begun for it.
        let before = if think == Think::Unset { " " } else { ">" };
        let turns: Vec<_> = turns.into_iter().map(|(q, a)| (q, format!("{before}{a}"))).collect();
        let options = RenderOptions { think, ..RenderOptions::default() };
        let (text, messages) = heard(&G1, &turns, &options);
        let whole = G1.render(&messages, &RenderOptions { add_generation_prompt: false, ..options }).unwrap();
        prop_assert_eq!(text, whole);
    }

    #[test]
    fn thinking_streams_as_it_splits(pieces in prop::collection::vec("(<think>|</think>|<|think|/|>|[a \\n中]){0,3}", 0..10)) {
        let reply = pieces.concat();
        let mut splitter = ThinkSplitter::new("");
        let mut segments: Vec<Segment> = pieces.iter().flat_map(|piece| splitter.push(piece)).collect();
        segments.extend(splitter.finish());
        let (mut think, mut answer) = (String::new(), String::new());
        for segment in segments {
            match segment {
                Segment::Think(text) => think += &text,
                Segment::Answer(text) => answer += &text,
            }
        }
        let (wanted_think, wanted_answer) = split_think(&reply);
        prop_assert_eq!(think, wanted_think.unwrap_or_default());
        prop_assert_eq!(answer, wanted_answer);
    }
}

#[test]
fn a_prefilled_think_block_is_not_shown() {
    let mut splitter = ThinkSplitter::new(G1.prefill(Think::Free));
    assert_eq!(splitter.push(">Hm"), [Segment::Think("Hm".into())]);
    assert!(splitter.thinking());
    assert_eq!(splitter.push(".</thi"), [Segment::Think(".".into())]);
    assert_eq!(splitter.push("nk>\n"), []);
    assert_eq!(splitter.push("Yes"), [Segment::Answer("Yes".into())]);
    assert_eq!(splitter.finish(), None);
    let mut splitter = ThinkSplitter::new(G1.prefill(Think::Fake));
    assert_eq!(splitter.push(">\nYes <think>"), [Segment::Answer("Yes <think>".into())]);
}

#[test]
fn jinja_turns_continue_or_say_that_they_cannot() {
    let earlier = [user("One?"), assistant("Eins")];
    let new = [user("Two?")];
    let options = RenderOptions::default();
    let chatml = jinja("chatml");
    let added = chatml.next_turn(&earlier, &new, &options).unwrap();
    assert_eq!(added.unwrap(), "<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\n");
    let first = chatml.next_turn(&[], &new, &options).unwrap().unwrap();
    assert_eq!(first, chatml.render(&new, &options).unwrap());
    // This template drops the think block of an earlier reply, so the state has read something else.
    let thought = [user("One?"), assistant(" <think>ja</think>Eins")];
    assert_eq!(jinja("rwkv7").next_turn(&thought, &new, &options).unwrap(), None);
}

#[test]
fn strftime_now_uses_the_given_time() {
    // The middle of a year and of a day, so that no time zone moves the year or the month.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_782_000_000);
    let options = RenderOptions { now: Some(now), ..RenderOptions::default() };
    let template = Template::jinja("{{ strftime_now('%B %Y') }}").unwrap();
    assert_eq!(template.render(&[], &options).unwrap(), "June 2026");
    let error = Template::jinja("{{ strftime_now('%E') }}").unwrap().render(&[], &options).unwrap_err();
    assert!(matches!(error, Error::Template(_)), "{error}");
}

#[test]
fn hostile_templates_end_in_an_error() {
    let options =
        RenderOptions { variables: [("x".to_string(), json!("y"))].into_iter().collect(), ..Default::default() };
    for source in [
        "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ 'goose' * 10000 }}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ raise_exception('no') }}",
        "{{ messages[0].content.nonsense() }}",
        "{{ x | no_such_filter }}",
        "{% include 'other' %}",
    ] {
        match Template::jinja(source) {
            Ok(template) => assert!(template.render(&[user("hi")], &options).is_err(), "{source}"),
            Err(error) => assert!(error.to_string().starts_with("chat template: "), "{error}"),
        }
    }
    for source in ["{% if %}", "{{", "{% endfor %}", "{% generation", "{% for x in y %}"] {
        let error = Template::jinja(source).unwrap_err();
        assert!(matches!(error, Error::Template(_)), "{source}: {error}");
    }
}
