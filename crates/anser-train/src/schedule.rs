//! The learning rate over a run.

use std::f64::consts::PI;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The shape of the curve between `lr` and `lr_final`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curve {
    /// `lr` all the way; `lr_final` is not used.
    Constant,
    /// Half a cosine from `lr` to `lr_final`.
    Cosine,
    /// `lr` until the last part of the run, then a straight line to `lr_final` (warm-up, stable, decay).
    Wsd,
    /// As [`Curve::Wsd`], falling with `1 - sqrt`: fast first, then ever slower.
    WsdSqrt,
    /// By the same factor a step from `lr` to `lr_final`.
    Exponential,
}

impl Curve {
    /// All of them.
    pub const ALL: [Curve; 5] = [Curve::Constant, Curve::Cosine, Curve::Wsd, Curve::WsdSqrt, Curve::Exponential];

    fn name(self) -> &'static str {
        match self {
            Curve::Constant => "constant",
            Curve::Cosine => "cosine",
            Curve::Wsd => "wsd",
            Curve::WsdSqrt => "wsd-sqrt",
            Curve::Exponential => "exponential",
        }
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Curve {
    type Err = String;

    fn from_str(text: &str) -> Result<Curve, String> {
        Curve::ALL.into_iter().find(|curve| curve.name() == text).ok_or_else(|| {
            format!("unknown schedule `{text}`: expected constant, cosine, wsd, wsd-sqrt or exponential")
        })
    }
}

/// The learning rate as a function of how far the run is. Positions are in steps or in tokens, all in the same unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub curve: Curve,
    /// The learning rate after the warm-up.
    pub lr: f64,
    /// The learning rate at the end.
    pub lr_final: f64,
    /// Length of the warm-up, which multiplies the rate by `0.01 + 0.99 * position / warmup`.
    pub warmup: u64,
    /// Length of the run.
    pub total: u64,
    /// The last part of the run in which [`Curve::Wsd`] and [`Curve::WsdSqrt`] fall, in (0, 1].
    pub decay_fraction: f64,
}

impl Schedule {
    /// The learning rate at `position`: 0 for the first step, and `lr_final` exactly (unless constant) from `total` on.
    ///
    /// The curves other than WSD begin to fall when the warm-up ends, so the rate never exceeds `lr`.
    pub fn at(&self, position: u64) -> f64 {
        let warm = match position < self.warmup {
            true => 0.01 + 0.99 * position as f64 / self.warmup as f64,
            false => 1.0,
        };
        warm * self.curve_at(position)
    }

    fn curve_at(&self, position: u64) -> f64 {
        if self.curve == Curve::Constant {
            return self.lr;
        }
        if position >= self.total {
            return self.lr_final;
        }
        let start = match self.curve {
            Curve::Wsd | Curve::WsdSqrt => self.total as f64 * (1.0 - self.decay_fraction),
            _ => self.warmup as f64,
        };
        let past = position as f64 - start;
        if past <= 0.0 {
            return self.lr;
        }
        let progress = past / (self.total as f64 - start);
        let fall = self.lr - self.lr_final;
        match self.curve {
            Curve::Constant => self.lr,
            Curve::Cosine => self.lr_final + fall * (0.5 + 0.5 * (PI * progress).cos()),
            Curve::Wsd => self.lr_final + fall * (1.0 - progress),
            Curve::WsdSqrt => self.lr_final + fall * (1.0 - progress.sqrt()),
            Curve::Exponential => self.lr * (self.lr_final / self.lr).powf(progress),
        }
    }
}
