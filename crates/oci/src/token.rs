// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a registry lets us in: not at all, Basic, or by tokens that expire.
//!
//! Invariant: of all who were refused with the same credentials, one renews them and the others wait.

use crate::http::{
    Authorize, Challenge, Client, Outgoing, Request, Response, address, basic, parse_challenges,
    wait_until,
};
use crate::{Credential, Credentials, Error, ErrorKind, Secret};
use serde::Deserialize;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use url::Url;

/// Largest answer of a token server, in bytes.
const ANSWER_LEN_MAX: usize = 256 * 1024;
/// Longest token; it goes into a header.
const TOKEN_LEN_MAX: usize = 64 * 1024;
/// What a token lives if its server does not say.
const TOKEN_AGE: Duration = Duration::from_secs(60);
/// Longest life that is believed.
const TOKEN_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Credentials for one repository of one registry.
pub(crate) struct RegistryAuth {
    client: Client,
    /// Where the registry is.
    base: Url,
    /// `docker.io` or `host[:port]`.
    registry: String,
    repository: String,
    /// `pull`, or `pull,push`.
    actions: &'static str,
    credentials: Credentials,
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Default)]
struct State {
    pass: Pass,
    /// What the registry said last; kept for renewals.
    challenge: Option<Challenge>,
    generation: u64,
    busy: bool,
}

#[derive(Default)]
enum Pass {
    /// Nothing is known, or nothing is needed.
    #[default]
    None,
    Basic(Secret),
    Bearer {
        token: Secret,
        renew_at: Instant,
        ends_at: Instant,
    },
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryAuth({}/{})", self.registry, self.repository)
    }
}

/// Frees the way for the next one, whatever became of this one.
struct Lead<'a>(&'a RegistryAuth);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.lock().busy = false;
        self.0.turned.notify_all();
    }
}

impl RegistryAuth {
    pub(crate) fn new(
        client: Client,
        base: Url,
        registry: &str,
        repository: &str,
        actions: &'static str,
        credentials: Credentials,
    ) -> Self {
        let (registry, repository) = (registry.to_owned(), repository.to_owned());
        let (state, turned) = (Mutex::default(), Condvar::new());
        Self { client, base, registry, repository, actions, credentials, state, turned }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a pass as the challenge wants it. `None`: nothing that could be tried.
    fn renew(
        &self,
        challenge: &Challenge,
        deadline: Option<Instant>,
    ) -> Result<Option<Pass>, Error> {
        let credential = self.credentials.find(&self.registry, &self.repository, deadline)?;
        if challenge.scheme == "basic" {
            let Some(Credential::Password(user, password)) = credential else { return Ok(None) };
            return Ok(Some(Pass::Basic(Secret::new(basic(&user, &password)))));
        }
        if let Some(Credential::RegistryToken(token)) = credential {
            let ends_at = Instant::now() + TOKEN_AGE_MAX;
            return Ok(Some(Pass::Bearer { token, renew_at: ends_at, ends_at }));
        }
        self.ask_token(challenge, credential.as_ref(), deadline).map(Some)
    }

    /// The token server that the challenge names. It may be anywhere, but not in the clear unless the
    /// registry itself is.
    fn realm(&self, challenge: &Challenge) -> Result<Url, Error> {
        let refuse = |why: &str| Error::protocol(format!("{}: {why}", self.registry));
        let realm = challenge.parameter("realm").ok_or_else(|| refuse("names no token server"))?;
        let (realm, login) =
            address::parse(realm).map_err(|_| refuse("names no proper token server"))?;
        let in_the_clear = realm.scheme() == "http";
        if login.is_some() || (in_the_clear && self.base.scheme() == "https") {
            return Err(refuse("names a token server that is refused (user in it, or not https)"));
        }
        Ok(realm)
    }

    /// What is asked for: what the registry says if it is about this repository.
    fn scope(&self, challenge: &Challenge) -> String {
        let ours = format!("repository:{}:", self.repository);
        match challenge.parameter("scope") {
            Some(scope) if scope.len() <= 512 && scope.starts_with(&ours) => scope.to_owned(),
            _ => format!("{ours}{}", self.actions),
        }
    }

    fn ask_token(
        &self,
        challenge: &Challenge,
        credential: Option<&Credential>,
        deadline: Option<Instant>,
    ) -> Result<Pass, Error> {
        let mut realm = self.realm(challenge)?;
        let service = challenge.parameter("service").unwrap_or_default();
        let scope = self.scope(challenge);
        let mut headers = Vec::new();
        let mut body = None;
        if let Some(Credential::IdentityToken(token)) = credential {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service)
                .append_pair("client_id", "ferrofs")
                .append_pair("scope", &scope)
                .append_pair("refresh_token", token.reveal())
                .finish();
            let kind = "application/x-www-form-urlencoded";
            headers.push(("content-type".to_owned(), kind.to_owned()));
            body = Some(form);
        } else {
            if let Some(Credential::Password(user, password)) = credential {
                headers.push(("authorization".to_owned(), basic(user, password)));
            }
            let mut query = realm.query_pairs_mut();
            if !service.is_empty() {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &scope);
        }
        let mut answer = self.client.send(&Request {
            method: if body.is_some() { "POST" } else { "GET" },
            headers: &headers,
            deadline,
            body: body.as_deref().map(str::as_bytes),
            ..Request::get(&realm)
        })?;
        if answer.status() != 200 {
            return Err(answer.into_error());
        }
        let place = answer.place().to_owned();
        let bytes = answer.read_all(ANSWER_LEN_MAX)?;
        let answer: TokenAnswer = serde_json::from_slice(&bytes)
            .map_err(|_| Error::protocol(format!("{place}: an answer that is no token")))?;
        let token = answer.token.or(answer.access_token).unwrap_or_default();
        let fine = !token.is_empty()
            && token.len() <= TOKEN_LEN_MAX
            && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !fine {
            return Err(Error::protocol(format!("{place}: no proper token")));
        }
        let age = answer.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let age = age.filter(|age| !age.is_zero()).unwrap_or(TOKEN_AGE).min(TOKEN_AGE_MAX);
        let now = Instant::now();
        Ok(Pass::Bearer {
            token: Secret::new(token),
            renew_at: now + age * 4 / 5,
            ends_at: now + age,
        })
    }

