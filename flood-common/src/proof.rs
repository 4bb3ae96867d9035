//! The second look at a packet over a limit: what it can still say for itself.
//!
//! A flood from spoofed addresses exceeds the limits of destinations and totals, and with them whoever else comes; one from the
//! address of a victim exceeds the limits of that source. So a packet that a limit would drop is looked at once more: what
//! gives [evidence](crate::evidence) that its sender is who it says passes, and is charged to an
//! [account](crate::account) that only such packets are charged to. A SYN gives none. It is answered with a cookie, or has to come
//! again.
//!
//! None of this costs anything before a limit is exceeded, and none of it drops what the limit alone would have passed.

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

/// Bits of [`Settings::proof`]: what is asked.
pub mod means {
    /// SYNs are answered with cookies of the listener.
    pub const COOKIES: u32 = 1 << 0;
    /// SYNs pass when they come a second time.
    pub const RETRANSMISSION: u32 = 1 << 1;
    /// All but SYNs pass when this host has a socket that they fit.
    pub const SOCKETS: u32 = 1 << 2;
}

/// What the host says of a packet over a limit.
pub trait Host: Memory {
    /// What becomes of a SYN.
    fn open(&self, packet: &Packet) -> Opening;
    /// What sockets say to another TCP segment.
    fn stand(&self, packet: &Packet, segment: &Segment) -> Standing;
    /// Whether a connection or a connected socket of this host has sent what an ICMP error quotes.
    fn has_sent(&self, quote: &Quote) -> bool;
    /// Whether a SYN [came before](again::came_again); if not, it is noted.
    fn came_again(&self, place: SynPlace, now_ns: u64) -> bool;
}

/// Whether the number is of a reason of one source: that it sends more than its limit.
#[inline(always)]
fn is_of_source(exceeded: u32) -> bool {
    exceeded <= Reason::SourceBits.number()
}

/// Whether it is of a limit of many, rather than of a source or its network.
#[inline(always)]
pub(crate) fn is_of_many(exceeded: u32) -> bool {
    exceeded >= Reason::DestinationPackets.number()
}

/// What became of a packet over a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// It passes or is dropped, for this reason.
    Verdict(Reason),
    /// It is answered.
    Answer(Cookie),
    /// Nothing speaks for it: it is dropped for the limit that it exceeds.
    Nothing,
}

/// A packet that is looked at once more.
struct Case<'a, H> {
    packet: &'a Packet,
    class: u64,
    exceeded: u32,
    settings: &'a Settings,
    now_ns: u64,
    host: &'a H,
}

/// Looks once more at a packet that has exceeded a limit, as one of this class, by its number. `exceeded` is the number of that reason.
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

    /// Something speaks against the packet, and it is dropped for that; but over the limit of its own source it is dropped for the
    /// limit.
    #[inline(always)]
    fn refused(&self, reason: Reason) -> Proof {
        if is_of_source(self.exceeded) { Proof::Nothing } else { Proof::Verdict(reason) }
    }

    /// Nothing here wants the packet, if that can be told for packets to this address.
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

    /// The packet gives evidence: it passes within what its source may send so, and over that if the source is listed for it.
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

    /// The packet passes, for this reason, if there is enough left of an account.
    #[inline(always)]
    fn passes(&self, account: Account, by: By, reason: Reason) -> Proof {
        if self.charge(account, by) { Proof::Verdict(reason) } else { Proof::Nothing }
    }

    /// A TCP segment that is not a SYN.
    #[inline(always)]
    fn stand(&self, segment: &Segment) -> Proof {
        let destination = self.packet.destination;
        if !self.asks(means::SOCKETS) {
            return self.elsewhere(Proof::Nothing);
        }
        match self.host.stand(self.packet, segment) {
            Standing::Proven => self.proven(),
            Standing::Unproven => self.refused(Reason::NoConnection),
            // A listener may be in front of a translation, whose connections it knows nothing of.
            Standing::WrongCookie => self.elsewhere(self.absent(destination, Reason::WrongCookie)),
            Standing::NoSocket => self.elsewhere(self.absent(destination, Reason::NoConnection)),
            Standing::Unknown => self.passes(Account::Room, self.listener(), Reason::Proven),
        }
    }

    /// A UDP datagram. A flood that uses up a limit of many takes only the port that it is aimed at: each of this host's ports
    /// gets a share of the limit beside it.
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

    /// A TCP segment that no socket here knows of may be of a connection of another host, where it is passed on.
    #[inline(always)]
    fn elsewhere(&self, proof: Proof) -> Proof {
        if proof == Proof::Nothing && self.settings.absence == 0 {
            self.watch(&Flow::of(self.packet))
        } else {
            proof
        }
    }

    /// A packet of a [session](crate::watch) that sockets do not tell passes. Another makes its source watched, if that sends too much;
    /// many sources would be many marks, each of which is a write.
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

    /// A datagram for a port of this host, of a source that is within its limits.
    #[inline(always)]
    fn share(&self, flow: &Flow) -> Proof {
        let is_mirror = self.settings.reflectors | self.settings.solicited != 0
            && self.host.is_reflector(flow.remote_port);
        // Who has been told from a mirror on its port is none.
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

    /// The listener that a packet is for.
    #[inline(always)]
    fn listener(&self) -> By {
        let [_, port] = ports(self.packet.ports);
        By::port(self.settings, self.packet.destination, port)
    }

    /// A SYN. What the filter sends back at once is bounded for each address and each network; over that only what comes again is
    /// answered, so that a victim is sent one packet for two that somebody has sent in its name. Where a cookie is not to be had,
    /// what comes again passes.
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
