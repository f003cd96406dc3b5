// SPDX-License-Identifier: MIT OR Apache-2.0
//! Objects of S3 and of servers that speak like it.
//!
//! Requests carry their signature in the query of their URL: what is signed is a GET of the object for
//! a quarter of an hour, so that one signature serves many ranges.

use super::http::HttpSource;
use crate::{FetchError, FetchErrorKind};
use ferrofs_oci::http::{Authorize, Client, Outgoing, Resource, Response};
use ferrofs_oci::{Error, ErrorKind, Secret};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use url::Url;

/// How long a signature is good for.
const SIGNED_FOR: Duration = Duration::from_secs(900);
/// How long it is used.
const REUSED_FOR: Duration = Duration::from_secs(600);
/// Difference of clocks that servers do not mind.
const SKEW_FINE: Duration = Duration::from_secs(60);
/// Largest credential file.
const FILE_LEN_MAX: u64 = 1 << 20;

/// How buckets are named in URLs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum S3Style {
    /// `Virtual` for Amazon, `Path` for other endpoints.
    #[default]
    Auto,
    /// `endpoint/bucket/key`.
    Path,
    /// `bucket.endpoint/key`.
    Virtual,
}

/// Who we are to the server.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum S3Login {
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`; else the shared credential
    /// file (`AWS_SHARED_CREDENTIALS_FILE`, `~/.aws/credentials`) with `AWS_PROFILE`; else nobody.
    #[default]
    Environment,
    /// This profile of a credential file.
    Profile(PathBuf, String),
    /// Key, secret, session token.
    Keys(String, Secret, Option<Secret>),
    /// Nobody.
    Anonymous,
}

/// Where and how.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..S3Options::default()`")]
pub struct S3Options {
    /// Endpoint; else `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, Amazon's of the region.
    pub endpoint: Option<String>,
    /// Region; else `AWS_REGION`, `AWS_DEFAULT_REGION`, `us-east-1`.
    pub region: Option<String>,
    /// Form of URLs.
    pub style: S3Style,
    /// Credentials.
    pub login: S3Login,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

/// Signs requests for one object.
struct Signer {
    bucket: Bucket,
    key: String,
    login: S3Login,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    credentials: Option<Arc<Credentials>>,
    /// The credentials have been looked up; there may be none.
    looked_up: bool,
    /// Seconds that the server's clock is ahead of ours.
    ahead: i64,
    generation: u64,
    /// The last signed URL of a GET, and until when it is used.
    signed: Option<(Url, Instant)>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer(s3://{}/{})", self.bucket.name(), self.key)
    }
}

impl S3Login {
    fn find(&self) -> Result<Option<Credentials>, Error> {
        let made = |key: &str, secret: &str, token: Option<&str>| match token {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        };
        match self {
            Self::Anonymous => Ok(None),
            Self::Keys(key, secret, token) => {
                Ok(Some(made(key, secret.reveal(), token.as_ref().map(Secret::reveal))))
            }
            Self::Profile(path, profile) => match read_profile(path, profile)? {
                Some(credentials) => Ok(Some(credentials)),
                None => Err(invalid(format!("{}: no keys of this profile", path.display()))),
            },
            Self::Environment => {
                if let Some(credentials) = Credentials::from_env() {
                    return Ok(Some(credentials));
                }
                let path = variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from);
                let told = path.is_some() || variable("AWS_PROFILE").is_some();
                let home =
                    || variable("HOME").map(|home| Path::new(&home).join(".aws/credentials"));
                let Some(path) = path.or_else(home) else { return Ok(None) };
                if !told && !path.exists() {
                    return Ok(None);
                }
                let profile = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
                read_profile(&path, &profile)
            }
        }
    }
}

