//! Fuzzing of picture files, up to the model's input.

use vit_digits::{Strokes, as_mnist, padded, stretched};
use vit_pictures::{DecodeOptions, Error, EvalView, Interpolation, Plane, decode, shrink};

/// MNIST's image size.
const SIZE: (u32, u32) = (28, 28);
/// Working size of large pictures.
const LEAST: u32 = 240;

const VIEW: EvalView =
    EvalView { resize: 32, crop: (28, 28), interpolation: Interpolation::Bicubic };

/// Reads a picture, and returns whether it is one. Errors must be truthful, and every fit must give finite numbers of
/// the model's size.
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
    // The training decoder, whose limits may be lower.
    if let Ok(picture) = decode(bytes, &DecodeOptions::default()) {
        assert_eq!(VIEW.apply(&picture).size(), VIEW.crop);
    }
    assert!(pixels(picture.upright_size().0, picture.upright_size().1) > 0);
    for channels in [1, 3] {
        for plane in picture.planes(channels) {
            check(&padded(&plane, SIZE));
            check(&stretched(&plane, SIZE));
            if let Some(strokes) = Strokes::find(&plane, None) {
                check(&as_mnist(&strokes.ink, SIZE));
            }
        }
    }
    true
}

fn check(plane: &Plane) {
    assert_eq!(plane.dimensions(), SIZE);
    assert!(plane.iter().all(|value| value.is_finite()));
}
