//! Forecasters fitted, kept, and used for holes and anomalies.

use std::sync::atomic::AtomicBool;

use anser_checkpoint::Version;
use anser_nn::gradients::Trainable;
use anser_nn::model::series::{Backbone, SeriesModel};
use anser_series::linear::Linear;
use anser_series::{Axis, Series};
use anser_testkit::Rng;
use anser_train::series::backtest::{Method as _, Windows, backtest, each};
use anser_train::series::choice::Choice;
use anser_train::series::fit::{Fitted, closed_form, fit};
use anser_train::series::initial::{Shape, initial};
use anser_train::series::{Forecaster, Planned, Scaled, Wishes, bands, plan, split};

/// A day of 12 rows with some noise, in two columns of unlike size.
fn days(rows: usize) -> Series {
    let noise = Rng(3).vec(2 * rows, 1.0);
    let value = |t: usize, m: usize| {
        let day = (t as f64 / 12.0 * std::f64::consts::TAU + m as f64).sin();
        (day + 0.15 * f64::from(noise[2 * t + m])) * [1.0, 250.0][m] + [3.0, -40.0][m]
    };
    Series {
        name: "days".into(),
        columns: vec!["small".into(), "large".into()],
        axis: Axis::Rows,
        values: (0..rows).flat_map(|t| [value(t, 0), value(t, 1)]).collect(),
        missing: vec![false; 2 * rows],
    }
}

fn wishes() -> Wishes {
    Wishes { horizon: 12, look_back: Some(48), width: Some(16), steps: Some(12), batch: Some(32), ..Wishes::default() }
}

fn fitted(series: &Series, wishes: &Wishes) -> (Planned, Fitted, Scaled) {
    let planned = plan(series, wishes).unwrap();
    let data = Scaled::new(series, planned.split.train.clone());
    let (look_back, output) = (planned.plan.method.look_back, planned.plan.shape.output);
    let linear = (planned.plan.shape.skip > 0)
        .then(|| closed_form(&data, &planned.split, look_back, output, &mut |_, _| {}).unwrap());
    let stop = AtomicBool::new(false);
    let fitted = fit(&data, &planned.split, &planned.plan, linear.as_ref(), &stop, &mut |_| Ok(())).unwrap();
    (planned, fitted, data)
}

fn forecaster(series: &Series) -> Forecaster {
    let (planned, fitted, _) = fitted(series, &wishes());
    let (model, look_back) = (fitted.model, planned.plan.method.look_back);
    Forecaster { model, look_back, columns: series.columns.clone(), step: None }
}

fn weights(model: &SeriesModel) -> Vec<f32> {
    let mut all = Vec::new();
    model.read(|_, _, values| all.extend_from_slice(values));
    all
}

#[test]
fn sizes_follow_the_series() {
    let series = days(900);
    let planned = plan(&series, &Wishes { horizon: 30, ..Wishes::default() }).unwrap();
    assert_eq!(planned.season.period, 12);
    let shape = planned.plan.shape;
    assert_eq!((shape.patch, shape.output), (12, 36));
    assert!(planned.plan.method.look_back.is_multiple_of(12) && planned.plan.method.look_back <= 210);
    assert_eq!((planned.split.train.end, planned.split.test.clone()), (630, 720..900));
    // A horizon longer than the usual part makes the parts longer.
    let parts = split(&series, 200, 0.1, 0.2).unwrap();
    assert_eq!((parts.validation, parts.test), (500..700, 700..900));
    let short = split(&series, 450, 0.1, 0.2).unwrap_err().to_string();
    assert!(short.contains("900 rows") && short.contains("horizon of 450"), "{short}");
    let few = plan(&days(20), &Wishes { horizon: 8, ..Wishes::default() }).unwrap_err().to_string();
    assert!(few.contains("20 rows"), "{few}");
    let odd = plan(&series, &Wishes { patch: Some(10), look_back: Some(25), ..wishes() }).unwrap_err().to_string();
    assert!(odd.contains("look_back is 25"), "{odd}");
    let none = plan(&series, &Wishes { horizon: 0, ..wishes() }).unwrap_err().to_string();
    assert!(none.contains("horizon"), "{none}");
}

