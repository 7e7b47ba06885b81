//! The PCI tree and its verdicts, on machines written down by the public layout of real ones, and on this one.

#[path = "fixtures/pci/expand.rs"]
mod expand;

use std::fs;
use std::os::unix::fs::symlink;

use bufmap::pci::{
    Address, BarKind, Class, Detour, Distrust, Outcome, PciError, Place, PortType, Reason, Tree,
    Trust, Verdict, can_peer, classify, route,
};
use expand::{Machine, Reader, put};
use iomap::{Phyr, PhyrKind, PhyrList, PhysAddr};
use proptest::prelude::*;

const PEX8796: &str = include_str!("fixtures/pci/pex8796.txt");
const PEX89000: &str = include_str!("fixtures/pci/pex89000.txt");
const EPYC: &str = include_str!("fixtures/pci/epyc.txt");
const XEON: &str = include_str!("fixtures/pci/xeon.txt");
const XEON_E5V3: &str = include_str!("fixtures/pci/xeon-e5v3.txt");
const LAPTOP: &str = include_str!("fixtures/pci/laptop.txt");

fn tree(text: &str) -> Tree {
    Machine::new(text, Reader::Root).tree()
}

fn at(address: &str) -> Address {
    address.parse().expect("an address")
}

fn peer(tree: &Tree, provider: &str, client: &str) -> Verdict {
    can_peer(tree, at(provider), at(client)).expect("a verdict")
}

/// Outcome and distance.
fn short(verdict: &Verdict) -> (Outcome, u32) {
    (verdict.outcome, verdict.distance)
}

#[test]
fn a_switch_without_redirection_is_crossed_by_bus_address() {
    let tree = tree(PEX8796);
    let verdict = peer(&tree, "07:00.0", "04:00.0");
    assert_eq!(short(&verdict), (Outcome::BusAddress, 4));
    assert_eq!(verdict.reason, Reason::CommonBridge(at("02:00.0")));
    assert_eq!(
        verdict.to_string(),
        "bus address, distance 4: 0000:07:00.0 and 0000:04:00.0 meet at 0000:02:00.0, and nothing on \
         the way redirects"
    );
    assert_eq!(verdict.remedy(), None);

    let own = peer(&tree, "07:00.0", "07:00.0");
    assert_eq!((short(&own), own.reason), ((Outcome::BusAddress, 0), Reason::SameFunction));
    let neighbours = route(&tree, at("06:00.0"), at("06:00.1")).expect("a verdict");
    assert_eq!(short(&neighbours), (Outcome::BusAddress, 2));
}

#[test]
fn two_switches_on_an_unknown_root_are_apart() {
    let verdict = peer(&tree(PEX8796), "07:00.0", "0b:00.0");
    assert_eq!(short(&verdict), (Outcome::NotSupported, 8));
    assert_eq!(
        verdict.to_string(),
        "not supported, distance 8: no bridge is above both 0000:07:00.0 and 0000:0b:00.0, and the \
         host bridge pci0000:00 (8086:6f00) is not on the kernel's list"
    );
    assert!(verdict.remedy().expect("a remedy").contains("below one PCIe switch"));
}

#[test]
fn redirection_on_an_unknown_root_is_refused_and_named() {
    let redirecting = PEX8796.replace(
        "0000:03:04.0 10b5:8796 060400 downstream",
        "0000:03:04.0 10b5:8796 060400 downstream on=SV,RR,UF",
    );
    let tree = tree(&redirecting);
    let verdict = peer(&tree, "07:00.0", "04:00.0");
    assert_eq!(short(&verdict), (Outcome::NotSupported, 4));
    assert_eq!(
        verdict.to_string(),
        "not supported, distance 4: between 0000:07:00.0 and 0000:04:00.0 Access Control Services \
         redirect at 0000:03:04.0 (P2P Request Redirect), and the host bridge pci0000:00 \
         (8086:6f00) is not on the kernel's list"
    );
    assert!(verdict.remedy().expect("a remedy").contains("pci=disable_acs_redir=0000:03:04.0,"));
    assert_eq!(peer(&tree, "07:00.0", "05:00.0").outcome, Outcome::BusAddress);
}

