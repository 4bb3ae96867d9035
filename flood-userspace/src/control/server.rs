//! The daemon's side of the control socket, and the metrics over TCP.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::{
    Json, Router,
    body::{Body, HttpBody},
    extract::{DefaultBodyLimit, Path, Query, State, rejection::JsonRejection},
    http::{StatusCode, header},
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
    metrics,
};

use super::protocol::{
    AddRequest, DetachRequest, Failure, Feeds, LimitChange, ModeChange, RefreshRequest, ReloadReply,
    RemoveRequest, TraceRequest,
};

/// Room for a request: a list of a million prefixes has some 30 MB.
const LARGEST_REQUEST: usize = 128 << 20;

/// Content type of a scrape (OpenMetrics 1.0, section 5).
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every request has at hand.
#[derive(Clone)]
pub struct Server {
    engine: Arc<Mutex<Engine>>,
    feeds: Arc<FeedKeeper>,
    reloader: Arc<Reloader>,
    /// Told when nothing is left to guard.
    ended: Arc<Notify>,
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
        Self { engine, feeds, reloader, ended }
    }

    /// All routes, for the control socket.
    pub fn control(self) -> Router {
        Router::new()
            .route("/v1/status", get(|State(server): State<Self>| server.read(Engine::status)))
            .route("/v1/stats", get(|State(server): State<Self>| server.read(Engine::stats)))
            .route("/v1/sources", get(sources))
            .route("/v1/lists/{list}", get(entries).post(add).delete(remove))
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
            .route("/metrics", get(scrape))
            .fallback(|| async {
                Failed(StatusCode::NOT_FOUND, "there is no such page; see docs/control.md".into())
            })
            .layer(DefaultBodyLimit::max(LARGEST_REQUEST))
            .with_state(self)
    }

    /// The metrics alone, for everybody on this host.
    pub fn metrics(self) -> Router {
        Router::new().route("/metrics", get(scrape)).with_state(self)
    }

    fn lock(&self) -> MutexGuard<'_, Engine> {
        // What a panicking thread left is still the state of the filter.
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs an operation where it may block.
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

/// A request that was not met.
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
        Self(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (self.0, Json(Failure { error: self.1 })).into_response()
    }
}

/// JSON in a request, whose faults are answered as all others are.
type Input<T> = Result<Json<T>, JsonRejection>;

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
struct SourcesQuery {
    limit: Option<usize>,
}

async fn sources(
    State(server): State<Server>,
    Query(query): Query<SourcesQuery>,
) -> Reply<super::protocol::Sources> {
    /// Sources in each part of the answer, unless the client says otherwise.
    const USUAL: usize = 20;

    let watch = server.clone().run(|engine| Ok::<_, Refused>(engine.watch())).await?;
    let debtors = tokio::task::spawn_blocking(move || watch.run()).await;
    let debtors = debtors.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    server.run(move |engine| engine.sources(&debtors, query.limit.unwrap_or(USUAL))).await.map(Json)
}

#[derive(Deserialize)]
struct EntriesQuery {
    covering: Option<IpAddr>,
}

async fn entries(
    State(server): State<Server>,
    Path(list): Path<List>,
    Query(query): Query<EntriesQuery>,
) -> Reply<super::protocol::ListReply> {
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

async fn reload(State(server): State<Server>) -> Reply<ReloadReply> {
    // It goes on to its end even if nobody waits for it any more.
    let reload = tokio::spawn(async move { server.reloader.reload().await });
    let outcome = reload.await;
    let reply = outcome.map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Json(reply?))
}

async fn add(
    State(server): State<Server>,
    Path(list): Path<List>,
    request: Input<AddRequest>,
) -> Reply<super::protocol::AddReply> {
    let Json(request) = request?;
    server.run(move |engine| engine.add(list.kind(), request)).await.map(Json)
}

async fn remove(
    State(server): State<Server>,
    Path(list): Path<List>,
    request: Input<RemoveRequest>,
) -> Reply<super::protocol::RemoveReply> {
    let Json(request) = request?;
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

async fn scrape(State(server): State<Server>) -> Result<Response, Failed> {
    let (status, counters) =
        server.run(|engine| Ok::<_, Refused>((engine.status()?, engine.counters()?))).await?;
    let text = metrics::render(&status, &counters)
        .map_err(|error| Failed(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response())
}

async fn trace(State(server): State<Server>, request: Input<TraceRequest>) -> Result<Response, Failed> {
    let Json(request) = request?;
    let (number, lines) = server.clone().run(move |engine| engine.start_trace(request.address)).await?;
    let body = TraceBody { lines, number, server };
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], Body::new(body)).into_response())
}

/// The lines of a trace, which ends when the client hangs up and this is dropped.
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
        tokio::task::spawn_blocking(move || server.lock().stop_trace(number));
    }
}
