//! Protects what this host needs from the block list: withholds it from entries that nobody typed, and warns about
//! typed entries that cover it.

use std::collections::{BTreeSet, HashSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tracing::{info, warn};

use crate::{
    boot_time::BootTime,
    bpf::BpfError,
    host::{Lifeline, Purpose},
    lists::{
        Edit, Guard, ListKind, Origin,
        configured::NAMED,
        guard::{Withheld, Withholding},
    },
};

use super::Engine;

impl Engine {
    /// Returns the guard of what must not be blocked.
    pub fn list_guard(&self) -> &Guard {
        &self.list_guard
    }

    /// Sets the guard for future entries only.
    pub fn set_list_guard(&mut self, guard: Guard) {
        self.list_guard = guard;
    }

    /// Records what is withheld of origins, replacing earlier records.
    pub(super) fn note_withheld(&mut self, all: Vec<Withholding>) {
        for withholding in all {
            self.forget_withheld(&withholding.origin);
            self.withheld.push(withholding);
        }
    }

    /// Records that an origin is not, or no longer, guarded.
    pub(super) fn forget_withheld(&mut self, origin: &Origin) {
        self.withheld.retain(|of| *of.origin != *origin);
    }

    /// Returns what is withheld of an origin.
    pub(super) fn withheld(&self, origin: &Origin) -> impl Iterator<Item = &Withheld> {
        let of = self.withheld.iter().filter(move |of| *of.origin == *origin);
        of.flat_map(Withholding::withheld)
    }

    /// Updates what this host needs, and guards it in entries that nobody typed.
    pub(super) fn follow_lifelines(&mut self, lifelines: &[Lifeline]) -> Result<(), BpfError> {
        if lifelines == self.list_guard.lifelines() {
            return Ok(());
        }
        self.guard_again(Guard::new(lifelines.to_vec()))
    }

    /// Applies a guard to existing and future entries.
    pub(super) fn guard_again(&mut self, guard: Guard) -> Result<(), BpfError> {
        for index in 0..self.withheld.len() {
            let before = self.withheld[index].clone();
            let (changes, mut again) = before.again(&guard, self.list(ListKind::Block));
            if again == before {
                continue;
            }
            match self.filter.edit_list(ListKind::Block, Edit::new(changes)) {
                // There is no room for the remaining pieces of the prefixes; what this host needs has priority.
                Err(BpfError::ListFull(full)) => {
                    self.filter.edit_list(ListKind::Block, again.give_up(&before))?;
                    warn!(
                        "block list: {}: entries that cover what this host needs are left out as a whole, as there is no room \
                         for the rest of them: {full}",
                        again.origin
                    );
                }
                outcome => _ = outcome?,
            }
            let known: BTreeSet<&Withheld> = before.withheld().collect();
            for held in again.withheld().filter(|held| !known.contains(held)) {
                log_withheld(&format!("block list: {}", again.origin), held);
            }
            self.withheld[index] = again;
        }
        self.list_guard = guard;
        let book = self.list(ListKind::Block);
        let typed = self.list_guard.harmful(book, |origin| *origin == Origin::Operator);
        let typed: Vec<IpNet> = typed.map(|(prefix, _)| prefix).collect();
        self.harm = self.harm_of(&typed);
        Ok(())
    }

    /// Forgets what is withheld of these prefixes; returns their pieces that are in force.
    pub(super) fn give_back(&mut self, origin: &Origin, prefixes: &[IpNet]) -> Vec<IpNet> {
        let Some(of) = self.withheld.iter_mut().find(|of| *of.origin == *origin) else {
            return Vec::new();
        };
        let prefixes: HashSet<&IpNet> = prefixes.iter().collect();
        let gone = of.held.extract_if(.., |held| prefixes.contains(&held.withheld.prefix));
        gone.flat_map(|held| held.withheld.pieces).collect()
    }

    /// Forgets what is withheld of expired entries.
    pub(super) fn expire_withheld(&mut self, now: BootTime) {
        for of in &mut self.withheld {
            of.held.retain(|held| held.entry.expires.is_none_or(|at| now < at));
        }
    }

    /// Returns those of these typed prefixes that cover what this host needs.
    pub(super) fn harm_of(&self, typed: &[IpNet]) -> Vec<Withheld> {
        let harm = typed.iter().filter_map(|prefix| self.list_guard.withhold(*prefix));
        // SSH attackers also have connections.
        harm.filter(|held| held.lifeline.purpose != Purpose::Connection).collect()
    }

    /// Records newly typed prefixes that cover what this host needs.
    pub(super) fn note_harm(&mut self, new: Vec<Withheld>) {
        let is_new = |held: &Withheld| new.iter().any(|other| other.prefix == held.prefix);
        let mut harm = std::mem::take(&mut self.harm);
        harm.retain(|held| self.is_typed(held.prefix) && !is_new(held));
        harm.extend(new);
        self.harm = harm;
    }

    fn is_typed(&self, prefix: IpNet) -> bool {
        self.list(ListKind::Block).held_by(prefix, &Origin::Operator).is_some()
    }

    /// Returns warnings about typed entries: they may by now cover what this host needs and are still in force, or
    /// may let everything pass.
    pub(super) fn warnings_of_typed(&self) -> Vec<String> {
        let harm = self.harm.iter().filter(|held| self.is_typed(held.prefix)).take(NAMED);
        let mut warnings: Vec<String> = harm
            .map(|held| format!("block list: {}, which was typed, covers {}", held.prefix, held.lifeline))
            .collect();
        let all = [IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
        for prefix in all.into_iter().filter(|prefix| self.list(ListKind::Allow).get(*prefix).is_some()) {
            warnings.push(format!("allow list: {prefix} lets everything pass"));
        }
        warnings
    }
}

/// Returns a warning about what is withheld of an origin.
pub(super) fn withheld_warning(of: &Withholding) -> Option<String> {
    let mut withheld = of.withheld().filter(|held| !held.lifeline.is_of_every_host());
    let first = withheld.next()?;
    let more = match withheld.count() {
        0 => String::new(),
        more => format!("; {more} more like it"),
    };
    Some(format!("block list, {}: {first}{more}", of.origin))
}

/// Logs what is now withheld of a list.
pub(super) fn log_withheld(list: &str, held: &Withheld) {
    if held.lifeline.is_of_every_host() {
        info!("{list}: {held}");
    } else {
        warn!("{list}: {held}");
    }
}
