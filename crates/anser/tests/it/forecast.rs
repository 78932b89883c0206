//! Forecasts through the program: files of every kind in, forecasts, holes and anomalies out.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::util::{Sandbox, finish, settings};

/// An hourly load with a day in it.
fn load(rows: usize) -> String {
    let mut text = String::from("time,load,outside\n");
    for t in 0..rows {
        let (day, hour) = (t / 24, t % 24);
        let wave = (hour as f64 / 24.0 * std::f64::consts::TAU).sin();
        let noise = ((t * 7919 % 101) as f64 - 50.0) / 100.0;
        let date = format!("2025-{:02}-{:02} {hour:02}:00", 1 + day / 28, 1 + day % 28);
        text += &format!("{date},{:.3},{:.3}\n", 50.0 + 9.0 * wave + noise, 8.0 - 3.0 * wave + 0.3 * noise);
    }
    text
}

/// 28 days, so that the dates above follow one another.
const ROWS: usize = 28 * 24;
const SMALL: [&str; 8] = ["--width", "16", "--steps", "8", "--batch", "32", "--look-back", "72"];

fn forecast(sandbox: &Sandbox, data: &str, more: &[&str]) -> std::process::Command {
    let args: Vec<&str> = ["forecast", data].iter().chain(&SMALL).chain(more).copied().collect();
    sandbox.command(&args.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>).collect::<Vec<_>>())
}

