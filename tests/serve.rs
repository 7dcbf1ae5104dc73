//! `vit serve`: answers, errors, limits and shutdown, tested with raw clients.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::running::Running;
use crate::support::Sandbox;

/// Generous limit for any answer, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server, stopped with the test.
struct Served {
    sandbox: Sandbox,
    running: Running,
    address: String,
}

impl Served {
    /// Serves a run on the built-in digits.
    fn digits() -> Self {
        Self::of(trained(), "serve run")
    }

    fn of(sandbox: Sandbox, words: &str) -> Self {
        let mut running = Running::start(&mut sandbox.command(words));
        let address = address_of(&mut running);
        Self { sandbox, running, address }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends these bytes; returns the answer.
    fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // The answer may arrive before everything is sent.
        let _ = stream.write_all(bytes);
        Answer::read(&mut stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path, &[], b"").as_slice())
    }

    fn post(&self, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        self.send(&request("POST", path, headers, body))
    }
}

/// The address on the first line of stdout.
fn address_of(running: &mut Running) -> String {
    let mut line = Vec::new();
    let stdout = running.child().stdout.as_mut().unwrap();
    let mut byte = [0];
    while stdout.read(&mut byte).unwrap() == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    let line = String::from_utf8(line).unwrap();
    line.trim_start_matches("http://").trim_end_matches('/').to_owned()
}

/// A sandbox with a short run on the built-in digits, trained once for all tests.
fn trained() -> Sandbox {
    static RUN: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    let files = RUN.get_or_init(|| {
        let sandbox = Sandbox::new();
        sandbox.train_digits("--max-steps 150 --log-every 50");
        let names = [
            "config.toml",
            "env.json",
            "metrics.jsonl",
            "metrics.csv",
            "model.safetensors",
            "report.html",
        ];
        names.map(|name| (name.to_owned(), sandbox.read(&format!("run/{name}")))).into()
    });
    let sandbox = Sandbox::new();
    for (name, bytes) in files {
        sandbox.write(&format!("run/{name}"), bytes);
    }
    sandbox
}

fn request(method: &str, path: &str, headers: &[&str], body: &[u8]) -> Vec<u8> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// A request for a prediction after which the connection stays open.
fn keeps_open(picture: &[u8]) -> Vec<u8> {
    let length = picture.len();
    let head =
        format!("POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), picture].concat()
}

/// A complete answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn read(stream: &mut TcpStream) -> Self {
        Self::try_read(stream).expect("an answer")
    }

    /// `None` if the connection ends early.
    fn try_read(stream: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&bytes[..at]).to_lowercase();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().unwrap());
                if bytes.len() >= at + 4 + length {
                    let status = head[9..12].parse().ok()?;
                    return Some(Self {
                        status,
                        head,
                        body: bytes[at + 4..at + 4 + length].to_vec(),
                    });
                }
            }
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            }
        }
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that it is a problem with this status; returns its text.
    #[track_caller]
    fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let json = self.json();
        assert_eq!(json["status"], status);
        json["detail"].as_str().unwrap().to_owned()
    }
}

