//! Access tokens, by the client credentials grant (RFC 6749 §4.4) or by a refresh token (§6), one source for each endpoint that asks for
//! them.
//!
//! A token is kept until it expires and asked for again a while before that. There is one request to the token endpoint
//! at a time for each endpoint: whoever finds no token waits for the one that is being fetched and shares its fate.
//! The request goes through the same guard, deadline and caps as any attempt. When the endpoint answers 401 the token is
//! thrown away, but not more often than once in [`REFUSAL_PAUSE`]: one that is refused however fresh must not turn every
//! attempt into two.
//!
//! A token endpoint may give another refresh token with each access token, and refuse the one before from then on. Nothing can make that one
//! step with our own commit, so: the new one is durable ([`Keep`]) before the access token that came with it is used; the one before stays
//! until the new one was seen to work, and is tried when the token endpoint knows nothing of the new one (`invalid_grant`), as one does that
//! failed after it had answered. What remains is an answer that never reaches us, or a crash before it is durable, with a token endpoint that takes
//! each refresh token only once: then somebody must give us the right anew.

use crate::access::{basic, bearer};
use crate::push::{PREPARED_MAX, PushSettings};
use bellwire_egress::{Client, Request, Target};
use bellwire_model::{
    AssertionAlgorithm, ClientAssertion, ClientAuthentication, EndpointKey, Oauth, OauthGrant, RefreshToken,
    SecretText, Timestamp,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// A token whose end is not told is taken to be good for this long.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(3600);
/// No token is kept longer, whatever is told.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// A token is asked for again when a fifth of its life is left, and no earlier than this before its end.
const AHEAD_MAX: Duration = Duration::from_secs(300);
/// After a token could not be renewed ahead of time, the next try.
const AHEAD_PAUSE: Duration = Duration::from_secs(10);
/// Between two tokens that are thrown away because the endpoint answered 401.
const REFUSAL_PAUSE: Duration = Duration::from_secs(60);
/// A token endpoint's answer is not read further.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// A longer token would not pass most servers' limits on headers.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// RFC 7523 §2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What has become of an endpoint's refresh token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefreshedToken {
    /// Whose OAuth it belongs to.
    pub endpoint: EndpointKey,
    /// As it is known: what is to be replaced, unless somebody has changed it meanwhile.
    pub known: RefreshToken,
    /// In its place.
    pub now: RefreshToken,
}

/// Keeps a refresh token; answers when it is durable, or why it cannot be.
pub type Keep = Rc<dyn Fn(RefreshedToken) -> Pin<Box<dyn Future<Output = Result<(), String>>>>>;

/// The sources of one thread's endpoints.
#[derive(Default)]
pub(crate) struct Tokens {
    sources: RefCell<HashMap<EndpointKey, Rc<TokenSource>>>,
    keep: Option<Keep>,
}

/// Where one endpoint's tokens come from.
pub(crate) struct TokenSource {
    endpoint: EndpointKey,
    oauth: Arc<Oauth>,
    keep: Option<Keep>,
    state: RefCell<State>,
    /// Held by whoever asks the token endpoint.
    asking: Mutex<()>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// Requests to the token endpoint that have ended.
    asked: u64,
    /// Why the last one of them brought nothing.
    failure: Option<String>,
    /// When a token was last thrown away because of a 401.
    refused_at: Option<Timestamp>,
    /// The refresh token as it is now, if that is not what the configuration began with.
    refresh: Option<RefreshToken>,
    /// An access token that is not used before the refresh token that came with it is kept.
    unkept: Option<(Token, Option<RefreshedToken>)>,
}

#[derive(Clone)]
struct Token {
    authorization: HeaderValue,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

impl Tokens {
    /// The endpoint's source; what it knows is kept across changes of the endpoint that do not touch its OAuth.
    pub(crate) fn source(&self, endpoint: EndpointKey, oauth: &Arc<Oauth>) -> Rc<TokenSource> {
        let mut all = self.sources.borrow_mut();
        if let Some(found) = all.get(&endpoint)
            && found.is_of(oauth)
        {
            return Rc::clone(found);
        }
        if all.len() >= PREPARED_MAX {
            all.retain(|_, source| source.state.borrow().unkept.is_some());
        }
        let source = Rc::new(TokenSource {
            endpoint,
            oauth: Arc::clone(oauth),
            keep: self.keep.clone(),
            state: RefCell::default(),
            asking: Mutex::const_new(()),
        });
        all.insert(endpoint, Rc::clone(&source));
        source
    }

