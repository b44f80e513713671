//! Measures the most important operations in plain Rust, with one, two and four threads:
//! `cargo bench -p proctab_table`.
//!
//! A figure is the time of one operation in one thread. It does not grow with the number of threads
//! if they do not slow each other down and there is a core for each. *Different* is 10,000 names in
//! an order without a pattern; *same* is one name for all threads.

#![deny(missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::fmt::Write;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::LazyLock;
use std::time::Duration;

use common::Nothing;
use divan::{Bencher, Divan};
use papaya::HashMap;
use proctab_table::attributes::{Attribute, Changes};
use proctab_table::commit::Committed;
use proctab_table::datum::{Datum, Kind, View};
use proctab_table::processes::Processes;
use proctab_table::reclaim;
use proctab_table::row::{Child, Claimed, Pid, State};
use proctab_table::value::{Added, Seen, Value};
use proctab_table::zone::Zone;
use proctab_table::Seed;
use Names::{Different, Same};

type Term = Datum<Nothing>;

/// The names that the threads work on.
#[derive(Clone, Copy, Debug)]
enum Names {
    Different,
    Same,
}

const THREADS: [usize; 3] = [1, 2, 4];
const COUNT: u64 = 10_000;
/// Coprime to `COUNT`, so that its multiples reach every name.
const STRIDE: u64 = 7_919;
const COMMITTED: Committed = Committed::new();
const KIND: Kind = Kind::new(3);
const TWENTY_BYTES: &[u8] = b"twenty bytes of text";

static TERMS: LazyLock<Terms> = LazyLock::new(Terms::default);
static ZONE: LazyLock<Zone<Nothing>> = LazyLock::new(zone);

/// Names and keys.
struct Terms {
    names: Vec<Term>,
    integer: Term,
    binary: Term,
}

impl Default for Terms {
    fn default() -> Self {
        Terms {
            names: (0..COUNT).map(|number| name("stream", number)).collect(),
            integer: Datum::bytes(KIND, b"integer"),
            binary: Datum::bytes(KIND, b"binary"),
        }
    }
}

fn name(prefix: &str, number: u64) -> Term {
    let mut name = String::new();
    write!(name, "{prefix}-{number:06}").expect("writing to a string does not fail");
    Datum::bytes(KIND, name.as_bytes())
}

/// Returns a zone whose children have four attributes each.
fn zone() -> Zone<Nothing> {
    let (zone, guard) = (Zone::default(), reclaim::enter());
    for (number, name) in (1..).zip(&TERMS.names) {
        let inserted = zone.insert(name, child(number), &COMMITTED);
        assert_eq!(inserted, Claimed::Done);
        let row = zone
            .entry(name.borrow(), &guard)
            .expect("the name was inserted");
        let attributes = [
            integer(1280),
            fixed(Datum::bytes(KIND, b"atom"), Datum::word(KIND, number)),
            binary(),
            fixed(Datum::bytes(KIND, b"pid"), Datum::word(KIND, number)),
        ];
        assert!(row.set(Changes::from_iter(attributes), &COMMITTED).is_ok());
    }
    zone
}

fn child(number: u64) -> Child<Nothing> {
    Child {
        state: State::Running,
        pid: Some(Pid::Local(number)),
        keeper: number,
        spec: None,
    }
}

fn fixed(key: Term, value: Term) -> Attribute<Nothing> {
    Attribute {
        key,
        value: Value::fixed(value),
    }
}

fn integer(integer: i64) -> Attribute<Nothing> {
    Attribute {
        key: TERMS.integer.clone(),
        value: Value::counter(integer).expect("the integer is small"),
    }
}

fn binary() -> Attribute<Nothing> {
    fixed(TERMS.binary.clone(), Datum::bytes(KIND, TWENTY_BYTES))
}

/// Returns a number that no other call gets.
fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(COUNT);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn pick(names: Names) -> &'static Term {
    match names {
        Different => &TERMS.names[(next() * STRIDE % COUNT) as usize],
        Same => &TERMS.names[0],
    }
}

