//! Speed of the World tokenizer on a file: `cargo bench -p anser-tokenizer -- FILE [ROUNDS]`, or the file in
//! `ANSER_BENCH_TEXT`. One thread; prints bytes, tokens and MB/s (median and best), one line of JSON.

use std::hint::black_box;
use std::time::Instant;

use anser_tokenizer::Tokenizer;

fn main() {
    // cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let file = arguments.first().cloned().or_else(|| std::env::var("ANSER_BENCH_TEXT").ok());
    let Some(file) = file else {
        eprintln!("not run: no file given (cargo bench -p anser-tokenizer -- FILE, or ANSER_BENCH_TEXT)");
        return;
    };
    let rounds: usize = arguments.get(1).and_then(|n| n.parse().ok()).unwrap_or(9);
    let text = std::fs::read(&file).unwrap_or_else(|e| panic!("{file}: {e}"));

    let start = Instant::now();
    let tokenizer = Tokenizer::world();
    let start_us = start.elapsed().as_secs_f64() * 1e6;

    let mut seconds = Vec::new();
    let mut tokens = 0;
    for _ in 0..rounds.max(1) {
        let start = Instant::now();
        let ids = tokenizer.encode(black_box(&text)).unwrap_or_else(|e| panic!("{file}: {e}"));
        seconds.push(start.elapsed().as_secs_f64());
        tokens = black_box(ids).len();
    }
    seconds.sort_by(f64::total_cmp);
    let speed = |seconds: f64| text.len() as f64 / 1e6 / seconds;
    println!(
        "{{\"bytes\": {}, \"tokens\": {tokens}, \"median_mb_s\": {:.2}, \"best_mb_s\": {:.2}, \"start_us\": {start_us:.1}}}",
        text.len(),
        speed(seconds[seconds.len() / 2]),
        speed(seconds[0]),
    );
}
