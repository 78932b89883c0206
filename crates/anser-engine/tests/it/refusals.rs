//! What does not fit is refused with a clear message, before any state is touched.

use std::sync::Arc;

use anser_checkpoint::{Dtype, Tensor};
use anser_engine::{
    Batch, Config, Error, Executor, LoadOptions, Logits, Model, Recipe, Source, State, Synthetic, Version, load,
};

/// A synthetic model with one value replaced.
struct Damaged {
    model: Synthetic,
    tensor: &'static str,
    at: usize,
    value: f32,
}

impl Source for Damaged {
    fn path(&self) -> &std::path::Path {
        std::path::Path::new("damaged.pth")
    }
    fn config(&self) -> &Config {
        Source::config(&self.model)
    }
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn has(&self, name: &str) -> bool {
        self.model.has(name)
    }
    fn tensor(&self, name: &str) -> Result<Tensor<'_>, anser_checkpoint::Error> {
        let tensor = self.model.tensor(name)?;
        if name != self.tensor {
            return Ok(tensor);
        }
        let mut values = tensor.to_f32();
        values[self.at] = self.value;
        let data = values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into();
        Ok(Tensor { data, dtype: Dtype::F32, ..tensor })
    }
}

fn damaged(tensor: &'static str, at: usize, value: f32) -> Arc<Damaged> {
    Arc::new(Damaged { model: Synthetic::tiny(Version::V7, 3), tensor, at, value })
}

fn forward(model: &dyn Model, exec: &mut Executor, tokens: &[u32], borders: &[usize], logits: Logits<'_>) -> String {
    let mut state = model.new_state();
    let before = state.values().to_vec();
    let batch = Batch { tokens, cu_seqlens: borders, logits };
    let error = model.forward(exec, &batch, &mut [&mut state], &mut Vec::new()).unwrap_err();
    assert_eq!(state.values(), before, "a refused batch must not touch the state");
    error.to_string()
}

#[test]
fn batches_that_do_not_fit() {
    let mut exec = Executor::new(1);
    let model = load(Arc::new(Synthetic::tiny(Version::V7, 1)), &exec, &LoadOptions::default()).unwrap();
    let cases: [(&[u32], &[usize], Logits<'_>, &str); 7] = [
        (
            &[1, 64],
            &[0, 2],
            Logits::Last,
            "token 64 at position 1 is outside the model's vocabulary of 64: is this the model's tokenizer?",
        ),
        (
            &[1, 2],
            &[0, 1],
            Logits::Last,
            "ragged batch: last border (the number of tokens; the first is 0): expected 2, found 1",
        ),
        (
            &[1, 2],
            &[1, 2],
            Logits::Last,
            "ragged batch: last border (the number of tokens; the first is 0): expected 2, found 2",
        ),
        (
            &[1, 2],
            &[0, 1, 2],
            Logits::Last,
            "ragged batch: number of borders (one more than states): expected 2, found 3",
        ),
        (&[], &[], Logits::Last, "ragged batch: number of borders (one more than states): expected 2, found 0"),
        (
            &[1, 2],
            &[0, 2],
            Logits::Rows(&[1, 1]),
            "ragged batch: rows that want logits must ascend: the least row that fits: expected 2, found 1",
        ),
        (
            &[1, 2],
            &[0, 2],
            Logits::Rows(&[2]),
            "ragged batch: a row that wants logits lies behind the last one: expected 2, found 2",
        ),
    ];
    for (tokens, borders, logits, message) in cases {
        assert_eq!(forward(&*model, &mut exec, tokens, borders, logits), message);
    }
}

#[test]
fn a_state_of_another_model() {
    let mut exec = Executor::new(1);
    let one = load(Arc::new(Synthetic::tiny(Version::V7, 1)), &exec, &LoadOptions::default()).unwrap();
    let other = load(Arc::new(Synthetic::tiny(Version::V4, 1)), &exec, &LoadOptions::default()).unwrap();
    let mut state: State = other.new_state();
    let batch = Batch { tokens: &[1], cu_seqlens: &[0, 1], logits: Logits::None };
    let error = one.forward(&mut exec, &batch, &mut [&mut state], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::ForeignState { sequence: 0, .. }), "{error}");
    assert!(one.new_state().restore(&state.to_file("")).is_err());
}

#[test]
fn weights_that_are_not_finite() {
    let exec = Executor::new(2);
    for (tensor, at, value, row) in [
        ("blocks.1.att.key.weight", 40, f32::NAN, 2),
        ("blocks.0.ffn.value.weight", 5, f32::INFINITY, 0),
        ("blocks.0.att.w1", 0, f32::NEG_INFINITY, 0),
        ("blocks.1.att.ln_x.bias", 3, f32::NAN, 0),
        ("ln_out.weight", 2, f32::NAN, 0),
    ] {
        let error = load(damaged(tensor, at, value), &exec, &LoadOptions::default()).err().unwrap();
        let text = error.to_string();
        let start = format!("damaged.pth: tensor {tensor} holds {value} in row {row}: ");
        assert!(text.starts_with(&start), "{text}");
    }
}

#[test]
fn a_row_of_the_embedding_that_is_not_finite() {
    let mut exec = Executor::new(1);
    let model = load(damaged("emb.weight", 16 * 5 + 3, f32::NAN), &exec, &LoadOptions::default()).unwrap();
    let text = forward(&*model, &mut exec, &[1, 5], &[0, 2], Logits::None);
    assert!(text.starts_with("damaged.pth: tensor emb.weight holds NaN in row 5"), "{text}");
}

#[test]
fn weights_beyond_f16() {
    let exec = Executor::new(1);
    let source = damaged("head.weight", 0, 70000.0);
    let error = load(source.clone(), &exec, &Recipe::F16.into()).err().unwrap();
    assert_eq!(
        error.to_string(),
        "damaged.pth: tensor head.weight holds 70000 in row 0, beyond the range of f16: use bf16 or f32"
    );
    assert!(load(source, &exec, &Recipe::BF16.into()).is_ok());
}

#[test]
fn check_numerics_names_the_first_layer() {
    // A finite weight that overflows in layer 1's channel mix: relu(k)^2 of 1e30 is infinite.
    let mut exec = Executor::new(1);
    let model = load(damaged("blocks.1.ffn.x_k", 0, 3e38), &exec, &LoadOptions::default()).unwrap();
    exec.check_numerics = true;
    let mut state = model.new_state();
    let batch = Batch { tokens: &[1, 2, 3], cu_seqlens: &[0, 3], logits: Logits::Last };
    let error = model.forward(&mut exec, &batch, &mut [&mut state], &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::NonFinite { layer: 1, point: "channel mix", .. }), "{error}");
}
