//! Redis streams.
//!
//! An answer of Redis means that it is in its memory, and as durable as `appendfsync` makes it.

use crate::consume::{Feed, FeedError, Start, Subscription, Taken};
use crate::header;
use crate::publish::{Boxed, Connection, Placed, Publication, PublishError};
use crate::server::Server;
use bellwire_egress::Client;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamReadReply};
use redis::{
    AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError, ServerErrorKind, Value, from_redis_value,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Our name in the group. One place for all: what a process took and did not acknowledge is the next one's to do first.
const CONSUMER: &str = "bellwire";
/// What another consumer of the group took so long ago and did not acknowledge is ours.
const STALE: Duration = Duration::from_secs(300);

/// Adds an entry, unless that was done under the same id before. `KEYS`: the stream, and where the id is remembered. `ARGV`: for how many
/// milliseconds (0: not at all), the stream's length (0: without end), then fields and values. Answers the entry, and whether it was there.
const ADD: &str = r"
local known = ARGV[1] ~= '0' and redis.call('GET', KEYS[2])
if known then return {known, 1} end
local command = {'XADD', KEYS[1]}
if ARGV[2] ~= '0' then
  command[3], command[4], command[5] = 'MAXLEN', '~', ARGV[2]
end
command[#command + 1] = '*'
for place = 3, #ARGV do command[#command + 1] = ARGV[place] end
local entry = redis.call(unpack(command))
if ARGV[1] ~= '0' then redis.call('SET', KEYS[2], entry, 'PX', ARGV[1]) end
return {entry, 0}";

pub(crate) struct Publisher {
    connection: MultiplexedConnection,
    add: redis::Script,
    open: Arc<AtomicBool>,
}

impl Publisher {
    pub(crate) async fn open(client: &Client, server: &Server, limit: Duration) -> Result<Self, PublishError> {
        let (connection, open) = connect(client, server, limit).await?;
        Ok(Publisher { connection, add: redis::Script::new(ADD), open })
    }
}

impl Connection for Publisher {
    fn publish<'a>(&'a self, publication: &'a Publication) -> Boxed<'a, Result<Placed, PublishError>> {
        Box::pin(async move {
            let Publication { to, id, headers, payload, length_max, dedupe, .. } = publication;
            if to.is_empty() {
                let text = "the stream's key is empty".to_owned();
                return Err(PublishError::Refused { text, forever: true });
            }
            let mut script = self.add.prepare_invoke();
            // Braces keep both keys on one node of a cluster.
            let remembered = if to.contains('{') { format!("{to}:{id}") } else { format!("{{{to}}}:{id}") };
            script.key(to).key(remembered);
            script.arg(dedupe.map_or(0, |window| window.as_millis() as u64)).arg(length_max.unwrap_or(0));
            for (name, value) in headers {
                script.arg(*name).arg(value);
            }
            script.arg(header::PAYLOAD).arg(&payload[..]);
            let mut connection = self.connection.clone();
            let (place, duplicate): (String, bool) = script.invoke_async(&mut connection).await.map_err(refusal)?;
            Ok(Placed { place, duplicate })
        })
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }
}

fn refusal(error: RedisError) -> PublishError {
    let text = error.to_string();
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::Client => PublishError::Lost(text),
        ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) => PublishError::Refused {
            text: format!(
                "the stream is on another node of the cluster, to which redirections are not followed: {text}"
            ),
            forever: false,
        },
        // The server became a replica: the name may lead to another one by now.
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown) => PublishError::Lost(text),
        _ => PublishError::Refused { text, forever: false },
    }
}

