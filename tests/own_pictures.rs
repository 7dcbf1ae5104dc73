//! Training on the user's own pictures: folders of classes and CSV files, valid and invalid.

use std::fs;

use image::{ImageFormat, Rgb, RgbImage};
use serde_json::Value;

#[cfg(target_os = "linux")]
use crate::memory::measured;
use crate::png_file::{Header, png};
use crate::running::Running;
use crate::small_run::checkpoints;
use crate::support::{Outcome, Sandbox, json_lines};

/// Each class has its own colour; every picture has another size and shade.
fn picture(class: usize, number: u32) -> RgbImage {
    let shade = (40 * class + 7 * number as usize) as u8;
    let colour = |x: u32, y: u32| match class {
        0 => Rgb([200, shade, (x + number) as u8]),
        1 => Rgb([shade, 200, (y + number) as u8]),
        _ => Rgb([(x + y) as u8, shade, 200]),
    };
    RgbImage::from_fn(50 + number % 7, 60 - number % 5, colour)
}

fn write(sandbox: &Sandbox, name: &str, picture: &RgbImage) {
    let path = sandbox.path(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a writable folder");
    picture.save_with_format(path, ImageFormat::Png).expect("a writable folder");
}

const CLASSES: [&str; 3] = ["daisy", "rose", "tulip"];

/// `flowers/CLASS/N.png`, 20 of each class.
pub(crate) fn flowers(sandbox: &Sandbox) {
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..20 {
            write(sandbox, &format!("flowers/{name}/{number}.png"), &picture(class, number));
        }
    }
}

pub(crate) const SMALL: &str = "--image-size 16 --batch-size 16 --max-steps 6";

#[test]
fn a_folder_of_pictures_gives_a_model_with_class_names_and_a_report() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    sandbox.write("flowers/.DS_Store", "no picture");
    sandbox.write("flowers/rose/Thumbs.db", "no picture");
    let trained = sandbox.run(&format!("train --dataset flowers {SMALL} --run-dir run"));
    let stderr = trained.succeeded().stderr;
    assert!(stderr.contains("flowers: drew 12 of 60 pictures as the test split"), "{stderr}");
    let result = sandbox.run("eval run --json").succeeded().json();
    let names: Vec<&Value> =
        result["classes"].as_array().expect("classes").iter().map(|class| &class["name"]).collect();
    assert_eq!(names, CLASSES);
    assert_eq!((&result["samples"], &result["split"]), (&12.into(), &"test".into()));
    let predicted = sandbox.run("predict run flowers/rose/3.png --top-k 3").succeeded().json();
    let class = predicted["class"].as_u64().expect("a class") as usize;
    assert_eq!(predicted["name"], CLASSES[class]);
    sandbox.run("explain run flowers/tulip/3.png -o e.png").succeeded();
    let page = String::from_utf8(sandbox.read("run/report.html")).expect("a page");
    assert!(page.contains("tulip") && !page.contains("NaN"));
}

/// The same number of classes with other names: the old head would start from wrong associations.
#[test]
fn other_class_names_require_a_new_head() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    sandbox.run(&format!("train --dataset flowers {SMALL} --run-dir run")).succeeded();
    for (class, name) in ["cup", "fork", "spoon"].iter().enumerate() {
        for number in 0..8 {
            write(&sandbox, &format!("table/{name}/{number}.png"), &picture(class, number));
        }
    }
    let words = "train --dataset table --init run --batch-size 8 --max-steps 1 --run-dir next";
    let refusal = sandbox.refuses(2, words).saying(&["class 0 is \"daisy\"", "\"cup\""]);
    assert!(refusal.hint.contains("pass --new-head"), "{}", refusal.hint);
    let log = sandbox.run(&format!("{words} --new-head")).succeeded().stderr;
    assert!(log.contains("the head is new: 3 classes, run has 3"), "{log}");
}

#[test]
fn a_folder_does_not_hide_a_named_dataset() {
    let sandbox = Sandbox::new();
    for name in ["digits/a/1.png", "digits/b/1.png"] {
        write(&sandbox, name, &picture(0, 1));
    }
    fs::create_dir(sandbox.path("mnist")).unwrap();
    fs::write(sandbox.path("mnist/batches.meta.txt"), []).unwrap();
    for (dataset, preset) in
        [("digits", "shallow"), ("digits/", "pictures-64"), ("mnist", "shallow")]
    {
        let config = sandbox.run(&format!("config --dataset {dataset}")).succeeded().stdout;
        assert!(config.starts_with(&format!("preset = \"{preset}\"\n")), "{dataset}: {config}");
    }
}