/// Which of the services count, each alone on one port.
#[test]
fn three_services_redirect_and_four_do_not() {
    for (service, outcome) in [
        ("SV", Outcome::BusAddress),
        ("TB", Outcome::BusAddress),
        ("RR", Outcome::NotSupported),
        ("CR", Outcome::NotSupported),
        ("UF", Outcome::BusAddress),
        ("EC", Outcome::NotSupported),
        ("DT", Outcome::BusAddress),
    ] {
        for port in ["0000:03:14.0", "0000:03:04.0"] {
            let line = format!("{port} 10b5:8796 060400 downstream");
            let machine = PEX8796.replace(&line, &format!("{line} on={service}"));
            assert_ne!(machine, PEX8796);
            let verdict = peer(&tree(&machine), "07:00.0", "04:00.0");
            assert_eq!(verdict.outcome, outcome, "{service} at {port}");
        }
    }
}

/// The bridge where the ways meet counts, and so do the two functions; what is above does not.
#[test]
fn services_count_from_the_function_to_the_meeting() {
    let with = |line: &str| {
        let machine = PEX8796.replace(line, &format!("{line} acs=RR on=RR"));
        assert_ne!(machine, PEX8796);
        tree(&machine)
    };
    let meeting = with("0000:02:00.0 10b5:8796 060400 upstream");
    assert_eq!(peer(&meeting, "07:00.0", "04:00.0").outcome, Outcome::NotSupported);
    let own = with("0000:07:00.0 11f8:f117 010802 endpoint");
    assert_eq!(peer(&own, "07:00.0", "04:00.0").outcome, Outcome::NotSupported);
    assert_eq!(short(&peer(&own, "07:00.0", "07:00.0")), (Outcome::NotSupported, 0));
    let above = PEX8796.replace("root-port acs=SV,TB,RR,CR,UF", "root-port acs=RR,CR on=RR,CR");
    assert_eq!(peer(&tree(&above), "07:00.0", "04:00.0").outcome, Outcome::BusAddress);
}

#[test]
fn redirection_on_a_trusted_root_goes_through_the_host_bridge() {
    let verdict = peer(&tree(PEX89000), "1a:00.0", "1b:00.0");
    assert_eq!(short(&verdict), (Outcome::ThroughHostBridge, 4));
    let Reason::HostBridge { detour: Detour::Redirected(redirects), trust } = &verdict.reason
    else {
        panic!("{verdict}");
    };
    assert_eq!(
        redirects.iter().map(|r| r.function).collect::<Vec<_>>(),
        [at("17:02.0"), at("17:03.0")]
    );
    assert!(matches!(trust, Trust::Listed(hosts) if hosts.len() == 1), "{trust}");
    let remedy = verdict.remedy().expect("a remedy");
    assert!(remedy.contains("pci=disable_acs_redir=0000:17:02.0;0000:17:03.0,"), "{remedy}");

    let off = tree(&PEX89000.replace("on=SV,RR,CR,UF", "on=SV"));
    assert_eq!(short(&peer(&off, "1a:00.0", "1b:00.0")), (Outcome::BusAddress, 4));
}

#[test]
fn trusted_roots_forward_to_each_other() {
    let verdict = peer(&tree(PEX89000), "1a:00.0", "29:00.0");
    assert_eq!(short(&verdict), (Outcome::ThroughHostBridge, 8));
    assert!(
        verdict.to_string().contains("list of trusted host bridges has pci0000:15 and pci0000:26")
    );
    assert_eq!(verdict.remedy(), None);
    // A virtual function goes up as its physical one does.
    assert_eq!(peer(&tree(PEX89000), "1a:00.0", "19:00.1").distance, 4);
}

#[test]
fn zen_forwards_everywhere() {
    let machine = tree(EPYC);
    for (client, distance) in [("01:00.0", 4), ("c1:00.0", 4), ("41:00.0", 4), ("02:00.0", 0)] {
        let verdict = peer(&machine, "02:00.0", client);
        let expected = match client {
            "02:00.0" => Outcome::BusAddress,
            _ => Outcome::ThroughHostBridge,
        };
        assert_eq!(short(&verdict), (expected, distance), "{verdict}");
    }
    let words = peer(&machine, "02:00.0", "c1:00.0").to_string();
    assert!(
        words.contains("every host bridge of this processor (AuthenticAMD family 0x19)"),
        "{words}"
    );

    let before_zen = tree(&EPYC.replace("cpu AuthenticAMD 25", "cpu AuthenticAMD 21"));
    let words = peer(&before_zen, "02:00.0", "c1:00.0").to_string();
    assert!(words.contains("pci0000:00 (1022:1480) is not on the kernel's list, and"), "{words}");
    assert!(words.contains("pci0000:c0 (1022:1480) is not on the kernel's list"), "{words}");
    let other_maker = tree(&EPYC.replace("cpu AuthenticAMD 25", "cpu HygonGenuine 24"));
    assert_eq!(peer(&other_maker, "02:00.0", "01:00.0").outcome, Outcome::NotSupported);
}

