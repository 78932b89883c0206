//! A matrix with a low-rank update beside it.

use anser_nn::gradients::values;
use anser_nn::layer::{Linear, Lora};
use anser_nn::op::linear::linear_composite;
use anser_nn::op::seed::seed;
use anser_testkit::{Rng, assert_close, max_abs};
use burn::module::Param;
use burn::tensor::{Tensor, TensorData};

const SCALE: f32 = 0.5;

#[test]
fn an_update_is_its_product_added_to_the_matrix() {
    let device = anser_nn::cpu();
    let mut rng = Rng(7);
    let mut draw = |rows: usize, cols: usize| -> Tensor<2> {
        Tensor::from_data(TensorData::new(rng.vec(rows * cols, 1.0), [rows, cols]), &device)
    };
    let (x, g, residual) = (draw(9, 16).require_grad(), draw(9, 12), draw(9, 12));
    let (weight, down, up) = (draw(12, 16), draw(3, 16), draw(12, 3));
    let linear = Linear {
        weight: Param::from_tensor(weight.clone()),
        lora: Some(Lora { down: Param::from_tensor(down.clone()), up: Param::from_tensor(up.clone()), scale: SCALE }),
    };
    let y = linear.forward(&x);
    let mut graph = seed(&y, &g).backward();

    let (plain_down, plain_up) = (down.require_grad(), up.require_grad());
    let plain_x = x.clone().detach().require_grad();
    let merged = weight + plain_up.clone().matmul(plain_down.clone()).mul_scalar(SCALE);
    let expected = linear_composite(&plain_x, &merged);
    let mut plain = (expected.clone() * g.clone()).sum().backward();

    let same = |what: &str, got: Tensor<2>, want: Tensor<2>| {
        let want = values(want);
        assert_close(what, &values(got), &want, 1e-5 * max_abs(&want));
    };
    same("result", y, expected.clone());
    same("matrix", linear.matrix(), merged);
    same("added", linear.forward_add(&x, &residual), expected + residual);
    let lora = linear.lora.as_ref().unwrap();
    same("x", x.grad_remove(&mut graph).unwrap(), plain_x.grad_remove(&mut plain).unwrap());
    same("down", lora.down.val().grad_remove(&mut graph).unwrap(), plain_down.grad_remove(&mut plain).unwrap());
    same("up", lora.up.val().grad_remove(&mut graph).unwrap(), plain_up.grad_remove(&mut plain).unwrap());
}
