//! What a drive says of itself: the answers to Identify, 4096 bytes that a device made up.
#![no_main]

use bufmap::storage::nvme::identify::{
    IDENTIFY_LEN, IdentifyController, IdentifyNamespace, parse_namespaces,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut bytes = [0; IDENTIFY_LEN];
    let len = input.len().min(IDENTIFY_LEN);
    bytes[..len].copy_from_slice(&input[..len]);
    match IdentifyController::parse(&bytes) {
        Ok(controller) => {
            assert!(controller.max_transfer(4096) >= 4096);
            assert!(controller.aborts > 0);
            let printable = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            assert!(printable(&controller.serial) && printable(&controller.model));
        }
        Err(error) => assert!(error.to_string().contains("; "), "{error}"),
    }
    match IdentifyNamespace::parse(&bytes) {
        Ok(namespace) => {
            assert!(namespace.block_size.is_power_of_two() && namespace.block_size >= 512);
            assert_eq!(namespace.len / u64::from(namespace.block_size), namespace.blocks);
        }
        Err(error) => assert!(error.to_string().contains("; "), "{error}"),
    }
    match parse_namespaces(&bytes, 7, 1 << 20) {
        Ok(list) => assert!(list.iter().all(|number| (8..=1 << 20).contains(number))),
        Err(error) => assert!(error.to_string().contains("; "), "{error}"),
    }
});