#[test]
fn a_root_bus_is_known_by_its_first_function() {
    let tree = tree(XEON);
    assert_eq!(short(&peer(&tree, "18:00.0", "19:00.0")), (Outcome::ThroughHostBridge, 4));
    assert_eq!(short(&peer(&tree, "18:00.0", "86:00.0")), (Outcome::ThroughHostBridge, 4));
    let verdict = peer(&tree, "18:00.0", "80:04.0");
    assert_eq!(short(&verdict), (Outcome::NotSupported, 3));
    assert!(
        verdict.to_string().contains("its first function 0000:80:04.0 is neither"),
        "{verdict}"
    );
}

#[test]
fn some_roots_forward_among_their_own_only() {
    let tree = tree(XEON_E5V3);
    assert_eq!(peer(&tree, "03:00.0", "04:00.0").outcome, Outcome::ThroughHostBridge);
    let verdict = peer(&tree, "03:00.0", "81:00.0");
    assert_eq!(verdict.outcome, Outcome::NotSupported);
    let Reason::HostBridge { trust: Trust::None(causes), .. } = &verdict.reason else {
        panic!("{verdict}");
    };
    assert!(causes.iter().all(|cause| matches!(cause, Distrust::OnlyWithin { .. })), "{verdict}");
    assert_eq!(causes.len(), 2);
    assert!(verdict.remedy().expect("a remedy").contains("slots of one processor"));
}

/// The ways up end at a root bus, although its host bridge hangs from a function.
#[test]
fn a_volume_management_device_has_a_root_of_its_own() {
    let tree = tree(LAPTOP);
    let drive = tree.function(at("10000:e1:00.0")).expect("the drive");
    assert_eq!(drive.root_bus.to_string(), "pci10000:e0");
    assert_eq!(tree.path_up(drive.address).count(), 2);
    let hosts: Vec<_> = tree.host_bridges().map(|host| host.root_bus.to_string()).collect();
    assert_eq!(hosts, ["pci0000:00", "pci10000:e0"]);

    let none = peer(&tree, "00:02.0", "10000:e1:00.0");
    assert_eq!(short(&none), (Outcome::NotPeerMemory, 3));
    assert!(none.to_string().contains("(i915) gives the kernel no memory for peers"), "{none}");
    let verdict = route(&tree, at("00:02.0"), drive.address).expect("a verdict");
    assert_eq!(verdict.outcome, Outcome::NotSupported);
    assert!(verdict.to_string().contains("pci10000:e0 (8086:9a09)"), "{verdict}");
    let undriven = peer(&tree, "00:06.0", "10000:e1:00.0").to_string();
    assert!(undriven.contains("has no driver"), "{undriven}");
}

#[test]
fn what_sysfs_says_of_a_function_is_there() {
    let tree = tree(PEX89000);
    let drive = tree.function(at("1a:00.0")).expect("the drive");
    assert_eq!((drive.vendor, drive.device, drive.class.get()), (0x1de5, 0x2000, 0x01_0802));
    assert!(drive.class == Class::NVME && !drive.class.is_gpu());
    assert!(tree.function(at("18:00.0")).expect("the GPU").class.is_gpu());
    assert_eq!((drive.driver.as_deref(), drive.numa_node), (Some("nvme"), Some(0)));
    assert_eq!(drive.upstream, Some(at("17:02.0")));
    assert_eq!(drive.port(), Some(PortType::Endpoint));
    let group = drive.iommu_group.as_ref().expect("a group");
    assert_eq!((group.number, group.kind.as_deref()), (30, Some("DMA-FQ")));
    let memory = drive.peer_memory.expect("peer memory");
    assert_eq!((memory.size, memory.available, memory.published), (256 << 20, 256 << 20, true));
    assert_eq!(drive.bars.len(), 2);
    assert_eq!(drive.bars[1].kind, BarKind::Memory { prefetchable: true, wide: true });
    let disk = &drive.block_devices[0];
    assert_eq!((disk.name.as_str(), disk.len, disk.namespace), ("nvme0n1", 1600 << 30, Some(1)));
    assert_eq!(tree.of_disk("nvme0n1").map(|f| f.address).collect::<Vec<_>>(), [drive.address]);
    assert_eq!(tree.of_disk("nvme9n1").count(), 0);
    let virtual_function = tree.function(at("19:00.1")).expect("the virtual function");
    assert_eq!(virtual_function.physical_function, Some(at("19:00.0")));
    assert_eq!(tree.below(at("16:00.0")).count(), 4);
    assert!(tree.function(at("16:00.0")).expect("the port").class.is_bridge());

    let laptop = self::tree(LAPTOP);
    assert_eq!(laptop.function(at("00:00.0")).expect("the bridge").numa_node, None);
    assert_eq!(laptop.function(at("00:1f.0")).expect("the bridge").port(), None);
    let sata = self::tree(XEON);
    assert_eq!(sata.of_disk("sda").map(|f| f.address).collect::<Vec<_>>(), [at("00:17.0")]);
}

