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
        let rest = self.url.split_once("://").map_or("", |(_, rest)| rest);
        let path_and_query = rest.find('/').map_or("/", |at| &rest[at..]);
        ask(&ReceivedRequest {
            method: &self.method,
            url: &self.url,
            path_and_query,
            headers: &headers,
            body: &self.body,
            body_type: None,
        })
    }

    /// It verifies; and with any one bit of body, signature, key or time changed, it does not.
    #[track_caller]
    pub(crate) fn check(&self, signature: &str, time: Option<&str>) {
        let proof = self.verify();
        assert!(proof.is_ok(), "{}: {proof:?}", self.name);
        self.check_body(0..self.body.len());
        self.check_header(signature);
        if let Some(time) = time {
            self.check_header(time);
            for now_seconds in [self.now_seconds - 90_000, self.now_seconds + 90_000] {
                let verdict = Case { now_seconds, ..self.clone() }.verify();
                let is_time = matches!(verdict, Err(Refusal::TooOld { .. } | Refusal::TooNew { .. }));
                assert!(is_time, "{}: {verdict:?}", self.name);
            }
        }
        self.check_key();
        self.check_form(signature);
    }

    /// Every bit of these bytes of the body counts.
    #[track_caller]
    pub(crate) fn check_body(&self, bytes: std::ops::Range<usize>) {
        let verifier = self.verifier();
        for bit in bytes.start * 8..bytes.end * 8 {
            let mut changed = self.clone();
            changed.body[bit / 8] ^= 1 << (bit % 8);
            assert!(changed.verify_with(&verifier).is_err(), "{}: bit {bit} of the body", self.name);
        }
    }

    /// Every bit of a header counts, but for the case of hexadecimal digits and of an authentication scheme.
    #[track_caller]
    pub(crate) fn check_header(&self, name: &str) {
        let verifier = self.verifier();
        let at = self.headers.iter().position(|(other, _)| other == name).expect(name);
        let value = self.headers[at].1.clone();
        for bit in 0..value.len() * 8 {
            let mut changed = self.clone();
            changed.headers[at].1[bit / 8] ^= 1 << (bit % 8);
            if changed.verify_with(&verifier).is_ok() {
                let now = &changed.headers[at].1;
                let is_case = now.eq_ignore_ascii_case(&value) && now[bit / 8].is_ascii_hexdigit();
                assert!(is_case, "{}: bit {bit} of {name}: {}", self.name, String::from_utf8_lossy(now));
            }
        }
    }

    #[track_caller]
    pub(crate) fn check_key(&self) {
        let key = self.supplied.secrets[0].clone();
        let mut changed = self.clone();
        for bit in 0..key.len() * 8 {
            let mut bytes = key.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(text) = String::from_utf8(bytes) else { continue };
            changed.supplied.secrets[0] = text.clone().into();
            let Ok(verifier) = Verifier::new(&changed.recipe, &changed.supplied) else { continue };
            let is_same = text.eq_ignore_ascii_case(&key) && key.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(changed.verify_with(&verifier).is_err() || is_same, "{}: bit {bit} of the key", self.name);
        }
        // Among several secrets one is enough, wherever it stands.
        changed.supplied.secrets = [vec![key.clone()], self.supplied.secrets.clone(), vec![key]].concat();
        assert!(changed.verify().is_ok(), "{}", self.name);
    }

    /// The signature missing, twice, cut short, made longer, or far too long.
    #[track_caller]
    fn check_form(&self, name: &str) {
        let verifier = self.verifier();
        let at = self.headers.iter().position(|(other, _)| other == name).expect(name);
        let value = self.headers[at].1.clone();
        let with = |values: &[Vec<u8>]| {
            let mut changed = self.clone();
            changed.headers.remove(at);
            changed.headers.extend(values.iter().map(|value| (name.to_ascii_uppercase(), value.clone())));
            changed.verify_with(&verifier)
        };
        assert!(matches!(with(&[]), Err(Refusal::Missing { .. })), "{}", self.name);
        assert!(with(std::slice::from_ref(&value)).is_ok(), "{}", self.name);
        assert!(with(&[value.clone(), value.clone()]).is_ok(), "{}", self.name);
        let mut other = value.clone();
        *other.last_mut().expect("a value") ^= 1;
        assert!(with(&[value.clone(), other.clone()]).is_err(), "{}", self.name);
        assert!(with(&[other, value.clone()]).is_err(), "{}", self.name);
        let mut longer = value.clone();
        longer.extend_from_slice(b"00");
        assert!(with(&[longer]).is_err(), "{}", self.name);
        assert!(with(&[value.repeat(1000)]).is_err(), "{}", self.name);
        for length in 0..value.len() {
            let cut = &value[..length];
            // Padding is no part of what base64 says.
            if !value[length..].iter().all(|byte| b"=:".contains(byte)) {
                assert!(with(&[cut.to_vec()]).is_err(), "{}: {}", self.name, String::from_utf8_lossy(cut));
            }
        }
    }
}

/// One way without settings.
pub(crate) fn recipe(json: &str) -> Recipe {
    serde_json::from_str(&format!(r#"{{"verify":[{json}]}}"#)).expect("a recipe")
}
