//! From logits to the next token.
//!
//! The steps, in this order:
//! 1. repetition, presence and frequency penalties, logit bias, bans, on the logits;
//! 2. temperature and the filters top-k, typical, top-p, min-p, in the order that [`Order`] names;
//! 3. one uniform number, the `n`-th of the seed's sequence for the `n`-th token, picks among what is left.
//!
//! The random numbers are SplitMix64's, addressed by counter: a token depends on the seed, on how many tokens the
//! sampler drew before and on the logits, on nothing else. So the same seed gives the same text whatever shares the
//! batch and however many threads run.
//!
//! No step sorts the vocabulary: the filters find their threshold by radix selection, in time linear in what is left.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher};

use anser_kernels::activation;
use serde::{Deserialize, Serialize};

use crate::Error;

/// When the temperature acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Temperature first; the filters see the tempered distribution: top-k, typical, top-p, min-p. What most runtimes do.
    #[default]
    Standard,
    /// As the `rwkv` package of PyPI: the filters see the distribution at temperature 1, top-p before top-k (then
    /// typical, min-p), and what they leave is raised to the power 1 / temperature.
    Pip,
}

/// How tokens are chosen. The default is the model's own distribution: temperature 1 and no filter, no penalty.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy: the largest logit, the lowest id among equals. Default 1.
    pub temperature: f32,
    /// Keeps the `top_k` most probable tokens, lower ids first among equals; 0 keeps all. Default 0.
    pub top_k: usize,
    /// Keeps the most probable tokens up to a mass of `top_p`, and every token as probable as the last of them; 1 keeps
    /// all, 0 the most probable. Default 1.
    pub top_p: f32,
    /// Keeps tokens at least `min_p` times as probable as the most probable one; 0 keeps all. Default 0.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is nearest to the distribution's entropy, up to this mass; 1 keeps all. Default 1.
    pub typical: f32,
    /// Subtracted from the logit of every token seen. Default 0.
    pub presence: f32,
    /// Subtracted from the logit of every token seen, times its decayed count. Default 0.
    pub frequency: f32,
    /// Divides a seen token's positive logit and multiplies its negative one; 1 leaves both alone. Default 1.
    pub repetition: f32,
    /// All counts are multiplied by this after each token; 1 never forgets. Default 0.996.
    pub penalty_decay: f32,
    /// Tokens that are never counted, so that `frequency` leaves them alone (see [`uncounted_by_pip`]). They are still
    /// seen: `presence` and `repetition` act on them. Default empty.
    pub uncounted: Vec<u32>,
    /// When the temperature acts. Default [`Order::Standard`].
    pub order: Order,
    /// Added to the logits of these tokens, summed over repeated ids; -inf bans. Default empty.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens never drawn. Default empty.
    pub banned: Vec<u32>,
    /// Seed of the random numbers; none takes one from the operating system ([`Sampler::seed`] tells which).
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical: 1.0,
            presence: 0.0,
            frequency: 0.0,
            repetition: 1.0,
            penalty_decay: 0.996,
            uncounted: Vec::new(),
            order: Order::Standard,
            logit_bias: Vec::new(),
            banned: Vec::new(),
            seed: None,
        }
    }
}

impl Sampling {
    /// Always the most probable token.
    pub fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    /// The defaults of the `rwkv` package: its order, temperature 1, top-p 0.85, presence and frequency penalties 0.2.
    pub fn pip() -> Sampling {
        Sampling { top_p: 0.85, presence: 0.2, frequency: 0.2, order: Order::Pip, ..Sampling::default() }
    }

