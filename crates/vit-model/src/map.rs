//! Maps a file into memory: the only unsafe code of this crate.
#![expect(unsafe_code, reason = "mapping a file is unsafe; the conditions are stated at the call")]

use std::io;
use std::path::Path;

use memmap2::Mmap;

/// Maps a file into memory. An empty file gives an empty map.
///
/// # Errors
/// If it cannot be opened, or is not a file.
pub(crate) fn map(path: &Path) -> io::Result<Mmap> {
    let file = vit_files::open_file(path)?;
    // SAFETY: a mapping is sound as long as the file is neither changed nor truncated. This program does neither: it
    // writes a new file and renames it, so a mapping keeps the old file. Another program may. If it overwrites bytes,
    // we see a mix of old and new: the header is parsed and copied once, its offsets are within the mapped length, and
    // the rest is numbers, for which any bits are valid. Each is read once, into a copy, so no decision relies on one
    // reading and an action on another. If it truncates the file, the system kills this process at the first missing
    // byte (SIGBUS).
    unsafe { Mmap::map(&file) }
}
