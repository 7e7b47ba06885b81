//! What the memory limits of control groups leave to this process.
//!
//! A process whose group would go past its limit is killed when it touches the page that is too much, and no
//! call says so before. So the limits of its group and of each group above it are read, in both versions of
//! the interface (cgroups(7); `Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/memory.rst`).
//!
//! A group's page cache counts against its limit and is given back under pressure, so it is taken for
//! free. Swap is not counted: nothing here asks for memory that would have to be swapped.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::mounts::{self, Mount};

/// A limit, and what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    /// What the group can still be given, in bytes.
    pub bytes: usize,
    /// The limit in bytes.
    pub limit: usize,
    /// The file that holds it.
    pub file: PathBuf,
}

/// The version of a group's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    /// The files that hold a limit, each with the one that tells what of it is used.
    const fn limits(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::One => &[
                ("memory.limit_in_bytes", "memory.usage_in_bytes"),
                ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
            ],
            // Past `memory.high` nobody is killed, and everybody is slowed to a standstill.
            Self::Two => &[("memory.max", "memory.current"), ("memory.high", "memory.current")],
        }
    }

    /// The lines of `memory.stat` that tell the page cache of a group and of those in it.
    const fn page_cache(self) -> [&'static str; 2] {
        match self {
            Self::One => ["total_inactive_file", "total_active_file"],
            Self::Two => ["inactive_file", "active_file"],
        }
    }
}

/// The tightest limit of this process, if it has one that can be seen.
pub(crate) fn tightest() -> Option<Left> {
    let text = |path| fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned());
    let groups = text("/proc/self/cgroup").ok()?;
    tightest_of(&groups, &text("/proc/self/mountinfo").ok()?)
}

/// The tightest limit of the groups that `/proc/self/cgroup` names, where `/proc/self/mountinfo` says
/// they are seen.
fn tightest_of(groups: &str, mountinfo: &str) -> Option<Left> {
    let memberships: Vec<_> = groups.lines().filter_map(membership).collect();
    let mut tightest: Option<Left> = None;
    for mount in mounts::parse(mountinfo).flatten() {
        let Some(version) = version(&mount) else { continue };
        let own = memberships.iter().find(|(of, _)| *of == version);
        let Some(group) = own.and_then(|(_, group)| seen_at(&mount, group)) else { continue };
        let groups = group.ancestors().take_while(|group| group.starts_with(&mount.on));
        for left in groups.filter_map(|group| left_by(group, version)) {
            if tightest.as_ref().is_none_or(|tightest| left.bytes < tightest.bytes) {
                tightest = Some(left);
            }
        }
    }
    tightest
}

/// A line of `/proc/self/cgroup`, `4:memory:/a` or `0::/a`, if memory may be limited there.
fn membership(line: &str) -> Option<(Version, &Path)> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
    let group = Path::new(OsStr::from_bytes(group.as_bytes()));
    if controllers.split(',').any(|controller| controller == "memory") {
        return Some((Version::One, group));
    }
    (number == "0" && controllers.is_empty()).then_some((Version::Two, group))
}

/// The version of the groups that a mount shows, if memory may be limited there.
fn version(mount: &Mount) -> Option<Version> {
    match mount.kind.as_str() {
        "cgroup" => {
            let of_memory = mount.options.split(',').any(|option| option == "memory");
            of_memory.then_some(Version::One)
        }
        "cgroup2" => Some(Version::Two),
        _ => None,
    }
}

/// The directory in which a mount shows a group, or else the lowest group above it that is shown.
fn seen_at(mount: &Mount, group: &Path) -> Option<PathBuf> {
    if let Ok(below) = group.strip_prefix(&mount.root) {
        let climbs = below.components().any(|part| part == Component::ParentDir);
        return (!climbs).then(|| mount.on.join(below));
    }
    // What is mounted from outside of a cgroup namespace is a group above the namespace's (`/..`).
    let outside = mount.root.components().any(|part| part == Component::ParentDir);
    outside.then(|| mount.on.clone())
}

