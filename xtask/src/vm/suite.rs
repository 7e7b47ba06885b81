//! The tests that run in guests: built once, each machine booted once or twice, as many beside each other as there are
//! processors.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::boot::Boot;
use super::guest::Guest;
use super::surroundings::Surroundings;
use super::topologies::Machine;
use crate::child::{self, Error, FEATURES, cargo};
use crate::packages;
use crate::steps::{Outcome, Steps};
use crate::tally::Tally;

/// The package whose test programs are named after machines.
const PACKAGE: &str = "bufmap-bench";

/// Programs with other names that run in a machine too, for what the host lacks.
const GUESTS: &[(&str, &str, &str)] = &[
    ("switch", "bufmap-bench", "peer_faults"),
    ("switch", "bufmap-bench", "matrix"),
    ("vfio", "bufmap-bench", "matrix"),
    ("vfio", "bufmap-bench", "iommufd"),
    ("vfio", "bufmap-bench", "bind"),
    ("vfio", "bufmap-bench", "nvme"),
    ("vfio", "bufmap-bench", "nvme_faults"),
    ("vfio", "bufmap-bench", "nvme_files"),
    ("vfio", "bufmap-bench", "vulkan"),
    ("vfio-counted", "bufmap-bench", "data_paths"),
    ("gpu", "bufmap-bench", "destinations"),
    ("gpu", "bufmap-bench", "drm"),
    ("gpu", "bufmap-bench", "foreign"),
    ("gpu", "bufmap-bench", "gbm"),
    ("gpu", "bufmap-bench", "churn"),
    ("gpu", "bufmap-bench", "fences"),
    ("gpu", "bufmap-bench", "images"),
    ("gpu", "bufmap-bench", "matrix"),
    ("gpu", "bufmap-bench", "wgpu"),
    ("gpu", "bufmap-bench", "share"),
    ("gpu", "bufmap-exporters", "buffers"),
    ("gpu", "bufmap-exporters", "hanging"),
    ("gpu", "bufmap-exporters", "movable"),
    ("gpu", "bufmap-exporters", "socket"),
    ("gpu", "bufmap-exporters", "vulkan"),
    ("gpu", "bufmap", "load_vulkan"),
    ("gpu", "bufmap", "loader_own_device"),
    ("gpu", "bufmap", "cgroup"),
];

/// Tells programs in a machine where the tool is. The examples are in `examples` beside it.
const TOOL: &str = "BUFMAP_TOOL";

const WHY: &str = "the messages above say why";

/// How long one machine may take for its tests, beside another.
const LIMIT: Duration = Duration::from_secs(2700);

/// The machines whose tests take longest.
const LONG: &[&str] = &["gpu", "vfio", "switch-counted", "vfio-counted", "switch"];

/// The machines that are booted twice, each time for half of their programs.
const TWICE: &[&str] = &["gpu"];

/// Runs every machine's tests as a step of its own.
pub fn run(steps: &mut Steps, tally: &mut Tally, install: bool) {
    let mut guest = None;
    steps.run("bench: the guest", || match packages::bench_is_there(install) {
        Err(why) => Ok(Outcome::Skipped(why)),
        Ok(()) => {
            super::end_guests_on_ctrl_c()?;
            guest = Some(super::guest::prepare()?);
            Ok(Outcome::Done)
        }
    });
    let (mut programs, mut tool) = (Vec::new(), None);
    steps.run("bench: build", || {
        (programs, tool) = build(false)?;
        // Of the whole workspace, as its tests are built: for another choice cargo would build what they depend on once more.
        let mut examples = cargo(&["build", "--workspace", "--examples"]);
        child::run(examples.args(FEATURES), WHY)?;
        programs.extend(build(true)?.0);
        Ok(Outcome::Done)
    });
    let mut together = Vec::new();
    for machine in longest_first() {
        let own: Vec<_> = programs.iter().filter(|program| program.runs_in(machine)).collect();
        let tool = tool.as_deref();
        for (name, part) in parts(machine, &own) {
            match &guest {
                None => steps.skip(&name, "there is no guest, see above"),
                Some(guest) => together.push((name, move |lines: &mut Vec<String>| {
                    run_in(guest, machine, &part, tool, |line| lines.push(line.to_owned()))
                })),
            }
        }
    }
    // A machine's programs keep one processor busy, seldom two; and a count does not depend on what else runs.
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    steps.run_together(together, at_once, |line| show(line, tally));
}

