//! Defaults, and what is refused.

use super::{Length, Run, Settings};
use crate::error::Error;
use crate::groups::Architecture;
use crate::init::sizes;
use crate::schedule::Curve;

/// A bound for counts, far from where arithmetic on them would overflow.
const MOST: u64 = 1 << 48;

fn refuse<T>(name: &'static str, found: impl ToString, expected: impl Into<String>) -> Result<T, Error> {
    Err(Error::Setting { name, found: found.to_string(), expected: expected.into() })
}

fn count<T: Copy + TryInto<u64> + ToString>(name: &'static str, found: T, least: u64) -> Result<T, Error> {
    match found.try_into() {
        Ok(number) if (least..=MOST).contains(&number) => Ok(found),
        _ => refuse(name, found, format!("{least} to {MOST}")),
    }
}

fn number(name: &'static str, found: f64, fits: impl Fn(f64) -> bool, expected: &str) -> Result<f64, Error> {
    if found.is_finite() && fits(found) { Ok(found) } else { refuse(name, found, expected) }
}

pub(super) fn default_eps(architecture: Architecture) -> f64 {
    match architecture {
        Architecture::V4 | Architecture::Transformer => 1e-8,
        Architecture::V5_2 | Architecture::V6 | Architecture::V7 => 1e-18,
    }
}

