// SPDX-License-Identifier: MIT OR Apache-2.0
//! Content stores, mounted by overlayfs.

use super::{Domain, assert_same, umount};
use crate::run;
use std::path::Path;

#[test]
fn content_stores_hold_what_images_have_in_common_once() {
    let Some(mut domain) = Domain::by("overlay", "store") else { return };
    let tree = domain.scratch.tree();
    let other = domain.copy("other");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(other.join("dir/text"), mode).unwrap();
    let a = domain.image(&tree, "a.erofs", "-z lz4");
    let b = domain.image(&other, "b.erofs", "");
    let folder = domain.scratch.path("stores");
    let place = format!("--share-dir {}", folder.display());
    let (one, two) = (domain.mount(&a, &place), domain.mount(&b, &place));
    assert_same(&tree, &one);
    assert_same(&other, &two);
    let name = domain.name.clone();
    seen(&name, &place, [&one, &two]);
    let words = format!("mount --share {name} --share-by overlay {place} --share-keep 5 {{}} {{}}");
    assert!(run(&words, &[&a, &one]).fails(1).contains("--share-keep"));
    let share = |command: &str| run(&format!("share {command} {name} {place}"), &[]);
    assert!(share("prune").ok().is_empty());
    assert_same(&tree, &one);
    umount(&one);
    umount(&two);
    let pruned = share("prune");
    assert!(!pruned.err.contains(" 0 stores"), "{}", pruned.err);
    assert!(share("prune").err.contains(" 0 stores"));
    // What both had stays for the one that is left.
    run(&format!("share rm {name} {{}} {place}"), &[&a]).ok();
    domain.mount_on(&b, &two, &place);
    assert_same(&other, &two);
    umount(&two);
    assert!(!share("prune").err.contains(" 0 stores"));
}

/// A name that is written wrongly is told, and makes no domain.
#[test]
fn tidying_what_is_not_there_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for words in ["share prune nobody --share-dir {}", "share rm nobody /x --share-dir {}"] {
        let error = run(words, &[folder.path()]).fails(1);
        assert!(error.contains("no content store of a domain nobody"), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// What is told of a domain with content stores, whose images have all but attributes in common.
fn seen(name: &str, place: &str, [one, two]: [&Path; 2]) {
    let json = |line: &str, paths: &[&Path]| -> serde_json::Value {
        serde_json::from_str(&run(line, paths).ok()).unwrap()
    };
    let stats = json(&format!("share stat {name} --json {place}"), &[]);
    assert_eq!((&stats["mechanism"], &stats["stored_contents"]), (&"overlay".into(), &4.into()));
    assert_eq!((&stats["contents"], &stats["files"]), (&4.into(), &8.into()), "{stats}");
    // Pages of the text, and one for each of three small files.
    let saved = stats["saved_bytes"].as_u64().unwrap();
    assert_eq!(saved, 172_000_u64.next_multiple_of(4096) + 3 * 4096, "{stats}");
    assert_eq!(stats["mapped_bytes"].as_u64(), Some(2 * saved));
    let memory = stats["memory_bytes"].as_u64().unwrap();
    assert!((172_000..2 * 172_000).contains(&memory), "each content once: {stats}");
    assert_eq!(stats["images"][1]["targets"].as_array().unwrap().len(), 1);
    let listed = json(&format!("share ls --json {place}"), &[]);
    let is_ours = |one: &&serde_json::Value| one["domain"] == name && one["mechanism"] == "overlay";
    assert_eq!(listed.as_array().unwrap().iter().filter(is_ours).count(), 1, "{listed}");
    assert!(
        run(&format!("share ls {place}"), &[]).ok().contains(&format!("{name}: overlay, 2 images"))
    );
    assert!(run(&format!("share stat {name} {place}"), &[]).ok().contains("in memory  "));
    // One of them pays, the other saves.
    let counters = [one, two].map(|target| {
        let stats = json("ctl {} stats --json", &[&target.join("dir")]);
        assert_eq!(stats["sharing"]["mechanism"], "overlay", "{stats}");
        assert_eq!(stats["sharing"]["domain"], name);
        stats["sharing"]["counters"]["saved_bytes"].as_u64().unwrap()
    });
    assert_eq!(counters.iter().sum::<u64>(), saved);
    assert!(run("ctl {} stats", &[one]).ok().contains("by overlay, as image "));
    for words in ["ctl {} get", "ctl {} set cache=1M", "ctl {} metrics", "ctl {} drop-caches 3"] {
        let name = words.split(' ').nth(2).unwrap();
        assert!(run(words, &[one]).fails(1).contains(name), "{words}");
    }
    assert!(run("top --once {}", &[one]).code != 0);
}
