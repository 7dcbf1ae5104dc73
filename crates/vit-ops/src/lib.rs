//! Differentiable operations for candle whose gradients are PyTorch's.
