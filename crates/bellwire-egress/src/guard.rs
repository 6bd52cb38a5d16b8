//! The address guard: which hosts, ports and addresses may be the target of a request of ours.
//!
//! Everyone who can register an endpoint chooses a URL that our server will then call. Without this file that would be a
//! way into the operator's own network. The guard looks only at parsed values, [`url::Host`] and [`IpAddr`], never at
//! strings, because an address has more spellings than any list of patterns.
//!
//! It is asked twice: by the API when an endpoint is saved ([`Guard::check_url`], for a friendly refusal), and by the
//! connector before each new connection, with the addresses that were actually resolved ([`Guard::check_ip`],
//! [`Guard::check_address`]). Only the second one is the defence; a name can resolve differently a second later.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// What may be called. One value serves the whole process; a different policy needs a different client, so that
/// no connection opened under one policy is ever used under another.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Networks that the operator allows although the deny table names them, such as `127.0.0.0/8`.
    ///
    /// Two kinds of row cannot be opened by accident: ranges that are never a host (multicast, reserved, the embeddings
    /// of v4 in v6) stay closed whatever stands here, and link-local and metadata addresses open only to a network
    /// that lies inside them, so that `0.0.0.0/0` does not hand out cloud credentials.
    pub allowed_networks: Vec<IpNet>,
    /// Whether `64:ff9b::/96` may be used (NAT64, for hosts without v4). The embedded v4 address is then judged, and
    /// judged by the deny table alone: `allowed_networks` do not reach through a translator.
    pub nat64: bool,
    /// Ports that may not be called on any address.
    pub denied_ports: Vec<RangeInclusive<u16>>,
    /// Whether only `https` URLs may be called.
    pub https_only: bool,
    /// Where we listen ourselves. An unspecified address stands for every address of this machine.
    pub own_addresses: Vec<SocketAddr>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            allowed_networks: Vec::new(),
            nat64: false,
            denied_ports: default_denied_ports(),
            https_only: false,
            own_addresses: Vec::new(),
        }
    }
}

/// The well-known ports save 80 and 443, and those of services that obey whoever reaches them.
#[must_use]
pub fn default_denied_ports() -> Vec<RangeInclusive<u16>> {
    vec![
        0..=79,
        81..=442,
        444..=1023,
        2375..=2377,   // Docker and Swarm
        2379..=2380,   // etcd
        5432..=5432,   // PostgreSQL
        6379..=6379,   // Redis
        9200..=9200,   // Elasticsearch
        9300..=9300,   // Elasticsearch, between nodes
        10250..=10250, // kubelet
        11211..=11211, // memcached
        27017..=27017, // MongoDB
    ]
}

/// A refusal. [`Display`](fmt::Display) is for the operator and names the address; what a customer may read is
/// [`Forbidden::customer_text`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The scheme is neither `http` nor `https`, or is `http` where only `https` is allowed.
    #[error("scheme {scheme} is not allowed")]
    Scheme {
        /// The scheme as written.
        scheme: String,
    },
    /// The URL has no host.
    #[error("the URL has no host")]
    NoHost,
    /// The port is on the list of denied ports.
    #[error("port {port} is not allowed: egress.deny_ports of the server's settings leaves {allowed}")]
    Port {
        /// The port, given or implied by the scheme.
        port: u16,
        /// Those that the list leaves, for people to read.
        allowed: String,
    },
    /// Port 0, at which nobody can be called, whatever the settings say.
    #[error("port 0 is not allowed: nobody can be called at it; 1 to 65535 are ports")]
    PortZero,
    /// The name can only mean a host of the operator's own network.
    #[error("host name {name} is reserved for local use")]
    Name {
        /// The name as written.
        name: String,
    },
    /// The address, literal or resolved, is in a denied range.
    #[error("address {ip} is not allowed ({range})")]
    Address {
        /// The address. Never shown to a customer: it may be one of the operator's own.
        ip: IpAddr,
        /// Why.
        range: Range,
    },
}

impl Forbidden {
    /// What the owner of the endpoint may read: the rule, not what the resolver said.
    #[must_use]
    pub fn customer_text(&self) -> String {
        match self {
            Self::Scheme { .. } => "the URL's scheme is not allowed".into(),
            Self::NoHost => "the URL has no host".into(),
            Self::Port { .. } | Self::PortZero => self.to_string(),
            Self::Name { .. } => "the host name is reserved for local use".into(),
            Self::Address { .. } => "the host's address is private, local or reserved".into(),
        }
    }
}

