//! Loads that go wrong, and machines that lack something: the error names the file, the offset and
//! the remedy, and says which bytes are valid; what can be done in another way is done and said.

mod support;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bufmap::load::Load;
use bufmap::storage::file::SourceFile;
use bufmap::transfer::{Around, DataPath, Options, Request, TransferError};
use seccompiler::{SeccompAction, SeccompFilter};
use support::*;

const MIB: usize = 1 << 20;

fn main() -> ExitCode {
    if let Some(test) = std::env::var_os(RESTRICTED) {
        restricted(&test.to_string_lossy());
        return ExitCode::SUCCESS;
    }
    let anywhere = |name: &str, test: fn(())| trial(name, Ok(()), test);
    let as_root = |name: &str, test: fn(())| trial(name, root(), test);
    let trials = vec![
        anywhere("a_file_that_shrank_before_it_is_read", |()| shrunk_before()),
        anywhere("a_file_that_shrinks_while_it_is_read", |()| shrinks_while_read()),
        anywhere("a_load_that_is_stopped", |()| stopped()),
        anywhere("a_file_that_cannot_be_opened", |()| unopenable()),
        anywhere("without_io_uring_threads_read_directly", |()| in_child("no_io_uring")),
        anywhere("an_io_uring_that_is_refused_has_its_remedy", |()| {
            for code in ["EPERM", "ENOSYS", "ENOMEM", "EMFILE", "ENFILE"] {
                in_child(&format!("no_io_uring_{code}"));
            }
        }),
        anywhere("an_io_uring_that_takes_no_read_is_an_error", |()| in_child("no_ring_enter")),
        anywhere("an_io_uring_that_is_put_off_for_ever_is_given_up", |()| in_child("ring_put_off")),
        anywhere("without_another_thread_the_caller_does_it", |()| in_child("no_thread")),
        anywhere("without_another_thread_a_load_can_be_stopped", |()| {
            in_child("no_thread_stopped")
        }),
        anywhere("a_read_that_is_put_off_for_ever_can_be_stopped", |()| in_child("put_off")),
        anywhere("without_memory_there_is_an_error", |()| in_child("no_memory")),
        anywhere("without_descriptors_the_page_cache_is_read", |()| in_child("no_descriptor")),
        anywhere("little_locked_memory_is_said", |()| in_child("little_locked_memory")),
        as_root("an_error_of_the_drive_in_the_middle", |()| drive_error()),
        as_root("a_file_system_without_o_direct", |()| squashfs()),
        as_root("writes_within_one_step_of_the_clock", |()| one_step_of_the_clock()),
        as_root("with_one_more_thread_it_does_it", |()| in_child("one_more_thread")),
        as_root("a_file_of_somebody_else", |()| in_child("somebody_else")),
    ];
    support::run(trials)
}

/// Runs one of the [`restricted`] tests in a process of its own.
fn restricted(test: &str) {
    match test {
        "no_io_uring" | "no_io_uring_EPERM" => no_io_uring(libc::EPERM, "io_uring_disabled"),
        "no_io_uring_ENOSYS" => no_io_uring(libc::ENOSYS, "Linux 5.1"),
        "no_io_uring_ENOMEM" => no_io_uring(libc::ENOMEM, "ulimit -l"),
        "no_io_uring_EMFILE" => no_io_uring(libc::EMFILE, "ulimit -n"),
        "no_io_uring_ENFILE" => no_io_uring(libc::ENFILE, "fs.file-max"),
        "no_thread" => no_thread(),
        "one_more_thread" => one_more_thread(),
        "no_thread_stopped" => no_thread_stopped(),
        "put_off" => put_off(),
        "no_ring_enter" => no_ring_enter(libc::EPERM, Duration::ZERO),
        "ring_put_off" => no_ring_enter(libc::EAGAIN, Duration::from_secs(10)),
        "no_memory" => no_memory(),
        "no_descriptor" => no_descriptor(),
        "little_locked_memory" => little_locked_memory(),
        "somebody_else" => somebody_else(),
        _ => panic!("no such test: {test}"),
    }
}

fn whole(source: &SourceFile) -> [Request; 1] {
    [Request::new(0, 0, source.len(), 0)]
}

fn by(path: DataPath) -> Options {
    Options { require: Some(path), ..Options::default() }
}

