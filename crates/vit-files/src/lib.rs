#![doc = include_str!("../README.md")]

mod atomic;
mod digest;
mod error;
mod lock;

pub use atomic::{write_atomically, write_atomically_with};
pub use digest::{Digest, Hasher};
pub use error::Error;
pub use lock::FileLock;
