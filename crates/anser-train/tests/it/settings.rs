//! Flags and settings files are one thing.

use std::path::{Path, PathBuf};

use anser_train::Error;
use anser_train::groups::Architecture;
use anser_train::schedule::Curve;
use anser_train::settings::{Length, Run, Settings, TokenizerChoice};
use clap::{Args, FromArgMatches};
use proptest::prelude::*;

fn flags(line: &str) -> Result<Settings, clap::Error> {
    let command = Settings::augment_args(clap::Command::new("train").no_binary_name(true));
    Settings::from_arg_matches(&command.try_get_matches_from(line.split_whitespace())?)
}

fn ok(line: &str) -> Settings {
    flags(line).unwrap_or_else(|e| panic!("{e}"))
}

fn run(line: &str) -> Run {
    ok(line).resolve().unwrap_or_else(|e| panic!("{e}"))
}

fn refused(line: &str) -> String {
    ok(line).resolve().expect_err(line).to_string()
}

fn parse(text: &str) -> Result<Settings, Error> {
    Settings::parse(text, Path::new("my.toml"))
}

const MINIMAL: &str = "--data a.txt --out dir";

const EVERYTHING: &str = "--data a.txt b.jsonl --valid-fraction 0.05 --separator <|endoftext|> \
    --tokenizer vocab.json --magic-prime --model v6 --layers 3 --width 128 --head-size 32 --ffn 320 --context 512 \
    --batch 4 --accumulate 2 --tokens 100000 --patience 3 --lr 6e-4 --lr-final 6e-5 --warmup 20 --schedule wsd-sqrt \
    --decay-fraction 0.3 --weight-decay 0.001 --betas 0.8,0.95 --eps 1e-18 --clip 0.5 --l2wrap 0 \
    --layerwise-lr=false --seed 7 --threads 2 --shards 2 --bptt 128 --carry-state --state-grad \
    --checkpoint-activations=true --eval-every 10 --eval-tokens 1000 --save-every 50 --keep 1 --out dir";

#[test]
fn defaults_suit_a_small_text() {
    let run = run(MINIMAL);
    assert_eq!(run.model, Some(Architecture::V7));
    assert_eq!((run.layers, run.width, run.head_size, run.ffn), (Some(4), Some(256), Some(64), Some(1024)));
    assert_eq!(run.tokenizer, Some(TokenizerChoice::Byte));
    assert_eq!((run.length, run.valid_fraction), (Length::Epochs(1.0), 0.1));
    assert_eq!((run.lr, run.lr_final, run.eps, run.l2wrap), (1e-3, 1e-4, Some(1e-18), 1e-4));
    assert_eq!(run.total_steps(2048 * 10 + 1), 11);
    assert_eq!(run.schedule(11).at(11), 1e-4);
}

#[test]
fn flags_become_a_file_that_means_the_same() {
    for line in [MINIMAL, EVERYTHING, "--data x --out y --model v4 --valid v.txt", "--data x --out y --init m.pth"] {
        let run = run(line);
        let text = run.to_toml().expect("toml");
        let read = parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(read.resolve().expect("resolves"), run, "{text}");
    }
}

#[test]
fn every_flag_is_a_key_and_the_other_way_round() {
    let table: toml::Table = run(EVERYTHING).to_toml().expect("toml").parse().expect("a table");
    let command = Settings::augment_args(clap::Command::new("train"));
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        assert_eq!(argument.get_long().map(|long| long.replace('-', "_")).as_deref(), Some(id));
        assert!(argument.get_help().is_some(), "{id} has no help");
        // What EVERYTHING cannot hold beside the rest, and what is no property of a run.
        if !["config", "resume", "valid", "init", "steps", "epochs"].contains(&id) {
            assert!(table.contains_key(id), "{id} is not saved");
        }
    }
    for key in table.keys() {
        assert!(command.get_arguments().any(|argument| argument.get_id() == key.as_str()), "{key} is no flag");
    }
}

#[test]
fn flags_win_over_the_file() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("run.toml");
    std::fs::write(&file, "data = [\"a.txt\"]\nout = 'old'\nlr = 1\nepochs = 3\nvalid = 'v.txt'\nmodel = 'v4'\n")
        .expect("written");
    let line = format!("--config {} --out new --steps 5 --valid-fraction 0.2", file.display());
    let settings = ok(&line).with_file().expect("merged");
    assert_eq!(settings.out, Some(PathBuf::from("new")));
    assert_eq!((settings.steps, settings.epochs), (Some(5), None));
    assert_eq!((settings.valid.clone(), settings.valid_fraction), (None, Some(0.2)));
    assert_eq!((settings.lr, settings.model), (Some(1.0), Some(Architecture::V4)));
    assert!(ok(&format!("{line} --resume")).with_file().expect("merged").resume);
    assert!(ok("--config /no/such/file.toml").with_file().expect_err("missing").to_string().contains("file.toml"));
}

