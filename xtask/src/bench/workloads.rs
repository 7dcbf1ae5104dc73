//! The rows of the table: workloads, peers and targets.

use std::fmt;

/// A row of the table.
pub(super) struct Row {
    /// Its name for `--only`.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// The compared figure: a field of the programs' output, or one that `measure` adds.
    pub(super) figure: Figure,
    pub(super) ours: Contender,
    pub(super) peers: Vec<Contender>,
    pub(super) target: Target,
}

/// What a row compares.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Figure {
    pub(super) field: &'static str,
    pub(super) unit: &'static str,
    pub(super) better: Better,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Better {
    Lower,
    Higher,
}

/// A program to measure, with alternatives such as other thread counts; the best one counts.
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) runs: Vec<Run>,
}

/// A command line. Placeholders: `{model}` is a run directory, `{state}` its parameters in the notebook's layout,
/// `{run}` a directory that does not exist yet, `{shards-1}` and `{shards-4}` settings with so many shards.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) program: Program,
    pub(super) args: String,
    /// Starts per round.
    pub(super) starts: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Vit,
    /// tests/consumer's `speed`, with the README's settings.
    Speed,
    /// The same, with the system's allocator.
    SpeedSystem,
    Python,
}

/// The target of a row.
pub(super) enum Target {
    /// At least this many times as good as each peer.
    Times(&'static [(&'static str, f64)]),
    /// Below this value.
    Below(f64),
    /// Within this share of the peer, either way.
    Near(&'static str, f64),
    /// At most this share worse than the peer.
    NoWorse(&'static str, f64),
}

const STEP: Figure = Figure { field: "median_ms", unit: "ms", better: Better::Lower };
const PASS: Figure = Figure { field: "median_us", unit: "us", better: Better::Lower };
const RATE: Figure =
    Figure { field: "images_per_second", unit: "images/s", better: Better::Higher };
const WALL: Figure = Figure { field: "wall_ms", unit: "ms", better: Better::Lower };
const PEAK: Figure = Figure { field: "peak_mb", unit: "MB", better: Better::Lower };

const TINY: &str = "--config configs/vit-ti16-224.toml";

/// All rows, with vit on this many threads.
pub(super) fn rows(threads: u16) -> Vec<Row> {
    let bench_train = |preset, threads| {
        vit(format!("bench train --preset {preset} --dataset mnist --threads {threads} --json"))
    };
    let train = |epochs| {
        vit(format!(
            "train --preset notebook --dataset mnist --epochs {epochs} --threads {threads} --run-dir {{run}} --json"
        ))
    };
    let peer = |name, args: String| Contender { name, runs: at_threads(threads, &args) };
    let train_row = |name, title, preset| Row {
        name,
        title,
        figure: STEP,
        ours: Contender::ours(bench_train(preset, threads)),
        peers: ["seed", "careful"]
            .map(|variant| peer(variant, format!("train --variant {variant} --preset {preset}")))
            .into(),
        target: times(&[("seed", 10.0), ("careful", 3.5)]),
    };
    let tiny_step = |settings| {
        vit(format!(
            "bench train {settings} --batch-size 8 --steps 5 --warmup 2 --threads {threads} --json"
        ))
    };
    let tiny_forward = |name, title, batch_size, iterations, target| Row {
        name,
        title,
        figure: PASS,
        ours: Contender::ours(vit(format!(
            "bench latency {TINY} --batch-size {batch_size} --iterations {iterations} --threads {threads} --json"
        ))),
        peers: vec![Contender::of(
            "timm",
            peer_run(format!(
                "timm-forward --batch-size {batch_size} --iterations {iterations} --threads {threads}"
            )),
        )],
        target: times(target),
    };
    vec![
        train_row("train-notebook", "training step, notebook", "notebook"),
        train_row("train-shallow", "training step, shallow", "shallow"),
        Row {
            name: "train-mnist-250k",
            title: "training step, mnist-250k",
            figure: STEP,
            ours: Contender::ours(vit(format!(
                "bench train --config configs/mnist-250k.toml --threads {threads} --json"
            ))),
            peers: vec![peer("careful", "train --variant careful --preset mnist-250k".to_owned())],
            target: times(&[("careful", 2.0)]),
        },
        Row {
            name: "threads",
            title: "training step, against one thread",
            figure: STEP,
            ours: Contender::ours(bench_train("notebook", threads)),
            peers: vec![Contender::of("one thread", bench_train("notebook", 1))],
            target: times(&[("one thread", 1.8)]),
        },
        Row {
            name: "shards",
            title: "training step, shallow, 16 shards",
            figure: STEP,
            ours: Contender::ours(bench_train("shallow", threads)),
            peers: vec![Contender::of(
                "4 shards",
                vit(format!(
                    "bench train --config {{shards-4}} --preset shallow --dataset mnist --threads {threads} --json"
                )),
            )],
            target: times(&[("4 shards", 1.0)]),
        },
        Row {
            name: "one-shard",
            title: "training step, ViT-Ti/16, batch 8, 1 shard",
            figure: STEP,
            ours: Contender::ours(tiny_step("--config {shards-1} --preset vit-ti16")),
            peers: vec![Contender::of("4 shards", tiny_step("--preset vit-ti16"))],
            target: times(&[("4 shards", 0.9)]),
        },
        Row {
            name: "eval",
            title: "evaluation",
            figure: RATE,
            ours: Contender::ours(vit(format!(
                "bench eval {{model}} --dataset mnist --threads {threads} --json"
            ))),
            // The recipe's batch size, then larger ones, to show what PyTorch can target.
            peers: vec![
                peer("seed", "eval --variant seed".to_owned()),
                peer("careful", "eval --variant careful".to_owned()),
                peer(
                    "larger batches",
                    "eval --variant careful --batch-sizes 250 1000 10000".to_owned(),
                ),
            ],
            target: times(&[("seed", 4.0), ("larger batches", 3.0)]),
        },
        Row {
            name: "latency",
            title: "one image through a loaded model",
            figure: PASS,
            ours: Contender::ours(vit(format!(
                "bench latency {{model}} --threads {threads} --json"
            ))),
            peers: ["seed", "careful", "traced"]
                .map(|variant| peer(variant, format!("latency --variant {variant}")))
                .into(),
            target: Target::Below(50.0),
        },
        Row {
            name: "start",
            title: "process start to printed answer",
            figure: WALL,
            ours: Contender::ours(Run {
                starts: 20,
                ..vit("predict {model} tests/fixtures/digit.png")
            }),
            peers: vec![Contender::of(
                "PyTorch",
                Run {
                    program: Program::Python,
                    args: "tests/reference/predict.py {state} tests/fixtures/digit.png".to_owned(),
                    starts: 3,
                },
            )],
            target: Target::Below(50.0),
        },
        Row {
            name: "memory",
            title: "peak memory of training, 2 epochs",
            figure: PEAK,
            ours: Contender::ours(train(2)),
            peers: vec![Contender::of("PyTorch", peer_run("memory"))],
            target: Target::Below(110.0),
        },
        Row {
            name: "growth",
            title: "peak memory of training, 4 epochs",
            figure: PEAK,
            ours: Contender::ours(train(4)),
            peers: vec![Contender::of("2 epochs", train(2))],
            // Peaks of identical runs differ by up to a tenth.
            target: Target::NoWorse("2 epochs", 0.1),
        },
        Row {
            name: "report",
            title: "what vit train reports",
            figure: RATE,
            ours: Contender::ours(train(2)),
            peers: vec![Contender::of("vit bench train", bench_train("notebook", threads))],
            target: Target::Near("vit bench train", 0.1),
        },
        tiny_forward("tiny-forward-1", "ViT-Ti/16 forward, batch 1", 1, 50, &[("timm", 1.0)]),
        tiny_forward("tiny-forward-8", "ViT-Ti/16 forward, batch 8", 8, 10, &[("timm", 1.25)]),
        Row {
            name: "tiny-train-8",
            title: "ViT-Ti/16 AdamW step, batch 8",
            figure: STEP,
            ours: Contender::ours(tiny_step(TINY)),
            peers: vec![Contender::of(
                "timm",
                peer_run(format!("timm-train --batch-size 8 --steps 5 --threads {threads}")),
            )],
            target: times(&[("timm", 1.3)]),
        },
    ]
    .into_iter()
    .chain(encoder_rows(threads))
    .collect()
}

fn times(factors: &'static [(&'static str, f64)]) -> Target {
    Target::Times(factors)
}

