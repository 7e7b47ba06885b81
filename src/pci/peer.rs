//! May these two devices talk, by which path, and if not, why.
//!
//! The rules are the kernel's (`calc_map_type_and_dist` in `drivers/pci/p2pdma.c`, Linux 7.3), read
//! from top to bottom in [`route`]:
//!
//! 1. From each of the two, go up from bridge to bridge until the ways meet.
//! 2. They meet, and no function on the way redirects requests by its Access Control Services: the
//!    traffic stays below the bridge where they meet. The device is given **bus addresses**.
//! 3. Otherwise the traffic goes up to the host bridge. If the processor is one whose host bridges
//!    all forward, or the host bridges are on the kernel's list, it goes **through the host
//!    bridge**, and the device is given what it would be given for any memory: a physical address,
//!    or an IOVA.
//! 4. Otherwise it is **not supported**.
//!
//! Two details that surprise: the function's own Access Control Services count, even if provider and
//! client are the same function; and two functions of one device on a root bus have no bridge above
//! them, so their traffic goes to the host bridge.
//!
//! The question is symmetric but for one thing: only the provider needs to have peer memory.

use exporters::Absent;

use super::config::{AcsBits, PortType};
use super::host::{Reach, trusted};
use super::{
    Address, Detour, Distrust, Function, Outcome, PciError, Reason, Redirect, RootBus, Tree, Trust,
    Verdict,
};

/// What the kernel would do if memory of `provider` were mapped for DMA by `client`.
///
/// This is a forecast of the kernel's decision and no proof that data arrives. A kernel may map, a
/// drive may report success, and the bytes be lost where a switch does not forward or an IOMMU does
/// not know the address; the bench has such a machine, `liar`. Only bytes that were moved and read
/// back are a proof. Two things more that the tree does not show: the kernel decides once for
/// a pair and remembers until the provider's driver lets go, so a later change of a control
/// register does not reach it; and the client's driver must be able to take peer memory.
///
/// ```no_run
/// use bufmap::pci::{Tree, can_peer};
///
/// let tree = Tree::read()?;
/// let verdict = can_peer(&tree, "0000:03:00.0".parse()?, "0000:04:00.0".parse()?)?;
/// println!("{verdict}");
/// if let Some(remedy) = verdict.remedy() {
///     println!("to change that, {remedy}");
/// }
/// # Ok::<(), bufmap::pci::PciError>(())
/// ```
///
/// # Errors
/// [`PciError::NoFunction`] for an address without a function; [`PciError::Undecided`] if the answer
/// depends on configuration space that only root is shown.
pub fn can_peer(tree: &Tree, provider: Address, client: Address) -> Result<Verdict, PciError> {
    let function = tree.function(provider)?;
    if function.peer_memory.is_some() {
        return route(tree, provider, client);
    }
    tree.function(client)?;
    Ok(Verdict {
        provider,
        client,
        outcome: Outcome::NotPeerMemory,
        distance: Ways::between(tree, provider, client).distance,
        reason: Reason::NoPeerMemory { driver: function.driver.clone() },
    })
}

/// The same for memory that the kernel knows without it being in sysfs, such as a BAR that vfio-pci
/// exports as a dma-buf: the outcome by the places of the two alone, never
/// [`Outcome::NotPeerMemory`].
///
/// # Errors
/// Those of [`can_peer`].
pub fn route(tree: &Tree, provider: Address, client: Address) -> Result<Verdict, PciError> {
    let (from, to) = (tree.function(provider)?, tree.function(client)?);
    let ways = Ways::between(tree, provider, client);
    let undecided = |Unknown { functions, why }| PciError::Undecided {
        provider,
        client,
        unknown: functions,
        why,
    };

    let verdict =
        |outcome, reason| Verdict { provider, client, outcome, distance: ways.distance, reason };
    let detour = match ways.meeting {
        None => Detour::NoCommonBridge,
        Some(meeting) => {
            let redirects = redirects(&ways.passed).map_err(undecided)?;
            if redirects.is_empty() {
                let same = provider == client;
                let reason =
                    if same { Reason::SameFunction } else { Reason::CommonBridge(meeting) };
                return Ok(verdict(Outcome::BusAddress, reason));
            }
            Detour::Redirected(redirects)
        }
    };
    let trust = trust(tree, from, to).map_err(undecided)?;
    let outcome = match trust {
        Trust::Processor(_) | Trust::Listed(_) => Outcome::ThroughHostBridge,
        Trust::None(_) => Outcome::NotSupported,
    };
    Ok(verdict(outcome, Reason::HostBridge { detour, trust }))
}

