//! Udmabufs as small as kernels before 7.3 have them, for tests of what is larger.

use super::common::{Stop, need};

/// How much one udmabuf holds, in MiB: since Linux 7.3, more than there is memory.
const UDMABUF_LIMIT: &str = "/sys/module/udmabuf/parameters/size_limit_mb";

/// The limit of udmabufs at 64 MiB, until this is dropped.
pub struct SmallUdmabufs(Option<String>);

impl SmallUdmabufs {
    pub fn begin() -> Result<Self, Stop> {
        let before = need(std::fs::read_to_string(UDMABUF_LIMIT))?;
        if before.trim() == "64" {
            return Ok(Self(None));
        }
        need(std::fs::write(UDMABUF_LIMIT, "64"))?;
        Ok(Self(Some(before)))
    }
}

impl Drop for SmallUdmabufs {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = std::fs::write(UDMABUF_LIMIT, before);
        }
    }
}
