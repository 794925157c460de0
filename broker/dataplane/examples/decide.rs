//! What a policy decision costs among 1, 100 and 10,000 policies, and what loading them does: JSON lines of figures.
//!
//! Usage: `decide [SECONDS]`
//! Each policy permits one pair of components some operations, as documents are compiled, ten for each agent; one pair
//! is asked about. `load_ms` is on the clock, with all cores; the others are CPU time.
//! `cedar_us` is Cedar alone over the whole set, `sliced_us` a decision that is not remembered (its slice reads the
//! time), `remembered_us` one that is.
#![allow(clippy::print_stdout, reason = "its output is its result")]

use std::time::{Duration, Instant};

use _dataplane::policy::{Facts, Policy, Question, Rules, SetText};
use cedar_policy::{Authorizer, Context, Entities, PolicySet, Request};
use rustix::time::{ClockId, clock_gettime};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const COUNTS: [usize; 3] = [1, 100, 10_000];
const CLOCK: &str =
    r#"@id("clock") @guardrail("clock") permit(principal, action, resource) when { context.hour < 24 };"#;

fn main() -> Result<(), Failure> {
    let seconds: f64 = std::env::args().nth(1).unwrap_or_else(|| "1".into()).parse()?;
    let time = Duration::from_secs_f64(seconds);
    for count in COUNTS {
        let all: Vec<usize> = (0..count).collect();
        let pieces: Vec<String> = all.chunks(10).map(|agent| agent.iter().map(|n| permit(*n)).collect()).collect();
        let text: String = pieces.concat();
        let documents = ("documents", "documents", pieces);
        let started = Instant::now();
        let policy = load(std::slice::from_ref(&documents))?;
        let load_ms = started.elapsed().as_secs_f64() * 1e3;
        let clocked = load(&[documents, ("admin/clock", "admin", vec![CLOCK.to_owned()])])?;
        let question = question()?;
        let figures = serde_json::json!({
            "policies": count,
            "load_ms": load_ms,
            "cedar_us": cedar(&text, time)?,
            "sliced_us": measure(time, || clocked.decide(&question).allowed)?,
            "remembered_us": measure(time, || policy.decide(&question).allowed)?,
        });
        println!("{figures}");
    }
    Ok(())
}

fn permit(number: usize) -> String {
    format!(
        "@id(\"{number}\") permit(principal == Hopseal::Component::\"spiffe://td/agents/a{number}/front\", \
         action == Hopseal::Action::\"call\", resource == Hopseal::Component::\"spiffe://td/agents/a{number}/store\")\n\
         when {{ context.http == \"POST /items\" || context.http like \"GET /v1/*\" }};\n"
    )
}

fn load(sets: &[(&str, &str, Vec<String>)]) -> Result<Policy, Failure> {
    let sets = sets.iter().map(|(name, layer, pieces)| {
        serde_json::from_value(serde_json::json!({"name": name, "layer": layer, "observe": false, "pieces": pieces}))
    });
    let sets: Vec<SetText> = sets.collect::<Result<_, _>>()?;
    let rules = Rules::build(sets, None).map_err(|mistakes| mistakes.join("; "))?;
    Ok(Policy::new(rules, Facts::parse("{}")?))
}

fn question() -> Result<Question, Failure> {
    Ok(serde_json::from_value(serde_json::json!({
        "caller": "spiffe://td/agents/a0/front", "resource": {"component": "spiffe://td/agents/a0/store"},
        "side": "caller", "protocol": "http", "http": "POST /items", "operation": "POST /items", "method": "POST",
        "path": "/items", "chain": ["spiffe://td/agents/a0/front"],
    }))?)
}

fn cedar(text: &str, time: Duration) -> Result<f64, Failure> {
    let (set, authorizer): (PolicySet, _) = (text.parse()?, Authorizer::new());
    let uid = |kind: &str, id: &str| -> Result<cedar_policy::EntityUid, Failure> {
        Ok(format!("Hopseal::{kind}::\"{id}\"").parse()?)
    };
    let http = serde_json::json!({"http": "POST /items"});
    let request = Request::new(
        uid("Component", "spiffe://td/agents/a0/front")?,
        uid("Action", "call")?,
        uid("Component", "spiffe://td/agents/a0/store")?,
        Context::from_json_value(http, None)?,
        None,
    )?;
    let entities = Entities::empty();
    measure(time, || authorizer.is_authorized(&request, &set, &entities).decision() == cedar_policy::Decision::Allow)
}

/// Microseconds of one `decide`, which must allow.
fn measure(time: Duration, decide: impl Fn() -> bool) -> Result<f64, Failure> {
    if !decide() {
        return Err("the call is denied".into());
    }
    let (started, cpu, mut rounds) = (Instant::now(), cpu_s(), 0_u32);
    while started.elapsed() < time {
        for _ in 0..16 {
            std::hint::black_box(decide());
        }
        rounds += 16;
    }
    Ok((cpu_s() - cpu) * 1e6 / f64::from(rounds))
}

/// CPU time of this thread.
fn cpu_s() -> f64 {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
