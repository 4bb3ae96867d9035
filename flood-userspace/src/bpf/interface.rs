//! What the kernel says about network interfaces, and taking off one what another program, or nobody any more, needs.

use std::{io, os::fd::RawFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached},
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::error::BpfError;
use crate::netlink::exchange;

/// A network interface of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Number in the kernel.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Largest payload of a frame, bytes.
    pub mtu: u32,
    /// The kind of a virtual interface (`veth`, `bridge`), if it is one.
    pub kind: Option<String>,
    /// Number of the bridge or bond that it is a part of.
    pub controller: Option<u32>,
    /// The XDP program on it.
    pub xdp: Option<XdpProgram>,
}

/// An XDP program on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpProgram {
    /// Its id in the kernel.
    pub id: u32,
    /// Whether the driver runs it, rather than the generic hook behind the driver.
    pub native: bool,
}

/// All interfaces.
pub fn interfaces() -> Result<Vec<Interface>, BpfError> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = exchange(request, NLM_F_REQUEST | NLM_F_DUMP)
        .map_err(|error| BpfError::Netlink { cause: error.to_string() })?;
    let link = |answer| if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None };
    Ok(answers.into_iter().filter_map(link).map(Interface::from_link).collect())
}

/// The interface with this name.
pub fn interface(name: &str) -> Result<Interface, BpfError> {
    named(&interfaces()?, name).cloned()
}

/// The interface with this name, of those that there are.
pub fn named<'a>(all: &'a [Interface], name: &str) -> Result<&'a Interface, BpfError> {
    all.iter().find(|interface| interface.name == name).ok_or_else(|| BpfError::NoSuchInterface {
        name: name.to_owned(),
        have: all.iter().map(|interface| interface.name.clone()).collect(),
    })
}

/// Name of the program with this id, as far as the kernel tells.
pub fn program_name(id: u32) -> String {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Takes whatever XDP program is on the interface off it.
pub(super) fn remove_program(interface: &Interface, program: XdpProgram) -> Result<(), BpfError> {
    let attach_error = |error: io::Error| BpfError::Attach {
        interface: interface.name.clone(),
        cause: format!("removing the program with id {}: {error}", program.id),
    };
    let mut link = LinkMessage::default();
    link.header.index = interface.index;
    link.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(program.mode_flag())]));
    match exchange(RouteNetlinkMessage::SetLink(link), NLM_F_REQUEST | NLM_F_ACK) {
        Ok(_) => Ok(()),
        // Attached through a link: that has to be broken instead.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            detach_links(program.id).map_err(attach_error)
        }
        Err(error) => Err(attach_error(error)),
    }
}

/// Takes the queueing discipline `clsact` off an interface, unless a filter is in it.
pub(super) fn remove_unused_clsact(index: u32) -> io::Result<()> {
    let about = |handle, parent| {
        let mut message = TcMessage::with_index(index.cast_signed());
        (message.header.handle, message.header.parent) = (handle, parent);
        message
    };
    for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        let request = about(TcHandle::UNSPEC, TcHandle { minor, ..TcHandle::CLSACT });
        let filters = exchange(RouteNetlinkMessage::GetTrafficFilter(request), NLM_F_REQUEST | NLM_F_DUMP)?;
        if filters.iter().any(|answer| matches!(answer, RouteNetlinkMessage::NewTrafficFilter(_))) {
            return Ok(());
        }
    }
    let mut request = about(TcHandle { minor: 0, ..TcHandle::CLSACT }, TcHandle::CLSACT);
    request.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    exchange(RouteNetlinkMessage::DelQueueDiscipline(request), NLM_F_REQUEST | NLM_F_ACK).map(|_| ())
}

/// The kind of the queueing discipline that has the place of `clsact` on an interface.
pub(super) fn kind_in_place_of_clsact(index: u32) -> io::Result<Option<String>> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index.cast_signed()));
    let answers = exchange(request, NLM_F_REQUEST | NLM_F_DUMP)?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(found)
            if found.header.index == index.cast_signed() && found.header.parent == TcHandle::CLSACT =>
        {
            found.attributes.into_iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) => Some(kind),
                _ => None,
            })
        }
        _ => None,
    }))
}

impl XdpProgram {
    fn mode_flag(self) -> u32 {
        // linux/if_link.h: XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
        if self.native { 1 << 2 } else { 1 << 1 }
    }
}

impl Interface {
    fn from_link(link: LinkMessage) -> Self {
        let mut interface = Self {
            index: link.header.index,
            name: String::new(),
            mtu: 0,
            kind: None,
            controller: None,
            xdp: None,
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name = name,
                LinkAttribute::Mtu(mtu) => interface.mtu = mtu,
                LinkAttribute::Controller(index) => interface.controller = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    interface.kind = infos.into_iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                LinkAttribute::Xdp(xdp) => interface.xdp = XdpProgram::from_attributes(&xdp),
                _ => {}
            }
        }
        interface
    }

    /// The driver, for messages.
    pub fn driver(&self) -> String {
        let physical = || {
            let path = std::fs::read_link(format!("/sys/class/net/{}/device/driver", self.name)).ok()?;
            Some(path.file_name()?.to_string_lossy().into_owned())
        };
        self.kind.clone().or_else(physical).unwrap_or_else(|| "(unknown)".to_owned())
    }
}

impl XdpProgram {
    fn from_attributes(attributes: &[LinkXdp]) -> Option<Self> {
        let id = attributes.iter().find_map(|attribute| match attribute {
            LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) if *id != 0 => Some(*id),
            _ => None,
        })?;
        let native = !attributes.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
        Some(Self { id, native })
    }
}

/// Breaks the links of a program. aya has no call for it.
fn detach_links(program_id: u32) -> io::Result<()> {
    /// linux/bpf.h, `enum bpf_cmd`.
    const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
    const BPF_LINK_DETACH: libc::c_long = 34;

    for link in
        aya::programs::loaded_links().filter_map(Result::ok).filter(|link| link.program_id() == program_id)
    {
        let fd: RawFd = bpf(BPF_LINK_GET_FD_BY_ID, link.id())?;
        let detached = bpf(BPF_LINK_DETACH, fd.unsigned_abs());
        // SAFETY: the kernel has just given us this descriptor, and nobody else knows it.
        unsafe { libc::close(fd) };
        detached?;
    }
    Ok(())
}

/// A bpf(2) command whose attributes are one number.
fn bpf(command: libc::c_long, number: u32) -> io::Result<i32> {
    let attributes = [number, 0, 0, 0];
    // SAFETY: the kernel reads as many bytes as we say, and both commands want zeros behind the number.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(&attributes)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}
