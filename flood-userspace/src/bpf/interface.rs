//! Queries the kernel about network interfaces, and detaches programs that must make way or that nobody needs any
//! more.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::programs::links::LinkInfo as BpfLinkInfo;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, Prop, XdpAttached},
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{
    error::BpfError,
    link::{Link, XDP_FLAGS_DRV_MODE, XDP_FLAGS_SKB_MODE},
};
use crate::netlink::{exchange, links};

/// Name of the filter's program, by which another floodgate is recognized.
pub const OUR_PROGRAM: &str = "floodgate";

/// A network interface of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Number in the kernel.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Its alternative names.
    pub alternative_names: Vec<String>,
    /// Largest payload of a frame, bytes.
    pub mtu: u32,
    /// What a program finds at the beginning of received packets.
    pub link_layer: LinkLayer,
    /// The kind of a virtual interface (`veth`, `bridge`), if it is one.
    pub kind: Option<String>,
    /// Index of the bridge or bond that it is a port of.
    pub controller: Option<u32>,
    /// The XDP program on it.
    pub xdp: Option<XdpProgram>,
}

/// What a program finds at the beginning of packets that an interface receives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// An Ethernet header, but all packets are from this host.
    Loopback,
    /// The IP header.
    Bare,
    /// Something else, or different things on different interfaces: the kernel's name for it.
    Other(String),
}

impl LinkLayer {
    /// Derives it from the kernel's name for the link layer and the kind of a virtual interface.
    fn of(found: LinkLayerType, kind: Option<&str>) -> Self {
        match (found, kind) {
            (LinkLayerType::Ether, _) => Self::Ethernet,
            (LinkLayerType::Loopback, _) => Self::Loopback,
            // PPP: the kernel has removed its header. Other interfaces of type NONE, such as those of IPsec, show the
            // encapsulation.
            (LinkLayerType::None, None | Some("tun" | "wireguard"))
            | (LinkLayerType::Ppp | LinkLayerType::Rawip, _) => Self::Bare,
            // IPIP, SIT and GRE show the outer packet, or the frame in which it arrived.
            (other, Some(kind)) => Self::Other(format!("{other} ({kind})")),
            (other, None) => Self::Other(other.to_string()),
        }
    }
}

/// An XDP program on an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpProgram {
    /// Its id in the kernel.
    pub id: u32,
    /// Whether the driver runs it, rather than the generic hook behind the driver.
    pub native: bool,
}

/// Returns all interfaces.
pub fn interfaces() -> Result<Vec<Interface>, BpfError> {
    let links = links().map_err(|error| BpfError::Netlink { cause: error.to_string() })?;
    Ok(links.into_iter().map(Interface::from_link).collect())
}

/// Returns the interface with this name.
pub fn interface(name: &str) -> Result<Interface, BpfError> {
    named(&interfaces()?, name).cloned()
}

/// Returns the interface with this name among `all`.
pub fn named<'a>(all: &'a [Interface], name: &str) -> Result<&'a Interface, BpfError> {
    find(all, name).ok_or_else(|| BpfError::NoSuchInterface {
        name: name.to_owned(),
        have: all.iter().map(|interface| interface.name.clone()).collect(),
    })
}

/// Returns the interface with this name or alternative name, if there is one. Names are unique in the kernel.
pub fn find<'a>(all: &'a [Interface], name: &str) -> Option<&'a Interface> {
    all.iter().find(|interface| interface.has_name(name))
}

/// Returns the interface with this index, if there is one.
pub(super) fn with_index(index: u32) -> io::Result<Option<Interface>> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    match exchange(RouteNetlinkMessage::GetLink(request), NLM_F_REQUEST) {
        Ok(answers) => Ok(answers.into_iter().find_map(Interface::from_message)),
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the name of the program with this id, if the kernel tells it.
pub fn program_name(id: u32) -> String {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "(without a name)".to_owned())
}

