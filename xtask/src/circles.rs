//! Import cycles between modules, which leave a reader without a place to start.
//!
//! Paths are read from the text of a crate's sources: `crate::`, `self::` and `super::`, and the names of child
//! modules. A re-exported item counts for the module that defines it. Tests are exempt.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The crates that are checked.
const CRATES: [&str; 4] = ["vit", "vit-train", "vit-run", "vit-pictures"];

/// Checks that no modules of these crates import each other, directly or through others.
pub(crate) fn check() -> Result<()> {
    for name in CRATES {
        let modules = modules(&Path::new("crates").join(name).join("src"))?;
        let circles: Vec<String> =
            circles(&edges(&modules)).iter().map(|circle| circle.join(", ")).collect();
        ensure!(
            circles.is_empty(),
            "modules of {name} import each other: {}; move what both need into a third module",
            circles.join("; ")
        );
    }
    Ok(())
}

/// A module's path from the root of its crate: `["commands", "train"]`.
type Module = Vec<String>;

/// The text of each module, without comments, literals and tests.
fn modules(src: &Path) -> Result<BTreeMap<Module, String>> {
    let mut modules = BTreeMap::new();
    let mut open: Vec<PathBuf> = vec![src.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
                continue;
            }
            let below = path.strip_prefix(src)?.with_extension("");
            let mut module: Module =
                below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            let file = module.pop().unwrap_or_default();
            let is_test = file.ends_with("tests") || file == "testing" || file == "main";
            if path.extension().is_none_or(|ending| ending != "rs") || is_test {
                continue;
            }
            if file != "mod" && file != "lib" {
                module.push(file);
            }
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            modules.insert(module, code(&text));
        }
    }
    Ok(modules)
}

/// The code of a file, without comments, literals and tests.
fn code(text: &str) -> String {
    let tests = ["#[cfg(test)]\nmod tests", "#[cfg(test)]\npub(crate) mod tests"];
    let end = tests.iter().filter_map(|tests| text.find(tests)).min();
    let text = &text[..end.unwrap_or(text.len())];
    let mut code = String::new();
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '/' if rest.peek() == Some(&'/') => {
                while rest.next_if(|&next| next != '\n').is_some() {}
            }
            '"' => {
                while let Some(next) = rest.next() {
                    match next {
                        '\\' => drop(rest.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            other => code.push(other),
        }
    }
    code
}

/// The modules that each module uses.
fn edges(modules: &BTreeMap<Module, String>) -> BTreeMap<&Module, BTreeSet<&Module>> {
    let mut edges = BTreeMap::new();
    for (module, text) in modules {
        let paths = paths(text, module, modules);
        let used = paths.iter().filter_map(|path| owner(path, modules, 0));
        edges.insert(module, used.filter(|&used| used != module).collect());
    }
    edges
}

/// The paths in a module's code, from the root of the crate.
fn paths(text: &str, module: &Module, modules: &BTreeMap<Module, String>) -> Vec<Module> {
    let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
    let mut paths = Vec::new();
    let mut at = 0;
    while let Some(found) = text[at..].find(is_name) {
        let begin = at + found;
        let end =
            text[begin..].find(|letter| !is_name(letter)).map_or(text.len(), |len| begin + len);
        at = end;
        // A visibility such as `pub(in crate::a)` is not a use.
        let is_within = text[..begin].ends_with("::") || text[..begin].ends_with("(in ");
        if is_within || !text[end..].starts_with("::") {
            continue;
        }
        let base = match &text[begin..end] {
            "crate" => Module::new(),
            "self" => module.clone(),
            "super" => parent(module),
            child => {
                let path = [module.as_slice(), &[child.to_owned()]].concat();
                if !modules.contains_key(&path) {
                    continue;
                }
                path
            }
        };
        at = end + 2 + tree(&text[end + 2..], &base, &mut paths);
    }
    paths
}

fn parent(module: &[String]) -> Module {
    module[..module.len().saturating_sub(1)].to_vec()
}

/// Reads what follows `::`: a name, more of a path, or a group in braces. Returns its length.
fn tree(text: &str, base: &Module, paths: &mut Vec<Module>) -> usize {
    let skipped = text.len() - text.trim_start().len();
    let rest = &text[skipped..];
    if rest.starts_with('{') {
        let mut at = 1;
        while !rest[at..].trim_start().starts_with('}') && at < rest.len() {
            at += tree(&rest[at..], base, paths);
            at += rest[at..].find([',', '}']).unwrap_or(rest.len() - at);
            if rest[at..].starts_with(',') {
                at += 1;
            }
        }
        return skipped + (at + rest[at..].find('}').map_or(0, |found| found + 1)).min(rest.len());
    }
    let name = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    let name = name.unwrap_or(rest.len());
    let path = match &rest[..name] {
        "super" => parent(base),
        "self" | "" => base.clone(),
        other => [base.as_slice(), &[other.to_owned()]].concat(),
    };
    if rest[name..].starts_with("::") && !rest[name..].starts_with("::<") {
        return skipped + name + 2 + tree(&rest[name + 2..], &path, paths);
    }
    paths.push(path);
    skipped + name
}

/// The module that defines the item at a path.
fn owner<'a>(
    path: &[String],
    modules: &'a BTreeMap<Module, String>,
    depth: usize,
) -> Option<&'a Module> {
    let len = (0..=path.len()).rev().find(|&len| modules.contains_key(&path[..len]))?;
    let (module, text) = modules.get_key_value(&path[..len])?;
    // The limit ends circular re-exports.
    if let Some(item) = path.get(len).filter(|_| depth < 8) {
        let exported = |statement: &&str| {
            let words = statement.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
            let mut words = words.filter(|word| !word.is_empty());
            words.next() == Some("pub")
                && words.clone().any(|word| word == "use")
                && words.any(|word| word == item)
        };
        if let Some(statement) = text.split(';').find(exported) {
            let found = paths(statement, module, modules);
            // A path that is none of ours belongs to another crate.
            let found = found.iter().find(|found| found.last() == Some(item))?;
            return owner(found, modules, depth + 1);
        }
    }
    Some(module)
}