impl Settings {
    /// Fills in the defaults and checks every value. Does not look at any file.
    ///
    /// # Errors
    /// [`Error::Setting`] for a value out of range, for settings that exclude each other, and for missing `data` or
    /// `out`.
    pub fn resolve(&self) -> Result<Run, Error> {
        let s = self.clone();
        let data = match s.data {
            Some(data) if !data.is_empty() => data,
            _ => return refuse("data", "not given", "what to learn from, such as --data book.txt"),
        };
        let Some(out) = s.out else { return refuse("out", "not given", "a folder for the model, such as --out run") };
        if s.valid.is_some() && s.valid_fraction.is_some_and(|fraction| fraction != 0.0) {
            return refuse("valid_fraction", "given beside valid", "one of them");
        }
        let held_out = if s.valid.is_some() { 0.0 } else { 0.1 };
        let fraction = s.valid_fraction.unwrap_or(held_out);
        let positive = |x: f64| x > 0.0;
        let not_negative = |x: f64| x >= 0.0;

        let mut sized = (s.model, s.layers, s.width, s.head_size, s.ffn);
        if s.init.is_some() {
            let given = [
                ("model", s.model.is_some()),
                ("layers", s.layers.is_some()),
                ("width", s.width.is_some()),
                ("head_size", s.head_size.is_some()),
                ("ffn", s.ffn.is_some()),
            ];
            if let Some((name, _)) = given.into_iter().find(|(_, given)| *given) {
                return refuse(name, "given beside init", "only one of them: the checkpoint has its own sizes");
            }
        } else {
            let model = s.model.unwrap_or(Architecture::V7);
            let (layers, width) = (s.layers.unwrap_or(4), s.width.unwrap_or(256));
            // The transformer has the sizes of a version with heads and a channel mix four times as wide.
            let version = model.version().unwrap_or(anser_checkpoint::Version::V7);
            let config = sizes(version, 256, layers, width, s.head_size, s.ffn)?;
            let head_size = (model != Architecture::V4).then_some(config.head_size);
            sized = (Some(model), Some(layers), Some(width), head_size, Some(config.ffn));
        }
        let (model, layers, width, head_size, ffn) = sized;

        let context = count("context", s.context.unwrap_or(256), 1)?;
        let batch = count("batch", s.batch.unwrap_or(8), 1)?;
        let accumulate = count("accumulate", s.accumulate.unwrap_or(1), 1)?;
        let tokens = [context, batch, accumulate].iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64));
        if tokens.is_none_or(|tokens| tokens > MOST) {
            return refuse("batch", batch, format!("context * batch * accumulate of at most {MOST} tokens"));
        }
        let length = match (s.steps, s.epochs, s.tokens) {
            (None, None, None) => Length::Epochs(1.0),
            (Some(steps), None, None) => Length::Steps(count("steps", steps, 1)?),
            (None, Some(epochs), None) => {
                Length::Epochs(number("epochs", epochs, |x| x > 0.0 && x <= 1e6, "above 0, at most a million")?)
            }
            (None, None, Some(tokens)) => Length::Tokens(count("tokens", tokens, 1)?),
            _ => return refuse("length", "given twice", "one of steps, epochs and tokens"),
        };

        let lr = s.lr.unwrap_or(if s.init.is_some() { 1e-5 } else { 1e-3 });
        let lr = number("lr", lr, positive, "above 0, such as 1e-3")?;
        let schedule = s.schedule.unwrap_or(Curve::Cosine);
        let lr_final = s.lr_final.unwrap_or(if schedule == Curve::Constant { lr } else { lr / 10.0 });
        let lr_final = match schedule {
            Curve::Constant if lr_final != lr => {
                return refuse("lr_final", lr_final, "nothing: the rate of the constant schedule is lr");
            }
            Curve::Exponential => number("lr_final", lr_final, |x| x > 0.0 && x <= lr, "above 0, at most lr")?,
            _ => number("lr_final", lr_final, |x| (0.0..=lr).contains(&x), "0 to lr")?,
        };
        let betas = s.betas.unwrap_or_else(|| vec![0.9, 0.99]);
        let Ok(betas) = <[f64; 2]>::try_from(betas.as_slice()) else {
            return refuse("betas", format!("{betas:?}"), "two numbers, such as 0.9,0.99");
        };
        for beta in betas {
            number("betas", beta, |x| (0.0..1.0).contains(&x), "at least 0 and below 1")?;
        }
        let eps = s.eps.or(model.map(default_eps));
        if let Some(eps) = eps {
            number("eps", eps, |x| (1e-30..=1.0).contains(&x), "1e-30 to 1")?;
        }
        let l2wrap = s.l2wrap.unwrap_or(if model == Some(Architecture::Transformer) { 0.0 } else { 1e-4 });

        let bptt = s.bptt.map(|bptt| count("bptt", bptt, 1)).transpose()?;
        let (carry_state, state_grad) = (s.carry_state.unwrap_or(false), s.state_grad.unwrap_or(false));
        if let Some(bptt) = bptt.filter(|&bptt| bptt > context || !context.is_multiple_of(bptt)) {
            return refuse("bptt", bptt, format!("a divisor of the context {context}"));
        }
        if carry_state && bptt.is_none() {
            return refuse("carry_state", true, "bptt beside it: a window is whole without it");
        }
        if state_grad && !carry_state {
            return refuse("state_grad", true, "carry_state beside it: no state is handed on without it");
        }
        if model == Some(Architecture::Transformer) && carry_state {
            return refuse("carry_state", true, "a model with a state: a transformer has none");
        }
        let seed = s.seed.unwrap_or(42);
        if i64::try_from(seed).is_err() {
            return refuse("seed", seed, format!("at most {}", i64::MAX));
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let threads = s.threads.unwrap_or(cores);
        if !(1..=4096).contains(&threads) {
            return refuse("threads", threads, "1 to 4096");
        }
        let shards = s.shards.unwrap_or(1);
        if !(1..=batch).contains(&shards) {
            return refuse("shards", shards, format!("1 to the batch of {batch}: a shard has at least one window"));
        }
        let tokenizer = s.tokenizer.or((s.init.is_none()).then_some(super::TokenizerChoice::Byte));

        Ok(Run {
            data,
            valid: s.valid,
            valid_fraction: number("valid_fraction", fraction, |x| (0.0..=0.9).contains(&x), "0 to 0.9")?,
            separator: match s.separator {
                Some(separator) if separator.is_empty() => return refuse("separator", "empty", "some text"),
                separator => separator,
            },
            tokenizer,
            magic_prime: s.magic_prime.unwrap_or(false),
            model,
            layers,
            width,
            head_size,
            ffn,
            init: s.init,
            context,
            batch,
            accumulate,
            length,
            patience: s.patience.map(|patience| count("patience", patience, 1)).transpose()?,
            lr,
            lr_final,
            warmup: count("warmup", s.warmup.unwrap_or(10), 0)?,
            schedule,
            decay_fraction: number(
                "decay_fraction",
                s.decay_fraction.unwrap_or(0.2),
                |x| x > 0.0 && x <= 1.0,
                "above 0, at most 1",
            )?,
            weight_decay: number("weight_decay", s.weight_decay.unwrap_or(0.1), not_negative, "0 or more")?,
            betas,
            eps,
            clip: number("clip", s.clip.unwrap_or(1.0), not_negative, "0 (off) or more")?,
            l2wrap: number("l2wrap", l2wrap, not_negative, "0 (off) or more")?,
            layerwise_lr: s.layerwise_lr.unwrap_or(true),
            seed,
            threads,
            shards,
            bptt,
            carry_state,
            state_grad,
            checkpoint_activations: s.checkpoint_activations.unwrap_or(false),
            eval_every: count("eval_every", s.eval_every.unwrap_or(100), 0)?,
            eval_tokens: count("eval_tokens", s.eval_tokens.unwrap_or(65_536), 0)?,
            save_every: count("save_every", s.save_every.unwrap_or(500), 0)?,
            keep: count("keep", s.keep.unwrap_or(2), 1)?,
            out,
            resume: s.resume,
        })
    }
}
