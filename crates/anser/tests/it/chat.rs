//! `anser chat` over a pipe.

use std::ffi::OsStr;

use crate::util::{Sandbox, v7};

/// Runs a chat that reads `lines` and returns stdout and stderr.
fn chat(sandbox: &Sandbox, lines: &str, more: &[&dyn AsRef<OsStr>]) -> (String, String) {
    let model = v7();
    let args: [&dyn AsRef<OsStr>; 6] = [&"chat", &model, &"-n", &"12", &"--temperature", &"0"];
    let outcome = sandbox.pipe(lines.as_bytes(), &[&args[..], more].concat());
    assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
    (String::from_utf8(outcome.stdout).unwrap(), outcome.stderr)
}

#[test]
fn a_reply_is_what_the_templates_prompt_yields() {
    let sandbox = Sandbox::new();
    let (said, _) = chat(&sandbox, "What is a goose?\n", &[]);
    let prompt = "User: What is a goose?\n\nAssistant:";
    let text = sandbox.run(&[&"generate", &v7(), &"-p", &prompt, &"-n", &"12", &"--temperature", &"0"]).text();
    // A display may leave out the space after "Assistant:".
    assert_eq!(said.trim(), text.trim());
}

#[test]
fn undo_takes_a_turn_back_exactly() {
    let sandbox = Sandbox::new();
    let (plain, _) = chat(&sandbox, "One\nThree\n", &[]);
    let (undone, talk) = chat(&sandbox, "One\nTwo, which is long enough to matter\n/undo\nThree\n", &[]);
    assert!(talk.contains("took the last turn back"));
    let (plain, undone): (Vec<&str>, Vec<&str>) = (plain.split('\n').collect(), undone.split('\n').collect());
    assert_eq!(plain.first(), undone.first());
    assert!(undone.join("\n").ends_with(&plain[plain.len() - 2..].join("\n")), "{plain:?} {undone:?}");
    let (_, talk) = chat(&sandbox, "/undo\n", &[]);
    assert!(talk.contains("no turn"));
}

#[test]
fn a_saved_chat_goes_on() {
    let sandbox = Sandbox::new();
    let (whole, _) = chat(&sandbox, "One\nTwo\n", &[]);
    let (first, _) = chat(&sandbox, "One\n/save a.state\n", &[]);
    let (second, talk) = chat(&sandbox, "/load a.state\nTwo\n", &[]);
    assert!(talk.contains("going on after"));
    assert_eq!(first + &second, whole);
    let (same, _) = chat(&sandbox, "Two\n", &[&"--state", &"a.state"]);
    assert_eq!(same, second);
    let (_, talk) = chat(&sandbox, "/load none.state\n/save\n/load\n", &[]);
    assert!(talk.contains("none.state") && talk.contains("needs a file name"), "{talk}");
}

#[test]
fn reset_and_system_change_what_is_read() {
    let sandbox = Sandbox::new();
    let (fresh, _) = chat(&sandbox, "Two\n", &[]);
    let (reset, _) = chat(&sandbox, "One\n/reset\nTwo\n", &[]);
    assert!(reset.ends_with(&fresh));
    let (flag, _) = chat(&sandbox, "Two\n", &[&"--system", &"Be a goose."]);
    let (command, _) = chat(&sandbox, "/system Be a goose.\nTwo\n", &[]);
    assert_eq!(flag, command);
    let (removed, _) = chat(&sandbox, "/system Be a goose.\n/system\nTwo\n", &[]);
    assert_eq!(removed, fresh);
    let (_, talk) = chat(&sandbox, "One\n/state\n/help\n/nonsense\n", &[]);
    assert!(talk.contains("2 messages") && talk.contains("/undo") && talk.contains("no command /nonsense"), "{talk}");
}

#[test]
fn dropped_think_blocks_are_not_read_again() {
    let sandbox = Sandbox::new();
    let think: [&dyn AsRef<OsStr>; 6] = [&"--template", &"g1", &"--think-mode", &"free", &"--drop-think", &"--think"];
    let (shown, _) = chat(&sandbox, "One\nTwo\n", &[&think[..], &[&"show"]].concat());
    let (hidden, _) = chat(&sandbox, "One\nTwo\n", &[&think[..], &[&"hide"]].concat());
    assert!(hidden.len() <= shown.len());
    let (_, talk) = chat(&sandbox, "One\nTwo\n/state\n", &[&think[..], &[&"hide"]].concat());
    assert!(talk.contains("4 messages"), "{talk}");
}

#[test]
fn templates_come_by_name_or_file() {
    let sandbox = Sandbox::new();
    let (world, _) = chat(&sandbox, "One\n", &[&"--template", &"world"]);
    let source = "{% for m in messages %}User: {{ m.content }}\n\n{% endfor %}Assistant:";
    sandbox.write("t.jinja", source);
    let (jinja, _) = chat(&sandbox, "One\n", &[&"--template", &"t.jinja"]);
    assert_eq!(world, jinja);
    let said = sandbox.run(&[&"chat", &v7(), &"--template", &"none"]).fails(2);
    assert!(said.contains("raven"), "{said}");
}
