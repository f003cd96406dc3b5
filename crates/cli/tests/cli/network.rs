// SPDX-License-Identifier: MIT OR Apache-2.0
//! The way to images elsewhere: encryption and certificates, and proxies.

use crate::lazy::{Mounted, Remote};
use crate::{Ended, FERROFS, run};
use ferrofs_tests::origin::certificate::{Authority, ServerCertificate};
use ferrofs_tests::origin::component::{Component, available};
use ferrofs_tests::origin::{Content, Fault, Origin, Proxy, Script};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// An authority, or none where there is no `openssl`.
pub(crate) fn authority() -> Option<Authority> {
    match Authority::new() {
        Ok(authority) => Some(authority),
        Err(error) if std::env::var_os("CI").is_none() => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("no certificates: {error}"),
    }
}

pub(crate) fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists() && crate::is_root();
    if !can {
        println!("skipped: mounting needs root and /dev/fuse");
    }
    can
}

impl Remote {
    /// Mounts what is at a URL, with its pin.
    fn mount_at(&self, url: &str, words: &[&str], variables: &[(&str, &str)]) -> Ended {
        std::fs::create_dir_all(self.target()).unwrap();
        let mut command = Command::new(FERROFS);
        command.args(["mount", "-q", "--method", "fuse", "-o", "soft=5", "--pin", &self.pin]);
        command.arg("--log").arg(self.scratch.path("log"));
        command.arg("--cache-dir").arg(self.cache()).args(words).arg(url).arg(self.target());
        for name in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"] {
            command.env_remove(name).env_remove(name.to_lowercase());
        }
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        Ended::new(&command.output().unwrap())
    }

    fn target(&self) -> PathBuf {
        self.scratch.path("mnt")
    }

    /// All of it is right; then it is unmounted, and nothing of it is kept.
    fn reads_well(&self) {
        let mounted = Mounted(self.target());
        run("diff {} {}", &[&self.scratch.tree(), &mounted.0]).ok();
        run("umount {}", &[&mounted.0]).ok();
        self.forget();
    }

    fn forget(&self) {
        let begin = std::time::Instant::now();
        while self.cache().exists() && std::fs::remove_dir_all(self.cache()).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(60), "the cache stays in use");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn is_mounted(target: &Path) -> bool {
    ferrofs_linux::mountinfo::find(target).unwrap().is_some()
}