/// The tightest limit of one group, of those that it has.
fn left_by(group: &Path, version: Version) -> Option<Left> {
    if version == Version::One && !counts_those_below(group) {
        return None;
    }
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let page_cache = version.page_cache().into_iter().map(|name| named(&stat, name));
    let page_cache = page_cache.fold(0, usize::saturating_add);
    let left = version.limits().iter().filter_map(|(limit, usage)| {
        let file = group.join(limit);
        let (limit, usage) = (number(&file)?, number(&group.join(usage))?);
        let bytes = limit.saturating_sub(usage.saturating_sub(page_cache));
        Some(Left { bytes, limit, file })
    });
    left.min_by_key(|left| left.bytes)
}

/// Whether a group of version 1 limits the groups in it. Without the file it does, as since Linux 5.11
/// all do.
fn counts_those_below(group: &Path) -> bool {
    let answer = fs::read_to_string(group.join("memory.use_hierarchy"));
    answer.map_or(true, |answer| answer.trim() != "0")
}

/// The number in a file; none where there is no limit (`max`), or no such file.
fn number(file: &Path) -> Option<usize> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number behind a name in a list of names and numbers, zero if it is not there.
fn named(list: &str, name: &str) -> usize {
    let lines = list.lines().filter_map(|line| line.split_once(' '));
    let found =
        lines.filter(|(of, _)| *of == name).find_map(|(_, number)| number.trim().parse().ok());
    found.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A tree of groups by hand.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a directory"))
        }

        fn write(&self, file: &str, text: impl ToString) -> &Self {
            let file = self.0.path().join(file);
            fs::create_dir_all(file.parent().expect("a directory")).expect("a directory");
            fs::write(file, text.to_string()).expect("a file");
            self
        }

        fn v2(&self, group: &str, max: &str, current: usize, inactive: usize) -> &Self {
            let stat = format!("anon 5\ninactive_file {inactive}\nactive_file 0\nslab 7\n");
            self.write(&format!("{group}memory.max"), format!("{max}\n"))
                .write(&format!("{group}memory.current"), current)
                .write(&format!("{group}memory.stat"), stat)
        }

        fn v1(&self, group: &str, limit: usize, usage: usize, active: usize) -> &Self {
            let stat = format!(
                "inactive_file 9\nactive_file 9\ntotal_inactive_file 0\ntotal_active_file {active}\n"
            );
            self.write(&format!("{group}memory.limit_in_bytes"), limit)
                .write(&format!("{group}memory.usage_in_bytes"), usage)
                .write(&format!("{group}memory.stat"), stat)
                .write(&format!("{group}memory.use_hierarchy"), "1\n")
        }

        /// The line of a mount of the tree, of which it shows `root`.
        fn mounted(&self, root: &str, what: &str) -> String {
            format!("31 23 0:28 {root} {} rw - {what}", self.0.path().display())
        }

        #[track_caller]
        fn leaves(&self, groups: &str, mountinfo: &str, expected: Option<(usize, &str)>) {
            let found = tightest_of(groups, mountinfo);
            let expected = expected.map(|(bytes, file)| (bytes, self.0.path().join(file)));
            assert_eq!(found.map(|left| (left.bytes, left.file)), expected);
        }
    }

    const V2: &str = "cgroup2 cgroup2 rw,nsdelegate";
    const V1: &str = "cgroup cgroup rw,memory";

    #[test]
    fn the_tightest_of_the_groups_above_counts() {
        let tree = Tree::new();
        tree.v2("a/", "67108864", 60 * MIB, 0).v2("a/b/", "max", 10 * MIB, 0);
        tree.v2("a/b/c/", "104857600", 10 * MIB, 0).v2("other/", "0", 0, 0);
        let (mount, limit) = (tree.mounted("/", V2), Some((4 * MIB, "a/memory.max")));
        tree.leaves("0::/a/b/c\n", &mount, limit);
        tree.leaves("4:cpu:/other\n0::/a/b\n", &mount, limit);
        tree.leaves("0::/somewhere/else\n", &mount, None);
    }

    #[test]
    fn page_cache_counts_as_free_and_never_for_more_than_is_used() {
        let tree = Tree::new();
        tree.v2("a/", "67108864", 60 * MIB, 50 * MIB).v2("b/", "1048576", 4096, 1 << 40);
        tree.leaves("0::/a", &tree.mounted("/", V2), Some((54 * MIB, "a/memory.max")));
        tree.leaves("0::/b", &tree.mounted("/", V2), Some((MIB, "b/memory.max")));
    }

    #[test]
    fn a_group_past_its_limit_leaves_nothing() {
        let tree = Tree::new();
        tree.v2("a/", "4096", 8192, 0);
        tree.leaves("0::/a", &tree.mounted("/", V2), Some((0, "a/memory.max")));
    }

    #[test]
    fn where_a_group_is_slowed_down_is_a_limit_too() {
        let tree = Tree::new();
        tree.v2("a/", "67108864", 0, 0).write("a/memory.high", 32 * MIB);
        tree.leaves("0::/a", &tree.mounted("/", V2), Some((32 * MIB, "a/memory.high")));
    }

    #[test]
    fn the_first_version_counts_what_is_below_and_swap_beside() {
        let tree = Tree::new();
        tree.v1("", usize::MAX >> 1, 0, 0).v1("a/", 64 * MIB, 60 * MIB, 8 * MIB);
        tree.v1("a/b/", 32 * MIB, 0, 0);
        let groups = "9:name=systemd:/x\n4:cpu,memory:/a/b\n0::/\n";
        let mount = tree.mounted("/", V1);
        tree.leaves(groups, &mount, Some((12 * MIB, "a/memory.limit_in_bytes")));
        tree.write("a/b/memory.memsw.limit_in_bytes", 40 * MIB);
        tree.write("a/b/memory.memsw.usage_in_bytes", 39 * MIB);
        tree.leaves(groups, &mount, Some((MIB, "a/b/memory.memsw.limit_in_bytes")));
        tree.leaves(groups, &tree.mounted("/", "cgroup cgroup rw,cpu"), None);
    }

    #[test]
    fn a_group_that_does_not_count_those_below_limits_none_of_them() {
        let tree = Tree::new();
        tree.v1("a/", 4096, 0, 0).write("a/memory.use_hierarchy", "0\n");
        tree.leaves("4:memory:/a/b", &tree.mounted("/", V1), None);
    }

    #[test]
    fn a_container_sees_its_own_part_of_the_tree() {
        let tree = Tree::new();
        tree.v2("", "8388608", 0, 0).v2("inner/", "max", 0, 0);
        let limit = Some((8 * MIB, "memory.max"));
        // Of a cgroup namespace, whose root is its own.
        tree.leaves("0::/inner", &tree.mounted("/", V2), limit);
        // Without one, by the name that the group has outside.
        tree.leaves("0::/docker/4f0c/inner", &tree.mounted("/docker/4f0c", V2), limit);
        // Mounted from outside of the namespace: a group above is seen, by what name its own is not known.
        tree.leaves("0::/", &tree.mounted("/..", V2), limit);
        // A part of the tree that is not above the process, or that it left.
        tree.leaves("0::/docker/4f0c", &tree.mounted("/docker/77", V2), None);
        tree.leaves("0::/../elsewhere", &tree.mounted("/", V2), None);
    }

    #[test]
    fn what_is_not_there_or_makes_no_sense_is_no_limit() {
        let tree = Tree::new();
        tree.write("a/memory.max", "many").write("a/memory.current", "");
        tree.leaves("0::/a\nnonsense\n:::\n", &tree.mounted("/", V2), None);
        tree.leaves("0::/a", "", None);
    }
}
