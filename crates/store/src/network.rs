// SPDX-License-Identifier: MIT OR Apache-2.0
//! How whoever has bytes is reached: whose certificates are believed, and through which proxy. Can be
//! handed to other processes.
//!
//! Invariant: user and password of a proxy are in no message, and in no debug output.

use crate::{FetchError, FetchErrorKind};
use ferrofs_oci::Secret;
use ferrofs_oci::http::{Client, ClientOptions, ProxyChoice, address};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Which proxy requests go through.
#[derive(Clone, Default, Deserialize, Eq, PartialEq, Serialize)]
#[non_exhaustive]
pub enum ProxySetting {
    /// What the variables of the environment say: `ALL_PROXY`, `HTTPS_PROXY`, `HTTP_PROXY`,
    /// `NO_PROXY`.
    #[default]
    Environment,
    /// None, whatever the environment says.
    None,
    /// The proxy at this URL, for everything.
    Url(String),
}

impl fmt::Debug for ProxySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::None => f.write_str("None"),
            Self::Url(url) => match address::parse(url) {
                Ok((url, _)) => write!(f, "Url({})", address::show(&url)),
                Err(_) => f.write_str("Url(?)"),
            },
        }
    }
}

impl ProxySetting {
    /// `none`, or `[http[s]://][USER:PASSWORD@]HOST[:PORT]`. Whether it makes sense is seen when it is
    /// used.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "none" => Self::None,
            _ if text.contains("://") => Self::Url(text.to_owned()),
            _ => Self::Url(format!("http://{text}")),
        }
    }
}

/// How whoever has bytes is reached.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Network::default()`")]
pub struct Network {
    /// A file of certificates to trust besides those of the system (an absolute path).
    pub ca: Option<OsString>,
    /// The proxy.
    pub proxy: ProxySetting,
}

impl Network {
    /// As the HTTP client has it.
    #[must_use]
    pub fn client_options(&self) -> ClientOptions {
        ClientOptions {
            ca_file: self.ca.as_ref().map(PathBuf::from),
            proxy: match &self.proxy {
                ProxySetting::Environment => ProxyChoice::Environment,
                ProxySetting::None => ProxyChoice::Direct,
                ProxySetting::Url(url) => ProxyChoice::Explicit(Secret::new(url.as_str())),
            },
            ..ClientOptions::default()
        }
    }

    /// A client; fails if proxy or certificates make no sense.
    pub(crate) fn client(&self) -> Result<Client, FetchError> {
        Ok(Client::new(self.client_options())?)
    }

    /// Fails as whoever uses it would: the proxy's URL or the file of certificates makes no sense.
    /// Nobody is asked.
    pub fn check(&self) -> Result<(), FetchError> {
        self.client()
            .map(|_| ())
            .map_err(|error| FetchError::new(FetchErrorKind::Protocol, error.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_checked_and_their_passwords_shown_nowhere() {
        for (text, shown) in [
            ("none", "None"),
            ("h:3128", "Url(http://h:3128/)"),
            ("http://us:s3cret@h", "Url(http://h/)"),
            ("us:s3cret@[::1]:8080", "Url(http://[::1]:8080/)"),
            ("https://us:s3c%40ret@h:1", "Url(https://h:1/)"),
        ] {
            let network = Network { proxy: ProxySetting::parse(text), ..Network::default() };
            assert_eq!(format!("{:?}", network.proxy), shown);
            network.check().unwrap();
            let options = format!("{:?}", network.client_options());
            assert!(!options.contains("s3c"), "{options}");
        }
        for bad in [
            "",
            "ftp://us:s3cret@h",
            "http://us:s3cret@",
            "socks5://us:s3cret@h",
            "h/s3cret",
            "http://us:s3cret@h:99999",
            "http://h?s3cret",
        ] {
            let network = Network { proxy: ProxySetting::parse(bad), ..Network::default() };
            let error = network.check().unwrap_err();
            assert!(error.what.contains("proxy") && !error.what.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn certificates_are_read_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let network = Network { ca: Some(path.clone().into()), ..Network::default() };
        assert!(network.check().unwrap_err().what.contains("ca.pem"));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n?").unwrap();
        let _ = network.check();
        std::fs::write(&path, "no certificate").unwrap();
        assert!(network.check().unwrap_err().what.contains("no certificate"));
    }
}
