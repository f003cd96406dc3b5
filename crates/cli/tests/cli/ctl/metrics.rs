// SPDX-License-Identifier: MIT OR Apache-2.0
//! Metrics, by HTTP and as a file.

use super::{FILE_LEN, Mounted};
use crate::run;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_served_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ferrofs.prom");
    let options = format!("-q --metrics 0 --metrics-interval 1 --metrics-file {}", file.display());
    let Some(mounted) = Mounted::new(&options) else { return };
    fs::read(mounted.file(0)).unwrap();
    let address = mounted.get("metrics");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
    let answer = http(&address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("version=0.0.4"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    check_exposition(body);
    check_exposition(&mounted.ctl("metrics").ok());
    for (request, status) in [
        ("HEAD /metrics HTTP/1.0\r\n\r\n", "200"),
        ("GET / HTTP/1.1\r\n\r\n", "200"),
        ("GET /etc/passwd HTTP/1.1\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\n\r\n", "405"),
        ("\0\0\0\r\n\r\n", "400"),
        (&"x".repeat(8192), "431"),
    ] {
        let answer = http(&address, request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
    let bytes = |text: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.starts_with("ferrofs_engine_bytes_total{"))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    assert!(bytes(body) >= Some(FILE_LEN as f64));
    let written = || fs::read_to_string(&file).unwrap();
    for _ in 0..1000 {
        if bytes(&written()) >= Some(FILE_LEN as f64) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(bytes(&written()) >= Some(FILE_LEN as f64));
    check_exposition(&written());
    run("umount {}", &[mounted.path()]).ok();
    for _ in 0..1000 {
        if !file.exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing stale stays");
}

/// Reads the text format: types before values, labels in quotes, histograms that add up.
fn check_exposition(text: &str) {
    let mut types = std::collections::BTreeMap::new();
    let mut last_bucket = 0.0;
    let mut samples = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "{name} twice");
            last_bucket = 0.0;
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, rest) = line.split_once('{').unwrap();
        let (labels, value) = rest.rsplit_once("} ").unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(labels.starts_with("mount=\"") && labels.ends_with('"'), "{line}");
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let base = name.strip_suffix(end)?;
            (types.get(base) == Some(&"histogram")).then_some(base)
        });
        match types.get(base.unwrap_or(name)) {
            Some(&"histogram") if name.ends_with("_bucket") => {
                assert!(value >= last_bucket, "{line}");
                last_bucket = value;
            }
            Some(&"histogram") if name.ends_with("_count") => {
                assert!((value - last_bucket).abs() < 0.5, "{line}");
            }
            Some(&"counter") => assert!(name.ends_with("_total") && value >= 0.0, "{line}"),
            Some(_) => {}
            None => panic!("no type: {line}"),
        }
        samples += 1;
    }
    assert!(samples > 100 && types.len() > 30, "{text}");
    for name in ["ferrofs_engine_decodes_total", "ferrofs_fuse_requests_total", "ferrofs_info"] {
        assert!(types.contains_key(name), "{name}");
    }
    assert_eq!(types["ferrofs_engine_request_seconds"], "histogram");
}
