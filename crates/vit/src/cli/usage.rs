//! Parsing the command line, and reporting errors in it.

use std::env;
use std::ffi::OsString;

use clap::FromArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use vit_fetch::redacted;

use super::{Cli, program};
use crate::ranks;
use crate::terminal::escaped;

/// Parses the program's arguments; on an error, prints it and exits.
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

/// Advice for settings that do not go with --resume.
const TIP: &str = "a resumed run keeps this setting; to change it, start a new run from its weights with \
                   `vit train --init RUN`";

/// Adds the advice if a setting was combined with --resume.
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

/// The same error, safe to print in a terminal. Its message contains colour codes and quoted arguments, so it is built
/// again from escaped arguments instead of being escaped itself.
fn shown(error: &clap::Error, args: &[OsString]) -> clap::Error {
    let visible = |arg: &OsString| escaped(&redacted(&arg.to_string_lossy())).into_owned();
    match parsed(args.iter().map(visible)) {
        Err(again) if again.kind() == error.kind() => again,
        // Escaping would hide the invalid UTF-8.
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

    fn message(words: &[&str]) -> String {
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
            let message = message(words);
            assert!(message.contains("\\u{1b}[2J\\nhint: x"), "{message}");
            assert!(!message.contains("\nhint"), "{message}");
        }
    }

    #[test]
    fn usage_errors_hide_secrets() {
        let message = message(&["fetch", "mnist", "http://user:SECRET@host/?token=SECRET"]);
        assert!(message.contains("'http://...@host/?...'"), "{message}");
        assert!(!message.contains("SECRET"), "{message}");
    }
}
