//! `anser forecast`: series in, what is to come out, with a picture and with what such forecasts have been worth.

mod anomaly;
mod compare;
mod follow;
mod impute;
mod render;

use std::path::{Path, PathBuf};

use anser_series::{Report, Series};
use anser_train::series::fit::{Fitted, closed_form, fit};
use anser_train::series::settings::{DataSettings, ModelSettings};
use anser_train::series::{Forecaster, Planned, Scaled, bands, plan, split};
use anser_train::trainer::{End, Event};
use anyhow::Result;
use serde_json::json;

use super::error::{Interrupted, hinted, usage};
use super::output::{self, Interrupt, Progress};
use compare::Comparison;

/// Forecast the series of a CSV or Parquet file
#[derive(clap::Args)]
#[command(after_help = "\
Header, separator, dates and missing values are found, and said on stderr. Without --model one is
fitted: the closed-form linear forecast first, then blocks of RWKV-7 on top of it. Its error on the
last part of the file, which nothing was learned from, is printed beside those of simple forecasts;
where one of these is better, it says so. The forecast goes to stdout as CSV, with bands that held
the stated part of what came in the rows the model was chosen by.

Examples:
  anser forecast load.csv --horizon 96
  anser forecast load.csv --column OT --save model.safetensors
  anser forecast load.csv --model model.safetensors --json
  anser forecast load.csv --impute > whole.csv
  anser forecast load.csv --anomaly > strange.csv
  tail -f -n 0 load.csv | anser forecast load.csv --model model.safetensors --follow")]
pub(crate) struct Args {
    /// The series: CSV or Parquet, - for standard input
    data: PathBuf,

    /// Rows to forecast
    #[arg(long, value_name = "ROWS", default_value_t = 96, value_parser = rows)]
    horizon: usize,

    /// A fitted model (--save, anser train series), or a published one of Rimer or Timer
    #[arg(long, value_name = "FILE", conflicts_with = "save")]
    model: Option<PathBuf>,

    /// Keep the fitted model in this file
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,

    /// Fill what is missing, and write the whole series
    #[arg(long, conflicts_with_all = ["anomaly", "follow"], help_heading = "Instead of a forecast")]
    impute: bool,

    /// Find rows that are not what the rows before them made expect
    #[arg(long, conflicts_with = "follow", help_heading = "Instead of a forecast")]
    anomaly: bool,

    /// With --anomaly: how many times the usual distance is strange
    #[arg(long, value_name = "X", default_value_t = 8.0, requires = "anomaly", help_heading = "Instead of a forecast")]
    threshold: f64,

    /// Read further rows from standard input, and forecast after each at constant cost
    #[arg(long, help_heading = "Instead of a forecast")]
    follow: bool,

    #[command(flatten)]
    columns: DataSettings,

    #[command(flatten)]
    fit: ModelSettings,

    /// Levels of the quantiles beside the forecast
    #[arg(long, value_name = "P,..", value_delimiter = ',', default_value = "0.1,0.9", value_parser = level)]
    quantiles: Vec<f64>,

    /// Write the result to this file instead of stdout; .json for JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    out: Option<PathBuf>,

    /// Where the picture goes [default: NAME-forecast.svg, or -anomalies.svg, in the working directory]
    #[arg(long, value_name = "FILE", conflicts_with = "no_plot", help_heading = "Output")]
    plot: Option<PathBuf>,

    /// Draw no picture
    #[arg(long, help_heading = "Output")]
    no_plot: bool,

    /// Print JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
}

fn rows(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rows @ 1..=1_000_000) => Ok(rows),
        _ => Err("expected 1 to 1000000 rows".into()),
    }
}

fn level(text: &str) -> Result<f64, String> {
    match text.trim().parse() {
        Ok(level) if level > 0.0 && level < 1.0 => Ok(level),
        _ => Err("expected a level between 0 and 1, such as 0.9".into()),
    }
}

/// Windows that bands and comparisons look at, of a column.
const WINDOWS: usize = 512;

/// What every way to use the command begins with.
struct Ready {
    series: Series,
    report: Report,
    forecaster: Forecaster,
    /// How the model was fitted; none where it was given.
    fitted: Option<(Planned, Fitted)>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    super::train::keep_memory();
    if args.threshold.is_nan() || args.threshold <= 0.0 {
        return Err(usage("--threshold is no number above 0", "a distance of 8 times the usual is rare"));
    }
    if args.follow && args.data.as_os_str() == "-" {
        return Err(usage("--follow reads further rows from standard input", "give the rows before them as a file"));
    }
    let ready = prepare(&args)?;
    if let Some(place) = &args.save {
        ready.forecaster.save(place)?;
        eprintln!("the model is in {}", place.display());
    }
    match (args.impute, args.anomaly, args.follow) {
        (true, _, _) => impute::run(&args, &ready),
        (_, true, _) => anomaly::run(&args, &ready),
        (_, _, true) => follow::run(&args, &ready),
        _ => forecast(&args, &ready),
    }
}

