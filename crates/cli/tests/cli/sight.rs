// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `ctl`, `top` and metrics show of mounts that share memory.

use crate::share::{Domain, MECHANISMS, assert_same, patch, umount};
use crate::{FERROFS, run};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn stats(target: &Path) -> Value {
    serde_json::from_str(&run("ctl {} stats --json", &[target]).ok()).unwrap()
}

fn counter(stats: &Value, name: &str) -> u64 {
    stats["sharing"]["counters"][name].as_u64().unwrap_or_else(|| panic!("{name}: {stats}"))
}

/// The control sockets of a mount.
fn sockets(device: u64) -> Vec<String> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let names = std::fs::read_dir("/run/ferrofs").unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let of_mount = |name: &String| {
        name.starts_with(&format!("{major}-{minor}-")) || *name == format!("{major}-{minor}.sock")
    };
    names.filter(of_mount).collect()
}

#[test]
fn each_image_of_a_domain_has_its_counters() {
    for mechanism in MECHANISMS {
        let Some(domain) = Domain::by(mechanism, "sight") else { continue };
        look(domain);
    }
}

fn look(mut domain: Domain) {
    let tree = domain.scratch.tree();
    let a = domain.image(&tree, "a.erofs", "-z lz4");
    let b = domain.image(&tree, "b.erofs", "-z zstd");
    let (one, two) = (domain.mount(&a, ""), domain.mount(&b, ""));
    // Found to be shared before it is read, so what is read of it is verified.
    drop(std::fs::File::open(two.join("dir/text")).unwrap());
    assert_same(&tree, &one);
    assert_same(&tree, &two);
    let seen = [&one, &two].map(|target| stats(target));
    for (number, seen) in seen.iter().enumerate() {
        let sharing = &seen["sharing"];
        assert_eq!(sharing["domain"], domain.name.as_str(), "{seen}");
        assert_eq!(sharing["mechanism"], domain.mechanism, "{seen}");
        assert_eq!((&sharing["image"], &sharing["images"]), (&(number + 1).into(), &2.into()));
        assert!(counter(seen, "contents") >= 3 && counter(seen, "files") >= 3, "{seen}");
        assert!(counter(seen, "hashed_bytes") > 172_000, "{seen}");
        assert_eq!(counter(seen, "lies"), 0);
        assert!(seen["fuse"]["requests"].as_u64() > Some(0), "{seen}");
    }
    assert!(counter(&seen[1], "hits") > 0, "{}", seen[1]);
    let verified = seen.iter().map(|seen| counter(seen, "verified_bytes")).sum::<u64>();
    assert!(verified >= 172_000, "each byte that was read: {seen:?}");
    // What is saved is some image's, and none of it twice.
    let saved: u64 = seen.iter().map(|seen| counter(seen, "saved_bytes")).sum();
    assert_eq!(saved, domain.stats()["saved_bytes"].as_u64().unwrap());
    assert_eq!(saved, counter(&seen[0], "domain_saved_bytes"));
    assert!(saved >= 172_000);
    let text = run("ctl {} stats", &[&two]).ok();
    let line = format!("shared in domain {} by {}, as image 2 of 2", domain.name, domain.mechanism);
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("sharing.hits ") && text.contains("engine.decodes "), "{text}");
    let text = run("top --once {}", &[&two.join("dir")]).ok();
    assert!(text.contains(&line), "{text}");
    let text = run("ctl {} metrics", &[&two]).ok();
    let mount = format!("mount=\"{}\"", two.display());
    assert!(text.contains(&format!("ferrofs_sharing_hits_total{{{mount}}}")), "{text}");
    assert!(text.contains(&format!("mechanism=\"{}\",number=\"2\"", domain.mechanism)), "{text}");
    change(&mut domain, [&one, &two]);
    // What listens for an image goes with it.
    let device = two.metadata().unwrap().dev();
    let own = if domain.mechanism == "superblock" { 3 } else { 1 };
    assert_eq!(sockets(device).len(), own);
    drop(domain);
    assert_eq!(sockets(device), Vec::<String>::new());
}

/// What is set for one image is no other's.
fn change(domain: &mut Domain, [one, two]: [&PathBuf; 2]) {
    let get = |target: &Path| -> Value {
        serde_json::from_str(&run("ctl {} get --json", &[target]).ok()).unwrap()
    };
    run("ctl {} set cache=3M cache_strategy=disabled", &[one]).ok();
    run("ctl {} drop-caches 3", &[two]).ok();
    let (first, second) = (get(one), get(two));
    assert_eq!(
        (&first["cache"], &first["cache_strategy"]),
        (&"3145728".into(), &"disabled".into())
    );
    assert_eq!(second["cache_strategy"], "split");
    assert_eq!(second["mechanism"], domain.mechanism);
    let c = domain.image(&domain.scratch.tree(), "c.erofs", "");
    domain.mount(&c, "");
    assert_eq!(get(one)["cache"], "3145728", "another image joins, and what was set stays");
    assert_ne!(get(two)["cache"], second["cache"], "memory is divided anew");
    assert!(run("ctl {} set cache_strategy=bogus", &[one]).fails(1).contains("bogus"));
    assert!(run("ctl {} prefetch --all", &[one]).fails(1).contains("not read on demand"));
    run("mount -o remount,cache=4M {}", &[one]).ok();
    assert_eq!(get(one)["cache"], "4194304");
}

#[test]
fn liars_are_seen_where_they_are_mounted() {
    for mechanism in MECHANISMS {
        let Some(mut domain) = Domain::by(mechanism, "liar") else { continue };
        let tree = domain.scratch.tree();
        let good = domain.image(&tree, "good.erofs", "");
        let evil = domain.image(&tree, "evil.erofs", "");
        let (good, evil_target) = (domain.mount(&good, ""), domain.mount(&evil, ""));
        patch(&evil, b"small", b"SMALL");
        assert_eq!(std::fs::read(good.join("small")).unwrap(), b"small\n");
        drop(std::fs::read(evil_target.join("small")).unwrap());
        assert_eq!(counter(&stats(&good), "lies"), 0);
        assert!(counter(&stats(&evil_target), "lies") > 0);
        assert!(run("ctl {} stats", &[&evil_target]).ok().contains("not what it says"));
    }
}

#[test]
fn metrics_of_a_shared_mount_are_served() {
    for mechanism in MECHANISMS {
        let Some(mut domain) = Domain::by(mechanism, "metrics") else { continue };
        let tree = domain.scratch.tree();
        let image = domain.image(&tree, "a.erofs", "-z lz4");
        let target = domain.mount(&image, "");
        umount(&target);
        // Also of an image that was there before.
        let file = domain.scratch.path("metrics.prom");
        let output = Command::new(FERROFS)
            .args(["mount", "--share", &domain.name, "--metrics", "127.0.0.1:0", "--metrics-file"])
            .args([&file, &image, &target])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let address = said.split("http://").nth(1).unwrap().split('/').next().unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("ferrofs_sharing_info{"), "{answer}");
        assert!(answer.contains(&format!("domain=\"{}\"", domain.name)), "{answer}");
        let written = std::fs::read_to_string(&file).unwrap();
        assert!(written.is_empty() || written.contains("ferrofs_sharing_info{"), "{written}");
        umount(&target);
        drop(domain);
        assert!(!file.exists(), "nothing stale is collected");
    }
}
