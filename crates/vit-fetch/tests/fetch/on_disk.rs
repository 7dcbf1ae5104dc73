//! Existing files in a dataset's folder.

use std::fs;
use std::path::Path;

use tempfile::tempdir;
use vit_fetch::{Error, Outcome, Presence, Source, fetch, verify};

use crate::dataset::{
    gzip, gzip_otherwise, images, labels, names_in, options, packed_toy, toy, toy_of_two,
};
use crate::server::{Reply, Server};

#[test]
fn missing_folder_lacks_every_file() {
    let presence = verify(&toy_of_two(), Path::new("no/such/folder")).unwrap();
    assert_eq!(presence, Presence::Incomplete { missing: vec!["images", "labels"] });
}

#[test]
fn files_are_found_plain_or_gzipped() {
    let folder = folder_with(&[("images", &images()), ("labels.gz", &gzip_otherwise(&labels()))]);
    assert_eq!(verify(&toy_of_two(), folder.path()).unwrap(), Presence::Verified);
}

#[test]
fn complete_folder_is_only_read() {
    let folder = folder_with(&[("images.gz", &gzip(&images()))]);
    let outcome = fetch(&toy(), folder.path(), &options(&[]), &mut |_| {}).unwrap();
    assert_eq!(outcome, Outcome::AlreadyThere);
    assert!(!folder.path().join(".lock").exists());
}

#[test]
fn only_missing_files_are_downloaded() {
    let folder = folder_with(&[("images.gz", &gzip(&images()))]);
    let server = Server::answering(Reply::Ranged(gzip(&labels())));
    let options = options(&[server.url()]);
    let outcome = fetch(&toy_of_two(), folder.path(), &options, &mut |_| {}).unwrap();
    assert_eq!(outcome, Outcome::Downloaded { files: 1 });
    assert_eq!(server.requests(), ["/data/labels.gz"]);
    assert_eq!(names_in(folder.path()), ["images.gz", "labels"]);
}

#[test]
fn altered_file_is_named_and_kept() {
    let mut altered = images();
    altered[9] ^= 1;
    for (name, bytes) in [("images", altered.clone()), ("images.gz", gzip(&altered))] {
        let folder = folder_with(&[(name, &bytes)]);
        let path = folder.path().join(name);
        let error = fetch(&toy(), folder.path(), &options(&[]), &mut |_| {}).unwrap_err();
        let start = format!("{} is not the published file: expected SHA-256 ", path.display());
        assert!(error.to_string().starts_with(&start), "{error}");
        let hint = format!("delete {} and fetch again", path.display());
        assert_eq!(error.hint(), Some(hint));
        assert_eq!(fs::read(path).unwrap(), bytes);
    }
}

#[test]
fn truncated_file_is_detected_by_length() {
    let folder = folder_with(&[("images", &images()[..19_999])]);
    let error = altered(&toy(), folder.path());
    assert!(error.ends_with("expected 20000 bytes, got 19999"), "{error}");
    let folder = folder_with(&[("images", &[images(), images()].concat())]);
    let error = altered(&toy(), folder.path());
    assert!(error.ends_with("expected 20000 bytes, got more"), "{error}");
}

#[test]
fn plain_file_is_checked_before_the_gzipped_one() {
    let folder = folder_with(&[("images", b"altered"), ("images.gz", &gzip(&images()))]);
    altered(&toy(), folder.path());
}

#[test]
fn plain_file_is_verified_by_the_gzipped_one_beside_it() {
    let folder = folder_with(&[("images", &images()), ("images.gz", &gzip(&images()))]);
    assert_eq!(verify(&packed_toy(), folder.path()).unwrap(), Presence::Verified);

    let mut other = images();
    other[0] ^= 1;
    let folder = folder_with(&[("images", &other), ("images.gz", &gzip(&images()))]);
    altered(&packed_toy(), folder.path());

    let folder = folder_with(&[("images", &other), ("images.gz", &gzip(&other))]);
    altered(&packed_toy(), folder.path());
}

#[test]
fn plain_file_alone_is_unverifiable_by_a_packed_digest() {
    let folder = folder_with(&[("images", &images())]);
    let error = verify(&packed_toy(), folder.path()).unwrap_err();
    assert!(matches!(error, Error::Unverifiable { .. }), "{error}");
}

fn folder_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempdir().unwrap();
    for (name, bytes) in files {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    folder
}

/// The error message for an altered file.
fn altered(source: &Source, folder: &Path) -> String {
    let error = verify(source, folder).unwrap_err();
    assert!(matches!(error, Error::Altered { .. }), "{error}");
    error.to_string()
}