/// A drive with two controllers has one disk, below the subsystem; the ways to it are hidden disks.
#[test]
fn a_disk_with_two_ways_stands_behind_both() {
    let machine = Machine::new(EPYC, Reader::Root);
    let subsystem = machine.sys().join("devices/virtual/nvme-subsystem/nvme-subsys0");
    put(&subsystem.join("nvme7n1/size"), "2048\n");
    put(&subsystem.join("nvme7n1/nsid"), "1\n");
    symlink(subsystem.join("nvme7n1"), machine.sys().join("block/nvme7n1")).expect("a link");
    for (function, name) in [("0000:01:00.0", "nvme0"), ("0000:c1:00.0", "nvme2")] {
        let controller = machine.function_path(function).join("nvme").join(name);
        symlink(&controller, subsystem.join(name)).expect("a link");
        let way = controller.join(format!("{name}c0n1"));
        put(&way.join("size"), "2048\n");
        put(&way.join("hidden"), "1\n");
        symlink(way, machine.sys().join(format!("block/{name}c0n1"))).expect("a link");
    }
    // A disk that is no function's is not even looked at.
    put(&machine.sys().join("devices/virtual/block/loop0/size"), "-");
    symlink(machine.sys().join("devices/virtual/block/loop0"), machine.sys().join("block/loop0"))
        .expect("a link");
    let tree = machine.tree();
    let behind: Vec<_> = tree.of_disk("nvme7n1").map(|function| function.address).collect();
    assert_eq!(behind, [at("01:00.0"), at("c1:00.0")]);
    assert_eq!(tree.of_disk("nvme0c0n1").count(), 0);
}

#[test]
fn without_root_only_what_depends_on_it_is_undecided() {
    let shown = |text| Machine::new(text, Reader::Anybody).tree();
    let tree = shown(PEX8796);
    let config = &tree.function(at("07:00.0")).expect("the drive").config;
    let absent = config.as_ref().expect_err("hidden");
    assert!(absent.fix.contains("root"), "{absent}");
    // Whether a port redirects is not known; that there is no common bridge is.
    let error = can_peer(&tree, at("07:00.0"), at("04:00.0")).expect_err("undecided");
    let PciError::Undecided { unknown, .. } = &error else { panic!("{error}") };
    assert_eq!(unknown.len(), 5);
    assert!(
        error.to_string().contains("0000:03:14.0") && error.to_string().contains("run as root")
    );
    assert_eq!(peer(&tree, "07:00.0", "0b:00.0").outcome, Outcome::NotSupported);
    assert_eq!(peer(&tree, "04:00.0", "05:00.0").outcome, Outcome::NotPeerMemory);
    assert_eq!(peer(&shown(EPYC), "02:00.0", "c1:00.0").outcome, Outcome::ThroughHostBridge);

    // A root bus that begins with a trusted function elsewhere than at 00.0: a root port, or not?
    let moved = XEON.replace("0000:17:00.0", "0000:17:01.0");
    let error = can_peer(&shown(&moved), at("18:00.0"), at("19:00.0")).expect_err("undecided");
    assert!(error.to_string().contains("0000:17:01.0"), "{error}");
    // One that is on no list is refused either way.
    let unknown = shown(&moved.replace("17:01.0 8086:2030", "17:01.0 8086:2fff"));
    assert_eq!(peer(&unknown, "18:00.0", "19:00.0").outcome, Outcome::NotSupported);
    assert_eq!(peer(&self::tree(&moved), "18:00.0", "19:00.0").outcome, Outcome::ThroughHostBridge);
}

