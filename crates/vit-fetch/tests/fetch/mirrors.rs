//! Correct and faulty answers of mirrors.

use std::fs;
use std::time::{Duration, Instant};

use tempfile::tempdir;
use vit_fetch::{Attempt, Error, Event, Mismatch, Options, Outcome, Reason, Source, fetch};

use crate::dataset::{
    gzip, gzip_otherwise, images, labels, names_in, options, packed_toy, toy, toy_of_two,
};
use crate::server::{Reply, Server};

#[test]
fn files_are_unpacked_and_installed() {
    let server = Server::start(|path| match path {
        "/data/images.gz" => Reply::Ranged(gzip(&images())),
        "/data/labels.gz" => Reply::Whole(gzip(&labels())),
        _ => Reply::Status(404),
    });
    let folder = tempdir().unwrap();
    let folder = &folder.path().join("made/on the way");
    let mut installed = Vec::new();
    let outcome = fetch(&toy_of_two(), folder, &options(&[server.url()]), &mut |event| {
        if let Event::Installed { file } = event {
            installed.push(file);
        }
    });
    assert_eq!(outcome.unwrap(), Outcome::Downloaded { files: 2 });
    assert_eq!(installed, ["images", "labels"]);
    assert_eq!(names_in(folder), ["images", "labels"]);
    assert_eq!(fs::read(folder.join("images")).unwrap(), images());
    assert_eq!(fs::read(folder.join("labels")).unwrap(), labels());

    let again = fetch(&toy_of_two(), folder, &options(&[server.url()]), &mut |_| {});
    assert_eq!(again.unwrap(), Outcome::AlreadyThere);
    assert_eq!(server.requests(), ["/data/images.gz", "/data/labels.gz"]);
}

#[test]
fn any_packing_of_the_published_bytes_is_accepted() {
    let server = Server::answering(Reply::Ranged(gzip_otherwise(&images())));
    let folder = tempdir().unwrap();
    fetch(&toy(), folder.path(), &options(&[server.url()]), &mut |_| {}).unwrap();
    assert_eq!(fs::read(folder.path().join("images")).unwrap(), images());
}

#[test]
fn file_with_a_packed_digest_stays_packed() {
    let server = Server::answering(Reply::Ranged(gzip(&images())));
    let folder = tempdir().unwrap();
    let (source, options) = (packed_toy(), options(&[server.url()]));
    fetch(&source, folder.path(), &options, &mut |_| {}).unwrap();
    assert_eq!(names_in(folder.path()), ["images.gz"]);
    assert_eq!(fs::read(folder.path().join("images.gz")).unwrap(), gzip(&images()));
    let again = fetch(&source, folder.path(), &options, &mut |_| {}).unwrap();
    assert_eq!(again, Outcome::AlreadyThere);
}

#[test]
fn another_packing_is_rejected_for_a_packed_digest() {
    let reason = reason_of(&packed_toy(), Reply::Ranged(gzip_otherwise(&images())));
    assert!(matches!(reason, Reason::Mismatch(Mismatch::Sha256 { .. })), "{reason}");
}

#[test]
fn error_status_is_named() {
    for status in [403, 404, 500] {
        let reason = reason_of(&toy(), Reply::Status(status));
        assert_eq!(reason.to_string(), format!("answered with HTTP status {status}"));
    }
}

#[test]
fn login_page_is_rejected() {
    assert!(matches!(reason_of(&toy(), Reply::Html), Reason::HtmlPage));
}

#[test]
fn non_gzip_bytes_are_shown() {
    let reason = reason_of(&toy(), Reply::Whole(b"<!doctype html>".to_vec()));
    let expected = "sent another file: expected a gzip file, got something that begins with \
                    \"<!doctype html>\"";
    assert_eq!(reason.to_string(), expected);
    let reason = reason_of(&toy(), Reply::Whole(Vec::new()));
    assert_eq!(reason.to_string(), "sent another file: expected a gzip file, got nothing");
}

#[test]
fn altered_file_is_rejected() {
    let mut altered = images();
    altered[7] ^= 1;
    let reason = reason_of(&toy(), Reply::Ranged(gzip(&altered)));
    assert!(matches!(reason, Reason::Mismatch(Mismatch::Sha256 { .. })), "{reason}");
}

#[test]
fn damaged_gzip_is_rejected() {
    let mut damaged = gzip(&images());
    let last = damaged.len() - 8;
    // The checksum of the gzip format.
    damaged[last] ^= 1;
    let reason = reason_of(&toy(), Reply::Ranged(damaged));
    assert!(matches!(reason, Reason::Mismatch(Mismatch::DamagedGzip(_))), "{reason}");
}

