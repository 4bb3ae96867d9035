//! What has passed, and on whose account: the model that determines how much may pass.
//!
//! A pot is a limit for one source or destination, or an account of evidence. Each packet that passes is poured into
//! the pots that it belongs to by what it *is*, not by what the filter took it for. A pot drains at the rate of its
//! limit (GCRA, with an arrival time that never wraps), so it never exceeds the burst, except for small
//! [shares](overflow_ns).
//!
//! Conversely: a packet that is dropped for a limit that is not full here was dropped wrongly.

use std::{collections::HashMap, net::Ipv4Addr};

use flood_common::{
    abi::{BUDGET_PORTS, BUDGET_PORTS_REFLECTED, BUDGET_RETRANSMISSIONS, MAX_CELLS, Settings},
    account::{Account, share},
    address::Address,
    class::{Cell, Class, Scope},
    meter::{Limit, Price},
    packet::Packet,
    reason::Reason,
    wire::protocol,
};

use super::ATTACKER;

/// The evidence that a packet of the attacker legitimately has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Evidence {
    /// None.
    Nothing,
    /// It belongs to a connection or session of its source, or carries a valid cookie.
    Connection,
    /// It is an error about a connection of the attacker.
    Error,
    /// It is a reply to the one request that the attacker's server received.
    Answer,
}

/// Replies to a request that may pass, with a margin; and packets that pass by a lucky guess.
const ANSWERS: u64 = 16;
const GUESSES: u64 = 16;

/// A limit, and what is counted in it: an address or a port, 0 for all traffic.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Pot {
    Cell(usize, u32),
    Account(u32, u32),
    Budget(u32),
}

/// How full each pot is, as the time when it will be empty.
#[derive(Default)]
pub(super) struct Ledger {
    empty_at: HashMap<Pot, u64>,
    answers: u64,
    guesses: u64,
}

/// Returns one and a half times the tolerance, plus some packets: a 32nd of a limit passes through the sketch, a
/// total is leased in sixteenths, and a budget is charged by whichever check comes first.
fn overflow_ns(limit: &Limit, price: &Price) -> u64 {
    let tolerance_ns = limit.packet_tolerance_ns.max(limit.bit_tolerance_ns);
    tolerance_ns + tolerance_ns / 2 + 8 * price.cost_ns
}

fn v4(address: Address) -> u32 {
    match address {
        Address::V4(bits) => bits,
        Address::V6 { .. } => unreachable!("trials are IPv4"),
    }
}

/// Returns the cells that a packet of a class is charged to, with the pot in each.
fn cells(settings: &Settings, packet: &Packet, class: Class) -> Vec<(Cell, Pot, Limit)> {
    let plan = settings.plan[class as usize][..MAX_CELLS].iter().take_while(|entry| **entry != 0);
    plan.map(|entry| {
        let cell = Cell::from_number(entry - 1);
        let address = v4(if cell.is_by_destination() { packet.destination } else { packet.source });
        let who = match (cell.is_total(), cell.is_by_prefix()) {
            (true, _) => 0,
            (false, true) => address & settings.masks_v4[1],
            (false, false) => address,
        };
        (cell, Pot::Cell(cell.number(), who), settings.limits[cell.number()])
    })
    .collect()
}

fn port_of(packet: &Packet) -> u32 {
    packet.ports.map_or(0, |ports| ports.destination.into())
}

/// Returns the budget of all ports, and the limit for the share of each port.
fn port_share(settings: &Settings, class: Class) -> (Pot, Limit) {
    let is_reflected = matches!(class, Class::Amplification | Class::Answered);
    let budget = if is_reflected { BUDGET_PORTS_REFLECTED } else { BUDGET_PORTS };
    (Pot::Budget(budget), settings.port_shares[usize::from(is_reflected)])
}

impl Ledger {
    fn debt_ns(&self, pot: Pot, now_ns: u64) -> u64 {
        self.empty_at.get(&pot).map_or(0, |at| at.saturating_sub(now_ns))
    }

    fn pour(&mut self, pot: Pot, limit: &Limit, price: &Price, now_ns: u64) -> Result<(), String> {
        let debt_ns = self.debt_ns(pot, now_ns) + price.cost_ns;
        let most_ns = overflow_ns(limit, price);
        if debt_ns <= most_ns {
            self.empty_at.insert(pot, now_ns + debt_ns);
            return Ok(());
        }
        Err(format!(
            "{} is {} ms over now, {} is the most",
            pot.name(),
            debt_ns / 1_000_000,
            most_ns / 1_000_000
        ))
    }