/// The range that an address was denied for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// `0.0.0.0/8`, `::`.
    Unspecified,
    /// `127.0.0.0/8`, `::1`.
    Loopback,
    /// RFC 1918, RFC 4193 and the withdrawn site-local range.
    Private,
    /// `100.64.0.0/10`, between a carrier and its customers.
    Shared,
    /// `169.254.0.0/16`, `fe80::/10`; with it the metadata services of the clouds.
    LinkLocal,
    /// Other addresses at which a cloud answers with credentials, `fd00:ec2::/32`.
    Metadata,
    /// Documentation, benchmarking, protocol assignments, segment routing, discard.
    Special,
    /// A v4 address in v6 clothes: mapped, compatible, SIIT, NAT64, 6to4, Teredo and whatever else is in `::/8`.
    Embedding,
    /// Multicast and broadcast.
    Multicast,
    /// Not assigned to anyone as a unicast address.
    Reserved,
    /// One of our own listeners, or another address of this very machine.
    OwnAddress,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::Shared => "shared",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata service",
            Self::Special => "special purpose",
            Self::Embedding => "v4 inside v6",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::OwnAddress => "our own address",
        })
    }
}

impl Guard {
    /// Whether an endpoint may be saved with this URL. `Ok` promises nothing about what the name resolves to.
    ///
    /// # Errors
    /// [`Forbidden`] with the first rule broken: scheme, host, port.
    pub fn check_url(&self, url: &Url) -> Result<(), Forbidden> {
        let port = match (url.scheme(), self.https_only) {
            ("https", _) => url.port().unwrap_or(443),
            ("http", false) => url.port().unwrap_or(80),
            (scheme, _) => return Err(Forbidden::Scheme { scheme: scheme.into() }),
        };
        let host = url.host().ok_or(Forbidden::NoHost)?;
        self.check_host(&host, port)
    }

    /// Whether this host and port may be called, as far as can be said without asking DNS.
    ///
    /// # Errors
    /// [`Forbidden`] for a denied port, a name that is local by definition, or a literal address that is denied.
    pub fn check_host<S: AsRef<str>>(&self, host: &Host<S>, port: u16) -> Result<(), Forbidden> {
        self.check_port(port)?;
        self.check_peer(host, port)
    }

    /// The same for another protocol than HTTP: every port may be called but 0.
    ///
    /// # Errors
    /// As [`Guard::check_host`].
    pub fn check_peer<S: AsRef<str>>(&self, host: &Host<S>, port: u16) -> Result<(), Forbidden> {
        if port == 0 {
            return Err(Forbidden::PortZero);
        }
        match host {
            Host::Domain(name) => self.check_name(name.as_ref()),
            Host::Ipv4(ip) => self.check_address(SocketAddr::new((*ip).into(), port)),
            Host::Ipv6(ip) => self.check_address(SocketAddr::new((*ip).into(), port)),
        }
    }

    /// Whether this port may be called.
    ///
    /// # Errors
    /// [`Forbidden::Port`]. Port 0 is always refused, with [`Forbidden::PortZero`].
    pub fn check_port(&self, port: u16) -> Result<(), Forbidden> {
        if port == 0 {
            return Err(Forbidden::PortZero);
        }
        let denied = self.denied_ports.iter().any(|range| range.contains(&port));
        if denied { Err(Forbidden::Port { port, allowed: allowed_text(&self.denied_ports) }) } else { Ok(()) }
    }

