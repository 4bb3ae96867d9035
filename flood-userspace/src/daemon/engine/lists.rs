//! The operations on the lists.

use std::{collections::BTreeSet, fmt::Write, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use tracing::{info, warn};

use crate::{
    boot_time::BootTime,
    bpf::BpfError,
    config::Config,
    control::protocol::{
        AddReply, AddRequest, ListEntry, ListReply, ReloadReply, RemoveReply, RemoveRequest,
    },
    lists::{
        Book, Change, Edit, Entry, ListKind, Note, Origin, TargetError, canonical,
        configured::NAMED,
        configured::{Configured, reloaded},
        doubt::{Coverage, Doubt, check_coverage, check_growth, check_shrinking},
        guard::{self, Withholding},
    },
    printable::Printable,
};

use super::{Engine, Refused, withheld::log_withheld};

impl From<TargetError> for Refused {
    fn from(error: TargetError) -> Self {
        Self::Bad(error.to_string())
    }
}

impl Engine {
    /// Puts the configured entries into an empty list.
    pub fn fill(&mut self, kind: ListKind, configured: Configured) -> Result<(), BpfError> {
        for problem in &configured.problems {
            warn!("{} list: left out: {problem}", kind.label());
        }
        for of in &configured.withheld {
            let list = format!("{} list: {}", kind.label(), of.origin);
            of.withheld().take(NAMED).for_each(|held| log_withheld(&list, held));
        }
        self.filter.edit_list(kind, configured.edit)?;
        self.note_withheld(configured.withheld);
        Ok(())
    }

    /// Replaces the entries that the configuration has put into the lists with those it has now, and takes over
    /// its feeds. If one list has no room, all lists stay unchanged.
    pub fn reload(
        &mut self,
        config: &Config,
        lists: Vec<(ListKind, Configured)>,
        force: bool,
    ) -> Result<ReloadReply, Refused> {
        if !force {
            self.believe_files(&lists)?;
        }
        let (mut done, mut replies) = (Vec::new(), ListKind::ALL.map(|_| AddReply::default()));
        let mut reply = ReloadReply::default();
        let mut all_withheld = Vec::new();
        for (kind, configured) in lists {
            let left_out = configured.left_out().map(|text| format!("{} list: {text}", kind.label()));
            reply.warnings.extend(left_out);
            match self.filter.edit_list(kind, reloaded(self.list(kind), &configured.edit)) {
                Ok(undo) => {
                    replies[kind as usize] = self.count(kind, &undo, false);
                    done.push((kind, undo));
                    all_withheld.extend(configured.withheld);
                }
                Err(error) => {
                    for (kind, undo) in done.into_iter().rev() {
                        self.filter.edit_list(kind, undo)?;
                    }
                    return Err(error.into());
                }
            }
        }
        self.withheld.retain(|of| !of.origin.is_configured());
        self.note_withheld(all_withheld);
        // The host may have changed since the files were read.
        self.guard_again(self.list_guard.clone())?;
        reply.feeds = self.set_feeds(config)?;
        [reply.allow, reply.block, reply.allow_proven] = replies;
        Ok(reply)
    }

    /// Rejects a configuration file that is suddenly empty or has almost none of its previous entries.
    fn believe_files(&self, lists: &[(ListKind, Configured)]) -> Result<(), Refused> {
        let files = lists.iter().flat_map(|(kind, list)| list.listed.iter().map(move |file| (*kind, file)));
        for (kind, (origin, now)) in files {
            let before = self.entries_of(kind, origin);
            if before > 0 {
                check_shrinking(before, *now)
                    .map_err(|doubt| Refused::Doubtful { origin: origin.to_string(), doubt })?;
            }
        }
        Ok(())
    }

    /// Puts entries into a list, and takes out what they replace: completely, or not at all.
    pub(super) fn insert(&mut self, kind: ListKind, edit: Edit) -> Result<AddReply, BpfError> {
        let only_puts = edit.changes().iter().all(|(_, change)| change.put().is_some());
        let undo = self.filter.edit_list(kind, edit)?;
        Ok(self.count(kind, &undo, only_puts))
    }

    /// Counts what happened to the entries of an edit. `undo` is the edit that undoes it; `only_puts` means that
    /// it took nothing out.
    fn count(&self, kind: ListKind, undo: &Edit, only_puts: bool) -> AddReply {
        let mut reply = AddReply::default();
        for (prefix, change) in undo.changes() {
            // Searching for each of a million entries takes a while.
            let is_there = only_puts || self.list(kind).held_by(*prefix, change.origin()).is_some();
            let (count, names) = match (change, is_there) {
                (Change::Take(_), true) => (&mut reply.added, Some(&mut reply.first_added)),
                (Change::Put(_), true) => (&mut reply.replaced, None),
                (Change::Put(_), false) => (&mut reply.removed, Some(&mut reply.first_removed)),
                (Change::Take(_), false) => continue,
            };
            *count += 1;
            if let Some(names) = names
                && names.len() < NAMED
            {
                names.push(*prefix);
            }
        }
        reply
    }

    pub(super) fn list(&self, kind: ListKind) -> &Book {
        self.filter.lists.book(kind)
    }

    /// Returns the entries of a list, or those that cover an address.
    pub fn entries(&self, kind: ListKind, covering: Option<IpAddr>) -> ListReply {
        let book = self.list(kind);
        let describe = |(prefix, entry): (IpNet, &Entry)| describe(prefix, entry);
        let entries = match covering {
            None => book.all().map(describe).collect(),
            Some(address) => {
                let prefixes = book.cover(address.to_canonical().into()).map(|(prefix, _)| prefix);
                prefixes
                    .flat_map(|prefix| book.holders(prefix).map(move |entry| (prefix, entry)))
                    .map(describe)
                    .collect()
            }
        };
        ListReply { entries }
    }

    /// Adds entries to a list: all, or none. An existing entry that expires later stays unchanged.
    pub fn add(&mut self, kind: ListKind, request: AddRequest) -> Result<AddReply, Refused> {
        let AddRequest { prefixes, ttl_s, reason, added_by, file, replace, force, logged_in_from } = request;
        let mut prefixes = prefixes.into_iter().map(canonical).collect::<Result<Vec<_>, _>>()?;
        let now = BootTime::now();
        let expires = match ttl_s {
            None => None,
            Some(0) => return Err(Refused::Bad("a time to live of 0 would end before it begins".into())),
            Some(seconds) => Some(now.checked_add(Duration::from_secs(seconds)).ok_or_else(|| {
                Refused::Bad(format!("{seconds} seconds from now is beyond all calendars"))
            })?),
        };
        let origin = Arc::new(origin_of(file)?);
        if replace && *origin == Origin::Operator {
            let why = "what was typed is not replaced as a whole: `replace` is for an import, whose name is its `file`";
            return Err(Refused::Bad(why.into()));
        }
        let note = Note { origin: Arc::clone(&origin), reason, added: now, added_by };
        let entry = Entry { expires, note: Arc::new(note) };
        let mut withheld = None;
        if !force {
            match *origin {
                Origin::Import(_) => {
                    prefixes.sort_unstable();
                    prefixes.dedup();
                    self.believe(kind, &origin, &prefixes, replace)?;
                    withheld = (kind == ListKind::Block).then(|| self.list_guard.sift(&mut prefixes));
                }
                _ => {
                    for prefix in &prefixes {
                        match kind {
                            ListKind::Allow | ListKind::AllowProven => guard::check_typed(*prefix)?,
                            ListKind::Block => self.list_guard.check_block(*prefix, logged_in_from)?,
                        }
                    }
                }
            }
        }
        let is_typed = *origin == Origin::Operator;
        let harm = if is_typed && kind == ListKind::Block { self.harm_of(&prefixes) } else { Vec::new() };
        let typed = if is_typed { prefixes[..prefixes.len().min(NAMED)].to_vec() } else { Vec::new() };
        let (edit, kept) = self.adding(kind, prefixes, &entry, replace);
        let mut reply = AddReply { kept, ..self.insert(kind, edit)? };
        reply.notes = typed.iter().flat_map(|prefix| self.notes_on(kind, *prefix, &entry)).collect();
        if let Some(withheld) = withheld {
            reply.withheld = withheld.len() as u64;
            reply.notes.extend(withheld.iter().take(NAMED).map(ToString::to_string));
            let new = Withholding::of(withheld, &entry);
            let before = self.withheld.iter().find(|of| of.origin == origin && !replace).cloned();
            let all = if let Some(before) = before { before.and(new.held) } else { new };
            self.note_withheld(vec![all]);
        } else if !is_typed && kind == ListKind::Block {
            self.forget_withheld(&origin);
        }
        self.note_harm(harm);
        info!("{} list: {}{}", kind.label(), reply.named(), said(&entry, ttl_s));
        Ok(reply)
    }

    /// Returns the edit that adds prefixes, and how many entries it leaves unchanged.
    fn adding(&self, kind: ListKind, prefixes: Vec<IpNet>, entry: &Entry, replace: bool) -> (Edit, u64) {
        let (book, origin) = (self.list(kind), &entry.note.origin);
        if replace {
            let leaving = Edit::take_from(book.of(origin), origin);
            return (leaving.then(Edit::put_alike(prefixes, entry)), 0);
        }
        let mut kept = 0;
        let mut prefixes = prefixes;
        prefixes.retain(|prefix| {
            let stays = book.held_by(*prefix, origin).is_some_and(|there| there.outlasts(entry));
            kept += u64::from(stays);
            !stays
        });
        (Edit::put_alike(prefixes, entry), kept)
    }

    /// Checks whether an import is plausible. The prefixes are sorted.
    fn believe(
        &self,
        kind: ListKind,
        origin: &Origin,
        prefixes: &[IpNet],
        replace: bool,
    ) -> Result<(), Refused> {
        for prefix in prefixes {
            guard::check_listed(*prefix)?;
        }
        let check = || -> Result<(), Doubt> {
            check_coverage(prefixes.iter().copied(), Coverage::default())?;
            if replace {
                let before = self.entries_of(kind, origin);
                check_shrinking(before, prefixes.len())?;
                check_growth(before, prefixes.len())?;
            }
            Ok(())
        };
        check().map_err(|doubt| Refused::Doubtful { origin: origin.to_string(), doubt })
    }

    /// Returns how many entries an origin has, whether in force as written or not.
    fn entries_of(&self, kind: ListKind, origin: &Origin) -> usize {
        let withheld = self.withheld.iter().find(|of| kind == ListKind::Block && *of.origin == *origin);
        withheld.map_or_else(|| self.list(kind).of(origin).count(), |of| of.entries(self.list(kind)))
    }

    /// Returns notes on what an operator who has just typed an entry may not expect.
    fn notes_on(&self, kind: ListKind, prefix: IpNet, entry: &Entry) -> Vec<String> {
        let book = self.list(kind);
        let covering = book.cover(prefix).flat_map(|(at, _)| book.holders(at).map(move |other| (at, other)));
        let outlasting = covering.filter(|(_, other)| other.outlasts(entry)).map(|(at, other)| {
            let origin = &other.note.origin;
            let end = other.expires.map_or_else(
                || "has no end".to_owned(),
                |at| {
                    format!("ends in {}", humantime::format_duration(Duration::from_secs(seconds_until(at))))
                },
            );
            if at == prefix && **origin == Origin::Operator {
                format!(
                    "{prefix} is there already and {end}: it stays so, remove it first to have it end sooner"
                )
            } else {
                format!("{prefix} stays on the list after that: {at} ({origin}) {end}")
            }
        });
        let mut notes: Vec<String> = outlasting.take(NAMED).collect();
        if kind == ListKind::Block
            && let Some((allowed, _)) = self.list(ListKind::Allow).cover(prefix).next()
        {
            notes.push(format!("{prefix} is not blocked while {allowed} is on the allow list, which wins"));
        }
        notes
    }

    /// Removes entries from a list that were added at run time.
    pub fn remove(&mut self, kind: ListKind, request: RemoveRequest) -> Result<RemoveReply, Refused> {
        let RemoveRequest { prefixes, import } = request;
        let prefixes = prefixes.into_iter().map(canonical).collect::<Result<Vec<_>, _>>()?;
        let origin = Arc::new(origin_of(import)?);
        let edit = match *origin {
            Origin::Import(ref name) if prefixes.is_empty() => {
                let edit = Edit::take_from(self.list(kind).of(&origin), &origin);
                let is_guarded = kind == ListKind::Block;
                if edit.is_empty() && !(is_guarded && self.withheld(&origin).next().is_some()) {
                    return Err(self.no_import(kind, name));
                }
                if is_guarded {
                    self.forget_withheld(&origin);
                }
                edit
            }
            _ => {
                let pieces =
                    if kind == ListKind::Block { self.give_back(&origin, &prefixes) } else { Vec::new() };
                Edit::take_from(prefixes.iter().copied().chain(pieces), &origin)
            }
        };
        let undo = self.filter.edit_list(kind, edit)?;
        let mut reply = RemoveReply::default();
        let mut names = Vec::new();
        for (prefix, change) in undo.changes() {
            let others: Vec<&Origin> =
                self.list(kind).holders(*prefix).map(|entry| &*entry.note.origin).collect();
            match change {
                Change::Put(_) => {
                    reply.removed += 1;
                    names.push(*prefix);
                }
                Change::Take(_) if others.is_empty() => reply.missing.push(*prefix),
                Change::Take(_) => {}
            }
            if prefixes.is_empty() || others.is_empty() {
                continue;
            }
            let feeds = others.iter().filter_map(|origin| match origin {
                Origin::Feed(name) => Some(name.to_string()),
                _ => None,
            });
            let feeds: Vec<String> = feeds.collect();
            if !feeds.is_empty() {
                reply.in_feeds.insert(*prefix, feeds);
            }
            reply.held_by.insert(*prefix, others.iter().map(ToString::to_string).collect());
        }
        let covering = prefixes.iter().flat_map(|prefix| {
            self.list(kind).cover(*prefix).map(|(at, _)| at).filter(move |at| at != prefix)
        });
        reply.still_covered_by = covering.collect::<BTreeSet<_>>().into_iter().collect();
        let removed = AddReply {
            removed: reply.removed,
            first_removed: names.into_iter().take(NAMED).collect(),
            ..AddReply::default()
        };
        info!("{} list: {}, {origin}", kind.label(), removed.named());
        Ok(reply)
    }

    fn no_import(&self, kind: ListKind, name: &str) -> Refused {
        let origins = self.list(kind).all().map(|(_, entry)| &*entry.note.origin);
        let names: BTreeSet<&str> = origins
            .filter_map(|origin| match origin {
                Origin::Import(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let have = names.into_iter().collect::<Vec<_>>().join(", ");
        let have = if have.is_empty() { "none" } else { &have };
        Refused::NotFound(format!(
            "nothing on the {} list is of an import {name:?}; there are {have}",
            kind.label()
        ))
    }

    /// Removes expired entries.
    pub(super) fn expire(&mut self) -> Result<(), BpfError> {
        let now = BootTime::now();
        for kind in ListKind::ALL {
            let edit = self.list(kind).expired(now);
            if !edit.is_empty() {
                let AddReply { removed, first_removed, .. } = self.insert(kind, edit)?;
                let ended = AddReply { removed, first_removed, ..AddReply::default() };
                info!("{} list: {}, expired", kind.label(), ended.named());
            }
        }
        self.expire_withheld(now);
        Ok(())
    }

    /// Records which configuration keys take effect at the next start.
    pub fn set_pending(&mut self, keys: Vec<String>) {
        self.pending = keys;
    }
}

/// Returns the origin of entries from an import of this name, or of typed entries.
fn origin_of(import: Option<String>) -> Result<Origin, Refused> {
    match import {
        None => Ok(Origin::Operator),
        Some(name) if name.is_empty() || name.contains(char::is_control) => Err(Refused::Bad(format!(
            "{name:?} cannot be the name of an import: it is some text without control characters (--name)"
        ))),
        Some(name) => Ok(Origin::Import(name)),
    }
}

/// Returns the time until an entry expires, rounded to the nearest second; 0 if it has expired.
fn seconds_until(end: BootTime) -> u64 {
    end.since(BootTime::now()).as_secs_f64().round() as u64
}

fn describe(prefix: IpNet, Entry { expires, note }: &Entry) -> ListEntry {
    ListEntry {
        prefix,
        origin: note.origin.to_string(),
        reason: note.reason.clone(),
        added_by: note.added_by.clone(),
        age_s: note.added.elapsed().as_secs(),
        expires_in_s: expires.map(seconds_until),
    }
}

/// Returns who has said what about entries, for one log line.
fn said(entry: &Entry, ttl_s: Option<u64>) -> String {
    let Note { origin, reason, added_by, added: _ } = &*entry.note;
    let mut text = format!(", {}", Printable(origin));
    if let Some(who) = added_by {
        _ = write!(text, " {}", Printable(who));
    }
    if let Some(seconds) = ttl_s {
        _ = write!(text, ", for {}", humantime::format_duration(Duration::from_secs(seconds)));
    }
    if let Some(reason) = reason {
        _ = write!(text, ": {}", Printable(reason));
    }
    text
}
