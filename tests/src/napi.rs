//! Who takes in what comes to an interface: its kernel threads (threaded NAPI), on a processor of our choice, so that their
//! time is told from everybody else's.
//!
//! The kernel says which threads these are (netdev netlink, Linux 6.8), so that those of another interface of the same name
//! are never taken for them.

use std::{
    fs, io,
    io::Read,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
    ptr,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::processor::{Policy, cpu_time, pin_thread, set_policy};

/// What takes packets in, in threads of its own on one processor, for as long as this lives. Then it is as it was.
#[derive(Debug)]
pub struct Receiver {
    /// Whether the interface has such threads, in the file system of its namespace, which has to stay.
    threaded: PathBuf,
    _sysfs: OwnedFd,
    /// What it said before.
    before: String,
    threads: Vec<u32>,
}

impl Receiver {
    /// Of an interface of this thread's namespace, by name and index.
    ///
    /// # Errors
    /// Where the kernel has no threaded NAPI, or does not say which threads are the interface's.
    pub fn on(interface: &str, index: u32, core: usize) -> Result<Self> {
        let (sysfs, threaded) = threaded(interface)?;
        let before =
            fs::read_to_string(&threaded).with_context(|| format!("{interface} has no threaded NAPI"))?;
        let mut receiver = Self { threaded, _sysfs: sysfs, before, threads: Vec::new() };
        fs::write(&receiver.threaded, "1").with_context(|| format!("giving {interface} threads"))?;
        receiver.threads = threads_of(index).context("asking for the threads of an interface (Linux 6.8)")?;
        ensure!(!receiver.threads.is_empty(), "{interface} has no threads that take in packets");
        for thread in &receiver.threads {
            pin_thread(*thread, core)?;
        }
        Ok(receiver)
    }

    /// Lets its threads run before all others, as a card's interrupts do: what others do at the same time costs packets nothing but
    /// what is in the caches. Not for long: little else runs on their processor while packets come.
    pub fn go_first(&self) -> Result<()> {
        self.threads.iter().try_for_each(|thread| set_policy(*thread, Policy::First))
    }

    /// How long its threads have run so far.
    pub fn busy(&self) -> Result<Duration> {
        self.threads.iter().map(|thread| cpu_time(*thread)).sum()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Where it fails the interface is gone. Some kernels keep the threads.
        for thread in &self.threads {
            let _ = set_policy(*thread, Policy::Usual);
        }
        let _ = fs::write(&self.threaded, self.before.trim());
    }
}

/// Whether an interface of this thread's namespace has threads of its own.
pub fn is_threaded(interface: &str) -> Result<bool> {
    let (_sysfs, threaded) = threaded(interface)?;
    Ok(fs::read_to_string(&threaded)?.trim() != "0")
}

/// The file that says so, for as long as its file system stays.
fn threaded(interface: &str) -> Result<(OwnedFd, PathBuf)> {
    let sysfs = sysfs().context("the file system of this namespace's devices")?;
    let path = format!("/proc/self/fd/{}/class/net/{interface}/threaded", sysfs.as_raw_fd());
    Ok((sysfs, path.into()))
}

/// The file system of the devices of this thread's namespace. What is mounted at `/sys` shows those of who mounted it.
fn sysfs() -> io::Result<OwnedFd> {
    // linux/mount.h.
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;

    let owned = |result: libc::c_long| match libc::c_int::try_from(result) {
        // SAFETY: the kernel has just opened it for us.
        Ok(descriptor) if descriptor >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    };
    // SAFETY: a string that ends with a NUL.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, c"sysfs".as_ptr(), FSOPEN_CLOEXEC) })?;
    // SAFETY: this command takes neither key nor value.
    let created = unsafe {
        let none = ptr::null::<libc::c_char>();
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), FSCONFIG_CMD_CREATE, none, none, 0)
    };
    if created != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) })
}

/// Numbers of generic netlink (linux/netlink.h, linux/genetlink.h, linux/netdev.h).
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const NAPI_GET: u8 = 11;
const NAPI_IFINDEX: u16 = 1;
const NAPI_PID: u16 = 4;

/// Bytes before the attributes of a message: its own header and that of generic netlink.
const HEADERS: usize = 20;

/// The threads that take in what comes to an interface of this thread's namespace.
fn threads_of(index: u32) -> Result<Vec<u32>> {
    let family = ask(CONTROL, REQUEST | ACKNOWLEDGE, GET_FAMILY, &attribute(FAMILY_NAME, b"netdev\0"))?;
    let family = family.iter().find_map(|message| value(message, FAMILY_ID)?.first_chunk().copied());
    let family = u16::from_ne_bytes(family.context("this kernel does not describe network devices")?);
    let queues = ask(family, REQUEST | DUMP, NAPI_GET, &attribute(NAPI_IFINDEX, &index.to_ne_bytes()))?;
    let threads = queues.iter().filter_map(|message| value(message, NAPI_PID)?.first_chunk().copied());
    Ok(threads.map(u32::from_ne_bytes).collect())
}

/// Asks the kernel for something; returns the attributes of each message of its answer.
fn ask(family: u16, flags: u16, command: u8, attributes: &[u8]) -> Result<Vec<Vec<u8>>> {
    const ROOM: usize = 64 * 1_024;

    let length = u32::try_from(HEADERS + attributes.len())?;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(family.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]); // sequence number and port: there is one request, and the kernel knows who asks
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    let netlink = Protocol::from(libc::NETLINK_GENERIC);
    let mut socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(netlink))?;
    socket.send(&request)?;

    let (mut answers, mut buffer) = (Vec::new(), vec![0; ROOM]);
    loop {
        let length = socket.read(&mut buffer)?;
        let mut rest = &buffer[..length];
        while let Some((header, _)) = rest.split_first_chunk::<HEADERS>() {
            let [a, b, c, d, low, high, ..] = *header;
            let (length, kind) = (u32::from_ne_bytes([a, b, c, d]) as usize, u16::from_ne_bytes([low, high]));
            let message = rest.get(HEADERS..length).context("a message of netlink is cut off")?;
            match kind {
                MESSAGE_DONE => return Ok(answers),
                MESSAGE_ERROR => {
                    let [.., w, x, y, z] = *header;
                    return match i32::from_ne_bytes([w, x, y, z]) {
                        0 => Ok(answers),
                        code => bail!(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => answers.push(message.to_vec()),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// An attribute as the kernel reads it.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = (4 + value.len()) as u16;
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// What an attribute of this kind has.
fn value(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(([a, b, c, d], _)) = attributes.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([*c, *d]) == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_found_among_others() {
        let attributes = [attribute(1, b"odd"), attribute(NAPI_PID, &7_u32.to_ne_bytes())].concat();
        assert_eq!(value(&attributes, NAPI_PID), Some(&7_u32.to_ne_bytes()[..]));
        assert_eq!(value(&attributes, 1), Some(&b"odd"[..]));
        assert_eq!(value(&attributes, 2), None);
        assert_eq!(value(&attributes[..6], 1), None, "cut off");
        assert_eq!(value(&[0; 4], 1), None, "shorter than its own header");
    }
}
