// SPDX-License-Identifier: MIT OR Apache-2.0
//! URLs: what may be shown of them, and who may be given credentials.

use crate::{Error, Secret};
use url::{Host, Url};

/// Longest URL that is read, in bytes.
const URL_LEN_MAX: usize = 8 * 1024;

/// A URL as people may see it: without user, password, query and fragment. Signatures and tokens are
/// in queries.
pub fn show(url: &Url) -> String {
    let mut shown = format!("{}://{}", url.scheme(), url.host_str().unwrap_or(""));
    if let Some(port) = url.port() {
        shown.push(':');
        shown.push_str(&port.to_string());
    }
    shown.push_str(url.path());
    shown
}

/// Reads an `http` or `https` URL; user and password are taken out of it.
pub fn parse(text: &str) -> Result<(Url, Option<(String, Secret)>), Error> {
    if text.len() > URL_LEN_MAX {
        return Err(Error::invalid(format!("a URL of {} bytes is too long", text.len())));
    }
    // The text itself may hold a password: it is not repeated.
    let mut url =
        Url::parse(text).map_err(|error| Error::invalid(format!("not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(Error::invalid(format!("{}: neither http nor https, or no host", show(&url))));
    }
    let login = if url.username().is_empty() && url.password().is_none() {
        None
    } else {
        let user = percent_decode(url.username())?;
        let password = percent_decode(url.password().unwrap_or_default())?;
        Some((user, Secret::new(password)))
    };
    // These fail for URLs without a host only.
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| Error::invalid("a URL without a host"))?;
    url.set_fragment(None);
    Ok((url, login))
}

/// Undoes `%XX`.
pub fn percent_decode(text: &str) -> Result<String, Error> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| (digit as char).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(Error::invalid("a URL with a broken %XX")),
        }
    }
    String::from_utf8(bytes).map_err(|_| Error::invalid("a URL with bytes that are not UTF-8"))
}

/// Same scheme, host and port: credentials for one are for the other.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host() == other.host()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Whether the host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn userinfo_is_taken_out_and_never_shown() {
        let (url, login) = parse("https://us%40er:p%3Aw@Example.org:8443/a?sig=s3cret#f").unwrap();
        let (user, password) = login.unwrap();
        assert_eq!((user.as_str(), password.reveal()), ("us@er", "p:w"));
        assert_eq!(show(&url), "https://example.org:8443/a");
        assert!(!url.as_str().contains("p%3Aw"));
        assert_eq!(format!("{password:?}"), "(secret)");
        for bad in ["ftp://a/b", "http://", "x", "http://us:secret@", "http://us:secret@h:99999/"] {
            let error = parse(bad).unwrap_err();
            assert!(!error.what.contains("secret"), "{error}");
        }
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let url = |text| Url::parse(text).unwrap();
        assert!(same_origin(&url("https://a/x"), &url("https://A:443/y")));
        for other in ["http://a/x", "https://a:444/x", "https://a.b/x"] {
            assert!(!same_origin(&url("https://a/x"), &url(other)), "{other}");
        }
        assert!(is_loopback(&url("http://127.0.0.9:5000/")) && is_loopback(&url("http://[::1]/")));
        assert!(!is_loopback(&url("http://localhost.example.org/")));
    }
}
