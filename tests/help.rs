//! Compares the help of every command with snapshots, within 80 columns.
//!
//! `VIT_RENEW_SNAPSHOTS=1 cargo test -p vit --test system` rewrites `tests/snapshots/`; review the changes.

use std::fs;

use crate::files::test_file;
use crate::support::Sandbox;

pub(crate) const COMMANDS: [&str; 19] = [
    "",
    "train",
    "config",
    "fetch",
    "predict",
    "explain",
    "serve",
    "eval",
    "info",
    "compare",
    "verify",
    "export",
    "import",
    "bench",
    "bench train",
    "bench eval",
    "bench latency",
    "completions",
    "man",
];

#[test]
fn help_equals_the_snapshot_and_fits_in_80_columns() {
    let sandbox = Sandbox::new();
    let renew = std::env::var_os("VIT_RENEW_SNAPSHOTS").is_some();
    for command in COMMANDS {
        let help = sandbox.run(&format!("{command} --help")).succeeded().stdout;
        let name = if command.is_empty() { "vit" } else { command };
        let path = test_file(format!("snapshots/help-{}.txt", name.replace(' ', "-")));
        if renew {
            fs::write(&path, &help).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        let path = path.display();
        assert!(help == committed, "{path} differs; VIT_RENEW_SNAPSHOTS=1 renews it. Now:\n{help}");
        let wide = help.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "vit {command} --help");
    }
}

#[test]
fn every_command_has_a_snapshot() {
    for above in ["", "bench "] {
        let help = Sandbox::new().run(&format!("{above}--help")).succeeded().stdout;
        // Commands come between usage and options, under a heading for each group; continuation lines are indented
        // further.
        let listed = help.lines().skip_while(|line| !line.starts_with("Usage:")).skip(1);
        let listed = listed
            .take_while(|line| *line != "Options:")
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        let names = listed.filter_map(|line| line.split_whitespace().next());
        let names: Vec<&str> = names.filter(|&name| name != "help").collect();
        let below = COMMANDS.iter().filter_map(|command| command.strip_prefix(above));
        let below = below.filter(|name| !name.is_empty() && !name.contains(' '));
        assert_eq!(names, below.collect::<Vec<_>>(), "vit {above}--help");
    }
}
