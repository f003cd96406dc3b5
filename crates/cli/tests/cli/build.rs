// SPDX-License-Identifier: MIT OR Apache-2.0
//! `build`, and `check`, `extract` and `diff` of what it made.

use crate::{Scratch, command, run};
use std::fs;

#[test]
fn what_is_built_comes_back() {
    for options in [
        "",
        "--compress lz4hc,9 --pcluster-size 64K --workers 2",
        "-z zstd,3 -C 16K --no-inline-tails",
        "-z deflate --legacy-indexes",
        "-z lzma,1",
        "--chunk-size 4K --chunk-entries indexes",
        "--block-size 1K --inodes extended",
        "-b 65536 -z lz4",
    ] {
        let scratch = Scratch::new();
        let image = scratch.image(options);
        let checked = run("check {}", &[&image]).ok();
        assert!(checked.contains("clean: 0 errors, 0 warnings"), "{options}: {checked}");
        assert_eq!(run("diff {} {}", &[&image, &scratch.tree()]).ok(), "", "{options}");
        let target = scratch.path("extracted");
        run("extract {} -C {} --workers 2", &[&image, &target]).ok();
        assert_eq!(run("diff {} {}", &[&target, &image]).ok(), "", "{options}");
    }
}

#[test]
fn data_in_a_blob() {
    let scratch = Scratch::new();
    let (image, blob) = (scratch.path("i"), scratch.path("b"));
    run("build {} -o {} --chunk-size 4K --blob {}", &[&scratch.tree(), &image, &blob]).ok();
    let error = run("check {}", &[&image]).fails(8);
    assert!(error.contains("--device"), "{error}");
    run("check {} --device {}", &[&image, &blob]).ok();
    run("diff {} {} --device {}", &[&image, &scratch.tree(), &blob]).ok();
    let text = run("cat {} --device={} /small", &[&image, &blob]).ok();
    assert_eq!(text, "small\n");
    let error = run("build {} -o {} --blob {}", &[&scratch.tree(), &image, &blob]).fails(1);
    assert!(error.contains("--chunk-size"), "{error}");
}

#[test]
fn the_same_bytes_for_any_number_of_workers() {
    let scratch = Scratch::new();
    let mut images = Vec::new();
    for workers in ["1", "2", "7"] {
        images.push(fs::read(scratch.image(&format!("-z lz4 -T 0 -j {workers}"))).unwrap());
    }
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    let words = ["build", "-q", "-o"].map(std::ffi::OsStr::new);
    let (image, tree) = (scratch.path("epoch"), scratch.tree());
    for epoch in ["1000000000", "nonsense"] {
        let mut command = command(&words);
        command.arg(&image).arg(&tree).env("SOURCE_DATE_EPOCH", epoch);
        assert_eq!(command.status().unwrap().success(), epoch != "nonsense");
    }
    let listed = run("ls -l {}", &[&image]).ok();
    assert!(listed.contains("2001-09-09 01:46:40 small"), "{listed}");
}

#[test]
fn what_goes_in() {
    let scratch = Scratch::new();
    let image = scratch.image("--exclude dir/text --exclude-regex \\.o$ --all-root --uid-offset 7");
    let listed = run("ls -R {}", &[&image]).ok();
    assert!(!listed.contains("text") && !listed.contains("skip.o"), "{listed}");
    let json = run("stat --json {} /small /dir", &[&image]).ok();
    assert_eq!(json.matches("\"uid\":7").count(), 2, "{json}");
    let image =
        scratch.image("--hard-dereference -L label -U 00010203-0405-0607-0809-0a0b0c0d0e0f");
    assert!(run("stat {} /small", &[&image]).ok().contains("Links: 1"));
    let dump = run("dump {}", &[&image]).ok();
    assert!(dump.contains("label               label"), "{dump}");
    assert!(dump.contains("00010203-0405-0607-0809-0a0b0c0d0e0f"), "{dump}");
}

#[test]
fn hints_change_sizes() {
    let scratch = Scratch::new();
    let hints = scratch.path("hints");
    fs::write(&hints, "0 text$\n").unwrap();
    let image = scratch.path("i");
    run("build {} -o {} -z lz4 --hints {}", &[&scratch.tree(), &image, &hints]).ok();
    assert!(run("stat {} /dir/text", &[&image]).ok().contains("flat"));
    fs::write(&hints, "0\n").unwrap();
    let error =
        run("build {} -o {} -z lz4 --hints {}", &[&scratch.tree(), &image, &hints]).fails(1);
    assert!(error.contains("line 1"), "{error}");
}

