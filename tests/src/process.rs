//! A program that runs until it is told to end.

use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
};

use anyhow::{Context, Result};

use crate::lab::eventually;

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        // Ctrl-C is meant for this process, which then ends the program.
        let child = command.process_group(0).spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { child })
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// Waits for it to end by itself, ten seconds at most.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        eventually("the program ends", || self.has_ended())?;
        Ok(self.child.wait()?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: libc::c_int) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // SAFETY: no pointers. The caller has not reaped the child, so the process ID is still its own.
            unsafe { libc::kill(pid, signal) };
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_ended() {
            return;
        }
        self.signal(libc::SIGTERM);
        if self.wait().is_err() {
            let _ = self.child.kill(); // there is nothing else to be done about it
            let _ = self.child.wait();
        }
    }
}
