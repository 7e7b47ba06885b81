//! Other programs, run beside a test: the project's examples, and programs of others.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use rustix::process::{Pid, Signal, kill_process};

/// A program that runs, and is killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    lines: BufReader<ChildStdout>,
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    /// Its status; none where a signal ended it.
    pub status: Option<i32>,
    /// What it printed that was not read before.
    pub printed: String,
    /// Its complaints.
    pub complaint: String,
}

/// An example of this project, which cargo puts beside the tool.
///
/// # Errors
/// Fails the test if the tool's place is not known, or it was not built.
pub fn example(name: &str) -> Result<Command, Failed> {
    let tool = PathBuf::from(std::env::var("BUFMAP_TOOL")?);
    let example = tool.with_file_name("examples").join(name);
    match example.is_file() {
        true => Ok(Command::new(example)),
        false => Err(format!("{} is not there: cargo build --examples", example.display()).into()),
    }
}

impl Program {
    /// Starts it with these arguments.
    ///
    /// # Errors
    /// Fails the test if it cannot be started.
    pub fn start(command: &mut Command, arguments: &[&str]) -> Result<Self, Failed> {
        // Some programs end when there is something to read, and the end of a file is something.
        command.args(arguments).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?);
        Ok(Self { child, lines })
    }

    /// Reads what it prints up to a line with these words.
    ///
    /// # Errors
    /// Fails the test if it ends before that.
    pub fn says(&mut self, words: &str) -> Result<String, Failed> {
        let mut line = String::new();
        while self.lines.read_line(&mut line)? > 0 {
            if line.contains(words) {
                return Ok(line);
            }
            line.clear();
        }
        let mut complaint = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut complaint)?;
        }
        Err(format!("it ended and never said {words:?}: {complaint}").into())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// Fails the test if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), Failed> {
        let pid = Pid::from_raw(self.child.id() as i32).ok_or("no process")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// Fails the test if it has not ended after `limit`.
    pub fn ends(mut self, limit: Duration) -> Result<Ended, Failed> {
        let begun = Instant::now();
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if begun.elapsed() > limit {
                return Err(format!("{:?} has not ended within {limit:?}", self.child).into());
            }
            thread::sleep(Duration::from_millis(5));
        };
        let (mut printed, mut complaint) = (String::new(), String::new());
        self.lines.read_to_string(&mut printed)?;
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut complaint)?;
        }
        Ok(Ended { status: status.code(), printed, complaint })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Refused to one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
