//! The second look at a packet over a limit: whether it can still give evidence.
//!
//! A flood from spoofed addresses exceeds the limits of destinations and totals, which other sources share. A flood
//! from the spoofed address of a victim exceeds the limits of that source. So a packet that a limit would drop gets
//! a second look. If it gives [evidence](crate::evidence) that its source is genuine, it passes and is charged to
//! an [account](crate::account) reserved for such packets. A SYN gives none. It is answered with a cookie, or has
//! to be retransmitted.
//!
//! None of this costs anything before a limit is exceeded, and none of it drops what the limit alone would have
//! passed.

use crate::{
    abi::{BUDGET_PORTS, BUDGET_PORTS_REFLECTED, BUDGET_RETRANSMISSIONS, Settings, solicited},
    account::{Account, By, ports},
    address::Address,
    again::{self, SynPlace},
    class::Class,
    decide::{charge_source, source_of},
    evidence::{Cookie, Opening, Quote, Receiver, Segment, Standing},
    meter::{Charge, Price},
    packet::Packet,
    reason::Reason,
    reassembly::Memory,
    solicit::Flow,
    watch,
    wire::{Window, protocol},
};

/// Bits of [`Settings::proof`]: which evidence is checked.
pub mod means {
    /// SYNs are answered with cookies of the listener.
    pub const COOKIES: u32 = 1 << 0;
    /// Retransmitted SYNs pass.
    pub const RETRANSMISSION: u32 = 1 << 1;
    /// Packets other than SYNs pass when they fit a socket of this host.
    pub const SOCKETS: u32 = 1 << 2;
}

/// What the host knows about a packet over a limit.
pub trait Host: Memory {
    /// Returns what happens to a SYN.
    fn open(&self, packet: &Packet) -> Opening;
    /// Returns what the sockets say about any other TCP segment.
    fn stand(&self, packet: &Packet, segment: &Segment) -> Standing;
    /// Whether a connection or a connected socket of this host sent what an ICMP error quotes.
    fn has_sent(&self, quote: &Quote) -> bool;
    /// Whether a SYN [was sent before](again::came_again); if not, notes it.
    fn came_again(&self, place: SynPlace, now_ns: u64) -> bool;
}

/// Whether the number is of a reason about one source: it sends more than its limit.
#[inline(always)]
fn is_of_source(exceeded: u32) -> bool {
    exceeded <= Reason::SourceBits.number()
}

/// Whether the number is of a limit that sources share, not of a source or its network.
#[inline(always)]
pub(crate) fn is_of_many(exceeded: u32) -> bool {
    exceeded >= Reason::DestinationPackets.number()
}

/// The outcome of the second look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// The packet passes or is dropped, for this reason.
    Verdict(Reason),
    /// The packet is answered.
    Answer(Cookie),
    /// Nothing speaks for the packet: it is dropped for the limit that it exceeds.
    Nothing,
}

/// A packet that gets a second look.
struct Case<'a, H> {
    packet: &'a Packet,
    class: u64,
    exceeded: u32,
    settings: &'a Settings,
    now_ns: u64,
    host: &'a H,
}

/// Takes a second look at a packet that exceeded a limit as one of this class (by number). `exceeded` is the number
/// of that reason.
#[inline(always)]
pub fn prove<'a, H: Host>(
    packet: &Packet,
    class: u64,
    exceeded: u32,
    window: impl Window<'a>,
    settings: &Settings,
    now_ns: u64,
    host: &H,
) -> Proof {
    let case = Case { packet, class, exceeded, settings, now_ns, host };
    match packet.protocol {
        protocol::TCP => match Segment::read(packet, window) {
            Some(segment) if packet.class == Class::Syn => case.open(&segment),
            Some(segment) => case.stand(&segment),
            None => Proof::Nothing,
        },
        _ if !case.asks(means::SOCKETS) => Proof::Nothing,
        protocol::UDP => case.receive(),
        _ => match Quote::read(packet, window) {
            Some(quote) if host.has_sent(&quote) => {
                case.passes(Account::Errors, By::source(settings.source(quote.destination)), Reason::Proven)
            }
            Some(quote) => case.absent(quote.source, Reason::NoConnection),
            None => Proof::Nothing,
        },
    }
}

