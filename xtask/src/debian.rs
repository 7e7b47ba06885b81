//! Packages of Debian's, fetched by apt with sources, lists and a cache of its own.
//!
//! No root is needed and nothing is installed. The mirror is the one that the host's apt uses, and apt checks the
//! archive's signature with the host's own keys.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::apt_sources::{self, Mirror};
use crate::child::{self, Error};
use crate::files::{file_error, make_directory};

/// Names a mirror of Debian for a host whose own apt configuration has none.
const MIRROR_VARIABLE: &str = "BUFMAP_DEBIAN_MIRROR";

/// Downloads a package of a release into the directory `work`, and returns where it is.
pub fn fetch(work: &Path, suite: &str, package: &str) -> Result<PathBuf, Error> {
    if !child::succeeds(Command::new("apt-get").arg("--version")) {
        return Err(Error::Missing {
            what: "there is no `apt-get` here".to_owned(),
            remedy: format!("take Debian's package {package} (suite {suite}) from another machine"),
        });
    }
    let config = write_apt_configuration(work, &mirror()?, suite)?;
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.arg("-q").arg("-c").arg(&config).args(arguments).current_dir(work);
        apt
    };
    let remedy = "check the network, and that the keys of Debian's archive are up to date \
                  (package debian-archive-keyring)";
    child::run(&mut apt(&["update"]), remedy)?;
    child::run(&mut apt(&["download", package]), remedy)?;
    downloaded(work, "deb")
}

/// The mirror the user names, else the one the host's apt uses.
pub fn mirror() -> Result<Mirror, Error> {
    if let Ok(uri) = env::var(MIRROR_VARIABLE) {
        const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let signed_by = Path::new(KEYRING).exists().then(|| KEYRING.to_owned());
        return Ok(Mirror { uri, signed_by });
    }
    apt_sources::debian_mirror(Path::new("/etc/apt")).ok_or_else(|| Error::Missing {
        what: "apt's configuration names no mirror of Debian".to_owned(),
        remedy: format!("set {MIRROR_VARIABLE} to one and install debian-archive-keyring"),
    })
}

/// Writes a configuration that makes apt use `mirror` alone and keep everything it writes inside `work`.
///
/// The host's own settings (proxies, time limits) stay in force; its hooks do not, because they expect root.
fn write_apt_configuration(work: &Path, mirror: &Mirror, suite: &str) -> Result<PathBuf, Error> {
    let (config, sources) = (work.join("apt.conf"), work.join("debian.sources"));
    let (lists, cache) = (work.join("lists"), work.join("cache"));
    make_directory(&lists.join("partial"))?;
    make_directory(&cache.join("archives/partial"))?;
    let text = format!(
        "#clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         APT::Update::Error-Mode \"any\";\n\
         APT::Get::AllowUnauthenticated \"false\";\n\
         APT::Sandbox::User \"root\";\n\
         Acquire::AllowInsecureRepositories \"false\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"2\";\n\
         Dir::Etc::sourcelist \"{}\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::State::Lists \"{}\";\n\
         Dir::Cache \"{}\";\n",
        sources.display(),
        lists.display(),
        cache.display(),
    );
    fs::write(&config, text).map_err(file_error("write", &config))?;
    fs::write(&sources, mirror.source(suite)).map_err(file_error("write", &sources))?;
    Ok(config)
}

/// Writes one member of a Debian package to `target`; its name may have wildcards.
pub fn take_out(package: &Path, member: &str, target: &Path) -> Result<(), Error> {
    let remedy = "the package may be damaged or laid out anew; run the command again";
    let mut unpack = Command::new("dpkg-deb");
    unpack.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped());
    let out = File::create(target).map_err(file_error("create", target))?;
    let mut unpacking = unpack.spawn().map_err(|source| Error::Start {
        command: "dpkg-deb".to_owned(),
        source,
        remedy: remedy.to_owned(),
    })?;
    let mut tar = Command::new("tar");
    tar.args(["-xOf", "-", "--wildcards", member]).stdout(out);
    if let Some(archive) = unpacking.stdout.take() {
        tar.stdin(archive);
    }
    let taken = child::status(&mut tar, remedy);
    drop(tar);
    let unpacked = child::check(&unpack, unpacking.wait(), remedy);
    taken.and(unpacked)
}

/// The one file in `work` whose name ends in `extension`.
pub fn downloaded(work: &Path, extension: &str) -> Result<PathBuf, Error> {
    let mut files = fs::read_dir(work).map_err(file_error("read", work))?.flatten();
    let found = files.find(|file| file.path().extension().is_some_and(|end| end == extension));
    found.map(|file| file.path()).ok_or_else(|| Error::Missing {
        what: format!("the download left no .{extension} file in {}", work.display()),
        remedy: "run the command again".to_owned(),
    })
}