const SMALL: &str = "--batch 64 --tokens 64 --dim 128 --depth 4 --heads 4";
const SMALL_ONE: &str = "--batch 1 --tokens 64 --dim 128 --depth 4 --heads 4";
const DEEP: &str = "--batch 8 --tokens 196 --dim 192 --depth 12 --heads 3";

/// An encoder in a separate project, beside PyTorch's.
fn encoder_rows(threads: u16) -> Vec<Row> {
    let run = |program, args: &str| Run { program, args: args.to_owned(), starts: 1 };
    let row = |name, system, title, args: String, [target, of_system]: [Target; 2]| {
        let peer = format!("tests/reference/encoder_bench.py {args} --threads {threads}");
        let row = |name, program, target| Row {
            name,
            title,
            figure: STEP,
            ours: Contender::of("vit-layers", run(program, &args)),
            peers: vec![Contender::of("PyTorch", run(Program::Python, &peer))],
            target,
        };
        [row(name, Program::Speed, target), row(system, Program::SpeedSystem, of_system)]
    };
    let beside_unmasked = |name, title, attend: &str, share| Row {
        name,
        title,
        figure: STEP,
        ours: Contender::of(
            "vit-layers",
            run(Program::Speed, &format!("train {DEEP} --attend {attend} --steps 10")),
        ),
        peers: vec![Contender::of(
            "unmasked",
            run(Program::Speed, &format!("train {DEEP} --attend all --steps 10")),
        )],
        target: Target::NoWorse("unmasked", share),
    };
    let mut rows = Vec::new();
    rows.extend(row(
        "layers-train",
        "layers-train-system",
        "encoder step, 64 x 64 x 128 x 4, padding mask",
        format!("train {SMALL} --attend padded --steps 20"),
        [times(&[("PyTorch", 1.25)]), times(&[("PyTorch", 1.0)])],
    ));
    rows.extend(row(
        "layers-train-deep",
        "layers-train-deep-system",
        "encoder step, 8 x 196 x 192 x 12",
        format!("train {DEEP} --steps 10"),
        [times(&[("PyTorch", 1.15)]), times(&[("PyTorch", 1.0)])],
    ));
    rows.extend(row(
        "layers-infer-one",
        "layers-infer-one-system",
        "encoder, 1 x 64 x 128 x 4",
        format!("infer {SMALL_ONE} --steps 500"),
        [times(&[("PyTorch", 1.5)]), times(&[("PyTorch", 1.3)])],
    ));
    rows.extend(row(
        "layers-infer-deep",
        "layers-infer-deep-system",
        "encoder, 8 x 196 x 192 x 12",
        format!("infer {DEEP} --steps 20"),
        [times(&[("PyTorch", 1.15)]), times(&[("PyTorch", 1.0)])],
    ));
    rows.push(beside_unmasked("layers-causal", "causal encoder step", "causal", 0.03));
    rows.push(beside_unmasked("layers-bias", "encoder step with a bias of scores", "bias", 0.13));
    rows
}

