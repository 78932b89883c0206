//! Sizes that suit a series.

use anser_checkpoint::Version;
use anser_nn::model::series::Backbone;
use anser_series::Series;
use anser_series::season::{Season, period};
use anser_series::split::Split;

use super::fit::Plan;
use super::initial::Shape;
use super::objective::Method;
use super::{Error, split};

/// What a user wants; everything that is not said is found.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "each field is the setting of the same name")]
pub struct Wishes {
    pub horizon: usize,
    pub backbone: Option<Backbone>,
    pub patch: Option<usize>,
    pub look_back: Option<usize>,
    pub output: Option<usize>,
    pub linear: Option<bool>,
    pub width: Option<usize>,
    pub layers: Option<usize>,
    pub head_size: Option<usize>,
    pub ffn: Option<usize>,
    pub batch: Option<usize>,
    pub steps: Option<u64>,
    pub epochs: Option<f64>,
    pub lr: Option<f64>,
    pub weight_decay: Option<f64>,
    pub eval_every: Option<u64>,
    pub patience: Option<u64>,
    pub every_patch: Option<bool>,
    pub shards: Option<usize>,
    pub seed: Option<u64>,
    pub validation: Option<f64>,
    pub test: Option<f64>,
}

/// A plan, and what it stands on.
#[derive(Clone, Debug)]
pub struct Planned {
    /// How the model is made.
    pub plan: Plan,
    /// Which rows are for what.
    pub split: Split,
    /// How long until the series repeats itself, on the rows to learn from.
    pub season: Season,
}

/// Rows a window has unless the season asks for more or the series has no more: two weeks of hours.
const LOOK_BACK: usize = 336;
/// A model says at most so many patches at once.
const SAID: usize = 8;

/// Finds what is not said: a patch of one season (or a part of it), a look-back of about 336 rows and at least two seasons,
/// two blocks of 64 channels, as many steps as show every window about three times, at most 600.
///
/// # Errors
/// [`anser_series::Error::TooShort`] for a series that leaves nothing to learn from; [`Error::Setting`] for sizes that do
/// not go together.
pub fn plan(series: &Series, wishes: &Wishes) -> Result<Planned, Error> {
    let w = wishes;
    let split = split(series, w.horizon, w.validation.unwrap_or(0.1), w.test.unwrap_or(0.2))?;
    let rows = split.train.len();
    let season = period(series, split.train.clone());

    // A third of the rows at most for a window, so that there are some.
    let longest = (rows / 3).max(2);
    let patch = w.patch.unwrap_or_else(|| patch(season.period).min(longest.div_ceil(2)).min(w.horizon.max(2)));
    if patch == 0 || w.output.is_some_and(|output| output == 0) {
        let (name, expected) = (if patch == 0 { "patch" } else { "output" }, "at least 1".into());
        return Err(Error::Setting { name, found: "0".into(), expected });
    }
    let output = w.output.unwrap_or_else(|| w.horizon.div_ceil(patch).clamp(1, SAID) * patch);
    let look_back = match w.look_back {
        Some(look_back) if look_back == 0 || !look_back.is_multiple_of(patch) => {
            let expected = format!("a multiple of the patch of {patch}, at least that");
            return Err(Error::Setting { name: "look_back", found: look_back.to_string(), expected });
        }
        Some(look_back) => look_back,
        None => {
            let wanted = LOOK_BACK.max(2 * season.period).min(longest.min(rows.saturating_sub(output)));
            (wanted / patch).max(1) * patch
        }
    };
    if rows < look_back + output {
        let what = format!(
            "learning from {} rows (the others are to choose by and to be tested on) windows of {look_back} that say {output}",
            rows
        );
        let needed = look_back + output + split.validation.len() + split.test.len();
        return Err(
            anser_series::Error::TooShort { file: series.name.clone(), what, needed, found: series.rows() }.into()
        );
    }
    let width = w.width.unwrap_or(64);
    let backbone = w.backbone.unwrap_or(Backbone::Rwkv(Version::V7));
    let shape = Shape {
        backbone,
        patch,
        output,
        skip: if w.linear.unwrap_or(true) { look_back / patch } else { 0 },
        width,
        layers: w.layers.unwrap_or(2),
        head_size: w.head_size.unwrap_or(if width.is_multiple_of(32) { 32.min(width) } else { width }),
        ffn: w.ffn.unwrap_or(4 * width),
    };
    let windows = (rows - look_back - output + 1) * series.width();
    let batch = w.batch.unwrap_or(256).clamp(1, windows);
    let per_epoch = (windows / batch).max(1) as f64;
    let steps = match (w.steps, w.epochs) {
        (Some(steps), _) => steps,
        (None, Some(epochs)) => (per_epoch * epochs).ceil().max(1.0) as u64,
        (None, None) => ((3.0 * per_epoch) as u64).clamp(100, 600),
    };
    let method = Method {
        look_back,
        batch,
        every_patch: w.every_patch.unwrap_or(false),
        shards: w.shards.unwrap_or(1),
        seed: w.seed.unwrap_or(42),
        eval_windows: 2048,
    };
    let plan = Plan {
        shape,
        method,
        horizon: w.horizon,
        steps,
        lr: w.lr.unwrap_or(1e-3),
        weight_decay: w.weight_decay.unwrap_or(0.01),
        eval_every: w.eval_every.unwrap_or((steps / 12).max(1)),
        patience: w.patience,
    };
    Ok(Planned { plan, split, season })
}

/// A token of one season, or the largest part of it that is none too long.
fn patch(period: usize) -> usize {
    let fits = 4..=48;
    let part = |parts: usize| period.is_multiple_of(parts).then_some(period / parts).filter(|part| fits.contains(part));
    (1..=period).find_map(part).unwrap_or(16)
}

#[cfg(test)]
mod tests {
    #[test]
    fn patches_divide_seasons() {
        let cases = [(24, 24), (12, 12), (7, 7), (168, 42), (96, 48), (1, 16), (2, 16), (53, 16), (48, 48), (365, 5)];
        for (period, expected) in cases {
            assert_eq!(super::patch(period), expected, "{period}");
        }
    }
}
