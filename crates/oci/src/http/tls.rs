// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom we believe: certificates of authorities, and what it means when a server's is not by one.

use crate::error::printable;
use crate::{Error, ErrorKind};
use std::io::Read;
use std::path::Path;
use ureq::tls::{Certificate, PemItem, RootCerts};

/// Largest file of certificates; those of all authorities of a system are a quarter of a megabyte.
const FILE_LEN_MAX: u64 = 16 << 20;

/// Reads a PEM file of certificates.
pub(super) fn read_roots(path: &Path) -> Result<Vec<Certificate<'static>>, Error> {
    let shown = path.display();
    let io = |error: std::io::Error| Error::new(ErrorKind::Io, format!("{shown}: {error}"));
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(FILE_LEN_MAX).read_to_end(&mut pem).map_err(io)?;
    let items = ureq::tls::parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    if found.is_empty() {
        return Err(Error::invalid(format!("{shown}: holds no certificate (in PEM form)")));
    }
    Ok(found)
}

/// The system's certificates and the user's own; if there are none at all, Mozilla's.
pub(super) fn roots(own: &[Certificate<'static>]) -> RootCerts {
    let found = rustls_native_certs::load_native_certs();
    let certificates: Vec<Certificate<'static>> = found
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .chain(own.iter().cloned())
        .collect();
    if certificates.is_empty() {
        return RootCerts::WebPki;
    }
    RootCerts::new_with_certs(&certificates)
}

/// Words of rustls about a certificate, and what they mean.
const REASONS: [(&str, &str); 8] = [
    (
        "UnknownIssuer",
        "its certificate is by no authority that is trusted here; if it should be, name the \
         authority's certificate by --ca FILE",
    ),
    (
        "BadSignature",
        "its certificate is not by the authority of that name that is trusted here; is the file of \
         --ca the right one?",
    ),
    (
        "not valid for name",
        "its certificate is for another name: ask for it by a name that is in the certificate",
    ),
    ("NotValidForName", "its certificate is for another name"),
    ("expired", "its certificate has expired, or the clock of this machine is wrong"),
    ("Expired", "its certificate has expired, or the clock of this machine is wrong"),
    ("not valid yet", "its certificate is not valid yet, or the clock of this machine is wrong"),
    (
        "CaUsedAsEndEntity",
        "its certificate is that of an authority, which no server may use: give it one that is \
         signed by the authority",
    ),
];

/// What went wrong with a connection, for people: of encryption they are told what to do.
pub(super) fn explain(text: &str) -> String {
    // The error of a foreign crate, which tells only by its words; a test keeps them.
    let Some((_, why)) = text.split_once("invalid peer certificate: ") else {
        if text.contains("InvalidContentType") {
            return "does not speak TLS there: is it http:// that is meant?".to_owned();
        }
        return printable(text);
    };
    match REASONS.iter().find(|(words, _)| why.contains(words)) {
        Some((_, meaning)) => (*meaning).to_owned(),
        None => format!("its certificate is refused: {}", printable(why)),
    }
}