    /// Renews by the challenge, unless the state has moved on from `stamp`. Called without the lock.
    fn lead(&self, challenge: &Challenge, deadline: Option<Instant>) -> Result<bool, Error> {
        let lead = Lead(self);
        let pass = self.renew(challenge, deadline);
        let mut state = self.lock();
        let renewed = match pass {
            Ok(Some(pass)) => {
                // The same password once more would be refused once more.
                let same = matches!((&state.pass, &pass),
                    (Pass::Basic(before), Pass::Basic(now)) if before == now);
                state.pass = pass;
                state.challenge = Some(challenge.clone());
                state.generation += 1;
                Ok(!same)
            }
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        drop(state);
        drop(lead);
        renewed
    }
}

impl Authorize for RegistryAuth {
    fn authorize(&self, outgoing: &mut Outgoing, deadline: Option<Instant>) -> Result<u64, Error> {
        let mut state = self.lock();
        loop {
            let (due, over) = match &state.pass {
                Pass::Bearer { renew_at, ends_at, .. } => {
                    let now = Instant::now();
                    (now >= *renew_at, now >= *ends_at)
                }
                _ => (false, false),
            };
            if due && !state.busy {
                state.busy = true;
                let challenge = state.challenge.clone().unwrap_or_default();
                drop(state);
                let renewed = self.lead(&challenge, deadline);
                state = self.lock();
                // An old token still works: that it could not be renewed yet harms nobody.
                match renewed {
                    Err(error) if over => return Err(error),
                    Err(_) => {}
                    Ok(_) => continue,
                }
            } else if over && state.busy {
                state = wait_until(&self.turned, state, deadline, || self.registry.clone())?;
                continue;
            }
            let value = match &state.pass {
                Pass::None => return Ok(state.generation),
                Pass::Basic(value) => value.reveal().to_owned(),
                Pass::Bearer { token, .. } => format!("Bearer {}", token.reveal()),
            };
            outgoing.headers.push(("authorization".to_owned(), value));
            return Ok(state.generation);
        }
    }

    fn refused(
        &self,
        stamp: u64,
        answer: &Response,
        deadline: Option<Instant>,
    ) -> Result<bool, Error> {
        let challenges: Vec<Challenge> =
            answer.headers("www-authenticate").take(8).flat_map(parse_challenges).collect();
        let wanted =
            |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme).cloned();
        let mut state = self.lock();
        loop {
            if state.generation != stamp {
                return Ok(true);
            }
            if !state.busy {
                break;
            }
            state = wait_until(&self.turned, state, deadline, || self.registry.clone())?;
        }
        // Some registries say 403, without a challenge, when a token has expired.
        let challenge = wanted("bearer").or_else(|| wanted("basic")).or(state.challenge.clone());
        let Some(challenge) = challenge else { return Ok(false) };
        state.busy = true;
        drop(state);
        match self.lead(&challenge, deadline) {
            Err(error) if error.kind == ErrorKind::Denied => Err(error),
            other => other,
        }
    }
}
