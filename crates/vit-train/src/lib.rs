//! Training for candle: optimisers, the sharded loop, metrics, run folders.
