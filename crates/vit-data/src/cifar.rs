//! CIFAR-10 and CIFAR-100 in their binary form: a label or two and 3072 bytes of colour a picture.

use std::path::{Path, PathBuf};

use vit_files::{open_file, text_of_at_most};

use crate::dataset::Dataset;
use crate::error::{Error, Result};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
/// Many times the longest list of names.
const LONGEST_NAMES: u64 = 1 << 14;

/// What the files of one of the two are.
struct Form {
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    classes: usize,
    /// Bytes before the pixels, of which the last is the label.
    labels: usize,
    /// Pictures in a file.
    pictures: [usize; 2],
}

const CIFAR_10: Form = Form {
    train: &[
        "data_batch_1.bin",
        "data_batch_2.bin",
        "data_batch_3.bin",
        "data_batch_4.bin",
        "data_batch_5.bin",
    ],
    test: "test_batch.bin",
    names: "batches.meta.txt",
    classes: 10,
    labels: 1,
    pictures: [10_000, 10_000],
};
const CIFAR_100: Form = Form {
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
    classes: 100,
    labels: 2,
    pictures: [50_000, 10_000],
};

/// Whether a folder is what the binary archive of CIFAR-10 or CIFAR-100 unpacks to.
#[must_use]
pub fn holds_cifar(folder: &Path) -> bool {
    form_of(folder).is_some()
}

fn form_of(folder: &Path) -> Option<&'static Form> {
    [&CIFAR_10, &CIFAR_100].into_iter().find(|form| folder.join(form.names).is_file())
}

/// Reads what the binary archive of CIFAR-10 or CIFAR-100 unpacks to; the classes of the latter are its hundred fine ones.
///
/// # Errors
/// If a file is missing or of another length, a label is no class, or there are not as many names as classes.
pub fn load_cifar(folder: &Path) -> Result<Dataset> {
    let Some(form) = form_of(folder) else {
        let (file, looked_in) = (CIFAR_10.names, vec![folder.to_owned()]);
        return Err(Error::Absent { file, looked_in, found: Vec::new() });
    };
    let path = folder.join(form.names);
    let unreadable = |source| Error::Unreadable { path: path.clone(), source };
    let text = open_file(&path).and_then(|file| text_of_at_most(LONGEST_NAMES, file));
    let text = text.map_err(unreadable)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let names: Vec<String> = lines.map(str::to_owned).collect();
    if names.len() != form.classes {
        let expected = "a name for each class, a line each";
        return Err(Error::Kind { path, expected, got: format!("{} lines", names.len()) });
    }
    let mut train = (Vec::new(), Vec::new());
    for file in form.train {
        append(&folder.join(file), form, form.pictures[0], &mut train)?;
    }
    let mut test = (Vec::new(), Vec::new());
    append(&folder.join(form.test), form, form.pictures[1], &mut test)?;
    let name = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy();
    Dataset::from_bytes(name, names, [train, test], (3, SIDE, SIDE))
}

/// Appends the pixels and labels of a file, whose length is known.
fn append(
    path: &Path,
    form: &Form,
    pictures: usize,
    (pixels, labels): &mut (Vec<u8>, Vec<u32>),
) -> Result<()> {
    let path = || -> PathBuf { path.to_owned() };
    let unreadable = |source| Error::Unreadable { path: path(), source };
    let file = open_file(&path()).map_err(unreadable)?;
    let (expected, got) =
        ((pictures * (form.labels + PIXELS)) as u64, file.metadata().map_err(unreadable)?.len());
    if got != expected {
        return Err(Error::Truncated { path: path(), expected, got });
    }
    let mut bytes = Vec::with_capacity(expected as usize);
    std::io::Read::read_to_end(&mut std::io::Read::take(file, expected), &mut bytes)
        .map_err(unreadable)?;
    for (index, record) in bytes.chunks_exact(form.labels + PIXELS).enumerate() {
        let (head, image) = record.split_at(form.labels);
        let got = head[form.labels - 1];
        if usize::from(got) >= form.classes {
            return Err(Error::Label { path: path(), classes: form.classes, index, got });
        }
        labels.push(got.into());
        pixels.extend_from_slice(image);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use std::fs;

    fn write(folder: &Path, form: &Form) {
        let names: Vec<String> = (0..form.classes).map(|class| format!("class {class}")).collect();
        fs::write(folder.join(form.names), names.join("\n") + "\n\n").unwrap();
        let record = |index: usize| {
            let mut record = vec![9; form.labels];
            record[form.labels - 1] = (index % form.classes) as u8;
            record.extend((0..PIXELS).map(|at| (at / 1024 * 50 + index % 50) as u8));
            record
        };
        let files = form.train.iter().map(|file| (*file, 0)).chain([(form.test, 1)]);
        for (file, part) in files {
            let bytes: Vec<u8> = (0..form.pictures[part]).flat_map(record).collect();
            fs::write(folder.join(file), bytes).unwrap();
        }
    }

    #[test]
    fn pictures_labels_and_names_are_read() {
        for form in [&CIFAR_10, &CIFAR_100] {
            let folder = tempfile::tempdir().unwrap();
            assert!(!holds_cifar(folder.path()));
            write(folder.path(), form);
            let dataset = load_cifar(folder.path()).unwrap();
            let train = dataset.split(Split::Train);
            assert_eq!((train.len(), dataset.split(Split::Test).len()), (50_000, 10_000));
            assert_eq!((train.shape(), train.label(13)), ((3, 32, 32), 13 % form.classes as u32));
            let image = train.image(7).unwrap();
            assert_eq!([image[0], image[1024], image[2048]], [7, 57, 107]);
            assert_eq!(dataset.class_names()[3], "class 3");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &CIFAR_10);
        let test = folder.path().join(CIFAR_10.test);
        let mut bytes = fs::read(&test).unwrap();
        bytes[3073] = 10;
        fs::write(&test, &bytes).unwrap();
        let message = || load_cifar(folder.path()).unwrap_err().to_string();
        assert!(message().contains("expected labels below 10"), "{}", message());
        fs::write(&test, &bytes[1..]).unwrap();
        assert!(message().contains("expected 30730000 bytes (unpacked), got 30729999"));
        fs::write(folder.path().join(CIFAR_10.names), "cat\n").unwrap();
        assert!(message().ends_with("expected a name for each class, a line each, got 1 lines"));
    }
}