/// Measures an operation on names of the zone.
fn on_names<T>(bencher: Bencher, names: Names, operation: impl Fn(&'static Term) -> T + Sync) {
    LazyLock::force(&ZONE);
    bencher.with_inputs(|| pick(names)).bench_values(operation);
}

/// Enters and leaves a guard, as each of the operations below does.
#[divan::bench(threads = THREADS)]
fn guard() {
    let _guard = reclaim::enter();
}

/// Finds a table by a word, in a map like that in which an embedder keeps its tables.
#[divan::bench(threads = THREADS)]
fn table(bencher: Bencher) {
    let tables: HashMap<u64, u64, Seed> = HashMap::builder()
        .hasher(Seed::default())
        .shared_collector(reclaim::collector())
        .build();
    let guard = reclaim::enter();
    for number in 0..8 {
        tables.insert(number, number, &guard);
    }
    drop(guard);
    bencher.bench(|| {
        let guard = reclaim::enter();
        tables.get(&black_box(5), &guard).copied()
    });
    // A map that is dropped would free what others may be reading.
    std::mem::forget(tables);
}

#[divan::bench(args = [Different, Same], threads = THREADS)]
fn find(bencher: Bencher, names: Names) {
    on_names(bencher, names, |name| {
        let guard = reclaim::enter();
        let row = ZONE.entry(name.borrow(), &guard);
        row.and_then(|row| row.pid())
    });
}

#[divan::bench(args = [Different, Same], threads = THREADS)]
fn getattr_integer(bencher: Bencher, names: Names) {
    on_names(bencher, names, |name| {
        let guard = reclaim::enter();
        let attributes = ZONE.entry(name.borrow(), &guard)?.attributes()?;
        let value = attributes.get(TERMS.integer.borrow())?;
        value.seen().counted()
    });
}

#[divan::bench(args = [Different, Same], threads = THREADS)]
fn getattr_binary(bencher: Bencher, names: Names) {
    on_names(bencher, names, |name| {
        let guard = reclaim::enter();
        let attributes = ZONE.entry(name.borrow(), &guard)?.attributes()?;
        let value = attributes.get(TERMS.binary.borrow())?;
        match value.seen() {
            Seen::Fixed(View::Bytes(_, bytes)) => Some(bytes.len()),
            _ => None,
        }
    });
}

#[divan::bench(args = [Different, Same], threads = THREADS)]
fn increment(bencher: Bencher, names: Names) {
    on_names(bencher, names, |name| {
        let guard = reclaim::enter();
        let row = ZONE.entry(name.borrow(), &guard);
        row.map_or(Added::Missing, |row| {
            row.add(TERMS.integer.borrow(), 1, &COMMITTED)
        })
    });
}

/// Replaces an integer by another one.
#[divan::bench(args = [Different, Same], threads = THREADS)]
fn setattr_in_place(bencher: Bencher, names: Names) {
    on_names(bencher, names, |name| set(name, integer(1000)));
}

/// Replaces any other value, which makes a new map.
#[divan::bench(args = [Different, Same], threads = THREADS)]
fn setattr_binary(bencher: Bencher, names: Names) {
    on_names(bencher, names, |name| set(name, binary()));
}

fn set(name: &Term, attribute: Attribute<Nothing>) {
    let guard = reclaim::enter();
    let row = ZONE
        .entry(name.borrow(), &guard)
        .expect("the name is never removed");
    assert!(row.set(Changes::from_iter([attribute]), &COMMITTED).is_ok());
}

/// Adds a child and removes it. With one name for all threads, most find it held.
#[divan::bench(args = [Different, Same], threads = THREADS)]
fn insert_and_remove(bencher: Bencher, names: Names) {
    LazyLock::force(&ZONE);
    let pick = || match names {
        Different => (next(), name("guest", next())),
        Same => (next(), name("guest", 0)),
    };
    bencher.with_inputs(pick).bench_values(|(number, name)| {
        let guard = reclaim::enter();
        if ZONE.insert(&name, child(number), &COMMITTED) == Claimed::Done {
            assert!(ZONE.remove(name.borrow(), number, &guard, &COMMITTED));
        }
    });
}

/// Reads a page, of at most 128 rows.
#[divan::bench(threads = THREADS)]
fn page(bencher: Bencher) {
    LazyLock::force(&ZONE);
    bencher.bench(|| ZONE.page(0));
}

/// Begins to register a process under a name, and fails.
#[divan::bench(args = [Different, Same], threads = THREADS)]
fn begin_and_fail(bencher: Bencher, names: Names) {
    let processes: Processes<Nothing> = Processes::default();
    // A process that nobody monitors is removed at once.
    let pick = || (Datum::bytes(KIND, &next().to_ne_bytes()), pick(names));
    bencher.with_inputs(pick).bench_values(|(pid, name)| {
        let begun = processes.begin(&pid, name, 1, |_| Ok::<_, ()>(COMMITTED));
        (begun, processes.fail(&pid, name, 1, &COMMITTED))
    });
}

/// Registers a process under a name, and cleans up after its death.
#[divan::bench(args = [Different, Same])]
fn register_and_clean_up(bencher: Bencher, names: Names) {
    const REAPER: u64 = 0;
    const CLEANER: u64 = 1;
    const HOUR: Duration = Duration::from_secs(3600);
    let processes: Processes<Nothing> = Processes::default();
    let pick = || (Datum::word(KIND, next()), pick(names));
    bencher.with_inputs(pick).bench_values(|(pid, name)| {
        let registered = processes.register(&pid, name, |_| Ok::<_, ()>(COMMITTED));
        let wakes = processes.deaths().add(pid, &COMMITTED);
        let reaped = processes.reap(1, |_| true, &COMMITTED);
        processes.take_cleanups(REAPER, CLEANER, HOUR, &COMMITTED);
        assert!(processes.cleaned(CLEANER, &COMMITTED));
        (registered, wakes, reaped)
    });
}

fn main() {
    // The same size of samples also if the first call is slow.
    Divan::default()
        .sample_size(1_000)
        .config_with_args()
        .main();
}
