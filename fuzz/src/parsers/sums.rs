//! The file `SHA256SUMS` of a folder.

use vit_files::{Digest, SUMS, check_folder};

use super::scratch::Scratch;

thread_local! {
    static FOLDER: Scratch = {
        let folder = Scratch::new();
        FILES.iter().for_each(|(name, bytes)| folder.write(name, bytes));
        folder
    };
}

const FILES: [(&str, &[u8]); 2] = [("a", b"first"), ("b", b"second")];

/// Property: only one text matches the folder.
pub(super) fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        folder.write(SUMS, bytes);
        let lines = FILES.map(|(name, bytes)| format!("{}  {name}\n", Digest::of_bytes(bytes)));
        let taken = check_folder(folder.path(), &["a", "b"], 1 << 10).is_ok();
        assert_eq!(taken, bytes == lines.concat().as_bytes());
        taken
    })
}
