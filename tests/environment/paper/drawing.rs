//! Simulated pictures of handwritten digits, drawn from MNIST's images.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::{self, FilterType};
use image::{DynamicImage, GrayImage, ImageFormat, Rgb, RgbImage, Rgba, RgbaImage};

/// Ink coverage of each pixel, from 0 to 1.
struct Ink {
    width: u32,
    height: u32,
    cover: Vec<f32>,
}

impl Ink {
    fn new(width: u32, height: u32) -> Self {
        Self { width, height, cover: vec![0.0; (width * height) as usize] }
    }

    fn at(&self, x: u32, y: u32) -> f32 {
        self.cover[(y * self.width + x) as usize]
    }

    fn put(&mut self, left: u32, top: u32, digit: &GrayImage) {
        for (x, y, pixel) in digit.enumerate_pixels() {
            if left + x < self.width && top + y < self.height {
                let at = ((top + y) * self.width + left + x) as usize;
                self.cover[at] = self.cover[at].max(f32::from(pixel.0[0]) / 255.0);
            }
        }
    }

    fn rectangle(&mut self, (left, top, right, bottom): (u32, u32, u32, u32)) {
        for y in top..bottom.min(self.height) {
            for x in left..right.min(self.width) {
                self.cover[(y * self.width + x) as usize] = 1.0;
            }
        }
    }

    /// A box of lines of this thickness, just inside these borders.
    fn frame(&mut self, (left, top, right, bottom): (u32, u32, u32, u32), thick: u32) {
        self.rectangle((left, top, right, top + thick));
        self.rectangle((left, bottom - thick, right, bottom));
        self.rectangle((left, top, left + thick, bottom));
        self.rectangle((right - thick, top, right, bottom));
    }

    /// In colours of paper and ink, with uneven light and camera noise.
    fn photo(
        &self,
        paper: [f32; 3],
        ink: [f32; 3],
        mut light: impl FnMut(u32, u32) -> f32,
        noise: &mut Noise,
        deviation: f32,
    ) -> RgbImage {
        RgbImage::from_fn(self.width, self.height, |x, y| {
            let (cover, light) = (self.at(x, y), light(x, y));
            let mut of = |c: usize| {
                (light * (paper[c] * (1.0 - cover) + ink[c] * cover) + deviation * noise.normal())
                    .clamp(0.0, 255.0) as u8
            };
            Rgb([of(0), of(1), of(2)])
        })
    }
}

/// Pseudo-random numbers from a seed.
struct Noise(u32);

impl Noise {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as f32 / (1 << 24) as f32
    }

    fn below(&mut self, end: u32) -> u32 {
        (self.uniform() * end as f32) as u32
    }

    /// Approximately normal, with standard deviation 1.
    fn normal(&mut self) -> f32 {
        (self.uniform() + self.uniform() + self.uniform() + self.uniform() - 2.0) * 3.0_f32.sqrt()
    }
}

/// MNIST's image enlarged to this size.
fn enlarged(digit: &GrayImage, side: u32) -> GrayImage {
    imageops::resize(digit, side, side, FilterType::CatmullRom)
}

