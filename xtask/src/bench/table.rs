//! The results, row by row.

use serde_json::{Value, json};

use super::measure::{Measurement, median};
use super::workloads::{Better, Contender, Figure, Row, Target};

/// A row with its results.
pub(super) struct Line {
    name: &'static str,
    title: &'static str,
    figure: Figure,
    ours: Best,
    /// The peers that could run.
    peers: Vec<Best>,
    target: String,
    /// Whether the target is reached; `None` if a peer is missing.
    met: Option<bool>,
}

/// The best run of a program.
struct Best {
    name: &'static str,
    command: String,
    /// Median over the rounds.
    value: f64,
}

impl Line {
    pub(super) fn of(row: &Row, measurements: &[Measurement]) -> Self {
        let best = |contender| Best::of(contender, row.figure, measurements);
        let ours = best(&row.ours).unwrap_or_else(|| panic!("{} was not measured", row.name));
        let peers: Vec<Best> = row.peers.iter().filter_map(best).collect();
        let met = met(&row.target, row.figure, &ours, &peers);
        let target = in_words(&row.target, row.figure);
        Self { name: row.name, title: row.title, figure: row.figure, ours, peers, target, met }
    }

    pub(super) fn as_json(&self) -> Value {
        let peer = |peer: &Best| {
            let mut json = peer.as_json();
            json["ratio"] = json!(ratio(self.figure, &self.ours, peer));
            json
        };
        json!({
            "row": self.name,
            "title": self.title,
            "figure": self.figure.field,
            "ours": self.ours.as_json(),
            "peers": self.peers.iter().map(peer).collect::<Vec<_>>(),
            "target": self.target,
            "met": self.met,
        })
    }

    fn cells(&self) -> [String; 5] {
        let peers = self.peers.iter().map(|peer| {
            let times = ratio(self.figure, &self.ours, peer);
            format!("{} {} ({times:.2} x)", peer.name, show(peer.value, self.figure.unit))
        });
        let peers: Vec<String> = peers.collect();
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        };
        let ours = show(self.ours.value, self.figure.unit);
        [self.title.to_owned(), ours, peers.join(", "), self.target.clone(), met.to_owned()]
    }
}

impl Best {
    /// `None` if none of its runs was measured.
    fn of(contender: &Contender, figure: Figure, measurements: &[Measurement]) -> Option<Self> {
        let values = contender.runs.iter().filter_map(|run| {
            let rounds = measurements.iter().filter(|measurement| measurement.run == *run);
            let rounds: Vec<f64> = rounds.filter_map(|round| round.figure(figure.field)).collect();
            (!rounds.is_empty()).then(|| (run, median(rounds)))
        });
        let (run, value) = values.reduce(|best, next| match figure.better {
            Better::Lower if next.1 < best.1 => next,
            Better::Higher if next.1 > best.1 => next,
            _ => best,
        })?;
        Some(Self { name: contender.name, command: run.to_string(), value })
    }

    fn as_json(&self) -> Value {
        json!({ "name": self.name, "command": self.command, "median": self.value })
    }
}

/// How many times better our value is.
fn ratio(figure: Figure, ours: &Best, peer: &Best) -> f64 {
    match figure.better {
        Better::Lower => peer.value / ours.value,
        Better::Higher => ours.value / peer.value,
    }
}

fn met(target: &Target, figure: Figure, ours: &Best, peers: &[Best]) -> Option<bool> {
    let ratio = |name| {
        let peer = peers.iter().find(|peer| peer.name == name)?;
        Some(ratio(figure, ours, peer))
    };
    match *target {
        Target::Below(limit) => Some(ours.value < limit),
        Target::Near(name, share) => Some((ratio(name)? - 1.0).abs() <= share),
        Target::NoWorse(name, share) => Some(ratio(name)? >= 1.0 - share),
        Target::Times(factors) => {
            let each = factors.iter().map(|&(name, factor)| Some(ratio(name)? >= factor));
            each.collect::<Option<Vec<bool>>>().map(|each| each.iter().all(|&met| met))
        }
    }
}

