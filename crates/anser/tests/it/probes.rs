//! logits, perplexity, info, zoo: what is read out of a model.

use anser_testkit::{Golden, assert_close};

use crate::util::{Sandbox, floats, golden, model, v7};

fn joined(tokens: &[u32]) -> String {
    tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn logits_are_the_reference_runtimes() {
    let sandbox = Sandbox::new();
    for name in ["infer_v4", "infer_v50", "infer_v51", "infer_v52", "infer_v6", "infer_v7"] {
        let case = Golden::open(&format!("lm/{name}"));
        let (tokens, path) = (joined(&case.tokens("in.tokens")), model(name));
        let want = case.f32("out.logits_seq");
        // The weights are bf16, and so is what they are multiplied with unless somebody asks for more.
        let args: [&dyn AsRef<std::ffi::OsStr>; 8] =
            [&"logits", &path, &"--tokens", &tokens, &"--json", &"--activations", &"32", &"--all"];
        let out = sandbox.run(&args).json();
        let rows = out["logits"].as_array().unwrap();
        let got: Vec<f32> = rows.iter().flat_map(floats).collect();
        assert_close(name, &got, want, 3e-5);

        let last = sandbox.run(&args[..7]).json();
        assert_eq!(floats(&last["logits"]), floats(&rows[rows.len() - 1]), "{name}: the last position alone");
    }
}

#[test]
fn folders_give_the_logits_of_the_model_they_were_made_from() {
    let sandbox = Sandbox::new();
    for (folder, original) in [
        ("v4", "infer_v4"),
        ("custom_v5", "infer_v52"),
        ("custom_v6", "infer_v6"),
        ("fla_v6", "infer_v6"),
        ("fla_v7", "infer_v7"),
        ("native_v7_sharded", "infer_v7"),
        ("native_v7_prefixed", "infer_v7"),
    ] {
        let path = anser_testkit::golden_dir().join("hf").join(folder);
        let of = |model: &std::path::Path| {
            let out = sandbox.run(&[&"logits", &model, &"--tokens", &"34,10,5,32", &"--json"]).json();
            floats(&out["logits"])
        };
        if folder == "native_v7_prefixed" {
            assert_eq!(of(&path).len(), 48, "{folder}: other weights, those of golden/lm/pth_variants");
        } else {
            assert_eq!(of(&path), of(&model(original)), "{folder}");
        }
    }
}

#[test]
fn every_format_gives_the_logits_of_the_same_weights() {
    let sandbox = Sandbox::new();
    for (file, original) in [
        ("lm/tiny_v4.pth", "train_v4"),
        ("lm/tiny_v52.pth", "train_v52"),
        ("lm/tiny_v6.pth", "train_v6"),
        ("lm/tiny_v7.pth", "train_v7"),
        ("lm/tiny_v7_legacy.pth", "train_v7"),
        ("gguf/rwkv6_f32.gguf", "train_v6"),
        ("gguf/rwkv6_bf16.gguf", "train_v6"),
        ("gguf/rwkv7_f32.gguf", "train_v7"),
    ] {
        // f32 and bf16 of the same values: with inputs of 32 bits the same products.
        let logits = |path: &std::path::Path| {
            let args: [&dyn AsRef<std::ffi::OsStr>; 7] =
                [&"logits", &path, &"--tokens", &"5,9,31,2", &"--json", &"--activations", &"32"];
            floats(&sandbox.run(&args).json()["logits"])
        };
        let ours = logits(&anser_testkit::golden_dir().join(file));
        assert_eq!(ours.len(), 64, "{file}");
        assert_eq!(ours, logits(&model(original)), "{file}");
    }
}

#[test]
fn without_json_the_most_probable_tokens_are_listed() {
    let sandbox = Sandbox::new();
    let table = sandbox.run(&[&"logits", &v7(), &"-p", &"The geese"]).text();
    assert_eq!(table.lines().count(), 11);
}

#[test]
fn perplexity_is_the_reference_runtimes() {
    let sandbox = Sandbox::new();
    let want: serde_json::Value = serde_json::from_slice(&std::fs::read(golden("eval_tiny.json")).unwrap()).unwrap();
    let file = golden("eval_text.txt");
    for (bos, want) in [(false, &want["perplexity"]), (true, &want["perplexity"]["bos"])] {
        let command: [&dyn AsRef<std::ffi::OsStr>; 8] =
            [&"perplexity", &v7(), &"--file", &file, &"--json", &"--activations", &"32", &"--bos"];
        let got = sandbox.run(&command[..if bos { 8 } else { 7 }]).json();
        assert_eq!(got["tokens"], want["tokens"]);
        for field in ["nats_per_token", "perplexity", "bits_per_byte"] {
            let (got, want) = (got[field].as_f64().unwrap(), want[field].as_f64().unwrap());
            assert!((got / want - 1.0).abs() < 1e-5, "{field}: {got}, expected {want}");
        }
    }
}

#[test]
fn a_text_too_short_to_score_is_an_error() {
    let sandbox = Sandbox::new();
    sandbox.write("one", "x");
    let said = sandbox.run(&[&"perplexity", &v7(), &"-f", &"one"]).fails(1);
    assert!(said.contains("nothing to score") && said.contains("--bos"), "{said}");
    assert_eq!(sandbox.run(&[&"perplexity", &v7(), &"-f", &"one", &"--bos", &"--json"]).json()["tokens"], 1);
}

#[test]
fn info_reads_a_checkpoint_from_names_and_shapes() {
    let sandbox = Sandbox::new();
    let info = sandbox.run(&[&"info", &golden("tiny_v7.pth"), &"--json"]).json();
    assert_eq!(info["version"], "7");
    assert_eq!(
        (&info["layers"], &info["width"], &info["vocab"], &info["ffn"]),
        (&2.into(), &64.into(), &64.into(), &160.into())
    );
    assert_eq!(info["ranks"], serde_json::json!({ "mix": 0, "decay": 16, "a": 24, "v": 8, "g": 40 }));
    assert_eq!(info["dtype"], "bf16");
    assert_eq!(info["tokenizer"], "unknown");
    let same = sandbox.run(&[&"info", &model("train_v7"), &"--json"]).json();
    assert_eq!(same["fingerprint"], info["fingerprint"], "the same model in another format");
    let insta = crate::util::settings(&sandbox);
    insta.bind(|| insta::assert_snapshot!("info", sandbox.run(&[&"info", &v7()]).text()));
}

#[test]
fn zoo_lists_the_published_models() {
    let sandbox = Sandbox::new();
    let zoo = sandbox.run(&[&"zoo", &"--json"]).json();
    let row = zoo.as_array().unwrap().iter().find(|r| r["version"] == "7" && r["size"] == "0.4B").unwrap();
    assert_eq!(row["parameters"], 450_834_432u64);
    assert_eq!(row["state_bytes"], 1_622_016 * 4);
    let mut insta = crate::util::settings(&sandbox);
    // The built-in model's figures are its file's.
    insta.add_filter(r"(?m)^(    demo) .*$", "$1 [FIGURES]");
    insta.bind(|| insta::assert_snapshot!("zoo", sandbox.run(&[&"zoo"]).text()));
}
