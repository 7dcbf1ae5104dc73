//! Pictures in parquet files, as in the datasets of the Hugging Face Hub.
//!
//! A picture is a column of bytes, usually `image.bytes`; a label is a number or a text. The schema's metadata under
//! `huggingface` names the columns and classes; without it, columns are found by name.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_datasets::hub::FileReader;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::SerializedFileReader;
use serde_json::Value;
use vit_files::open_file;

use crate::dataset::Split;
use crate::error::{Error, Result};

const ENDING: &str = "parquet";
/// The configuration used by default.
const DEFAULT: &str = "default";
/// Levels of subfolders searched: configuration, split.
const DEEPEST: usize = 3;
/// Number of subfolders searched in a folder without parquet files.
const LOOKED_INTO: usize = 8;
/// Limit of the bytes of one row group, which is in memory at once.
const MOST_BYTES: i64 = 1 << 30;

/// A parquet file, with its configuration and split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) path: PathBuf,
    pub(crate) configuration: String,
    pub(crate) split: Option<Split>,
}

impl Table {
    /// Accepts `CONFIGURATION/SPLIT/0000.parquet` and `CONFIGURATION/SPLIT-00000-of-00002.parquet`, both also without a
    /// configuration or inside a folder `data`.
    pub(crate) fn new(path: PathBuf, relative: &str) -> Self {
        let mut parts: Vec<&str> = relative.split('/').collect();
        let file = parts.pop().unwrap_or_default();
        let mut split = split_named(file.split(['-', '_', '.']).next().unwrap_or_default());
        if split.is_none()
            && let Some(folder) = parts.last()
        {
            split = split_named(folder);
            if split.is_some() {
                parts.pop();
            }
        }
        parts.retain(|part| *part != "data");
        Self { path, configuration: parts.join("/"), split }
    }
}

fn split_named(name: &str) -> Option<Split> {
    // The hub converts only the beginning of large datasets.
    match name.strip_prefix("partial-").unwrap_or(name) {
        "train" | "training" => Some(Split::Train),
        "test" | "testing" => Some(Split::Test),
        "val" | "valid" | "validation" | "dev" => Some(Split::Validation),
        _ => None,
    }
}

pub(crate) fn is_table(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == ENDING)
}

/// Whether a folder has parquet files, itself or in its first subfolders.
#[must_use]
pub fn holds_tables(folder: &Path) -> bool {
    fn within(folder: &Path, depth: usize) -> bool {
        let mut folders = Vec::new();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.to_str().is_some_and(is_table) {
                return true;
            }
            if folders.len() < LOOKED_INTO && path.is_dir() {
                folders.push(path);
            }
        }
        depth < DEEPEST && folders.iter().any(|folder| within(folder, depth + 1))
    }
    within(folder, 1)
}

/// The parquet files in a folder, sorted by name.
pub(crate) fn tables_in(folder: &Path) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    let mut folders = vec![(folder.to_owned(), String::new())];
    while let Some((folder, relative)) = folders.pop() {
        let unreadable = |source| Error::Unreadable { path: folder.clone(), source };
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let (path, relative) = (entry.path(), format!("{relative}{name}"));
            if path.is_dir() {
                if relative.matches('/').count() < DEEPEST {
                    folders.push((path, relative + "/"));
                }
            } else if is_table(name) {
                tables.push(Table::new(path, &relative));
            }
        }
    }
    tables.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(tables)
}

/// The files of a configuration: the requested one, the only one, or the default.
///
/// # Errors
/// If there is no such configuration, or the choice is ambiguous.
pub(crate) fn of_configuration(
    place: &Path,
    tables: Vec<Table>,
    asked: Option<&str>,
) -> Result<Vec<Table>> {
    let all: BTreeSet<String> = tables.iter().map(|table| table.configuration.clone()).collect();
    let configuration = match asked {
        Some(asked) => all.get(asked),
        None if all.len() == 1 => all.first(),
        None => all.get(DEFAULT).or_else(|| all.get("")),
    };
    let Some(configuration) = configuration else {
        let place = place.display().to_string();
        if all.is_empty() {
            return Err(Error::NoTables { place, found: Vec::new() });
        }
        let (asked, found) = (asked.unwrap_or(DEFAULT).to_owned(), all.into_iter().collect());
        return Err(Error::Configuration { place, asked, found });
    };
    Ok(tables.into_iter().filter(|table| table.configuration == *configuration).collect())
}

/// The columns of a file, and its class names.
struct Columns {
    picture: usize,
    label: usize,
    names: Vec<String>,
}

/// The label of each row, as number or name.
pub(crate) enum Labels {
    /// With the schema's class names, if it has any.
    Numbers(Vec<Option<i64>>, Vec<String>),
    Texts(Vec<Option<String>>),
}

