//! What lies between this machine's own files and their drives.

use bufmap::pci::Tree;
use bufmap::storage::file::SourceFile;
use bufmap::storage::stack::Stack;

/// Whatever machine this is, each file has a drive or a reason with a remedy.
#[test]
fn every_file_has_a_drive_or_a_reason() {
    let tree = match Tree::read() {
        Ok(tree) => tree,
        Err(error) => {
            println!("SKIPPED: {error}");
            return;
        }
    };
    for path in [env!("CARGO_BIN_EXE_bufmap"), "/proc/self/exe", "/etc/passwd"] {
        let stack = Stack::below(&SourceFile::open(path).expect(path));
        assert!(!stack.layers().is_empty(), "{path}");
        match stack.drive() {
            Ok(drive) => assert!(tree.function(drive).is_ok(), "{path}: {drive}"),
            Err(why) => assert!(!why.why.is_empty() && !why.fix.is_empty(), "{path}: {why:?}"),
        }
    }
}

/// A file in memory has no drive, and the reason says so.
#[test]
fn memory_is_no_drive() {
    let shm = std::path::Path::new("/dev/shm");
    let Ok(file) = tempfile::NamedTempFile::new_in(shm) else {
        println!("SKIPPED: /dev/shm is not there");
        return;
    };
    let stack = Stack::below(&SourceFile::open(file.path()).expect("a file"));
    let why = stack.drive().expect_err("no drive has it").to_string();
    assert!(why.contains("memory"), "{why} of {stack:?}");
}