    /// Records a packet of this class that passed, or was answered, for this reason.
    pub(super) fn passed(
        &mut self,
        settings: &Settings,
        packet: &Packet,
        (class, evidence): (Class, Evidence),
        reason: Reason,
        now_ns: u64,
    ) -> Result<(), String> {
        let source = v4(packet.source);
        let length = packet.length;
        let account_of = |account: Account, who: u32| {
            (Pot::Account(account as u32, who), settings.accounts[account as usize])
        };
        let account = |account| account_of(account, source);
        let (pot, limit) = match reason {
            Reason::Conforming | Reason::Unaccounted => {
                return cells(settings, packet, class)
                    .into_iter()
                    .try_for_each(|(_, pot, limit)| self.pour(pot, &limit, &limit.price(length), now_ns));
            }
            Reason::PortShare => {
                for (cell, pot, limit) in cells(settings, packet, class) {
                    if !cell.is_wide() {
                        self.pour(pot, &limit, &limit.price(length), now_ns)?;
                    }
                }
                let (budget, limit) = port_share(settings, class);
                let pot = Pot::Account(Account::Port as u32, port_of(packet));
                self.pour(pot, &limit, &share(&limit.price(length)), now_ns)?;
                (budget, limit)
            }
            Reason::Protected => {
                let Some(vital) = packet.vital else { return Err("protected, and not vital".into()) };
                let limit = settings.vital[vital as usize];
                let pot = Pot::Account(vital.account() as u32, source);
                self.pour(pot, &limit, &share(&limit.price(length)), now_ns)?;
                (Pot::Budget(vital as u32), limit)
            }
            Reason::SynAgain => {
                let limit = settings.retransmissions;
                let pot = Pot::Account(Account::Again as u32, source);
                self.pour(pot, &limit, &share(&limit.price(length)), now_ns)?;
                (Pot::Budget(BUDGET_RETRANSMISSIONS), limit)
            }
            Reason::QueueHasRoom => account_of(Account::Room, port_of(packet)),
            Reason::Answered => {
                let (pot, limit) = account(Account::Answered);
                // Over that limit, one answer for two SYNs is allowed.
                if self.is_full(pot, &limit.price(length), now_ns) {
                    return Ok(());
                }
                (pot, limit)
            }
            Reason::Proven | Reason::Solicited => match evidence {
                Evidence::Connection => {
                    // A session has an account of its own, in addition to that of its source.
                    let (session, limit) = account_of(Account::Proven, !source);
                    let is_session = reason == Reason::Solicited;
                    if is_session && self.pour(session, &limit, &limit.price(length), now_ns).is_ok() {
                        return Ok(());
                    }
                    account(Account::Proven)
                }
                Evidence::Error => account_of(Account::Errors, ATTACKER.to_bits()),
                Evidence::Answer => {
                    self.answers += 1;
                    return if self.answers <= ANSWERS {
                        Ok(())
                    } else {
                        Err("one question, and so many answers".into())
                    };
                }
                Evidence::Nothing => {
                    self.guesses += 1;
                    return if self.guesses <= GUESSES {
                        Ok(())
                    } else {
                        Err("nothing speaks for it".into())
                    };
                }
            },
            _ => return Err("there is no account for this reason".into()),
        };
        self.pour(pot, &limit, &limit.price(length), now_ns)
    }

    /// Whether a pot has little left.
    fn is_full(&self, pot: Pot, price: &Price, now_ns: u64) -> bool {
        // A total is leased ahead of what has passed, by an eighth of it at most.
        self.debt_ns(pot, now_ns) + 2 * price.cost_ns > price.tolerance_ns / 5 * 4
    }

    /// Checks that other traffic has used up the limit that a packet without evidence was dropped for.
    ///
    /// # Errors
    /// Describes what is left of the limit.
    pub(super) fn excuses(
        &self,
        settings: &Settings,
        packet: &Packet,
        class: Class,
        reason: Reason,
        now_ns: u64,
    ) -> Result<(), &'static str> {
        let length = packet.length;
        let is_reason =
            |cell: Cell| [false, true].map(|bits| Reason::exceeding(cell, bits)).contains(&reason);
        let is_full = cells(settings, packet, class)
            .into_iter()
            .any(|(cell, pot, limit)| is_reason(cell) && self.is_full(pot, &limit.price(length), now_ns));
        if !is_full {
            return Err("nobody has used up that limit");
        }
        let is_of_many = Scope::ALL[2..].iter().any(|scope| is_reason(Cell::new(*scope, Class::Any)));
        if !is_of_many || packet.protocol != protocol::UDP {
            return Ok(());
        }
        // In addition to a limit shared by many there is the share of the port.
        let (budget, limit) = port_share(settings, class);
        let price = limit.price(length);
        let port = Pot::Account(Account::Port as u32, port_of(packet));
        let has_had_it = self.is_full(port, &share(&price), now_ns) || self.is_full(budget, &price, now_ns);
        if has_had_it { Ok(()) } else { Err("its port has not had its share") }
    }

    /// Whether other traffic has used up the account for retransmitted SYNs of a source.
    pub(super) fn excuses_syn(&self, settings: &Settings, source: Ipv4Addr, now_ns: u64) -> bool {
        let again = Pot::Account(Account::Again as u32, source.to_bits());
        let price = settings.retransmissions.price(0);
        self.is_full(again, &share(&price), now_ns)
            || self.is_full(Pot::Budget(BUDGET_RETRANSMISSIONS), &price, now_ns)
    }
}

impl Pot {
    /// Describes it for a message.
    fn name(self) -> String {
        match self {
            Self::Cell(number, who) => {
                let cell = Cell::from_number(u8::try_from(number).unwrap_or(0));
                let name = flood_userspace::config::CellName::of(cell)
                    .map_or_else(String::new, |name| name.to_string());
                format!("{name} of {}", Ipv4Addr::from(who))
            }
            Self::Account(number, who)
                if number == Account::Port as u32 || number == Account::Room as u32 =>
            {
                format!("account {number} of port {who}")
            }
            Self::Account(number, who) => format!("account {number} of {}", Ipv4Addr::from(who)),
            Self::Budget(number) => format!("budget {number}"),
        }
    }
}