#[test]
fn file_of_another_length_is_rejected() {
    let reason = reason_of(&toy(), Reply::Ranged(gzip(&images()[..100])));
    let short = Mismatch::TooShort { expected: 20_000, got: 100 };
    assert_eq!(reason.to_string(), Reason::Mismatch(short).to_string());
}

#[test]
fn truncated_file_at_the_mirror_is_rejected() {
    let whole = gzip(&images());
    let reason = reason_of(&toy(), Reply::Whole(whole[..whole.len() / 2].to_vec()));
    assert!(matches!(reason, Reason::Mismatch(Mismatch::DamagedGzip(_))), "{reason}");
}

#[test]
fn broken_connection_reports_the_received_size() {
    let file = gzip(&images());
    let expected = file.len() as u64;
    match reason_of(&toy(), Reply::Truncated { file, sent: 5000 }) {
        Reason::Truncated { expected: announced, got: 5000 } => assert_eq!(announced, expected),
        reason => panic!("{reason}"),
    }
}

#[test]
fn gzip_bomb_is_not_unpacked_beyond_the_limit() {
    let reason = reason_of(&toy(), Reply::Whole(gzip(&vec![0; 10_000_000])));
    let expected = "sent another file: expected 20000 bytes, got more";
    assert_eq!(reason.to_string(), expected);
}

#[test]
fn endless_answer_is_cut_off() {
    assert!(matches!(reason_of(&toy(), Reply::Endless), Reason::TooLong { .. }));
}

#[test]
fn answer_announced_as_too_long_is_not_downloaded() {
    assert!(matches!(reason_of(&toy(), Reply::Whole(vec![0; 50_000])), Reason::TooLong { .. }));
}

#[test]
fn stalling_answer_is_abandoned() {
    let server = Server::answering(Reply::Stalling);
    let stall = Duration::from_millis(300);
    let options = Options { stall, ..options(&[server.url()]) };
    let reason = reason_with(&toy(), &options);
    assert_eq!(reason.to_string(), "sent nothing for 300ms");
}

#[test]
fn dripping_answer_ends_with_the_time_limit() {
    let server = Server::answering(Reply::Dripping(gzip(&images())));
    let total = Duration::from_millis(400);
    let options = Options { total, ..options(&[server.url()]) };
    let reason = reason_with(&toy(), &options);
    assert_eq!(reason.to_string(), "the time for the whole download, 400ms, is over");
}

#[test]
fn dripping_mirror_is_left_early_and_the_next_resumes() {
    let drips = Server::answering(Reply::Dripping(gzip(&images())));
    let whole = Server::answering(Reply::Ranged(gzip(&images())));
    let folder = tempdir().unwrap();
    let rate_window = Duration::from_millis(300);
    let options = Options { rate_window, ..options(&[drips.url(), whole.url()]) };
    let (begun, mut failed) = (Instant::now(), Vec::new());
    fetch(&toy(), folder.path(), &options, &mut |event| {
        if let Event::MirrorFailed(Attempt { reason, .. }) = event {
            failed.push(reason.to_string());
        }
    })
    .unwrap();
    assert!(begun.elapsed() < options.total / 2, "{:?}", begun.elapsed());
    assert_eq!(fs::read(folder.path().join("images")).unwrap(), images());
    let [reason] = &failed[..] else { panic!("{failed:?}") };
    assert!(reason.ends_with(", expected at least 1000"), "{reason}");
    let [request] = &whole.requests()[..] else { panic!("{:?}", whole.requests()) };
    let start = request.strip_prefix("/data/images.gz from ").unwrap();
    assert!(start.parse::<u64>().unwrap() > 0);
}

#[test]
fn time_is_divided_among_the_remaining_mirrors() {
    let drips = [(); 2].map(|()| Server::answering(Reply::Dripping(gzip(&images()))));
    let whole = Server::answering(Reply::Ranged(gzip(&images())));
    let folder = tempdir().unwrap();
    let total = Duration::from_secs(6);
    let urls = [drips[0].url(), drips[1].url(), whole.url()];
    let options = Options { total, ..options(&urls) };
    let mut shares = Vec::new();
    fetch(&toy(), folder.path(), &options, &mut |event| {
        if let Event::MirrorFailed(attempt) = event {
            let Reason::TurnOver(share) = attempt.reason else { panic!("{attempt}") };
            shares.push(share);
        }
    })
    .unwrap();
    // A third of the time, then half of the rest, minus delays of a busy machine.
    assert_eq!(shares.len(), 2);
    let sound = total / 4..=total / 3;
    assert!(shares.iter().all(|share| sound.contains(share)), "{shares:?}");
    assert_eq!(fs::read(folder.path().join("images")).unwrap(), images());
}

