//! From one request to one answer, over whatever transport: gate, path, API, routes, published trees.

use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, StatusCode};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt as _, Limited};
use instantmirror_core::memory::Nothing;
use instantmirror_core::traits::{Annotations, Catalogs};

use crate::api::polls::Polls;
use crate::api::{self, Api};
use crate::body::{Answer, ServeBody};
use crate::limits::{Limits, REQUEST_BODY_BYTES_MAX, REQUEST_BODY_TIMEOUT, Stopping};
use crate::message::COMMON;
use crate::message::framing::Framing;
use crate::message::request::{Client, Request, RequestPath, canonical_path, decode_path, encode_path_into};
use crate::observe::Observer;
use crate::observe::access_log::AccessLog;
use crate::observe::stats::{Counters, Stats};
use crate::proxies::TrustedProxies;
use crate::routes::{FoundRoutes, RouteList, RouteTable, published_trees};
use crate::view::header_rules::HeaderRules;
use crate::view::hot::{HotAnswer, HotAnswers, HotLimits};
use crate::view::mounts::{Mounts, Site, is_reserved};
use crate::view::open::open;
use crate::view::own_files::OwnFiles;
use crate::view::respond::{ALLOW, Body, Facts, Response, respond, respond_file, respond_redirect, respond_to_method};
use crate::view::routing::{Route, is_free, route};

/// When a client that was refused because there are too many is to come again.
const RETRY_TIME: Duration = Duration::from_secs(5);

/// Answers requests for one set of catalogs. Any number of servers may share one.
#[derive(Debug)]
pub struct Service {
    catalogs: Arc<dyn Catalogs>,
    annotations: Arc<dyn Annotations>,
    mounts: Mounts,
    own_files: Option<OwnFiles>,
    rules: HeaderRules,
    proxies: TrustedProxies,
    api: Option<Api>,
    routes: RouteTable,
    hot: HotAnswers,
    access_log: Option<Arc<AccessLog>>,
    counters: Arc<Counters>,
    polls: Arc<Polls>,
    polls_max: usize,
}

impl Service {
    /// Serves the published trees at their default places, `/<repository>/`.
    #[must_use]
    pub fn new(catalogs: Arc<dyn Catalogs>) -> Self {
        Self {
            catalogs,
            annotations: Arc::new(Nothing),
            mounts: Mounts::default(),
            own_files: None,
            rules: HeaderRules::default(),
            proxies: TrustedProxies::default(),
            api: None,
            routes: RouteTable::default(),
            hot: HotAnswers::new(&HotLimits::default()),
            access_log: None,
            counters: Arc::default(),
            polls: Arc::default(),
            polls_max: Limits::default().connections_max / 2,
        }
    }

    /// Serves them at these places too.
    #[must_use]
    pub fn with_mounts(mut self, mounts: Mounts) -> Self {
        self.mounts = mounts;
        self
    }

    /// Serves files of one's own where there is nothing else.
    #[must_use]
    pub fn with_own_files(mut self, files: OwnFiles) -> Self {
        self.own_files = Some(files);
        self
    }

    /// Says this about header fields.
    #[must_use]
    pub fn with_header_rules(mut self, rules: HeaderRules) -> Self {
        self.rules = rules;
        self
    }

    /// Believes these proxies whom they ask for.
    #[must_use]
    pub fn with_proxies(mut self, proxies: TrustedProxies) -> Self {
        self.proxies = proxies;
        self
    }

    /// Says these digests, duplicates and torrents beside content, instead of none.
    #[must_use]
    pub fn with_annotations(mut self, annotations: Arc<dyn Annotations>) -> Self {
        self.annotations = annotations;
        self
    }

    /// Serves the API. Without it, its paths are not found.
    #[must_use]
    pub fn with_api(mut self, api: Api) -> Self {
        self.api = Some(api);
        self
    }

