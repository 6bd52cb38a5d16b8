//! A request that can be changed bit by bit.

use bellwire_signature::source::{NoKeys, Proof, ReceivedRequest, Recipe, Refusal, Supplied, Verifier, preset};

/// A request with its recipe and all that belongs to it.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) recipe: Recipe,
    pub(crate) supplied: Supplied,
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) now_seconds: i64,
}

impl Case {
    pub(crate) fn new(name: &'static str, recipe: Recipe, secret: &str) -> Case {
        let supplied =
            Supplied { secrets: vec![secret.to_owned().into()], allow_short_secret: true, ..Supplied::default() };
        Case {
            name,
            recipe,
            supplied,
            method: "POST".to_owned(),
            url: "https://hooks.example.com/in/k3".to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            now_seconds: 1_700_000_000,
        }
    }

    pub(crate) fn preset(name: &'static str, secret: &str) -> Case {
        Case::new(name, preset(name).expect("a preset").recipe.clone(), secret)
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Case {
        self.headers.push((name.to_owned(), value.as_bytes().to_vec()));
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Case {
        self.body = body.as_ref().to_vec();
        self
    }

    pub(crate) fn url(mut self, url: &str) -> Case {
        self.url = url.to_owned();
        self
    }

    pub(crate) fn at(mut self, now_seconds: i64) -> Case {
        self.now_seconds = now_seconds;
        self
    }

    pub(crate) fn verifier(&self) -> Verifier {
        Verifier::new(&self.recipe, &self.supplied).unwrap_or_else(|faults| panic!("{}: {faults:?}", self.name))
    }

    pub(crate) fn verify(&self) -> Result<Proof, Refusal> {
        self.verify_with(&self.verifier())
    }

    pub(crate) fn verify_with(&self, verifier: &Verifier) -> Result<Proof, Refusal> {
        self.with_request(|request| verifier.verify(request, self.now_seconds, &NoKeys))
    }

    pub(crate) fn with_request<T>(&self, ask: impl FnOnce(&ReceivedRequest<'_>) -> T) -> T {
        let headers: Vec<(&str, &[u8])> =
            self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let (host, path_and_query) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path_and_query = if path_and_query.is_empty() { "/" } else { path_and_query };
        ask(&ReceivedRequest {
            method: &self.method,
            scheme,
            host,
            path_and_query,
            headers: &headers,
            body: &self.body,
            body_type: None,
        })
    }
}

/// One way without settings.
pub(crate) fn recipe(json: &str) -> Recipe {
    serde_json::from_str(&format!(r#"{{"verify":[{json}]}}"#)).expect("a recipe")
}
