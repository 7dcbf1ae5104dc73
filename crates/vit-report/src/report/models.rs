//! Attention maps and position similarities.

use super::{Attention, Names, Positions};
use crate::picture::{Picture, of_largest, overlay, translucent};

/// Colours of the similarities -1, -0.5, 0, 0.5 and 1; page.css has the same.
const SIMILARITIES: [[f32; 3]; 5] = [
    [33.0, 102.0, 172.0],
    [146.0, 197.0, 222.0],
    [247.0, 247.0, 247.0],
    [244.0, 165.0, 130.0],
    [178.0, 24.0, 43.0],
];

/// A table of maps for each image: a row a layer, a column a head.
pub(super) fn attention(samples: &[Attention], names: Names<'_>) -> String {
    if samples.is_empty() {
        return String::new();
    }
    format!(
        "<p class=\"quiet\">Attention weights of the token that the head reads: a row for each layer, a column for \
         each head, then their mean, each map scaled to its largest weight. The rollout multiplies the layers' means: \
         it shows how much of each patch reaches that token (Abnar and Zuidema, 2020).</p>\n<div class=\"samples\">\n{}</div>\n",
        samples.iter().map(|each| sample(each, names)).collect::<String>()
    )
}

fn sample(sample: &Attention, names: Names<'_>) -> String {
    let map = |weights: &[f32], name: &str| {
        let pixels: Vec<[u8; 4]> = of_largest(weights).into_iter().map(overlay).collect();
        let (rows, columns) = sample.grid;
        let address = translucent((columns, rows), &pixels);
        format!(
            "<td><span class=\"map\" role=\"img\" aria-label=\"{name}\" style=\"--map:url({address})\"></span></td>"
        )
    };
    let heads = sample.layers.first().map_or(0, Vec::len);
    let head: String = (1..=heads).map(|head| format!("<th>{head}</th>")).collect();
    let layers = sample.layers.iter().zip(1..).map(|(layer, number)| {
        let maps: String = layer
            .iter()
            .zip(1..)
            .map(|(weights, head)| map(weights, &format!("layer {number}, head {head}")))
            .collect();
        let mean = map(&mean(layer), &format!("layer {number}, mean of the heads"));
        format!("<tr><td>layer {number}</td>{maps}{mean}</tr>\n")
    });
    let layers: String = layers.collect();
    let rollout = map(&sample.rollout, "rollout");
    let (class, probability) = sample.prediction;
    let label = sample.label.map(|label| format!("{}, ", names.of(label))).unwrap_or_default();
    let class = names.of(class);
    format!(
        "<div class=\"sample\" style=\"--image:url({})\">\n<h3>{label}predicted {class} ({:.1} %)</h3>\n\
         <div class=\"maps\"><table>\n<tr><th></th>{head}<th>mean</th></tr>\n{layers}\
         <tr><td>rollout</td>{rollout}</tr>\n</table></div>\n</div>\n",
        sample.picture.address(),
        100.0 * probability
    )
}

/// Mean over all heads.
fn mean(heads: &[Vec<f32>]) -> Vec<f32> {
    let patches = heads.first().map_or(0, Vec::len);
    (0..patches)
        .map(|patch| heads.iter().map(|head| head[patch]).sum::<f32>() / heads.len() as f32)
        .collect()
}

/// The grid of patches; each cell is a small grid of its similarities with all patches (ViT, arXiv 2010.11929, figure
/// 7).
pub(super) fn positions(positions: &Positions) -> String {
    let Positions { grid: (rows, columns), similarities } = positions;
    // A line between any two small grids.
    let (width, height) = (columns * (columns + 1) - 1, rows * (rows + 1) - 1);
    let mut pixels = vec![[0; 4]; width * height];
    for (a, row) in similarities.iter().enumerate() {
        let (top, left) = (a / columns * (rows + 1), a % columns * (columns + 1));
        for (b, &similarity) in row.iter().enumerate() {
            let [red, green, blue] = colour(similarity);
            let at = (top + b / columns) * width + left + b % columns;
            pixels[at] = [red, green, blue, 255];
        }
    }
    let others = similarities.iter().enumerate().flat_map(|(a, row)| {
        row.iter().enumerate().filter(move |&(b, _)| a != b).map(|(_, &similarity)| similarity)
    });
    let (least, most) =
        others.fold((f32::MAX, f32::MIN), |(low, high), x| (low.min(x), high.max(x)));
    let range = if least <= most {
        format!(" Different positions: {least:.2} to {most:.2}.")
    } else {
        String::new()
    };
    format!(
        "<p class=\"quiet\">Cosine similarity of the position embeddings. Each cell is a position, and shows a small map \
         of its similarity with all positions.{range}</p>\n\
         <img class=\"positions\" src=\"{}\" alt=\"similarities of {rows}x{columns} positions\">\n\
         <div class=\"scale\">−1 <i></i> 1</div>\n",
        translucent((width, height), &pixels)
    )
}

/// Interpolates the colours for a similarity from -1 to 1.
fn colour(similarity: f32) -> [u8; 3] {
    let last = SIMILARITIES.len() - 1;
    let place = (similarity.clamp(-1.0, 1.0) + 1.0) / 2.0 * last as f32;
    let below = (place as usize).min(last - 1);
    let part = place - below as f32;
    let mix = |channel: usize| {
        let (from, to) = (SIMILARITIES[below][channel], SIMILARITIES[below + 1][channel]);
        (from + (to - from) * part).round() as u8
    };
    [mix(0), mix(1), mix(2)]
}

impl Attention {
    /// The image under an overlay of the rollout, enlarged `scale` times.
    #[must_use]
    pub fn rollout_over_image(&self, scale: usize) -> Picture {
        let (rows, columns) = self.grid;
        let overlays: Vec<[u8; 4]> = of_largest(&self.rollout).into_iter().map(overlay).collect();
        let (width, height) = (self.picture.width() * scale, self.picture.height() * scale);
        let pixels = (0..width * height).map(|at| {
            let (x, y) = (at % width, at / width);
            let under = self.picture.pixel(x / scale, y / scale);
            let [colour @ .., opacity] =
                overlays[y * rows / height * columns + x * columns / width];
            let part = f32::from(opacity) / 255.0;
            let over = |channel: usize| {
                let (from, to) = (f32::from(under[channel]), f32::from(colour[channel]));
                (from + (to - from) * part).round() as u8
            };
            [over(0), over(1), over(2)]
        });
        Picture::rgb(width, height, pixels.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarity_colours_go_from_blue_over_white_to_red() {
        assert_eq!(colour(-1.0), [33, 102, 172]);
        assert_eq!(colour(0.0), [247, 247, 247]);
        assert_eq!(colour(1.0), [178, 24, 43]);
        assert_eq!(colour(7.0), colour(1.0));
    }

    #[test]
    fn a_single_position_has_no_range() {
        let text = positions(&Positions { grid: (1, 1), similarities: vec![vec![1.0]] });
        assert!(!text.contains("Different positions"), "{text}");
    }
}
