//! How many bytes of text a token stands for, in 211 languages: World against 20B, Qwen and bytes.

use std::fs;
use std::path::PathBuf;

use anser_tokenizer::Tokenizer;
use anser_train::plot::{Axis, Chart, Mark, Series};
use anyhow::{Context, Result};
use serde::Deserialize;

use crate::records::write;

/// Bytes per token per language
#[derive(clap::Args)]
pub(crate) struct Args {
    /// JSON lines with `lang`, `name`, `script` and `text`: the Universal Declaration of Human Rights
    #[arg(long, value_name = "FILE")]
    data: PathBuf,

    /// Tokenizers to compare with: NAME=tokenizer.json
    #[arg(long, value_name = "NAME=FILE")]
    tokenizer: Vec<String>,

    /// Where results go
    #[arg(long, default_value = "experiments/tokenizer")]
    out: PathBuf,
}

#[derive(Deserialize)]
struct Text {
    lang: String,
    name: String,
    script: String,
    text: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut tokenizers = vec![("World".to_string(), Tokenizer::world())];
    for named in &args.tokenizer {
        let (name, file) = named.split_once('=').with_context(|| format!("{named}: expected NAME=FILE"))?;
        tokenizers.push((name.to_string(), Tokenizer::from_file(file.as_ref())?));
    }
    tokenizers.push(("bytes".to_string(), Tokenizer::byte()));
    let lines = fs::read_to_string(&args.data).with_context(|| args.data.display().to_string())?;
    let mut rows = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let text: Text =
            serde_json::from_str(line).with_context(|| format!("{}:{}", args.data.display(), number + 1))?;
        let mut rates = Vec::with_capacity(tokenizers.len());
        for (_, tokenizer) in &tokenizers {
            let tokens = tokenizer.encode(text.text.as_bytes())?;
            rates.push(text.text.len() as f64 / tokens.len().max(1) as f64);
        }
        rows.push((text, rates));
    }
    rows.sort_by(|a, b| b.1[0].total_cmp(&a.1[0]));

    let names: Vec<&str> = tokenizers.iter().map(|(name, _)| name.as_str()).collect();
    let head = format!("| {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let cells = |rates: &[f64]| rates.iter().map(|rate| format!("{rate:.2}")).collect::<Vec<_>>().join(" | ");
    let mean = |rows: &[&(Text, Vec<f64>)]| -> Vec<f64> {
        (0..names.len()).map(|i| rows.iter().map(|row| row.1[i]).sum::<f64>() / rows.len().max(1) as f64).collect()
    };
    let all: Vec<_> = rows.iter().collect();
    let mut table = format!(
        "# Bytes per token\n\nThe Universal Declaration of Human Rights in {} languages; means over languages, more is \
         better.\n\n| script | languages {head}| all | {} | {} |\n",
        rows.len(),
        rows.len(),
        cells(&mean(&all))
    )
    .replacen("|---|", "|---|---|", 1);
    let mut scripts: Vec<&str> = rows.iter().map(|row| row.0.script.as_str()).collect();
    scripts.sort_unstable();
    scripts.dedup();
    let mut groups: Vec<(&str, Vec<_>)> =
        scripts.iter().map(|&script| (script, rows.iter().filter(|row| row.0.script == script).collect())).collect();
    groups.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
    for (script, rows) in &groups {
        table += &format!("| {script} | {} | {} |\n", rows.len(), cells(&mean(rows)));
    }
    table += &format!("\n| language | script {head}").replacen("|---|", "|---|---|", 1);
    for (text, rates) in &rows {
        table += &format!("| {} ({}) | {} | {} |\n", text.name, text.lang, text.script, cells(rates));
    }
    let series = names.iter().enumerate().map(|(i, name)| Series {
        name: name.to_string(),
        points: rows.iter().enumerate().map(|(x, row)| (x as f64 + 1.0, row.1[i])).collect(),
        band: Vec::new(),
        mark: Mark::Line,
    });
    let chart = Chart {
        title: "Bytes per token in 211 languages".replace("211", &rows.len().to_string()),
        x: Axis { label: "language (by bytes per token of World)".into(), log: false },
        y: Axis { label: "bytes per token".into(), log: false },
        series: series.collect(),
    };
    fs::create_dir_all(&args.out)?;
    write(&args.out.join("results.md"), &table)?;
    write(&args.out.join("results.svg"), &chart.svg())
}
