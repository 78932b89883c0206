//! The model beside forecasts that need no training, on rows that nothing was learned from.

use anser_series::Series;
use anser_series::metrics::Scores;
use anser_series::season::period;
use anser_series::split::{Split, origins};
use anser_train::series::backtest::{Naive, Windows, backtest};
use anser_train::series::fit::closed_form;
use anser_train::series::{Forecaster, Scaled};
use anyhow::Result;
use serde::Serialize;

use super::{Args, WINDOWS};

/// The errors of every way to forecast.
#[derive(Serialize)]
pub(super) struct Comparison {
    /// Rows that were forecast, the last ones.
    rows: usize,
    horizon: usize,
    /// The model first.
    ways: Vec<Way>,
}

#[derive(Serialize)]
struct Way {
    name: String,
    #[serde(flatten)]
    scores: Scores,
}

impl Comparison {
    pub(super) fn new(
        args: &Args,
        forecaster: &Forecaster,
        series: &Series,
        data: &Scaled,
        parts: &Split,
    ) -> Result<Comparison> {
        let (look_back, horizon) = (forecaster.look_back, args.horizon);
        let origins = origins(&parts.test, look_back, horizon);
        let stride = origins.len().div_ceil(WINDOWS).max(1);
        let windows = Windows { origins, stride, look_back, horizon };
        let mut ways = vec![Way {
            name: format!("{} ({} parameters)", forecaster.model.sizes().backbone, forecaster.model.parameters()),
            scores: backtest(&forecaster.model, data, &windows),
        }];
        // Too short a past for one thing is no reason not to tell the others.
        if let Ok(linear) = closed_form(data, parts, look_back, horizon, &mut |_, _| {}) {
            ways.push(Way { name: "closed-form linear".into(), scores: backtest(&linear, data, &windows) });
        }
        let period = period(series, parts.train.clone()).period;
        if period > 1 {
            let name = format!("the same {period} rows before");
            ways.push(Way { name, scores: backtest(&Naive { period }, data, &windows) });
        }
        ways.push(Way { name: "the last value".into(), scores: backtest(&Naive { period: 1 }, data, &windows) });
        Ok(Comparison { rows: parts.test.len(), horizon, ways })
    }

    /// Tells the errors, and whether another way is better.
    pub(super) fn tell(&self, series: &Series, given: bool) {
        eprintln!(
            "Errors on the last {} rows, {} ahead, in units of the columns' deviations{}:",
            self.rows,
            self.horizon,
            if given {
                " (the model that was given may have learned from them)"
            } else {
                ", which nothing was learned from"
            }
        );
        let width = self.ways.iter().map(|way| way.name.len()).max().unwrap_or(0);
        eprintln!("  {:width$}  squared  absolute", "");
        for way in &self.ways {
            eprintln!("  {:width$}  {:7.4}  {:8.4}", way.name, way.scores.mse, way.scores.mae);
        }
        let best = self.ways.iter().min_by(|a, b| a.scores.mse.total_cmp(&b.scores.mse));
        if let (Some(best), Some(model)) = (best, self.ways.first())
            && best.name != model.name
            && let more = 100.0 * (model.scores.mse / best.scores.mse - 1.0)
            && more >= 0.1
        {
            eprintln!(
                "For {} {} is the better forecast: the model's squared error is {more:.1} % larger.",
                series.name, best.name
            );
        }
    }
}
