//! A decoded picture as planes of numbers in [0, 1], one for each of a model's channels.

use image::{DynamicImage, ImageBuffer, Luma, Pixel, Primitive};

/// One channel.
pub(super) type Plane = ImageBuffer<Luma<f32>, Vec<f32>>;

/// One plane of grey, or three of red, green and blue; transparency shows the background. A picture whose longest side is
/// `least` or more is shrunk by the whole factor that leaves it no less.
pub(super) fn of(picture: &DynamicImage, channels: usize, least: u32) -> Vec<Plane> {
    match picture {
        DynamicImage::ImageLuma8(picture) => of_pixels(picture, channels, least),
        DynamicImage::ImageLumaA8(picture) => of_pixels(picture, channels, least),
        DynamicImage::ImageRgb8(picture) => of_pixels(picture, channels, least),
        DynamicImage::ImageRgba8(picture) => of_pixels(picture, channels, least),
        DynamicImage::ImageLuma16(picture) => of_pixels(picture, channels, least),
        DynamicImage::ImageLumaA16(picture) => of_pixels(picture, channels, least),
        DynamicImage::ImageRgb16(picture) => of_pixels(picture, channels, least),
        DynamicImage::ImageRgba16(picture) => of_pixels(picture, channels, least),
        other => of_pixels(&other.to_rgba16(), channels, least),
    }
}

/// Dark as light, and light as dark.
pub(super) fn invert(plane: &mut Plane) {
    for value in plane.iter_mut() {
        *value = 1.0 - *value;
    }
}

fn of_pixels<P>(
    picture: &ImageBuffer<P, Vec<P::Subpixel>>,
    channels: usize,
    least: u32,
) -> Vec<Plane>
where
    P: Pixel,
    P::Subpixel: Primitive + Into<f64>,
{
    let factor = (picture.width().max(picture.height()) / least).max(1);
    let has_alpha = P::CHANNEL_COUNT.is_multiple_of(2);
    let background = if has_alpha { background(picture) } else { 0.0 };
    let plane = |light: fn([f64; 3]) -> f64| {
        averaged(picture, factor, |pixel| {
            let Colour { rgb, alpha } = colour(pixel);
            light(rgb) * alpha + background * (1.0 - alpha)
        })
    };
    match channels {
        1 => vec![plane(grey)],
        _ => {
            vec![plane(|[red, _, _]| red), plane(|[_, green, _]| green), plane(|[_, _, blue]| blue)]
        }
    }
}

/// In [0, 1].
struct Colour {
    rgb: [f64; 3],
    alpha: f64,
}

fn colour<P>(pixel: &P) -> Colour
where
    P: Pixel,
    P::Subpixel: Primitive + Into<f64>,
{
    let most: f64 = P::Subpixel::DEFAULT_MAX_VALUE.into();
    let [red, green, blue, alpha] = pixel.to_rgba().0.map(|value| value.into() / most);
    Colour { rgb: [red, green, blue], alpha }
}

/// The luminance of ITU-R BT.709; of a grey pixel its grey itself, to the bit.
fn grey([red, green, blue]: [f64; 3]) -> f64 {
    green + 0.2126 * (red - green) + 0.0722 * (blue - green)
}

/// What to see through transparency: behind a drawing on nothing, white or black, whichever it stands out from; around an
/// opaque picture, its own mean.
fn background<P>(picture: &ImageBuffer<P, Vec<P::Subpixel>>) -> f64
where
    P: Pixel,
    P::Subpixel: Primitive + Into<f64>,
{
    let (mut light, mut opaque) = (0.0, 0.0);
    for pixel in picture.pixels() {
        let Colour { rgb, alpha } = colour(pixel);
        light += alpha * grey(rgb);
        opaque += alpha;
    }
    let pixels = f64::from(picture.width()) * f64::from(picture.height());
    match light / opaque {
        mean if opaque > 0.5 * pixels => mean,
        mean if mean > 0.5 => 0.0,
        _ => 1.0,
    }
}

