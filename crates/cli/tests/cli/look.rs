// SPDX-License-Identifier: MIT OR Apache-2.0
//! Looking into images: `ls`, `cat`, `stat`, `dump`, `diff`, `check`, `extract`; errors and exit codes.

use crate::{FERROFS, Scratch, command, golden, is_root, run};
use ferrofs_tests::manifest::Manifest;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

#[test]
fn listings() {
    let scratch = Scratch::new();
    let image = scratch.image("");
    let names = run("ls {}", &[&image]).ok();
    assert_eq!(names, "a name with spaces\ndir\nempty\nlink\nsmall\n");
    assert_eq!(run("ls {} /dir/", &[&image]).ok(), "again\nsub\ntext\n");
    assert_eq!(run("ls {} dir/text", &[&image]).ok(), "text\n");
    let all = run("ls -R {}", &[&image]).ok();
    assert!(all.contains("/dir/sub/skip.o\n"), "{all}");
    let long = run("ls -l {}", &[&image]).ok();
    assert!(long.contains("drwxr-x--x") && long.contains("link -> dir/text"), "{long}");
    let json = run("ls --json {}", &[&image]).ok();
    assert_eq!(json.matches("\"path\":").count(), 5, "{json}");
    assert!(json.starts_with('[') && json.ends_with("]\n"));
    let error = run("ls {} /nope", &[&image]).fails(1);
    assert!(error.contains("/nope") && error.contains("\nhelp: "), "{error}");
}

/// JSON is JSON also where something is not there, and what is there is told.
#[test]
fn what_is_missing_leaves_json_whole() {
    let scratch = Scratch::new();
    let image = scratch.image("");
    let read = |words: &str, count: usize| {
        let ended = run(words, &[&image]);
        let json: serde_json::Value = serde_json::from_str(&ended.out)
            .unwrap_or_else(|error| panic!("{words}: {error}: {:?}", ended.out));
        assert_eq!(json.as_array().map(Vec::len), Some(count), "{words}");
        let error = ended.fails(1);
        assert!(error.contains("/nope"), "{error}");
    };
    read("ls --json {} /nope", 0);
    read("stat --json {} /nope", 0);
    read("stat --json {} /nope /small /nope/x /link", 2);
    let ended = run("stat {} /nope /small", &[&image]);
    assert!(ended.out.contains("File: /small"), "{}", ended.out);
    ended.fails(1);
}

/// Too little to be an image is told as such.
#[test]
fn what_is_too_short_is_told_so() {
    let scratch = Scratch::new();
    let short = scratch.path("short");
    for len in [0, 1023, 1151] {
        fs::write(&short, vec![0; len]).unwrap();
        let error = run("ls {}", &[&short]).fails(1);
        assert!(error.contains("ends before its superblock"), "{error}");
        assert!(error.contains("\nhelp: "), "{error}");
    }
}

#[test]
fn contents() {
    let scratch = Scratch::new();
    let image = scratch.image("-z lz4 -C 16K");
    let text = fs::read_to_string(scratch.path("tree/dir/text")).unwrap();
    assert_eq!(run("cat {} dir/text", &[&image]).ok(), text);
    assert_eq!(run("cat {} small /empty /small", &[&image]).ok(), "small\nsmall\n");
    let error = run("cat {} /dir", &[&image]).fails(1);
    assert!(error.contains("not a regular file"), "{error}");
    let stat = run("stat {} /dir/text /link", &[&image]).ok();
    assert!(stat.contains("compressed-compact") && stat.contains("/link -> dir/text"), "{stat}");
    assert!(run("stat --json {}", &[&image]).ok().contains("\"layout\":"));
}