    pub(crate) fn forget(&self, endpoint: EndpointKey) {
        self.sources.borrow_mut().remove(&endpoint);
    }

    /// Has refresh tokens kept by `keep` from now on.
    pub(crate) fn keep_by(&mut self, keep: Keep) {
        self.keep = Some(keep);
    }
}

impl TokenSource {
    /// Whether it was made from this configuration, or from one that differs only in a refresh token that came from here.
    fn is_of(&self, oauth: &Oauth) -> bool {
        if *self.oauth == *oauth {
            return true;
        }
        let state = self.state.borrow();
        let unkept = state.unkept.as_ref().and_then(|(_, refreshed)| Some(&refreshed.as_ref()?.known));
        state.refresh.iter().chain(unkept).any(|own| {
            let grant = OauthGrant::RefreshToken(own.clone());
            Oauth { grant, ..Oauth::clone(&self.oauth) } == *oauth
        })
    }

    /// The `authorization` of an attempt at `wall`; ends within the timeout of an attempt.
    ///
    /// # Errors
    /// Why there is none, for the endpoint's owner.
    pub(crate) async fn token(
        &self,
        client: &Client,
        settings: &PushSettings,
        wall: Timestamp,
    ) -> Result<HeaderValue, String> {
        let (known, asked) = {
            let state = self.state.borrow();
            let known = state.usable(wall).map(|token| (token.authorization.clone(), wall < token.renew_at));
            (known, state.asked)
        };
        match known {
            Some((authorization, true)) => Ok(authorization),
            // Whoever comes first renews it; for all others, and if that fails, the old one is still good.
            Some((authorization, false)) => match self.asking.try_lock() {
                Ok(_asking) => {
                    let renewed = self.ask(client, settings, settings.timeout / 3, wall).await;
                    Ok(renewed.unwrap_or(authorization))
                }
                Err(_) => Ok(authorization),
            },
            None => {
                let first = async {
                    let _asking = self.asking.lock().await;
                    if let Some(answer) = self.state.borrow().answer_since(asked, wall) {
                        return answer;
                    }
                    self.ask(client, settings, settings.timeout, wall).await
                };
                let late = || Err("no access token: the token endpoint did not answer in time".to_owned());
                tokio::time::timeout(settings.timeout, first).await.unwrap_or_else(|_| late())
            }
        }
    }

    /// The endpoint answered 401 to this `authorization`.
    pub(crate) fn refused(&self, authorization: &HeaderValue, wall: Timestamp) {
        let mut state = self.state.borrow_mut();
        let is_current = state.token.as_ref().is_some_and(|token| token.authorization == authorization);
        if is_current && state.refused_at.is_none_or(|before| wall.since(before) >= REFUSAL_PAUSE) {
            tracing::debug!("an endpoint refused its access token; the next attempt asks for another");
            state.token = None;
            state.refused_at = Some(wall);
        }
    }

    async fn ask(
        &self,
        client: &Client,
        settings: &PushSettings,
        deadline: Duration,
        wall: Timestamp,
    ) -> Result<HeaderValue, String> {
        let answer = self.renew(client, settings, deadline, wall).await;
        let mut state = self.state.borrow_mut();
        state.asked += 1;
        match answer {
            Ok(token) => {
                let authorization = token.authorization.clone();
                state.token = Some(token);
                state.failure = None;
                Ok(authorization)
            }
            Err(text) => {
                if let Some(token) = &mut state.token {
                    token.renew_at = wall.plus(AHEAD_PAUSE).min(token.expires_at);
                }
                let text = format!("no access token: {text}");
                state.failure = Some(text.clone());
                Err(text)
            }
        }
    }

