// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registries as they are met, by a scripted server.

use crate::source::http::scripted::{Got, Server, Then, part, reply};
use crate::source::remote::{Location, RemoteImage, RemoteOptions, resolve};
use crate::{FetchContext, FetchError, FetchErrorKind, Sink, SinkStop};
use ferrofs_oci::http::{ClientOptions, ProxyChoice};
use ferrofs_oci::{Credential, Credentials, Digest, Secret};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

#[derive(Default)]
struct Kept(Vec<u8>, Vec<u8>);

impl Sink for Kept {
    fn begin(&mut self, _: u64, _: Option<u64>) -> Result<(), SinkStop> {
        Ok(())
    }

    fn room(&mut self) -> &mut [u8] {
        self.1.resize(512, 0);
        &mut self.1
    }

    fn filled(&mut self, count: usize) -> Result<(), SinkStop> {
        self.0.extend_from_slice(&self.1[..count]);
        Ok(())
    }
}

/// A registry with one image: an EROFS layer and its digest table. `guard` answers first.
struct Registry {
    server: Server,
    manifest: Digest,
    pin: String,
}

type Guard = dyn Fn(usize, &Got, &str) -> Option<Vec<u8>> + Send + Sync;

fn registry(
    guard: impl Fn(usize, &Got, &str) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Registry {
    let guard: Box<Guard> = Box::new(guard);
    let (layer, table) = (vec![7; 3000], vec![9; 100]);
    let pin = format!("blake3:{}", "c".repeat(64));
    let (layer_digest, table_digest) = (Digest::of(&layer), Digest::of(&table));
    let manifest = format!(
        r#"{{"schemaVersion":2,"layers":[
        {{"mediaType":"application/vnd.erofs.layer.v1","digest":"{layer_digest}","size":3000,
        "annotations":{{"dev.ferrofs.digest-table":"{table_digest}",
        "dev.ferrofs.digest-pin":"{pin}"}}}},
        {{"mediaType":"application/vnd.ferrofs.digest-table.v1","digest":"{table_digest}",
        "size":100}}]}}"#
    )
    .into_bytes();
    let manifest_digest = Digest::of(&manifest);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"m","digest":"{manifest_digest}",
        "size":1,"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    let name = manifest_digest.clone();
    let own = Arc::new(OnceLock::new());
    let shared = Arc::clone(&own);
    let server = Server::start(move |number, got| {
        let base: &String = shared.wait();
        if let Some(bytes) = guard(number, got, base) {
            return (bytes, Then::Keep);
        }
        let path = got.path();
        let bytes = if path == "/v2/a/b/manifests/v1" {
            reply("200 OK", "", index.as_bytes())
        } else if path == format!("/v2/a/b/manifests/{name}") {
            reply("200 OK", "", &manifest)
        } else if path == format!("/v2/a/b/blobs/{layer_digest}") {
            part(got, &layer, "")
        } else if path == format!("/v2/a/b/blobs/{table_digest}") {
            part(got, &table, "")
        } else {
            reply("404 Not Found", "", b"")
        };
        (bytes, Then::Keep)
    });
    own.set(server.url("")).unwrap();
    Registry { server, manifest: manifest_digest, pin }
}

fn open(registry: &Registry, credentials: Credentials) -> Result<RemoteImage, FetchError> {
    let location = Location::parse(&format!("oci://{}/a/b:v1", registry.server.address))?;
    resolve(
        &location,
        &RemoteOptions {
            client: ClientOptions { proxy: ProxyChoice::Direct, ..ClientOptions::default() },
            credentials,
            platform: Some(ferrofs_oci::Platform::parse("linux/amd64")?),
            ..RemoteOptions::default()
        },
    )
}

fn first_bytes(image: &RemoteImage) -> Result<Vec<u8>, FetchError> {
    let mut sink = Kept::default();
    image.primary.source.fetch(0..1000, &mut sink, &FetchContext::default())?;
    Ok(sink.0)
}

fn login() -> Credentials {
    Credentials::Fixed(Credential::Password("u".into(), Secret::new("hunter2")))
}

