//! Memory for intermediate values that is used again.
//!
//! Above 128 KiB the system's allocator asks the kernel for fresh pages and gives them back, for every tensor of every
//! step: touching them costs more than computing what goes there. What an operation needs for itself comes from here
//! instead, and goes back when it is dropped.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers in the smallest buffer that is kept: allocators keep smaller blocks themselves.
const SMALLEST: usize = 8 * 1024;

/// A free buffer may be so many times as large as what it is used for.
const LARGEST_EXCESS: usize = 4;

/// Buffers that nobody uses, the one that was given back last at the end.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Numbers in memory that is used again after them.
#[derive(Default)]
pub(crate) struct Buffer(Vec<f32>);

impl Buffer {
    /// So many numbers, whatever they are: for what is overwritten whole.
    pub(crate) fn dirty(len: usize) -> Self {
        if len < SMALLEST {
            return Self(vec![0.0; len]);
        }
        let found = take(&mut free(), len);
        let mut values = found.unwrap_or_else(|| vec![0.0; rounded(len)]);
        // A buffer that held less has the rest zeroed.
        values.resize(len, 0.0);
        Self(values)
    }

    /// So many zeros.
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

/// Gives back to the system the memory that operations keep for the next ones, such as after a large model is dropped.
///
/// What is kept is at most what was in use at once.
pub fn free_memory() {
    free().clear();
}

fn free() -> MutexGuard<'static, Vec<Vec<f32>>> {
    // A panic elsewhere leaves a whole list.
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The smallest free buffer that holds `len` numbers. Where none does, as many others are freed as the new one takes, so
/// that all together never exceed what was in use at once.
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

/// An eighth of a power of two: sequences of nearly the same lengths share buffers.
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
    fn the_smallest_buffer_that_fits_is_used_again() {
        let mut free = buffers(&[400, 120, 200]);
        let capacity = |taken: Option<Vec<f32>>| taken.map(|buffer| buffer.capacity());
        assert_eq!(capacity(take(&mut free, 110)), Some(120));
        assert_eq!(capacity(take(&mut free, 110)), Some(200));
        assert_eq!(capacity(take(&mut free, 110)), Some(400));
        assert!(free.is_empty());
    }

    #[test]
    fn a_buffer_that_is_missing_takes_the_place_of_others() {
        let mut free = buffers(&[10, 20, 30]);
        assert!(take(&mut free, 35).is_none());
        assert!(free.is_empty(), "ten, twenty and thirty make room for thirty-five");
        let mut free = buffers(&[30]);
        assert!(take(&mut free, 1).is_none(), "thirty times too large");
    }

    #[test]
    fn zeros_are_zero_also_in_memory_that_was_used() {
        for _ in 0..3 {
            let mut buffer = Buffer::zeros(2 * SMALLEST);
            assert!(buffer.iter().all(|&x| x == 0.0));
            buffer.fill(7.0);
        }
        assert_eq!(Buffer::dirty(3 * SMALLEST + 1).len(), 3 * SMALLEST + 1);
    }
}
