// SPDX-License-Identifier: MIT OR Apache-2.0
//! Something behind a URL that is asked for again and again: its credentials, and where its server
//! sends us.
//!
//! Invariant: credentials and headers of the user go to the origin of the URL (scheme, host, port)
//! and nowhere else. A redirect is followed once for all who ask, and kept until it ends or refuses.

use super::address::{same_origin, show};
use super::client::{Client, Request, Response};
use crate::{Error, ErrorKind};
use std::fmt;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use url::Url;

/// Redirects in a row.
const REDIRECTS_MAX: usize = 5;
/// How long the target of a redirect is used if its URL does not tell.
const TARGET_AGE: Duration = Duration::from_secs(300);
/// Longest that a target is used.
const TARGET_AGE_MAX: Duration = Duration::from_secs(3600);

/// A request that is being made ready.
#[expect(clippy::exhaustive_structs, reason = "what an authorizer may change")]
pub struct Outgoing {
    /// Where to; a signature may go into its query.
    pub url: Url,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// `GET` or `HEAD`.
    pub method: &'static str,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, show(&self.url))
    }
}

/// Who knows the credentials for an origin.
pub trait Authorize: fmt::Debug + Send + Sync {
    /// Adds credentials to a request; gives a stamp that names those used.
    fn authorize(&self, outgoing: &mut Outgoing, deadline: Option<Instant>) -> Result<u64, Error>;

    /// Whether this status may mean that credentials were refused.
    fn is_refusal(&self, status: u16) -> bool {
        matches!(status, 401 | 403)
    }

    /// What an answer that is an error means, by its body (of which the beginning is here), if the
    /// server says it in a form that is known here.
    fn explain(&self, status: u16, body: &[u8]) -> Option<(ErrorKind, String)> {
        let _ = (status, body);
        None
    }

    /// The answer to a request with the credentials of `stamp` was a refusal. Renews them, unless
    /// somebody else has; `true` if it is worth to ask again.
    fn refused(
        &self,
        stamp: u64,
        answer: &Response,
        deadline: Option<Instant>,
    ) -> Result<bool, Error>;
}

/// What is asked of a resource.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..Ask::default()`")]
pub struct Ask {
    /// Bytes, or all.
    pub range: Option<Range<u64>>,
    /// Value of `If-Range`.
    pub if_range: Option<String>,
    /// `Accept`.
    pub accept: Option<String>,
    /// Only the head.
    pub head_only: bool,
    /// The answer must have arrived by then.
    pub deadline: Option<Instant>,
    /// It has failed if no byte of it comes for so long, if that is less than the client's limits.
    pub stall: Option<Duration>,
    /// Past caches.
    pub fresh: bool,
}

/// Something behind a URL.
pub struct Resource {
    client: Client,
    url: Url,
    headers: Vec<(String, String)>,
    authorizer: Option<std::sync::Arc<dyn Authorize>>,
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Default)]
struct State {
    route: Route,
    generation: u64,
    /// Somebody follows redirects.
    busy: bool,
}

#[derive(Clone, Default)]
enum Route {
    #[default]
    Unknown,
    Direct,
    Via {
        url: Url,
        until: Instant,
    },
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({})", show(&self.url))
    }
}

/// Frees the way for the next one, whatever became of this one.
struct Lead<'a>(&'a Resource);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.lock().busy = false;
        self.0.turned.notify_all();
    }
}

impl Resource {
    /// A resource whose requests carry `headers` and what `authorizer` adds.
    pub fn new(
        client: Client,
        url: Url,
        headers: Vec<(String, String)>,
        authorizer: Option<std::sync::Arc<dyn Authorize>>,
    ) -> Self {
        let state = Mutex::default();
        Self { client, url, headers, authorizer, state, turned: Condvar::new() }
    }

    /// Its URL, without what is secret.
    pub fn show(&self) -> String {
        show(&self.url)
    }

    /// Its URL.
    pub const fn url(&self) -> &Url {
        &self.url
    }

    /// Asks, with credentials, along redirects. The answer has any status but those that were dealt
    /// with on the way; 401 and 403 remain if renewed credentials did not help.
    pub fn open(&self, ask: &Ask) -> Result<Response, Error> {
        if ask.fresh {
            return self.lead(ask);
        }
        // A target that refuses is renewed once; an origin that begins to redirect is followed.
        for _ in 0..2 {
            let Some((route, generation)) = self.route(ask.deadline)? else {
                let lead = Lead(self);
                let answer = self.lead(ask);
                drop(lead);
                return answer;
            };
            if let Route::Via { url, .. } = route {
                let answer = self.ask_target(ask, &url)?;
                if !matches!(answer.status(), 300..=399 | 400 | 401 | 403 | 404 | 410) {
                    return Ok(answer);
                }
                answer.drain();
            } else {
                let answer = self.ask_origin(ask, &self.url)?;
                if redirect_target(&answer).is_none() {
                    return Ok(answer);
                }
                answer.drain();
            }
            self.forget(generation);
        }
        self.lead(ask)
    }

    /// The error that an answer means which is none of those the caller knows.
    pub fn error(&self, answer: Response) -> Error {
        match &self.authorizer {
            Some(authorizer) => {
                answer.into_error_with(|status, body| authorizer.explain(status, body))
            }
            None => answer.into_error(),
        }
    }

