//! The shader that is compiled in, beside its source.
//!
//! Vulkan takes SPIR-V. So that no compiler is needed to build or to run, what naga makes of the shader's source lies beside it,
//! and here it is made again and compared.
#![cfg(feature = "wgpu")]

use std::fs;
use std::path::Path;

use wgpu::naga;
use wgpu::naga::back::spv;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};

/// Set to have what lies beside the source made anew.
const WRITE: &str = "BUFMAP_WRITE_SHADERS";

#[test]
fn what_is_compiled_in_is_what_its_source_says() {
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shaders");
    let source = fs::read_to_string(shaders.join("crc32.wgsl")).expect("a source");
    let (made, path) = (translated(&source), shaders.join("crc32.spv"));
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, &made).expect("it is written");
    }
    assert!(
        fs::read(&path).is_ok_and(|lies_beside| lies_beside == made),
        "shaders/crc32.spv is not made of shaders/crc32.wgsl: run {WRITE}=1 cargo test \
         -p bufmap-exporters --features wgpu --test shaders"
    );
}

fn translated(source: &str) -> Vec<u8> {
    let module = match naga::front::wgsl::parse_str(source) {
        Ok(module) => module,
        Err(error) => panic!("{}", error.emit_to_string(source)),
    };
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::empty());
    let info = match validator.validate(&module) {
        Ok(info) => info,
        Err(error) => panic!("{}", error.emit_to_string(source)),
    };
    let options = spv::Options {
        // Of Vulkan 1.1.
        lang_version: (1, 3),
        flags: spv::WriterFlags::empty(),
        // The shaders initialise what they read, and their loops end.
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        ..spv::Options::default()
    };
    let words = spv::write_vec(&module, &info, &options, None).expect("SPIR-V");
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
