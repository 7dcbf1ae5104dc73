//! A server above its limits, and with a failing model.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vit_serve::{
    ExplainOptions, Input, Limits, Model, PredictOptions, Prepared, Problem, Server, Stop, Subject,
};

/// Time limit of an answer on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A model that waits until the gate is open, and panics at the picture `panic`.
struct Gated {
    about: Value,
    gate: Arc<Mutex<()>>,
    is_quick: bool,
}

impl Model for Gated {
    fn about(&self) -> &Value {
        &self.about
    }

    fn is_quick(&self) -> bool {
        self.is_quick
    }

    fn prepare(&self, input: Input<'_>, _options: &PredictOptions) -> Result<Prepared, Problem> {
        let Input::File(bytes) = input else { unreachable!("pictures are sent") };
        let values = bytes.iter().copied().map(f32::from).collect();
        Ok(Prepared { values, inverted: false, description: String::new() })
    }

    fn predict(&self, images: &[Vec<f32>]) -> Result<Vec<Vec<f32>>, Problem> {
        let _open = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(images.iter().all(|image| image.len() != b"panic".len()));
        Ok(images.to_vec())
    }

    fn answer(
        &self,
        _image: &Prepared,
        row: Vec<f32>,
        _options: &PredictOptions,
    ) -> Result<Vec<u8>, Problem> {
        Ok(serde_json::to_vec(&row).unwrap())
    }

    fn explain(
        &self,
        _image: &Prepared,
        _options: &PredictOptions,
        _parts: &ExplainOptions,
    ) -> Result<Vec<u8>, Problem> {
        unreachable!("the tests ask for no explanation")
    }
}

struct Running {
    address: SocketAddr,
    stop: Stop,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn start(gate: &Arc<Mutex<()>>, is_quick: bool, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gate = Arc::clone(gate);
        let model: Arc<dyn Model> = Arc::new(Gated { about: json!({}), gate, is_quick });
        let load = Box::new(move |_: &Path| Ok(Arc::clone(&model)));
        let subject = Subject::Model(PathBuf::from("model"));
        let server = Server::on(listener, (subject, load), None, limits).unwrap();
        let (address, stop) = (server.address(), server.stop());
        let thread = Some(thread::spawn(|| server.run().unwrap()));
        Self { address, stop, thread }
    }

    /// Status, head and body.
    fn post(&self, body: &str) -> (u16, String, String) {
        self.ask(&format!("POST /v1/predict HTTP/1.1\r\nContent-Length: {}\r\n", body.len()), body)
    }

    fn ask(&self, head: &str, body: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("{head}Host: localhost\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    fn wait_for(&self, metric: &str) {
        let begun = Instant::now();
        loop {
            let (_, _, metrics) = self.ask("GET /metrics HTTP/1.1\r\n", "");
            if metrics.lines().any(|line| line == metric) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{metric} in {metrics}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

#[test]
fn a_full_queue_rejects_new_requests_and_answers_waiting_ones() {
    let gate = Arc::default();
    let limits = Limits { queue: 2, batch: 1, threads: 2, ..Limits::default() };
    let server = Running::start(&gate, false, limits);
    let closed = gate.lock().unwrap();
    let server = &server;
    thread::scope(|scope| {
        let first = scope.spawn(|| server.post("a"));
        // The first request is being computed and is not in the queue.
        server.wait_for("vit_batch_images_count 1");
        let waiting = ["b", "c"].map(|body| scope.spawn(move || server.post(body)));
        server.wait_for("vit_queue_images 2");
        let (status, head, body) = server.post("d");
        assert_eq!(status, 503, "{body}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        assert!(head.contains("retry-after: 1"), "{head}");
        let problem: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["detail"], "all 2 places in the queue are taken");
        assert!(problem["hint"].as_str().unwrap().contains("later"));
        drop(closed);
        let expected = ["[97.0]", "[98.0]", "[99.0]"];
        for (answer, expected) in [first].into_iter().chain(waiting).zip(expected) {
            let (status, _, body) = answer.join().unwrap();
            assert_eq!((status, body.as_str()), (200, expected));
        }
    });
    server.wait_for("vit_queue_images 0");
}

#[test]
fn a_panicking_model_fails_only_its_batch() {
    let server = Running::start(&Arc::default(), false, Limits::default());
    let (status, _, body) = server.post("panic");
    assert_eq!(status, 500);
    assert!(body.contains("the model failed"), "{body}");
    assert_eq!(server.post("b").0, 200);
}

#[test]
fn a_request_that_never_ends_does_not_delay_the_end() {
    for is_quick in [false, true] {
        let gate = Arc::default();
        let limits = Limits { threads: 1, end: Duration::from_millis(50), ..Limits::default() };
        let mut server = Running::start(&gate, is_quick, limits);
        let closed = gate.lock().unwrap();
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream
            .write_all(
                b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\na",
            )
            .unwrap();
        thread::sleep(Duration::from_millis(100));
        let begun = Instant::now();
        server.stop.stop();
        server.thread.take().unwrap().join().unwrap();
        assert!(begun.elapsed() < PATIENCE / 2);
        drop(closed);
    }
}
