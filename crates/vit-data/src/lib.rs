#![doc = include_str!("../README.md")]

mod augment;
mod cifar;
mod dataset;
mod digits;
mod error;
mod examples;
mod folder;
mod hub;
mod hub_tables;
mod idx;
mod listing;
mod noise;
mod normalization;
mod order;
mod pictures;
mod tables;

pub use augment::{Augment, Policy};
pub use cifar::{holds_cifar, load_cifar, load_cifar_archive};
pub use dataset::{Dataset, Split};
pub use digits::digits;
pub use error::{Error, Result};
pub use examples::{Augmented, Examples, Mixed};
pub use folder::{holds_idx, image_shape, load_dir};
pub use hub::load_hub_mnist;
pub use hub_tables::{HubName, HubTables, fetch_hub_tables};
pub use idx::IdxFile;
pub use listing::{Listed, Listing};
pub use noise::noise;
pub use normalization::Normalization;
pub use order::{Last, Order, batches, epoch_order, hold_out};
pub use pictures::{
    LoadOptions, Loaded, PictureStats, PictureView, inspect_pictures, load_pictures,
};
pub use tables::holds_tables;
