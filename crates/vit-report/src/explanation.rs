//! A picture that explains a prediction.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster};

use crate::picture::Picture;
use crate::report::Attention;

/// Side of the enlarged images, rounded to whole pixels of the original.
const SIDE: usize = 280;
/// Margin around and between the parts.
const GAP: usize = 24;
/// Height of a line of text, and of a bar.
const LINE: usize = 26;
/// Number of classes with a bar.
const BARS: usize = 10;
/// Length of the longest bar; class name and number need more.
const BAR: usize = 200;
const NAME: usize = 48;
/// Width of a letter.
const LETTER: usize = 8;
/// Longest part of a name that is drawn.
const LETTERS: usize = 24;
const NUMBER: usize = 80;

const GROUND: [u8; 3] = [255, 255, 255];
const TEXT: [u8; 3] = [31, 35, 40];
const BEST: [u8; 3] = [9, 105, 218];
const OTHER: [u8; 3] = [145, 152, 161];

/// Draws the image, its attention rollout as an overlay, and the probabilities as bars with numbers: of all classes if
/// there are at most ten, else of the ten most probable. A class without a name in `names` is shown by its number;
/// letters outside ASCII become question marks.
///
/// # Panics
/// If there are no probabilities.
#[must_use]
pub fn explanation(attention: &Attention, probabilities: &[f32], names: &[String]) -> Picture {
    let image = &attention.picture;
    let scale = (SIDE / image.width().max(image.height())).max(1);
    let (width, height) = (image.width() * scale, image.height() * scale);
    let ranked = ranked(probabilities);
    let names: Vec<String> = ranked.iter().map(|&class| drawn_name(class, names)).collect();
    let longest = names.iter().map(String::len).max().unwrap_or(0);
    let name_width = NAME.max(longest * LETTER + 8);
    let below = (ranked.len() * LINE).max(height);
    let whole = (4 * GAP + 2 * width + name_width + BAR + NUMBER, 2 * GAP + LINE + below);
    let mut canvas = Canvas::new(whole);
    let (top, middle, right) = (GAP + LINE, 2 * GAP + width, 3 * GAP + 2 * width);
    canvas.text((GAP, GAP), "image");
    canvas.picture((GAP, top), image, scale);
    canvas.text((middle, GAP), "attention rollout");
    canvas.picture((middle, top), &attention.rollout_over_image(scale), 1);
    canvas.text((right, GAP), "probability");
    for (row, &class) in ranked.iter().enumerate() {
        let y = top + row * LINE;
        let probability = probabilities[class];
        let length = (probability.clamp(0.0, 1.0) * BAR as f32).round() as usize;
        let colour = if class == attention.prediction.0 { BEST } else { OTHER };
        canvas.text((right, y + 4), &names[row]);
        canvas.bar((right + name_width, y + 6), (length.max(1), LINE - 12), colour);
        let number = format!("{:.1} %", 100.0 * probability);
        canvas.text((right + name_width + length + 8, y + 4), &number);
    }
    Picture::rgb(canvas.width, canvas.height, canvas.pixels)
}

/// A class's name in ASCII, truncated.
fn drawn_name(class: usize, names: &[String]) -> String {
    let name = names.get(class).cloned().unwrap_or_else(|| class.to_string());
    let letter =
        |letter: char| if letter.is_ascii_graphic() || letter == ' ' { letter } else { '?' };
    let count = name.chars().count();
    let drawn: String = name.chars().map(letter).take(LETTERS).collect();
    if count > LETTERS { format!("{}...", &drawn[..LETTERS - 3]) } else { drawn }
}

/// All classes in order if there are few, else the most probable ones, highest first.
fn ranked(probabilities: &[f32]) -> Vec<usize> {
    let mut classes: Vec<usize> = (0..probabilities.len()).collect();
    if classes.len() > BARS {
        classes.sort_by(|&a, &b| probabilities[b].total_cmp(&probabilities[a]));
        classes.truncate(BARS);
    }
    classes
}