    /// Whether this address may be called: not denied, and not one at which we listen ourselves.
    ///
    /// # Errors
    /// [`Forbidden::Address`].
    pub fn check_address(&self, address: SocketAddr) -> Result<(), Forbidden> {
        self.check_ip(address.ip())?;
        let is_own = self.own_addresses.iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip() || (own.ip().is_unspecified() && address.ip().is_loopback()))
        });
        if is_own { Err(Forbidden::Address { ip: address.ip(), range: Range::OwnAddress }) } else { Ok(()) }
    }

    /// Whether this address is outside the deny table, or allowed by the operator.
    ///
    /// # Errors
    /// [`Forbidden::Address`].
    pub fn check_ip(&self, ip: IpAddr) -> Result<(), Forbidden> {
        match self.denied_range(ip) {
            Some(range) => Err(Forbidden::Address { ip, range }),
            None => Ok(()),
        }
    }

    /// Whether the two ends of an open connection are this very machine, which the operator did not allow.
    ///
    /// This is how we know all addresses of this machine without listing its interfaces: the kernel connects an address
    /// of its own from that same address. Asked before the first byte is sent.
    ///
    /// # Errors
    /// [`Forbidden::Address`].
    pub fn check_self_connection(&self, local: SocketAddr, peer: SocketAddr) -> Result<(), Forbidden> {
        if local.ip() != peer.ip() {
            return Ok(());
        }
        let is_listener = self.own_addresses.iter().any(|own| own.port() == peer.port() && own.ip().is_unspecified());
        if is_listener || !self.is_allowed_by_operator(peer.ip()) {
            return Err(Forbidden::Address { ip: peer.ip(), range: Range::OwnAddress });
        }
        Ok(())
    }

    /// The loopback addresses that `localhost` may stand for: those that the operator allowed.
    #[must_use]
    pub fn allowed_loopback(&self) -> Vec<IpAddr> {
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        addresses.retain(|ip| self.check_ip(*ip).is_ok());
        addresses
    }

    /// Names under `localhost` mean loopback (RFC 6761) and are as allowed as that is. The others never leave a private
    /// network; they are refused unless the operator opened one to us.
    fn check_name(&self, name: &str) -> Result<(), Forbidden> {
        let allowed = if is_localhost(name) {
            !self.allowed_loopback().is_empty()
        } else if is_under(name, "internal") || is_under(name, "local") {
            self.allowed_networks.iter().any(|network| !network.addr().is_loopback())
        } else {
            !without_root(name).is_empty()
        };
        if allowed { Ok(()) } else { Err(Forbidden::Name { name: name.into() }) }
    }

    fn denied_range(&self, ip: IpAddr) -> Option<Range> {
        let row = match ip {
            IpAddr::V4(v4) => denied_v4(v4)?,
            IpAddr::V6(v6) => match nat64_embedded(v6) {
                Some(v4) if self.nat64 => return denied_v4(v4).map(|row| row.range),
                _ => denied_v6(v6)?,
            },
        };
        if self.operator_opens(ip, row) { None } else { Some(row.range) }
    }

    fn is_allowed_by_operator(&self, ip: IpAddr) -> bool {
        self.allowed_networks.iter().any(|network| network.contains(&ip))
    }

    fn operator_opens(&self, ip: IpAddr, row: &Row) -> bool {
        match row.opens {
            Opens::Never => false,
            Opens::ToAnyNetwork => self.is_allowed_by_operator(ip),
            Opens::ToNetworkWithin => {
                self.allowed_networks.iter().any(|network| network.contains(&ip) && row.network.contains(network))
            }
        }
    }
}

/// What is left of all ports without these, such as "80, 443 and 8000-8999"; of many ranges, the lowest.
fn allowed_text(denied: &[RangeInclusive<u16>]) -> String {
    const RANGES_MAX: usize = 20;
    let mut denied: Vec<_> = denied.iter().filter(|range| !range.is_empty()).collect();
    denied.sort_by_key(|range| *range.start());
    let mut ranges = Vec::new();
    let mut next = 1_u32;
    for range in denied {
        let (start, end) = (u32::from(*range.start()), u32::from(*range.end()));
        if next < start {
            ranges.push((next, start.saturating_sub(1)));
        }
        next = next.max(end.saturating_add(1));
    }
    if next <= u32::from(u16::MAX) {
        ranges.push((next, u16::MAX.into()));
    }
    let more = ranges.len() > RANGES_MAX;
    ranges.truncate(RANGES_MAX);
    let mut texts: Vec<String> =
        ranges.iter().map(|(from, to)| if from == to { from.to_string() } else { format!("{from}-{to}") }).collect();
    if more {
        texts.push("others above".into());
    }
    match texts.pop() {
        None => "none".into(),
        Some(only) if texts.is_empty() => only,
        Some(last) => format!("{} and {last}", texts.join(", ")),
    }
}

