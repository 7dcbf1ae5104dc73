//! Serving a model: the same preprocessing, numbers and messages as `vit predict`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use clap::ValueEnum;
use image::codecs::bmp::BmpEncoder;
use image::{ExtendedColorType, ImageEncoder};
use serde::Serialize;
use serde_json::{Value, json};
use vit_model::{Fit, Pool, Summary, VisionTransformer};
use vit_patch::ImageSize;
use vit_serve::{ExplainOptions, Input, Model, Patches, PredictOptions, Prepared, Problem};

use crate::failure::{Exit, Failure, Result};
use crate::pictures::{self, Preparation};
use crate::prediction::{Prediction, Subject};
use crate::report::patch_weights;
use crate::saved_model::{SavedModel, probabilities};
use crate::walk::{self, Walk};

/// A faster forward pass runs on the thread that reads the request.
const QUICK: Duration = Duration::from_millis(2);
/// Most attention weights in an answer with every token's.
const MOST_WEIGHTS: usize = 200_000;

/// A served model.
pub(crate) struct Served {
    saved: SavedModel,
    model: VisionTransformer,
    /// The default preprocessing.
    preparation: Preparation,
    about: Value,
    is_quick: bool,
}

/// `[layer][head]`
type OfHeads = Vec<Vec<Vec<f32>>>;

/// The answer to `POST /v1/explain`.
#[derive(Serialize)]
struct Explanation {
    #[serde(flatten)]
    prediction: Prediction,
    /// Description of the preprocessing.
    prepared: String,
    /// The model's input as bytes.
    seen: Vec<u8>,
    /// From the token that the head reads to each patch.
    attention: OfHeads,
    rollout: Vec<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of_patch: Option<OfHeads>,
    /// The attention of every patch, row by row.
    #[serde(skip_serializing_if = "Option::is_none")]
    of_patches: Option<OfHeads>,
    #[serde(skip_serializing_if = "Option::is_none")]
    walk: Option<Walk>,
}

