//! Files of tensors that are no language model.

use anser_checkpoint::{Dtype, Error, Tensor, TensorFile, write_pth, write_safetensors};

fn tensors() -> [Tensor<'static>; 2] {
    [
        Tensor::from_f32("norm.weight", [3], Dtype::F32, &[1.0, -2.5, 4.0]),
        Tensor::from_f32("conv.weight", [2, 2, 1], Dtype::Bf16, &[0.5, 1.5, -3.0, 0.25]),
    ]
}

#[test]
fn names_shapes_and_values_as_they_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("any.safetensors");
    write_safetensors(&place, &tensors(), &[("note".into(), "of our own".into())]).unwrap();
    let file = TensorFile::open(&place).unwrap();
    assert_eq!(file.metadata("note"), Some("of our own"));
    assert_eq!(file.metadata("other"), None);
    let mut names: Vec<&str> = file.names().collect();
    names.sort_unstable();
    assert_eq!(names, ["conv.weight", "norm.weight"]);
    assert_eq!(file.shape("conv.weight"), Some(&[2, 2, 1][..]));
    // Axes of length 1 are nobody's business.
    assert_eq!(file.f32("conv.weight", &[2, 2]).unwrap(), [0.5, 1.5, -3.0, 0.25]);
    assert_eq!(file.f32("norm.weight", &[3]).unwrap(), [1.0, -2.5, 4.0]);

    let place = folder.path().join("any.pth");
    write_pth(&place, &tensors()).unwrap();
    let file = TensorFile::open(&place).unwrap();
    assert_eq!(file.f32("conv.weight", &[2, 2]).unwrap(), [0.5, 1.5, -3.0, 0.25]);
    assert_eq!(file.metadata("note"), None);
}

#[test]
fn what_is_missing_or_of_another_shape_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("any.safetensors");
    write_safetensors(&place, &tensors(), &[]).unwrap();
    let file = TensorFile::open(&place).unwrap();
    let absent = file.f32("norm.bias", &[3]).unwrap_err();
    assert!(matches!(&absent, Error::Absent { tensor, .. } if tensor == "norm.bias"), "{absent}");
    assert!(absent.hint().is_some());
    let shape = file.f32("conv.weight", &[4]).unwrap_err();
    assert!(matches!(&shape, Error::Shape { found, .. } if found == &[2, 2, 1]), "{shape}");
}
