#![doc = include_str!("../README.md")]

mod adamw;
mod attention;
mod attention_weights;
mod config;
mod cross_attention;
mod drop_path;
mod dropout;
mod encoder;
mod encoder_block;
mod error;
mod feed_forward;
mod layer_norm;
mod layer_path;
mod layer_scale;
mod linear;
mod parameters;
mod pass;
mod qk_norm;

pub use adamw::AdamW;
pub use attention::Attention;
pub use attention_weights::AttentionWeights;
pub use config::{
    AttentionConfig, DropoutRates, EncoderConfig, FeedForwardConfig, NormPlacement, ScoreScale,
};
pub use cross_attention::CrossAttention;
pub use drop_path::DropPath;
pub use dropout::Dropout;
pub use encoder::Encoder;
pub use encoder_block::EncoderBlock;
pub use error::ConfigError;
pub use feed_forward::FeedForward;
pub use layer_norm::LayerNorm;
pub use layer_scale::LayerScale;
pub use linear::{Bias, Linear};
pub use parameters::Parameters;
pub use pass::{IntoPass, Pass};
pub use vit_ops::{
    Activation, Mode, TokenMask, cross_entropy_sum, free_memory, serial, set_threads, share_pool,
    softmax,
};
pub use vit_random::{Random, Site, Stream};
