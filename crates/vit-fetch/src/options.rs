//! Options and events of a fetch.

use std::path::Path;
use std::time::Duration;

use crate::{Attempt, Mirror};

/// Options of [`fetch`](crate::fetch).
#[derive(Clone, Debug)]
pub struct Options {
    /// Mirrors to try before the built-in ones, in order.
    pub mirrors: Vec<Mirror>,
    /// The time limit for resolving a host, and again for connecting.
    pub connect: Duration,
    /// The time limit for the next bytes of an answer.
    pub stall: Duration,
    /// The minimum bytes per second of a mirror, over each [`rate_window`](Self::rate_window).
    pub min_rate: u64,
    /// Time for which a mirror may be slower.
    pub rate_window: Duration,
    /// The time limit for the whole fetch, including waiting for another process. The remaining time is divided among
    /// the mirrors not yet tried for a file.
    pub total: Duration,
}

impl Default for Options {
    /// The built-in mirrors, and limits that give up on a dead network within seconds and allow a slow one ten minutes.
    fn default() -> Self {
        Self {
            mirrors: Vec::new(),
            connect: Duration::from_secs(4),
            stall: Duration::from_secs(10),
            min_rate: 1000,
            rate_window: Duration::from_secs(20),
            total: Duration::from_secs(600),
        }
    }
}

/// A progress event of [`fetch`](crate::fetch).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Another process is fetching into the same folder.
    Waiting {
        /// The dataset's folder.
        folder: &'a Path,
    },
    /// More of a file has arrived.
    Downloading {
        /// The file's name.
        file: &'static str,
        /// Its source, without user, password and query.
        url: &'a str,
        /// Bytes received so far, including an earlier download.
        received: u64,
        /// The total size, if the server announced it.
        total: Option<u64>,
    },
    /// A mirror failed. The next one is tried, if any.
    MirrorFailed(&'a Attempt),
    /// A file is verified and installed.
    Installed {
        /// The file's name.
        file: &'static str,
    },
}