/// Reads `[profile]` of a credential file.
fn read_profile(path: &Path, profile: &str) -> Result<Option<Credentials>, Error> {
    use std::io::Read;
    let shown = path.display();
    let io = |error: std::io::Error| Error::new(ErrorKind::Io, format!("{shown}: {error}"));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(FILE_LEN_MAX).read_to_string(&mut text).map_err(io)?;
    let (mut inside, mut key, mut secret, mut token) = (false, None, None, None);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = name.trim() == profile;
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            let value = Some(value.trim().to_owned()).filter(|value| !value.is_empty());
            match name.trim().to_ascii_lowercase().as_str() {
                "aws_access_key_id" => key = value,
                "aws_secret_access_key" => secret = value,
                "aws_session_token" => token = value,
                _ => {}
            }
        }
    }
    let (Some(key), Some(secret)) = (key, secret) else { return Ok(None) };
    Ok(Some(match token {
        Some(token) => Credentials::new_with_token(key, secret, token),
        None => Credentials::new(key, secret),
    }))
}

impl Signer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, credentials: Option<&Credentials>, get: bool, ahead: i64) -> Result<Url, Error> {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_err(|_| invalid("the clock is before 1970"))?;
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX).saturating_add(ahead);
        let time = jiff::Timestamp::from_second(seconds)
            .map_err(|_| invalid("the clock is beyond all bounds"))?;
        Ok(if get {
            self.bucket.get_object(credentials, &self.key).sign_with_time(SIGNED_FOR, &time)
        } else {
            self.bucket.head_object(credentials, &self.key).sign_with_time(SIGNED_FOR, &time)
        })
    }
}

impl Authorize for Signer {
    fn authorize(&self, outgoing: &mut Outgoing, _: Option<Instant>) -> Result<u64, Error> {
        let mut state = self.lock();
        let get = outgoing.method == "GET";
        if get
            && let Some((url, until)) = &state.signed
            && *until > Instant::now()
        {
            outgoing.url = url.clone();
            return Ok(state.generation);
        }
        if !state.looked_up {
            state.credentials = self.login.find()?.map(Arc::new);
            state.looked_up = true;
        }
        let credentials = state.credentials.clone();
        let url = self.sign(credentials.as_deref(), get, state.ahead)?;
        if get {
            state.signed = Some((url.clone(), Instant::now() + REUSED_FOR));
        }
        outgoing.url = url;
        Ok(state.generation)
    }

    fn is_refusal(&self, status: u16) -> bool {
        // 400 is what Amazon says of a session that has expired.
        matches!(status, 400 | 401 | 403)
    }

