//! Concurrent fetches, and settings from a process's environment.
//!
//! A test that needs processes or an environment restarts this test program for one of the ignored tests below.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::tempdir;
use vit_fetch::{Error, Event, Options, Outcome, data_root, fetch, user_mirrors};
use vit_files::FileLock;

use crate::dataset::{gzip, images, labels, names_in, options, toy, toy_of_two};
use crate::server::{Reply, Server};

#[test]
fn concurrent_threads_make_one_download() {
    let server = mirror();
    let folder = tempdir().unwrap();
    let (source, options) = (toy_of_two(), options(&[server.url()]));
    let fetch = || fetch(&source, folder.path(), &options, &mut |_| {}).unwrap();
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(fetch)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(server.requests().len(), 2);
    let downloads = outcomes.iter().filter(|outcome| **outcome != Outcome::AlreadyThere);
    assert_eq!(downloads.count(), 1);
}

/// Once, or many times in a soak: `cargo xtask soak`.
#[test]
fn concurrent_processes_make_one_download() {
    let rounds = if env::var_os("VIT_SOAK").is_some() { 50 } else { 1 };
    for _ in 0..rounds {
        let server = mirror();
        let folder = tempdir().unwrap();
        let children: Vec<Child> =
            (0..8).map(|_| fetching_child(folder.path(), &server.url()).spawn().unwrap()).collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert_eq!(server.requests().len(), 2);
        assert_eq!(names_in(folder.path()), ["images", "labels"]);
    }
}

/// The downloading process is killed while seven others wait. One of them resumes.
#[test]
fn next_process_resumes_a_killed_ones_download() {
    // Only a part of the first file until a process was killed.
    let (killed, slow) = (Arc::new(AtomicBool::new(false)), images());
    let heard = Arc::clone(&killed);
    let server = Server::start(move |path| match path {
        "/data/images.gz" if heard.load(Ordering::Relaxed) => Reply::Ranged(gzip(&slow)),
        "/data/images.gz" => Reply::Stalling,
        _ => Reply::Ranged(gzip(&labels())),
    });
    let folder = tempdir().unwrap();
    let mut first = fetching_child(folder.path(), &server.url()).spawn().unwrap();
    while server.requests().is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    let others: Vec<Child> =
        (0..7).map(|_| fetching_child(folder.path(), &server.url()).spawn().unwrap()).collect();
    killed.store(true, Ordering::Relaxed);
    first.kill().unwrap();
    first.wait().unwrap();
    for mut child in others {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(names_in(folder.path()), ["images", "labels"]);
    // The first file twice, the other once.
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn waiting_for_another_process_is_reported_and_limited() {
    let folder = tempdir().unwrap();
    let _held = FileLock::acquire(&folder.path().join(".lock")).unwrap();
    let options = Options { total: Duration::from_millis(200), ..options(&[]) };
    let mut waits = 0;
    let error = fetch(&toy(), folder.path(), &options, &mut |event| {
        waits += usize::from(matches!(event, Event::Waiting { .. }));
    })
    .unwrap_err();
    assert_eq!(waits, 1);
    assert!(matches!(error, Error::Busy { .. }), "{error}");
}

#[test]
fn environment_proxy_is_used() {
    let proxy = mirror();
    let folder = tempdir().unwrap();
    let mut child = fetching_child(folder.path(), "http://mirror.invalid/data");
    assert!(child.env("HTTP_PROXY", proxy.url()).status().unwrap().success());
    assert!(proxy.requests().contains(&"CONNECT mirror.invalid:80".to_owned()));
    assert_eq!(names_in(folder.path()), ["images", "labels"]);
}

#[test]
fn no_proxy_is_respected() {
    let proxy = mirror();
    let folder = tempdir().unwrap();
    let mut child = fetching_child(folder.path(), "http://mirror.invalid/data");
    child.env("HTTP_PROXY", proxy.url()).env("NO_PROXY", "mirror.invalid");
    assert!(!child.output().unwrap().status.success());
    assert!(proxy.requests().is_empty());
}

#[test]
fn dead_proxy_fails_within_seconds_and_localhost_stays_reachable() {
    let folder = tempdir().unwrap();
    let begun = Instant::now();
    let mut child = fetching_child(folder.path(), "http://mirror.invalid/data");
    child.env("HTTP_PROXY", Server::unreachable());
    assert!(!child.output().unwrap().status.success());
    assert!(begun.elapsed() < Duration::from_secs(4));

    let mut child = fetching_child(folder.path(), &mirror().url());
    assert!(child.env("HTTP_PROXY", Server::unreachable()).status().unwrap().success());
}

#[test]
fn environment_sets_data_root_and_mirror() {
    let mut child = child("child_reads_its_environment");
    child.env("VIT_DATA", "/data").env("VIT_MIRROR", "http://mirror/");
    assert!(child.status().unwrap().success());
}

#[cfg(target_os = "linux")]
#[test]
fn platform_cache_is_the_last_resort() {
    // An empty variable counts as unset.
    let mut child = child("child_falls_back_to_the_cache");
    child.env("VIT_DATA", "").env("VIT_MIRROR", "").env("XDG_CACHE_HOME", "/cache");
    assert!(child.status().unwrap().success());
}

#[test]
#[ignore = "is one of several processes, which other tests start"]
fn child_fetches() {
    let Some(folder) = env::var_os("TEST_FOLDER") else { return };
    let options = options(&[env::var("TEST_MIRROR").unwrap()]);
    fetch(&toy_of_two(), Path::new(&folder), &options, &mut |_| {}).unwrap();
}

#[test]
#[ignore = "needs an environment, which another test gives it"]
fn child_reads_its_environment() {
    if env::var_os("VIT_MIRROR").is_some() {
        assert_eq!(data_root(None).unwrap(), PathBuf::from("/data"));
        assert_eq!(data_root(Some("here".into())).unwrap(), PathBuf::from("here"));
        assert_eq!(mirrors(None), ["http://mirror/"]);
        assert_eq!(mirrors(Some("http://other/")), ["http://other/"]);
    }
}

#[cfg(target_os = "linux")]
#[test]
#[ignore = "needs an environment, which another test gives it"]
fn child_falls_back_to_the_cache() {
    if env::var_os("VIT_MIRROR").is_some() {
        assert_eq!(data_root(None).unwrap(), PathBuf::from("/cache/vit"));
        assert!(mirrors(None).is_empty());
    }
}

fn mirror() -> Server {
    Server::start(|path| match path {
        "/data/images.gz" => Reply::Ranged(gzip(&images())),
        _ => Reply::Ranged(gzip(&labels())),
    })
}

fn fetching_child(folder: &Path, mirror: &str) -> Command {
    let mut command = child("child_fetches");
    command.env("TEST_FOLDER", folder).env("TEST_MIRROR", mirror);
    command
}

/// This test program for one ignored test, without the user's proxies.
fn child(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    // Its failures go to stderr; its stdout would be taken for this program's.
    command.args(["--ignored", "--nocapture", "--exact", &format!("processes::{test}")]);
    command.stdout(Stdio::null());
    for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    command
}

fn mirrors(explicit: Option<&str>) -> Vec<String> {
    user_mirrors(explicit).unwrap().iter().map(ToString::to_string).collect()
}
