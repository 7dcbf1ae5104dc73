//! Quoting paths in commands that users may copy into a shell.

use std::fmt::Write;
use std::path::Path;

use super::is_hidden;

/// Quotes a path as one word of a POSIX shell that cannot be taken for a flag. Hidden characters and invalid UTF-8 use
/// `$'...'`, which bash, zsh and ksh understand.
pub(crate) fn quoted(path: &Path) -> String {
    let is_like_a_flag = path.as_os_str().as_encoded_bytes().starts_with(b"-");
    let path = if is_like_a_flag { &Path::new(".").join(path) } else { path };
    match path.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Some(text) if !text.contains(is_hidden) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => format!("$'{}'", by_bytes(path.as_os_str().as_encoded_bytes())),
    }
}

/// Whether the character has no special meaning in a shell.
fn is_plain(character: char) -> bool {
    character.is_alphanumeric() || "/._-+:,@%".contains(character)
}

fn by_bytes(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '\\' => out.extend(['\\', character]),
                character if is_hidden(character) => {
                    let mut buffer = [0; 4];
                    hex(character.encode_utf8(&mut buffer).as_bytes(), &mut out);
                }
                character => out.push(character),
            }
        }
        hex(chunk.invalid(), &mut out);
    }
    out
}

fn hex(bytes: &[u8], out: &mut String) {
    for byte in bytes {
        write!(out, "\\x{byte:02x}").expect("a string takes all text");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_paths_are_not_quoted() {
        for path in ["run", "runs/mnist-shallow-1", "/a/b.c:1,2@3%+", "Läufe/1"] {
            assert_eq!(quoted(Path::new(path)), path);
        }
    }

    #[test]
    fn special_paths_are_quoted() {
        for (path, expected) in [
            ("a b; touch X", "'a b; touch X'"),
            ("it's", r"'it'\''s'"),
            ("~/x", "'~/x'"),
            ("$(x)`y`", "'$(x)`y`'"),
            ("", "''"),
            ("--json", "./--json"),
            ("a\nhint: b", r"$'a\x0ahint: b'"),
            ("\u{202e}'\\", r"$'\xe2\x80\xae\'\\'"),
        ] {
            assert_eq!(quoted(Path::new(path)), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn shells_read_back_quoted_paths() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        use std::process::Command;
        let paths: [&[u8]; 9] = [
            b"a b; touch X",
            b"it's ''two''",
            b"$HOME `id` $(id) \"x\" \\n !1 *?[a]{b,c}",
            b"~root",
            b"#x&|<>()",
            "ü\u{202e}\u{200b}".as_bytes(),
            b"a\r\n\tb\x1b]0;x\x07c",
            b"\xff\xfe'\\9",
            b"a=b",
        ];
        for path in paths {
            let quoted = quoted(Path::new(OsStr::from_bytes(path)));
            assert!(!quoted.contains(is_hidden), "{quoted:?}");
            let shell = if quoted.starts_with('$') { "bash" } else { "sh" };
            let script = format!("printf %s {quoted}");
            let output = Command::new(shell).args(["-c", &script]).output().expect("a shell");
            assert_eq!(output.stdout, path, "{quoted}");
        }
    }
}
