//! A model of 1.5 GiB, cold, into new memory: `bufmap load` beside the loaders that people take from PyPI, in one run.
//!
//! A rival is timed from the call until it has its tensors, in an interpreter that has imported it already; `bufmap` is timed
//! as a whole process, from its start to its end. The order is shuffled in each round, and before each load the page cache
//! holds nothing of the file. The rivals are installed into a virtual environment below `target`, where they take 6 GB, most of
//! it PyTorch's; what cannot be installed is skipped with words. With `--json` the figures are printed as JSON.

#[path = "../support/median.rs"]
mod median;
#[path = "../support/random.rs"]
mod random;

use std::borrow::Cow;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use bufmap::storage::file::cache;
use median::median;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use random::Random;
use rustix::fs::{Advice, fadvise};
use safetensors::tensor::{Dtype, View, serialize_to_file};
use serde::{Deserialize, Serialize};

const ROUNDS: usize = 7;
const LAYERS: usize = 24;
const RIVALS: [&str; 3] = ["safetensors", "fastsafetensors", "runai_model_streamer"];
const PACKAGES: [&str; 5] =
    ["torch", "numpy", "safetensors", "fastsafetensors", "runai-model-streamer"];

fn main() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let python = match installed(&directory.join("rivals")) {
        Ok(python) => python,
        Err(why) => return println!("SKIPPED: beside PyPI's loaders: {why}"),
    };
    let model = directory.join("bench-model.safetensors");
    let bytes = make_model(&model);
    let costs = race(&python, &model, bytes);
    let _ = std::fs::remove_file(&model);
    let lines = Line::all(&costs, bytes);
    match std::env::args().any(|argument| argument == "--json") {
        true => println!("{}", serde_json::to_string_pretty(&lines).expect("numbers and names")),
        false => print(&lines, bytes),
    }
}

/// What a load took.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Cost {
    seconds: f64,
    cpu: f64,
    bytes: u64,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loader {
    Rival(&'static str),
    /// With what it checks.
    Ours(&'static str),
}

impl Loader {
    fn all() -> impl Iterator<Item = Self> {
        let ours = ["auto", "none"].map(Self::Ours);
        RIVALS.map(Self::Rival).into_iter().chain(ours)
    }

    fn name(self) -> String {
        match self {
            Self::Rival(name) => name.to_owned(),
            Self::Ours(verify) => format!("bufmap load --verify {verify}, the process"),
        }
    }

    fn load(self, python: &Path, model: &Path) -> Result<Cost, String> {
        match self {
            Self::Rival(name) => {
                let mut command = Command::new(python);
                command.args(["-c", include_str!("rivals.py"), name]).arg(model);
                let printed = said(&mut command)?.stdout;
                serde_json::from_slice(&printed).map_err(|error| error.to_string())
            }
            Self::Ours(verify) => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_bufmap"));
                command.arg("load").arg(model).args(["--to", "memory", "--json", "--verify"]);
                let (started, cpu) = (Instant::now(), cpu_of_children());
                let printed = said(command.arg(verify))?.stdout;
                let (wall, cpu) = (started.elapsed(), cpu_of_children().saturating_sub(cpu));
                let receipt: serde_json::Value =
                    serde_json::from_slice(&printed).map_err(|error| error.to_string())?;
                let bytes =
                    receipt["receipt"]["bytes"].as_u64().ok_or("a receipt without bytes")?;
                Ok(Cost { seconds: wall.as_secs_f64(), cpu: cpu.as_secs_f64(), bytes })
            }
        }
    }
}

/// The processor time of the children that have ended.
fn cpu_of_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("the usage of children");
    let time = |time: TimeVal| Duration::from_micros(time.num_microseconds().unsigned_abs());
    time(usage.user_time()) + time(usage.system_time())
}

/// Every loader once a round, in an order that is shuffled. Those that fail are left out from then on.
fn race(python: &Path, model: &Path, bytes: u64) -> Vec<(Loader, Vec<Cost>)> {
    let mut costs: Vec<_> = Loader::all().map(|loader| (loader, Vec::new())).collect();
    let since = SystemTime::UNIX_EPOCH.elapsed().expect("a clock after 1970");
    let mut random = Random(since.as_nanos() as u64 | 1);
    for _ in 0..ROUNDS {
        for last in (1..costs.len()).rev() {
            costs.swap(last, random.below(last as u64 + 1) as usize);
        }
        costs.retain_mut(|(loader, costs)| {
            make_cold(model);
            match loader.load(python, model) {
                Ok(cost) => {
                    assert_eq!(cost.bytes, bytes, "{} has loaded something else", loader.name());
                    costs.push(cost);
                    true
                }
                Err(why) => {
                    println!("SKIPPED: beside {}: {why}", loader.name());
                    false
                }
            }
        });
    }
    costs
}

/// What is printed of a loader.
#[derive(Debug, Serialize)]
struct Line {
    loader: String,
    /// The median of the rounds.
    gib_per_second: f64,
    slowest: f64,
    fastest: f64,
    /// The median of the rounds.
    cpu_seconds_per_gib: f64,
    /// Its speed, and that of the fastest loader of PyPI.
    ratio: f64,
}