impl Served {
    /// Loads a model completely; its file may change afterwards.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Self::of(SavedModel::open(path)?, &name_of(path))
    }

    /// # Errors
    /// If pictures cannot become its input.
    pub(crate) fn of(saved: SavedModel, name: &str) -> Result<Self> {
        let model = saved.build_to_serve()?;
        let preparation = Preparation::new(&pictures::Args::default(), &saved)?;
        let about = about(&saved, name)?;
        let ImageSize { height, width, channels } = saved.config.image;
        let image =
            Tensor::zeros((1, channels, height, width), candle_core::DType::F32, &Device::Cpu)?;
        let pass = || -> Result<Duration> {
            let begun = Instant::now();
            vit_ops::serial(|| probabilities(&model, saved.config.output, &image))?;
            Ok(begun.elapsed())
        };
        // The first pass includes one-time work.
        let is_quick = pass()?.min(pass()?) < QUICK;
        Ok(Self { saved, model, preparation, about, is_quick })
    }

    fn images(&self, images: &[&[f32]]) -> Result<Tensor> {
        let ImageSize { height, width, channels } = self.saved.config.image;
        let shape = (images.len(), channels, height, width);
        Ok(Tensor::from_vec(images.concat(), shape, &Device::Cpu)?)
    }

    fn explained(
        &self,
        image: &Prepared,
        options: &PredictOptions,
        parts: &ExplainOptions,
    ) -> Result<Explanation> {
        let config = &self.saved.config;
        let input = self.images(&[&image.values])?;
        // Computed like `vit predict`; the weights come from another pass.
        let row = probabilities(&self.model, config.output, &input)?.concat();
        let (_outputs, weights) =
            self.model.forward_with_weights(&input, vit_layers::Mode::Eval)?;
        let layers = weights.layers().iter().map(|layer| layer.squeeze(0));
        let layers: Vec<Tensor> = layers.collect::<candle_core::Result<_>>()?; // (heads, tokens, tokens)
        let each_head = |row: &dyn Fn(&Tensor) -> candle_core::Result<Vec<f32>>| -> candle_core::Result<OfHeads> {
            let of_layer = |layer: &Tensor| -> candle_core::Result<Vec<Vec<f32>>> {
                (0..layer.dim(0)?).map(|head| row(&layer.get(head)?)).collect()
            };
            layers.iter().map(of_layer).collect()
        };
        let (rows, columns) = config.patch_config().grid();
        let patches = rows * columns;
        let prefix = config.tokens() - patches;
        let (mut of_patch, mut of_patches) = (None, None);
        match parts.patches {
            None => {}
            Some(Patches::One(patch)) if patch >= patches => {
                let message = format!("patch: expected one of 0 to {}, got {patch}", patches - 1);
                return Err(Failure::new(Exit::Usage, message));
            }
            Some(Patches::One(patch)) => {
                let row = |head: &Tensor| {
                    head.get(prefix + patch)?.narrow(0, prefix, patches)?.to_vec1::<f32>()
                };
                of_patch = Some(each_head(&row)?);
            }
            Some(Patches::All) => {
                let all = config.depth * config.heads * patches * patches;
                if all > MOST_WEIGHTS {
                    let message = format!(
                        "expected at most {MOST_WEIGHTS} attention weights in an answer, got {all}"
                    );
                    return Err(Failure::new(Exit::Usage, message)
                        .hint("request a single patch: patch=NUMBER"));
                }
                let rows = |head: &Tensor| {
                    let of_patches = head.narrow(0, prefix, patches)?.narrow(1, prefix, patches)?;
                    of_patches.contiguous()?.flatten_all()?.to_vec1::<f32>()
                };
                of_patches = Some(each_head(&rows)?);
            }
        }
        let walk = parts.walk.map(|place| Walk::of(&self.saved, &self.model, &input, place));
        Ok(Explanation {
            prediction: self.prediction(image, row, options)?,
            prepared: image.description.clone(),
            seen: self.bytes_of(image),
            attention: each_head(&|head| patch_weights(config, head))?,
            rollout: patch_weights(config, &weights.rollout()?.squeeze(0)?)?,
            of_patch,
            of_patches,
            walk: walk.transpose()?,
        })
    }

    fn prediction(
        &self,
        image: &Prepared,
        probabilities: Vec<f32>,
        options: &PredictOptions,
    ) -> Result<Prediction> {
        let subject = Subject::Picture { image: None, inverted: image.inverted };
        Prediction::of(subject, probabilities, options.top_k, &self.saved.info)
    }

    /// The model's input as bytes: row by row, channels interleaved.
    fn bytes_of(&self, image: &Prepared) -> Vec<u8> {
        let ImageSize { height, width, channels } = self.saved.config.image;
        let plane = height * width;
        let byte = |at: usize, channel: usize| {
            self.preparation.byte(channel, image.values[channel * plane + at])
        };
        (0..plane).flat_map(|at| (0..channels).map(move |channel| byte(at, channel))).collect()
    }
}

impl Model for Served {
    fn about(&self) -> &Value {
        &self.about
    }

    fn is_quick(&self) -> bool {
        self.is_quick
    }

    fn prepare(
        &self,
        input: Input<'_>,
        options: &PredictOptions,
    ) -> std::result::Result<Prepared, Problem> {
        let prepare = |bytes: &[u8]| {
            if (&options.invert, &options.fit) == (&None, &None) {
                return self.preparation.prepare(bytes);
            }
            let args = pictures::Args {
                invert: value("invert", options.invert.as_deref())?.unwrap_or_default(),
                fit: value("fit", options.fit.as_deref())?,
            };
            Preparation::new(&args, &self.saved)?.prepare(bytes)
        };
        let prepared = match input {
            Input::File(bytes) => prepare(bytes),
            Input::Pixels { width, height, channels, pixels } => prepare(
                &as_file(width, height, channels, pixels).map_err(|failure| problem(&failure))?,
            ),
        };
        let prepared = prepared.map_err(|failure| problem(&failure))?;
        let description = match prepared.doubt {
            Some(doubt) => format!("{doubt}; {}", prepared.done),
            None => prepared.done,
        };
        Ok(Prepared { values: prepared.values, inverted: prepared.inverted, description })
    }

