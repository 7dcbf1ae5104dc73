//! Communication between the ranks of a training run.

/// Collective operations among the ranks that train one model, seen from one rank.
///
/// Each rank runs the same program on the same data with the same settings, and calls the same methods in the same
/// order. A call returns once every rank has made it. Data is sent as 32-bit words; an `f32` is sent as its bits, so
/// nothing is rounded.
///
/// If a rank is lost, an implementation ends the whole run: no method returns an error.
///
/// With [`TrainerBuilder::ranks`](crate::TrainerBuilder::ranks), a [`Trainer`](crate::Trainer) computes a contiguous
/// range of each step's shards on each rank. Partial sums of gradients are added along one tree over all shards, so the
/// trained weights are bit-identical for any number of ranks.
pub trait Collective: Send + Sync {
    /// This rank's number, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks: the world size.
    fn size(&self) -> usize;

    /// Sends each rank its part of `send`, and receives every rank's part for this one. Parts are concatenated in rank
    /// order; each slice comes with the lengths of its parts.
    ///
    /// MPI equivalent: `MPI_Alltoallv`.
    fn exchange(&self, send: (&[u32], &[usize]), receive: (&mut [u32], &[usize]));

    /// Gathers the words of all ranks on every rank, concatenated in rank order with these lengths.
    ///
    /// MPI equivalent: `MPI_Allgatherv`.
    fn gather(&self, mine: &[u32], all: &mut [u32], counts: &[usize]);

    /// Sends the words of rank 0 to every rank.
    ///
    /// MPI equivalent: `MPI_Bcast`.
    fn broadcast(&self, words: &mut [u32]);

    /// Waits until every rank has called this.
    ///
    /// MPI equivalent: `MPI_Barrier`.
    fn barrier(&self);

    /// Ends the processes of all ranks with this exit code.
    ///
    /// MPI equivalent: `MPI_Abort`.
    fn abort(&self, code: i32) -> !;
}

/// A single process: rank 0 of 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn exchange(&self, (send, _): (&[u32], &[usize]), (receive, _): (&mut [u32], &[usize])) {
        receive.copy_from_slice(send);
    }

    fn gather(&self, mine: &[u32], all: &mut [u32], _: &[usize]) {
        all.copy_from_slice(mine);
    }

    fn broadcast(&self, _words: &mut [u32]) {}

    fn barrier(&self) {}

    fn abort(&self, code: i32) -> ! {
        std::process::exit(code)
    }
}

impl dyn Collective + '_ {
    /// The bytes of every rank, in rank order.
    #[must_use]
    pub fn gather_bytes(&self, mine: &[u8]) -> Vec<Vec<u8>> {
        let mut lens = vec![0; self.size()];
        let len = u32::try_from(mine.len()).expect("what ranks tell each other is short");
        self.gather(&[len], &mut lens, &vec![1; self.size()]);
        let counts: Vec<usize> = lens.iter().map(|&len| (len as usize).div_ceil(4)).collect();
        let mut all = vec![0; counts.iter().sum()];
        self.gather(&to_words(mine), &mut all, &counts);
        let mut rest = &all[..];
        let each = counts.iter().zip(&lens).map(|(&count, &len)| {
            let (words, after) = rest.split_at(count);
            rest = after;
            to_bytes(words, len as usize)
        });
        each.collect()
    }

    /// The bytes of rank 0, on every rank.
    #[must_use]
    pub fn broadcast_bytes(&self, bytes: &[u8]) -> Vec<u8> {
        let len = bytes.len() as u64;
        let mut head = [len as u32, (len >> 32) as u32];
        self.broadcast(&mut head);
        let len = (u64::from(head[0]) | u64::from(head[1]) << 32) as usize;
        let mut words = if self.rank() == 0 { to_words(bytes) } else { vec![0; len.div_ceil(4)] };
        // MPI counts are a C `int`.
        words.chunks_mut(1 << 28).for_each(|words| self.broadcast(words));
        to_bytes(&words, len)
    }

    /// Whether `here` is true on any rank.
    #[must_use]
    pub fn any(&self, here: bool) -> bool {
        let mut all = vec![0; self.size()];
        self.gather(&[here.into()], &mut all, &vec![1; self.size()]);
        all.contains(&1)
    }
}