#[test]
fn a_file_in_a_forecast_and_a_picture_out() {
    let sandbox = Sandbox::new();
    sandbox.write("load.csv", load(ROWS));
    let done = finish(forecast(&sandbox, "load.csv", &["--horizon", "30", "--save", "model.safetensors"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let text = String::from_utf8(done.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "time,load,load_q0.1,load_q0.9,outside,outside_q0.1,outside_q0.9");
    assert_eq!(lines.len(), 31);
    assert!(lines[1].starts_with("2025-01-29 00:00:00,") && lines[30].starts_with("2025-01-30 05:00:00,"), "{text}");
    for (h, line) in lines[1..].iter().enumerate() {
        let values: Vec<f64> = line.split(',').skip(1).map(|value| value.parse().unwrap()).collect();
        let expected = 50.0 + 9.0 * (h as f64 / 24.0 * std::f64::consts::TAU).sin();
        assert!((values[0] - expected).abs() < 2.0, "{line}: {expected}");
        assert!(values[1] < values[2] && values[4] < values[5], "{line}");
    }
    for told in ["steps of 1 hour", "A season of 24 rows", "closed-form linear", "the same 24 rows before"] {
        assert!(done.stderr.contains(told), "{told}: {}", done.stderr);
    }
    let picture = sandbox.read("load-forecast.svg");
    assert!(picture.starts_with("<svg") && picture.contains("band 0.1 to 0.9") && picture.contains("outside"));

    // The model again, from its file, as JSON; and one column of it.
    let more = ["--model", "model.safetensors", "--json", "--no-plot", "--horizon", "30"];
    let json: serde_json::Value =
        serde_json::from_slice(&finish(forecast(&sandbox, "load.csv", &more)).stdout).unwrap();
    assert_eq!(json["times"].as_array().unwrap().len(), 30);
    let first = json["columns"]["load"]["forecast"][0].as_f64().unwrap();
    let said: f64 = lines[1].split(',').nth(1).unwrap().parse().unwrap();
    assert!((first - said).abs() < 1e-3, "{first}, {said}");
    assert_eq!(json["held_out"]["ways"].as_array().unwrap().len(), 4);
    let more = ["--column", "outside", "--model", "model.safetensors", "--out", "one.json", "--no-plot"];
    assert_eq!(finish(forecast(&sandbox, "load.csv", &more)).code, Some(0));
    let one: serde_json::Value = serde_json::from_str(&sandbox.read("one.json")).unwrap();
    assert_eq!(one["columns"].as_object().unwrap().keys().collect::<Vec<_>>(), ["outside"]);
}

#[test]
fn rows_are_followed() {
    let sandbox = Sandbox::new();
    sandbox.write("load.csv", load(ROWS));
    finish(forecast(&sandbox, "load.csv", &["--no-plot", "--save", "model.safetensors", "--horizon", "24"])).ok();
    let more = ["--model", "model.safetensors", "--follow", "--horizon", "24", "--json"];
    let mut child = forecast(&sandbox, "load.csv", &more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut rows = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    writeln!(rows, "outside,load").unwrap();
    for hour in 0..30 {
        // One value is missing.
        let wave = (f64::from(hour % 24) / 24.0 * std::f64::consts::TAU).sin();
        let outside = if hour == 5 { String::new() } else { format!("{:.2}", 8.0 - 3.0 * wave) };
        writeln!(rows, "{outside},{:.2}", 50.0 + 9.0 * wave).unwrap();
        rows.flush().unwrap();
        // The answer comes before the next row.
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["row"], ROWS + hour as usize + 1);
        let next = line["forecast"]["load"][0].as_f64().unwrap();
        let expected = 50.0 + 9.0 * (f64::from((hour + 1) % 24) / 24.0 * std::f64::consts::TAU).sin();
        assert!((next - expected).abs() < 2.5, "{hour}: {next}, {expected}");
    }
    drop(rows);
    assert!(child.wait().unwrap().success());
    let timer = finish(forecast(&sandbox, "load.csv", &["--backbone", "timer", "--follow", "--no-plot"]));
    assert_eq!(timer.code, Some(1));
    assert!(timer.stderr.contains("keeps no state"), "{}", timer.stderr);
}

#[test]
fn holes_and_anomalies() {
    let sandbox = Sandbox::new();
    let mut lines: Vec<String> = load(ROWS).lines().map(str::to_string).collect();
    for line in &mut lines[300..310] {
        let (date, rest) = line.split_once(',').unwrap();
        *line = format!("{date},,{}", rest.split_once(',').unwrap().1);
    }
    sandbox.write("holes.csv", lines.join("\n"));
    let done = finish(forecast(&sandbox, "holes.csv", &["--impute", "--horizon", "24"]));
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(text.lines().count(), ROWS + 1, "{}", done.stderr);
    assert!(done.stderr.contains("10 missing values: 10 filled by the model"), "{}", done.stderr);
    for (at, line) in text.lines().enumerate().skip(300).take(10) {
        let value: f64 = line.split(',').nth(1).unwrap().parse().unwrap();
        let expected = 50.0 + 9.0 * ((at - 1) as f64 % 24.0 / 24.0 * std::f64::consts::TAU).sin();
        assert!((value - expected).abs() < 2.0, "{line}: {expected}");
    }
    // What was known is as it was.
    assert_eq!(
        text.lines().nth(200).unwrap().split(',').nth(1),
        lines[200].split(',').nth(1).map(|x| x.trim_end_matches('0'))
    );

    let mut lines: Vec<String> = load(ROWS).lines().map(str::to_string).collect();
    lines[501] = format!("{},99.5,8.0", lines[501].split(',').next().unwrap());
    sandbox.write("odd.csv", lines.join("\n"));
    let done = finish(forecast(&sandbox, "odd.csv", &["--anomaly", "--json", "--horizon", "24"]));
    let found: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let strange = found["anomalies"].as_array().unwrap();
    let planted = strange.iter().find(|row| row["row"] == 500).unwrap();
    assert_eq!((planted["column"].as_str(), planted["value"].as_f64()), (Some("load"), Some(99.5)));
    assert!(sandbox.read("odd-anomalies.svg").contains("strange"));
}

/// Files as they come: every one either ends in a forecast or in a message that says why not.
#[test]
fn files_as_they_come() {
    let sandbox = Sandbox::new();
    let good = load(ROWS);
    let body = good.split_once('\n').unwrap().1;
    let fine: [(&str, Vec<u8>, &str); 6] = [
        ("latin1.csv", [b"Zeit,T (\xb0C),rh\n", body.as_bytes()].concat(), "T (°C)"),
        (
            "sentinel.csv",
            good.replacen("\n2025-01-05 03:00,", "\n2025-01-05 03:00,-9999,1\n2025-01-05 03:00,", 1).into(),
            "-9999",
        ),
        (
            "constant.csv",
            body.lines().map(|line| format!("{},7\n", &line[..16])).collect::<String>().into(),
            "never changes",
        ),
        (
            "unsorted.csv",
            {
                let mut lines: Vec<&str> = body.lines().collect();
                lines.swap(10, 400);
                lines.push(lines[50]);
                lines.join("\n").into()
            },
            "went backwards",
        ),
        ("empty-column.csv", body.lines().map(|line| format!("{line},\n")).collect::<String>().into(), "left out"),
        ("comma.csv", body.replace(',', ";").replace('.', ",").into(), "decimal sign"),
    ];
    for (name, content, told) in fine {
        sandbox.write(name, content);
        let done = finish(forecast(&sandbox, name, &["--horizon", "12", "--no-plot"]));
        assert_eq!(done.code, Some(0), "{name}: {}", done.stderr);
        let names = String::from_utf8_lossy(&done.stdout).lines().next().unwrap_or_default().to_string();
        assert!(done.stderr.contains(told) || names.contains(told), "{name}: {names}\n{}", done.stderr);
        assert_eq!(done.stdout.iter().filter(|&&byte| byte == b'\n').count(), 13, "{name}");
    }
    for (name, content, horizon, told) in [
        ("one-row.csv", "time,load\n2025-01-01,3\n".to_string(), "4", "one-row.csv: 1 row"),
        ("no-rows.csv", "time,load\n".into(), "4", "no-rows.csv"),
        ("words.csv", "a,b\nx,y\nz,w\n".into(), "4", "no column of numbers"),
        ("short.csv", load(60), "48", "60 rows"),
        ("far.csv", load(200), "5000", "horizon of 5000"),
        ("ragged.csv", good.replacen("\n2025-01-02 03:00,", "\n2025-01-02 03:00,1,2,", 1), "4", "line 29"),
    ] {
        sandbox.write(name, content);
        let done = finish(forecast(&sandbox, name, &["--horizon", horizon, "--no-plot"]));
        assert_eq!(done.code, Some(1), "{name}: {}", done.stderr);
        assert!(done.stderr.contains(told) && !done.stderr.contains("panicked"), "{name}: {}", done.stderr);
        assert!(done.stdout.is_empty(), "{name}");
    }
    sandbox.write("load.csv", good);
    let done = finish(forecast(&sandbox, "load.csv", &["--column", "lode"]));
    assert!(done.stderr.contains("no column `lode`: there are"), "{}", done.stderr);
    let done = finish(forecast(&sandbox, "load.csv", &["--model", "load.csv"]));
    assert_eq!(done.code, Some(1));
    assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
}

/// The example of the repository, in one command.
#[test]
fn the_example() {
    let example = anser_testkit::golden_dir().join("../examples/load.csv");
    let sandbox = Sandbox::new();
    std::fs::copy(example, sandbox.path("load.csv")).unwrap();
    let done = finish(forecast(&sandbox, "load.csv", &["--horizon", "48"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("missing value"), "{}", done.stderr);
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes() {
    let sandbox = Sandbox::new();
    sandbox.write("load.csv", load(ROWS));
    let train = |out: &str, more: &[&str]| {
        let fixed = ["train", "series", "--data", "load.csv", "--horizon", "24", "--out", out];
        let steps = [
            "--width",
            "16",
            "--steps",
            "24",
            "--batch",
            "32",
            "--look-back",
            "72",
            "--eval-every",
            "5",
            "--save-every",
            "4",
        ];
        let args: Vec<&str> = fixed.iter().chain(&steps).chain(more).copied().collect();
        sandbox.command(&args.iter().map(|arg| arg as &dyn AsRef<std::ffi::OsStr>).collect::<Vec<_>>())
    };
    finish(train("whole", &[])).ok();
    let whole = std::fs::read(sandbox.path("whole/model.safetensors")).unwrap();
    for after in [3, 13] {
        let name = format!("killed{after}");
        let mut child = train(&name, &["--json"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        lines.by_ref().take(after).for_each(|line| drop(line.unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        sandbox.run(&[&"train", &"series", &"--out", &name, &"--resume"]).ok();
        assert!(whole == std::fs::read(sandbox.path(&format!("{name}/model.safetensors"))).unwrap(), "after {after}");
    }
    assert!(sandbox.read("whole/loss.svg").contains("squared error"));
    // The settings that were kept are settings; the model forecasts.
    let done =
        sandbox.run(&[&"train", &"series", &"--config", &"whole/run.toml", &"--out", &"again", &"--steps", &"2"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let done = sandbox.run(&[&"forecast", &"load.csv", &"--model", &"whole/model.safetensors", &"--no-plot"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    // Other data under a run that goes on.
    sandbox.write("load.csv", load(ROWS - 3));
    let done = sandbox.run(&[&"train", &"series", &"--out", &"whole", &"--resume"]);
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.contains("data file changed"), "{}", done.stderr);
}

#[test]
fn wrong_settings_are_named() {
    let sandbox = Sandbox::new();
    sandbox.write("load.csv", load(ROWS));
    settings(&sandbox).bind(|| {
        for (name, more) in [
            ("patch", &["--patch", "7", "--look-back", "72"][..]),
            ("output", &["--output", "25"]),
            ("epochs", &["--epochs", "0"]),
            ("heads", &["--head-size", "5"]),
        ] {
            let args: Vec<&str> = ["forecast", "load.csv", "--width", "16"].iter().chain(more).copied().collect();
            let args: Vec<&dyn AsRef<std::ffi::OsStr>> = args.iter().map(|arg| arg as _).collect();
            let done = sandbox.run(&args);
            assert_ne!(done.code, Some(0), "{name}");
            let last =
                done.stderr.lines().filter(|line| line.contains("error") || line.contains("hint")).collect::<Vec<_>>();
            insta::assert_snapshot!(format!("forecast_wrong_{name}"), last.join("\n"));
        }
    });
}