/// Pictures of strokes, as PNG.
fn pictures() -> Vec<Vec<u8>> {
    let line = |x0: f32, y0: f32, x1: f32, y1: f32| {
        move |x: f32, y: f32| {
            let (dx, dy) = (x1 - x0, y1 - y0);
            let along = (((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
            let (ex, ey) = (x - x0 - along * dx, y - y0 - along * dy);
            (ex * ex + ey * ey).sqrt()
        }
    };
    let draw = |side: usize, lines: &[[f32; 4]]| {
        let scale = side as f32 / 28.0;
        let pixel = |at: usize| {
            let (x, y) = ((at % side) as f32 / scale, (at / side) as f32 / scale);
            let near =
                lines.iter().map(|&[a, b, c, d]| line(a, b, c, d)(x, y)).fold(f32::MAX, f32::min);
            (255.0 * (2.0 - near).clamp(0.0, 1.0)) as u8
        };
        let pixels: Vec<u8> = (0..side * side).map(pixel).collect();
        crate::png_file::grey(side as u32, &pixels, false)
    };
    vec![
        draw(28, &[[7.0, 6.0, 20.0, 6.0], [20.0, 6.0, 11.0, 22.0]]),
        draw(28, &[[14.0, 5.0, 14.0, 23.0]]),
        draw(100, &[[7.0, 6.0, 20.0, 6.0], [20.0, 6.0, 11.0, 22.0]]),
        draw(60, &[[9.0, 5.0, 8.0, 14.0], [8.0, 14.0, 20.0, 14.0], [18.0, 5.0, 18.0, 24.0]]),
    ]
}

/// The output of `vit predict`, without the name.
fn predicted(sandbox: &Sandbox, picture: &[u8]) -> Value {
    sandbox.write("picture.png", picture);
    let mut line = sandbox.run("predict run picture.png --top-k 3").succeeded().json();
    line.as_object_mut().unwrap().remove("image");
    line
}

#[test]
fn answers_equal_predicts_alone_and_batched() {
    let served = Served::digits();
    let pictures = pictures();
    let expected: Vec<Value> =
        pictures.iter().map(|picture| predicted(&served.sandbox, picture)).collect();
    for (picture, expected) in pictures.iter().zip(&expected) {
        let answer = served.post("/v1/predict?top_k=3", &[], picture);
        assert_eq!((answer.status, answer.json()), (200, expected.clone()));
    }
    // From many connections at once, so that they are batched.
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (served, pictures, expected) = (&served, &pictures, &expected);
            scope.spawn(move || {
                for turn in 0..25 {
                    let at = (thread + turn) % pictures.len();
                    let answer = served.post("/v1/predict?top_k=3", &[], &pictures[at]);
                    assert_eq!((answer.status, answer.json()), (200, expected[at].clone()));
                }
            });
        }
    });
    let metrics = String::from_utf8(served.get("/metrics").body).unwrap();
    let count =
        format!("vit_requests_total{{route=\"/v1/predict\",status=\"200\"}} {}", 4 + 16 * 25);
    assert!(metrics.lines().any(|line| line == count), "{count} in {metrics}");
}

#[test]
fn pixels_give_the_same_answer_as_a_picture() {
    let served = Served::digits();
    let pixel = |x: usize, y: usize| if (5..7).contains(&y) || x + y == 27 { 255 } else { 0 };
    let rows: Vec<Vec<u8>> = (0..28).map(|y| (0..28).map(|x| pixel(x, y)).collect()).collect();
    let body = json!({ "pixels": rows }).to_string();
    let kind = ["Content-Type: application/json"];
    let of_json = served.post("/v1/predict", &kind, body.as_bytes()).json();
    let picture = crate::png_file::grey(28, &rows.concat(), false);
    assert_eq!(of_json, served.post("/v1/predict", &["Content-Type: image/png"], &picture).json());
    for (body, status, says) in [
        ("{\"pixels\": [[0, 256]]}", 400, "cannot parse the JSON body"),
        ("{\"pixels\": [[0, 1], [0]]}", 422, "expected rows of 2 pixels, got 1 in row 1"),
        ("{\"pixels\": []}", 422, "got none"),
        ("{\"pixel\": 1}", 400, "unknown field"),
        ("{", 400, "EOF"),
    ] {
        let problem = served.post("/v1/predict", &kind, body.as_bytes()).problem(status);
        assert!(problem.contains(says), "{body}: {problem}");
    }
}

