//! The interfaces to guard, and whether they are guarded: checked against the kernel every second and on every
//! change that it reports, not remembered from what was done once.
//!
//! A guard is bound to the interface that has its name, or has it among its alternative names, and follows that
//! interface through renamings for as long as it exists. If the filter has come off, it is attached again. If
//! another program has its place, that is reported, and the daemon does not fight for the place.

use std::time::Instant;

use tracing::{error, info, warn};

use crate::{
    bpf::{
        Attachment, BpfError, Filter, Found, Hook, Noting, Pause,
        interface::{self, Interface},
        remove_left_behind,
    },
    config::{AttachMode, Config, InterfaceName},
    control::protocol::{AnswersBy, Attached, InterfaceStatus},
};

use super::engine::Refused;

/// The interfaces to guard.
pub(super) struct Guards {
    attach: AttachMode,
    all: Vec<Guard>,
}

/// An interface to guard.
struct Guard {
    /// As named in the configuration or on the command line.
    name: String,
    /// Slot of its counters in the filter, once attached.
    slot: Option<u32>,
    /// Why it is not guarded, if so.
    why_not: Option<Why>,
    /// Whether the interface exists.
    is_present: bool,
    /// Whether another interface now has its name.
    is_name_taken: bool,
    /// How often the filter, or its egress program, was attached again.
    reattached: u64,
    pause: Pause,
}

/// Why an interface is not guarded.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Why {
    /// The interface has never existed.
    Missing,
    /// The interface no longer exists.
    Gone,
    /// The interface is in another network namespace.
    Moved,
    /// Another process detached the filter.
    Detached,
    /// The program that has the filter's place.
    Taken(String),
    /// Another process replaced the program in the filter's link.
    Displaced(String),
    /// The name is another name of an interface that is already guarded.
    Same(String),
    /// The kernel's error.
    Failed(String),
}

impl Why {
    fn sentence(&self, name: &str) -> String {
        match self {
            Self::Missing => format!("there is no interface {name}; it is guarded as soon as there is one"),
            Self::Gone => format!(
                "{name} has disappeared, and the filter with it; it is guarded again as soon as it is back"
            ),
            Self::Moved => format!(
                "{name} has moved to another network namespace, and the filter was taken off it; it is guarded again as soon \
                 as it is back"
            ),
            Self::Detached => format!(
                "{name} is not guarded: the filter was taken off it, though not by this daemon; it is attached again soon"
            ),
            Self::Taken(by) | Self::Displaced(by) => format!(
                "{name} is not guarded: {by} has the place of the filter, which is put back as soon as that is gone"
            ),
            Self::Same(other) => format!("{name} is {other}, which is guarded already"),
            Self::Failed(error) => format!("{name} is not guarded, and it is tried again: {error}"),
        }
    }
}

impl Guards {
    /// Creates an instance that guards nothing.
    pub(super) fn none(attach: AttachMode) -> Self {
        Self { attach, all: Vec::new() }
    }

    /// Guards the configured interfaces; `replace` detaches other XDP programs from them. Waits for missing
    /// interfaces. If none exists and they were `typed`, that is taken for a mistake.
    pub(super) fn start(
        filter: &mut Filter,
        config: &Config,
        replace: bool,
        typed: bool,
    ) -> Result<Self, BpfError> {
        let there = interface::interfaces()?;
        let names: Vec<&str> = config.interfaces.iter().map(InterfaceName::as_str).collect();
        let is_there = |name: &&str| interface::find(&there, name).is_some();
        if typed && !names.iter().any(is_there) {
            names.iter().try_for_each(|name| interface::named(&there, name).map(|_| ()))?;
        }
        if Hook::of_kernel() == Hook::Clsact {
            clear_way_out(&there);
        }
        let mut guards = Self::none(config.attach);
        for name in &names {
            let mut guard = Guard::new(name);
            match interface::find(&there, name) {
                Some(interface) => match filter.attach_to(interface, config.attach, replace) {
                    Ok(attachment) => guard.take_note_of(attachment),
                    Err(BpfError::AlreadyOurs { interface }) => guard.is_not(Why::Same(interface)),
                    Err(error) => return Err(error),
                },
                None => guard.is_not(Why::Missing),
            }
            guards.all.push(guard);
        }
        if !names.iter().any(is_there) {
            let have: Vec<&str> = there.iter().map(|interface| interface.name.as_str()).collect();
            error!("nothing is guarded so far; the interfaces that there are: {}", have.join(", "));
        }
        Ok(guards)
    }

