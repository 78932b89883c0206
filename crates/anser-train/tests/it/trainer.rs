//! The loop: against torch, against itself in parts, and against what goes wrong.

use std::cell::Cell;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use anser_checkpoint::Checkpoint;
use anser_nn::gradients::Trainable;
use anser_nn::model::LanguageModel;
use anser_testkit::{Golden, assert_close, write_weights};
use anser_train::Error;
use anser_train::data::Batch;
use anser_train::groups::Architecture;
use anser_train::language::{Data, Method};
use anser_train::metrics::Entry;
use anser_train::schedule::{Curve, Schedule};
use anser_train::session::{Session, initial, sizes};
use anser_train::settings::Settings;
use anser_train::snapshot;
use anser_train::trainer::{End, Event, Recipe, Trainer};

/// The same batch at every step.
struct Constant(Batch);

impl Data for Constant {
    fn batch(&self, _: u64) -> Result<Batch, Error> {
        Ok(self.0.clone())
    }
}

fn recipe(architecture: Architecture) -> Recipe {
    Recipe {
        steps: 3,
        schedule: Schedule {
            curve: Curve::Constant,
            lr: 1e-3,
            lr_final: 1e-3,
            warmup: 0,
            total: 3,
            decay_fraction: 0.5,
        },
        betas: (0.9, 0.99),
        eps: if architecture == Architecture::V4 { 1e-8 } else { 1e-18 },
        weight_decay: 0.1,
        clip: Some(1.0),
        eval_every: 0,
        save_every: 0,
        keep: 1,
        snapshots: None,
        patience: None,
    }
}

fn method(architecture: Architecture) -> Method {
    Method { l2_wrap: 1e-4, ..Method::new(architecture) }
}

fn golden_model(name: &str) -> LanguageModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_weights(name, &path);
    LanguageModel::load(&Checkpoint::open(&path).unwrap(), &anser_nn::cpu()).unwrap()
}

fn golden_batch(name: &str) -> Batch {
    let golden = Golden::open(name);
    let (tokens, targets) = (golden.tokens("in.tokens"), golden.tokens("in.targets"));
    let rows = tokens.len();
    Batch { tokens, targets, weights: vec![1.0; rows], cu_seqlens: vec![0, rows] }
}

/// Three steps as torch does them; the bounds are those of golden/train/README.md.
fn three_steps(version: &str, architecture: Architecture) {
    let name = format!("lm/train_{version}");
    let golden = Golden::open(&format!("train/steps_{version}"));
    let mut trainer = Trainer::new(golden_model(&name));
    let (data, recipe) = (Constant(golden_batch(&name)), recipe(architecture));
    let objective = method(architecture).on(&data);
    for i in 0..3 {
        let Entry::Step { loss, gradient_norm, .. } = trainer.step(&recipe, &objective).unwrap() else {
            panic!("a step reports a step")
        };
        let (want_loss, want_norm) = (golden.f32("out.loss")[i], golden.f32("out.grad_norm")[i]);
        assert_close("loss", &[loss as f32], &[want_loss], 1e-5);
        assert_close("norm", &[gradient_norm as f32], &[want_norm], 1e-5 * want_norm);
    }
    let (mut compared, mut far, mut all) = (0, 0, 0);
    trainer.model().read(|name, _, values| {
        if name.starts_with("blocks.0.att.v") && !name.contains("value") {
            return; // without a gradient: left out of the file
        }
        let want = golden.f32(&format!("after.{name}"));
        assert_close(name, values, want, 1e-3);
        far += values.iter().zip(want).filter(|(a, b)| (*a - *b).abs() > 1e-5).count();
        all += want.len();
        compared += 1;
    });
    assert!(far * 10_000 <= all, "{far} of {all} weights are further than a hundredth of a learning rate");
    assert_eq!(compared, golden.names().filter(|name| name.starts_with("after.")).count());
}

#[test]
fn three_steps_of_rwkv4() {
    three_steps("v4", Architecture::V4);
}

#[test]
fn three_steps_of_rwkv5() {
    three_steps("v52", Architecture::V5_2);
}

#[test]
fn three_steps_of_rwkv6() {
    three_steps("v6", Architecture::V6);
}

#[test]
fn three_steps_of_rwkv7() {
    three_steps("v7", Architecture::V7);
}

fn weights(model: &LanguageModel) -> Vec<f32> {
    let mut all = Vec::new();
    model.read(|_, _, values| all.extend_from_slice(values));
    all
}

