//! QEMU's monitor, which the machines `faults`, `switch`, `vfio` and `gpu` have on their fourth serial
//! port: a guest that can pull its own plugs and see its own screens.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};

use libtest_mimic::Failed;
use serde_json::{Value, json};

use crate::{Outcome, check, said};

/// A pixel's red, green and blue.
pub type Colours = [u8; 3];

/// The pixels of XR24, which has blue first and a byte to spare.
pub fn colours(xr24: &[u8]) -> Vec<Colours> {
    let (pixels, _) = xr24.as_chunks();
    pixels.iter().map(|&[blue, green, red, _]| [red, green, blue]).collect()
}

/// The serial port.
const PORT: &str = "/dev/ttyS3";

/// A conversation with the monitor, in QMP (`docs/interop/qmp-spec` of QEMU).
#[derive(Debug)]
pub struct Monitor {
    port: BufReader<File>,
    /// How many commands it was given.
    told: u32,
}

impl Monitor {
    /// Begins the conversation, or goes on with that of a program before this one.
    ///
    /// # Errors
    /// Fails the test if there is no monitor.
    pub fn open() -> Result<Self, Failed> {
        // Ten seconds of silence are an end of the file.
        said("stty", &["-F", PORT, "raw", "-echo", "min", "0", "time", "100"])?;
        let port = OpenOptions::new().read(true).write(true).open(PORT)?;
        let mut monitor = Self { port: BufReader::new(port), told: 0 };
        // Until it was told not to, the port has sent the greeting back, or pieces of it, and the
        // monitor complains about each. This byte ends one that has no end.
        monitor.port.get_mut().write_all(b"\xff")?;
        for _ in 0..20 {
            let answer = monitor.ask(json!({ "execute": "qmp_capabilities" }))?;
            let complaint = answer["error"]["desc"].as_str().unwrap_or_default();
            if complaint.is_empty() || complaint.contains("already complete") {
                return Ok(monitor);
            }
        }
        Err("the monitor does nothing but complain".into())
    }

    /// Asks the guest to let go of the device with this name, so that it can be unplugged.
    ///
    /// # Errors
    /// Fails the test if the monitor refuses.
    pub fn ask_for(&mut self, device: &str) -> Result<(), Failed> {
        self.tell(json!({ "execute": "device_del", "arguments": { "id": device } }))
    }

    /// Unplugs the device with this name, and returns once the guest has let go of it.
    ///
    /// # Errors
    /// Fails the test if the monitor refuses.
    pub fn unplug(&mut self, device: &str) -> Result<(), Failed> {
        self.ask_for(device)?;
        self.wait_for(|said| {
            said["event"] == "DEVICE_DELETED" && said["data"]["device"] == device
        })?;
        Ok(())
    }

    /// Holds what a device has on its screen against the pixels of a picture this wide.
    ///
    /// # Errors
    /// Fails the test if one is another, if the picture has another size, or if the monitor refuses.
    pub fn shows(&mut self, device: &str, width: usize, pixels: &[Colours]) -> Outcome {
        let (screen_width, screen) = self.screen(device)?;
        let (found, wanted) = ((screen_width, screen.len()), (width, pixels.len()));
        check(found == wanted, format!("{device}: (width, pixels) {found:?}, not {wanted:?}"))?;
        match (0..pixels.len()).find(|&at| screen[at] != pixels[at]) {
            None => Ok(()),
            Some(at) => {
                let (x, y, found, wanted) = (at % width, at / width, screen[at], pixels[at]);
                Err(format!("{device}: {found:?} at {x}, {y}, not {wanted:?}").into())
            }
        }
    }

    /// What a device has on its screen: its width, and the pixels row by row.
    fn screen(&mut self, device: &str) -> Result<(usize, Vec<Colours>), Failed> {
        let arguments = json!({ "device": device, "filename": "screen.ppm" });
        self.tell(json!({ "execute": "screendump", "arguments": arguments }))?;
        // QEMU runs in the session's directory, which the guest shares.
        let file = fs::read("/session/screen.ppm")?;
        let mut lines = file.splitn(4, |byte| *byte == b'\n');
        let mut line = || lines.next().ok_or("a short picture");
        let (kind, size, depth, pixels) = (line()?, line()?, line()?, line()?);
        let size = std::str::from_utf8(size)?.split_once(' ').ok_or("a picture without a size")?;
        let (width, height): (usize, usize) = (size.0.parse()?, size.1.parse()?);
        let (pixels, rest) = pixels.as_chunks();
        let whole = (kind, depth, pixels.len(), rest) == (b"P6", b"255", width * height, &[]);
        match whole {
            true => Ok((width, pixels.to_vec())),
            false => Err(format!("{} of {width} x {height} pixels", pixels.len()).into()),
        }
    }

    fn tell(&mut self, command: Value) -> Result<(), Failed> {
        match &self.ask(command.clone())?["error"] {
            Value::Null => Ok(()),
            error => Err(format!("the monitor refused {command}: {error}").into()),
        }
    }

    /// Its answer to a command, or a complaint about something that it did not understand.
    fn ask(&mut self, mut command: Value) -> Result<Value, Failed> {
        self.told += 1;
        let id = json!(format!("{}-{}", std::process::id(), self.told));
        command["id"] = id.clone();
        self.port.get_mut().write_all(command.to_string().as_bytes())?;
        self.wait_for(|said| {
            said["id"] == id || said["id"] == Value::Null && said["error"] != Value::Null
        })
    }

    /// Reads until it says what is waited for. What it says of other things (its greeting begins
    /// before the port was open) is no concern.
    fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<Value, Failed> {
        loop {
            let mut line = String::new();
            if self.port.read_line(&mut line)? == 0 {
                return Err("the monitor says nothing".into());
            }
            if let Ok(said) = serde_json::from_str::<Value>(&line)
                && wanted(&said)
            {
                return Ok(said);
            }
        }
    }
}
