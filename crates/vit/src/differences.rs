//! Differences between settings.

use std::collections::BTreeSet;

/// Shown for a missing setting.
const ABSENT: &str = "–";

/// Each setting that differs, by its path such as `train.optimizer.lr`, with all its values.
pub(crate) fn differences(settings: &[&toml::Table]) -> Vec<(String, Vec<String>)> {
    let flat: Vec<Vec<(String, String)>> =
        settings.iter().map(|settings| flatten("", settings)).collect();
    let names: BTreeSet<&String> = flat.iter().flatten().map(|(name, _)| name).collect();
    let value = |settings: &[(String, String)], name: &str| {
        let found = settings.iter().find(|(other, _)| other == name);
        found.map_or_else(|| ABSENT.to_owned(), |(_, value)| value.clone())
    };
    let each = names.into_iter().map(|name| {
        let values: Vec<String> = flat.iter().map(|settings| value(settings, name)).collect();
        (name.clone(), values)
    });
    each.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

fn flatten(above: &str, table: &toml::Table) -> Vec<(String, String)> {
    let each = table.iter().flat_map(|(name, value)| {
        let name = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
        match value {
            toml::Value::Table(below) => flatten(&name, below),
            toml::Value::String(text) => vec![(name, text.clone())],
            other => vec![(name, other.to_string())],
        }
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differing_settings_are_listed() {
        let a = "preset = 'shallow'\n[train]\nseed = 1\n[train.optimizer]\nlr = 0.1\n";
        let b =
            "preset = 'shallow'\n[train]\nseed = 1\nmax_steps = 4\n[train.optimizer]\nlr = 0.2\n";
        let [a, b] = [a, b].map(|text| text.parse().expect("sound settings"));
        let expected = [
            ("train.max_steps".to_owned(), vec!["–".to_owned(), "4".to_owned()]),
            ("train.optimizer.lr".to_owned(), vec!["0.1".to_owned(), "0.2".to_owned()]),
        ];
        assert_eq!(differences(&[&a, &b]), expected);
    }
}