fn shrunk_before() {
    for path in [DataPath::Direct, DataPath::Buffered] {
        let file = file_of(8 * MIB);
        let source = source(file.path());
        file.as_file().set_len(3 * MIB as u64 + 100).expect("a shorter file");
        let memory = memory_of(8 * MIB);
        let error = load(&source, &whole(&source), Around::Untouched, &memory, by(path))
            .expect_err("too short");
        let text = error.to_string();
        let TransferError::Shrank { at, file_len, valid, .. } = error else { panic!("{text}") };
        assert_eq!((at, file_len), (3 * MIB as u64 + 100, 8 << 20), "{path}");
        assert!(text.contains(&*file.path().to_string_lossy()), "{text}");
        let found = contents(&memory);
        for range in valid.ranges() {
            let range = range.start as usize..range.end as usize;
            assert_same(&found[range.clone()], &bytes_of(8 * MIB)[range]);
        }
    }
}

fn shrinks_while_read() {
    let file = file_of(64 * MIB);
    let source = source(file.path());
    let memory = memory_of(64 * MIB);
    let mut shrunk = false;
    let error = Load {
        files: std::slice::from_ref(&source),
        requests: &whole(&source),
        around: Around::Untouched,
        destination: &memory,
        options: Options { depth: 1, block: 65536, ..by(DataPath::Direct) },
        stop: &AtomicBool::new(false),
    }
    .run(&mut |_| {
        if !shrunk {
            shrunk = true;
            file.as_file().set_len(MIB as u64 * 40).expect("a shorter file");
        }
    })
    .expect_err("it shrank");
    let TransferError::Shrank { at, valid, .. } = &error else { panic!("{error}") };
    assert_eq!(*at, 40 << 20);
    assert_eq!(valid.ranges(), std::slice::from_ref(&(0..40 << 20)), "{valid}");
}

fn stopped() {
    let file = file_of(64 * MIB);
    let source = source(file.path());
    let memory = memory_of(64 * MIB);
    let stop = AtomicBool::new(false);
    let error = Load {
        files: std::slice::from_ref(&source),
        requests: &whole(&source),
        around: Around::Untouched,
        destination: &memory,
        options: Options { depth: 1, block: 4096, ..by(DataPath::Direct) },
        stop: &stop,
    }
    .run(&mut |progress| stop.store(progress.done > 0, Ordering::Relaxed))
    .expect_err("it was stopped");
    let TransferError::Stopped { valid } = &error else { panic!("{error}") };
    assert!(valid.bytes() > 0 && valid.bytes() < valid.wanted(), "{valid}");
    let found = contents(&memory);
    let range = 0..valid.ranges()[0].end as usize;
    assert_same(&found[range.clone()], &bytes_of(64 * MIB)[range]);
}

fn unopenable() {
    let kind = |path: &str| SourceFile::open(path).expect_err("no file").kind();
    assert_eq!(kind("/no/such/file"), io::ErrorKind::NotFound);
    assert_eq!(kind("/tmp"), io::ErrorKind::IsADirectory);
    assert_eq!(kind("/dev/null"), io::ErrorKind::InvalidInput);
}

/// Has system calls refused in all threads of this process.
fn refuse(calls: &[i64], code: i32) {
    let rules: BTreeMap<_, _> = calls.iter().map(|&call| (call, vec![])).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(code as u32),
        std::env::consts::ARCH.try_into().expect("a known architecture"),
    )
    .expect("a filter");
    let program: seccompiler::BpfProgram = filter.try_into().expect("a program");
    seccompiler::apply_filter_all_threads(&program).expect("seccomp");
}

/// As container engines do it by default with EPERM.
fn no_io_uring(code: i32, words: &str) {
    refuse(&[libc::SYS_io_uring_setup], code);
    let file = file_of(8 * MIB + 11);
    drop_cache(file.as_file());
    let source = source(file.path());
    let memory = memory_of(8 * MIB + 11);
    let receipt = load(&source, &whole(&source), Around::Untouched, &memory, Options::default())
        .expect("a load by threads");
    assert_eq!(receipt.paths[0].path, DataPath::Direct);
    assert!(receipt.engine.contains("io_uring cannot be set up"), "{}", receipt.engine);
    assert!(receipt.engine.contains(words), "{}", receipt.engine);
    assert_same(&contents(&memory)[..8 * MIB + 11], &bytes_of(8 * MIB + 11));
}

