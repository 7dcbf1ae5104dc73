//! Errors of fetching a dataset.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use vit_files::Digest;

/// Why a dataset is unavailable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no place for data.
    #[error("there is no home folder to keep datasets in")]
    NoHome,
    /// The user's mirror is not an HTTP address.
    #[error("expected a mirror as http://... or https://..., got {url:?}")]
    Mirror {
        /// The given text without user, password and query.
        url: String,
    },
    /// A file exists but is not the published one.
    #[error("{} is not the published file: {mismatch}", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// The difference.
        mismatch: Mismatch,
    },
    /// An unpacked file exists, but only the digest of its `.gz` is known.
    #[error("{} cannot be verified: only the SHA-256 of its .gz is known, and the .gz is missing", path.display())]
    Unverifiable {
        /// The file.
        path: PathBuf,
    },
    /// No mirror had the file.
    #[error("cannot download {file}: {}", list(attempts))]
    Download {
        /// The dataset's name.
        dataset: &'static str,
        /// The file's name.
        file: &'static str,
        /// The mirrors tried, in order.
        attempts: Vec<Attempt>,
    },
    /// Another process fetched into the same folder for too long.
    #[error("{} is still locked by another process after {waited:?}", folder.display())]
    Busy {
        /// The dataset's folder.
        folder: PathBuf,
        /// Time this process waited.
        waited: Duration,
    },
    /// A file operation failed.
    #[error(transparent)]
    Files(#[from] vit_files::Error),
}

impl Error {
    /// Suggests what to do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoHome => Some("pass --data-dir DIR or set VIT_DATA".into()),
            Self::Altered { path, .. } => {
                Some(format!("delete {} and fetch again", path.display()))
            }
            Self::Unverifiable { path } => Some(format!(
                "put {}.gz beside it, or name the folder itself as the dataset to use it unverified",
                path.display()
            )),
            Self::Download { dataset, .. } => Some(format!(
                "pass --mirror URL, or set VIT_DATA to a folder that holds {dataset}/"
            )),
            Self::Mirror { .. } | Self::Busy { .. } | Self::Files(_) => None,
        }
    }
}

/// A mirror that failed, and why.
#[derive(Debug)]
pub struct Attempt {
    /// The file's address without user, password and query.
    pub url: String,
    /// Why it failed.
    pub reason: Reason,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.reason)
    }
}

/// Why a mirror failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// It answered with an error.
    #[error("answered with HTTP status {0}")]
    Status(u16),
    /// It answered with an HTML page, like the login of a public network.
    #[error("answered with an HTML page instead of the file")]
    HtmlPage,
    /// It sent more than the file's largest size.
    #[error("expected at most {limit} bytes, got more")]
    TooLong {
        /// The file's largest size.
        limit: u64,
    },
    /// It closed the connection early.
    #[error("expected {expected} bytes, got {got} before the connection was closed")]
    Truncated {
        /// The announced size.
        expected: u64,
        /// The received size.
        got: u64,
    },
    /// It sent nothing for too long.
    #[error("sent nothing for {0:?}")]
    Stalled(Duration),
    /// It was too slow for too long.
    #[error("sent {got} bytes/s over {over:?}, expected at least {expected}")]
    TooSlow {
        /// The bytes per second it sent.
        got: u64,
        /// The bytes per second required.
        expected: u64,
        /// For how long.
        over: Duration,
    },
    /// Its address could not be resolved, or no connection was made, in time.
    #[error("no connection within {0:?}")]
    NoConnection(Duration),
    /// Its share of the time is over, and other mirrors remain.
    #[error("exceeded its share of the time, {0:?}")]
    TurnOver(Duration),
    /// The time for the whole fetch is over.
    #[error("the time for the whole download, {0:?}, is over")]
    OutOfTime(Duration),
    /// Another communication error.
    #[error("{0}")]
    Transport(String),
    /// It sent something other than the published file.
    #[error("sent another file: {0}")]
    Mismatch(#[from] Mismatch),
}

/// How a file differs from the published one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// It is shorter.
    #[error("expected {expected} bytes, got {got}")]
    TooShort {
        /// The published size.
        expected: u64,
        /// Its size.
        got: u64,
    },
    /// It is longer, or unpacks to something longer.
    #[error("expected {expected} bytes, got more")]
    TooLong {
        /// The published size.
        expected: u64,
    },
    /// Its bytes differ.
    #[error("expected SHA-256 {expected}, got {got}")]
    Sha256 {
        /// The known digest.
        expected: Digest,
        /// Its digest.
        got: Digest,
    },
    /// It does not begin like a gzip file.
    #[error("expected a gzip file, got {}", beginning(start))]
    NotGzip {
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// It begins like a gzip file but does not unpack.
    #[error("expected a gzip file, got a damaged one: {0}")]
    DamagedGzip(String),
}

fn list(attempts: &[Attempt]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn beginning(start: &[u8]) -> String {
    if start.is_empty() {
        return "nothing".into();
    }
    format!("something that begins with {:?}", String::from_utf8_lossy(start))
}