    /// Serves these routes too: below `/.im/` where the API has none, elsewhere where there is no published tree.
    #[must_use]
    pub fn with_routes(mut self, routes: RouteTable) -> Self {
        self.routes = routes;
        self
    }

    /// Keeps answers ready within these limits instead of the default ones.
    #[must_use]
    pub fn with_hot_limits(mut self, limits: &HotLimits) -> Self {
        self.hot = HotAnswers::new(limits);
        self
    }

    /// Writes a line for every request to this log.
    #[must_use]
    pub fn with_access_log(mut self, log: Arc<AccessLog>) -> Self {
        self.access_log = Some(log);
        self
    }

    /// Lets so many long polls wait at a time: half of the connections by default.
    #[must_use]
    pub fn with_long_polls_max(mut self, polls: usize) -> Self {
        self.polls_max = polls;
        self
    }

    /// Counts on where the service that it replaces stands.
    #[must_use]
    pub fn continuing(mut self, before: &Self) -> Self {
        self.counters = Arc::clone(&before.counters);
        self.polls = Arc::clone(&before.polls);
        self
    }

    /// What was answered so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let polls = self.polls.counts();
        Stats {
            polls_waiting: polls.waiting,
            polls_shortened: polls.shortened,
            polls_refused: polls.refused,
            ..self.counters.read()
        }
    }

    /// All that is answered: the calls of the API, the routes of one's own, and the published trees behind them.
    #[must_use]
    pub fn routes(&self) -> RouteList {
        let mut list = self.api.as_ref().map(|_| Api::routes()).unwrap_or_default();
        list.extend(self.routes.list());
        let repositories = self.catalogs.repositories();
        list.extend(published_trees(&repositories, &self.mounts, self.own_files.is_some()));
        list
    }

    pub(crate) fn proxies(&self) -> &TrustedProxies {
        &self.proxies
    }

    pub(crate) fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What is told of an answer to the access log and the counters.
    pub(crate) fn observer(&self) -> Observer {
        Observer::new(&self.counters)
    }

    pub(crate) fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.access_log.as_ref()
    }

    /// The answer that is kept ready for this request, if there is one.
    pub(crate) fn hot_answer(&self, request: &Request<'_>, now: Instant) -> Option<Arc<HotAnswer>> {
        let site = self.mounts.site(request.host).number();
        self.hot.get(site, request.path, self.catalogs.as_ref(), now)
    }

    /// The lines of a header that encrypted connections have besides.
    pub(crate) fn private_lines(&self) -> &[u8] {
        self.rules.private_lines()
    }

    /// Lets go of kept answers that nobody asked for lately. Called every few seconds by servers.
    pub(crate) fn expire_hot_answers(&self) {
        self.hot.expire(Instant::now());
    }

    /// Whether a route takes the body of this request. If not, it need not be read.
    pub(crate) fn wants_body(&self, request: &Request<'_>) -> bool {
        let path = (request.method == Method::POST).then(|| decode_path(request.path));
        let Some(Ok(path)) = path else { return false };
        if self.api.is_some() && api::is_api(&path.path) {
            return api::find(&path.path).is_some_and(|asked| asked.takes_post());
        }
        let routes = self.routes.find(path.path.as_str(), &request.client);
        routes.is_some_and(|routes| routes.row(&Method::POST).is_some())
    }

    /// Answers one request. Waits for the first byte of what is asked for (or for a new head, or until
    /// `stopping`), so the answer's status is true.
    ///
    /// Cancellation: dropping the future or the answer's body withdraws its interest in the object.
    pub async fn handle<B>(&self, request: http::Request<B>, stopping: &Stopping) -> http::Response<ServeBody>
    where
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let (head, body) = request.into_parts();
        let client = head.extensions.get().copied().unwrap_or_default();
        let answer = self.pass(&head, client, body, stopping).await;
        let mut observer = Observer::new(&self.counters);
        observer.answers(answer.status(), None);
        if answer.body().is_kept() {
            observer.was_ready(answer.body().len() != Some(0));
        }
        answer.map(|body| body.observed(observer))
    }

    /// The same for a transport that observes what it sends by itself.
    pub(crate) async fn pass<B>(&self, head: &Parts, client: Client, body: B, stopping: &Stopping) -> Answer
    where
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let framing = Framing::of(&head.headers);
        match framing.objection(&head.method, head.uri.path(), head.version) {
            Some(objection) => {
                let answer = self.refuse(StatusCode::BAD_REQUEST, objection);
                self.private_for(&client, answer)
            }
            None => {
                let mut request = Request::new(&head.method, &head.uri, &head.headers);
                request.client = client;
                match self.answer_kept(&request).await {
                    Some(answer) => answer,
                    None => self.answer(&request, body, stopping).await,
                }
            }
        }
    }

    /// The answer that is kept ready for a request, as a message.
    async fn answer_kept(&self, request: &Request<'_>) -> Option<Answer> {
        let is_read = request.method == Method::GET || request.method == Method::HEAD;
        if !is_read || !request.query.is_empty() {
            return None;
        }
        let kept = self.hot_answer(request, Instant::now())?;
        let mut answer = kept.answer(&request.method, &request.fields).await?;
        if request.client.is_private {
            self.rules.dress_private(answer.headers_mut());
        }
        Some(answer)
    }

    /// The same for a request that has passed the gate.
    pub(crate) async fn answer<B>(&self, request: &Request<'_>, body: B, stopping: &Stopping) -> Answer
    where
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let mut answer = self.dispatch(request, body, stopping).await;
        self.rules.dress(answer.headers_mut());
        if request.client.is_private {
            self.rules.dress_private(answer.headers_mut());
        }
        common(answer)
    }

    /// The answer to what is no request; the connection is to be closed behind it.
    pub(crate) fn refuse(&self, status: StatusCode, objection: &str) -> Answer {
        self.counters.count_malformed();
        let body = Bytes::from(format!("{}: {objection}\n", status.as_u16()));
        let mut answer = http::Response::new(ServeBody::whole(body));
        *answer.status_mut() = status;
        set(&mut answer, header::CONTENT_TYPE, "text/plain; charset=utf-8");
        self.dressed(closing(answer))
    }

    /// The answer to a client that asks too often.
    pub(crate) fn too_many(&self, wait: Duration) -> Answer {
        let text = "your address asks more often than it may; wait for as many seconds as Retry-After says";
        self.dressed(not_now(StatusCode::TOO_MANY_REQUESTS, wait, text))
    }

    /// The answer to a client whose address has too many connections; this one is to be closed behind it.
    pub(crate) fn too_many_connections(&self) -> Answer {
        let text = "your address has as many connections as it may have, and all are in use";
        self.dressed(closing(not_now(StatusCode::TOO_MANY_REQUESTS, RETRY_TIME, text)))
    }

    /// The answer to a reader for whom there is no place; the connection is to be closed behind it.
    pub(crate) fn turn_away(&self) -> Answer {
        let text = "the server has as many connections as it may have; ask again, or another mirror";
        self.dressed(closing(not_now(StatusCode::SERVICE_UNAVAILABLE, RETRY_TIME, text)))
    }

    /// An answer that was not made by [`answer`](Self::answer).
    fn dressed(&self, mut answer: Answer) -> Answer {
        self.rules.dress(answer.headers_mut());
        common(answer)
    }

    /// The same over an encrypted connection.
    pub(crate) fn private(&self, mut answer: Answer) -> Answer {
        self.rules.dress_private(answer.headers_mut());
        answer
    }

    /// The same if the client's connection is encrypted.
    pub(crate) fn private_for(&self, client: &Client, answer: Answer) -> Answer {
        match client.is_private {
            true => self.private(answer),
            false => answer,
        }
    }

    /// Whether a node of this master asks, which proves it by its token.
    pub(crate) fn is_of_node(&self, request: &Request<'_>, client: &Client) -> bool {
        let api = self.api.as_ref().filter(|_| request.path.starts_with("/.im/"));
        api.is_some_and(|api| api.is_of_node(&request.fields, client))
    }

    async fn dispatch<B>(&self, request: &Request<'_>, body: B, stopping: &Stopping) -> Answer
    where
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        if request.path == "*"
            && let Some(response) = respond_to_method(&request.method)
        {
            return self.finish(request, response).await;
        }
        let path = match decode_path(request.path) {
            Ok(path) => path,
            Err(error) => {
                if let Some(spelled) = canonical(request) {
                    return self.answer_respelled(request, &spelled).await;
                }
                let status = if error.is_only_too_long() {
                    StatusCode::NOT_FOUND
                } else {
                    StatusCode::BAD_REQUEST
                };
                return self.finish(request, Response::text(status, &error.to_string())).await;
            }
        };
        if path.encodes_slash() && is_reserved(&path.path) {
            let text = "an encoded slash in a path of the server's own";
            return self
                .finish(request, Response::text(StatusCode::BAD_REQUEST, text))
                .await;
        }
        if let Some(api) = self.api.as_ref().filter(|_| api::is_api(&path.path)) {
            return self.answer_api(api, request, &path, body, stopping).await;
        }
        let site = self.mounts.site(request.host);
        let route = route(site, self.catalogs.as_ref(), &path);
        if matches!(route, Route::Elsewhere)
            && let Some(routes) = self.routes.find(path.path.as_str(), &request.client)
        {
            return match self.answer_route(&routes, request, &path, body).await {
                Some(answer) => answer,
                None if request.method == Method::POST => {
                    let text = "there is nothing at this path";
                    self.finish(request, Response::text(StatusCode::NOT_FOUND, text)).await
                }
                None => self.answer_tree(request, site, &path, route).await,
            };
        }
        let mut answer = self.answer_tree(request, site, &path, route).await;
        self.rules.dress_tree(answer.headers_mut());
        if request.method == Method::OPTIONS {
            self.rules.dress_preflight(answer.headers_mut(), ALLOW);
        }
        // The body of a POST was not read: what follows on the connection is not a request.
        if request.method == Method::POST {
            closing(answer)
        } else {
            answer
        }
    }

    /// Answers a path that has routes; `None` if the one for the method has nothing to say.
    async fn answer_route<B>(
        &self,
        routes: &FoundRoutes<'_, '_>,
        request: &Request<'_>,
        path: &RequestPath,
        body: B,
    ) -> Option<Answer>
    where
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let Some(row) = routes.row(&request.method) else {
            let mut response = Response::method_not_allowed(routes.allow());
            if request.method == Method::OPTIONS {
                response.status = StatusCode::NO_CONTENT;
                response.headers.remove(header::CONTENT_TYPE);
                response.body = Body::Empty;
            }
            let answer = self.finish(request, response).await;
            let is_unread = request.method == Method::POST;
            return Some(if is_unread { closing(answer) } else { answer });
        };
        if let Some(refusal) = api::refusal(self.api.as_ref(), row.entry.access, request) {
            return Some(refusal);
        }
        let body = match read_body(request, body).await {
            Ok(body) => body,
            Err((status, text)) => return Some(closing(self.finish(request, Response::text(status, text)).await)),
        };
        let answer = routes.answer(request, path.path.as_str(), body).await?;
        Some(answer.map(ServeBody::whole))
    }

    /// Answers a path with idle segments (`/a//b`, `/a/./b`) that means `spelled`. A file is answered in place: apt, which asks
    /// so for flat repositories, takes no relative reference, and one from the root leads out of the path below which a
    /// proxy may show us. Everything else is told the one spelling, for the links of its page are relative.
    async fn answer_respelled(&self, request: &Request<'_>, spelled: &RequestPath) -> Answer {
        let site = self.mounts.site(request.host);
        let route = route(site, self.catalogs.as_ref(), spelled);
        if matches!(route, Route::File(..)) {
            let mut answer = self.answer_tree(request, site, spelled, route).await;
            self.rules.dress_tree(answer.headers_mut());
            return answer;
        }
        let location = reference_to(request, spelled);
        self.finish(request, respond_redirect(request, location, true)).await
    }

    async fn answer_api<B>(
        &self,
        api: &Api,
        request: &Request<'_>,
        path: &RequestPath,
        body: B,
        stopping: &Stopping,
    ) -> Answer
    where
        B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        if path.directory {
            return api::error(StatusCode::NOT_FOUND, "paths of the API do not end in a slash");
        }
        let Some(asked) = api::find(&path.path) else {
            return api::no_such_call();
        };
        let body = if asked.takes_post() {
            read_body(request, body).await
        } else {
            Ok(Bytes::new())
        };
        let body = match body {
            Ok(body) => body,
            Err((status, text)) => return closing(api::error(status, text)),
        };
        let answer = api.answer(self.catalogs.as_ref(), request, &asked, body, stopping);
        if asked.may_wait(request.query) {
            let is_of_node = api.is_of_node(&request.fields, &request.client);
            self.poll(answer, is_of_node).await
        } else {
            answer.await
        }
    }

    /// Waits for the answer to a long poll, among as many as may wait. A node that its token proves is never told to come
    /// later.
    async fn poll(&self, answer: impl Future<Output = Answer>, is_of_node: bool) -> Answer {
        let mut answer = std::pin::pin!(answer);
        if let Poll::Ready(answer) = futures_util::poll!(answer.as_mut()) {
            return answer;
        }
        let mut place = match self
            .polls
            .enter(self.polls_max, is_of_node, tokio::time::Instant::now())
        {
            Ok(place) => place,
            Err(wait) => {
                let text = "too many mirrors wait for news; ask again later";
                return retry_after(api::error(StatusCode::SERVICE_UNAVAILABLE, text), wait);
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            () = place.ends() => api::no_news(),
        }
    }

    async fn answer_tree(&self, request: &Request<'_>, site: &Site, path: &RequestPath, route: Route) -> Answer {
        if let Some(response) = respond_to_method(&request.method) {
            return self.finish(request, response).await;
        }
        if let Some(files) = self
            .own_files
            .as_ref()
            .filter(|_| is_free(self.catalogs.as_ref(), site, path, &route))
            && let Some(response) = files.answer(request, path).await
        {
            return self.finish(request, response).await;
        }
        let Route::File(origin, file, mtime) = route else {
            let torrents = match &route {
                Route::Directory(origin, ..) => {
                    let annotations = self.annotations.as_ref();
                    annotations.torrents(&origin.repository, origin.snapshot, &origin.path)
                }
                _ => Vec::new(),
            };
            return self.finish(request, respond(request, path, route, torrents)).await;
        };
        let facts = Facts {
            sha256: self.annotations.sha256(&file.object),
            said: self.rules.about(&origin.repository, &origin.path),
            duplicates: self.annotations.duplicates(&origin.repository, &origin.path),
        };
        let response = respond_file(request, &origin, &facts, file, mtime);
        let answer = self.finish(request, response).await;
        let is_answered = answer.status().is_success() || answer.status() == StatusCode::NOT_MODIFIED;
        if request.query.is_empty() && is_answered {
            let reader = answer.body().settled_reader().cloned();
            let body = self.hot.body(file.size, reader).await;
            let kept = body.map(|body| HotAnswer::new(&origin, &facts, &self.rules, (file, mtime), body));
            kept.into_iter()
                .for_each(|kept| self.hot.keep(site.number(), request.path, kept));
        }
        answer
    }

    /// Opens the body of a response; what cannot be had becomes the answer that says so.
    async fn finish(&self, request: &Request<'_>, mut response: Response) -> Answer {
        if request.method == Method::HEAD && matches!(response.body, Body::Listing(..)) {
            response.body = Body::Empty;
        }
        let objects = self.catalogs.objects();
        let (status, headers, body) = match open(response.body, &objects).await {
            Ok(body) => (response.status, response.headers, body),
            Err(refusal) => {
                let mut text = Response::text(refusal.status, &refusal.text);
                text.set(header::CACHE_CONTROL, "no-store");
                if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
                    text.set(header::RETRY_AFTER, "5");
                }
                let bytes = if let Body::Bytes(bytes) = text.body {
                    bytes
                } else {
                    Bytes::new()
                };
                (text.status, text.headers, ServeBody::whole(bytes))
            }
        };
        let mut answer = http::Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        answer
    }
}

