//! Files that are whole or absent: atomic writes, locks, SHA-256, manifests.