/// Reads the series and fits or opens the model.
fn prepare(args: &Args) -> Result<Ready> {
    let table = anser_series::read::read(&args.data, &args.columns.options())?;
    let (series, report) = anser_series::prepare(table, &args.columns.cleaning())?;
    report.sentences().iter().for_each(|sentence| eprintln!("{sentence}"));
    if let Some(place) = &args.model {
        let forecaster = Forecaster::open(place)?;
        return Ok(Ready { series, report, forecaster, fitted: None });
    }
    let planned = plan(&series, &args.fit.wishes(args.horizon)?).map_err(|error| match error {
        anser_train::Error::Series(anser_series::Error::TooShort { .. }) => {
            hinted(error, "give a shorter --horizon or --look-back, or more rows")
        }
        error => error.into(),
    })?;
    let (shape, method) = (planned.plan.shape, &planned.plan.method);
    eprintln!(
        "{}. Fitting {}: {} rows seen, {} a token, {} said at once, {} steps on {} rows.",
        capital(&planned.season.to_string()),
        shape.backbone,
        method.look_back,
        shape.patch,
        shape.output,
        planned.plan.steps,
        planned.split.train.len()
    );
    let data = Scaled::new(&series, planned.split.train.clone());
    let linear = match shape.skip {
        0 => None,
        _ => {
            let mut bar: Option<Progress> = None;
            Some(closed_form(&data, &planned.split, method.look_back, shape.output, &mut |done, all| {
                bar.get_or_insert_with(|| Progress::new("closed form", all, "steps")).set(done);
            })?)
        }
    };
    let interrupt = Interrupt::listen()?;
    let mut bar = Progress::new("fitting", planned.plan.steps, "steps");
    let fitted = fit(&data, &planned.split, &planned.plan, linear.as_ref(), interrupt.flag(), &mut |event| {
        if let Event::Metric(entry) = event {
            bar.set(entry.step());
        }
        Ok(())
    })?;
    drop(bar);
    if fitted.end == End::Stopped {
        return Err(Interrupted.into());
    }
    let forecaster = Forecaster {
        model: fitted.model.clone(),
        look_back: method.look_back,
        columns: series.columns.clone(),
        step: report.step.clone(),
    };
    Ok(Ready { series, report, forecaster, fitted: Some((planned, fitted)) })
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn forecast(args: &Args, ready: &Ready) -> Result<()> {
    let Ready { series, report, forecaster, fitted } = ready;
    let forecast = forecaster.forecast(series, args.horizon)?;
    // A model that was given may know every row: the comparison is one of forecasts all the same.
    let parts = match fitted {
        Some((planned, _)) => Some(planned.split.clone()),
        None => split(series, args.horizon, args.fit.validation.unwrap_or(0.1), args.fit.test.unwrap_or(0.2)).ok(),
    };
    let parts = parts.filter(|parts| parts.validation.start >= forecaster.look_back);
    let Some(parts) = parts else {
        eprintln!("Too few rows to say what such a forecast has been worth: no errors, no bands.");
        return render::write(args, series, report, &forecast, None, None, ready);
    };
    let data = Scaled::new(series, parts.train.clone());
    let comparison = Comparison::new(args, forecaster, series, &data, &parts)?;
    comparison.tell(series, fitted.is_none());
    let bands = bands(&forecaster.model, &data, &parts.validation, forecaster.look_back, args.horizon, WINDOWS);
    render::write(args, series, report, &forecast, Some((&data, &bands)), Some(&comparison), ready)
}

/// Writes a result to its file, or to stdout.
fn put(out: Option<&Path>, text: &str) -> Result<()> {
    match out {
        None => output::text(text),
        Some(place) => Ok(anser_train::files::write_whole(place, text.as_bytes())?),
    }
}

/// Whether a result is JSON.
fn as_json(args: &Args) -> bool {
    args.json || args.out.as_ref().is_some_and(|place| place.extension().is_some_and(|extension| extension == "json"))
}

/// The model in a JSON result.
fn about(ready: &Ready) -> serde_json::Value {
    let (model, sizes) = (&ready.forecaster.model, ready.forecaster.model.sizes());
    json!({
        "backbone": sizes.backbone, "parameters": model.parameters(), "look_back": ready.forecaster.look_back,
        "patch": sizes.patch, "output": sizes.output,
        "steps": ready.fitted.as_ref().map(|(_, fitted)| fitted.steps),
        "seconds": ready.fitted.as_ref().map(|(_, fitted)| fitted.seconds),
        "season": ready.fitted.as_ref().map(|(planned, _)| planned.season.period),
    })
}

/// A field of CSV.
fn field(text: &str) -> String {
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.into(),
    }
}

/// The column of times in a result: the file's own name for it.
fn time_column(report: &Report) -> String {
    field(report.reading.date_column.as_deref().unwrap_or("row"))
}

/// Where the picture of this kind goes.
fn picture(args: &Args, kind: &str) -> Option<PathBuf> {
    if args.no_plot {
        return None;
    }
    let stem = args.data.file_stem().filter(|stem| *stem != "-").map_or("series".into(), |stem| stem.to_string_lossy());
    Some(args.plot.clone().unwrap_or_else(|| PathBuf::from(format!("{stem}-{kind}.svg"))))
}