/// A PyTorch script on one thread and on `threads`.
fn at_threads(threads: u16, args: &str) -> Vec<Run> {
    let mut counts = vec![1, threads];
    counts.dedup();
    counts.into_iter().map(|threads| peer_run(format!("{args} --threads {threads}"))).collect()
}

fn vit(args: impl Into<String>) -> Run {
    Run { program: Program::Vit, args: args.into(), starts: 1 }
}

fn peer_run(args: impl fmt::Display) -> Run {
    let args = format!("tests/reference/bench.py {args}");
    Run { program: Program::Python, args, starts: 1 }
}

impl Contender {
    fn ours(run: Run) -> Self {
        Self::of("vit", run)
    }

    fn of(name: &'static str, run: Run) -> Self {
        Self { name, runs: vec![run] }
    }
}

impl Row {
    pub(super) fn contenders(&self) -> impl Iterator<Item = &Contender> {
        std::iter::once(&self.ours).chain(&self.peers)
    }
}

impl Run {
    pub(super) fn is_speed(&self) -> bool {
        matches!(self.program, Program::Speed | Program::SpeedSystem)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = match self.program {
            Program::Vit => "vit",
            Program::Speed => "speed",
            Program::SpeedSystem => "speed, system allocator:",
            Program::Python => "python",
        };
        write!(f, "{program} {}", self.args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_peers_of_their_row() {
        for row in rows(2) {
            let named: Vec<&str> = match row.target {
                Target::Times(factors) => factors.iter().map(|(peer, _)| *peer).collect(),
                Target::Near(peer, _) | Target::NoWorse(peer, _) => vec![peer],
                Target::Below(_) => Vec::new(),
            };
            for name in named {
                assert!(row.peers.iter().any(|peer| peer.name == name), "{name} in {}", row.name);
            }
        }
    }

    #[test]
    fn row_names_are_unique() {
        let mut names: Vec<&str> = rows(2).iter().map(|row| row.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn peers_on_one_thread_run_once() {
        let of = |threads| at_threads(threads, "x").into_iter().map(|run| run.to_string());
        let [one, two] =
            ["1", "2"].map(|n| format!("python tests/reference/bench.py x --threads {n}"));
        assert!(of(1).eq([one.clone()]));
        assert!(of(2).eq([one, two]));
    }
}
