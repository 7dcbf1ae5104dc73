//! The binary tree along which a step's shards are summed. It depends on the number of shards alone, so the number of
//! threads or ranks does not change the bits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A node: the range of shards below it.
type Node = Range<usize>;

/// Splits a node: the left child has as many shards as the largest power of two below the node's. Adding shards as they
/// arrive, like a binary counter, follows this tree for any number of shards.
fn middle(node: &Node) -> usize {
    node.start + (1 << (node.len() - 1).ilog2())
}

/// The largest nodes of the tree over `0..shards` inside a range, in order.
pub(super) fn nodes(shards: usize, within: &Range<usize>) -> Vec<Node> {
    fn collect(node: Node, within: &Range<usize>, found: &mut Vec<Node>) {
        if node.end <= within.start || within.end <= node.start {
            return;
        }
        if within.start <= node.start && node.end <= within.end {
            found.push(node);
            return;
        }
        let middle = middle(&node);
        collect(node.start..middle, within, found);
        collect(middle..node.end, within, found);
    }
    let mut found = Vec::new();
    if shards > 0 {
        collect(0..shards, within, &mut found);
    }
    found
}

/// The largest nodes inside a range with at most this many shards each, in order.
pub(super) fn nodes_up_to(largest: usize, shards: usize, within: &Range<usize>) -> Vec<Node> {
    fn cut(node: Node, largest: usize, found: &mut Vec<Node>) {
        if node.len() <= largest.max(1) {
            return found.push(node);
        }
        let middle = middle(&node);
        cut(node.start..middle, largest, found);
        cut(middle..node.end, largest, found);
    }
    let mut found = Vec::new();
    nodes(shards, within).into_iter().for_each(|node| cut(node, largest, &mut found));
    found
}

/// The sibling and the parent of a node; `None` for the root.
fn sibling(shards: usize, node: &Node) -> Option<(Node, Node)> {
    let mut parent = 0..shards;
    while parent != *node {
        let middle = middle(&parent);
        let (left, right) = (parent.start..middle, middle..parent.end);
        let (child, other) = if node.end <= middle { (left, right) } else { (right, left) };
        if child == *node {
            return Some((other, parent));
        }
        parent = child;
    }
    None
}

/// Partial sums. The thread that brings the second of two siblings merges them, so at most the tree's depth of sums
/// wait for each thread.
pub(super) struct Sums<T> {
    shards: usize,
    /// Keeps the root's children apart, for a last sum that also scales.
    keeps_two: bool,
    waiting: Mutex<BTreeMap<usize, (Node, T)>>,
}

impl<T> Sums<T> {
    /// For a tree over this many shards.
    pub(super) fn new(shards: usize) -> Self {
        Self { shards, keeps_two: false, waiting: Mutex::default() }
    }

    /// Like [`new`](Self::new), but leaves the last addition to the caller.
    pub(super) fn but_the_last(shards: usize) -> Self {
        Self { keeps_two: true, ..Self::new(shards) }
    }

    /// Adds the sum of a node.
    ///
    /// # Errors
    /// If `merge` fails, which adds a right child to a left one.
    pub(super) fn add<E>(
        &self,
        mut node: Node,
        mut sum: T,
        merge: impl Fn(T, T) -> Result<T, E>,
    ) -> Result<(), E> {
        loop {
            let sibling = sibling(self.shards, &node);
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let is_last = sibling.as_ref().is_none_or(|(_, parent)| parent.len() == self.shards);
            let other = sibling.filter(|(other, _)| {
                !(is_last && self.keeps_two)
                    && waiting.get(&other.start).is_some_and(|(node, _)| node == other)
            });
            let Some((other, parent)) = other else {
                waiting.insert(node.start, (node, sum));
                return Ok(());
            };
            let (_, beside) = waiting.remove(&other.start).expect("it was found");
            drop(waiting);
            let (left, right) =
                if other.start < node.start { (beside, sum) } else { (sum, beside) };
            sum = merge(left, right)?;
            node = parent;
        }
    }

    /// The unmerged sums, in the order of shards.
    pub(super) fn finish(self) -> Vec<T> {
        let waiting = self.waiting.into_inner().unwrap_or_else(PoisonError::into_inner);
        waiting.into_values().map(|(_, sum)| sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "sums are merged by value")]
    fn merge(left: String, right: String) -> Result<String, Infallible> {
        Ok(format!("({left}{right})"))
    }

    /// The tree as nested parentheses.
    fn written(shards: usize) -> String {
        let sums = Sums::new(shards);
        for shard in 0..shards {
            let Ok(()) = sums.add(shard..shard + 1, shard.to_string(), merge);
        }
        sums.finish().concat()
    }

    #[test]
    fn the_tree_follows_a_binary_counter() {
        assert_eq!(written(1), "0");
        assert_eq!(written(4), "((01)(23))");
        assert_eq!(written(7), "(((01)(23))((45)6))");
    }

    #[test]
    fn the_order_of_arrival_does_not_change_the_sum() {
        for shards in 1..20_usize {
            for step in (1..shards).filter(|step| !shards.is_multiple_of(*step)) {
                let sums = Sums::new(shards);
                let mut come = vec![false; shards];
                for index in 0..2 * shards {
                    let shard = index * step % shards;
                    if !std::mem::replace(&mut come[shard], true) {
                        let Ok(()) = sums.add(shard..shard + 1, shard.to_string(), merge);
                    }
                }
                for shard in (0..shards).filter(|&shard| !come[shard]) {
                    let Ok(()) = sums.add(shard..shard + 1, shard.to_string(), merge);
                }
                assert_eq!(sums.finish().concat(), written(shards));
            }
        }
    }

    #[test]
    fn sums_of_ranges_merge_to_the_same_tree() {
        for shards in 1..20_usize {
            for parts in 1..=shards {
                let sums = Sums::new(shards);
                for part in 0..parts {
                    let range = part * shards / parts..(part + 1) * shards / parts;
                    let of_part = Sums::new(shards);
                    for shard in range.clone() {
                        let Ok(()) = of_part.add(shard..shard + 1, shard.to_string(), merge);
                    }
                    let nodes = nodes(shards, &range);
                    let partial = of_part.finish();
                    assert_eq!(nodes.len(), partial.len());
                    for (node, sum) in nodes.into_iter().zip(partial) {
                        let Ok(()) = sums.add(node, sum, merge);
                    }
                }
                assert_eq!(sums.finish().concat(), written(shards), "{shards} in {parts}");
            }
        }
    }

    #[test]
    fn nodes_of_limited_size_merge_to_the_same_tree() {
        for shards in 1..20_usize {
            for largest in 0..=shards {
                let sums = Sums::new(shards);
                for node in nodes_up_to(largest, shards, &(0..shards)) {
                    assert!(node.len() <= largest.max(1));
                    let of_node = Sums::new(node.len());
                    for shard in node.clone() {
                        let at = shard - node.start;
                        let Ok(()) = of_node.add(at..at + 1, shard.to_string(), merge);
                    }
                    let Ok(()) = sums.add(node, of_node.finish().concat(), merge);
                }
                assert_eq!(sums.finish().concat(), written(shards), "{shards}, {largest}");
            }
        }
    }

    #[test]
    fn the_last_addition_can_be_left_to_the_caller() {
        let sums = Sums::but_the_last(6);
        for shard in [3, 5, 0, 4, 1, 2] {
            let Ok(()) = sums.add(shard..shard + 1, shard.to_string(), merge);
        }
        assert_eq!(sums.finish(), ["((01)(23))", "(45)"]);
    }
}
