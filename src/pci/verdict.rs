//! A verdict about two devices, and its reason in words.

use std::fmt;

use super::config::AcsBits;
use super::function::Identity;
use super::{Address, Cpu, RootBus};

/// How the kernel would map a provider's memory for a client (`enum pci_p2pdma_map_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The provider has no peer memory, so there is nothing to map (`NONE`).
    NotPeerMemory,
    /// The traffic would go through a host bridge that the kernel does not trust to forward it;
    /// mapping fails (`NOT_SUPPORTED`).
    NotSupported,
    /// The traffic stays below a common bridge; the client is given bus addresses, and no IOMMU
    /// sees them (`BUS_ADDR`).
    BusAddress,
    /// The traffic goes through a host bridge that the kernel trusts; the client is given physical
    /// addresses, or IOVAs where an IOMMU translates (`THRU_HOST_BRIDGE`).
    ThroughHostBridge,
}

impl Outcome {
    /// Whether the kernel would map the memory.
    pub const fn is_supported(self) -> bool {
        matches!(self, Self::BusAddress | Self::ThroughHostBridge)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPeerMemory => "not peer memory",
            Self::NotSupported => "not supported",
            Self::BusAddress => "bus address",
            Self::ThroughHostBridge => "through the host bridge",
        })
    }
}

/// A function that sends traffic between devices upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The function, most often a port of a switch.
    pub function: Address,
    /// The services that do it: those of [`AcsBits::REDIRECTS`] that are on.
    pub by: AcsBits,
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.function, self.by)
    }
}

/// Why the traffic goes up to the host bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detour {
    /// No bridge is above both.
    NoCommonBridge,
    /// A bridge is above both (or they are one function), and these on the way redirect.
    Redirected(Vec<Redirect>),
}

/// What the kernel holds against a host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// It is not on the list of those known to forward.
    NotListed {
        /// The host bridge.
        host: RootBus,
        /// The maker of the first function on its root bus, by which it is known.
        vendor: u16,
        /// What the maker calls that function.
        device: u16,
    },
    /// It is listed as one that forwards below itself only, and the other device is below another.
    OnlyWithin {
        /// The host bridge.
        host: RootBus,
    },
    /// The first function on its root bus is neither device 00.0 nor a root port, so that the
    /// kernel does not know what it is.
    Unidentified {
        /// The host bridge.
        host: RootBus,
        /// The first function.
        first: Address,
    },
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotListed { host, vendor, device } => {
                let identity = Identity(*vendor, *device);
                write!(f, "the host bridge {host} ({identity}) is not on the kernel's list")
            }
            Self::OnlyWithin { host } => {
                write!(f, "the kernel trusts the host bridge {host} between its own devices only")
            }
            Self::Unidentified { host, first } => write!(
                f,
                "the kernel cannot tell what the host bridge {host} is, because its first function \
                 {first} is neither device 00.0 nor a root port"
            ),
        }
    }
}

/// Whether the host bridges forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The kernel trusts all host bridges of this processor.
    Processor(Cpu),
    /// The host bridge, or both, are on the kernel's list.
    Listed(Vec<RootBus>),
    /// The kernel does not trust one of them, or both.
    None(Vec<Distrust>),
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Processor(cpu) => {
                write!(f, "the kernel trusts every host bridge of this processor ({cpu})")
            }
            Self::Listed(hosts) => {
                let names: Vec<_> = hosts.iter().map(RootBus::to_string).collect();
                write!(f, "the kernel's list of trusted host bridges has {}", names.join(" and "))
            }
            Self::None(causes) => {
                let causes: Vec<_> = causes.iter().map(Distrust::to_string).collect();
                f.write_str(&causes.join(", and "))
            }
        }
    }
}

/// Why the outcome is what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The provider's driver has given the kernel no memory for peers.
    NoPeerMemory {
        /// The driver, or `None` if there is none.
        driver: Option<String>,
    },
    /// Provider and client are one function.
    SameFunction,
    /// This bridge is above both, and nothing on the way to it redirects.
    CommonBridge(Address),
    /// The traffic goes to the host bridge.
    HostBridge {
        /// Why it does.
        detour: Detour,
        /// What the kernel thinks of the host bridge, which decides.
        trust: Trust,
    },
}

/// What the kernel would do, and why.
///
/// Displayed, it is a sentence without its full stop: outcome, distance and reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whose memory.
    pub provider: Address,
    /// Who would reach it.
    pub client: Address,
    /// What the kernel would do.
    pub outcome: Outcome,
    /// How many links of the tree lie between the two, as the kernel counts them: 0 for the same
    /// function, 2 for neighbours below one bridge, 4 across a switch. It is counted for a pair
    /// that is not supported too. Nearer is better.
    pub distance: u32,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { provider, client, outcome, distance, reason } = self;
        write!(f, "{outcome}, distance {distance}: ")?;
        match reason {
            Reason::NoPeerMemory { driver: None } => {
                write!(f, "{provider} has no driver, and so no memory for peers")
            }
            Reason::NoPeerMemory { driver: Some(driver) } => {
                write!(
                    f,
                    "the driver of {provider} ({driver}) gives the kernel no memory for peers"
                )
            }
            Reason::SameFunction => write!(f, "{provider} reaches its own memory"),
            Reason::CommonBridge(bridge) => write!(
                f,
                "{provider} and {client} meet at {bridge}, and nothing on the way redirects"
            ),
            Reason::HostBridge { detour: Detour::NoCommonBridge, trust } => {
                write!(f, "no bridge is above both {provider} and {client}, and {trust}")
            }
            Reason::HostBridge { detour: Detour::Redirected(redirects), trust } => {
                let redirects: Vec<_> = redirects.iter().map(Redirect::to_string).collect();
                write!(
                    f,
                    "between {provider} and {client} Access Control Services redirect at {}, and {trust}",
                    redirects.join(", ")
                )
            }
        }
    }
}

impl Verdict {
    /// What would change a refusal, or shorten the path through the host bridge; `None` if there is
    /// nothing better to be had by a setting.
    pub fn remedy(&self) -> Option<String> {
        match &self.reason {
            Reason::NoPeerMemory { .. } => Some(
                "bind it to a driver that gives memory to peers, as nvme does for a drive with a \
                 controller memory buffer; memory of a device on vfio-pci can be exported as a \
                 dma-buf instead"
                    .into(),
            ),
            Reason::SameFunction | Reason::CommonBridge(_) => None,
            Reason::HostBridge { detour: Detour::Redirected(redirects), .. } => {
                let functions: Vec<_> =
                    redirects.iter().map(|redirect| redirect.function.to_string()).collect();
                Some(format!(
                    "boot with pci=disable_acs_redir={}, which gives up that the IOMMU keeps the \
                     devices below them apart",
                    functions.join(";")
                ))
            }
            Reason::HostBridge { trust: Trust::None(causes), .. }
                if causes.iter().all(|cause| matches!(cause, Distrust::OnlyWithin { .. })) =>
            {
                Some("put both devices into slots of one processor".into())
            }
            Reason::HostBridge { detour: Detour::NoCommonBridge, trust: Trust::None(_) } => Some(
                "put both devices below one PCIe switch, or into a machine whose host bridge the \
                 kernel trusts (AMD Zen, Intel Xeon since Skylake)"
                    .into(),
            ),
            Reason::HostBridge { detour: Detour::NoCommonBridge, .. } => None,
        }
    }
}
