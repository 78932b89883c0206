//! The regular clock behind a list of dates.

use jiff::civil::DateTime;

use crate::Error;
use crate::time::{Axis, Step, Style, civil};

/// A clock may have so many times the rows of the file.
const GROWTH: i64 = 10;
/// A date this fraction of a step off the clock is noise.
const NOISE: i64 = 10;

/// A clock and the places of the dates on it.
pub(super) struct Grid {
    pub(super) start: i64,
    pub(super) step: Step,
    /// A place for every date.
    pub(super) places: Vec<usize>,
    /// Dates that were moved to the next place.
    pub(super) moved: usize,
}

/// The clock of two or more dates, sorted and all different.
pub(super) fn find(file: &str, times: &[i64], utc: bool) -> Result<Grid, Error> {
    let style = Style { utc, date_only: false };
    let too_large = |step: Step, filled: i64| {
        let widest = times.windows(2).max_by_key(|pair| pair[1] - pair[0]).unwrap_or(times);
        let gap = format!("from {} to {}", style.show(widest[0]), style.show(widest[1]));
        Error::Gaps { file: file.into(), step: step.to_string(), rows: times.len(), filled: filled as u64, gap }
    };
    let limit = GROWTH.saturating_mul(times.len() as i64);
    if let Some((step, places)) = months(times) {
        let filled = places.last().map_or(0, |last| last + 1);
        if filled > limit {
            return Err(too_large(step, filled));
        }
        let places = places.into_iter().map(|place| place as usize).collect();
        return Ok(Grid { start: times[0], step, places, moved: 0 });
    }
    let mut differences: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let span = times[times.len() - 1] - times[0];
    let common = differences.iter().fold(0, |common, &difference| gcd(common, difference));
    differences.sort_unstable();
    let median = differences[(differences.len() - 1) / 2];
    // A step that meets every date is better than the commonest one if it hardly adds rows.
    let exact = span / common < 2 * times.len() as i64;
    let step = if exact { common } else { median };
    let filled = span / step + 1;
    let start = start(times, step);
    let nearest = |time: i64| (time - start + step / 2).div_euclid(step);
    let off = |time: i64| (time - start - nearest(time) * step).abs();
    let noisy = times.iter().filter(|&&time| off(time) > step / NOISE).count();
    if noisy * 10 > times.len() {
        return Err(Error::Irregular {
            file: file.into(),
            step: Step::Micros(step).to_string(),
            off: noisy,
            rows: times.len(),
        });
    }
    if filled > limit {
        return Err(too_large(Step::Micros(step), filled));
    }
    let first = nearest(times[0]);
    let places = times.iter().map(|&time| (nearest(time) - first) as usize).collect();
    let moved = times.iter().filter(|&&time| off(time) > 0).count();
    Ok(Grid { start: start + first * step, step: Step::Micros(step), places, moved })
}

/// A time on the clock: the first whose remainder is shared by most.
fn start(times: &[i64], step: i64) -> i64 {
    let mut remainders: Vec<i64> = times.iter().map(|time| time.rem_euclid(step)).collect();
    remainders.sort_unstable();
    let most = remainders.chunk_by(|a, b| a == b).map(<[i64]>::len).max().unwrap_or(0);
    let mut commonest = remainders.chunk_by(|a, b| a == b).filter(|group| group.len() == most).map(|group| group[0]);
    let first = times[0].rem_euclid(step);
    let wanted = if remainders.binary_search(&first).is_ok() && most == 1 { Some(first) } else { commonest.next() };
    times.iter().copied().find(|time| Some(time.rem_euclid(step)) == wanted).unwrap_or(times[0])
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The step and the places if the dates go by calendar months: the same day and time in every month (the last day where a
/// month is shorter), or always the last day.
fn months(times: &[i64]) -> Option<(Step, Vec<i64>)> {
    let dates: Vec<DateTime> = times.iter().map(|&time| civil(time)).collect::<Option<_>>()?;
    let start = dates[0];
    let number = |date: &DateTime| i64::from(date.year()) * 12 + i64::from(date.month()) - 1;
    let numbers: Vec<i64> = dates.iter().map(|date| number(date) - number(&start)).collect();
    let mut differences: Vec<i64> = numbers.windows(2).map(|pair| pair[1] - pair[0]).collect();
    if differences.contains(&0) || dates.iter().any(|date| date.time() != start.time()) {
        return None;
    }
    let month_end = dates.iter().all(|date| date.date() == date.date().last_of_month());
    differences.sort_unstable();
    let median = differences[(differences.len() - 1) / 2];
    let common = differences.iter().fold(0, |common, &difference| gcd(common, difference));
    let count = if differences.iter().all(|difference| difference % median == 0) { median } else { common };
    let step = Step::Months { count: i32::try_from(count).ok()?, month_end };
    let axis = Axis::Grid { start: times[0], step, utc: false };
    let places: Vec<i64> = numbers.iter().map(|number| number / count).collect();
    let fits = places.iter().zip(times).all(|(&place, &time)| axis.micros(place as u64) == Some(time));
    fits.then_some((step, places))
}
