//! Golden files and comparisons shared by the tests of the workspace.
//!
//! A golden file is a safetensors file under `golden/` that a reference implementation computed. Missing files and
//! missing tensors are failures, never skips.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

/// The `golden/` folder of the repository.
pub fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden")
}

/// One golden file, read whole, every floating tensor widened to f32 and every integer tensor to i64.
pub struct Golden {
    name: String,
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    integers: BTreeMap<String, (Vec<usize>, Vec<i64>)>,
    metadata: BTreeMap<String, String>,
}

impl Golden {
    /// Opens `golden/<name>.safetensors`.
    pub fn open(name: &str) -> Golden {
        let path = golden_dir().join(format!("{name}.safetensors"));
        let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("golden file {}: {e}", path.display()));
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let metadata =
            header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>();
        let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let (mut floats, mut integers) = (BTreeMap::new(), BTreeMap::new());
        for (tensor, view) in file.tensors() {
            let (shape, data) = (view.shape().to_vec(), view.data());
            match view.dtype() {
                Dtype::F32 => {
                    let values = data.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
                    floats.insert(tensor, (shape, values));
                }
                Dtype::F64 => {
                    let values = data.chunks_exact(8).map(|b| f64::from_le_bytes(to8(b)) as f32).collect();
                    floats.insert(tensor, (shape, values));
                }
                Dtype::BF16 => {
                    let values =
                        data.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
                    floats.insert(tensor, (shape, values));
                }
                Dtype::F16 => {
                    let values =
                        data.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
                    floats.insert(tensor, (shape, values));
                }
                Dtype::I64 => {
                    let values = data.chunks_exact(8).map(|b| i64::from_le_bytes(to8(b))).collect();
                    integers.insert(tensor, (shape, values));
                }
                Dtype::I32 => {
                    let values =
                        data.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as i64).collect();
                    integers.insert(tensor, (shape, values));
                }
                other => panic!("{}: tensor {tensor} has dtype {other:?}", path.display()),
            }
        }
        Golden { name: name.to_string(), floats, integers, metadata }
    }

    /// A floating tensor's values, row-major.
    pub fn f32(&self, tensor: &str) -> &[f32] {
        &self.floats.get(tensor).unwrap_or_else(|| panic!("{}: no float tensor {tensor}", self.name)).1
    }

    /// A floating tensor's values as f64.
    pub fn f64(&self, tensor: &str) -> Vec<f64> {
        self.f32(tensor).iter().map(|&x| x as f64).collect()
    }

    /// A floating tensor's shape.
    pub fn shape(&self, tensor: &str) -> &[usize] {
        &self.floats.get(tensor).unwrap_or_else(|| panic!("{}: no float tensor {tensor}", self.name)).0
    }

    /// An integer tensor's values as token ids.
    pub fn tokens(&self, tensor: &str) -> Vec<u32> {
        let (_, values) =
            self.integers.get(tensor).unwrap_or_else(|| panic!("{}: no integer tensor {tensor}", self.name));
        values.iter().map(|&x| u32::try_from(x).expect("token ids are small and non-negative")).collect()
    }

    /// Names of the floating tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.floats.keys().map(String::as_str)
    }

    /// An entry of the file's metadata.
    pub fn metadata(&self, key: &str) -> &str {
        self.metadata.get(key).unwrap_or_else(|| panic!("{}: no metadata {key}", self.name))
    }
}

fn to8(bytes: &[u8]) -> [u8; 8] {
    let mut out = [0; 8];
    out.copy_from_slice(bytes);
    out
}

/// Fails unless `|got - want| <= tolerance` everywhere; prints the worst element and the relative L2 distance.
#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: {} values, expected {}", got.len(), want.len());
    let (mut worst, mut at, mut diff2, mut want2) = (0.0f32, 0, 0.0f64, 0.0f64);
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let d = (g - w).abs();
        if d > worst || d.is_nan() {
            (worst, at) = (d, i);
        }
        diff2 += ((g - w) as f64).powi(2);
        want2 += (w as f64).powi(2);
    }
    assert!(
        worst <= tolerance,
        "{what}: worst |difference| {worst:e} at {at} (got {}, want {}), tolerance {tolerance:e}, relative L2 {:e}",
        got[at],
        want[at],
        (diff2 / want2.max(1e-300)).sqrt(),
    );
}

/// The largest absolute value.
pub fn max_abs(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, &x| m.max(x.abs()))
}

/// A small deterministic generator (SplitMix64) for random weights in tests.
pub struct Rng(pub u64);

impl Rng {
    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Uniform in 0..n.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// `n` values uniform in [-scale, scale).
    pub fn vec(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.uniform() * scale).collect()
    }
}

/// Writes the weights of `golden/<name>.safetensors` alone, without its inputs and results, as a checkpoint of the
/// format's plain form.
pub fn write_weights(name: &str, to: &Path) {
    let path = golden_dir().join(format!("{name}.safetensors"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("golden file {}: {e}", path.display()));
    let file = SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let not_weights = ["in.", "out.", "state.", "mid.", "grad.", "grad_no_l2wrap."];
    let weights = file.tensors().into_iter().filter(|(tensor, _)| !not_weights.iter().any(|p| tensor.starts_with(p)));
    safetensors::serialize_to_file(weights, None, to).unwrap_or_else(|e| panic!("{}: {e}", to.display()));
}
