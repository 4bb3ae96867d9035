//! Attaching the filter to interfaces, and checking with the kernel that it is still attached.
//!
//! An [`Attachment`] is an interface that the filter is to guard. It keeps its slot and its counters when the kernel
//! says that the filter is no longer attached ([`Filter::look`]), and can be attached again until it is removed with
//! [`Filter::detach`] or [`Filter::let_go`].

use std::{io, time::Instant};

use aya::programs::{SchedClassifier, Xdp};
use flood_common::abi::INTERFACE_SLOTS;

use crate::config::{AttachMode, SolicitedBy};

use super::{
    BpfError, Filter, Hook,
    egress::{EGRESS_PROGRAM, Egress},
    interface::{self, Interface, LinkLayer},
    link::{Link, Place},
    load::{PROGRAM, program},
    pause::Pause,
};

/// An interface that the filter is to guard.
#[derive(Debug)]
pub struct Attachment {
    /// The interface as it was last seen.
    pub interface: Interface,
    /// Its slot in the counters.
    pub slot: u32,
    /// Whether the driver runs the filter.
    pub native: bool,
    /// Whether the egress program records what leaves through it.
    pub noting: Noting,
    /// The link that holds the filter in the kernel.
    link: Option<Link>,
    /// Whether another program has been put into our link.
    is_displaced: bool,
    egress: Option<Egress>,
    /// When the egress program may be attached again.
    noting_pause: Pause,
}

impl Attachment {
    /// Whether the filter was attached at the last [look](Filter::look).
    pub fn is_attached(&self) -> bool {
        self.link.is_some() && !self.is_displaced
    }

    /// Whether another tool has ever detached the egress program.
    pub fn has_lost_noting(&self) -> bool {
        self.noting_pause.has_come_off()
    }
}

/// Whether the egress program records the requests that leave through an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Noting {
    /// It does.
    By(Hook),
    /// It should be, but the kernel refuses.
    Refused(String),
    /// It is not wanted.
    Unwanted,
}

/// How the kernel's view of an interface differs from the last look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// The interface is gone.
    Gone,
    /// The interface is in another network namespace. The filter has been detached from it.
    Moved,
    /// The filter is no longer attached: another process detached it, or the interface was created anew.
    Detached,
    /// Another program, with this id, has replaced the filter.
    Displaced(u32),
    /// The filter is back after another program had displaced it.
    Back,
    /// The egress program was detached. It may be attached again already.
    NotingLost,
    /// The egress program is attached, which the kernel had refused before.
    NotingBack,
    /// The interface was renamed. Contains the old name.
    Renamed(String),
}

impl Filter {
    /// The interfaces that the filter is to guard.
    pub fn attachments(&self) -> &[Attachment] {
        &self.attachments
    }

    /// Attaches the filter to the interface with this name or alternative name. `replace` detaches another XDP
    /// program first.
    pub fn attach(&mut self, name: &str, mode: AttachMode, replace: bool) -> Result<&Attachment, BpfError> {
        self.attach_to(&interface::interface(name)?, mode, replace)
    }

    /// Attaches the filter to an interface. `replace` detaches another XDP program first.
    pub fn attach_to(
        &mut self,
        interface: &Interface,
        mode: AttachMode,
        replace: bool,
    ) -> Result<&Attachment, BpfError> {
        let slot = self.free_slot(&interface.name)?;
        self.counters.reset(slot)?;
        let attachment = self.put_on(interface, slot, mode, replace)?;
        self.attachments.push(attachment);
        self.follow_mtu();
        Ok(&self.attachments[self.attachments.len() - 1])
    }

    /// Attaches the filter again after it was detached from the interface with this slot. `interface` is its present
    /// state.
    pub fn attach_again(
        &mut self,
        slot: u32,
        interface: &Interface,
        mode: AttachMode,
    ) -> Result<&Attachment, BpfError> {
        let attachment = self.put_on(interface, slot, mode, false)?;
        let position = self.position(slot).unwrap_or(self.attachments.len());
        if position < self.attachments.len() {
            self.attachments[position] = attachment;
        } else {
            self.attachments.push(attachment);
        }
        self.follow_mtu();
        Ok(&self.attachments[position])
    }

