//! Images to tokens: patch embedding and position embeddings for candle.
