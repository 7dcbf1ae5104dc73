//! Listing the pictures of a folder or a CSV file, with their classes and splits.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use vit_files::Hasher;

use crate::dataset::Split;
use crate::error::{Error, Result};
use crate::hub_tables::HubTables;
use crate::tables::{self, Labels, Table};

/// Most classes of a model, as in vit-model's configuration.
const MOST_CLASSES: usize = 1 << 16;
/// Deepest nesting of folders, far above any real one.
const DEEPEST: usize = 32;
/// Files of the operating system that are not pictures; hidden files begin with a dot.
const OF_THE_SYSTEM: [&str; 2] = ["thumbs.db", "desktop.ini"];
/// Extensions of picture files.
const ENDINGS: [&str; 9] = ["png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "dib"];

const TRAIN: &str = "train";
const VALIDATION: [&str; 3] = ["val", "valid", "validation"];
const TEST: &str = "test";

/// Pictures on disk with their classes and splits; none is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The names of the classes, by label.
    pub classes: Vec<String>,
    /// The training split.
    pub train: Vec<Listed>,
    /// The validation split; may be empty.
    pub validation: Vec<Listed>,
    /// The test split; may be empty.
    pub test: Vec<Listed>,
    /// Whether the test split was drawn from the pictures, because there was none.
    pub is_test_drawn: bool,
    /// Number of files without a picture's extension.
    pub others: usize,
}

/// A picture of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The file.
    pub path: PathBuf,
    /// The row, if the file is parquet.
    pub row: Option<u32>,
    /// The class.
    pub label: u32,
}

impl Listing {
    /// Lists the pictures of a folder: `train/CLASS/...`, optionally with `val/` (or `valid/`, `validation/`) and
    /// `test/` beside it; or `CLASS/...` alone. In that case a share `test_split` of each class becomes the test split,
    /// drawn from the seed and each picture's path in the folder, the same on every machine.
    ///
    /// The folders of the training split name the classes, sorted by bytes. Pictures are files with a picture's
    /// extension, at any depth below the class; hidden files and files of the operating system are skipped. Links are
    /// followed; a folder is visited once.
    ///
    /// # Errors
    /// If there are no pictures, one class or too many, a class without pictures, a class that the training split
    /// lacks, or an unreadable folder.
    pub fn of_folder(folder: &Path, test_split: f64, seed: u64) -> Result<Self> {
        let below = folders_in(folder)?;
        let part = |names: &[&str]| below.iter().find(|entry| names.contains(&entry.name.as_str()));
        let mut walk = Walk::default();
        let Some(train) = part(&[TRAIN]) else {
            let classes = walk.classes(folder)?;
            let listing = Self::of_classes(folder, classes, walk.others)?;
            return Ok(listing.with_test_drawn(folder, test_split, seed));
        };
        let train = train.path.clone();
        let validation = part(&VALIDATION).map(|entry| entry.path.clone());
        let test = part(&[TEST]).map(|entry| entry.path.clone());
        let classes = walk.classes(&train)?;
        let mut listing = Self::of_classes(&train, classes, 0)?;
        for (part, split) in [(validation, Split::Validation), (test, Split::Test)] {
            let Some(part) = part else { continue };
            let classes = walk.classes(&part)?;
            let listed = listing.labelled(&part, classes)?;
            match split {
                Split::Validation => listing.validation = listed,
                Split::Train | Split::Test => listing.test = listed,
            }
        }
        listing.others = walk.others;
        Ok(listing)
    }

