//! Runs commands: each is printed before it runs, and a failure names it.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, ensure};

/// The workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// A command line to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CommandLine {
    /// Environment variables for it.
    pub(crate) environment: Vec<(String, String)>,
    /// The program and its arguments.
    pub(crate) words: Vec<String>,
    /// The folder to run it in, if not the workspace's.
    pub(crate) folder: Option<PathBuf>,
}

impl CommandLine {
    /// Splits a line at blanks.
    pub(crate) fn new(line: &str) -> Self {
        let words = line.split_whitespace().map(str::to_owned).collect();
        Self { environment: Vec::new(), words, folder: None }
    }

    /// Starts a command line with a program whose path may contain blanks.
    pub(crate) fn program(path: &Path) -> Self {
        Self { environment: Vec::new(), words: vec![path.display().to_string()], folder: None }
    }

    /// Adds a variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Runs it in a folder.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<T: AsRef<str>>(mut self, words: &[T]) -> Self {
        self.words.extend(words.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Formats it as one would type it.
    pub(crate) fn text(&self) -> String {
        let variables = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        variables.chain(self.words.iter().cloned()).collect::<Vec<_>>().join(" ")
    }

    /// Returns the command, which runs in its folder without standard input.
    pub(crate) fn command(&self) -> Command {
        let (program, arguments) =
            self.words.split_first().map_or(("true", &[][..]), |(p, a)| (p.as_str(), a));
        let mut command = Command::new(program);
        command.args(arguments).envs(self.environment.iter().cloned());
        command.current_dir(self.folder.clone().unwrap_or_else(workspace)).stdin(Stdio::null());
        command
    }

    /// Prints and runs the command. Returns its exit status.
    pub(crate) fn status(&self) -> Result<ExitStatus> {
        eprintln!("$ {}", self.text());
        self.command().status().with_context(|| format!("starting `{}`", self.text()))
    }

    /// Prints and runs the command, which must succeed.
    pub(crate) fn run(&self) -> Result<()> {
        let status = self.status()?;
        ensure!(status.success(), "`{}` failed ({status})", self.text());
        Ok(())
    }

    /// Runs the command quietly. Returns its standard output if it succeeds.
    pub(crate) fn output(&self) -> Option<String> {
        let output = self.command().stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}
