// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is put into a repository: small blobs, manifests, and artifacts that belong to an image.
//!
//! It refuses to know what artifacts are about. Invariant: a manifest is sent when all that it names
//! is there; nothing that was there is replaced but the list of an image's artifacts, where a
//! registry keeps none itself.

use crate::http::{Outgoing, Request, Response, address};
use crate::manifest::media;
use crate::{Descriptor, Digest, Error, ErrorKind, Fetched, Manifest, Registry};
use std::collections::BTreeMap;
use std::time::Instant;
use url::Url;

/// The configuration of an artifact that has none.
pub(crate) const NOTHING: &[u8] = b"{}";

/// Something small that belongs to an image.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "what there is to an artifact of one file")]
pub struct Artifact<'a> {
    /// Its type, and the media type of its bytes.
    pub media_type: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Annotations of its manifest, which are in the image's list of artifacts, too.
    pub annotations: BTreeMap<String, String>,
}

impl Artifact<'_> {
    /// The manifest of the artifact, which says what it belongs to, and its entry in a list.
    pub(crate) fn manifest(&self, image: &Fetched) -> Result<(Vec<u8>, Descriptor), Error> {
        let image_type = image.manifest.media_type.as_deref().unwrap_or(media::OCI_MANIFEST);
        let (config, blob) = (Digest::of(NOTHING), Digest::of(self.bytes));
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media::OCI_MANIFEST.to_owned()),
            artifact_type: Some(self.media_type.to_owned()),
            config: Some(describe(media::EMPTY, &config, NOTHING.len())),
            layers: vec![describe(self.media_type, &blob, self.bytes.len())],
            subject: Some(describe(image_type, &image.digest, image.bytes.len())),
            annotations: self.annotations.clone(),
            ..Manifest::default()
        };
        let bytes = emit(&manifest)?;
        let entry = Descriptor {
            annotations: self.annotations.clone(),
            artifact_type: manifest.artifact_type,
            ..describe(media::OCI_MANIFEST, &Digest::of(&bytes), bytes.len())
        };
        Ok((bytes, entry))
    }
}

impl Registry {
    /// Puts a blob into the repository, if it is not there.
    pub fn put_blob(&self, bytes: &[u8], deadline: Option<Instant>) -> Result<Digest, Error> {
        let digest = Digest::of(bytes);
        let known =
            self.exchange("HEAD", &self.place(&format!("blobs/{digest}"))?, &[], None, deadline)?;
        let status = known.status();
        known.drain();
        if status == 200 {
            return Ok(digest);
        }
        let uploads = self.place("blobs/uploads/")?;
        let answer = self.exchange("POST", &uploads, &[], Some(b""), deadline)?;
        if answer.status() != 202 {
            return Err(answer.into_error());
        }
        let mut target = upload_target(&uploads, &answer)?;
        answer.drain();
        target.query_pairs_mut().append_pair("digest", &digest.to_string());
        let headers = [("content-type", "application/octet-stream")];
        let answer = self.exchange("PUT", &target, &headers, Some(bytes), deadline)?;
        finish(answer).map(|_| digest)
    }

    /// Puts a manifest or index under a tag or its digest. Whether the registry has noted what it
    /// belongs to.
    pub fn put_manifest(
        &self,
        selector: &str,
        media_type: &str,
        bytes: &[u8],
        deadline: Option<Instant>,
    ) -> Result<bool, Error> {
        let place = self.place(&format!("manifests/{selector}"))?;
        let headers = [("content-type", media_type)];
        finish(self.exchange("PUT", &place, &headers, Some(bytes), deadline)?)
    }

