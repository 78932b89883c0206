//! What the program says when it cannot do what was asked.

use std::ffi::OsStr;

use crate::util::{Sandbox, golden, settings, v7};

#[test]
fn main_errors() {
    let sandbox = Sandbox::new();
    let cases: [(&str, i32, Vec<&dyn AsRef<OsStr>>); 7] = [
        ("prompt_as_model", 2, vec![&"generate", &"Once upon a time"]),
        ("missing_file", 1, vec![&"generate", &"models/none.pth", &"--prompt", &"x"]),
        ("hub_name_without_prefix", 1, vec![&"info", &"owner/repo"]),
        ("bad_hub_name", 2, vec![&"info", &"hf:owner"]),
        ("token_outside", 1, vec![&"logits", &"MODEL", &"--tokens", &"1,256", &"--json"]),
        ("bad_sampling", 1, vec![&"generate", &"MODEL", &"-p", &"x", &"--top-p", &"3"]),
        ("no_tokenizer", 2, vec![&"generate", &"MODEL", &"-p", &"x", &"--tokenizer", &"none.json"]),
    ];
    let model = v7();
    settings(&sandbox).bind(|| {
        for (name, code, args) in cases {
            let args: Vec<&dyn AsRef<OsStr>> =
                args.into_iter().map(|a| if a.as_ref() == "MODEL" { &model as &dyn AsRef<OsStr> } else { a }).collect();
            insta::assert_snapshot!(format!("error_{name}"), sandbox.run(&args).fails(code));
        }
        let model = golden("tiny_v7.pth");
        insta::assert_snapshot!("error_unknown_tokenizer", sandbox.run(&[&"generate", &model, &"-p", &"x"]).fails(2));
        insta::assert_snapshot!("error_no_prompt", sandbox.run(&[&"generate", &v7()]).fails(2));
    });
}

#[test]
fn damaged_models_are_refused() {
    let sandbox = Sandbox::new();
    for file in [v7(), golden("tiny_v7.pth")] {
        let whole = std::fs::read(&file).unwrap();
        let refuse = |bytes: &[u8], what: &str| {
            sandbox.write("model", bytes);
            let said = sandbox.run(&[&"logits", &"model", &"--tokens", &"1", &"--json"]).fails(1);
            assert!(said.contains("model"), "{file:?}, {what}: {said}");
        };
        refuse(b"", "empty");
        refuse(b"not a model", "text");
        for keep in [8, 100, whole.len() / 3, whole.len() - 8] {
            refuse(&whole[..keep], "cut off");
        }
        let mut huge = whole.clone();
        huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        refuse(&huge, "a header of 2^64 bytes");
    }
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.run(&[&"info", &"empty"]).fails(1);
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    let sandbox = Sandbox::new();
    let mut bytes = std::fs::read(v7()).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = json["blocks.1.ffn.key.weight"]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + start..][..2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    sandbox.write("nan.safetensors", bytes);
    let said = sandbox.run(&[&"generate", &"nan.safetensors", &"-p", &"x"]).fails(1);
    assert!(said.contains("blocks.1.ffn.key.weight") && said.contains("NaN"), "{said}");
}