#[test]
fn dumps() {
    let name = golden().image("lz4-64k");
    let text = run("dump {}", &[&name]).ok();
    for part in ["block size          4096", "0padding compr_cfgs", "lz4: window 65535"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let statistics = run("dump -S {}", &[&name]).ok();
    assert!(statistics.contains("type file") && statistics.contains("lz4 "), "{statistics}");
    let json = run("dump -s -S --extents / --json {}", &[&name]).ok();
    for part in ["\"superblock\"", "\"statistics\"", "\"files\"", "\"extents\""] {
        assert!(json.contains(part), "{part}: {json}");
    }
    let blob = golden().image("chunk-blobdev");
    assert!(run("dump {}", &[&blob]).ok().contains("device 1 "));
}

#[test]
fn golden_images_are_clean_and_come_out() {
    for name in ["lz4-dedupe-fragments-64k", "chunk-blobdev", "metabox-zstd", "48bit-zstd-64k"] {
        let image = golden().image(name);
        let devices = golden().devices(name);
        let mut line = String::from("{}");
        let mut paths = vec![image.as_path()];
        for device in &devices {
            line.push_str(" --device {}");
            paths.push(device);
        }
        run(&format!("check {line}"), &paths).ok();
        let folder = tempfile::tempdir().unwrap();
        paths.push(folder.path());
        let ended = run(&format!("extract {line} -C {{}}"), &paths);
        if !is_root() {
            println!("skipped: comparing owners and devices needs root");
            continue;
        }
        ended.ok();
        let found = Manifest::of_directory(folder.path()).unwrap();
        let differences = golden().manifest(name).differences(&found);
        assert!(differences.is_empty(), "{name}: {differences:?}");
    }
}

#[test]
fn check_has_the_codes_of_fsck() {
    let scratch = Scratch::new();
    let image = scratch.image("-z zstd");
    run("check {}", &[&image]).ok();
    assert_eq!(run("check -q {}", &[&image]).ok(), "");
    let mut bytes = fs::read(&image).unwrap();
    // The label, so that only the checksum is wrong.
    bytes[1024 + 64] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let ended = run("check --json {}", &[&image]);
    assert_eq!(ended.code, 4);
    assert!(ended.out.contains("EF0002"), "{}", ended.out);
    run("ls {}", &[&image]).fails(1);
    run("ls --ignore-checksum {}", &[&image]).ok();
    bytes[1024] ^= 1;
    fs::write(&image, &bytes).unwrap();
    let ended = run("check {}", &[&image]);
    assert_eq!(ended.code, 4);
    assert!(ended.out.contains("EF0001") && ended.out.contains("NOT CLEAN"), "{}", ended.out);
    run("check {}", &[&scratch.path("missing")]).fails(8);
    run("check --bogus {}", &[&image]).fails(16);
    run("check", &[]).fails(16);
}

#[test]
fn broken_content_is_told_and_the_rest_comes_out() {
    let scratch = Scratch::new();
    let image = scratch.image("-z zstd --block-size 4K");
    let extents = run("dump --json --extents /dir/text {}", &[&image]).ok();
    let address = extents.split("\"address\": ").nth(1).and_then(|text| text.split(',').next());
    let address: usize = address.expect("an address").trim().parse().unwrap();
    let mut bytes = fs::read(&image).unwrap();
    bytes[address..address + 4096].fill(0x55);
    fs::write(&image, &bytes).unwrap();
    let ended = run("check {}", &[&image]);
    assert_eq!(ended.code, 4);
    assert!(ended.out.contains("/dir/text"), "{}", ended.out);
    let error = run("cat {} /dir/text", &[&image]).fails(1);
    assert!(error.contains("corrupt image") && error.contains("help: ferrofs check"), "{error}");
    let target = scratch.path("out");
    let error = run("extract {} -C {}", &[&image, &target]).fails(1);
    assert!(error.contains("/dir/text"), "{error}");
    assert!(target.join("small").exists() && !target.join("dir/text").exists());
    let ended = run("diff {} {}", &[&image, &scratch.tree()]);
    assert_eq!(ended.code, 2, "{}{}", ended.out, ended.err);
}

#[test]
fn diff_has_the_codes_of_diff() {
    let scratch = Scratch::new();
    let image = scratch.image("");
    fs::write(scratch.path("tree/new"), "new").unwrap();
    fs::write(scratch.path("tree/small"), "SMALL\n").unwrap();
    fs::remove_file(scratch.path("tree/empty")).unwrap();
    let ended = run("diff --no-times {} {}", &[&image, &scratch.tree()]);
    assert_eq!(ended.code, 1);
    for line in ["- /empty\n", "+ /new\n", "M /small: content"] {
        assert!(ended.out.contains(line), "{line}: {}", ended.out);
    }
    let ended = run("diff --json {} {}", &[&image, &scratch.tree()]);
    assert_eq!(ended.code, 1);
    assert!(ended.out.contains("\"only-a\""), "{}", ended.out);
    let ended = run("diff -q {} {}", &[&image, &scratch.tree()]);
    assert_eq!((ended.code, ended.out.as_str()), (1, ""));
    run("diff {} {}", &[&image, &scratch.path("missing")]).fails(2);
    run("diff {} {}", &[&image, &image]).ok();
}

#[test]
fn parts_and_targets_of_extract() {
    let scratch = Scratch::new();
    let image = scratch.image("");
    let target = scratch.path("part");
    run("extract {} -C {} --path /dir", &[&image, &target]).ok();
    assert!(target.join("text").exists() && !target.join("small").exists());
    let error = run("extract {} -C {} --path /dir", &[&image, &target]).fails(1);
    assert!(error.contains("not empty") && error.contains("help: name another"), "{error}");
    run("extract {} -C {} --path /dir --overwrite", &[&image, &target]).ok();
    let json = run("extract {} -C {} --json", &[&image, &scratch.path("all")]).ok();
    assert!(json.contains("\"complete\": true"), "{json}");
    let bound = scratch.path("bound");
    let ended = run("extract {} -C {} --size-max 10", &[&image, &bound]);
    assert_eq!(ended.code, 1, "{}", ended.err);
}

#[test]
fn a_reader_gone_is_no_error() {
    let scratch = Scratch::new();
    fs::write(scratch.path("tree/big"), vec![7; 16 << 20]).unwrap();
    let image = scratch.image("");
    let words: [&OsStr; 3] = ["cat".as_ref(), image.as_ref(), "/big".as_ref()];
    let mut child = command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut byte = [0];
    child.stdout.take().unwrap().read_exact(&mut byte).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn errors_read_as_sentences() {
    let scratch = Scratch::new();
    let missing = scratch.path("missing");
    let error = run("ls {}", &[&missing]).fails(1);
    assert!(error.starts_with("ferrofs: cannot open "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
    let error = run("ls {}", &[&scratch.path("tree/dir/text")]).fails(1);
    assert!(error.contains("--offset"), "{error}");
    let error = run("cat {} x", &[&scratch.tree()]).fails(1);
    assert!(error.contains("directory"), "{error}");
    run("bogus", &[]).fails(1);
    run("", &[]).fails(1);
    let image = scratch.image("");
    let error = run("ls --device {} {}", &[&missing, &image]).fails(1);
    assert!(error.contains("missing"), "{error}");
    let error = run("ls --device {} {}", &[&image, &image]).fails(1);
    assert!(error.contains("0 extra devices"), "{error}");
}

#[test]
fn offsets() {
    let scratch = Scratch::new();
    let image = scratch.image("");
    let shifted = scratch.path("shifted");
    fs::write(&shifted, [vec![0; 12288], fs::read(&image).unwrap()].concat()).unwrap();
    assert_eq!(run("cat --offset 12K {} small", &[&shifted]).ok(), "small\n");
    run("check --offset 12288 {}", &[&shifted]).ok();
    run("diff --offset 12K {} {}", &[&shifted, &image]).ok();
}

#[test]
fn help_for_everything() {
    let help = run("--help", &[]).ok();
    for name in [
        "build",
        "check",
        "extract",
        "ls",
        "cat",
        "stat",
        "dump",
        "diff",
        "mount",
        "umount",
        "completions",
        "man",
    ] {
        assert!(help.contains(&format!("  {name} ")), "{name}: {help}");
        let help = run(&format!("{name} --help"), &[]).ok();
        assert!(help.contains("Example"), "{name}: {help}");
    }
    assert!(run("--version", &[]).ok().starts_with("ferrofs "));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&format!("completions {shell}"), &[]).ok().contains("ferrofs"));
    }
    let folder = tempfile::tempdir().unwrap();
    run("man {}", &[folder.path()]).ok();
    assert!(folder.path().join("ferrofs-build.1").exists());
}

#[test]
fn names_do_as_they_are_on_pipes() {
    let scratch = Scratch::new();
    fs::write(scratch.path("tree/bell\x07"), "").unwrap();
    let image = scratch.image("");
    assert!(run("ls {}", &[&image]).ok().contains("bell\x07\n"));
    assert!(run("ls --json {}", &[&image]).ok().contains("bell\\\\x07"));
    // On a terminal, which script(1) makes, they are escaped.
    let line = format!("{FERROFS} ls {}", image.display());
    match Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("bell\\x07") && !text.contains('\x07'), "{text:?}");
        }
        _ => println!("skipped: no script(1)"),
    }
}

/// Damage of content that decodes all the same is seen by digests only.
#[test]
fn digests() {
    let scratch = Scratch::new();
    let damaged = scratch.path("damaged");
    let sound = golden().image("plain-inode-digest");
    run("check {} --digests", &[&sound]).ok();
    let rows = golden().manifest("plain-inode-digest").rows;
    let large = rows.iter().find(|(_, row)| row.size().is_some_and(|size| size > 8192));
    let path = OsStr::from_bytes(large.expect("a large file").0);
    let content = command(&["cat".as_ref(), sound.as_os_str(), path]).output().unwrap().stdout;
    let mut bytes = fs::read(&sound).unwrap();
    let at = bytes.windows(4096).position(|window| window == &content[..4096]).unwrap();
    bytes[at + 100] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    run("check {}", &[&damaged]).ok();
    let report = run("check {} --digests", &[&damaged]);
    assert_eq!(report.code, 4, "{}", report.out);
    // Whichever file of those that begin so it is.
    assert!(report.out.contains("EF0601"), "{}", report.out);
}
