//! How a fetch goes about it, and what it tells of itself.

use std::path::Path;
use std::time::Duration;

use crate::{Attempt, Error};

/// How [`fetch`](crate::fetch) goes about it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of folders to ask before the built-in mirrors, in order.
    pub mirrors: Vec<String>,
    /// The longest wait for a host's address, and again for a connection to it.
    pub connect: Duration,
    /// The longest wait for the next bytes of an answer.
    pub stall: Duration,
    /// The longest a fetch may take, the wait for another process included.
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
            total: Duration::from_secs(600),
        }
    }
}

impl Options {
    /// Refuses what can only be a slip of the pen, instead of quietly asking the built-in mirrors.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let is_web = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        match self.mirrors.iter().find(|url| !is_web(url)) {
            Some(url) => Err(Error::Mirror { url: url.clone() }),
            None => Ok(()),
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
        /// Where it comes from.
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