#[test]
fn a_function_that_is_not_there_is_named() {
    for (provider, client) in
        [("99:00.0", "07:00.0"), ("07:00.0", "99:00.0"), ("04:00.0", "99:00.0")]
    {
        let error = can_peer(&tree(PEX8796), at(provider), at(client)).expect_err("nobody");
        assert!(matches!(error, PciError::NoFunction { address } if address == at("99:00.0")));
    }
}

#[test]
fn addresses_are_found_in_their_bars() {
    let tree = tree(PEX8796);
    let find = |address| tree.bar_at(PhysAddr::new(address));
    let vram = find(0x3860_0001_0000).expect("a BAR");
    assert_eq!((vram.function, vram.bar, vram.offset), (at("05:00.0"), 1, 0x1_0000));
    assert_eq!(find(0x3867_ffff_ffff).expect("its last byte").bar, 1);
    assert_eq!(find(0x3868_0000_0000).expect("the next").bar, 3);
    assert_eq!(find(0x3850_0000_0000 - 1), None);
    assert_eq!(find(0xf110), None, "a port is no address");
    let unset = PEX8796.replace("bar4=387b00000000+512M,64,p", "bar4=387b00000000+512M,64,p,unset");
    assert_eq!(self::tree(&unset).bar_at(PhysAddr::new(0x387b_0000_0000)), None);
}

#[test]
fn ranges_are_held_against_bars_and_memory() {
    let machine = Machine::new(PEX8796, Reader::Root);
    let (tree, ram) = (machine.tree(), machine.memory());
    let range = |kind, at, len| Phyr::new(kind, PhysAddr::new(at), len).expect("a range");
    let list = PhyrList::from_iter([
        range(PhyrKind::Peer, 0x3860_0000_0000, 2 << 20),
        range(PhyrKind::Peer, 0x1_0000_0000, 4096),
        range(PhyrKind::System, 0x10_3fff_f000, 8192),
        range(PhyrKind::Peer, 0x3868_01ff_f000, 8192),
        range(PhyrKind::Peer, u64::MAX - 8191, 8191),
        range(PhyrKind::System, 0xffff_f000, 8192),
    ]);
    let placed = classify(&list, &tree, &ram);
    let honest: Vec<_> = placed.iter().map(|placed| placed.is_as_claimed()).collect();
    assert_eq!(honest, [true, false, true, false, true, false, false, false, true]);
    assert_eq!(placed[1].place, Place::SystemRam);
    assert_eq!(placed[3].place, Place::Neither);
    assert_eq!(placed[3].range, range(PhyrKind::System, 0x10_4000_0000, 4096));
    assert_eq!(
        placed[0].to_string(),
        "0x386000000000..0x386000200000 (peer): byte 0x0 of BAR 1 of 0000:05:00.0"
    );
}

/// Of a BAR that claims to lie in system memory nothing is believed.
#[test]
fn memory_goes_before_a_bar() {
    let inside = PEX8796.replace("bar4=387b00000000+512M", "bar4=1000000000+512M");
    let machine = Machine::new(&inside, Reader::Root);
    let claim = Phyr::new(PhyrKind::Peer, PhysAddr::new(0x10_0000_0000), 4096).expect("a range");
    let placed = classify(&PhyrList::from_iter([claim]), &machine.tree(), &machine.memory());
    assert_eq!(placed[0].place, Place::SystemRam);
}

/// Each file, with what no kernel writes into it.
#[test]
fn nonsense_in_a_file_is_an_error_that_names_the_file() {
    for (file, nonsense) in [
        ("vendor", "8086"),
        ("vendor", "0x18086"),
        ("vendor", ""),
        ("device", "0x"),
        ("class", "0x1000000"),
        ("numa_node", "near"),
        ("resource", "0x0 0x1"),
        ("resource", "0x5 0x4 0x200"),
        ("p2pmem/size", "-1"),
        ("p2pmem/available", "x"),
        ("p2pmem/published", "2"),
        ("nvme/nvme0/nvme0n1/size", "18446744073709551615"),
        ("nvme/nvme0/nvme0n1/nsid", "first"),
    ] {
        let machine = Machine::new(PEX8796, Reader::Root);
        put(&machine.function_path("0000:07:00.0").join(file), nonsense);
        let error = machine.read().expect_err(file).to_string();
        assert!(error.contains(file) && error.contains("07:00.0"), "{error}");
    }
    let machine = Machine::new(PEX8796, Reader::Root);
    put(&machine.function_path("0000:07:00.0").join("vendor"), vec![0xff; 1 << 20]);
    let error = machine.read().expect_err("a long file").to_string();
    assert!(error.contains("a short file") && error.len() < 1000, "{error}");
}

