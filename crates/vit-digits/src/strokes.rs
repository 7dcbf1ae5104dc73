//! Finding a digit's strokes among rules, frames, bars and specks.

use vit_pictures::Plane;

use crate::background::{Background, Contrast, Tone};
use crate::mask::{Bounds, Mask, Part};

/// Share of the strokes' contrast that is subtracted, to remove blurred edges and JPEG artefacts.
const CUT: f32 = 0.25;
/// Smallest longer side of a digit, as a share of the picture's.
const SHORTEST: f32 = 0.03;
/// Parts with less than this share of the main part's ink are specks.
const SPECK: f32 = 0.04;
/// Parts within this distance belong to the digit, as a share of the main part's longer side.
const NEAR: f32 = 0.25;
/// Weight of strokes at the picture's border when tones are compared: they may be the edge of a shadow.
const AT_BORDER: f32 = 0.25;
/// If the stronger tone has less than this share of all ink, the choice is a guess.
const SURE: f32 = 0.6;

/// Strokes on an empty background.
pub struct Strokes {
    /// 0 for background, 1 for full ink.
    pub ink: Plane,
    /// Their tone in the picture.
    pub polarity: Polarity,
    amount: f32,
}

/// Whether strokes are dark or light.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polarity {
    /// The strokes' tone.
    pub tone: Tone,
    /// Whether the other polarity is nearly as likely.
    pub is_guess: bool,
}

impl Polarity {
    /// Like [`Strokes::find`] without a tone, but faster if only one tone stands out.
    #[must_use]
    pub fn of(plane: &Plane) -> Option<Self> {
        let background = Background::of(plane);
        let [dark, light] = [Tone::Dark, Tone::Light].map(|tone| background.contrast(plane, tone));
        // In a small picture a single pixel is enough.
        let is_small = shortest(plane.width().max(plane.height()) as usize) == 1;
        match (dark.stands_out(), light.stands_out()) {
            (true, false) if is_small => Some(Self::sure(Tone::Dark)),
            (false, true) if is_small => Some(Self::sure(Tone::Light)),
            _ => Strokes::of_either(&dark, &light).map(|strokes| strokes.polarity),
        }
    }

    const fn sure(tone: Tone) -> Self {
        Self { tone, is_guess: false }
    }
}

impl Strokes {
    /// The strokes of this tone, or of the tone with more ink, in a grey picture; `None` if nothing stands out.
    #[must_use]
    pub fn find(plane: &Plane, tone: Option<Tone>) -> Option<Self> {
        let background = Background::of(plane);
        let contrast = |tone| background.contrast(plane, tone);
        match tone {
            Some(tone) => Self::of(&contrast(tone)),
            None => Self::of_either(&contrast(Tone::Dark), &contrast(Tone::Light)),
        }
    }

    fn of_either(dark: &Contrast, light: &Contrast) -> Option<Self> {
        match [dark, light].map(Self::of) {
            [Some(dark), Some(light)] => {
                let both = dark.amount + light.amount;
                let mut more = if dark.amount > light.amount { dark } else { light };
                more.polarity.is_guess = more.amount < SURE * both;
                Some(more)
            }
            [dark, light] => dark.or(light),
        }
    }

