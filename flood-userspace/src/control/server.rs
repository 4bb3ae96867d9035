//! The daemon's side of the control socket, and the metrics over TCP.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, HttpBody},
    extract::{
        DefaultBodyLimit, Path, Query, Request, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use http_body::Frame;
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};

use crate::{
    bpf::BpfError,
    daemon::{Engine, FeedKeeper, Refused, Reloader},
    lists::ListKind,
    memory,
    metrics::Scrape,
};

use super::protocol::{
    AddRequest, DetachRequest, Failure, Feeds, LARGEST_REQUEST, LimitChange, ModeChange, RefreshRequest,
    ReloadReply, ReloadRequest, RemoveRequest, TraceRequest,
};

/// Maximum body size of requests that are not about lists.
const LARGEST_OTHER: usize = 64 << 10;

/// Minimum interval between reads of the metrics. More frequent requests wait for the next read.
const SCRAPE_EVERY: Duration = Duration::from_millis(100);

/// State shared by all requests.
#[derive(Clone)]
pub struct Server {
    engine: Arc<Mutex<Engine>>,
    feeds: Arc<FeedKeeper>,
    reloader: Arc<Reloader>,
    /// Notified when nothing is left to guard.
    ended: Arc<Notify>,
    /// The last scrape, and when it began.
    scraped: Arc<tokio::sync::Mutex<Option<(Instant, Scrape)>>>,
}

type Reply<T> = Result<Json<T>, Failed>;

impl Server {
    /// Makes a server for this daemon.
    pub fn new(
        engine: Arc<Mutex<Engine>>,
        feeds: Arc<FeedKeeper>,
        reloader: Arc<Reloader>,
        ended: Arc<Notify>,
    ) -> Self {
        Self { engine, feeds, reloader, ended, scraped: Arc::default() }
    }

    /// Returns all routes, for the control socket.
    pub fn control(self) -> Router {
        let lists = Router::new()
            .route("/v1/lists/{list}", get(entries).post(add).delete(remove))
            .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
            .layer(from_fn(refuse_larger::<LARGEST_REQUEST>));
        let asked = Router::new().route("/v1/sources", get(sources));
        let others = Router::new()
            .route("/v1/status", get(|State(server): State<Self>| server.read(Engine::status)))
            .route("/v1/stats", get(|State(server): State<Self>| server.read(Engine::stats)))
            .route("/v1/feeds", get(feeds))
            .route("/v1/feeds/refresh", post(refresh))
            .route("/v1/reload", post(reload))
            .route(
                "/v1/limits",
                get(|State(server): State<Self>| server.read(|engine| Ok::<_, Refused>(engine.limits())))
                    .patch(change_limits),
            )
            .route("/v1/mode", put(set_mode))
            .route("/v1/trace", post(trace))
            .route("/v1/detach", post(detach))
            .route_layer(from_fn(refuse_query))
            .layer(DefaultBodyLimit::max(LARGEST_OTHER))
            .layer(from_fn(refuse_larger::<LARGEST_OTHER>));
        lists.merge(asked).merge(others).merge(metrics_route()).with_refusals().with_state(self)
    }

