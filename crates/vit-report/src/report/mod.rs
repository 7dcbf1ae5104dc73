//! `report.html`: a complete report of a run in one file.

mod classes;
mod curves;
mod models;
mod places;

pub(crate) use curves::{by_epoch, finite, of_epochs};

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use vit_run::{CONFIG, METRICS, REPORT, read_metrics};

use crate::error::Error;
use crate::escape::escape;
use crate::page::{jumps, page, section};
use crate::picture::Picture;

/// The content of a report beyond the files of the run directory. Empty parts are not shown.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Model and dataset.
    pub title: String,
    /// Notices at the top, for instance that the run was interrupted.
    pub notes: Vec<String>,
    /// The steps after which settings changed.
    pub changed_after: Vec<u64>,
    /// Names and values, such as the dataset and the number of parameters.
    pub facts: Vec<(String, String)>,
    /// Names of the classes; a class without one is shown by its number.
    pub class_names: Vec<String>,
    /// Results on labelled images.
    pub tested: Option<Tested>,
    /// Similarities of the learned position table.
    pub positions: Option<Positions>,
    /// Attention maps of some images.
    pub attention: Vec<Attention>,
    /// Names and values of the run's environment.
    pub environment: Vec<(String, String)>,
}

/// Number of mistakes shown at first.
pub const WORST: usize = 24;

/// Results on labelled images.
#[derive(Clone, Debug)]
pub struct Tested {
    /// Number of available images; the confusion's sum is the number evaluated.
    pub available: usize,
    /// `counts[label][prediction]`
    pub confusion: Vec<BTreeMap<usize, usize>>,
    /// Misclassified images, worst first. The first [`WORST`] are shown, the others when their confusion cell is
    /// selected.
    pub mistakes: Vec<Mistake>,
}

/// A misclassified image.
#[derive(Clone, Debug)]
pub struct Mistake {
    /// Index in the test set, from 0.
    pub index: usize,
    /// The image.
    pub picture: Picture,
    /// The true class.
    pub label: usize,
    /// The predicted class and its probability.
    pub prediction: (usize, f32),
}

/// Similarities of a learned position table.
#[derive(Clone, Debug)]
pub struct Positions {
    /// Rows and columns of the grid of patches.
    pub grid: (usize, usize),
    /// `similarities[a][b]`: cosine similarity of the vectors of patches `a` and `b`, row by row.
    pub similarities: Vec<Vec<f32>>,
}

/// Attention maps of an image.
#[derive(Clone, Debug)]
pub struct Attention {
    /// The image.
    pub picture: Picture,
    /// The true class, if known.
    pub label: Option<usize>,
    /// The predicted class and its probability.
    pub prediction: (usize, f32),
    /// Rows and columns of the grid of patches.
    pub grid: (usize, usize),
    /// `layers[layer][head][patch]`: attention weight from the token that the head reads to each patch.
    pub layers: Vec<Vec<Vec<f32>>>,
    /// Attention rollout: how much of each patch reaches that token through all layers.
    pub rollout: Vec<f32>,
}

/// Writes `report.html` into a run directory, from `metrics.jsonl`, `config.toml` and `report`; returns its path.
/// Replaces an existing file.
///
/// The page loads nothing from outside, so you can send the file to others.
///
/// # Errors
/// If the metrics or the configuration cannot be read, or the page cannot be written.
pub fn write_report(run_dir: &Path, report: &Report) -> Result<PathBuf, Error> {
    let metrics = read_metrics(&run_dir.join(METRICS))?;
    let config = run_dir.join(CONFIG);
    let config = fs::read_to_string(&config).map_err(|source| Error::Io {
        operation: "read",
        path: config,
        source,
    })?;
    let names = Names(&report.class_names);
    let places = places::Places::of(&config);
    let hidden = |rows: &[(String, String)]| -> Vec<(String, String)> {
        rows.iter().map(|(name, value)| (name.clone(), places.hidden(value))).collect()
    };
    let title = places.hidden(&report.title);
    let notes = report.notes.iter().map(|note| places.hidden(note));
    let notes = notes.map(|note| format!("<p class=\"note\">{}</p>\n", escape(&note)));
    let facts = curves::facts(&metrics).into_iter().chain(hidden(&report.facts));
    let above = [format!("<h1>{}</h1>\n", escape(&title)), notes.collect(), tiles(facts)].concat();
    let sections = [
        section("Curves", &curves::charts(&metrics, &report.changed_after)),
        report.tested.as_ref().map(|tested| classes::sections(tested, names)).unwrap_or_default(),
        section("Attention", &models::attention(&report.attention, names)),
        section("Positions", &report.positions.as_ref().map(models::positions).unwrap_or_default()),
        section("Configuration", &format!("<pre>{}</pre>\n", escape(&places.hidden(&config)))),
        section("Environment", &table(&hidden(&report.environment))),
    ]
    .concat();
    let body = [above, jumps(&sections), sections].concat();
    let path = run_dir.join(REPORT);
    vit_files::write_atomically(&path, page(&title, &body).as_bytes())?;
    Ok(path)
}