    /// Puts an artifact beside an image of the repository. A registry without the referrers API gets
    /// it into the index under the tag that stands in for it; two who do so at the same moment may
    /// lose one of the two, as the specification of that tag has it.
    pub fn attach(
        &self,
        image: &Fetched,
        artifact: &Artifact<'_>,
        deadline: Option<Instant>,
    ) -> Result<Digest, Error> {
        self.put_blob(NOTHING, deadline)?;
        self.put_blob(artifact.bytes, deadline)?;
        let (bytes, entry) = artifact.manifest(image)?;
        let digest = entry.digest()?;
        let noted =
            self.put_manifest(&digest.to_string(), media::OCI_MANIFEST, &bytes, deadline)?;
        if !noted {
            self.list_artifact(&image.digest, entry, deadline)?;
        }
        Ok(digest)
    }

    /// Adds an artifact to the index under the tag of its image.
    fn list_artifact(
        &self,
        subject: &Digest,
        entry: Descriptor,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let tag = subject.referrers_tag();
        let mut index = match self.manifest(&tag, deadline) {
            Ok(fetched) => fetched.manifest,
            Err(error) if error.kind == ErrorKind::NotFound => Manifest::default(),
            Err(error) => return Err(error),
        };
        if !index.layers.is_empty() || index.config.is_some() {
            return Err(Error::protocol(format!("{tag}: the tag of a list of artifacts is taken")));
        }
        index.schema_version = 2;
        index.media_type = Some(media::OCI_INDEX.to_owned());
        index.manifests.retain(|known| known.digest_text != entry.digest_text);
        index.manifests.push(entry);
        self.put_manifest(&tag, media::OCI_INDEX, &emit(&index)?, deadline).map(|_| ())
    }

    /// Asks for something with the credentials, which are renewed once if they are refused. They go
    /// to the registry only, wherever it has us send a blob.
    fn exchange(
        &self,
        method: &'static str,
        url: &Url,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
        deadline: Option<Instant>,
    ) -> Result<Response, Error> {
        let given = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let given: Vec<_> = given.collect();
        let is_ours = address::same_origin(url, self.base());
        let mut is_renewed = false;
        loop {
            let mut outgoing = Outgoing { url: url.clone(), headers: given.clone(), method };
            let stamp = if is_ours { self.auth().authorize(&mut outgoing, deadline)? } else { 0 };
            let answer = self.client().send(&Request {
                method,
                headers: &outgoing.headers,
                deadline,
                body,
                ..Request::get(&outgoing.url)
            })?;
            if is_ours
                && matches!(answer.status(), 401 | 403)
                && !is_renewed
                && self.auth().refused(stamp, &answer, deadline)?
            {
                answer.drain();
                is_renewed = true;
                continue;
            }
            return Ok(answer);
        }
    }
}

fn describe(media_type: &str, digest: &Digest, len: usize) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest_text: digest.to_string(),
        size: len as u64,
        platform: None,
        annotations: BTreeMap::new(),
        artifact_type: None,
    }
}

fn emit(manifest: &Manifest) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(manifest).map_err(|error| Error::invalid(format!("a manifest: {error}")))
}

/// Where a blob is to be sent to.
fn upload_target(at: &Url, answer: &Response) -> Result<Url, Error> {
    let place = answer.place();
    let refuse = |why: &str| Error::protocol(format!("{place}: {why}"));
    let target =
        answer.header("location").ok_or_else(|| refuse("does not say where to send a blob"))?;
    if target.len() > 8 * 1024 {
        return Err(refuse("sends a blob to a URL that is too long"));
    }
    let target = at.join(target).map_err(|_| refuse("sends a blob to what is no URL"))?;
    let is_plain = target.scheme() == "http" && at.scheme() == "https";
    if is_plain || !matches!(target.scheme(), "http" | "https") {
        return Err(refuse("sends a blob to neither http nor https, or from https to http"));
    }
    if !target.username().is_empty() || target.password().is_some() {
        return Err(refuse("sends a blob to a URL with a user"));
    }
    Ok(target)
}

/// Ends a `PUT`; whether the answer names what a manifest belongs to.
fn finish(answer: Response) -> Result<bool, Error> {
    if !matches!(answer.status(), 200..=299) {
        return Err(answer.into_error());
    }
    let noted = answer.header("oci-subject").is_some();
    answer.drain();
    Ok(noted)
}
