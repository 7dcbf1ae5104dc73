//! The evaluation forward pass as nodes, each named after its layer.
//!
//! Between blocks, tokens are rows: (batch * tokens, dim). A linear layer is then one `Gemm` with weight and bias as
//! they are; a product of three axes would be two nodes for the runtime to fuse.

use candle_core::Device;
use vit_layers::{Activation, NormPlacement};
use vit_model::{ModelInfo, Output, Pool, Tensors, VitConfig};
use vit_patch::{Position, PositionRows, sincos2d};

use crate::graph::{Graph, Value, batch_of, float, int, ints};
use crate::proto::{self, DataType};
use crate::{Error, Input};

/// The name of the graph's input.
pub(crate) const IMAGES: &str = "images";

/// The graph of a model.
///
/// # Errors
/// If a parameter's values cannot be read.
pub(crate) fn graph(
    parameters: &Tensors,
    config: &VitConfig,
    info: &ModelInfo,
    input: Input,
) -> Result<proto::Graph, Error> {
    let mut writer = Writer { graph: Graph::new(parameters), config };
    let pixels = match input {
        Input::Float => IMAGES.to_owned(),
        Input::Bytes => writer.normalised(info)?,
    };
    let tokens = writer.embedded(&pixels)?;
    let encoded = writer.encoded(tokens)?;
    let output = writer.head(&encoded)?;
    let image = config.image;
    let kind = match input {
        Input::Float => DataType::Float,
        Input::Bytes => DataType::Uint8,
    };
    Ok(writer.graph.finish(
        batch_of(IMAGES, kind, &[image.channels, image.height, image.width]),
        batch_of(&output, DataType::Float, &[config.classes]),
    ))
}

struct Writer<'a> {
    graph: Graph<'a>,
    config: &'a VitConfig,
}

