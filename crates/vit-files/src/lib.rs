#![doc = include_str!("../README.md")]

mod atomic;
mod digest;
mod error;
mod folder;
mod home;
mod lock;
mod open;
mod read;
mod safetensors_header;
mod sums;
mod system;
mod target;
mod temporary;

pub use atomic::{create_atomically, write_atomically, write_atomically_with};
pub use digest::{Digest, Hasher};
pub use error::Error;
pub use folder::{check_folder, create_folder_atomically, write_folder_atomically};
pub use home::expand_home;
pub use lock::FileLock;
pub use open::{open_file, open_own_file};
pub use read::{lines_of_at_most, text_of_at_most};
pub use safetensors_header::read_safetensors_header;
pub use sums::SUMS;
pub use system::sync_folder;
pub use target::{FileId, Target, write_through};
pub use temporary::{is_temporary, remove_temporaries};
