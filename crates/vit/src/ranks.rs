//! This process as one of the ranks started by a launcher such as mpirun or srun.

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use candle_core::Device;
use toml::Table;
use vit_cluster::Launch;
use vit_train::{Alone, Collective};

use crate::device;
use crate::differences::differences;
use crate::failure::{Exit, Failure, Result};
use crate::interrupt;

/// Time a rank waits before it reports a failure. If rank 0 has the same failure, it reports first, and the launcher
/// ends the others within 2 s, with the flags in the book.
const RANK_0_FIRST: Duration = Duration::from_secs(3);

static LAUNCH: OnceLock<Option<Launch>> = OnceLock::new();

fn launch() -> Option<&'static Launch> {
    LAUNCH.get_or_init(Launch::of_environment).as_ref()
}

/// Whether this is a rank other than 0, which reports for all.
pub(crate) fn is_follower() -> bool {
    launch().is_some_and(|launch| launch.rank > 0)
}

/// Lets rank 0 report a common failure first.
pub(crate) fn let_rank_0_speak() {
    if is_follower() {
        thread::sleep(RANK_0_FIRST);
    }
}

/// Reports the failure of a command shared by ranks, and ends all of them.
pub(crate) fn fail(failure: Failure) -> ExitCode {
    let Some(launch) = launch() else { return failure.report() };
    let_rank_0_speak();
    if launch.rank > 0 && interrupt::asked() {
        return failure.exit_code();
    }
    let failure = if launch.rank > 0 { failure.about(name_of(launch.rank)) } else { failure };
    let code = failure.report();
    vit_files::remove_temporaries();
    end_all(failure.code());
    code
}

/// Ends all ranks, if they have joined.
#[cfg(feature = "mpi")]
fn end_all(code: i32) {
    vit_cluster::abort(code);
}

#[cfg(not(feature = "mpi"))]
const fn end_all(_code: i32) {}

fn name_of(rank: usize) -> String {
    format!("rank {rank} on {}", host())
}

fn host() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "an unknown host".to_owned() } else { name.trim().to_owned() }
}

/// The ranks that train together; usually only this process.
pub(crate) struct Ranks {
    collective: Arc<dyn Collective>,
    /// Where each rank runs.
    places: Vec<Place>,
    /// Every rank's last call.
    leave: Box<dyn FnOnce()>,
}

/// Where a rank runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    host: String,
    /// The cores it may use, in Linux' format.
    cores: String,
    /// Number of cores of its node.
    cores_of_node: usize,
}

impl Place {
    fn here() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let cores = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        let cores = cores.unwrap_or_default().trim().to_owned();
        Self { host: host(), cores, cores_of_node: numbers(&online).len() }
    }

    fn to_text(&self) -> String {
        format!("{}\n{}\n{}", self.host, self.cores, self.cores_of_node)
    }

    fn of_text(text: &str) -> Self {
        let mut lines = text.lines();
        let mut line = || lines.next().unwrap_or_default().to_owned();
        let (host, cores) = (line(), line());
        Self { host, cores, cores_of_node: line().parse().unwrap_or(0) }
    }
}

/// The numbers of a list such as `0-3,8`.
fn numbers(list: &str) -> BTreeSet<usize> {
    let each = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=last.parse().ok()?)
    });
    each.flatten().collect()
}

/// The first rank bound to one core while its node has unused cores, which is the default of launchers.
fn bound(places: &[Place]) -> Option<(usize, &Place)> {
    let used = |host: &str| {
        let on_node = places.iter().filter(|place| place.host == host);
        on_node.flat_map(|place| numbers(&place.cores)).collect::<BTreeSet<_>>().len()
    };
    let is_bound =
        |place: &Place| numbers(&place.cores).len() == 1 && used(&place.host) < place.cores_of_node;
    places.iter().enumerate().find(|(_, place)| is_bound(place))
}

impl Ranks {
    /// Only this process, whatever started it.
    pub(crate) fn alone() -> Self {
        let (collective, places) = (Arc::new(Alone), vec![Place::here()]);
        Self { collective, places, leave: Box::new(|| ()) }
    }

    /// All ranks of the launch; only this process if it was not launched with others.
    ///
    /// # Errors
    /// If this program cannot communicate with the others.
    pub(crate) fn join() -> Result<Self> {
        let Some(launch) = launch() else { return Ok(Self::alone()) };
        let (collective, leave) = world(launch)?;
        let here = Place::here().to_text();
        let places = collective.gather_bytes(here.as_bytes());
        let places = places.iter().map(|text| Place::of_text(&String::from_utf8_lossy(text)));
        let ranks = Self { places: places.collect(), collective, leave };
        if ranks.is_first() {
            ranks.warn_of_binding();
        }
        Ok(ranks)
    }

