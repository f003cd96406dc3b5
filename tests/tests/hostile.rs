// SPDX-License-Identifier: MIT OR Apache-2.0
//! Images that lie. Every row of format.md §19.2 and §19.3 that concerns reading, and more of the
//! kind: each changes one thing in a small crafted image and says what must come of it.
//!
//! What is expected is what the kernel answers, or stricter. Where kernels accept something odd the
//! row says what is done here: `Same` (read as if nothing were), or an error.
//!
//! Not here, since they are not about reading an image: `..`-like and over-long paths and links
//! through symlinks (CVE-2023-33551; extraction), recursion of fsck and dump over looping
//! directories (f3728a1, 3e26b6e; the walkers of `check` and `extract`, who must know a directory
//! twice when they see it, as the walk here does), in-place LZ4 over split mappings
//! (CVE-2023-52497; `ferrofs-codec`, whose readers never decode in place), and tar headers (c5da42c,
//! 8902f45, 5cd3385, 6e5bf04; reading of tar streams).

use ferrofs_image::{Error, Image, OpenOptions};
use ferrofs_tests::craft::{Crafted, Patched};
use ferrofs_tests::everything::everything;
use ferrofs_tests::exercise::{Budget, Found, exercise, names_its_place};
use std::sync::{Arc, LazyLock};

#[path = "hostile/lies.rs"]
mod lies;
#[path = "hostile/rows.rs"]
mod rows;
#[path = "hostile/sweeps.rs"]
mod sweeps;

static SAMPLE: LazyLock<Crafted> = LazyLock::new(|| everything(9));

/// Caches as small as the images.
fn open(image: impl ferrofs_image::ReadAt + 'static) -> Result<Arc<Image>, Error> {
    OpenOptions::new().metadata_cache(256 << 10).open(image).map(Arc::new)
}

fn read_all(crafted: &Crafted) -> Result<Found, Error> {
    Ok(exercise(&open(crafted.bytes.clone())?, Budget::default()))
}

/// The image with nothing changed holds what was put into it, whatever the block size.
#[test]
fn the_sample_is_sound() {
    for bits in 9..=12 {
        let sample = everything(bits);
        let found = read_all(&sample).unwrap();
        assert_eq!(found.errors, [], "block bits {bits}");
        assert!(found.loops.is_empty());
        for (path, content) in &sample.contents {
            let Some(read) = found.files.get(path.as_bytes()) else {
                assert!(path.starts_with("/."), "{path} was not met");
                continue;
            };
            let shown = content.len().min(Budget::default().read);
            assert!(read[..] == content[..shown], "{path} at block bits {bits}");
        }
        for path in ["/chunkmap", "/chunkindex", "/ext4", "/ext8", "/ext16", "/ext32", "/hole"] {
            assert!(found.files.contains_key(path.as_bytes()), "{path}");
        }
        assert!(found.files.contains_key(&b"/boxdir/inner"[..]));
        assert!(found.files.contains_key(&b"/dir/entry-039"[..]));
    }
}

/// A copy with one byte changed for a sweep over many.
fn patched(base: &Arc<Vec<u8>>, offset: usize, mask: u8) -> Patched {
    Patched { base: Arc::clone(base), offset, mask, checksum: None, len: base.len() }
}

fn check_error(what: &str, error: &Error) {
    assert!(names_its_place(error), "{what}: {error} does not say where");
    assert!(error.to_string().len() > 20, "{what}: {error}");
}