/// The labels of a file.
///
/// # Errors
/// If it cannot be read, or has no column of pictures or labels.
pub(crate) fn labels(path: &Path) -> Result<Labels> {
    guarded(path, || {
        let reader = open(path)?;
        let Columns { label, names, .. } = columns(path, &reader)?;
        let (mut numbers, mut texts) = (Vec::new(), Vec::new());
        for group in 0..reader.num_row_groups() {
            match read(path, &reader, group, label)? {
                Cells::Numbers(cells) => numbers.extend(cells),
                Cells::Bytes(cells) => texts.extend(cells.into_iter().map(|cell| {
                    cell.map(|cell| String::from_utf8_lossy(cell.data()).into_owned())
                })),
            }
        }
        Ok(if texts.is_empty() { Labels::Numbers(numbers, names) } else { Labels::Texts(texts) })
    })
}

/// The classes of all files: the schema's names, else the numbers or texts that occur.
pub(crate) fn classes<'a>(labels: impl Iterator<Item = &'a Labels>) -> Vec<String> {
    let (mut texts, mut most) = (BTreeSet::new(), None);
    for labels in labels {
        match labels {
            Labels::Numbers(_, names) if !names.is_empty() => return names.clone(),
            Labels::Numbers(numbers, _) => most = most.max(numbers.iter().copied().flatten().max()),
            Labels::Texts(all) => texts.extend(all.iter().flatten().cloned()),
        }
    }
    match most {
        // Too many classes are rejected later, with the first label beyond the limit.
        Some(most) => (0..=most.min(1 << 16)).map(|number| number.to_string()).collect(),
        None => texts.into_iter().collect(),
    }
}

/// Pictures by file and row. The most recently read row groups stay in memory.
#[derive(Debug, Default)]
pub(crate) struct Rows(Mutex<VecDeque<Group>>);

#[derive(Clone, Debug)]
struct Group {
    path: PathBuf,
    rows: Range<usize>,
    pictures: Arc<Vec<Option<ByteArray>>>,
}

impl Rows {
    /// Row groups kept. Threads that read consecutive pieces of the rows need two at a time.
    const KEPT: usize = 2;

    /// The bytes of the picture in a row.
    ///
    /// # Errors
    /// If the file cannot be read, or the row has no picture.
    pub(crate) fn get(&self, path: &Path, row: usize) -> Result<ByteArray> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |group: &Group| group.path == path && group.rows.contains(&row);
        let group = match kept.iter().find(|group| is_it(group)) {
            Some(group) => group.clone(),
            None => {
                let group = Group::read(path, row)?;
                kept.truncate(Self::KEPT - 1);
                kept.push_front(group.clone());
                group
            }
        };
        drop(kept);
        let picture = group.pictures.get(row - group.rows.start).cloned().flatten();
        picture.ok_or_else(|| wrong(path, "a picture in each row", format!("none in row {row}")))
    }
}

impl Group {
    /// Reads the row group that contains this row.
    fn read(path: &Path, row: usize) -> Result<Self> {
        guarded(path, || {
            let reader = open(path)?;
            let picture = columns(path, &reader)?.picture;
            let mut begin = 0;
            for group in 0..reader.num_row_groups() {
                let rows = rows_of(&reader, group);
                if (begin..begin + rows).contains(&row) {
                    let Cells::Bytes(pictures) = read(path, &reader, group, picture)? else {
                        break;
                    };
                    let (rows, pictures) = (begin..begin + rows, Arc::new(pictures));
                    return Ok(Self { path: path.to_owned(), rows, pictures });
                }
                begin += rows;
            }
            Err(wrong(path, "as many rows as before", format!("{begin}")))
        })
    }
}

fn wrong(path: &Path, expected: &'static str, got: String) -> Error {
    Error::Kind { path: path.to_owned(), expected, got }
}

fn unreadable(path: &Path) -> impl Fn(ParquetError) -> Error {
    let path = path.to_owned();
    move |error| Error::Unreadable { path: path.clone(), source: std::io::Error::other(error) }
}

/// The parquet reader panics on some damaged files; this turns the panic into an error.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(wrong(path, "a whole parquet file", "a damaged one".to_owned())))
}

fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = open_file(path);
    let file = file.map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
    SerializedFileReader::new(file).map_err(unreadable(path))
}

fn rows_of(reader: &dyn FileReader, group: usize) -> usize {
    usize::try_from(reader.metadata().row_group(group).num_rows()).unwrap_or_default()
}

/// Cells of a column; `None` is null.
enum Cells {
    Numbers(Vec<Option<i64>>),
    Bytes(Vec<Option<ByteArray>>),
}

