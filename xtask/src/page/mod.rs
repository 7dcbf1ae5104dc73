//! Tests the page of `vit serve` in a real browser: draws a digit and reads the result.

mod browser;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::cargo::build_vit;
use browser::{Browser, Screen};

/// Draws on the page of `vit serve` in a headless Chromium and checks it, in two widths and two colour schemes
#[derive(Clone, Args)]
pub(crate) struct Page {
    /// Folder for screenshots of every page
    #[arg(long, value_name = "DIR")]
    screenshots: Option<PathBuf>,
    /// Run to show instead of a short one on the built-in digits
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// A program to take instead of building one
    #[arg(long, value_name = "FILE")]
    vit: Option<PathBuf>,
}

/// Generous limit for anything the page does, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two points of a stroke.
const PAUSE: Duration = Duration::from_millis(25);
/// A seven, relative to the pad.
const SEVEN: [(f64, f64); 3] = [(0.28, 0.25), (0.72, 0.25), (0.46, 0.8)];
/// Measured loads of a page: a browser that has just started is still busy.
const LOADS: usize = 5;
const SCREENS: [Screen; 4] = [
    Screen { width: 1280, dark: false },
    Screen { width: 1280, dark: true },
    Screen { width: 390, dark: false },
    Screen { width: 390, dark: true },
];

impl Page {
    pub(crate) const CHECK: Self = Self { screenshots: None, run: None, vit: None };

    /// The step of CI.
    pub(crate) fn check() -> Result<()> {
        Self::CHECK.run()
    }

