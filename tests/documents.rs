//! Documents: links work, and the book's contents list every page.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The Markdown files below a folder, without build output and runs.
fn documents(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let visible = entries.filter(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        !name.starts_with('.') && !["target", "runs", "shared"].contains(&name.as_ref())
    });
    let mut found: Vec<PathBuf> = visible
        .flat_map(|entry| {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() { documents(&path) } else { vec![path] }
        })
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    found.sort();
    found
}

/// The text without code blocks.
fn prose(text: &str) -> String {
    let mut in_code = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// Link targets in a text: `](target)`, `src="target"`, `srcset="target"`; without web addresses.
fn links(text: &str) -> Vec<String> {
    let between = |open: &str, close: char| {
        let parts = text.split(open).skip(1);
        parts
            .filter_map(|part| part.split_once(close))
            .map(|(target, _)| target.to_owned())
            .collect()
    };
    let all: [Vec<String>; 3] =
        [between("](", ')'), between("src=\"", '"'), between("srcset=\"", '"')];
    all.concat().into_iter().filter(|target| !target.contains("://")).collect()
}

/// The anchor of a heading, as code hosts and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn has_heading(path: &Path, wanted: &str) -> bool {
    let text = prose(&fs::read_to_string(path).unwrap());
    text.lines().any(|line| line.starts_with('#') && anchor(line.trim_start_matches('#')) == wanted)
}

#[test]
fn links_are_not_broken() {
    let documents = documents(&root());
    assert!(documents.iter().any(|path| path.ends_with("docs/book/model.md")), "{documents:?}");
    let mut dead = Vec::new();
    for document in documents {
        for link in links(&prose(&fs::read_to_string(&document).unwrap())) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            if !target.exists() || !(heading.is_empty() || has_heading(&target, heading)) {
                dead.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

#[test]
fn the_contents_list_every_page_of_the_book() {
    let docs = root().join("docs");
    let summary = docs.join("SUMMARY.md");
    let listed = links(&fs::read_to_string(&summary).unwrap());
    let listed: Vec<PathBuf> = listed.iter().map(|link| docs.join(link)).collect();
    let missing: Vec<PathBuf> = documents(&docs)
        .into_iter()
        .filter(|path| *path != summary && !listed.contains(path))
        .collect();
    assert!(missing.is_empty(), "not in {}: {missing:#?}", summary.display());
}
