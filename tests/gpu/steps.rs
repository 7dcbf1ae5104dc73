//! Training: recorded steps on the GPU against the training loop on the CPU.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use vit_layers::{Mode, Parameters, Random};
use vit_model::{Preset, VisionTransformer, VitConfig};
use vit_ops::cross_entropy_sum;
use vit_ops::cuda::Tape;
use vit_train::{
    Data, Error, Group, Observer, OptimizerConfig, Record, Schedule, ScheduleKind, TrainConfig,
    Trainer, TrainerBuilder,
};

use crate::digits::{Digits, Transfer};
use crate::gpu;

/// Tolerance of losses over ten steps with the same dropout masks.
const LOSS_TOLERANCE: f64 = 1e-4;
/// Tolerance of parameters after them, by norm. Wider than for a single repeated batch: a bias that started at zero has
/// moved ten learning rates, and Adam moves an entry with a near-zero gradient by one of them in either direction.
const PARAMETER_TOLERANCE: f64 = 1e-3;

const SAMPLES: usize = 700;

/// Collects every record.
#[derive(Default)]
struct Records(Vec<Record>);

impl Observer for Records {
    type Error = Error;

    fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.0.push(record.clone());
        Ok(())
    }
}

/// The result of a run: its records and parameters.
struct Run {
    records: Vec<Record>,
    parameters: Vec<(String, Vec<f32>)>,
}

fn config() -> TrainConfig {
    TrainConfig {
        log_every: 1,
        max_steps: Some(10),
        seed: 5,
        ..TrainConfig::new(2, OptimizerConfig::adam(1e-3))
    }
}

fn model(preset: Preset) -> VitConfig {
    preset.config().with_dropout(0.2)
}

/// A trainer with a new model.
fn trainer(builder: TrainerBuilder, model: &VitConfig, device: &Device) -> Result<Trainer, Error> {
    #[expect(unsafe_code, reason = "this test knows what the model reads")]
    // SAFETY: the model holds what it reads and replaces none of it; tests on one device run one after another.
    let builder = unsafe { builder.threads(2).record_steps() };
    builder.build(&Parameters::seeded(5).builder(DType::F32, device), |vb| {
        let model = VisionTransformer::new(model, &vb)?;
        Ok(move |images: &Tensor, mode: Mode| model.forward(images, mode))
    })
}

fn run(
    config: &TrainConfig,
    model: &VitConfig,
    device: &Device,
    way: Transfer,
) -> Result<Run, Error> {
    runs(1, config, model, device, way)
}

/// Runs one trainer several times in a row.
fn runs(
    times: usize,
    config: &TrainConfig,
    model: &VitConfig,
    device: &Device,
    way: Transfer,
) -> Result<Run, Error> {
    let mut trainer = trainer(Trainer::builder(config.clone()), model, device)?;
    let mut records = Records::default();
    for _ in 0..times {
        trainer.run(&Digits::new(SAMPLES, device, way), &mut records)?;
    }
    left(records, &trainer)
}

fn left(records: Records, trainer: &Trainer) -> Result<Run, Error> {
    let values = trainer.weights().iter().map(|(name, var)| {
        Ok((name.clone(), var.as_detached_tensor().flatten_all()?.to_vec1::<f32>()?))
    });
    Ok(Run { records: records.0, parameters: values.collect::<candle_core::Result<_>>()? })
}

impl Run {
    fn losses(&self) -> Vec<f64> {
        let losses = self.records.iter().filter_map(|record| match record {
            Record::Step(step) => Some(step.loss),
            _ => None,
        });
        losses.collect()
    }

    /// The metrics of every epoch.
    fn epochs(&self) -> Vec<[f64; 4]> {
        let epochs = self.records.iter().filter_map(|record| match record {
            Record::Epoch(e) => {
                Some([e.train_loss, e.train_accuracy, e.test_loss?, e.test_accuracy?])
            }
            _ => None,
        });
        epochs.collect()
    }
}

fn assert_close(got: &Run, want: &Run, label: &str) {
    let (got_losses, want_losses) = (got.losses(), want.losses());
    assert_eq!(got_losses.len(), want_losses.len(), "{label}");
    for (step, (got, want)) in got_losses.iter().zip(&want_losses).enumerate() {
        assert!((got - want).abs() <= LOSS_TOLERANCE, "{label}: loss {step} is {got}, not {want}");
    }
    for (got, want) in got.epochs().iter().zip(want.epochs()) {
        // One of 640 images may be classified differently.
        let all = got.iter().zip(want).all(|(got, want)| (got - want).abs() < 5e-3);
        assert!(all, "{label}: an epoch came to {got:?}, not {want:?}");
    }
    for ((name, got), (_, want)) in got.parameters.iter().zip(&want.parameters) {
        if name.ends_with("k_norm.bias") {
            // Its exact gradient is zero; only rounding remains.
            continue;
        }
        let norm =
            |xs: &mut dyn Iterator<Item = f32>| xs.map(|x| f64::from(x).powi(2)).sum::<f64>();
        let difference = norm(&mut got.iter().zip(want).map(|(got, want)| got - want));
        let share = (difference / norm(&mut want.iter().copied()).max(1e-12)).sqrt();
        assert!(share <= PARAMETER_TOLERANCE, "{label}: {name} differs by {share:e} of its norm");
    }
}