/// The digit's lines, thinned (Zhang and Suen, 1984) and redrawn with a pen of this width.
fn with_pen(digit: &GrayImage, side: u32, pen: f32) -> GrayImage {
    let large = enlarged(digit, side);
    let n = side as usize;
    let mut on: Vec<bool> = large.pixels().map(|pixel| pixel.0[0] > 127).collect();
    loop {
        let mut changed = false;
        for pass in 0..2 {
            let mut off = Vec::new();
            for y in 1..n - 1 {
                for x in 1..n - 1 {
                    if !on[y * n + x] {
                        continue;
                    }
                    let p = |dx: usize, dy: usize| on[(y + dy - 1) * n + x + dx - 1];
                    let around =
                        [p(1, 0), p(2, 0), p(2, 1), p(2, 2), p(1, 2), p(0, 2), p(0, 1), p(0, 0)];
                    let count = around.iter().filter(|&&on| on).count();
                    let turns = (0..8).filter(|&at| !around[at] && around[(at + 1) % 8]).count();
                    let [north, _, east, _, south, _, west, _] = around;
                    let open = if pass == 0 {
                        !(east && south && (north || west))
                    } else {
                        !(north && west && (east || south))
                    };
                    if (2..=6).contains(&count) && turns == 1 && open {
                        off.push(y * n + x);
                    }
                }
            }
            changed |= !off.is_empty();
            off.into_iter().for_each(|at| on[at] = false);
        }
        if !changed {
            break;
        }
    }
    let mut drawn = GrayImage::new(side, side);
    let reach = pen.ceil() as i32;
    for at in (0..n * n).filter(|&at| on[at]) {
        let (x, y) = ((at % n) as i32, (at / n) as i32);
        for dy in -reach..=reach {
            for dx in -reach..=reach {
                let cover = (pen / 2.0 + 0.5 - (dx as f32).hypot(dy as f32)).clamp(0.0, 1.0);
                let (x, y) = (x + dx, y + dy);
                if (0..n as i32).contains(&x) && (0..n as i32).contains(&y) {
                    let pixel = drawn.get_pixel_mut(x as u32, y as u32);
                    pixel.0[0] = pixel.0[0].max((255.0 * cover) as u8);
                }
            }
        }
    }
    drawn
}

const WHITE: [f32; 3] = [255.0; 3];
const BLACK: [f32; 3] = [0.0; 3];