/// The names of classes, for a page.
#[derive(Clone, Copy)]
struct Names<'a>(&'a [String]);

impl Names<'_> {
    /// A class's name, else its number.
    fn of(self, class: usize) -> String {
        self.0.get(class).map_or_else(|| class.to_string(), |name| escape(name).into_owned())
    }
}

/// Names and values as tiles.
fn tiles(facts: impl Iterator<Item = (String, String)>) -> String {
    let tile = |(name, value): (String, String)| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(&name), escape(&value))
    };
    format!("<dl class=\"tiles\">\n{}</dl>\n", facts.map(tile).collect::<String>())
}

/// Names and values as rows.
fn table(rows: &[(String, String)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let row = |(name, value): &(String, String)| {
        let (name, value) = (escape(name), escape(value));
        format!("<tr><th class=\"text\">{name}</th><td class=\"text\">{value}</td></tr>\n")
    };
    format!("<table class=\"table\">\n{}</table>\n", rows.iter().map(row).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        let metrics = r#"{"kind":"epoch","epoch":1,"train_loss":1.5,"train_accuracy":0.5}"#;
        fs::write(run.path().join(METRICS), metrics).unwrap();
        fs::write(run.path().join(CONFIG), "dataset = '<b>'\n").unwrap();
        run
    }

    fn picture() -> Picture {
        Picture::grey(2, 2, &[0, 255, 0, 255])
    }

    #[test]
    fn empty_parts_are_not_shown() {
        let run = run();
        let report = Report { title: "a & b".to_owned(), ..Report::default() };
        let path = write_report(run.path(), &report).unwrap();
        assert_eq!(path, run.path().join(REPORT));
        let page = fs::read_to_string(path).unwrap();
        assert!(
            page.contains("<h1>a &amp; b</h1>") && page.contains("dataset = &#39;&lt;b&gt;&#39;")
        );
        assert!(page.contains("<h2>Curves</h2>") && page.contains("<b>Loss</b>"));
        for absent in
            ["Confusion", "Attention", "Positions", "Environment", "data-name=\"test\"", "<img"]
        {
            assert!(!page.contains(absent), "{absent}");
        }
    }

    #[test]
    fn absolute_paths_are_hidden() {
        let run = run();
        let config = "dataset = \"/home/me/my data/cats\"\ninit = 'C:\\x\\y'\nname = 'a/b'\n";
        fs::write(run.path().join(CONFIG), config).unwrap();
        let title = "shallow on /home/me/my data/cats".to_owned();
        let facts = vec![("dataset".to_owned(), "/home/me/my data/cats (unverified)".to_owned())];
        let report = Report { title, facts, ..Report::default() };
        let page = fs::read_to_string(write_report(run.path(), &report).unwrap()).unwrap();
        assert!(!page.contains("/home/me") && !page.contains("C:\\"), "{page}");
        assert!(page.contains("<h1>shallow on cats</h1>") && page.contains("cats (unverified)"));
        assert!(page.contains("dataset = &quot;cats&quot;") && page.contains("a/b"));
    }

    #[test]
    fn complete_reports_show_everything() {
        let mistake = Mistake { index: 7, picture: picture(), label: 1, prediction: (0, 0.75) };
        let attention = Attention {
            picture: picture(),
            label: Some(1),
            prediction: (1, 0.5),
            grid: (1, 2),
            layers: vec![vec![vec![0.25, 0.75]; 3]; 2],
            rollout: vec![0.5, 0.5],
        };
        let report = Report {
            tested: Some(Tested {
                available: 9,
                confusion: vec![[(0, 2), (1, 1)].into(), [(0, 1), (1, 4)].into()],
                mistakes: vec![mistake],
            }),
            positions: Some(Positions {
                grid: (1, 2),
                similarities: vec![vec![1.0, -0.5], vec![-0.5, 1.0]],
            }),
            attention: vec![attention],
            environment: vec![("cores".to_owned(), "2".to_owned())],
            notes: vec!["interrupted".to_owned()],
            class_names: vec!["<zero>".to_owned()],
            ..Report::default()
        };
        let run = run();
        let page = fs::read_to_string(write_report(run.path(), &report).unwrap()).unwrap();
        for shown in [
            "interrupted",
            "first 8 of 9 test images",
            "66.67 %",
            "80.00 %",
            "<b>1</b>, predicted <b>&lt;zero&gt;</b>",
            "-0.50",
            ">cores<",
        ] {
            assert!(page.contains(shown), "{shown}");
        }
        // Two layers of three heads with their means, and the rollout.
        assert_eq!(page.matches("class=\"map\"").count(), 2 * (3 + 1) + 1);
        let (page, _script) = page.split_once("<script>\n").unwrap();
        assert!(!page.contains("NaN") && !page.contains("http"), "{page}");
        assert!(page.contains("<a href=\"#confusion-and-classes\">"));
        assert!(page.contains("id=\"mistakes\">[{\"label\":1,\"class\":0,\"index\":7,"));
    }
}