/// Detaches the XDP program from an interface.
pub(super) fn remove_program(interface: &Interface, program: XdpProgram) -> Result<(), BpfError> {
    let attach_error = |error: io::Error| BpfError::Attach {
        interface: interface.name.clone(),
        cause: format!("removing the program with id {}: {error}", program.id),
    };
    let mut link = LinkMessage::default();
    link.header.index = interface.index;
    link.attributes.push(LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(program.mode_flag())]));
    match exchange(RouteNetlinkMessage::SetLink(link), NLM_F_REQUEST) {
        Ok(_) => Ok(()),
        // Attached through a link, which has to be broken instead.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            break_link(interface, program).map_err(attach_error)
        }
        Err(error) => Err(attach_error(error)),
    }
}

/// Builds a traffic control message about an interface.
fn about(index: u32, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    (message.header.handle, message.header.parent) = (handle, parent);
    message
}

/// Returns the filters in `clsact` of an interface, on ingress or egress (the minor half of their parent's handle).
fn filters(index: u32, minor: u16) -> io::Result<Vec<TcMessage>> {
    let request = about(index, TcHandle::UNSPEC, TcHandle { minor, ..TcHandle::CLSACT });
    let answers = exchange(RouteNetlinkMessage::GetTrafficFilter(request), NLM_F_REQUEST | NLM_F_DUMP)?;
    let filter =
        |answer| if let RouteNetlinkMessage::NewTrafficFilter(filter) = answer { Some(filter) } else { None };
    Ok(answers.into_iter().filter_map(filter).collect())
}

/// Whether an egress filter of an interface is the program with this id.
pub(super) fn has_egress_filter(index: u32, program: u32) -> io::Result<bool> {
    let is_program = |attribute: &TcAttribute| match attribute {
        TcAttribute::Options(options) => options.contains(&TcOption::Bpf(TcFilterBpfOption::ProgId(program))),
        _ => false,
    };
    match filters(index, TcHandle::MIN_EGRESS) {
        Ok(filters) => Ok(filters.iter().any(|filter| filter.attributes.iter().any(is_program))),
        // The queueing discipline is gone, and the filter with it; or the interface is.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the queueing discipline `clsact` from an interface, unless a filter is in it.
pub(super) fn remove_unused_clsact(index: u32) -> io::Result<()> {
    for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        if !filters(index, minor)?.is_empty() {
            return Ok(());
        }
    }
    let mut request = about(index, TcHandle { minor: 0, ..TcHandle::CLSACT }, TcHandle::CLSACT);
    request.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    exchange(RouteNetlinkMessage::DelQueueDiscipline(request), NLM_F_REQUEST).map(|_| ())
}

/// Returns the kind of the queueing discipline in the place of `clsact` on an interface.
pub(super) fn kind_in_place_of_clsact(index: u32) -> io::Result<Option<String>> {
    Ok(in_place_of_clsact(index)?.into_iter().find(|(at, _)| *at == index).map(|(_, kind)| kind))
}

/// Returns the indices of the interfaces that have a `clsact`.
pub(super) fn with_clsact() -> io::Result<Vec<u32>> {
    /// The kernel lists those of all interfaces, whichever is requested.
    const ANY: u32 = 0;

    let all = in_place_of_clsact(ANY)?.into_iter();
    Ok(all.filter(|(_, kind)| kind == "clsact").map(|(index, _)| index).collect())
}

/// Returns the kinds of queueing discipline in the place of `clsact`, with the indices of their interfaces.
fn in_place_of_clsact(index: u32) -> io::Result<Vec<(u32, String)>> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(index.cast_signed()));
    let answers = exchange(request, NLM_F_REQUEST | NLM_F_DUMP)?;
    let kind = |attribute| if let TcAttribute::Kind(kind) = attribute { Some(kind) } else { None };
    let found = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(found) if found.header.parent == TcHandle::CLSACT => {
            let index = found.header.index.cast_unsigned();
            Some((index, found.attributes.into_iter().find_map(kind)?))
        }
        _ => None,
    });
    Ok(found.collect())
}

