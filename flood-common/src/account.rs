//! Budgets beside the limits: for what passes over a limit by [evidence](crate::evidence), for what the filter
//! sends back, and for what keeps the host reachable.
//!
//! Each account is charged in the debt tables, as a limit is: to a source, or to whatever the account is kept by.
//! Evidence that cannot be forged is charged to an account that nothing else is charged to. So an attacker who
//! spoofs a victim uses up only what the victim may send without evidence.
//!
//! Invariant: nothing passes over a limit without an account, except by evidence from sources that the operator has
//! listed for that.

use crate::{
    abi::{DebtPlace, Settings},
    address::{Address, Network},
    meter::{self, Charge, Price},
    packet::{Ports, Vital},
    place::Place,
    solicit::hash,
};

/// The purpose of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Account {
    /// Packets of connections, and valid cookies: by source. Packets of sessions: by flow.
    Proven = 0,
    /// SYN-ACKs that the filter sends: by the address that they are sent to.
    Answered = 1,
    /// The same, by the network that they are sent to.
    AnsweredNetwork = 2,
    /// SYNs that pass because they were retransmitted: by source.
    Again = 3,
    /// ICMP errors about packets that this host sent: by the destination of those packets.
    Errors = 4,
    /// SYNs to a listener whose queue reports room: by listener.
    Room = 5,
    /// UDP over a shared limit: by port of this host.
    Port = 6,
    /// Neighbour discovery: by source.
    NeighbourDiscovery = 7,
    /// Path-MTU messages: by source.
    PathMtu = 8,
    /// Packets to all hosts of a link: by source.
    Link = 9,
    /// [Memory](crate::reassembly) for fragments: by source.
    Fragments = 10,
    /// The same, for fragments that are solicited or proven.
    FragmentsProven = 11,
    /// Packets of [sessions that sockets do not show](crate::watch): by source.
    Watched = 12,
}

/// Room for accounts. Together with the classes of a scope, all numbers of an [owner](meter::owner).
pub const ACCOUNTS: usize = 16;

impl Account {
    /// The number of an [owner](meter::owner); those of classes are smaller.
    #[inline(always)]
    const fn owner_number(self) -> u32 {
        ACCOUNTS as u32 + self as u32
    }
}

impl Vital {
    /// Returns the account that keeps one source from using up the budget of others.
    #[inline(always)]
    pub const fn account(self) -> Account {
        match self {
            Self::NeighbourDiscovery => Account::NeighbourDiscovery,
            Self::PathMtu => Account::PathMtu,
            Self::Link => Account::Link,
        }
    }
}

/// The party that is charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum By {
    /// A source, or the network that it is in.
    Source {
        /// The address or prefix that it [counts by](Address::source_network).
        source: Network,
        /// Whether the network is charged.
        network: bool,
    },
    /// A hash of whatever the account is kept by.
    Hash(u64),
}

impl By {
    /// A source.
    #[inline(always)]
    pub fn source(source: Network) -> Self {
        Self::Source { source, network: false }
    }

    /// The network of a source.
    #[inline(always)]
    pub fn network(source: Network) -> Self {
        Self::Source { source, network: true }
    }

    /// A port of an address.
    #[inline(always)]
    pub fn port(settings: &Settings, address: Address, port: u16) -> Self {
        Self::Hash(hash(&settings.solicit_seeds, [address, address], port.into()))
    }
}

/// Where accounts are kept: BPF maps in the kernel, ordinary memory on a host.
pub trait Accounts {
    /// Whether a packet exceeds an account. Nothing is charged.
    fn exceeds_account(
        &self,
        settings: &Settings,
        account: Account,
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> bool;
    /// Charges a packet to an account.
    fn charge_account(
        &self,
        settings: &Settings,
        account: Account,
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> Charge;
    /// Charges a host-wide budget (by number), of which no owner gets more than a [share](meter::SHARE). Charges
    /// [both](charge_both), or none.
    fn charge_shared(
        &self,
        settings: &Settings,
        owner: (Account, u32),
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> bool;
}

/// Charges a budget, and an account for its [share](share): both, or none. `exceeds` and `charge` act on the
/// account.
#[inline(always)]
pub fn charge_both(
    price: &Price,
    exceeds: impl FnOnce(&Price) -> bool,
    charge_budget: impl FnOnce(&Price) -> Charge,
    charge: impl FnOnce(&Price) -> Charge,
) -> bool {
    let share = share(price);
    !exceeds(&share) && charge_budget(price) == Charge::Conforming && charge(&share) != Charge::Exceeding
}

/// Returns what a packet costs an owner that has a [share](meter::SHARE) of a budget.
#[inline(always)]
pub fn share(price: &Price) -> Price {
    Price { cost_ns: price.cost_ns << meter::SHARE, ..*price }
}

impl Settings {
    /// Returns where an owner is charged for an account, in tables of `2^bucket_bits` buckets. Owners given by a
    /// hash are in the table of IPv6 sources, which finds its owners by a hash as well.
    #[inline(always)]
    pub fn account_place(&self, account: Account, by: By, bucket_bits: u32) -> DebtPlace {
        let (family, place, by_network) = match by {
            By::Source { source, network } => {
                let (family, place) = self.place(source, network, bucket_bits);
                (family, place, network)
            }
            By::Hash(hash) => {
                let bucket = (hash >> (64 - bucket_bits)) as u32;
                (1, Place { bucket, tag: (hash >> (48 - bucket_bits)) as u16 }, false)
            }
        };
        DebtPlace::new(
            family,
            place,
            meter::owner(by_network, account.owner_number(), place.tag),
            bucket_bits,
        )
    }
}

/// Returns the two ports of a packet, or zeros.
#[inline(always)]
pub(crate) fn ports(ports: Option<Ports>) -> [u16; 2] {
    ports.map_or([0; 2], |ports| [ports.source, ports.destination])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        class::{Cell, Class, Scope},
        place::MIN_BUCKET_BITS,
    };

    #[test]
    fn nobody_is_charged_for_an_account_where_he_is_charged_for_a_limit() {
        let settings = Settings { masks_v4: [u32::MAX; 2], ..Settings::default() };
        let address = Address::V4(0xc633_6401);
        let source = settings.source(address);
        let limits = Scope::ALL.into_iter().flat_map(|scope| Class::ALL.map(|class| Cell::new(scope, class)));
        let limits: Vec<_> = limits.map(|cell| settings.debt_place(cell, source, MIN_BUCKET_BITS)).collect();
        for account in [Account::Proven, Account::AnsweredNetwork, Account::Link] {
            for by in [By::source(source), By::network(source)] {
                assert!(
                    !limits.contains(&settings.account_place(account, by, MIN_BUCKET_BITS)),
                    "{account:?}"
                );
            }
        }
        let place = |account| settings.account_place(account, By::source(source), MIN_BUCKET_BITS);
        assert_ne!(place(Account::Proven).owner, place(Account::Again).owner);
        assert_ne!(place(Account::Proven).bucket, place(Account::Again).bucket);
    }
}
