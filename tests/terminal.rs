//! What the `bufmap` command shows on a terminal.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

fn bufmap(args: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
    command.args(args).current_dir(directory).env_remove("COLUMNS");
    command
}

/// What a command prints on a terminal so many columns wide.
fn shown_on_terminal(command: &mut Command, columns: u16) -> String {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = openpt(flags).expect("a terminal");
    grantpt(&terminal).expect("a terminal of this user");
    unlockpt(&terminal).expect("a terminal");
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&terminal, size).expect("a size");
    let program = ioctl_tiocgptpeer(&terminal, flags).expect("the program's side");
    let mut child =
        command.stdout(program).stderr(Stdio::null()).spawn().expect("the command runs");
    command.stdout(Stdio::null()); // the parent's copy of the program's side is closed by that
    let mut shown = Vec::new();
    // A terminal whose programs are gone ends in EIO.
    let _ = File::from(terminal).read_to_end(&mut shown);
    assert!(child.wait().expect("an end").success(), "{command:?}");
    String::from_utf8(shown).expect("text").replace("\r\n", "\n")
}

fn shown_in_pipe(command: &mut Command) -> String {
    let output = command.output().expect("the command runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The words of a text, but for figures, which are others each time.
fn words(text: &str) -> Vec<&str> {
    let mut words: Vec<_> = text.split_whitespace().collect();
    words.retain(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.sort_unstable();
    words
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
}

/// A directory with one small model.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let header = r#"{"a":{"dtype":"U8","shape":[3000],"data_offsets":[0,3000]}}"#;
    let mut model = (header.len() as u64).to_le_bytes().to_vec();
    model.extend(header.as_bytes());
    model.extend([7; 3000]);
    fs::write(directory.path().join("model.safetensors"), model).expect("a file");
    directory
}

#[test]
fn tables_wrap_between_words_on_a_terminal_and_not_at_all_in_a_pipe() {
    let directory = directory();
    // Beside the column with the reasons stand labels: those of `probe` are names of extensions.
    let commands: [(&[&str], usize); 3] = [
        (&["load", "model.safetensors"], 12),
        (&["explain", "model.safetensors"], 12),
        (&["probe"], 45),
    ];
    for (args, labels) in commands {
        let whole = shown_in_pipe(&mut bufmap(args, directory.path()));
        let longest = whole.split_whitespace().map(|word| word.chars().count()).max();
        for columns in [40, 80, 200] {
            let shown = shown_on_terminal(&mut bufmap(args, directory.path()), columns);
            assert!(widest(&shown) <= columns.into(), "{args:?} at {columns}:\n{shown}");
            if longest.is_some_and(|longest| labels + longest <= columns.into()) {
                assert_eq!(words(&shown), words(&whole), "{args:?} at {columns}:\n{shown}");
            }
        }
    }
}

#[test]
fn a_pipe_is_as_wide_as_its_lines() {
    let directory = directory();
    let name = format!("{}.safetensors", "n".repeat(200));
    fs::rename(directory.path().join("model.safetensors"), directory.path().join(&name))
        .expect("a file");
    let mut explain = bufmap(&["explain", &name], directory.path());
    let whole = shown_in_pipe(explain.env("COLUMNS", "40"));
    assert!(whole.contains(&format!("{name} (safetensors)")), "{whole}");
}

#[test]
fn the_environment_may_say_how_wide_a_terminal_is() {
    let directory = directory();
    let mut narrow = bufmap(&["probe"], directory.path());
    let narrow = shown_on_terminal(narrow.env("COLUMNS", "60"), 200);
    assert!((50..=60).contains(&widest(&narrow)), "{narrow}");
    let mut untold = bufmap(&["probe"], directory.path());
    let untold = shown_on_terminal(untold.env("COLUMNS", "wide"), 0);
    assert!((60..=80).contains(&widest(&untold)), "{untold}");
}
