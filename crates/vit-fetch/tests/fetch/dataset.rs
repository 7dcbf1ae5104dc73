//! A small dataset, its files on mirrors, and options.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use vit_fetch::{Checksum, Options, Source, SourceFile};
use vit_files::Digest;

/// 20,000 bytes that compress by half, so that packings differ and every packed byte matters.
pub(crate) fn images() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as u8
    };
    (0..20_000).map(|_| next()).collect()
}

pub(crate) fn labels() -> Vec<u8> {
    (0..100).map(|i| i % 10).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    gzip_at(Compression::best(), bytes)
}

/// The same bytes, packed differently.
pub(crate) fn gzip_otherwise(bytes: &[u8]) -> Vec<u8> {
    gzip_at(Compression::none(), bytes)
}

fn gzip_at(level: Compression, bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One file, `images`, known by its unpacked bytes.
pub(crate) fn toy() -> Source {
    source(vec![unpacked("images", &images())])
}

/// Two files.
pub(crate) fn toy_of_two() -> Source {
    source(vec![unpacked("images", &images()), unpacked("labels", &labels())])
}

/// One file, `images`, known by its packed bytes.
pub(crate) fn packed_toy() -> Source {
    let sha256 = Checksum::Packed(Digest::of_bytes(&gzip(&images())));
    source(vec![SourceFile { name: "images", len: images().len() as u64, sha256 }])
}

fn source(files: Vec<SourceFile>) -> Source {
    Source { name: "toy", files: files.leak(), mirrors: &[] }
}

fn unpacked(name: &'static str, bytes: &[u8]) -> SourceFile {
    SourceFile {
        name,
        len: bytes.len() as u64,
        sha256: Checksum::Unpacked(Digest::of_bytes(bytes)),
    }
}

/// Options with these mirrors, with time for a busy test machine.
pub(crate) fn options(mirrors: &[String]) -> Options {
    Options {
        mirrors: mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect(),
        connect: Duration::from_secs(5),
        stall: Duration::from_secs(5),
        total: Duration::from_secs(20),
        ..Options::default()
    }
}

/// The sorted names in a folder, without the lock.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != ".lock").collect();
    names.sort();
    names
}
