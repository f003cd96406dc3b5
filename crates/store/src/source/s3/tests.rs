// SPDX-License-Identifier: MIT OR Apache-2.0
//! Profiles, and what servers refuse, by a scripted one.

use super::*;
use crate::source::http::scripted::{Got, Server, Then, part, reply};
use crate::source::http::tests::Kept;
use crate::{FetchError, FetchErrorKind, RangeSource};
use ferrofs_oci::http::ClientOptions;

#[test]
fn profiles_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    let text = "[a]\naws_access_key_id = AK\naws_secret_access_key=se=cret\n\
        ; c\n[ b ]\naws_access_key_id=BK\naws_secret_access_key=s\naws_session_token=t\n[c]\n";
    std::fs::write(&path, text).unwrap();
    let a = read_profile(&path, "a").unwrap().unwrap();
    assert_eq!((a.key(), a.secret(), a.token()), ("AK", "se=cret", None));
    let b = read_profile(&path, "b").unwrap().unwrap();
    assert_eq!((b.key(), b.secret(), b.token()), ("BK", "s", Some("t")));
    assert!(read_profile(&path, "c").unwrap().is_none());
    let error = S3Login::Profile(path, "c".into()).find().unwrap_err();
    assert!(!error.what.contains("cret"));
}

#[test]
fn keys_that_urls_change_are_refused() {
    let client = Client::new(ClientOptions::default()).unwrap();
    for key in ["", "../x", "a/./b", "a/.."] {
        let options = S3Options { login: S3Login::Anonymous, ..S3Options::default() };
        assert!(open(client.clone(), "bucket", key, &options, true).is_err(), "{key}");
    }
}

fn error_of(code: &str) -> Vec<u8> {
    format!(
        "<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code><Message>s3cret words of a server\
         </Message><RequestId>1</RequestId></Error>"
    )
    .into_bytes()
}

fn source(server: &Server, login: S3Login) -> HttpSource {
    let options = S3Options {
        endpoint: Some(server.url("")),
        region: Some("eu-central-1".into()),
        login,
        ..S3Options::default()
    };
    let direct = ferrofs_oci::http::ProxyChoice::Direct;
    let client = ClientOptions { proxy: direct, ..ClientOptions::default() };
    open(Client::new(client).unwrap(), "bucket", "key", &options, true).unwrap()
}

fn keys() -> S3Login {
    S3Login::Keys("AKEY".into(), Secret::new("s3cret"), None)
}

/// Also with the whole store before it: retries would not end in time.
fn fails(server: &Server, login: S3Login) -> FetchError {
    let origin = crate::Origin::new(Arc::new(source(server, login)));
    let begin = Instant::now();
    let error = origin.identity(&crate::Demand::soft(Duration::from_secs(60))).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(30), "it is asked again and again: {error}");
    error
}

