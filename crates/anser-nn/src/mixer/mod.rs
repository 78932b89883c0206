//! Time mixes and channel mixes, one file a version: parameters and how they meet in a forward pass.

pub mod attention;
pub mod rwkv4;
pub mod rwkv5;
pub mod rwkv6;
pub mod rwkv7;

use std::sync::Arc;

use burn::tensor::Tensor;

/// What a block reads and writes besides its states.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The residual stream, [T, C].
    pub x: Tensor<2>,
    /// The values of layer 0, [T, C], which the layers above lean towards (RWKV-7); none before layer 0.
    pub v_first: Option<Tensor<2>>,
    /// Borders of the sequences.
    pub cu_seqlens: Arc<[usize]>,
}

/// What a block remembers of each of S sequences.
#[derive(Clone, Debug)]
pub struct BlockState {
    /// The last normalised input of the time mix, [S, C].
    pub att_shift: Tensor<2>,
    /// The recurrence's state: [S, H, key, value], for RWKV-4 [S, 1, 3, C] with rows aa, bb, pp.
    pub wkv: Tensor<4>,
    /// The last normalised input of the channel mix, [S, C].
    pub ffn_shift: Tensor<2>,
}