/// The model begins as the closed form and is never kept where it is worse on the rows to choose by.
#[test]
fn the_linear_path_is_the_closed_form() {
    let series = days(700);
    let planned = plan(&series, &Wishes { steps: Some(1), lr: Some(1e-12), ..wishes() }).unwrap();
    let (_, fitted, data) = fitted(&series, &Wishes { steps: Some(1), lr: Some(1e-12), ..wishes() });
    let linear = closed_form(&data, &planned.split, 48, 12, &mut |_, _| {}).unwrap();
    let windows = Windows { origins: planned.split.test.clone(), stride: 1, look_back: 48, horizon: 12 };
    let windows = Windows { origins: windows.origins.start..windows.origins.end - 11, ..windows };
    let (mut ours, mut closed) = (Vec::new(), Vec::new());
    each(&fitted.model, &data, &windows, &|| false, &mut |_, _, said| ours.extend_from_slice(said));
    each(&linear, &data, &windows, &|| false, &mut |_, _, said| closed.extend_from_slice(said));
    // But for its constants, which a window's own units leave no room for.
    let off = ours.iter().zip(&closed).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 0.02, "{off}");
    let season = backtest(&fitted.model, &data, &windows).mse;
    assert!(season < 0.1, "{season}");
}

/// Nothing after the rows to choose by changes a model, nothing after a window what is said of it.
#[test]
fn nothing_looks_ahead() {
    let series = days(700);
    let (planned, one, data) = fitted(&series, &wishes());
    let mut altered = series.clone();
    altered.values[2 * planned.split.test.start..].iter_mut().for_each(|x| *x = *x * -3.0 + 17.0);
    let (_, other, _) = fitted(&altered, &wishes());
    assert_eq!(weights(&one.model), weights(&other.model));

    let altered = Scaled::new(&altered, planned.split.train.clone());
    let first = planned.split.test.start;
    let windows = Windows { origins: first..first + 1, stride: 1, look_back: 48, horizon: 12 };
    let say = |data: &Scaled| {
        let mut all = Vec::new();
        each(&one.model, data, &windows, &|| false, &mut |_, _, said| all.extend_from_slice(said));
        all
    };
    assert_eq!(say(&data), say(&altered));
}

#[test]
fn threads_and_shards_only_share_the_work() {
    let series = days(500);
    let (_, whole, _) = fitted(&series, &wishes());
    let (_, parts, _) = fitted(&series, &Wishes { shards: Some(3), ..wishes() });
    let off = weights(&whole.model).iter().zip(weights(&parts.model)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 2e-4, "{off}");
}

#[test]
fn every_backbone_learns() {
    let series = days(500);
    for backbone in Backbone::ALL {
        let layers = if backbone == Backbone::RimerReleased { 1 } else { 2 };
        for (linear, every_patch) in [(Some(false), Some(true)), (Some(true), Some(false))] {
            let wishes = Wishes {
                backbone: Some(backbone),
                layers: Some(layers),
                head_size: Some(8),
                steps: Some(30),
                lr: Some(3e-3),
                linear,
                every_patch,
                ..wishes()
            };
            let (planned, fitted, data) = fitted(&series, &wishes);
            let untrained =
                anser_train::series::initial::initial(&planned.plan.shape.sizes().unwrap(), None, 42).unwrap();
            let windows = Windows { origins: 400..480, stride: 1, look_back: 48, horizon: 12 };
            let before = backtest(&untrained.without_graph(), &data, &windows).mse;
            let after = backtest(&fitted.model, &data, &windows).mse;
            assert!(after < 0.8 * before, "{backbone}, {linear:?}: {before} to {after}");
        }
    }
}

#[test]
fn a_file_holds_a_forecaster() {
    let series = days(500);
    let made = forecaster(&series);
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("model.safetensors");
    made.save(&place).unwrap();
    let read = Forecaster::open(&place).unwrap();
    assert_eq!((read.look_back, &read.columns, read.model.sizes()), (48, &made.columns, made.model.sizes()));
    assert_eq!(read.forecast(&series, 30).unwrap(), made.forecast(&series, 30).unwrap());
    let short = read.forecast(&days(40), 3).unwrap_err().to_string();
    assert!(short.contains("40 rows") && short.contains("48"), "{short}");

    // Files that are cut off, altered or something else are refused, and nothing panics.
    let whole = std::fs::read(&place).unwrap();
    let broken = folder.path().join("broken.safetensors");
    let refuse = |bytes: &[u8]| {
        std::fs::write(&broken, bytes).unwrap();
        Forecaster::open(&broken).map(|_| ()).unwrap_err().to_string()
    };
    for end in [0, 7, 100, whole.len() - 1] {
        assert!(refuse(&whole[..end]).contains("broken.safetensors"));
    }
    let alter = |from: &str, to: &str| {
        let at = whole.windows(from.len()).position(|part| part == from.as_bytes()).unwrap_or_else(|| panic!("{from}"));
        let mut bytes = whole.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        refuse(&bytes)
    };
    let (width, layers) = ("\\\"width\\\":16", "\\\"layers\\\":2");
    let odd = alter(width, "\\\"width\\\":64");
    assert!(odd.contains("broken.safetensors: a model of width 64 cannot have heads"), "{odd}");
    let wide = alter("\\\"ffn\\\":64", "\\\"ffn\\\":65");
    assert!(wide.contains("shape [64"), "{wide}");
    assert!(alter(layers, "\\\"layers\\\":9").contains("blocks.2"), "{}", alter(layers, "\\\"layers\\\":9"));
    assert!(alter("\\\"version\\\":1", "\\\"version\\\":7").contains("version 7"));
    assert!(alter("\\\"look_back\\\":48", "\\\"look_back\\\":47").contains("look-back of 47"));
    assert!(alter("anser.series", "anser.zeries").contains("no forecaster"));
}