/// The programs of a machine, in as many parts as it is booted, each with its name.
fn parts<'p>(machine: Machine, own: &[&'p Program]) -> Vec<(String, Vec<&'p Program>)> {
    let name = machine.name();
    let boots = if TWICE.contains(&name.as_str()) { 2 } else { 1 };
    let parts = own.chunks(own.len().div_ceil(boots).max(1)).enumerate();
    let named = |i| match boots {
        1 => format!("bench: {name}"),
        _ => format!("bench: {name}, part {}", i + 1),
    };
    parts.map(|(i, part)| (named(i), part.to_vec())).collect()
}

/// The machines, so that the last to end are not begun last.
fn longest_first() -> impl Iterator<Item = Machine> {
    let is_long = |machine: &Machine| LONG.contains(&machine.name().as_str());
    let long = LONG.iter().flat_map(|name| Machine::all().find(|machine| machine.name() == *name));
    long.chain(Machine::all().filter(move |machine| !is_long(machine)))
}

fn show(line: &str, tally: &mut Tally) {
    if tally.read(line) {
        println!("{line}");
    }
}

/// A test program that cargo built.
struct Program {
    package: String,
    name: String,
    executable: PathBuf,
}

impl Program {
    fn runs_in(&self, machine: Machine) -> bool {
        let name = machine.name();
        let own = self.package == PACKAGE && self.name.replace('_', "-") == name;
        own || GUESTS.contains(&(name.as_str(), self.package.as_str(), self.name.as_str()))
    }
}

/// Builds the programs of all machines, and the tool, which cargo builds with them. Those that count are built as a user's are, because a cost
/// without optimisation is nobody's.
fn build(counted: bool) -> Result<(Vec<Program>, Option<PathBuf>), Error> {
    let mut arguments = if counted { vec!["--release"] } else { FEATURES.to_vec() };
    let own = own_names(counted);
    for name in &own {
        arguments.extend(["--package", PACKAGE, "--test", name]);
    }
    let guests = GUESTS.iter().filter(|(machine, ..)| machine.ends_with("-counted") == counted);
    for (_, package, name) in guests {
        arguments.extend(["--package", package, "--test", name]);
    }
    programs(&arguments)
}

/// The names of the machines' own programs.
fn own_names(counted: bool) -> Vec<String> {
    Machine::all()
        .filter(|machine| machine.counted == counted)
        .map(|machine| machine.name().replace('-', "_"))
        .filter(|name| is_program(name))
        .collect()
}

/// Whether the bench has a program of this name: a file, or a directory with a `main.rs`.
fn is_program(name: &str) -> bool {
    let tests = child::workspace().join("bench/tests");
    tests.join(format!("{name}.rs")).is_file() || tests.join(name).join("main.rs").is_file()
}

/// A program of the bench that is run for what it prints, and not for its tests.
pub struct Printer {
    guest: Guest,
    program: Program,
    /// The variable that has it print.
    variable: &'static str,
}

impl Printer {
    /// Prepares the guest and builds the program.
    pub fn new(name: &str, variable: &'static str) -> Result<Self, Error> {
        super::make_ready(true)?;
        let guest = super::guest::prepare()?;
        let arguments = ["--package", PACKAGE, "--features", "wgpu", "--test", name];
        let (programs, _) = programs(&arguments)?;
        let program = programs.into_iter().next().ok_or_else(|| Error::Missing {
            what: format!("no program {name}"),
            remedy: "see bench/Cargo.toml".to_owned(),
        })?;
        Ok(Self { guest, program, variable })
    }

    /// What it prints in a machine.
    pub fn output_in(&self, machine: &str) -> Result<String, Error> {
        let machine = Machine::named(machine, false)?;
        let mut surroundings = Surroundings::of(machine)?;
        surroundings.environment.push((self.variable.to_owned(), "1".to_owned()));
        let boot = Boot {
            guest: &self.guest,
            machine,
            command: &[self.program.executable.display().to_string()],
            surroundings: &surroundings,
            limit: LIMIT,
        };
        let mut printed = String::new();
        let status = boot.run_by_lines(|line| {
            printed.push_str(line);
            printed.push('\n');
        })?;
        match status {
            0 => Ok(printed),
            status => Err(Error::Missing {
                what: format!("{} ended with status {status}: {printed}", self.program.name),
                remedy: "mend what it complains of".to_owned(),
            }),
        }
    }
}

fn programs(arguments: &[&str]) -> Result<(Vec<Program>, Option<PathBuf>), Error> {
    let mut build = cargo(&["test", "--no-run", "--message-format=json"]);
    let messages = child::output(build.args(arguments), WHY)?;
    let messages: Vec<serde_json::Value> =
        messages.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    Ok((messages.iter().filter_map(program).collect(), messages.iter().find_map(tool)))
}

