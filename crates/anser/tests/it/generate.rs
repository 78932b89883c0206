//! `anser generate`, one prompt.

use serde_json::Value;

use crate::util::{Sandbox, golden, model, v7};

const MODELS: [&str; 6] = ["infer_v4", "infer_v50", "infer_v51", "infer_v52", "infer_v6", "infer_v7"];

fn list(tokens: &Value) -> String {
    tokens.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn greedy_text_is_the_reference_runtimes() {
    let sandbox = Sandbox::new();
    let greedy: Value = serde_json::from_slice(&std::fs::read(golden("greedy.json")).unwrap()).unwrap();
    for name in MODELS {
        let path = model(name);
        for case in greedy[name].as_array().unwrap() {
            let want: Vec<u8> = case["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u8).collect();
            let (count, tokens) = (want.len().to_string(), list(&case["prompt"]));
            let dtype = "f32";
            let args: [&dyn AsRef<std::ffi::OsStr>; 11] = [
                &"generate",
                &path,
                &"--tokens",
                &tokens,
                &"--max-tokens",
                &count,
                &"--temperature",
                &"0",
                &"--raw",
                &"--dtype",
                &dtype,
            ];
            assert_eq!(sandbox.run(&args).ok(), want, "{name}, prompt {tokens}");
        }
    }
}

#[test]
fn a_prompt_is_bytes_wherever_it_comes_from() {
    let sandbox = Sandbox::new();
    let bytes = b"goose\0\xff\xfe\n";
    let file = sandbox.write("prompt.bin", bytes);
    let tokens = bytes.map(|b| b.to_string()).join(",");
    let model = v7();
    let from = |name: &'static str, value: &std::path::Path| {
        sandbox.run(&[&"generate", &model, &name, &value, &"-n", &"12", &"--temperature", &"0", &"--raw"]).ok()
    };
    let want = from("--tokens", tokens.as_ref());
    assert_eq!(want.len(), 12);
    assert_eq!(from("--prompt-file", &file), want);
    let piped =
        sandbox.pipe(bytes, &[&"generate", &model, &"-f", &"-", &"-n", &"12", &"--temperature", &"0", &"--raw"]);
    assert_eq!(piped.ok(), want);

    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let invalid = std::ffi::OsStr::from_bytes(b"goose\xff");
        let want = from("--tokens", "103,111,111,115,101,255".as_ref());
        assert_eq!(from("--prompt", invalid.as_ref()), want);
    }
}

#[test]
fn the_same_seed_gives_the_same_text_whatever_the_threads() {
    let sandbox = Sandbox::new();
    let model = v7();
    let text = |seed: &str, threads: &str| {
        let args: [&dyn AsRef<std::ffi::OsStr>; 11] = [
            &"generate",
            &model,
            &"-p",
            &"The goose",
            &"-n",
            &"40",
            &"--raw",
            &"--seed",
            &seed,
            &"--threads",
            &threads,
        ];
        sandbox.run(&args).ok()
    };
    let one = text("7", "1");
    assert_eq!(one.len(), 40);
    assert_eq!(text("7", "2"), one);
    assert_ne!(text("8", "1"), one);
}

