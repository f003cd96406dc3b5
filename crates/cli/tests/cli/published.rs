// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image with its digest table as it is published: in a registry, or in an image layout.

use crate::lazy::{Mounted, Remote};
use crate::network::can_mount;
use crate::run;
use ferrofs_tests::origin::component::{Component, available, send};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A registry with the image in it, its digest table, and a manifest that names both.
pub(crate) fn push(registry: &Component, image: &Path, pin: &str) {
    let put = |bytes: &[u8]| {
        let (status, headers, _) =
            send(registry.address(), "POST", "/v2/app/blobs/uploads/", &[], &[]).unwrap();
        assert_eq!(status, 202);
        let place = &headers.iter().find(|(name, _)| name == "location").unwrap().1;
        let place = place.split_once("/v2/").unwrap().1;
        let digest = digest(bytes);
        let target = format!("/v2/{place}&digest={digest}");
        let headers = [("Content-Type", "application/octet-stream")];
        let answer = send(registry.address(), "PUT", &target, &headers, bytes).unwrap();
        assert_eq!(answer.0, 201, "{}", String::from_utf8_lossy(&answer.2));
        (digest, bytes.len())
    };
    let manifest = manifest(put, image, pin);
    let headers = [("Content-Type", MANIFEST)];
    let body = manifest.to_string();
    let answer = send(registry.address(), "PUT", "/v2/app/manifests/v1", &headers, body.as_bytes());
    assert_eq!(answer.unwrap().0, 201);
}

/// Its manifest's type.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The manifest of an image with its digest table; `put` stores a blob, and tells its digest and
/// length.
fn manifest(put: impl Fn(&[u8]) -> (String, usize), image: &Path, pin: &str) -> Value {
    let table = PathBuf::from(format!("{}.digests", image.display()));
    let (layer, layer_len) = put(&std::fs::read(image).unwrap());
    let (table, table_len) = put(&std::fs::read(table).unwrap());
    let (config, config_len) = put(b"{}");
    serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": config, "size": config_len },
        "layers": [
            { "mediaType": "application/vnd.erofs.layer.v1", "digest": layer, "size": layer_len,
              "annotations": { "dev.ferrofs.digest-table": table, "dev.ferrofs.digest-pin": pin } },
            { "mediaType": "application/vnd.ferrofs.digest-table.v1",
              "digest": table, "size": table_len },
        ],
    })
}

/// By a program that is not ours.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("blob");
    std::fs::write(&path, bytes).unwrap();
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    format!("sha256:{}", text.split(' ').next().unwrap())
}

/// An image layout with the image in it, and its digest table, as `push` has it.
pub(crate) fn lay_out(folder: &Path, image: &Path, pin: &str) {
    let blobs = folder.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = digest(bytes);
        std::fs::write(blobs.join(digest.split_once(':').unwrap().1), bytes).unwrap();
        (digest, bytes.len())
    };
    let manifest = manifest(put, image, pin);
    let (manifest, len) = put(manifest.to_string().as_bytes());
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [
        { "mediaType": MANIFEST, "digest": manifest, "size": len,
          "annotations": { "org.opencontainers.image.ref.name": "v1" } } ] });
    std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// Runs a program of others; what is not installed is an error of kind `NotFound`.
fn other(program: &str, words: &[&str]) -> std::io::Result<()> {
    let output = Command::new(program).args(words).output()?;
    assert!(
        output.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Skopeo and umoci take our layers and digest tables along, and what they wrote is mounted; by the
/// manifest's pin, for none is given.
#[test]
fn other_tools_carry_images() {
    if !can_mount() {
        return;
    }
    let Some(registry) = available(Component::registry()) else { return };
    if available(other("skopeo", &["--version"])).is_none()
        || available(other("umoci", &["--version"])).is_none()
    {
        return;
    }
    let remote = Remote::new("-z lz4 -C 64K");
    let folder = |name: &str| remote.scratch.path(name).display().to_string();
    let (ours, back) = (folder("ours"), folder("back"));
    lay_out(Path::new(&ours), &remote.image(), &remote.pin);
    let reads_well = |url: &str| {
        let mounted = Mounted(remote.scratch.path("mnt"));
        std::fs::create_dir_all(&mounted.0).unwrap();
        let words = format!("mount -q --method fuse --cache-dir {{}} {url} {{}}");
        run(&words, &[&remote.scratch.path(&format!("cache-{}", url.len())), &mounted.0]).ok();
        run("diff {} {}", &[&remote.scratch.tree(), &mounted.0]).ok();
        run("umount {}", &[&mounted.0]).ok();
    };
    let there = format!("{}/app:v1", registry.address());
    let tag = |folder: &str, name: &str| format!("oci:{folder}:{name}");
    let at = format!("docker://{there}");
    let plain = "--dest-tls-verify=false";
    other("skopeo", &["copy", "-q", plain, &tag(&ours, "v1"), &at]).unwrap();
    reads_well(&format!("oci://{there}"));
    let plain = "--src-tls-verify=false";
    other("skopeo", &["copy", "-q", plain, &at, &tag(&back, "again")]).unwrap();
    reads_well(&format!("file://{back}"));
    // A second name, another image, and what nothing refers to tidied away.
    other("umoci", &["tag", "--image", &format!("{back}:again"), "stable"]).unwrap();
    reads_well(&format!("file://{back}"));
    other("umoci", &["new", "--image", &format!("{back}:empty")]).unwrap();
    other("umoci", &["gc", "--layout", &back]).unwrap();
    reads_well(&format!("file://{back}:stable"));
    let words = format!("mount -q --method fuse --cache-dir {{}} file://{back} {{}}");
    let said = run(&words, &[&remote.scratch.path("cache"), &remote.scratch.path("mnt")]).fails(1);
    assert!(said.contains("FOLDER:NAME") && said.contains("stable"), "{said}");
}