    fn position(&self, slot: u32) -> Option<usize> {
        self.attachments.iter().position(|attachment| attachment.slot == slot)
    }

    fn put_on(
        &mut self,
        interface: &Interface,
        slot: u32,
        mode: AttachMode,
        replace: bool,
    ) -> Result<Attachment, BpfError> {
        let same = |other: &&Attachment| other.is_attached() && other.interface.index == interface.index;
        if let Some(other) = self.attachments.iter().find(same) {
            return Err(BpfError::AlreadyOurs { interface: other.interface.name.clone() });
        }
        interface.can_be_guarded(self.options.force)?;
        make_way(interface, replace)?;
        // The egress program comes first: requests must be recorded before replies are judged.
        let (noting, egress) = self.note_questions(interface)?;
        // The slot must exist before the first packet arrives.
        let noted = egress.is_some() || self.notes_questions();
        self.enter_interface(slot, Some(interface), noted);
        match self.link(interface, mode) {
            Ok((link, native)) => Ok(Attachment {
                interface: interface.clone(),
                slot,
                native,
                noting,
                link: Some(link),
                is_displaced: false,
                egress,
                noting_pause: Pause::default(),
            }),
            Err(error) => {
                self.enter_interface(slot, None, self.notes_questions());
                if let Some(egress) = egress {
                    // The reason why attaching failed matters more.
                    let _ = egress.detach(program(&mut self.ebpf, EGRESS_PROGRAM)?, interface);
                }
                Err(error)
            }
        }
    }

    fn link(&mut self, interface: &Interface, mode: AttachMode) -> Result<(Link, bool), BpfError> {
        let program: &mut Xdp = program(&mut self.ebpf, PROGRAM)?;
        let program = program.fd().map_err(|error| BpfError::load(&error))?;
        let native = match mode {
            AttachMode::Generic => None,
            AttachMode::Native | AttachMode::NativeOrGeneric => {
                Some(Link::create(program, interface.index, Place::Driver))
            }
        };
        match native {
            Some(Ok(link)) => return Ok((link, true)),
            Some(Err(error)) if mode == AttachMode::Native => return Err(native_error(interface, error)),
            Some(Err(_)) | None => {}
        }
        let link = Link::create(program, interface.index, Place::BehindDriver).map_err(|error| {
            BpfError::Attach { interface: interface.name.clone(), cause: error.to_string() }
        })?;
        Ok((link, false))
    }

    fn free_slot(&self, name: &str) -> Result<u32, BpfError> {
        (1..INTERFACE_SLOTS as u32)
            .find(|slot| self.attachments.iter().all(|attachment| attachment.slot != *slot))
            .ok_or_else(|| BpfError::TooManyInterfaces {
                interface: name.to_owned(),
                limit: INTERFACE_SLOTS - 1,
            })
    }

    /// Compares the attachments with what the kernel says, and takes that over. Adds each difference to `found`, by
    /// slot, even if some interfaces cannot be queried, which is then the error. `there` are the interfaces of this
    /// network namespace.
    pub fn look(&mut self, there: &[Interface], found: &mut Vec<(u32, Found)>) -> Result<(), BpfError> {
        let asking = |error: io::Error| BpfError::Other {
            what: "asking the kernel what holds the filter",
            cause: error.to_string(),
        };
        let mut attachments = std::mem::take(&mut self.attachments);
        let mut outcome = Ok(());
        for attachment in &mut attachments {
            let slot = attachment.slot;
            let looked = self.look_at(attachment, there, |what| found.push((slot, what)));
            outcome = outcome.and(looked);
        }
        self.attachments = attachments;
        let bits = self.options.solicited_bits(self.notes_questions());
        let mut settings = self.settings.read();
        for attachment in &self.attachments {
            let index = if attachment.link.is_some() { attachment.interface.index } else { 0 };
            let is_bare = attachment.interface.link_layer == LinkLayer::Bare;
            settings.enter_interface(attachment.slot as usize, index, is_bare);
        }
        settings.solicited = bits;
        if settings != self.settings.read() {
            self.settings.publish(&settings);
        }
        self.follow_mtu();
        outcome.map_err(asking)
    }