fn in_words(target: &Target, figure: Figure) -> String {
    match *target {
        Target::Below(limit) => format!("under {limit} {}", figure.unit),
        Target::Near(name, share) => format!("{name}, up to {:.0} %", 100.0 * share),
        Target::NoWorse(name, share) => format!("no worse than {name} by {:.0} %", 100.0 * share),
        Target::Times(factors) => {
            let each = factors.iter().map(|(name, factor)| format!("{factor} x {name}"));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}

/// A figure with at least three digits; from 1,000 microseconds on in milliseconds.
fn show(value: f64, unit: &str) -> String {
    if unit == "us" && value >= 1000.0 {
        return show(value / 1000.0, "ms");
    }
    let decimals = match value {
        100.0.. => 0,
        10.0..100.0 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

/// The table in Markdown, with aligned columns.
pub(super) fn markdown(lines: &[Line]) -> String {
    let head = ["workload", "vit", "peers", "target", "met"].map(str::to_owned);
    let rows: Vec<[String; 5]> =
        std::iter::once(head).chain(lines.iter().map(Line::cells)).collect();
    let widths: [usize; 5] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let line = |cells: &[String; 5]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!(" {cell:width$} |"));
        format!("|{}", cells.collect::<String>())
    };
    let rule = widths.map(|width| format!("{}|", "-".repeat(width + 2))).concat();
    let mut text = vec![line(&rows[0]), format!("|{rule}")];
    text.extend(rows[1..].iter().map(line));
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workloads::rows;

    fn best(name: &'static str, value: f64) -> Best {
        Best { name, command: String::new(), value }
    }

    const TIME: Figure = Figure { field: "median_ms", unit: "ms", better: Better::Lower };
    const RATE: Figure =
        Figure { field: "images_per_second", unit: "images/s", better: Better::Higher };

    #[test]
    fn higher_rates_and_lower_times_are_better() {
        assert_eq!(ratio(TIME, &best("vit", 2.0), &best("seed", 10.0)), 5.0);
        assert_eq!(ratio(RATE, &best("vit", 10.0), &best("seed", 2.0)), 5.0);
    }

    #[test]
    fn every_factor_must_be_reached() {
        let target = Target::Times(&[("seed", 5.0), ("careful", 3.5)]);
        let met = |seed, careful| {
            met(&target, TIME, &best("vit", 2.0), &[best("seed", seed), best("careful", careful)])
        };
        assert_eq!(met(10.0, 7.0), Some(true));
        assert_eq!(met(9.9, 7.0), Some(false));
        assert_eq!(met(10.0, 6.9), Some(false));
    }

    #[test]
    fn a_missing_peer_gives_no_verdict() {
        let ours = best("vit", 49.0);
        assert_eq!(met(&Target::Times(&[("seed", 5.0)]), TIME, &ours, &[]), None);
        assert_eq!(met(&Target::Below(50.0), TIME, &ours, &[]), Some(true));
    }

    #[test]
    fn near_allows_deviations_both_ways() {
        let met = |ours| {
            met(&Target::Near("bench", 0.1), RATE, &best("vit", ours), &[best("bench", 100.0)])
        };
        assert_eq!(
            [met(89.0), met(91.0), met(109.0), met(111.0)],
            [false, true, true, false].map(Some)
        );
    }

    #[test]
    fn figures_have_three_digits() {
        assert_eq!(show(4.812, "ms"), "4.81 ms");
        assert_eq!(show(40.27, "us"), "40.3 us");
        assert_eq!(show(16_100.0, "us"), "16.1 ms");
        assert_eq!(show(40_367.4, "images/s"), "40367 images/s");
    }

    #[test]
    fn a_peers_best_run_counts_by_its_median() {
        let row = rows(2).into_iter().find(|row| row.name == "train-notebook").unwrap();
        let printed =
            |run: &crate::bench::workloads::Run, ms: f64| Measurement::of(run, 1, "median_ms", ms);
        let (ours, seed) = (&row.ours.runs[0], &row.peers[0].runs);
        let measurements = [
            printed(ours, 3.0),
            printed(ours, 2.0),
            printed(ours, 9.0),
            printed(&seed[0], 15.0),
            printed(&seed[1], 12.0),
        ];
        let line = Line::of(&row, &measurements);
        assert_eq!(
            line.cells(),
            [
                "training step, notebook",
                "3.00 ms",
                "seed 12.0 ms (4.00 x)",
                "10 x seed, 3.5 x careful",
                "?"
            ]
        );
        let table = markdown(&[line]);
        let widths: Vec<usize> = table.lines().map(str::len).collect();
        assert_eq!(widths, [widths[0]; 3]);
    }
}
