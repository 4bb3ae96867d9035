//! The kernel side as user space sees it: the only module that uses aya.
//!
//! [`Filter`] is the loaded program with its maps as typed handles: [`settings`](SettingsPage) to publish,
//! [`counters`](CounterTable) to read, [`debts`](DebtTables) to inspect while the filter runs, lists to edit.
//! [`interface`] queries interfaces and [`features`] the capabilities of their drivers; [`error`] describes failures
//! in terms that an operator understands.
//!
//! Invariant: dropping a `Filter` detaches it from every interface; nothing stays in the kernel.

mod allow_proven;
mod attach;
mod btf;
mod clock;
mod counters;
mod debts;
mod egress;
pub mod error;
pub mod features;
pub mod interface;
pub mod limit;
mod link;
mod lists;
mod load;
mod local;
mod mapped;
mod open;
mod pause;
mod plain;
mod settings;
mod solicited;

pub use attach::{Attachment, Found, Noting, occupied};
pub use clock::Clock;
pub use counters::CounterTable;
pub use debts::{DebtTables, Debtor, Family, Side};
pub use egress::{Hook, remove_left_behind};
pub use error::BpfError;
pub use lists::ListMaps;
pub use load::{Filter, FilterOptions, OBJECT, RunOutcome, SHORTEST_FRAME, tables_of_others};
pub use open::OpenPorts;
pub use pause::Pause;
pub use settings::SettingsPage;
pub use solicited::SolicitTable;
