//! anser convert: models in other formats, the same models.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use crate::util::{Sandbox, files, floats, golden, left, model, settings, v7};
#[cfg(unix)]
use crate::util::{finish, limit_files};

const TOKENS: &str = "1,2,3,60,5";

fn logits(sandbox: &Sandbox, path: &dyn AsRef<OsStr>) -> Vec<f32> {
    floats(&sandbox.run(&[&"logits", path, &"--tokens", &TOKENS, &"--json"]).json()["logits"])
}

fn fingerprint(sandbox: &Sandbox, path: &dyn AsRef<OsStr>) -> Value {
    sandbox.run(&[&"info", path, &"--json"]).json()["fingerprint"].clone()
}

#[test]
fn every_version_in_every_format_it_has() {
    let sandbox = Sandbox::new();
    for (name, targets) in [
        ("infer_v4", &["m.pth", "m.safetensors", "hf/", "native"][..]),
        ("infer_v52", &["m.pth", "m.safetensors", "hf/", "native"]),
        ("infer_v6", &["m.pth", "m.safetensors", "m.gguf", "hf/", "native"]),
        ("infer_v7", &["m.pth", "m.safetensors", "m.gguf", "hf/", "native"]),
    ] {
        let source = model(name);
        let (expected, print) = (logits(&sandbox, &source), fingerprint(&sandbox, &source));
        for target in targets {
            let mut args: Vec<&dyn AsRef<OsStr>> = vec![&"convert", &source, target, &"--json"];
            if *target == "native" {
                args.extend([&"--to" as &dyn AsRef<OsStr>, &"hf", &"--layout", &"native"]);
            }
            let report = sandbox.run(&args).json();
            assert_eq!(report["exact"], true, "{name} {target}: {report}");
            assert_eq!(report["verified"]["tensors"], report["tensors"], "{name} {target}");
            assert_eq!(report["verified"]["logits"], 24 * 256, "{name} {target}");
            assert_eq!(report["dtype"], "bf16");
            assert_eq!(logits(&sandbox, target), expected, "{name} {target}");
            assert_eq!(fingerprint(&sandbox, target), print, "{name} {target}");
        }
        // And back from what was written last.
        for (at, target) in targets.iter().enumerate() {
            let back = format!("back{at}.safetensors");
            sandbox.run(&[&"convert", target, &back]).ok();
            assert_eq!(logits(&sandbox, &back), expected, "{name} {target} and back");
            std::fs::remove_file(sandbox.path(&back)).unwrap();
            let path = sandbox.path(target);
            if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
        }
        assert!(left(&sandbox).is_empty(), "{:?}", left(&sandbox));
    }
}

#[test]
fn rounding_is_measured() {
    let sandbox = Sandbox::new();
    for (dtype, most) in [("f32", 0.0), ("f16", 0.05), ("q8_0", 0.5), ("q4_0", 10.0)] {
        let report = sandbox.run(&[&"convert", &v7(), &"m.gguf", &"--dtype", &dtype, &"--force", &"--json"]).json();
        assert_eq!((&report["dtype"], &report["verified"]["logits"]), (&dtype.into(), &(24 * 256).into()));
        let rounding = &report["verified"]["rounding"];
        match report["exact"].as_bool().unwrap() {
            true => assert!(rounding.is_null(), "{dtype}"),
            false => {
                let largest = rounding["largest"].as_f64().unwrap();
                assert!(largest > 0.0 && largest < most, "{dtype}: {rounding}");
                assert!(rounding["kl"].as_f64().unwrap() < most, "{dtype}: {rounding}");
            }
        }
    }
    let text = sandbox.run(&[&"convert", &v7(), &"m.gguf", &"--dtype", &"q4_0", &"--force"]).text();
    assert!(text.contains("verified: ") && text.contains("rounding moves"), "{text}");
    let report = sandbox.run(&[&"convert", &v7(), &"m.pth", &"--verify=tensors", &"--json"]).json();
    assert!(report["verified"]["logits"].is_null() && report["verified"]["tensors"].is_u64(), "{report}");
    let report = sandbox.run(&[&"convert", &v7(), &"n.pth", &"--no-verify", &"--json"]).json();
    assert!(report["verified"].is_null(), "{report}");
    assert_eq!(left(&sandbox), ["m.gguf", "m.pth", "n.pth"]);
}