/// As a user's limit on processes or a container's does.
fn no_more_threads() {
    refuse(&[libc::SYS_clone, libc::SYS_clone3], libc::EAGAIN);
}

fn no_thread() {
    const LEN: usize = 8 * MIB + 11;
    no_more_threads();
    for path in [DataPath::Direct, DataPath::Buffered] {
        let file = file_of(LEN);
        let (source, memory) = (source(file.path()), memory_of(LEN));
        let receipt = load(&source, &whole(&source), Around::Untouched, &memory, by(path));
        let receipt = receipt.expect("a load by the caller's thread");
        let said = receipt.engine;
        assert!(said.contains("the caller's thread") && said.contains("ulimit -u"), "{said}");
        assert_same(&contents(&memory)[..LEN], &bytes_of(LEN));
    }
}

/// Without io_uring many threads read: here all but one are refused.
fn one_more_thread() {
    const LEN: usize = 8 * MIB + 11;
    let file = file_of(LEN);
    drop_cache(file.as_file());
    std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644)).expect("a mode");
    let (source, memory) = (source(file.path()), memory_of(LEN));
    refuse(&[libc::SYS_io_uring_setup], libc::EPERM);
    // A user who has no other thread.
    let user = rustix::process::Uid::from_raw(20_000 + std::process::id() % 40_000);
    rustix::thread::set_thread_res_uid(user, user, rustix::process::Uid::ROOT).expect("a user");
    let most = rustix::process::Rlimit { current: Some(2), maximum: Some(2) };
    rustix::process::setrlimit(rustix::process::Resource::Nproc, most).expect("a limit");
    let receipt = load(&source, &whole(&source), Around::Untouched, &memory, by(DataPath::Direct))
        .expect("a load by one thread");
    assert_same(&contents(&memory)[..LEN], &bytes_of(LEN));
    let said = receipt.engine;
    assert!(said.starts_with("1 thread (no more can be started"), "{said}");
    let root = rustix::process::Uid::ROOT;
    rustix::thread::set_thread_res_uid(root, root, root).expect("root again");
}

fn no_thread_stopped() {
    no_more_threads();
    let file = file_of(8 * MIB);
    let (source, memory) = (source(file.path()), memory_of(8 * MIB));
    let error = Load {
        files: std::slice::from_ref(&source),
        requests: &whole(&source),
        around: Around::Untouched,
        destination: &memory,
        options: by(DataPath::Direct),
        stop: &AtomicBool::new(true),
    }
    .run(&mut |_| ())
    .expect_err("it was stopped");
    assert!(matches!(error, TransferError::Stopped { .. }), "{error}");
}

/// A ring is set up, and nothing can be done with it.
fn no_ring_enter(code: i32, tried_for: Duration) {
    let file = file_of(8 * MIB);
    let (source, memory) = (source(file.path()), memory_of(8 * MIB));
    refuse(&[libc::SYS_io_uring_enter], code);
    let (begun, processor) = (Instant::now(), processor_time());
    let error = load(&source, &whole(&source), Around::Untouched, &memory, by(DataPath::Direct))
        .expect_err("no read is taken");
    let (took, spent) = (begun.elapsed(), processor_time() - processor);
    let TransferError::Engine { source, valid, .. } = &error else { panic!("{error}") };
    assert_eq!((source.raw_os_error(), valid.bytes()), (Some(code), 0), "{error}");
    assert!(took >= tried_for && took < tried_for + Duration::from_secs(3), "{took:?}");
    assert!(spent < Duration::from_secs(1), "it was asked without a pause: {spent:?}");
}

