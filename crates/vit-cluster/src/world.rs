//! All processes of an MPI launch.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mpi::collective::CommunicatorCollectives;
use mpi::datatype::{Partition, PartitionMut};
use mpi::environment::{self, Universe};
use mpi::topology::{Communicator, SimpleCommunicator};
use mpi::traits::Root;
use mpi::{Count, Threading};
use vit_train::Collective;

use crate::Launch;

/// Why the ranks cannot come together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// MPI was initialised before.
    #[error("expected MPI not to be initialised yet, got an MPI that is")]
    Initialised,
    /// Threads may not call MPI.
    #[error("expected an MPI that any thread may call (MPI_THREAD_MULTIPLE), got {granted}")]
    Threads {
        /// What it allows.
        granted: String,
    },
    /// The launcher started several processes, and each is a world of its own: it is not of this MPI.
    #[error("expected {expected} ranks, as {variable} says, got {got} in MPI's world")]
    Size {
        /// What the launcher says.
        expected: usize,
        /// What MPI says.
        got: usize,
        /// The launcher's variable.
        variable: &'static str,
    },
}

/// All ranks of an MPI launch.
pub struct World {
    /// None once MPI is finalised.
    universe: Mutex<Option<Universe>>,
    rank: usize,
    size: usize,
}

/// Between two looks whether all have come.
const PAUSE: Duration = Duration::from_millis(2);

impl World {
    /// Initialises MPI.
    ///
    /// # Errors
    /// If it is initialised, not for threads, or of other ranks than the launcher's.
    pub fn join(launch: &Launch) -> Result<Self, Error> {
        // Shards are computed on a pool, one of whose threads calls MPI, and any thread may have to abort.
        let (universe, granted) = environment::initialize_with_threading(Threading::Multiple)
            .ok_or(Error::Initialised)?;
        if granted < Threading::Multiple {
            return Err(Error::Threads { granted: format!("{granted:?}") });
        }
        let world = SimpleCommunicator::world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        if size != launch.size {
            let (expected, variable) = (launch.size, launch.variable);
            return Err(Error::Size { expected, got: size, variable });
        }
        Ok(Self { universe: Mutex::new(Some(universe)), rank, size })
    }

    /// Waits for all ranks, and finalises MPI: what every rank calls last, on the thread that joined. A rank that fails calls
    /// [`abort`] instead, since the others would not come.
    pub fn leave(&self) {
        self.barrier();
        drop(self.universe().take());
    }

    fn universe(&self) -> MutexGuard<'_, Option<Universe>> {
        self.universe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The MPI library, in a line.
    #[must_use]
    pub fn library(&self) -> String {
        let version = environment::library_version().unwrap_or_default();
        version.lines().next().unwrap_or_default().trim_end_matches('\0').to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // To finalise is to wait for all ranks: one that fails would hang here.
        std::mem::forget(self.universe().take());
    }
}

impl Collective for World {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, send: (&[u32], &[usize]), receive: (&mut [u32], &[usize])) {
        let (counts, starts) = counts_and_starts(send.1);
        let send = Partition::new(send.0, counts, starts);
        let (counts, starts) = counts_and_starts(receive.1);
        let mut receive = PartitionMut::new(receive.0, counts, starts);
        SimpleCommunicator::world().all_to_all_varcount_into(&send, &mut receive);
    }

    fn gather(&self, mine: &[u32], all: &mut [u32], counts: &[usize]) {
        let (counts, starts) = counts_and_starts(counts);
        let mut all = PartitionMut::new(all, counts, starts);
        SimpleCommunicator::world().all_gather_varcount_into(mine, &mut all);
    }

    fn broadcast(&self, words: &mut [u32]) {
        SimpleCommunicator::world().process_at_rank(0).broadcast_into(words);
    }

    /// Without keeping a core busy, however long it takes.
    fn barrier(&self) {
        let mut barrier = SimpleCommunicator::world().immediate_barrier();
        while let Err(pending) = barrier.test() {
            barrier = pending;
            thread::sleep(PAUSE);
        }
    }

    fn abort(&self, code: i32) -> ! {
        abort(code)
    }
}

/// Ends all ranks with this exit code, from any thread; outside of MPI, this process.
///
/// MPI equivalent: `MPI_Abort`.
pub fn abort(code: i32) -> ! {
    if environment::is_initialized() && !environment::is_finalized() {
        SimpleCommunicator::world().abort(code);
    }
    std::process::exit(code)
}

/// MPI counts in C ints.
fn counts_and_starts(counts: &[usize]) -> (Vec<Count>, Vec<Count>) {
    let count = |&count: &usize| Count::try_from(count).expect("fewer than 2^31 words are sent");
    let starts = counts.iter().scan(0, |start, count| {
        let before = *start;
        *start += count;
        Some(before)
    });
    let starts: Vec<usize> = starts.collect();
    (counts.iter().map(count).collect(), starts.iter().map(count).collect())
}