/// A file with a picture of this kind of an MNIST image.
pub(crate) fn draw(kind: &str, digit: &GrayImage, index: u32) -> Vec<u8> {
    let mut noise = Noise(index.wrapping_mul(2_654_435_761).wrapping_add(12345));
    for _ in 0..4 {
        noise.uniform();
    }
    let even = |_, _| 1.0;
    let sheet = |ink: &Ink, paper, colour| png(ink.photo(paper, colour, even, &mut Noise(0), 0.0));
    let mut square = |side: u32, digit: &GrayImage| {
        let mut ink = Ink::new(side, side);
        let free = side - digit.width();
        ink.put(noise.below(free + 1), noise.below(free + 1), digit);
        ink
    };
    match kind {
        "clean" => sheet(&square(280, &enlarged(digit, 280)), WHITE, BLACK),
        "thin-400" => sheet(&square(400, &with_pen(digit, 224, 3.0)), WHITE, BLACK),
        "thin-280" => sheet(&square(280, &with_pen(digit, 224, 2.0)), WHITE, BLACK),
        "page-1000" => sheet(&square(1000, &enlarged(digit, 100)), WHITE, BLACK),
        "ballpoint" => {
            let mut ink = Ink::new(900, 1200);
            ink.put(40 + noise.below(560), 40 + noise.below(860), &with_pen(digit, 252, 4.0));
            let turn = noise.uniform() * std::f32::consts::TAU;
            let light = move |x: u32, y: u32| {
                let (x, y) = (x as f32 / 900.0 - 0.5, y as f32 / 1200.0 - 0.5);
                0.8 + 0.25 * (turn.cos() * x + turn.sin() * y) - 0.15 * (x * x + y * y)
            };
            jpeg(&ink.photo([235.0, 230.0, 218.0], [50.0, 60.0, 130.0], light, &mut noise, 5.0))
        }
        "frame" => {
            let mut ink = square(280, &enlarged(digit, 280));
            let inset = 3 * (index % 6);
            ink.frame((inset, inset, 280 - inset, 280 - inset), 2);
            sheet(&ink, WHITE, BLACK)
        }
        "corner" => {
            let mut ink = Ink::new(500, 400);
            let left = if index.is_multiple_of(2) { 6 } else { 500 - 66 };
            let top = if (index / 2).is_multiple_of(2) { 6 } else { 400 - 66 };
            ink.put(left, top, &enlarged(digit, 60));
            sheet(&ink, WHITE, BLACK)
        }
        "chalk" => {
            let mut ink = Ink::new(640, 480);
            ink.put(noise.below(360), noise.below(200), &with_pen(digit, 280, 10.0));
            for cover in &mut ink.cover {
                *cover *= 0.55 + 0.45 * noise.uniform();
            }
            let light = |x: u32, _| 0.85 + 0.0003 * x as f32;
            jpeg(&ink.photo([38.0, 84.0, 60.0], [225.0, 230.0, 222.0], light, &mut noise, 6.0))
        }
        "blue-on-yellow" => {
            sheet(&square(300, &enlarged(digit, 200)), [250.0, 218.0, 60.0], [30.0, 50.0, 170.0])
        }
        "transparent" => {
            let ink = square(400, &with_pen(digit, 300, 12.0));
            let colour =
                [[0, 0, 0], [255, 255, 255], [200, 30, 40], [40, 60, 220]][index as usize % 4];
            png(RgbaImage::from_fn(400, 400, |x, y| {
                Rgba([colour[0], colour[1], colour[2], (255.0 * ink.at(x, y)) as u8])
            }))
        }
        "strip" => {
            let mut ink = square(280, &enlarged(digit, 280));
            ink.rectangle(
                [(0, 0, 10, 280), (270, 0, 280, 280), (0, 0, 280, 10), (0, 270, 280, 280)]
                    [index as usize % 4],
            );
            sheet(&ink, WHITE, BLACK)
        }
        "letterbox" => {
            let thick = 30 + noise.below(70);
            let upright = index.is_multiple_of(2);
            let (width, height) =
                if upright { (280, 280 + 2 * thick) } else { (280 + 2 * thick, 280) };
            let mut ink = Ink::new(width, height);
            ink.put((width - 280) / 2, (height - 280) / 2, &enlarged(digit, 280));
            if upright {
                ink.rectangle((0, 0, width, thick));
                ink.rectangle((0, height - thick, width, height));
            } else {
                ink.rectangle((0, 0, thick, height));
                ink.rectangle((width - thick, 0, width, height));
            }
            sheet(&ink, WHITE, BLACK)
        }
        "half-shadow" => {
            let ink = square(320, &enlarged(digit, 260));
            let turn = noise.uniform() * std::f32::consts::TAU;
            let depth = 0.4 + 0.3 * noise.uniform();
            let light = |x: u32, y: u32| {
                let side = turn.cos() * (x as f32 - 160.0) + turn.sin() * (y as f32 - 160.0);
                0.9 - depth * (0.5 + side / 3.0).clamp(0.0, 1.0)
            };
            png(ink.photo([240.0; 3], [40.0; 3], light, &mut noise, 3.0))
        }
        "ruled" => {
            let ink = square(320, &enlarged(digit, 220));
            let (gap, thick) = (24 + noise.below(16), 1 + noise.below(3));
            let mut page = ink.photo([250.0; 3], [30.0, 30.0, 60.0], even, &mut noise, 2.0);
            let rule = [[140, 170, 215], [120, 120, 120], [60, 70, 110]][index as usize % 3];
            for (_, y, pixel) in page.enumerate_pixels_mut() {
                if y % gap < thick && y > gap {
                    for (value, rule) in pixel.0.iter_mut().zip(rule) {
                        *value = (*value).min(rule);
                    }
                }
            }
            png(page)
        }
        "form-field" => {
            let mut ink = Ink::new(400, 300);
            let (left, top) = (30 + noise.below(120), 20 + noise.below(50));
            let side = 180 + noise.below(30);
            ink.frame((left, top, left + side, top + side), 3);
            ink.put(
                left + 2 + noise.below(side - 170),
                top + 2 + noise.below(side - 170),
                &enlarged(digit, 170),
            );
            sheet(&ink, WHITE, [20.0; 3])
        }
        kind => panic!("no kind of picture: {kind}"),
    }
}

fn png(picture: impl Into<DynamicImage>) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(picture).unwrap();
    bytes
}
