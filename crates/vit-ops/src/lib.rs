//! Differentiable operations for candle whose gradients are PyTorch's.
//!
//! candle-nn's own layer norm, softmax over the last dimension and scaled dot-product attention cut the
//! gradient, and its dropout cannot be seeded. The operations here train. Each has two forms with the
//! same meaning: a *composed* one out of candle's differentiable tensor operations, for every device and
//! dtype, and a *fused* one on slices, forward and backward, for `f32` on the CPU. The public function
//! picks; the composed form is the oracle of the fused one's tests and lives in [`composed`].
//!
//! | operation | equation |
//! |---|---|
//! | [`add_each`] | `y_n = x_n + t` for each sample `n` |
//! | [`linear`] | `y = x Wᵀ + b` |
//! | [`layer_norm`] | `y = (x - E[x]) / sqrt(Var[x] + eps) * w + b` |
//! | [`softmax`] | `y_i = exp(x_i) / sum_j exp(x_j)`, over the last dimension |
//! | [`self_attention`] | `softmax(scale Q Kᵀ) V` for each head |
//! | [`activation`](Activation) | ReLU, or GELU by the error function |
//! | [`dropout`] | `y = x m / (1 - rate)`, `m` drawn by [`vit_random`] |
//! | [`cross_entropy_sum`] | `sum_n (logsumexp(x_n) - x_n[label_n])` |

mod activation;
mod add_each;
mod attention;
mod cross_entropy;
mod dropout;
mod exp;
mod layer_norm;
mod linear;
mod matmul;
mod mode;
mod simd;
mod slices;
mod softmax;
#[cfg(test)]
mod testing;

pub use activation::Activation;
pub use add_each::add_each;
pub use attention::{AttentionDropout, self_attention};
pub use cross_entropy::cross_entropy_sum;
pub use dropout::{DropRate, dropout, dropout_mask};
pub use layer_norm::layer_norm;
pub use linear::linear;
pub use mode::Mode;
pub use softmax::softmax;

/// The operations out of candle's own differentiable tensor operations: for any device and dtype, and the
/// oracle for the fused forms.
pub mod composed {
    pub use crate::activation::composed::{gelu, relu};
    pub use crate::add_each::composed::add_each;
    pub use crate::attention::composed::self_attention;
    pub use crate::cross_entropy::composed::cross_entropy_sum;
    pub use crate::dropout::composed::dropout;
    pub use crate::layer_norm::composed::layer_norm;
    pub use crate::linear::composed::linear;
    pub use crate::softmax::composed::softmax;
}