/// The published names, with everything else that the file holds beside them.
#[test]
fn published_names_are_read() {
    let open = |name: &str| Forecaster::open(&anser_testkit::golden_dir().join("series").join(name)).unwrap();
    let rimer = open("rimer_tiny.safetensors");
    assert_eq!(rimer.model.sizes().backbone, Backbone::RimerReleased);
    assert_eq!((rimer.look_back, rimer.model.sizes().patch, rimer.model.sizes().width), (8, 8, 64));
    let window: Vec<f32> = Rng(4).vec(8, 1.0);
    assert!(rimer.model.forecast(&window, 8, 20).iter().all(|x| x.is_finite()));
    let timer = open("timer_tiny.safetensors");
    assert_eq!((timer.model.sizes().backbone, timer.model.sizes().layers), (Backbone::Timer, 2));
    assert!(timer.stream(1).is_err());
}

/// With the rows of a window a stream says what the window does; later, nearly what windows do.
#[test]
fn a_stream_says_what_windows_say() {
    let series = days(600);
    let (planned, fitted, data) = fitted(&series, &wishes());
    let model = Forecaster { model: fitted.model, look_back: 48, columns: Vec::new(), step: None };
    let mut stream = model.stream(2).unwrap();
    let mut errors = [0.0; 2];
    for t in 0..600 - 12 {
        stream.push(&[data.columns[0][t], data.columns[1][t]]);
        if t < planned.split.test.start {
            continue;
        }
        let streamed = stream.forecast(12).unwrap();
        for m in 0..2 {
            let window = model.model.forecast(&data.columns[m][t + 1 - 48..=t], 48, 12);
            for h in 0..12 {
                let truth = data.columns[m][t + 1 + h];
                errors[0] += f64::from(window[h] - truth).powi(2);
                errors[1] += f64::from(streamed[2 * h + m] - truth).powi(2);
            }
        }
    }
    assert!(errors[1] < 1.1 * errors[0], "windows {}, streamed {}", errors[0], errors[1]);
}

#[test]
fn bands_hold_what_they_say() {
    let series = days(900);
    let (planned, fitted, data) = fitted(&series, &wishes());
    let bands = bands(&fitted.model, &data, &planned.split.validation, 48, 12, 512);
    let (mut inside, mut all) = (0, 0);
    let test = &planned.split.test;
    let windows = Windows { origins: test.start..test.end - 11, stride: 1, look_back: 48, horizon: 12 };
    each(&fitted.model, &data, &windows, &|| false, &mut |m, origin, said| {
        for (h, &said) in said.iter().enumerate() {
            let off = f64::from(data.columns[m][origin + h] - said);
            inside += usize::from((bands[m].quantile(0.1, 0, h)..=bands[m].quantile(0.9, 0, h)).contains(&off));
            all += 1;
        }
    });
    let part = inside as f64 / f64::from(all);
    assert!((0.7..=0.9).contains(&part), "{part} of 0.8");
}

#[test]
fn holes_are_filled_better_than_by_lines() {
    let series = days(600);
    let model = forecaster(&series);
    let mut holed = series.clone();
    for t in (200..209).chain(400..430).chain(3..6) {
        // What the cleaning leaves: anything, marked as missing.
        holed.values[2 * t] = 3.0;
        holed.missing[2 * t] = true;
    }
    let filled = model.impute(&holed).unwrap();
    assert_eq!((filled.by_model, filled.by_line), (39, 3));
    assert!(filled.trials > 100 && filled.model_mse < 0.5 * filled.line_mse, "{filled:?}");
    for t in (200..209).chain(400..430) {
        assert!((filled.values[2 * t] - series.values[2 * t]).abs() < 0.8, "row {t}");
    }
    let known = |t: usize| filled.values[t] == holed.values[t] || holed.missing[t];
    assert!((0..1200).all(known));
}

