// SPDX-License-Identifier: MIT OR Apache-2.0
//! Certificates for servers on the loopback, made by the `openssl` command: an authority of our own,
//! and what it has signed.

use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An authority in a folder of its own, which is removed with it.
#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
}

/// A server's certificate and key, as PEM files.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority that nobody trusts yet.
    pub fn new() -> Result<Self> {
        let authority = Self { folder: tempfile::tempdir()? };
        openssl(
            authority.folder.path(),
            &[
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                "ca.key",
                "-out",
                "ca.pem",
                "-days",
                "30",
                "-subj",
                "/CN=ferrofs tests",
                "-addext",
                "keyUsage=critical,keyCertSign",
            ],
        )?;
        Ok(authority)
    }

    /// Its own certificate: what must be trusted.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for these names (`DNS:localhost`, `IP:127.0.0.1`), good for so many days; for 0
    /// it has expired a second later.
    pub fn sign(&self, names: &str, days: u32) -> Result<ServerCertificate> {
        let folder = self.folder.path();
        let stem = format!("server-{}", std::fs::read_dir(folder)?.count());
        let [key, request, certificate, extensions] =
            ["key", "csr", "pem", "ext"].map(|ending| format!("{stem}.{ending}"));
        openssl(
            folder,
            &[
                "req",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-keyout",
                &key,
                "-out",
                &request,
                "-subj",
                "/CN=server",
            ],
        )?;
        let text = format!("subjectAltName={names}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(folder.join(&extensions), text)?;
        let days = days.to_string();
        openssl(
            folder,
            &[
                "x509",
                "-req",
                "-in",
                &request,
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-out",
                &certificate,
                "-days",
                &days,
                "-extfile",
                &extensions,
            ],
        )?;
        Ok(ServerCertificate { certificate: folder.join(certificate), key: folder.join(key) })
    }
}

fn openssl(folder: &Path, words: &[&str]) -> Result<()> {
    let output =
        Command::new("openssl").args(words).current_dir(folder).stdin(Stdio::null()).output();
    let output = output.map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return Error::new(error.kind(), "openssl is missing (scripts/setup.sh)");
        }
        error
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}
