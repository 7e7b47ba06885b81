//! Booting a guest and running a command in it.
//!
//! The command's input and output go through serial ports of their own, apart from the kernel's console, and its exit
//! status through a file in the session's directory, which host and guest share.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, PipeWriter};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::guest::Guest;
use super::interrupt::interrupted;
use super::surroundings::Surroundings;
use super::topologies::{Content, Machine, Topology};
use crate::child::{self, Error};
use crate::files;

/// What to boot and run.
pub struct Boot<'a> {
    pub guest: &'a Guest,
    pub machine: Machine,
    /// The command and its arguments; a shell if there are none.
    pub command: &'a [String],
    pub surroundings: &'a Surroundings,
    pub limit: Duration,
}

/// The length of the scratch disk, in bytes.
const SCRATCH: u64 = 4 << 30;

/// How often a guest that breaks before its command has begun is booted.
const BOOTS: u32 = 3;

/// How long a boot may take; ten times what it takes on a busy machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

impl Boot<'_> {
    /// As [`run`](Self::run), with each line of the command's output for `each`.
    pub fn run_by_lines(&self, mut each: impl FnMut(&str) + Send) -> Result<i32, Error> {
        let (reader, writer) = io::pipe().map_err(|source| Error::Start {
            command: "pipe".to_owned(),
            source,
            remedy: "close other programs".to_owned(),
        })?;
        thread::scope(|scope| {
            let reading = scope.spawn(move || {
                let lines = BufReader::new(reader).lines().map_while(Result::ok);
                lines.for_each(|line| each(line.trim_end()));
            });
            let status = self.run(writer.into());
            let _ = reading.join();
            status
        })
    }

    /// Boots, runs the command, and returns its exit status. The command's output goes to `output`.
    pub fn run(&self, output: OwnedFd) -> Result<i32, Error> {
        let session = Session::of(self.machine)?;
        self.write_session(&session.path)?;
        let mut boots = 0;
        loop {
            boots += 1;
            let ended = self.boot(&session.path, &output)?;
            let status = fs::read_to_string(session.path.join("exit"));
            if let (Ended::Itself, Some(status)) =
                (&ended, status.ok().and_then(|status| status.trim().parse().ok()))
            {
                return Ok(status);
            }
            print_end_of("QEMU's words", &session.path.join("qemu"));
            print_end_of("the guest's console", &session.path.join("console"));
            // QEMU's emulation of several processors now and then breaks a kernel that patches
            // itself while it boots: before the command has begun, booting again is harmless.
            let begun = session.path.join("begun").exists();
            if !matches!(ended, Ended::Itself | Ended::Stuck) || begun || boots == BOOTS {
                return Err(self.explain(&ended, begun));
            }
            eprintln!("the guest broke while it booted: booting again");
        }
    }

    /// Boots once and waits for the guest's end.
    fn boot(&self, session: &Path, output: &OwnedFd) -> Result<Ended, Error> {
        let words = session.join("qemu");
        let words = File::create(&words).map_err(files::file_error("create", &words))?;
        let start = || {
            let (mut errors, port) = io::pipe()?;
            let mut qemu = self.qemu(session, &port);
            qemu.stdin(if self.command.is_empty() { Stdio::inherit() } else { Stdio::null() });
            let child = qemu.stdout(output.try_clone()?).stderr(words).spawn()?;
            Ok(thread::scope(|scope| {
                scope.spawn(move || io::copy(&mut errors, &mut io::stderr()));
                let ended = Running(child).wait(self.limit, &session.join("begun"));
                drop(port);
                ended
            }))
        };
        start().map_err(|source| Error::Start {
            command: "qemu-system-x86_64".to_owned(),
            source,
            remedy: "install it: apt-get install qemu-system-x86".to_owned(),
        })
    }

    fn explain(&self, ended: &Ended, begun: bool) -> Error {
        let what = match ended {
            Ended::Late => format!("the guest was ended after {} s", self.limit.as_secs()),
            Ended::Interrupted => "the guest was ended by Ctrl-C".to_owned(),
            Ended::Itself if begun => "the guest ended before its command did".to_owned(),
            Ended::Itself | Ended::Stuck => {
                format!("the guest did not boot, {BOOTS} times in a row")
            }
        };
        let remedy = "the end of its kernel's log is above; --time-limit gives it longer";
        Error::Missing { what, remedy: remedy.to_owned() }
    }

    fn qemu(&self, session: &Path, errors: &PipeWriter) -> Command {
        let Topology { cpu, iommu, devices, drives, others, .. } = self.machine.topology;
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.current_dir(session);
        qemu.args(["-machine", "q35,kernel-irqchip=off", "-cpu", cpu, "-m", "3072"]);
        // The emulator loses a timer's interrupt now and then. A clock that is set anew for each tick stops
        // for good then, and whoever waits for a grace period of RCU with it; one that ticks by itself does
        // not. Ticks would be counted.
        let clock = match self.machine.counted {
            true => {
                qemu.args(["-accel", "tcg", "-icount", "shift=0,sleep=off", "-smp", "1"]);
                ""
            }
            false => {
                qemu.args(["-accel", "tcg,thread=multi", "-smp", "2"]);
                " highres=off nohz=off"
            }
        };
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        if *iommu {
            qemu.args(["-device", "intel-iommu"]);
        }
        let iommu_on = if *iommu { " intel_iommu=on" } else { "" };
        qemu.arg("-kernel").arg(&self.guest.kernel.image).arg("-initrd").arg(&self.guest.initramfs);
        qemu.args(["-append", &format!("console=ttyS0 panic=-1{iommu_on}{clock}")]);
        qemu.args(["-serial", &format!("file:{}", session.join("console").display())]);
        qemu.args(["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"]);
        let errors = format!("/proc/{}/fd/{}", std::process::id(), errors.as_raw_fd());
        let errors = format!("file,id=err,path={errors},append=on");
        qemu.args(["-chardev", &errors, "-serial", "chardev:err"]);
        share(&mut qemu, "root", &self.guest.root, true);
        share(&mut qemu, "session", session, false);
        share(&mut qemu, "modules", &self.guest.kernel.modules, true);
        for (i, directory) in self.surroundings.shares.iter().enumerate() {
            share(&mut qemu, &format!("share{i}"), directory, true);
        }
        let scratch = session.join("scratch").display().to_string();
        qemu.args([
            "-drive",
            &format!("file={scratch},if=none,id=scratch,format=raw,cache=unsafe"),
        ]);
        qemu.args(["-device", "virtio-blk-pci,drive=scratch"]);
        for drive in *drives {
            let medium = drive.medium.describe(drive.name, drive.content.len());
            qemu.args(["-drive", &format!("if=none,id={},format=raw,{medium}", drive.name)]);
        }
        for device in *devices {
            qemu.args(["-device", device]);
        }
        qemu.args(*others);
        qemu
    }

    fn write_session(&self, session: &Path) -> Result<(), Error> {
        let write = |name: &str, text: &[u8]| {
            let file = session.join(name);
            fs::write(&file, text).map_err(files::file_error("write", &file))
        };
        let mut shares = format!("modules /usr/lib/modules/{}\n", self.guest.kernel.version);
        for (i, path) in self.surroundings.shares.iter().enumerate() {
            shares += &format!("share{i} {}\n", path.display());
        }
        write("shares", shares.as_bytes())?;
        write("run", self.script().as_bytes())?;
        let blank = |name: &str, len| {
            let file = session.join(name);
            File::create(&file)
                .and_then(|created| created.set_len(len))
                .map_err(files::file_error("create", &file))
        };
        for drive in self.machine.topology.drives {
            match drive.content {
                Content::Pattern => write(drive.name, &pattern(drive.content.len()))?,
                Content::Blank { len } => blank(drive.name, len)?,
            }
        }
        blank("scratch", SCRATCH)
    }

    /// What the guest runs once its root is there.
    fn script(&self) -> String {
        let mut script = String::from(
            ": >/session/begun\nexport PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp \
             XDG_RUNTIME_DIR=/tmp\n",
        );
        let modules = self.machine.topology.modules;
        // The disk's were loaded before, unless the kernel keeps them elsewhere.
        script +=
            "[ -b /dev/vda ] && grep -qw ext4 /proc/filesystems || modprobe -a virtio_blk ext4\n";
        if !modules.is_empty() {
            script += &format!("modprobe -a {}\n", modules.join(" "));
        }
        let scratch = quoted(&self.surroundings.scratch.display().to_string());
        script += &format!(
            "mke2fs -q -F -t ext4 -E nodiscard,lazy_itable_init=1 /dev/vda && mkdir -p {scratch} && mount /dev/vda {scratch}\n"
        );
        for (name, value) in &self.surroundings.environment {
            script += &format!("export {name}={}\n", quoted(value));
        }
        let command = match self.command {
            [] => "setsid -c sh -i".to_owned(),
            command => command.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "),
        };
        let mode = if self.command.is_empty() { "sane" } else { "raw -echo" };
        script += &format!(
            "stty -F /dev/ttyS1 {mode}; stty -F /dev/ttyS2 raw -echo\n\
             ( exec </dev/ttyS1 >/dev/ttyS1 2>/dev/ttyS2; cd {}; {command} )\n\
             echo $? >/session/exit\nsync\nbusybox reboot -f\n",
            quoted(&child::workspace().display().to_string())
        );
        script
    }
}

