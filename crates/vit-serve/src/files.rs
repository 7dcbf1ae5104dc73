//! The files of a run that browsers may fetch.

use std::path::Path;

use axum::body::Body;
use axum::http::Response;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use serde_json::Value;
use vit_files::{open_file, text_of_at_most};
use vit_run::{METRICS, REPORT, TABLE};

use crate::Problem;

/// Size limit of a file; the report of a large run has some megabytes.
const MOST_BYTES: u64 = 64 << 20;

/// Number of mistakes shown.
const MOST_MISTAKES: usize = 15;

/// The text in the report before its worst mistakes.
const BEGIN: &str = r#"<script type="application/json" id="mistakes">"#;
const END: &str = "</script>";

/// # Errors
/// If the file is not served, or does not exist.
pub(crate) fn of_run(run: &Path, name: &str) -> Result<Response<Body>, Problem> {
    let kind = match name {
        REPORT => "text/html; charset=utf-8",
        TABLE => "text/csv; charset=utf-8",
        METRICS => "application/x-ndjson",
        _ => {
            return Err(Problem::new(
                404,
                format!(
                    "no file {name:?} of a run is served, expected report.html, metrics.csv or metrics.jsonl"
                ),
            ));
        }
    };
    let text = text(&run.join(name))
        .ok_or_else(|| Problem::new(404, format!("the run has no {name} yet")))?;
    Ok(([(CONTENT_TYPE, kind)], text).into_response())
}

/// The worst misclassified test images, from the run's report.
pub(crate) fn mistakes(run: &Path) -> Option<Vec<Value>> {
    let report = text(&run.join(REPORT))?;
    let (_, rest) = report.split_once(BEGIN)?;
    let (found, _) = rest.split_once(END)?;
    // A foreign report may contain anything there.
    let mut found: Vec<Value> = serde_json::from_str(found).ok()?;
    found.truncate(MOST_MISTAKES);
    Some(found)
}

pub(crate) fn text(path: &Path) -> Option<String> {
    open_file(path).and_then(|file| text_of_at_most(MOST_BYTES, file)).ok()
}