    /// Returns whether there is nothing to guard.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes over the kernel's state, and attaches the filter where it is missing. Returns whether anything has
    /// changed.
    pub(super) fn look(&mut self, filter: &mut Filter, now: Instant) -> Result<bool, BpfError> {
        let there = interface::interfaces()?;
        let mut found = Vec::new();
        let looked = filter.look(&there, &mut found);
        let mut has_changed = !found.is_empty();
        for (slot, found) in found {
            let attachment = filter.attachments().iter().find(|attachment| attachment.slot == slot);
            let guard = self.all.iter_mut().find(|guard| guard.slot == Some(slot));
            if let (Some(attachment), Some(guard)) = (attachment, guard) {
                guard.take_over(found, attachment, now);
            }
        }
        for guard in &mut self.all {
            has_changed |= guard.attach_if_missing(filter, &there, self.attach, now);
            guard.look_for_namesake(filter, &there);
        }
        looked.map(|()| has_changed)
    }

    /// Detaches from interfaces, all if none is named, by their current or given names. Returns their names. If
    /// something stays behind on one of them, returns that error, but detaches from the others all the same.
    pub(super) fn let_go(&mut self, filter: &mut Filter, names: &[String]) -> Result<Vec<String>, Refused> {
        let shown = |guard: &Guard| guard.shown(filter).to_owned();
        let mut wanted = Vec::new();
        for name in names {
            let is_now =
                |guard: &&Guard| guard.attachment(filter).is_some_and(|a| a.interface.has_name(name));
            let is_given = |guard: &&Guard| guard.name == *name;
            let named = self.all.iter().find(is_now).or_else(|| self.all.iter().find(is_given));
            let Some(guard) = named else {
                let have: Vec<String> = self.all.iter().map(shown).collect();
                let have = if have.is_empty() { "nothing".to_owned() } else { have.join(", ") };
                return Err(Refused::NotFound(format!(
                    "{name} is not guarded by this daemon, which guards {have}"
                )));
            };
            wanted.push(guard.name.clone());
        }
        let is_wanted = |guard: &Guard| names.is_empty() || wanted.contains(&guard.name);
        let gone: Vec<(String, Option<u32>)> = self
            .all
            .iter()
            .filter(|guard| is_wanted(guard))
            .map(|guard| (shown(guard), guard.slot))
            .collect();
        let mut outcome = Ok(());
        for (name, slot) in &gone {
            let let_go = slot.map_or(Ok(()), |slot| filter.let_go(slot));
            info!("let {name} go");
            outcome = outcome.and(let_go);
        }
        self.all.retain(|guard| !is_wanted(guard));
        outcome?;
        Ok(gone.into_iter().map(|(name, _)| name).collect())
    }

    /// Returns the status of each interface. `by_sockets` is whether sockets tell which replies are solicited.
    pub(super) fn status(&self, filter: &Filter, by_sockets: bool) -> Vec<InterfaceStatus> {
        self.all.iter().map(|guard| guard.status(filter, by_sockets)).collect()
    }
}