    /// Whether this rank reports and writes for all.
    pub(crate) fn is_first(&self) -> bool {
        self.collective.rank() == 0
    }

    pub(crate) fn are_several(&self) -> bool {
        self.collective.size() > 1
    }

    pub(crate) fn collective(&self) -> Arc<dyn Collective> {
        Arc::clone(&self.collective)
    }

    /// The prefix of a log line that counts threads: `4 ranks of `; empty for one rank.
    pub(crate) fn told(&self) -> String {
        if self.are_several() {
            format!("{} ranks of ", self.collective.size())
        } else {
            String::new()
        }
    }

    fn here(&self) -> &Place {
        &self.places[self.collective.rank()]
    }

    /// The ranks on this rank's node, in order.
    fn on_node(&self) -> impl Iterator<Item = (usize, &Place)> {
        self.places.iter().enumerate().filter(|(_, place)| place.host == self.here().host)
    }

    /// This rank's threads: as requested, else its share of the node's cores.
    pub(crate) fn threads(&self, asked: Option<u16>) -> Option<u16> {
        if asked.is_some() || !self.are_several() {
            return asked;
        }
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let lists: BTreeSet<&str> = self.on_node().map(|(_, place)| &*place.cores).collect();
        // If each rank has its own cores, there is nothing to share.
        let sharing = if lists.len() > 1 { 1 } else { self.on_node().count() };
        Some(u16::try_from(cores / sharing).unwrap_or(u16::MAX).max(1))
    }

    /// Warns of a rank that is restricted to one core.
    fn warn_of_binding(&self) {
        let Some((rank, Place { host, cores_of_node, .. })) = bound(&self.places) else { return };
        tracing::warn!("rank {rank} on {host} may use 1 of {cores_of_node} cores");
        tracing::warn!(
            target: crate::failure::HINT,
            "pass `--bind-to none` to mpirun, or `--cpus-per-task N` to srun"
        );
    }

    /// The device to compute on.
    ///
    /// # Errors
    /// If it is not usable.
    pub(crate) fn device(&self, asked: device::Device) -> Result<Device> {
        if !self.are_several() {
            return asked.open();
        }
        match asked {
            device::Device::Auto | device::Device::Cpu => Ok(Device::Cpu),
            device::Device::Cuda(_) => {
                let message = "expected --device cpu in training on several ranks, got a GPU";
                Err(Failure::new(Exit::Usage, message).hint("train on the GPU without a launcher"))
            }
        }
    }

    /// Runs `make` on one rank of each node first, so that the others find its files.
    ///
    /// # Errors
    /// Errors of `make`.
    pub(crate) fn one_first_on_each_node<T>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let is_first = self.on_node().next().is_none_or(|(rank, _)| rank == self.collective.rank());
        if is_first {
            let made = make()?;
            self.collective.barrier();
            Ok(made)
        } else {
            self.collective.barrier();
            make()
        }
    }

    /// Waits for all ranks at the end. A rank that fails ends all of them instead.
    pub(crate) fn leave(self) {
        (self.leave)();
    }

    /// Whether `here` is true on any rank.
    pub(crate) fn any(&self, here: bool) -> bool {
        if self.are_several() { self.collective.any(here) } else { here }
    }

    /// Rank 0's text, on every rank.
    pub(crate) fn broadcast_text(&self, text: &str) -> String {
        let bytes = self.collective.broadcast_bytes(text.as_bytes());
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Checks that this table is the same on all ranks.
    ///
    /// # Errors
    /// If it differs; the error names each difference, with the first rank that differs from rank 0.
    pub(crate) fn agree(&self, mine: &Table) -> Result<()> {
        if !self.are_several() {
            return Ok(());
        }
        let text = toml::to_string(mine).expect("settings are plain data");
        let all = self.collective.gather_bytes(text.as_bytes());
        let tables = all.iter().map(|text| String::from_utf8_lossy(text).parse::<Table>());
        let tables: Vec<Table> =
            tables.collect::<std::result::Result<_, _>>().map_err(|error| {
                Failure::new(
                    Exit::Internal,
                    format!("cannot parse another rank's settings: {error}"),
                )
            })?;
        let different = differences(&tables.iter().collect::<Vec<_>>());
        if different.is_empty() {
            return Ok(());
        }
        let different = different.into_iter().map(|(name, values)| {
            let rank = values.iter().position(|value| *value != values[0]).unwrap_or(0);
            let host = &self.places[rank].host;
            format!("{name}: {} on rank 0, {} on rank {rank} on {host}", values[0], values[rank])
        });
        let failure = Failure::new(Exit::Usage, "the ranks differ").details(different.collect());
        Err(failure.hint(
            "start the same program with the same arguments and data on processors of one kind",
        ))
    }
}