    fn predict(&self, images: &[Vec<f32>]) -> std::result::Result<Vec<Vec<f32>>, Problem> {
        let compute = || -> Result<Vec<Vec<f32>>> {
            // One by one: sums of products depend on how many rows there are, and an answer only on its picture.
            let row = |image: &Vec<f32>| -> Result<Vec<f32>> {
                let image = self.images(&[image])?;
                Ok(probabilities(&self.model, self.saved.config.output, &image)?.concat())
            };
            images.iter().map(row).collect()
        };
        // Other cores have their own requests.
        let computed = if self.is_quick { vit_ops::serial(compute) } else { compute() };
        computed.map_err(|failure| problem(&failure))
    }

    fn answer(
        &self,
        image: &Prepared,
        probabilities: Vec<f32>,
        options: &PredictOptions,
    ) -> std::result::Result<Vec<u8>, Problem> {
        let prediction =
            self.prediction(image, probabilities, options).map_err(|failure| problem(&failure))?;
        Ok(serde_json::to_vec(&prediction).expect("plain data"))
    }

    fn explain(
        &self,
        image: &Prepared,
        options: &PredictOptions,
        parts: &ExplainOptions,
    ) -> std::result::Result<Vec<u8>, Problem> {
        let explain = || self.explained(image, options, parts);
        let explained = if self.is_quick { vit_ops::serial(explain) } else { explain() };
        let explained = explained.map_err(|failure| problem(&failure))?;
        Ok(serde_json::to_vec(&explained).expect("plain data"))
    }
}

/// Loads the model in a folder or file for a server.
pub(crate) fn load() -> vit_serve::Load {
    Box::new(|path: &Path| {
        let served = Served::open(path).map_err(|failure| problem(&failure))?;
        Ok(Arc::new(served) as Arc<dyn Model>)
    })
}

/// A failure with the command line's message.
fn problem(failure: &Failure) -> Problem {
    let status = match () {
        () if failure.is(Exit::Usage) => 400,
        () if failure.is(Exit::Data) => 422,
        () => 500,
    };
    let problem = Problem::new(status, failure.message());
    match failure.advice() {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// A value of a flag that has a fixed set of values.
fn value<V: ValueEnum>(name: &str, text: Option<&str>) -> Result<Option<V>> {
    let Some(text) = text else { return Ok(None) };
    V::from_str(text, false).map(Some).map_err(|_| {
        let values = V::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let values: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        let message = format!("{name}: expected one of {}, got {text:?}", values.join(", "));
        Failure::new(Exit::Usage, message)
    })
}

/// Encodes pixels as a picture file, to share its preprocessing.
fn as_file(width: usize, height: usize, channels: usize, pixels: &[u8]) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let kind = if channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    let (width, height) = (width as u32, height as u32);
    let written = BmpEncoder::new(&mut file).write_image(pixels, width, height, kind);
    written
        .map_err(|error| Failure::new(Exit::Data, format!("{width}x{height} pixels: {error}")))?;
    Ok(file)
}

fn about(saved: &SavedModel, name: &str) -> Result<Value> {
    let config = &saved.config;
    let ImageSize { height, width, channels } = config.image;
    let (rows, columns) = config.patch_config().grid();
    let transform = saved.info.transform.as_ref();
    let of_digits = transform.is_none_or(|transform| transform.fit == Fit::Mnist);
    let reads = match config.pool {
        Pool::Cls => "class token",
        Pool::First => "first patch",
        Pool::Mean => "mean of patches",
    };
    Ok(json!({
        "name": name,
        "dataset": saved.run.as_ref().and_then(|run| run.dataset.clone()),
        "preset": saved.run.as_ref().map(|run| run.preset.clone()),
        "parameters": Summary::of(config)?.parameters(),
        "classes": saved.info.all_names(config.classes),
        "image": { "height": height, "width": width, "channels": channels },
        "patch": { "height": config.patch.height, "width": config.patch.width },
        "grid": { "rows": rows, "columns": columns },
        "tokens": config.tokens(),
        "dim": config.dim,
        "depth": config.depth,
        "heads": config.heads,
        "head_dim": config.head_dim.unwrap_or(config.dim / config.heads),
        "reads": reads,
        "draws": channels == 1 && of_digits,
        "answers_all_patches": config.depth * config.heads * (rows * columns).pow(2) <= MOST_WEIGHTS,
        "walks": walk::is_possible(config),
        "config": config,
    }))
}

/// A model's name on the page: its run directory or file.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