/// Settings that cover every path through a step.
fn recipes() -> [(&'static str, TrainConfig); 6] {
    let base = config();
    let cosine = Schedule { kind: ScheduleKind::Cosine, warmup: Some(5), min_lr: Some(1e-5) };
    [
        ("plain", base.clone()),
        ("adamw", TrainConfig { optimizer: OptimizerConfig::adamw(1e-3, 0.1), ..base.clone() }),
        ("schedule", TrainConfig { schedule: cosine, label_smoothing: 0.1, ..base.clone() }),
        ("clip and average", TrainConfig { clip: Some(0.5), ema: Some(0.9), ..base.clone() }),
        // Exceeds our own kernels.
        (
            "large batch",
            TrainConfig { batch_size: 600, epochs: 3, max_steps: None, ..base.clone() },
        ),
        ("accumulate", TrainConfig { batch_size: 24, accumulate: 3, clip: Some(1.0), ..base }),
    ]
}

#[test]
fn steps_equal_the_cpus_with_the_same_masks() -> Result<(), Error> {
    for preset in [Preset::Shallow, Preset::Notebook] {
        for (recipe, config) in recipes() {
            let label = format!("{}, {recipe}", preset.name());
            let want = run(&config, &model(preset), &Device::Cpu, Transfer::Given)?;
            for way in [Transfer::Kept, Transfer::Given] {
                assert_close(&run(&config, &model(preset), &gpu(), way)?, &want, &label);
            }
        }
    }
    Ok(())
}

#[test]
fn the_way_images_reach_the_gpu_does_not_change_a_bit() -> Result<(), Error> {
    let config = TrainConfig { max_steps: None, epochs: 3, ..config() };
    let first = run(&config, &model(Preset::Shallow), &gpu(), Transfer::Kept)?;
    for way in [Transfer::Kept, Transfer::Given] {
        let again = run(&config, &model(Preset::Shallow), &gpu(), way)?;
        assert!(again.parameters == first.parameters, "the parameters differ");
        assert_eq!(again.losses(), first.losses());
        assert_eq!(again.epochs(), first.epochs());
    }
    Ok(())
}

/// Custom learning rates and decays, a frozen part, and steps that are not recorded.
#[test]
fn groups_and_unrecorded_steps_equal_the_cpus() -> Result<(), Error> {
    let config = TrainConfig { optimizer: OptimizerConfig::adamw(1e-3, 0.1), ..config() };
    let groups = |name: &str, _: &Tensor| match name {
        name if name.starts_with("head.") => Group::new().with_lr_scale(2.0),
        name if name.starts_with("blocks.0.") => Group::frozen(),
        name if name.ends_with("bias") => Group::new().with_weight_decay(0.0),
        _ => Group::new(),
    };
    let run = |device: &Device, is_recorded: bool| {
        let builder = Trainer::builder(config.clone()).groups(groups);
        let model = model(Preset::Shallow);
        let mut trainer = if is_recorded {
            trainer(builder, &model, device)?
        } else {
            builder.build(&Parameters::seeded(5).builder(DType::F32, device), |vb| {
                let model = VisionTransformer::new(&model, &vb)?;
                Ok(move |images: &Tensor, mode: Mode| model.forward(images, mode))
            })?
        };
        let mut records = Records::default();
        trainer.run(&Digits::new(SAMPLES, device, Transfer::Kept), &mut records)?;
        left(records, &trainer)
    };
    let want = run(&Device::Cpu, false)?;
    let recorded = run(&gpu(), true)?;
    assert_close(&recorded, &want, "groups");
    assert!(run(&gpu(), false)?.parameters == recorded.parameters, "recording changes bits");
    Ok(())
}

#[test]
fn a_second_run_keeps_the_moments_of_the_first() -> Result<(), Error> {
    let config = TrainConfig { epochs: 1, max_steps: None, ..config() };
    let model = model(Preset::Shallow);
    let want = runs(2, &config, &model, &Device::Cpu, Transfer::Given)?;
    for way in [Transfer::Kept, Transfer::Given] {
        assert_close(&runs(2, &config, &model, &gpu(), way)?, &want, "two runs");
    }
    Ok(())
}

#[test]
fn rare_records_add_up_to_frequent_ones() -> Result<(), Error> {
    let often = run(&config(), &model(Preset::Shallow), &gpu(), Transfer::Kept)?;
    let rare = TrainConfig { log_every: 5, ..config() };
    let rare = run(&rare, &model(Preset::Shallow), &gpu(), Transfer::Kept)?;
    assert!(rare.parameters == often.parameters, "when numbers are read changes them");
    let means: Vec<f64> =
        often.losses()[..10].chunks(5).map(|five| five.iter().sum::<f64>() / 5.0).collect();
    for (got, want) in rare.losses().iter().zip(means) {
        assert!((got - want).abs() < 1e-9, "{got} {want}");
    }
    Ok(())
}

#[test]
fn presets_do_not_need_candles_backward_pass() -> candle_core::Result<()> {
    for preset in [Preset::Shallow, Preset::Notebook] {
        let parameters = Parameters::seeded(1);
        let vb = parameters.builder(DType::F32, &gpu());
        let model = VisionTransformer::new(&model(preset), &vb)?;
        let batch = Digits::new(64, &gpu(), Transfer::Given).train_batch(1, &[0, 1, 2, 3])?;
        let (loss, tape) = Tape::of(|| {
            let logits = model.forward(&batch.inputs, Mode::Train(Random::new(1)))?;
            cross_entropy_sum(&logits, &batch.targets[0])
        })?;
        let parameters = parameters.sorted();
        let variables = || parameters.iter().map(|(_, var)| var);
        assert!(tape.covers(&loss, variables())?, "{}", preset.name());
        let (own, candles) = (tape.backward(&loss, variables())?, loss.backward()?);
        for (name, var) in &parameters {
            let gradient =
                |of: &GradStore| of.get(var).expect("a gradient").flatten_all()?.to_vec1::<f32>();
            assert!(gradient(&own)? == gradient(&candles)?, "{}: {name}", preset.name());
        }
    }
    Ok(())
}

#[test]
fn other_models_equal_the_cpus() -> Result<(), Error> {
    let modern = VitConfig {
        registers: 2,
        qk_norm: true,
        layer_scale: Some(0.1),
        drop_path: 0.1,
        pool: vit_model::Pool::Mean,
        activation: vit_layers::Activation::Gelu,
        ..model(Preset::Shallow)
    };
    let class_token = VitConfig {
        pool: vit_model::Pool::Cls,
        norm: vit_layers::NormPlacement::Post,
        ..model(Preset::Shallow)
    };
    // More tokens than fit a block: attention uses the composed form within the recording.
    let many_tokens = VitConfig {
        patch: vit_patch::PatchSize { height: 2, width: 2 },
        heads: 2,
        ..model(Preset::Shallow)
    };
    let models = [("modern", modern), ("class token", class_token), ("many tokens", many_tokens)];
    for (label, model) in models {
        let want = run(&config(), &model, &Device::Cpu, Transfer::Given)?;
        assert_close(&run(&config(), &model, &gpu(), Transfer::Kept)?, &want, label);
    }
    Ok(())
}

#[test]
fn a_non_finite_loss_stops_the_run_and_later_steps_change_nothing() -> Result<(), Error> {
    let diverging =
        |log_every| TrainConfig { log_every, optimizer: OptimizerConfig::adam(1e30), ..config() };
    let stopped_at =
        |config: &TrainConfig| match run(config, &model(Preset::Shallow), &gpu(), Transfer::Kept)
            .map(|_| ())
        {
            Err(Error::NotFinite { step, epoch, what, value }) => {
                assert!(!value.is_finite(), "{value}");
                (step, epoch, what)
            }
            other => panic!("expected a loss that is not finite, got {other:?}"),
        };
    let at_once = stopped_at(&diverging(1));
    assert!(at_once.0 <= 3, "{at_once:?}");
    assert_eq!(stopped_at(&diverging(9)), at_once);
    Ok(())
}

#[test]
fn running_out_of_memory_is_reported() {
    let device = &gpu();
    let error = Tensor::zeros((1 << 20, 1 << 20), DType::F32, device).unwrap_err().to_string();
    assert!(error.contains("OUT_OF_MEMORY"), "{error}");
    // The device still works.
    let sum = Tensor::ones(10, DType::F32, device).and_then(|ones| ones.sum_all());
    assert_eq!(sum.and_then(|sum| sum.to_scalar::<f32>()).expect("a working device"), 10.0);
}
