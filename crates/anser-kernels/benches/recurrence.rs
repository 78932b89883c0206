//! Recurrences at N = 64: 12 heads over 512 tokens (prefill), one token (decode), and the references beside them; for
//! RWKV-7 also forward and backward together.
//!
//! `cargo bench -p anser-kernels --bench recurrence`: one thread, the level that [`anser_kernels::simd::level`] gives.

use anser_kernels::pool::Pool;
use anser_kernels::recurrence::wkv7::backward::{self, Gradients, Saved, saved_states_len, workspace_len};
use anser_kernels::recurrence::{Heads, wkv4, wkv6, wkv7};
use anser_kernels::simd::level;
use anser_testkit::Rng;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const HEADS: Heads = Heads { heads: 12, head_size: 64 };

fn recurrences(c: &mut Criterion) {
    let pool = Pool::new(1);
    let mut rng = Rng(0);
    for tokens in [1, 512] {
        let (width, cu) = (HEADS.width(), [0, tokens]);
        let mut packed = || rng.vec(tokens * width, 0.1);
        let (r, k, v, a) = (packed(), packed(), packed(), packed());
        let b: Vec<f32> = a.iter().map(|a| -0.5 * a).collect();
        let decay: Vec<f32> = packed().iter().map(|x| 0.9 + x).collect();
        let (log_decay, bonus) = (vec![-0.5; width], vec![0.5; width]);
        let mut y = vec![0.0; tokens * width];

        let mut group = c.benchmark_group(format!("{tokens} tokens, {}", level()));
        group.throughput(Throughput::Elements(tokens as u64)).sample_size(10);

        let mut state = wkv4::initial_state(width);
        let x = wkv4::Inputs { k: &k, v: &v };
        group.bench_function(BenchmarkId::new("wkv4", "fast"), |bench| {
            bench.iter(|| wkv4::scan(&pool, &cu, &x, &log_decay, &bonus, &mut [&mut state], &mut y));
        });
        group.bench_function(BenchmarkId::new("wkv4", "reference"), |bench| {
            bench.iter(|| wkv4::reference::scan(&cu, &x, &log_decay, &bonus, &mut [&mut state], &mut y));
        });

        let mut state = vec![0.0; HEADS.state_len()];
        let x = wkv6::Inputs { r: &r, decay: &decay, k: &k, v: &v };
        group.bench_function(BenchmarkId::new("wkv6", "fast"), |bench| {
            bench.iter(|| wkv6::scan(&pool, HEADS, &cu, &x, &bonus, &mut [&mut state], &mut y));
        });
        group.bench_function(BenchmarkId::new("wkv6", "reference"), |bench| {
            bench.iter(|| wkv6::reference::scan(HEADS, &cu, &x, &bonus, &mut [&mut state], &mut y));
        });

        state.fill(0.0);
        let x = wkv7::Inputs { r: &r, decay: &decay, k: &k, v: &v, a: &a, b: &b };
        group.bench_function(BenchmarkId::new("wkv7", "fast"), |bench| {
            bench.iter(|| wkv7::scan(&pool, HEADS, &cu, &x, &mut [&mut state], &mut y));
        });
        group.bench_function(BenchmarkId::new("wkv7", "reference"), |bench| {
            bench.iter(|| wkv7::reference::scan(HEADS, &cu, &x, &mut [&mut state], &mut y));
        });

        let initial = vec![0.0; HEADS.state_len()];
        let mut gstate = vec![0.0; HEADS.state_len()];
        let mut out: [Vec<f32>; 6] = std::array::from_fn(|_| vec![0.0; tokens * width]);
        let (mut saved_states, mut sa) = (vec![0.0; saved_states_len(HEADS, &cu)], vec![0.0; tokens * width]);
        let mut workspace = vec![0.0; workspace_len(pool.threads(), HEADS)];
        group.bench_function(BenchmarkId::new("wkv7 forward and backward", "fast"), |bench| {
            bench.iter(|| {
                state.fill(0.0);
                gstate.fill(0.0);
                let saved = Saved { states: &mut saved_states[..], sa: &mut sa[..] };
                backward::scan_saving(&pool, HEADS, &cu, &x, &mut [&mut state], &mut y, saved);
                let saved = Saved { states: &saved_states[..], sa: &sa[..] };
                let (gstate, out) = (&mut [&mut gstate[..]], gradients(&mut out));
                backward::scan(&pool, HEADS, &cu, &x, saved, &y, gstate, out, &mut workspace);
            });
        });
        group.bench_function(BenchmarkId::new("wkv7 forward and backward", "reference"), |bench| {
            bench.iter(|| {
                state.fill(0.0);
                gstate.fill(0.0);
                wkv7::reference::scan(HEADS, &cu, &x, &mut [&mut state], &mut y);
                let (gstate, out) = (&mut [&mut gstate[..]], gradients(&mut out));
                backward::reference::scan(HEADS, &cu, &x, &[&initial], &y, gstate, out);
            });
        });
        group.finish();
    }
}

fn gradients(out: &mut [Vec<f32>; 6]) -> Gradients<&mut [f32]> {
    let [r, decay, k, v, a, b] = out.each_mut().map(Vec::as_mut_slice);
    Gradients { r, decay, k, v, a, b }
}

criterion_group!(benches, recurrences);
criterion_main!(benches);