/// A test picture gives the same prediction from its file and from the dataset.
#[test]
fn predict_reads_a_file_like_an_evaluation() {
    let sandbox = Sandbox::new();
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..8 {
            write(&sandbox, &format!("parts/train/{name}/{number}.png"), &picture(class, number));
        }
        write(&sandbox, &format!("parts/test/{name}/0.png"), &picture(class, 9));
    }
    let words = "train --dataset parts --normalize imagenet --image-size 16 --batch-size 8 --max-steps 3 --run-dir run";
    sandbox.run(words).succeeded();
    let by_set = sandbox.run("predict run --dataset parts --split test").succeeded().stdout;
    let files = CLASSES.map(|name| format!("parts/test/{name}/0.png")).join(" ");
    let by_file = sandbox.run(&format!("predict run {files}")).succeeded().stdout;
    let [by_set, by_file] = [by_set, by_file].map(json_lines);
    assert_eq!(by_set.len(), 3);
    for (set, file) in by_set.iter().zip(&by_file) {
        let pairs =
            [set, file].map(|line| line["probabilities"].as_array().expect("numbers").clone());
        for (a, b) in pairs[0].iter().zip(&pairs[1]) {
            let [a, b] = [a, b].map(|value| value.as_f64().expect("a number"));
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn threads_cache_and_a_kill_do_not_change_the_model() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    sandbox.write("off.toml", "[data]\ncache = false\n");
    let train = |words: &str, name: &str| {
        let run = "--image-size 16 --batch-size 16 --max-steps 30 --save-every 3 --run-dir";
        sandbox.command(&format!("train --dataset flowers {run} {name} {words}"))
    };
    let model = |name: &str| sandbox.read(&format!("{name}/model.safetensors"));
    let trained = |words: &str, name: &str| {
        Outcome::of(&train(words, name).output().expect("vit runs")).succeeded();
        model(name)
    };
    let cold = trained("--threads 1", "cold");
    assert!(trained("--threads 3", "warm") == cold);
    assert!(trained("--config off.toml", "off") == cold);
    let mut killed = Running::start(&mut train("", "killed"));
    killed.wait_until(|| !checkpoints(&sandbox, "killed").is_empty());
    killed.child().kill().expect("a running child");
    killed.child().wait().expect("a killed child");
    assert!(checkpoints(&sandbox, "killed").last() < Some(&30), "the run ended before the kill");
    sandbox.run("train --resume killed --threads 3").succeeded();
    assert!(model("killed") == cold);
}

#[test]
fn truncated_or_foreign_caches_are_rebuilt() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    let train = |name: &str| {
        let words = format!("train --dataset flowers {SMALL} --data-dir data --run-dir {name}");
        sandbox.run(&words).succeeded();
        sandbox.read(&format!("{name}/model.safetensors"))
    };
    let first = train("first");
    let caches = || {
        let entries = fs::read_dir(sandbox.path("data/pictures")).expect("a folder of caches");
        entries.map(|entry| entry.expect("an entry").path()).collect::<Vec<_>>()
    };
    let [cache] = &caches()[..] else { panic!("expected one cache") };
    let bytes = fs::read(cache).expect("the cache");
    fs::write(cache, &bytes[..bytes.len() / 2]).expect("a writable file");
    assert!(train("again") == first);
    assert!(fs::read(cache).expect("the cache") == bytes);
    write(&sandbox, "flowers/rose/3.png", &picture(1, 40));
    assert!(train("changed") != first);
    assert_eq!(caches().len(), 2);
    // A cache of other files under this name.
    let other = caches().into_iter().find(|path| path != cache).expect("another cache");
    fs::copy(cache, &other).expect("a writable file");
    let changed = sandbox.read("changed/model.safetensors");
    assert!(train("once-more") == changed);
    let resumed = sandbox.run("train --resume first --max-steps 7 --data-dir data");
    assert_eq!(resumed.code, Some(3));
    assert!(resumed.stderr.contains("the dataset has changed"), "{}", resumed.stderr);
}

