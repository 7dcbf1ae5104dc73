//! Interrupted downloads.

use std::fs;
use std::path::Path;

use tempfile::tempdir;
use vit_fetch::{Event, fetch};

use crate::dataset::{gzip, gzip_otherwise, images, names_in, options, toy};
use crate::server::{Reply, Server};

#[test]
fn part_is_resumed_if_the_server_can() {
    let folder = tempdir().unwrap();
    leave_part(folder.path(), &gzip(&images())[..5000]);
    let server = Server::answering(Reply::Ranged(gzip(&images())));
    let mut received_first = None;
    fetch(&toy(), folder.path(), &options(&[server.url()]), &mut |event| {
        if let Event::Downloading { received, total, .. } = event {
            received_first.get_or_insert((received, total));
        }
    })
    .unwrap();
    assert_eq!(server.requests(), ["/data/images.gz from 5000"]);
    assert_eq!(received_first, Some((5000, Some(gzip(&images()).len() as u64))));
    assert_installed(folder.path());
}

#[test]
fn part_restarts_if_the_server_ignores_ranges() {
    let folder = tempdir().unwrap();
    leave_part(folder.path(), &gzip(&images())[..5000]);
    let server = Server::answering(Reply::Whole(gzip(&images())));
    fetch(&toy(), folder.path(), &options(&[server.url()]), &mut |_| {}).unwrap();
    assert_eq!(server.requests(), ["/data/images.gz from 5000"]);
    assert_installed(folder.path());
}

#[test]
fn complete_part_restarts() {
    let folder = tempdir().unwrap();
    leave_part(folder.path(), &gzip(&images()));
    let server = Server::answering(Reply::Ranged(gzip(&images())));
    fetch(&toy(), folder.path(), &options(&[server.url()]), &mut |_| {}).unwrap();
    assert_eq!(server.requests().last().unwrap(), "/data/images.gz");
    assert_installed(folder.path());
}

#[test]
fn part_of_another_packing_restarts() {
    let folder = tempdir().unwrap();
    leave_part(folder.path(), &gzip_otherwise(&images())[..5000]);
    let server = Server::answering(Reply::Ranged(gzip(&images())));
    fetch(&toy(), folder.path(), &options(&[server.url()]), &mut |_| {}).unwrap();
    assert_eq!(server.requests(), ["/data/images.gz from 5000", "/data/images.gz"]);
    assert_installed(folder.path());
}

#[test]
fn next_mirror_resumes_a_broken_download() {
    let folder = tempdir().unwrap();
    let first = Server::answering(Reply::Truncated { file: gzip(&images()), sent: 7000 });
    let second = Server::answering(Reply::Ranged(gzip(&images())));
    let options = options(&[first.url(), second.url()]);
    fetch(&toy(), folder.path(), &options, &mut |_| {}).unwrap();
    assert_eq!(second.requests(), ["/data/images.gz from 7000"]);
    assert_installed(folder.path());
}

fn leave_part(folder: &Path, bytes: &[u8]) {
    fs::write(folder.join("images.gz.part"), bytes).unwrap();
}

fn assert_installed(folder: &Path) {
    assert_eq!(names_in(folder), ["images"]);
    assert_eq!(fs::read(folder.join("images")).unwrap(), images());
}