fn share(qemu: &mut Command, tag: &str, path: &Path, read_only: bool) {
    let mode = if read_only { ",readonly=on" } else { "" };
    let path = path.display();
    qemu.args([
        "-virtfs",
        &format!("local,path={path},mount_tag={tag},security_model=none,multidevs=remap{mode}"),
    ]);
}

/// A word as the shell reads it back.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Bytes of which each block of 8 tells its own place.
fn pattern(len: u64) -> Vec<u8> {
    (0..len / 8).flat_map(|i| (i ^ 0x5A5A_0000_0000_0000).to_le_bytes()).collect()
}

/// A directory that host and guest share while the guest runs, and that goes with it.
struct Session {
    path: PathBuf,
}

impl Session {
    fn of(machine: Machine) -> Result<Self, Error> {
        // Several guests of one machine may run beside each other.
        static SESSIONS: AtomicU32 = AtomicU32::new(0);
        let number = SESSIONS.fetch_add(1, Ordering::Relaxed);
        let name = format!("bufmap-vm-{}-{number}-{}", std::process::id(), machine.name());
        let path = std::env::temp_dir().join(name);
        files::remove_directory(&path)?;
        files::make_directory(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A QEMU that is ended when nobody waits for it any more.
struct Running(Child);

/// How a guest came to its end.
enum Ended {
    Itself,
    Late,
    /// Its command has not begun in time.
    Stuck,
    Interrupted,
}

impl Running {
    /// Waits until it ends, or ends it. The file `begun` is there once its command has begun.
    fn wait(mut self, limit: Duration, begun: &Path) -> Ended {
        let start = Instant::now();
        while start.elapsed() < limit {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return if interrupted() { Ended::Interrupted } else { Ended::Itself };
            }
            if interrupted() {
                return Ended::Interrupted;
            }
            if start.elapsed() > BOOT_LIMIT && !begun.exists() {
                return Ended::Stuck;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ended::Late
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prints the last lines of a log.
fn print_end_of(title: &str, log: &Path) {
    const LINES: usize = 40;
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    eprintln!("== {title}");
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        eprintln!("{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["plain", "two words", "it's", "$HOME `x` \\ \"", ""] {
            let mut shell = Command::new("sh");
            let printed = shell.args(["-c", &format!("printf %s {}", quoted(word))]).output();
            assert_eq!(printed.map(|out| out.stdout).ok().as_deref(), Some(word.as_bytes()));
        }
    }
}