/// A kernel that puts every read off is not asked without a pause, and a load of it can be stopped.
fn put_off() {
    let file = file_of(8 * MIB);
    let (source, memory) = (source(file.path()), memory_of(8 * MIB));
    refuse(&[libc::SYS_pread64], libc::EAGAIN);
    let stop = AtomicBool::new(false);
    let (begun, processor) = (Instant::now(), processor_time());
    let (mut asked, mut waited_for) = (None, None);
    let error = Load {
        files: std::slice::from_ref(&source),
        requests: &whole(&source),
        around: Around::Untouched,
        destination: &memory,
        options: by(DataPath::Buffered),
        stop: &stop,
    }
    .run(&mut |progress| {
        waited_for = waited_for.or(progress.pending);
        if begun.elapsed() > Duration::from_millis(500) {
            asked.get_or_insert_with(Instant::now);
            stop.store(true, Ordering::Relaxed);
        }
    })
    .expect_err("it was stopped");
    assert!(matches!(error, TransferError::Stopped { .. }), "{error}");
    let late = asked.expect("it was told what is waited for").elapsed();
    assert!(late < Duration::from_millis(300), "{late:?}");
    let waited_for = waited_for.expect("a read that is waited for");
    assert_eq!(waited_for.file, 0);
    assert!(waited_for.offset < 8 << 20, "{}", waited_for.offset);
    let spent = processor_time() - processor;
    assert!(spent < Duration::from_millis(200), "it was asked without a pause: {spent:?}");
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn no_memory() {
    let limit = rustix::process::Rlimit { current: Some(1 << 30), maximum: Some(1 << 30) };
    rustix::process::setrlimit(rustix::process::Resource::As, limit).expect("a limit");
    let error = bufmap::load::Target::memory(1 << 30).expect_err("more than the limit");
    let text = error.to_string();
    assert!(text.contains("mmap of 1073741824 bytes"), "{text}");
    assert!(text.contains("ulimit -v"), "{text}");
    let limit = rustix::process::Rlimit { current: Some(3), maximum: Some(3) };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a limit");
    let error = iomap::Memory::memfd("files", 4096, iomap::PageSize::Base).expect_err("no file");
    assert!(error.to_string().contains("ulimit -n"), "{error}");
}

/// At the limit on open files, what is open is loaded all the same, and the limit is named.
fn no_descriptor() {
    let file = file_of(MIB);
    let source = source(file.path());
    let next = std::fs::File::open("/proc/self/status").expect("a descriptor");
    let current = Some(std::os::fd::AsRawFd::as_raw_fd(&next) as u64);
    drop(next);
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = rustix::process::Rlimit { current, maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("a limit");
    let memory = memory_of(MIB);
    drop_cache(file.as_file());
    let receipt = load(&source, &whole(&source), Around::Untouched, &memory, Options::default())
        .expect("a load by a slower path");
    assert_eq!(receipt.paths[0].path, DataPath::Buffered);
    let step_down = &receipt.step_downs[0];
    assert_eq!(step_down.path, DataPath::Direct);
    assert!(step_down.why.contains("`ulimit -n`"), "{}", step_down.why);
    assert_same(&contents(&memory), &bytes_of(MIB));
    let direct = load(&source, &whole(&source), Around::Untouched, &memory, by(DataPath::Direct));
    let text = direct.expect_err("no descriptor").to_string();
    assert!(text.contains("required") && text.contains("`ulimit -n`"), "{text}");
    bufmap::storage::file::open_files::raise_limit().expect("the hard limit");
    load(&source, &whole(&source), Around::Untouched, &memory, by(DataPath::Direct))
        .expect("a load");
}

/// An ordinary user with 64 KiB of locked memory: the ring goes unregistered and says so.
fn little_locked_memory() {
    let limit = rustix::process::Rlimit { current: Some(65536), maximum: Some(65536) };
    rustix::process::setrlimit(rustix::process::Resource::Memlock, limit).expect("a limit");
    let file = file_of(8 * MIB);
    become_nobody_if_root(file.path());
    let source = source(file.path());
    let memory = memory_of(8 * MIB);
    let receipt = load(&source, &whole(&source), Around::Untouched, &memory, by(DataPath::Direct))
        .expect("a load");
    assert!(receipt.engine.contains("RLIMIT_MEMLOCK"), "{}", receipt.engine);
    assert_same(&contents(&memory), &bytes_of(8 * MIB));
    std::process::exit(0); // Nobody may not remove the file; the parent's clean-up is the tree's.
}

fn become_nobody_if_root(readable: &Path) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::fs::set_permissions(readable, PermissionsExt::from_mode(0o644)).expect("a mode");
    let nobody = rustix::process::Uid::from_raw(65534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("another user");
}

fn somebody_else() {
    let file = file_of(100);
    let path: PathBuf = file.path().into();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a mode");
    let nobody = rustix::process::Uid::from_raw(65534);
    rustix::thread::set_thread_res_uid(nobody, nobody, nobody).expect("another user");
    let error = SourceFile::open(&path).expect_err("not ours");
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    let error = TransferError::Open { path, source: error };
    assert!(error.to_string().contains("the right to read"), "{error}");
    let root = rustix::process::Uid::ROOT;
    let _ = rustix::thread::set_thread_res_uid(root, root, root);
}

/// Runs a command that must succeed, and returns what it printed.
fn sh(command: &str, args: &[&str]) -> String {
    let done = Command::new(command).args(args).output().expect(command);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command} {args:?}: {said}");
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

/// Undoes a set-up when the test ends, however it ends.
struct Undo(&'static str, Vec<String>);

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = Command::new(self.0).args(&self.1).status();
    }
}

/// A loop device whose file was cut short: its drive fails from there on.
fn drive_error() {
    let file = file_of(16 * MIB);
    let path = file.path().to_string_lossy().into_owned();
    let device = sh("losetup", &["--find", "--show", "--direct-io=on", &path]);
    let _undo = Undo("losetup", vec!["--detach".into(), device.clone()]);
    let source = source(Path::new(&device));
    assert_eq!(source.len(), 16 << 20);
    file.as_file().set_len(10 << 20).expect("a shorter file");
    let memory = memory_of(16 * MIB);
    let options = Options { depth: 1, ..by(DataPath::Direct) };
    let error = load(&source, &whole(&source), Around::Untouched, &memory, options)
        .expect_err("the drive fails");
    let text = error.to_string();
    let TransferError::Read { path, offset, source, valid } = error else { panic!("{text}") };
    assert_eq!(source.raw_os_error(), Some(libc::EIO), "{text}");
    assert_eq!((path, offset), (PathBuf::from(device), 10 << 20));
    assert_eq!(valid.ranges(), std::slice::from_ref(&(0..10 << 20)));
    assert_same(&contents(&memory)[..10 * MIB], &bytes_of(16 * MIB)[..10 * MIB]);
    assert!(text.contains("dmesg"), "{text}");
}

/// On a ramfs, all that is written within some milliseconds has one time.
fn one_step_of_the_clock() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mount = directory.path().to_string_lossy().into_owned();
    sh("mount", &["-t", "ramfs", "ramfs", &mount]);
    let _undo = Undo("umount", vec![mount]);
    let path = directory.path().join("file");
    let memory = memory_of(8192);
    for round in 0..20 {
        std::fs::write(&path, bytes_of(8192)).expect("a file");
        let source = source(&path);
        let writer = std::fs::File::options().write(true).open(&path).expect("the file");
        std::os::unix::fs::FileExt::write_all_at(&writer, b"new", 8000).expect("a write");
        let loaded = load(&source, &whole(&source), Around::Untouched, &memory, Options::default());
        let error = loaded.expect_err("it was written to after it was opened");
        assert!(matches!(error, TransferError::Changed { .. }), "round {round}: {error}");
    }
}