    /// A new access token; the refresh token that came with it is kept.
    async fn renew(
        &self,
        client: &Client,
        settings: &PushSettings,
        deadline: Duration,
        wall: Timestamp,
    ) -> Result<Token, String> {
        // What could not be kept the last time comes first: the token endpoint does not give it again.
        if let Some(token) = self.keep_unkept().await?
            && wall < token.expires_at
        {
            return Ok(token);
        }
        let (granted, used) = self.granted(client, settings, deadline, wall).await?;
        self.take(granted, used, wall);
        self.keep_unkept().await?.ok_or_else(|| "it was given to somebody else".to_owned())
    }

    /// Asks the token endpoint; answers also by which refresh token.
    async fn granted(
        &self,
        client: &Client,
        settings: &PushSettings,
        deadline: Duration,
        wall: Timestamp,
    ) -> Result<(Granted, Option<SecretText>), String> {
        let (newest, before) = match self.refresh_token() {
            Some(RefreshToken { token, before }) => (Some(token), before),
            None => (None, None),
        };
        let exchange = async |refresh: Option<&SecretText>| {
            let request = self.request(settings, deadline, wall, refresh)?;
            match client.exchange(request).await {
                Ok(response) => token_of(response.status, response.truncated, &response.body),
                Err(error) => Err(format!("the token endpoint cannot be asked: {}", error.customer_text()).into()),
            }
        };
        match (exchange(newest.as_ref()).await, before) {
            (Ok(granted), _) => Ok((granted, newest)),
            (Err(NoToken { invalid_grant: true, text }), Some(before)) => {
                self.state.borrow_mut().asked += 1;
                // If it does not know that one either, what it said of the newest is what counts.
                exchange(Some(&before)).await.map(|granted| (granted, Some(before))).map_err(|_| text)
            }
            (Err(NoToken { text, .. }), _) => Err(text),
        }
    }

    /// The refresh token as it is now, if this grant has one.
    fn refresh_token(&self) -> Option<RefreshToken> {
        let OauthGrant::RefreshToken(first) = &self.oauth.grant else { return None };
        Some(self.state.borrow().refresh.as_ref().unwrap_or(first).clone())
    }

    /// Takes what the token endpoint gave for the refresh token `used`, which has been seen to work by that.
    fn take(&self, granted: Granted, used: Option<SecretText>, wall: Timestamp) {
        let Granted { authorization, lifetime, refresh_token } = granted;
        let ahead = (lifetime / 5).min(AHEAD_MAX);
        let token = Token {
            authorization,
            renew_at: wall.plus(lifetime.saturating_sub(ahead)),
            expires_at: wall.plus(lifetime),
        };
        let refreshed = self.refresh_token().zip(used).and_then(|(known, used)| {
            let now = match refresh_token {
                Some(token) if token != used => RefreshToken { token, before: Some(used) },
                _ => RefreshToken::new(used),
            };
            (now != known).then_some(RefreshedToken { endpoint: self.endpoint, known, now })
        });
        let mut state = self.state.borrow_mut();
        if let Some(refreshed) = &refreshed {
            state.refresh = Some(refreshed.now.clone());
        }
        state.unkept = Some((token, refreshed));
    }

    /// Has the refresh token kept that came with the last access token; answers that one, if there is one.
    async fn keep_unkept(&self) -> Result<Option<Token>, String> {
        let refreshed = self.state.borrow().unkept.as_ref().and_then(|(_, refreshed)| refreshed.clone());
        if let (Some(refreshed), Some(keep)) = (refreshed, &self.keep) {
            keep(refreshed).await.map_err(|why| format!("the new refresh token cannot be kept: {why}"))?;
        }
        Ok(self.state.borrow_mut().unkept.take().map(|(token, _)| token))
    }

