//! RWKV-7 "Goose" (x070).
//!
//! Time mix, per head of size N with state S (here `[key, value]`):
//! `S = diag(decay) S + b (a^T S) + k v^T`, `y = S^T r`, with `a = -kk`, `b = kk * rate`, where decay, rate and gate come
//! from small LoRAs of token-shifted inputs. The first layer's values (`v_first`) are mixed into every later layer's.
//!
//! Source: BlinkDL/RWKV-LM, RWKV-v7. Traps: kk is taken from k before `k_a` changes it; the bonus uses k after it and v
//! after the value residual; GroupNorm comes before the bonus, the gate after it; the gate has no outer sigmoid.

use anser_kernels::activation::{exp, sigmoid};
use anser_kernels::linear::{Epilogue, Matrix, Product, products};
use anser_kernels::norm::{group_norm, l2_normalize, lerp};
use anser_kernels::recurrence::{Heads, wkv7};
use anser_kernels::rows::for_rows;
use smallvec::smallvec;

use super::loader::{Loader, Norm};
use super::pass::{Pass, Products};
use crate::Error;
use crate::executor::Arena;
use crate::state::{ATT_SHIFT, FFN_SHIFT, WKV};

/// exp(-0.5): the steepest logarithmic decay.
const DECAY_SCALE: f32 = 0.606_530_66;

/// One layer.
pub(super) struct Block {
    heads: Heads,
    group_norm_eps: f32,
    ln1: Norm,
    ln2: Norm,
    /// Token shift of r, w, k, v, a, g, each `[C]`.
    mix: [Vec<f32>; 6],
    receptance: Matrix,
    key: Matrix,
    value: Matrix,
    output: Matrix,
    decay: Lora,
    rate: Lora,
    gate: (Matrix, Matrix),
    /// Absent in the first layer, whose values are the ones mixed in.
    value_residual: Option<Lora>,
    k_k: Vec<f32>,
    k_a: Vec<f32>,
    /// Bonus `[H, N]`.
    r_k: Vec<f32>,
    ln_x_weight: Vec<f32>,
    ln_x_bias: Vec<f32>,
    ffn_mix: Vec<f32>,
    ffn_key: Matrix,
    ffn_value: Matrix,
}

/// `base + up(f(down(x)))`: base `[C]`, down `[D, C]`, up `[C, D]`.
struct Lora {
    base: Vec<f32>,
    down: Matrix,
    up: Matrix,
}

impl Lora {
    fn load(loader: &Loader<'_>, att: &str, letter: char) -> Result<Lora, Error> {
        Ok(Lora {
            base: loader.vector(&format!("{att}.{letter}0"))?,
            down: loader.factor(&format!("{att}.{letter}1"))?,
            up: loader.factor(&format!("{att}.{letter}2"))?,
        })
    }
}

impl super::Block for Block {
    fn load(loader: &Loader<'_>, layer: usize) -> Result<Block, Error> {
        let config = loader.config();
        let block = format!("blocks.{layer}");
        let (att, ffn) = (format!("{block}.att"), format!("{block}.ffn"));
        let shift = |letter: char| loader.vector(&format!("{att}.x_{letter}"));
        Ok(Block {
            heads: Heads { heads: config.heads, head_size: config.head_size },
            group_norm_eps: config.group_norm_eps,
            ln1: loader.norm(&format!("{block}.ln1"))?,
            ln2: loader.norm(&format!("{block}.ln2"))?,
            mix: [shift('r')?, shift('w')?, shift('k')?, shift('v')?, shift('a')?, shift('g')?],
            receptance: loader.matrix(&format!("{att}.receptance.weight"))?,
            key: loader.matrix(&format!("{att}.key.weight"))?,
            value: loader.matrix(&format!("{att}.value.weight"))?,
            output: loader.matrix(&format!("{att}.output.weight"))?,
            decay: Lora::load(loader, &att, 'w')?,
            rate: Lora::load(loader, &att, 'a')?,
            gate: (loader.factor(&format!("{att}.g1"))?, loader.factor(&format!("{att}.g2"))?),
            value_residual: if layer > 0 { Some(Lora::load(loader, &att, 'v')?) } else { None },
            k_k: loader.vector(&format!("{att}.k_k"))?,
            k_a: loader.vector(&format!("{att}.k_a"))?,
            r_k: loader.vector(&format!("{att}.r_k"))?,
            ln_x_weight: loader.vector(&format!("{att}.ln_x.weight"))?,
            ln_x_bias: loader.vector(&format!("{att}.ln_x.bias"))?,
            ffn_mix: loader.vector(&format!("{ffn}.x_k"))?,
            ffn_key: loader.matrix(&format!("{ffn}.key.weight"))?,
            ffn_value: loader.matrix(&format!("{ffn}.value.weight"))?,
        })
    }

    fn time_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        let (rows, len) = (pass.rows, x.len());
        let rank = |lora: &Lora| rows * lora.down.rows();
        let value_rank = self.value_residual.as_ref().map_or(0, rank);
        let [normed, xr, xw, xk, xv, xa, xg, r, w, k, v, a, g, vr, b, y, wd, ad, gd, vd] = arena.cut([
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            len,
            rank(&self.decay),
            rank(&self.rate),
            rows * self.gate.0.rows(),
            value_rank,
        ]);

