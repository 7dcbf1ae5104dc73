//! Derives a configuration from parameter shapes.

use vit_patch::{PatchSize, PositionRows};

use crate::{Error, Layout, TensorInfos, VitConfig};

/// The shapes of a model's parameters.
pub(super) struct Shapes<'a> {
    pub(super) infos: &'a TensorInfos,
    pub(super) layout: Layout,
}

impl Shapes<'_> {
    /// The shape of a required parameter with `RANK` dimensions.
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

    /// The number of blocks for which `name` gives an existing parameter.
    pub(super) fn depth(&self, name: impl Fn(usize) -> String) -> usize {
        (0..self.infos.len()).take_while(|&block| self.has(&name(block))).count()
    }

    /// Rejects a model whose parameters show that it computes something else. `signs` are a part of a parameter's name,
    /// the setting, its value, and the expected value.
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

/// Derives the image size, and which tokens have positions, from the rows of a position table: a grid of patches after
/// `prefix` other rows. The grid is the image's if known, otherwise a square.
pub(super) fn grid(
    rows: usize,
    prefix: usize,
    patch: PatchSize,
    image: Option<(usize, usize)>,
) -> Result<((usize, usize), PositionRows), Error> {
    // Sizes come from a file and are not checked yet.
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
        None => {
            format!("{rows} positions, {prefix} of them before the patches, do not form a square")
        }
        Some(patches) => format!("{rows} positions do not match {patches} patches"),
    };
    Err(Error::Undetermined { field: "image", reason })
}

/// The integer square root of a perfect square.
pub(super) fn root(square: usize) -> Option<usize> {
    let side = square.isqrt();
    (side * side == square).then_some(side)
}

/// The paper's ViT as a starting point; the caller sets the rest.
pub(super) fn vit() -> VitConfig {
    crate::Preset::VitTi16.config()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: PatchSize = PatchSize { height: 16, width: 8 };

    #[test]
    fn square_grid_is_found_with_and_without_prefix_rows() {
        use PositionRows::{Patches, Tokens};
        let told =
            |rows, prefix| grid(rows, prefix, PATCH, None).map_err(|error| error.to_string());
        assert_eq!(told(197, 1), Ok(((224, 112), Tokens)));
        assert_eq!(told(196, 1), Ok(((224, 112), Patches)));
        assert_eq!(told(196, 0), Ok(((224, 112), Tokens)));
        assert_eq!(told(261, 5), Ok(((256, 128), Tokens)));
        assert_eq!(
            told(7, 1),
            Err("cannot determine image: 7 positions, 1 of them before the patches, do not form a square"
                .to_owned())
        );
    }

    #[test]
    fn non_square_grid_needs_the_image_size() {
        let image = Some((32, 24));
        assert_eq!(grid(7, 1, PATCH, image).ok(), Some(((32, 24), PositionRows::Tokens)));
        assert_eq!(grid(6, 1, PATCH, image).ok(), Some(((32, 24), PositionRows::Patches)));
        // A square keeps its size and can be resampled later.
        assert_eq!(grid(10, 1, PATCH, image).ok(), Some(((48, 24), PositionRows::Tokens)));
        let error = grid(8, 1, PATCH, image).unwrap_err().to_string();
        assert_eq!(error, "cannot determine image: 8 positions do not match 6 patches");
    }
}
