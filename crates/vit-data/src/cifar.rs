//! CIFAR-10 and CIFAR-100 in their binary form: one or two labels, then 3072 bytes of colour for each picture.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use vit_files::{open_file, text_of_at_most};

use crate::dataset::Dataset;
use crate::error::{Error, Result};

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;
/// Far above the longest list of class names.
const LONGEST_NAMES: u64 = 1 << 14;

/// Layout of the files of CIFAR-10 or CIFAR-100.
struct Form {
    /// Folder inside the archive.
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
    classes: usize,
    /// Bytes before the pixels; the last one is the label.
    labels: usize,
    /// Pictures in each training and test file.
    pictures: [usize; 2],
}

const CIFAR_10: Form = Form {
    folder: "cifar-10-batches-bin",
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
    folder: "cifar-100-binary",
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
    classes: 100,
    labels: 2,
    pictures: [50_000, 10_000],
};

const FORMS: [&Form; 2] = [&CIFAR_10, &CIFAR_100];

/// Whether a folder is the unpacked binary archive of CIFAR-10 or CIFAR-100, or contains it.
#[must_use]
pub fn holds_cifar(folder: &Path) -> bool {
    unpacked(folder).is_some()
}

/// The layout, and the folder with the files.
fn unpacked(folder: &Path) -> Option<(&'static Form, PathBuf)> {
    let folders = FORMS.map(|form| (form, folder.join(form.folder)));
    let here = FORMS.map(|form| (form, folder.to_owned()));
    here.into_iter().chain(folders).find(|(form, folder)| folder.join(form.names).is_file())
}

/// Reads the unpacked binary archive of CIFAR-10 or CIFAR-100. CIFAR-100 gets its hundred fine classes.
///
/// # Errors
/// If a file is missing or has the wrong length, a label is out of range, or the number of class names is wrong.
pub fn load_cifar(folder: &Path) -> Result<Dataset> {
    let Some((form, folder)) = unpacked(folder) else {
        let (file, looked_in) = (CIFAR_10.names, vec![folder.to_owned()]);
        return Err(Error::Absent { file, looked_in, found: Vec::new() });
    };
    let mut pictures = Pictures::new(form);
    for name in form.files() {
        let path = folder.join(name);
        let unreadable = |source| Error::Unreadable { path: path.clone(), source };
        let file = open_file(&path).map_err(unreadable)?;
        let length = file.metadata().map_err(unreadable)?.len();
        pictures.read(name, &path, length, file)?;
    }
    pictures.into_dataset(&folder)
}

/// Reads the archive itself, `cifar-10-binary.tar.gz` or `cifar-100-binary.tar.gz`.
///
/// # Errors
/// Same as [`load_cifar`], and if the archive cannot be unpacked.
pub fn load_cifar_archive(path: &Path) -> Result<Dataset> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let file = BufReader::with_capacity(1 << 16, open_file(path).map_err(unreadable)?);
    let mut archive = tar::Archive::new(MultiGzDecoder::new(file));
    let mut pictures: Option<Pictures> = None;
    for entry in archive.entries().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let within = entry.path().map_err(unreadable)?.into_owned();
        let name = within.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(form) = FORMS.into_iter().find(|form| form.files().any(|file| file == name))
        else {
            continue;
        };
        let pictures = pictures.get_or_insert_with(|| Pictures::new(form));
        pictures.read(name, &path.join(&within), entry.size(), entry)?;
    }
    let pictures = pictures.unwrap_or_else(|| Pictures::new(&CIFAR_10));
    pictures.into_dataset(path)
}

impl Form {
    /// The file of class names, the training files, the test file.
    fn files(&self) -> impl Iterator<Item = &'static str> {
        [self.names].into_iter().chain(self.train.iter().copied()).chain([self.test])
    }
}

/// Pixels and labels, image after image.
type Images = (Vec<u8>, Vec<u32>);

/// The files read so far, in any order.
struct Pictures {
    form: &'static Form,
    names: Vec<String>,
    /// Indexed like [`Form::files`], without the file of names.
    parts: Vec<Option<Images>>,
}

impl Pictures {
    fn new(form: &'static Form) -> Self {
        let parts = (0..=form.train.len()).map(|_| None).collect();
        Self { form, names: Vec::new(), parts }
    }

