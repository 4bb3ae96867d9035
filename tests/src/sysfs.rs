//! What the kernel reports about an interface in files, in the interface's own namespace.

use std::{
    fs, io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
    ptr,
};

use anyhow::{Context, Result};

/// An interface of a namespace, also usable by threads in other namespaces.
#[derive(Debug)]
pub struct Device {
    folder: PathBuf,
    /// The file system that it is in, which has to stay open.
    _sysfs: OwnedFd,
}

impl Device {
    /// Opens an interface of this thread's namespace.
    pub fn here(interface: &str) -> Result<Self> {
        let sysfs = sysfs().context("the file system of this namespace's devices")?;
        let folder = format!("/proc/self/fd/{}/class/net/{interface}", sysfs.as_raw_fd());
        Ok(Self { folder: folder.into(), _sysfs: sysfs })
    }

    /// Reads a file, such as `statistics/rx_packets`, without the line end.
    pub fn read(&self, file: &str) -> Result<String> {
        let text = fs::read_to_string(self.folder.join(file)).with_context(|| format!("reading {file}"))?;
        Ok(text.trim_end().to_owned())
    }

    /// Writes to a file.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.folder.join(file), value).with_context(|| format!("writing {file}"))
    }

    /// Returns the packets dropped for lack of buffers between card and host, as reported by the driver. Drivers
    /// count them under one of two names, and some under both.
    pub fn packets_missed(&self) -> Result<u64> {
        let counts = ["rx_missed_errors", "rx_fifo_errors"]
            .map(|name| -> Result<u64> { Ok(self.read(&format!("statistics/{name}"))?.parse()?) });
        let [missed, overrun] = counts;
        Ok(missed?.max(overrun?))
    }
}

/// Mounts the file system of the devices of this thread's namespace. `/sys` shows those of the namespace that mounted
/// it.
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
    // SAFETY: the string ends with a NUL.
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
