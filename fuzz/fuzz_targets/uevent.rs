//! Messages of any content on the socket of the kernel's events.
#![no_main]

use bufmap::pci::Uevent;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(event) = Uevent::parse(bytes) {
        let told = [event.action.len(), event.path.len(), event.subsystem.len()];
        // What is not UTF-8 is three bytes for each.
        assert!(told.iter().sum::<usize>() <= 3 * bytes.len());
    }
});
