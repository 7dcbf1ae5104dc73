//! Dropping points that would not change the drawing.

/// A point of the figure, in pixels.
pub(super) type Pixel = (f64, f64);

/// Thins a line: in each pixel column keeps only the first, lowest, highest and last point, which cover the same
/// pixels.
pub(super) fn thin(points: &[Pixel]) -> Vec<Pixel> {
    let mut kept = Vec::new();
    for column in points.chunk_by(|a, b| a.0.floor() == b.0.floor()) {
        let by_height = |&a: &usize, &b: &usize| column[a].1.total_cmp(&column[b].1);
        let ends = [0, column.len() - 1];
        let extremes = [(0..column.len()).min_by(by_height), (0..column.len()).max_by(by_height)];
        let mut seen: Vec<usize> = ends.into_iter().chain(extremes.into_iter().flatten()).collect();
        seen.sort_unstable();
        seen.dedup();
        kept.extend(seen.into_iter().map(|at| column[at]));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_keeps_its_ends_and_extremes_in_order() {
        let points = [(0.0, 5.0), (0.2, 6.0), (0.3, 1.0), (0.4, 9.0), (0.5, 4.0), (0.6, 5.0)];
        assert_eq!(thin(&points), [(0.0, 5.0), (0.3, 1.0), (0.4, 9.0), (0.6, 5.0)]);
    }

    #[test]
    fn points_in_different_columns_are_all_kept() {
        let points: Vec<Pixel> = (0..50).map(|at| (f64::from(at), f64::from(at % 7))).collect();
        assert_eq!(thin(&points), points);
        assert_eq!(thin(&points[..1]), points[..1]);
        assert!(thin(&[]).is_empty());
    }
}
