//! How many connections one client has open, over all listeners, where the operator bounds that.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// All clients that have a connection open.
#[derive(Debug)]
pub(crate) struct Clients {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of a client; it counts until dropped.
pub(super) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Clients {
    /// Each may have `max` connections.
    pub(crate) fn new(max: usize) -> Arc<Clients> {
        Arc::new(Clients { max, open: Mutex::default() })
    }

    /// A place for one more connection of `address`, if it may have one.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = client(address);
        let mut open = self.open.lock();
        let count = open.entry(client).or_default();
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Place { clients: Arc::clone(self), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.clients.open.lock();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

/// Who it is: of IPv6 the network, since a client has as many addresses in it as it likes.
fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_a_network_and_its_places_come_back() {
        let clients = Clients::new(2);
        let enter = |address: &str| clients.enter(address.parse().expect("an address"));
        let first = [enter("192.0.2.1"), enter("::ffff:192.0.2.1"), enter("192.0.2.1")];
        assert_eq!(first.each_ref().map(Option::is_some), [true, true, false]);
        let second = [enter("2001:db8::1"), enter("2001:db8::2"), enter("2001:db8::3"), enter("2001:db8:0:1::1")];
        assert_eq!(second.each_ref().map(Option::is_some), [true, true, false, true]);
        drop(first);
        assert!(enter("192.0.2.1").is_some());
        drop(second);
        assert!(clients.open.lock().is_empty(), "nobody is remembered");
    }
}
