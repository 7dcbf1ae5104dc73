#![doc = include_str!("../README.md")]

mod atomic;
mod digest;
mod error;
mod folder;
mod lock;
mod read;
mod sums;
mod system;

pub use atomic::{write_atomically, write_atomically_with};
pub use digest::{Digest, Hasher};
pub use error::Error;
pub use folder::{check_folder, create_folder_atomically, write_folder_atomically};
pub use lock::FileLock;
pub use read::{lines_of_at_most, open_file, text_of_at_most};
pub use sums::SUMS;
pub use system::sync_folder;