    /// Lists the pictures of a CSV file. Its header has the columns `path` and `label`, and optionally `split` with
    /// `train`, `val` (`valid`, `validation`) or `test`; then a line a picture. Paths are relative to the file's
    /// folder. Classes are the labels of the training split, sorted by bytes. Without the column `split`, a test split
    /// is drawn as in [`of_folder`](Self::of_folder).
    ///
    /// # Errors
    /// If the file cannot be read or a line is malformed, and for the reasons of [`of_folder`](Self::of_folder).
    pub fn of_csv(file: &Path, test_split: f64, seed: u64) -> Result<Self> {
        let folder = file.parent().unwrap_or(Path::new(""));
        let unreadable = |source| Error::Unreadable { path: file.to_owned(), source };
        let text = vit_files::open_file(file)
            .and_then(|opened| vit_files::text_of_at_most(LONGEST_CSV, opened))
            .map_err(unreadable)?;
        let wrong = |line: usize, expected: &'static str, got: String| Error::Csv {
            path: file.to_owned(),
            line,
            expected,
            got,
        };
        let mut lines = records(&text).map_err(|line| {
            wrong(line, "a closing quotation mark", "the end of the file".to_owned())
        })?;
        if lines.is_empty() {
            return Err(wrong(
                1,
                "a heading with the columns path and label",
                "nothing".to_owned(),
            ));
        }
        let (_, heading) = lines.remove(0);
        let column =
            |name: &str| heading.iter().position(|cell| cell.trim().eq_ignore_ascii_case(name));
        let (Some(path), Some(label)) = (column("path"), column("label")) else {
            let expected = "a heading with the columns path and label";
            return Err(wrong(1, expected, heading.join(",")));
        };
        let split = column("split");
        let mut parts: [Classes; 3] = Default::default();
        for (line, cells) in lines {
            if cells.len() != heading.len() {
                let got = format!("{} cells for {}", cells.len(), heading.len());
                return Err(wrong(line, "a cell for each column", got));
            }
            let part = match split.map(|split| cells[split].trim().to_ascii_lowercase()) {
                None => 0,
                Some(name) if name == TRAIN => 0,
                Some(name) if VALIDATION.contains(&name.as_str()) => 1,
                Some(name) if name == TEST => 2,
                Some(name) => return Err(wrong(line, "train, val or test as split", name)),
            };
            let name = cells[label].trim().to_owned();
            if name.is_empty() || cells[path].is_empty() {
                let expected = "a path and a label";
                return Err(wrong(line, expected, cells.join(",")));
            }
            parts[part].entry(name).or_default().push(folder.join(&cells[path]));
        }
        let [train, validation, test] = parts;
        let mut listing = Self::of_classes(file, train, 0)?;
        if split.is_none() {
            return Ok(listing.with_test_drawn(folder, test_split, seed));
        }
        listing.validation = listing.labelled(file, validation)?;
        listing.test = listing.labelled(file, test)?;
        Ok(listing)
    }

    /// Lists the pictures of the parquet files in a folder: its only configuration, or the one called `default`. Files
    /// are `FOLDER/train-*` or `FOLDER/train/*`, likewise `validation` and `test`, optionally in a folder for each
    /// configuration. If there is only a training split, a test split is drawn as in [`of_folder`](Self::of_folder).
    ///
    /// # Errors
    /// If a file cannot be read or has no pictures and labels, and for the reasons of [`of_folder`](Self::of_folder).
    pub fn of_tables(folder: &Path, test_split: f64, seed: u64) -> Result<Self> {
        let tables = tables::tables_in(folder)?;
        let tables = tables::of_configuration(folder, tables, None)?;
        Self::of_split_tables(folder, &tables)
            .map(|listing| listing.or_with_test_drawn(folder, test_split, seed))
    }

    /// Lists the pictures of a dataset downloaded from the hub.
    ///
    /// # Errors
    /// Same as [`of_tables`](Self::of_tables).
    pub fn of_hub(files: &HubTables, test_split: f64, seed: u64) -> Result<Self> {
        let place = Path::new(&files.name);
        Self::of_split_tables(place, &files.tables)
            .map(|listing| listing.or_with_test_drawn(&files.folder, test_split, seed))
    }

    fn of_split_tables(place: &Path, tables: &[Table]) -> Result<Self> {
        let of_part = |split: Split| tables.iter().filter(move |table| table.split == Some(split));
        if of_part(Split::Train).next().is_none() {
            let found = tables.iter().map(|table| table.path.display().to_string()).collect();
            return Err(Error::NoTables { place: place.display().to_string(), found });
        }
        let read = |split: Split| -> Result<Vec<(&Path, Labels)>> {
            let paths = of_part(split).map(|table| &*table.path);
            paths.map(|path| Ok((path, tables::labels(path)?))).collect()
        };
        let train = read(Split::Train)?;
        let classes = tables::classes(train.iter().map(|(_, labels)| labels));
        let mut listing = Self {
            classes,
            train: Vec::new(),
            validation: Vec::new(),
            test: Vec::new(),
            is_test_drawn: false,
            others: 0,
        };
        listing.train = listing.rows(train)?;
        let mut counts = vec![0_usize; listing.classes.len()];
        listing.train.iter().for_each(|listed| counts[listed.label as usize] += 1);
        if let Some(empty) = counts.iter().position(|&count| count == 0) {
            let (path, class) = (place.to_owned(), listing.classes[empty].clone());
            return Err(Error::EmptyClass { path, class });
        }
        if !(2..=MOST_CLASSES).contains(&counts.len()) {
            let first = listing.classes.first().cloned().unwrap_or_default();
            let (most, got, path) = (MOST_CLASSES, counts.len(), place.to_owned());
            return Err(Error::Classes { path, most, got, first });
        }
        listing.validation = listing.rows(read(Split::Validation)?)?;
        listing.test = listing.rows(read(Split::Test)?)?;
        Ok(listing)
    }

    /// The rows of a split's tables. A split whose labels are all withheld (-1 or null) is left out.
    fn rows(&self, tables: Vec<(&Path, Labels)>) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for (path, labels) in tables {
            let labels: Vec<Option<i64>> = match labels {
                Labels::Numbers(numbers, _) => numbers,
                Labels::Texts(texts) => {
                    let number = |text: String| {
                        let class = self.classes.binary_search(&text);
                        let path = path.to_owned();
                        let number = class.map(|class| class as i64);
                        number.map_err(|_| Error::UntrainedClass { path, class: text })
                    };
                    let numbers = texts.into_iter().map(|text| text.map(number).transpose());
                    numbers.collect::<Result<_>>()?
                }
            };
            if labels.iter().all(|label| label.is_none_or(|label| label == -1)) {
                continue;
            }
            for (row, label) in (0..).zip(labels) {
                let found = label.and_then(|label| u32::try_from(label).ok());
                let found = found.filter(|&label| (label as usize) < self.classes.len());
                let Some(label) = found else {
                    let got = label.map_or("none".to_owned(), |label| label.to_string());
                    let (path, got) = (path.to_owned(), format!("{got} in row {row}"));
                    return Err(Error::Kind { path, expected: "labels that are classes", got });
                };
                listed.push(Listed { path: path.to_owned(), row: Some(row), label });
            }
        }
        Ok(listed)
    }

    /// Draws a test split if training is the only split.
    fn or_with_test_drawn(self, folder: &Path, share: f64, seed: u64) -> Self {
        if self.validation.is_empty() && self.test.is_empty() {
            return self.with_test_drawn(folder, share, seed);
        }
        self
    }

    /// A listing of the training split only.
    fn of_classes(place: &Path, classes: Classes, others: usize) -> Result<Self> {
        let path = || place.to_owned();
        if classes.values().all(Vec::is_empty) {
            let found = names_in(place);
            return Err(Error::NoPictures { path: path(), found });
        }
        if let Some((class, _)) = classes.iter().find(|(_, pictures)| pictures.is_empty()) {
            return Err(Error::EmptyClass { path: path(), class: class.clone() });
        }
        if !(2..=MOST_CLASSES).contains(&classes.len()) {
            let first = classes.keys().next().cloned().unwrap_or_default();
            let (most, got) = (MOST_CLASSES, classes.len());
            return Err(Error::Classes { path: path(), most, got, first });
        }
        let names: Vec<String> = classes.keys().cloned().collect();
        let train = (0..).zip(classes.into_values()).flat_map(|(label, pictures)| {
            pictures.into_iter().map(move |path| Listed { path, row: None, label })
        });
        let train = train.collect();
        let (validation, test) = (Vec::new(), Vec::new());
        Ok(Self { classes: names, train, validation, test, is_test_drawn: false, others })
    }

    /// The pictures of another split, with the training split's labels.
    fn labelled(&self, place: &Path, classes: Classes) -> Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for (class, pictures) in classes {
            if pictures.is_empty() {
                continue;
            }
            let Ok(label) = self.classes.binary_search(&class) else {
                return Err(Error::UntrainedClass { path: place.to_owned(), class });
            };
            let label = label as u32;
            listed.extend(pictures.into_iter().map(|path| Listed { path, row: None, label }));
        }
        Ok(listed)
    }

    /// Draws a share of each class as the test split; a class of at least two pictures keeps one for training.
    fn with_test_drawn(mut self, folder: &Path, share: f64, seed: u64) -> Self {
        let mut pictures: Vec<(u32, [u8; 32], usize)> = self
            .train
            .iter()
            .enumerate()
            .map(|(index, listed)| (listed.label, drawn(folder, listed, seed), index))
            .collect();
        pictures.sort_unstable();
        let mut is_test = vec![false; self.train.len()];
        for class in pictures.chunk_by(|(a, ..), (b, ..)| a == b) {
            let count = (class.len() as f64 * share).round() as usize;
            let tested = &class[..count.min(class.len() - 1)];
            tested.iter().for_each(|&(.., index)| is_test[index] = true);
        }
        let listed = std::mem::take(&mut self.train).into_iter().zip(is_test);
        let (test, train): (Vec<_>, Vec<_>) = listed.partition(|(_, is_test)| *is_test);
        self.test = test.into_iter().map(|(listed, _)| listed).collect();
        self.train = train.into_iter().map(|(listed, _)| listed).collect();
        self.is_test_drawn = !self.test.is_empty();
        self
    }

    /// All pictures with their splits.
    pub fn pictures(&self) -> impl Iterator<Item = (Split, &Listed)> {
        let train = self.train.iter().map(|listed| (Split::Train, listed));
        let validation = self.validation.iter().map(|listed| (Split::Validation, listed));
        train.chain(validation).chain(self.test.iter().map(|listed| (Split::Test, listed)))
    }
}