#[test]
fn the_model_file_contains_the_preprocessing() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    let words = format!("train --dataset flowers {SMALL}");
    sandbox.run(&format!("{words} --run-dir usual")).succeeded();
    let data = "[data]\nresize = 40\ncrop = 0.5\ninterpolation = \"bilinear\"\n";
    sandbox.write("scaled.toml", data);
    sandbox.run(&format!("{words} --config scaled.toml --run-dir scaled")).succeeded();
    let model = |run: &str| sandbox.read(&format!("{run}/model.safetensors"));
    assert!(model("usual") != model("scaled"));
    let header = String::from_utf8_lossy(&model("scaled")).into_owned();
    for said in [r#"\"resize\":32"#, r#"\"stored\":40"#, r#"\"interpolation\":\"bilinear\""#] {
        assert!(header.contains(said), "{said}");
    }
    // The file alone reads a dataset like its run.
    fs::copy(sandbox.path("scaled/model.safetensors"), sandbox.path("alone.safetensors"))
        .expect("a copy");
    let by = |model: &str| {
        sandbox.run(&format!("eval {model} --dataset flowers --json")).succeeded().json()
    };
    assert_eq!(by("scaled"), by("alone.safetensors"));
    let refused = |data: &str, said: &str| {
        sandbox.write("wrong.toml", format!("[data]\n{data}\n"));
        sandbox.refuses(2, &format!("{words} --config wrong.toml")).saying(&[said]);
    };
    refused("crop = 0", "expected data.crop above 0 and at most 1, got 0");
    refused("resize = 20\ncrop = 0.5", "expected data.resize of at least 32, got 20");
    refused("interpolation = \"cubic\"", "unknown variant `cubic`");
}

#[test]
fn a_csv_file_lists_pictures_labels_and_splits() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    let mut lines = "path,label,split\n".to_owned();
    for name in CLASSES {
        for number in 0..20 {
            let split = ["train", "train", "train", "val", "test"][number % 5];
            lines += &format!("flowers/{name}/{number}.png,\"{name}, red\",{split}\n");
        }
    }
    sandbox.write("list.csv", lines);
    sandbox.run(&format!("train --dataset list.csv {SMALL} --run-dir run")).succeeded();
    let epoch = json_lines(sandbox.read("run/metrics.jsonl")).pop().expect("an epoch");
    assert!(epoch["val_accuracy"].is_number() && epoch["test_accuracy"].is_number(), "{epoch}");
    let result = sandbox.run("eval run --json").succeeded().json();
    assert_eq!(
        (&result["samples"], &result["classes"][1]["name"]),
        (&12.into(), &"rose, red".into())
    );
    sandbox.write("list.csv", "path,label\nflowers/rose/1.png\n");
    let refusal = sandbox.refuses(3, "train --dataset list.csv");
    refusal.saying(&["list.csv:2: expected a cell for each column, got 1 cells for 2"]);
    sandbox.write("list.csv", "file,class\n");
    sandbox.refuses(3, "train --dataset list.csv").saying(&[
        "list.csv:1: expected a heading with the columns path and label, got file,class",
    ]);
}

#[test]
fn without_a_test_split_no_test_accuracy_is_printed() {
    let sandbox = Sandbox::new();
    for (class, name) in CLASSES.iter().enumerate() {
        for number in 0..8 {
            write(&sandbox, &format!("parts/train/{name}/{number}.png"), &picture(class, number));
        }
        write(&sandbox, &format!("parts/valid/{name}/0.png"), &picture(class, 9));
    }
    let words = "train --dataset parts --image-size 16 --batch-size 8 --max-steps 3 --run-dir run";
    let outcome = sandbox.run(words).succeeded();
    assert!(
        outcome.stdout.contains("val accuracy") && !outcome.stdout.contains("test"),
        "{outcome:?}"
    );
    assert!(!outcome.stderr.contains("NaN"), "{}", outcome.stderr);
    assert!(sandbox.path("run/best.safetensors").exists() || sandbox.path("run/best").exists());
    assert_eq!(sandbox.run("eval run --json").succeeded().json()["split"], "validation");
}

#[test]
fn unreadable_pictures_end_the_run_or_are_skipped() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    sandbox.write("flowers/rose/text.png", "not a picture");
    sandbox.write("flowers/tulip/empty.jpg", "");
    let whole = sandbox.read("flowers/rose/1.png");
    sandbox.write("flowers/rose/cut.png", &whole[..whole.len() / 2]);
    let whole = include_bytes!("fixtures/jpeg/420.jpg");
    sandbox.write("flowers/rose/cut.jpg", &whole[..whole.len() / 2]);
    let refusal = sandbox.run("train --dataset flowers --image-size 16");
    assert_eq!(refusal.code, Some(3));
    for said in ["4 of 64 pictures cannot be read", "text.png (expected a PNG", "--skip-unreadable"]
    {
        assert!(refusal.stderr.contains(said), "{}", refusal.stderr);
    }
    let words = format!("train --dataset flowers {SMALL} --skip-unreadable --run-dir run");
    sandbox.run(&words).succeeded();
    let skipped = String::from_utf8(sandbox.read("run/skipped.txt")).expect("text");
    assert_eq!(skipped.lines().count(), 4, "{skipped}");
}

