//! The processes of an MPI launch.

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

/// Why the ranks cannot be joined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// MPI is initialised already.
    #[error("expected MPI not to be initialised yet, but it is")]
    Initialised,
    /// MPI does not support calls from any thread.
    #[error("expected an MPI that any thread may call (MPI_THREAD_MULTIPLE), got {granted}")]
    Threads {
        /// The supported level.
        granted: String,
    },
    /// The launcher started several processes, but each is alone in its MPI world: the launcher belongs to another MPI.
    #[error("expected {expected} ranks (from {variable}), got {got} in MPI_COMM_WORLD")]
    Size {
        /// Size according to the launcher.
        expected: usize,
        /// Size according to MPI.
        got: usize,
        /// The launcher's variable.
        variable: &'static str,
    },
}

/// All ranks of an MPI launch.
pub struct World {
    /// `None` once MPI is finalised.
    universe: Mutex<Option<Universe>>,
    rank: usize,
    size: usize,
}

/// Interval between checks of a barrier.
const PAUSE: Duration = Duration::from_millis(2);

impl World {
    /// Initialises MPI.
    ///
    /// # Errors
    /// If MPI is initialised already, lacks thread support, or has another number of ranks than the launcher.
    pub fn join(launch: &Launch) -> Result<Self, Error> {
        // A thread of the pool calls MPI, and any thread may have to abort.
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

    /// Waits for all ranks and finalises MPI. Every rank calls it last, on the thread that joined; a rank that fails
    /// calls [`abort`] instead, because the others would not arrive.
    pub fn leave(&self) {
        self.barrier();
        drop(self.universe().take());
    }

    fn universe(&self) -> MutexGuard<'_, Option<Universe>> {
        self.universe.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The MPI library in one line.
    #[must_use]
    pub fn library(&self) -> String {
        let version = environment::library_version().unwrap_or_default();
        version.lines().next().unwrap_or_default().trim_end_matches('\0').to_owned()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Finalising waits for all ranks, so a failing rank would hang here.
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

    /// Waits without keeping a core busy.
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

/// Ends all ranks with this exit code, from any thread; without MPI, this process.
///
/// MPI equivalent: `MPI_Abort`.
pub fn abort(code: i32) -> ! {
    if environment::is_initialized() && !environment::is_finalized() {
        SimpleCommunicator::world().abort(code);
    }
    std::process::exit(code)
}

/// MPI counts are C ints.
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