impl Listed {
    /// The picture's name in messages.
    #[must_use]
    pub fn name(&self) -> PathBuf {
        match self.row {
            None => self.path.clone(),
            Some(row) => PathBuf::from(format!("{}, row {row}", self.path.display())),
        }
    }
}

/// Enough for a million pictures.
const LONGEST_CSV: u64 = 1 << 28;

/// Pictures by class name, sorted by bytes.
type Classes = BTreeMap<String, Vec<PathBuf>>;

/// Decides whether a picture is drawn for the test split: a hash of the seed, its path in the folder (separated by `/`)
/// and its row.
fn drawn(folder: &Path, Listed { path, row, .. }: &Listed, seed: u64) -> [u8; 32] {
    let mut hasher = Hasher::new();
    hasher.update(&seed.to_le_bytes());
    for part in path.strip_prefix(folder).unwrap_or(path).components() {
        hasher.update(b"/");
        hasher.update(part.as_os_str().as_encoded_bytes());
    }
    if let Some(row) = row {
        hasher.update(format!("/{row}").as_bytes());
    }
    *hasher.finish().bytes()
}

/// A walk that visits each folder once.
#[derive(Default)]
struct Walk {
    others: usize,
}

struct Entry {
    name: String,
    path: PathBuf,
}

impl Walk {
    /// The pictures of each folder in `place`, by folder name.
    fn classes(&mut self, place: &Path) -> Result<Classes> {
        let folders = folders_in(place)?;
        if folders.len() > MOST_CLASSES {
            let (most, got, first) = (MOST_CLASSES, folders.len(), folders[0].name.clone());
            return Err(Error::Classes { path: place.to_owned(), most, got, first });
        }
        let mut classes = Classes::new();
        for Entry { name, path } in folders {
            let mut pictures = Vec::new();
            let mut seen = HashSet::new();
            self.pictures(&path, &mut pictures, &mut seen, 0)?;
            pictures.sort_unstable_by(|a: &PathBuf, b| {
                let bytes = |path: &'_ Path| path.as_os_str().as_encoded_bytes().to_vec();
                bytes(a).cmp(&bytes(b))
            });
            classes.insert(name, pictures);
        }
        Ok(classes)
    }

