//! Reading the command line, and telling what is wrong with it.

use std::env;
use std::ffi::OsString;

use clap::FromArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use vit_fetch::redacted;

use super::{Cli, program};
use crate::ranks;
use crate::terminal::escaped;

/// What the program was started with; if that is wrong, this says so and ends the program.
pub(crate) fn parse() -> Cli {
    let args: Vec<OsString> = env::args_os().collect();
    parsed(&args).unwrap_or_else(|error| {
        ranks::let_rank_0_speak();
        with_tip(shown(&error, &args)).exit()
    })
}

fn parsed(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> clap::error::Result<Cli> {
    let matches = program().try_get_matches_from(args)?;
    Cli::from_arg_matches(&matches)
}

/// What to do instead of resuming with other settings.
const TIP: &str = "this setting holds for a whole run; to train its weights further with another, begin a new run with \
                   `vit train --init RUN`";

/// With a tip where a flag was given that a resumed run has from its folder.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let is_resume = matches!(
        error.get(ContextKind::InvalidArg),
        Some(ContextValue::String(arg)) if arg.starts_with("--resume ")
    );
    if error.kind() == ErrorKind::ArgumentConflict && is_resume {
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![TIP.into()]));
    }
    error
}

/// The same error as a terminal may show it. Errors quote arguments between colours of their own, so that it is made of escaped
/// arguments rather than escaped itself.
fn shown(error: &clap::Error, args: &[OsString]) -> clap::Error {
    let visible = |arg: &OsString| escaped(&redacted(&arg.to_string_lossy())).into_owned();
    match parsed(args.iter().map(visible)) {
        Err(again) if again.kind() == error.kind() => again,
        // Bytes that are no UTF-8, which escaped ones are.
        _ if error.kind() == ErrorKind::InvalidUtf8 => {
            let message = "expected arguments in UTF-8, got other bytes";
            program().error(ErrorKind::InvalidUtf8, message)
        }
        _ => program().error(error.kind(), escaped(&redacted(&error.to_string()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: &[&str]) -> String {
        let args: Vec<OsString> = ["vit"].iter().chain(words).map(OsString::from).collect();
        let error = parsed(&args).expect_err("wrong on purpose");
        shown(&error, &args).to_string()
    }

    #[test]
    fn usage_errors_quote_arguments_escaped() {
        for words in [
            &["\u{1b}[2J\nhint: x"][..],
            &["train", "--lr", "\u{1b}[2J\nhint: x"],
            &["train", "--\u{1b}[2J\nhint: x"],
            &["eval", "run", "\u{1b}[2J\nhint: x"],
            &["completions", "\u{1b}[2J\nhint: x"],
        ] {
            let told = told(words);
            assert!(told.contains("\\u{1b}[2J\\nhint: x"), "{told}");
            assert!(!told.contains("\nhint"), "{told}");
        }
    }

    #[test]
    fn usage_errors_tell_no_secrets() {
        let told = told(&["fetch", "mnist", "http://user:SECRET@host/?token=SECRET"]);
        assert!(told.contains("'http://...@host/?...'"), "{told}");
        assert!(!told.contains("SECRET"), "{told}");
    }
}