    /// Checks every option against its range.
    ///
    /// # Errors
    /// [`Error::Sampling`] names the first option out of range.
    pub fn validate(&self) -> Result<(), Error> {
        let number = |field, value: f32, ok: bool, expected| match ok {
            true => Ok(()),
            false => Err(Error::Sampling { field, expected, found: value.to_string() }),
        };
        let unit = 0.0..=1.0;
        let penalty = -100.0..=100.0;
        number("temperature", self.temperature, (0.0..=1000.0).contains(&self.temperature), "0 (greedy) to 1000")?;
        number("top_p", self.top_p, unit.contains(&self.top_p), "0 to 1 (1 keeps all)")?;
        number("min_p", self.min_p, unit.contains(&self.min_p), "0 (keeps all) to 1")?;
        number("typical", self.typical, unit.contains(&self.typical), "0 to 1 (1 keeps all)")?;
        number("presence", self.presence, penalty.contains(&self.presence), "-100 to 100 (0 is off)")?;
        number("frequency", self.frequency, penalty.contains(&self.frequency), "-100 to 100 (0 is off)")?;
        number("repetition", self.repetition, (0.01..=100.0).contains(&self.repetition), "0.01 to 100 (1 is off)")?;
        number("penalty_decay", self.penalty_decay, unit.contains(&self.penalty_decay), "0 to 1 (1 never forgets)")?;
        for &(token, bias) in &self.logit_bias {
            if !(bias == f32::NEG_INFINITY || (-1000.0..=1000.0).contains(&bias)) {
                let found = format!("{bias} for token {token}");
                return Err(Error::Sampling { field: "logit_bias", expected: "-1000 to 1000, or -inf", found });
            }
        }
        Ok(())
    }

    fn penalises(&self) -> bool {
        self.presence != 0.0 || self.frequency != 0.0 || self.repetition != 1.0
    }
}

/// Whether the `rwkv` package leaves a token with this text out of its counts: blanks and digits, so that numbers and
/// indentation may repeat.
pub fn uncounted_by_pip(text: &[u8]) -> bool {
    text.is_empty() || b" \t0123456789".windows(text.len()).any(|part| part == text)
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Natural log of its probability under the model: before penalties, bias, bans, temperature and filters.
    pub logprob: f32,
}

/// Draws tokens for one sequence: owns its random numbers, its counts for the penalties and its scratch memory.
///
/// A clone is a fork: both go on with the same random numbers.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: Sampling,
    vocab: usize,
    seed: u64,
    drawn: u64,
    seen: Vec<Seen>,
    /// For each token 1 + its place in `seen`, 0 when not seen; empty when nothing is penalised.
    place: Vec<u32>,
    adjusted: Vec<f32>,
    weights: Vec<f32>,
    kept: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    token: u32,
    count: f32,
    counted: bool,
}

/// A token still in the running, its adjusted logit and its probability up to a common factor, > 0.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f32,
    weight: f32,
}