impl Guard {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            slot: None,
            why_not: None,
            is_present: true,
            is_name_taken: false,
            reattached: 0,
            pause: Pause::default(),
        }
    }

    fn attachment<'a>(&self, filter: &'a Filter) -> Option<&'a Attachment> {
        filter.attachments().iter().find(|attachment| Some(attachment.slot) == self.slot)
    }

    /// Returns the current name, or the last one.
    fn shown<'a>(&'a self, filter: &'a Filter) -> &'a str {
        self.attachment(filter).map_or(&self.name, |attachment| &attachment.interface.name)
    }

    /// Records why the interface is not guarded, and logs it once.
    fn is_not(&mut self, why: Why) {
        self.is_present = !matches!(why, Why::Missing | Why::Gone | Why::Moved);
        if self.why_not.as_ref() != Some(&why) {
            warn!("{}", why.sentence(&self.name));
        }
        self.why_not = Some(why);
    }

    /// Records and logs that the interface is guarded.
    fn take_note_of(&mut self, attachment: &Attachment) {
        let Attachment { interface, native, noting, .. } = attachment;
        let name = &interface.name;
        if let Noting::Refused(cause) = noting {
            warn!("{}", unnoted_warning(name, cause));
        }
        let again = if self.slot.is_some() { " again" } else { "" };
        let given = if *name == self.name { String::new() } else { format!(", given as {}", self.name) };
        if *native {
            let (index, driver) = (interface.index, interface.driver());
            info!("guarding {name}{again} (index {index}{given}) in its driver {driver}");
        } else {
            warn!("{}", generic_warning(name));
        }
        self.slot = Some(attachment.slot);
        self.why_not = None;
        self.is_present = true;
        self.pause.attached(Instant::now());
    }

    /// Takes over a state that the kernel reports.
    fn take_over(&mut self, found: Found, attachment: &Attachment, now: Instant) {
        let name = &attachment.interface.name;
        match found {
            Found::Renamed(before) => info!("{before} is called {name} by now, and stays guarded"),
            Found::Back => {
                info!("the filter is back in its place on {name}");
                self.why_not = None;
            }
            Found::NotingLost => {
                warn!("the program on the way out of {name} was taken off, though not by this daemon");
                match &attachment.noting {
                    Noting::Refused(cause) => warn!("{}", unnoted_warning(name, cause)),
                    Noting::By(_) | Noting::Unwanted => {
                        info!("it is on the way out of {name} again");
                        self.reattached += 1;
                    }
                }
            }
            Found::NotingBack => {
                info!("what is asked for through {name} is noted");
                // It may also be the first time that the kernel accepts the egress program.
                self.reattached += u64::from(attachment.has_lost_noting());
            }
            Found::Gone => {
                self.pause = Pause::default();
                self.is_not(Why::Gone);
            }
            Found::Moved => {
                self.pause = Pause::default();
                self.is_not(Why::Moved);
            }
            Found::Detached => {
                self.pause.failed(now);
                self.is_not(Why::Detached);
            }
            Found::Displaced(id) => self.is_not(Why::Displaced(program(id))),
        }
    }

    /// Returns the interface to guard among those that exist: the one it had, for as long as that exists, or else
    /// the one that has its name.
    fn target<'a>(&self, filter: &Filter, there: &'a [Interface]) -> Option<&'a Interface> {
        let had = self.attachment(filter).map(|attachment| &attachment.interface);
        let is_it = |had: &Interface, now: &Interface| now.index == had.index && now.name == had.name;
        had.and_then(|had| there.iter().find(|now| is_it(had, now)))
            .or_else(|| interface::find(there, &self.name))
    }

    /// Attaches the filter if it is missing, can be attached, and the pause is over. Returns whether anything has
    /// changed.
    fn attach_if_missing(
        &mut self,
        filter: &mut Filter,
        there: &[Interface],
        mode: AttachMode,
        now: Instant,
    ) -> bool {
        let before = match &self.why_not {
            None | Some(Why::Displaced(_)) => return false,
            Some(why) => why.clone(),
        };
        let Some(target) = self.target(filter, there) else {
            let stays = matches!(before, Why::Missing | Why::Gone | Why::Moved);
            self.pause = Pause::default();
            self.is_not(if stays { before } else { Why::Gone });
            return false;
        };
        self.is_present = true;
        if !self.pause.is_over(now) {
            return false;
        }
        let attached = match self.slot {
            Some(slot) => filter.attach_again(slot, target, mode),
            None => filter.attach_to(target, mode, false),
        };
        match attached {
            Ok(attachment) => {
                self.reattached += u64::from(self.slot.is_some());
                self.take_note_of(attachment);
            }
            Err(BpfError::AlreadyOurs { interface }) => self.is_not(Why::Same(interface)),
            Err(BpfError::Occupied { id, .. } | BpfError::AlreadyGuarded { id, .. }) => {
                self.is_not(Why::Taken(program(id)));
            }
            Err(error) => {
                self.pause.failed(now);
                self.is_not(Why::Failed(error.to_string()));
            }
        }
        self.why_not.as_ref() != Some(&before)
    }

    /// Records whether the given name now belongs to an interface other than the guarded one.
    fn look_for_namesake(&mut self, filter: &Filter, there: &[Interface]) {
        let Some(attachment) = self.attachment(filter).filter(|_| self.why_not.is_none()) else { return };
        let other = interface::find(there, &self.name);
        let is_taken = other.is_some_and(|other| other.index != attachment.interface.index)
            && !filter
                .attachments()
                .iter()
                .any(|guarded| guarded.is_attached() && guarded.interface.has_name(&self.name));
        if is_taken && !self.is_name_taken {
            warn!("{}", namesake_warning(&self.name, &attachment.interface.name));
        }
        self.is_name_taken = is_taken;
    }

    fn status(&self, filter: &Filter, by_sockets: bool) -> InterfaceStatus {
        let attachment = self.attachment(filter);
        let name = self.shown(filter);
        let guarding = attachment.filter(|_| self.why_not.is_none());
        let noting = guarding.map(|attachment| &attachment.noting);
        InterfaceStatus {
            name: name.to_owned(),
            given: Some(self.name.clone()).filter(|given| given != name),
            index: attachment.map_or(0, |attachment| attachment.interface.index),
            attached: match guarding {
                None => Attached::Nowhere,
                Some(attachment) if attachment.native => Attached::Native,
                Some(_) => Attached::Generic,
            },
            present: self.is_present,
            answers: match noting {
                Some(Noting::By(Hook::Tcx)) => AnswersBy::Tcx,
                Some(Noting::By(Hook::Clsact)) => AnswersBy::Clsact,
                Some(Noting::Refused(_) | Noting::Unwanted) if by_sockets => AnswersBy::Sockets,
                Some(Noting::Refused(_) | Noting::Unwanted) | None => AnswersBy::Nothing,
            },
            unnoted: match noting {
                Some(Noting::Refused(cause)) => Some(cause.clone()),
                Some(Noting::By(_) | Noting::Unwanted) | None => None,
            },
            unguarded: self.why_not.as_ref().map(|why| why.sentence(name)),
            name_taken: self.is_name_taken,
            reattached: self.reattached,
        }
    }
}

