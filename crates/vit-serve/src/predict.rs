//! The picture of a request: read, preprocessed, and classified or explained.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, Response};
use axum::response::IntoResponse;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use tokio::task::spawn_blocking;

use crate::query::Query;
use crate::server::{Limits, Shared};
use crate::{Input, Model, Prepared, Problem};

/// Bytes up to which a picture is decoded on the thread that read it, even if they expand a thousandfold.
const QUICKLY_DECODED: usize = 1 << 12;

pub(crate) async fn predict(
    shared: &Arc<Shared>,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let (query, model, image) = prepare(shared, request).await?;
    let probabilities = shared.batches.predict(Arc::clone(&model), image.values.clone()).await?;
    model.answer(&image, probabilities, &query.predict).map(json)
}

pub(crate) async fn explain(
    shared: &Arc<Shared>,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let (query, model, image) = prepare(shared, request).await?;
    let _permit = shared.work().await?;
    let explain = move || model.explain(&image, &query.predict, &query.explain);
    spawn_blocking(explain).await.unwrap_or_else(|_| Err(failed())).map(json)
}

async fn prepare(
    shared: &Arc<Shared>,
    request: Request<Body>,
) -> Result<(Query, Arc<dyn Model>, Prepared), Problem> {
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let model = shared.models.get(query.run.as_deref()).await?;
    let is_json = is_json(request.headers())?;
    let bytes = body(request, &shared.limits).await?;
    if bytes.is_empty() {
        return Err(Problem::new(400, "expected a picture, got an empty body")
            .hint("send the file itself: curl --data-binary @digit.png ADDRESS/v1/predict"));
    }
    if bytes.len() <= QUICKLY_DECODED {
        let image = prepared(&*model, &bytes, is_json, &query)?;
        return Ok((query, model, image));
    }
    let _permit = shared.work().await?;
    let prepare = move || {
        let image = prepared(&*model, &bytes, is_json, &query)?;
        Ok((query, model, image))
    };
    spawn_blocking(prepare).await.unwrap_or_else(|_| Err(failed()))
}

fn failed() -> Problem {
    Problem::new(500, "the program failed on this request")
}

fn prepared(
    model: &dyn Model,
    bytes: &[u8],
    is_json: bool,
    query: &Query,
) -> Result<Prepared, Problem> {
    if !is_json {
        return model.prepare(Input::File(bytes), &query.predict);
    }
    let Pixels { pixels } = serde_json::from_slice(bytes).map_err(|error| {
        Problem::new(400, format!("cannot parse the JSON body: {error}"))
            .hint(r#"send {"pixels": [[0, 255, ...], ...]}: rows of numbers from 0 to 255, or of [red, green, blue]"#)
    })?;
    let (values, width, height, channels) = pixels.flat()?;
    model.prepare(Input::Pixels { width, height, channels, pixels: &values }, &query.predict)
}

/// Pixels as JSON.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pixels {
    pixels: Rows,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Rows {
    Grey(Vec<Vec<u8>>),
    Colour(Vec<Vec<[u8; 3]>>),
}

impl Rows {
    fn flat(self) -> Result<(Vec<u8>, usize, usize, usize), Problem> {
        match self {
            Self::Grey(rows) => Ok((rows.concat(), width(&rows)?, rows.len(), 1)),
            Self::Colour(rows) => {
                let width = width(&rows)?;
                Ok((rows.concat().as_flattened().to_vec(), width, rows.len(), 3))
            }
        }
    }
}

/// The width of equally wide rows.
fn width<T>(rows: &[Vec<T>]) -> Result<usize, Problem> {
    let width = rows.first().map_or(0, Vec::len);
    if width == 0 {
        return Err(Problem::new(422, "expected rows of pixels, got none"));
    }
    match rows.iter().position(|row| row.len() != width) {
        None => Ok(width),
        Some(row) => {
            let got = rows[row].len();
            let detail = format!("expected rows of {width} pixels, got {got} in row {row}");
            Err(Problem::new(422, detail))
        }
    }
}

/// Whether the body is JSON; any other body is a picture, whatever its declared type.
fn is_json(headers: &HeaderMap) -> Result<bool, Problem> {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return Ok(false) };
    let kind = kind.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => Ok(true),
        // The types that curl's --data-binary declares.
        "" | "application/octet-stream" | "application/x-www-form-urlencoded" => Ok(false),
        _ if kind.starts_with("image/") => Ok(false),
        _ => {
            Err(Problem::new(415, format!("expected a picture or application/json, got {kind:?}"))
                .hint("send the picture itself as the body, not a form"))
        }
    }
}

/// Reads the complete body, within limits of size and time.
async fn body(request: Request<Body>, limits: &Limits) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::new(413, format!("expected a body of at most {} bytes", limits.body))
            .hint("send a smaller picture")
    };
    let announced = request.headers().get("content-length").and_then(|length| length.to_str().ok());
    if announced.and_then(|length| length.parse::<u64>().ok()) > Some(limits.body as u64) {
        return Err(too_large());
    }
    let read = Limited::new(request.into_body(), limits.body).collect();
    match tokio::time::timeout(limits.time, read).await {
        Ok(Ok(read)) => Ok(read.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Problem::new(400, format!("the body is incomplete: {error}"))),
        Err(_) => {
            let seconds = limits.time.as_secs_f64();
            Err(Problem::new(408, format!("the body did not arrive within {seconds} s")))
        }
    }
}

fn json(bytes: Vec<u8>) -> Response<Body> {
    ([(CONTENT_TYPE, "application/json")], bytes).into_response()
}
