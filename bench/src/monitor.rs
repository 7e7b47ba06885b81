//! QEMU's monitor, which the machine `faults` has on its fourth serial port: a guest that can pull
//! its own plugs.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::said;

/// The serial port.
const PORT: &str = "/dev/ttyS3";

/// A conversation with the monitor, in QMP (`docs/interop/qmp-spec` of QEMU).
#[derive(Debug)]
pub struct Monitor {
    port: BufReader<File>,
}

impl Monitor {
    /// Begins the conversation.
    ///
    /// # Errors
    /// Fails the test if there is no monitor.
    pub fn open() -> Result<Self, Failed> {
        said("stty", &["-F", PORT, "raw", "-echo"])?;
        let port = OpenOptions::new().read(true).write(true).open(PORT)?;
        let mut monitor = Self { port: BufReader::new(port) };
        let begin = json!({ "execute": "qmp_capabilities" });
        // Until it was told not to, the port has sent the greeting back: the first answer may be
        // a complaint about that.
        if monitor.tell(&begin).is_err() {
            monitor.tell(&begin)?;
        }
        Ok(monitor)
    }

    /// Unplugs the device with this name, and returns once the guest has let go of it.
    ///
    /// # Errors
    /// Fails the test if the monitor refuses.
    pub fn unplug(&mut self, device: &str) -> Result<(), Failed> {
        self.tell(&json!({ "execute": "device_del", "arguments": { "id": device } }))?;
        self.wait_for(|said| {
            said["event"] == "DEVICE_DELETED" && said["data"]["device"] == device
        })?;
        Ok(())
    }

    fn tell(&mut self, command: &Value) -> Result<(), Failed> {
        self.port.get_mut().write_all(command.to_string().as_bytes())?;
        let answer =
            self.wait_for(|said| said["return"] != Value::Null || said["error"] != Value::Null)?;
        match &answer["error"] {
            Value::Null => Ok(()),
            error => Err(format!("the monitor refused {command}: {error}").into()),
        }
    }

    /// Reads until it says what is waited for. What it has said before (its greeting begins before
    /// the port was open) is no concern.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, Failed> {
        loop {
            let mut line = String::new();
            if self.port.read_line(&mut line)? == 0 {
                return Err("the monitor has hung up".into());
            }
            if let Ok(said) = serde_json::from_str::<Value>(&line)
                && wanted(&said)
            {
                return Ok(said);
            }
        }
    }
}
