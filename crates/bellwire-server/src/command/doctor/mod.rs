//! `bellwire doctor`: a receiver, examined as we would call it, with what to fix.
//!
//! It goes the way of a delivery: the address guard, DNS, TLS, one POST after the other, some of which a careful receiver must
//! refuse. Nothing but these requests is sent, and no server is needed.

mod examine;

use super::{Hint, input};
use anyhow::Context as _;
use bellwire_config::{Config, Place};
use bellwire_egress::{Egress, Target};
use bellwire_signature::Secret;
use examine::{Finding, Level, Patient};
use ipnet::IpNet;
use std::{fmt::Write as _, process::ExitCode};

/// Networks that are nobody's but one's own: this machine and those around it.
const PRIVATE: [&str; 6] = ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

/// Examine a receiver as deliveries would call it, and say what to fix.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire doctor https://example.com/webhooks --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n  bellwire doctor http://127.0.0.1:9000/hook --allow-private \\\n    --secret whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n\nIt sends about ten test messages of the type bellwire.doctor; without the endpoint's\nsecret, only such as must be refused. Exits 0 if nothing has to be fixed, 1 if\nsomething has."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// The receiver's URL
    #[arg(value_name = "URL")]
    url: String,
    /// What the receiver verifies with, whsec_… or whsk_…
    #[arg(long, value_name = "SECRET", value_parser = input::secret)]
    secret: Option<Secret>,
    /// Allow this machine and private networks
    #[arg(long)]
    allow_private: bool,
    /// Print one JSON object instead
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.place.clone())?;
    let mut settings = config.egress_settings();
    if arguments.allow_private {
        let networks = PRIVATE.iter().map(|text| text.parse::<IpNet>());
        settings.guard.allowed_networks.extend(networks.collect::<Result<Vec<_>, _>>()?);
        settings.guard.denied_ports.clear();
    }
    let target = Target::parse(&arguments.url).with_context(|| {
        Hint::new(
            format!("{} cannot be called", arguments.url),
            "a receiver's URL looks like https://example.com/webhooks",
        )
    })?;
    let findings = super::block_on(async {
        let client = Egress::new(settings)?.client()?;
        Patient::new(client, target, arguments.secret.clone(), &config)?.examine().await
    })?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&json(&arguments.url, &findings))?);
    } else {
        print!("{}", text(&findings));
    }
    Ok(if is_healthy(&findings) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_healthy(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Fail)
}

fn json(url: &str, findings: &[Finding]) -> serde_json::Value {
    let checks: Vec<_> = findings
        .iter()
        .map(|finding| {
            serde_json::json!({
                "check": finding.check, "result": finding.level.name(), "text": finding.text, "hint": finding.hint,
            })
        })
        .collect();
    // The query may hold a token of the receiver's.
    let url = url.split('?').next().unwrap_or_default();
    serde_json::json!({ "url": url, "healthy": is_healthy(findings), "checks": checks })
}

/// A line for each finding, and one for what to do about it.
fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    let printable = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
    for Finding { check, level, text: what, hint } in findings {
        let _ = writeln!(text, "{:<5} {check:<12} {}", level.name(), printable(what));
        if let Some(hint) = hint {
            let _ = writeln!(text, "{:<18} hint: {}", "", printable(hint));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let verdict = match (count(Level::Fail), count(Level::Warn)) {
        (0, 0) => "nothing to fix".to_owned(),
        (0, warnings) => format!("nothing that must be fixed, {warnings} that could be better"),
        (failures, warnings) => format!("{failures} to fix, {warnings} that could be better"),
    };
    let _ = writeln!(text, "{verdict}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_stand_on_lines_and_escape_codes_do_not_pass() {
        let finding = |level, text: &str, hint: Option<&str>| Finding {
            check: "tls",
            level,
            text: text.to_owned(),
            hint: hint.map(str::to_owned),
        };
        let findings =
            [finding(Level::Ok, "TLS 1.3\u{1b}[31m", None), finding(Level::Warn, "it ends soon", Some("renew it"))];
        assert_eq!(
            text(&findings),
            "ok    tls          TLS 1.3[31m\nwarn  tls          it ends soon\n                   hint: renew it\n\
             nothing that must be fixed, 1 that could be better\n"
        );
        assert!(is_healthy(&findings));
        assert!(!is_healthy(&[finding(Level::Fail, "", None)]));
    }
}
