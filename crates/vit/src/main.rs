//! The `vit` command.

fn main() {}