    fn pictures(
        &mut self,
        folder: &Path,
        pictures: &mut Vec<PathBuf>,
        seen: &mut HashSet<PathBuf>,
        depth: usize,
    ) -> Result<()> {
        let whole = fs::canonicalize(folder).map_err(unreadable(folder))?;
        if depth > DEEPEST || !seen.insert(whole) {
            return Ok(());
        }
        for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
            let entry = entry.map_err(unreadable(folder))?;
            let (name, path) = (entry.file_name(), entry.path());
            if is_of_the_system(&name) {
                continue;
            }
            if path.is_dir() {
                self.pictures(&path, pictures, seen, depth + 1)?;
            } else if is_named_as_picture(&path) {
                pictures.push(path);
            } else {
                self.others += 1;
            }
        }
        Ok(())
    }
}

fn unreadable(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Unreadable { path, source }
}

/// The folders in a folder, sorted by bytes.
fn folders_in(folder: &Path) -> Result<Vec<Entry>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable(folder))? {
        let entry = entry.map_err(unreadable(folder))?;
        let (name, path) = (entry.file_name(), entry.path());
        if is_of_the_system(&name) || !path.is_dir() {
            continue;
        }
        // Class names are written to text files.
        let Some(name) = name.to_str() else { return Err(Error::NoText { path }) };
        folders.push(Entry { name: name.to_owned(), path });
    }
    folders.sort_unstable_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
    Ok(folders)
}

fn is_of_the_system(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    name.starts_with('.') || OF_THE_SYSTEM.contains(&name.as_str())
}

fn is_named_as_picture(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// The records of a CSV file (RFC 4180) with their line numbers; or the line of an unclosed quotation mark.
fn records(text: &str) -> std::result::Result<Vec<(usize, Vec<String>)>, usize> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut records, mut record, mut cell) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut begun, mut is_quoted) = (1, 1, false);
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '"' if is_quoted && signs.peek() == Some(&'"') => {
                signs.next();
                cell.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if cell.is_empty() => is_quoted = true,
            ',' if !is_quoted => record.push(std::mem::take(&mut cell)),
            '\r' if !is_quoted && signs.peek() == Some(&'\n') => {}
            '\n' => {
                line += 1;
                if is_quoted {
                    cell.push('\n');
                    continue;
                }
                if !(record.is_empty() && cell.is_empty()) {
                    record.push(std::mem::take(&mut cell));
                    records.push((begun, std::mem::take(&mut record)));
                }
                begun = line;
            }
            sign => cell.push(sign),
        }
    }
    if is_quoted {
        return Err(begun);
    }
    if !(record.is_empty() && cell.is_empty()) {
        record.push(cell);
        records.push((begun, record));
    }
    Ok(records)
}
