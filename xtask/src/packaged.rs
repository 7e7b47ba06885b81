//! What each package would take along to a registry: a package is unpacked alone, so each needs its own licences and a page
//! that says what it is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::child::{self, Error, cargo, workspace};
use crate::files::file_error;
use crate::steps::Outcome;

/// The workspace's own, which each package has a copy of, or a link to.
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];

const README: &str = "README.md";

/// Fails unless every package that can be published holds its licences and its README, and its manifest says what it is.
pub fn check() -> Result<Outcome, Error> {
    let metadata = metadata()?;
    let mut faults = Vec::new();
    let mut names = Vec::new();
    for package in published(&metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        faults.extend(untold(package).map(|key| format!("{name}: its manifest has no {key}")));
        faults.extend(absent(&listed(name)?).map(|file| format!("{name}: {file} is not in it")));
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        for licence in LICENCES {
            if read(&manifest.with_file_name(licence))? != read(&workspace().join(licence))? {
                faults.push(format!("{name}: its {licence} is not the workspace's"));
            }
        }
        names.push(name);
    }
    println!("{}", names.join(", "));
    match (names.is_empty(), faults.is_empty()) {
        (true, _) => Ok(Outcome::Failed("cargo metadata names no package to publish".to_owned())),
        (_, true) => Ok(Outcome::Done),
        (_, false) => Ok(Outcome::Failed(faults.join("\n"))),
    }
}

/// The packages of the workspace, as cargo knows them.
pub fn metadata() -> Result<Value, Error> {
    let mut command = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let text = child::output(&mut command, "run it by hand")?;
    serde_json::from_str(&text).map_err(|error| Error::Missing {
        what: format!("cargo metadata gives no JSON: {error}"),
        remedy: "run it by hand".to_owned(),
    })
}

/// The packages that no manifest keeps from a registry.
fn published(metadata: &Value) -> impl Iterator<Item = &Value> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    packages.iter().filter(|package| package["publish"].is_null())
}

/// What a registry shows of a package and its manifest does not say.
fn untold(package: &Value) -> impl Iterator<Item = &'static str> {
    ["description", "license", "readme", "categories", "keywords"].into_iter().filter(|key| {
        let value = &package[key];
        value.as_str().is_none_or(str::is_empty) && value.as_array().is_none_or(Vec::is_empty)
    })
}

/// The files of a package, as they would be packed.
fn listed(name: &str) -> Result<BTreeSet<String>, Error> {
    let mut command = cargo(&["package", "--list", "--allow-dirty", "--package", name]);
    let list = child::output(&mut command, "the messages above say why")?;
    Ok(list.lines().map(str::to_owned).collect())
}

fn absent(files: &BTreeSet<String>) -> impl Iterator<Item = &'static str> {
    LICENCES.into_iter().chain([README]).filter(|file| !files.contains(*file))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(file_error("read", path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_package_lacks_is_named() {
        let files = ["LICENSE-MIT", "src/lib.rs"].map(str::to_owned).into();
        assert_eq!(absent(&files).collect::<Vec<_>>(), ["LICENSE-APACHE", "README.md"]);
        let package = json!({
            "description": "It maps.", "license": "MIT", "readme": null, "categories": [], "keywords": ["dma"],
        });
        assert_eq!(untold(&package).collect::<Vec<_>>(), ["readme", "categories"]);
    }

    #[test]
    fn only_what_may_be_published_is_looked_at() {
        let metadata = json!({ "packages": [
            { "name": "free", "publish": null }, { "name": "kept", "publish": [] },
        ]});
        let names: Vec<_> = published(&metadata).map(|package| &package["name"]).collect();
        assert_eq!(names, ["free"]);
    }
}
