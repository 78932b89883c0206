//! The model that is part of the program. Which one it is changes; nothing here depends on what it writes.

use std::ffi::OsStr;

use anser::checkpoint::OpenOptions;
use anser::demo;
use serde_json::Value;

use crate::util::Sandbox;

const SAID: &str = "no model named: taking demo";

#[test]
fn weights_and_vocabulary_belong_together() {
    let checkpoint = demo::checkpoint(&OpenOptions::default()).unwrap();
    let tokenizer = demo::tokenizer().unwrap();
    assert_eq!(checkpoint.path().to_str(), Some(demo::NAME));
    assert!(tokenizer.vocab_size() <= checkpoint.config().vocab, "tokens that the model has no row for");
    assert!(tokenizer.end_of_document().is_some());
    for text in ["Once upon a time", "Gänse, 大雁 🦢\n\n\t", ""] {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text.as_bytes()).unwrap()), text.as_bytes());
    }
}

#[test]
fn it_is_taken_when_no_model_is_named() {
    let sandbox = Sandbox::new();
    let prompt: [&dyn AsRef<OsStr>; 6] = [&"-p", &"Once upon a time", &"-n", &"24", &"--seed", &"7"];
    let unnamed = sandbox.run(&[&[&"generate" as &dyn AsRef<OsStr>], &prompt[..]].concat());
    assert!(unnamed.stderr.starts_with(SAID) && unnamed.stderr.lines().count() == 1, "{}", unnamed.stderr);
    let unnamed = unnamed.text();
    assert!(!unnamed.is_empty());
    let named = sandbox.run(&[&[&"generate" as &dyn AsRef<OsStr>, &"demo"], &prompt[..]].concat());
    assert_eq!(named.stderr, "", "who names it knows it");
    assert_eq!(named.text(), unnamed);

    let report = sandbox.run(&[&[&"generate" as &dyn AsRef<OsStr>, &"--json"], &prompt[..]].concat()).json();
    assert_eq!(report["model"], "demo");
    let text = report["text"].as_str().unwrap();
    assert!(unnamed.starts_with(text.trim_end_matches('\u{fffd}')), "{text:?}, {unnamed:?}");
    assert!((1..=24).contains(&report["tokens"].as_array().unwrap().len()));
}

#[test]
fn every_command_knows_it() {
    let sandbox = Sandbox::new();
    let info = sandbox.run(&[&"info", &"--json"]);
    assert!(info.stderr.starts_with(SAID), "{}", info.stderr);
    let info = info.json();
    let number = |field: &str| info[field].as_u64().unwrap();
    assert_eq!(info["path"], "demo");
    assert_eq!(number("width"), number("heads") * number("head_size"));
    assert_eq!(info["version"], "7");
    assert_eq!(number("state_bytes"), 4 * number("layers") * number("width") * (2 + number("head_size")));
    assert!(number("parameters") > 2 * number("vocab") * number("width"));
    assert!(info["tokenizer"].as_str().unwrap().starts_with("built in"));
    assert!(sandbox.run(&[&"info", &"demo"]).text().starts_with("model          demo\n"));

    let zoo = sandbox.run(&[&"zoo", &"--json"]).json();
    let row = zoo.as_array().unwrap().iter().find(|row| row["size"] == "demo").unwrap();
    for field in ["version", "layers", "width", "vocab", "parameters", "state_bytes", "flops_per_token"] {
        assert_eq!(row[field], info[field], "{field}");
    }

    let logits = sandbox.run(&[&"logits", &"-p", &"Once", &"--json"]).json();
    assert_eq!(logits["logits"].as_array().unwrap().len() as u64, number("vocab"));

    sandbox.write("text", "Once upon a time there was a goose.");
    let perplexity = sandbox.run(&[&"perplexity", &"-f", &"text", &"--json"]).json();
    assert!(perplexity["bits_per_byte"].as_f64().unwrap() > 0.0);

    sandbox.write("rows", "{\"text\": \"The goose flew over the river\"}\n");
    assert_eq!(sandbox.run(&[&"eval", &"--task", &"lambada", &"rows", &"--json"]).json()["rows"], 1);

    let few: [&dyn AsRef<OsStr>; 9] =
        [&"bench", &"--prefill", &"4", &"--decode", &"2", &"--batch", &"2", &"--repeat", &"1"];
    let bench: Value = sandbox.run(&[&few[..], &[&"--json"]].concat()).json();
    assert_eq!(bench["model"], "demo");
    assert_eq!(bench["parameters"], info["parameters"]);
}

