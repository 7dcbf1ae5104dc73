//! `cargo xtask bench`: runs vit and PyTorch alternately, round by round, and prints one table.

mod machine;
mod measure;
mod table;
mod workloads;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};
use vit_fetch::{MNIST, Options, data_root, user_mirrors};

use crate::cargo::build_vit;
use crate::outside::build_speed;
use machine::Machine;
use measure::{Measurement, Programs};
use table::Line;
use workloads::{Program, Row, Run, rows};

/// Compares vit with PyTorch, and checks the targets
///
/// PyTorch needs Python packages in a venv; without one, only vit is measured.
#[derive(Args)]
pub(crate) struct Bench {
    /// A Python venv with the packages of tests/reference/requirements.txt
    #[arg(long, value_name = "DIR")]
    venv: Option<PathBuf>,
    /// Number of rounds, in which each program is measured once; medians count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Threads for vit; peers run with this number and with one, and the faster counts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Only this row of the table; repeat it for more
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Write machine, versions, table and every single measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

const NO_VENV: &str = "\
without --venv, vit is measured alone. To make one:
    python3 -m venv target/reference
    target/reference/bin/pip install -r tests/reference/requirements.txt";

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        let rows = chosen(rows(self.threads), &self.only)?;
        if self.venv.is_none() {
            eprintln!("{NO_VENV}");
        }
        let data = data_root(None)?;
        let options = Options { mirrors: user_mirrors(None)?, ..Options::default() };
        vit_fetch::fetch(&MNIST, &MNIST.folder(&data), &options, &mut |_| {})?;
        let asks = |row: &Row| row.contenders().any(|c| c.runs.iter().any(Run::is_speed));
        let speed = rows.iter().any(asks).then(build_speed).transpose()?;
        let programs = Programs::new(&build_vit()?, speed, self.venv.as_deref(), &data)?;
        let machine = Machine::look(&programs)?;

        let runs = runs(&rows, &programs);
        let mut measurements = Vec::new();
        for round in 1..=self.rounds {
            for (index, run) in runs.iter().enumerate() {
                eprintln!("round {round}/{}, {}/{}: {run}", self.rounds, index + 1, runs.len());
                measurements.push(programs.measure(run, round)?);
            }
        }
        let lines: Vec<Line> = rows.iter().map(|row| Line::of(row, &measurements)).collect();
        println!("{machine}; threads: {}, rounds: {}\n", self.threads, self.rounds);
        println!("{}", table::markdown(&lines));
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&self.as_json(&machine, &lines, &measurements));
            std::fs::write(path, text.expect("figures are plain data") + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }

    fn as_json(&self, machine: &Machine, lines: &[Line], measurements: &[Measurement]) -> Value {
        json!({
            "machine": machine.as_json(),
            "versions": machine.versions(measurements),
            "threads": self.threads,
            "rounds": self.rounds,
            "rows": lines.iter().map(Line::as_json).collect::<Vec<_>>(),
            "measurements": measurements.iter().map(Measurement::as_json).collect::<Vec<_>>(),
        })
    }
}

/// The rows of these names; all rows if there are none.
fn chosen(rows: Vec<Row>, only: &[String]) -> Result<Vec<Row>> {
    if let Some(unknown) = only.iter().find(|name| rows.iter().all(|row| row.name != **name)) {
        let names: Vec<&str> = rows.iter().map(|row| row.name).collect();
        bail!("no row is called {unknown:?}, expected one of {}", names.join(", "));
    }
    let wanted = |row: &Row| only.is_empty() || only.iter().any(|name| name == row.name);
    Ok(rows.into_iter().filter(wanted).collect())
}

/// The runs that these rows need, each once a round, with ours next to the peers'.
fn runs(rows: &[Row], programs: &Programs) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for run in rows.iter().flat_map(Row::contenders).flat_map(|contender| &contender.runs) {
        let there = run.program != Program::Python || programs.have_python();
        if there && !runs.contains(run) {
            runs.push(run.clone());
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name() {
        let only = |names: &[&str]| {
            chosen(rows(2), &names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(only(&[]).unwrap().len(), rows(2).len());
        let names: Vec<&str> =
            only(&["eval", "latency"]).unwrap().iter().map(|row| row.name).collect();
        assert_eq!(names, ["eval", "latency"]);
        let error = only(&["speed"]).err().unwrap().to_string();
        assert!(error.starts_with("no row is called \"speed\", expected one of train-notebook, "));
    }
}
