//! The flags that choose among the next tokens.

use anser_engine::sampling::{Order, Sampling};

/// Sampling flags. Whatever is not given comes from the command's defaults.
#[derive(clap::Args, Clone)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Divides the logits; 0 always takes the most probable token
    #[arg(short, long, value_name = "T")]
    temperature: Option<f32>,

    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Keep the most probable tokens up to this mass; 1 keeps all
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,

    /// Keep tokens at least P times as probable as the most probable one
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,

    /// Keep the tokens of most typical surprise up to this mass; 1 keeps all
    #[arg(long, value_name = "P")]
    typical: Option<f32>,

    /// Subtract from the logit of every token of the reply so far
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,

    /// Subtract from the logit of every token of the reply, times its decayed count
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,

    /// Divide the positive logits of tokens of the reply, multiply their negative ones; 1 is off
    #[arg(long, value_name = "X")]
    repetition_penalty: Option<f32>,

    /// Counts fade by this factor at each token [default: 0.996]
    #[arg(long, value_name = "X")]
    penalty_decay: Option<f32>,

    /// When the temperature acts: `standard` before the filters, `pip` after them, as the PyPI package rwkv
    #[arg(long, value_name = "ORDER", value_parser = parse_order)]
    order: Option<Order>,

    /// Add to the logits of tokens: ID=BIAS,...
    #[arg(long, value_name = "ID=BIAS,...", value_delimiter = ',', value_parser = parse_bias, allow_hyphen_values = true)]
    logit_bias: Vec<(u32, f32)>,

    /// Never draw these tokens
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    ban: Vec<u32>,

    /// Seed of the random numbers: same seed, same text [default: a new one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// The options, starting from a command's `defaults`. Greedy drops the default penalties, never those asked for.
    pub(crate) fn resolve(&self, defaults: &Sampling) -> Sampling {
        let greedy = self.temperature == Some(0.0);
        let base = if greedy { Sampling::greedy() } else { defaults.clone() };
        Sampling {
            temperature: self.temperature.unwrap_or(base.temperature),
            top_k: self.top_k.unwrap_or(base.top_k),
            top_p: self.top_p.unwrap_or(base.top_p),
            min_p: self.min_p.unwrap_or(base.min_p),
            typical: self.typical.unwrap_or(base.typical),
            presence: self.presence_penalty.unwrap_or(base.presence),
            frequency: self.frequency_penalty.unwrap_or(base.frequency),
            repetition: self.repetition_penalty.unwrap_or(base.repetition),
            penalty_decay: self.penalty_decay.unwrap_or(base.penalty_decay),
            order: self.order.unwrap_or(base.order),
            logit_bias: self.logit_bias.clone(),
            banned: self.ban.clone(),
            seed: self.seed,
            ..base
        }
    }
}

fn parse_order(text: &str) -> Result<Order, String> {
    match text {
        "standard" => Ok(Order::Standard),
        "pip" => Ok(Order::Pip),
        _ => Err("expected standard or pip".to_string()),
    }
}

fn parse_bias(text: &str) -> Result<(u32, f32), String> {
    let expected = || format!("expected ID=BIAS, found {text:?}");
    let (token, bias) = text.split_once('=').ok_or_else(expected)?;
    Ok((token.trim().parse().map_err(|_| expected())?, bias.trim().parse().map_err(|_| expected())?))
}
