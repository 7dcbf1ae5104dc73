//! Reused memory for intermediate values.
//!
//! Above 128 KiB the system allocator maps fresh pages and unmaps them, for every tensor of every step. Touching them
//! costs more than computing their content. Operations take intermediate memory from here instead, and return it on
//! drop.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers in the smallest buffer that is kept. Allocators keep smaller blocks themselves.
const SMALLEST: usize = 8 * 1024;

/// How many times larger than needed a reused buffer may be.
const LARGEST_EXCESS: usize = 4;

/// Free buffers, the most recently returned last.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Numbers in reused memory.
#[derive(Default)]
pub(crate) struct Buffer(Vec<f32>);

impl Buffer {
    /// `len` numbers with arbitrary values, to be overwritten.
    pub(crate) fn dirty(len: usize) -> Self {
        if len < SMALLEST {
            return Self(vec![0.0; len]);
        }
        let found = take(&mut free(), len);
        let mut values = found.unwrap_or_else(|| vec![0.0; rounded(len)]);
        // If the buffer held fewer numbers, the rest is zeroed.
        values.resize(len, 0.0);
        Self(values)
    }

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::dirty(len);
        buffer.fill(0.0);
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.0.capacity() >= SMALLEST {
            free().push(std::mem::take(&mut self.0));
        }
    }
}

/// Returns the memory that operations keep for reuse to the system, such as after dropping a large model.
///
/// Kept memory never exceeds what was in use at once.
pub fn free_memory() {
    free().clear();
}

fn free() -> MutexGuard<'static, Vec<Vec<f32>>> {
    // The list is consistent even after a panic elsewhere.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The smallest free buffer that holds `len` numbers. If there is none, frees as much memory as the new one takes, so
/// the total never exceeds what was in use at once.
fn take(free: &mut Vec<Vec<f32>>, len: usize) -> Option<Vec<f32>> {
    let fits = |buffer: &Vec<f32>| (len..=LARGEST_EXCESS * len).contains(&buffer.capacity());
    let sizes = free.iter().enumerate().rev().filter(|(_, buffer)| fits(buffer));
    if let Some((index, _)) = sizes.min_by_key(|(_, buffer)| buffer.capacity()) {
        return Some(free.remove(index));
    }
    let mut freed = 0;
    while freed < len && !free.is_empty() {
        freed += free.remove(0).capacity();
    }
    None
}

/// Rounds up to an eighth of a power of two, so that sequences of similar lengths share buffers.
fn rounded(len: usize) -> usize {
    len.next_multiple_of(len.next_power_of_two() / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(sizes: &[usize]) -> Vec<Vec<f32>> {
        sizes.iter().map(|&size| Vec::with_capacity(size)).collect()
    }

    #[test]
    fn smallest_fitting_buffer_is_reused() {
        let mut free = buffers(&[400, 120, 200]);
        let capacity = |taken: Option<Vec<f32>>| taken.map(|buffer| buffer.capacity());
        assert_eq!(capacity(take(&mut free, 110)), Some(120));
        assert_eq!(capacity(take(&mut free, 110)), Some(200));
        assert_eq!(capacity(take(&mut free, 110)), Some(400));
        assert!(free.is_empty());
    }

    #[test]
    fn new_buffer_frees_as_much_as_it_takes() {
        let mut free = buffers(&[10, 20, 30]);
        assert!(take(&mut free, 35).is_none());
        assert!(free.is_empty(), "ten, twenty and thirty make room for thirty-five");
        let mut free = buffers(&[30]);
        assert!(take(&mut free, 1).is_none(), "thirty times too large");
    }

    #[test]
    fn zeros_are_zero_in_reused_memory() {
        for _ in 0..3 {
            let mut buffer = Buffer::zeros(2 * SMALLEST);
            assert!(buffer.iter().all(|&x| x == 0.0));
            buffer.fill(7.0);
        }
        assert_eq!(Buffer::dirty(3 * SMALLEST + 1).len(), 3 * SMALLEST + 1);
    }
}
