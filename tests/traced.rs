//! What a program with a subscriber of `tracing` is told of a load, of a save and of a loader's requests.

mod support;

use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bufmap::engine::{Buffer, Loader, Request};
use bufmap::load::Load;
use bufmap::save::{Save, To};
use bufmap::transfer::{self, Around, DataPath, Options};
use support::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes down spans and events as they come.
#[derive(Clone, Default)]
struct Listener {
    lines: Arc<Mutex<Vec<String>>>,
    spans: Arc<AtomicU64>,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "bufmap"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.spans.fetch_add(1, Ordering::Relaxed) + 1;
        let mut line = Line(format!("span {}", span.metadata().name()));
        span.record(&mut line);
        self.lines.lock().expect("no panic").push(line.0);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(format!("event in {:?}", event.parent().map(Id::into_u64)));
        event.record(&mut line);
        self.lines.lock().expect("no panic").push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn requests_loads_and_saves_are_spans_with_their_ends() {
    let listener = Listener::default();
    tracing::subscriber::set_global_default(listener.clone()).expect("the first");
    let taken = || std::mem::take(&mut *listener.lines.lock().expect("no panic"));
    let has = |lines: &[String], words: &[&str]| {
        let found = lines.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "{words:?} in {lines:#?}");
    };
    let file = file_of(100_000);
    drop_cache(file.as_file());

    let loader = Loader::new().expect("a loader");
    let memory = Arc::new(memory_of(100_000));
    let buffer = Buffer::new(memory.clone()).expect("memory");
    let open = loader.open(file.path()).expect("the file");
    let request = Request::new(&open, 3..90_000, &buffer, 0).tag(77);
    loader.submit(request.require(DataPath::Direct)).expect("a plan").wait().expect("its bytes");
    loader.load(Request::new(&open, 0..4096, &buffer, 0).tag(78)).expect("its bytes");
    drop(loader);
    let lines = taken();
    has(&lines, &["span request", "tag=77", "bytes=89997", "Normal"]);
    has(&lines, &["event in Some(1)", "bytes=89997", "done"]);
    has(&lines, &["span request", "tag=78", "bytes=4096"]);
    has(&lines, &["event in Some(2)", "bytes=4096", "done"]);

    // From the page cache: a step down, with its reason.
    fill_cache(file.path());
    let load = |len: u64| {
        Load {
            files: &[source(file.path())],
            requests: &[transfer::Request::new(0, 0, len, 0)],
            around: Around::Untouched,
            destination: &*memory,
            options: Options::default(),
            stop: &AtomicBool::new(len == 1),
        }
        .run(&mut |_| {})
    };
    load(100_000).expect("a load");
    let lines = taken();
    has(&lines, &["span load", "files=1", "requests=1"]);
    has(&lines, &["event in Some(3)", "path=direct", "stepped down: the bytes already sit"]);
    has(&lines, &["event in Some(3)", "bytes=100000", "done"]);
    load(1).expect_err("it is stopped");
    has(&taken(), &["event in Some(4)", "message=", "0 of 1 bytes are valid"]);

    let path = file.path().with_extension("saved");
    let save = Save {
        source: &*memory,
        to: To::NewFile(&path),
        requests: &[transfer::Request::new(0, 0, 100_000, 0)],
        options: Options::default(),
        stop: &AtomicBool::new(false),
    };
    save.run(&mut |_| {}).expect("a save");
    std::fs::remove_file(&path).expect("the file");
    let lines = taken();
    has(&lines, &["span save", "requests=1"]);
    has(&lines, &["event in Some(5)", "bytes=100000", "done"]);
}
