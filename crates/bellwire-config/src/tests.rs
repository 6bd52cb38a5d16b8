//! The rules of all layers together.

use super::*;
use std::time::Duration;

fn read(environment: &[(&str, &str)]) -> Result<Config, Mistakes> {
    read_with(&Sources::default(), environment)
}

fn read_with(flags: &Sources, environment: &[(&str, &str)]) -> Result<Config, Mistakes> {
    Config::read(flags, environment.iter().map(|(name, value)| (name.into(), value.into())))
}

fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bellwire.toml");
    std::fs::write(&path, text).expect("written");
    (folder, Place { config: Some(path), data: None }.into())
}

fn mistakes(result: Result<Config, Mistakes>) -> Vec<String> {
    result.expect_err("mistakes").0.iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_are_what_we_document() {
    let config = read(&[]).expect("the defaults are right");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8071");
    assert_eq!(config.server.data, Path::new("bellwire-data"));
    assert_eq!(config.server.shutdown_deadline, Duration::from_secs(20));
    assert_eq!(config.delivery.timeout, Duration::from_secs(15));
    assert_eq!(config.delivery.headers, HeaderNames::Both);
    assert_eq!(config.store.retention, Duration::from_secs(90 * 86_400));
    assert!(config.egress.allow.is_empty());
    assert!(config.auth.jwt_secret.is_none());
    assert_eq!(config.notes, [""; 0]);
    assert!(config.server.shards() >= 1);
}

#[test]
fn the_defaults_are_those_of_the_crates_that_use_them() {
    let config = read(&[]).expect("the defaults are right");
    assert_eq!(format!("{:?}", config.engine_settings()), format!("{:?}", EngineSettings::default()));
    assert_eq!(format!("{:?}", config.egress_settings()), format!("{:?}", bellwire_egress::Settings::default()));
}

/// Each default, written as a file of the user's and as a variable, is read from there.
#[test]
fn every_setting_is_read_and_documented() {
    let names: Vec<String> = Layers::defaults().names().map(str::to_owned).collect();
    let lines: Vec<&str> = layers::DEFAULTS.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(lines[i - 1].starts_with("# "), "{line} has a comment above it");
        }
    }
    for name in &names {
        let (section, key) = name.split_once('.').expect("section.name");
        let (_folder, flags) = file(&format!("[{section}]\n{key} = {{ no = \"meaning\" }}\n"));
        let all = mistakes(read_with(&flags, &[]));
        assert!(all.iter().any(|one| one.contains(&format!("({name}): expected"))), "{name} is not read: {all:?}");
    }
    let (_folder, flags) = file(layers::DEFAULTS);
    let copied = read_with(&flags, &[]).expect("a copy of the defaults is a file");
    assert_eq!(format!("{copied:?}"), format!("{:?}", read(&[]).expect("the defaults")));
}

#[test]
fn each_layer_overrides_the_one_before() {
    let (_folder, mut flags) = file("[server]\nlisten = \"127.0.0.1:1\"\ndata = \"file\"\n");
    let listen = |flags: &Sources, flag: Option<&str>, environment: &[(&str, &str)]| {
        let flags = Sources { listen: flag.map(str::to_owned), ..flags.clone() };
        let config = read_with(&flags, environment).expect("right");
        (config.server.listen.port(), config.server.data.to_string_lossy().into_owned())
    };
    let svix = ("SVIX_LISTEN_ADDRESS", "127.0.0.1:2");
    let ours = ("BELLWIRE_LISTEN", "127.0.0.1:3");
    assert_eq!(listen(&flags, None, &[]), (1, "file".into()));
    assert_eq!(listen(&flags, None, &[svix]), (2, "file".into()));
    assert_eq!(listen(&flags, None, &[ours, svix]), (3, "file".into()));
    assert_eq!(listen(&flags, None, &[svix, ("BELLWIRE_SERVER_LISTEN", "127.0.0.1:4")]), (4, "file".into()));
    assert_eq!(listen(&flags, Some("127.0.0.1:5"), &[ours, svix]), (5, "file".into()));
    assert_eq!(listen(&flags, None, &[("BELLWIRE_DATA", "variable")]).1, "variable");
    flags.place.data = Some("flag".into());
    assert_eq!(listen(&flags, None, &[("BELLWIRE_DATA", "variable")]).1, "flag");
}

