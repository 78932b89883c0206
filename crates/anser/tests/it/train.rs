//! Training through the program: killed and resumed, out of disk, wrong data.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::Command;

use crate::util::{Sandbox, finish};

const TEXT: &str = "A goose went over the hill, and over the hill went the goose.\n";

/// A run of half a second.
fn small(sandbox: &Sandbox, data: &str, out: &str, more: &[&str]) -> Command {
    let mut args: Vec<&str> = "train lm --layers 2 --width 32 --context 64 --batch 4 --steps 30 --eval-every 10 \
                               --save-every 4 --threads 2"
        .split_whitespace()
        .collect();
    args.extend(["--data", data, "--out", out]);
    args.extend(more);
    let args: Vec<&dyn AsRef<OsStr>> = args.iter().map(|arg| arg as &dyn AsRef<OsStr>).collect();
    sandbox.command(&args)
}

#[test]
fn killed_at_any_step_and_resumed_it_ends_with_the_same_bytes() {
    let sandbox = Sandbox::new();
    sandbox.write("text.txt", TEXT.repeat(40));
    finish(small(&sandbox, "text.txt", "whole", &[])).ok();
    let whole = std::fs::read(sandbox.path("whole/model.safetensors")).unwrap();

    for after in [2, 9] {
        let name = format!("killed{after}");
        let mut child = small(&sandbox, "text.txt", &name, &["--json"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.by_ref().take(after).for_each(|line| drop(line.unwrap()));
        child.kill().unwrap(); // SIGKILL, wherever it is by now
        child.wait().unwrap();
        sandbox.run(&[&"train", &"lm", &"--out", &name, &"--resume"]).ok();
        assert!(whole == std::fs::read(sandbox.path(&format!("{name}/model.safetensors"))).unwrap(), "after {after}");
        let lines = sandbox.read(&format!("{name}/metrics.jsonl"));
        assert_eq!(lines.lines().count(), 30 + 3, "{lines}");
    }
    // The model runs.
    let text = sandbox.run(&[&"generate", &"whole", &"--prompt", &"A goose", &"--max-tokens", &"8", &"--raw"]).ok();
    assert_eq!(text.len(), 8);
}

#[test]
fn metrics_stream_as_json() {
    let sandbox = Sandbox::new();
    sandbox.write("text.txt", TEXT.repeat(40));
    let run = small(&sandbox, "text.txt", "run", &["--json", "--model", "v6"]);
    let lines: Vec<serde_json::Value> =
        finish(run).text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |kind: &str| lines.iter().filter(|line| line["kind"] == kind).count();
    assert_eq!((of("step"), of("eval"), of("saved")), (30, 3, 8));
    let losses: Vec<f64> = lines.iter().filter(|l| l["kind"] == "step").map(|l| l["loss"].as_f64().unwrap()).collect();
    assert!(losses[29] < losses[0] - 1.0, "{losses:?}");
}

#[test]
fn a_full_disk_loses_nothing() {
    let sandbox = Sandbox::new();
    sandbox.write("text.txt", TEXT.repeat(40));
    // Files of at most 64 KiB: the metrics fit, a snapshot does not. The signal for it is ignored, so writing fails.
    let script = format!(
        "trap '' XFSZ; ulimit -f 64; exec {} train lm --data text.txt --layers 2 --width 32 --context 32 --batch 2 \
         --steps 4 --eval-every 0 --threads 1 --out run",
        env!("CARGO_BIN_EXE_anser")
    );
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(sandbox.path("."));
    let outcome = finish(command);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("weights.safetensors"), "{}", outcome.stderr);
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
    let left: Vec<_> = std::fs::read_dir(sandbox.path("run/checkpoints")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // With room again the run goes on.
    sandbox.run(&[&"train", &"lm", &"--out", &"run", &"--resume"]).ok();
}

#[test]
fn what_cannot_be_learned_from_is_named() {
    let sandbox = Sandbox::new();
    sandbox.write("empty.txt", "");
    sandbox.write("line.txt", "x");
    sandbox.write("bad.jsonl", "{\"text\": \"fine, and long enough to be learned from\"}\n{\"txt\": 1}\n");
    for (data, expected) in [
        ("empty.txt", "0 tokens"),
        ("line.txt", "nothing to learn from"),
        ("bad.jsonl", "bad.jsonl:2"),
        ("none.txt", "none.txt"),
    ] {
        let outcome = finish(small(&sandbox, data, "run", &[]));
        assert_eq!(outcome.code, Some(1), "{data}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{data}: {}", outcome.stderr);
        assert!(!sandbox.path("run").exists(), "{data}");
    }
    let outcome = sandbox.run(&[&"train", &"lm", &"--data", &"line.txt"]);
    assert!(outcome.stderr.contains("--out"), "{}", outcome.stderr);
}

#[test]
fn a_vocabulary_is_learned_and_used() {
    let sandbox = Sandbox::new();
    sandbox.write("text.txt", TEXT.repeat(40));
    let learned = sandbox.run(&[&"train", &"tokenizer", &"--data", &"text.txt", &"--vocab", &"270", &"--json"]).json();
    assert_eq!(learned["vocab"], 270);
    assert!(learned["bytes_per_token"].as_f64().unwrap() > 1.2);
    finish(small(&sandbox, "text.txt", "run", &["--tokenizer", "tokenizer.json"])).ok();
    let text = sandbox.run(&[&"generate", &"run", &"--prompt", &"A goose", &"--max-tokens", &"4"]).text();
    assert!(!text.is_empty());
}
