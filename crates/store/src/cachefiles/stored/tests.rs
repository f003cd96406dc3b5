// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys, pins and the emulated cache, with sources that are files.

use super::super::*;
use super::*;
use crate::{Algorithm, Cache, CacheConfig, Geometry, Network, TableBuilder, Thresholds};
use std::path::{Path, PathBuf};
use std::thread;

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// A folder with blobs and their tables.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A blob of these bytes with a table beside it; the image to name.
    fn blob(&self, key: &str, content: &[u8]) -> KeyedImage {
        let built = TableBuilder::new(Geometry::new(Algorithm::Blake3)).unwrap();
        let built = built.build(content).unwrap();
        std::fs::write(self.path(key), content).unwrap();
        std::fs::write(self.path(&format!("{key}.digests")), built.to_bytes()).unwrap();
        let mut image = image(key, &self.path(key));
        image.place.pin = Some(built.pin());
        image
    }

    fn provider(&self, images: Vec<KeyedImage>, open_max: usize) -> StoredBlobs {
        // A nearly full disk is not what is tested.
        let low = Thresholds { run: 2, cull: 1, stop: 0 };
        let config =
            CacheConfig { blocks: low, files: low, ..CacheConfig::new(self.path("cache")) };
        let cache = Cache::open(config).unwrap();
        StoredBlobs::new(opener(cache), images, open_max).unwrap()
    }
}

fn opener(cache: Cache) -> Opener {
    Opener::new(cache, Arc::default(), &Network::default()).unwrap()
}

fn image(key: &str, path: &Path) -> KeyedImage {
    let location = Location::parse(&format!("file://{}", path.display())).unwrap();
    KeyedImage { key: key.to_owned(), domain: None, place: ImagePlace::new(location) }
}

fn patient() -> Demand {
    Demand::soft(Duration::from_secs(60))
}

fn errno(provider: &StoredBlobs, volume: &[u8], key: &[u8]) -> Errno {
    provider.blob(volume, key).unwrap_err().errno
}

#[test]
fn keys_find_what_was_named_and_nothing_else() {
    let place = Place::new();
    let content = bytes(300_000, 1);
    let good = place.blob("good", &content);
    let mut unpinned = place.blob("unpinned", &content);
    unpinned.place.pin = None;
    let mut trusted = image("trusted", &place.path("unpinned"));
    trusted.place.insecure = true;
    let gone = image("gone", &place.path("gone"));
    std::fs::write(place.path("secret"), "secret").unwrap();
    let provider = place.provider(vec![good, unpinned, trusted, gone], 8);
    assert_eq!(provider.blob(b"erofs,x", b"good").unwrap().size(), 300_000);
    assert_eq!(provider.blob(b"erofs,x", b"good\0").unwrap().size(), 300_000);
    assert_eq!(provider.blob(b"erofs,x", b"trusted").unwrap().size(), 300_000);
    assert_eq!(errno(&provider, b"erofs,x", b"unpinned"), Errno::PERM);
    assert_eq!(errno(&provider, b"erofs,x", b"gone"), Errno::NOENT);
    assert_eq!(errno(&provider, b"erofs,x", b"secret"), Errno::NOENT);
    // Beside an image that is read unverified its data blobs are, too; beside others they are not.
    assert_eq!(provider.blob(b"erofs,trusted", b"secret").unwrap().size(), 6);
    assert_eq!(errno(&provider, b"erofs,trusted", b"none"), Errno::NOENT);
    assert_eq!(errno(&provider, b"erofs,good", b"secret"), Errno::PERM);
    for hostile in [
        &b"../secret"[..],
        b"a/b",
        b"/etc/passwd",
        b"..",
        b".",
        b"",
        b"\0",
        b"a\\b",
        b"a?b",
        b"a#b",
        b"a%2fb",
        b"a\nb",
        b"\xff\xfe",
    ] {
        for volume in [&b"erofs,trusted"[..], b"", b"erofs,", b"\xff"] {
            assert_eq!(errno(&provider, volume, hostile), Errno::INVAL, "{hostile:?}");
        }
    }
    assert!(errno(&provider, b"erofs,trusted", &[b'x'; 255]) != Errno::INVAL);
    assert_eq!(errno(&provider, b"erofs,trusted", &[b'x'; 256]), Errno::INVAL);
}

