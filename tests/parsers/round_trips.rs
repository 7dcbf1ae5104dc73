//! Written files read back bit for bit, for public formats; settings are tested in the program.

use std::collections::BTreeMap;
use std::fs;

use candle_core::{Device, Tensor};
use proptest::collection::{btree_map, vec};
use proptest::num::f64::{NEGATIVE, NORMAL, POSITIVE, SUBNORMAL, ZERO};
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use vit_data::{IdxFile, load_dir};
use vit_model::{DropoutConfig, ModelFile, Output, Pool, Preset, VitConfig, to_bytes};
use vit_patch::{ImageSize, PatchSize, Position};
use vit_run::{EpochMetrics, MetricsFile, MetricsMark, Record, StepMetrics, read_records};

/// The same cases each time.
fn cases() -> ProptestConfig {
    ProptestConfig {
        rng_seed: RngSeed::Fixed(0),
        failure_persistence: None,
        ..ProptestConfig::with_cases(64)
    }
}

/// Any number JSON can express, of either sign.
fn finite() -> impl Strategy<Value = f64> {
    POSITIVE | NEGATIVE | NORMAL | SUBNORMAL | ZERO
}

fn step() -> impl Strategy<Value = StepMetrics> {
    (any::<u64>(), any::<u64>(), finite(), finite())
        .prop_map(|(step, epoch, loss, lr)| StepMetrics { step, epoch, loss, lr })
}

fn epoch() -> impl Strategy<Value = EpochMetrics> {
    let some = [(); 5].map(|()| option::of(finite()));
    let numbers = [(); 4].map(|()| finite());
    (any::<u64>(), any::<u64>(), some, numbers).prop_map(|(epoch, step, some, numbers)| {
        let [val_loss, val_accuracy, test_loss, test_accuracy, waiting_seconds] = some;
        let [train_loss, train_accuracy, images_per_second, seconds] = numbers;
        EpochMetrics {
            epoch,
            step,
            train_loss,
            train_accuracy,
            val_loss,
            val_accuracy,
            test_loss,
            test_accuracy,
            images_per_second,
            waiting_seconds,
            seconds,
        }
    })
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![step().prop_map(Record::Step), epoch().prop_map(Record::Epoch)]
}

/// Not all are valid, but a file could contain them.
fn config() -> impl Strategy<Value = VitConfig> {
    let sizes = [(); 10].map(|()| any::<usize>());
    let rates = [(); 6].map(|()| finite());
    let position = prop_oneof![
        Just(Position::None),
        Just(Position::Learned),
        Just(Position::Sincos2d),
        Just(Position::PatchLinear)
    ];
    let pool = prop_oneof![Just(Pool::First), Just(Pool::Cls), Just(Pool::Mean)];
    let output = prop_oneof![Just(Output::Logits), Just(Output::Softmax)];
    let optional = (option::of(any::<usize>()), option::of(finite()));
    let flags = [(); 2].map(|()| any::<bool>());
    (sizes, rates, position, pool, output, optional, flags).prop_map(
        |(sizes, rates, position, pool, output, (head_dim, layer_scale), [qkv_bias, qk_norm])| {
            let [height, width, channels, patch, dim, depth, heads, mlp_dim, classes, registers] =
                sizes;
            let [embedding, attention, projection, mlp, drop_path, layer_norm_eps] = rates;
            VitConfig {
                image: ImageSize { height, width, channels },
                patch: PatchSize { height: patch, width: patch },
                dim,
                depth,
                heads,
                head_dim,
                mlp_dim,
                classes,
                position,
                registers,
                output,
                pool,
                qkv_bias,
                qk_norm,
                layer_scale,
                dropout: DropoutConfig { embedding, attention, projection, mlp },
                drop_path,
                layer_norm_eps,
                ..Preset::Shallow.config()
            }
        },
    )
}

/// Any `f32` bits, NaN included, in a tensor with two dimensions.
fn tensor() -> impl Strategy<Value = (usize, Vec<u32>)> {
    (1..4_usize, vec(any::<u32>(), 0..12)).prop_map(|(width, mut bits)| {
        bits.truncate(bits.len() / width * width);
        (width, bits)
    })
}

fn idx(header: &[usize], body: &[u8]) -> Vec<u8> {
    let header = header.iter().flat_map(|&number| (number as u32).to_be_bytes());
    header.chain(body.iter().copied()).collect()
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn records_round_trip_bit_for_bit(records in vec(record(), 0..6)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        fs::write(&path, "").unwrap();
        let mut file = MetricsFile::open_at(&path, &MetricsMark::default()).unwrap();
        records.iter().try_for_each(|record| file.append(record)).unwrap();
        // Debug prints the shortest text that identifies a number, and distinguishes -0 from 0.
        let mut again: Vec<Record> = Vec::new();
        read_records(&path, |record| again.push(record)).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{records:?}"));
    }

    #[test]
    fn configurations_round_trip_bit_for_bit(config in config()) {
        let json = serde_json::to_string(&config).unwrap();
        let again: VitConfig = serde_json::from_str(&json).unwrap();
        prop_assert_eq!(format!("{again:?}"), format!("{config:?}"));
    }

    #[test]
    fn models_round_trip_bit_for_bit(
        config in config(),
        tensors in btree_map("[a-zä0-9._\"]{1,12}", tensor(), 0..5),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let as_tensor = |(width, bits): &(usize, Vec<u32>)| {
            let values: Vec<f32> = bits.iter().copied().map(f32::from_bits).collect();
            Tensor::from_vec(values, (bits.len() / width, *width), &Device::Cpu).unwrap()
        };
        let written: BTreeMap<_, _> =
            tensors.iter().map(|(name, tensor)| (name.clone(), as_tensor(tensor))).collect();
        // The output of `write`, without waiting for the disk.
        fs::write(&path, to_bytes(&written, &config).unwrap()).unwrap();
        let file = ModelFile::open(&path).unwrap();
        prop_assert_eq!(format!("{:?}", file.config()), format!("{:?}", Some(&config)));
        let read = file.tensors().unwrap();
        prop_assert_eq!(read.len(), tensors.len());
        for (name, (width, bits)) in &tensors {
            prop_assert_eq!(read[name].dims(), [bits.len() / width, *width]);
            let values = read[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert_eq!(&values.into_iter().map(f32::to_bits).collect::<Vec<_>>(), bits);
        }
    }

    #[test]
    fn datasets_round_trip_byte_for_byte(
        (height, width) in (1..5_usize, 1..5_usize),
        labels in [vec(0..10_u8, 1..6), vec(0..10_u8, 1..6)],
        pixel in any::<u8>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        // The training split sets the classes.
        let [train, mut test] = labels;
        let classes = train.iter().max().unwrap() + 1;
        test.iter_mut().for_each(|label| *label %= classes);
        let [train, test] = [train, test].map(|labels| {
            let pixels = labels.len() * height * width;
            let pixels: Vec<u8> = (0..pixels).map(|at| pixel.wrapping_mul(at as u8)).collect();
            [idx(&[0x803, labels.len(), height, width], &pixels), idx(&[0x801, labels.len()], &labels)]
        });
        let files: Vec<_> = IdxFile::ALL.into_iter().zip([train, test].concat()).collect();
        for (file, bytes) in &files {
            fs::write(folder.path().join(file.name()), bytes).unwrap();
        }
        let dataset = load_dir(folder.path()).unwrap();
        for (file, bytes) in &files {
            let mut again = Vec::new();
            dataset.write_idx(*file, &mut again).unwrap();
            prop_assert_eq!(&again, bytes, "{}", file.name());
        }
    }
}
