//! A model's parameters and multiply-adds, part by part.

use vit_patch::Position;

use crate::{Error, Layout, VitConfig};

/// A part of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The prefix of its parameters' names, such as `blocks.0.attn`.
    pub name: String,
    /// The number of parameters.
    pub parameters: usize,
    /// Multiply-adds of one image's forward pass. Layer norms, softmaxes and sums, one or two per cent, are not
    /// counted.
    pub multiply_adds: u64,
}

/// A model's parts, in forward order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The parts.
    pub parts: Vec<Part>,
}

impl Summary {
    /// The parts of a model of `config`.
    ///
    /// # Errors
    /// If the configuration is invalid.
    pub fn of(config: &VitConfig) -> Result<Self, Error> {
        let parameters = Layout::Timm.parameters(config)?;
        let mut parts = multiply_adds(config);
        for part in &mut parts {
            let prefix = format!("{}.", part.name);
            let of_part = parameters
                .iter()
                .filter(|(name, _)| *name == part.name || name.starts_with(&prefix));
            part.parameters = of_part.map(|(_, shape)| shape.iter().product::<usize>()).sum();
        }
        parts.retain(|part| part.parameters > 0);
        Ok(Self { parts })
    }

    /// The total number of parameters.
    #[must_use]
    pub fn parameters(&self) -> usize {
        self.parts.iter().map(|part| part.parameters).sum()
    }

    /// The total multiply-adds of one image's forward pass.
    #[must_use]
    pub fn multiply_adds(&self) -> u64 {
        self.parts.iter().map(|part| part.multiply_adds).sum()
    }
}

/// All possible parts, without their parameters.
fn multiply_adds(config: &VitConfig) -> Vec<Part> {
    let [dim, mlp_dim, classes] = [config.dim, config.mlp_dim, config.classes].map(|n| n as u64);
    let [tokens, patches, pixels] =
        [config.tokens(), config.patch_config().patches(), config.patch_config().pixels()]
            .map(|n| n as u64);
    let embedding = patches * pixels * dim;
    let positions = if config.position == Position::PatchLinear { embedding } else { 0 };
    let mut parts = vec![("patch_embed".to_owned(), embedding)];
    parts.push(("cls_token".to_owned(), 0));
    parts.push(("reg_token".to_owned(), 0));
    parts.push(("pos_embed".to_owned(), positions));
    let heads_dim = config.encoder_config().width_of_heads() as u64;
    for block in 0..config.depth {
        // Four maps (queries, keys, values, projection), then the scores and the weighted sums.
        let attention = 4 * tokens * dim * heads_dim + 2 * tokens * tokens * heads_dim;
        for (part, multiply_adds) in [
            ("norm1", 0),
            ("attn", attention),
            ("ls1", 0),
            ("norm2", 0),
            ("mlp", 2 * tokens * dim * mlp_dim),
            ("ls2", 0),
        ] {
            parts.push((format!("blocks.{block}.{part}"), multiply_adds));
        }
    }
    parts.push(("norm".to_owned(), 0));
    parts.push(("head".to_owned(), dim * classes));
    let part = |(name, multiply_adds)| Part { name, parameters: 0, multiply_adds };
    parts.into_iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    #[test]
    fn multiply_adds_match_the_equations() {
        let summary = Summary::of(&Preset::Shallow.config()).expect("a preset");
        let block = 4 * 16 * 32 * 32 + 2 * 16 * 16 * 32 + 2 * 16 * 32 * 128;
        assert_eq!(summary.multiply_adds(), 16 * 49 * 32 + 3 * block + 32 * 10);
    }

    #[test]
    fn parts_include_optional_parameters() {
        let config = VitConfig {
            registers: 2,
            head_dim: Some(6),
            qk_norm: true,
            layer_scale: Some(0.1),
            ..Preset::Shallow.config()
        };
        let summary = Summary::of(&config).expect("a sound configuration");
        let part = |name: &str| {
            let found = summary.parts.iter().find(|part| part.name == name);
            found.map(|part| part.parameters).expect("a part of the model")
        };
        assert_eq!((part("reg_token"), part("pos_embed")), (2 * 32, 18 * 32));
        assert_eq!((part("blocks.1.ls1"), part("blocks.1.ls2")), (32, 32));
        let [heads_dim, qk_norm] = [4 * 6, 2 * 2 * 6];
        assert_eq!(part("blocks.2.attn"), 4 * 32 * heads_dim + 32 + qk_norm);
        let block = 4 * 18 * 32 * heads_dim + 2 * 18 * 18 * heads_dim + 2 * 18 * 32 * 128;
        assert_eq!(summary.multiply_adds(), (16 * 49 * 32 + 3 * block + 32 * 10) as u64);
        let listed = Layout::Timm.parameters(&config).expect("a sound configuration");
        let listed = listed.iter().map(|(_, shape)| shape.iter().product::<usize>());
        assert_eq!(summary.parameters(), listed.sum::<usize>());
    }
}