#[test]
fn a_directory_has_what_its_model_needs() {
    let sandbox = Sandbox::new();
    // The model in the program, with its vocabulary.
    sandbox.run(&[&"convert", &"demo", &"demo-hf", &"--to", &"hf"]).ok();
    assert_eq!(
        files(&sandbox.path("demo-hf")),
        ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    );
    let say = |model: &dyn AsRef<OsStr>| {
        sandbox.run(&[&"generate", model, &"-p", &"Once upon", &"-n", &"8", &"--temperature", &"0"]).text()
    };
    assert_eq!(say(&"demo-hf"), say(&"demo"));
    // Files beside the source go along, and its chat template.
    sandbox.write("demo-hf/chat_template.jinja", "{{ messages[0].content }}");
    sandbox.run(&[&"convert", &"demo-hf", &"again/", &"--verify=tensors"]).ok();
    assert_eq!(sandbox.read("again/tokenizer.json"), sandbox.read("demo-hf/tokenizer.json"));
    assert_eq!(sandbox.read("again/chat_template.jinja"), sandbox.read("demo-hf/chat_template.jinja"));
    // --force replaces a model, whole.
    sandbox.run(&[&"convert", &"demo", &"again", &"--to", &"hf", &"--force", &"--layout", &"native"]).ok();
    assert!(!sandbox.path("again/chat_template.jinja").exists());
    assert_eq!(say(&"again"), say(&"demo"));
    // The World vocabulary is written where it is asked for.
    let source = golden("tiny_v7.pth");
    sandbox.run(&[&"convert", &source, &"world", &"--to", &"hf", &"--tokenizer", &"world", &"--verify=tensors"]).ok();
    let info = sandbox.run(&[&"info", &"world", &"--json"]).json();
    assert_eq!(info["tokenizer"], "world");
    assert!(sandbox.read("world/rwkv_vocab_v20230424.txt").contains("\n261 '\\n\\n' 2\n"));
}

#[test]
fn what_cannot_be_done_says_what_can() {
    let sandbox = Sandbox::new();
    sandbox.write("there.pth", "old");
    std::fs::create_dir(sandbox.path("home")).unwrap();
    sandbox.write("home/letter.txt", "dear");
    let v4 = model("infer_v4");
    let cases: [(&str, i32, Vec<&dyn AsRef<OsStr>>); 9] = [
        ("convert_unknown_format", 2, vec![&"MODEL", &"result"]),
        ("convert_exists", 2, vec![&"MODEL", &"there.pth"]),
        ("convert_not_a_model", 2, vec![&"MODEL", &"home", &"--to", &"hf", &"--force"]),
        ("convert_v4_to_gguf", 1, vec![&v4, &"m.gguf"]),
        ("convert_v4_to_fla", 1, vec![&v4, &"m", &"--layout", &"fla"]),
        ("convert_blocks_to_pth", 1, vec![&"MODEL", &"m.pth", &"--dtype", &"q8_0"]),
        ("convert_layout_of_a_file", 2, vec![&"MODEL", &"m.pth", &"--layout", &"fla"]),
        ("convert_device", 2, vec![&"MODEL", &"/dev/full", &"--to", &"pth"]),
        ("convert_no_folder", 1, vec![&"MODEL", &"none/m.pth"]),
    ];
    let v7 = v7();
    settings(&sandbox).bind(|| {
        for (name, code, args) in cases {
            let mut all: Vec<&dyn AsRef<OsStr>> = vec![&"convert"];
            all.extend(args.into_iter().map(|a| if a.as_ref() == "MODEL" { &v7 as &dyn AsRef<OsStr> } else { a }));
            insta::assert_snapshot!(format!("error_{name}"), sandbox.run(&all).fails(code));
        }
    });
    assert_eq!(left(&sandbox), ["home", "there.pth"]);
    assert_eq!(sandbox.read("there.pth"), "old");
    assert_eq!(sandbox.read("home/letter.txt"), "dear");
}

#[test]
fn a_damaged_source_leaves_the_old_target() {
    let sandbox = Sandbox::new();
    let mut bytes = std::fs::read(v7()).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = json["blocks.1.ffn.key.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + start..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    sandbox.write("nan.safetensors", bytes);
    sandbox.write("m.pth", "old");
    let said = sandbox.run(&[&"convert", &"nan.safetensors", &"m.pth", &"--force"]).fails(1);
    assert!(said.contains("blocks.1.ffn.key.weight") && said.contains("NaN"), "{said}");
    assert_eq!(sandbox.read("m.pth"), "old");
    assert_eq!(left(&sandbox), ["m.pth", "nan.safetensors"]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_fills_up() {
    let sandbox = Sandbox::new();
    for target in ["m.pth", "m.safetensors", "m.gguf", "m/"] {
        let mut command = sandbox.command(&[&"convert", &v7(), &target]);
        limit_files(&mut command, 100_000);
        let said = finish(command).fails(1);
        assert!(said.contains(target.trim_end_matches('/')) && said.contains("File too large"), "{said}");
        assert!(!said.contains(".part"), "{said}");
        assert!(left(&sandbox).is_empty(), "{target}: {:?}", left(&sandbox));
    }
}

#[test]
fn relative_and_linked_targets() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("models")).unwrap();
    sandbox.run(&[&"convert", &v7(), &"models/m.pth", &"--no-verify"]).ok();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("models/m.pth", sandbox.path("link.pth")).unwrap();
        sandbox.run(&[&"convert", &v7(), &"link.pth", &"--no-verify", &"--force", &"--dtype", &"f32"]).ok();
        assert!(sandbox.path("link.pth").is_symlink());
        assert_eq!(sandbox.run(&[&"info", &Path::new("models/m.pth"), &"--json"]).json()["dtype"], "f32");
    }
}
