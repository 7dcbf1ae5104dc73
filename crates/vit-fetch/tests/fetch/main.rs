//! Fetches from a mirror in this process, with every kind of fault.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod dataset;
mod mirrors;
mod on_disk;
mod processes;
mod resume;
mod server;