fn squashfs() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let at = |name: &str| directory.path().join(name).to_string_lossy().into_owned();
    std::fs::create_dir(at("tree")).expect("a directory");
    std::fs::create_dir(at("mount")).expect("a directory");
    std::fs::write(at("tree/file"), bytes_of(3 * MIB + 7)).expect("a file");
    sh("mksquashfs", &[&at("tree"), &at("image"), "-quiet", "-no-progress"]);
    sh("mount", &["-o", "loop,ro", &at("image"), &at("mount")]);
    let _undo = Undo("umount", vec![at("mount")]);
    let source = source(Path::new(&at("mount/file")));
    let memory = memory_of(3 * MIB + 7);
    let receipt = load(&source, &whole(&source), Around::Untouched, &memory, Options::default())
        .expect("a load by a slower path");
    assert_same(&contents(&memory)[..3 * MIB + 7], &bytes_of(3 * MIB + 7));
    assert_eq!(receipt.paths[0].path, DataPath::Buffered);
    let step_down = &receipt.step_downs[0];
    assert_eq!((step_down.path, step_down.bytes), (DataPath::Direct, receipt.bytes));
    assert!(step_down.why.contains("O_DIRECT"), "{}", step_down.why);
    let required = load(&source, &whole(&source), Around::Untouched, &memory, by(DataPath::Direct));
    let text = required.expect_err("no O_DIRECT").to_string();
    assert!(text.contains("required") && text.contains("O_DIRECT"), "{text}");
}