        pass.norm(&self.ln1, x, normed);
        let shifted = pass.shifted(normed, ATT_SHIFT);
        for_rows(pass.pool, rows, [&mut *xr, xw, xk, xv, xa, xg], |row, outs| {
            let (x, previous) = shifted.row(row);
            for (out, mix) in outs.into_iter().zip(&self.mix) {
                lerp(x, previous, mix, out);
            }
        });
        drop(shifted);
        pass.remember(normed, ATT_SHIFT);

        let store = Epilogue::Store;
        let mut first: Products<'_> = smallvec![
            Product { w: &self.receptance, x: xr, y: r, then: store },
            Product { w: &self.key, x: xk, y: k, then: store },
            Product { w: &self.value, x: xv, y: v, then: store },
            Product { w: &self.decay.down, x: xw, y: wd, then: Epilogue::Tanh },
            Product { w: &self.rate.down, x: xa, y: ad, then: store },
            Product { w: &self.gate.0, x: xg, y: gd, then: Epilogue::Sigmoid },
        ];
        if let Some(lora) = &self.value_residual {
            first.push(Product { w: &lora.down, x: xv, y: vd, then: store });
        }
        products(pass.pool, &mut first);
        drop(first);
        let mut second: Products<'_> = smallvec![
            Product { w: &self.decay.up, x: wd, y: w, then: store },
            Product { w: &self.rate.up, x: ad, y: a, then: store },
            Product { w: &self.gate.1, x: gd, y: g, then: store },
        ];
        if let Some(lora) = &self.value_residual {
            second.push(Product { w: &lora.up, x: vd, y: vr, then: store });
        }
        products(pass.pool, &mut second);
        drop(second);

        match &self.value_residual {
            None => {
                pass.v_first.clear();
                pass.v_first.extend_from_slice(v);
            }
            Some(lora) => {
                let v_first = pass.v_first.as_slice();
                for_rows(pass.pool, rows, [&mut *v, vr], |row, [v, share]| {
                    let first = &v_first[row * v.len()..];
                    add(share, &lora.base);
                    sigmoid(share);
                    for ((v, first), share) in v.iter_mut().zip(first).zip(share) {
                        *v += (first - *v) * *share;
                    }
                });
            }
        }
        for_rows(pass.pool, rows, [&mut *w, a, k, b], |_, [w, a, k, b]| self.prepare(w, a, k, b));
        let inputs = wkv7::Inputs { r, decay: w, k, v, a, b };
        wkv7::scan(pass.pool, self.heads, pass.cu_seqlens, &inputs, &mut pass.slots(WKV), y);

        let n = self.heads.head_size;
        for_rows(pass.pool, rows, [&mut *y], |row, [y]| {
            group_norm(y, self.heads.heads, &self.ln_x_weight, &self.ln_x_bias, self.group_norm_eps);
            let at = row * y.len()..(row + 1) * y.len();
            let (r, k, v, g) = (&r[at.clone()], &k[at.clone()], &v[at.clone()], &g[at]);
            for (head, y) in y.chunks_exact_mut(n).enumerate() {
                let head = head * n..(head + 1) * n;
                let (r, k, r_k) = (&r[head.clone()], &k[head.clone()], &self.r_k[head.clone()]);
                let bonus: f32 = r.iter().zip(k).zip(r_k).map(|((r, k), r_k)| r * k * r_k).sum();
                for ((y, v), g) in y.iter_mut().zip(&v[head.clone()]).zip(&g[head]) {
                    *y = (*y + bonus * v) * g;
                }
            }
        });
        products(pass.pool, &mut [Product { w: &self.output, x: y, y: x, then: Epilogue::Add }]);
    }

    fn channel_mix(&self, pass: &mut Pass<'_, '_>, arena: &mut Arena, x: &mut [f32]) {
        let [normed, xk, k] = arena.cut([x.len(), x.len(), pass.rows * self.ffn_key.rows()]);
        pass.norm(&self.ln2, x, normed);
        let shifted = pass.shifted(normed, FFN_SHIFT);
        for_rows(pass.pool, pass.rows, [&mut *xk], |row, [out]| {
            let (x, previous) = shifted.row(row);
            lerp(x, previous, &self.ffn_mix, out);
        });
        drop(shifted);
        pass.remember(normed, FFN_SHIFT);
        products(pass.pool, &mut [Product { w: &self.ffn_key, x: xk, y: k, then: Epilogue::Relu2 }]);
        products(pass.pool, &mut [Product { w: &self.ffn_value, x: k, y: x, then: Epilogue::Add }]);
    }
}

impl Block {
    /// From the LoRAs' outputs and the plain key of one token to the operands of the recurrence, all `[C]`:
    /// `w` becomes the decay, `k` the key, `a` the removal key `-kk` and `b` the replacement key `kk * rate`.
    fn prepare(&self, w: &mut [f32], a: &mut [f32], k: &mut [f32], b: &mut [f32]) {
        add(w, &self.decay.base);
        sigmoid(w);
        w.iter_mut().for_each(|w| *w *= -DECAY_SCALE);
        exp(w);
        add(a, &self.rate.base);
        sigmoid(a);
        for ((b, k), k_k) in b.iter_mut().zip(k.iter()).zip(&self.k_k) {
            *b = k * k_k;
        }
        l2_normalize(b, self.heads.heads);
        for (((k, rate), kk), k_a) in k.iter_mut().zip(a).zip(b).zip(&self.k_a) {
            *k *= 1.0 + (*rate - 1.0) * k_a;
            let removal = *kk;
            *kk = removal * *rate;
            *rate = -removal;
        }
    }
}

fn add(x: &mut [f32], base: &[f32]) {
    for (x, base) in x.iter_mut().zip(base) {
        *x += base;
    }
}