    /// RFC 6749 §4.4.2, §6 and §2.3.1; RFC 7523 §2.2.
    fn request(
        &self,
        settings: &PushSettings,
        deadline: Duration,
        wall: Timestamp,
        refresh: Option<&SecretText>,
    ) -> Result<Request, String> {
        let oauth = &*self.oauth;
        let target = Target::parse(&oauth.token_url).map_err(|e| format!("the token URL cannot be called: {e}"))?;
        let mut form = form_urlencoded::Serializer::new(String::new());
        match refresh {
            None => drop(form.append_pair("grant_type", "client_credentials")),
            Some(token) => {
                form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", token.reveal());
            }
        }
        if !oauth.scopes.is_empty() {
            form.append_pair("scope", &oauth.scopes.join(" "));
        }
        for (name, value) in &oauth.parameters {
            form.append_pair(name, value.reveal());
        }
        let mut headers = HeaderMap::new();
        for (name, value) in &oauth.headers {
            let name = HeaderName::try_from(name).map_err(|_| format!("header {name:?} cannot be sent"))?;
            let mut value = HeaderValue::try_from(value.reveal())
                .map_err(|_| format!("the value of header {name} cannot be sent"))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, settings.user_agent.clone());
        match &oauth.method {
            ClientAuthentication::Basic(secret) => {
                let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let secret = SecretText::new(encoded(secret.reveal()));
                headers.insert(header::AUTHORIZATION, basic(&encoded(&oauth.client_id), &secret)?);
            }
            ClientAuthentication::Post(secret) => {
                form.append_pair("client_id", &oauth.client_id);
                form.append_pair("client_secret", secret.reveal());
            }
            ClientAuthentication::Jwt(assertion) => {
                form.append_pair("client_id", &oauth.client_id);
                form.append_pair("client_assertion_type", ASSERTION_TYPE);
                form.append_pair("client_assertion", &signed(oauth, assertion, wall, self.state.borrow().asked)?);
            }
        }
        Ok(Request {
            method: Method::POST,
            target,
            headers,
            body: Bytes::from(form.finish()),
            deadline,
            response_body_max: ANSWER_BYTES_MAX,
        })
    }
}

impl State {
    fn usable(&self, wall: Timestamp) -> Option<&Token> {
        self.token.as_ref().filter(|token| wall < token.expires_at)
    }

    /// What a request brought that ended after `asked` had.
    fn answer_since(&self, asked: u64, wall: Timestamp) -> Option<Result<HeaderValue, String>> {
        if self.asked == asked {
            return None;
        }
        match (self.usable(wall), &self.failure) {
            (Some(token), _) => Some(Ok(token.authorization.clone())),
            (None, Some(text)) => Some(Err(text.clone())),
            (None, None) => None,
        }
    }
}

/// RFC 7523 §3.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    iat: i64,
    exp: i64,
    /// Never the same twice for one client: the time, and which request of this process it is.
    jti: String,
}

/// The JWT by which a client proves who it is.
fn signed(oauth: &Oauth, assertion: &ClientAssertion, wall: Timestamp, asked: u64) -> Result<String, String> {
    let unusable = |what: &str| format!("the key for client assertions cannot be used: {what}");
    let (algorithm, key) = match assertion.algorithm {
        AssertionAlgorithm::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(assertion.key.reveal().as_bytes())),
        AssertionAlgorithm::Hs256 => (Algorithm::HS256, EncodingKey::from_base64_secret(assertion.key.reveal())),
    };
    let key = key.map_err(|_| unusable("it is not one of its algorithm"))?;
    let seconds = wall.as_seconds();
    let claims = Claims {
        iss: &oauth.client_id,
        sub: &oauth.client_id,
        aud: &oauth.token_url,
        iat: seconds,
        exp: seconds.saturating_add(i64::from(assertion.lifetime_seconds)),
        jti: format!("{:x}-{asked:x}", wall.as_micros()),
    };
    let header = Header { kid: assertion.key_id.clone(), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, &claims, &key).map_err(|_| unusable("nothing can be signed with it"))
}

/// Why a token endpoint has given nothing.
#[derive(Debug)]
struct NoToken {
    /// It says that it does not know the refresh token, or not any more.
    invalid_grant: bool,
    text: String,
}

impl From<String> for NoToken {
    fn from(text: String) -> Self {
        NoToken { invalid_grant: false, text }
    }
}