#[test]
fn a_configuration_space_cut_short_is_absent_and_not_zero() {
    for len in [0, 3, 63, 64, 255] {
        let machine = Machine::new(PEX8796, Reader::Root);
        let path = machine.function_path("0000:07:00.0").join("config");
        let bytes = fs::read(&path).expect("a file");
        put(&path, &bytes[..len]);
        let tree = machine.tree();
        assert!(tree.function(at("07:00.0")).expect("the drive").config.is_err(), "{len} bytes");
        let error = can_peer(&tree, at("07:00.0"), at("04:00.0")).expect_err("undecided");
        assert!(matches!(error, PciError::Undecided { .. }), "{error}");
    }
}

#[test]
fn what_is_no_tree_is_refused() {
    let machine = Machine::new(PEX8796, Reader::Root);
    let list = machine.sys().join("bus/pci/devices");
    fs::remove_file(list.join("0000:03:14.0")).expect("removed");
    let error = machine.read().expect_err("an orphan");
    assert!(
        matches!(error, PciError::Changed { parent, .. } if parent == at("03:14.0")),
        "{error}"
    );

    // Two functions, each of which lies below the other.
    let machine = Machine::new("cpu GenuineIntel 6\npci0000:00", Reader::Root);
    let host = machine.sys().join("devices/pci0000:00");
    for (upper, lower) in [("0000:00:01.0", "0000:01:00.0"), ("0000:01:00.0", "0000:00:01.0")] {
        let path = host.join(upper).join(lower);
        for (file, text) in
            [("vendor", "0x8086"), ("device", "0x1"), ("class", "0x060400"), ("resource", "")]
        {
            put(&path.join(file), text);
        }
        symlink(path, machine.sys().join("bus/pci/devices").join(lower)).expect("a link");
    }
    let error = machine.read().expect_err("a circle");
    assert!(matches!(error, PciError::Changed { .. }), "{error}");

    let machine = Machine::new(PEX8796, Reader::Root);
    symlink("/", machine.sys().join("bus/pci/devices/0000:99:00.0")).expect("a link");
    assert!(matches!(machine.read(), Err(PciError::Content { .. })));
    let machine = Machine::new(PEX8796, Reader::Root);
    put(&machine.sys().join("bus/pci/devices/x"), "");
    assert!(matches!(machine.read(), Err(PciError::Content { .. })));
    let machine = Machine::new(PEX8796, Reader::Root);
    fs::remove_dir_all(machine.sys()).expect("removed");
    let error = machine.read().expect_err("nothing");
    assert!(matches!(error, PciError::Unavailable { .. }), "{error}");
}

#[test]
fn this_machine_has_a_tree_or_a_reason() {
    match Tree::read() {
        Ok(tree) => {
            for function in tree.functions() {
                let top = tree.path_up(function.address).last().expect("itself");
                assert_eq!(top.upstream, None);
                assert!(
                    route(&tree, function.address, function.address).is_ok_and(|v| v.distance == 0)
                        || function.config.is_err()
                );
            }
        }
        Err(error) => println!("SKIPPED: {error}"),
    }
}