/// The cells of a column in one row group.
fn read(path: &Path, reader: &dyn FileReader, group: usize, column: usize) -> Result<Cells> {
    let rows = rows_of(reader, group);
    let bytes = reader.metadata().row_group(group).column(column).uncompressed_size();
    if !(0..=MOST_BYTES).contains(&bytes) {
        let got = format!("{bytes} bytes");
        return Err(wrong(path, "at most 1 GiB in a column of a group of rows", got));
    }
    let description = reader.metadata().file_metadata().schema_descr().column(column);
    let level = description.max_def_level();
    let group = reader.get_row_group(group).map_err(unreadable(path))?;
    let reader = group.get_column_reader(column).map_err(unreadable(path))?;
    let read = match reader {
        ColumnReader::Int64ColumnReader(mut it) => cells(&mut it, rows, level).map(Cells::Numbers),
        ColumnReader::Int32ColumnReader(mut it) => cells(&mut it, rows, level).map(|cells| {
            Cells::Numbers(cells.into_iter().map(|cell| cell.map(i64::from)).collect())
        }),
        ColumnReader::ByteArrayColumnReader(mut it) => {
            cells(&mut it, rows, level).map(Cells::Bytes)
        }
        _ => {
            let got = format!("{:?}", description.physical_type());
            return Err(wrong(path, "labels that are whole numbers or text", got));
        }
    };
    read.map_err(unreadable(path))
}

fn cells<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    level: i16,
) -> std::result::Result<Vec<Option<T::T>>, ParquetError> {
    let (mut levels, mut values, mut read) = (Vec::new(), Vec::new(), 0);
    while read < rows {
        let (records, ..) =
            reader.read_records(rows - read, Some(&mut levels), None, &mut values)?;
        if records == 0 {
            break;
        }
        read += records;
    }
    if level == 0 {
        return Ok(values.into_iter().map(Some).collect());
    }
    let mut values = values.into_iter();
    Ok(levels.into_iter().map(|at| if at == level { values.next() } else { None }).collect())
}

/// Finds the columns of pictures and labels.
fn columns(path: &Path, reader: &dyn FileReader) -> Result<Columns> {
    let metadata = reader.metadata().file_metadata();
    let features = metadata.key_value_metadata().into_iter().flatten();
    let features = features.filter(|pair| pair.key == "huggingface");
    let mut features = features.filter_map(|pair| pair.value.as_deref());
    let features = features.find_map(|text| serde_json::from_str::<Value>(text).ok());
    let features = features.as_ref().and_then(|value| value.pointer("/info/features"));
    let columns = metadata.schema_descr().columns();
    let all = || columns.iter().enumerate().filter(|(_, column)| column.max_rep_level() == 0);
    let begins = |name: &str| {
        all().find(|(_, it)| it.path().parts().first().is_some_and(|first| first == name))
    };
    let of_type = |kind: &str| -> Vec<(&str, &Value)> {
        let features = features.and_then(Value::as_object).into_iter().flatten();
        let features = features.filter(|(_, feature)| feature["_type"] == kind);
        features.map(|(name, feature)| (name.as_str(), feature)).collect()
    };
    let is_bytes = |at: &usize| columns[*at].physical_type() == Type::BYTE_ARRAY;
    let called = |names: &[&str]| names.iter().find_map(|name| begins(name)).map(|(at, _)| at);
    let bytes_of = |name: &str| {
        let of_name =
            all().filter(|(_, it)| it.path().parts().first().is_some_and(|it| it == name));
        let ends = |it: &parquet::schema::types::ColumnDescriptor| {
            it.path().parts().last().is_some_and(|last| last == "bytes")
        };
        let mut of_name = of_name.filter(|(_, it)| it.path().parts().len() == 1 || ends(it));
        of_name.next().map(|(at, _)| at)
    };
    let picture = of_type("Image").first().and_then(|(name, _)| bytes_of(name));
    let picture = picture.or_else(|| ["image", "img", "picture"].into_iter().find_map(bytes_of));
    let classes = of_type("ClassLabel");
    let named = |feature: &Value| -> Vec<String> {
        let names = feature["names"].as_array().into_iter().flatten();
        names.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    // With several label columns, prefer `label`, else the one with the most classes.
    let finest = classes.iter().max_by_key(|(name, feature)| {
        (*name == "label", feature["names"].as_array().map_or(0, Vec::len))
    });
    let names = finest.map(|(_, feature)| named(feature)).unwrap_or_default();
    let label = finest.and_then(|(name, _)| begins(name)).map(|(at, _)| at);
    let label = label.or_else(|| called(&["label", "labels", "class", "target"]));
    let got = || columns.iter().map(|it| it.path().string()).collect::<Vec<_>>().join(", ");
    let Some(picture) = picture.filter(is_bytes) else {
        return Err(wrong(path, "a column of pictures, such as image.bytes", got()));
    };
    let Some(label) = label else {
        return Err(wrong(path, "a column of labels, such as label", got()));
    };
    Ok(Columns { picture, label, names })
}
