//! The program on the way out, which notes what the host asks mirrors for: attaching it beside whatever others do there, and
//! taking it off so that nothing of ours stays.

use aya::{
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{NlOptions, SchedClassifierLinkId, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program},
    },
    util::KernelVersion,
};

use super::{
    error::{chain, errno},
    interface::{self, Interface},
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
pub(super) struct Egress {
    link: SchedClassifierLinkId,
    /// Whether the queueing discipline is there for us.
    made_qdisc: bool,
}

impl Egress {
    /// Attaches the program, behind others where the kernel keeps an order. Says why not.
    pub(super) fn attach(
        program: &mut SchedClassifier,
        interface: &Interface,
        hook: Hook,
    ) -> Result<Self, String> {
        let made_qdisc = hook == Hook::Clsact && prepare_clsact(interface)?;
        let options = match hook {
            Hook::Tcx => TcAttachOptions::TcxOrder(LinkOrder::default()),
            Hook::Clsact => TcAttachOptions::Netlink(NlOptions::default()),
        };
        match program.attach_with_options(&interface.name, TcAttachType::Egress, options) {
            Ok(link) => Ok(Self { link, made_qdisc }),
            Err(error) => {
                if made_qdisc {
                    let _ = interface::remove_unused_clsact(interface.index); // why attaching failed matters more
                }
                Err(chain(&error))
            }
        }
    }

    /// Takes the program off, and what was made for it unless others use it by now.
    pub(super) fn detach(self, program: &mut SchedClassifier, interface: &Interface) -> Result<(), String> {
        program.detach(self.link).map_err(|error| chain(&error))?;
        if self.made_qdisc {
            interface::remove_unused_clsact(interface.index).map_err(|error| error.to_string())?;
        }
        Ok(())
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
