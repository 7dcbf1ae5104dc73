//! Picture files, up to what a model is given.

use vit_pictures::{DecodeOptions, Error, EvalView, Interpolation, Plane, decode, shrink};

use super::placement;
use super::strokes::Strokes;

/// The size of MNIST's images.
const SIZE: (u32, u32) = (28, 28);
/// To which large pictures are shrunk first.
const LEAST: u32 = 256;

const VIEW: EvalView =
    EvalView { resize: 32, crop: (28, 28), interpolation: Interpolation::Bicubic };

/// Reads a picture, and says whether it is one: a refusal says the truth, and a picture becomes finite numbers of the model's size, however it is fitted.
pub fn read(bytes: &[u8]) -> bool {
    let pixels = |width: u32, height: u32| u64::from(width) * u64::from(height);
    let picture = match shrink(bytes, LEAST) {
        Ok(picture) => picture,
        Err(
            Error::TooLarge { most, width, height }
            | Error::TooLargeForm { most, width, height, .. },
        ) => {
            assert!(pixels(width, height) > most);
            return false;
        }
        Err(Error::TooLong { most, width, height }) => {
            assert!(width.max(height) > most);
            return false;
        }
        Err(Error::TooShort { length, width, height }) => {
            assert!(pixels(width, height) > length && length == bytes.len() as u64);
            return false;
        }
        Err(Error::Undecodable(error)) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
        Err(Error::Format | Error::CutOff | Error::DecoderFails) => return false,
        Err(error) => panic!("a refusal of another kind: {error}"),
    };
    // What is trained on; a picture may be too large for that.
    if let Ok(picture) = decode(bytes, &DecodeOptions::default()) {
        assert_eq!(VIEW.apply(&picture).size(), VIEW.crop);
    }
    assert!(pixels(picture.upright_size().0, picture.upright_size().1) > 0);
    for channels in [1, 3] {
        for plane in picture.planes(channels) {
            check(&placement::padded(&plane, SIZE));
            check(&placement::stretched(&plane, SIZE));
            if let Some(strokes) = Strokes::find(&plane, None) {
                check(&placement::as_mnist(&strokes.ink, SIZE));
            }
        }
    }
    true
}

fn check(plane: &Plane) {
    assert_eq!(plane.dimensions(), SIZE);
    assert!(plane.iter().all(|value| value.is_finite()));
}
