//! Sizes of images and patches.

use serde::{Deserialize, Serialize};

use crate::{ClassToken, ConfigError, Position, PositionRows};

/// Larger than any training image. The product of any two sizes stays far from overflow.
const LARGEST_SIZE: usize = 1 << 16;

/// Size of an image in pixels, and its channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageSize {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// 1 for grey, 3 for colour.
    pub channels: usize,
}

/// Size of a patch in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PatchSize {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
}

/// How images become tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchConfig {
    /// The images.
    pub image: ImageSize,
    /// The patches they are cut into.
    pub patch: PatchSize,
    /// Width of a token.
    pub dim: usize,
    /// The position embedding.
    pub position: Position,
    /// Which tokens have a row in a learned table.
    pub position_rows: PositionRows,
    /// The number of register tokens, learned and placed between class token and patches (*Vision Transformers Need
    /// Registers*, arXiv 2309.16588).
    pub registers: usize,
}

impl PatchConfig {
    /// A configuration with learned positions for every token and no registers.
    #[must_use]
    pub const fn new(image: ImageSize, patch: PatchSize, dim: usize) -> Self {
        Self {
            image,
            patch,
            dim,
            position: Position::Learned,
            position_rows: PositionRows::Tokens,
            registers: 0,
        }
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// If a size is zero or too large, the patch does not divide the image, or `dim` does not suit the positions.
    pub fn check(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("image.height", self.image.height),
            ("image.width", self.image.width),
            ("image.channels", self.image.channels),
            ("patch.height", self.patch.height),
            ("patch.width", self.patch.width),
            ("dim", self.dim),
        ];
        for (field, value) in sizes {
            match value {
                0 => return Err(ConfigError::Zero { field }),
                1..=LARGEST_SIZE => {}
                _ => return Err(ConfigError::TooLarge { field, value, limit: LARGEST_SIZE }),
            }
        }
        if self.registers > LARGEST_SIZE {
            let (field, value) = ("registers", self.registers);
            return Err(ConfigError::TooLarge { field, value, limit: LARGEST_SIZE });
        }
        if !self.image.height.is_multiple_of(self.patch.height)
            || !self.image.width.is_multiple_of(self.patch.width)
        {
            return Err(ConfigError::NotDivisible {
                image_height: self.image.height,
                image_width: self.image.width,
                patch_height: self.patch.height,
                patch_width: self.patch.width,
            });
        }
        if self.position == Position::Sincos2d && (!self.dim.is_multiple_of(4) || self.dim < 8) {
            return Err(ConfigError::SincosDim { dim: self.dim });
        }
        Ok(())
    }

    /// The number of (rows, columns) of patches.
    #[must_use]
    pub const fn grid(&self) -> (usize, usize) {
        (self.image.height / self.patch.height, self.image.width / self.patch.width)
    }

    /// Patches in an image.
    #[must_use]
    pub const fn patches(&self) -> usize {
        let (rows, columns) = self.grid();
        rows * columns
    }

    /// Tokens before the patches: the class token and the registers.
    #[must_use]
    pub const fn prefix(&self, class_token: ClassToken) -> usize {
        class_token.tokens() + self.registers
    }

    /// Tokens of an image.
    #[must_use]
    pub const fn tokens(&self, class_token: ClassToken) -> usize {
        self.prefix(class_token) + self.patches()
    }

    /// Rows of a learned table before the patches' rows.
    #[must_use]
    pub const fn prefix_rows(&self, class_token: ClassToken) -> usize {
        match self.position_rows {
            PositionRows::Tokens => self.prefix(class_token),
            PositionRows::Patches => 0,
        }
    }

    /// Numbers in a patch.
    #[must_use]
    pub const fn pixels(&self) -> usize {
        self.image.channels * self.patch.height * self.patch.width
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mnist() -> PatchConfig {
        let image = ImageSize { height: 28, width: 28, channels: 1 };
        PatchConfig::new(image, PatchSize { height: 7, width: 7 }, 32)
    }

    #[test]
    fn invalid_field_is_named_with_its_value() {
        assert_eq!(mnist().check(), Ok(()));
        let message = |change: fn(&mut PatchConfig)| {
            let mut config = mnist();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert_eq!(
            message(|c| c.image.height = 30),
            "image of 30x28 px is not divisible by patch of 7x7 px"
        );
        assert_eq!(message(|c| c.patch.width = 0), "expected patch.width of at least 1, got 0");
        assert_eq!(
            message(|c| c.image.width = usize::MAX),
            format!("expected image.width of at most 65536, got {}", usize::MAX)
        );
        assert_eq!(
            message(|c| c.registers = 65_537),
            "expected registers of at most 65536, got 65537"
        );
        let sincos = message(|c| {
            c.position = Position::Sincos2d;
            c.dim = 4;
        });
        assert!(sincos.ends_with("for sincos2d positions, got 4"), "{sincos}");
    }

    #[test]
    fn image_of_28_px_has_16_patches_of_49_pixels() {
        assert_eq!(mnist().grid(), (4, 4));
        assert_eq!(mnist().patches(), 16);
        assert_eq!(mnist().pixels(), 49);
    }

    #[test]
    fn table_has_a_row_per_token_or_per_patch() {
        let mut config = mnist();
        config.registers = 3;
        assert_eq!(config.tokens(ClassToken::Absent), 19);
        assert_eq!(config.tokens(ClassToken::Prepended), 20);
        assert_eq!(config.prefix_rows(ClassToken::Prepended), 4);
        config.position_rows = PositionRows::Patches;
        assert_eq!(config.prefix_rows(ClassToken::Prepended), 0);
        assert_eq!(config.tokens(ClassToken::Prepended), 20);
    }
}
