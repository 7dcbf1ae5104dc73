//! Datasets from mirrors: downloaded once, verified, unpacked, installed whole.
