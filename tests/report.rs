//! The content of `report.html`.

use crate::support::Sandbox;

#[test]
fn a_runs_report_is_self_contained() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 40 --log-every 10");
    let report = String::from_utf8(sandbox.read("run/report.html")).unwrap();
    for shown in [
        "<h1>shallow on digits</h1>",
        "<b>Accuracy</b>",
        "<b>Loss</b>",
        "data-name=\"test\"",
        "<a href=\"#attention\">",
        "<b>Learning rate</b>",
        "All 2,000 test images.",
        "<h2>Worst mistakes</h2>",
        "<h2>Attention</h2>",
        "<h2>Positions</h2>",
        "max_steps = 40",
        ">threads</th>",
    ] {
        assert!(report.contains(shown), "{shown}");
    }
    for outside in ["http:", "https:", "<script src", "<link rel=\"stylesheet\"", "@import"] {
        assert!(!report.contains(outside), "{outside}");
    }
    // No path of this machine appears.
    assert!(!report.contains(sandbox.path("").to_str().unwrap()));
}

#[test]
fn report_confusion_matrix_matches_eval() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 60 --preset notebook");
    let evaluation = sandbox.run("eval run --json").succeeded().json();
    let report = String::from_utf8(sandbox.read("run/report.html")).unwrap();
    for (label, row) in evaluation["confusion"].as_array().unwrap().iter().enumerate() {
        for (prediction, count) in row.as_array().unwrap().iter().enumerate() {
            let cell = format!("title=\"{label} classified as {prediction}: {count}\"");
            assert!(report.contains(&cell), "{cell}");
        }
    }
    // The notebook has no learned position table.
    assert!(!report.contains("<h2>Positions</h2>"));
}

#[test]
fn a_small_model_of_another_shape_has_a_report() {
    let sandbox = Sandbox::new();
    let model = "[model]\ndepth = 1\nheads = 2\npool = 'mean'\nregisters = 2\nimage = { height = 28, width = 28, channels = 1 }\npatch = { height = 14, width = 4 }\n";
    sandbox.write("c.toml", format!("dataset = 'digits'\n{model}"));
    sandbox.run("train --config c.toml --max-steps 3 --run-dir run").succeeded();
    let report = String::from_utf8(sandbox.read("run/report.html")).unwrap();
    assert!(report.contains("similarities of 2x7 positions"), "{}", report.len());
    assert!(!report.contains("NaN"));
}