#[test]
fn a_domain_has_its_own_names() {
    let place = Place::new();
    let one = place.blob("one", &bytes(10_000, 1));
    let mut two = place.blob("two", &bytes(20_000, 2));
    two.domain = Some(String::from("d"));
    let mut again = two.clone();
    again.key = String::from("one");
    let provider = place.provider(vec![one.clone(), two.clone(), again], 8);
    let size = |volume: &[u8], key: &[u8]| provider.blob(volume, key).unwrap().size();
    assert_eq!(size(b"erofs,d", b"one"), 20_000);
    assert_eq!(size(b"erofs,d", b"two"), 20_000);
    assert_eq!(size(b"erofs,e", b"one"), 10_000);
    assert_eq!(errno(&provider, b"erofs,e", b"two"), Errno::NOENT);
    let cache = Cache::open(CacheConfig::new(place.path("cache"))).unwrap();
    let twice = StoredBlobs::new(opener(cache.clone()), vec![one.clone(), one], 8);
    assert_eq!(twice.unwrap_err().errno, Errno::EXIST);
    let bad = KeyedImage { key: String::from("../x"), ..two };
    assert!(StoredBlobs::new(opener(cache), vec![bad], 8).is_err());
}

#[test]
fn few_are_open_however_many_are_served() {
    let place = Place::new();
    let contents: Vec<_> = (0..12).map(|seed| bytes(100_000 + seed, seed as u64)).collect();
    let images = contents.iter().enumerate();
    let images = images.map(|(at, content)| place.blob(&format!("b{at}"), content)).collect();
    let provider = place.provider(images, 3);
    let key = |at: usize| format!("b{at}").into_bytes();
    let blobs: Vec<_> = (0..12).map(|at| provider.blob(b"v", &key(at)).unwrap()).collect();
    assert_eq!(provider.open_count(), 3);
    thread::scope(|scope| {
        for thread in 0..4 {
            let (blobs, contents) = (&blobs, &contents);
            scope.spawn(move || {
                for step in 0..48 {
                    let at = (thread * 5 + step * 7) % 12;
                    let mut buf = vec![0; 5000];
                    let from = step * 1000;
                    blobs[at].read_exact_at(&mut buf, from as u64, &patient()).unwrap();
                    assert!(buf == contents[at][from..from + 5000]);
                }
            });
        }
    });
    assert_eq!(provider.open_count(), 3);
}

#[test]
fn a_blob_that_changes_its_size_while_put_away_is_refused() {
    let place = Place::new();
    let mut one = image("one", &place.path("one"));
    one.place.insecure = true;
    std::fs::write(place.path("one"), bytes(9000, 1)).unwrap();
    let two = place.blob("two", &bytes(9000, 2));
    let provider = place.provider(vec![one, two], 1);
    let blob = provider.blob(b"v", b"one").unwrap();
    provider.blob(b"v", b"two").unwrap();
    std::fs::write(place.path("one"), bytes(9001, 1)).unwrap();
    let error = blob.read_exact_at(&mut [0; 10], 0, &patient()).unwrap_err();
    assert_eq!(error.errno, Errno::IO, "{error}");
}

#[test]
fn what_the_cache_gets_was_verified() {
    let place = Place::new();
    let mut content = bytes(1_000_000, 1);
    let good = place.blob("image", &content);
    // One byte is another one by now.
    content[700_000] ^= 1;
    std::fs::write(place.path("image"), &content).unwrap();
    let root = tempfile::tempdir().unwrap();
    let emulator = Emulator::new(root.path(), EmulatorConfig::default()).unwrap();
    let provider = Arc::new(place.provider(vec![good], 8));
    let device = Arc::new(emulator.device().unwrap());
    let config =
        DaemonConfig { deadline: Deadline::Soft(Duration::from_secs(2)), ..Default::default() };
    let daemon = Daemon::new(device, provider, config);
    daemon.bind().unwrap();
    thread::scope(|scope| {
        let running = scope.spawn(|| daemon.run());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let volume = emulator.volume(b"erofs,image").unwrap();
            let object = volume.cookie(b"image", &patient()).unwrap();
            let mut buf = vec![0; 600_000];
            object.read_at(&mut buf, 0, &patient()).unwrap();
            assert!(buf == content[..600_000]);
            let failed = object.read_at(&mut [0; 10], 700_000, &patient());
            assert_eq!(failed.unwrap_err().errno(), Errno::IO);
            let mut buf = vec![0; 100_000];
            object.read_at(&mut buf, 900_000, &patient()).unwrap();
            assert!(buf == content[900_000..]);
            // Nothing of the wrong group is in the cache.
            assert!(!object.is_present(700_000..700_001).unwrap());
            let refused = |key| volume.cookie(key, &patient()).unwrap_err().errno();
            assert_eq!(refused(b"image.digests"), Errno::PERM);
            assert_eq!(refused(b"none"), Errno::NOENT);
            assert_eq!(refused(b"../image"), Errno::INVAL);
        }));
        daemon.stopper().cancel();
        running.join().unwrap().unwrap();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert_eq!(daemon.stats().failed, 1);
}
