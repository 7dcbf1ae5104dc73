//! Shell completions and man pages.

use std::process::Command;

use crate::help::COMMANDS;
use crate::support::Sandbox;

#[test]
fn every_shells_script_knows_every_command() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = sandbox.run(&format!("completions {shell}")).succeeded().stdout;
        let words = COMMANDS.iter().flat_map(|command| command.split(' '));
        for word in words.chain(["weight-decay", "log-format"]) {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let refused = sandbox.run("completions tcsh");
    assert_eq!(refused.code, Some(2));
    assert!(refused.stderr.contains("bash, elvish, fish, powershell, zsh"), "{}", refused.stderr);
}

#[cfg(unix)]
#[test]
fn bash_completes_commands_and_flags() {
    let sandbox = Sandbox::new();
    sandbox.write("vit.bash", sandbox.run("completions bash").succeeded().stdout);
    let completed = |words: &str| {
        let last = words.split(' ').count() - 1;
        let script = format!(
            "source vit.bash; COMP_WORDS=({words}); COMP_CWORD={last}; \
             _vit vit \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let mut bash = Command::new("bash");
        let output = bash.args(["-c", &script]).current_dir(sandbox.path("")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(completed("vit tra"), "train\n");
    assert_eq!(completed("vit train --weight"), "--weight-decay\n");
    assert_eq!(completed("vit bench lat"), "latency\n");
}

#[test]
fn each_command_has_a_man_page() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run("man -o share/man1").succeeded();
    assert_eq!(outcome.stdout, "share/man1\n");
    let name = |command: &str| match command {
        "" => "share/man1/vit.1".to_owned(),
        command => format!("share/man1/vit-{}.1", command.replace(' ', "-")),
    };
    for command in COMMANDS {
        let page = String::from_utf8(sandbox.read(&name(command))).unwrap();
        assert!(page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"), "{command}");
    }
    // The parent folder, the folder, and one page for each command.
    assert_eq!(sandbox.entries().len(), 2 + COMMANDS.len());
    let train = String::from_utf8(sandbox.read("share/man1/vit-train.1")).unwrap();
    assert!(train.contains("\\-\\-weight\\-decay"), "{train}");
}

#[test]
fn unwritable_man_pages_are_an_error() {
    let sandbox = Sandbox::new();
    sandbox.write("file", "");
    sandbox
        .refuses(4, "man -o file")
        .saying(&["cannot write into file: expected a folder, got a file"]);
}
