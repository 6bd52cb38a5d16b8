//! The guard at work in the connector: what it refuses is not connected to, not even once.

use bellwire_egress::{Egress, Forbidden, Guard, Request, SendError, Settings, Target, guard::Range};

use crate::support::{Script, Server, client, post, settings};

const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

fn forbidden_range(error: &SendError) -> Option<Range> {
    match error {
        SendError::Forbidden(Forbidden::Address { range, .. }) => Some(*range),
        _ => None,
    }
}

#[tokio::test]
async fn without_allowed_networks_loopback_sees_no_connection() {
    let server = Server::answering(EMPTY).await;
    let port = server.address.port();
    let resolver = Script::new(&[&["127.0.0.1"]]);
    let client = Egress::new(Settings::default()).unwrap().client_with_resolver(resolver);
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "a.example",
    ] {
        let error = client.exchange(post(format!("http://{host}:{port}/"))).await.unwrap_err();
        assert!(forbidden_range(&error).is_some(), "{host}: {error}");
        assert_eq!(error.class(), "forbidden_address");
    }
    for host in ["localhost", "a.localhost.", "db.internal"] {
        let error = client.exchange(post(format!("http://{host}:{port}/"))).await.unwrap_err();
        assert!(matches!(error, SendError::Forbidden(Forbidden::Name { .. })), "{host}: {error}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn one_forbidden_address_among_the_answers_refuses_all_of_them() {
    let server = Server::answering(EMPTY).await;
    let url = format!("http://a.example:{}/", server.address.port());
    for answer in [["127.0.0.1", "10.0.0.1"], ["fd00:ec2::254", "127.0.0.1"], ["127.0.0.1", "169.254.169.254"]] {
        let client = Egress::new(settings()).unwrap().client_with_resolver(Script::new(&[&answer]));
        let error = client.exchange(post(&url)).await.unwrap_err();
        assert!(forbidden_range(&error).is_some(), "{error}");
        assert!(!error.customer_text().contains("10.0.0.1"));
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_name_that_changes_its_mind_is_asked_once_and_judged_again_for_the_next_connection() {
    // The server closes after each response, so that the second exchange needs a new connection.
    let server = Server::answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let resolver = Script::new(&[&["127.0.0.1"], &["10.0.0.1"]]);
    let client = Egress::new(settings()).unwrap().client_with_resolver(resolver.clone());
    let url = format!("http://rebinding.example:{}/", server.address.port());

    assert_eq!(client.exchange(post(&url)).await.unwrap().status, 200);
    assert_eq!((resolver.asked(), server.connections()), (1, 1));
    let error = client.exchange(post(&url)).await.unwrap_err();
    assert_eq!(forbidden_range(&error), Some(Range::Private));
    assert_eq!((resolver.asked(), server.connections()), (2, 1));
}

#[tokio::test]
async fn addresses_that_refuse_are_passed_over() {
    let server = Server::answering(EMPTY).await;
    let resolver = Script::new(&[&["127.0.0.3", "127.0.0.2", "127.0.0.1"]]);
    let client = Egress::new(settings()).unwrap().client_with_resolver(resolver);
    let url = format!("http://several.example:{}/", server.address.port());
    assert_eq!(client.exchange(post(url)).await.unwrap().status, 200);
}

#[tokio::test]
async fn localhost_is_loopback_without_asking_dns_where_that_is_allowed() {
    let server = Server::answering(EMPTY).await;
    let resolver = Script::new(&[]);
    let client = Egress::new(settings()).unwrap().client_with_resolver(resolver.clone());
    for host in ["localhost", "hook.localhost"] {
        let url = format!("http://{host}:{}/", server.address.port());
        assert_eq!(client.exchange(post(url)).await.unwrap().status, 200);
    }
    assert_eq!(resolver.asked(), 0);
}

#[tokio::test]
async fn our_own_listener_is_refused() {
    let server = Server::answering(EMPTY).await;
    let mut settings = settings();
    for own in [server.address.to_string(), format!("0.0.0.0:{}", server.address.port())] {
        settings.guard = Guard { own_addresses: vec![own.parse().unwrap()], ..settings.guard };
        let client = Egress::new(settings.clone()).unwrap().client_with_resolver(Script::new(&[]));
        let error = client.exchange(post(server.url())).await.unwrap_err();
        assert_eq!(forbidden_range(&error), Some(Range::OwnAddress));
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_denied_port_is_refused() {
    let error = client().exchange(post("http://127.0.0.1:6379/")).await.unwrap_err();
    assert_eq!(error.class(), "forbidden_address");
    assert!(error.customer_text().starts_with("port 6379 is not allowed: egress.deny_ports "), "{error:?}");
}

#[tokio::test]
async fn a_name_without_addresses_is_a_dns_failure() {
    let error = client().exchange(post("http://nowhere.example/")).await.unwrap_err();
    assert_eq!(error.class(), "dns");
    assert_eq!(error.customer_text(), "the host name has no address in DNS");
}

/// Whatever is put together from parts that have fooled others, the listener sees nothing of it.
#[tokio::test]
async fn no_spelling_gets_through() {
    let server = Server::answering(EMPTY).await;
    let port = server.address.port();
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "0177.1",
        "0x7f.0.0.1",
        "0x7f000001",
        "2130706433",
        "017700000001",
        "0",
        "0.0.0.0",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "127．0．0．1",
        "%31%32%37.0.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "x.localhost",
        "ｌｏｃａｌｈｏｓｔ",
        "name.example",
        "127.0.0.1.nip.example",
        "a.internal",
    ];
    let before =
        ["", "user@", "user:password@", "example.com@", "example.com%2f@", "127.0.0.1:80@", "a\\@", "\t", "//"];
    let after = ["/", "", "/\\@example.com", "\\@example.com/", "#@example.com/", "?@example.com/", ".", "./"];
    let mut tried = 0;
    for resolved in ["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1"] {
        let client = Egress::new(Settings::default()).unwrap().client_with_resolver(Script::new(&[&[resolved]]));
        let pairs = hosts.iter().flat_map(|host| before.iter().map(move |before| format!("{before}{host}:{port}")));
        let places = pairs.flat_map(|authority| after.map(|after| format!("{authority}{after}")));
        for url in places.flat_map(|place| [format!("http://{place}"), format!("https:{place}")]) {
            let Ok(target) = Target::parse(&url) else { continue };
            tried += 1;
            let error = client.exchange(Request { target, ..post("http://a.example/") }).await.unwrap_err();
            assert_eq!(error.class(), "forbidden_address", "{url}: {error:?}");
        }
    }
    assert!(tried > 5_000, "{tried}");
    assert_eq!(server.connections(), 0);
}