impl Sampler {
    /// A sampler for logits of `vocab` values.
    ///
    /// # Errors
    /// [`Error::Sampling`] when an option is out of its range or names a token outside the vocabulary.
    pub fn new(options: &Sampling, vocab: usize) -> Result<Sampler, Error> {
        options.validate()?;
        let biased: Vec<u32> = options.logit_bias.iter().map(|&(token, _)| token).collect();
        for (field, tokens) in [("logit_bias", &biased), ("banned", &options.banned), ("uncounted", &options.uncounted)]
        {
            if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
                let found = format!("token {token} of a vocabulary of {vocab}");
                return Err(Error::Sampling { field, expected: "tokens of the model's vocabulary", found });
            }
        }
        let seed = options.seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
        let (mut options, tracked) = (options.clone(), if options.penalises() { vocab } else { 0 });
        options.uncounted.sort_unstable();
        Ok(Sampler {
            options,
            vocab,
            seed,
            drawn: 0,
            seen: Vec::with_capacity(tracked),
            place: vec![0; tracked],
            adjusted: Vec::with_capacity(vocab),
            weights: Vec::with_capacity(vocab),
            kept: Vec::with_capacity(vocab),
        })
    }

    /// The options in force.
    pub fn options(&self) -> &Sampling {
        &self.options
    }

    /// The seed in use: the given one, or the one taken from the operating system.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Draws a token from `logits` `[V]` and consumes exactly one random number, also when greedy.
    ///
    /// The draw is not counted by the penalties until [`Sampler::accept`] is called. A logit of -inf bans its token.
    ///
    /// # Errors
    /// [`Error::NonFiniteLogits`] when a logit is NaN or +inf or no token is left; [`Error::Batch`] when the number of
    /// logits is not the vocabulary's. Neither consumes a random number.
    pub fn sample(&mut self, logits: &[f32]) -> Result<Choice, Error> {
        let greatest = self.adjust(logits)?;
        let token = if self.options.temperature == 0.0 {
            greatest
        } else {
            self.filter(greatest);
            self.pick(uniform(self.seed, self.drawn))
        };
        self.drawn += 1;
        Ok(Choice { token, logprob: log_probability(logits, token) })
    }

    /// Counts a token for the penalties: one drawn, or one the sequence was given.
    ///
    /// # Errors
    /// [`Error::TokenOutOfRange`] when it is not of the vocabulary.
    pub fn accept(&mut self, token: u32) -> Result<(), Error> {
        if token as usize >= self.vocab {
            return Err(Error::TokenOutOfRange { token, position: 0, vocab: self.vocab });
        }
        let Some(place) = self.place.get_mut(token as usize) else { return Ok(()) };
        for seen in &mut self.seen {
            seen.count *= self.options.penalty_decay;
        }
        if *place == 0 {
            let counted = self.options.uncounted.binary_search(&token).is_err();
            self.seen.push(Seen { token, count: 0.0, counted });
            *place = self.seen.len() as u32;
        }
        let seen = &mut self.seen[*place as usize - 1];
        seen.count += if seen.counted { 1.0 } else { 0.0 };
        Ok(())
    }

    /// Forgets the accepted tokens, as at the start of a new reply. The random numbers go on.
    pub fn forget(&mut self) {
        for seen in self.seen.drain(..) {
            self.place[seen.token as usize] = 0;
        }
    }

    /// The distribution [`Sampler::sample`] would draw from, for every token of the vocabulary; sums to 1.
    ///
    /// # Errors
    /// As [`Sampler::sample`].
    pub fn probabilities(&mut self, logits: &[f32]) -> Result<Vec<f32>, Error> {
        let greatest = self.adjust(logits)?;
        let mut out = vec![0.0; self.vocab];
        if self.options.temperature == 0.0 {
            out[greatest as usize] = 1.0;
            return Ok(out);
        }
        self.filter(greatest);
        let mass = mass(&self.kept);
        for candidate in &self.kept {
            out[candidate.token as usize] = (candidate.weight as f64 / mass) as f32;
        }
        Ok(out)
    }

    /// Fills `adjusted` with the logits after penalties, bias and bans; returns the token of the greatest.
    fn adjust(&mut self, logits: &[f32]) -> Result<u32, Error> {
        if logits.len() != self.vocab {
            return Err(Error::Batch { what: "logits to sample from", expected: self.vocab, found: logits.len() });
        }
        if !usable(logits) {
            return Err(Error::NonFiniteLogits);
        }
        let Sampling { presence, frequency, repetition, .. } = self.options;
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        for seen in &self.seen {
            let logit = &mut self.adjusted[seen.token as usize];
            let scaled = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
            // A finite logit near the end of the range must not become +inf.
            *logit = (scaled - presence - seen.count * frequency).min(f32::MAX);
        }
        for &(token, bias) in &self.options.logit_bias {
            self.adjusted[token as usize] += bias;
        }
        for &token in &self.options.banned {
            self.adjusted[token as usize] = f32::NEG_INFINITY;
        }
        let greatest = greatest(&self.adjusted);
        match self.adjusted[greatest] == f32::NEG_INFINITY {
            true => Err(Error::NonFiniteLogits),
            false => Ok(greatest as u32),
        }
    }

    /// Fills `kept` with the candidates that temperature and filters leave, in the order of their ids.
    fn filter(&mut self, greatest: u32) {
        let Sampling { temperature, top_k, top_p, min_p, typical, order, .. } = self.options;
        let max = self.adjusted[greatest as usize];
        let first = match order {
            Order::Standard => temperature,
            Order::Pip => 1.0,
        };
        self.weights.clear();
        exponentials(&self.adjusted, max, first, |weights| self.weights.extend_from_slice(weights));
        let everything = total(&self.weights, |&w| w);
        // All tokens below this weigh less than 1 - top_p together: where top-p is the first filter, none of them is in
        // the nucleus, and the long tail of the vocabulary need not be looked at again.
        let top_p_first = order == Order::Pip || (top_k == 0 && typical == 1.0);
        let floor = if top_p_first { 0.5 * (1.0 - top_p) * (everything / self.vocab as f64) as f32 } else { 0.0 };
        let kept = &mut self.kept;
        kept.clear();
        for (token, (&weight, &logit)) in self.weights.iter().zip(&self.adjusted).enumerate() {
            if weight > floor {
                kept.push(Candidate { token: token as u32, logit, weight });
            }
        }
        match order {
            Order::Standard => {
                keep_top_k(kept, top_k);
                keep_typical(kept, typical, max, temperature);
                let mass = if top_p_first { everything } else { mass(kept) };
                keep_top_p(kept, top_p, mass);
                keep_min_p(kept, min_p);
            }
            Order::Pip => {
                keep_top_p(kept, top_p, everything);
                keep_top_k(kept, top_k);
                keep_typical(kept, typical, max, 1.0);
                keep_min_p(kept, min_p);
                if temperature != 1.0 {
                    // Relative to the greatest that is left (typical may drop the greatest of all), lest all powers vanish.
                    let top = kept.iter().fold(f32::NEG_INFINITY, |m, c| m.max(c.logit));
                    for candidate in kept.iter_mut() {
                        candidate.weight = ((candidate.logit - top) / temperature).exp();
                    }
                }
            }
        }
    }

    /// The candidate at the fraction `at` in [0, 1) of the kept mass.
    fn pick(&self, at: f64) -> u32 {
        let mut rest = at * mass(&self.kept);
        for some in self.kept.chunks(64) {
            let here = mass(some);
            if rest >= here {
                rest -= here;
                continue;
            }
            for candidate in some {
                rest -= candidate.weight as f64;
                if rest < 0.0 {
                    return candidate.token;
                }
            }
        }
        // Rounding may leave a crumb beyond the last candidate; a weight of zero must not win by it.
        let last = self.kept.iter().rev().find(|c| c.weight > 0.0);
        last.map_or(0, |candidate| candidate.token)
    }
}

