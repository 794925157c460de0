use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use hopseal_custody::authority::Authority;
use hopseal_custody::compose::{Call, Root, root_payload};
use hopseal_custody::hash::{ClaimHash, RandomId};
use hopseal_custody::ids::SpiffeId;
use hopseal_custody::record::{Record, Task};
use hopseal_custody::statement::StatementClaims as _;

use super::super::entry::{Claims, Direction};
use super::super::handle::{Log, Patience};
use super::super::health::LogObserver;
use super::super::line::ReadLine;
use super::super::sealing::{SealRequest, Sealed, Sealer};
use super::*;

#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    full: bool,
    writes: usize,
    roll_due: bool,
    roll_fails: bool,
}

/// Memory that can be full, and that is slow while `held_up` is set, so that batches gather.
#[derive(Clone, Default)]
struct Memory {
    disk: Arc<Mutex<Disk>>,
    held_up: Arc<AtomicBool>,
    arrived: Arc<AtomicBool>,
}

impl Store for Memory {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        self.arrived.store(true, Ordering::SeqCst);
        while self.held_up.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let mut disk = self.disk.lock().unwrap();
        if disk.full {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        disk.writes += 1;
        disk.bytes.extend_from_slice(lines);
        Ok(())
    }

    fn probe(&mut self) -> io::Result<()> {
        if self.disk.lock().unwrap().full { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn is_full(&self) -> bool {
        self.disk.lock().unwrap().roll_due
    }

    fn roll(&mut self, _next_n: u64) -> io::Result<()> {
        let mut disk = self.disk.lock().unwrap();
        if disk.roll_fails {
            return Err(io::Error::other("no name"));
        }
        disk.roll_due = false;
        Ok(())
    }
}

impl Memory {
    fn lines(&self) -> Vec<ReadLine> {
        let disk = self.disk.lock().unwrap();
        disk.bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| ReadLine::parse(line).unwrap())
            .collect()
    }
}

#[derive(Default)]
struct Watch {
    news: Mutex<Vec<String>>,
    seals: Mutex<Vec<(usize, usize)>>,
}

impl LogObserver for Watch {
    fn failed(&self, _detail: &str) {
        self.news.lock().unwrap().push("failed".into());
    }
    fn recovered(&self) {
        self.news.lock().unwrap().push("recovered".into());
    }
    fn roll_failed(&self, _detail: &str) {
        self.news.lock().unwrap().push("roll failed".into());
    }
    fn wrote(&self, entries: usize, seals: usize, _bytes: usize, _took: Duration) {
        self.seals.lock().unwrap().push((entries, seals));
    }
}

struct Key {
    x5t: String,
    certificates: Vec<(String, String)>,
    refuse: Option<&'static str>,
}

impl Key {
    fn named(x5t: &str) -> Arc<Self> {
        Arc::new(Self { x5t: x5t.into(), certificates: vec![(x5t.into(), "der".into())], refuse: None })
    }
}

impl Sealer for Key {
    fn x5t(&self) -> &str {
        &self.x5t
    }
    fn seal(&self, payloads: &[Payload], _now_s: i64) -> Result<Vec<String>, &'static str> {
        match self.refuse {
            Some(code) => Err(code),
            None => Ok(payloads.iter().map(|payload| format!("{}+{}", op_of(payload), payloads.len())).collect()),
        }
    }
    fn certificates(&self) -> &[(String, String)] {
        &self.certificates
    }
}

/// A valid root whose `op` is `name`, to tell payloads apart.
fn payload_named(name: &str) -> Payload {
    let iss = SpiffeId::parse("spiffe://td/a").unwrap();
    let call = Call {
        iss: &iss,
        aud: "spiffe://td/b",
        iat: 1,
        exp: 2,
        jti: RandomId::generate().unwrap(),
        rqb: ClaimHash([0; 32]),
        streams: false,
        operations: &[],
        srv: None,
        by: None,
        op: Some(name),
        inputs: &[],
        approvals: &[],
        rr: false,
        tid: None,
    };
    let auth = Authority { scope: None, exp: 9, hops: 1, aud: None, ops: None };
    let task = Task::named("t").unwrap();
    root_payload(&call, &Root { cid: RandomId::generate().unwrap(), task, auth, cont: None, user: None }).unwrap()
}

fn op_of(payload: &Payload) -> String {
    let claims = hopseal_custody::hash::decode_base64url(payload.text()).unwrap();
    Record::parse(&claims).unwrap().op.unwrap()
}

fn request(leaf: &Arc<Key>, payload: &str, receiver: &str) -> SealRequest {
    SealRequest {
        leaf: Arc::<Key>::clone(leaf),
        payload: payload_named(payload),
        receiver_trust_domain: receiver.into(),
        claims: Sealed::Record(Claims {
            iss: "i".into(),
            aud: "a".into(),
            jti: payload.into(),
            exp: 1,
            cid: "c".into(),
            hop: 0,
            op: None,
            args_hash: None,
        }),
    }
}

