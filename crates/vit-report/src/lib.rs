//! Figures from a run folder.