#[test]
fn refusals_say_what_is_wrong() {
    use FetchErrorKind::{Denied, NotFound, Protocol};
    for (status, code, kind, expected) in [
        ("403 Forbidden", "SignatureDoesNotMatch", Denied, "AWS_SECRET_ACCESS_KEY"),
        ("403 Forbidden", "RequestTimeTooSkewed", Denied, "clock of this machine"),
        ("400 Bad Request", "ExpiredToken", Denied, "session has expired"),
        ("400 Bad Request", "InvalidToken", Denied, "AWS_SESSION_TOKEN"),
        ("403 Forbidden", "InvalidAccessKeyId", Denied, "does not know the access key"),
        ("403 Forbidden", "AccessDenied", Denied, "may not read"),
        ("403 Forbidden", "SomethingNew", Denied, "SomethingNew"),
        ("404 Not Found", "NoSuchBucket", NotFound, "no such bucket"),
        ("404 Not Found", "NoSuchKey", NotFound, "no such object"),
        ("301 Moved Permanently", "PermanentRedirect", Denied, "AWS_REGION"),
        ("400 Bad Request", "AuthorizationQueryParametersError", Denied, "AWS_REGION"),
        ("400 Bad Request", "a b", Protocol, "unexpected answer"),
        ("403 Forbidden", "", Denied, "access denied"),
        ("403 Forbidden", "x</Code><Code>AccessDenied", Denied, "access denied (x)"),
    ] {
        let server = Server::start(move |_, _| (reply(status, "", &error_of(code)), Then::Keep));
        let error = fails(&server, keys());
        assert_eq!(error.kind, kind, "{code}: {error}");
        assert!(error.what.contains(expected), "{code}: {error}");
        assert!(error.what.contains("/bucket/key") && error.what.contains(&status[..3]), "{error}");
        assert!(!error.what.contains("s3cret") && !error.what.contains("AKEY"), "{error}");
        assert!(!error.what.contains("X-Amz"), "the signature is shown: {error}");
        assert_eq!(server.requests().len(), 1, "{code}: the same once more");
    }
    let server =
        Server::start(|_, _| (reply("403 Forbidden", "", &error_of("AccessDenied")), Then::Keep));
    assert!(fails(&server, S3Login::Anonymous).what.contains("AWS_ACCESS_KEY_ID"));
    // A body without an end, and one that is nothing.
    for (bytes, then) in [
        (b"HTTP/1.1 403 No\r\nContent-Length: 99999999\r\n\r\n<Code>".to_vec(), Then::Close),
        (reply("403 No", "", &vec![0xff; 100_000]), Then::Keep),
        (reply("403 No", "", b""), Then::Keep),
    ] {
        let server = Server::start(move |_, _| (bytes.clone(), then));
        assert_eq!(fails(&server, keys()).kind, Denied);
    }
}

/// The time that a request was signed for, `20261125T140000Z`.
fn signed_at(got: &Got) -> String {
    let (_, rest) = got.path().split_once("X-Amz-Date=").unwrap();
    rest.split('&').next().unwrap().to_owned()
}

#[test]
fn a_clock_that_is_wrong_is_not_ours_to_keep() {
    let served = vec![7; 1000];
    let future = SystemTime::now() + Duration::from_secs(7200);
    let date = format!("Date: {}\r\n", httpdate(future));
    let server = Server::start(move |number, got| {
        if number == 0 {
            return (reply("403 Forbidden", &date, &error_of("RequestTimeTooSkewed")), Then::Keep);
        }
        (part(got, &served, &date), Then::Keep)
    });
    let source = source(&server, keys());
    assert_eq!(source.identity(&crate::FetchContext::default()).unwrap().size, 1000);
    let got = server.requests();
    assert_eq!(got.len(), 2);
    assert_ne!(signed_at(&got[0])[..11], signed_at(&got[1])[..11], "two hours later");
}

/// As HTTP writes times.
fn httpdate(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let time = jiff::Timestamp::from_second(seconds as i64).unwrap();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[test]
fn a_session_that_is_renewed_in_its_file_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    let write = |path: &Path, token: &str| {
        let text = format!(
            "[p]\naws_access_key_id=A\naws_secret_access_key=S\naws_session_token={token}\n"
        );
        std::fs::write(path, text).unwrap();
    };
    write(&path, "one");
    let (blob, file) = (vec![7; 200_000], path.clone());
    let served = blob.clone();
    let server = Server::start(move |number, got| {
        if number > 0 && got.path().contains("Security-Token=one") {
            write(&file, "two");
            return (reply("400 Bad Request", "", &error_of("ExpiredToken")), Then::Keep);
        }
        (part(got, &served, ""), Then::Keep)
    });
    let source = source(&server, S3Login::Profile(path, "p".into()));
    let origin = crate::Origin::new(Arc::new(source));
    let demand = crate::Demand::soft(Duration::from_secs(60));
    assert_eq!(origin.identity(&demand).unwrap().size, 200_000);
    let mut sink = Kept::default();
    origin.fetch(100_000..150_000, &mut sink, &demand, false).unwrap();
    assert_eq!(sink.bytes, blob[100_000..150_000]);
    let tokens: Vec<bool> =
        server.requests().iter().map(|got| got.path().contains("Security-Token=two")).collect();
    assert_eq!(tokens, [false, false, true]);
}