/// The tool's executable, if a message of cargo's tells of it.
fn tool(message: &serde_json::Value) -> Option<PathBuf> {
    let target = &message["target"];
    let is_tool = target["name"] == "bufmap" && target["kind"].as_array()?.contains(&"bin".into());
    let executable = message["executable"].as_str()?;
    (is_tool && message["profile"]["test"] == false).then(|| executable.into())
}

/// The test program that a message of cargo's tells of.
fn program(message: &serde_json::Value) -> Option<Program> {
    let is_test = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
    let id = message["package_id"].as_str()?;
    // `path+file:///DIR#NAME@VERSION`, or `…/NAME#VERSION` where the directory has that name.
    let package = match id.rsplit_once('#')? {
        (_, named) if named.contains('@') => named.split('@').next()?,
        (directory, _) => directory.rsplit('/').next()?,
    };
    is_test.then_some(Program {
        package: package.to_owned(),
        name: message["target"]["name"].as_str()?.to_owned(),
        executable: message["executable"].as_str()?.into(),
    })
}

fn run_in(
    guest: &Guest,
    machine: Machine,
    programs: &[&Program],
    tool: Option<&Path>,
    show: impl FnMut(&str) + Send,
) -> Result<Outcome, Error> {
    let script = programs.iter().map(|program| {
        format!("'{}' --show-output --color=never || failed=1; ", program.executable.display())
    });
    let script = format!("failed=0; {}exit $failed", script.collect::<String>());
    let mut surroundings = Surroundings::of(machine)?;
    if let Some(tool) = tool {
        surroundings.environment.push((TOOL.to_owned(), tool.display().to_string()));
    }
    let boot = Boot {
        guest,
        machine,
        command: &["sh".to_owned(), "-c".to_owned(), script],
        surroundings: &surroundings,
        limit: LIMIT,
    };
    match boot.run_by_lines(show)? {
        0 => Ok(Outcome::Done),
        status => Ok(Outcome::Failed(format!("the tests' exit status is {status}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_is_begun_once() {
        let names: Vec<_> = longest_first().map(Machine::name).collect();
        let mut all: Vec<_> = Machine::all().map(Machine::name).collect();
        assert_eq!(names[..LONG.len()], *LONG);
        let mut sorted = names;
        sorted.sort_unstable();
        all.sort_unstable();
        assert_eq!(sorted, all);
    }

    #[test]
    fn each_program_is_in_one_part() {
        let named = |name: &str| Program {
            package: PACKAGE.into(),
            name: name.into(),
            executable: name.into(),
        };
        let programs = ["one", "two", "three"].map(named);
        let own: Vec<_> = programs.iter().collect();
        let parts_of = |name, own: &[&Program]| {
            let parts = parts(Machine::named(name, false).expect("a machine"), own);
            let names = |(name, part): (String, Vec<&Program>)| {
                (name, part.iter().map(|program| program.name.clone()).collect::<Vec<_>>().concat())
            };
            parts.into_iter().map(names).collect::<Vec<_>>()
        };
        let named = |name: &str, all: &str| (name.to_owned(), all.to_owned());
        assert_eq!(parts_of("vfio", &own), [named("bench: vfio", "onetwothree")]);
        let halves = [named("bench: gpu, part 1", "onetwo"), named("bench: gpu, part 2", "three")];
        assert_eq!(parts_of("gpu", &own), halves);
        assert!(parts_of("gpu", &[]).is_empty());
    }

    #[test]
    fn a_program_is_a_file_or_a_directory() {
        let counted = own_names(true);
        assert!(
            ["vfio_counted", "gpu_counted"]
                .iter()
                .all(|name| counted.contains(&(*name).to_owned()))
        );
        assert!(is_program("gpu") && is_program("matrix"));
        assert!(!is_program("peer") && !is_program("nothing"));
    }

    #[test]
    fn programs_are_read_from_cargos_messages() {
        let message = |id: &str, kind: &str| {
            serde_json::json!({ "package_id": id, "executable": "/x/zen_iommu-1",
                "target": { "kind": [kind], "name": "zen_iommu" } })
        };
        let named = program(&message("path+file:///p/bench#bufmap-bench@0.1.0", "test"));
        let named = named.expect("a test program");
        assert_eq!((named.package.as_str(), named.name.as_str()), ("bufmap-bench", "zen_iommu"));
        let runs_in = |counted| {
            named.runs_in(Machine::named("zen-iommu", counted).expect("a machine of the bench"))
        };
        assert_eq!([runs_in(false), runs_in(true)], [true, false]);
        let short = program(&message("path+file:///p/bufmap#0.1.0", "test"));
        assert_eq!(short.map(|program| program.package).as_deref(), Some("bufmap"));
        assert!(program(&message("path+file:///p/bench#bufmap-bench@0.1.0", "lib")).is_none());
    }
}
