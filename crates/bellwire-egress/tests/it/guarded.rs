//! The guard at work in the connector: what it refuses is not connected to, not even once.

use bellwire_egress::{Egress, Forbidden, Guard, SendError, Settings, guard::Range};

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
    assert_eq!(error.customer_text(), "port 6379 is not allowed");
}

#[tokio::test]
async fn a_name_without_addresses_is_a_dns_failure() {
    let error = client().exchange(post("http://nowhere.example/")).await.unwrap_err();
    assert_eq!(error.class(), "dns");
    assert_eq!(error.customer_text(), "the host name has no address in DNS");
}
