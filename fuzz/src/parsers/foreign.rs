//! The JSON of foreign models. The first byte selects the model; the text up to a zero byte is `config.json`, the rest
//! `preprocessor_config.json`.

use std::str;
use std::sync::LazyLock;

use candle_core::DType;
use vit_model::{
    Documents, Foreign, Known, Layout, Pool, Preset, TensorInfo, TensorInfos, VitConfig,
};

/// Small models with a class token in timm's and transformers' naming, and one of the notebook.
static MODELS: LazyLock<[TensorInfos; 3]> = LazyLock::new(|| {
    let shallow = Preset::Shallow.config();
    let cls = VitConfig { pool: Pool::Cls, qkv_bias: true, depth: 1, ..shallow.clone() };
    [(Layout::Timm, &cls), (Layout::Hf, &cls), (Layout::Notebook, &shallow)].map(|model| {
        let (layout, config) = model;
        let parameters = layout.parameters(config).expect("a model that the layout can express");
        let info = |shape| TensorInfo { shape, dtype: Some(DType::F32) };
        parameters.into_iter().map(|(name, shape)| (name, info(shape))).collect()
    })
});

/// Property: a described model is valid, and its tensors match.
pub(super) fn read(bytes: &[u8]) -> bool {
    let Some((&which, bytes)) = bytes.split_first() else { return false };
    let mut texts = bytes.splitn(2, |&byte| byte == 0).map(str::from_utf8);
    let (Some(Ok(config)), Ok(preprocessor)) = (texts.next(), texts.next().transpose()) else {
        return false;
    };
    let infos = &MODELS[usize::from(which) % MODELS.len()];
    let documents = Documents { config: Some(config), preprocessor };
    // With and without a given number of heads.
    let mut taken = false;
    for heads in [None, Some(4)] {
        let known = Known { heads, ..Known::default() };
        let Ok(foreign) = Foreign::new(infos, documents, &known) else { continue };
        foreign.config.check().expect("a foreign model's configuration is checked");
        foreign.layout.check(infos, &foreign.config).expect("its tensors were checked");
        let numbers = foreign.normalization.mean.iter().chain(&foreign.normalization.std);
        assert!(numbers.into_iter().all(|number| number.is_finite()));
        taken = true;
    }
    taken
}