/// Trees of up to three levels on two root buses, of known and unknown host bridges.
fn machines() -> impl Strategy<Value = String> {
    let service =
        || prop::sample::select(vec!["", " acs=RR on=RR", " acs=SV on=SV", " acs=CR,EC on=EC"]);
    let host = prop::sample::select(vec!["8086:2030", "8086:2f00", "1022:1480", "1ae0:1234"]);
    let port = (service(), prop::collection::vec((service(), 1..3usize), 0..3));
    let root = (host, any::<bool>(), prop::collection::vec(port, 1..3));
    (prop::collection::vec(root, 1..3), any::<bool>()).prop_map(|(roots, zen)| {
        let mut text = format!("cpu {}\n", if zen { "AuthenticAMD 23" } else { "GenuineIntel 6" });
        for (r, (host, at_zero, ports)) in roots.iter().enumerate() {
            let root = r as u8 * 0x80;
            let first = if *at_zero { "00.0" } else { "01.0" };
            text +=
                &format!("pci0000:{root:02x}\n 0000:{root:02x}:{first} {host} 060000 root-port\n");
            for (p, (services, downstream)) in ports.iter().enumerate() {
                let bus = root + 1 + p as u8 * 0x20;
                text += &format!(
                    " 0000:{root:02x}:{:02x}.0 8086:1 060400 root-port{services}\n",
                    p + 2
                );
                for (d, (services, functions)) in downstream.iter().enumerate() {
                    text +=
                        &format!("  0000:{bus:02x}:{d:02x}.0 10b5:2 060400 downstream{services}\n");
                    for f in 0..*functions {
                        let below = bus + 1 + d as u8;
                        text +=
                            &format!("   0000:{below:02x}:00.{f} 144d:3 010802 endpoint peer=1M\n");
                    }
                }
            }
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The kernel's rule asks for nothing that the two do not share, so neither order nor side
    /// matters; and distance and outcome keep to their bounds.
    #[test]
    fn the_rule_is_symmetric(text in machines()) {
        let tree = tree(&text);
        let all: Vec<_> = tree.functions().map(|function| function.address).collect();
        for &a in &all {
            for &b in &all {
                let there = route(&tree, a, b).expect("a verdict");
                let back = route(&tree, b, a).expect("a verdict");
                prop_assert_eq!(short(&there), short(&back), "{} {}", &there, &back);
                prop_assert_eq!(a == b, there.distance == 0);
                prop_assert!(there.outcome != Outcome::NotPeerMemory);
                if tree.cpu().forwards_between_devices() {
                    prop_assert!(there.outcome.is_supported(), "{}", &there);
                }
                if let Reason::CommonBridge(bridge) = there.reason {
                    prop_assert!(tree.path_up(a).any(|f| f.address == bridge));
                    prop_assert!(tree.path_up(b).any(|f| f.address == bridge));
                    prop_assert_eq!(there.outcome, Outcome::BusAddress);
                }
            }
        }
    }

    /// What is read of two functions and the ways up from them decides as the whole tree does.
    #[test]
    fn the_ways_up_from_two_decide_about_them(
        text in prop_oneof![
            machines(),
            prop::sample::select(vec![PEX8796, PEX89000, EPYC, XEON, XEON_E5V3, LAPTOP])
                .prop_map(str::to_owned),
        ],
        root: bool,
        pairs in prop::collection::vec(any::<[prop::sample::Index; 2]>(), 8),
    ) {
        let machine = Machine::new(&text, if root { Reader::Root } else { Reader::Anybody });
        let whole = machine.tree();
        let all: Vec<_> = whole.functions().map(|function| function.address).collect();
        let words = |tree: &Tree, [a, b]: [Address; 2]| {
            let words = |verdict: Result<Verdict, PciError>| match verdict {
                Ok(verdict) => format!("{verdict} {:?}", verdict.remedy()),
                Err(error) => error.to_string(),
            };
            [words(can_peer(tree, a, b)), words(route(tree, a, b))]
        };
        for pair in pairs {
            let pair = pair.map(|index| *index.get(&all));
            let around = machine.around(&pair);
            prop_assert_eq!(words(&around, pair), words(&whole, pair));
            let ways = pair.map(|function| whole.path_up(function).count());
            prop_assert!(around.functions().count() <= ways[0] + ways[1] + 2);
        }
        prop_assert_eq!(machine.around(&[at("ff:1f.7")]).functions().count(), 0);
    }

    /// Whatever stands in the files, reading ends with a tree or an error.
    #[test]
    fn any_content_is_a_tree_or_an_error(
        file in prop::sample::select(vec![
            "vendor", "class", "resource", "config", "numa_node", "p2pmem/size", "p2pmem/published",
        ]),
        content in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "(0x[0-9a-f]{0,17}[ \n]){0,20}".prop_map(String::into_bytes),
        ],
    ) {
        let machine = Machine::new(XEON, Reader::Root);
        put(&machine.function_path("0000:18:00.0").join(file), content);
        match machine.read() {
            Ok(tree) => {
                let verdict = can_peer(&tree, at("18:00.0"), at("19:00.0"));
                prop_assert!(verdict.is_ok() || file == "config", "{:?}", verdict);
            }
            Err(error) => prop_assert!(error.to_string().contains(file), "{}", error),
        }
    }
}
