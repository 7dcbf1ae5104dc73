//! Routes.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, LOCATION,
    REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::Value;

use crate::guard::COOKIE_NAME;
use crate::query::{Query, decoded};
use crate::server::Shared;
use crate::{Problem, events, files, predict};

type At = State<Arc<Shared>>;

/// The page's files: path, type and content.
const PAGES: [(&str, &str, &str); 6] = [
    ("/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/app.js", SCRIPT, include_str!("page/app.js")),
    ("/draw.js", SCRIPT, include_str!("page/draw.js")),
    ("/maps.js", SCRIPT, include_str!("page/maps.js")),
    ("/walk.js", SCRIPT, include_str!("page/walk.js")),
    ("/runs.js", SCRIPT, include_str!("page/runs.js")),
];
const SCRIPT: &str = "text/javascript; charset=utf-8";
const INDEX: &str = include_str!("page/index.html");
/// The page's element for the answers to its first requests.
const START: &str = r#"<script type="application/json" id="start">"#;

/// Only our own files; no framing, no forms.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                      connect-src 'self'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// A run's report may come from a stranger: it may run its scripts, but in an origin of its own that cannot reach this
/// server.
const REPORT_POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                             base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts";

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/", get(index))
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .route("/v1/model", get(model))
        .route("/v1/predict", post(predict_one))
        .route("/v1/explain", post(explain))
        .route("/v1/runs", get(runs))
        .route("/v1/runs/{name}", get(run))
        .route("/v1/mistakes", get(mistakes))
        .route("/v1/events", get(events))
        .route("/runs/{name}/{file}", get(file));
    for (path, kind, text) in PAGES {
        let page = async move || ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text);
        router = router.route(path, get(page));
    }
    let lost = async |uri: Uri| {
        Problem::new(404, format!("nothing at {}", uri.path()))
            .hint("POST a picture to /v1/predict or /v1/explain; GET /, /v1/model, /v1/runs, /healthz or /metrics")
    };
    let wrong = async |request: Request<Body>| {
        let (path, method) = (request.uri().path(), request.method());
        let posted = ["/v1/predict", "/v1/explain"].contains(&path);
        let allowed = if posted { "POST" } else { "GET, HEAD" };
        let detail = format!("{path} takes {allowed}, got {method}");
        ([(ALLOW, allowed)], Problem::new(405, detail)).into_response()
    };
    router.fallback(lost).method_not_allowed_fallback(wrong).with_state(shared)
}

/// The route's name in metrics: one of a few, whatever path is requested.
pub(crate) fn name_of(path: &str) -> &'static str {
    const KNOWN: [&str; 9] = [
        "/",
        "/healthz",
        "/metrics",
        "/v1/model",
        "/v1/predict",
        "/v1/explain",
        "/v1/runs",
        "/v1/mistakes",
        "/v1/events",
    ];
    let known =
        KNOWN.into_iter().chain(PAGES.map(|(path, _, _)| path)).find(|known| *known == path);
    let below = [("/v1/runs/", "/v1/runs/{name}"), ("/runs/", "/runs/{name}/{file}")];
    let below =
        || below.into_iter().find(|(above, _)| path.starts_with(above)).map(|(_, name)| name);
    known.or_else(below).unwrap_or("other")
}

/// Security headers.
pub(crate) fn protect(headers: &mut HeaderMap, is_report: bool) {
    let policy = if is_report { REPORT_POLICY } else { POLICY };
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// `/?token=TOKEN` sets a cookie and redirects, so that the token leaves the address bar.
fn keep_token(shared: &Shared, query: &str) -> Result<Response<Body>, Problem> {
    let given = query.split('&').find_map(|pair| pair.strip_prefix("token="));
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_static("/"));
    if let Some(given) = given {
        let given = decoded(given)?;
        if shared.guard.is_token(&given) {
            let cookie = format!("{COOKIE_NAME}={given}; HttpOnly; SameSite=Strict; Path=/");
            let cookie = HeaderValue::from_str(&cookie);
            headers.insert(SET_COOKIE, cookie.map_err(|_| Problem::new(400, "no token"))?);
        }
    }
    Ok(response)
}

/// The page, with the answers for the model and its mistakes, which saves two requests.
async fn index(State(shared): At, uri: Uri) -> Result<Response<Body>, Problem> {
    if let Some(query) = uri.query() {
        return keep_token(&shared, query);
    }
    let (above, below) = INDEX.split_once(START).expect("the page has this element");
    let start = match shared.models.get(None).await {
        Ok(model) => {
            let start = blocking(move || {
                let mistakes = mistakes_of(&shared, None);
                Ok(serde_json::json!({ "model": model.about(), "mistakes": mistakes }).to_string())
            });
            // So that no name in it can end the script element.
            start.await?.replace('<', "\\u003c")
        }
        // The page sends the requests itself.
        Err(_) => String::new(),
    };
    let kind = "text/html; charset=utf-8";
    Ok(([(CONTENT_TYPE, kind)], [above, START, &start, below].concat()).into_response())
}

fn mistakes_of(shared: &Shared, run: Option<&str>) -> Vec<Value> {
    let folder = shared.models.folder_of(run);
    folder.and_then(|run| files::mistakes(&run)).unwrap_or_default()
}

async fn metrics(State(shared): At) -> impl IntoResponse {
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, kind)], shared.counts.to_text(shared.batches.waiting()))
}

async fn model(State(shared): At, uri: Uri) -> Result<Response<Body>, Problem> {
    let query = Query::parse(uri.query().unwrap_or_default())?;
    let model = shared.models.get(query.run.as_deref()).await?;
    Ok(json(model.about()))
}

async fn predict_one(State(shared): At, request: Request<Body>) -> Result<Response<Body>, Problem> {
    predict::predict(&shared, request).await
}

async fn explain(State(shared): At, request: Request<Body>) -> Result<Response<Body>, Problem> {
    predict::explain(&shared, request).await
}

async fn runs(State(shared): At) -> Result<Response<Body>, Problem> {
    blocking(move || Ok(json(&shared.models.list()))).await
}

async fn run(State(shared): At, Path(name): Path<String>) -> Result<Response<Body>, Problem> {
    blocking(move || shared.models.run(&name).map(|run| json(&run))).await
}

async fn mistakes(State(shared): At, uri: Uri) -> Result<Response<Body>, Problem> {
    let query = Query::parse(uri.query().unwrap_or_default())?;
    blocking(move || Ok(json(&mistakes_of(&shared, query.run.as_deref())))).await
}

async fn file(
    State(shared): At,
    Path((name, file)): Path<(String, String)>,
) -> Result<Response<Body>, Problem> {
    blocking(move || {
        let run = shared.models.folder_of(Some(&name));
        let run = run.ok_or_else(|| Problem::new(404, format!("there is no run {name:?}")))?;
        files::of_run(&run, &file)
    })
    .await
}

async fn events(State(shared): At, uri: Uri) -> Result<Response<Body>, Problem> {
    let query = Query::parse(uri.query().unwrap_or_default())?;
    events::stream(shared, query.run)
}

/// Runs code that reads files on a thread for blocking work.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let failed = |_| Problem::new(500, "the program failed on this request");
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    let text = serde_json::to_string(value).expect("plain data");
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}
