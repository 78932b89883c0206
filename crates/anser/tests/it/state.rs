//! States as files.

use std::ffi::OsStr;

use crate::util::{Sandbox, model, settings, v7};

fn save(sandbox: &Sandbox, prompt: &str, file: &str) {
    sandbox.run(&[&"generate", &v7(), &"-p", &prompt, &"-n", &"0", &"--save-state", &file]).ok();
}

#[test]
fn inspect_tells_header_and_slots() {
    let sandbox = Sandbox::new();
    save(&sandbox, "The geese", "a.state");
    let out = sandbox.run(&[&"state", &"inspect", &"a.state", &"--json"]).json();
    assert_eq!(out["header"]["architecture"], "rwkv7");
    assert_eq!(out["header"]["tokens"], 9);
    assert_eq!(out["slots"].as_array().unwrap().len(), 9);
    assert_eq!(out["bytes"], 3 * (64 + 2 * 32 * 32 + 64) * 4);
    let text = sandbox.run(&[&"state", &"inspect", &"a.state"]).text();
    assert!(text.contains("layers.2.wkv"), "{text}");
}

#[test]
fn a_blend_of_a_state_with_itself_is_that_state() {
    let sandbox = Sandbox::new();
    save(&sandbox, "The geese", "a.state");
    save(&sandbox, "The ducks!", "b.state");
    let go_on = |state: &str| {
        let args: [&dyn AsRef<OsStr>; 11] =
            [&"generate", &v7(), &"--state", &state, &"-p", &" fly", &"-n", &"12", &"--temperature", &"0", &"--raw"];
        sandbox.run(&args).ok()
    };
    sandbox.run(&[&"state", &"blend", &"a.state", &"a.state", &"-o", &"aa.state"]).ok();
    sandbox.run(&[&"state", &"blend", &"a.state=1", &"b.state=0", &"-o", &"a0.state"]).ok();
    sandbox.run(&[&"state", &"blend", &"a.state=0.5", &"b.state=0.5", &"-o", &"ab.state"]).ok();
    assert_eq!(go_on("aa.state"), go_on("a.state"));
    assert_eq!(go_on("a0.state"), go_on("a.state"));
    assert_eq!(go_on("ab.state").len(), 12);
    let said = sandbox.run(&[&"state", &"blend", &"a.state=heavy", &"-o", &"x.state"]).fails(2);
    assert!(said.contains("heavy"), "{said}");
}

#[test]
fn time_state_files_go_out_and_in() {
    let sandbox = Sandbox::new();
    save(&sandbox, "The geese", "a.state");
    let said = sandbox.run(&[&"state", &"export", &"a.state", &"-o", &"a.pth"]);
    assert!(said.stderr.contains("left out"), "{}", said.stderr);
    said.ok();
    sandbox.run(&[&"state", &"import", &"a.pth", &"--model", &v7(), &"-o", &"b.state"]).ok();
    let slots = |file: &str| sandbox.run(&[&"state", &"inspect", &file, &"--json"]).json()["slots"].clone();
    let (a, b) = (slots("a.state"), slots("b.state"));
    for (a, b) in a.as_array().unwrap().iter().zip(b.as_array().unwrap()) {
        if a["name"].as_str().unwrap().ends_with("wkv") {
            assert_eq!(a, b);
        } else {
            assert_eq!(b["norm"], 0.0, "token shifts start at zero");
        }
    }
}

#[test]
fn the_state_of_another_model_is_refused() {
    let sandbox = Sandbox::new();
    save(&sandbox, "The geese", "a.state");
    let with = |name: &str, state: &str, more: &[&dyn AsRef<OsStr>]| {
        let path = model(name);
        let args: [&dyn AsRef<OsStr>; 8] = [&"generate", &path, &"--state", &state, &"--tokens", &"5", &"-n", &"1"];
        sandbox.run(&[&args[..], more].concat())
    };
    let said = with("infer_v6", "a.state", &[]).fails(1);
    settings(&sandbox).bind(|| insta::assert_snapshot!("state_of_another_architecture", said));
    let said = with("infer_v7", "none.state", &[]).fails(1);
    assert!(said.contains("none.state"), "{said}");
    sandbox.write("junk.state", "no state at all");
    let said = with("infer_v7", "junk.state", &[]).fails(1);
    assert!(said.contains("junk.state"), "{said}");
    let whole = std::fs::read(sandbox.path("a.state")).unwrap();
    for keep in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        sandbox.write("cut.state", &whole[..keep]);
        with("infer_v7", "cut.state", &[]).fails(1);
    }
    with("infer_v7", "a.state", &[]).ok();

    // The same shapes, other weights: one weight of the embedding is changed.
    let mut bytes = std::fs::read(v7()).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = 8 + header + json["emb.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[start..start + 2].copy_from_slice(&0x3f80u16.to_le_bytes());
    sandbox.write("tuned.safetensors", bytes);
    let tuned = |more: &[&dyn AsRef<OsStr>]| {
        let args: [&dyn AsRef<OsStr>; 8] =
            [&"generate", &"tuned.safetensors", &"--state", &"a.state", &"--tokens", &"5", &"-n", &"0"];
        sandbox.run(&[&args[..], more].concat())
    };
    let said = tuned(&[]).fails(1);
    settings(&sandbox).bind(|| {
        let mut settings = insta::Settings::clone_current();
        settings.add_filter("[0-9a-f]{12}\\.\\.\\.", "[FINGERPRINT]");
        settings.bind(|| insta::assert_snapshot!("state_of_another_model", said));
    });
    tuned(&[&"--allow-foreign-state"]).ok();
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error_and_leaves_the_old_file() {
    let sandbox = Sandbox::new();
    let said = sandbox.run(&[&"generate", &v7(), &"-p", &"x", &"-n", &"0", &"--save-state", &"/dev/full"]).fails(1);
    assert!(said.contains("/dev/full"), "{said}");
    let said =
        sandbox.run(&[&"generate", &v7(), &"-p", &"x", &"-n", &"0", &"--save-state", &"no/such/folder"]).fails(1);
    assert!(said.contains("no/such/folder"), "{said}");
    sandbox.write("in.jsonl", "{\"prompt\":\"x\"}\n");
    let args: [&dyn AsRef<OsStr>; 8] =
        [&"generate", &v7(), &"--input", &"in.jsonl", &"--output", &"/dev/full", &"-n", &"2"];
    let said = sandbox.run(&args).fails(1);
    assert!(said.contains("/dev/full"), "{said}");

    let mut command = sandbox.command(&[&"zoo"]);
    command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    assert_eq!(crate::util::finish(command).code, Some(1));
}
