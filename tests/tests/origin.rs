// SPDX-License-Identifier: MIT OR Apache-2.0
//! The origin that other tests lean on: without faults it is right, each fault is what it says, and
//! the real servers behind it start, answer and end.

use ferrofs_tests::origin::component::{Component, available, send};
use ferrofs_tests::origin::{Content, Fault, Link, Origin, at_random};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

fn bytes() -> Vec<u8> {
    (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn origin() -> Origin {
    Origin::start(Content::bytes("/blob", bytes())).unwrap()
}

/// Status and body of a GET of `range` (as in HTTP, both ends included).
fn get(origin: &Origin, range: Option<&str>) -> std::io::Result<(u16, Vec<u8>)> {
    let range = range.map(|range| format!("bytes={range}"));
    let headers: Vec<_> = range.iter().map(|range| ("Range", range.as_str())).collect();
    send(origin.address(), "GET", "/blob", &headers, &[]).map(|(status, _, body)| (status, body))
}

#[test]
fn answers_are_right_and_counted() {
    let (origin, all) = (origin(), bytes());
    assert_eq!(get(&origin, None).unwrap(), (200, all.clone()));
    assert_eq!(get(&origin, Some("10-4105")).unwrap(), (206, all[10..4106].to_vec()));
    assert_eq!(get(&origin, Some("1199990-")).unwrap(), (206, all[1_199_990..].to_vec()));
    assert_eq!(get(&origin, Some("1200000-")).unwrap().0, 416);
    assert_eq!(send(origin.address(), "GET", "/../blob", &[], &[]).unwrap().0, 404);
    let ledger = origin.ledger();
    assert_eq!(ledger.bytes_sent(), 1_200_000 + 4096 + 10);
    assert_eq!(ledger.served_again("/blob"), [(10..4106, 2), (1_199_990..1_200_000, 2)]);
    assert_eq!(ledger.round_trips(), 5);
    origin.forget();
    assert_eq!(origin.ledger().entries().len(), 0);
}

#[test]
fn one_connection_carries_many_requests() {
    let origin = origin();
    let mut stream = TcpStream::connect(origin.address()).unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /blob HTTP/1.1\r\nRange: bytes=0-3\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n\0\0\0\0") {
            let mut piece = [0; 512];
            let len = stream.read(&mut piece).unwrap();
            assert_ne!(len, 0);
            answer.extend_from_slice(&piece[..len]);
        }
    }
}

#[test]
fn each_fault_is_what_it_says() {
    let (origin, all) = (origin(), bytes());
    let with = |fault: Fault| {
        origin.next(vec![fault]);
        get(&origin, Some("0-99999"))
    };
    assert!(with(Fault::Reset(0)).is_err());
    assert!(with(Fault::Reset(5000)).is_err());
    assert_eq!(with(Fault::Cut(5000)).unwrap(), (206, all[..5000].to_vec()));
    assert_eq!(with(Fault::Short(5000)).unwrap(), (206, all[..5000].to_vec()));
    assert_eq!(with(Fault::Whole).unwrap(), (200, all.clone()));
    let (status, wrong) = with(Fault::Flip(100_007)).unwrap();
    assert_eq!(status, 206);
    let differ: Vec<_> = (0..100_000).filter(|at| wrong[*at] != all[*at]).collect();
    assert_eq!(differ, [7]);
    for code in [401, 403, 404, 416, 429, 503] {
        assert_eq!(with(Fault::status(code)).unwrap(), (code, Vec::new()));
    }
    let stall = Fault::Stall(100, Duration::from_millis(10));
    assert_eq!(with(stall).unwrap(), (206, all[..100_000].to_vec()));
    origin.next(vec![Fault::Tag("\"new\"".into()), Fault::Elsewhere(1)]);
    let headers = [("Range", "bytes=0-3")];
    let (_, headers, _) = send(origin.address(), "GET", "/blob", &headers, &[]).unwrap();
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!(
        (header("etag").as_str(), header("content-range").as_str()),
        ("\"new\"", "bytes 1-4/1200000")
    );
    origin.next(vec![Fault::redirect("http://127.0.0.1:1/")]);
    assert_eq!(get(&origin, None).unwrap().0, 307);
    assert_eq!(get(&origin, Some("0-99999")).unwrap(), (206, all[..100_000].to_vec()));
}

#[test]
fn the_same_seed_gives_the_same_faults() {
    let faults = |seed| {
        let origin = origin();
        origin.script(at_random(seed, 500, vec![Fault::status(503), Fault::Whole]));
        (0..20).map(|_| get(&origin, Some("0-3")).unwrap().0).collect::<Vec<_>>()
    };
    assert_eq!(faults(1), faults(1));
    assert_ne!(faults(1), faults(2));
}

/// A stall of an hour must not keep a test from ending.
#[test]
fn an_origin_ends_in_the_middle_of_a_stall() {
    let origin = origin();
    origin.next(vec![Fault::Stall(4096, Duration::from_secs(3600))]);
    let mut stream = TcpStream::connect(origin.address()).unwrap();
    stream.write_all(b"GET /blob HTTP/1.1\r\n\r\n").unwrap();
    let mut head = [0; 4096];
    stream.read_exact(&mut head).unwrap();
    drop(origin);
    let mut rest = Vec::new();
    // An end or a reset, but no wait.
    if stream.read_to_end(&mut rest).is_ok() {
        assert!(rest.len() <= 8192);
    }
}

#[test]
fn a_link_books_bytes_one_after_another() {
    let link = Link::new(Duration::from_millis(1), Some(100 << 20));
    let origin = Origin::over(Content::bytes("/blob", bytes()), link).unwrap();
    assert_eq!(get(&origin, None).unwrap(), (200, bytes()));
}

#[test]
fn nginx_behind_the_origin() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("blob"), bytes()).unwrap();
    let Some(nginx) = available(Component::nginx(folder.path())) else { return };
    let origin = Origin::start(Content::Upstream(nginx.address())).unwrap();
    assert_eq!(get(&origin, Some("10-4105")).unwrap(), (206, bytes()[10..4106].to_vec()));
    origin.next(vec![Fault::Whole]);
    assert_eq!(get(&origin, Some("10-4105")).unwrap(), (200, bytes()));
    assert_eq!(origin.ledger().entries()[0].first, 10);
}

#[test]
fn registry_behind_the_origin() {
    let Some(registry) = available(Component::registry()) else { return };
    let origin = Origin::start(Content::Upstream(registry.address())).unwrap();
    let (status, _, _) = send(origin.address(), "GET", "/v2/", &[], &[]).unwrap();
    assert_eq!(status, 200);
    let (status, headers, _) =
        send(origin.address(), "POST", "/v2/a/blobs/uploads/", &[], &[]).unwrap();
    assert_eq!(status, 202);
    // The registry has seen our address as its own.
    let place = &headers.iter().find(|(name, _)| name == "location").unwrap().1;
    assert!(place.starts_with(&origin.url("/v2/a/")), "{place}");
}

#[test]
fn s3_behind_the_origin() {
    let Some(s3) = available(Component::s3()) else { return };
    let origin = Origin::start(Content::Upstream(s3.address())).unwrap();
    let headers = [(
        "Authorization",
        "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, \
         SignedHeaders=host, Signature=0",
    )];
    let ask = |method, target, body: &[u8]| {
        send(origin.address(), method, target, &headers, body).unwrap()
    };
    assert_eq!(ask("PUT", "/bucket", &[]).0, 200);
    assert_eq!(ask("PUT", "/bucket/key", &bytes()).0, 200);
    assert_eq!(ask("GET", "/bucket/key", &[]).2, bytes());
}
