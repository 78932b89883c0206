//! anser quantize: what rounding costs, and files that hold rounded models.

use std::ffi::OsStr;

use serde_json::Value;

use crate::util::{Sandbox, golden, left, settings, v7};
#[cfg(unix)]
use crate::util::{finish, limit_files};

/// What a model says, the most likely token at every step.
fn say(sandbox: &Sandbox, model: &dyn AsRef<OsStr>, more: &[&dyn AsRef<OsStr>]) -> Vec<u8> {
    let args: [&dyn AsRef<OsStr>; 9] =
        [&"generate", model, &"-p", &"Once upon a time", &"-n", &"24", &"--temperature", &"0", &"--raw"];
    sandbox.run(&[&args[..], more].concat()).ok()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn every_recipe_is_measured() {
    let sandbox = Sandbox::new();
    let report = sandbox.run(&[&"quantize", &"demo", &"--json"]).json();
    assert_eq!((&report["model"], &report["tokens"]), (&"demo".into(), &1023.into()));
    assert!(report.get("out").is_none() && left(&sandbox).is_empty(), "{report}");
    let rows = report["recipes"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["recipe"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
    let (bf16, int8, int4) = (row("bf16"), row("int8"), row("int4"));
    assert_eq!(rows[0], *bf16, "the model as it is comes first");
    assert_eq!((number(&bf16["bits_per_weight"]), number(&bf16["kl"])), (16.0, 0.0));
    assert_eq!((number(&bf16["perplexity_change"]), number(&bf16["same_top"])), (0.0, 1.0));
    // What the project promises of its recipes.
    for (row, bits, change) in [(int8, 9.1, 0.001), (int4, 5.5, 0.03)] {
        assert!(number(&row["bits_per_weight"]) < bits, "{report}");
        assert!(number(&row["perplexity_change"]).abs() < change, "{report}");
        let expected = number(&bf16["perplexity"]) * (1.0 + number(&row["perplexity_change"]));
        assert!((number(&row["perplexity"]) / expected - 1.0).abs() < 1e-9, "{report}");
        assert!((0.5..1.0).contains(&number(&row["same_top"])), "{report}");
    }
    let kl = |row: &Value| number(&row["kl"]);
    assert!(0.0 <= kl(int8) && kl(int8) < kl(int4), "{report}");
    assert!(number(&int8["bytes"]) > number(&int4["bytes"]), "{report}");

    let text = sandbox.run(&[&"quantize", &v7(), &"--tokens", &"16"]).text();
    let firsts: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(text.starts_with("recipe") && text.ends_with("measured on 15 tokens\n"), "{text}");
    assert!(["bf16", "int8", "int4"].iter().all(|name| firsts.contains(name)), "{text}");
}

#[test]
fn a_packed_file_is_the_rounded_model() {
    let sandbox = Sandbox::new();
    sandbox.run(&[&"generate", &"demo", &"-p", &"Once upon", &"-n", &"0", &"--save-state", &"whole.state"]).ok();
    let print = sandbox.run(&[&"info", &"demo", &"--json"]).json()["fingerprint"].clone();
    let text = sandbox.write("text", "There was once a king who had three daughters, and the youngest was a goose.");
    for recipe in ["int8", "int4"] {
        let file = format!("demo-{recipe}.anser");
        let report = sandbox.run(&[&"quantize", &"demo", &file, &"--recipe", &recipe, &"-t", &text, &"--json"]).json();
        assert_eq!(report["out"], file.as_str());
        assert_eq!(report["recipes"].as_array().unwrap().len(), 2, "{report}");
        let measured = &report["recipes"][1];
        assert_eq!(measured["bytes"], std::fs::metadata(sandbox.path(&file)).unwrap().len());

        let words = say(&sandbox, &file, &[]);
        assert_eq!(words, say(&sandbox, &"demo", &[&"--dtype", &recipe]), "{recipe}");
        assert_eq!(words, say(&sandbox, &file, &[&"--copy-weights"]), "{recipe}");
        assert_eq!(words, say(&sandbox, &file, &[&"--dtype", &recipe, &"--threads", &"1"]), "{recipe}");

        let info = sandbox.run(&[&"info", &file, &"--json"]).json();
        assert_eq!(
            (&info["format"], &info["recipe"], &info["dtype"]),
            (&"packed".into(), &recipe.into(), &"bf16".into())
        );
        assert_eq!((&info["fingerprint"], &info["tokenizer"]), (&print, &"in the file".into()));
        let shown = sandbox.run(&[&"info", &file]).text();
        assert!(shown.contains(&format!("packed {recipe}, made from bf16")), "{shown}");

        let scored = sandbox.run(&[&"perplexity", &file, &"-f", &text, &"--json"]).json();
        assert_eq!(scored["tokens"], report["tokens"]);
        let ratio = number(&scored["perplexity"]) / number(&measured["perplexity"]);
        assert!((ratio - 1.0).abs() < 1e-5, "{scored} {report}");

        // The model is the same one: states go both ways.
        let go_on = |model: &dyn AsRef<OsStr>, state: &str| {
            let args: [&dyn AsRef<OsStr>; 11] =
                [&"generate", model, &"--state", &state, &"-p", &" a", &"-n", &"8", &"--temperature", &"0", &"--raw"];
            sandbox.run(&args).ok()
        };
        assert!(!go_on(&file, "whole.state").is_empty());
        sandbox.run(&[&"generate", &file, &"-p", &"Once upon", &"-n", &"0", &"--save-state", &"rounded.state"]).ok();
        assert!(!go_on(&"demo", "rounded.state").is_empty());
    }
    assert_eq!(left(&sandbox), ["demo-int4.anser", "demo-int8.anser", "rounded.state", "text", "whole.state"]);
}

#[test]
fn what_cannot_be_done_says_what_can() {
    let sandbox = Sandbox::new();
    sandbox.run(&[&"quantize", &v7(), &"m.anser", &"--tokens", &"16"]).ok();
    sandbox.write("there.anser", "old");
    let (v7, world) = (v7(), golden("tiny_v7.pth"));
    let cases: [(&str, i32, Vec<&dyn AsRef<OsStr>>); 9] = [
        ("quantize_exists", 2, vec![&"quantize", &v7, &"there.anser"]),
        ("quantize_packed", 2, vec![&"quantize", &"m.anser", &"n.anser"]),
        ("quantize_no_folder", 1, vec![&"quantize", &v7, &"none/m.anser"]),
        ("quantize_no_tokenizer", 2, vec![&"quantize", &world, &"n.anser"]),
        ("quantize_unknown_recipe", 2, vec![&"quantize", &v7, &"n.anser", &"--recipe", &"f32"]),
        ("packed_as_another", 1, vec![&"generate", &"m.anser", &"-p", &"x", &"--dtype", &"int4"]),
        ("packed_as_floats", 1, vec![&"generate", &"m.anser", &"-p", &"x", &"--dtype", &"f32"]),
        ("convert_packed", 1, vec![&"convert", &"m.anser", &"m.safetensors"]),
        ("missing_packed", 1, vec![&"generate", &"none.anser", &"-p", &"x"]),
    ];
    settings(&sandbox).bind(|| {
        for (name, code, args) in cases {
            insta::assert_snapshot!(format!("error_{name}"), sandbox.run(&args).fails(code));
        }
    });
    assert_eq!(left(&sandbox), ["m.anser", "there.anser"]);
    assert_eq!(sandbox.read("there.anser"), "old");
    sandbox.run(&[&"quantize", &v7, &"there.anser", &"--tokens", &"16", &"--force", &"--recipe", &"int4"]).ok();
    assert_eq!(sandbox.run(&[&"info", &"there.anser", &"--json"]).json()["recipe"], "int4");
}

#[test]
fn damaged_sources_and_packed_files_are_refused() {
    let sandbox = Sandbox::new();
    let mut bytes = std::fs::read(v7()).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = json["blocks.1.ffn.key.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + start..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    sandbox.write("nan.safetensors", bytes);
    sandbox.write("m.anser", "old");
    let said = sandbox.run(&[&"quantize", &"nan.safetensors", &"m.anser", &"--force"]).fails(1);
    assert!(said.contains("blocks.1.ffn.key.weight") && said.contains("NaN"), "{said}");
    assert_eq!(sandbox.read("m.anser"), "old");
    assert_eq!(left(&sandbox), ["m.anser", "nan.safetensors"]);

    sandbox.run(&[&"quantize", &v7(), &"m.anser", &"--tokens", &"16", &"--force"]).ok();
    let whole = std::fs::read(sandbox.path("m.anser")).unwrap();
    for keep in [0, 8, 200, whole.len() / 2, whole.len() - 1] {
        sandbox.write("cut.anser", &whole[..keep]);
        for command in ["info", "logits"] {
            let more: &[&dyn AsRef<OsStr>] = if command == "logits" { &[&"--tokens", &"1", &"--json"] } else { &[] };
            let said = sandbox.run(&[&[&command as &dyn AsRef<OsStr>, &"cut.anser"], more].concat()).fails(1);
            assert!(said.contains("cut.anser"), "{keep}: {said}");
        }
    }
}

/// Room for neither the draft of the matrices nor the file, then for the draft only.
#[cfg(unix)]
#[test]
fn a_disk_that_fills_up() {
    let sandbox = Sandbox::new();
    sandbox.run(&[&"quantize", &v7(), &"m.anser", &"--tokens", &"16"]).ok();
    let size = std::fs::metadata(sandbox.path("m.anser")).unwrap().len();
    std::fs::remove_file(sandbox.path("m.anser")).unwrap();
    for room in [1000, size - 1] {
        let mut command = sandbox.command(&[&"quantize", &v7(), &"m.anser", &"--tokens", &"16"]);
        limit_files(&mut command, room);
        let said = finish(command).fails(1);
        assert!(said.contains("m.anser") && said.contains("File too large"), "{said}");
        assert!(!said.contains(".part"), "{said}");
        assert!(left(&sandbox).is_empty(), "{:?}", left(&sandbox));
    }
}
