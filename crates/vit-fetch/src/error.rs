//! Why a dataset cannot be had.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use vit_files::Digest;

/// Why a dataset cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nowhere to keep data.
    #[error("there is no home folder to keep datasets in")]
    NoHome,
    /// A mirror that the user gave is no address of the web.
    #[error("expected a mirror as http://... or https://..., got {url:?}")]
    Mirror {
        /// What was given, without what may be a user, a password or a query.
        url: String,
    },
    /// A file is there and is not what it should be.
    #[error("{} is not the published file: {mismatch}", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// The difference.
        mismatch: Mismatch,
    },
    /// A file is there unpacked, and only the digest of its `.gz` is known.
    #[error("{} cannot be verified: the known SHA-256 is of its .gz, which is not there", path.display())]
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
        /// The mirrors asked, in order.
        attempts: Vec<Attempt>,
    },
    /// Another process fetched into the same folder for longer than this one would wait.
    #[error("{} is still locked by another process after {waited:?}", folder.display())]
    Busy {
        /// The dataset's folder.
        folder: PathBuf,
        /// How long this one waited.
        waited: Duration,
    },
    /// The disk refused an operation.
    #[error(transparent)]
    Files(#[from] vit_files::Error),
}

impl Error {
    /// What the user can do about it, where there is something to say.
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

/// A mirror that was asked, and why it was of no use.
#[derive(Debug)]
pub struct Attempt {
    /// The address of the file there, without user, password and query.
    pub url: String,
    /// Why it was of no use.
    pub reason: Reason,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.url, self.reason)
    }
}

/// Why a mirror was of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// It answered with an error.
    #[error("answered with HTTP status {0}")]
    Status(u16),
    /// It answered with a page, as logins of public networks do.
    #[error("answered with an HTML page instead of the file")]
    HtmlPage,
    /// It sent more than the file can have.
    #[error("expected at most {limit} bytes, got more")]
    TooLong {
        /// The longest the file can be.
        limit: u64,
    },
    /// It closed the connection early.
    #[error("expected {expected} bytes, got {got} before the connection was closed")]
    Truncated {
        /// The size that it announced.
        expected: u64,
        /// How much is there.
        got: u64,
    },
    /// It sent nothing more for too long.
    #[error("sent nothing for {0:?}")]
    Stalled(Duration),
    /// It sent less than it had to for too long.
    #[error("sent {got} bytes/s over {over:?}, expected at least {expected}")]
    TooSlow {
        /// The bytes that it sent each second.
        got: u64,
        /// Those that it had to send.
        expected: u64,
        /// For how long.
        over: Duration,
    },
    /// Its address or a connection could not be had in time.
    #[error("no connection within {0:?}")]
    NoConnection(Duration),
    /// Its share of the time is over, and other mirrors are left.
    #[error("was not done within its share of the time, {0:?}")]
    TurnOver(Duration),
    /// The time for the whole fetch is over.
    #[error("the time for the whole download, {0:?}, is over")]
    OutOfTime(Duration),
    /// It could not be talked to for another reason.
    #[error("{0}")]
    Transport(String),
    /// What it sent is not the published file.
    #[error("sent another file: {0}")]
    Mismatch(#[from] Mismatch),
}

/// How the content of a file differs from what it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// It is shorter.
    #[error("expected {expected} bytes, got {got}")]
    TooShort {
        /// The size it should have.
        expected: u64,
        /// Its size.
        got: u64,
    },
    /// It is longer, or unpacks to something longer.
    #[error("expected {expected} bytes, got more")]
    TooLong {
        /// The size it should have.
        expected: u64,
    },
    /// Its bytes are others.
    #[error("expected SHA-256 {expected}, got {got}")]
    Sha256 {
        /// The known digest.
        expected: Digest,
        /// Its digest.
        got: Digest,
    },
    /// It does not begin as a gzip file does.
    #[error("expected a gzip file, got {}", beginning(start))]
    NotGzip {
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// It begins as a gzip file and does not unpack.
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
