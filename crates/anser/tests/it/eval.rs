//! `anser eval` against the scores of the reference runtime.

use serde_json::Value;

use crate::util::{Sandbox, golden, v7};

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(golden("eval_tiny.json")).unwrap()).unwrap()
}

#[track_caller]
fn same(got: &Value, want: &Value, field: &str) {
    let (got, want) = (got[field].as_f64().unwrap(), want[field].as_f64().unwrap());
    // A score is a sum over many tokens: relative, as the word's perplexity is large.
    assert!((got - want).abs() <= 1e-4 * want.abs().max(1e-3), "{field}: {got}, expected {want}");
}

#[test]
fn scores_are_the_reference_runtimes() {
    let sandbox = Sandbox::new();
    let expected = expected();
    for (case, task) in [("lambada", "lambada"), ("mcq", "mcq"), ("mcq_prompt", "mcq"), ("classify", "classify")] {
        let want = &expected[case];
        let file = golden(want["file"].as_str().unwrap());
        let mut reports = Vec::new();
        for batch in ["1", "5"] {
            let args: [&dyn AsRef<std::ffi::OsStr>; 10] =
                [&"eval", &v7(), &"--task", &task, &file, &"--json", &"--batch", &batch, &"--activations", &"32"];
            let got = sandbox.run(&args).json();
            assert_eq!(got["rows"], want["rows"], "{case}");
            let fields = [
                "accuracy",
                "accuracy_stderr",
                "accuracy_norm",
                "accuracy_norm_stderr",
                "perplexity",
                "perplexity_stderr",
            ];
            for field in fields.iter().filter(|f| want.get(**f).is_some()) {
                same(&got, want, field);
            }
            reports.push(got);
        }
        assert_eq!(reports[0], reports[1], "{case}: batching changes nothing");
    }
}

#[test]
fn a_limit_scores_the_first_rows() {
    let sandbox = Sandbox::new();
    let file = golden("eval_lambada.jsonl");
    let got = sandbox.run(&[&"eval", &v7(), &"--task", &"lambada", &file, &"--limit", &"1", &"--json"]).json();
    assert_eq!(got["rows"], 1);
    assert_eq!(got["accuracy_stderr"], Value::Null);
    let text = sandbox.run(&[&"eval", &v7(), &"--task", &"lambada", &file, &"--limit", &"3"]).text();
    assert!(text.starts_with("accuracy 0.") && text.ends_with("(3 rows)\n"), "{text}");
}

#[test]
fn tables_are_read_as_they_are_published() {
    let sandbox = Sandbox::new();
    let jsonl = "{\"text\":\"a, b\",\"label\":\"0\"}\n{\"text\":\"c\",\"label\":\"1\"}\n";
    for (name, content) in
        [("rows.jsonl", jsonl), ("rows.tsv", "0\ta, b\n1\tc\n"), ("rows.csv", "text,category\n\"a, b\",0\nc,1\n")]
    {
        sandbox.write(name, content);
    }
    let score = |file: &str| sandbox.run(&[&"eval", &v7(), &"--task", &"classify", &file, &"--json"]).json();
    let want = score("rows.jsonl");
    assert_eq!(score("rows.tsv"), want);
    assert_eq!(score("rows.csv"), want);
}

#[test]
fn a_bad_row_is_named() {
    let sandbox = Sandbox::new();
    for (task, content, says) in [
        ("lambada", "{\"text\":\"a b\"}\n{\"text\":\"word\"}\n", "line 2"),
        ("lambada", "{\"text\":\"a b\"}\n\n{\"txt\":1}\n", "line 3"),
        ("lambada", "", "no rows"),
        ("mcq", "{\"question\":\"?\",\"choices\":[\"a\"],\"answer\":0}", "2 to 26 choices"),
        ("mcq", "{\"question\":\"?\",\"choices\":[\"a\",\"b\"],\"answer\":2}", "below 2"),
        ("mcq", "{\"choices\":[\"a\",\"b\"],\"answer\":0}", "a question or a prompt"),
        ("mcq", "{\"prompt\":\"?\",\"choices\":[\"a\",\"\"],\"answer\":0}", "empty"),
        ("classify", "{\"text\":\"a\",\"label\":1}", "by number"),
        ("classify", "{\"labels\":[\"x\"]}\n{\"text\":\"a\",\"label\":\"y\"}", "\"y\""),
        ("classify", "{\"prompt\":\"no place\"}\n{\"text\":\"a\",\"label\":\"y\"}", "{text}"),
    ] {
        let file = sandbox.write("rows.jsonl", content);
        let said = sandbox.run(&[&"eval", &v7(), &"--task", &task, &file]).fails(1);
        assert!(said.contains("rows.jsonl") && said.contains(says), "{task} {content}: {said}");
    }
}
