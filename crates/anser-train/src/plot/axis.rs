//! Where numbers lie on an axis, and where its ticks are.

/// The range of one axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    /// An axis for numbers from `low` to `high`. On a linear axis the ends move out to the next ticks if `round`.
    pub(super) fn new((low, high): (f64, f64), log: bool, round: bool) -> Scale {
        let (mut low, mut high) = (low, high);
        // Ends that are one number, or differ by rounding only.
        if high - low <= 1e-9 * low.abs().max(high.abs()) || high - low < 1e-100 {
            (low, high) = match log {
                true => (low / 2.0, high * 2.0),
                false => (low - (low.abs() * 0.1).max(0.5), high + (high.abs() * 0.1).max(0.5)),
            };
        }
        if round && !log {
            let step = nice_step((high - low) / 5.0);
            (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        }
        Scale { low, high, log }
    }

    /// Where `x` lies, 0 at the low end and 1 at the high one.
    pub(super) fn place(&self, x: f64) -> f64 {
        match self.log {
            true => (x / self.low).ln() / (self.high / self.low).ln(),
            false => (x - self.low) / (self.high - self.low),
        }
    }

    /// About `count` round numbers within the range, and how they are written.
    pub(super) fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        let numbers = if self.log { self.log_ticks(count) } else { Vec::new() };
        // A logarithmic axis of less than a decade is nearly linear.
        let numbers = if numbers.len() >= 2 { numbers } else { self.linear_ticks(count) };
        let step = numbers.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
        let largest = numbers.iter().fold(0.0f64, |largest, x| largest.max(x.abs()));
        numbers.into_iter().map(|x| (x, written(x, step, largest))).collect()
    }

    fn linear_ticks(&self, count: usize) -> Vec<f64> {
        let step = nice_step((self.high - self.low) / count.max(1) as f64);
        let (first, last) = ((self.low / step - 1e-9).ceil() as i64, (self.high / step + 1e-9).floor() as i64);
        (first..=last.min(first.saturating_add(100))).map(|i| i as f64 * step).collect()
    }

    fn log_ticks(&self, count: usize) -> Vec<f64> {
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let decades = (last - first).max(1) as usize;
        let factors: &[f64] = if decades > count / 2 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let every = decades.div_ceil(count.max(1)).max(1);
        let powers = (first..=last).step_by(every);
        let numbers = powers.flat_map(|power| factors.iter().map(move |f| f * 10f64.powi(power)));
        let slack = 1e-9 * self.high;
        numbers.filter(|&x| x >= self.low * (1.0 - 1e-9) && x <= self.high + slack).collect()
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `step`.
fn nice_step(step: f64) -> f64 {
    let step = if step.is_finite() && step > 0.0 { step } else { 1.0 };
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9)).unwrap_or(10.0);
    factor * power
}

/// A number as a tick is labelled, in the unit of the axis' largest: `0`, `250`, `15k`, `1.5M`, `0.25`, `1e-5`.
fn written(x: f64, step: f64, largest: f64) -> String {
    let size = x.abs();
    if size < step.abs() * 1e-6 {
        return "0".into();
    }
    if !(1e-3..1e13).contains(&size) {
        let text = format!("{x:.2e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    for (least, unit, letter) in [(1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")] {
        if largest >= least {
            return format!("{}{letter}", decimal(x / unit, step / unit));
        }
    }
    decimal(x, step)
}

/// With as many decimals as tell neighbours apart.
fn decimal(x: f64, step: f64) -> String {
    let decimals = if step.is_finite() && step > 0.0 { (-step.log10() - 1e-9).ceil().clamp(0.0, 9.0) } else { 2.0 };
    let text = format!("{x:.*}", decimals as usize);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}
