//! Child processes: how they are started, watched, and reported when they fail.
//!
//! Children read nothing from standard input, so that nothing can wait for a person, and stay in this process's
//! group, so that Ctrl-C ends them too. A command is printed as one could type it before it runs.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

/// What can go wrong in a developer command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not there, or may not be run.
    #[error("cannot run `{command}`: {source}; {remedy}")]
    Start { command: String, source: io::Error, remedy: String },
    /// The program ran and failed.
    #[error("`{command}` failed ({status}); {remedy}")]
    Status { command: String, status: ExitStatus, remedy: String },
    /// A file or directory could not be read, written or moved.
    #[error("cannot {action} {}: {source}; {remedy}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error, remedy: &'static str },
    /// Something that has to be there is not.
    #[error("{what}; {remedy}")]
    Missing { what: String, remedy: String },
    /// Some steps failed; each has said why.
    #[error("{0} failed; the summary above names the reason of each")]
    Steps(String),
}

/// Runs `command` with its output going where ours goes.
pub fn run(command: &mut Command, remedy: &str) -> Result<(), Error> {
    announce(command);
    let status = command.stdin(Stdio::null()).status();
    check(command, status, remedy)
}

/// Waits for `command`, whose input and output the caller has already set.
pub fn status(command: &mut Command, remedy: &str) -> Result<(), Error> {
    let status = command.status();
    check(command, status, remedy)
}

/// Runs `command` and returns what it wrote to standard output; its standard error goes where ours goes.
pub fn output(command: &mut Command, remedy: &str) -> Result<String, Error> {
    let run = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let (status, stdout) = match run {
        Ok(output) => (Ok(output.status), output.stdout),
        Err(error) => (Err(error), Vec::new()),
    };
    check(command, status, remedy)?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Whether `command` starts and succeeds; its output is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs `command` and shows each line of its output to `pass`, which says whether the line is passed on to ours.
pub fn watch(
    command: &mut Command,
    remedy: &str,
    mut pass: impl FnMut(&str) -> bool,
) -> Result<(), Error> {
    announce(command);
    if io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|source| start_error(command, source, remedy))?;
    let (sender, lines) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        forward(pipe, |line| println!("{line}"), sender.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        forward(pipe, |line| eprintln!("{line}"), sender.clone());
    }
    drop(sender);
    for (line, print) in lines {
        if pass(&line) {
            print(&line);
        }
    }
    check(command, child.wait(), remedy)
}

/// Prints a line to one of our streams.
type Print = fn(&str);

/// Sends each line of `pipe` along, with the way to print it, until the pipe ends.
fn forward(pipe: impl Read + Send + 'static, print: Print, lines: mpsc::Sender<(String, Print)>) {
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            // The child is drained even if nobody listens any more, or it would block.
            let _ = lines.send((text, print));
            line.clear();
        }
    });
}

/// Ok if `command` ended with `status` well.
pub fn check(command: &Command, status: io::Result<ExitStatus>, remedy: &str) -> Result<(), Error> {
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(Error::Status { command: shown(command), status, remedy: remedy.to_owned() })
        }
        Err(source) => Err(start_error(command, source, remedy)),
    }
}

fn start_error(command: &Command, source: io::Error, remedy: &str) -> Error {
    Error::Start { command: shown(command), source, remedy: remedy.to_owned() }
}

fn announce(command: &Command) {
    println!("$ {}", shown(command));
}

/// The command as one could type it: variables, the program's name, arguments.
fn shown(command: &Command) -> String {
    let set = command.get_envs().filter_map(|(name, value)| value.map(|value| (name, value)));
    let set = set.map(|(name, value)| format!("{}={}", name.display(), quoted(value)));
    let program = Path::new(command.get_program());
    let program = quoted(program.file_name().unwrap_or(program.as_os_str()));
    let words = set.chain([program]).chain(command.get_args().map(quoted));
    words.collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What no default build has, and must hold all the same.
pub const FEATURES: [&str; 2] =
    ["--features", "bufmap/tracing,bufmap/wgpu,bufmap-exporters/wgpu,bufmap-bench/wgpu"];

/// The cargo that started us, in the workspace's root.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace());
    command
}

/// The workspace's root directory.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_one_could_type_them() {
        let mut command = Command::new("/some/where/cargo");
        command.args(["doc", "it's", ""]).env("RUSTDOCFLAGS", "-D warnings").env_remove("GONE");
        assert_eq!(shown(&command), r"RUSTDOCFLAGS='-D warnings' cargo doc 'it'\''s' ''");
    }

    #[test]
    fn a_failure_names_the_command_its_status_and_the_remedy() {
        let failed = run(Command::new("sh").args(["-c", "exit 3"]), "try again").unwrap_err();
        assert_eq!(failed.to_string(), "`sh -c 'exit 3'` failed (exit status: 3); try again");
        let absent = output(&mut Command::new("bufmap-no-such-program"), "install it").unwrap_err();
        assert!(matches!(absent, Error::Start { .. }));
        assert!(absent.to_string().ends_with("; install it"), "{absent}");
    }

    #[test]
    fn a_watched_child_shows_both_its_streams() {
        let mut seen = Vec::new();
        let mut child = Command::new("sh");
        child.args(["-c", r"echo out; echo err >&2; printf '\377 last'"]);
        let note = |line: &str| {
            seen.push(line.to_owned());
            false
        };
        watch(&mut child, "", note).unwrap();
        seen.sort();
        assert_eq!(seen, ["err", "out", "\u{fffd} last"]);
    }
}
