//! A typical host, with visitors and clients of its own: the share of their attempts that succeeds during an attack.

use std::{
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use ipnet::IpNet;

use crate::{
    clients::{self, Client, Tally, Window},
    lab::{Lab, Role},
    packet::{RESOLVER, RESOLVER6, SERVER, SERVER6},
    programs::Programs,
    service::{Echo, Service},
};

use super::{
    Guard,
    attack::Attack,
    site::{Flooded, NOBODY, Site},
    vector::GAME,
};

/// Ports of name servers, of sessions (QUIC) and of NTP.
const NAMES: u16 = 53;
const SESSIONS: u16 = 443;
const TIME: u16 = 123;

/// Ports where the host's Unbound and its dnsmasq listen: for upstreams over IPv4, and over IPv6.
const UNBOUND: [u16; 2] = [5_301, 5_303];
const DNSMASQ: [u16; 2] = [5_302, 5_304];

/// How long an attack lasts before measuring starts: until the countermeasures are active, and the bursts of limits
/// are used up.
const LEAD: Duration = Duration::from_millis(700);

/// A host behind a filter. The servers that it uses are in the visitor's network, behind the same jitter.
pub(super) struct Host {
    _services: Vec<Service>,
    _echoes: Vec<Echo>,
    arrivals: Programs,
    /// Dropped last, with the namespaces.
    site: Site,
}

/// Results of an attack.
pub(super) struct Outcome {
    /// Million packets a second of the attack that the host received.
    pub(super) flood_mpps: f64,
    /// The share of the attack that reached the network stack.
    pub(super) reached: f64,
    /// Results of visitors, by service,
    pub(super) visitors: Vec<(&'static str, Tally)>,
    /// and of the host's own clients.
    pub(super) own: Vec<(&'static str, Tally)>,
}

impl Host {
    /// Sets up a host.
    pub(super) fn new(guard: Guard) -> Result<Self> {
        let lab = Lab::new()?;
        let (server, outside) = (lab.host(Role::Server), lab.host(Role::Visitor));
        let resolvers = [RESOLVER, RESOLVER6];
        let [.., last] = NOBODY;
        let mut routes = Vec::new();
        for resolver in resolvers {
            outside.ip(&format!("address add {} dev eth0 nodad", IpNet::from(resolver)))?;
            let mac = Role::Visitor.mac_text();
            routes.push(format!("route add {} dev eth0", IpNet::from(resolver)));
            routes.push(format!("neighbour add {resolver} lladdr {mac} dev eth0"));
        }
        // Replies to spoofed addresses go to a nonexistent router.
        for (router, everybody) in [("192.0.2.254", "0.0.0.0/0"), ("2001:db8::fe", "::/0")] {
            routes.push(format!("route add {router} dev eth0"));
            routes.push(format!("neighbour add {router} lladdr 02:00:00:00:00:{last:02x} dev eth0"));
            routes.push(format!("route add {everybody} via {router} dev eth0"));
        }
        server.ip_all(&routes)?;
        let mut services = vec![
            Service::web_server(server, &[SERVER, SERVER6])?,
            Service::name_server(server, &[SERVER, SERVER6])?,
            Service::web_server(outside, &resolvers)?,
            Service::name_server(outside, &resolvers)?,
        ];
        let mut echoes = Vec::new();
        for address in [SERVER, SERVER6] {
            echoes.push(Echo::start(server, (address, GAME).into())?);
        }
        for ((resolver, unbound), dnsmasq) in resolvers.into_iter().zip(UNBOUND).zip(DNSMASQ) {
            services.push(Service::resolver(server, local(unbound), resolver)?);
            services.push(Service::forwarder(server, local(dnsmasq), resolver)?);
            echoes.push(Echo::start(outside, (resolver, SESSIONS).into())?);
            echoes.push(Echo::start(outside, (resolver, TIME).into())?);
        }
        let mut arrivals = Programs::load()?;
        server.within(|| arrivals.count_arrivals("eth0"))?;
        Ok(Self { _services: services, _echoes: echoes, arrivals, site: Site::new(lab, guard)? })
    }

    /// Returns its filter.
    pub(super) fn guard(&self) -> Guard {
        self.site.guard()
    }

    /// Returns its site.
    pub(super) fn site(&self) -> &Site {
        &self.site
    }

    /// Runs visitors and the host's own clients during an attack, all over one family. Connections and sessions are
    /// open before it begins.
    pub(super) fn under(&self, attack: &Attack, ipv6: bool, duration: Duration) -> Result<Outcome> {
        let (server, outside) = (self.site.lab().host(Role::Server), self.site.lab().host(Role::Visitor));
        let visitors = outside.within(|| visitors(if ipv6 { SERVER6 } else { SERVER }))?;
        let own = server.within(|| own(ipv6))?;
        let counts = || -> Result<[u64; 2]> {
            let [.., last] = NOBODY;
            // All packets except the flood come from the visitor's network.
            let received = server.packets_received("eth0")?.saturating_sub(outside.packets_sent("eth0")?);
            Ok([received, self.arrivals.arrivals(last)?])
        };
        let work = || {
            thread::sleep(LEAD);
            let (begin, before) = (Instant::now(), counts()?);
            let window = Window { begin, end: begin + duration };
            let (visitors, own) = thread::scope(|scope| {
                let visiting = scope.spawn(|| clients::run(outside, visitors, window));
                let own = clients::run(server, own, window)?;
                Ok::<_, anyhow::Error>((
                    visiting.join().unwrap_or_else(|_| bail!("a visitor panicked"))?,
                    own,
                ))
            })?;
            let (elapsed, after) = (begin.elapsed().as_secs_f64(), counts()?);
            let [received, arrived] = [0, 1].map(|n| after[n].saturating_sub(before[n]) as f64);
            let flood_mpps = if attack.is_none() { 0.0 } else { received / elapsed / 1e6 };
            Ok(Outcome { flood_mpps, reached: (arrived / received.max(1.0)).min(1.0), visitors, own })
        };
        let Flooded { value, .. } = self.site.under(attack, work)?;
        Ok(value)
    }
}

fn local(port: u16) -> SocketAddr {
    (IpAddr::from([127, 0, 0, 1]), port).into()
}

/// Returns the clients that the host serves.
fn visitors(server: IpAddr) -> Result<Vec<Client>> {
    Ok(vec![
        Client::of_pages("pages", server),
        Client::of_connections("connections", server)?,
        Client::of_names("names", (server, NAMES).into()),
        Client::of_game("game", (server, GAME).into())?,
        Client::of_fragments("fragments", (server, GAME).into())?,
    ])
}

/// Returns the clients that run on the host.
fn own(ipv6: bool) -> Result<Vec<Client>> {
    let (family, resolver) = (usize::from(ipv6), if ipv6 { RESOLVER6 } else { RESOLVER });
    Ok(vec![
        Client::of_pages("own pages", resolver),
        Client::of_connections("own connections", resolver)?,
        Client::of_names("Unbound", local(UNBOUND[family])),
        Client::of_names("dnsmasq", local(DNSMASQ[family])),
        Client::of_time("NTP", resolver)?,
        Client::of_sessions("QUIC", (resolver, SESSIONS).into())?,
    ])
}
