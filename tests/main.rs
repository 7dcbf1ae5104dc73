//! Tests of the whole system: agreement with PyTorch, and the `vit` binary as a user meets it.

mod agreement;