    fn of(contrast: &Contrast) -> Option<Self> {
        if !contrast.stands_out() {
            return None;
        }
        let (plane, tone, least) = (&contrast.plane, contrast.tone, contrast.least());
        let all = Mask::above(plane, least);
        let shortest = shortest(all.bounds().longer_side());
        let mut without = all.clone();
        without.remove_rules();
        for part in without.parts(plane) {
            if part.bounds.shorter_side() > 4 * shortest {
                without.remove_box(part.bounds);
            }
        }
        // A bar from border to border may be the only stroke: a one.
        let main = |mask: &Mask| main_parts(mask.parts(plane), mask.bounds(), shortest);
        let parts = main(&without).or_else(|| main(&all))?;
        let pixels: Vec<usize> = parts.iter().flat_map(|part| &part.pixels).copied().collect();
        let mut values: Vec<f32> = pixels.iter().map(|&at| plane.as_raw()[at]).collect();
        let at_border = parts.iter().any(|part| part.bounds.touches_border_of(all.bounds()));
        let amount = values.iter().sum::<f32>() * if at_border { AT_BORDER } else { 1.0 };
        let full = values.len() * 9 / 10;
        let full = *values.select_nth_unstable_by(full, f32::total_cmp).1;
        let cut = (CUT * full).max(0.9 * least);
        let mut ink = Plane::new(plane.width(), plane.height());
        for at in pixels {
            ink[((at % all.width) as u32, (at / all.width) as u32)].0[0] =
                ((plane.as_raw()[at] - cut) / (full - cut)).clamp(0.0, 1.0);
        }
        Some(Self { ink, polarity: Polarity::sure(tone), amount })
    }
}

/// Smallest longer side of a digit in a picture with this one.
fn shortest(side: usize) -> usize {
    ((SHORTEST * side as f32) as usize).max(1)
}

