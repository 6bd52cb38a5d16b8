//! What is sent instead of the payload, where an endpoint asks for it: its script first, then its format, then its content type.
//!
//! Scripts run on threads of their own; large payloads are written in another format on a thread that may block. A shard's thread
//! only waits for them, with all its other attempts going on.

use bellwire_egress::Target;
use bellwire_model::{Access, ContentType, Endpoint, FailureClass, Format, Message};
use bellwire_shape::{Script, Scripts, Transformed, Webhook, format};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use std::sync::Arc;

/// A larger payload is written in another format away from the shard's thread.
const WRITTEN_HERE_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
const HEADER_VALUE_MAX: usize = 4_096;
const URL_MAX: usize = 65_536;

/// What is sent.
pub(crate) struct Shaped {
    pub(crate) method: Method,
    /// `None`: the endpoint's own.
    pub(crate) url: Option<String>,
    pub(crate) body: Bytes,
    /// `None`: the message's own.
    pub(crate) content_type: Option<HeaderValue>,
    /// Over the endpoint's own.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
}

impl Shaped {
    /// The payload as it was accepted.
    pub(crate) fn unchanged(body: Bytes) -> Self {
        Shaped { method: Method::POST, url: None, body, content_type: None, headers: Vec::new() }
    }
}

/// Why nothing is sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unshaped {
    /// What kind of failure it is; [`FailureClass::Cancelled`] if the script wanted it so.
    pub class: FailureClass,
    /// For the endpoint's owner.
    pub text: String,
}

fn failed(text: impl Into<String>) -> Unshaped {
    Unshaped { class: FailureClass::Transformation, text: text.into() }
}

/// What the endpoint's shape makes of the message.
pub(crate) async fn shape(
    endpoint: &Endpoint,
    message: &Message,
    scripts: &Scripts,
    https_only: bool,
) -> Result<Shaped, Unshaped> {
    let Some(payload) = message.payload.clone() else {
        return Err(Unshaped { class: FailureClass::Unsendable, text: "the payload has expired".to_owned() });
    };
    let shape = &endpoint.shape;
    let mut shaped = Shaped::unchanged(payload);
    let mut is_json = message.content_type == ContentType::Json;
    if let Some(transformation) = &shape.transformation
        && let Some(code) = transformation.active()
    {
        let webhook = Webhook {
            url: endpoint.url.clone(),
            payload: shaped.body.clone(),
            event_type: message.event_type.clone(),
            channels: message.channels.clone(),
            variables: transformation.variables.clone(),
            params: message.transformations_params.clone(),
        };
        let script = Script {
            lane: u64::from(endpoint.key.0),
            application: endpoint.application,
            code: Arc::clone(code),
            webhook: Some(webhook),
        };
        let transformed = transform(scripts, script).await?;
        is_json = transformed.is_json;
        apply(&mut shaped, transformed, endpoint, https_only)?;
        if !is_json && message.content_type == ContentType::Json {
            // A string may be JSON that the script wrote itself.
            is_json = serde_json::from_slice::<serde::de::IgnoredAny>(&shaped.body).is_ok();
            if !is_json {
                shaped.content_type.get_or_insert(HeaderValue::from_static("text/plain; charset=utf-8"));
            }
        }
    }
    if shape.format != Format::Json {
        if !is_json {
            return Err(failed(format::FormatError::NotJson.to_string()));
        }
        let (body, media_type) = write(shape.format, shaped.body).await?;
        shaped.body = body;
        shaped.content_type = Some(HeaderValue::from_static(media_type));
    }
    if let Some(content_type) = &shape.content_type {
        let value = HeaderValue::from_str(content_type).map_err(|error| failed(format!("contentType: {error}")))?;
        shaped.content_type = Some(value);
    }
    Ok(shaped)
}

/// A message as an endpoint gets it that is not posted to.
#[derive(Debug)]
pub struct Reshaped {
    /// With the payload and content type that the endpoint's shape made.
    pub message: Message,
    /// What its script wants beside the payload, names in lower case; without the content type.
    pub headers: Vec<(String, String)>,
}

/// The message as an endpoint that is not posted to gets it: as the endpoint's shape makes it. `None`: as it was accepted. For such an
/// endpoint a script says what is given, and not where or how it is sent.
///
/// # Errors
/// [`Unshaped`] if there is nothing to give, and also if the script gave a URL or a method.
pub async fn reshape(endpoint: &Endpoint, message: &Message, scripts: &Scripts) -> Result<Option<Reshaped>, Unshaped> {
    if !endpoint.shape.changes_what_is_sent() {
        return Ok(None);
    }
    let Shaped { method, url, body, content_type, headers } = shape(endpoint, message, scripts, false).await?;
    if url.is_some() {
        return Err(needless("a URL"));
    }
    if method != Method::POST {
        return Err(needless(&format!("the method {method}")));
    }
    let content_type = match content_type.as_ref().map(HeaderValue::to_str) {
        None => message.content_type.clone(),
        Some(Ok("application/json")) => ContentType::Json,
        Some(Ok(other)) => ContentType::Other(other.to_owned()),
        Some(Err(_)) => return Err(failed("the transformation gave a content type that is not ASCII")),
    };
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Ok(Some(Reshaped { message: Message { payload: Some(body), content_type, ..message.clone() }, headers }))
}