impl Line {
    fn all(costs: &[(Loader, Vec<Cost>)], bytes: u64) -> Vec<Self> {
        let gib = bytes as f64 / (1u64 << 30) as f64;
        let speeds =
            |costs: &[Cost]| costs.iter().map(|cost| gib / cost.seconds).collect::<Vec<_>>();
        let rivals = costs.iter().filter(|(loader, _)| matches!(loader, Loader::Rival(_)));
        let best = rivals.map(|(_, costs)| median(speeds(costs))).fold(0.0, f64::max);
        let line = |(loader, costs): &(Loader, Vec<Cost>)| {
            let speeds = speeds(costs);
            let slowest = speeds.iter().copied().fold(f64::INFINITY, f64::min);
            let fastest = speeds.iter().copied().fold(0.0, f64::max);
            let cpu = costs.iter().map(|cost| cost.cpu / gib).collect();
            let gib_per_second = median(speeds);
            let (cpu_seconds_per_gib, ratio) = (median(cpu), gib_per_second / best);
            let loader = loader.name();
            Self { loader, gib_per_second, slowest, fastest, cpu_seconds_per_gib, ratio }
        };
        let mut lines: Vec<_> = costs.iter().map(line).collect();
        lines.sort_by(|a, b| b.gib_per_second.total_cmp(&a.gib_per_second));
        lines
    }
}

fn print(lines: &[Line], bytes: u64) {
    println!("\n{} MiB of safetensors, cold, into new memory, {ROUNDS} rounds", bytes >> 20);
    println!("{:40} {:>7} {:>15} {:>11} {:>6}", "", "GiB/s", "from, to", "CPU s/GiB", "ratio");
    for line in lines {
        let Line { loader, gib_per_second, slowest, fastest, cpu_seconds_per_gib, ratio } = line;
        let range = format!("{slowest:.2}, {fastest:.2}");
        println!(
            "{loader:40} {gib_per_second:7.2} {range:>15} {cpu_seconds_per_gib:11.2} {ratio:6.2}"
        );
    }
}

/// The interpreter of a virtual environment that has the rivals. They are installed if they are not there yet.
fn installed(environment: &Path) -> Result<PathBuf, String> {
    let python = environment.join("bin/python");
    let imports = "import torch, safetensors, fastsafetensors, runai_model_streamer";
    if said(Command::new(&python).args(["-c", imports])).is_ok() {
        return Ok(python);
    }
    println!("PyPI's loaders are installed into {}: 3 GB to fetch", environment.display());
    said(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-cache-dir"]).args(PACKAGES);
    said(&mut pip)?;
    said(Command::new(&python).args(["-c", imports])).map(|_| python)
}

/// What a program prints, or the last of what it says of why it failed.
fn said(command: &mut Command) -> Result<Output, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program} does not run: {error}"))?;
    match output.status.success() {
        true => Ok(output),
        false => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.trim().lines().next_back().unwrap_or_default();
            Err(format!("{program} fails ({}): {last}", output.status))
        }
    }
}

/// The weights of a model's layer, without what they are.
struct Weights<'b> {
    bytes: &'b [u8],
    shape: [usize; 1],
}

impl View for Weights<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::BF16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.bytes.into()
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A model in as many tensors, and as long, as those of a billion parameters. Returns the bytes of its tensors.
fn make_model(path: &Path) -> u64 {
    const PARTS: [(&str, usize); 7] = [
        ("q", 4096 * 1024),
        ("k", 1024 * 1024),
        ("v", 1024 * 1024),
        ("o", 4096 * 1024),
        ("up", 4096 * 2816),
        ("down", 4096 * 2816),
        ("norm", 4096),
    ];
    let mut random = Random(88_172_645_463_325_252);
    let longest = PARTS.iter().map(|(_, numbers)| 2 * numbers).max().unwrap_or_default();
    let block: Vec<_> =
        (0..longest / 8).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect();
    let mut tensors = Vec::new();
    for layer in 0..LAYERS {
        for (name, numbers) in PARTS {
            let bytes = &block[..2 * numbers];
            tensors.push((format!("layers.{layer}.{name}"), Weights { bytes, shape: [numbers] }));
        }
    }
    let bytes = tensors.iter().map(|(_, weights)| weights.bytes.len() as u64).sum();
    serialize_to_file(tensors, None, path).expect("a model in the build's directory");
    File::open(path).and_then(|file| file.sync_all()).expect("the model on the disk");
    bytes
}

/// Drops what the page cache holds of a file.
fn make_cold(path: &Path) {
    let file = File::open(path).expect("the model");
    let len = file.metadata().expect("its length").len();
    let dropped = (0..100).any(|_| {
        fadvise(&file, 0, None, Advice::DontNeed).expect("fadvise");
        cache::resident(&file, 0..len).expect("an answer") == 0
    });
    assert!(dropped, "the page cache keeps some of {}", path.display());
}
