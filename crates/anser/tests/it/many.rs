//! `anser generate --input`: many prompts, resumable.

use std::ffi::OsStr;

use serde_json::{Value, json};

use crate::util::{Sandbox, v7};

/// Ctrl-C.
#[cfg(unix)]
pub(crate) fn interrupt(child: &std::process::Child) {
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
}

fn rows(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn prompts(count: usize) -> String {
    let row = |i: usize| json!({ "id": format!("row-{i}"), "prompt": "goose ".repeat(1 + i * 7 % 13) }).to_string();
    (0..count).map(|i| row(i) + "\n").collect()
}

#[test]
fn every_row_is_what_its_prompt_alone_would_yield() {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", prompts(9));
    let mut outputs = Vec::new();
    for batch in ["1", "4", "9"] {
        let out = format!("out{batch}.jsonl");
        let args: [&dyn AsRef<OsStr>; 12] = [
            &"generate",
            &v7(),
            &"--input",
            &"in.jsonl",
            &"--output",
            &out,
            &"--batch",
            &batch,
            &"-n",
            &"20",
            &"--seed",
            &"3",
        ];
        let run = sandbox.run(&args);
        assert!(run.stderr.contains("9 rows written"), "{}", run.stderr);
        assert!(run.ok().is_empty(), "data goes to the file");
        outputs.push(sandbox.read(&out));
    }
    assert_eq!(outputs[0], outputs[1], "batch of 4");
    assert_eq!(outputs[0], outputs[2], "batch of 9");
    let got = rows(&outputs[0]);
    for (i, row) in got.iter().enumerate() {
        assert_eq!((row["index"].as_u64(), &row["id"]), (Some(i as u64), &json!(format!("row-{i}"))));
    }
    let prompt = "goose ".repeat(1 + 5 * 7 % 13);
    let single = sandbox.run(&[&"generate", &v7(), &"-p", &prompt, &"-n", &"20", &"--seed", &"3", &"--json"]).json();
    for field in ["text", "tokens", "logprobs", "finish", "prompt_tokens"] {
        assert_eq!(got[5][field], single[field], "{field}");
    }
}

#[test]
fn rows_override_the_flags() {
    let sandbox = Sandbox::new();
    let tokens = [103, 111, 111, 115, 101];
    sandbox.write(
        "in.jsonl",
        format!(
            "{}\n{}\n{}\n",
            json!({ "prompt": "goose", "max_tokens": 3, "temperature": 0 }),
            json!({ "tokens": tokens, "max_tokens": 5, "temperature": 0.0, "id": 17 }),
            json!({ "prompt": "goose", "seed": 5 }),
        ),
    );
    let args: [&dyn AsRef<OsStr>; 8] = [&"generate", &v7(), &"--input", &"in.jsonl", &"-n", &"10", &"--seed", &"9"];
    let got = rows(&sandbox.run(&args).text());
    let lengths: Vec<usize> = got.iter().map(|row| row["tokens"].as_array().unwrap().len()).collect();
    assert_eq!(lengths, [3, 5, 10]);
    assert_eq!(got[0]["tokens"].as_array().unwrap()[..], got[1]["tokens"].as_array().unwrap()[..3]);
    assert_eq!(got[1]["id"], 17);
    assert!(got[0].get("id").is_none());
    let single = sandbox.run(&[&"generate", &v7(), &"-p", &"goose", &"-n", &"10", &"--seed", &"5", &"--json"]).json();
    assert_eq!(got[2]["tokens"], single["tokens"]);
}

#[cfg(unix)]
#[test]
fn a_killed_job_goes_on_where_it_was() {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", prompts(40));
    let args = |out: &'static str| -> [&'static str; 10] {
        ["--input", "in.jsonl", "--output", out, "--batch", "3", "-n", "60", "--temperature", "0"]
    };
    let run = |out: &'static str| {
        let args = args(out);
        let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"generate"];
        let model = v7();
        all.push(&model);
        all.extend(args.iter().map(|a| a as &dyn AsRef<OsStr>));
        sandbox.command(&all)
    };
    run("whole.jsonl").status().unwrap();
    let whole = sandbox.read("whole.jsonl");
    assert_eq!(whole.lines().count(), 40);

    // Once by Ctrl-C, once by a kill that lets nothing be tidied.
    for (out, code) in [("interrupted.jsonl", Some(130)), ("killed.jsonl", None)] {
        let mut child = run(out).spawn().unwrap();
        while std::fs::read_to_string(sandbox.path(out)).unwrap_or_default().lines().count() < 3 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        if code.is_some() {
            interrupt(&child)
        } else {
            child.kill().unwrap()
        }
        let status = child.wait().unwrap();
        let part = sandbox.read(out);
        // A fast machine may have finished first; then there is nothing left to prove.
        if part.len() < whole.len() {
            assert_eq!(status.code(), code);
        }
        assert!(whole.starts_with(&part), "what is there is a beginning of the whole");
        // As if the machine had died in the middle of a line.
        sandbox.write(out, format!("{part}{{\"index\":{},\"te", part.lines().count()));
        let resumed = crate::util::finish(run(out));
        assert!(resumed.stderr.contains("kept from before"), "{}", resumed.stderr);
        resumed.ok();
        assert_eq!(sandbox.read(out), whole);
    }
}