    pub(crate) fn run(&self) -> Result<()> {
        let Some(chromium) = browser::chromium() else {
            eprintln!("skipped: neither chromium nor google-chrome is installed");
            return Ok(());
        };
        let vit = self.vit.clone().map_or_else(build_vit, Ok)?;
        let scratch = tempfile::tempdir()?;
        let run = match &self.run {
            Some(run) => run.clone(),
            None => {
                let run = scratch.path().join("runs/digits");
                let words = [
                    "-q",
                    "train",
                    "--dataset",
                    "digits",
                    "--epochs",
                    "5",
                    "--lr",
                    "0.001",
                    "--run-dir",
                ];
                let status =
                    Command::new(&vit).args(words).arg(&run).stdout(Stdio::null()).status()?;
                ensure!(status.success(), "vit train failed ({status})");
                run
            }
        };
        let server = Server::start(&vit, &run)?;
        let mut latencies = Vec::new();
        for screen in SCREENS {
            let mut browser = Browser::start(chromium, screen)?;
            let shown = self.look(&mut browser, &server.address, screen, &mut latencies);
            let said = browser.said();
            shown.with_context(|| format!("{screen}; the browser said {said:?}"))?;
            ensure!(said.is_empty(), "{screen}: expected an empty console, got {said:?}");
            let outside: Vec<String> =
                browser.requests().into_iter().filter(|url| !server.is_own(url)).collect();
            ensure!(
                outside.is_empty(),
                "{screen}: expected no request to elsewhere, got {outside:?}"
            );
        }
        watch(chromium, &vit, &scratch.path().join("runs/watched"))?;
        ensure!(!latencies.is_empty(), "expected canvases to follow the pointer");
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize];
        eprintln!(
            "from a pointer event to the last canvas: p50 {:.1} ms, p95 {:.1} ms of {}",
            at(0.5),
            at(0.95),
            latencies.len()
        );
        Ok(())
    }

    /// Loads the page without the browser's cache, and uses every part of it.
    fn look(
        &self,
        browser: &mut Browser,
        address: &str,
        screen: Screen,
        latencies: &mut Vec<f64>,
    ) -> Result<()> {
        let mut loads = Vec::new();
        for _ in 0..LOADS {
            browser.open(address)?;
            browser.until("document.documentElement.dataset.ready")?;
            loads.push(browser.number("Number(document.documentElement.dataset.ready)")?);
        }
        loads.sort_by(f64::total_cmp);
        browser.until("document.documentElement.dataset.shown")?;
        self.picture(browser, screen, "first")?;
        fits(browser)?;

        browser.value("document.getElementById('clear').click()")?;
        browser.value(MEASURE)?;
        draw(browser)?;
        let class = "document.querySelector('#verdict b').textContent";
        browser.until(&format!("{class} === '7'")).with_context(|| {
            format!("a seven was drawn, and read as {:?}", browser.value(class).unwrap_or_default())
        })?;
        let measured = browser.value("latencies")?;
        latencies.extend(measured.as_array().into_iter().flatten().filter_map(Value::as_f64));
        let is_lit = "(id => { const c = document.querySelector(id); const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; \
                      return d.some((x, at) => at % 4 < 3 && x > 100); })";
        for canvas in ["#seen", "#rollout", "#maps canvas:nth-of-type(12)"] {
            browser
                .until(&format!("{is_lit}('{canvas}')"))
                .with_context(|| format!("{canvas} is dark"))?;
        }
        let bars = browser.number("document.querySelectorAll('#bars li').length")?;
        ensure!(bars == 10.0, "expected a bar for each of 10 classes, got {bars}");

        browser.hover("#seen", (0.4, 0.3))?;
        browser.until(
            "document.getElementById('maps-of').textContent.startsWith('Attention from patch 5')",
        )?;
        browser.until("!document.getElementById('patch-mark').hidden")?;
        self.picture(browser, screen, "drawn")?;
        browser.hover("#maps canvas", (0.6, 0.6))?;
        browser.until(
            "document.getElementById('readout').textContent.startsWith('layer 1, head 1: ')",
        )?;
        // With the keyboard only.
        browser.value("document.getElementById('seen').focus()")?;
        browser.key("ArrowRight")?;
        browser.key("ArrowRight")?;
        browser.until(
            "document.getElementById('maps-of').textContent.startsWith('Attention from patch 1')",
        )?;

        browser.value("location.hash = '#walk'")?;
        browser.until("document.querySelectorAll('#walk-steps .step').length === 5")?;
        browser.hover(".matrix canvas", (0.5, 0.5))?;
        browser.until(
            "/^row 3, column 3: −?\\d/.test(document.querySelector('.matrix output').textContent)",
        )?;
        self.picture(browser, screen, "walk")?;
        fits(browser)?;

        browser.value("location.hash = '#runs'")?;
        browser.until("document.querySelectorAll('#run-charts .chart').length === 4")?;
        self.picture(browser, screen, "runs")?;
        fits(browser)?;

        let name = browser
            .value("fetch('/v1/runs').then(runs => runs.json()).then(runs => runs[0].name)")?;
        let name = name.as_str().context("a run has a name")?.to_owned();
        browser.open(&format!("{address}runs/{name}/report.html"))?;
        browser.until("document.querySelectorAll('.entry[role=switch]').length > 0")?;
        browser.hover("figure.chart svg", (0.5, 0.5))?;
        browser.until(
            "/epoch \\d+: .*training \\d/.test(document.querySelector('.readout').textContent)",
        )?;
        browser.value("document.querySelector('.scales button:last-child').click()")?;
        browser.until("document.querySelector('figure.chart svg').textContent.includes('98.5')")?;
        browser.value("document.querySelector('.entry').click()")?;
        browser.until("document.querySelector('.series[style*=none]')")?;
        browser.value("document.querySelector('.confusion [role=button]').click()")?;
        browser.until("document.querySelector('#cell img').naturalWidth === 28")?;
        self.picture(browser, screen, "report")?;
        fits(browser)?;
        let median = loads[LOADS / 2];
        eprintln!("{screen}: passed, usable {median:.0} ms after navigation, median of {LOADS}");
        Ok(())
    }

    fn picture(&self, browser: &mut Browser, screen: Screen, name: &str) -> Result<()> {
        let Some(folder) = &self.screenshots else { return Ok(()) };
        std::fs::create_dir_all(folder)?;
        let scheme = if screen.dark { "dark" } else { "light" };
        let path = folder.join(format!("{name}-{}-{scheme}.png", screen.width));
        std::fs::write(&path, browser.screenshot()?).with_context(|| path.display().to_string())
    }
}