fn start(memory: &Memory) -> (Log, Arc<Watch>) {
    start_with(memory, Patience { queue: 1024, full: Duration::ZERO, witness: None })
}

fn start_with(memory: &Memory, patience: Patience) -> (Log, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let beginning = Beginning { node: "n".into(), ..Beginning::default() };
    let (log, _thread) =
        Log::start(Box::new(memory.clone()), beginning, patience, Arc::<Watch>::clone(&watch)).unwrap();
    (log, watch)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn what_gathers_during_a_write_shares_the_next_seal_per_leaf_and_trust_domain() {
    let memory = Memory::default();
    let (log, watch) = start(&memory);
    let (one, two) = (Key::named("one"), Key::named("two"));
    runtime().block_on(async {
        memory.held_up.store(true, Ordering::SeqCst);
        let first = tokio::spawn({
            let (log, request) = (log.clone(), request(&one, "first", "td"));
            async move { log.seal(request).await }
        });
        while !memory.arrived.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        let mut waiting = Vec::new();
        for n in 0..40 {
            waiting.push((one.clone(), format!("a{n}"), "td"));
        }
        waiting.push((two.clone(), "b".into(), "td"));
        waiting.push((one.clone(), "c".into(), "other"));
        let calls: Vec<_> = waiting
            .into_iter()
            .map(|(key, payload, td)| {
                let (log, request) = (log.clone(), request(&key, &payload, td));
                tokio::spawn(async move { log.seal(request).await.unwrap() })
            })
            .collect();
        tokio::task::yield_now().await;
        memory.held_up.store(false, Ordering::SeqCst);
        assert_eq!(first.await.unwrap().unwrap(), "first+1");
        let mut sealed = Vec::new();
        for call in calls {
            sealed.push(call.await.unwrap());
        }
        assert_eq!(sealed.iter().filter(|text| text.ends_with("+32")).count(), 32);
        assert_eq!(sealed.iter().filter(|text| text.ends_with("+8")).count(), 8);
        assert_eq!(sealed[40..], ["b+1", "c+1"]);
    });
    assert_eq!(watch.seals.lock().unwrap().last(), Some(&(43, 4)));
    let certificates: Vec<_> = memory.lines().into_iter().filter_map(|line| line.x5t).collect();
    assert_eq!(certificates, ["one", "two"]);
}

#[test]
fn a_full_disk_fails_the_calls_and_recovers_by_itself_without_a_gap() {
    let memory = Memory::default();
    let (log, watch) = start(&memory);
    let key = Key::named("one");
    runtime().block_on(async {
        log.seal(request(&key, "one", "td")).await.unwrap();
        memory.disk.lock().unwrap().full = true;
        assert!(matches!(log.seal(request(&key, "two", "td")).await, Err(LogError::Unavailable(_))));
        log.append_nowait(Entry::Bundle { trust_domain: "td".into(), sequence: 1, x509: Vec::new() }, Vec::new())
            .unwrap();
        assert!(!log.is_healthy());
        memory.disk.lock().unwrap().full = false;
        while !log.is_healthy() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        log.seal(request(&key, "three", "td")).await.unwrap();
    });
    let lines = memory.lines();
    assert_eq!(lines.iter().map(|line| line.n).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(lines.iter().map(|line| line.r#type.as_str()).collect::<Vec<_>>(), ["cert", "rec", "bundle", "rec"]);
    assert_eq!(*watch.news.lock().unwrap(), ["failed", "recovered"]);
}

/// A component's answer leaves once its receipt is durable: the copy of its record, which nobody waits for, must be too.
#[test]
fn no_copy_of_a_record_is_lost_in_a_write_that_fails() {
    let memory = Memory::default();
    let (log, _watch) = start_with(&memory, Patience { queue: 4096, full: Duration::ZERO, witness: None });
    let copies = MAX_UNWRITTEN + 200;
    runtime().block_on(async {
        memory.disk.lock().unwrap().full = true;
        for n in 0..copies {
            log.append_nowait(super::super::samples::received(&format!("j{n}"), 9), Vec::new()).unwrap();
        }
        assert!(log.seal(request(&Key::named("one"), "one", "td")).await.is_err());
        memory.disk.lock().unwrap().full = false;
        log.seal(request(&Key::named("one"), "two", "td")).await.unwrap();
    });
    let jtis: Vec<_> =
        memory.lines().into_iter().filter(|line| line.r#type == "rec").filter_map(|line| line.jti).collect();
    assert_eq!(jtis.len(), copies + 1);
}

#[test]
fn a_key_that_may_not_sign_fails_its_own_calls_only() {
    let memory = Memory::default();
    let (log, _watch) = start(&memory);
    let withdrawn = Arc::new(Key { x5t: "w".into(), certificates: Vec::new(), refuse: Some("svid_expired") });
    runtime().block_on(async {
        assert_eq!(log.seal(request(&withdrawn, "x", "td")).await, Err(LogError::Unsealable("svid_expired")));
        assert!(log.seal(request(&Key::named("one"), "y", "td")).await.is_ok());
    });
    assert_eq!(memory.lines().iter().filter(|line| line.jti.is_some()).count(), 1);
}

#[test]
fn where_calls_wait_for_space_they_go_on_when_there_is_some() {
    let memory = Memory::default();
    let (log, watch) = start_with(&memory, Patience { queue: 1, full: Duration::from_secs(30), witness: None });
    let key = Key::named("one");
    memory.disk.lock().unwrap().full = true;
    runtime().block_on(async {
        let calls: Vec<_> = (0..5)
            .map(|n| {
                tokio::spawn({
                    let (log, request) = (log.clone(), request(&key, &format!("p{n}"), "td"));
                    async move { log.seal(request).await }
                })
            })
            .collect();
        while log.is_healthy() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        memory.disk.lock().unwrap().full = false;
        for call in calls {
            call.await.unwrap().unwrap();
        }
    });
    assert_eq!(memory.lines().iter().filter(|line| line.jti.is_some()).count(), 5);
    assert_eq!(*watch.news.lock().unwrap(), ["failed", "recovered"]);
}

#[test]
fn where_calls_wait_for_space_they_fail_when_there_is_none_in_time() {
    let memory = Memory::default();
    let (log, _watch) = start_with(&memory, Patience { queue: 1, full: Duration::from_millis(120), witness: None });
    memory.disk.lock().unwrap().full = true;
    let outcome = runtime().block_on(log.seal(request(&Key::named("one"), "p", "td")));
    assert!(matches!(outcome, Err(LogError::Unavailable(_))));
    assert_eq!(log.durable(), 0);
}

#[test]
fn strict_calls_wait_for_witnesses_and_refusals_do_not() {
    let memory = Memory::default();
    let patience = Patience { queue: 9, full: Duration::ZERO, witness: Some(Duration::from_millis(200)) };
    let (log, _watch) = start_with(&memory, patience);
    let key = Key::named("one");
    runtime().block_on(async {
        assert_eq!(log.seal(request(&key, "alone", "td")).await, Err(LogError::Unwitnessed));
        log.append(refusal(), Vec::new()).await.unwrap();
        assert_eq!(log.durable(), 3);
        let (sealed, ()) = tokio::join!(log.seal(request(&key, "seen", "td")), async {
            while log.durable() < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            log.set_witnessed(4);
        });
        assert_eq!(sealed.unwrap(), "seen+1");
    });
}

fn refusal() -> Entry {
    Entry::Record {
        direction: Direction::Received,
        refused: Some("custody_chain".into()),
        detail: None,
        sealed: None,
        ancestors: Vec::new(),
        claims: None,
    }
}

#[test]
fn every_file_begins_with_what_a_reader_of_it_alone_needs_even_if_its_first_write_fails() {
    let memory = Memory::default();
    let (log, watch) = start(&memory);
    let key = Key::named("one");
    let seal = |name: &str| runtime().block_on(log.seal(request(&key, name, "td")));
    log.append_nowait(Entry::Bundle { trust_domain: "td".into(), sequence: 1, x509: Vec::new() }, Vec::new()).unwrap();
    seal("a").unwrap();
    memory.disk.lock().unwrap().roll_due = true;
    seal("b").unwrap();
    memory.disk.lock().unwrap().roll_due = true;
    memory.disk.lock().unwrap().full = true;
    seal("c").unwrap_err();
    memory.disk.lock().unwrap().full = false;
    seal("d").unwrap();
    let lines = memory.lines();
    assert!(lines.iter().map(|line| line.n).eq(0..11));
    let kinds: Vec<&str> = lines.iter().map(|line| line.r#type.as_str()).collect();
    let file = ["start", "bundle", "cert", "rec"];
    assert_eq!(kinds, [&file[1..], &file, &file].concat());
    assert_eq!(*watch.news.lock().unwrap(), ["failed", "recovered"]);
}

#[test]
fn a_full_file_that_cannot_be_closed_goes_on() {
    let memory = Memory::default();
    let (log, watch) = start(&memory);
    let key = Key::named("one");
    memory.disk.lock().unwrap().roll_due = true;
    memory.disk.lock().unwrap().roll_fails = true;
    for name in ["a", "b"] {
        runtime().block_on(log.seal(request(&key, name, "td"))).unwrap();
    }
    assert!(log.is_healthy());
    assert_eq!(*watch.news.lock().unwrap(), ["roll failed"]);
}
