//! The file that is loaded: making it, and having it in the page cache or not.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bufmap::storage::file::cache;
use rustix::fs::{Advice, fadvise, statvfs};

/// As much is written at once, in bytes.
const BLOCK: usize = 8 << 20;

/// The file's length is a multiple of this, in bytes.
const STEP: u64 = 64 << 20;

/// So much is written before the drive's speed is judged, in bytes.
const TRIAL: u64 = 256 << 20;

/// Makes the file: `most` bytes of noise, fewer where less than that and a fifth more is free, or where
/// the drive would take longer than `limit`. Returns its length.
pub fn make(path: &Path, most: u64, limit: Duration) -> io::Result<u64> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let space = statvfs(directory.unwrap_or(Path::new(".")))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize) / 6 * 5;
    let mut len = most.min(free) / STEP * STEP;
    if len == 0 {
        return Err(io::Error::other(format!("{free} bytes are free, and {STEP} are needed")));
    }
    let mut file = File::create(path)?;
    let mut block = vec![0; BLOCK];
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let (started, mut written) = (Instant::now(), 0);
    while written < len {
        fill(&mut block, &mut noise);
        file.write_all(&block)?;
        written += BLOCK as u64;
        if written == TRIAL {
            file.sync_data()?;
            let rate = TRIAL as f64 / started.elapsed().as_secs_f64().max(1e-9);
            let in_time = (rate * limit.as_secs_f64()) as u64 / STEP * STEP;
            len = len.min(in_time.max(TRIAL));
        }
    }
    file.sync_all()?;
    Ok(len)
}

/// Xorshift: bytes that no drive packs, and no two blocks alike.
fn fill(block: &mut [u8], state: &mut u64) {
    for word in block.chunks_exact_mut(8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

/// Empties the page cache of the file. The answer says why it could not be emptied.
pub fn chill(path: &Path) -> Result<(), String> {
    let words = |error: io::Error| error.to_string();
    let file = File::open(path).map_err(words)?;
    file.sync_all().map_err(words)?;
    fadvise(&file, 0, None, Advice::DontNeed).map_err(|error| error.to_string())?;
    let len = file.metadata().map_err(words)?.len();
    match cache::resident(&file, 0..len) {
        Ok(left) if left > len / 50 => Err(format!(
            "the page cache keeps {left} of its {len} bytes: it lies in memory or under a layer"
        )),
        // A kernel that does not tell is believed to have done it.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Fills the page cache with the file.
pub fn warm(path: &Path) -> io::Result<()> {
    io::copy(&mut File::open(path)?, &mut io::sink()).map(drop)
}

/// The file's length in bytes.
pub fn len(path: &Path) -> io::Result<u64> {
    fs::metadata(path).map(|metadata| metadata.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_noise_of_the_length_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let told = make(&path, (128 << 20) + 5, Duration::from_secs(60)).unwrap();
        assert_eq!((told, len(&path).unwrap()), (128 << 20, 128 << 20));
        let bytes = fs::read(&path).unwrap();
        assert_ne!(bytes[..BLOCK], bytes[BLOCK..2 * BLOCK]);
        let zeros = bytes.iter().filter(|&&byte| byte == 0).count();
        assert!((400_000..650_000).contains(&zeros), "{zeros} zeros");
    }

    #[test]
    fn no_room_is_said() {
        let directory = tempfile::tempdir().unwrap();
        let refused =
            make(&directory.path().join("f"), 1 << 20, Duration::from_secs(1)).unwrap_err();
        assert!(refused.to_string().contains("needed"), "{refused}");
    }
}