fn to_words(bytes: &[u8]) -> Vec<u32> {
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_ne_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

fn to_bytes(words: &[u32], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// A number as two words.
pub(crate) fn words_of(value: f64) -> [u32; 2] {
    let bits = value.to_bits();
    [bits as u32, (bits >> 32) as u32]
}

/// The inverse of [`words_of`].
pub(crate) fn number_of(words: [u32; 2]) -> f64 {
    f64::from_bits(u64::from(words[0]) | u64::from(words[1]) << 32)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Barrier, Mutex, PoisonError};

    use super::*;

    /// Ranks that are threads of one process.
    pub(crate) struct Threads {
        rank: usize,
        shared: Arc<Shared>,
    }

    struct Shared {
        /// The words each rank sends, with the length of each part.
        sent: Vec<Mutex<(Vec<u32>, Vec<usize>)>>,
        barrier: Barrier,
    }

    impl Threads {
        /// This many ranks, each for its own thread.
        pub(crate) fn ranks(size: usize) -> Vec<Self> {
            let sent = (0..size).map(|_| Mutex::default()).collect();
            let shared = Arc::new(Shared { sent, barrier: Barrier::new(size) });
            (0..size).map(|rank| Self { rank, shared: Arc::clone(&shared) }).collect()
        }
    }

    impl Collective for Threads {
        fn rank(&self) -> usize {
            self.rank
        }

        fn size(&self) -> usize {
            self.shared.sent.len()
        }

        fn exchange(&self, send: (&[u32], &[usize]), receive: (&mut [u32], &[usize])) {
            let of =
                |rank: usize| self.shared.sent[rank].lock().unwrap_or_else(PoisonError::into_inner);
            *of(self.rank) = (send.0.to_vec(), send.1.to_vec());
            self.barrier();
            let (mut rest, counts) = receive;
            for (rank, &count) in counts.iter().enumerate() {
                let (sent, counts) = &*of(rank);
                let start = counts[..self.rank].iter().sum::<usize>();
                assert_eq!(counts[self.rank], count);
                let (part, after) = rest.split_at_mut(count);
                part.copy_from_slice(&sent[start..start + count]);
                rest = after;
            }
            assert!(rest.is_empty());
            self.barrier();
        }

        fn gather(&self, mine: &[u32], all: &mut [u32], counts: &[usize]) {
            let send = mine.repeat(self.size());
            self.exchange((&send, &vec![mine.len(); self.size()]), (all, counts));
        }

        fn broadcast(&self, words: &mut [u32]) {
            let len = words.len();
            let (send, counts) = if self.rank == 0 {
                (words.repeat(self.size()), vec![len; self.size()])
            } else {
                (Vec::new(), vec![0; self.size()])
            };
            let mut from = vec![0; self.size()];
            from[0] = len;
            self.exchange((&send, &counts), (words, &from));
        }

        fn barrier(&self) {
            self.shared.barrier.wait();
        }

        fn abort(&self, code: i32) -> ! {
            panic!("rank {} ends the run with {code}", self.rank)
        }
    }

    #[test]
    fn bytes_of_any_length_reach_every_rank_unchanged() {
        let texts = ["", "a", "four", "fives"];
        std::thread::scope(|scope| {
            for rank in Threads::ranks(texts.len()) {
                scope.spawn(move || {
                    let ranks: &dyn Collective = &rank;
                    let mine = texts[ranks.rank()].as_bytes();
                    assert_eq!(
                        ranks.gather_bytes(mine),
                        texts.map(|text| text.as_bytes().to_vec())
                    );
                    let of_root: &[u8] = if ranks.rank() == 0 { b"seventh" } else { b"" };
                    assert_eq!(ranks.broadcast_bytes(of_root), b"seventh");
                    assert!(ranks.any(ranks.rank() == 2) && !ranks.any(false));
                });
            }
        });
    }

    #[test]
    fn numbers_round_trip_through_words() {
        for value in [0.0, -0.0, 0.1, f64::MAX, f64::NEG_INFINITY] {
            assert_eq!(number_of(words_of(value)).to_bits(), value.to_bits());
        }
    }
}