/// Checks that a drawing on a run's page is classified again while the run trains, and that its attention changes.
fn watch(chromium: &str, vit: &Path, run: &Path) -> Result<()> {
    let words = ["train", "--dataset", "digits", "--epochs", "100000", "--serve", "--run-dir"];
    let mut command = Command::new(vit);
    let child =
        command.args(words).arg(run).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut server = Server { child, address: String::new() };
    let mut lines = BufReader::new(server.child.stderr.take().context("it is piped")?).lines();
    while server.address.is_empty() {
        let line = lines.next().context("vit train --serve ended")??;
        if let Some((_, address)) = line.split_once("watch the run at ") {
            address.trim().clone_into(&mut server.address);
        }
    }
    // Without a reader, the full pipe would block the program.
    std::thread::spawn(move || lines.for_each(drop));
    let mut browser = Browser::start(chromium, SCREENS[0])?;
    browser.open(&server.address)?;
    browser.until("document.documentElement.dataset.ready")?;
    browser.value("document.getElementById('clear').click()")?;
    draw(&mut browser)?;
    browser.value(
        "window.forms = new Set(); new MutationObserver(() => forms.add(document.querySelector('#maps canvas').weights.join())) \
         .observe(document.documentElement, { attributes: true, attributeFilter: ['data-shown'] })",
    )?;
    browser.until("forms.size > 3").context("the attention of a drawing forms as a run trains")?;
    browser.value("location.hash = '#runs'")?;
    browser.until("document.querySelector('.state').textContent === 'running'")?;
    eprintln!("vit train --serve: passed");
    Ok(())
}

/// Records the times from the last pointer event to the canvas that shows it.
const MEASURE: &str = "window.latencies = []; window.moved = 0; \
    addEventListener('pointermove', () => { if (!moved) moved = performance.now(); }, true); \
    new MutationObserver(() => { if (moved) latencies.push(performance.now() - moved); moved = 0; }) \
        .observe(document.documentElement, { attributes: true, attributeFilter: ['data-shown'] });";

fn draw(browser: &mut Browser) -> Result<()> {
    let [first, rest @ ..] = SEVEN;
    let mut from = first;
    browser.pointer("#pad", first, "mousePressed")?;
    for to in rest {
        for step in 1..=12 {
            let part = f64::from(step) / 12.0;
            let at = (from.0 + (to.0 - from.0) * part, from.1 + (to.1 - from.1) * part);
            browser.pointer("#pad", at, "mouseMoved")?;
            sleep(PAUSE);
        }
        from = to;
    }
    browser.pointer("#pad", from, "mouseReleased")
}

/// Checks that nothing is wider than the screen.
fn fits(browser: &mut Browser) -> Result<()> {
    let over = browser.number("document.documentElement.scrollWidth - innerWidth")?;
    ensure!(over <= 0.0, "the page is {over} px too wide");
    Ok(())
}

/// `vit serve`, ended when dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(vit: &Path, run: &Path) -> Result<Self> {
        let mut child = Command::new(vit).arg("serve").arg(run).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("its stdout is piped")?).read_line(&mut line)?;
        if line.is_empty() {
            bail!("vit serve ended ({})", child.wait()?);
        }
        Ok(Self { child, address: line.trim().to_owned() })
    }

    fn is_own(&self, url: &str) -> bool {
        url.starts_with(&self.address)
            || url.starts_with("data:")
            || url.starts_with("blob:")
            || url == "about:blank"
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a condition holds.
fn wait(mut is_so: impl FnMut() -> Result<bool>) -> Result<bool> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if is_so()? {
            return Ok(true);
        }
        sleep(Duration::from_millis(15));
    }
    Ok(false)
}