impl Writer<'_> {
    /// Normalises bytes: `(byte / 255 - mean) / std`.
    fn normalised(&mut self, info: &ModelInfo) -> Result<Value, Error> {
        let channels = self.config.image.channels;
        let half = &[0.5][..];
        let (mean, std) = info.transform.as_ref().map_or((half, half), |to| (&to.mean, &to.std));
        if [mean, std].iter().any(|numbers| ![1, channels].contains(&numbers.len())) {
            return Err(Error::Transform { channels, mean: mean.len(), std: std.len() });
        }
        let each = |value: &dyn Fn(usize) -> f64| (0..channels).map(value).collect::<Vec<_>>();
        let mean = each(&|channel| 255.0 * mean[channel % mean.len()]);
        let scale = each(&|channel| 1.0 / (255.0 * std[channel % std.len()]));
        let mean = self.graph.each_channel("transform.mean", &mean);
        let scale = self.graph.each_channel("transform.scale", &scale);
        let to_float = int("to", DataType::Float as i64);
        let cast = self.graph.node("Cast", "transform.cast", &[IMAGES], vec![to_float]);
        let centred = self.graph.node("Sub", "transform.centre", &[&cast, &mean], vec![]);
        Ok(self.graph.node("Mul", "transform.normalise", &[&centred, &scale], vec![]))
    }

    /// `pixels` (batch, channels, height, width) -> (batch * tokens, dim)
    fn embedded(&mut self, pixels: &str) -> Result<Value, Error> {
        let config = self.config;
        let dim = config.dim as i64;
        let patches = config.patch_config().patches() as i64;
        let (weight, bias) = self.patch_weights()?;
        let side = [config.patch.height as i64, config.patch.width as i64];
        let sides = vec![ints("kernel_shape", &side), ints("strides", &side)];
        let grid = self.graph.node("Conv", "patch_embed.proj", &[pixels, &weight, &bias], sides);
        let flat = self.reshape("patch_embed.flatten", &grid, &[-1, dim, patches]);
        let mut xs = self.transpose("patch_embed.transpose", &flat, &[0, 2, 1]);

        let patches_alone = config.position_rows == PositionRows::Patches;
        let table = match config.position {
            Position::None | Position::PatchLinear => None,
            Position::Learned => Some((self.graph.parameter("pos_embed")?, patches_alone)),
            Position::Sincos2d => {
                let grid = config.patch_config().grid();
                let f64 = candle_core::DType::F64;
                let table = sincos2d(grid, config.dim, f64, &Device::Cpu)?.unsqueeze(0)?;
                Some((self.graph.tensor("pos_embed", &table)?, true))
            }
        };
        if let Some((table, true)) = &table {
            xs = self.graph.node("Add", "pos_embed.add", &[&xs, table], vec![]);
        }
        xs = self.prepended(pixels, xs)?;
        if let Some((table, false)) = &table {
            xs = self.graph.node("Add", "pos_embed.add", &[&xs, table], vec![]);
        }
        Ok(self.reshape("tokens", &xs, &[-1, dim]))
    }

    /// Weight and bias of the patch embedding; position embeddings that are linear in the patch are added to them, as
    /// in the model.
    fn patch_weights(&mut self) -> Result<(Value, Value), Error> {
        let [weight, bias] = ["weight", "bias"].map(|part| {
            let name = format!("patch_embed.proj.{part}");
            match self.config.position {
                Position::PatchLinear => {
                    let position = format!("pos_embed.proj.{part}");
                    let parameters = self.graph.parameters();
                    let sum = (&parameters[&name] + &parameters[&position])?;
                    self.graph.tensor(format!("{name} + {position}"), &sum)
                }
                _ => self.graph.parameter(name),
            }
        });
        Ok((weight?, bias?))
    }

    /// Prepends class token and registers: (batch, patches, dim) -> (batch, tokens, dim)
    fn prepended(&mut self, pixels: &str, patches: Value) -> Result<Value, Error> {
        let (config, dim) = (self.config, self.config.dim as i64);
        let learned =
            [("cls_token", config.class_token().tokens()), ("reg_token", config.registers)];
        let mut parts = Vec::new();
        for (name, count) in learned.into_iter().filter(|&(_, count)| count > 0) {
            if parts.is_empty() {
                let bounds = vec![int("start", 0), int("end", 1)];
                self.graph.node("Shape", "batch", &[pixels], bounds);
            }
            let tokens = self.graph.parameter(name)?;
            let rest = self.graph.ints(&[count as i64, dim]);
            let axis = vec![int("axis", 0)];
            let shape = self.graph.node("Concat", format!("{name}.shape"), &["batch", &rest], axis);
            let expand = format!("{name}.expand");
            parts.push(self.graph.node("Expand", expand, &[&tokens, &shape], vec![]));
        }
        if parts.is_empty() {
            return Ok(patches);
        }
        parts.push(patches);
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        Ok(self.graph.node("Concat", "prefix.concat", &parts, vec![int("axis", 1)]))
    }

    /// (batch * tokens, dim) -> the head's input, (batch, dim)
    fn encoded(&mut self, mut xs: Value) -> Result<Value, Error> {
        let (config, dim) = (self.config, self.config.dim as i64);
        for block in 0..config.depth {
            // The last block computes only the token that the head reads.
            let only = self.pooled_token().filter(|_| block + 1 == config.depth);
            xs = self.block(&format!("blocks.{block}"), xs, only)?;
        }
        if config.norm == NormPlacement::Pre {
            xs = self.norm("norm", &xs)?;
        }
        if self.pooled_token().is_some() {
            return Ok(xs);
        }
        let prefix = config.patch_config().prefix(config.class_token()) as i64;
        let tokens = config.tokens() as i64;
        let mut sequences = self.reshape("pool.tokens", &xs, &[-1, tokens, dim]);
        if prefix > 0 {
            let bounds = [prefix, tokens, 1].map(|bound| self.graph.ints(&[bound]));
            let [begin, end, axis] = &bounds;
            let inputs: [&str; 4] = [&sequences, begin, end, axis];
            sequences = self.graph.node("Slice", "pool.patches", &inputs, vec![]);
        }
        let mean = vec![ints("axes", &[1]), int("keepdims", 0)];
        Ok(self.graph.node("ReduceMean", "pool.mean", &[&sequences], mean))
    }

    /// The single token that the head reads, if it reads only one.
    fn pooled_token(&self) -> Option<i64> {
        match self.config.pool {
            Pool::Cls => Some(0),
            Pool::First => {
                Some(self.config.patch_config().prefix(self.config.class_token()) as i64)
            }
            Pool::Mean => None,
        }
    }

    /// (batch * tokens, dim) -> the same, or (batch, dim) for a single token
    fn block(&mut self, path: &str, xs: Value, only: Option<i64>) -> Result<Value, Error> {
        let (norm1, norm2) = (format!("{path}.norm1"), format!("{path}.norm2"));
        match self.config.norm {
            NormPlacement::Pre => {
                let normalised = self.norm(&norm1, &xs)?;
                let attended = self.attention(path, &normalised, only)?;
                let kept = self.kept(path, xs, only);
                let xs = self.add(format!("{path}.add1"), &kept, &attended);
                let normalised = self.norm(&norm2, &xs)?;
                let mapped = self.feed_forward(path, &normalised)?;
                Ok(self.add(format!("{path}.add2"), &xs, &mapped))
            }
            NormPlacement::Post => {
                let attended = self.attention(path, &xs, only)?;
                let kept = self.kept(path, xs, only);
                let sum = self.add(format!("{path}.add1"), &kept, &attended);
                let xs = self.norm(&norm1, &sum)?;
                let mapped = self.feed_forward(path, &xs)?;
                let sum = self.add(format!("{path}.add2"), &xs, &mapped);
                self.norm(&norm2, &sum)
            }
        }
    }

    /// The rows that a branch's output is added to.
    fn kept(&mut self, path: &str, xs: Value, only: Option<i64>) -> Value {
        let Some(token) = only else { return xs };
        let (tokens, dim) = (self.config.tokens() as i64, self.config.dim as i64);
        let sequences = self.reshape(&format!("{path}.tokens"), &xs, &[-1, tokens, dim]);
        let index = self.graph.int(token);
        let axis = vec![int("axis", 1)];
        self.graph.node("Gather", format!("{path}.pooled_token"), &[&sequences, &index], axis)
    }

    /// The attention branch.
    fn attention(&mut self, path: &str, xs: &str, only: Option<i64>) -> Result<Value, Error> {
        let (encoder, attn) = (self.config.encoder_config(), format!("{path}.attn"));
        let (heads, head_dim) = (encoder.heads as i64, encoder.width_of_head() as i64);
        let (tokens, inner) = (self.config.tokens() as i64, encoder.width_of_heads() as i64);
        let qkv = self.linear(&format!("{attn}.qkv"), xs, encoder.qkv_bias)?;
        let parts = ["q", "k", "v"].map(|part| format!("{attn}.{part}"));
        let sizes = self.graph.ints(&[inner; 3]);
        let split = format!("{attn}.split");
        self.graph.push("Split", &split, &[&qkv, &sizes], parts.to_vec(), vec![int("axis", 1)]);
        let mut split_heads = parts.map(|part| {
            self.reshape(&format!("{part}.heads"), &part, &[-1, tokens, heads, head_dim])
        });
        if let Some(token) = only {
            let bounds = [token, token + 1, 1].map(|bound| self.graph.ints(&[bound]));
            let [begin, end, axis] = &bounds;
            let inputs: [&str; 4] = [&split_heads[0], begin, end, axis];
            split_heads[0] =
                self.graph.node("Slice", format!("{attn}.q.pooled_token"), &inputs, vec![]);
        }
        if encoder.qk_norm {
            split_heads[0] = self.norm(&format!("{attn}.q_norm"), &split_heads[0])?;
            split_heads[1] = self.norm(&format!("{attn}.k_norm"), &split_heads[1])?;
        }
        let [queries, keys, values] = split_heads; // (batch, tokens, heads, head_dim)
        let queries = self.transpose(&format!("{attn}.q.transpose"), &queries, &[0, 2, 1, 3]);
        let keys = self.transpose(&format!("{attn}.k.transpose"), &keys, &[0, 2, 3, 1]);
        let values = self.transpose(&format!("{attn}.v.transpose"), &values, &[0, 2, 1, 3]);
        let scale = self.graph.float(encoder.scale());
        let scaled = self.graph.node("Mul", format!("{attn}.scale"), &[&queries, &scale], vec![]);
        let scores = self.graph.node("MatMul", format!("{attn}.scores"), &[&scaled, &keys], vec![]);
        let softmax = format!("{attn}.softmax");
        let weights = self.graph.node("Softmax", softmax, &[&scores], vec![int("axis", -1)]);
        let context =
            self.graph.node("MatMul", format!("{attn}.context"), &[&weights, &values], vec![]);
        let joined = self.transpose(&format!("{attn}.transpose"), &context, &[0, 2, 1, 3]);
        let joined = self.reshape(&format!("{attn}.join"), &joined, &[-1, inner]);
        let projected = self.linear(&format!("{attn}.proj"), &joined, true)?;
        self.layer_scaled(&format!("{path}.ls1"), projected)
    }

    /// The feed-forward branch.
    fn feed_forward(&mut self, path: &str, xs: &str) -> Result<Value, Error> {
        let mlp = format!("{path}.mlp");
        let hidden = self.linear(&format!("{mlp}.fc1"), xs, true)?;
        let hidden = self.activation(&format!("{mlp}.act"), &hidden);
        let mapped = self.linear(&format!("{mlp}.fc2"), &hidden, true)?;
        self.layer_scaled(&format!("{path}.ls2"), mapped)
    }

    /// `x (1 + erf(x / √2)) / 2`, in the order of nodes that onnxruntime fuses; `Gelu` exists only from opset 20.
    fn activation(&mut self, path: &str, xs: &str) -> Value {
        if self.config.activation == Activation::Relu {
            return self.graph.node("Relu", path, &[xs], vec![]);
        }
        let [root, one, half] =
            [std::f64::consts::SQRT_2, 1.0, 0.5].map(|number| self.graph.float(number));
        let divided = self.graph.node("Div", format!("{path}.div"), &[xs, &root], vec![]);
        let erf = self.graph.node("Erf", format!("{path}.erf"), &[&divided], vec![]);
        let shifted = self.add(format!("{path}.add"), &erf, &one);
        let product = self.graph.node("Mul", format!("{path}.mul"), &[xs, &shifted], vec![]);
        self.graph.node("Mul", path, &[&product, &half], vec![])
    }

    /// A branch's output, scaled per feature.
    fn layer_scaled(&mut self, path: &str, xs: Value) -> Result<Value, Error> {
        if self.config.layer_scale.is_none() {
            return Ok(xs);
        }
        let gamma = self.graph.parameter(format!("{path}.gamma"))?;
        Ok(self.graph.node("Mul", path, &[&xs, &gamma], vec![]))
    }

    /// `pooled` (batch, dim) -> (batch, classes)
    fn head(&mut self, pooled: &str) -> Result<Value, Error> {
        let logits = self.named_linear("head", "logits", pooled, true)?;
        Ok(match self.config.output {
            Output::Logits => logits,
            Output::Softmax => {
                self.graph.node("Softmax", "probabilities", &[&logits], vec![int("axis", -1)])
            }
        })
    }

    fn linear(&mut self, path: &str, xs: &str, bias: bool) -> Result<Value, Error> {
        self.named_linear(path, path, xs, bias)
    }

    /// `xs` (rows, inputs) -> (rows, outputs), with the given name.
    fn named_linear(
        &mut self,
        path: &str,
        name: &str,
        xs: &str,
        bias: bool,
    ) -> Result<Value, Error> {
        let weight = self.graph.parameter(format!("{path}.weight"))?;
        let bias = if bias { Some(self.graph.parameter(format!("{path}.bias"))?) } else { None };
        let inputs: Vec<&str> = [xs, &weight].into_iter().chain(bias.as_deref()).collect();
        Ok(self.graph.node("Gemm", name, &inputs, vec![int("transB", 1)]))
    }

    fn norm(&mut self, path: &str, xs: &str) -> Result<Value, Error> {
        let weight = self.graph.parameter(format!("{path}.weight"))?;
        let bias = self.graph.parameter(format!("{path}.bias"))?;
        let attributes = vec![int("axis", -1), float("epsilon", self.config.layer_norm_eps)];
        Ok(self.graph.node("LayerNormalization", path, &[xs, &weight, &bias], attributes))
    }

    fn add(&mut self, name: String, xs: &str, ys: &str) -> Value {
        self.graph.node("Add", name, &[xs, ys], vec![])
    }

    fn reshape(&mut self, name: &str, xs: &str, shape: &[i64]) -> Value {
        let shape = self.graph.ints(shape);
        self.graph.node("Reshape", name, &[xs, &shape], vec![])
    }

    fn transpose(&mut self, name: &str, xs: &str, axes: &[i64]) -> Value {
        self.graph.node("Transpose", name, &[xs], vec![ints("perm", axes)])
    }
}