    /// Returns only the metrics, for everybody on this host.
    pub fn metrics(self) -> Router {
        metrics_route().with_refusals().with_state(self)
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        // What a panicking thread left is still the state of the filter.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an operation that may block, on a thread for that.
    async fn run<T, E>(
        self,
        operation: impl FnOnce(&mut Engine) -> Result<T, E> + Send + 'static,
    ) -> Result<T, Failed>
    where
        T: Send + 'static,
        E: Into<Refused> + Send + 'static,
    {
        let outcome = tokio::task::spawn_blocking(move || operation(&mut self.lock())).await;
        let result = outcome.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        result.map_err(|error| Failed::from(error.into()))
    }

    async fn read<T, E>(self, read: impl FnOnce(&Engine) -> Result<T, E> + Send + 'static) -> Reply<T>
    where
        T: Send + 'static,
        E: Into<Refused> + Send + 'static,
    {
        self.run(|engine| read(engine)).await.map(Json)
    }
}

/// A failed request.
struct Failed(StatusCode, String);

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        let status = match &refused {
            Refused::Bad(_) | Refused::Kernel(BpfError::ListFull { .. }) => StatusCode::BAD_REQUEST,
            Refused::NeedsForce(_) | Refused::Doubtful { .. } => StatusCode::FORBIDDEN,
            Refused::NotFound(_) => StatusCode::NOT_FOUND,
            Refused::Conflict(_) => StatusCode::CONFLICT,
            Refused::Kernel(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, refused.to_string())
    }
}

impl From<JsonRejection> for Failed {
    fn from(rejection: JsonRejection) -> Self {
        let status = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        Self(status, rejection.body_text())
    }
}

impl From<QueryRejection> for Failed {
    fn from(rejection: QueryRejection) -> Self {
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<PathRejection> for Failed {
    fn from(rejection: PathRejection) -> Self {
        Self(StatusCode::NOT_FOUND, rejection.body_text())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(Failure { error: self.1 })).into_response()
    }
}

/// Answers unknown paths and methods as all other failures: with a status and one sentence.
trait Refusals {
    fn with_refusals(self) -> Self;
}

impl Refusals for Router<Server> {
    fn with_refusals(self) -> Self {
        let refuse = |status, text: &'static str| async move { Failed(status, text.to_owned()) };
        self.fallback(move || {
            refuse(StatusCode::NOT_FOUND, "there is no such path; docs/control.md has all that there are")
        })
        .method_not_allowed_fallback(move || {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "this path has other methods; docs/control.md says which")
        })
    }
}

/// Rejects a request by its announced length, before its body is read.
async fn refuse_larger<const MOST: usize>(request: Request, next: Next) -> Response {
    let length = request.body().size_hint().lower();
    if length > MOST as u64 {
        let text = format!("the request has {length} bytes; {MOST} are the most");
        return Failed(StatusCode::PAYLOAD_TOO_LARGE, text).into_response();
    }
    next.run(request).await
}

/// Rejects query parameters on paths that take none.
async fn refuse_query(request: Request, next: Next) -> Response {
    match request.uri().query() {
        None | Some("") => next.run(request).await,
        Some(_) => Failed(StatusCode::BAD_REQUEST, "this path takes no parameters".into()).into_response(),
    }
}

/// A JSON request body; faults are answered like all other failures.
type Input<T> = Result<Json<T>, JsonRejection>;

/// Query parameters, likewise.
type Parameters<T> = Result<Query<T>, QueryRejection>;

/// The list named in a path, likewise.
type Named = Result<Path<List>, PathRejection>;

/// `{list}` in a path.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum List {
    Allow,
    Block,
    AllowProven,
}

