#![doc = include_str!("../README.md")]

mod activation;
mod adam;
mod add;
mod add_each;
mod attention;
mod backward;
mod buffer;
mod cross_entropy;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dropout;
mod exp;
mod first_tokens;
mod lanes;
mod layer_norm;
mod linear;
mod linear_activation;
mod linear_dropout;
mod many;
mod matmul;
mod matrix;
mod mean_tokens;
mod mode;
mod normal;
mod parallel;
mod patchify;
mod pieces;
mod precision;
mod residual;
mod rotary;
mod scale_features;
mod simd;
mod slices;
mod soft_cross_entropy;
mod softmax;
#[cfg(test)]
mod testing;
mod token_mask;

pub use activation::Activation;
pub use adam::{AdamStep, adam_step};
pub use add::add;
pub use add_each::add_each;
pub use attention::{Attend, Queries, attention_weights, cross_attention, self_attention};
pub use backward::backward;
pub use buffer::free_memory;
pub use cross_entropy::{cross_entropy_sum, smoothed_cross_entropy_sum};
pub use dropout::{DropRate, DropoutSource, dropout, dropout_mask};
pub use first_tokens::first_tokens;
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use linear_activation::linear_activation;
pub use linear_dropout::linear_dropout;
pub use mean_tokens::mean_tokens;
pub use mode::Mode;
pub use parallel::{serial, set_threads, share_pool};
pub use patchify::patchify;
pub use pieces::backward_in_pieces;
pub use residual::{
    Affine, AttentionBranch, BranchEnd, FeedForwardBranch, Norm, Stage, residual_stages,
};
pub use rotary::{Rotary, rotary};
pub use scale_features::scale_features;
pub use simd::{check_instruction_set, instruction_set};
pub use soft_cross_entropy::soft_cross_entropy_sum;
pub use softmax::softmax;
pub use token_mask::TokenMask;

/// The composed forms, from candle's differentiable tensor operations: for any device and dtype, and the oracle for the
/// fused forms.
pub mod composed {
    pub use crate::activation::composed::{gelu, relu};
    pub use crate::add_each::composed::add_each;
    pub use crate::attention::composed::{cross_attention, self_attention};
    pub use crate::cross_entropy::composed::{cross_entropy_sum, smoothed_cross_entropy_sum};
    pub use crate::dropout::composed::dropout;
    pub use crate::layer_norm::composed::layer_norm;
    pub use crate::linear::composed::linear;
    pub use crate::linear_activation::composed::linear_activation;
    pub use crate::mean_tokens::composed::mean_tokens;
    pub use crate::patchify::composed::patchify;
    pub use crate::residual::composed::residual_stages;
    pub use crate::rotary::composed::rotary;
    pub use crate::scale_features::composed::scale_features;
    pub use crate::soft_cross_entropy::composed::soft_cross_entropy_sum;
    pub use crate::softmax::composed::softmax;
}