/// What a token endpoint has given.
#[derive(Debug)]
struct Granted {
    authorization: HeaderValue,
    lifetime: Duration,
    refresh_token: Option<SecretText>,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    refresh_token: Option<String>,
    token_type: Option<String>,
    /// A number; some servers write it as text.
    expires_in: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Reads the token endpoint's answer. What it says is repeated only as far as it is a code of RFC 6749 §5.2.
fn token_of(status: u16, truncated: bool, body: &[u8]) -> Result<Granted, NoToken> {
    if !(200..300).contains(&status) {
        let code = serde_json::from_slice::<Refusal>(body).ok().map(|refusal| refusal.error);
        let is_code = |code: &String| code.len() <= 64 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let invalid_grant = code.as_deref() == Some("invalid_grant");
        let text = match (code.filter(is_code), status) {
            (Some(code), _) => format!("the token endpoint answered {status} ({code})"),
            (None, 300..400) => format!("the token endpoint answered {status}; redirects are not followed"),
            (None, _) => format!("the token endpoint answered {status}"),
        };
        return Err(NoToken { invalid_grant, text });
    }
    if truncated {
        return Err(format!("the token endpoint's answer is larger than {ANSWER_BYTES_MAX} bytes").into());
    }
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| "the token endpoint's answer is not a JSON object with access_token".to_owned())?;
    if answer.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("the token endpoint gave a token that is not of type Bearer".to_owned().into());
    }
    let is_token =
        |text: &str| (1..=TOKEN_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_token(&answer.access_token) {
        return Err("the token endpoint gave a token that cannot be sent in a header".to_owned().into());
    }
    let seconds = match answer.expires_in {
        Some(serde_json::Value::Number(number)) => number.as_f64(),
        Some(serde_json::Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    let lifetime = seconds
        .filter(|seconds: &f64| seconds.is_finite() && *seconds >= 0.0)
        .map_or(LIFETIME_DEFAULT, |seconds| Duration::from_secs_f64(seconds.min(LIFETIME_MAX.as_secs_f64())));
    let refresh_token = answer.refresh_token.filter(|token| (1..=TOKEN_BYTES_MAX).contains(&token.len()));
    let refresh_token = refresh_token.map(SecretText::new);
    Ok(Granted { authorization: bearer(&answer.access_token)?, lifetime, refresh_token })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_standard_has_them() {
        let check = |status, body: &str, expected: Result<(&str, u64), &str>| {
            let got = token_of(status, false, body.as_bytes());
            let got = got.as_ref().map(|got| (got.authorization.to_str().expect("text"), got.lifetime.as_secs()));
            assert_eq!(got.map_err(|no| no.text.as_str()), expected, "{body}");
        };
        check(200, r#"{"access_token":"a.b","token_type":"bearer","expires_in":60}"#, Ok(("Bearer a.b", 60)));
        check(200, r#"{"access_token":"a","expires_in":"60"}"#, Ok(("Bearer a", 60)));
        check(200, r#"{"access_token":"a","expires_in":1e99,"more":[1]}"#, Ok(("Bearer a", 86_400)));
        for nonsense in ["-1", "null", "{}", r#""soon""#] {
            check(200, &format!(r#"{{"access_token":"a","expires_in":{nonsense}}}"#), Ok(("Bearer a", 3_600)));
        }
        check(
            201,
            r#"{"access_token":"a","token_type":"mac"}"#,
            Err("the token endpoint gave a token that is not of type Bearer"),
        );
        for bad in ["", "a b", "é", "a\\r\\nx: y"] {
            let body = format!(r#"{{"access_token":"{bad}"}}"#);
            check(200, &body, Err("the token endpoint gave a token that cannot be sent in a header"));
        }
        let no_object = Err("the token endpoint's answer is not a JSON object with access_token");
        for body in ["", "<html>", "[]", r#"{"access_token":5}"#, r#"{"error":"x"}"#] {
            check(200, body, no_object);
        }
        check(400, r#"{"error":"invalid_client"}"#, Err("the token endpoint answered 400 (invalid_client)"));
        check(400, r#"{"error":"<script>"}"#, Err("the token endpoint answered 400"));
        check(302, "", Err("the token endpoint answered 302; redirects are not followed"));
        assert!(token_of(200, true, b"{}").expect_err("too large").text.contains("larger than 65536 bytes"));
    }
}
