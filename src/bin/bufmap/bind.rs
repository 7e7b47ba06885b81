//! `bufmap bind` and `bufmap unbind`.

use bufmap::pci::{Address, Function, Tree, driver, users};
use serde_json::json;

use crate::args::{BindArgs, UnbindArgs};
use crate::{Failure, print};

/// A function that is to change its driver.
struct Move {
    address: Address,
    from: Option<String>,
    /// `None` for whichever the kernel chooses.
    to: Option<String>,
    /// What else must be VFIO's, or nobody's, before VFIO gives it out.
    beside: Vec<Address>,
}

pub fn bind(args: &BindArgs) -> Result<(), Failure> {
    let tree = Tree::read()?;
    let is_vfio = args.driver == "vfio-pci";
    let moves = args.addresses.iter().map(|&address| {
        let function = tree.function(address)?;
        refuse_users(function, &args.driver)?;
        if is_vfio && function.iommu_group.is_none() {
            return Err(Failure::Error(format!(
                "{address}: it is in no IOMMU group, so VFIO would not give it out: switch the IOMMU on, in \
                 the firmware and by intel_iommu=on or amd_iommu=on"
            )));
        }
        let beside = if is_vfio { beside(&tree, function, &args.addresses) } else { Vec::new() };
        Ok(Move { address, from: function.driver.clone(), to: Some(args.driver.clone()), beside })
    });
    let moves = moves.collect::<Result<Vec<_>, Failure>>()?;
    carry_out(&moves, args.dry_run, args.json, |planned| {
        driver::bind(planned.address, &args.driver).map(|()| Some(args.driver.clone()))
    })
}

pub fn unbind(args: &UnbindArgs) -> Result<(), Failure> {
    let tree = Tree::read()?;
    let moves = args.addresses.iter().map(|&address| {
        let function = tree.function(address)?;
        refuse_users(function, "the kernel's driver")?;
        Ok(Move { address, from: function.driver.clone(), to: None, beside: Vec::new() })
    });
    let moves = moves.collect::<Result<Vec<_>, Failure>>()?;
    carry_out(&moves, args.dry_run, args.json, |planned| driver::release(planned.address))
}

fn refuse_users(function: &Function, to: &str) -> Result<(), Failure> {
    if function.class.is_bridge() {
        let address = function.address;
        return Err(Failure::Error(format!("{address} is a bridge: everything below it would go")));
    }
    let users = users(function);
    if users.is_empty() || function.driver.as_deref() == Some(to) {
        return Ok(());
    }
    let users: Vec<_> = users.iter().map(ToString::to_string).collect();
    Err(Failure::Error(format!("{} is in use: {}", function.address, users.join("; "))))
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

fn carry_out(
    moves: &[Move],
    dry_run: bool,
    json: bool,
    carry: impl Fn(&Move) -> Result<Option<String>, driver::DriverError>,
) -> Result<(), Failure> {
    let mut done = Vec::new();
    for planned in moves {
        let to = match dry_run {
            true => planned.to.clone(),
            false => carry(planned)?,
        };
        if json {
            let beside: Vec<_> = planned.beside.iter().map(Address::to_string).collect();
            done.push(json!({
                "address": planned.address.to_string(), "from": planned.from, "to": to,
                "dry_run": dry_run, "group_still_held_by": beside,
            }));
        } else {
            print(&in_words(planned, to, dry_run))?;
        }
    }
    if json { print(&format!("{:#}", json!(done))) } else { Ok(()) }
}

fn in_words(planned: &Move, to: Option<String>, dry_run: bool) -> String {
    let name = |driver: &Option<String>| driver.clone().unwrap_or_else(|| "no driver".into());
    let from = name(&planned.from);
    let mut words = match (dry_run, &to) {
        (true, None) => format!("{} would go from {from} to the kernel's choice", planned.address),
        (true, to) => format!("{} would go from {from} to {}", planned.address, name(to)),
        (false, to) if *to == planned.from => format!("{} stays with {from}", planned.address),
        (false, to) => format!("{} went from {from} to {}", planned.address, name(to)),
    };
    if !planned.beside.is_empty() {
        let beside: Vec<_> = planned.beside.iter().map(Address::to_string).collect();
        words += &format!(
            "; VFIO gives it out once {} of its IOMMU group are bound as well",
            beside.join(", ")
        );
    }
    words
}
