//! A file's bytes, read where they are touched: the only unsafe code of this crate.
#![expect(
    unsafe_code,
    reason = "a file can be mapped no other way; what must hold is said at the call"
)]

use std::io;
use std::path::Path;

use memmap2::Mmap;

/// Maps a file into memory. An empty file gives no bytes.
///
/// # Errors
/// If it cannot be opened, or is no file, such as a folder.
pub(crate) fn map(path: &Path) -> io::Result<Mmap> {
    let file = vit_files::open_file(path)?;
    // SAFETY: a mapping is sound as long as nobody changes or cuts the file while it is there. This program never
    // does: it writes a file beside the old one and renames it, so that a mapping keeps the old file, whole. Another
    // program may. What it overwrites, we would see half old and half new: the header is parsed and copied once, its
    // offsets lie within the length that was mapped, and all else is numbers, of which any bits are valid; each is
    // read once, into a copy, so that nothing is decided by one reading and done by another. Where it cuts the file,
    // the system ends this process at the first byte that is gone (SIGBUS), rather than give it another's.
    unsafe { Mmap::map(&file) }
}