/// Whether this name means this machine: `localhost` or anything under it, with or without the root's dot.
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    without_root(name) == "localhost" || is_under(name, "localhost")
}

fn is_under(name: &str, parent: &str) -> bool {
    let name = without_root(name);
    name == parent || name.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
}

fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// One row of the deny table.
struct Row {
    network: IpNet,
    range: Range,
    opens: Opens,
}

/// Whether an operator's setting can open a row.
#[derive(Clone, Copy)]
enum Opens {
    Never,
    ToAnyNetwork,
    ToNetworkWithin,
}

const fn v4(a: u8, b: u8, c: u8, prefix: u8, range: Range, opens: Opens) -> Row {
    Row { network: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, 0), prefix)), range, opens }
}

const fn v6(head: [u16; 4], prefix: u8, range: Range, opens: Opens) -> Row {
    let ip = Ipv6Addr::new(head[0], head[1], head[2], head[3], 0, 0, 0, 0);
    Row { network: IpNet::V6(Ipv6Net::new_assert(ip, prefix)), range, opens }
}

/// The union of what Smokescreen, Svix and Hook0 deny and IANA's special-purpose registry.
static DENIED_V4: [Row; 16] = [
    v4(127, 0, 0, 8, Range::Loopback, Opens::ToAnyNetwork),
    v4(10, 0, 0, 8, Range::Private, Opens::ToAnyNetwork),
    v4(172, 16, 0, 12, Range::Private, Opens::ToAnyNetwork),
    v4(192, 168, 0, 16, Range::Private, Opens::ToAnyNetwork),
    v4(100, 64, 0, 10, Range::Shared, Opens::ToAnyNetwork),
    v4(169, 254, 0, 16, Range::LinkLocal, Opens::ToNetworkWithin),
    v4(0, 0, 0, 8, Range::Unspecified, Opens::Never),
    v4(192, 0, 0, 24, Range::Special, Opens::ToNetworkWithin),
    v4(192, 0, 2, 24, Range::Special, Opens::ToNetworkWithin),
    v4(192, 88, 99, 24, Range::Special, Opens::ToNetworkWithin),
    v4(198, 18, 0, 15, Range::Special, Opens::ToNetworkWithin),
    v4(198, 51, 100, 24, Range::Special, Opens::ToNetworkWithin),
    v4(203, 0, 113, 24, Range::Special, Opens::ToNetworkWithin),
    v4(224, 0, 0, 4, Range::Multicast, Opens::Never),
    v4(255, 255, 255, 24, Range::Multicast, Opens::Never),
    v4(240, 0, 0, 4, Range::Reserved, Opens::Never),
];

/// In order: the first row that contains the address decides. What follows the table is [`GLOBAL_UNICAST`].
static DENIED_V6: [Row; 13] = [
    Row { network: LOOPBACK_V6, range: Range::Loopback, opens: Opens::ToAnyNetwork },
    Row { network: UNSPECIFIED_V6, range: Range::Unspecified, opens: Opens::Never },
    // All of it, which ends the game of one more spelling: mapped, compatible, SIIT, NAT64 (both prefixes).
    v6([0, 0, 0, 0], 8, Range::Embedding, Opens::Never),
    v6([0x2002, 0, 0, 0], 16, Range::Embedding, Opens::Never),
    v6([0x2001, 0, 0, 0], 32, Range::Embedding, Opens::Never),
    v6([0x2001, 0, 0, 0], 23, Range::Special, Opens::ToNetworkWithin),
    v6([0x2001, 0xdb8, 0, 0], 32, Range::Special, Opens::ToNetworkWithin),
    v6([0x3fff, 0, 0, 0], 20, Range::Special, Opens::ToNetworkWithin),
    v6([0xfd00, 0xec2, 0, 0], 32, Range::Metadata, Opens::ToNetworkWithin),
    v6([0xfc00, 0, 0, 0], 7, Range::Private, Opens::ToAnyNetwork),
    v6([0xfe80, 0, 0, 0], 10, Range::LinkLocal, Opens::ToNetworkWithin),
    v6([0xfec0, 0, 0, 0], 10, Range::Private, Opens::ToAnyNetwork),
    v6([0xff00, 0, 0, 0], 8, Range::Multicast, Opens::Never),
];

const LOOPBACK_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128));
const UNSPECIFIED_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128));