#[test]
fn explanations_have_prediction_attention_and_numbers() {
    let served = Served::digits();
    let picture = &pictures()[0];
    let model = served.get("/v1/model").json();
    assert_eq!(
        (&model["depth"], &model["heads"], &model["draws"]),
        (&json!(3), &json!(4), &json!(true))
    );
    let prediction = served.post("/v1/predict", &[], picture).json();
    let explained = served.post("/v1/explain?patch=all&walk=1.2", &[], picture).json();
    for name in ["class", "inverted", "probability", "probabilities"] {
        assert_eq!(explained[name], prediction[name], "{name}");
    }
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let assert_near = |a: &[f64], b: &[f64], what: &str| {
        assert_eq!(a.len(), b.len(), "{what}");
        let far = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-4, "{what}: {far}");
    };
    assert_eq!(numbers(&explained["seen"]).len(), 784);
    assert_eq!(explained["attention"].as_array().unwrap().len(), 3);
    let of_first = numbers(&explained["attention"][1][2]);
    let of_all = numbers(&explained["of_patches"][1][2]);
    assert_eq!((of_first.len(), of_all.len()), (16, 256));
    assert_eq!(of_first, of_all[..16]);
    // The steps, computed one by one, lead to the model's own result.
    let walk = &explained["walk"];
    let weights: Vec<f64> = walk["weights"].as_array().unwrap().iter().flat_map(numbers).collect();
    assert_near(&weights, &of_all, "weights");
    assert_near(
        &numbers(&walk["probabilities"]),
        &numbers(&prediction["probabilities"]),
        "the last step",
    );
    let of_one = served.post("/v1/explain?patch=5", &[], picture).json();
    assert_eq!(numbers(&of_one["of_patch"][1][2]), of_all[5 * 16..6 * 16]);
    served.post("/v1/explain?patch=16", &[], picture).problem(400);
    served.post("/v1/explain?walk=3.0", &[], picture).problem(400);
}