#[test]
fn json_holds_text_tokens_logprobs_and_timings() {
    let sandbox = Sandbox::new();
    let model = v7();
    let out =
        sandbox.run(&[&"generate", &model, &"-p", &"The geese", &"-n", &"5", &"--temperature", &"0", &"--json"]).json();
    assert_eq!(out["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(out["finish"], "length");
    assert_eq!(out["prompt_tokens"], 9);
    assert!(out["logprobs"].as_array().unwrap().iter().all(|p| p.as_f64().unwrap() < 0.0));
    for name in ["load_ms", "prefill_ms", "decode_ms", "prefill_tok_s", "decode_tok_s"] {
        assert!(out["timings"][name].as_f64().unwrap() >= 0.0, "{name}");
    }
}

#[test]
fn text_stops_before_a_stop_string_and_holds_whole_characters() {
    let sandbox = Sandbox::new();
    let model = v7();
    let raw = sandbox.run(&[&"generate", &model, &"-p", &"x", &"-n", &"60", &"--temperature", &"0", &"--raw"]).ok();
    let text = sandbox.run(&[&"generate", &model, &"-p", &"x", &"-n", &"60", &"--temperature", &"0"]).text();
    assert_eq!(text, String::from_utf8_lossy(&raw), "streamed text is the lossy form of the bytes");

    // Any ASCII pair of the text serves as a stop string.
    let at = (1..raw.len() - 1).find(|&i| raw[i..i + 2].iter().all(|b| b.is_ascii_graphic())).unwrap();
    let stop = String::from_utf8(raw[at..at + 2].to_vec()).unwrap();
    let first = raw.windows(2).position(|pair| pair == stop.as_bytes()).unwrap();
    let args: [&dyn AsRef<std::ffi::OsStr>; 11] =
        [&"generate", &model, &"-p", &"x", &"-n", &"60", &"--temperature", &"0", &"--raw", &"--stop", &stop];
    assert_eq!(sandbox.run(&args).ok(), raw[..first]);
}

#[test]
fn a_saved_state_goes_on_as_if_nothing_had_happened() {
    let sandbox = Sandbox::new();
    for name in MODELS {
        let path = model(name);
        let greedy = |args: &[&dyn AsRef<std::ffi::OsStr>]| {
            let common: [&dyn AsRef<std::ffi::OsStr>; 5] = [&"generate", &path, &"--temperature", &"0", &"--raw"];
            sandbox.run(&[&common[..], args].concat()).ok()
        };
        let whole = greedy(&[&"-p", &"One goose and another", &"-n", &"20"]);
        assert_eq!(greedy(&[&"-p", &"One goose", &"-n", &"0", &"--save-state", &"a.state"]), b"");
        assert_eq!(greedy(&[&"--state", &"a.state", &"-p", &" and another", &"-n", &"20"]), whole, "{name}");

        // A state saved after some tokens has read those too.
        let first = greedy(&[&"-p", &"One goose and another", &"-n", &"8", &"--save-state", &"b.state"]);
        assert_eq!(first, whole[..8]);
        let next = whole[8].to_string();
        assert_eq!(greedy(&[&"--state", &"b.state", &"--tokens", &next, &"-n", &"11"]), whole[9..], "{name}");
    }
}

#[test]
fn an_empty_prompt_starts_a_document_where_the_vocabulary_can_say_so() {
    let sandbox = Sandbox::new();
    let model = v7();
    let said = sandbox.run(&[&"generate", &model, &"-p", &"", &"-n", &"3"]).fails(1);
    assert!(said.contains("empty") && said.contains("--tokens 0"), "{said}");
    let world = sandbox.run(&[
        &"generate",
        &model,
        &"-p",
        &"",
        &"-n",
        &"3",
        &"--tokenizer",
        &"world",
        &"--json",
        &"--temperature",
        &"0",
    ]);
    assert_eq!(world.json()["prompt_tokens"], 1);
}

#[test]
fn a_megabyte_of_prompt_is_read() {
    let sandbox = Sandbox::new();
    // The smallest model, whose vocabulary of 64 bytes holds digits but no letters.
    let model = golden("tiny_v4.pth");
    let run = |text: &str| {
        sandbox.write("long.txt", text.repeat(1 + (1 << 20) / text.len()));
        let args: [&dyn AsRef<std::ffi::OsStr>; 11] = [
            &"generate",
            &model,
            &"-f",
            &"long.txt",
            &"-n",
            &"2",
            &"--tokenizer",
            &"byte",
            &"--temperature",
            &"0",
            &"--json",
        ];
        sandbox.run(&args)
    };
    assert_eq!(run("17 + 4 = 21\n").json()["prompt_tokens"], 12 * (1 + (1 << 20) / 12));
    let said = run("All geese are birds. ").fails(1);
    assert!(said.contains("vocabulary of 64"), "{said}");
}

#[test]
fn a_closed_pipe_is_quiet() {
    let sandbox = Sandbox::new();
    let mut child = sandbox.command(&[&"generate", &v7(), &"-p", &"x", &"-n", &"20000", &"--raw"]).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_text_cleanly() {
    let sandbox = Sandbox::new();
    let mut command =
        sandbox.command(&[&"generate", &v7(), &"-p", &"x", &"-n", &"100000000", &"--raw", &"--save-state", &"s"]);
    let mut child = command.spawn().unwrap();
    // The first byte tells that it runs.
    let mut byte = [0];
    let mut out = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut byte).unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    crate::many::interrupt(&child);
    let output = child.wait_with_output().unwrap();
    reader.join().unwrap().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
    assert!(sandbox.path("s").exists(), "the state is kept");
}

#[test]
fn the_numerics_check_names_the_layer() {
    let sandbox = Sandbox::new();
    let args: [&dyn AsRef<std::ffi::OsStr>; 7] = [&"generate", &v7(), &"-p", &"x", &"-n", &"2", &"--check-numerics"];
    sandbox.run(&args).ok();
}