impl XdpProgram {
    fn mode_flag(self) -> u32 {
        if self.native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE }
    }
}

impl Interface {
    /// Whether it has this name or alternative name.
    pub fn has_name(&self, name: &str) -> bool {
        self.name == name || self.alternative_names.iter().any(|other| other == name)
    }

    fn from_message(answer: RouteNetlinkMessage) -> Option<Self> {
        if let RouteNetlinkMessage::NewLink(link) = answer { Some(Self::from_link(link)) } else { None }
    }

    fn from_link(link: LinkMessage) -> Self {
        let link_layer = link.header.link_layer_type;
        let mut interface = Self {
            index: link.header.index,
            name: String::new(),
            alternative_names: Vec::new(),
            mtu: 0,
            link_layer: LinkLayer::Ethernet,
            kind: None,
            controller: None,
            xdp: None,
        };
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(name) => interface.name = name,
                LinkAttribute::PropList(properties) => {
                    let name =
                        |property| if let Prop::AltIfName(name) = property { Some(name) } else { None };
                    interface.alternative_names.extend(properties.into_iter().filter_map(name));
                }
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
        interface.link_layer = LinkLayer::of(link_layer, interface.kind.as_deref());
        interface
    }

    /// Returns an error if the filter cannot read what the interface receives. Guarding the loopback does harm, so it
    /// is allowed only if `forced`.
    pub fn can_be_guarded(&self, forced: bool) -> Result<(), BpfError> {
        match &self.link_layer {
            LinkLayer::Ethernet | LinkLayer::Bare => Ok(()),
            LinkLayer::Loopback if forced => Ok(()),
            LinkLayer::Loopback => Err(BpfError::Loopback { interface: self.name.clone() }),
            LinkLayer::Other(kind) => {
                Err(BpfError::UnknownLinkLayer { interface: self.name.clone(), kind: kind.clone() })
            }
        }
    }

    /// Returns the path of its sysfs file. `None` if sysfs shows another network namespace, because it was mounted
    /// there.
    pub fn sysfs(&self, file: &str) -> Option<PathBuf> {
        let folder = Path::new("/sys/class/net").join(&self.name);
        let index = std::fs::read_to_string(folder.join("ifindex")).ok()?;
        (index.trim().parse() == Ok(self.index)).then(|| folder.join(file))
    }

    /// Returns the name of the driver, for messages.
    pub fn driver(&self) -> String {
        let physical = || {
            let path = std::fs::read_link(self.sysfs("device/driver")?).ok()?;
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

/// Breaks the link that holds a program on an interface, if one does. Does not guess if several may.
pub fn break_link(interface: &Interface, program: XdpProgram) -> io::Result<()> {
    let of_program = |info: &BpfLinkInfo| info.program_id() == program.id;
    let mut held = Vec::new();
    for info in aya::programs::loaded_links().filter_map(Result::ok).filter(of_program) {
        // The link has ended in between.
        let Ok(link) = Link::with_id(info.id()) else { continue };
        if link.holds()?.interface == Some(interface.index) {
            held.push(link);
        }
    }
    // The links that we hold open cannot end by themselves any more. So if the program is still there, its link is
    // among these; if not, they belong to other namespaces.
    if with_index(interface.index)?.and_then(|now| now.xdp).is_none_or(|now| now.id != program.id) {
        return Ok(());
    }
    match held.as_slice() {
        [link] => link.detach(),
        [] => Err(io::Error::other("a link holds it that the kernel does not name")),
        _ => Err(io::Error::other(
            "another network namespace has an interface of the same number with the same program, and the kernel does \
             not tell which link is whose. Take it off with the tool that put it there",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interface_is_found_as_among_all() {
        let all = interfaces().unwrap();
        let lo = named(&all, "lo").unwrap();
        assert_eq!(with_index(lo.index).unwrap().as_ref(), Some(lo));
        let unused = all.iter().map(|interface| interface.index).max().unwrap() + 1_000;
        assert_eq!(with_index(unused).unwrap(), None);
    }
}