#[test]
fn errors_are_problems_with_hints() {
    let served = Served::digits();
    let picture = &pictures()[0];
    for (status, says, bytes) in [
        (404, "nothing at /nowhere", request("GET", "/nowhere", &[], b"")),
        (405, "takes POST, got GET", request("GET", "/v1/predict", &[], b"")),
        (405, "takes GET, HEAD, got DELETE", request("DELETE", "/", &[], b"")),
        (400, "unknown query parameter \"x\"", request("POST", "/v1/predict?x=1", &[], picture)),
        (
            400,
            "expected one of auto, always, never",
            request("POST", "/v1/predict?invert=yes", &[], picture),
        ),
        (404, "no run \"other\"", request("POST", "/v1/predict?run=other", &[], picture)),
        (404, "no run \"..\"", request("GET", "/v1/model?run=..", &[], b"")),
        (404, "no file \"config.toml\"", request("GET", "/runs/run/config.toml", &[], b"")),
        (400, "empty body", request("POST", "/v1/predict", &[], b"")),
        (422, "", request("POST", "/v1/predict", &[], b"no picture at all")),
        (
            415,
            "multipart/form-data",
            request(
                "POST",
                "/v1/predict",
                &["Content-Type: multipart/form-data; boundary=x"],
                b"x",
            ),
        ),
        (
            413,
            "at most 16777216 bytes",
            b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16777217\r\n\r\n"
                .to_vec(),
        ),
        (421, "\"evil.example\"", b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec()),
        (400, "one Host", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (
            403,
            "requests from other sites",
            request("POST", "/v1/predict", &["Origin: http://evil.example"], picture),
        ),
        (
            403,
            "requests from other sites",
            request("GET", "/v1/model", &["Sec-Fetch-Site: cross-site"], b""),
        ),
    ] {
        let answer = served.send(&bytes);
        let problem = answer.problem(status);
        assert!(problem.contains(says), "{problem}");
        assert!(
            answer.head.contains("content-security-policy: default-src 'none'"),
            "{}",
            answer.head
        );
    }
    // Bytes that are not HTTP are answered below the routes, and later requests still work.
    for bytes in
        [&b"\r\n\r\nnonsense\r\n\r\n"[..], b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00"]
    {
        let mut stream = served.connect();
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = Answer::try_read(&mut stream);
        assert!(answer.is_none_or(|answer| answer.status == 400), "{bytes:?}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "x".repeat(100_000));
    assert!([414, 431].contains(&served.send(long.as_bytes()).status));
    assert_eq!(served.get("/healthz").body, b"ok\n");
}

#[test]
fn hostile_pictures_are_rejected_and_later_requests_answered() {
    let served = Served::digits();
    let picture = &pictures()[0];
    let mut lies = picture.clone();
    // The width in a PNG header.
    lies[16..20].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    let bomb = crate::png_file::grey(8000, &vec![0; 64_000_000], false);
    for hostile in [
        &picture[..picture.len() / 2],
        &lies,
        b"GIF89a\xff\xff\xff\xff",
        b"\xff\xd8\xff\xe0",
        b"BM",
    ] {
        served.post("/v1/predict", &[], hostile).problem(422);
    }
    // Many black pixels in few bytes.
    let begun = Instant::now();
    let answer = served.post("/v1/predict", &[], &bomb);
    assert!([200, 422].contains(&answer.status) && begun.elapsed() < PATIENCE);
    for cut in (0..picture.len()).step_by(7) {
        let mut changed = picture.clone();
        changed[cut] ^= 0x55;
        let answer = served.post("/v1/predict", &[], &changed);
        assert!([200, 422, 400].contains(&answer.status), "byte {cut}: {answer:?}");
    }
    assert_eq!(served.post("/v1/predict", &[], picture).json(), {
        let mut line = predicted(&served.sandbox, picture);
        line.as_object_mut().unwrap().remove("top");
        line
    });
}

/// More and longer for `cargo xtask soak`.
fn is_soak() -> bool {
    std::env::var_os("VIT_SOAK").is_some()
}

#[test]
fn dropped_connections_cost_nothing() {
    let served = Served::digits();
    let picture = &pictures()[0];
    let whole = request("POST", "/v1/predict", &[], picture);
    for turn in 0..if is_soak() { 10_000 } else { 300 } {
        let mut stream = served.connect();
        let _ = stream.write_all(&whole[..turn * 37 % whole.len()]);
        if turn % 2 == 0 {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
    let begun = Instant::now();
    loop {
        let metrics = String::from_utf8(served.get("/metrics").body).unwrap();
        let open = metrics.lines().find_map(|line| line.strip_prefix("vit_connections ")).unwrap();
        // Only the connection of this request.
        if open == "1" {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{open} connections are open");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(served.send(&whole).status, 200);
}

#[test]
fn slow_and_partial_requests_time_out_without_delaying_others() {
    let served = Served::digits();
    let picture = &pictures()[0];
    let whole = request("POST", "/v1/predict", &[], picture);
    let head = whole.len() - picture.len();
    let mut half_head = served.connect();
    half_head.write_all(&whole[..head / 2]).unwrap();
    let mut half_body = served.connect();
    half_body.write_all(&whole[..head + 10]).unwrap();
    // Slow, but in time.
    let mut slow = served.connect();
    for byte in &whole {
        slow.write_all(&[*byte]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(Answer::read(&mut slow).status, 200);
    assert_eq!(served.send(&whole).status, 200);
    let begun = Instant::now();
    Answer::read(&mut half_body).problem(408);
    let answer = Answer::try_read(&mut half_head);
    assert!(answer.is_none_or(|answer| answer.status == 408));
    assert!(begun.elapsed() < PATIENCE);
}

#[test]
fn too_many_connections_are_asked_to_retry() {
    let served = Served::digits();
    let kept: Vec<TcpStream> = (0..512).map(|_| served.connect()).collect();
    // Until all connections are taken.
    let begun = Instant::now();
    let refused = loop {
        let mut stream = served.connect();
        let _ = stream.write_all(&request("GET", "/healthz", &[], b""));
        match Answer::try_read(&mut stream) {
            Some(answer) if answer.status == 503 => break answer,
            _ => assert!(begun.elapsed() < PATIENCE, "all are answered"),
        }
    };
    assert!(refused.problem(503).contains("512 connections"));
    assert!(refused.head.contains("retry-after: 1"));
    drop(kept);
    let begun = Instant::now();
    loop {
        let mut stream = served.connect();
        let _ = stream.write_all(&request("GET", "/healthz", &[], b""));
        if Answer::try_read(&mut stream).is_some_and(|answer| answer.status == 200) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody is answered any more");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_requests() {
    const CLIENTS: usize = 4;
    let served = Served::digits();
    let kept = keeps_open(&pictures()[0]);
    let send = |count: usize| {
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| {
                    let mut stream = served.connect();
                    for _ in 0..count / CLIENTS {
                        stream.write_all(&kept).unwrap();
                        assert_eq!(Answer::read(&mut stream).status, 200);
                    }
                });
            }
        });
    };
    let memory = || -> u64 {
        let metrics = String::from_utf8(served.get("/metrics").body).unwrap();
        let name = "process_resident_memory_bytes ";
        metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
    };
    send(2000);
    let before = memory();
    send(if is_soak() { 1_000_000 } else { 6000 });
    let after = memory();
    // One byte per request would be a megabyte after a million.
    assert!(after < before + (2 << 20), "{before} bytes, then {after}");
}

/// Clients that send one request after another on a connection, and SIGTERM in between.
#[test]
fn sigterm_answers_open_requests() {
    let mut served = Served::digits();
    let picture = &pictures()[0];
    let kept = keeps_open(picture);
    let id = served.running.child().id().to_string();
    let (answered, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let told = Arc::new(AtomicBool::new(false));
    let time = Duration::from_secs(if is_soak() { 300 } else { 2 });
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let kept = &kept;
            let (answered, lost, told) =
                (Arc::clone(&answered), Arc::clone(&lost), Arc::clone(&told));
            let mut stream = served.connect();
            scope.spawn(move || {
                loop {
                    if stream.write_all(kept).is_err() {
                        lost.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    match Answer::try_read(&mut stream) {
                        Some(answer) if answer.status == 200 => {
                            answered.fetch_add(1, Ordering::SeqCst);
                            if answer.head.contains("connection: close") {
                                assert!(told.load(Ordering::SeqCst), "closed before the end");
                                return;
                            }
                        }
                        _ => {
                            lost.fetch_add(1, Ordering::SeqCst);
                            return;
                        }
                    }
                }
            });
        }
        std::thread::sleep(time);
        told.store(true, Ordering::SeqCst);
        assert!(
            std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success()
        );
    });
    assert!(answered.load(Ordering::SeqCst) > 100);
    assert_eq!(lost.load(Ordering::SeqCst), 0, "of {} answered", answered.load(Ordering::SeqCst));
    assert_eq!(served.running.end().code, Some(0));
}

#[test]
fn replacing_the_model_file_is_harmless() {
    let served = Served::of(trained(), "serve run/model.safetensors");
    let picture = &pictures()[0];
    let before = served.post("/v1/predict", &[], picture).json();
    let path = served.sandbox.path("run/model.safetensors");
    std::fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap()
        .write_all(b"short")
        .unwrap();
    assert_eq!(served.post("/v1/predict", &[], picture).json(), before);
}

#[test]
fn errors_at_start_have_hints() {
    let served = Served::digits();
    let sandbox = &served.sandbox;
    let refusal = sandbox.refuses(2, &format!("serve run --listen {}", served.address));
    assert!(
        refusal.message.contains(&served.address) && refusal.hint.contains("another port"),
        "{refusal:?}"
    );
    let refusal = sandbox.refuses(4, "serve absent");
    assert!(refusal.message.contains("absent"), "{refusal:?}");
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    let refusal = sandbox.refuses(4, "serve empty");
    assert!(
        refusal.message.contains("contains neither runs nor a model")
            && refusal.hint.contains("vit train"),
        "{refusal:?}"
    );
    sandbox.write("text.safetensors", "text");
    sandbox.refuses(4, "serve text.safetensors");
}

#[test]
fn a_model_with_weights_of_another_shape_is_rejected_with_a_hint() {
    let sandbox = trained();
    let model = sandbox.read("run/model.safetensors");
    // The same number of bytes, so that the rest of the file does not move.
    let (from, to) = (br#"\"mlp_dim\":128"#, br#"\"mlp_dim\":256"#);
    let at = model.windows(from.len()).position(|window| window == from).unwrap();
    let changed = [&model[..at], to, &model[at + to.len()..]].concat();
    sandbox.write("other.safetensors", changed);
    let refused = sandbox.run("serve other.safetensors");
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    let shapes = "blocks.0.mlp.fc1.weight: expected shape [256, 32], got [128, 32]";
    assert!(refused.stderr.contains(shapes), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: the file contains another model"), "{}", refused.stderr);
}

#[test]
fn a_token_without_a_server_is_rejected() {
    let sandbox = Sandbox::new();
    let refused = sandbox.run("train --dataset digits --token a-secret-token");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("--serve"), "{}", refused.stderr);
    let mut command = sandbox.command("train --dataset digits --max-steps 2 --run-dir run");
    let trained = Running::start(command.env("VIT_TOKEN", "a-secret-token")).end();
    assert_eq!(trained.code, Some(0), "it is for other servers: {}", trained.stderr);
}

#[cfg(unix)]
#[test]
fn a_killed_run_is_shown_as_stopped() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --epochs 100000 --save-every 20 --run-dir runs/killed";
    let mut training = Running::start(&mut sandbox.command(words));
    let saved =
        ["model.safetensors", "report.html"].map(|name| sandbox.path("runs/killed").join(name));
    training.wait_until(|| saved.iter().all(|path| path.exists()));
    let served = Served::of(sandbox, "serve runs");
    assert_eq!(served.get("/v1/runs").json()[0]["state"], "running");
    training.child().kill().unwrap();
    training.end();
    assert_eq!(served.get("/v1/runs").json()[0]["state"], "stopped");
    let report = served.get("/runs/killed/report.html");
    assert!(String::from_utf8(report.body).unwrap().contains("If it was killed"));
}

#[test]
fn public_addresses_give_a_warning_and_tokens_are_required() {
    let sandbox = trained();
    let mut running =
        Running::start(&mut sandbox.command("serve run --listen 0.0.0.0:0 --token a-secret-token"));
    let address = address_of(&mut running).replace("0.0.0.0", "127.0.0.1");
    let served = Served { sandbox, running, address };
    served.get("/v1/model").problem(401);
    assert_eq!(served.get("/healthz").status, 200);
    let with = ["Authorization: Bearer a-secret-token"];
    assert_eq!(served.send(&request("GET", "/v1/model", &with, b"")).status, 200);
    served.get("/?token=another-token").problem(401);
    let opened = served.get("/?token=a-secret-token");
    assert_eq!(opened.status, 303);
    assert!(
        opened.head.contains("set-cookie: vit_token=a-secret-token; httponly; samesite=strict"),
        "{}",
        opened.head
    );
    let with = ["Cookie: vit_token=a-secret-token"];
    assert_eq!(served.send(&request("GET", "/", &with, b"")).status, 200);
    let sandbox = trained();
    let mut running = Running::start(&mut sandbox.command("serve run --listen 0.0.0.0:0"));
    address_of(&mut running);
    running.child().kill().unwrap();
    let stderr = running.end().stderr;
    assert!(stderr.contains("everyone who can reach"), "{stderr}");
}

#[test]
fn runs_are_listed_shown_and_watched() {
    let sandbox = trained();
    std::fs::create_dir(sandbox.path("runs")).unwrap();
    std::fs::rename(sandbox.path("run"), sandbox.path("runs/a run")).unwrap();
    let served = Served::of(sandbox, "serve runs");
    let runs = served.get("/v1/runs").json();
    assert_eq!(runs.as_array().unwrap().len(), 1);
    assert_eq!(
        (&runs[0]["name"], &runs[0]["state"], &runs[0]["step"]),
        (&json!("a run"), &json!("finished"), &json!(150))
    );
    let run = served.get("/v1/runs/a%20run").json();
    assert_eq!(run["settings"]["train"]["max_steps"], 150);
    assert_eq!(run["steps"].as_array().unwrap().len(), 3);
    let report = served.get("/runs/a%20run/report.html");
    assert!(report.head.contains("sandbox allow-scripts"), "{}", report.head);
    let mistakes = served.get("/v1/mistakes").json();
    let png = mistakes[0]["png"].as_str().unwrap();
    assert!(png.starts_with("iVBOR") && mistakes[0]["label"] != mistakes[0]["class"]);
    // New metrics and new models are reported as they appear.
    let mut stream = served.connect();
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut told = Vec::new();
    let mut buffer = [0; 1024];
    let mut until = |end: &str| {
        while !String::from_utf8_lossy(&told).contains(end) {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{}", String::from_utf8_lossy(&told));
            told.extend_from_slice(&buffer[..count]);
        }
    };
    until("retry: 2000");
    std::thread::sleep(Duration::from_secs(2));
    let path = served.sandbox.path("runs/a run/metrics.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(
        b"{\"kind\":\"step\",\"step\":151,\"epoch\":2,\"loss\":0.5,\"lr\":0.1}\n{\"half",
    )
    .unwrap();
    until("event: record\ndata: {\"run\":\"a run\",\"record\":{\"kind\":\"step\",\"step\":151");
    assert_eq!(served.post("/v1/predict", &[], &pictures()[0]).status, 200);
    let model = served.sandbox.path("runs/a run/model.safetensors");
    std::fs::copy(&model, served.sandbox.path("copy")).unwrap();
    std::fs::rename(served.sandbox.path("copy"), &model).unwrap();
    until("event: model\ndata: {\"run\":\"a run\"}");
}

#[test]
fn watching_a_run_does_not_change_its_bits() {
    let sandbox = Sandbox::new();
    let words = "--epochs 5 --batch-size 32 --seed 3";
    sandbox.run(&format!("train --dataset digits --run-dir alone {words}")).succeeded();
    // On one thread, so that it lasts until the watcher has seen a model.
    let mut command = sandbox
        .command(&format!("train --dataset digits --run-dir watched {words} --threads 1 --serve"));
    let mut running = Running::start(&mut command);
    let mut said = String::new();
    let stderr = running.child().stderr.as_mut().unwrap();
    let mut byte = [0];
    let address = loop {
        assert_eq!(stderr.read(&mut byte).unwrap(), 1, "{said}");
        said.push(char::from(byte[0]));
        if let Some((_, rest)) = said.split_once("watch the run at http://")
            && let Some((address, _)) = rest.split_once('/')
        {
            break address.to_owned();
        }
    };
    // A watcher receives the model.
    let mut events = TcpStream::connect(&address).unwrap();
    events.write_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut told = Vec::new();
    // Until the end of the run.
    let _ = events.set_read_timeout(Some(PATIENCE)).and_then(|()| events.read_to_end(&mut told));
    assert!(
        String::from_utf8_lossy(&told).contains("event: model"),
        "{}",
        String::from_utf8_lossy(&told)
    );
    assert_eq!(running.end().code, Some(0));
    let model = |run: &str| sandbox.read(&format!("{run}/model.safetensors"));
    assert!(model("alone") == model("watched"));
}

#[test]
fn the_page_is_small_and_loads_nothing_else() {
    let sandbox = trained();
    std::fs::rename(sandbox.path("run"), sandbox.path("<!--<script>")).unwrap();
    let served = Served::of(sandbox, "serve <!--<script>");
    let page = served.get("/");
    let text = String::from_utf8(page.body.clone()).unwrap();
    let mut bytes = page.body.len();
    for part in ["/style.css", "/app.js", "/draw.js", "/maps.js", "/walk.js", "/runs.js"] {
        let part = served.get(part);
        assert_eq!(part.status, 200);
        bytes += part.body.len();
        assert!(!String::from_utf8(part.body).unwrap().contains("https:"));
    }
    assert!(bytes < 150_000, "{bytes} bytes");
    assert!(!text.contains("http:") && !text.contains("https:") && !text.contains("style="));
    // It contains the answers to its first requests, and no name ends their script element.
    let start = text.split_once("id=\"start\">").unwrap().1.split_once("</script>").unwrap().0;
    let start: Value = serde_json::from_str(start).unwrap();
    assert_eq!(start["model"]["name"], "<!--<script>");
    assert_eq!(start["model"], served.get("/v1/model").json());
    assert_eq!(start["mistakes"], served.get("/v1/mistakes").json());
}