#[test]
fn tiny_pictures_train_and_huge_ones_are_rejected() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    write(&sandbox, "flowers/rose/dot.png", &RgbImage::from_pixel(1, 1, Rgb([200, 10, 60])));
    let trained = sandbox.run(&format!("train --dataset flowers {SMALL} --run-dir dot"));
    assert!(trained.succeeded().stderr.contains("of 61 pictures"));
    sandbox.run("predict dot flowers/rose/dot.png").succeeded();
    let header = Header { width: 30_000, height: 30_000, depth: 8, colour: 2, interlaced: false };
    sandbox.write("flowers/rose/vast.png", png(&header, &[(b"IDAT", vec![0x78, 0x9C])]));
    let refusal = sandbox.run(&format!("train --dataset flowers {SMALL}"));
    assert_eq!(refusal.code, Some(3));
    for said in ["vast.png", "expected at most 67,108,864 pixels, got 30000x30000"] {
        assert!(refusal.stderr.contains(said), "{}", refusal.stderr);
    }
    let words = format!("train --dataset flowers {SMALL} --skip-unreadable --run-dir run");
    sandbox.run(&words).succeeded();
    let skipped = String::from_utf8(sandbox.read("run/skipped.txt")).expect("text");
    assert!(skipped.lines().count() == 1 && skipped.contains("vast.png"), "{skipped}");
}

#[test]
fn too_many_classes_are_rejected_with_their_number() {
    let sandbox = Sandbox::new();
    let lines: String =
        (0..100_000).map(|class| format!("pictures/{class}.png,class {class}\n")).collect();
    sandbox.write("many.csv", format!("path,label\n{lines}"));
    sandbox
        .refuses(3, "train --dataset many.csv")
        .saying(&["many.csv: expected 2 to 65536 classes, got 100000, the first \"class 0\""]);
}

#[test]
fn with_a_cache_changes_of_the_folder_do_not_affect_the_run() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    let words = "train --dataset flowers --image-size 16 --batch-size 16 --epochs 15 --run-dir";
    sandbox.run(&format!("{words} whole")).succeeded();
    let mut running = Running::start(&mut sandbox.command(&format!("{words} changed")));
    let metrics = sandbox.path("changed/metrics.jsonl");
    running.wait_until(|| fs::metadata(&metrics).is_ok_and(|it| it.len() > 0));
    fs::remove_dir_all(sandbox.path("flowers/rose")).expect("a writable folder");
    write(&sandbox, "flowers/tulip/3.png", &picture(0, 40));
    running.assert_is_running();
    running.end().succeeded();
    let model = |run: &str| sandbox.read(&format!("{run}/model.safetensors"));
    assert!(model("whole") == model("changed"));
}

#[test]
fn without_a_cache_removed_pictures_end_the_run() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    sandbox.write("off.toml", "[data]\ncache = false\n");
    let words = "train --dataset flowers --config off.toml --image-size 16 --batch-size 16 --epochs 4000 --run-dir run";
    let mut running = Running::start(&mut sandbox.command(words));
    let metrics = sandbox.path("run/metrics.jsonl");
    running.wait_until(|| fs::metadata(&metrics).is_ok_and(|it| it.len() > 0));
    fs::remove_dir_all(sandbox.path("flowers/rose")).expect("a writable folder");
    let outcome = running.end();
    assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("flowers/rose/"), "{}", outcome.stderr);
    assert!(sandbox.path("run/checkpoints/last").exists());
}

/// `VIT_MANY_PICTURES=100000` tries more.
#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_number_of_pictures() {
    let many = std::env::var("VIT_MANY_PICTURES").ok().and_then(|text| text.parse().ok());
    let many: u32 = many.unwrap_or(8000);
    let peak = |count: u32| {
        let sandbox = Sandbox::new();
        for class in 0..2 {
            for number in 0..count / 2 {
                let shade = |x: u32, y: u32| {
                    Rgb([(x + number) as u8, (y * (class + 1)) as u8, number as u8])
                };
                let split = if number < 10 { "test" } else { "train" };
                let name = format!("many/{split}/{class}/{number}.png");
                write(&sandbox, &name, &RgbImage::from_fn(64, 64, shade));
            }
        }
        let words = "-q train --dataset many --batch-size 32 --max-steps 4 --run-dir run";
        let measured = measured(&sandbox.command(words));
        assert_eq!(measured.code, Some(0), "{}", measured.stderr);
        measured.peak
    };
    let (few, many_of_them) = (peak(100), peak(many));
    let megabytes = many_of_them.saturating_sub(few) as f64 / 1e6;
    eprintln!("{megabytes:.1} MB more for {many} pictures");
    // The pixels of 8000 pictures are 98 MB. The allocator's arenas vary the peak by up to 40 MB; a path, a cache
    // entry and a label are less than 1 kB.
    let most = 55.0 + f64::from(many) * 0.001;
    assert!(megabytes < most, "{megabytes:.1} MB more for {many} pictures");
}

