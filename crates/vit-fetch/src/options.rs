//! How a fetch goes about it, and what it tells of itself.

use std::path::Path;
use std::time::Duration;

use crate::{Attempt, Mirror};

/// How [`fetch`](crate::fetch) goes about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of folders to ask before the built-in mirrors, in order.
    pub mirrors: Vec<Mirror>,
    /// The longest wait for a host's address, and again for a connection to it.
    pub connect: Duration,
    /// The longest wait for the next bytes of an answer.
    pub stall: Duration,
    /// The fewest bytes a second that a mirror may send, over each [`rate_window`](Self::rate_window).
    pub min_rate: u64,
    /// How long a mirror may be slower.
    pub rate_window: Duration,
    /// The longest a fetch may take, the wait for another process included. What is left of it is divided among the
    /// mirrors that have not been asked for a file.
    pub total: Duration,
}

impl Default for Options {
    /// No mirrors but the built-in ones, and limits that give up on a dead network within seconds
    /// and leave a slow one ten minutes.
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

/// What happens during a [`fetch`](crate::fetch).
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
        /// Where it comes from, without user, password and query.
        url: &'a str,
        /// Bytes there so far, those of an earlier download included.
        received: u64,
        /// Bytes there will be, where the server says so.
        total: Option<u64>,
    },
    /// A mirror failed; the next is asked, if there is one.
    MirrorFailed(&'a Attempt),
    /// A file is verified and in its place.
    Installed {
        /// The file's name.
        file: &'static str,
    },
}
