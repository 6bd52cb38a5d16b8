//! Who sent a request: the peer, or whom a proxy that we trust names.

use bellwire_model::Networks;
use http::HeaderMap;
use std::net::{IpAddr, SocketAddr};

/// The client's address. `x-forwarded-for` is read from its end: each proxy has written whom it had in front of it, so the first one
/// that is no trusted proxy is the client. What is left of that, the client may have written itself.
pub(crate) fn client(peer: IpAddr, headers: &HeaderMap, networks: &Networks) -> IpAddr {
    let mut client = peer.to_canonical();
    if !networks.trust(client) {
        return client;
    }
    let lists = headers.get_all("x-forwarded-for").iter().rev();
    let entries = lists.filter_map(|list| list.to_str().ok()).flat_map(|list| list.rsplit(','));
    for entry in entries {
        // What cannot be read was not written by a proxy of ours.
        let Some(address) = address(entry.trim()) else { break };
        client = address;
        if !networks.trust(client) {
            break;
        }
    }
    client
}

/// With or without a port.
fn address(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let networks = Networks {
            allowed: Vec::new(),
            proxies: vec!["10.0.0.0/8".parse().expect("a network"), "2001:db8::1/128".parse().expect("a network")],
        };
        for (peer, forwarded, expected) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["203.0.113.9:4711"], "203.0.113.9"),
            ("2001:db8::1", &["[2001:db8::5]:443"], "2001:db8::5"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["203.0.113.9, unknown, 10.0.0.2"], "10.0.0.2"),
        ] {
            let mut headers = HeaderMap::new();
            for list in forwarded {
                headers.append("x-forwarded-for", list.parse().expect("a header"));
            }
            let found = client(peer.parse().expect("an address"), &headers, &networks);
            assert_eq!(found, expected.parse::<IpAddr>().expect("an address"), "{peer} {forwarded:?}");
        }
    }
}
