//! Times an encoder in training and inference and prints JSON; `cargo xtask bench` compares it with PyTorch.
//!
//! `speed train|infer --batch N --tokens N --dim N --depth N --heads N [--attend all|padded|causal|bias] [--steps N]
//! [--dtype f32|f64|f16|bf16]`

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor, Var, bail};
use candle_nn::{Optimizer, ParamsAdamW};
use vit_layers::{AdamW, Encoder, EncoderConfig, Mode, Parameters, Pass, Random, TokenMask};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let args = Args::read()?;
    let [batch, tokens, dim] = ["batch", "tokens", "dim"].map(|name| args.number(name));
    let (batch, tokens, dim) = (batch?, tokens?, dim?);
    let config = EncoderConfig::new(dim, args.number("depth")?, args.number("heads")?);
    let parameters = Parameters::seeded(1);
    let dtype: DType = match args.text("dtype", "f32").parse() {
        Ok(dtype) => dtype,
        Err(_) => bail!("expected f32, f64, f16 or bf16 for --dtype"),
    };
    let vb = parameters.builder(dtype, &Device::Cpu);
    let xs = (0..batch * tokens * dim).map(|i| (i as f32 * 0.37).sin());
    let xs = Tensor::from_iter(xs, &Device::Cpu)?.reshape((batch, tokens, dim))?.to_dtype(dtype)?;
    let mask = TokenMask::from_lengths(&lengths(batch, tokens), tokens)?;
    let bias = Tensor::zeros((1, 1, tokens, tokens), dtype, &Device::Cpu)?;
    let pass = |mode: Mode| -> Result<Pass> {
        let pass = Pass::from(mode);
        match args.text("attend", "all") {
            "all" => Ok(pass),
            "padded" => Ok(pass.masked(&mask)),
            "causal" => Ok(pass.causal()),
            "bias" => Ok(pass.biased(&bias)),
            other => bail!("expected all, padded, causal or bias, got {other}"),
        }
    };
    let encoder = Encoder::new(&config, &vb)?;
    let steps = args.number("steps").unwrap_or(20);
    let mut times = Vec::new();
    match args.0.first().map(String::as_str) {
        Some("train") => {
            let vars: Vec<Var> = parameters.sorted().into_iter().map(|(_name, var)| var).collect();
            let mut adam = AdamW::new(vars, ParamsAdamW { lr: 1e-4, ..ParamsAdamW::default() })?;
            for step in 0..steps + steps / 5 + 1 {
                let begun = Instant::now();
                let ys = encoder.forward(&xs, pass(Mode::Train(Random::new(1).at_step(step as u64)))?)?;
                adam.backward_step(&ys.sqr()?.mean_all()?)?;
                times.push(begun.elapsed().as_secs_f64());
            }
        }
        Some("infer") => {
            let encoder = Encoder::new(&config, &parameters.detached_builder(dtype, &Device::Cpu))?;
            for _ in 0..steps + steps / 5 + 1 {
                let begun = Instant::now();
                let _ys = encoder.forward(&xs, pass(Mode::Eval)?)?;
                times.push(begun.elapsed().as_secs_f64());
            }
        }
        _ => bail!("expected train or infer"),
    }
    let mut times = times.split_off(steps / 5 + 1);
    times.sort_by(f64::total_cmp);
    let [least, median] = [0, times.len() / 2].map(|place| 1e3 * times[place]);
    println!("{{\"median_ms\": {median:.4}, \"least_ms\": {least:.4}}}");
    Ok(())
}

/// Half to all of the tokens, like the PyTorch script.
fn lengths(batch: usize, tokens: usize) -> Vec<usize> {
    (0..batch).map(|sample| tokens - (sample * 37) % (tokens / 2 + 1)).collect()
}

/// `--name value` pairs after the subcommand.
struct Args(Vec<String>);

impl Args {
    fn read() -> Result<Self> {
        Ok(Self(std::env::args().skip(1).collect()))
    }

    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        let flag = format!("--{name}");
        let place = self.0.iter().position(|arg| *arg == flag);
        place.and_then(|place| self.0.get(place + 1)).map_or(default, String::as_str)
    }

    fn number(&self, name: &str) -> Result<usize> {
        match self.text(name, "").parse() {
            Ok(number) => Ok(number),
            Err(_) => bail!("expected a number for --{name}"),
        }
    }
}