/// The strongly connected components with more than one module.
fn circles(edges: &BTreeMap<&Module, BTreeSet<&Module>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&Module, BTreeSet<&Module>> = edges
        .keys()
        .map(|&from| {
            let mut reached = BTreeSet::new();
            let mut open = vec![from];
            while let Some(next) = open.pop() {
                for &to in edges.get(next).into_iter().flatten() {
                    if reached.insert(to) {
                        open.push(to);
                    }
                }
            }
            (from, reached)
        })
        .collect();
    let mut circles = BTreeSet::new();
    for (from, to) in &reached {
        let circle: Vec<String> = to
            .iter()
            .filter(|other| *other != from && reached[*other].contains(from))
            .chain([from])
            .map(|module| module.join("::"))
            .collect();
        if circle.len() > 1 {
            circles.insert(circle.into_iter().collect::<BTreeSet<_>>());
        }
    }
    circles.into_iter().map(|circle| circle.into_iter().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
        let module = |path: &str| -> Module {
            path.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect()
        };
        let modules: BTreeMap<Module, String> =
            files.iter().map(|(path, text)| (module(path), code(text))).collect();
        circles(&edges(&modules))
    }

    #[test]
    fn modules_that_import_each_other_are_named() {
        let files = [
            ("", "mod a; mod b; mod c;"),
            ("a", "use crate::{b::B, c::{self, C}};"),
            ("b", "pub struct B; fn f() { super::c::g() }"),
            ("c", "use super::b::B; pub struct C;"),
        ];
        assert_eq!(circles_of(&files), [["b", "c"]]);
    }

    #[test]
    fn items_belong_to_the_module_that_defines_them() {
        let files = [
            ("", "mod a; mod b; pub use a::A; pub use b::{B}; pub use other::{C, D};"),
            ("a", "use crate::{B, C}; pub struct A;"),
            ("b", "pub struct B;"),
        ];
        assert!(circles_of(&files).is_empty());
        let parent = [("", "mod a; const X: u8 = 1; fn f() { a::g() }"), ("a", "use super::X;")];
        assert_eq!(circles_of(&parent), [["", "a"]]);
    }

    #[test]
    fn comments_literals_and_tests_are_exempt() {
        let files = [
            ("", "mod a; mod b;"),
            ("a", "use crate::b::B;"),
            (
                "b",
                "// crate::a::A\nconst T: &str = \"crate::a::A\";\n#[cfg(test)]\nmod tests { use crate::a::A; }",
            ),
        ];
        assert!(circles_of(&files).is_empty());
    }
}