#[test]
fn variables_of_svix_are_understood() {
    let config = read(&[
        ("SVIX_JWT_SECRET", "a-secret-of-more-than-thirty-two-bytes"),
        ("SVIX_MAIN_SECRET", "0123456789abcdef"),
        ("SVIX_LISTEN_ADDRESS", "0.0.0.0:8071"),
        ("SVIX_WHITELIST_SUBNETS", "[127.0.0.0/8]"),
        ("SVIX_RETRY_SCHEDULE", "1,1,2"),
        ("SVIX_WORKER_REQUEST_TIMEOUT", "3"),
        ("SVIX_WORKER_MAX_TASKS", "10"),
        ("SVIX_ENDPOINT_FAILURE_DISABLE_AFTER", "2"),
        ("SVIX_ENDPOINT_HTTPS_ONLY", "true"),
        ("SVIX_WHITELABEL_HEADERS", "true"),
        ("SVIX_DEFAULT_SIGNATURE_TYPE", "ed25519"),
        ("SVIX_DANGEROUS_DISABLE_TLS_VERIFICATION", "true"),
        ("SVIX_PROXY_ADDR", "socks5://proxy:1080"),
        ("SVIX_NOPROXY", "10.0.0.0/8,internal"),
        ("SVIX_LOG_LEVEL", "debug"),
        ("SVIX_LOG_FORMAT", "default"),
        ("SVIX_JWT_ALGORITHM", "HS384"),
        ("SVIX_APP_PORTAL_URL", "https://portal.example.com/"),
        ("SVIX_API_ENABLED", "true"),
    ])
    .expect("understood");
    assert_eq!(config.auth.jwt_secret.as_ref().map(SecretText::reveal), Some("a-secret-of-more-than-thirty-two-bytes"));
    assert_eq!(config.auth.jwt_algorithm, bellwire_api::JwtAlgorithm::Hs384);
    assert_eq!(config.server.app_portal_url.as_deref(), Some("https://portal.example.com"));
    assert_eq!(config.egress.allow, ["127.0.0.0/8".parse().expect("a network")]);
    assert_eq!(config.delivery.retry_schedule.waits(), [1, 1, 2].map(Duration::from_secs));
    assert_eq!(config.delivery.timeout, Duration::from_secs(3));
    assert_eq!(config.delivery.disable_after, Some(Duration::from_secs(7_200)));
    assert_eq!(config.delivery.headers, HeaderNames::Webhook);
    assert_eq!(config.delivery.default_secret_kind, bellwire_signature::SecretKind::Ed25519);
    assert!(config.delivery.https_only && !config.egress.tls.verify && config.egress.proxy.is_some());
    assert_eq!(config.lanes.attempts_per_shard(4), 2, "ten at a time, shared out among four");
    assert_eq!(config.lanes.attempts_per_shard(20), 1, "none is without any");
    assert_eq!(config.log.level, tracing::level_filters::LevelFilter::DEBUG);
    assert_eq!(config.notes, [""; 0]);
    let never = read(&[("SVIX_ENDPOINT_FAILURE_DISABLE_AFTER", "0")]).expect("understood");
    assert_eq!(never.delivery.disable_after, None);
    let once = read(&[("SVIX_RETRY_SCHEDULE", "")]).expect("no retries");
    assert!(once.delivery.retry_schedule.waits().is_empty());
}

#[test]
fn what_svix_has_and_we_do_not_is_noted_without_its_value() {
    let config = read(&[
        ("SVIX_DB_DSN", "postgresql://user:hunter2@db/svix"),
        ("SVIX_REDIS_DSN", "redis://:hunter2@redis"),
        ("SVIX_QUEUE_TYPE", "redis"),
        ("SVIX_FROM_THE_FUTURE", "hunter2"),
        ("SVIX_JWT_SECRET", "hunter2"),
    ])
    .expect("noted, not fatal");
    let notes = config.notes.join("\n");
    for name in ["SVIX_DB_DSN", "SVIX_REDIS_DSN", "SVIX_QUEUE_TYPE", "SVIX_FROM_THE_FUTURE", "auth.jwt_secret"] {
        assert!(notes.contains(name), "{notes}");
    }
    assert!(notes.contains("the data folder is the store"), "{notes}");
    assert!(!notes.contains("hunter2"), "{notes}");
}

