//! Folders of IDX files with one file replaced. The first byte says which one, and whether it is gzipped.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use vit_data::{IdxFile, load_dir};

use super::scratch::Scratch;

thread_local! {
    static FOLDER: Scratch = {
        let folder = Scratch::new();
        IdxFile::ALL.into_iter().for_each(|file| folder.write(file.name(), right(file)));
        folder
    };
}

/// One image of 2x3 px, and its label.
const IMAGES: [u8; 22] = [0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 10, 20, 30, 40, 50, 60];
const LABELS: [u8; 9] = [0, 0, 8, 1, 0, 0, 0, 1, 7];

const fn right(file: IdxFile) -> &'static [u8] {
    match file {
        IdxFile::TrainImages | IdxFile::TestImages => &IMAGES,
        IdxFile::TrainLabels | IdxFile::TestLabels => &LABELS,
    }
}

/// Property: an accepted dataset is written back to the same bytes.
pub(super) fn read(bytes: &[u8]) -> bool {
    let Some((&which, bytes)) = bytes.split_first() else { return false };
    let file = IdxFile::ALL[usize::from(which % 4)];
    let gzipped = which & 4 != 0;
    FOLDER.with(|folder| {
        let packed = format!("{}.gz", file.name());
        if gzipped {
            folder.remove(file.name());
            folder.write(&packed, bytes);
        } else {
            folder.write(file.name(), bytes);
        }
        let dataset = load_dir(folder.path());
        if gzipped {
            folder.remove(&packed);
        }
        folder.write(file.name(), right(file));
        let Ok(dataset) = dataset else { return false };
        let mut again = Vec::new();
        dataset.write_idx(file, &mut again).expect("memory takes every byte");
        let mut unpacked = Vec::new();
        if gzipped {
            let mut decoder = MultiGzDecoder::new(bytes);
            decoder.read_to_end(&mut unpacked).expect("it was unpacked before");
        } else {
            unpacked.extend(bytes);
        }
        assert!(again == unpacked, "{}: other bytes are written than were read", file.name());
        true
    })
}
