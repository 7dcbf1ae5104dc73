//! Detects launchers by their environment variables.

use std::env;

/// A process that a launcher started together with others.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Launch {
    /// Its rank, from 0.
    pub rank: usize,
    /// Number of processes, at least two.
    pub size: usize,
    /// The variable with the rank, which identifies the launcher.
    pub variable: &'static str,
}

/// Variables of the rank and the number of ranks, by precedence: Open MPI's `mpirun` also runs under Slurm. Slurm sets
/// both of its variables only in a job step: a batch script outside `srun` is one process, whatever it reserves.
const VARIABLES: [(&str, &str); 3] = [
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
];

impl Launch {
    /// The launch in this process's environment; `None` if it runs alone.
    #[must_use]
    pub fn of_environment() -> Option<Self> {
        Self::of(|name| env::var(name).ok())
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let number = |name: &str| variable(name)?.parse::<usize>().ok();
        let known = VARIABLES.iter().find_map(|&(rank, size)| {
            Some(Self { rank: number(rank)?, size: number(size)?, variable: rank })
        });
        known.filter(|launch| launch.size > 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Option<(usize, usize)> {
        let value = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Launch::of(value).map(|launch| (launch.rank, launch.size))
    }

    #[test]
    fn every_launcher_is_detected_and_open_mpi_has_precedence() {
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")];
        let slurm = [("SLURM_PROCID", "2"), ("SLURM_STEP_NUM_TASKS", "3"), ("SLURM_NTASKS", "3")];
        assert_eq!(of(&open_mpi), Some((1, 4)));
        assert_eq!(of(&[("PMI_RANK", "5"), ("PMI_SIZE", "8")]), Some((5, 8)));
        assert_eq!(of(&slurm), Some((2, 3)));
        assert_eq!(of(&[&open_mpi[..], &slurm].concat()), Some((1, 4)));
    }

    #[test]
    fn one_process_runs_alone() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")]), None);
        // A Slurm batch script outside a step.
        assert_eq!(of(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]), None);
        assert_eq!(of(&[("PMI_RANK", "x"), ("PMI_SIZE", "8")]), None);
    }
}
