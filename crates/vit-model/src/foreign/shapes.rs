//! What the shapes of parameters tell of a model.

use vit_patch::{PatchSize, PositionRows};

use crate::{Error, Layout, TensorInfos, VitConfig};

/// The parameters of a model, asked for their shapes.
pub(super) struct Shapes<'a> {
    pub(super) infos: &'a TensorInfos,
    pub(super) layout: Layout,
}

impl Shapes<'_> {
    /// The shape of a parameter that there must be, of so many dimensions.
    pub(super) fn of<const RANK: usize>(&self, name: &str) -> Result<[usize; RANK], Error> {
        let problem = match self.infos.get(name) {
            None => format!("{name}: missing, expected {RANK} dimensions"),
            Some(info) => match <[usize; RANK]>::try_from(info.shape.as_slice()) {
                Ok(shape) => return Ok(shape),
                Err(_) => format!("{name}: expected {RANK} dimensions, got {:?}", info.shape),
            },
        };
        Err(Error::Parameters { layout: self.layout, problems: vec![problem] })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.infos.contains_key(name)
    }

    /// Blocks, counted from the first: those of which `name` gives a parameter.
    pub(super) fn depth(&self, name: impl Fn(usize) -> String) -> usize {
        (0..self.infos.len()).take_while(|&block| self.has(&name(block))).count()
    }

    /// Refuses a model some of whose parameters say that it computes what ours does not: `signs` are a part of a
    /// parameter's name, the setting, its value, and what is expected.
    pub(super) fn refuse(&self, signs: &[(&str, &str, &str, &'static str)]) -> Result<(), Error> {
        for &(part, field, value, expected) in signs {
            if self.infos.keys().any(|name| name.contains(part)) {
                return Err(self.unsupported(field, value, expected));
            }
        }
        Ok(())
    }

    pub(super) fn unsupported(&self, field: &str, value: &str, expected: &'static str) -> Error {
        let (field, value) = (field.to_owned(), value.to_owned());
        Error::Unsupported { layout: self.layout, field, value, expected }
    }
}

/// The image, and which tokens have a position, out of the rows of a table of positions: those of a grid of patches
/// behind `prefix` others. The grid is the image's, where that is known, else a square.
pub(super) fn grid(
    rows: usize,
    prefix: usize,
    patch: PatchSize,
    image: Option<(usize, usize)>,
) -> Result<((usize, usize), PositionRows), Error> {
    // Sizes are a file's word, and nothing has checked them yet.
    let known = image.and_then(|(height, width)| {
        height.checked_div(patch.height)?.checked_mul(width.checked_div(patch.width)?)
    });
    for (patches, kind) in
        [(rows.checked_sub(prefix), PositionRows::Tokens), (Some(rows), PositionRows::Patches)]
    {
        let Some(patches) = patches.filter(|&patches| patches > 0) else { continue };
        if let (Some(image), true) = (image, known == Some(patches)) {
            return Ok((image, kind));
        }
        if let Some(side) = root(patches) {
            let length = |of_patch: usize| side.saturating_mul(of_patch);
            return Ok(((length(patch.height), length(patch.width)), kind));
        }
    }
    let reason = match known {
        None => format!("{rows} positions with {prefix} before the patches' are no square"),
        Some(patches) => format!("{rows} positions are not those of {patches} patches"),
    };
    Err(Error::Untold { field: "image", reason })
}

/// The number whose square it is.
pub(super) fn root(square: usize) -> Option<usize> {
    let side = square.isqrt();
    (side * side == square).then_some(side)
}

/// A ViT as the paper has it, for one to be described: what is not set here must be.
pub(super) fn vit() -> VitConfig {
    crate::Preset::VitTi16.config()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: PatchSize = PatchSize { height: 16, width: 8 };

    #[test]
    fn a_square_is_found_with_and_without_rows_for_the_prefix() {
        use PositionRows::{Patches, Tokens};
        let told =
            |rows, prefix| grid(rows, prefix, PATCH, None).map_err(|error| error.to_string());
        assert_eq!(told(197, 1), Ok(((224, 112), Tokens)));
        assert_eq!(told(196, 1), Ok(((224, 112), Patches)));
        assert_eq!(told(196, 0), Ok(((224, 112), Tokens)));
        assert_eq!(told(261, 5), Ok(((256, 128), Tokens)));
        assert_eq!(
            told(7, 1),
            Err("cannot tell image: 7 positions with 1 before the patches' are no square"
                .to_owned())
        );
    }

    #[test]
    fn another_grid_is_the_callers_word() {
        let image = Some((32, 24));
        assert_eq!(grid(7, 1, PATCH, image).ok(), Some(((32, 24), PositionRows::Tokens)));
        assert_eq!(grid(6, 1, PATCH, image).ok(), Some(((32, 24), PositionRows::Patches)));
        // A square keeps its size, and can then be resampled.
        assert_eq!(grid(10, 1, PATCH, image).ok(), Some(((48, 24), PositionRows::Tokens)));
        let error = grid(8, 1, PATCH, image).unwrap_err().to_string();
        assert_eq!(error, "cannot tell image: 8 positions are not those of 6 patches");
    }
}