/// All that a Svix server reads: each has its effect, or is noted, or is refused by its value, and none is unknown.
#[test]
fn every_variable_of_svix_is_known() {
    let names = "listen_address jwt_secret jwt_algorithm main_secret db_dsn db_pool_max_size redis_dsn redis_pool_max_size \
        queue_type queue_dsn queue_prefix cache_type cache_dsn sentinel_service_name redis_db redis_username redis_password \
        redis_tls_mode_secure redis_use_resp3 redis_pending_duration_secs rabbit_dsn rabbit_consumer_prefetch_size \
        retry_schedule worker_request_timeout worker_max_tasks queue_max_poll_secs endpoint_failure_disable_after \
        endpoint_https_only whitelabel_headers default_signature_type whitelist_subnets dangerous_disable_tls_verification \
        proxy_addr noproxy operational_webhook_address api_enabled worker_enabled background_migrations_enabled log_level \
        log_format opentelemetry_address opentelemetry_sample_ratio opentelemetry_service_name sentry_dsn environment \
        db_tracing region app_portal_url";
    for name in names.split_whitespace() {
        let variable = format!("SVIX_{}", name.to_uppercase());
        assert!(svix::is_variable(&format!("{variable}=x")), "{variable}");
    }
    assert!(!svix::is_variable("SVIX_FROM_THE_FUTURE=x") && !svix::is_variable("SVIX_DB_DSN"));
}

#[test]
fn what_stands_beside_the_variables_of_svix_is_noted_only_there() {
    let elsewhere = read(&[("DATABASE_URL", "postgres://hunter2"), ("WAIT_FOR", "true")]).expect("not ours");
    assert_eq!(elsewhere.notes, [""; 0]);
    let there = [("DATABASE_URL", "postgres://hunter2"), ("WAIT_FOR", "true"), ("SVIX_LOG_LEVEL", "info")];
    let notes = read(&there).expect("noted").notes.join("\n");
    assert!(notes.contains("DATABASE_URL is not used") && notes.contains("WAIT_FOR is not used"), "{notes}");
    assert!(!notes.contains("hunter2"), "{notes}");

    let folder = tempfile::tempdir().expect("a folder");
    let notes = |file: &str, text: &str| {
        std::fs::write(folder.path().join(file), text).expect("written");
        let mut layers = Layers::defaults();
        note_left_behind(&mut layers, folder.path());
        layers.finish(|notes| notes.join("\n")).expect("no mistake")
    };
    assert_eq!(notes(".env", "HOME=x\nDATABASE=y\n"), "");
    assert_eq!(notes("config.toml", "[package]\nname = \"x\"\n"), "");
    assert!(notes(".env", "A=b\nexport SVIX_JWT_SECRET=hunter2\n").contains(".env is not read"));
    let both = notes("config.toml", "jwt_secret = \"hunter2\"\n");
    assert!(both.contains("config.toml looks like") && !both.contains("hunter2"), "{both}");
}

#[test]
fn what_is_in_force_is_told_with_where_it_came_from() {
    let (_folder, mut flags) = file("[server]\nlisten = \"127.0.0.1:1\"\n[delivery]\nretry_schedule = [1, \"5m\"]\n");
    flags.place.data = Some("flag".into());
    let environment = [("SVIX_LISTEN_ADDRESS", "127.0.0.1:2"), ("BELLWIRE_MAIN_SECRET", "hunter2-hunter2-hunter2")];
    let layers = Config::layers(&flags, environment.map(|(name, value)| (name.into(), value.into())));
    let all = layers.effective();
    let one = |name: &str| all.iter().find(|one| one.name == name).expect("every setting is there");
    assert_eq!(all.len(), Layers::defaults().names().count());
    let listen = one("server.listen");
    assert_eq!(
        (listen.value.to_string(), listen.origin.to_string()),
        ("\"127.0.0.1:2\"".into(), "SVIX_LISTEN_ADDRESS".into())
    );
    assert!(matches!(listen.overridden.as_slice(), [Origin::File { line: 2, .. }]));
    assert_eq!(one("server.data").origin, Origin::Flag("--data"));
    assert_eq!(one("delivery.retry_schedule").value.to_json(), serde_json::json!([1, "5m"]));
    assert_eq!(one("log.level").origin, Origin::Default);
    for secret in ["auth.jwt_secret", "auth.main_secret", "auth.old_main_secrets", "egress.proxy"] {
        assert!(one(secret).secret, "{secret}");
    }
    let config = Config::from_layers(layers).expect("right");
    assert_eq!((config.server.listen.port(), config.server.data), (2, "flag".into()));
}