#[test]
fn a_planted_anomaly_is_the_strangest() {
    let mut series = days(600);
    let model = forecaster(&series);
    series.values[2 * 444 + 1] += 900.0;
    let found = model.anomalies(&series).unwrap();
    let strangest = (0..found.scores.len()).max_by(|&a, &b| found.scores[a].total_cmp(&found.scores[b])).unwrap();
    assert_eq!((found.rows.start + strangest / 2, strangest % 2), (444, 1));
    assert!(found.scores[strangest] > 10.0);
    let usual = found.scores.iter().filter(|&&score| score < 8.0).count();
    assert!(usual > found.scores.len() - 80, "{usual}");
}

#[test]
fn constants_are_forecast_as_they_are() {
    let mut series = days(500);
    series.values.iter_mut().step_by(2).for_each(|x| *x = 7.25);
    let model = forecaster(&series);
    let forecast = model.forecast(&series, 24).unwrap();
    let constant: Vec<f64> = forecast.values.iter().step_by(2).copied().collect();
    assert!(constant.iter().all(|x| (x - 7.25).abs() < 0.05), "{constant:?}");
    assert!(model.anomalies(&series).unwrap().scores.iter().all(|score| score.is_finite()));
}

/// Says the last value plus `trend` times the last step.
fn damped(trend: f64) -> SeriesModel {
    let shape = Shape {
        backbone: Backbone::Rwkv(Version::V7),
        patch: 1,
        output: 1,
        skip: 2,
        width: 8,
        layers: 1,
        head_size: 8,
        ffn: 8,
    };
    let linear = Linear { look_back: 2, horizon: 1, weight: vec![-trend, 0.0, 0.0] };
    initial(&shape.sizes().unwrap(), Some(&linear), 0).unwrap()
}

/// One column of 200 rows, half of them to learn from.
fn one_column(value: fn(usize) -> f64) -> Scaled {
    let mut series = days(100);
    series.columns.truncate(1);
    series.values = (0..200).map(value).collect();
    Scaled::new(&series, 0..100)
}

#[test]
fn what_is_worse_in_one_stretch_is_not_kept() {
    // Rises, of which the last quarter goes to and fro instead; there a trend is wrong by a step more than none.
    let rise = |t: usize| t as f64;
    let mixed = |t: usize| if t < 175 { t as f64 } else { 175.0 + 0.5 * (t % 2) as f64 };
    for (value, kept) in [(rise as fn(usize) -> f64, 2), (mixed, 1)] {
        let data = one_column(value);
        let mut models = 0;
        let mut keep = |_: usize, _: &SeriesModel| {
            models += 1;
            Ok(())
        };
        let mut choice = Choice::new(&data, &(100..200), 2, &[1], 4096, &mut keep);
        choice.begin(&damped(0.0), None).unwrap();
        let begun = choice.best().unwrap();
        let (error, _) = choice.offer(&damped(1.0)).unwrap().unwrap();
        assert!(error < 0.9 * begun, "{error} is better than {begun} on the whole");
        assert_eq!(choice.best(), Some(if kept == 2 { error } else { begun }));
        drop(choice);
        assert_eq!(models, kept);
    }
}

#[test]
fn every_horizon_keeps_its_own() {
    // Up three rows and down three: half of the trend is a help for one row ahead, and none for four.
    let data = one_column(|t| [0.0, 1.0, 2.0, 3.0, 2.0, 1.0][t % 6]);
    let mut kept = Vec::new();
    let mut keep = |horizon: usize, model: &SeriesModel| {
        kept.push((horizon, weights(model)));
        Ok(())
    };
    let mut choice = Choice::new(&data, &(100..200), 2, &[1, 4], 4096, &mut keep);
    let (none, some) = (damped(0.0), damped(0.5));
    choice.begin(&none, None).unwrap();
    let far = choice.best_for(4).unwrap();
    choice.offer(&some).unwrap();
    // A window is rolled once, as far as there are rows: what is near is measured as if it was asked for alone.
    let mut alone = |_: usize, _: &SeriesModel| Ok(());
    let mut near = Choice::new(&data, &(100..200), 2, &[1], 4096, &mut alone);
    let (error, count) = near.offer(&some).unwrap().unwrap();
    assert_eq!(count, 100);
    assert!((choice.best_for(1).unwrap() - error).abs() < 1e-12);
    assert_eq!((choice.best_for(4), choice.best_for(2)), (Some(far), None));
    drop(choice);
    let expected = [(1, weights(&none)), (4, weights(&none)), (1, weights(&some))];
    assert_eq!(kept, expected);
}

#[test]
fn a_run_that_goes_on_keeps_its_best() {
    let data = one_column(|t| t as f64);
    let mut keep = |_: usize, _: &SeriesModel| panic!("nothing is better than the best there was");
    let mut choice = Choice::new(&data, &(100..200), 2, &[1], 4096, &mut keep);
    choice.begin(&damped(0.0), Some(&damped(1.0))).unwrap();
    choice.offer(&damped(0.5)).unwrap();
}
