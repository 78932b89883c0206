//! Loss, logits and every gradient of the official trainers.

use anser_checkpoint::Checkpoint;
use anser_nn::gradients::values;
use anser_nn::model::LanguageModel;
use anser_nn::op::cross_entropy::Targets;
use anser_nn::task::language::{Packed, Plan, gradients};
use anser_testkit::{Golden, assert_close, max_abs, write_weights};
use burn::tensor::Device;

/// The model of a golden file.
pub(crate) fn model(name: &str) -> LanguageModel {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    write_weights(name, &path);
    LanguageModel::load(&Checkpoint::open(&path).unwrap(), &Device::flex().autodiff()).unwrap()
}

/// The batch of a golden training file.
fn batch(golden: &Golden, l2_wrap: f32) -> Packed {
    let (tokens, targets) = (golden.tokens("in.tokens"), golden.tokens("in.targets"));
    let rows = tokens.len();
    let targets =
        Targets { tokens: targets.into(), weights: vec![1.0; rows].into(), denominator: rows as f32, l2_wrap };
    Packed { tokens: tokens.into(), cu_seqlens: [0, rows].into(), targets }
}

fn check(name: &str) {
    let golden = Golden::open(name);
    let model = model(name);
    let wrapped = batch(&golden, 1e-4);
    let plain = model.without_graph();
    let mut states = plain.initial_states(1);
    let x = plain.forward(&wrapped.tokens, &wrapped.cu_seqlens, &mut states);
    assert_close("logits", &values(plain.logits(&x)), golden.f32("out.logits"), 3e-5);

    let step = gradients(&model, &wrapped, &Plan::default());
    assert_close("loss", &[step.loss], golden.f32("out.loss"), 1e-5);
    let mut compared = 0;
    for (tensor, gradient) in &step.gradients.tensors {
        if gradient.is_empty() {
            assert!(tensor.starts_with("blocks.0.att.v"), "no gradient for {tensor}");
            continue;
        }
        let want = golden.f32(&format!("grad.{tensor}"));
        assert_close(&format!("gradient of {tensor}"), gradient, want, 1e-4 * max_abs(want) + 1e-6);
        compared += 1;
    }
    assert_eq!(compared, golden.names().filter(|name| name.starts_with("grad.")).count());

    let step = gradients(&model, &batch(&golden, 0.0), &Plan::default());
    for tensor in ["head.weight", "ln_out.weight"] {
        let want = golden.f32(&format!("grad_no_l2wrap.{tensor}"));
        let bound = 1e-4 * max_abs(want) + 1e-6;
        assert_close(&format!("plain gradient of {tensor}"), step.gradients.get(tensor).unwrap(), want, bound);
    }
}

#[test]
fn rwkv7() {
    check("lm/train_v7");
}

#[test]
fn rwkv6() {
    check("lm/train_v6");
}

#[test]
fn rwkv4() {
    check("lm/train_v4");
}

#[test]
fn rwkv5() {
    check("lm/train_v52");
}
