//! TensorBoard event files: scalars by step.
//!
//! A file is a sequence of records (`tensorflow/core/lib/io/record_writer.h`): the length and its checksum, the data
//! and its checksum. The data is a protocol buffer `Event` (`tensorflow/core/util/event.proto`); a scalar needs
//! five of its fields.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::error::Error;

/// An event file open for writing.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Creates a new file in a folder, and the folder if it is missing.
    ///
    /// # Errors
    /// If it cannot be created or written.
    pub fn create(folder: &Path) -> Result<Self, Error> {
        let error = |path: &Path| {
            let path = path.to_owned();
            |source| Error::Io { operation: "create", path, source }
        };
        fs::create_dir_all(folder).map_err(error(folder))?;
        let now = now();
        // TensorBoard reads a folder's files in the order of their names, and recognises them by `tfevents`.
        let (seconds, process) = (now as u64, std::process::id());
        let path = folder.join(format!("events.out.tfevents.{seconds:010}.vit.{process}"));
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let mut events = Self { file: file.map_err(error(&path))?, path };
        events.write(&version_event(now))?;
        Ok(events)
    }

    /// Replaces a folder's event files by a new one, for a run that resumes at an earlier step; the caller then adds
    /// the metrics up to there again.
    ///
    /// # Errors
    /// If it cannot be created or written, or an old file cannot be removed.
    pub fn replace(folder: &Path) -> Result<Self, Error> {
        let old = fs::read_dir(folder).into_iter().flatten().flatten();
        for old in old.filter(|old| old.file_name().to_string_lossy().contains("tfevents")) {
            let path = old.path();
            fs::remove_file(&path).map_err(|source| Error::Io {
                operation: "remove",
                path,
                source,
            })?;
        }
        Self::create(folder)
    }

    /// Adds the numbers of a metrics record, each as `kind/name` at its step. Skips a record without kind or step.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&mut self, record: &Value) -> Result<(), Error> {
        let (Some(kind), Some(step)) = (record["kind"].as_str(), record["step"].as_u64()) else {
            return Ok(());
        };
        let numbers = record.as_object().into_iter().flatten();
        let numbers = numbers.filter(|(name, _)| !["step", "epoch"].contains(&name.as_str()));
        let scalars: Vec<(String, f32)> = numbers
            .filter_map(|(name, value)| Some((format!("{kind}/{name}"), value.as_f64()? as f32)))
            .collect();
        self.write(&scalar_event(now(), step, &scalars))
    }

    /// One write, so that readers see complete records.
    fn write(&mut self, event: &[u8]) -> Result<(), Error> {
        let written = self.file.write_all(&framed(event));
        written.map_err(|source| Error::Io { operation: "write", path: self.path.clone(), source })
    }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `Event { wall_time: 1, file_version: 3 }`, the first record of every file.
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    put_bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// `Event { wall_time: 1, step: 2, summary: 5 { value: 1 { tag: 1, simple_value: 2 } } }`
fn scalar_event(wall_time: f64, step: u64, scalars: &[(String, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, tag.as_bytes());
        put_float(&mut entry, 2, *value);
        put_bytes(&mut summary, 1, &entry);
    }
    let mut event = Vec::new();
    put_double(&mut event, 1, wall_time);
    put_key(&mut event, 2, VARINT);
    put_varint(&mut event, step);
    put_bytes(&mut event, 5, &summary);
    event
}

/// Wire types of a field (<https://protobuf.dev/programming-guides/encoding>).
const VARINT: u64 = 0;
const EIGHT_BYTES: u64 = 1;
const COUNTED_BYTES: u64 = 2;
const FOUR_BYTES: u64 = 5;

fn put_key(out: &mut Vec<u8>, field: u64, wire: u64) {
    put_varint(out, field << 3 | wire);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_key(out, field, EIGHT_BYTES);
    out.extend(value.to_le_bytes());
}

fn put_float(out: &mut Vec<u8>, field: u64, value: f32) {
    put_key(out, field, FOUR_BYTES);
    out.extend(value.to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_key(out, field, COUNTED_BYTES);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// A record of this data.
fn framed(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    let (of_length, of_bytes) = (masked_crc(&length), masked_crc(bytes));
    [&length[..], &of_length.to_le_bytes(), bytes, &of_bytes.to_le_bytes()].concat()
}

/// A record's checksum: the CRC-32C, rotated and shifted, so that data containing a checksum does not repeat it.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: records are short and few.
fn crc32c(bytes: &[u8]) -> u32 {
    /// The polynomial 0x1edc6f41 with its bits reversed.
    const REVERSED: u32 = 0x82f6_3b78;
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ REVERSED } else { crc >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn checksums_match_the_standard() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// The bytes that TensorBoard 2.21's own protocol buffer and checksum give for the same event.
    #[test]
    fn records_match_tensorboards_bytes() {
        let scalars = [("epoch/train_loss".to_owned(), 0.5)];
        let expected = [
            &[39, 0, 0, 0, 0, 0, 0, 0, 0xbb, 0xe1, 0xb1, 0x46][..],
            &[9, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 16, 0xa9, 7, 42, 25, 10, 23, 10, 16],
            b"epoch/train_loss",
            &[21, 0, 0, 0, 0x3f],
            &[0x4f, 0x73, 0x78, 0xd3],
        ];
        assert_eq!(framed(&scalar_event(1.5, 937, &scalars)), expected.concat());
    }

    #[test]
    fn each_number_of_a_record_is_a_scalar() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = EventFile::create(&folder.path().join("new")).unwrap();
        let begun = fs::read(&events.path).unwrap();
        events
            .append(&json!({"kind": "step", "step": 3, "epoch": 1, "loss": 2.5, "lr": null}))
            .unwrap();
        events.append(&json!({"kind": "saved", "path": "here"})).unwrap();
        let file = fs::read(&events.path).unwrap();
        assert!(begun.ends_with(&masked_crc(&begun[12..begun.len() - 4]).to_le_bytes()));
        let record = &file[begun.len()..];
        let text = String::from_utf8_lossy(record);
        assert!(text.contains("step/loss") && !text.contains("lr") && !text.contains("epoch"));
        let value = [21].iter().chain(&2.5_f32.to_le_bytes()).copied().collect::<Vec<u8>>();
        assert!(record.windows(5).any(|bytes| bytes == value));
        assert_eq!(record.len() - 16, record[0] as usize);
    }
}