/// What a path with idle segments means, if it is a good path otherwise and somebody wants to read it.
fn canonical(request: &Request<'_>) -> Option<RequestPath> {
    let is_read = request.method == Method::GET || request.method == Method::HEAD;
    decode_path(&canonical_path(request.path).filter(|_| is_read)?).ok()
}

/// A relative reference from the path of a request with idle segments to the one spelling of it.
fn reference_to(request: &Request<'_>, spelled: &RequestPath) -> String {
    // What stands in front of the last slash; a client that resolves the reference goes up an empty segment, but drops a `.`
    // before it does so (RFC 3986, 5.2.4).
    let (directories, _) = request.path.rsplit_once('/').unwrap_or_default();
    let levels = directories.split('/').skip(1).filter(|name| *name != ".").count();
    let mut location = "../".repeat(levels);
    encode_path_into(&mut location, spelled.path.as_str());
    if spelled.directory && !spelled.path.is_root() {
        location.push('/');
    }
    if location.is_empty() {
        location.push_str("./");
    }
    location
}

/// The body of a POST; nothing otherwise.
async fn read_body<B>(request: &Request<'_>, body: B) -> Result<Bytes, (StatusCode, &'static str)>
where
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    if request.method != Method::POST {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > REQUEST_BODY_BYTES_MAX as u64 {
        return Err((StatusCode::PAYLOAD_TOO_LARGE, "the request's body is too large"));
    }
    let collected = Limited::new(body, REQUEST_BODY_BYTES_MAX).collect();
    match tokio::time::timeout(REQUEST_BODY_TIMEOUT, collected).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, "the request's body is too large"))
        }
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the request's body did not arrive whole")),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the request's body took too long")),
    }
}

