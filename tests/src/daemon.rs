//! The binary `floodgate` as an operator runs it: started, queried, ended.

use std::{
    env,
    fs::{self, File},
    os::unix::{net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

use crate::{
    lab::{Namespace, eventually},
    process::Process,
};

/// Returns the path of the floodgate that was built along with this program.
pub fn binary() -> Result<PathBuf> {
    let program = env::current_exe()?;
    let folder = program.parent().context("a program is in some folder")?;
    // Tests are one folder deeper than binaries.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join("floodgate");
    ensure!(path.exists(), "{} is missing: `cargo xtask` builds it before it runs this", path.display());
    Ok(path)
}

/// How a command ended, and what it printed.
#[derive(Clone, Debug)]
pub struct Said {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Data, on standard output.
    pub stdout: String,
    /// Messages, on standard error.
    pub stderr: String,
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Result<Said> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    Ok(Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs floodgate with these arguments, separated by blanks, without a daemon.
pub fn floodgate(arguments: &str) -> Result<Said> {
    run(Command::new(binary()?).args(arguments.split_whitespace()))
}

/// A running floodgate daemon.
pub struct Daemon {
    process: Process,
    folder: TempDir,
}

impl Daemon {
    /// Starts a daemon in a namespace, with this configuration (TOML) and these arguments to `run`. Returns once it
    /// replies.
    pub fn start(namespace: &Namespace, config: &str, arguments: &str) -> Result<Self> {
        Self::start_with(namespace, config, arguments, &[])
    }

    /// Starts a daemon with these environment variables.
    pub fn start_with(
        namespace: &Namespace,
        config: &str,
        arguments: &str,
        environment: &[(&str, &Path)],
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let log = File::create(log_path(&folder))?;
        Self::start_in(folder, namespace, config, arguments, log.into(), environment)
    }

    /// The same with another log destination, which [`log`](Self::log) does not know.
    pub fn start_logging_to(
        namespace: &Namespace,
        config: &str,
        arguments: &str,
        log: Stdio,
    ) -> Result<Self> {
        Self::start_in(tempfile::tempdir()?, namespace, config, arguments, log, &[])
    }

    fn start_in(
        folder: TempDir,
        namespace: &Namespace,
        config: &str,
        arguments: &str,
        log: Stdio,
        environment: &[(&str, &Path)],
    ) -> Result<Self> {
        let mut command = start_command(&folder, namespace, config, arguments, log)?;
        command.envs(environment.iter().copied());
        let mut daemon = Self { process: Process::start(&mut command)?, folder };
        // A connection attempt costs less than a request, which then waits for its reply.
        let answers = eventually("floodgate answers", || {
            let listens = UnixStream::connect(daemon.socket()).is_ok();
            daemon.has_ended() || (listens && daemon.ask("status").is_ok_and(|said| said.code == 0))
        });
        if answers.is_err() || daemon.has_ended() {
            bail!("floodgate does not start: {}", daemon.log());
        }
        Ok(daemon)
    }

    /// Returns a command with this verb and arguments, separated by blanks, that talks to this daemon.
    pub fn command(&self, words: &str) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.arg("--socket").arg(self.socket()).args(words.split_whitespace());
        command.stdin(Stdio::null()).process_group(0); // Ctrl-C is for us
        Ok(command)
    }

    /// Runs a verb.
    pub fn ask(&self, words: &str) -> Result<Said> {
        run(&mut self.command(words)?)
    }

    /// Runs a verb that must succeed. Returns what it printed.
    pub fn tell(&self, words: &str) -> Result<String> {
        let said = self.ask(words)?;
        ensure!(said.code == 0, "`floodgate {words}`: {}", said.stderr.trim());
        Ok(said.stdout)
    }

    /// Runs a reading verb with `--json`.
    pub fn read<T: DeserializeOwned>(&self, words: &str) -> Result<T> {
        let text = self.tell(&format!("{words} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("`floodgate {words} --json`: {text}"))
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    /// Replaces the configuration that it was started with.
    pub fn rewrite(&self, config: &str) -> Result<()> {
        Ok(fs::write(self.folder.path().join("floodgate.toml"), with_state(&self.folder, config))?)
    }

    /// Makes it reload its configuration, by SIGHUP.
    pub fn hang_up(&self) {
        self.process.signal(libc::SIGHUP);
    }

    /// The folder with its configuration and socket.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns what it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(log_path(&self.folder)).unwrap_or_else(|error| error.to_string())
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    /// Ends it with a signal. Returns its exit status and its log.
    pub fn end(mut self, signal: libc::c_int) -> Result<(ExitStatus, String)> {
        self.process.signal(signal);
        let status = self.wait()?;
        Ok((status, self.log()))
    }

    /// Waits for it to end by itself, ten seconds at most.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        self.process.wait()
    }
}

fn start_command(
    folder: &TempDir,
    namespace: &Namespace,
    config: &str,
    arguments: &str,
    log: Stdio,
) -> Result<Command> {
    let config_path = folder.path().join("floodgate.toml");
    fs::write(&config_path, with_state(folder, config))?;
    let mut command = namespace.command(binary()?)?;
    command.arg("run").arg("--config").arg(config_path);
    command.arg("--socket").arg(socket(folder)).args(arguments.split_whitespace());
    command.stdout(Stdio::null()).stderr(log);
    Ok(command)
}

/// Returns a configuration whose state is in the daemon's folder, unless it says otherwise.
fn with_state(folder: &TempDir, config: &str) -> String {
    let says = config.lines().any(|line| line.trim_start().starts_with("state ="));
    let state = folder.path().join("state");
    if says { config.to_owned() } else { format!("state = \"{}\"\n{config}", state.display()) }
}

fn socket(folder: &TempDir) -> PathBuf {
    folder.path().join("floodgate.sock")
}

fn log_path(folder: &TempDir) -> PathBuf {
    folder.path().join("log")
}
