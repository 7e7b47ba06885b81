//! `bufmap bind` and `bufmap unbind`.

use bufmap::pci::driver::{Move, Plan};
use bufmap::pci::{Address, Function, Tree};
use serde_json::json;

use crate::args::{BindArgs, UnbindArgs};
use crate::failure::Failure;
use crate::json;
use crate::output::print;

pub fn bind(args: &BindArgs) -> Result<(), Failure> {
    let tree = Tree::read()?;
    let plan = Plan::bind(&args.addresses, &args.driver)?;
    let is_vfio = args.driver.as_str() == "vfio-pci";
    // What else must be VFIO's, or nobody's, before VFIO gives it out.
    let beside = |address: Address| match tree.function(address) {
        Ok(function) if is_vfio => beside(&tree, function, &args.addresses),
        _ => Vec::new(),
    };
    let to = Some(args.driver.as_str());
    let report = Report { dry_run: args.dry_run, json: args.json };
    report.carry_out(plan, to, beside)
}

pub fn unbind(args: &UnbindArgs) -> Result<(), Failure> {
    let plan = Plan::release(&args.addresses)?;
    let report = Report { dry_run: args.dry_run, json: args.json };
    report.carry_out(plan, None, |_| Vec::new())
}

/// The other functions of a group that another driver has.
fn beside(tree: &Tree, function: &Function, moved: &[Address]) -> Vec<Address> {
    let group = |function: &Function| function.iommu_group.as_ref().map(|group| group.number);
    let harmless = |other: &&Function| {
        let vfios = matches!(other.driver.as_deref(), None | Some("vfio-pci" | "pcieport"));
        vfios || moved.contains(&other.address)
    };
    tree.functions()
        .filter(|other| other.address != function.address && group(other) == group(function))
        .filter(|other| !harmless(other))
        .map(|other| other.address)
        .collect()
}

/// How it is told what is done, or would be.
struct Report {
    dry_run: bool,
    json: bool,
}

impl Report {
    fn carry_out(
        &self,
        plan: Plan,
        to: Option<&str>,
        beside: impl Fn(Address) -> Vec<Address>,
    ) -> Result<(), Failure> {
        let mut told: Vec<(Move, Option<String>)> = Vec::new();
        let mut tell = |moved: &Move, to: Option<&str>| {
            told.push((moved.clone(), to.map(str::to_owned)));
        };
        let carried_out = match self.dry_run {
            true => {
                plan.moves().iter().for_each(|planned| tell(planned, to));
                Ok(())
            }
            false => plan.carry_out(tell),
        };
        // What was done is told though the rest has failed.
        let told = told.iter().map(|(moved, to)| (moved, to.as_deref(), beside(moved.address)));
        if self.json {
            let all: Vec<_> =
                told.map(|(moved, to, beside)| self.in_json(moved, to, &beside)).collect();
            json::print(&json!(all))?;
        } else {
            for (moved, to, beside) in told {
                print(&self.in_words(moved, to, &beside))?;
            }
        }
        Ok(carried_out?)
    }

    fn in_json(&self, moved: &Move, to: Option<&str>, beside: &[Address]) -> serde_json::Value {
        let beside: Vec<_> = beside.iter().map(Address::to_string).collect();
        json!({
            "address": moved.address.to_string(), "from": moved.from, "to": to,
            "dry_run": self.dry_run, "group_still_held_by": beside,
        })
    }

    fn in_words(&self, moved: &Move, to: Option<&str>, beside: &[Address]) -> String {
        let address = moved.address;
        let from = moved.from.as_deref();
        let name = |driver: Option<&str>| driver.unwrap_or("no driver").to_owned();
        let mut words = match (self.dry_run, to) {
            (true, None) => {
                format!("{address} would go from {} to the kernel's choice", name(from))
            }
            (true, to) if to == from => format!("{address} would stay with {}", name(from)),
            (true, to) => format!("{address} would go from {} to {}", name(from), name(to)),
            (false, to) if to == from => format!("{address} stays with {}", name(from)),
            (false, to) => format!("{address} went from {} to {}", name(from), name(to)),
        };
        if !beside.is_empty() {
            let beside: Vec<_> = beside.iter().map(Address::to_string).collect();
            words += &format!(
                "; VFIO gives it out once {} of its IOMMU group are bound as well",
                beside.join(", ")
            );
        }
        words
    }
}
