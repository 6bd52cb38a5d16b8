//! `bellwire verify`: whether a webhook that arrived somewhere is genuine, and if not, why.

use super::{Hint, input};
use anyhow::Context as _;
use bellwire_config as config;
use bellwire_node::clock;
use bellwire_signature::{SignedHeaders, TOLERANCE_DEFAULT, VerifyError, VerifyKey, verify};
use std::{process::ExitCode, time::Duration};

/// Verify a payload against its headers. Exits 0 if it is genuine, 1 if not.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire verify --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw \\\n    -H @headers payload.json\n  bellwire verify --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw \\\n    --tolerance never -H 'webhook-id: msg_1' -H 'webhook-timestamp: 1614265330' \\\n    -H 'webhook-signature: v1,…' payload.json\n\nHeaders go by both of their names, webhook-* and svix-*; others are passed over."
)]
pub(crate) struct Arguments {
    /// whsec_…, whsk_… or whpk_…; repeat it if there are several
    #[arg(long, required = true, value_name = "SECRET", value_parser = input::verify_key)]
    secret: Vec<VerifyKey>,
    /// A header as it came, "name: value", or @FILE with one on each line; repeat it
    #[arg(long, short = 'H', required = true, value_name = "HEADER")]
    header: Vec<String>,
    /// How old it may be, such as 5m; never: any age will do [default: 5m]
    #[arg(long, value_name = "DURATION", value_parser = tolerance)]
    tolerance: Option<Duration>,
    /// Print one JSON object instead: verified, and the reason if not
    #[arg(long)]
    json: bool,
    /// The payload as it came, byte for byte; - is standard input
    #[arg(default_value = "-", value_name = "FILE")]
    file: String,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut lines = String::new();
    for header in &arguments.header {
        let text = String::from_utf8(input::text_or_file(header)?).context("headers must be UTF-8")?;
        lines.push_str(&text);
        lines.push('\n');
    }
    let payload = input::file(&arguments.file)?;
    let tolerance = arguments.tolerance.unwrap_or(TOLERANCE_DEFAULT);
    let result = check(&arguments.secret, &lines, &payload, clock::wall().as_seconds(), tolerance);
    if arguments.json {
        let reason = result.as_ref().err().map(ToString::to_string);
        println!("{}", serde_json::json!({ "verified": result.is_ok(), "reason": reason }));
        return Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    result?;
    println!("verified");
    Ok(ExitCode::SUCCESS)
}

fn check(keys: &[VerifyKey], lines: &str, payload: &[u8], now: i64, tolerance: Duration) -> anyhow::Result<()> {
    let headers = SignedHeaders {
        id: find(lines, "id")?,
        timestamp: find(lines, "timestamp")?,
        signature: find(lines, "signature")?,
    };
    verify(keys, &headers, payload, now, tolerance).map_err(|error| match error {
        VerifyError::TooOld { .. } => {
            Hint::new(error.to_string(), "--tolerance never looks at the signature only").into()
        }
        VerifyError::Mismatch => Hint::new(
            error.to_string(),
            "the payload must be the exact bytes that came: parsing it and writing it again changes them",
        )
        .into(),
        other => other.into(),
    })
}

/// The value of `webhook-{name}`, or of `svix-{name}`.
fn find<'a>(lines: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let wanted = [format!("webhook-{name}"), format!("svix-{name}")];
    let headers = || lines.lines().filter_map(|line| line.split_once(':'));
    wanted
        .iter()
        .find_map(|wanted| headers().find(|(found, _)| found.trim().eq_ignore_ascii_case(wanted)))
        .map(|(_, value)| value.trim())
        .with_context(|| format!("there is no header {}", wanted[0]))
}

/// Any age: further away than any clock can be.
fn tolerance(text: &str) -> Result<Duration, String> {
    match text {
        "never" => Ok(Duration::MAX),
        text => config::parse_duration(text).ok_or_else(|| "expected a duration such as 5m, or never".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::sign::headers;
    use bellwire_signature::Secret;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OTHER: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

    fn signed(separator: &str) -> String {
        let secret = Secret::parse(SECRET).expect("a secret");
        let headers = headers(&[secret], "msg_1", 1_614_265_330, b"{\"test\": 2432232314}").expect("signed");
        headers.iter().map(|(name, value)| format!("{name}{separator}{value}\r\n")).collect()
    }

    #[test]
    fn what_sign_prints_verify_takes() {
        let keys = [VerifyKey::parse(SECRET).expect("a key")];
        let check = |lines: &str, payload: &[u8], now| check(&keys, lines, payload, now, TOLERANCE_DEFAULT);
        let payload = b"{\"test\": 2432232314}";
        assert!(check(&signed(": "), payload, 1_614_265_331).is_ok());
        assert!(check(&signed(":").replace("webhook-", "Svix-"), payload, 1_614_265_331).is_ok());
        for (lines, payload, now, says) in [
            (signed(": "), b"{}".as_slice(), 1_614_265_331, "none of the webhook's signatures"),
            (signed(": "), payload.as_slice(), 1_614_266_331, "in the past"),
            (signed(": ").replace("webhook-id", "id"), payload.as_slice(), 1_614_265_331, "no header webhook-id"),
        ] {
            let error = check(&lines, payload, now).expect_err("refused");
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn the_wrong_secret_and_any_age() {
        let keys = [VerifyKey::parse(OTHER).expect("a key")];
        let lines = signed(": ");
        assert!(check(&keys, &lines, b"{\"test\": 2432232314}", 1_614_265_331, TOLERANCE_DEFAULT).is_err());
        let keys = [VerifyKey::parse(SECRET).expect("a key")];
        let never = tolerance("never").expect("a tolerance");
        assert!(check(&keys, &lines, b"{\"test\": 2432232314}", 1_900_000_000, never).is_ok());
        assert!(tolerance("soon").is_err());
    }
}
