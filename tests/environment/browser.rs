//! How a browser renders `report.html` and a comparison.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::Sandbox;

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

/// Both colour schemes and two widths.
pub(crate) fn a_browser_renders_it_without_errors_or_overflow() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 30 --log-every 5");
    assert_shown_well(&sandbox, "run/report.html");
    sandbox.run("compare run run run -o compare.html").succeeded();
    assert_shown_well(&sandbox, "compare.html");
}

#[track_caller]
fn assert_shown_well(sandbox: &Sandbox, page: &str) {
    let chromium = chromium().unwrap();
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
pub(crate) fn chromium() -> Option<String> {
    let starts = |name: &&str| {
        let version = Command::new(name).arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|version| version.status.success())
    };
    let names = ["chromium", "chromium-browser", "google-chrome"];
    names.iter().find(|name| starts(name)).map(|&name| name.to_owned())
}