/// The same, for an endpoint that is given a payload and nothing beside it.
///
/// # Errors
/// As [`reshape`], and if the script gave a header.
pub async fn reshape_payload(
    endpoint: &Endpoint,
    message: &Message,
    scripts: &Scripts,
) -> Result<Option<Message>, Unshaped> {
    let Some(Reshaped { message, headers }) = reshape(endpoint, message, scripts).await? else { return Ok(None) };
    match headers.first() {
        Some((name, _)) => Err(needless(&format!("the header {name}"))),
        None => Ok(Some(message)),
    }
}

fn needless(what: &str) -> Unshaped {
    failed(format!("the transformation gave {what}, which means nothing for an endpoint that has no URL"))
}

async fn transform(scripts: &Scripts, script: Script) -> Result<Transformed, Unshaped> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // Gone with whoever waits here, who may be a reader that hangs up.
    let asked_by = Arc::new(());
    scripts.run_for(&asked_by, script, move |done| drop(sender.send(done)));
    let done = receiver.await.map_err(|_| failed("the transformation was not run: the server is shutting down"))?;
    let transformed = done.map_err(|error| failed(format!("the transformation failed: {error}")))?;
    let transformed = transformed.ok_or_else(|| failed("the transformation gave nothing"))?;
    if transformed.cancel {
        let text = "the endpoint's transformation cancelled this message".to_owned();
        return Err(Unshaped { class: FailureClass::Cancelled, text });
    }
    Ok(transformed)
}

fn apply(shaped: &mut Shaped, transformed: Transformed, endpoint: &Endpoint, https_only: bool) -> Result<(), Unshaped> {
    let wrong = |what: String| failed(format!("the transformation gave {what}"));
    if transformed.url != endpoint.url {
        if transformed.url.len() > URL_MAX {
            return Err(wrong(format!("a URL of more than {URL_MAX} characters")));
        }
        Target::parse(&transformed.url).map_err(|error| wrong(format!("a URL that cannot be called: {error}")))?;
        if https_only && !transformed.url.trim_start().get(..6).is_some_and(|s| s.eq_ignore_ascii_case("https:")) {
            return Err(wrong("a URL that is not https, which this server asks for".to_owned()));
        }
        // What proves who we are there is for the endpoint's own address, whatever its script says.
        if endpoint.access != Access::default() && origin(&transformed.url) != origin(&endpoint.url) {
            return Err(wrong("a URL of another host, where the endpoint's authentication must not go".to_owned()));
        }
        shaped.url = Some(transformed.url.clone());
    }
    if transformed.headers.len() > HEADERS_MAX {
        return Err(wrong(format!("more than {HEADERS_MAX} headers")));
    }
    for (name, value) in &transformed.headers {
        let header =
            HeaderName::try_from(name.as_str()).map_err(|_| wrong(format!("a header with the name {name:?}")))?;
        if is_ours(&header) {
            return Err(wrong(format!("the header {header}, which is set by the server")));
        }
        let value = HeaderValue::try_from(value.as_str())
            .ok()
            .filter(|value| value.len() <= HEADER_VALUE_MAX)
            .ok_or_else(|| wrong(format!("a value of header {header} that cannot be sent")))?;
        if header == header::CONTENT_TYPE {
            shaped.content_type = Some(value);
        } else {
            shaped.headers.push((header, value));
        }
    }
    shaped.method = Method::from_bytes(transformed.method.name().as_bytes()).unwrap_or(Method::POST);
    shaped.body = transformed.payload;
    Ok(())
}

fn origin(text: &str) -> Option<url::Origin> {
    url::Url::parse(text).ok().map(|url| url.origin())
}

/// What receivers verify by, what belongs to one hop, and what the body decides.
fn is_ours(name: &HeaderName) -> bool {
    const NAMES: [&str; 14] = [
        "host",
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "user-agent",
    ];
    let name = name.as_str();
    NAMES.contains(&name) || name.starts_with("webhook-") || name.starts_with("svix-")
}

async fn write(format: Format, payload: Bytes) -> Result<(Bytes, &'static str), Unshaped> {
    let here = payload.len() <= WRITTEN_HERE_MAX;
    let work = move || format::write(format, &payload);
    let written = if here {
        work()
    } else {
        let elsewhere = tokio::task::spawn_blocking(work).await;
        elsewhere.map_err(|_| failed("the payload could not be written in the endpoint's format"))?
    };
    match written {
        Ok(Some((body, media_type))) => Ok((body.into(), media_type)),
        Ok(None) => Err(failed("the payload could not be written in the endpoint's format")),
        Err(error) => Err(failed(error.to_string())),
    }
}