#[test]
fn a_value_without_meaning_names_its_setting() {
    for (variable, value, says) in [
        ("SVIX_RETRY_SCHEDULE", "soon", "seconds separated by commas"),
        ("SVIX_WORKER_REQUEST_TIMEOUT", "0", "a duration from 1ms to 2m"),
        ("SVIX_WORKER_REQUEST_TIMEOUT", "30s", "whole seconds such as 30, found \"30s\""),
        ("SVIX_WORKER_REQUEST_TIMEOUT", "", "empty"),
        ("SVIX_WHITELIST_SUBNETS", "[localhost]", "a network such as 127.0.0.0/8"),
        ("SVIX_LISTEN_ADDRESS", "8071", "an IP address and a port"),
        ("SVIX_JWT_SECRET", "", "empty"),
        ("SVIX_JWT_ALGORITHM", "RS257", "HS256, HS384"),
        ("SVIX_JWT_ALGORITHM", "none", "HS256, HS384"),
        ("SVIX_JWT_ALGORITHM", "EdDSA", "set auth.jwt_secret to one in PEM"),
        ("SVIX_APP_PORTAL_URL", "portal", "a URL such as"),
        ("BELLWIRE_SERVER_APP_PORTAL_URL", "https://portal.example.com/#key", "without query and fragment"),
        ("BELLWIRE_LIMITS_REQUESTS_BURST", "5", "no effect without limits.requests_per_second"),
        ("BELLWIRE_LIMITS_REQUESTS_PER_SECOND", "0", "or \"none\""),
        ("SVIX_WORKER_ENABLED", "false", "one process"),
        ("SVIX_LOG_LEVEL", "loud", "\"info\""),
        ("SVIX_DEFAULT_SIGNATURE_TYPE", "md5", "\"hmac256\" or \"ed25519\""),
        ("BELLWIRE_DELIVERY_TIMEOUT", "30", "with its unit"),
        ("BELLWIRE_STORE_BYTES_MAX", "1GB", "or \"none\""),
        ("BELLWIRE_MAIN_SECRET", "short", "at least 16 characters"),
        ("BELLWIRE_LANES_BREAKER_WAIT_MAX", "10ms", "not be shorter than lanes.breaker_wait"),
        ("BELLWIRE_LSTEN", "127.0.0.1:1", "did you mean BELLWIRE_LISTEN?"),
        ("BELLWIRE_DELIVERY_TIMOUT", "1s", "did you mean BELLWIRE_DELIVERY_TIMEOUT?"),
        ("BELLWIRE_CONFIG", "/nonexistent/bellwire.toml", "cannot read /nonexistent/bellwire.toml"),
    ] {
        let all = mistakes(read(&[(variable, value)]));
        assert!(all.len() == 1 && all[0].starts_with(variable) && all[0].contains(says), "{variable}={value}: {all:?}");
    }
}

#[test]
fn all_mistakes_come_at_once_and_with_their_lines() {
    let (_folder, mut flags) = file(
        "[server]\nlisten = \"here\"\nlissten = 1\n\n[delivery]\ntimeout = 15\ntimeout_ms = 1\n[sever]\ndata = \"x\"\n\
         [auth]\nmain_secret = \"hunter2\"\n",
    );
    flags.listen = Some("there".into());
    let all = mistakes(read_with(&flags, &[("SVIX_RETRY_SCHEDULE", "x")]));
    let place = flags.place.config.expect("named").display().to_string();
    for begins in [
        &format!("{place}:2 (server.listen): expected an IP address and a port such as 127.0.0.1:8071, found \"here\""),
        &format!("{place}:3: there is no setting server.lissten; did you mean server.listen?"),
        &format!("{place}:6 (delivery.timeout): expected a duration"),
        &format!("{place}:7: there is no setting delivery.timeout_ms; did you mean delivery.timeout?"),
        &format!("{place}:9: there is no setting sever.data; did you mean server.data?"),
        &format!("{place}:11 (auth.main_secret): expected a secret of at least 16 characters"),
        "--listen (server.listen): expected",
        "SVIX_RETRY_SCHEDULE (delivery.retry_schedule): expected",
    ] {
        assert!(all.iter().any(|one| one.starts_with(begins)), "{begins}: {all:#?}");
    }
    assert_eq!(all.len(), 8, "{all:#?}");
    assert!(!all.concat().contains("hunter2"), "{all:#?}");
}

#[test]
fn a_file_that_is_not_toml_says_where() {
    let (_folder, flags) = file("[server]\nlisten = \n");
    let all = mistakes(read_with(&flags, &[]));
    assert!(all[0].contains(":2: not TOML: "), "{all:?}");
}

#[test]
fn secrets_do_not_print() {
    let config = read(&[
        ("BELLWIRE_JWT_SECRET", "hunter2-hunter2-hunter2-hunter2-hunter2"),
        ("BELLWIRE_MAIN_SECRET", "hunter2-hunter2-hunter2"),
        ("BELLWIRE_AUTH_OLD_MAIN_SECRETS", "hunter2-a,hunter2-b"),
        ("BELLWIRE_EGRESS_PROXY", "http://user:hunter2@proxy:3128"),
    ])
    .expect("right");
    assert_eq!(config.auth.old_main_secrets.len(), 2);
    assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
}
