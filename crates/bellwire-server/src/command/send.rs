//! `bellwire send`: one webhook straight to a URL, signed as the server would; or one message through a server's API,
//! watched until every delivery of it has ended.

use super::{Hint, block_on, http::Api, input, pack, server::Address, sign};
use anyhow::{Context as _, bail};
use bellwire_config::{Config, HeaderNames, Place, parse_duration};
use bellwire_egress::{Egress, Request, SendError, Target};
use bellwire_model::{MessageId, Sequence, SequenceSource};
use bellwire_node::clock;
use bellwire_signature::Secret;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{collections::HashSet, process::ExitCode, time::Duration};

const POLL: Duration = Duration::from_millis(200);

/// Send one webhook to a URL, or one message through a server.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire send http://127.0.0.1:9000/hook --allow 127.0.0.0/8 \\\n    --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw --payload '{\"hello\":\"world\"}'\n  bellwire send --application my-app --event-type invoice.paid \\\n    --payload @invoice.json --wait\n\nTo a URL it is one attempt, without retries. Through a server, address and token come\nfrom the settings or the data folder. Exits 0 if it was taken: with --wait by every endpoint."
)]
#[command(group(clap::ArgGroup::new("to").required(true).args(["to_url", "application"])))]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Post straight to this URL
    #[arg(value_name = "URL", requires = "secret")]
    to_url: Option<String>,
    /// The payload: JSON, @FILE, or @- for standard input
    #[arg(long, value_name = "TEXT|@FILE", default_value = "{}")]
    payload: String,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,

    /// What to sign with, whsec_… or whsk_…; repeat it, newest first
    #[arg(long, value_name = "SECRET", value_parser = input::secret, help_heading = "To a URL", conflicts_with = "application")]
    secret: Vec<Secret>,
    /// The message's id [default: a new one]
    #[arg(long, value_name = "ID", help_heading = "To a URL", conflicts_with = "application")]
    id: Option<String>,
    /// A private or local network that the URL may be in; repeat it
    #[arg(long, value_name = "NETWORK", help_heading = "To a URL", conflicts_with = "application")]
    allow: Vec<IpNet>,

    /// Create a message of this application, by id or uid
    #[arg(long, value_name = "APP", help_heading = "Through a server", requires = "event_type")]
    application: Option<String>,
    /// The message's event type, or an alias that a pack gave it
    #[arg(long, value_name = "TYPE", help_heading = "Through a server", requires = "application")]
    event_type: Option<String>,
    /// Your own id of the event: the same one never makes a second message
    #[arg(long, value_name = "ID", help_heading = "Through a server", requires = "application")]
    event_id: Option<String>,
    /// A channel of the message; repeat it
    #[arg(long, value_name = "NAME", help_heading = "Through a server", requires = "application")]
    channel: Vec<String>,
    #[command(flatten, next_help_heading = "Through a server")]
    server: Address,
    /// Show the attempts until every delivery has ended, or this long
    #[arg(long, value_name = "DURATION", value_parser = duration, num_args = 0..=1, require_equals = true, default_missing_value = "60s", help_heading = "Through a server", requires = "application")]
    wait: Option<Duration>,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.place.clone())?;
    let payload = input::text_or_file(&arguments.payload)?;
    let taken = match &arguments.to_url {
        Some(url) => block_on(straight(&arguments, &config, url, payload))?,
        None => block_on(through_a_server(&arguments, &config, &payload))?,
    };
    Ok(if taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn straight(arguments: &Arguments, config: &Config, url: &str, payload: Vec<u8>) -> anyhow::Result<bool> {
    let mut settings = config.egress_settings();
    settings.guard.allowed_networks.extend(&arguments.allow);
    let client = Egress::new(settings)?.client()?;
    let now = clock::wall();
    let id = match &arguments.id {
        Some(id) => id.clone(),
        None => {
            let sequence = SequenceSource::after(Sequence::ZERO).next(now);
            MessageId::new(sequence, &mut input::chance()?).to_string()
        }
    };
    let signed = sign::headers(&arguments.secret, &id, now.as_seconds(), &payload)?;
    let request = Request {
        method: Method::POST,
        target: Target::parse(url).with_context(|| format!("cannot send to {url}"))?,
        headers: headers(&signed, config)?,
        body: payload.into(),
        deadline: config.delivery.timeout,
        response_body_max: config.delivery.response_body_bytes_max,
    };
    let response = client.exchange(request).await.map_err(explained)?;
    let body = String::from_utf8_lossy(&response.body);
    let duration_ms = response.timings.total.as_secs_f64() * 1e3;
    if arguments.json {
        let response =
            serde_json::json!({ "id": id, "status": response.status, "durationMs": duration_ms, "response": body });
        println!("{response}");
    } else {
        println!("message   {id}\nstatus    {}\nduration  {duration_ms:.1} ms", response.status);
        if !body.is_empty() {
            println!("response  {}", printable(&body));
        }
    }
    Ok((200..300).contains(&response.status))
}

/// All headers of an attempt, under the names of the settings.
pub(crate) fn headers(signed: &[(&'static str, String); 3], config: &Config) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, config.delivery.user_agent.clone());
    let (webhook, svix) = match config.delivery.headers {
        HeaderNames::Webhook => (true, false),
        HeaderNames::Svix => (false, true),
        HeaderNames::Both => (true, true),
    };
    for (name, value) in signed {
        let value = HeaderValue::try_from(value).context("the id cannot stand in a header")?;
        if webhook {
            headers.insert(*name, value.clone());
        }
        if svix {
            headers.insert(HeaderName::try_from(name.replace("webhook-", "svix-"))?, value);
        }
    }
    Ok(headers)
}

fn explained(error: SendError) -> anyhow::Error {
    let forbidden = matches!(error, SendError::Forbidden(_));
    let error = anyhow::Error::from(error);
    if forbidden {
        return error.context(Hint::new(
            "nothing was sent",
            "--allow 127.0.0.0/8 (or the network in question) allows it for this once, egress.allow in the settings for good",
        ));
    }
    error.context("the webhook was not answered")
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageIn<'a> {
    event_type: &'a str,
    payload: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    channels: &'a [String],
}

/// A message to create, with the payload as it is, byte for byte.
///
/// # Errors
/// The payload is not JSON.
pub(crate) fn message(
    event_type: &str,
    payload: &[u8],
    event_id: Option<&str>,
    channels: &[String],
) -> anyhow::Result<Vec<u8>> {
    let payload: &RawValue = serde_json::from_slice(payload)
        .context(Hint::new("the payload is not JSON", "text needs quotes of its own: --payload '\"text\"'"))?;
    Ok(serde_json::to_vec(&MessageIn { event_type, payload, event_id, channels })?)
}

#[derive(Deserialize)]
pub(crate) struct WithId {
    pub(crate) id: String,
}

#[derive(Deserialize)]
struct List<T> {
    data: Vec<T>,
}

/// A delivery of the message.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Destination {
    id: String,
    url: String,
    status: i64,
    status_text: String,
    #[serde(default)]
    next_attempt: Option<String>,
}

impl Destination {
    /// Neither pending (1) nor sending (3).
    fn has_ended(&self) -> bool {
        !matches!(self.status, 1 | 3)
    }

    fn is_delivered(&self) -> bool {
        self.status == 0
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    id: String,
    endpoint_id: String,
    url: String,
    timestamp: String,
    response_status_code: i64,
    response_duration_ms: i64,
    #[serde(default)]
    response: String,
}

async fn through_a_server(arguments: &Arguments, config: &Config, payload: &[u8]) -> anyhow::Result<bool> {
    let (Some(application), Some(event_type)) = (&arguments.application, &arguments.event_type) else {
        bail!("--application and --event-type are needed");
    };
    let api = arguments.server.api(config, bellwire_config::organisation_default())?;
    let event_type = pack::event_type_called(&api, event_type).await?;
    let body = message(&event_type, payload, arguments.event_id.as_deref(), &arguments.channel)?;
    let WithId { id } = api.post(&format!("/app/{application}/msg"), body).await?;
    if !arguments.json {
        println!("message  {id}");
    }
    let Some(limit) = arguments.wait else {
        if arguments.json {
            println!("{}", serde_json::json!({ "id": id }));
        }
        return Ok(true);
    };
    let mut watch = Watch { api: &api, application, message: &id, json: arguments.json, seen: HashSet::new() };
    let in_time = tokio::time::timeout(limit, watch.until_ended()).await;
    let destinations = match in_time {
        Ok(destinations) => destinations?,
        Err(_) => watch.destinations().await?,
    };
    watch.conclude(&destinations).await?;
    Ok(destinations.iter().all(Destination::is_delivered))
}

/// Follows one message.
struct Watch<'a> {
    api: &'a Api,
    application: &'a str,
    message: &'a str,
    json: bool,
    /// Ids of the attempts that were shown.
    seen: HashSet<String>,
}

impl Watch<'_> {
    async fn until_ended(&mut self) -> anyhow::Result<Vec<Destination>> {
        loop {
            // In this order: no attempt is missing when all have ended.
            let destinations = self.destinations().await?;
            for attempt in self.attempts().await?.into_iter().rev() {
                self.show(&attempt);
            }
            if destinations.iter().all(Destination::has_ended) {
                return Ok(destinations);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn destinations(&self) -> anyhow::Result<Vec<Destination>> {
        let path = format!("/app/{}/msg/{}/endpoint?limit=250", self.application, self.message);
        Ok(self.api.get::<List<Destination>>(&path).await?.data)
    }

    /// Newest first.
    async fn attempts(&self) -> anyhow::Result<Vec<Attempt>> {
        let path = format!("/app/{}/attempt/msg/{}?limit=250", self.application, self.message);
        Ok(self.api.get::<List<Attempt>>(&path).await?.data)
    }

    fn show(&mut self, attempt: &Attempt) {
        if !self.seen.insert(attempt.id.clone()) || self.json {
            return;
        }
        let status = match attempt.response_status_code {
            0 => format!("no answer: {}", printable(&attempt.response)),
            status => status.to_string(),
        };
        let place = place(&attempt.url, &attempt.endpoint_id);
        println!("attempt  {}  {:>6} ms  {status}  {place}", attempt.timestamp, attempt.response_duration_ms);
    }

    async fn conclude(&self, destinations: &[Destination]) -> anyhow::Result<()> {
        if self.json {
            let endpoints: Vec<_> = destinations
                .iter()
                .map(|at| {
                    serde_json::json!({ "id": at.id, "url": at.url, "status": at.status_text, "nextAttempt": at.next_attempt })
                })
                .collect();
            let attempts = self.attempts().await?;
            println!("{}", serde_json::json!({ "id": self.message, "endpoints": endpoints, "attempts": attempts }));
            return Ok(());
        }
        if destinations.is_empty() {
            println!("no endpoint takes it");
        }
        for Destination { id, url, status_text, next_attempt, .. } in destinations {
            let url = place(url, id);
            match next_attempt {
                Some(time) => println!("{status_text:<8} {url}, next attempt at {time}"),
                None => println!("{status_text:<8} {url}"),
            }
        }
        Ok(())
    }
}

/// Where it went: an endpoint that is called by URL by that, another by its id.
fn place<'a>(url: &'a str, endpoint: &'a str) -> &'a str {
    if url.contains("://") { url } else { endpoint }
}

/// A stranger's text, fit for a terminal: no control characters, one line, not long.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

fn duration(text: &str) -> Result<Duration, &'static str> {
    parse_duration(text).ok_or("expected a duration such as 60s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn an_endpoint_without_a_url_is_named_by_its_id() {
        assert_eq!(place("http://127.0.0.1:9000/hooks", "ep_1"), "http://127.0.0.1:9000/hooks");
        assert_eq!((place("about:blank", "ep_1"), place("pipe:", "ep_1")), ("ep_1", "ep_1"));
    }

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, String> {
        let words = std::iter::once("send").chain(line.split_whitespace());
        Command::try_parse_from(words).map(|command| command.arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn it_goes_to_a_url_or_through_a_server_and_not_both() {
        const SECRET: &str = "--secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert!(parse(&format!("http://127.0.0.1/ {SECRET} --allow 127.0.0.0/8")).is_ok());
        let waits = parse("--application a --event-type t --wait").expect("right");
        assert_eq!(waits.wait, Some(Duration::from_secs(60)));
        let waits = parse("--application a --event-type t --wait=2m").expect("right");
        assert_eq!(waits.wait, Some(Duration::from_secs(120)));
        for wrong in [
            "".to_owned(),
            "http://127.0.0.1/".to_owned(),
            "--application a".to_owned(),
            "--event-type t".to_owned(),
            format!("http://127.0.0.1/ {SECRET} --application a --event-type t"),
            format!("--application a --event-type t {SECRET}"),
            "http://127.0.0.1/ --secret no".to_owned(),
        ] {
            assert!(parse(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_payload_goes_as_it_is() {
        let body = message("a.b", b"{ \"b\": 1.00, \"a\":2 }", Some("e1"), &[]).expect("JSON");
        let text = String::from_utf8(body).expect("UTF-8");
        assert_eq!(text, r#"{"eventType":"a.b","payload":{ "b": 1.00, "a":2 },"eventId":"e1"}"#);
        assert!(message("a.b", b"text", None, &[]).is_err());
    }

    #[test]
    fn headers_have_the_names_of_the_settings() {
        let signed =
            [("webhook-id", "a".to_owned()), ("webhook-timestamp", "1".into()), ("webhook-signature", "v1,".into())];
        let mut config = Config::defaults();
        let names = |config: &Config| {
            let headers = headers(&signed, config).expect("headers");
            (headers.contains_key("webhook-id"), headers.contains_key("svix-signature"))
        };
        assert_eq!(names(&config), (true, true));
        config.delivery.headers = HeaderNames::Webhook;
        assert_eq!(names(&config), (true, false));
        config.delivery.headers = HeaderNames::Svix;
        assert_eq!(names(&config), (false, true));
    }

    #[test]
    fn what_a_stranger_answers_cannot_move_the_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a [2Jb c");
    }
}