    fn look_at(
        &mut self,
        attachment: &mut Attachment,
        there: &[Interface],
        mut report: impl FnMut(Found),
    ) -> io::Result<()> {
        let Some(link) = &attachment.link else { return Ok(()) };
        let ours = self.program_id;
        let index = attachment.interface.index;
        let held = link.holds()?;
        // A dump may miss an interface if others came or went while the kernel wrote it.
        let listed = there.iter().find(|interface| interface.index == index).cloned();
        let now = match listed {
            Some(interface) => Some(interface),
            None => interface::with_index(index)?,
        };
        let is_here = |interface: &Interface| {
            held.interface == Some(index) && interface.xdp.is_some_and(|xdp| xdp.id == held.program)
        };
        let now = match now {
            Some(interface) if is_here(&interface) => interface,
            now => {
                let found = match (held.interface, now) {
                    (Some(_), _) => Found::Moved,
                    (None, Some(_)) => Found::Detached,
                    (None, None) => Found::Gone,
                };
                let _ = self.take_off(attachment); // what is left of it may disappear at this moment
                report(found);
                return Ok(());
            }
        };
        match (held.program == ours, attachment.is_displaced) {
            (false, false) => report(Found::Displaced(held.program)),
            (true, true) => report(Found::Back),
            (true, false) | (false, true) => {}
        }
        attachment.is_displaced = held.program != ours;
        if now.name != attachment.interface.name {
            report(Found::Renamed(attachment.interface.name.clone()));
        }
        attachment.interface = now;
        if let Some(found) = self.look_at_way_out(attachment)? {
            report(found);
        }
        Ok(())
    }

    /// Attaches the egress program again if it was lost, or reports that it is lost.
    fn look_at_way_out(&mut self, attachment: &mut Attachment) -> io::Result<Option<Found>> {
        let interface = &attachment.interface;
        let is_lost = match &attachment.egress {
            Some(egress) => !egress.is_attached(interface, self.egress_id)?,
            None => false,
        };
        let now = Instant::now();
        if let Some(egress) = attachment.egress.take_if(|_| is_lost) {
            if let Ok(program) = program(&mut self.ebpf, EGRESS_PROGRAM) {
                egress.forget(program);
            }
            attachment.noting_pause.failed(now);
            attachment.noting = Noting::Refused("another tool takes the program off each time".into());
        }
        if !matches!(attachment.noting, Noting::Refused(_)) || !attachment.noting_pause.is_over(now) {
            return Ok(is_lost.then_some(Found::NotingLost));
        }
        let (noting, egress) = match self.note_questions(interface) {
            Ok(outcome) => outcome,
            Err(error) => (Noting::Refused(error.to_string()), None),
        };
        let is_noted = egress.is_some();
        if is_noted {
            attachment.noting_pause.attached(now);
        }
        (attachment.noting, attachment.egress) = (noting, egress);
        Ok(match (is_lost, is_noted) {
            (true, _) => Some(Found::NotingLost),
            (false, true) => Some(Found::NotingBack),
            (false, false) => None,
        })
    }

    /// Removes what is left of an attachment in the kernel. Its index may belong to another interface by now, whose
    /// filters are not ours to detach.
    fn take_off(&mut self, attachment: &mut Attachment) -> Result<(), String> {
        attachment.link = None;
        attachment.is_displaced = false;
        let Some(egress) = attachment.egress.take() else { return Ok(()) };
        let program = program(&mut self.ebpf, EGRESS_PROGRAM).map_err(|error| error.to_string())?;
        if egress.is_attached(&attachment.interface, self.egress_id).is_ok_and(|is_ours| is_ours) {
            egress.detach(program, &attachment.interface)
        } else {
            egress.forget(program);
            Ok(())
        }
    }

    /// Sets the MTU that bounds the MSS of SYN cookies: the smallest of all guarded interfaces.
    fn follow_mtu(&mut self) {
        let guarded = self.attachments.iter().filter(|attachment| attachment.is_attached());
        let least = guarded.map(|attachment| attachment.interface.mtu).min().unwrap_or(0);
        let mtu = least.min(u16::MAX.into());
        if self.settings.read().mtu != mtu {
            self.change_settings(|settings| settings.mtu = mtu);
        }
    }