/// The only block that IANA hands out for hosts on the internet. What is outside it has no business being a target;
/// that includes ranges which the table has no row for, such as segment routing's `5f00::/16`.
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);

fn denied_v4(ip: Ipv4Addr) -> Option<&'static Row> {
    DENIED_V4.iter().find(|row| row.network.contains(&IpAddr::V4(ip)))
}

fn denied_v6(ip: Ipv6Addr) -> Option<&'static Row> {
    static NOT_GLOBAL: Row = Row { network: UNSPECIFIED_V6, range: Range::Reserved, opens: Opens::Never };
    DENIED_V6
        .iter()
        .find(|row| row.network.contains(&IpAddr::V6(ip)))
        .or_else(|| (!GLOBAL_UNICAST.contains(&ip)).then_some(&NOT_GLOBAL))
}

fn nat64_embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c, d] = ip.octets();
    NAT64.contains(&ip).then(|| Ipv4Addr::new(a, b, c, d))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn allowing(networks: &[&str]) -> Guard {
        Guard { allowed_networks: networks.iter().map(|network| net(network)).collect(), ..Guard::default() }
    }

    fn check(guard: &Guard, url: &str) -> Result<(), Forbidden> {
        guard.check_url(&Url::parse(url).expect("a URL"))
    }

    fn embeddings(v4: Ipv4Addr) -> Vec<Ipv6Addr> {
        let [a, b, c, d] = v4.octets();
        let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        vec![
            v4.to_ipv6_mapped(),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
            Ipv6Addr::new(0, 0, 0, 0, 0, 0x5efe, high, low),
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
            Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low),
        ]
    }

    #[test]
    fn the_published_addresses_are_judged_as_published() {
        // Smokescreen's list, save 64:ff9c::1: that one lies in ::/8, all of which we deny.
        let guard = Guard::default();
        for allowed in
            ["8.8.8.8", "1.1.1.1", "100.63.255.254", "100.128.0.1", "2001:4860:4860::8888", "2606:4700::1111"]
        {
            assert_eq!(guard.check_ip(ip(allowed)), Ok(()), "{allowed}");
        }
        for (denied, range) in [
            ("10.0.0.1", Range::Private),
            ("172.16.0.1", Range::Private),
            ("172.31.255.255", Range::Private),
            ("192.168.0.1", Range::Private),
            ("100.64.0.1", Range::Shared),
            ("100.127.255.254", Range::Shared),
            ("127.0.0.1", Range::Loopback),
            ("127.255.255.255", Range::Loopback),
            ("::1", Range::Loopback),
            ("::", Range::Unspecified),
            ("0.0.0.0", Range::Unspecified),
            ("0.1.2.3", Range::Unspecified),
            ("169.254.169.254", Range::LinkLocal),
            ("fe80::1", Range::LinkLocal),
            ("fd00:ec2::254", Range::Metadata),
            ("fc00::1", Range::Private),
            ("fec0::1", Range::Private),
            ("192.0.0.170", Range::Special),
            ("192.0.2.1", Range::Special),
            ("192.88.99.1", Range::Special),
            ("198.19.255.255", Range::Special),
            ("198.51.100.7", Range::Special),
            ("203.0.113.7", Range::Special),
            ("2001:db8::1", Range::Special),
            ("2001:1ff::1", Range::Special),
            ("3fff::1", Range::Special),
            ("5f00::1", Range::Reserved),
            ("100::1", Range::Reserved),
            ("4000::1", Range::Reserved),
            ("224.0.0.1", Range::Multicast),
            ("255.255.255.255", Range::Multicast),
            ("ff02::2", Range::Multicast),
            ("240.0.0.1", Range::Reserved),
            ("64:ff9b::a00:1", Range::Embedding),
            ("64:ff9b::808:808", Range::Embedding),
            ("64:ff9b:1::808:808", Range::Embedding),
            ("64:ff9c::1", Range::Embedding),
            ("2002:a00:1::1", Range::Embedding),
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Range::Embedding),
            ("::ffff:8.8.8.8", Range::Embedding),
        ] {
            assert_eq!(guard.check_ip(ip(denied)), Err(Forbidden::Address { ip: ip(denied), range }), "{denied}");
        }
    }

    #[test]
    fn every_spelling_of_loopback_is_refused() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://①②⑦.⓪.⓪.①/",
            "http://127。0。0。1/",
            "http://127.0.0.1\\@example.com/",
            "http://\t127.0.\n0.1/",
            "http://127.0.0.1./",
            "http://user:password@127.0.0.1/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[0:0:0:0:0:0:0:1]/",
            "http://%31%32%37.0.0.1/",
        ] {
            assert!(matches!(check(&Guard::default(), url), Err(Forbidden::Address { .. })), "{url}");
        }
    }

    #[test]
    fn local_names_are_refused() {
        for host in [
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.localhost",
            "db.internal",
            "printer.local",
            "metadata.google.internal.",
        ] {
            let url = format!("http://{host}/");
            assert!(matches!(check(&Guard::default(), &url), Err(Forbidden::Name { .. })), "{url}");
        }
        for host in ["localhost.example.com", "notlocalhost", "internal.example.com", "mylocal"] {
            assert_eq!(check(&Guard::default(), &format!("https://{host}/")), Ok(()));
        }
    }

    #[test]
    fn schemes_and_ports_are_refused() {
        let guard = Guard::default();
        for url in ["file:///etc/passwd", "ftp://example.com/", "gopher://example.com:70/", "data:text/plain,x"] {
            assert!(matches!(check(&guard, url), Err(Forbidden::Scheme { .. })), "{url}");
        }
        for url in ["http://example.com:22/", "https://example.com:6379/", "http://8.8.8.8:25/"] {
            assert!(matches!(check(&guard, url), Err(Forbidden::Port { .. })), "{url}");
        }
        assert_eq!(check(&guard, "http://example.com:0/"), Err(Forbidden::PortZero));
        for url in ["http://example.com/", "https://example.com/", "https://example.com:8443/x?y"] {
            assert_eq!(check(&guard, url), Ok(()));
        }
        let https_only = Guard { https_only: true, ..Guard::default() };
        assert!(check(&https_only, "http://example.com/").is_err());
        assert!(check(&https_only, "https://example.com/").is_ok());
    }

    #[test]
    fn zone_identifiers_do_not_parse() {
        assert!(Url::parse("http://[fe80::1%25eth0]/").is_err());
    }

    #[test]
    fn the_operator_opens_what_she_names() {
        let guard = allowing(&["127.0.0.0/8"]);
        assert!(check(&guard, "http://127.0.0.1:8080/").is_ok());
        assert!(check(&guard, "http://localhost:8080/").is_ok());
        assert!(check(&guard, "http://api.localhost/").is_ok());
        assert!(guard.check_ip(ip("::1")).is_err());
        assert!(guard.check_ip(ip("10.0.0.1")).is_err());
        assert_eq!(guard.allowed_loopback(), [ip("127.0.0.1")]);
        assert!(allowing(&["::1/128"]).check_ip(ip("::1")).is_ok());
        assert!(allowing(&["fc00::/7"]).check_ip(ip("fd12::1")).is_ok());
    }

    #[test]
    fn a_wide_network_does_not_open_metadata_or_what_is_no_host() {
        let guard = allowing(&["0.0.0.0/0", "::/0", "fd00::/8"]);
        for denied in [
            "169.254.169.254",
            "fd00:ec2::254",
            "fe80::1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "ff02::1",
            "::",
        ] {
            assert!(guard.check_ip(ip(denied)).is_err(), "{denied}");
        }
        assert!(guard.check_ip(ip("10.0.0.1")).is_ok());
        assert!(guard.check_ip(ip("fd12::1")).is_ok());
        assert!(allowing(&["169.254.7.0/24"]).check_ip(ip("169.254.7.1")).is_ok());
    }

    #[test]
    fn our_own_listeners_are_refused_even_where_loopback_is_allowed() {
        let guard = Guard {
            own_addresses: vec!["127.0.0.1:8071".parse().expect("address"), "0.0.0.0:9090".parse().expect("address")],
            ..allowing(&["127.0.0.0/8"])
        };
        assert!(check(&guard, "http://127.0.0.1:8071/").is_err());
        assert!(check(&guard, "http://127.0.0.1:9090/").is_err());
        assert!(check(&guard, "http://127.0.0.2:9090/").is_err());
        assert!(check(&guard, "http://127.0.0.1:8072/").is_ok());
    }

    #[test]
    fn an_address_of_this_machine_is_known_by_both_ends_being_equal() {
        let [here, there]: [SocketAddr; 2] =
            ["198.100.1.1:5000", "198.100.1.2:80"].map(|text| text.parse().expect("address"));
        assert!(Guard::default().check_self_connection(here, there).is_ok());
        assert!(Guard::default().check_self_connection(here, SocketAddr::new(here.ip(), 80)).is_err());
        assert!(allowing(&["198.100.0.0/16"]).check_self_connection(here, SocketAddr::new(here.ip(), 80)).is_ok());
    }

    #[test]
    fn a_denied_port_is_refused_with_the_setting_and_what_it_leaves() {
        let text = |denied_ports: &[RangeInclusive<u16>], port| {
            let guard = Guard { denied_ports: denied_ports.to_vec(), ..Guard::default() };
            let forbidden = guard.check_port(port).expect_err("is denied");
            assert_eq!(forbidden.customer_text(), forbidden.to_string());
            forbidden.customer_text()
        };
        assert_eq!(
            text(&default_denied_ports(), 9),
            "port 9 is not allowed: egress.deny_ports of the server's settings leaves 80, 443, 1024-2374, 2378, 2381-5431, \
             5433-6378, 6380-9199, 9201-9299, 9301-10249, 10251-11210, 11212-27016 and 27018-65535"
        );
        let leaves = |denied: &[RangeInclusive<u16>], port| {
            text(denied, port).rsplit_once("leaves ").expect("says so").1.to_owned()
        };
        assert_eq!(leaves(&[9000..=9999, 0..=79, 81..=9500, 70..=75], 9), "80 and 10000-65535");
        assert_eq!(leaves(&[2..=65535], 9), "1");
        assert_eq!(leaves(&[0..=65535], 9), "none");
        let odd: Vec<_> = (1..200).map(|n| n * 2 - 1..=n * 2 - 1).collect();
        assert!(leaves(&odd, 9).ends_with("38, 40 and others above"), "{}", leaves(&odd, 9));
        assert_eq!(text(&[], 0), "port 0 is not allowed: nobody can be called at it; 1 to 65535 are ports");
    }

    #[test]
    fn a_customer_reads_no_address() {
        let refusal = check(&Guard::default(), "http://10.1.2.3/").expect_err("private");
        assert!(refusal.to_string().contains("10.1.2.3"));
        assert!(!refusal.customer_text().contains("10.1.2.3"));
    }

    proptest! {
        #[test]
        fn an_embedding_is_never_more_allowed_than_its_v4_address(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            for guard in [Guard::default(), allowing(&["0.0.0.0/0", "::/0"]), Guard { nat64: true, ..Guard::default() }] {
                for embedding in embeddings(v4) {
                    prop_assert!(guard.check_ip(embedding.into()).is_err(), "{embedding}");
                }
            }
        }

        #[test]
        fn nat64_has_the_verdict_of_what_it_embeds(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets();
            let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let open = Guard { nat64: true, ..allowing(&["10.0.0.0/8"]) };
            prop_assert_eq!(open.check_ip(nat64.into()).is_ok(), Guard::default().check_ip(v4.into()).is_ok());
            prop_assert!(Guard::default().check_ip(nat64.into()).is_err());
        }

        #[test]
        fn without_allowed_networks_nothing_private_or_local_passes(bits: u32, wide: u128) {
            let v4 = Ipv4Addr::from(bits);
            if v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
                || v4.is_unspecified() || v4.is_documentation()
            {
                prop_assert!(Guard::default().check_ip(v4.into()).is_err());
            }
            let v6 = Ipv6Addr::from(wide);
            if !GLOBAL_UNICAST.contains(&v6) {
                prop_assert!(Guard::default().check_ip(v6.into()).is_err());
            }
        }

        #[test]
        fn a_literal_in_a_url_is_judged_like_its_address(bits: u32) {
            let v4 = Ipv4Addr::from(bits);
            for url in [format!("http://{v4}/"), format!("http://{bits}/"), format!("http://0x{bits:x}/")] {
                prop_assert_eq!(check(&Guard::default(), &url).is_ok(), Guard::default().check_ip(v4.into()).is_ok());
            }
        }
    }
}