impl<H: Host> Case<'_, H> {
    #[inline(always)]
    fn asks(&self, means: u32) -> bool {
        self.settings.proof & means != 0
    }

    /// Something speaks against the packet, and it is dropped for that reason; but if it is over the limit of its
    /// own source, it is dropped for the limit.
    #[inline(always)]
    fn refused(&self, reason: Reason) -> Proof {
        if is_of_source(self.exceeded) { Proof::Nothing } else { Proof::Verdict(reason) }
    }

    /// Nothing here wants the packet, if that is known for packets to this address.
    #[inline(always)]
    fn absent(&self, address: Address, reason: Reason) -> Proof {
        if self.settings.absence != 0 && self.host.is_local(self.settings, address) {
            self.refused(reason)
        } else {
            Proof::Nothing
        }
    }

    #[inline(always)]
    fn price(&self, account: Account) -> Price {
        self.settings.accounts[account as usize].price(self.packet.length)
    }

    #[inline(always)]
    fn exceeds(&self, account: Account, by: By) -> bool {
        self.host.exceeds_account(self.settings, account, by, self.now_ns, &self.price(account))
    }

    #[inline(always)]
    fn charge(&self, account: Account, by: By) -> bool {
        let charge = self.host.charge_account(self.settings, account, by, self.now_ns, &self.price(account));
        charge != Charge::Exceeding
    }

    /// The packet gives evidence: it passes within what its source may send by evidence, and over that if the
    /// source is listed for it.
    #[inline(always)]
    fn proven(&self) -> Proof {
        let source = self.packet.source;
        if self.charge(Account::Proven, By::source(self.settings.source(source))) {
            Proof::Verdict(Reason::Proven)
        } else if self.host.is_allowed_by_evidence(self.settings, source, self.now_ns) {
            Proof::Verdict(Reason::Allowed)
        } else {
            Proof::Nothing
        }
    }

    /// The packet passes, for this reason, if enough is left of an account.
    #[inline(always)]
    fn passes(&self, account: Account, by: By, reason: Reason) -> Proof {
        if self.charge(account, by) { Proof::Verdict(reason) } else { Proof::Nothing }
    }

    /// Judges a TCP segment that is not a SYN.
    #[inline(always)]
    fn stand(&self, segment: &Segment) -> Proof {
        let destination = self.packet.destination;
        if !self.asks(means::SOCKETS) {
            return self.elsewhere(Proof::Nothing);
        }
        match self.host.stand(self.packet, segment) {
            Standing::Proven => self.proven(),
            Standing::Unproven => self.refused(Reason::NoConnection),
            // A listener may be in front of an address translation, whose connections it does not know.
            Standing::WrongCookie => self.elsewhere(self.absent(destination, Reason::WrongCookie)),
            Standing::NoSocket => self.elsewhere(self.absent(destination, Reason::NoConnection)),
            Standing::Unknown => self.passes(Account::Room, self.listener(), Reason::Proven),
        }
    }

    /// Judges a UDP datagram. A flood that uses up a shared limit takes only the port that it targets: each of this
    /// host's ports gets a share of the limit of its own.
    #[inline(always)]
    fn receive(&self) -> Proof {
        let flow = Flow::of(self.packet);
        if !self.host.is_local(self.settings, flow.local) {
            return Proof::Nothing;
        }
        match self.host.receiver(&flow) {
            Receiver::Connected => self.proven(),
            Receiver::NoSocket => self.absent(flow.local, Reason::NoSocket),
            Receiver::Anybodys => {
                let proof = if self.host.is_tunnel(flow.local_port) {
                    self.watch(&watch::of_tunnel(&flow))
                } else {
                    Proof::Nothing
                };
                if proof == Proof::Nothing && is_of_many(self.exceeded) { self.share(&flow) } else { proof }
            }
        }
    }

    /// A TCP segment that matches no socket here may belong to a connection of another host, if packets are
    /// forwarded.
    #[inline(always)]
    fn elsewhere(&self, proof: Proof) -> Proof {
        if proof == Proof::Nothing && self.settings.absence == 0 {
            self.watch(&Flow::of(self.packet))
        } else {
            proof
        }
    }

    /// Passes a packet of a [session](crate::watch) that sockets do not show. Any other packet makes its source
    /// watched if that sends too much. For a shared limit it does not: many sources would mean many marks, each of
    /// which is a write.
    #[inline(always)]
    fn watch(&self, flow: &Flow) -> Proof {
        if self.settings.solicited & solicited::NOTED == 0 {
            return Proof::Nothing;
        }
        if self.host.is_session(flow.place(&self.settings.solicit_seeds), self.now_ns) {
            let source = source_of(self.packet, self.settings);
            return self.passes(Account::Watched, By::source(source), Reason::Proven);
        }
        if !is_of_many(self.exceeded) {
            self.host.watch(watch::place_of_source(self.settings, flow), self.now_ns);
        }
        Proof::Nothing
    }

    /// Judges a datagram for a port of this host whose source is within its limits.
    #[inline(always)]
    fn share(&self, flow: &Flow) -> Proof {
        let is_mirror = self.settings.reflectors | self.settings.solicited != 0
            && self.host.is_reflector(flow.remote_port);
        // A source on a reflector port that was already told from a reflector is not treated as one.
        let class = if self.class == Class::Answered as u64 || self.class == Class::Udp as u64 {
            self.class
        } else if is_mirror {
            Class::Amplification as u64
        } else {
            Class::Udp as u64
        };
        let is_reflected = class != Class::Udp as u64;
        let budget = if is_reflected { BUDGET_PORTS_REFLECTED } else { BUDGET_PORTS };
        let length = self.packet.length;
        let price = self.settings.port_shares[usize::from(is_reflected)].price(length);
        let by = By::port(self.settings, flow.local, flow.local_port);
        if !self.host.charge_shared(self.settings, (Account::Port, budget), by, self.now_ns, &price) {
            return Proof::Nothing;
        }
        charge_source(self.packet, class as usize, self.settings, self.now_ns, self.host);
        if is_mirror && self.settings.solicited & solicited::NOTED != 0 {
            self.host.mark_begun(flow.place_begun(&self.settings.solicit_seeds), self.now_ns);
        }
        Proof::Verdict(Reason::PortShare)
    }

    /// Returns the listener that a packet is for.
    #[inline(always)]
    fn listener(&self) -> By {
        let [_, port] = ports(self.packet.ports);
        By::port(self.settings, self.packet.destination, port)
    }

    /// Judges a SYN. What the filter answers at once is bounded for each address and each network. Over that bound
    /// it answers only retransmissions, so that a victim receives one packet for two sent in its name. Where no
    /// cookie can be made, retransmissions pass.
    #[inline(always)]
    fn open(&self, segment: &Segment) -> Proof {
        let counted = source_of(self.packet, self.settings);
        let (client, network) = (By::source(counted), By::network(counted));
        let place = again::place(self.packet, segment.sequence, &self.settings.solicit_seeds);
        let comes_again = || self.host.came_again(place, self.now_ns);
        let mut again = false;
        if self.asks(means::COOKIES) && self.host.is_local(self.settings, self.packet.destination) {
            let at_once =
                !self.exceeds(Account::Answered, client) && !self.exceeds(Account::AnsweredNetwork, network);
            if !at_once {
                again = comes_again();
                if !again {
                    return Proof::Verdict(Reason::FirstSyn);
                }
            }
            match self.host.open(self.packet) {
                Opening::Cookie(cookie) => {
                    if at_once {
                        let _ = self.charge(Account::Answered, client);
                        let _ = self.charge(Account::AnsweredNetwork, network);
                    }
                    return Proof::Answer(cookie);
                }
                Opening::Room if self.charge(Account::Room, self.listener()) => {
                    return Proof::Verdict(Reason::QueueHasRoom);
                }
                Opening::Full => return Proof::Verdict(Reason::QueueFull),
                Opening::NoSocket if self.settings.absence != 0 => {
                    return self.refused(Reason::NoListener);
                }
                Opening::NoSocket | Opening::Connection | Opening::Room | Opening::Unable => {}
            }
        } else if !self.asks(means::COOKIES | means::RETRANSMISSION) {
            return Proof::Nothing;
        }
        if !again && !comes_again() {
            return Proof::Verdict(Reason::FirstSyn);
        }
        let price = self.settings.retransmissions.price(self.packet.length);
        let budget = (Account::Again, BUDGET_RETRANSMISSIONS);
        if self.host.charge_shared(self.settings, budget, client, self.now_ns, &price) {
            Proof::Verdict(Reason::SynAgain)
        } else {
            Proof::Nothing
        }
    }
}