/// Removes egress programs that a killed daemon left behind, from all interfaces, guarded or not.
fn clear_way_out(there: &[Interface]) {
    match remove_left_behind(there) {
        Ok(cleared) if cleared.is_empty() => {}
        Ok(cleared) => info!(
            "a floodgate that was killed has left a program on the way out of {}, which is taken off",
            cleared.join(", ")
        ),
        Err(error) => warn!("looking for programs that a killed floodgate has left on a way out: {error}"),
    }
}

/// Describes the XDP program with this ID for the log.
fn program(id: u32) -> String {
    match interface::program_name(id).as_str() {
        interface::OUR_PROGRAM => format!("another floodgate (program id {id})"),
        name => format!("the XDP program {name} (id {id})"),
    }
}

pub(super) fn generic_warning(interface: &str) -> String {
    format!("{interface} is guarded in generic mode, behind the driver: slowly, and a flood still costs much")
}

pub(super) fn unnoted_warning(interface: &str, cause: &str) -> String {
    format!(
        "what is asked for through {interface} is not noted ({cause}): UDP answers are told by the host's sockets and the \
         limits of `amplification`"
    )
}

pub(super) fn namesake_warning(given: &str, name: &str) -> String {
    format!(
        "{given} is another interface by now, and not guarded: the one that was given as {given} is called {name} now, and \
         stays guarded. To guard both, start floodgate with both names"
    )
}
