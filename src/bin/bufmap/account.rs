//! The account of a load or a save, for people and for programs.

use bufmap::transfer::{Direction, Proof, Receipt};
use serde_json::{Value, json};

use crate::table::{Rows, size};

/// Adds which path the bytes took, why not a better one, and what it cost. `what` is what the file was asked for, `read`
/// or `write`.
pub fn add_account(facts: &mut Rows, receipt: &Receipt, what: &str) {
    add_paths(facts, receipt);
    let plural = if receipt.reads == 1 { "" } else { "s" };
    let by = match receipt.engine.as_str() {
        "" => format!("nothing to {what}"),
        engine => format!("{engine}, {} {what}{plural}", receipt.reads),
    };
    facts.add_row(["by", &by]);
    facts.add_row(["speed", &format!("{:.2} GiB/s", receipt.gib_per_second())]);
    let cpu = format!("{:.3} CPU seconds per GiB", receipt.cpu_seconds_per_gib());
    facts.add_row(["cost", &cpu]);
    facts.add_row(["copied", &copied(receipt)]);
}

fn add_paths(facts: &mut Rows, receipt: &Receipt) {
    for share in &receipt.paths {
        facts.add_row(["path", &format!("{}: {}", share.path, size(share.bytes))]);
    }
    for step in &receipt.step_downs {
        let why = format!("{} for {}: {}", step.path, size(step.bytes), step.why);
        facts.add_row(["why not", &why]);
    }
    for proof in &receipt.proofs {
        facts.add_row(["proof", &proved(proof)]);
    }
}

/// The same for programs.
pub fn as_json(receipt: &Receipt) -> Value {
    let mut account = json!(receipt);
    account["gib_per_s"] = json!(receipt.gib_per_second());
    account["cpu_s_per_gib"] = json!(receipt.cpu_seconds_per_gib());
    if let Some(checked) = account["checked"].as_object_mut() {
        checked.remove("fingerprints");
    }
    account
}

fn proved(proof: &Proof) -> String {
    let Proof { provider, drive, direction, arrives, bytes, .. } = proof;
    let way = match direction {
        Direction::ToDrive => "reads out of",
        _ => "writes into",
    };
    let what = if *arrives { "arrives" } else { "does not arrive" };
    let when = match bytes {
        0 => "found out since the machine booted".to_owned(),
        _ => format!("found out by {}", size(*bytes)),
    };
    format!("what {drive} {way} the memory of {provider} {what}, {when}")
}

fn copied(receipt: &Receipt) -> String {
    let by_cpu = format!("{} by the CPU", size(receipt.cpu_copied));
    match receipt.gpu_copied {
        0 => by_cpu,
        bytes => format!("{by_cpu}, {} by the GPU", size(bytes)),
    }
}

/// What a check cost beside, if it read a device's memory.
pub fn read_back(receipt: &Receipt) -> String {
    match receipt.checked.read_back {
        0 => String::new(),
        bytes => format!("; the CPU read {} out of the device for it", size(bytes)),
    }
}
