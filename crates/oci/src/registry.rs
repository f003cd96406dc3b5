// SPDX-License-Identifier: MIT OR Apache-2.0
//! A repository of a registry: manifests, blobs, referrers.

use crate::http::{Ask, Authorize, Client, Resource, Response, address};
use crate::manifest::{MANIFEST_LEN_MAX, media};
use crate::token::RegistryAuth;
use crate::{Credentials, Descriptor, Digest, Error, ErrorKind, Manifest, Platform, Reference};
use std::sync::Arc;
use std::time::Instant;
use url::Url;

/// Manifests on the way from a name to an image: an index, and perhaps one more.
const DEPTH_MAX: usize = 3;

/// How a registry is talked to.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..RegistryOptions::default()`")]
pub struct RegistryOptions {
    /// `http`, also to hosts other than this machine.
    pub insecure: bool,
    /// Who we are.
    pub credentials: Credentials,
    /// Whether tokens are to allow pushing.
    pub push: bool,
}

/// One repository.
#[derive(Clone, Debug)]
pub struct Registry {
    client: Client,
    base: Url,
    reference: Reference,
    auth: Arc<dyn Authorize>,
}

/// A manifest or index whose bytes have the digest.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "what there is to know of a manifest")]
pub struct Fetched {
    /// Digest of the bytes.
    pub digest: Digest,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
}

impl Registry {
    /// The repository of a reference. Asks nobody yet.
    pub fn new(
        client: Client,
        reference: &Reference,
        options: &RegistryOptions,
    ) -> Result<Self, Error> {
        let host = reference.host();
        let parse = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/{}/", reference.repository))
                .map_err(|_| Error::invalid(format!("{reference}: no host")))
        };
        let secure = parse("https")?;
        // Who names certificates has a registry with one, on this machine, too.
        let plain = options.insecure || address::is_loopback(&secure) && !client.has_own_roots();
        let base = if plain { parse("http")? } else { secure };
        let actions = if options.push { "pull,push" } else { "pull" };
        let auth = RegistryAuth::new(
            client.clone(),
            base.clone(),
            &reference.registry,
            &reference.repository,
            actions,
            options.credentials.clone(),
        );
        Ok(Self { client, base, reference: reference.clone(), auth: Arc::new(auth) })
    }

    /// The reference it was made for.
    pub const fn reference(&self) -> &Reference {
        &self.reference
    }

    /// `http(s)://host/v2/repository/`.
    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// Something of the repository by its path below [`Registry::base`], with the credentials. For
    /// what has no function here yet.
    pub fn resource(&self, path: &str) -> Result<Resource, Error> {
        let url = self.place(path)?;
        Ok(Resource::new(self.client.clone(), url, Vec::new(), Some(Arc::clone(&self.auth))))
    }

    /// The URL of a path below [`Registry::base`].
    pub(crate) fn place(&self, path: &str) -> Result<Url, Error> {
        let url = self.base.join(path).map_err(|_| Error::invalid("no path of a repository"))?;
        if !url.path().starts_with(self.base.path()) || !address::same_origin(&url, &self.base) {
            return Err(Error::invalid("a path that leads out of the repository"));
        }
        Ok(url)
    }

    pub(crate) fn auth(&self) -> &dyn Authorize {
        &*self.auth
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    fn get(
        &self,
        path: &str,
        accept: Option<&str>,
        deadline: Option<Instant>,
    ) -> Result<Response, Error> {
        let ask = Ask { accept: accept.map(str::to_owned), deadline, ..Ask::default() };
        let answer = self.resource(path)?.open(&ask)?;
        if answer.status() == 200 { Ok(answer) } else { Err(answer.into_error()) }
    }

    /// The manifest or index of a tag or digest.
    pub fn manifest(&self, selector: &str, deadline: Option<Instant>) -> Result<Fetched, Error> {
        let mut answer =
            self.get(&format!("manifests/{selector}"), Some(media::ACCEPT), deadline)?;
        let place = answer.place().to_owned();
        let told = answer.header("docker-content-digest").map(str::to_owned);
        let bytes = answer.read_all(MANIFEST_LEN_MAX)?;
        let digest = if let Ok(wanted) = selector.parse::<Digest>() {
            wanted.verify(&bytes, &place)?;
            wanted
        } else {
            match told.map(|told| told.parse::<Digest>()) {
                Some(Ok(told)) => {
                    told.verify(&bytes, &place)?;
                    told
                }
                _ => Digest::of(&bytes),
            }
        };
        let manifest = Manifest::parse(&bytes, &place)?;
        Ok(Fetched { digest, bytes, manifest })
    }

    /// The manifest of the image that the reference names, for a platform.
    pub fn image(&self, platform: &Platform, deadline: Option<Instant>) -> Result<Fetched, Error> {
        let mut fetched = self.manifest(self.reference.selector(), deadline)?;
        for _ in 0..DEPTH_MAX {
            if !fetched.manifest.is_index() {
                return Ok(fetched);
            }
            let Some(entry) = fetched.manifest.choose(platform) else {
                let what = format!(
                    "{}: has no image for {}/{}",
                    self.reference, platform.os, platform.architecture
                );
                return Err(Error::new(ErrorKind::NotFound, what));
            };
            let digest = entry.digest()?;
            fetched = self.manifest(&digest.to_string(), deadline)?;
        }
        Err(Error::protocol(format!("{}: indexes of indexes", self.reference)))
    }

    /// A blob, for ranges of it.
    pub fn blob(&self, digest: &Digest) -> Result<Resource, Error> {
        self.resource(&format!("blobs/{digest}"))
    }

    /// A whole small blob, verified.
    pub fn blob_bytes(
        &self,
        descriptor: &Descriptor,
        len_max: usize,
        deadline: Option<Instant>,
    ) -> Result<Vec<u8>, Error> {
        let digest = descriptor.digest()?;
        let mut answer = self.get(&format!("blobs/{digest}"), None, deadline)?;
        let place = answer.place().to_owned();
        let bytes = answer.read_all(len_max)?;
        digest.verify(&bytes, &place)?;
        Ok(bytes)
    }

    /// Artifacts that belong to a manifest, all or those of a type: by the referrers API, or by the
    /// tag that stands in for it.
    pub fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
        deadline: Option<Instant>,
    ) -> Result<Vec<Descriptor>, Error> {
        let answer = self.get(&format!("referrers/{subject}"), Some(media::OCI_INDEX), deadline);
        let manifest = match answer {
            Ok(mut answer) => {
                let place = answer.place().to_owned();
                Manifest::parse(&answer.read_all(MANIFEST_LEN_MAX)?, &place)?
            }
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Protocol) => {
                match self.manifest(&subject.referrers_tag(), deadline) {
                    Ok(fetched) => fetched.manifest,
                    Err(error) if error.kind == ErrorKind::NotFound => return Ok(Vec::new()),
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        let wanted = |entry: &Descriptor| {
            artifact_type.is_none() || entry.artifact_type.as_deref() == artifact_type
        };
        Ok(manifest.manifests.into_iter().filter(wanted).collect())
    }
}
