//! A command that is still running.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::Outcome;

/// Long enough for whatever a command does soon, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A child process, ended with the test.
pub(crate) struct Running {
    child: Option<Child>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self { child: Some(command.spawn().unwrap()) }
    }

    pub(crate) fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("it is there until it is dropped or has ended")
    }

    #[track_caller]
    pub(crate) fn assert_goes_on(&mut self) {
        let status = self.child().try_wait().unwrap();
        assert!(status.is_none(), "it ended early: {status:?}");
    }

    /// Waits for something that it does while it goes on.
    #[track_caller]
    pub(crate) fn wait_until(&mut self, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            self.assert_goes_on();
            assert!(begun.elapsed() < PATIENCE, "it takes too long");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end, and gives what it printed.
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
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