/// The means of squares of `factor` pixels.
fn averaged<P: Pixel>(
    picture: &ImageBuffer<P, Vec<P::Subpixel>>,
    factor: u32,
    value: impl Fn(&P) -> f64,
) -> Plane {
    let (width, height) = picture.dimensions();
    let square = |at: u32, end: u32| at * factor..((at + 1) * factor).min(end);
    Plane::from_fn(width.div_ceil(factor), height.div_ceil(factor), |x, y| {
        let (columns, rows) = (square(x, width), square(y, height));
        let count = columns.len() * rows.len();
        let each = rows.flat_map(|y| columns.clone().map(move |x| (x, y)));
        let sum: f64 = each.map(|(x, y)| value(picture.get_pixel(x, y))).sum();
        Luma([(sum / count as f64) as f32])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayAlphaImage, GrayImage, LumaA, Rgb, RgbImage, Rgba, RgbaImage};

    fn grey_of(picture: impl Into<DynamicImage>) -> Vec<f32> {
        of(&picture.into(), 1, 256).remove(0).into_raw()
    }

    #[test]
    fn bytes_of_grey_are_themselves_in_any_kind_of_picture() {
        let bytes: Vec<u8> = (0..=255).collect();
        let expected: Vec<f32> = bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        let picture: DynamicImage = GrayImage::from_raw(16, 16, bytes).expect("16 by 16").into();
        assert_eq!(grey_of(picture.clone()), expected);
        assert_eq!(grey_of(picture.to_rgb8()), expected);
        assert_eq!(grey_of(picture.to_rgba8()), expected);
        assert_eq!(grey_of(picture.to_luma16()), expected);
        assert_eq!(grey_of(picture.to_rgba16()), expected);
        assert!(of(&picture, 3, 256).iter().all(|plane| plane.as_raw() == &expected));
    }

    #[test]
    fn sixteen_bits_are_kept() {
        let picture = ImageBuffer::<Luma<u16>, _>::from_raw(2, 1, vec![1000, 1001]);
        let values = grey_of(picture.expect("2 by 1"));
        assert_eq!(values, [1000.0 / 65535.0, 1001.0 / 65535.0]);
    }

    #[test]
    fn a_drawing_on_nothing_stands_out() {
        let drawn = |ink: u8| {
            let pixel = |x, _| LumaA([ink, if x == 1 { 255 } else { 0 }]);
            grey_of(GrayAlphaImage::from_fn(4, 1, pixel))
        };
        assert_eq!(drawn(0), [1.0, 0.0, 1.0, 1.0]);
        assert_eq!(drawn(255), [0.0, 1.0, 0.0, 0.0]);
        let half = RgbaImage::from_fn(4, 1, |x, _| Rgba([0, 0, 0, if x == 1 { 51 } else { 0 }]));
        assert_eq!(grey_of(half), [1.0, 0.8, 1.0, 1.0]);
        assert_eq!(grey_of(GrayAlphaImage::from_pixel(1, 1, LumaA([0, 0]))), [1.0]);
    }

    #[test]
    fn around_an_opaque_picture_transparency_is_as_light_as_the_picture() {
        let picture =
            GrayAlphaImage::from_fn(4, 1, |x, _| LumaA([204, if x == 0 { 0 } else { 255 }]));
        assert_eq!(grey_of(picture), [0.8; 4]);
    }

    #[test]
    fn large_pictures_are_averaged_to_the_last_row() {
        let picture =
            RgbImage::from_fn(5, 4, |x, y| Rgb([if x == 4 || y == 0 { 255 } else { 0 }; 3]));
        let planes = of(&picture.into(), 3, 2);
        assert_eq!(planes[0].dimensions(), (3, 2));
        assert_eq!(planes[0].as_raw(), &[0.5, 0.5, 1.0, 0.0, 0.0, 1.0]);
    }
}