impl List {
    fn kind(&self) -> ListKind {
        match self {
            Self::Allow => ListKind::Allow,
            Self::Block => ListKind::Block,
            Self::AllowProven => ListKind::AllowProven,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SourcesQuery {
    limit: Option<usize>,
}

async fn sources(
    State(server): State<Server>,
    query: Parameters<SourcesQuery>,
) -> Reply<super::protocol::Sources> {
    /// Number of sources in each part of the response, unless the client says otherwise.
    const USUAL: usize = 20;

    let Query(query) = query?;
    let watch = server.clone().run(|engine| Ok::<_, Refused>(engine.watch())).await?;
    let debtors = tokio::task::spawn_blocking(move || watch.run()).await;
    let debtors = debtors.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    server.run(move |engine| engine.sources(&debtors, query.limit.unwrap_or(USUAL))).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntriesQuery {
    covering: Option<IpAddr>,
}

async fn entries(
    State(server): State<Server>,
    list: Named,
    query: Parameters<EntriesQuery>,
) -> Reply<super::protocol::ListReply> {
    let (Path(list), Query(query)) = (list?, query?);
    server.read(move |engine| Ok::<_, Refused>(engine.entries(list.kind(), query.covering))).await
}

async fn feeds(State(server): State<Server>) -> Reply<Feeds> {
    server.read(|engine| Ok::<_, Refused>(Feeds { feeds: engine.feeds() })).await
}

async fn refresh(State(server): State<Server>, request: Input<RefreshRequest>) -> Reply<Feeds> {
    let Json(RefreshRequest { names, force }) = request?;
    server.feeds.refresh(&names, force).await?;
    let Json(Feeds { mut feeds }) = feeds(State(server)).await?;
    feeds.retain(|feed| names.is_empty() || names.contains(&feed.name));
    Ok(Json(Feeds { feeds }))
}

async fn reload(
    State(server): State<Server>,
    request: Result<Option<Json<ReloadRequest>>, JsonRejection>,
) -> Reply<ReloadReply> {
    let ReloadRequest { force } = request?.unwrap_or_default().0;
    // The reload runs to completion even if the client no longer waits for it.
    let reload = tokio::spawn(async move { server.reloader.reload(force).await });
    let outcome = reload.await;
    let reply = outcome.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Json(reply?))
}

async fn add(
    State(server): State<Server>,
    list: Named,
    request: Input<AddRequest>,
) -> Reply<super::protocol::AddReply> {
    /// From this many entries on, their memory is worth giving back.
    const MANY: usize = 10_000;

    let (Path(list), Json(request)) = (list?, request?);
    let is_large = request.prefixes.len() >= MANY;
    let reply = server.run(move |engine| engine.add(list.kind(), request)).await;
    if is_large {
        tokio::task::spawn_blocking(memory::give_back);
    }
    reply.map(Json)
}

async fn remove(
    State(server): State<Server>,
    list: Named,
    request: Input<RemoveRequest>,
) -> Reply<super::protocol::RemoveReply> {
    let (Path(list), Json(request)) = (list?, request?);
    server.run(move |engine| engine.remove(list.kind(), request)).await.map(Json)
}

async fn change_limits(
    State(server): State<Server>,
    change: Input<LimitChange>,
) -> Reply<super::protocol::Limits> {
    let Json(change) = change?;
    server.run(move |engine| engine.change_limits(&change)).await.map(Json)
}

async fn set_mode(State(server): State<Server>, change: Input<ModeChange>) -> Reply<super::protocol::Status> {
    let Json(change) = change?;
    server
        .run(move |engine| {
            engine.set_mode(change.mode);
            engine.status()
        })
        .await
        .map(Json)
}

async fn detach(
    State(server): State<Server>,
    request: Input<DetachRequest>,
) -> Reply<super::protocol::DetachReply> {
    let Json(request) = request?;
    let ended = Arc::clone(&server.ended);
    let reply = server.run(move |engine| engine.detach(&request.interfaces)).await?;
    if reply.ends {
        ended.notify_one();
    }
    Ok(Json(reply))
}

fn metrics_route() -> Router<Server> {
    Router::new()
        .route("/metrics", get(scrape))
        .route_layer(from_fn(refuse_query))
        .layer(from_fn(refuse_larger::<LARGEST_OTHER>))
}

async fn scrape(State(server): State<Server>, headers: HeaderMap) -> Result<Response, Failed> {
    let scrape = server.scraped().await?;
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (content_type, text) = scrape.negotiated(accepted);
    Ok(([(header::CONTENT_TYPE, content_type), (header::VARY, "accept")], text).into_response())
}

impl Server {
    /// Reads the metrics once for all simultaneous requests. The result was read after the request arrived.
    async fn scraped(self) -> Result<Scrape, Failed> {
        let asked = Instant::now();
        let mut last = self.scraped.lock().await;
        if let Some((begun, scrape)) = &*last {
            if *begun >= asked {
                return Ok(scrape.clone());
            }
            tokio::time::sleep_until((*begun + SCRAPE_EVERY).into()).await;
        }
        let begun = Instant::now();
        let read = |engine: &mut Engine| Ok::<_, Refused>((engine.status()?, engine.counters()?));
        let (status, counters) = self.clone().run(read).await?;
        let scrape = Scrape::render(&status, &counters)
            .map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        *last = Some((begun, scrape.clone()));
        Ok(scrape)
    }
}

async fn trace(State(server): State<Server>, request: Input<TraceRequest>) -> Result<Response, Failed> {
    let Json(request) = request?;
    let owner = server.clone();
    // The body owns the trace from the start: if the client has hung up in the meantime, nobody takes the body,
    // and it is dropped.
    let start = move |engine: &mut Engine| {
        let (number, lines) = engine.start_trace(request.address)?;
        Ok::<_, Refused>(TraceBody { lines, number, server: owner })
    };
    let body = server.run(start).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::new(body)).into_response())
}

/// The lines of a trace. The trace ends when the client hangs up and this is dropped.
struct TraceBody {
    lines: mpsc::Receiver<Bytes>,
    number: u64,
    server: Server,
}

impl HttpBody for TraceBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.lines.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

impl Drop for TraceBody {
    fn drop(&mut self) {
        let (server, number) = (self.server.clone(), self.number);
        // Without a runtime, the daemon is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || server.lock().stop_trace(number));
        }
    }
}
