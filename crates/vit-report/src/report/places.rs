//! Hiding paths: a report may be sent to others, so it shows only the last component of absolute paths.

/// The absolute paths in a run's settings.
pub(super) struct Places(Vec<(String, String)>);

impl Places {
    /// The absolute paths among the quoted strings.
    pub(super) fn of(config: &str) -> Self {
        let quoted = config.lines().flat_map(|line| {
            let quote = line.find(['"', '\'']).and_then(|at| line[at..].chars().next());
            quote.map(|quote| line.split(quote).skip(1).step_by(2)).into_iter().flatten()
        });
        let mut places: Vec<(String, String)> = quoted
            .filter(|text| is_absolute(text))
            .map(|text| (text.to_owned(), last(text)))
            .collect();
        // A path inside another is replaced first.
        places.sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
        Self(places)
    }

    /// The text with each path replaced by its last component.
    pub(super) fn hidden(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (place, name)| text.replace(place, name))
    }
}

/// On any operating system.
fn is_absolute(text: &str) -> bool {
    let bytes = text.as_bytes();
    text.starts_with(['/', '\\'])
        || matches!(bytes, [drive, b':', b'/' | b'\\', ..] if drive.is_ascii_alphabetic())
}

fn last(path: &str) -> String {
    path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
}