#[test]
fn missing_rows_in_the_middle_are_filled() {
    let sandbox = Sandbox::new();
    sandbox.write("in.jsonl", prompts(4));
    let args: [&dyn AsRef<OsStr>; 10] =
        [&"generate", &v7(), &"--input", &"in.jsonl", &"--output", &"out.jsonl", &"-n", &"5", &"--temperature", &"0"];
    sandbox.run(&args).ok();
    let whole = sandbox.read("out.jsonl");
    let kept: Vec<&str> = whole.lines().enumerate().filter(|(i, _)| *i != 1).map(|(_, line)| line).collect();
    sandbox.write("out.jsonl", kept.join("\n") + "\n");
    sandbox.run(&args).ok();
    let mut lines = rows(&sandbox.read("out.jsonl"));
    lines.sort_by_key(|row| row["index"].as_u64());
    assert_eq!(lines, rows(&whole));
}

#[test]
fn bad_input_and_foreign_output_are_refused_before_the_work() {
    let sandbox = Sandbox::new();
    let run = || {
        let args: [&dyn AsRef<OsStr>; 8] =
            [&"generate", &v7(), &"--input", &"in.jsonl", &"--output", &"out.jsonl", &"-n", &"2"];
        sandbox.run(&args).fails(1)
    };
    for (content, says) in [
        ("{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"temprature\":1}\n", "line 2"),
        ("{\"prompt\":\"a\"}\nnot json\n", "line 2"),
        ("{\"id\":1}\n", "either a prompt or tokens"),
        ("{\"prompt\":\"a\",\"tokens\":[1]}\n", "either a prompt or tokens"),
        ("{\"prompt\":\"\"}\n", "line 1"),
        ("{\"tokens\":[1,256]}\n", "line 1"),
        ("{\"prompt\":\"a\",\"top_p\":7}\n", "line 1"),
    ] {
        sandbox.write("in.jsonl", content);
        let said = run();
        assert!(said.contains("in.jsonl") && said.contains(says), "{content}: {said}");
        let _ = std::fs::remove_file(sandbox.path("out.jsonl"));
    }
    sandbox.write("in.jsonl", "{\"prompt\":\"a\",\"id\":1}\n");
    for content in ["{\"index\":0,\"id\":2}\n", "{\"index\":7,\"id\":1}\n", "a text\n"] {
        sandbox.write("out.jsonl", content);
        let said = run();
        assert!(said.contains("not the output of this input"), "{content}: {said}");
        assert_eq!(sandbox.read("out.jsonl"), content, "nothing is touched");
    }
}