/// The part with the most ink, and those near it. Prefers parts away from the picture's border, where the edge of a
/// table or a finger may be.
fn main_parts(mut parts: Vec<Part>, whole: Bounds, shortest: usize) -> Option<Vec<Part>> {
    parts.retain(|part| part.bounds.longer_side() >= shortest);
    let most = parts.iter().map(|part| part.amount).fold(0.0, f32::max);
    let is_inside = |part: &Part| !part.bounds.touches_border_of(whole);
    if parts.iter().any(|part| is_inside(part) && part.amount > 0.1 * most) {
        parts.retain(is_inside);
    }
    let main = parts.iter().max_by(|a, b| a.amount.total_cmp(&b.amount))?;
    let (least, mut digit) = (SPECK * main.amount, main.bounds);
    let near = (NEAR * main.bounds.longer_side() as f32) as usize;
    let mut kept = Vec::new();
    loop {
        let is_near = |part: &mut Part| part.amount >= least && part.bounds.is_within(near, digit);
        let found: Vec<Part> = parts.extract_if(.., is_near).collect();
        if found.is_empty() {
            return Some(kept);
        }
        digit = found.iter().fold(digit, |digit, part| digit.and(part.bounds));
        kept.extend(found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    type IsInk = fn(u32, u32) -> bool;

    /// A seven with strokes of this width, on a page of 200x240.
    fn seven(x: u32, y: u32, wide: u32) -> bool {
        let on_bar = (60..140).contains(&x) && (50..50 + wide).contains(&y);
        let on_stem = (50..190).contains(&y) && (x + (y - 50) / 2).abs_diff(138) < wide;
        on_bar || on_stem
    }

    fn page(paper: f32, ink: f32, is_ink: impl Fn(u32, u32) -> bool) -> Plane {
        Plane::from_fn(200, 240, |x, y| Luma([if is_ink(x, y) { ink } else { paper }]))
    }

    #[test]
    fn ink_and_chalk_are_distinguished_at_any_width() {
        for wide in [1, 3, 10, 20] {
            let drawn = |paper, ink| page(paper, ink, |x, y| seven(x, y, wide));
            let [dark, light] = [(0.9, 0.2), (0.2, 0.9)]
                .map(|(paper, ink)| Strokes::find(&drawn(paper, ink), None).expect("strokes"));
            assert_eq!(
                (dark.polarity.tone, light.polarity.tone),
                (Tone::Dark, Tone::Light),
                "{wide}"
            );
            assert!(!dark.polarity.is_guess && !light.polarity.is_guess, "{wide}");
            for ink in [&dark.ink, &light.ink] {
                for (x, y, pixel) in ink.enumerate_pixels() {
                    let expected = f32::from(u8::from(seven(x, y, wide)));
                    assert!((pixel.0[0] - expected).abs() < 0.01, "{wide} at {x}, {y}");
                }
            }
        }
    }

    #[test]
    fn strokes_of_both_tones_give_a_guess() {
        let both = Plane::from_fn(200, 200, |x, y| {
            let is_stroke = (60..140).contains(&y);
            Luma([match x {
                50..60 if is_stroke => 0.1,
                140..150 if is_stroke => 0.9,
                _ => 0.5,
            }])
        });
        assert!(Strokes::find(&both, None).expect("strokes").polarity.is_guess);
        assert!(!Strokes::find(&both, Some(Tone::Dark)).expect("strokes").polarity.is_guess);
    }

    #[test]
    fn rules_frames_bars_and_specks_are_removed() {
        let clean = Strokes::find(&page(0.9, 0.1, |x, y| seven(x, y, 8)), None).expect("strokes");
        let beside: [(&str, IsInk); 7] = [
            ("a frame at the border", |x, y| x < 2 || y < 2 || x >= 198 || y >= 238),
            ("a box", |x, y| {
                let (across, down) = ((30..170).contains(&x), (30..210).contains(&y));
                across && down && !((33..167).contains(&x) && (33..207).contains(&y))
            }),
            ("rules", |_, y| y % 30 < 2 && y > 4),
            ("squared paper", |x, y| y % 30 < 2 || x % 30 < 2),
            ("a tilted rule", |x, y| (y + x / 40).abs_diff(200) < 2),
            ("a bar", |x, _| x < 10),
            ("specks", |x, y| (x.is_multiple_of(37) && y.is_multiple_of(41)) || (x < 8 && y > 230)),
        ];
        for (what, is_ink) in beside {
            let found = page(0.9, 0.1, |x, y| seven(x, y, 8) || is_ink(x, y));
            let found = Strokes::find(&found, None).expect("strokes");
            assert_eq!(found.polarity.tone, Tone::Dark, "{what}");
            let pairs = found.ink.iter().zip(clean.ink.iter());
            let differing = pairs.filter(|(a, b)| (*a - *b).abs() > 0.5).count();
            assert!(differing < 120, "{what}: {differing} pixels differ");
        }
    }

    #[test]
    fn a_tightly_cropped_seven_keeps_its_bar() {
        // A hand-drawn bar is slightly bent.
        let bent = |x: u32, y: u32| seven(x, (y + 50).saturating_sub(x.saturating_sub(60) / 16), 8);
        let close = Plane::from_fn(82, 146, |x, y| Luma([if bent(x + 59, y) { 0.1 } else { 0.9 }]));
        let found = Strokes::find(&close, None).expect("strokes");
        for (x, y, pixel) in found.ink.enumerate_pixels() {
            assert_eq!(pixel.0[0] > 0.5, bent(x + 59, y), "{x}, {y}");
        }
    }

    #[test]
    fn a_single_bar_is_a_one_and_a_single_box_a_zero() {
        let shapes: [IsInk; 2] = [
            |x, _| (95..105).contains(&x),
            |x, y| {
                let (across, down) = ((60..140).contains(&x), (60..180).contains(&y));
                across && down && !((68..132).contains(&x) && (68..172).contains(&y))
            },
        ];
        for is_ink in shapes {
            let found = Strokes::find(&page(0.9, 0.1, is_ink), None).expect("strokes");
            for (x, y, pixel) in found.ink.enumerate_pixels() {
                assert_eq!(pixel.0[0] > 0.5, is_ink(x, y), "{x}, {y}");
            }
        }
    }

    #[test]
    fn blank_paper_has_no_strokes() {
        let blank =
            Plane::from_fn(90, 60, |x, y| Luma([0.4 + x as f32 / 180.0 + y as f32 / 600.0]));
        assert!(Strokes::find(&blank, None).is_none());
        for size in [(1, 1), (1, 30), (28, 28)] {
            assert!(Strokes::find(&Plane::from_pixel(size.0, size.1, Luma([1.0])), None).is_none());
        }
    }
}