/// The ways up from two functions.
struct Ways<'t> {
    /// Where they meet.
    meeting: Option<Address>,
    /// The functions from both up to there, the meeting included.
    passed: Vec<&'t Function>,
    distance: u32,
}

impl<'t> Ways<'t> {
    fn between(tree: &'t Tree, provider: Address, client: Address) -> Self {
        let left: Vec<_> = tree.path_up(provider).collect();
        let right: Vec<_> = tree.path_up(client).collect();
        let meeting = left
            .iter()
            .enumerate()
            .find_map(|(i, a)| right.iter().position(|b| a.address == b.address).map(|j| (i, j)));
        match meeting {
            Some((i, j)) => Self {
                meeting: Some(left[i].address),
                passed: left[..=i].iter().chain(&right[..j]).copied().collect(),
                distance: (i + j) as u32,
            },
            None => Self {
                meeting: None,
                distance: (left.len() + right.len()) as u32,
                passed: Vec::new(),
            },
        }
    }
}

/// What is not known and would decide.
struct Unknown {
    functions: Vec<Address>,
    why: Absent,
}

/// Those that redirect. If one does it does not matter that others are not known; if none does, it
/// does.
fn redirects(passed: &[&Function]) -> Result<Vec<Redirect>, Unknown> {
    let mut redirects = Vec::new();
    let mut unknown = Vec::new();
    for function in passed {
        match &function.config {
            Ok(config) => {
                let on = config.acs.map_or(AcsBits::empty(), |acs| acs.control);
                let by = on.intersection(AcsBits::REDIRECTS);
                redirects.push(Redirect { function: function.address, by });
            }
            Err(why) => unknown.push((function.address, why)),
        }
    }
    redirects.retain(|redirect| !redirect.by.is_empty());
    match unknown.first() {
        Some((_, why)) if redirects.is_empty() => Err(Unknown {
            functions: unknown.iter().map(|(address, _)| *address).collect(),
            why: (*why).clone(),
        }),
        _ => Ok(redirects),
    }
}

fn trust(tree: &Tree, from: &Function, to: &Function) -> Result<Trust, Unknown> {
    if tree.cpu().forwards_between_devices() {
        return Ok(Trust::Processor(tree.cpu().clone()));
    }
    let mut hosts = vec![from.root_bus, to.root_bus];
    hosts.dedup();
    let reach = if hosts.len() == 1 { Reach::Within } else { Reach::Anywhere };
    let mut causes = Vec::new();
    for host in &hosts {
        causes.extend(distrust(tree, *host, reach)?);
    }
    Ok(if causes.is_empty() { Trust::Listed(hosts) } else { Trust::None(causes) })
}

/// Why a host bridge is not trusted to forward so far, or `None` if it is.
fn distrust(tree: &Tree, host: RootBus, reach: Reach) -> Result<Option<Distrust>, Unknown> {
    let first = tree.first_on(host);
    let Function { address, vendor, device, .. } = *first;
    let cause = match trusted(vendor, device) {
        None => Some(Distrust::NotListed { host, vendor, device }),
        Some(Reach::Within) if reach == Reach::Anywhere => Some(Distrust::OnlyWithin { host }),
        Some(_) => None,
    };
    if address.device() == 0 && address.function() == 0 {
        return Ok(cause);
    }
    match &first.config {
        Ok(config) if config.port == Some(PortType::RootPort) => Ok(cause),
        Ok(_) => Ok(Some(Distrust::Unidentified { host, first: address })),
        // A refusal stays one whatever the port is.
        Err(_) if cause.is_some() => Ok(cause),
        Err(why) => Err(Unknown { functions: vec![address], why: why.clone() }),
    }
}