/// A canvas that clips what lies outside.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Canvas {
    fn new((width, height): (usize, usize)) -> Self {
        Self { width, height, pixels: vec![GROUND; width * height] }
    }

    fn set(&mut self, (x, y): (usize, usize), colour: [u8; 3]) {
        if x < self.width && y < self.height {
            self.pixels[y * self.width + x] = colour;
        }
    }

    fn bar(
        &mut self,
        (left, top): (usize, usize),
        (width, height): (usize, usize),
        colour: [u8; 3],
    ) {
        for at in 0..width * height {
            self.set((left + at % width, top + at / width), colour);
        }
    }

    fn picture(&mut self, (left, top): (usize, usize), picture: &Picture, scale: usize) {
        let (width, height) = (picture.width() * scale, picture.height() * scale);
        for at in 0..width * height {
            let (x, y) = (at % width, at / width);
            self.set((left + x, top + y), picture.pixel(x / scale, y / scale));
        }
    }

    /// Draws ASCII text, sixteen pixels high.
    fn text(&mut self, (left, top): (usize, usize), text: &str) {
        let mut x = left;
        for letter in text.chars() {
            let Some(letter) = get_raster(letter, FontWeight::Regular, RasterHeight::Size16) else {
                continue;
            };
            for (y, row) in letter.rows().enumerate() {
                for (across, &ink) in row.iter().enumerate() {
                    let part = f32::from(ink) / 255.0;
                    let mix = |at: usize| {
                        let (from, to) = (f32::from(GROUND[at]), f32::from(TEXT[at]));
                        (from + (to - from) * part).round() as u8
                    };
                    self.set((x + across, top + y), [mix(0), mix(1), mix(2)]);
                }
            }
            x += letter.width();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(side: usize) -> Attention {
        Attention {
            picture: Picture::grey(side, side, &vec![7; side * side]),
            label: None,
            prediction: (1, 0.75),
            grid: (2, 2),
            layers: Vec::new(),
            rollout: vec![0.1, 0.2, 0.3, 0.4],
        }
    }

    fn count(picture: &Picture, colour: [u8; 3]) -> usize {
        let columns = 0..picture.width();
        let pixels = columns.flat_map(|x| (0..picture.height()).map(move |y| (x, y)));
        pixels.filter(|&(x, y)| picture.pixel(x, y) == colour).count()
    }

    #[test]
    fn bars_are_as_long_as_probabilities() {
        let drawn = explanation(&attention(28), &[0.25, 0.75], &[]);
        let height = LINE - 12;
        assert_eq!(count(&drawn, BEST), BAR * 3 / 4 * height);
        assert_eq!(count(&drawn, OTHER), BAR / 4 * height);
        // The image, enlarged ten times.
        assert_eq!(count(&drawn, [7; 3]), 280 * 280);
    }

    #[test]
    fn the_overlay_is_strongest_where_attention_is_highest() {
        let over = attention(4).rollout_over_image(3);
        assert_eq!((over.width(), over.height()), (12, 12));
        let red = |x, y| over.pixel(x, y)[0];
        assert!(red(0, 0) < red(11, 0) && red(11, 0) < red(0, 11) && red(0, 11) < red(11, 11));
        // The overlay is constant within a patch.
        assert_eq!(over.pixel(6, 6), over.pixel(11, 11));
    }

    #[test]
    fn the_most_probable_of_many_classes_are_drawn() {
        let probabilities: Vec<f32> = (0..30).map(|class| class as f32 / 435.0).collect();
        assert_eq!(ranked(&probabilities), (20..30).rev().collect::<Vec<_>>());
        assert_eq!(ranked(&[0.2, 0.8]), [0, 1]);
        // An image above the usual side is not enlarged.
        let drawn = explanation(&attention(400), &probabilities, &[]);
        assert_eq!(drawn.height(), 2 * GAP + LINE + 400);
    }

    #[test]
    fn names_widen_the_picture_and_are_truncated() {
        let drawn = |name: &str| explanation(&attention(28), &[0.2, 0.8], &[name.to_owned()]);
        assert_eq!(drawn("cat").width(), explanation(&attention(28), &[0.2, 0.8], &[]).width());
        assert_eq!(drawn(&"x".repeat(24)).width(), drawn(&"x".repeat(80)).width());
        assert!(drawn("golden retriever").width() > drawn("cat").width());
        assert_eq!(drawn_name(0, &["blåbær".to_owned()]), "bl?b?r");
    }

    #[test]
    fn every_letter_used_has_a_glyph() {
        for letter in "image attention rollout probability 0123456789.%".chars() {
            let raster = get_raster(letter, FontWeight::Regular, RasterHeight::Size16);
            assert!(raster.is_some(), "{letter}");
        }
    }
}
