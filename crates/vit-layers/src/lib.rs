//! Transformer encoder layers for candle that train right.
