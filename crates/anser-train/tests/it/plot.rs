//! Metrics files and charts.

use anser_train::metrics::{Entry, Metrics, read};
use anser_train::plot::{Axis, Chart, Mark, Series, loss_curve};
use proptest::prelude::*;

fn step(step: u64, loss: f64) -> Entry {
    Entry::Step {
        step,
        tokens: step * 2048,
        loss,
        lr: 1e-3,
        gradient_norm: 0.5,
        tokens_per_second: 1234.5,
        seconds: step as f64,
    }
}

fn eval(step: u64, loss: f64) -> Entry {
    Entry::Eval { step, tokens: step * 2048, loss, targets: 65536, seconds: step as f64 }
}

#[test]
fn metrics_survive_a_killed_run() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("metrics.jsonl");
    let mut metrics = Metrics::create(&path).expect("created");
    let entries = [step(1, 5.5), step(2, 5.0), eval(2, 5.1), step(3, 4.5), step(4, 4.2), eval(4, 4.4)];
    for entry in &entries {
        metrics.append(entry).expect("appended");
    }
    assert_eq!(read(&path).expect("read"), entries);
    // Killed in the middle of a line.
    let mut bytes = std::fs::read(&path).expect("bytes");
    bytes.extend(br#"{"kind":"step","st"#);
    std::fs::write(&path, &bytes).expect("torn");
    assert_eq!(read(&path).expect("read"), entries);

    let mut metrics = Metrics::resume(&path, 2).expect("resumed");
    assert_eq!(read(&path).expect("read"), entries[..3]);
    metrics.append(&step(3, 4.5)).expect("appended");
    assert_eq!(read(&path).expect("read"), entries[..4]);
    let new = folder.path().join("new.jsonl");
    Metrics::resume(&new, 7).expect("begun").append(&step(8, 1.0)).expect("appended");
    assert_eq!(read(&new).expect("read").len(), 1);
}

#[test]
fn lines_that_are_none_of_ours_are_named() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("metrics.jsonl");
    std::fs::write(&path, "{\"kind\":\"step\"}\n").expect("written");
    let error = read(&path).expect_err("a field is missing").to_string();
    assert!(error.contains("metrics.jsonl:1:"), "{error}");
    assert!(read(&folder.path().join("none")).is_err());
}

#[test]
fn a_loss_that_is_no_number_comes_back_as_one() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("metrics.jsonl");
    Metrics::create(&path).expect("created").append(&step(1, f64::NAN)).expect("appended");
    let Entry::Step { loss, .. } = read(&path).expect("read")[0] else { panic!("a step") };
    assert!(loss.is_nan());
}

fn small() -> Chart {
    Chart {
        title: "Words of S5 & A5".into(),
        x: Axis { label: "length (tokens)".into(), log: true },
        y: Axis { label: "accuracy (%)".into(), log: false },
        series: vec![
            Series {
                name: "v7 <new>".into(),
                points: vec![(8.0, 100.0), (32.0, 99.0), (128.0, 95.0)],
                band: vec![(8.0, 99.0, 100.0), (32.0, 97.0, 100.0), (128.0, 90.0, 98.0)],
                mark: Mark::Dots,
            },
            Series { name: "v6".into(), points: vec![(8.0, 80.0), (32.0, 40.0), (128.0, 12.5)], ..Series::default() },
        ],
    }
}

#[test]
fn a_small_chart() {
    insta::assert_snapshot!("chart.svg", small().svg());
    insta::assert_snapshot!("chart.txt", small().text(60, 16));
}

#[test]
fn a_loss_curve() {
    let mut entries = Vec::new();
    for at in 1..=5000u64 {
        let noise = ((at * 7919) % 100) as f64 / 500.0;
        entries.push(step(at, 1.5 + 4.0 * (-(at as f64) / 400.0).exp() + noise));
        if at.is_multiple_of(500) {
            entries.push(eval(at, 1.7 + 4.0 * (-(at as f64) / 400.0).exp()));
        }
    }
    let chart = loss_curve("demo", "loss (nats per token)", &entries);
    assert_eq!(chart.series.len(), 3);
    let svg = chart.svg();
    assert!(svg.len() < 80_000, "{}", svg.len());
    assert_eq!(svg.matches("<circle").count(), 10);
    let one = Chart { series: chart.series[..2].to_vec(), ..chart };
    insta::assert_snapshot!("loss.txt", one.text(72, 18));
}

#[test]
fn ticks_are_round_and_short() {
    for (high, wanted) in [(1.0, "0.2"), (5000.0, "1000"), (50_000.0, "10k"), (3e6, "1M"), (4e-5, "1e-5")] {
        let points = vec![(0.0, 0.0), (1.0, high)];
        let chart = Chart { series: vec![Series { points, ..Series::default() }], ..Chart::default() };
        assert!(chart.svg().contains(&format!(">{wanted}</text>")), "{high}: {}", chart.svg());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn anything_can_be_drawn(
        points in prop::collection::vec((any::<f64>(), any::<f64>()), 0..40), log in any::<[bool; 2]>(),
        width in 0usize..150, height in 0usize..50, title in ".{0,20}", series in 1usize..4,
    ) {
        let one = Series { name: title.clone(), points, ..Series::default() };
        let axis = |log| Axis { label: title.clone(), log };
        let chart = Chart { title: title.clone(), x: axis(log[0]), y: axis(log[1]), series: vec![one; series] };
        let (svg, text) = (chart.svg(), chart.text(width, height));
        prop_assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN"));
        prop_assert!(text.lines().all(|line| line.chars().count() <= width.max(30)), "{}", text);
        prop_assert!(text.lines().count() <= height.max(8));
    }
}
