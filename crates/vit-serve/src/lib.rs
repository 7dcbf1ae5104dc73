#![doc = include_str!("../README.md")]

mod batch;
mod connections;
mod count;
mod events;
mod files;
mod guard;
mod model;
mod models;
mod predict;
mod problem;
mod query;
mod routes;
mod runs;
mod server;
mod workers;

pub use model::{ExplainOptions, Input, Model, Patches, PredictOptions, Prepared};
pub use models::{Load, Subject};
pub use problem::Problem;
pub use server::{Limits, Live, Server, Stop};