/// A connection, and whether it still is one.
async fn connect(
    client: &Client,
    server: &Server,
    limit: Duration,
) -> Result<(MultiplexedConnection, Arc<AtomicBool>), PublishError> {
    let reached = client.reach(&server.host, server.port, server.tls, limit).await;
    let stream = reached.map_err(PublishError::Unreachable)?;
    let mut info = RedisConnectionInfo::default()
        .set_db(i64::from(server.database))
        .set_lib_name("bellwire", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &server.credentials.user {
        info = info.set_username(user);
    }
    if let Some(password) = &server.credentials.password {
        info = info.set_password(password);
    }
    // How long an answer may take is the callers' business: a reader asks the server to wait.
    let config = AsyncConnectionConfig::new().set_response_timeout(None);
    let connecting = MultiplexedConnection::new_with_config(&info, stream, config);
    let connected = tokio::time::timeout(limit, connecting).await.map_err(|_| PublishError::Timeout(limit))?;
    let (connection, driver) = connected.map_err(|error| match error.kind() {
        ErrorKind::Io => PublishError::Unconnected(format!("no connection to {server}: {error}")),
        _ => PublishError::Refused { text: format!("{server} does not let us in: {error}"), forever: false },
    })?;
    let open = Arc::new(AtomicBool::new(true));
    let ends = Arc::clone(&open);
    tokio::spawn(async move {
        driver.await;
        ends.store(false, Ordering::Relaxed);
    });
    Ok((connection, open))
}

/// Takes from a stream, as the one consumer of a group.
pub(crate) struct Group {
    connection: MultiplexedConnection,
    stream: String,
    group: String,
    payload_field: String,
    /// What was taken before is not done yet.
    before: bool,
    taken: Vec<String>,
}

impl Group {
    /// Takes up where the group stands: what was taken before and not acknowledged comes first.
    pub(crate) async fn open(
        client: &Client,
        server: &Server,
        subscription: &Subscription,
        limit: Duration,
    ) -> Result<Self, FeedError> {
        let (mut connection, _) = connect(client, server, limit).await?;
        let Subscription { stream, group, start, payload_field, .. } = subscription;
        let from = match start {
            Start::Oldest => "0",
            Start::New => "$",
        };
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(stream).arg(group).arg(from).arg("MKSTREAM");
        match create.query_async::<()>(&mut connection).await {
            Err(error) if error.code() != Some("BUSYGROUP") => return Err(failed(error)),
            _ => {}
        }
        Ok(Group {
            connection,
            stream: stream.clone(),
            group: group.clone(),
            payload_field: payload_field.clone(),
            before: true,
            taken: Vec::new(),
        })
    }

    /// Entries behind `from`: `0` for those that we took before, `>` for new ones, for which the server waits.
    async fn read(&mut self, from: &str, most: usize, wait: Option<Duration>) -> Result<Vec<StreamId>, FeedError> {
        let mut read = redis::cmd("XREADGROUP");
        read.arg("GROUP").arg(&self.group).arg(CONSUMER).arg("COUNT").arg(most);
        if let Some(wait) = wait {
            read.arg("BLOCK").arg(wait.as_millis() as u64);
        }
        read.arg("STREAMS").arg(&self.stream).arg(from);
        let reply: Option<StreamReadReply> = read.query_async(&mut self.connection).await.map_err(failed)?;
        Ok(reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids).collect())
    }

    /// Makes what others took long ago ours.
    async fn claim(&mut self, most: usize) -> Result<bool, FeedError> {
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(&self.stream).arg(&self.group).arg(CONSUMER).arg(STALE.as_millis() as u64).arg("0");
        claim.arg("COUNT").arg(most);
        let reply: StreamAutoClaimReply = claim.query_async(&mut self.connection).await.map_err(failed)?;
        Ok(!reply.claimed.is_empty())
    }
}

impl Feed for Group {
    fn take(&mut self, most: usize, wait: Duration) -> Boxed<'_, Result<Vec<Taken>, FeedError>> {
        Box::pin(async move {
            let mut entries = Vec::new();
            if self.before {
                entries = self.read("0", most, None).await?;
                self.before = !entries.is_empty();
            }
            if entries.is_empty() {
                entries = self.read(">", most, Some(wait)).await?;
            }
            if entries.is_empty() && self.claim(most).await? {
                entries = self.read("0", most, None).await?;
                self.before = true;
            }
            // Those that were deleted after they were taken have nothing left to give.
            let gone: Vec<StreamId> = entries.extract_if(.., |entry| entry.map.is_empty()).collect();
            if !gone.is_empty() {
                self.taken = gone.into_iter().map(|entry| entry.id).collect();
                self.settle(usize::MAX).await?;
            }
            self.taken = entries.iter().map(|entry| entry.id.clone()).collect();
            Ok(entries.into_iter().map(|entry| taken(&self.stream, &self.payload_field, entry)).collect())
        })
    }

    fn settle(&mut self, count: usize) -> Boxed<'_, Result<(), FeedError>> {
        Box::pin(async move {
            let mut ack = redis::cmd("XACK");
            ack.arg(&self.stream).arg(&self.group);
            self.taken.drain(..count.min(self.taken.len())).for_each(|entry| {
                ack.arg(entry);
            });
            ack.query_async::<()>(&mut self.connection).await.map_err(failed)
        })
    }
}

fn failed(error: RedisError) -> FeedError {
    FeedError(error.to_string())
}

fn taken(stream: &str, payload_field: &str, entry: StreamId) -> Taken {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(entry.map.len());
    let mut payload = Bytes::new();
    for (name, value) in entry.map {
        if name == payload_field {
            payload = bytes_of(value);
            continue;
        }
        let Ok(value) = from_redis_value::<String>(value) else { continue };
        headers.push((name.to_ascii_lowercase(), value));
    }
    headers.sort_unstable();
    Taken {
        place: format!("{stream} {}", entry.id),
        // The places of a stream that is made anew are times as well, and later.
        stream: None,
        published: entry.id.split_once('-').and_then(|(millis, _)| millis.parse().ok()),
        subject: stream.to_owned(),
        headers,
        payload,
        gone: None,
    }
}

fn bytes_of(value: Value) -> Bytes {
    match value {
        Value::BulkString(bytes) => bytes.into(),
        other => from_redis_value::<Vec<u8>>(other).unwrap_or_default().into(),
    }
}
