// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names of places.

use super::*;

#[test]
fn locations_are_read_and_shown_without_secrets() {
    for (text, shown) in [
        ("https://u:secret@h:8/a.erofs?sig=secret", "https://h:8/a.erofs"),
        ("oci://h:5000/a/b:t", "oci://h:5000/a/b:t"),
        ("s3://bucket/a/b.erofs", "s3://bucket/a/b.erofs"),
        ("file:///a%20b", "file:///a b"),
    ] {
        assert!(Location::is_location(text));
        let location = Location::parse(text).unwrap();
        assert_eq!(location.to_string(), shown);
        if let Location::Http(..) = location {
            let image = resolve(&location, &RemoteOptions::default()).unwrap();
            let described = image.primary.source.describe();
            assert!(!described.contains("secret"), "{described}");
            let debug = format!("{image:?}");
            assert!(!debug.contains(":secret"), "{debug}");
        }
    }
    for bad in ["", "a", "ftp://a/b", "s3://b", "s3:///k", "file://a/b", "oci://UPPER/../x"] {
        assert!(Location::parse(bad).is_err(), "{bad}");
    }
    assert!(!Location::is_location("image.erofs"));
}

#[test]
fn neighbours_stay_in_their_folder() {
    let url = Url::parse("https://h/a/b%20c.erofs?token=x").unwrap();
    let table = sibling(&url, None, TABLE_SUFFIX).unwrap();
    assert_eq!(table.as_str(), "https://h/a/b%20c.erofs.digests?token=x");
    let blob = sibling(&url, Some("d?e#f%2f"), "").unwrap();
    assert_eq!(blob.path(), "/a/d%3Fe%23f%252f");
    for bad in ["", ".", "..", "a/b", "a\\b", "a\0"] {
        assert!(check_tag(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn layers_are_chosen() {
    let layer = |media: &str, digit: &str, tag: Option<&str>| {
        let mut layer: Descriptor = serde_json::from_value(serde_json::json!({
            "mediaType": media, "digest": format!("sha256:{}", digit.repeat(64)), "size": 1
        }))
        .unwrap();
        if let Some(tag) = tag {
            layer.annotations.insert(annotation::BLOB_TAG.into(), tag.into());
        }
        layer
    };
    let layers = [
        layer("application/vnd.oci.image.layer.v1.tar+gzip", "1", None),
        layer(media::EROFS_LAYER, "2", Some("data")),
        layer(media::EROFS_LAYER, "3", None),
    ];
    let location = Location::parse("oci://h/a").unwrap();
    let choose = |wanted| choose_layer(&layers, wanted, &location);
    assert_eq!(choose(None).unwrap().digest_text, layers[2].digest_text);
    assert_eq!(choose(Some("0")).unwrap().digest_text, layers[1].digest_text);
    assert_eq!(choose(Some(&layers[0].digest_text)).unwrap().digest_text, layers[0].digest_text);
    assert!(choose(Some("7")).is_err());
    assert!(choose_layer(&layers[..1], None, &location).is_err());
}
