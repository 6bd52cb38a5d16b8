//! `[traces]`: where traces of messages are sent, and how many of them.

use super::{
    layers::Layers,
    value::{Expected, Read, Value, list, optional, words},
};
use http::{HeaderName, HeaderValue};

/// See `config.default.toml`.
#[derive(Clone, Debug)]
pub struct Traces {
    /// With the path; `None`: nothing is traced.
    pub endpoint: Option<url::Url>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub sampled_ratio: f64,
    pub service_name: String,
}

impl Traces {
    pub(super) fn read(layers: &Layers) -> Traces {
        Traces::read_as(layers, cfg!(feature = "otel"))
    }

    /// As a program reads them that can send traces, or cannot.
    fn read_as(layers: &Layers, can_be_sent: bool) -> Traces {
        let traces = Traces {
            endpoint: layers.take("traces.endpoint", optional("none", endpoint)),
            headers: layers.take("traces.headers", list(header)),
            sampled_ratio: layers.take("traces.sampled_ratio", ratio),
            service_name: layers.take("traces.service_name", words),
        };
        if traces.endpoint.is_some() && !can_be_sent {
            let hint = "this program cannot send traces; build it with `cargo build --release --features otel`";
            layers.refuse("traces.endpoint", hint.into());
        }
        traces
    }
}

/// The URL of the collector, made one of its traces.
fn endpoint(value: &Value) -> Read<url::Url> {
    let expected = || Expected("a URL such as \"http://localhost:4318\", without query and fragment".into());
    let mut url = url::Url::parse(&words(value)?).map_err(|_| expected())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
    if !fits || url.host().is_none() {
        return Err(expected());
    }
    if !url.path().ends_with("/v1/traces") {
        url.path_segments_mut().map_err(|()| expected())?.pop_if_empty().extend(["v1", "traces"]);
    }
    Ok(url)
}

/// Holds a secret, most often: what is said of it never repeats it.
fn header(value: &Value) -> Read<(HeaderName, HeaderValue)> {
    let expected = || Expected("a header such as \"Authorization: Bearer 12345\"".into());
    let text = words(value)?;
    let (name, value) = text.split_once(':').ok_or_else(expected)?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| expected())?;
    let mut value = HeaderValue::try_from(value.trim()).map_err(|_| expected())?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn ratio(value: &Value) -> Read<f64> {
    match words(value)?.parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(Expected("a number from 0 to 1".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn the_path_is_added_once() {
        let check = |given: &str, expected: &str| assert_eq!(endpoint(&text(given)).expect("a URL").as_str(), expected);
        check("http://localhost:4318", "http://localhost:4318/v1/traces");
        check("http://localhost:4318/", "http://localhost:4318/v1/traces");
        check("https://otlp.example.com/gateway", "https://otlp.example.com/gateway/v1/traces");
        check("https://otlp.example.com/v1/traces", "https://otlp.example.com/v1/traces");
        for wrong in ["", "localhost:4318", "grpc://localhost:4317", "http://localhost:4318/?a=b"] {
            assert!(endpoint(&text(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ratios_and_headers_are_checked_and_headers_not_repeated() {
        assert_eq!(ratio(&Value::Float(0.25)), Ok(0.25));
        assert_eq!(ratio(&Value::Integer(1)), Ok(1.0));
        assert!(ratio(&text("1.5")).is_err() && ratio(&text("nan")).is_err());
        let (name, value) = header(&text("x-team: hunter2")).expect("a header");
        assert_eq!((name.as_str(), value.as_bytes(), value.is_sensitive()), ("x-team", &b"hunter2"[..], true));
        let Err(Expected(what)) = header(&text("hunter2")) else { panic!("it has no name") };
        assert!(!what.contains("hunter2"));
    }

    #[test]
    fn a_program_that_cannot_send_traces_says_how_to_build_one_that_can() {
        let layers = |given: Option<&str>| {
            let mut layers = Layers::defaults();
            layers.add_flag("--traces", "traces.endpoint", given.map(text));
            layers
        };
        for (given, can_be_sent, fits) in [
            (None, false, true),
            (Some("http://localhost:4318"), true, true),
            (Some("http://localhost:4318"), false, false),
        ] {
            let layers = layers(given);
            Traces::read_as(&layers, can_be_sent);
            let told = layers.finish(|_| ()).err().map(|mistakes| mistakes.to_string());
            assert_eq!(told.is_none(), fits, "{given:?}");
            assert!(told.is_none_or(|told| told.contains("--features otel")));
        }
    }
}
