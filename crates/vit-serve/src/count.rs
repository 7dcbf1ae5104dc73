//! The content of `GET /metrics`, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Bucket bounds of the request durations, in seconds.
const SECONDS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];
/// Bucket bounds of the batch sizes.
const IMAGES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Counters of a server.
#[derive(Default)]
pub(crate) struct Counts {
    /// By route and status.
    requests: Mutex<BTreeMap<(&'static str, u16), u64>>,
    seconds: Histogram<{ SECONDS.len() }>,
    batches: Histogram<{ IMAGES.len() }>,
    pub(crate) connections: AtomicUsize,
    pub(crate) refused: AtomicU64,
}

struct Histogram<const BOUNDS: usize> {
    buckets: [AtomicU64; BOUNDS],
    count: AtomicU64,
    /// In millionths.
    sum: AtomicU64,
}

impl<const BOUNDS: usize> Default for Histogram<BOUNDS> {
    fn default() -> Self {
        let buckets = [const { AtomicU64::new(0) }; BOUNDS];
        Self { buckets, count: AtomicU64::new(0), sum: AtomicU64::new(0) }
    }
}

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    fn add(&self, value: f64, bounds: &[f64; BOUNDS]) {
        if let Some(at) = bounds.iter().position(|&bound| value <= bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String, name: &str, help: &str, bounds: &[f64; BOUNDS]) {
        head(text, name, help, "histogram");
        let mut below = 0;
        for (bucket, bound) in self.buckets.iter().zip(bounds) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {below}");
        }
        let count = self.count.load(Ordering::Relaxed);
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum {}", self.sum.load(Ordering::Relaxed) as f64 / 1e6);
        let _ = writeln!(text, "{name}_count {count}");
    }
}

impl Counts {
    pub(crate) fn request(&self, route: &'static str, status: u16, took: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        *requests.entry((route, status)).or_default() += 1;
        drop(requests);
        self.seconds.add(took.as_secs_f64(), &SECONDS);
    }

    pub(crate) fn batch(&self, images: usize) {
        self.batches.add(images as f64, &IMAGES);
    }

    pub(crate) fn to_text(&self, waiting: usize) -> String {
        let mut text = String::new();
        let requests = "vit_requests_total";
        head(&mut text, requests, "Requests answered, by route and status.", "counter");
        for ((route, status), count) in
            self.requests.lock().unwrap_or_else(PoisonError::into_inner).iter()
        {
            let _ = writeln!(text, "{requests}{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        let name = "vit_request_seconds";
        self.seconds.write(&mut text, name, "From a request's head to its answer.", &SECONDS);
        let name = "vit_batch_images";
        self.batches.write(&mut text, name, "Images computed together.", &IMAGES);
        for (name, help, value) in [
            ("vit_queue_images", "Images that wait.", waiting as u64),
            (
                "vit_connections",
                "Open connections.",
                self.connections.load(Ordering::Relaxed) as u64,
            ),
            ("process_resident_memory_bytes", "Memory in use.", resident_memory().unwrap_or(0)),
        ] {
            head(&mut text, name, help, "gauge");
            let _ = writeln!(text, "{name} {value}");
        }
        let name = "vit_connections_refused_total";
        head(&mut text, name, "Connections refused because there were too many.", "counter");
        let _ = writeln!(text, "{name} {}", self.refused.load(Ordering::Relaxed));
        text
    }
}

fn head(text: &mut String, name: &str, help: &str, kind: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Bytes of resident memory, on Linux.
fn resident_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_in_prometheus_text() {
        let counts = Counts::default();
        counts.request("/healthz", 200, Duration::from_micros(300));
        counts.request("/healthz", 200, Duration::from_secs(9));
        counts.batch(3);
        let text = counts.to_text(5);
        for line in [
            "vit_requests_total{route=\"/healthz\",status=\"200\"} 2",
            "vit_request_seconds_bucket{le=\"0.00025\"} 0",
            "vit_request_seconds_bucket{le=\"0.0005\"} 1",
            "vit_request_seconds_bucket{le=\"+Inf\"} 2",
            "vit_batch_images_bucket{le=\"4\"} 1",
            "vit_batch_images_sum 3",
            "vit_queue_images 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }
}