/// A small run over this text.
fn settings(folder: &Path, steps: u64) -> Settings {
    let text = folder.join("text.txt");
    if !text.exists() {
        let line = "the grey goose flies over the green meadow and never looks back\n";
        std::fs::write(&text, line.repeat(60)).unwrap();
    }
    Settings {
        data: Some(vec![text]),
        layers: Some(2),
        width: Some(32),
        context: Some(32),
        batch: Some(4),
        steps: Some(steps),
        warmup: Some(2),
        eval_every: Some(3),
        eval_tokens: Some(64),
        save_every: Some(2),
        threads: Some(2),
        out: Some(folder.join("run")),
        ..Settings::default()
    }
}

fn train(settings: &Settings, stop_after: Option<u64>) -> (Session, End) {
    let mut session = Session::prepare(settings.resolve().unwrap(), &mut |_| {}).unwrap();
    let stop = AtomicBool::new(false);
    let end = session
        .train(&stop, &mut |event| {
            if let (Event::Metric(Entry::Step { step, .. }), Some(after)) = (event, stop_after) {
                stop.store(*step >= after, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(())
        })
        .unwrap();
    (session, end)
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bits() {
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (uninterrupted, end) = train(&settings(whole.path(), 7), None);
    assert_eq!(end, End::Finished);

    let mut settings = settings(parts.path(), 7);
    let (_, end) = train(&settings, Some(3));
    assert_eq!(end, End::Stopped);
    settings.resume = true;
    let (resumed, end) = train(&settings, None);
    assert_eq!(end, End::Finished);
    assert_eq!(weights(uninterrupted.trainer.model()), weights(resumed.trainer.model()));
    assert_eq!(uninterrupted.trainer.optimizer, resumed.trainer.optimizer);

    // Metrics too, but for the clock.
    let lines = |folder: &Path| -> Vec<(u64, Option<u64>)> {
        let entries = anser_train::metrics::read(&folder.join("run/metrics.jsonl")).unwrap();
        let loss = |entry: &Entry| match entry {
            Entry::Step { loss, .. } => Some(loss.to_bits()),
            Entry::Eval { loss, .. } => Some(loss.to_bits()),
        };
        entries.iter().map(|entry| (entry.step(), loss(entry))).collect()
    };
    assert_eq!(lines(whole.path()), lines(parts.path()));
    for file in ["run.toml", "loss.svg", "model.safetensors", "data.json"] {
        assert!(parts.path().join("run").join(file).exists(), "{file}");
    }
    let model = std::fs::read(whole.path().join("run/model.safetensors")).unwrap();
    assert!(model == std::fs::read(parts.path().join("run/model.safetensors")).unwrap());
    let saved = snapshot::list(&parts.path().join("run/checkpoints")).unwrap();
    assert_eq!(saved.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [6, 7]);
}

#[test]
fn the_model_learns_and_opens_again() {
    let folder = tempfile::tempdir().unwrap();
    let (session, _) = train(&Settings { lr: Some(3e-3), ..settings(folder.path(), 60) }, None);
    let best = session.trainer.progress.best.unwrap();
    assert!(best < 1.5, "a repeated line is learned: {best}");
    let checkpoint = Checkpoint::open(&folder.path().join("run")).unwrap();
    let config = checkpoint.config();
    assert_eq!((config.vocab, config.width, config.layers), (256, 32, 2));
    // bf16 on disk: the numbers are those of the run, rounded.
    let loaded = weights(&LanguageModel::load(&checkpoint, &anser_nn::cpu()).unwrap());
    for (a, b) in loaded.iter().zip(weights(session.trainer.model())) {
        assert!((a - b).abs() <= b.abs() / 128.0, "{a} {b}");
    }
}

#[test]
fn micro_batches_and_shards_add_up_to_the_batch() {
    let golden = golden_batch("lm/train_v7");
    let cut = |rows: std::ops::Range<usize>| Batch {
        tokens: golden.tokens[rows.clone()].to_vec(),
        targets: golden.targets[rows.clone()].to_vec(),
        weights: golden.weights[rows.clone()].to_vec(),
        cu_seqlens: vec![0, rows.len()],
    };
    let joined = Batch { cu_seqlens: vec![0, 10, 32], ..golden.clone() };
    /// Two micro-batches, or both at once.
    struct Two([Batch; 2], Cell<usize>);
    impl Data for Two {
        fn batch(&self, index: u64) -> Result<Batch, Error> {
            self.1.set(self.1.get() + 1);
            Ok(self.0[index as usize % 2].clone())
        }
    }
    let (one, method) = (Recipe { eps: 1e-8, ..recipe(Architecture::V7) }, method(Architecture::V7));
    let mut whole = Trainer::new(golden_model("lm/train_v7"));
    whole.step(&one, &method.on(&Constant(joined.clone()))).unwrap();
    let whole = weights(whole.model());

    let mut accumulated = Trainer::new(golden_model("lm/train_v7"));
    let data = Two([cut(0..10), cut(10..32)], Cell::new(0));
    accumulated.step(&one, &Method { accumulate: 2, ..method }.on(&data)).unwrap();
    assert_eq!(data.1.get(), 2);
    assert_close("accumulated", &weights(accumulated.model()), &whole, 2e-4);

    let mut sharded = Trainer::new(golden_model("lm/train_v7"));
    sharded.step(&one, &Method { shards: 2, ..method }.on(&Constant(joined))).unwrap();
    assert_close("sharded", &weights(sharded.model()), &whole, 2e-4);
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_names_the_tensor() {
    let model = golden_model("lm/train_v7").update(|name, _, values| {
        if name == "blocks.1.ffn.key.weight" {
            values[5] = f32::NAN;
        }
    });
    let mut trainer = Trainer::new(model);
    let data = Constant(golden_batch("lm/train_v7"));
    let error = trainer.step(&recipe(Architecture::V7), &method(Architecture::V7).on(&data)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("step 1: parameter `blocks.1.ffn.key.weight` is NaN at element 5"), "{text}");
    assert_eq!(trainer.progress.step, 0);
}

#[test]
fn what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let base = settings(folder.path(), 2);
    let refused = |settings: &Settings| match Session::prepare(settings.resolve().unwrap(), &mut |_| {}) {
        Ok(_) => panic!("accepted"),
        Err(error) => error.to_string(),
    };
    // A checkpoint with a value that is no number.
    let bad = folder.path().join("bad.safetensors");
    let mut tensors = Vec::new();
    initial(&sizes(Architecture::V7, 256, 2, 32, None, None).unwrap(), 1).unwrap().read(|name, shape, values| {
        let mut values = values.to_vec();
        if name == "blocks.0.att.key.weight" {
            values[3] = f32::INFINITY;
        }
        tensors.push(anser_checkpoint::Tensor::from_f32(name, shape, anser_checkpoint::Dtype::F32, &values));
    });
    anser_checkpoint::write_safetensors(&bad, &tensors, &[]).unwrap();
    let text = refused(&Settings { init: Some(bad), layers: None, width: None, ..base.clone() });
    assert!(text.contains("`blocks.0.att.key.weight` has inf at element 3"), "{text}");

    // A run that is there already, then another text under it.
    train(&base, None);
    let text = refused(&base);
    assert!(text.contains("--resume"), "{text}");
    std::fs::write(folder.path().join("text.txt"), "something else entirely\n".repeat(200)).unwrap();
    let text = refused(&Settings { resume: true, ..base.clone() });
    assert!(text.contains("data file changed"), "{text}");
    let more = folder.path().join("more.txt");
    std::fs::write(&more, "one more file\n".repeat(200)).unwrap();
    let data = Some(vec![folder.path().join("text.txt"), more]);
    let text = refused(&Settings { resume: true, data, ..base });
    assert!(text.contains("began with 1 data files, now there are 2"), "{text}");
}

#[test]
fn a_snapshot_that_cannot_be_written_leaves_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = Trainer::new(golden_model("lm/train_v7"));
    let snapshots = folder.path().join("checkpoints");
    let recipe = Recipe { snapshots: Some(snapshots.clone()), save_every: 1, steps: 1, ..recipe(Architecture::V7) };
    let data = Constant(golden_batch("lm/train_v7"));
    let objective = method(Architecture::V7).on(&data);
    let stop = AtomicBool::new(false);
    trainer.run(&recipe, &objective, &stop, &mut |_| Ok(())).unwrap();
    let before = snapshot::load(&snapshots.join("step-00000001")).unwrap();
    // A file in the way of the next one.
    std::fs::write(snapshots.join(".step-00000002.part"), "in the way").unwrap();
    let error = trainer.run(&Recipe { steps: 2, ..recipe }, &objective, &stop, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("step-00000002"), "{error}");
    assert_eq!(snapshot::list(&snapshots).unwrap().len(), 1);
    let after = snapshot::load(&snapshots.join("step-00000001")).unwrap();
    assert!(before.weights == after.weights && before.optimizer == after.optimizer);
}

#[test]
fn damaged_snapshots_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let trainer = Trainer::new(golden_model("lm/train_v7"));
    let place = snapshot::save(folder.path(), 2, trainer.model(), &trainer.optimizer, &trainer.progress).unwrap();
    for file in ["weights.safetensors", "moments.safetensors", "progress.json"] {
        let path = place.join(file);
        let whole = std::fs::read(&path).unwrap();
        for cut in [0, 1, whole.len() / 2] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let error = snapshot::load(&place).err().unwrap_or_else(|| panic!("{file} cut to {cut} was accepted"));
            assert!(error.to_string().contains(file), "{error}");
        }
        std::fs::write(&path, &whole).unwrap();
    }
    snapshot::load(&place).unwrap();
}
