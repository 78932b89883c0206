//! Help texts, completions and manual pages.

use crate::util::{Sandbox, settings};

const COMMANDS: [&str; 15] = [
    "generate",
    "chat",
    "logits",
    "perplexity",
    "eval",
    "info",
    "quantize",
    "convert",
    "state",
    "bench",
    "zoo",
    "train",
    "forecast",
    "completions",
    "man",
];

#[test]
fn help_texts() {
    let sandbox = Sandbox::new();
    settings(&sandbox).bind(|| {
        insta::assert_snapshot!("help", sandbox.run(&[&"--help"]).text());
        for command in COMMANDS {
            insta::assert_snapshot!(format!("help_{command}"), sandbox.run(&[&command, &"--help"]).text());
        }
        for task in ["lm", "series", "tokenizer"] {
            insta::assert_snapshot!(format!("help_train_{task}"), sandbox.run(&[&"train", &task, &"--help"]).text());
        }
        for action in ["inspect", "blend", "import", "export"] {
            let name = format!("help_state_{action}");
            insta::assert_snapshot!(name, sandbox.run(&[&"state", &action, &"--help"]).text());
        }
    });
}

#[test]
fn without_a_command_the_help_is_shown_as_wrong_usage() {
    let sandbox = Sandbox::new();
    assert!(sandbox.run(&[]).fails(2).contains("Usage: anser"));
    assert!(sandbox.run(&[&"generate", &"--no-such-flag"]).fails(2).contains("--no-such-flag"));
    assert!(sandbox.run(&[&"--version"]).text().starts_with("anser 0."));
}

#[test]
fn completions_and_manual_pages() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = sandbox.run(&[&"completions", &shell]).text();
        assert!(script.contains("perplexity") && script.contains("save-state"), "{shell}");
    }
    assert!(sandbox.run(&[&"man"]).text().contains(".TH anser 1"));
    sandbox.run(&[&"man", &"--dir", &"man1"]).ok();
    for command in COMMANDS {
        assert!(sandbox.read(&format!("man1/anser-{command}.1")).contains(".TH"), "{command}");
    }
}