    /// Reads one file of the layout.
    ///
    /// # Errors
    /// If its length is wrong or a label is out of range.
    fn read(&mut self, name: &str, path: &Path, length: u64, mut from: impl Read) -> Result<()> {
        let form = self.form;
        let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
        if name == form.names {
            let text = text_of_at_most(LONGEST_NAMES, from).map_err(unreadable)?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            self.names = lines.map(str::to_owned).collect();
            if self.names.len() != form.classes {
                let (path, expected) = (path.to_owned(), "a name for each class, a line each");
                return Err(Error::Kind {
                    path,
                    expected,
                    got: format!("{} lines", self.names.len()),
                });
            }
            return Ok(());
        }
        let Some(place) = form.files().position(|file| file == name) else { return Ok(()) };
        let record = form.labels + PIXELS;
        let expected = (form.pictures[usize::from(name == form.test)] * record) as u64;
        if length != expected {
            return Err(Error::Truncated { path: path.to_owned(), expected, got: length });
        }
        let mut bytes = Vec::with_capacity(expected as usize);
        from.by_ref().take(expected).read_to_end(&mut bytes).map_err(unreadable)?;
        let (mut pixels, mut labels) = (Vec::with_capacity(bytes.len()), Vec::new());
        for (index, record) in bytes.chunks_exact(record).enumerate() {
            let (head, image) = record.split_at(form.labels);
            let got = head[form.labels - 1];
            if usize::from(got) >= form.classes {
                let (path, classes) = (path.to_owned(), form.classes);
                return Err(Error::Label { path, classes, index, got });
            }
            labels.push(got.into());
            pixels.extend_from_slice(image);
        }
        self.parts[place - 1] = Some((pixels, labels));
        Ok(())
    }

    /// The dataset, once all files are read; `path` is the folder or archive, for errors.
    ///
    /// # Errors
    /// If a file is missing.
    fn into_dataset(self, path: &Path) -> Result<Dataset> {
        let form = self.form;
        let absent = |file| {
            let looked_in = vec![path.to_owned()];
            Error::Absent { file, looked_in, found: Vec::new() }
        };
        if self.names.is_empty() {
            return Err(absent(form.names));
        }
        let parts = self.parts.into_iter().zip(form.files().skip(1));
        let parts = parts.map(|(part, file)| part.ok_or_else(|| absent(file)));
        let mut parts = parts.collect::<Result<Vec<Images>>>()?;
        let test = parts.pop().unwrap_or_default();
        let mut train = Images::default();
        for (pixels, labels) in parts {
            train.0.extend(pixels);
            train.1.extend(labels);
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        Dataset::from_bytes(name, self.names, [train, test], (3, SIDE, SIDE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Split;
    use flate2::Compression;
    use flate2::write::GzEncoder;
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
    fn an_archive_gives_the_same_dataset_as_its_folder() {
        for form in FORMS {
            let above = tempfile::tempdir().unwrap();
            let folder = above.path().join(form.folder);
            fs::create_dir(&folder).unwrap();
            write(&folder, form);
            fs::write(folder.join("readme.html"), "a page").unwrap();
            let packed = above.path().join("archive.tar.gz");
            let file = fs::File::create(&packed).unwrap();
            let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
            archive.append_dir_all(form.folder, &folder).unwrap();
            archive.into_inner().unwrap().finish().unwrap();
            let digest = |dataset: Dataset| {
                let mut bytes = Vec::new();
                dataset.digest(&mut bytes).unwrap();
                bytes
            };
            let expected = digest(load_cifar(above.path()).unwrap());
            assert!(digest(load_cifar_archive(&packed).unwrap()) == expected);
            // Truncated, and with a file missing.
            let bytes = fs::read(&packed).unwrap();
            fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
            assert!(matches!(load_cifar_archive(&packed), Err(Error::Unreadable { .. })));
            let file = fs::File::create(&packed).unwrap();
            let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
            archive.append_path_with_name(folder.join(form.names), form.names).unwrap();
            archive.into_inner().unwrap().finish().unwrap();
            let error = load_cifar_archive(&packed).unwrap_err().to_string();
            assert!(error.contains(&format!("expected {} ", form.train[0])), "{error}");
        }
    }

    #[test]
    fn errors_name_the_file_and_what_was_expected() {
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
