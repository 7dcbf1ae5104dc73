//! `vit compare`: runs side by side.

use serde_json::json;

use crate::support::Sandbox;

fn two_runs() -> Sandbox {
    let sandbox = Sandbox::new();
    for (run, words) in [("a", "--seed 1"), ("b", "--seed 2 --preset notebook")] {
        let words = format!("train --dataset digits --max-steps 20 --run-dir {run} {words}");
        sandbox.run(&words).succeeded();
    }
    sandbox
}

#[test]
fn runs_are_rows_and_differing_settings_are_listed() {
    let sandbox = two_runs();
    let outcome = sandbox.run("compare a b").succeeded();
    let lines: Vec<Vec<&str>> =
        outcome.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["run", "test", "train", "epochs", "test", "loss", "seconds"]);
    let share = |line: &[&str]| line[1].parse::<f64>().unwrap();
    assert!(share(&lines[1]) >= share(&lines[2]), "the best first: {}", outcome.stdout);
    let order = [lines[1][0], lines[2][0]];
    assert_eq!(lines[4], [&["setting"][..], &order].concat());
    let of_runs = |a, b| if order == ["a", "b"] { [a, b] } else { [b, a] };
    for (name, [first, second]) in
        [("preset", of_runs("shallow", "notebook")), ("train.seed", of_runs("1", "2"))]
    {
        assert!(lines.contains(&vec![name, first, second]), "{}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains("batch_size"), "{}", outcome.stdout);
    // A single run has no differences.
    assert_eq!(sandbox.run("compare a").succeeded().stdout.lines().count(), 2);
}

#[test]
fn json_equals_the_recorded_metrics() {
    let sandbox = two_runs();
    let compared = sandbox.run("compare a b --json").succeeded().json();
    for run in ["a", "b"] {
        let at = usize::from(compared[0]["run"] != run);
        let eval = sandbox.run(&format!("eval {run} --json")).succeeded().json();
        assert_eq!(compared[at]["run"], run);
        assert_eq!(compared[at]["test_accuracy"], eval["accuracy"]);
        assert_eq!(compared[at]["epochs"], json!(1));
    }
}

#[test]
fn the_page_has_a_line_for_each_run() {
    let sandbox = two_runs();
    sandbox.run("compare a b -o compare.html").succeeded();
    let page = String::from_utf8(sandbox.read("compare.html")).unwrap();
    for shown in ["<h1>2 runs compared</h1>", "<b>Test accuracy</b>", "swatch orange", "train.seed"]
    {
        assert!(page.contains(shown), "{shown}");
    }
    for outside in ["http:", "https:", "<script src", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
}

/// `vit compare runs/* -o runs/compare.html`, repeated.
#[test]
fn a_page_among_the_runs_is_skipped() {
    let sandbox = Sandbox::new();
    for run in ["runs/a", "runs/b"] {
        sandbox.run(&format!("train --dataset digits --max-steps 2 --run-dir {run}")).succeeded();
    }
    sandbox.run("compare runs/a runs/b -o runs/compare.html").succeeded();
    let words = "compare runs/a runs/b runs/compare.html -o runs/compare.html --force";
    let again = sandbox.run(words).succeeded();
    assert!(again.stderr.contains("skipping runs/compare.html"), "{}", again.stderr);
}

#[test]
fn paths_that_are_not_runs_are_named() {
    let sandbox = two_runs();
    sandbox.refuses(4, "compare a absent").saying(&["absent"]);
    sandbox.write("c/config.toml", sandbox.read("a/config.toml"));
    sandbox.refuses(4, "compare c").saying(&["c/metrics.jsonl"]);
    std::fs::create_dir(sandbox.path("d")).unwrap();
    let left_out = sandbox.run("compare a c d").succeeded().stderr;
    for said in ["skipping c: cannot ", "c/metrics.jsonl", "skipping d: "] {
        assert!(left_out.contains(said), "{left_out}");
    }
    sandbox.write("c/metrics.jsonl", "");
    let left_out = sandbox.run("compare a c").succeeded().stderr;
    assert!(left_out.contains("skipping c: it has no completed epoch yet"), "{left_out}");
    sandbox
        .refuses(4, "compare c")
        .saying(&["expected at least one run with a completed epoch, got none"]);
    sandbox.refuses(4, "compare a -o no/folder/compare.html").saying(&["no/folder"]);
}
