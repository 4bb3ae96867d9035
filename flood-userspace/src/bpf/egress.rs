//! The program on the way out, which notes what the host asks mirrors for: attaching it beside whatever others do there, and
//! taking it off so that nothing of ours stays.

use std::{io, mem};

use aya::{
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program},
    },
    util::KernelVersion,
};

use super::{
    error::{chain, errno},
    interface::{self, Interface},
    link::{Link, Place},
};

/// The program in the object; filters of older kernels carry its name.
pub(super) const EGRESS_PROGRAM: &str = "floodgate_egress";

/// By which hook of the kernel packets on their way out are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// A link of its own, which ends with the process (Linux 6.6).
    Tcx,
    /// A filter in the queueing discipline `clsact`.
    Clsact,
}

impl Hook {
    /// The better one that the running kernel has.
    pub fn of_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version < KernelVersion::new(6, 6, 0) => Self::Clsact,
            _ => Self::Tcx,
        }
    }
}

/// The program on one interface, by whichever hook.
#[derive(Debug)]
pub(super) enum Egress {
    /// As a link.
    Tcx(Link),
    /// As a filter.
    Clsact {
        link: SchedClassifierLinkId,
        /// Whether the queueing discipline is there for us.
        made_qdisc: bool,
    },
}

impl Egress {
    /// Attaches the program, behind others where the kernel keeps an order. Says why not.
    pub(super) fn attach(
        program: &mut SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<Self, String> {
        if hook == Hook::Tcx {
            let program = program.fd().map_err(|error| chain(&error))?;
            let link = Link::create(program, interface.index, Place::WayOut);
            return link.map(Self::Tcx).map_err(|error| error.to_string());
        }
        let made_qdisc = prepare_clsact(interface)?;
        let options = TcAttachOptions::Netlink(NlOptions::default());
        match program.attach_with_options(&interface.name, TcAttachType::Egress, options) {
            Ok(link) => Ok(Self::Clsact { link, made_qdisc }),
            Err(error) => {
                if made_qdisc {
                    let _ = interface::remove_unused_clsact(interface.index); // why attaching failed matters more
                }
                Err(chain(&error))
            }
        }
    }

    /// Whether the program, which has this number, is on the interface still.
    pub(super) fn is_attached(&self, interface: &Interface, program: u32) -> io::Result<bool> {
        match self {
            Self::Tcx(link) => {
                let held = link.holds()?;
                Ok(held.interface == Some(interface.index) && held.program == program)
            }
            Self::Clsact { .. } => interface::has_egress_filter(interface.index, program),
        }
    }

    /// Takes the program off, and what was made for it unless others use it by now.
    pub(super) fn detach(self, program: &mut SchedClassifier, interface: &Interface) -> Result<(), String> {
        match self {
            Self::Tcx(link) => drop(link),
            Self::Clsact { link, made_qdisc } => {
                program.detach(link).map_err(|error| chain(&error))?;
                if made_qdisc {
                    interface::remove_unused_clsact(interface.index).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// Lets go of a program that is on the interface no more. A filter is known by where it was, and there may be one of
    /// somebody else by now.
    pub(super) fn forget(self, program: &mut SchedClassifier) {
        match self {
            Self::Tcx(link) => drop(link),
            Self::Clsact { link, .. } => {
                if let Ok(link) = program.take_link(link) {
                    mem::forget(link);
                }
            }
        }
    }
}

/// Sees to it that there is a `clsact` on the interface without a filter of ours: a daemon that was killed leaves both.
/// Returns whether it is there for us.
fn prepare_clsact(interface: &Interface) -> Result<bool, String> {
    let made = match qdisc_add_clsact(&interface.name) {
        Ok(()) => true,
        Err(error) if errno(&error) == Some(libc::EEXIST) => false,
        Err(error) => return Err(chain(&error)),
    };
    if !made {
        // The kernel takes a filter for the way out into `ingress`, too, and runs it on the way in.
        let kind = interface::kind_in_place_of_clsact(interface.index).map_err(|error| error.to_string())?;
        if let Some(kind) = kind.filter(|kind| kind != "clsact") {
            return Err(format!("the queueing discipline {kind} has the place of clsact"));
        }
    }
    // Where there was none, there was no filter either. What else fails is seen when ours is attached.
    let left_behind =
        !made && qdisc_detach_program(&interface.name, TcAttachType::Egress, EGRESS_PROGRAM).is_ok();
    Ok(made || left_behind)
}

/// Takes off the way out what a daemon that was killed has left there, on interfaces that no floodgate guards. Returns their
/// names. Links end with their process; filters do not.
pub fn remove_left_behind(interfaces: &[Interface]) -> io::Result<Vec<String>> {
    let mut cleared = Vec::new();
    for index in interface::with_clsact()? {
        let Some(interface) = interfaces.iter().find(|interface| interface.index == index) else { continue };
        let program = interface.xdp.map(|program| interface::program_name(program.id));
        if program.is_some_and(|name| name == interface::OUR_PROGRAM) {
            continue;
        }
        if qdisc_detach_program(&interface.name, TcAttachType::Egress, EGRESS_PROGRAM).is_ok() {
            interface::remove_unused_clsact(index)?;
            cleared.push(interface.name.clone());
        }
    }
    Ok(cleared)
}
