//! `report.html`: its content, and how a browser renders it.

use std::path::Path;
use std::process::{Command, Stdio};

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

/// Writes measurements of the page into its title, in a frame as wide as a phone or a screen.
const CHECK: &str = r#"<script>
addEventListener("load", () => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const ground = getComputedStyle(document.body).backgroundColor;
  const broken = [...document.images].filter(image => !image.naturalWidth).length;
  parent.postMessage(`${innerWidth} ${root.scrollWidth} ${dark} ${ground} ${broken}`, "*");
});
</script>"#;

/// Both colour schemes and two widths, in a real browser if one is installed.
#[test]
fn a_browser_renders_it_without_errors_or_overflow() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 30 --log-every 5");
    assert_shown_well(&sandbox, "run/report.html");
    sandbox.run("compare run run run -o compare.html").succeeded();
    assert_shown_well(&sandbox, "compare.html");
}

#[track_caller]
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn assert_shown_well(sandbox: &Sandbox, page: &str) {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: neither chromium nor google-chrome is installed");
        return;
    };
    let page = String::from_utf8(sandbox.read(page)).unwrap();
    sandbox.write("checked.html", page.replace("</body>", &format!("{CHECK}</body>")));
    for (scheme, dark, ground) in [(0, true, "rgb(13, 17, 23)"), (1, false, "rgb(255, 255, 255)")] {
        for width in [360, 1280] {
            // A window cannot be as narrow as a phone, but a frame can.
            let frame = format!(
                "<!doctype html><link rel=\"icon\" href=\"data:,\"><body style=\"margin:0\"><script>\
                 onmessage = told => document.title = told.data</script>\
                 <iframe src=\"checked.html\" width=\"{width}\" height=\"900\" style=\"border:0\"></iframe>"
            );
            sandbox.write("frame.html", frame);
            let (title, console) = shown(&chromium, scheme, &sandbox.path("frame.html"));
            let expected = format!("{width} {width} {dark} {ground} 0");
            assert_eq!(title, expected, "width, scroll width, dark, ground, broken images");
            assert_eq!(console, Vec::<String>::new(), "at {width} px, scheme {scheme}");
        }
    }
}

/// The page's title after loading, and the browser's console messages.
fn shown(chromium: &str, scheme: u8, page: &Path) -> (String, Vec<String>) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
        ])
        .args(["--window-size=1400,1000", "--virtual-time-budget=3000", "--enable-logging=stderr"])
        .arg(format!("--blink-settings=preferredColorScheme={scheme}"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    let title = dom.split("<title>").nth(1).and_then(|rest| rest.split('<').next());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let title = title.unwrap_or_else(|| panic!("no title in {dom}\n{stderr}")).to_owned();
    let console = stderr.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned);
    (title, console.collect())
}

/// The name of a Chromium that starts.
fn chromium() -> Option<String> {
    let starts = |name: &&str| {
        let version = Command::new(name).arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|version| version.status.success())
    };
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names.iter().find(|name| starts(name)).map(|&name| name.to_owned())
}