/// The ranks this program communicates with, and their last call.
type World = (Arc<dyn Collective>, Box<dyn FnOnce()>);

#[cfg(feature = "mpi")]
fn world(launch: &Launch) -> Result<World> {
    use vit_cluster::Error;

    let world = vit_cluster::World::join(launch).map_err(|error| {
        let hint = match &error {
            Error::Size { .. } => {
                "the launcher is of another MPI than the one that vit was built with: compare `mpirun --version` with \
                 `mpicc --version`; with srun, pass --mpi=pmix or --mpi=pmi2"
            }
            _ => "build the MPI library with MPI_THREAD_MULTIPLE",
        };
        Failure::new(Exit::Usage, error.to_string()).hint(hint)
    })?;
    interrupt::is_rank(world.rank());
    crate::terminal::set_panic_prefix(&name_of(world.rank()));
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        told(info);
        // Otherwise the other ranks would wait for ever.
        vit_cluster::abort(Exit::Internal as i32);
    }));
    tracing::debug!("{} ranks over {}", world.size(), world.library());
    let world = Arc::new(world);
    let leaving = Arc::clone(&world);
    Ok((world, Box::new(move || leaving.leave())))
}

#[cfg(not(feature = "mpi"))]
fn world(launch: &Launch) -> Result<World> {
    let Launch { size, variable, .. } = launch;
    let message = format!(
        "{variable} announces {size} processes, but this vit is built without MPI: each would train alone"
    );
    let hint = format!(
        "use `cargo xtask train --mpi {size}`, build with `--features mpi`, or unset {variable} to train alone"
    );
    Err(Failure::new(Exit::Usage, message).hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_parsed() {
        assert!(numbers("0-3,8\n").into_iter().eq([0, 1, 2, 3, 8]));
        assert!(numbers("7").into_iter().eq([7]));
        assert!(numbers("").is_empty());
    }

    #[test]
    fn a_rank_bound_to_one_core_is_found_if_other_cores_are_unused() {
        let place = |host: &str, cores: &str, cores_of_node| Place {
            host: host.to_owned(),
            cores: cores.to_owned(),
            cores_of_node,
        };
        let free = [place("a", "0-7", 8), place("a", "0-7", 8)];
        assert_eq!(bound(&free), None);
        // Every core is used.
        assert_eq!(bound(&[place("a", "0", 2), place("a", "1", 2)]), None);
        // Two ranks share a core, and one is idle.
        let shared = [place("a", "0", 2), place("a", "0", 2)];
        assert_eq!(bound(&shared).map(|(rank, _)| rank), Some(0));
        let places = [&free[..], &[place("b", "3", 8)]].concat();
        assert_eq!(bound(&places).map(|(rank, _)| rank), Some(2));
    }

    #[test]
    fn places_round_trip() {
        let place = Place::here();
        assert_eq!(Place::of_text(&place.to_text()), place);
        assert!(!place.host.is_empty());
    }
}

/// Tests a panic's effect on other ranks; run by `cargo xtask test-mpi`.
#[cfg(all(test, feature = "mpi", unix))]
mod over_mpi {
    use std::process::Command;
    use std::time::Instant;

    use super::*;

    /// One rank of the test below.
    #[test]
    #[ignore = "started by a launcher"]
    fn a_thread_of_rank_1_panics_while_the_others_wait() {
        crate::terminal::install_panic_hook();
        let ranks = Ranks::join().expect("ranks of one launch");
        if ranks.collective.rank() == 1 {
            let thread = thread::Builder::new().name("shard-0".to_owned());
            let panics = || panic!("on purpose");
            let _ = thread.spawn(panics).expect("a thread").join();
        }
        ranks.leave();
    }

    #[test]
    fn a_panic_in_any_thread_of_one_rank_ends_all() {
        let this = std::env::current_exe().expect("the path of this program");
        let begun = Instant::now();
        let mut command = Command::new("mpirun");
        command.args(["-n", "3", "--oversubscribe", "--allow-run-as-root"]).arg(this);
        let name = "ranks::over_mpi::a_thread_of_rank_1_panics_while_the_others_wait";
        let output = command.args(["--ignored", "--exact", name]).output().expect("mpirun");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{stderr}");
        let told: Vec<&str> = stderr.lines().filter(|line| line.contains("panicked")).collect();
        assert_eq!(told.len(), 1, "{stderr}");
        assert!(told[0].starts_with("error: rank 1 on "), "{stderr}");
        assert!(told[0].ends_with("on purpose"), "{stderr}");
    }
}
