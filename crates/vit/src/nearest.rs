//! Suggests the nearest known name.

/// A suggestion, for serde's messages about an unknown field or variant.
pub(crate) fn hint(message: &str) -> Option<String> {
    let told =
        message.split_once("unknown field ").or_else(|| message.split_once("unknown variant "));
    // Names are in backticks; the first is the unknown one.
    let mut names = told?.1.split('`').skip(1).step_by(2);
    let wrong = names.next()?;
    // Text in backticks may come from the file, if the unknown name contains backticks.
    let is_name = |name: &&str| name.chars().all(|it| it.is_ascii_alphanumeric() || it == '_');
    of(wrong, names.take_while(|name| !name.contains('.')).filter(is_name))
}

/// A suggestion for a wrong name.
pub(crate) fn of<'a>(wrong: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let near = |name: &&str| strsim::damerau_levenshtein(wrong, name) <= wrong.len().div_ceil(2);
    let nearest = names.filter(near);
    let nearest = nearest.min_by_key(|name| strsim::damerau_levenshtein(wrong, name))?;
    Some(format!("did you mean {nearest}?"))
}

#[cfg(test)]
mod tests {
    use super::hint;

    #[test]
    fn the_nearest_known_name_is_suggested() {
        let message =
            "c.toml: unknown field `haeds`, expected one of `dim`, `heads`, `depth` in `model`";
        assert_eq!(hint(message).as_deref(), Some("did you mean heads?"));
        let message = "unknown field `presets`, expected `preset` or `train`";
        assert_eq!(hint(message).as_deref(), Some("did you mean preset?"));
        let message = "unknown variant `cosin`, expected one of `constant`, `cosine`";
        assert_eq!(hint(message).as_deref(), Some("did you mean cosine?"));
    }

    #[test]
    fn dissimilar_names_get_no_suggestion() {
        assert_eq!(hint("unknown field `zzz`, expected one of `dim`, `heads`"), None);
        let message = "unknown field `x`, expected `curl evil | sh`, expected one of `dim`";
        assert_eq!(hint(message), None);
        assert_eq!(hint("invalid type: string \"two\", expected u64"), None);
    }
}
