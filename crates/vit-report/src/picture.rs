//! Pixel images, embedded in a page as PNG.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// An image of eight bits a channel, row by row from the top.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<[u8; 3]>,
}

impl Picture {
    /// A colour image.
    ///
    /// # Panics
    /// If the size is 0, or there are not `width * height` pixels.
    #[must_use]
    pub fn rgb(width: usize, height: usize, pixels: Vec<[u8; 3]>) -> Self {
        assert!(width * height > 0, "expected a picture with pixels, got {width}x{height} px");
        assert_eq!(pixels.len(), width * height, "pixels of a picture of {width}x{height} px");
        Self { width, height, pixels }
    }

    /// A grey image; 0 is black.
    ///
    /// # Panics
    /// If the size is 0, or there are not `width * height` pixels.
    #[must_use]
    pub fn grey(width: usize, height: usize, pixels: &[u8]) -> Self {
        Self::rgb(width, height, pixels.iter().map(|&pixel| [pixel; 3]).collect())
    }

    /// The width in pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// The height in pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.height
    }

    /// The pixel in this column and row, from 0.
    ///
    /// # Panics
    /// If it is outside.
    #[must_use]
    pub fn pixel(&self, x: usize, y: usize) -> [u8; 3] {
        assert!(x < self.width, "expected a column below {}, got {x}", self.width);
        self.pixels[y * self.width + x]
    }

    /// The picture as a PNG file.
    #[must_use]
    pub fn png(&self) -> Vec<u8> {
        if self.pixels.iter().all(|[red, green, blue]| red == green && green == blue) {
            let grey: Vec<u8> = self.pixels.iter().map(|pixel| pixel[0]).collect();
            return png((self.width, self.height), png::ColorType::Grayscale, &grey);
        }
        png((self.width, self.height), png::ColorType::Rgb, self.pixels.as_flattened())
    }

    /// The PNG file in base64.
    pub(crate) fn base64(&self) -> String {
        STANDARD.encode(self.png())
    }

    /// The picture as a data URL.
    pub(crate) fn address(&self) -> String {
        address(&self.png())
    }
}

/// Pixels with opacity as a data URL.
pub(crate) fn translucent(size: (usize, usize), pixels: &[[u8; 4]]) -> String {
    address(&png(size, png::ColorType::Rgba, pixels.as_flattened()))
}

fn address(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(png))
}

fn png((width, height): (usize, usize), colour: png::ColorType, bytes: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width as u32, height as u32);
    encoder.set_color(colour);
    encoder.set_depth(png::BitDepth::Eight);
    let written = encoder.write_header().and_then(|mut png| png.write_image_data(bytes));
    written.expect("writing to memory succeeds, and the buffer has a byte per sample");
    file
}

/// Overlay colour of an attention weight: transparent at 0, nearly opaque at 1.
pub(crate) fn overlay(weight: f32) -> [u8; 4] {
    let weight = weight.clamp(0.0, 1.0);
    let (from, to) = ([255.0, 196.0, 0.0], [255.0, 72.0, 0.0]);
    let mix = |at: usize| (from[at] + (to[at] - from[at]) * weight).round() as u8;
    [mix(0), mix(1), mix(2), (weight * 217.0).round() as u8]
}

/// Weights divided by the largest, so that maps of any size show contrast.
pub(crate) fn of_largest(weights: &[f32]) -> Vec<f32> {
    let largest = weights.iter().copied().fold(0.0, f32::max);
    let share = |&weight: &f32| if largest > 0.0 { weight / largest } else { 0.0 };
    weights.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_png_has_the_pixels_of_its_picture() {
        let colours = vec![[1, 2, 3], [4, 5, 6], [7, 8, 9], [255, 0, 255], [0; 3], [9; 3]];
        for picture in
            [Picture::rgb(3, 2, colours), Picture::grey(2, 3, &[0, 50, 100, 150, 200, 255])]
        {
            let file = picture.png();
            let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
            let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut bytes).unwrap();
            assert_eq!((info.width, info.height), (picture.width as u32, picture.height as u32));
            let channels = bytes.len() / picture.pixels.len();
            let read: Vec<[u8; 3]> = bytes
                .chunks(channels)
                .map(|pixel| [pixel[0], pixel[1 % channels], pixel[2 % channels]])
                .collect();
            assert_eq!(read, picture.pixels);
        }
    }

    #[test]
    fn overlay_opacity_grows_with_the_weight() {
        assert_eq!(overlay(0.0)[3], 0);
        assert!(
            (0..10).all(|at| overlay(at as f32 / 10.0)[3] < overlay((at + 1) as f32 / 10.0)[3])
        );
        assert_eq!(of_largest(&[1.0, 4.0, 0.0]), [0.25, 1.0, 0.0]);
        assert_eq!(of_largest(&[0.0, 0.0]), [0.0, 0.0]);
    }
}
