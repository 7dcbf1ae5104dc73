//! A headless Chromium, controlled through two pipes by the DevTools protocol.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::wait;

/// A screen for the page.
#[derive(Clone, Copy)]
pub(super) struct Screen {
    pub(super) width: u32,
    pub(super) dark: bool,
}

impl fmt::Display for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} px, {}", self.width, if self.dark { "dark" } else { "light" })
    }
}

/// The name of a Chromium that starts.
pub(super) fn chromium() -> Option<&'static str> {
    let starts = |name: &&str| {
        let version = Command::new(name).arg("--version").stdin(Stdio::null()).output();
        version.is_ok_and(|version| version.status.success())
    };
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| starts(name))
}

/// The browser's pipes are its file descriptors 3 and 4; a shell connects them.
const PIPES: &str = r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null"#;

/// A browser with one page, ended when dropped.
pub(super) struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: Option<String>,
    sent: u64,
    /// Events received between answers.
    events: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    pub(super) fn start(chromium: &str, screen: Screen) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let mut command = Command::new("sh");
        command.args([
            "-c",
            PIPES,
            chromium,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ]);
        command.args([
            "--hide-scrollbars",
            "--disable-background-networking",
            "--remote-debugging-pipe",
        ]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let commands = child.stdin.take().context("it is piped")?;
        let mut answers = BufReader::new(child.stdout.take().context("it is piped")?);
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while answers.read_until(0, &mut message).is_ok_and(|count| count > 0) {
                message.pop();
                let Ok(json) = serde_json::from_slice(&message) else { return };
                if sender.send(json).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let (session, sent, events) = (None, 0, Vec::new());
        let mut browser =
            Self { child, commands, messages, session, sent, events, _profile: profile };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }))?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.call("Target.attachToTarget", &attach)?;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        browser.call("Network.setCacheDisabled", &json!({ "cacheDisabled": true }))?;
        let metrics = json!({ "width": screen.width, "height": 900, "deviceScaleFactor": 1, "mobile": screen.width < 600 });
        browser.call("Emulation.setDeviceMetricsOverride", &metrics)?;
        let scheme = if screen.dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.call("Emulation.setEmulatedMedia", &media)?;
        Ok(browser)
    }

    fn call(&mut self, method: &str, params: &Value) -> Result<Value> {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(format!("{message}\0").as_bytes())?;
        loop {
            let answer = self.messages.recv_timeout(Duration::from_secs(60));
            let mut answer =
                answer.with_context(|| format!("the browser does not answer to {method}"))?;
            if answer["id"] == self.sent {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].take());
            }
            self.events.push(answer);
        }
    }

    pub(super) fn open(&mut self, url: &str) -> Result<()> {
        self.call("Page.navigate", &json!({ "url": url }))?;
        self.until("document.readyState === 'complete'")
    }

    /// The value of an expression, awaited.
    pub(super) fn value(&mut self, expression: &str) -> Result<Value> {
        let params =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut answer = self.call("Runtime.evaluate", &params)?;
        if !answer["exceptionDetails"].is_null() {
            bail!("{expression}: {}", answer["exceptionDetails"]["exception"]["description"]);
        }
        Ok(answer["result"]["value"].take())
    }

    pub(super) fn number(&mut self, expression: &str) -> Result<f64> {
        let value = self.value(expression)?;
        value.as_f64().with_context(|| format!("{expression}: expected a number, got {value}"))
    }

    /// Waits until an expression is true.
    pub(super) fn until(&mut self, expression: &str) -> Result<()> {
        // An expression about missing elements throws.
        let is_so =
            || Ok(self.value(&format!("Boolean({expression})")).is_ok_and(|value| value == true));
        ensure!(wait(is_so)?, "expected {expression}");
        Ok(())
    }

    /// Scrolls an element into view, and sends a pointer event at a relative position in it.
    pub(super) fn pointer(&mut self, selector: &str, (x, y): (f64, f64), kind: &str) -> Result<()> {
        let place = format!(
            "(() => {{ const element = document.querySelector('{selector}'); \
             if (element.getBoundingClientRect().bottom > innerHeight || element.getBoundingClientRect().top < 0) \
             element.scrollIntoView({{ block: 'center' }}); \
             const box = element.getBoundingClientRect(); \
             return [box.left + {x} * box.width, box.top + {y} * box.height]; }})()"
        );
        let place = self.value(&place)?;
        let (kind, button, buttons) = match kind {
            "hover" => ("mouseMoved", "none", 0),
            pressed => (pressed, "left", 1),
        };
        let (x, y) = (&place[0], &place[1]);
        let event = json!({ "type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": 1 });
        self.call("Input.dispatchMouseEvent", &event).map(drop)
    }

    pub(super) fn hover(&mut self, selector: &str, (x, y): (f64, f64)) -> Result<()> {
        self.pointer(selector, (x - 0.05, y), "hover")?;
        self.pointer(selector, (x, y), "hover")
    }

    pub(super) fn key(&mut self, key: &str) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            self.call("Input.dispatchKeyEvent", &json!({ "type": kind, "key": key }))?;
        }
        Ok(())
    }

    /// The whole page as a PNG file.
    pub(super) fn screenshot(&mut self) -> Result<Vec<u8>> {
        let height = self.number("document.documentElement.scrollHeight")?;
        let width = self.number("innerWidth")?;
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": height, "scale": 1 });
        let params = json!({ "captureBeyondViewport": true, "clip": clip });
        let answer = self.call("Page.captureScreenshot", &params)?;
        STANDARD.decode(answer["data"].as_str().context("a picture")?).context("base64")
    }

    /// The console's messages.
    pub(super) fn said(&self) -> Vec<String> {
        let of = |event: &Value| match event["method"].as_str()? {
            "Runtime.consoleAPICalled" => Some(event["params"]["args"].to_string()),
            "Runtime.exceptionThrown" => Some(event["params"]["exceptionDetails"].to_string()),
            "Log.entryAdded" => Some(event["params"]["entry"]["text"].to_string()),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }

    /// The requested addresses.
    pub(super) fn requests(&self) -> Vec<String> {
        let sent =
            self.events.iter().filter(|event| event["method"] == "Network.requestWillBeSent");
        sent.filter_map(|event| event["params"]["request"]["url"].as_str())
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its other processes end when the pipes close.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
