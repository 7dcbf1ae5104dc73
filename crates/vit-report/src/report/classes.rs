//! Confusion matrix, metrics by class, and the worst mistakes.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Mistake, Names, Tested, WORST};
use crate::page::{percent, section, thousands};

/// A larger matrix would be unreadable.
const MATRIX_CLASSES: usize = 16;
/// Number of most frequent confusions listed.
const CONFUSIONS: usize = 8;
/// Longest class names that serve as column headings of the matrix.
const SHORT_NAME: usize = 3;

pub(super) fn sections(tested: &Tested, names: Names<'_>) -> String {
    let counts = &tested.confusion;
    let seen: usize = counts.iter().flat_map(BTreeMap::values).sum();
    let which = if seen == tested.available {
        format!("All {} test images.", thousands(seen))
    } else {
        format!("The first {} of {} test images.", thousands(seen), thousands(tested.available))
    };
    let matrix = if counts.len() <= MATRIX_CLASSES { matrix(counts, names) } else { String::new() };
    let sides = format!(
        "<p class=\"quiet\">{which}</p>\n<div class=\"sides\">\n<div>\n{matrix}{}</div>\n\
         <div class=\"scroll\">\n{}</div>\n</div>\n",
        confusions(counts, names),
        classes(counts, names)
    );
    [
        section("Confusion and classes", &sections_if(seen, sides)),
        section("Worst mistakes", &mistakes(&tested.mistakes, names)),
        data(&tested.mistakes),
    ]
    .concat()
}

/// Without images the tables would be empty.
fn sections_if(seen: usize, content: String) -> String {
    if seen == 0 { String::new() } else { content }
}

/// A row for each label, a column for each prediction; a cell's shade is its share of the row.
fn matrix(counts: &[BTreeMap<usize, usize>], names: Names<'_>) -> String {
    // Columns are as narrow as their numbers; full names are in the rows.
    let is_short = (0..counts.len()).all(|class| names.of(class).chars().count() <= SHORT_NAME);
    let head = |class: usize| if is_short { names.of(class) } else { class.to_string() };
    let head: String = (0..counts.len())
        .map(|class| format!("<th title=\"{}\">{}</th>", names.of(class), head(class)))
        .collect();
    let rows = counts.iter().enumerate().map(|(label, row)| {
        let whole: usize = row.values().sum();
        let cells = (0..counts.len()).map(|prediction| {
            let count = row.get(&prediction).copied().unwrap_or_default();
            let class = match count {
                0 => "none",
                _ if label == prediction => "right",
                _ => "wrong",
            };
            // The square root keeps rare confusions visible beside correct predictions.
            let share = (count as f64 / whole.max(1) as f64).sqrt();
            format!(
                "<td class=\"{class}\" style=\"--share:{share:.3}\" data-cell=\"{label} {prediction}\" \
                 title=\"{} classified as {}: {count}\">{count}</td>",
                names.of(label),
                names.of(prediction)
            )
        });
        let number = if is_short { String::new() } else { format!("{label} ") };
        format!("<tr><th>{number}{}</th>{}</tr>\n", names.of(label), cells.collect::<String>())
    });
    format!(
        "<table class=\"confusion\">\n<tr><th></th>{head}</tr>\n{}</table>\n\
         <p class=\"quiet\">A row for each label, a column for each prediction.</p>\n<div id=\"cell\"></div>\n",
        rows.collect::<String>()
    )
}

/// The most frequent confusions as a sentence.
fn confusions(counts: &[BTreeMap<usize, usize>], names: Names<'_>) -> String {
    let mut wrong: Vec<(usize, usize, usize)> = counts
        .iter()
        .enumerate()
        .flat_map(|(label, row)| row.iter().map(move |(&to, &count)| (count, label, to)))
        .filter(|&(_, label, to)| label != to)
        .collect();
    // A stable sort: ties stay in the order of their labels.
    wrong.sort_by_key(|&(count, ..)| std::cmp::Reverse(count));
    let listed: Vec<String> = wrong
        .iter()
        .take(CONFUSIONS)
        .map(|&(count, label, to)| {
            format!("{}&nbsp;→&nbsp;{} ({count})", names.of(label), names.of(to))
        })
        .collect();
    if listed.is_empty() {
        return String::new();
    }
    format!("<p>Most often: {}.</p>\n", listed.join(", "))
}