#[test]
fn failures_leave_what_was_there() {
    let scratch = Scratch::new();
    let image = scratch.path("image.erofs");
    fs::write(&image, "precious").unwrap();
    for options in [
        "-z unknown",
        "-z lz4,99",
        "-b 1000",
        "-C 5000 -z lz4",
        "--chunk-size 4K -z lz4",
        "-L a-name-that-is-too-long",
        "-U nonsense",
        "--exclude-regex (",
        "-j 0",
    ] {
        let line = format!("build {{}} -o {{}} {options}");
        let error = run(&line, &[&scratch.tree(), &image]).fails(1);
        assert!(!error.is_empty(), "{options}");
        assert_eq!(fs::read(&image).unwrap(), b"precious", "{options}");
    }
    let missing = scratch.path("missing");
    let error = run("build {} -o {}", &[&missing, &image]).fails(1);
    assert!(error.contains("missing"), "{error}");
    let error = run("build {} -o {}", &[&scratch.path("tree/small"), &image]).fails(1);
    assert!(error.contains("not a directory") || error.contains("Not a directory"), "{error}");
    let nowhere = scratch.path("no/such/folder/image");
    run("build {} -o {}", &[&scratch.tree(), &nowhere]).fails(1);
    assert_eq!(fs::read(&image).unwrap(), b"precious");
    // Only what was there is there: no half-written files.
    assert_eq!(fs::read_dir(scratch.folder.path()).unwrap().count(), 2);
}

#[test]
fn an_image_inside_its_source_is_left_out() {
    let scratch = Scratch::new();
    let image = scratch.path("tree/image.erofs");
    fs::write(&image, "old").unwrap();
    let ended = run("build {} -o {}", &[&scratch.tree(), &image]);
    assert!(ended.err.contains("left out"), "{}", ended.err);
    ended.ok();
    assert!(!run("ls {}", &[&image]).ok().contains("image.erofs"));
}

#[test]
fn summaries() {
    let scratch = Scratch::new();
    let image = scratch.path("i");
    let json = run("build {} -o {} --json -z lz4", &[&scratch.tree(), &image]).ok();
    for part in ["\"files\": 5", "\"hard_links\": 1", "\"compressed_files\": 1", "\"uuid\": \""] {
        assert!(json.contains(part), "{part}: {json}");
    }
    let text = run("build {} -o {}", &[&scratch.tree(), &image]).ok();
    assert!(text.contains("5 files, 3 directories, 1 symbolic links"), "{text}");
    assert_eq!(run("build {} -o {} -q", &[&scratch.tree(), &image]).ok(), "");
}

/// What the reports of building, checking and unpacking call a directory is the same.
#[test]
fn reports_agree() {
    let scratch = Scratch::new();
    let image = scratch.path("i");
    let built = run("build {} -o {} --json", &[&scratch.tree(), &image]).ok();
    let checked = run("check {} --json", &[&image]).ok();
    let extracted = run("extract {} -C {} --json", &[&image, &scratch.path("out")]).ok();
    for report in [built, checked, extracted] {
        assert!(report.contains("\"directories\": 3,"), "{report}");
    }
}

/// Ctrl-C: the old image stays, nothing else does, and the exit code is that of shells.
#[test]
fn an_interrupted_build_leaves_what_was_there() {
    use std::os::unix::process::ExitStatusExt;
    let scratch = Scratch::new();
    let (tree, image) = (scratch.path("big"), scratch.path("i"));
    fs::create_dir(&tree).unwrap();
    fs::write(&image, "precious").unwrap();
    let mut state = 1u64;
    for index in 0..64 {
        let words = (0..256 << 10).flat_map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            [b'a' + (state >> 60) as u8, b'e', b' ', b'a' + (state >> 56) as u8 % 7]
        });
        fs::write(tree.join(index.to_string()), words.collect::<Vec<u8>>()).unwrap();
    }
    let words = ["build".as_ref(), tree.as_os_str(), "-o".as_ref(), image.as_os_str()];
    let slow = ["-z", "zstd,19", "-C", "1M", "-j", "1"].map(std::ffi::OsStr::new);
    let mut child = crate::command(&[&words[..], &slow[..]].concat()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(1));
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let status = child.wait().unwrap();
    // On a slow machine it may not have begun to write: then the signal ends it as always.
    assert!(status.code() == Some(130) || status.signal() == Some(2), "{status:?}");
    assert_eq!(fs::read(&image).unwrap(), b"precious");
    assert_eq!(fs::read_dir(scratch.folder.path()).unwrap().count(), 3);
}