/// Natural log of a token's probability under the model: log-softmax of `logits` `[V]` at `token`.
pub fn log_probability(logits: &[f32], token: u32) -> f32 {
    (logits[token as usize] as f64 - log_normaliser(logits)) as f32
}

/// The `n` most probable tokens under the model and the natural logs of their probabilities, most probable first, lower
/// ids first among equals. Tokens of probability zero (-inf) are left out.
///
/// # Errors
/// [`Error::NonFiniteLogits`] when a logit is NaN or +inf, or none is finite.
pub fn top_log_probabilities(logits: &[f32], n: usize) -> Result<Vec<(u32, f32)>, Error> {
    let normaliser = log_normaliser(logits);
    if !normaliser.is_finite() || !usable(logits) {
        return Err(Error::NonFiniteLogits);
    }
    let mut tokens: Vec<u32> = (0..logits.len() as u32).filter(|&t| logits[t as usize] > f32::NEG_INFINITY).collect();
    let by_rank = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if n < tokens.len() {
        tokens.select_nth_unstable_by(n, by_rank);
        tokens.truncate(n);
    }
    tokens.sort_unstable_by(by_rank);
    Ok(tokens.into_iter().map(|t| (t, (logits[t as usize] as f64 - normaliser) as f32)).collect())
}

/// ln of the sum of exp over the logits.
fn log_normaliser(logits: &[f32]) -> f64 {
    if logits.is_empty() {
        return f64::NEG_INFINITY;
    }
    let max = logits[greatest(logits)];
    let mut sum = 0.0;
    exponentials(logits, max, 1.0, |weights| sum += total(weights, |&w| w));
    max as f64 + sum.ln()
}

/// Hands out exp((logit - max) / temperature) of all logits, a piece at a time.
fn exponentials(logits: &[f32], max: f32, temperature: f32, mut take: impl FnMut(&[f32])) {
    let mut buffer = [0.0f32; 1024];
    for piece in logits.chunks(buffer.len()) {
        let weights = &mut buffer[..piece.len()];
        for (weight, &logit) in weights.iter_mut().zip(piece) {
            *weight = (logit - max) / temperature;
        }
        activation::exp(weights);
        take(weights);
    }
}

/// Whether no logit is NaN or +inf.
fn usable(logits: &[f32]) -> bool {
    logits.chunks(64).all(|some| some.iter().fold(true, |all, &l| all & (l < f32::INFINITY)))
}

