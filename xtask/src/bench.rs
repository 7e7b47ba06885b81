//! `cargo xtask bench`: every benchmark of the workspace, one after the other, each in a process of its own.

use clap::Args;

use crate::child::{self, Error, cargo};
use crate::inputs;
use crate::packages::{self, FIO, VULKAN};
use crate::steps::{Outcome, Steps};
use crate::tally::Tally;

#[derive(Args)]
pub struct Options {
    /// Only the benchmarks with these names
    names: Vec<String>,
    /// Install no packages, even where that is allowed
    #[arg(long)]
    no_install: bool,
}

/// A benchmark target of cargo's.
#[derive(Debug, PartialEq, Eq)]
struct Bench {
    package: String,
    name: String,
}

impl Bench {
    fn run(&self, tally: &mut Tally) -> Result<Outcome, Error> {
        const WHY: &str = "the messages above say why";
        let command = || cargo(&["bench", "--package", &self.package, "--bench", &self.name]);
        child::run(command().arg("--no-run"), WHY)?;
        let mut bench = command();
        bench.env(inputs::VARIABLE, inputs::directory()?);
        child::watch(&mut bench, WHY, |line| tally.read(line))?;
        Ok(Outcome::Done)
    }
}

pub fn run(options: &Options) -> Result<(), Error> {
    let benches = chosen(all()?, &options.names)?;
    let mut steps = Steps::default();
    let mut tally = Tally::default();
    steps.run("packages", || {
        Ok(packages::provide(VULKAN.iter().chain([&FIO]), !options.no_install))
    });
    steps.run("real inputs", || Ok(inputs::fetch()?.outcome()));
    for bench in &benches {
        steps.run(&format!("bench {} of {}", bench.name, bench.package), || bench.run(&mut tally));
    }
    steps.print_summary();
    tally.print();
    steps.verdict()
}

fn all() -> Result<Vec<Bench>, Error> {
    let mut metadata = cargo(&["metadata", "--no-deps", "--format-version=1"]);
    let metadata = child::output(&mut metadata, "cargo's message above says why")?;
    Ok(benches(&serde_json::from_str(&metadata).unwrap_or_default()))
}

fn benches(metadata: &serde_json::Value) -> Vec<Bench> {
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut benches = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            if list(&target["kind"]).iter().any(|kind| kind == "bench")
                && let (Some(package), Some(name)) =
                    (package["name"].as_str(), target["name"].as_str())
            {
                benches.push(Bench { package: package.to_owned(), name: name.to_owned() });
            }
        }
    }
    benches
}

/// Those that the user names; all, if none is named.
fn chosen(mut benches: Vec<Bench>, names: &[String]) -> Result<Vec<Bench>, Error> {
    let there: Vec<_> = benches.iter().map(|bench| bench.name.clone()).collect();
    let unknown = names.iter().find(|name| !there.contains(name));
    if unknown.is_some() || there.is_empty() {
        let named = unknown.map(|name| format!(" named {name}")).unwrap_or_default();
        return Err(Error::Missing {
            what: format!("there is no benchmark{named}"),
            remedy: format!("those of this workspace are: {}", there.join(" ")),
        });
    }
    benches.retain(|bench| names.is_empty() || names.contains(&bench.name));
    Ok(benches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Bench> {
        let metadata = r#"{"packages": [
            {"name": "p", "targets": [{"kind": ["lib"], "name": "p"}, {"kind": ["bench"], "name": "copy"}]},
            {"name": "q", "targets": [{"kind": ["bench"], "name": "load"}]}]}"#;
        benches(&serde_json::from_str(metadata).unwrap())
    }

    #[test]
    fn benchmarks_are_found_in_every_package() {
        let named =
            |package: &str, name: &str| Bench { package: package.into(), name: name.into() };
        assert_eq!(two(), [named("p", "copy"), named("q", "load")]);
        assert!(benches(&serde_json::Value::Null).is_empty());
    }

    #[test]
    fn a_choice_keeps_what_is_named_and_refuses_what_is_not_there() {
        assert_eq!(chosen(two(), &[]).unwrap().len(), 2);
        assert_eq!(chosen(two(), &["load".into()]).unwrap()[0].package, "q");
        let refused = chosen(two(), &["laod".into()]).unwrap_err().to_string();
        assert!(refused.contains("laod") && refused.contains("copy load"), "{refused}");
        assert!(chosen(Vec::new(), &[]).is_err());
    }
}
