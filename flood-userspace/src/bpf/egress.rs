//! The egress program, which records the host's requests: attaches it beside other programs, and detaches it so that
//! nothing of ours is left behind.

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

/// Name of the program in the object, and of filters on older kernels.
pub(super) const EGRESS_PROGRAM: &str = "floodgate_egress";

/// The kernel hook by which egress packets are seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hook {
    /// A link of its own, which ends with the process (Linux 6.6).
    Tcx,
    /// A filter in the queueing discipline `clsact`.
    Clsact,
}

impl Hook {
    /// Returns the best hook of the running kernel.
    pub fn of_kernel() -> Self {
        match KernelVersion::current() {
            Ok(version) if version < KernelVersion::new(6, 6, 0) => Self::Clsact,
            _ => Self::Tcx,
        }
    }
}

/// The program on one interface, by either hook.
#[derive(Debug)]
pub(super) enum Egress {
    /// As a link.
    Tcx(Link),
    /// As a filter.
    Clsact {
        link: SchedClassifierLinkId,
        /// Whether the queueing discipline was created for it.
        made_qdisc: bool,
    },
}

impl Egress {
    /// Attaches the program, behind others if the kernel keeps an order. The error says why not.
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

    /// Whether the program, which has this id, is still attached to the interface.
    pub(super) fn is_attached(&self, interface: &Interface, program: u32) -> io::Result<bool> {
        match self {
            Self::Tcx(link) => {
                let held = link.holds()?;
                Ok(held.interface == Some(interface.index) && held.program == program)
            }
            Self::Clsact { .. } => interface::has_egress_filter(interface.index, program),
        }
    }

    /// Detaches the program, and removes what was created for it unless others use it by now.
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

    /// Releases a program that is no longer on the interface, without detaching anything. A filter is identified by
    /// its position alone, which may belong to another program by now.
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

/// Makes sure that the interface has a `clsact` without a filter of ours: a daemon that was killed leaves both
/// behind. Returns whether the `clsact` is ours.
fn prepare_clsact(interface: &Interface) -> Result<bool, String> {
    let made = match qdisc_add_clsact(&interface.name) {
        Ok(()) => true,
        Err(error) if errno(&error) == Some(libc::EEXIST) => false,
        Err(error) => return Err(chain(&error)),
    };
    if !made {
        // The kernel also accepts an egress filter in the qdisc `ingress`, and runs it on ingress.
        let kind = interface::kind_in_place_of_clsact(interface.index).map_err(|error| error.to_string())?;
        if let Some(kind) = kind.filter(|kind| kind != "clsact") {
            return Err(format!("the queueing discipline {kind} has the place of clsact"));
        }
    }
    // A new `clsact` has no filters. Any other error shows when ours is attached.
    let left_behind =
        !made && qdisc_detach_program(&interface.name, TcAttachType::Egress, EGRESS_PROGRAM).is_ok();
    Ok(made || left_behind)
}

/// Removes the egress filters that a killed daemon has left on interfaces that no floodgate guards. Returns their
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
