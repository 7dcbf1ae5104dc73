//! A running command.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::Outcome;

/// Generous limit for anything a command does soon.
const PATIENCE: Duration = Duration::from_secs(120);

/// A child process, killed with the test.
pub(crate) struct Running {
    child: Option<Child>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self { child: Some(command.spawn().unwrap()) }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("present until it is dropped or has ended")
    }

    #[track_caller]
    pub(crate) fn assert_is_running(&mut self) {
        let status = self.child().try_wait().unwrap();
        assert!(status.is_none(), "it ended early: {status:?}");
    }

    /// Waits for an effect of the running command.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            self.assert_is_running();
            assert!(begun.elapsed() < PATIENCE, "it takes too long");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end; returns its stdout.
    #[cfg(unix)]
    pub(crate) fn end_in_bytes(mut self) -> Vec<u8> {
        let child = self.child.take().expect("it has not ended yet");
        child.wait_with_output().unwrap().stdout
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Outcome {
        let child = self.child.take().expect("it has not ended yet");
        Outcome::of(&child.wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
