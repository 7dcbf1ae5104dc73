//! Reused memory for intermediate values.
//!
//! Above 128 KiB the system allocator maps fresh pages and unmaps them, for every tensor of every step. Touching them
//! costs more than computing their content. Operations take intermediate memory from here instead, and return it on
//! drop.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Numbers in the smallest buffer of the common pool. Each thread keeps smaller ones itself, without zeroing them again.
const SMALLEST: usize = 8 * 1024;

/// Most free buffers of a size that a thread keeps.
const MOST_SMALL: usize = 8;

thread_local! {
    /// Free buffers of each power of two up to [`SMALLEST`].
    static SMALL: RefCell<[Vec<Vec<f32>>; SMALLEST.ilog2() as usize + 1]> =
        const { RefCell::new([const { Vec::new() }; _]) };
}

/// How many times larger than needed a reused buffer may be.
const LARGEST_EXCESS: usize = 4;

/// 16 MiB. With less, each pass of a small model would free and allocate the same buffers again.
const SLACK: usize = 4 << 20;

static POOL: Mutex<Pool> = Mutex::new(Pool::new(SLACK));

/// The memory of all buffers that are kept, in numbers.
struct Pool {
    /// The most recently returned last.
    free: Vec<Vec<f32>>,
    /// In use or free.
    total: usize,
    in_use: usize,
    /// Most in use at once.
    peak: usize,
    /// Kept beyond 1.25 times the peak.
    slack: usize,
}

/// Numbers in reused memory.
#[derive(Default)]
pub(crate) struct Buffer {
    /// At least `len` numbers.
    memory: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// `len` numbers with arbitrary values, to be overwritten.
    pub(crate) fn dirty(len: usize) -> Self {
        if len == 0 {
            return Self::default();
        }
        let mut buffer = if len < SMALLEST {
            let size = len.next_power_of_two();
            let found = with_small(size, Vec::pop).flatten();
            Self { memory: found.unwrap_or_else(|| vec![0.0; size]), len }
        } else {
            let found = pool().take(len);
            Self { memory: found.unwrap_or_else(|| vec![0.0; rounded(len)]), len }
        };
        if cfg!(test) {
            // New memory is zero, which could hide that a number is not written.
            buffer.fill(f32::NAN);
        }
        buffer
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        match self.len {
            0 => {}
            SMALLEST.. => pool().give(memory),
            _ => {
                with_small(memory.len(), |free| {
                    if free.len() < MOST_SMALL {
                        free.push(memory);
                    }
                });
            }
        }
    }
}

/// Returns the memory that operations keep for reuse to the system, such as after dropping a large model.
///
/// Operations keep at most 1.25 times the most memory that was in use at once, plus 16 MiB.
pub fn free_memory() {
    let mut pool = pool();
    pool.total = pool.in_use;
    pool.peak = pool.in_use;
    pool.free.clear();
}

/// Runs `work` on this thread's free buffers of a power of two; not while the thread ends.
fn with_small<R>(size: usize, work: impl FnOnce(&mut Vec<Vec<f32>>) -> R) -> Option<R> {
    SMALL.try_with(|small| work(&mut small.borrow_mut()[size.ilog2() as usize])).ok()
}

fn pool() -> MutexGuard<'static, Pool> {
    // The pool is consistent even after a panic elsewhere.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    const fn new(slack: usize) -> Self {
        Self { free: Vec::new(), total: 0, in_use: 0, peak: 0, slack }
    }

    /// The smallest free buffer that holds `len` numbers. If there is none, the caller makes one of [`rounded`] length,
    /// for which old ones are freed if the total becomes too large.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let fits = |buffer: &Vec<f32>| (len..=LARGEST_EXCESS * len).contains(&buffer.len());
        let sizes = self.free.iter().enumerate().rev().filter(|(_, buffer)| fits(buffer));
        let found = sizes.min_by_key(|(_, buffer)| buffer.len()).map(|(index, _)| index);
        let found = found.map(|index| self.free.remove(index));
        let taken = found.as_ref().map_or_else(|| rounded(len), Vec::len);
        self.in_use += taken;
        self.peak = self.peak.max(self.in_use);
        if found.is_none() {
            self.total += taken;
            let limit = self.peak + self.peak / 4 + self.slack;
            while self.total > limit && !self.free.is_empty() {
                self.total -= self.free.remove(0).len();
            }
        }
        found
    }

    fn give(&mut self, buffer: Vec<f32>) {
        self.in_use -= buffer.len();
        self.free.push(buffer);
    }
}

/// Rounds up to an eighth of a power of two, so that sequences of similar lengths share buffers.
fn rounded(len: usize) -> usize {
    len.next_multiple_of(len.next_power_of_two() / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Pool {
        /// A buffer from the pool, or a new one.
        fn get(&mut self, len: usize) -> Vec<f32> {
            self.take(len).unwrap_or_else(|| vec![0.0; rounded(len)])
        }

        /// The lengths of the free buffers.
        fn lengths(&self) -> Vec<usize> {
            self.free.iter().map(Vec::len).collect()
        }
    }

    #[test]
    fn smallest_fitting_buffer_is_reused() {
        let mut pool = Pool::new(0);
        let buffers = [384, 120, 200].map(|len| pool.get(len));
        let lengths = buffers.each_ref().map(Vec::len);
        buffers.into_iter().for_each(|buffer| pool.give(buffer));
        let taken = [110, 110, 110].map(|len| pool.get(len).len());
        assert_eq!(taken, [lengths[1], lengths[2], lengths[0]]);
        assert_eq!(pool.free.len(), 0);
        pool.give(vec![0.0; lengths[0]]);
        assert!(pool.take(64).is_none(), "six times too large");
    }

    #[test]
    fn old_buffers_are_freed_beyond_five_quarters_of_the_peak() {
        let mut pool = Pool::new(0);
        let [a, b] = [64, 128].map(|len| pool.get(len));
        pool.give(a);
        pool.give(b);
        assert_eq!((pool.total, pool.peak), (192, 192));
        // 192 and 256 in total, 256 in use at once.
        let large = pool.get(256);
        assert_eq!((pool.lengths(), pool.total, pool.peak), (vec![], 256, 256));
        pool.give(large);
        let again = pool.get(64);
        assert_eq!((again.len(), pool.total), (256, 256), "four times as large still fits");
        pool.give(again);
        let small = pool.get(32);
        assert_eq!((small.len(), pool.lengths(), pool.total), (32, vec![256], 288));
    }

    #[test]
    fn a_repeated_sequence_allocates_nothing() {
        let mut pool = Pool::new(0);
        let pass = |pool: &mut Pool| {
            let mut new = 0;
            let mut held: Vec<Vec<f32>> = Vec::new();
            for (len, keeps) in [(38, 2), (113, 2), (110, 2), (38, 3), (37, 1), (151, 2), (147, 2)]
            {
                let total = pool.total;
                held.push(pool.get(1000 * len));
                new += usize::from(pool.total > total);
                while held.len() > keeps {
                    pool.give(held.remove(0));
                }
            }
            held.into_iter().for_each(|buffer| pool.give(buffer));
            new
        };
        let new: Vec<usize> = (0..6).map(|_| pass(&mut pool)).collect();
        assert_eq!(new[3..], [0, 0, 0], "{new:?}");
    }
}