/// Index of the greatest value, the first among equals; 0 if there is none. What is NaN counts as smaller than all.
pub fn greatest(values: &[f32]) -> usize {
    // Independent lanes, because one running maximum (or sum, below) waits for itself at every step.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let (whole, rest) = values.as_chunks::<16>();
    for some in whole {
        for (lane, &value) in lanes.iter_mut().zip(some) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let max = lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    // Where it is, chunk by chunk first: a search that may end at every value is not vectorised.
    let is_max = |&value: &f32| value == max;
    let before =
        16 * whole.iter().position(|some| some.iter().fold(false, |any, v| any | is_max(v))).unwrap_or(whole.len());
    values[before..].iter().position(is_max).map_or(0, |at| before + at)
}

/// The sum of a value of each item, always in the same order.
fn total<T>(items: &[T], value: impl Fn(&T) -> f32) -> f64 {
    let mut lanes = [0.0f64; 8];
    for some in items.chunks(8) {
        for (lane, item) in lanes.iter_mut().zip(some) {
            *lane += value(item) as f64;
        }
    }
    lanes.iter().sum()
}

fn mass(kept: &[Candidate]) -> f64 {
    total(kept, |c| c.weight)
}

fn keep_top_k(kept: &mut Vec<Candidate>, k: usize) {
    if k == 0 || k >= kept.len() {
        return;
    }
    // By logit, not by weight: a high temperature rounds different logits to equal weights.
    let threshold = threshold(kept.iter().map(|c| (rank(c.logit), 1.0)), k as f64);
    let mut equals = k - kept.iter().filter(|c| rank(c.logit) > threshold).count();
    kept.retain(|c| match rank(c.logit).cmp(&threshold) {
        Ordering::Greater => true,
        Ordering::Less => false,
        Ordering::Equal => {
            let room = equals > 0;
            equals -= room as usize;
            room
        }
    });
}

/// An integer that orders as the value does.
fn rank(value: f32) -> u32 {
    let bits = (value + 0.0).to_bits(); // -0 becomes +0
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// `mass` is that of the distribution to take the nucleus of, also of what is no longer in `kept`.
fn keep_top_p(kept: &mut Vec<Candidate>, p: f32, mass: f64) {
    if p < 1.0 {
        let target = p as f64 * mass;
        let threshold = threshold(kept.iter().map(|c| (c.weight.to_bits(), c.weight as f64)), target);
        kept.retain(|c| c.weight.to_bits() >= threshold);
    }
}

fn keep_typical(kept: &mut Vec<Candidate>, tau: f32, max: f32, temperature: f32) {
    if tau < 1.0 {
        let mass = mass(kept);
        let normaliser = mass.ln();
        let surprise = |c: &Candidate| normaliser + ((max - c.logit) / temperature) as f64;
        let entropy: f64 = kept.iter().map(|c| c.weight as f64 / mass * surprise(c)).sum();
        let nearness = |c: &Candidate| rank(-(surprise(c) - entropy).abs() as f32);
        let threshold = threshold(kept.iter().map(|c| (nearness(c), c.weight as f64)), tau as f64 * mass);
        kept.retain(|c| nearness(c) >= threshold);
    }
}

fn keep_min_p(kept: &mut Vec<Candidate>, p: f32) {
    if p > 0.0 {
        let least = p * kept.iter().fold(0.0f32, |m, c| m.max(c.weight));
        kept.retain(|c| c.weight >= least);
    }
}

/// The greatest `t` such that the items with key >= `t` weigh at least `target` (and are at least one); 0 when all
/// together do not. Radix selection: three passes over the items, the key's bits from the top.
fn threshold(items: impl Iterator<Item = (u32, f64)> + Clone, target: f64) -> u32 {
    const DIGITS: [(u32, u32); 3] = [(21, 11), (10, 11), (0, 10)]; // (shift, bits)
    let (mut prefix, mut known, mut above) = (0u32, 0u32, 0.0f64);
    for (shift, bits) in DIGITS {
        let mut weight = [0.0f64; 1 << 11];
        let digits = (1u32 << bits) - 1;
        for (key, w) in items.clone() {
            if key & known == prefix {
                weight[(key >> shift & digits) as usize] += w;
            }
        }
        let mut digit = digits as usize;
        while weight[digit] == 0.0 || above + weight[digit] < target {
            above += weight[digit];
            if digit == 0 {
                return prefix; // the sums of the digits may round below the sum they came from
            }
            digit -= 1;
        }
        prefix |= (digit as u32) << shift;
        known |= digits << shift;
    }
    prefix
}

/// The `index`-th uniform number in [0, 1) of a seed's sequence: SplitMix64 at that place, its upper 53 bits.
fn uniform(seed: u64, index: u64) -> f64 {
    // The seed is mixed once so that neighbouring seeds do not walk the same sequence a step apart.
    let start = mix(seed ^ 0x5851_f42d_4c95_7f2d);
    let bits = mix(start.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// SplitMix64's output function.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