#[test]
fn its_states_are_its_own() {
    let sandbox = Sandbox::new();
    let greedy = |args: &[&dyn AsRef<OsStr>]| {
        let common: [&dyn AsRef<OsStr>; 4] = [&"generate", &"--temperature", &"0", &"--raw"];
        sandbox.run(&[&common[..], args].concat()).ok()
    };
    // Cut where a word begins: the tokens are those of the whole.
    let whole = greedy(&[&"-p", &"Once upon a time", &"-n", &"12"]);
    greedy(&[&"-p", &"Once upon", &"-n", &"0", &"--save-state", &"a.state"]);
    assert_eq!(greedy(&[&"demo", &"--state", &"a.state", &"-p", &" a time", &"-n", &"12"]), whole);
    let info = sandbox.run(&[&"info", &"--json"]).json();
    let state = sandbox.run(&[&"state", &"inspect", &"a.state", &"--json"]).json();
    assert_eq!(state["header"]["fingerprint"], info["fingerprint"]);
}

#[test]
fn chat_tells_stories() {
    let sandbox = Sandbox::new();
    let chat = |lines: &str, more: &[&dyn AsRef<OsStr>]| {
        let args: [&dyn AsRef<OsStr>; 4] = [&"chat", &"--temperature", &"0", &"-n"];
        let outcome = sandbox.pipe(lines.as_bytes(), &[&args[..], &[&"12"], more].concat());
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        (String::from_utf8(outcome.stdout).unwrap(), outcome.stderr)
    };
    let (told, talk) = chat("Once upon a time\n", &[]);
    assert!(talk.starts_with(SAID) && talk.contains("how a story begins"), "{talk}");
    // What is written goes straight on from what was said, but for the space that a new line makes up for.
    let text = sandbox.run(&[&"generate", &"-p", &"Once upon a time", &"-n", &"12", &"--temperature", &"0"]).text();
    assert_eq!(told.trim(), text.trim());

    // The next line is the story's next paragraph; after /reset it is another story.
    let (anew, _) = chat("The goose\n", &[]);
    let (reset, _) = chat("Once upon a time\n/reset\nThe goose\n", &[]);
    assert_eq!(reset, told.clone() + &anew);
    let (longer, talk) = chat("Once upon a time\nThe goose\n/state\n", &[]);
    assert!(longer.starts_with(&told) && talk.contains("4 messages"), "{talk}");
    let (undone, _) = chat("Once upon a time\nThe goose\n/undo\nThe goose\n", &[]);
    assert!(undone.starts_with(&longer) && undone.ends_with(longer.strip_prefix(&told).unwrap()));

    let (_, talk) = chat("Hello\n", &[&"--template", &"world"]);
    assert!(talk.contains("world template"), "{talk}");
}

#[cfg(feature = "train")]
#[test]
fn both_executions_agree_on_it() {
    use anser::engine::{Batch, Executor, LoadOptions, Logits, Recipe, load};
    use anser_nn::gradients::values;
    use anser_nn::model::LanguageModel;

    let text = "Once upon a time there was a goose who could not find her way home.\n\n\"Dear me,\" said she, ";
    let tokens = demo::tokenizer().unwrap().encode(text.repeat(4).as_bytes()).unwrap();
    let borders = [0, tokens.len()];
    let checkpoint = demo::checkpoint(&OpenOptions::default()).unwrap();

    let model = LanguageModel::load(&checkpoint, &anser_nn::cpu()).unwrap().without_graph();
    let x = model.forward(&tokens.clone().into(), &borders.into(), &mut model.initial_states(1));
    let trained = values(model.logits(&x));

    let mut exec = Executor::new(1);
    let options = LoadOptions::from(Recipe::F32);
    let model = load(std::sync::Arc::new(checkpoint), &exec, &options).unwrap();
    let (mut state, mut logits) = (model.new_state(), Vec::new());
    let batch = Batch { tokens: &tokens, cu_seqlens: &borders, logits: Logits::All };
    model.forward(&mut exec, &batch, &mut [&mut state], &mut logits).unwrap();
    let bound = 3e-5 * anser_testkit::max_abs(&logits);
    anser_testkit::assert_close("logits of the demo model", &trained, &logits, bound);
}