    /// The way as far as it is known, or `None`: find it, for all.
    fn route(&self, deadline: Option<Instant>) -> Result<Option<(Route, u64)>, Error> {
        let mut state = self.lock();
        loop {
            if let Route::Via { until, .. } = state.route
                && until <= Instant::now()
            {
                state.route = Route::Unknown;
                state.generation += 1;
            }
            if !matches!(state.route, Route::Unknown) {
                return Ok(Some((state.route.clone(), state.generation)));
            }
            if !state.busy {
                state.busy = true;
                return Ok(None);
            }
            state = wait_until(&self.turned, state, deadline, || self.show())?;
        }
    }

    fn forget(&self, generation: u64) {
        let mut state = self.lock();
        if state.generation == generation {
            state.route = Route::Unknown;
            state.generation += 1;
        }
    }

    /// Asks the origin and follows its redirects; keeps where they end.
    fn lead(&self, ask: &Ask) -> Result<Response, Error> {
        let mut answer = self.ask_origin(ask, &self.url)?;
        let mut at = self.url.clone();
        let mut hops = 0;
        while let Some(target) = redirect_target(&answer) {
            hops += 1;
            if hops > REDIRECTS_MAX {
                let what = format!("{}: more than {REDIRECTS_MAX} redirects", self.show());
                return Err(Error::protocol(what));
            }
            let next = Self::target(&at, target)?;
            answer.drain();
            answer = self.ask_target(ask, &next)?;
            at = next;
        }
        if matches!(answer.status(), 200..=299 | 416) {
            let mut state = self.lock();
            state.route = if hops == 0 {
                Route::Direct
            } else {
                Route::Via { until: Instant::now() + age(&at), url: at }
            };
            state.generation += 1;
        }
        Ok(answer)
    }

    /// Where a redirect leads, if we go there.
    fn target(at: &Url, target: &str) -> Result<Url, Error> {
        let refuse = |why: &str| Err(Error::protocol(format!("{}: redirected {why}", show(at))));
        if target.len() > 8 * 1024 {
            return refuse("to a URL that is too long");
        }
        let Ok(mut next) = at.join(target) else { return refuse("to what is no URL") };
        next.set_fragment(None);
        if !matches!(next.scheme(), "http" | "https") {
            return refuse("to neither http nor https");
        }
        if at.scheme() == "https" && next.scheme() == "http" {
            return refuse("from https to http");
        }
        if !next.username().is_empty() || next.password().is_some() {
            return refuse("to a URL with a user");
        }
        Ok(next)
    }

    /// Asks the target of a redirect: with credentials only within the origin.
    fn ask_target(&self, ask: &Ask, url: &Url) -> Result<Response, Error> {
        if same_origin(url, &self.url) {
            self.ask_origin(ask, url)
        } else {
            self.send(ask, url, Vec::new())
        }
    }

    /// Asks the origin with its credentials, which are renewed once if they are refused.
    fn ask_origin(&self, ask: &Ask, url: &Url) -> Result<Response, Error> {
        let mut renewed = false;
        loop {
            let method = if ask.head_only { "HEAD" } else { "GET" };
            let mut outgoing = Outgoing { url: url.clone(), headers: self.headers.clone(), method };
            let stamp = match &self.authorizer {
                Some(authorizer) => authorizer.authorize(&mut outgoing, ask.deadline)?,
                None => 0,
            };
            let answer = self.send(ask, &outgoing.url, outgoing.headers)?;
            if let Some(authorizer) = &self.authorizer
                && authorizer.is_refusal(answer.status())
                && !renewed
                && authorizer.refused(stamp, &answer, ask.deadline)?
            {
                answer.drain();
                renewed = true;
                continue;
            }
            return Ok(answer);
        }
    }

    fn send(
        &self,
        ask: &Ask,
        url: &Url,
        mut headers: Vec<(String, String)>,
    ) -> Result<Response, Error> {
        let mut add = |name: &str, value: String| headers.push((name.to_owned(), value));
        if let Some(range) = &ask.range {
            add("range", format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        if let Some(validator) = &ask.if_range {
            add("if-range", validator.clone());
        }
        if let Some(accept) = &ask.accept {
            add("accept", accept.clone());
        }
        self.client.send(&Request {
            method: if ask.head_only { "HEAD" } else { "GET" },
            headers: &headers,
            deadline: ask.deadline,
            stall: ask.stall,
            fresh: ask.fresh,
            ..Request::get(url)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn redirect_target(answer: &Response) -> Option<&str> {
    if matches!(answer.status(), 301 | 302 | 303 | 307 | 308) {
        answer.header("location")
    } else {
        None
    }
}

/// How long a target may be used: four fifths of what its signature says.
fn age(url: &Url) -> Duration {
    let told = url.query_pairs().find_map(|(name, value)| {
        let known = name.eq_ignore_ascii_case("X-Amz-Expires")
            || name.eq_ignore_ascii_case("X-Goog-Expires");
        if known { value.parse::<u64>().ok() } else { None }
    });
    told.map_or(TARGET_AGE, |seconds| Duration::from_secs(seconds.min(1 << 20)) * 4 / 5)
        .min(TARGET_AGE_MAX)
}

/// Waits for somebody else, by the deadline.
pub(crate) fn wait_until<'a, T>(
    turned: &Condvar,
    guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
    place: impl Fn() -> String,
) -> Result<MutexGuard<'a, T>, Error> {
    let Some(deadline) = deadline else {
        return Ok(turned.wait(guard).unwrap_or_else(PoisonError::into_inner));
    };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        let what = format!("{}: no time left while others ask for credentials or the way", place());
        return Err(Error::new(ErrorKind::Deadline, what));
    }
    let (guard, _) = turned.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner);
    Ok(guard)
}