#[test]
fn mirror_secrets_reach_the_mirror_and_no_message() {
    let mirror = Server::start(|path| match path {
        "/data/images.gz?token=SECRET&a=b/" => Reply::Ranged(gzip(&images())),
        _ => Reply::Status(404),
    });
    let with_secrets = |url: String| {
        url.replace("http://", "http://user:SECRET@").trim_end_matches('/').to_owned()
            + "?token=SECRET&a=b/"
    };
    let bad = Server::answering(Reply::Status(403));
    let urls = [bad.url(), Server::unreachable(), mirror.url()].map(with_secrets);
    let options = options(&urls);
    let folder = tempdir().unwrap();
    let mut said = format!("{options:?}");
    fetch(&toy(), folder.path(), &options, &mut |event| said += &format!("{event:?}")).unwrap();
    assert_eq!(fs::read(folder.path().join("images")).unwrap(), images());
    // "user:SECRET" in base64.
    assert_eq!(mirror.authorizations(), ["basic dxnlcjptrunsrvq="]);
    assert!(said.contains(&format!("{}images.gz", bad.url())), "{said}");
    let error = fetch(
        &toy(),
        tempdir().unwrap().path(),
        &Options { mirrors: options.mirrors[..2].to_vec(), ..options },
        &mut |_| {},
    );
    let error = error.unwrap_err();
    said += &format!("{error} {error:?}");
    assert!(!said.contains("SECRET") && !said.contains("token"), "{said}");
}

#[test]
fn unreachable_mirror_is_named() {
    let reason = reason_with(&toy(), &options(&[Server::unreachable()]));
    assert!(matches!(reason, Reason::Transport(_)), "{reason}");
}

#[test]
fn mirrors_are_tried_in_order_and_a_failed_one_last() {
    let bad = Server::answering(Reply::Status(403));
    let good = Server::start(|path| match path {
        "/data/images.gz" => Reply::Ranged(gzip(&images())),
        _ => Reply::Ranged(gzip(&labels())),
    });
    let folder = tempdir().unwrap();
    let mut failed = Vec::new();
    fetch(&toy_of_two(), folder.path(), &options(&[bad.url(), good.url()]), &mut |event| {
        if let Event::MirrorFailed(attempt) = event {
            failed.push(attempt.to_string());
        }
    })
    .unwrap();
    assert_eq!(failed, [format!("{}images.gz: answered with HTTP status 403", bad.url())]);
    assert_eq!(bad.requests(), ["/data/images.gz"]);
    assert_eq!(good.requests(), ["/data/images.gz", "/data/labels.gz"]);
}

#[test]
fn user_mirrors_come_before_built_in_ones() {
    let built_in = Server::answering(Reply::Ranged(gzip(&images())));
    let users = Server::answering(Reply::Status(404));
    let mirrors: &'static [&'static str] = vec![&*built_in.url().leak()].leak();
    let source = Source { mirrors, ..toy() };
    let folder = tempdir().unwrap();
    fetch(&source, folder.path(), &options(&[users.url()]), &mut |_| {}).unwrap();
    assert_eq!((users.requests().len(), built_in.requests().len()), (1, 1));
}

#[test]
fn error_lists_every_mirror_with_a_hint() {
    let (first, second) = (Server::answering(Reply::Status(403)), Server::answering(Reply::Html));
    let folder = tempdir().unwrap();
    let options = options(&[first.url(), second.url()]);
    let error = fetch(&toy(), folder.path(), &options, &mut |_| {}).unwrap_err();
    let expected = format!(
        "cannot download images: {}images.gz: answered with HTTP status 403; \
         {}images.gz: answered with an HTML page instead of the file",
        first.url(),
        second.url()
    );
    assert_eq!(error.to_string(), expected);
    let hint = error.hint().unwrap();
    assert!(hint.contains("--mirror URL") && hint.contains("VIT_DATA"), "{hint}");
    assert!(names_in(folder.path()).is_empty());
}

/// Why a single mirror with this answer fails. Nothing may be installed, and no wrong bytes kept.
fn reason_of(source: &Source, reply: Reply) -> Reason {
    let server = Server::answering(reply);
    reason_with(source, &options(&[server.url()]))
}

fn reason_with(source: &Source, options: &Options) -> Reason {
    let folder = tempdir().unwrap();
    let error = fetch(source, folder.path(), options, &mut |_| {}).unwrap_err();
    let Error::Download { mut attempts, .. } = error else { panic!("{error}") };
    let reason = attempts.pop().unwrap().reason;
    let resumable =
        matches!(reason, Reason::Truncated { .. } | Reason::Stalled(_) | Reason::OutOfTime(_));
    let kept: &[&str] = if resumable { &["images.gz.part"] } else { &[] };
    assert_eq!(names_in(folder.path()), kept, "{reason}");
    reason
}
