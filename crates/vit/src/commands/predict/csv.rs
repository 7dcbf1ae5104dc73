//! Predictions as CSV (RFC 4180).

use crate::prediction::{Prediction, Subject};

pub(super) fn headings(prediction: &Prediction, names: &[String]) -> Vec<String> {
    let subject = match prediction.subject {
        Subject::Picture { .. } => ["image", "inverted"],
        Subject::Example { .. } => ["index", "label"],
    };
    let first = subject.into_iter().chain(["class", "name", "probability"]).map(str::to_owned);
    first.chain(names.iter().cloned()).collect()
}

pub(super) fn cells(prediction: &Prediction, names: &[String]) -> Vec<String> {
    let subject = match &prediction.subject {
        Subject::Picture { image, inverted } => {
            [image.clone().unwrap_or_default(), inverted.to_string()]
        }
        Subject::Example { index, label } => [index.to_string(), label.to_string()],
    };
    let best = &prediction.best;
    let class = [best.class.to_string(), names[best.class].clone(), best.probability.to_string()];
    let all = prediction.probabilities.iter().map(ToString::to_string);
    subject.into_iter().chain(class).chain(all).collect()
}

/// A row; cells with a comma or quote are quoted. Line breaks are escaped when printed.
pub(super) fn row(cells: &[String]) -> String {
    let quoted = cells.iter().map(|cell| match cell.contains([',', '"']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.clone(),
    });
    quoted.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::row;

    #[test]
    fn cells_with_commas_and_quotes_are_quoted() {
        let cells = ["a,b.png", "say \"7\"", "0.5"].map(str::to_owned);
        assert_eq!(row(&cells), "\"a,b.png\",\"say \"\"7\"\"\",0.5");
    }
}