#[test]
fn servers_prove_who_they_are() {
    let Some(authority) = authority() else { return };
    let remote = Remote::new("-z lz4 -C 64K");
    if !can_mount() {
        return;
    }
    let start = |names: &str, days| {
        let certificate = authority.sign(names, days).unwrap();
        available(Component::tls(&certificate, remote.origin.address()))
    };
    let Some(server) = start("IP:127.0.0.1,DNS:localhost", 30) else { return };
    let ca = authority.certificate();
    let ca = ca.to_str().unwrap();
    let https = |server: &Component| format!("https://{}/image.erofs", server.address());
    let url = https(&server);
    remote.mount_at(&url, &["--ca", ca], &[]).ok();
    remote.reads_well();
    assert!(remote.origin.ledger().bytes_sent_of("/image.erofs") > 1_000_000);
    // As other programs are told of it.
    remote.mount_at(&url, &[], &[("SSL_CERT_FILE", ca)]).ok();
    remote.reads_well();
    let by_name = url.replace("127.0.0.1", "localhost");
    remote.mount_at(&by_name, &["--ca", ca], &[]).ok();
    remote.reads_well();
    remote.origin.forget();
    let other = Authority::new().unwrap();
    let other = other.certificate();
    let expired = start("IP:127.0.0.1", 0).unwrap();
    let misnamed = start("DNS:elsewhere.example", 30).unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let empty = remote.scratch.path("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    let in_the_clear = Component::nginx(&remote.scratch.path("www")).unwrap();
    let plain = in_the_clear.url("/image.erofs").replace("http:", "https:");
    for (url, words, expected) in [
        (&url, vec![], "--ca FILE"),
        (&url, vec!["--ca", other.to_str().unwrap()], "is the file of --ca the right one"),
        (&https(&expired), vec!["--ca", ca], "expired"),
        (&https(&misnamed), vec!["--ca", ca], "another name"),
        (&url, vec!["--ca", empty.to_str().unwrap()], "no certificate"),
        (&url, vec!["--ca", "/nowhere.pem"], "/nowhere.pem"),
        (&plain, vec!["--ca", ca], "does not speak TLS"),
    ] {
        // Insecure is about digests, and not about who is asked.
        for more in [&[][..], &["--insecure"][..]] {
            let words = [&words[..], more].concat();
            let begin = std::time::Instant::now();
            let said = remote.mount_at(url, &words, &[]).fails(1);
            assert!(said.contains(expected), "{words:?}: {said}");
            assert!(!is_mounted(&remote.target()) && begin.elapsed() < Duration::from_secs(30));
        }
    }
    assert_eq!(remote.origin.ledger().bytes_sent(), 0, "who is not believed is not read");
    let said = run("mount --ca /x.pem {} {}", &[&remote.target(), &remote.target()]).fails(1);
    assert!(said.contains("--ca is for images that are read on demand"), "{said}");
}

/// An authority, its word for the server of an image, which is encrypted, and that server.
fn encrypted() -> Option<(Authority, ServerCertificate, Remote, Component)> {
    let authority = authority()?;
    let remote = Remote::new("-z lz4 -C 64K");
    if !can_mount() {
        return None;
    }
    let certificate = authority.sign("IP:127.0.0.1", 30).unwrap();
    let server = available(Component::tls(&certificate, remote.origin.address()))?;
    Some((authority, certificate, remote, server))
}

/// A redirect in the clear is an error, whether it comes first or later.
#[test]
fn what_is_encrypted_stays_so() {
    let Some((authority, certificate, remote, server)) = encrypted() else { return };
    let url = format!("https://{}/image.erofs", server.address());
    let ca = authority.certificate();
    let words = ["--ca", ca.to_str().unwrap()];
    let clear = Origin::start(Content::Folder(remote.scratch.path("www"))).unwrap();
    let redirect = |to: String| -> Script {
        Box::new(move |request, _| vec![Fault::redirect(&format!("{to}{}", request.path()))])
    };
    remote.origin.script(redirect(clear.url("")));
    let said = remote.mount_at(&url, &words, &[]).fails(1);
    assert!(said.contains("redirected from https to http"), "{said}");
    remote.origin.behave();
    remote.mount_at(&url, &words, &[]).ok();
    let mounted = Mounted(remote.target());
    std::fs::read(mounted.0.join("dir/1")).unwrap();
    remote.origin.script(redirect(clear.url("")));
    assert!(std::fs::read(mounted.0.join("dir/30")).is_err());
    let log = std::fs::read_to_string(remote.scratch.path("log")).unwrap();
    assert!(log.contains("redirected from https to http"), "{log}");
    assert!(clear.ledger().entries().is_empty(), "asked in the clear");
    remote.origin.behave();
    remote.reads_well();
    // From one encrypted server to another is fine.
    let beside = Component::tls(&certificate, clear.address()).unwrap();
    remote.origin.script(redirect(format!("https://{}", beside.address())));
    remote.mount_at(&url, &words, &[]).ok();
    remote.reads_well();
    assert!(clear.ledger().bytes_sent_of("/image.erofs") > 1_000_000);
}

#[test]
fn everything_goes_through_the_proxy() {
    let remote = Remote::new("-z lz4 -C 64K");
    if !can_mount() {
        return;
    }
    let url = remote.origin.url("/image.erofs");
    let proxy = Proxy::start(None).unwrap();
    let (address, other) = (proxy.address().to_string(), Proxy::start(None).unwrap());
    let dead = format!("http://{}", other.address());
    drop(other);
    for (words, variables) in [
        (vec!["--proxy", &address], vec![]),
        (vec!["--proxy", &address], vec![("HTTP_PROXY", dead.as_str())]),
        (vec![], vec![("FERROFS_PROXY", address.as_str()), ("ALL_PROXY", &dead)]),
        (vec![], vec![("http_proxy", address.as_str())]),
    ] {
        let before = proxy.asked().len();
        remote.mount_at(&url, &words, &variables).ok();
        remote.reads_well();
        // Of all that came this far each request was seen by the proxy before.
        let entries = remote.origin.ledger().entries().len();
        let mut asked = proxy.asked();
        assert!(entries <= asked.len(), "{words:?}: some went past it");
        let asked = asked.split_off(before);
        assert!(asked.len() > 3, "{words:?}: {asked:?}");
        assert!(asked.iter().all(|line| line.starts_with("GET http://127.0.0.1:")), "{asked:?}");
    }
    // None is none, whatever the environment says.
    let asked = proxy.asked().len();
    remote.mount_at(&url, &["--proxy", "none"], &[("HTTP_PROXY", &address)]).ok();
    remote.reads_well();
    assert_eq!(proxy.asked().len(), asked);
    let said = remote.mount_at(&url, &["--proxy", "ftp://us:s3cret@h"], &[]).fails(1);
    assert!(said.contains("proxy") && !said.contains("s3cret"), "{said}");
    // After wrong bytes the origin itself is asked; the proxy, if that cannot be reached.
    let alone = ["--proxy", &address, "--prefetch", "none", "--trace", "none"];
    remote.mount_at(&url, &alone, &[]).ok();
    let mounted = Mounted(remote.target());
    let asked = proxy.asked().len();
    remote.origin.forget();
    remote.origin.next(vec![Fault::Flip(9)]);
    std::fs::read(mounted.0.join("dir/40")).unwrap();
    assert!(proxy.asked().len() - asked < remote.origin.ledger().entries().len());
    remote.reads_well();
}

#[test]
fn tunnels_and_passwords() {
    let Some((authority, _certificate, remote, server)) = encrypted() else { return };
    let https = format!("https://{}/image.erofs", server.address());
    let ca = authority.certificate();
    let ca = ca.to_str().unwrap();
    // us:s3c@ret
    let proxy = Proxy::start(Some("Basic dXM6czNjQHJldA==")).unwrap();
    let right = format!("http://us:s3c%40ret@{}", proxy.address());
    let wrong = format!("us:s3cwrong@{}", proxy.address());
    for url in [&remote.origin.url("/image.erofs"), &https] {
        remote.mount_at(url, &["--ca", ca, "--proxy", &right], &[]).ok();
        let mounted = Mounted(remote.target());
        std::fs::read(mounted.0.join("dir/40")).unwrap();
        let folder = remote.scratch.path("");
        let lines = command_lines(folder.to_str().unwrap());
        assert!(!lines.is_empty() && lines.iter().all(|line| !line.contains("s3c")), "{lines:?}");
        remote.reads_well();
        let joined = format!("--proxy={wrong}");
        let said = remote.mount_at(url, &["--ca", ca, &joined], &[]).fails(1);
        assert!(said.contains("407") && !said.contains("s3c"), "{said}");
        let log = std::fs::read_to_string(remote.scratch.path("log")).unwrap();
        assert!(!log.contains("s3c"), "{log}");
    }
    let asked = proxy.asked();
    assert!(asked.contains(&format!("CONNECT {}", server.address())), "{asked:?}");
    assert!(asked.iter().any(|line| line.starts_with("GET http://127.0.0.1:")), "{asked:?}");
    // Commands beside `mount`, by the same words.
    let trace = remote.scratch.path("trace");
    let words = format!("--ca {ca} --proxy {right} --pin {} --cache-dir {{}}", remote.pin);
    run(
        &format!("trace record {https} -o {{}} {words} -- cat {{}}/dir/3"),
        &[&trace, &remote.cache(), Path::new("{}")],
    )
    .ok();
    remote.forget();
    let replayed = run(&format!("trace replay {{}} {https} {words}"), &[&trace, &remote.cache()]);
    assert!(replayed.ok().contains("are there"));
    run(&format!("trace files {{}} {https} {words}"), &[&trace, &remote.cache()]).ok();
}

/// Of all processes that name this on their command line.
pub(crate) fn command_lines(name: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let read = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let lines = entries.filter_map(read);
    let lines = lines.map(|line| String::from_utf8_lossy(&line).into_owned());
    lines.filter(|line| line.contains(name)).collect()
}

/// A program in a folder of programs.
fn script(folder: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A registry that wants user and password, which credential helpers know.
#[test]
fn credential_helpers_are_asked() {
    let Some(registry) = available(Component::registry()) else { return };
    let remote = Remote::new("-z lz4 -C 64K");
    if !can_mount() {
        return;
    }
    crate::published::push(&registry, &remote.scratch.path("www/image.erofs"), &remote.pin);
    let front = Origin::start(Content::Upstream(registry.address())).unwrap();
    // u:s3cret
    front.script(Box::new(|request, _| {
        if request.header("authorization") == Some("Basic dTpzM2NyZXQ=") {
            return vec![];
        }
        let header = ("WWW-Authenticate".into(), "Basic realm=\"r\"".into());
        vec![Fault::Status(401, vec![header])]
    }));
    let (programs, config) = (remote.scratch.path("bin"), remote.scratch.path("docker"));
    std::fs::create_dir(&programs).unwrap();
    std::fs::create_dir(&config).unwrap();
    let address = front.address().to_string();
    let login = r#"echo '{"Username":"u","Secret":"s3cret"}'"#;
    let good =
        format!("read -r server || :; test \"$1 $server\" = 'get {address}' || exit 9; {login}");
    script(&programs, "docker-credential-good", &good);
    script(&programs, "docker-credential-slow", &format!("sleep 2; {good}"));
    script(
        &programs,
        "docker-credential-other",
        "echo '{\"Username\":\"u\",\"Secret\":\"s3cre\"}'",
    );
    script(
        &programs,
        "docker-credential-none",
        "echo credentials not found in native keychain; exit 1",
    );
    script(&programs, "docker-credential-failing", "echo s3cret >&2; echo s3cret; exit 3");
    script(&programs, "docker-credential-flood", "yes s3cret");
    script(&programs, "docker-credential-garbage", "echo '{\"Username\": s3cret'");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let url = format!("oci://{address}/app:v1");
    let mount = |json: &str| {
        std::fs::write(config.join("config.json"), json).unwrap();
        let folder = config.to_str().unwrap();
        remote.mount_at(&url, &[], &[("DOCKER_CONFIG", folder), ("PATH", &path)])
    };
    for name in ["good", "slow"] {
        mount(&format!(r#"{{"credHelpers":{{"{address}":"{name}"}}}}"#)).ok();
        remote.reads_well();
        mount(&format!(r#"{{"credsStore":"{name}","auths":{{"{address}":{{}}}}}}"#)).ok();
        remote.reads_well();
    }
    for (name, expected) in [
        ("other", "access denied (status 401)"),
        ("none", "access denied (status 401)"),
        ("failing", "docker-credential-failing: failed (exit status: 3)"),
        ("flood", "answered more than"),
        ("garbage", "did not answer in its form"),
        ("missing", "No such file or directory"),
        ("../bin/good", "is refused"),
    ] {
        let said = mount(&format!(r#"{{"credHelpers":{{"{address}":"{name}"}}}}"#)).fails(1);
        assert!(said.contains(expected) && !said.contains("s3cre"), "{name}: {said}");
        assert!(!is_mounted(&remote.target()));
    }
    let said = mount(&format!(r#"{{"credHelpers":{{"{address}":"failing"}}}}"#)).fails(1);
    let hint = format!("echo {address} | docker-credential-failing get");
    assert!(said.contains(&hint) && said.contains("config.json"), "{said}");
}

/// A registry whose certificate is of our own authority, on this machine.
#[test]
fn registries_speak_tls_where_certificates_are_named() {
    let Some(authority) = authority() else { return };
    let Some(registry) = available(Component::registry()) else { return };
    let remote = Remote::new("-z lz4 -C 64K");
    if !can_mount() {
        return;
    }
    crate::published::push(&registry, &remote.scratch.path("www/image.erofs"), &remote.pin);
    let certificate = authority.sign("IP:127.0.0.1", 30).unwrap();
    let server = Component::tls(&certificate, registry.address()).unwrap();
    let url = format!("oci://{}/app:v1", server.address());
    let ca = authority.certificate();
    remote.mount_at(&url, &["--ca", ca.to_str().unwrap()], &[]).ok();
    remote.reads_well();
    // On this machine it is spoken to in the clear otherwise.
    remote.mount_at(&format!("oci://{}/app:v1", registry.address()), &[], &[]).ok();
    remote.reads_well();
    assert!(remote.mount_at(&url, &[], &[]).code == 1);
}