/// Whether an answer may depend on more than the URL: on conditions, the method, credentials, trouble of the moment.
/// 404 and 410 do not.
fn is_of_one_request(status: StatusCode) -> bool {
    let is_of_the_url = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
    status.is_server_error() || (status.is_client_error() && !is_of_the_url)
}

fn common(mut answer: Answer) -> Answer {
    if is_of_one_request(answer.status()) && !answer.headers().contains_key(header::CACHE_CONTROL) {
        // Caches may keep some of them by themselves, 405 and 414 among them (RFC 9110, 15.1).
        set(&mut answer, header::CACHE_CONTROL, "no-store");
    }
    for (name, value) in COMMON {
        set(&mut answer, name, value);
    }
    answer
}

/// An answer to what may be asked again later.
fn not_now(status: StatusCode, wait: Duration, text: &str) -> Answer {
    let body = Bytes::from(format!("{}: {text}\n", status.as_u16()));
    let mut answer = http::Response::new(ServeBody::whole(body));
    *answer.status_mut() = status;
    set(&mut answer, header::CONTENT_TYPE, "text/plain; charset=utf-8");
    retry_after(answer, wait)
}

fn retry_after(mut answer: Answer, wait: Duration) -> Answer {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let seconds = HeaderValue::from(seconds.max(1));
    answer.headers_mut().insert(header::RETRY_AFTER, seconds);
    answer
}

fn closing(mut answer: Answer) -> Answer {
    set(&mut answer, header::CONNECTION, "close");
    answer
}

fn set(answer: &mut Answer, name: HeaderName, value: &'static str) {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
}