    fn explain(&self, status: u16, body: &[u8]) -> Option<(ErrorKind, String)> {
        let code = code(body)?;
        let anonymous = self.lock().credentials.is_none();
        let known = MEANINGS.iter().find(|(name, ..)| *name == code);
        let (kind, meaning) = match known {
            Some(("AccessDenied", ..)) if anonymous => (
                ErrorKind::Denied,
                "nobody may read it without credentials: set AWS_ACCESS_KEY_ID and \
                 AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            ),
            Some((_, kind, meaning)) => (*kind, *meaning),
            None if matches!(status, 401 | 403) => (ErrorKind::Denied, "access denied"),
            None => return None,
        };
        Some((kind, format!("{meaning} ({code})")))
    }

    fn refused(&self, stamp: u64, answer: &Response, _: Option<Instant>) -> Result<bool, Error> {
        let mut state = self.lock();
        if state.generation != stamp {
            return Ok(true);
        }
        let found = self.login.find()?.map(Arc::new);
        let known = state.credentials.clone();
        let same = match (&found, &known) {
            (Some(one), Some(other)) => {
                (one.key(), one.secret(), one.token())
                    == (other.key(), other.secret(), other.token())
            }
            (None, None) => true,
            _ => false,
        };
        let ahead = answer.date().map_or(0, ahead_of_us);
        let skewed = ahead.abs_diff(state.ahead) > SKEW_FINE.as_secs();
        if same && (!skewed || found.is_none()) {
            return Ok(false);
        }
        if skewed {
            state.ahead = ahead;
        }
        state.credentials = found;
        state.signed = None;
        state.generation += 1;
        Ok(true)
    }
}

/// What servers say, and what it means.
const MEANINGS: [(&str, ErrorKind, &str); 14] = [
    (
        "SignatureDoesNotMatch",
        ErrorKind::Denied,
        "the server computes another signature: the secret key is wrong, or region or endpoint are \
         others (AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL)",
    ),
    ("RequestTimeTooSkewed", ErrorKind::Denied, SKEWED),
    ("RequestExpired", ErrorKind::Denied, SKEWED),
    ("ExpiredToken", ErrorKind::Denied, EXPIRED),
    ("TokenRefreshRequired", ErrorKind::Denied, EXPIRED),
    (
        "InvalidToken",
        ErrorKind::Denied,
        "the session token is not one of the server's (AWS_SESSION_TOKEN)",
    ),
    (
        "InvalidAccessKeyId",
        ErrorKind::Denied,
        "the server does not know the access key (AWS_ACCESS_KEY_ID)",
    ),
    ("AccessDenied", ErrorKind::Denied, "these credentials may not read it"),
    ("AllAccessDisabled", ErrorKind::Denied, "nobody may read it"),
    ("NoSuchBucket", ErrorKind::NotFound, "there is no such bucket"),
    ("NoSuchKey", ErrorKind::NotFound, "there is no such object in the bucket"),
    ("PermanentRedirect", ErrorKind::Denied, ELSEWHERE),
    ("AuthorizationHeaderMalformed", ErrorKind::Denied, ELSEWHERE),
    ("AuthorizationQueryParametersError", ErrorKind::Denied, ELSEWHERE),
];
const SKEWED: &str = "the clock of this machine is too far from the server's: set it";
const EXPIRED: &str = "the session has expired: get new credentials (AWS_SESSION_TOKEN and keys, or the \
                       credential file, which is read again by itself)";
const ELSEWHERE: &str = "the bucket is in another region: set AWS_REGION";

/// The code of an error, if it is one of S3's.
fn code(body: &[u8]) -> Option<&str> {
    let text = str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let fine = (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
    fine.then_some(code)
}

/// Seconds that a clock is ahead of ours.
fn ahead_of_us(server: SystemTime) -> i64 {
    let seconds = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match server.duration_since(SystemTime::now()) {
        Ok(ahead) => seconds(ahead),
        Err(behind) => -seconds(behind.duration()),
    }
}

/// A source for `s3://bucket/key`.
pub fn open(
    client: Client,
    bucket: &str,
    key: &str,
    options: &S3Options,
    validate: bool,
) -> Result<HttpSource, FetchError> {
    let shown = format!("s3://{bucket}/{key}");
    let wrong = |why: &str| FetchError::new(FetchErrorKind::Protocol, format!("{shown}: {why}"));
    let region = options.region.clone();
    let region = region
        .or_else(|| variable("AWS_REGION"))
        .or_else(|| variable("AWS_DEFAULT_REGION"))
        .unwrap_or_else(|| "us-east-1".to_owned());
    let endpoint = options.endpoint.clone();
    let endpoint = endpoint
        .or_else(|| variable("AWS_ENDPOINT_URL_S3"))
        .or_else(|| variable("AWS_ENDPOINT_URL"));
    let style = match (options.style, &endpoint) {
        (S3Style::Path, _) | (S3Style::Auto, Some(_)) => UrlStyle::Path,
        (S3Style::Virtual, _) | (S3Style::Auto, None) => UrlStyle::VirtualHost,
    };
    let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let (endpoint, login) = ferrofs_oci::http::address::parse(&endpoint)?;
    if login.is_some() {
        return Err(wrong("an endpoint with a user in it"));
    }
    // `.` and `..` would vanish from the URL: another object would be asked for.
    if key.is_empty() || key.len() > 1024 || key.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(wrong("a key that cannot be asked for"));
    }
    let bucket = Bucket::new(endpoint, style, bucket.to_owned(), region)
        .map_err(|error| wrong(&format!("the bucket or endpoint is wrong: {error}")))?;
    let url = bucket.object_url(key);
    let (login, key) = (options.login.clone(), key.to_owned());
    let signer = Signer { bucket, key, login, state: Mutex::default() };
    let resource = Resource::new(client, url, Vec::new(), Some(Arc::new(signer)));
    Ok(HttpSource::over(resource, Some(shown), validate, None))
}

#[cfg(test)]
mod tests;