#[test]
fn wrong_keys_get_a_suggestion() {
    for (text, line, meant) in [
        ("data = ['x']\nlayer = 3\n", 2, "layers"),
        ("weight-decay = 0.1", 1, "weight_decay"),
        ("learnrate = 1\nlr_finale = 1", 1, "the settings are data,"),
        ("\n\nlr_finale = 1", 3, "lr_final"),
        ("LR = 1", 1, "lr"),
        ("[optimizer]\nlr = 1", 1, "the settings are"),
        ("config = 'other.toml'", 1, "the settings are"),
    ] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with(&format!("my.toml:{line}: unknown setting")), "{error}");
        assert!(error.contains(meant), "{error}");
    }
}

#[test]
fn wrong_values_in_a_file_name_the_place() {
    for text in ["lr = 'fast'", "data = 3", "layers = -1", "lr = ", "model = 'v9'", "schedule = 'cosin'"] {
        let error = parse(text).expect_err(text).to_string();
        assert!(error.starts_with("my.toml: ") && error.contains("line 1"), "{error}");
    }
}

#[test]
fn flags_that_exclude_each_other() {
    for line in ["--steps 1 --epochs 1", "--epochs 1 --tokens 5", "--valid a --valid-fraction 0.1", "--model v9"] {
        assert!(flags(line).is_err(), "{line}");
    }
    assert!(parse("steps = 1\nepochs = 2\ndata = ['a']\nout = 'b'").expect("parses").resolve().is_err());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (extra, name) in [
        ("--layers 1", "layers"),
        ("--width 100", "width"),
        ("--width 0", "width"),
        ("--model v4 --head-size 64", "head_size"),
        ("--init m.pth --width 256", "width"),
        ("--context 0", "context"),
        ("--batch 18446744073709551615", "batch"),
        ("--context 100000000000 --batch 100000", "batch"),
        ("--steps 0", "steps"),
        ("--epochs 0", "epochs"),
        ("--epochs nan", "epochs"),
        ("--lr 0", "lr"),
        ("--lr inf", "lr"),
        ("--lr 1e-3 --lr-final 1e-2", "lr_final"),
        ("--schedule exponential --lr-final 0", "lr_final"),
        ("--schedule constant --lr-final 1e-9", "lr_final"),
        ("--betas 0.9", "betas"),
        ("--betas 0.9,1.0", "betas"),
        ("--eps 0", "eps"),
        ("--clip=-1", "clip"),
        ("--valid-fraction 1", "valid_fraction"),
        ("--bptt 100", "bptt"),
        ("--carry-state", "carry_state"),
        ("--bptt 128 --state-grad", "state_grad"),
        ("--model transformer --bptt 128 --carry-state", "carry_state"),
        ("--shards 9", "shards"),
        ("--threads 0", "threads"),
        ("--keep 0", "keep"),
        ("--seed 18446744073709551615", "seed"),
        ("--decay-fraction 0", "decay_fraction"),
    ] {
        let error = refused(&format!("{MINIMAL} {extra}"));
        assert!(error.starts_with(&format!("{name} is ")), "{extra}: {error}");
    }
    assert!(refused("--out x").starts_with("data is not given"));
    assert!(refused("--data x").starts_with("out is not given"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn numbers_survive_the_file(
        lr in 1e-12f64..10.0, ratio in 0.0f64..=1.0, eps in 1e-30f64..1.0, beta in 0.0f64..1.0, seed in 0u64..=i64::MAX as u64,
        steps in 1u64..1_000_000, which in 0..Curve::ALL.len(), text in "[^\0]{1,20}",
    ) {
        let curve = Curve::ALL[which];
        let lr_final = match curve {
            Curve::Constant => lr,
            Curve::Exponential => lr * ratio.max(1e-6),
            _ => lr * ratio,
        };
        let settings = Settings {
            data: Some(vec![PathBuf::from(&text)]), out: Some(PathBuf::from(&text)), separator: Some(text.clone()),
            lr: Some(lr), lr_final: Some(lr_final), eps: Some(eps), betas: Some(vec![beta, 0.5]), seed: Some(seed),
            steps: Some(steps), schedule: Some(curve), ..Settings::default()
        };
        let run = settings.resolve().expect("valid");
        let read = parse(&run.to_toml().expect("toml")).expect("read");
        prop_assert_eq!(read.resolve().expect("valid again"), run);
        prop_assert_eq!(settings.over(Settings::default()).expect("merged"), settings);
    }
}
