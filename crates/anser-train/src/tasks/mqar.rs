use super::{at_least, push};
use crate::Error;
use crate::data::Batch;
use crate::random::Random;

pub(super) fn check(vocab: usize, length: usize, pairs: usize, power: f64, passes: usize) -> Result<(), Error> {
    let wrong = |name, found: String, expected: String| Err(Error::Setting { name, found, expected });
    at_least("pairs", pairs, 1)?;
    at_least("passes", passes, 1)?;
    if !vocab.is_multiple_of(2) || vocab <= length {
        return wrong("vocab", vocab.to_string(), format!("an even number above the length {length}"));
    }
    let needed = pairs.saturating_mul(2).saturating_mul(passes.saturating_add(1));
    if !length.is_multiple_of(2) || length < needed {
        let expected = format!("an even number of at least {needed} for {pairs} pairs shown {passes} times");
        return wrong("length", length.to_string(), expected);
    }
    if !(power.is_finite() && power > 0.0) {
        return wrong("power", power.to_string(), "a number above 0".to_string());
    }
    Ok(())
}

pub(super) fn example(
    vocab: usize,
    length: usize,
    pairs: usize,
    power: f64,
    passes: usize,
    random: &mut Random,
    batch: &mut Batch,
) {
    let half = vocab as u64 / 2;
    let keys = distinct(1, half, pairs, random);
    let values = distinct(half, vocab as u64, pairs, random);
    for _ in 0..passes {
        for (&key, &value) in keys.iter().zip(&values) {
            push(batch, key, None);
            push(batch, value, None);
        }
    }
    let context = 2 * pairs * passes;
    let places = (length - context) / 2;
    // Pair i is asked for at place gaps[i], two tokens a place.
    let mut asked = vec![None; places];
    for (pair, gap) in gaps(places, power, pairs, random).into_iter().enumerate() {
        asked[gap] = Some(pair);
    }
    for pair in asked {
        match pair {
            Some(pair) => push(batch, keys[pair], Some(values[pair])),
            None => push(batch, random.below(vocab as u64), None),
        }
        push(batch, random.below(vocab as u64), None);
    }
}

/// `count` different numbers from `from..to`, of which there are at least twice as many.
fn distinct(from: u64, to: u64, count: usize, random: &mut Random) -> Vec<u64> {
    let mut taken = vec![false; (to - from) as usize];
    let mut numbers = Vec::with_capacity(count);
    while numbers.len() < count {
        let i = random.below(to - from);
        if !std::mem::replace(&mut taken[i as usize], true) {
            numbers.push(from + i);
        }
    }
    numbers
}

/// `count` different numbers below `places`, drawn one after the other with probability ∝ (g+1)^(power-1) among those
/// left.
fn gaps(places: usize, power: f64, count: usize, random: &mut Random) -> Vec<usize> {
    // Of independent exponential waiting times with these rates, the order of arrival is distributed so.
    let mut waits = (0..places)
        .map(|gap| {
            let rate = ((gap + 1) as f64).powf(power - 1.0);
            (-(1.0 - random.uniform()).ln() / rate, gap)
        })
        .collect::<Vec<_>>();
    waits.sort_by(|a, b| a.0.total_cmp(&b.0));
    waits.into_iter().take(count).map(|(_, gap)| gap).collect()
}
