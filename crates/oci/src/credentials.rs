// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who we are to a registry: Docker's credential file and its helpers, read anew each time.

mod helper;

use crate::{Error, ErrorKind, Secret};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Largest file, in bytes.
const LEN_MAX: u64 = 1 << 20;

/// What proves who we are.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Credential {
    /// User and password.
    Password(String, Secret),
    /// A token that is exchanged for others.
    IdentityToken(Secret),
    /// A token that is sent as it is.
    RegistryToken(Secret),
}

/// Where credentials are looked for.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// `REGISTRY_AUTH_FILE`, `DOCKER_CONFIG`, `~/.docker/config.json`, Podman's file; each that
    /// exists, in this order.
    #[default]
    Environment,
    /// This file.
    File(PathBuf),
    /// These, for every registry asked.
    Fixed(Credential),
    /// None.
    Anonymous,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Credentials {
    /// Looks up the credential for a repository of a registry (`docker.io`, `host[:port]`). Helpers,
    /// which may ask somebody in turn, have until `deadline`.
    pub fn find(
        &self,
        registry: &str,
        repository: &str,
        deadline: Option<Instant>,
    ) -> Result<Option<Credential>, Error> {
        let files = match self {
            Self::Anonymous => return Ok(None),
            Self::Fixed(credential) => return Ok(Some(credential.clone())),
            Self::File(path) => vec![path.clone()],
            Self::Environment => environment_files(),
        };
        for path in files {
            let optional = matches!(self, Self::Environment);
            let Some(file) = read(&path, optional)? else { continue };
            if let Some(credential) = file.find(registry, repository, &path, deadline)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }
}

fn environment_files() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let mut files = Vec::new();
    files.extend(variable("REGISTRY_AUTH_FILE").map(PathBuf::from));
    match variable("DOCKER_CONFIG") {
        Some(folder) => files.push(Path::new(&folder).join("config.json")),
        None => {
            files.extend(variable("HOME").map(|home| Path::new(&home).join(".docker/config.json")));
        }
    }
    files.extend(
        variable("XDG_RUNTIME_DIR").map(|run| Path::new(&run).join("containers/auth.json")),
    );
    files
}

fn read(path: &Path, optional: bool) -> Result<Option<File>, Error> {
    let shown = path.display();
    let io = |error: std::io::Error| Error::new(ErrorKind::Io, format!("{shown}: {error}"));
    let file = match std::fs::File::open(path) {
        Err(error) if optional && error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        result => result.map_err(io)?,
    };
    let mut text = String::new();
    file.take(LEN_MAX).read_to_string(&mut text).map_err(io)?;
    // What serde says of strings may repeat them: only where is told.
    let parsed = serde_json::from_str(&text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Error::invalid(format!("{shown}: no credential file (line {line}, column {column})"))
    })?;
    Ok(Some(parsed))
}

/// Names of Docker Hub in credential files.
const DOCKER_HUB: [&str; 4] =
    ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"];

/// `https://host/v1/` as `host`.
fn bare(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.strip_suffix('/').unwrap_or(key);
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

impl File {
    fn find(
        &self,
        registry: &str,
        repository: &str,
        path: &Path,
        deadline: Option<Instant>,
    ) -> Result<Option<Credential>, Error> {
        let names: Vec<&str> =
            if registry == "docker.io" { DOCKER_HUB.to_vec() } else { vec![registry] };
        for name in &names {
            if let Some(helper) = self.cred_helpers.get(*name) {
                return helper::ask(helper, name, path, deadline);
            }
        }
        if let Some(helper) = &self.creds_store {
            // Docker writes an empty entry for what is in the store, but not always.
            if let Some(credential) = helper::ask(helper, names[0], path, deadline)? {
                return Ok(Some(credential));
            }
        }
        // The longest key wins: Podman's files may tell credentials for a part of a registry.
        let full = format!("{registry}/{repository}");
        let mut best: Option<(usize, &Entry)> = None;
        for (key, entry) in &self.auths {
            let key = bare(key);
            let fits = names.iter().any(|name| bare(name) == key)
                || full == key
                || full.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
            if fits && best.is_none_or(|(len, _)| len < key.len()) {
                best = Some((key.len(), entry));
            }
        }
        best.map_or(Ok(None), |(_, entry)| entry.credential(registry, path))
    }
}

impl Entry {
    fn credential(&self, registry: &str, path: &Path) -> Result<Option<Credential>, Error> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(Secret::new(token))));
        }
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = given(&self.auth) {
            let decoded = BASE64_STANDARD.decode(auth.trim()).ok();
            let login = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            let Some((user, password)) = login.as_deref().and_then(|login| login.split_once(':'))
            else {
                let shown = path.display();
                let what = format!("{shown}: the entry for {registry} is not user:password");
                return Err(Error::invalid(what));
            };
            let password = password.trim_end_matches('\0');
            return Ok(Some(Credential::Password(user.to_owned(), Secret::new(password))));
        }
        if let (Some(user), Some(password)) = (given(&self.username), given(&self.password)) {
            return Ok(Some(Credential::Password(user, Secret::new(password))));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, registry: &str, repository: &str) -> Result<Option<Credential>, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        Credentials::File(path).find(registry, repository, None)
    }

    #[expect(clippy::unnecessary_wraps, reason = "what `find` gives, to be compared with")]
    fn password(user: &str, password: &str) -> Option<Credential> {
        Some(Credential::Password(user.into(), Secret::new(password)))
    }

    #[test]
    fn entries_are_found_by_their_many_names() {
        let text = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aDpodWI="},
            "r.example:5000": {"auth": "dTpwOnc="},
            "r.example:5000/team": {"username": "t", "password": "tp"},
            "token.example": {"auth": "", "identitytoken": "idt"}, "empty.example": {}}}"#;
        assert_eq!(find(text, "docker.io", "library/a").unwrap(), password("h", "hub"));
        assert_eq!(find(text, "r.example:5000", "a").unwrap(), password("u", "p:w"));
        assert_eq!(find(text, "r.example:5000", "team/a").unwrap(), password("t", "tp"));
        assert_eq!(find(text, "r.example:5000", "teams").unwrap(), password("u", "p:w"));
        let token = Some(Credential::IdentityToken(Secret::new("idt")));
        assert_eq!(find(text, "token.example", "a").unwrap(), token);
        assert_eq!(find(text, "empty.example", "a").unwrap(), None);
        assert_eq!(find(text, "r.example", "a").unwrap(), None);
    }

    #[test]
    fn secrets_stay_out_of_messages() {
        for text in [r#"{"auths":{"r":{"auth":"bm9jb2xvbnNlY3JldA=="}}}"#, r#"{"auths": "secret"}"#]
        {
            let error = find(text, "r", "a").unwrap_err();
            assert!(!error.what.contains("secret") && !error.what.contains("bm9j"), "{error}");
        }
        let shown = format!("{:?}", password("u", "hidden"));
        assert!(!shown.contains("hidden"));
        assert!(find(r#"{"credHelpers":{"r":"../../bin/sh"}}"#, "r", "a").is_err());
    }
}