/// Wants a token of the generation that `wanted` tells; hands them out at `/token`.
fn with_tokens(
    given: Arc<AtomicUsize>,
    wanted: Arc<AtomicUsize>,
    refusal: &'static str,
) -> impl Fn(usize, &Got, &str) -> Option<Vec<u8>> {
    move |_, got, base| {
        if got.path().starts_with("/token") {
            assert_eq!(got.header("authorization"), Some("Basic dTpodW50ZXIy"));
            assert!(got.path().contains("scope=repository%3Aa%2Fb%3Apull"), "{}", got.path());
            thread::sleep(Duration::from_millis(30));
            let number = given.fetch_add(1, Ordering::SeqCst);
            let text = format!(r#"{{"token":"t{number}","expires_in":300}}"#);
            return Some(reply("200 OK", "", text.as_bytes()));
        }
        let right = format!("Bearer t{}", wanted.load(Ordering::SeqCst));
        if got.header("authorization") == Some(&right) {
            return None;
        }
        let first = got.header("authorization").is_none();
        let challenge =
            format!("WWW-Authenticate: Bearer realm=\"{base}/token\",service=\"s\"\r\n");
        Some(if first {
            reply("401 Unauthorized", &challenge, b"{}")
        } else if refusal.starts_with("401") {
            reply(refusal, &challenge, b"{}")
        } else {
            reply(refusal, "", b"{}")
        })
    }
}

#[test]
fn the_manifest_tells_size_content_and_pin() {
    let registry = registry(|_, _, _| None);
    let image = open(&registry, Credentials::Anonymous).unwrap();
    assert_eq!(image.manifest.as_ref(), Some(&registry.manifest));
    assert_eq!(image.primary.size, Some(3000));
    assert_eq!(image.primary.content, Some(Digest::of(&[7; 3000])));
    let table = image.primary.table.as_ref().unwrap();
    assert_eq!((table.size, table.pin.as_ref()), (Some(100), Some(&registry.pin)));
    assert_eq!(first_bytes(&image).unwrap(), [7; 1000]);
    // Index, manifest, the read.
    assert_eq!(registry.server.requests().len(), 3);
}

#[test]
fn tokens_are_got_once_and_renewed_once_for_all() {
    for refusal in ["401 Unauthorized", "403 Forbidden"] {
        let (given, wanted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let registry = registry(with_tokens(Arc::clone(&given), Arc::clone(&wanted), refusal));
        let image = open(&registry, login()).unwrap();
        assert_eq!(first_bytes(&image).unwrap(), [7; 1000]);
        assert_eq!(given.load(Ordering::SeqCst), 1);
        // The registry does not know the token any more.
        wanted.store(1, Ordering::SeqCst);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(first_bytes(&image).unwrap(), [7; 1000]));
            }
        });
        assert_eq!(given.load(Ordering::SeqCst), 2, "{refusal}");
        // A token that is refused at once: no circles.
        wanted.store(77, Ordering::SeqCst);
        let error = first_bytes(&image).unwrap_err();
        assert_eq!(error.kind, FetchErrorKind::Denied);
        assert!(!error.what.contains("hunter2") && !error.what.contains("t1"), "{error}");
        assert_eq!(given.load(Ordering::SeqCst), 3);
        assert!(!format!("{image:?}").contains("hunter2"));
    }
}

#[test]
fn a_password_is_sent_when_asked_for() {
    let ask = |_: usize, got: &Got, _: &str| {
        let known = got.header("authorization") == Some("Basic dTpodW50ZXIy");
        (!known).then(|| reply("401 No", "WWW-Authenticate: Basic realm=\"r\"\r\n", b""))
    };
    let guarded = registry(ask);
    assert_eq!(first_bytes(&open(&guarded, login()).unwrap()).unwrap(), [7; 1000]);
    let guarded = registry(ask);
    assert_eq!(open(&guarded, Credentials::Anonymous).unwrap_err().kind, FetchErrorKind::Denied);
    let wrong = Credentials::Fixed(Credential::Password("u".into(), Secret::new("no")));
    let guarded = registry(ask);
    assert_eq!(open(&guarded, wrong).unwrap_err().kind, FetchErrorKind::Denied);
    assert_eq!(guarded.server.requests().len(), 2);
}

#[test]
fn manifests_that_are_others_are_refused() {
    let lies = registry(|_, got, _| {
        let direct = got.path().contains("/manifests/sha256:");
        direct.then(|| reply("200 OK", "", br#"{"schemaVersion":2,"layers":[]}"#))
    });
    assert_eq!(open(&lies, Credentials::Anonymous).unwrap_err().kind, FetchErrorKind::Digest);
    let huge = registry(|_, got, _| {
        got.path().contains("/manifests/").then(|| reply("200 OK", "", &vec![b' '; 5 << 20]))
    });
    assert_eq!(open(&huge, Credentials::Anonymous).unwrap_err().kind, FetchErrorKind::Protocol);
}

#[test]
fn hostile_challenges_lead_nowhere() {
    for challenge in [
        "Bearer realm=\"ftp://h/\"",
        "Bearer realm=\"http://u:p@127.0.0.1/\"",
        "Bearer",
        "Bearer realm=\"",
    ] {
        let head = format!("WWW-Authenticate: {challenge}\r\n");
        let registry = registry(move |_, _, _| Some(reply("401 No", &head, b"")));
        let error = open(&registry, login()).unwrap_err();
        assert!(
            matches!(error.kind, FetchErrorKind::Protocol | FetchErrorKind::Denied),
            "{challenge}: {error}"
        );
        assert_eq!(registry.server.requests().len(), 1, "{challenge}");
    }
}