fn classes(counts: &[BTreeMap<usize, usize>], names: Names<'_>) -> String {
    let mut predicted = vec![0; counts.len()];
    for (&prediction, count) in counts.iter().flatten() {
        predicted[prediction] += count;
    }
    let rows = counts.iter().enumerate().map(|(class, row)| {
        let images: usize = row.values().sum();
        let correct = row.get(&class).copied().unwrap_or_default();
        let share = |of: usize| correct as f64 / of as f64;
        let (recall, precision) = (share(images), share(predicted[class]));
        let bar = if recall.is_finite() { recall } else { 0.0 };
        format!(
            "<tr><td>{}</td><td>{}</td><td class=\"bars\"><i class=\"bar\" style=\"--share:{bar:.3}\"></i></td>\
             <td>{}</td><td>{}</td></tr>\n",
            names.of(class),
            thousands(images),
            percent(recall),
            percent(precision)
        )
    });
    format!(
        "<table class=\"table\">\n<tr><th>class</th><th>images</th><th class=\"bars\"></th><th>recall</th><th>precision</th></tr>\n\
         {}</table>\n",
        rows.collect::<String>()
    )
}

fn mistakes(mistakes: &[Mistake], names: Names<'_>) -> String {
    if mistakes.is_empty() {
        return String::new();
    }
    let each = mistakes.iter().take(WORST).map(|mistake| {
        let Mistake { index, picture, label, prediction: (class, probability) } = mistake;
        let [label, class] = [label, class].map(|&class| names.of(class));
        format!(
            "<figure><img src=\"{}\" alt=\"a {label}\"><figcaption><b>{label}</b>, predicted <b>{class}</b><br>\
             <span class=\"quiet\">{:.1} %<br>no. {index}</span></figcaption></figure>\n",
            picture.address(),
            100.0 * probability
        )
    });
    format!(
        "<p class=\"quiet\">The images whose true label got the lowest probability. Below each: the probability of \
         the predicted class and the image's index in the test set.</p>\n\
         <div class=\"pictures\">\n{}</div>\n",
        each.collect::<String>()
    )
}

/// As a JSON number.
fn number(probability: f32) -> String {
    serde_json::to_string(&probability).expect("a number")
}

/// All mistakes with known pictures, for the page's script and for `vit serve`.
fn data(mistakes: &[Mistake]) -> String {
    if mistakes.is_empty() {
        return String::new();
    }
    let each = mistakes.iter().map(|mistake| {
        let Mistake { index, picture, label, prediction: (class, probability) } = mistake;
        // In this field order, without anything that could end the script element.
        format!(
            "{{\"label\":{label},\"class\":{class},\"index\":{index},\"probability\":{},\"png\":{}}}",
            number(*probability),
            Value::from(picture.base64())
        )
    });
    let each: Vec<String> = each.collect();
    format!("<script type=\"application/json\" id=\"mistakes\">[{}]</script>\n", each.join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Names<'static> = Names(&[]);

    fn sparse<const N: usize>(rows: &[[usize; N]]) -> Vec<BTreeMap<usize, usize>> {
        let row =
            |row: &[usize; N]| row.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect();
        rows.iter().map(row).collect()
    }

    #[test]
    fn confusions_are_listed_by_frequency() {
        let text = confusions(&sparse(&[[9, 1, 0], [3, 9, 1], [0, 0, 9]]), NUMBERS);
        assert_eq!(
            text,
            "<p>Most often: 1&nbsp;→&nbsp;0 (3), 0&nbsp;→&nbsp;1 (1), 1&nbsp;→&nbsp;2 (1).</p>\n"
        );
        assert_eq!(confusions(&sparse(&[[4, 0], [0, 4]]), NUMBERS), "");
    }

    #[test]
    fn a_class_without_images_shows_a_dash() {
        let table = classes(&sparse(&[[2, 0], [0, 0]]), NUMBERS);
        assert!(table.contains("<td>1</td><td>0</td>") && table.contains("<td>–</td><td>–</td>"));
        assert!(!table.contains("NaN"));
    }

    #[test]
    fn many_classes_have_no_matrix() {
        let counts = |classes: usize| vec![(0..classes).map(|class| (class, 1)).collect(); classes];
        let tested =
            |classes| Tested { available: 0, confusion: counts(classes), mistakes: Vec::new() };
        assert!(sections(&tested(MATRIX_CLASSES), NUMBERS).contains("class=\"confusion\""));
        assert!(!sections(&tested(MATRIX_CLASSES + 1), NUMBERS).contains("class=\"confusion\""));
    }
}