#[test]
fn duplicates_and_odd_classes_give_warnings() {
    let sandbox = Sandbox::new();
    for name in ["Rose", "rose"] {
        for number in 0..8 {
            let class = usize::from(name == "rose");
            write(&sandbox, &format!("odd/train/{name}/{number}.png"), &picture(class, number));
        }
    }
    write(&sandbox, "odd/test/rose/0.png", &picture(1, 3));
    let words = "train --dataset odd --image-size 16 --batch-size 8 --max-steps 2 --run-dir run";
    let stderr = sandbox.run(words).succeeded().stderr;
    for said in [
        "16 pictures of 2 classes are few to train on",
        "some of the 2 classes differ only in upper and lower case",
        "1 pictures occur in both the training and the test split",
    ] {
        assert!(stderr.contains(said), "expected {said:?} in {stderr}");
    }
}

#[test]
fn unsuitable_folders_are_rejected_with_advice() {
    let sandbox = Sandbox::new();
    let refused = |folder: &str, said: &str, hint: &str| {
        let outcome = sandbox.run(&format!("train --dataset {folder}"));
        assert_eq!(outcome.code, Some(3), "{}", outcome.stderr);
        for text in [said, hint] {
            assert!(outcome.stderr.contains(text), "expected {text:?} in {}", outcome.stderr);
        }
    };
    fs::create_dir_all(sandbox.path("empty")).expect("a writable folder");
    refused("empty", "expected a folder of pictures for each class, got nothing", "CLASS/...");
    write(&sandbox, "flat/1.png", &picture(0, 0));
    refused("flat", "expected a folder of pictures for each class, got 1.png", "CLASS/...");
    write(&sandbox, "one/a/1.png", &picture(0, 0));
    refused("one", "expected 2 to 65536 classes, got 1, the first \"a\"", "the folder above");
    write(&sandbox, "gap/a/1.png", &picture(0, 0));
    fs::create_dir_all(sandbox.path("gap/b")).expect("a writable folder");
    refused("gap", "expected pictures of each class, got none of \"b\"", "remove it");
    for name in ["new/train/a", "new/train/b", "new/test/c"] {
        write(&sandbox, &format!("{name}/1.png"), &picture(0, 0));
    }
    refused("new", "expected the classes of the training split, got \"c\" too", "train/");
}

/// A link to its parent would never end.
#[cfg(unix)]
#[test]
fn links_are_followed_once() {
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    std::os::unix::fs::symlink(sandbox.path("flowers/rose"), sandbox.path("flowers/rose/again"))
        .expect("a writable folder");
    let words = format!("train --dataset flowers {SMALL} --run-dir run");
    let stderr = sandbox.run(&words).succeeded().stderr;
    assert!(stderr.contains("12 of 60 pictures"), "{stderr}");
}

/// File names that Linux allows.
#[cfg(target_os = "linux")]
#[test]
fn names_that_are_not_utf8_are_rejected_for_classes_but_not_for_pictures() {
    use std::os::unix::ffi::OsStringExt;
    let sandbox = Sandbox::new();
    flowers(&sandbox);
    let odd = || std::ffi::OsString::from_vec(b"\xff.png".to_vec());
    let rose = sandbox.path("flowers/rose");
    fs::copy(rose.join("1.png"), rose.join(odd())).expect("a writable folder");
    let words = format!("train --dataset flowers {SMALL} --run-dir run");
    assert!(sandbox.run(&words).succeeded().stderr.contains("of 61 pictures"));
    fs::create_dir(sandbox.path("flowers").join(odd())).expect("a writable folder");
    let outcome = sandbox.run("train --dataset flowers");
    assert_eq!(outcome.code, Some(3));
    assert!(outcome.stderr.contains("expected a name in UTF-8 for a class"), "{}", outcome.stderr);
}
