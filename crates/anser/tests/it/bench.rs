//! `anser bench` reports every figure that scripts rely on.

use crate::util::{Sandbox, v7};

#[test]
fn every_figure_is_there() {
    let sandbox = Sandbox::new();
    let args: [&dyn AsRef<std::ffi::OsStr>; 13] = [
        &"bench",
        &v7(),
        &"--threads",
        &"1",
        &"--prefill",
        &"20",
        &"--decode",
        &"4",
        &"--batch",
        &"3",
        &"--repeat",
        &"2",
        &"--json",
    ];
    let got = sandbox.run(&args).json();
    for field in ["prefill_tok_s", "decode_tok_s", "batch_tok_s"] {
        let (median, max) = (got[field].as_f64().unwrap(), got[&format!("{field}_max")].as_f64().unwrap());
        assert!(0.0 < median && median <= max, "{field}: {median}, {max}");
    }
    assert!(got["start_ms"].as_f64().unwrap() > 0.0);
    #[cfg(target_os = "linux")]
    assert!(got["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!((&got["threads"], &got["batch"], &got["repeat"]), (&1.into(), &3.into(), &2.into()));
    for field in ["storage", "commit", "version", "model"] {
        assert!(!got[field].as_str().unwrap().is_empty(), "{field}");
    }
    assert!(got["machine"]["cores"].as_u64().unwrap() > 0);
    let text = sandbox.run(&args[..12]).text();
    assert!(text.contains("prefill 20") && text.contains("batch 3"), "{text}");
}

#[cfg(feature = "train")]
#[test]
fn training_is_measured_too() {
    let sandbox = Sandbox::new();
    let args: [&dyn AsRef<std::ffi::OsStr>; 17] = [
        &"bench",
        &"--train",
        &"--layers",
        &"2",
        &"--width",
        &"32",
        &"--vocab",
        &"50",
        &"--context",
        &"16",
        &"--rows",
        &"2",
        &"--threads",
        &"1",
        &"--repeat",
        &"2",
        &"--json",
    ];
    let got = sandbox.run(&args).json();
    let (median, max) = (got["train_tok_s"].as_f64().unwrap(), got["train_tok_s_max"].as_f64().unwrap());
    assert!(0.0 < median && median <= max, "{median}, {max}");
    assert_eq!((&got["layers"], &got["vocab"], &got["steps"]), (&2.into(), &50.into(), &2.into()));
    assert!(got["parameters"].as_u64().unwrap() > 10_000);
    let text = sandbox.run(&args[..16]).text();
    assert!(text.contains("train 2 x 16"), "{text}");
}
