//! Valid and damaged folders of IDX files, with candle-datasets' own reader as the oracle.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use candle_core::Tensor;
use candle_datasets::vision::{self, mnist};
use flate2::Compression;
use flate2::write::GzEncoder;
use tempfile::TempDir;
use vit_data::{Dataset, Error, IdxFile, Split, holds_idx, load_dir};

const TRAIN: u32 = 12;
const TEST: u32 = 5;
const HEIGHT: u32 = 3;
const WIDTH: u32 = 4;

/// A valid file: every pixel differs from its neighbours, every label occurs.
fn right(file: IdxFile) -> Vec<u8> {
    let images = |count| {
        let pixels: Vec<u8> = (0..count * HEIGHT * WIDTH).map(|at| (at * 37) as u8).collect();
        idx(&[0x803, count, HEIGHT, WIDTH], &pixels)
    };
    let labels = |count| {
        let labels: Vec<u8> = (0..count).map(|at| (at * 7 % 10) as u8).collect();
        idx(&[0x801, count], &labels)
    };
    match file {
        IdxFile::TrainImages => images(TRAIN),
        IdxFile::TrainLabels => labels(TRAIN),
        IdxFile::TestImages => images(TEST),
        IdxFile::TestLabels => labels(TEST),
    }
}

fn idx(header: &[u32], body: &[u8]) -> Vec<u8> {
    header.iter().flat_map(|number| number.to_be_bytes()).chain(body.iter().copied()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Packing {
    Plain,
    Gzip,
}

/// A folder of valid files, except that `file` holds `bytes`.
fn folder_but(packing: Packing, file: IdxFile, bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for each in IdxFile::ALL {
        let bytes = if each == file { bytes.to_vec() } else { right(each) };
        match packing {
            Packing::Plain => fs::write(plain(&folder, each), bytes).unwrap(),
            Packing::Gzip => fs::write(packed(&folder, each), gzip(&bytes)).unwrap(),
        }
    }
    folder
}

fn right_folder(packing: Packing) -> TempDir {
    folder_but(packing, IdxFile::TrainImages, &right(IdxFile::TrainImages))
}

fn plain(folder: &TempDir, file: IdxFile) -> PathBuf {
    folder.path().join(file.name())
}

fn packed(folder: &TempDir, file: IdxFile) -> PathBuf {
    folder.path().join(format!("{}.gz", file.name()))
}

/// The errors of a folder, plain and gzipped, in which `file` holds `bytes`. Checks that both contain the file's name
/// and `text`.
fn errors(file: IdxFile, bytes: &[u8], text: &str) -> [Error; 2] {
    [Packing::Plain, Packing::Gzip].map(|packing| {
        let folder = folder_but(packing, file, bytes);
        let error = load_dir(folder.path()).unwrap_err();
        let message = error.to_string();
        assert!(message.contains(file.name()), "{packing:?}: {message}");
        assert!(message.contains(text), "{packing:?}: {message}");
        error
    })
}

fn assert_equals_oracle(dataset: &Dataset, oracle: &vision::Dataset) {
    // candle-datasets gives images as f32 in [0, 1].
    let bytes = |tensor: &Tensor| -> Vec<u8> {
        let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values.into_iter().map(|value| (value * 255.0).round() as u8).collect()
    };
    let sets = [
        (Split::Train, &oracle.train_images, &oracle.train_labels),
        (Split::Test, &oracle.test_images, &oracle.test_labels),
    ];
    for (split, images, labels) in sets {
        let examples = dataset.split(split);
        let labels = labels.to_vec1::<u8>().unwrap();
        assert_eq!(examples.len(), labels.len());
        let pixels = bytes(images);
        for (index, image) in pixels.chunks(dataset.height() * dataset.width()).enumerate() {
            assert_eq!(examples.image(index).unwrap(), image);
            assert_eq!(examples.label(index), u32::from(labels[index]));
        }
    }
    assert_eq!(dataset.classes(), oracle.labels);
}

#[test]
fn folders_read_as_with_candle_datasets() {
    let folder = right_folder(Packing::Plain);
    let dataset = load_dir(folder.path()).unwrap();
    assert_equals_oracle(&dataset, &mnist::load_dir(folder.path()).unwrap());
    assert_eq!((dataset.height(), dataset.width(), dataset.channels()), (3, 4, 1));
    assert_eq!(dataset.name(), folder.path().file_name().unwrap().to_str().unwrap());
}

#[test]
fn gzipped_files_equal_plain_ones() {
    let dataset = load_dir(right_folder(Packing::Gzip).path()).unwrap();
    for file in IdxFile::ALL {
        let mut bytes = Vec::new();
        dataset.write_idx(file, &mut bytes).unwrap();
        assert_eq!(bytes, right(file));
    }
}

#[test]
fn plain_files_take_precedence_over_gzipped_ones() {
    let folder = right_folder(Packing::Plain);
    fs::write(packed(&folder, IdxFile::TrainImages), "not gzip").unwrap();
    load_dir(folder.path()).unwrap();
}

#[test]
fn all_members_of_a_gzip_file_are_read() {
    let folder = right_folder(Packing::Gzip);
    let bytes = right(IdxFile::TrainImages);
    let members = [gzip(&bytes[..50]), gzip(&bytes[50..])].concat();
    fs::write(packed(&folder, IdxFile::TrainImages), members).unwrap();
    load_dir(folder.path()).unwrap();
}

#[test]
fn a_missing_file_is_named_with_and_without_gz() {
    let folder = right_folder(Packing::Plain);
    fs::remove_file(plain(&folder, IdxFile::TestLabels)).unwrap();
    let error = load_dir(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Absent { .. }));
    assert!(
        error.to_string().starts_with("expected t10k-labels-idx1-ubyte (or the same with .gz) in ")
            && error.to_string().ends_with(
                ", got t10k-images-idx3-ubyte, train-images-idx3-ubyte, train-labels-idx1-ubyte"
            ),
        "{error}"
    );
}

#[test]
fn errors_describe_a_file_of_the_wrong_kind() {
    let images = "expected images: unsigned bytes in 3 or 4 dimensions, got ";
    let cases: [(Vec<u8>, &str); 6] = [
        (right(IdxFile::TestLabels), "unsigned bytes in 1 dimension"),
        (idx(&[0xb03, 1, 1, 1], &[0; 2]), "int16 numbers in 3 dimensions"),
        (idx(&[0xd03, 1, 1, 1], &[0; 4]), "float32 numbers in 3 dimensions"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "a Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>".to_vec(), "a web page"),
        (b"anything else".to_vec(), "a file that begins with 0x616e7974"),
    ];
    for (bytes, got) in cases {
        for error in errors(IdxFile::TestImages, &bytes, &format!("{images}{got}")) {
            assert!(matches!(error, Error::Kind { .. }));
        }
    }
    errors(
        IdxFile::TestLabels,
        &right(IdxFile::TestImages),
        "expected labels: unsigned bytes in 1 dimension, got unsigned bytes in 3 dimensions",
    );
    errors(
        IdxFile::TrainImages,
        &idx(&[0x804, 12, 5, 4, 2], &[0; 480]),
        "expected images of 1 or 3 channels, in the last dimension or the second, got dimensions [12, 5, 4, 2]",
    );
}

#[test]
fn junk_after_a_gzip_stream_is_an_error() {
    for junk in [&b"x"[..], &[0; 4096]] {
        let folder = right_folder(Packing::Gzip);
        let bytes = [&gzip(&right(IdxFile::TestImages)), junk].concat();
        fs::write(packed(&folder, IdxFile::TestImages), bytes).unwrap();
        let error = load_dir(folder.path()).unwrap_err().to_string();
        let text = "expected the gzip stream to end after its checksum, got other bytes behind it";
        assert!(error.contains(text), "{error}");
    }
}

#[test]
fn gzip_is_detected_by_content_not_name() {
    let folder = right_folder(Packing::Plain);
    let file = IdxFile::TrainImages;
    fs::write(plain(&folder, file), gzip(&right(file))).unwrap();
    let same = load_dir(right_folder(Packing::Plain).path()).unwrap();
    let dataset = load_dir(folder.path()).unwrap();
    for index in 0..TRAIN as usize {
        let image = |dataset: &Dataset| dataset.split(Split::Train).image(index).unwrap();
        assert_eq!(image(&dataset), image(&same));
    }
}

#[test]
fn names_of_torchvision_and_other_unpackers_are_found() {
    for (below, dot) in [("raw", '-'), ("MNIST/raw", '-'), ("", '.')] {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join(below);
        fs::create_dir_all(&place).unwrap();
        for file in IdxFile::ALL {
            let name = file.name().replace("-idx", &format!("{dot}idx"));
            fs::write(place.join(name), right(file)).unwrap();
        }
        assert_eq!(load_dir(folder.path()).unwrap().split(Split::Train).len(), TRAIN as usize);
        assert!(holds_idx(folder.path()));
    }
    assert!(!holds_idx(tempfile::tempdir().unwrap().path()));
}

#[test]
fn colour_is_read_in_either_order_of_dimensions() {
    let shape = |dims: [u32; 3], pixels: &dyn Fn(u32) -> u8| {
        let folder = tempfile::tempdir().unwrap();
        for (set, count) in [("train", 2), ("t10k", 1)] {
            let [a, b, c] = dims;
            let body: Vec<u8> = (0..count * a * b * c).map(pixels).collect();
            let write = |name: &str, bytes| {
                fs::write(folder.path().join(format!("{set}-{name}-ubyte")), bytes).unwrap();
            };
            write("images-idx4", idx(&[0x804, count, a, b, c], &body));
            write("labels-idx1", idx(&[0x801, count], &vec![0; count as usize]));
        }
        let dataset = load_dir(folder.path()).unwrap();
        (dataset.split(Split::Train).shape(), dataset.split(Split::Train).image(1).unwrap())
    };
    let last = shape([4, 5, 3], &|at| (at % 3) as u8);
    let first = shape([3, 4, 5], &|at| (at / 20 % 3) as u8);
    assert_eq!(last.0, (3, 4, 5));
    assert_eq!(last, first);
}

#[test]
fn emnist_letters_are_transposed_and_named() {
    let folder = tempfile::tempdir().unwrap();
    for (set, count) in [("train", 3), ("test", 2)] {
        let name = |what: &str| folder.path().join(format!("emnist-letters-{set}-{what}-ubyte"));
        let pixels: Vec<u8> = (0..count * 6).map(|at| (at % 6) as u8).collect();
        fs::write(name("images-idx3"), idx(&[0x803, count, 2, 3], &pixels)).unwrap();
        let labels: Vec<u8> = (1..=count as u8).collect();
        fs::write(name("labels-idx1"), gzip(&idx(&[0x801, count], &labels))).unwrap();
    }
    fs::write(folder.path().join("emnist-letters-mapping.txt"), "1 65 97\n2 66 98\n").unwrap();
    let dataset = load_dir(folder.path()).unwrap();
    assert_eq!(dataset.class_names(), ["0", "A", "B", "3"]);
    let train = dataset.split(Split::Train);
    assert_eq!((train.shape(), train.label(0)), ((1, 3, 2), 1));
    assert_eq!(train.image(2).unwrap(), [0, 3, 1, 4, 2, 5]);
    // With another dataset's files beside it, the choice is ambiguous.
    fs::write(folder.path().join("emnist-digits-test-labels-idx1-ubyte"), "").unwrap();
    let error = load_dir(folder.path()).unwrap_err().to_string();
    assert!(
        error.ends_with("one dataset, got files of emnist-digits-, emnist-letters-"),
        "{error}"
    );
}

#[test]
fn a_file_cut_anywhere_is_truncated() {
    for file in [IdxFile::TrainImages, IdxFile::TrainLabels] {
        let bytes = right(file);
        for len in 0..bytes.len() {
            for error in errors(file, &bytes[..len], &format!("got {len}")) {
                assert!(matches!(error, Error::Truncated { .. }), "{error}");
            }
        }
    }
}

#[test]
fn a_gzip_stream_cut_anywhere_is_an_error() {
    let bytes = gzip(&right(IdxFile::TestImages));
    for len in 0..bytes.len() {
        let folder = right_folder(Packing::Gzip);
        fs::write(packed(&folder, IdxFile::TestImages), &bytes[..len]).unwrap();
        let error = load_dir(folder.path()).unwrap_err();
        assert!(error.to_string().contains(IdxFile::TestImages.name()), "{error}");
    }
}

#[test]
fn a_wrong_gzip_checksum_is_an_error() {
    let folder = right_folder(Packing::Gzip);
    let mut bytes = gzip(&right(IdxFile::TestImages));
    let sum = bytes.len() - 8;
    bytes[sum] ^= 1;
    fs::write(packed(&folder, IdxFile::TestImages), bytes).unwrap();
    let error = load_dir(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
}

#[test]
fn bytes_after_the_end_are_an_error() {
    for file in IdxFile::ALL {
        let mut bytes = right(file);
        let text = format!("expected {} bytes (unpacked), got more", bytes.len());
        bytes.push(0);
        for error in errors(file, &bytes, &text) {
            assert!(matches!(error, Error::TrailingBytes { .. }));
        }
    }
}

#[test]
fn training_labels_set_the_number_of_classes() {
    let mut bytes = right(IdxFile::TrainLabels);
    bytes[8 + 5] = 200;
    let folder = folder_but(Packing::Plain, IdxFile::TrainLabels, &bytes);
    let dataset = load_dir(folder.path()).unwrap();
    assert_eq!((dataset.classes(), &*dataset.class_names()[200]), (201, "200"));
}

#[test]
fn a_test_label_beyond_the_training_classes_is_an_error_with_its_index() {
    let mut bytes = right(IdxFile::TestLabels);
    bytes[8 + 3] = 10;
    let text = "expected labels below 10 as in the training split, got 10 at index 3";
    errors(IdxFile::TestLabels, &bytes, text);
}

#[test]
fn differing_counts_are_an_error_naming_both_files() {
    let bytes = idx(&[0x801, TRAIN - 1], &[0; TRAIN as usize - 1]);
    for error in errors(IdxFile::TrainLabels, &bytes, "the 12 images of") {
        assert!(error.to_string().contains(IdxFile::TrainImages.name()));
        assert!(error.to_string().contains("got 11 in"));
    }
}

#[test]
fn test_images_of_different_size_are_an_error() {
    let bytes = idx(&[0x803, TEST, WIDTH, HEIGHT], &[0; (TEST * WIDTH * HEIGHT) as usize]);
    errors(
        IdxFile::TestImages,
        &bytes,
        "expected images of 3x4 px as in the training split, got 4x3 px",
    );
}

#[test]
fn images_without_pixels_are_an_error() {
    for dims in [[0, 3, 4], [12, 0, 4], [12, 3, 0]] {
        let bytes = idx(&[0x803, dims[0], dims[1], dims[2]], &[]);
        for error in errors(IdxFile::TrainImages, &bytes, "expected at least 1 image") {
            assert!(matches!(error, Error::NoPixels { .. }));
        }
    }
}

#[test]
fn a_header_whose_product_overflows_is_an_error() {
    for dims in [[u32::MAX; 3], [1 << 24, 1 << 20, 1 << 20], [1, 1 << 16, (1 << 16) + 1]] {
        let bytes = idx(&[0x803, dims[0], dims[1], dims[2]], &[0; 100]);
        for error in
            errors(IdxFile::TrainImages, &bytes, "expected at most 4294967296 bytes of pixels")
        {
            assert!(matches!(error, Error::TooLarge { .. }));
        }
    }
}

/// The header announces 3 GiB, the file has a hundred bytes: trusting it would allocate the memory.
#[test]
fn a_header_alone_allocates_no_memory() {
    let bytes = idx(&[0x803, TRAIN, 1 << 13, 1 << 15], &[0; 100]);
    let [plain, packed] = errors(IdxFile::TrainImages, &bytes, "expected");
    let text = "expected 3221225488 bytes (unpacked), got 116";
    assert!(
        matches!(plain, Error::Truncated { .. }) && plain.to_string().contains(text),
        "{plain}"
    );
    let text = "expected at most 67108864 bytes unpacked, got a header that announces 3221225488";
    assert!(
        matches!(packed, Error::TooPacked { .. }) && packed.to_string().contains(text),
        "{packed}"
    );
}

/// 64 MB of zeros after the announced 144 bytes.
#[test]
fn a_gzip_bomb_stops_at_the_announced_length() {
    let folder = right_folder(Packing::Gzip);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&right(IdxFile::TrainImages)).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    fs::write(packed(&folder, IdxFile::TrainImages), encoder.finish().unwrap()).unwrap();
    let error = load_dir(folder.path()).unwrap_err();
    assert!(matches!(error, Error::TrailingBytes { .. }), "{error}");
}