    /// Attaches the egress program, if it is wanted.
    fn note_questions(&mut self, interface: &Interface) -> Result<(Noting, Option<Egress>), BpfError> {
        if !self.options.notes() {
            return Ok((Noting::Unwanted, None));
        }
        let hook = self.options.hook.unwrap_or_else(Hook::of_kernel);
        let program: &mut SchedClassifier = program(&mut self.ebpf, EGRESS_PROGRAM)?;
        match self.egress.clone().and_then(|()| Egress::attach(program, interface, hook)) {
            Ok(egress) => Ok((Noting::By(hook), Some(egress))),
            Err(cause) if self.options.solicited == SolicitedBy::Egress => {
                Err(BpfError::Egress { interface: interface.name.clone(), cause })
            }
            Err(cause) => Ok((Noting::Refused(cause), None)),
        }
    }

    /// Whether the egress program is attached to any interface.
    pub fn notes_questions(&self) -> bool {
        self.attachments.iter().any(|attachment| attachment.egress.is_some())
    }

    /// Assigns a counter slot to an interface, and sets how solicited replies are recognized from now on.
    fn enter_interface(&mut self, slot: u32, interface: Option<&Interface>, noted: bool) {
        let bits = self.options.solicited_bits(noted);
        self.change_settings(|settings| {
            settings.enter_interface(
                slot as usize,
                interface.map_or(0, |interface| interface.index),
                interface.is_some_and(|interface| interface.link_layer == LinkLayer::Bare),
            );
            settings.solicited = bits;
        });
    }

    /// Stops guarding an interface and detaches the filter if it is attached. Returns whether there was one of this
    /// name.
    pub fn detach(&mut self, name: &str) -> Result<bool, BpfError> {
        let named = self.attachments.iter().find(|attachment| attachment.interface.name == name);
        match named.map(|attachment| attachment.slot) {
            Some(slot) => self.let_go(slot).map(|()| true),
            None => Ok(false),
        }
    }

    /// Stops guarding the interface with this slot.
    pub fn let_go(&mut self, slot: u32) -> Result<(), BpfError> {
        let Some(position) = self.position(slot) else { return Ok(()) };
        let mut attachment = self.attachments.remove(position);
        let outcome = self.take_off(&mut attachment);
        self.enter_interface(slot, None, self.notes_questions());
        self.follow_mtu();
        outcome.map_err(|cause| BpfError::Other { what: "taking the egress program off", cause })
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        while let Some(slot) = self.attachments.first().map(|attachment| attachment.slot) {
            let _ = self.let_go(slot); // nobody is left to report an error to
        }
    }
}

/// Returns the error for an XDP program that is already on an interface; `None` if there is none.
pub fn occupied(interface: &Interface) -> Option<BpfError> {
    let id = interface.xdp?.id;
    let (program, interface) = (interface::program_name(id), interface.name.clone());
    Some(if program == PROGRAM {
        BpfError::AlreadyGuarded { interface, id }
    } else {
        BpfError::Occupied { interface, program, id }
    })
}

/// Detaches another program from an interface if `replace` is set.
fn make_way(interface: &Interface, replace: bool) -> Result<(), BpfError> {
    match (occupied(interface), interface.xdp) {
        (Some(BpfError::Occupied { .. }), Some(program)) if replace => {
            interface::remove_program(interface, program)
        }
        (Some(error), _) => Err(error),
        (None, _) => Ok(()),
    }
}

fn native_error(interface: &Interface, cause: io::Error) -> BpfError {
    let (name, driver) = (interface.name.clone(), interface.driver());
    match cause.raw_os_error() {
        Some(libc::EPERM) => BpfError::NotPermitted { what: format!("attaching to {name}") },
        Some(libc::EOPNOTSUPP) => BpfError::NoNativeXdp { interface: name, driver, cause },
        Some(libc::EINVAL | libc::ENOMEM | libc::ERANGE | libc::ENOSPC) => {
            BpfError::NativeRefused { interface: name, driver, cause }
        }
        _ => BpfError::Attach { interface: name, cause: cause.to_string() },
    }
}
