//! Decisions of whole policies: layers, guard rails, observation, what cannot be evaluated.

use super::rules::schema;
use super::*;
use serde_json::json;

const A: &str = "spiffe://td/agents/crm/a";
const B: &str = "spiffe://td/agents/crm/b";

fn question(path: &str) -> Question {
    serde_json::from_value(json!({
        "caller": A, "resource": {"component": B}, "side": "caller", "protocol": "http",
        "http": format!("GET {path}"), "operation": format!("GET {path}"), "method": "GET", "path": path,
        "chain": [A],
    }))
    .unwrap()
}

/// Sets as `(name, layer, observe, text)`.
fn try_policy(sets: &[(&str, &str, bool, &str)], facts: serde_json::Value) -> Result<Policy, String> {
    let sets = sets.iter().map(|(name, layer, observe, text)| {
        serde_json::from_value(json!({"name": name, "layer": layer, "observe": observe, "pieces": [text]})).unwrap()
    });
    let rules = Rules::build(sets.collect(), None).map_err(|mistakes| mistakes.join("\n"))?;
    let facts = serde_json::from_value(facts).map_err(|error| error.to_string())?;
    Ok(Policy::new(rules, Facts::build(facts, Some(schema()?))?))
}

fn policy(sets: &[(&str, &str, bool, &str)]) -> Policy {
    try_policy(sets, json!({})).unwrap()
}

const CALLS: &str = r#"@id("a calls b") permit(principal == Hopseal::Component::"spiffe://td/agents/crm/a",
    action == Hopseal::Action::"call", resource == Hopseal::Component::"spiffe://td/agents/crm/b")
    when { context.http like "GET /a*" };"#;
const NO_SECRETS: &str =
    r#"@id("no secrets") forbid(principal, action, resource) when { context.path like "*secret*" };"#;
const EVERYTHING: &str = r#"@id("all") permit(principal, action, resource);"#;
const DOCUMENTS: (&str, &str, bool, &str) = ("documents", "documents", false, CALLS);

#[test]
fn a_call_is_denied_unless_a_policy_permits_it() {
    let policy = policy(&[DOCUMENTS]);
    let denied = policy.decide(&question("/b"));
    assert_eq!((denied.allowed, denied.detail.as_str()), (false, "no rule permits it"));
    let decision = policy.decide(&question("/a"));
    assert_eq!((decision.allowed, decision.policies), (true, vec!["a calls b".to_owned()]));
    assert!(!super::tests::policy(&[]).decide(&question("/a")).allowed);
}

#[test]
fn an_evaluation_error_denies_even_beside_a_permit() {
    for text in [
        "permit(principal, action, resource) when { context.absent == 1 };",
        "permit(principal, action, resource) when { context.hop + 9223372036854775807 + 1 > 0 };",
        "forbid(principal, action, resource) when { principal.role == \"x\" };",
    ] {
        let policy = Policy::parse(&format!("{CALLS} {text}"), "[]").unwrap();
        let mut asked = question("/a");
        asked.hop = 1;
        let decision = policy.decide(&asked);
        assert!(!decision.allowed, "{text}");
        assert!(decision.detail.starts_with("cannot be decided"), "{}", decision.detail);
    }
}

#[test]
fn a_decision_that_takes_too_long_is_a_refusal() {
    let policy = policy(&[DOCUMENTS]);
    assert!(policy.decide_within(&question("/a"), TOO_LONG).allowed);
    let late = policy.decide_within(&question("/a"), Duration::ZERO);
    assert!(!late.allowed && late.detail.contains("took longer"));
}

#[test]
fn policies_that_do_not_parse_or_fit_the_schema_are_refused_whole() {
    assert!(Policy::parse("permit(", "[]").is_err());
    assert!(Policy::parse("", "[{]").is_err());
    for (text, says) in [
        ("permit(principal, action,\n resource", "line 2"),
        ("@id(\"x\") permit(principal, action, resource) when { context.nope };", "x: attribute `nope`"),
        ("permit(principal, action, resource) when { context.risk == \"high\" };", "#1: unable to guarantee"),
        ("permit(principal == ?principal, action, resource);", "templates"),
        ("permit(principal == User::\"x\", action, resource);", "User"),
        ("permit(principal, action, resource) when { context.hop == \"x\" };", "#1"),
    ] {
        let mistakes = try_policy(&[("file.cedar", "operator", false, text)], json!({})).err().unwrap();
        assert!(mistakes.starts_with("file.cedar: ") && mistakes.contains(says), "{text}: {mistakes}");
    }
}

#[test]
fn an_operators_permit_adds_to_the_documents_and_a_forbid_wins() {
    let policy = policy(&[DOCUMENTS, ("more", "operator", false, EVERYTHING), ("no", "operator", false, NO_SECRETS)]);
    assert!(policy.decide(&question("/b")).allowed);
    let denied = policy.decide(&question("/a/secret"));
    assert_eq!((denied.allowed, denied.detail.as_str()), (false, "forbidden by \"no secrets\" of no"));
}

#[test]
fn an_admins_forbid_wins_over_every_permit() {
    let policy = policy(&[DOCUMENTS, ("o", "operator", false, EVERYTHING), ("a", "admin", false, NO_SECRETS)]);
    assert!(policy.decide(&question("/x")).allowed);
    assert!(!policy.decide(&question("/secret")).allowed);
}

const RAIL: &str = r#"
    @id("hours") @guardrail("when") permit(principal, action, resource) when { context.hour >= 8 && context.hour < 18 };
    @id("on call") @guardrail("when") permit(principal, action, resource) when { context.user == "pager" };
    @id("short chains") @guardrail("chains") permit(principal, action, resource) when { context.hop < 3 };
    @id("other") @guardrail("elsewhere") permit(principal, action, resource == Hopseal::Component::"spiffe://td/x")
        when { false };"#;

fn at(hour: i64, hop: u32, user: Option<&str>) -> Question {
    let user = user.map(|subject| OnBehalf { issuer: "i".into(), subject: subject.into(), verified: true });
    Question { at_ms: Some(hour * 3_600_000), hop, user, ..question("/a") }
}

#[test]
fn each_guard_rail_that_covers_a_call_must_hold_and_none_permits_anything() {
    let policy = policy(&[DOCUMENTS, ("rails", "admin", false, RAIL)]);
    assert!(policy.decide(&at(9, 0, None)).allowed);
    assert!(policy.decide(&at(20, 0, Some("pager"))).allowed, "one permit of a rail is enough");
    let late = policy.decide(&at(20, 0, None));
    assert!(!late.allowed && late.detail.starts_with("the guard rail \"when\""), "{}", late.detail);
    assert!(!policy.decide(&at(9, 3, None)).allowed, "each rail must hold");
    let unpermitted = Question { http: "GET /b".into(), ..at(9, 0, None) };
    assert_eq!(policy.decide(&unpermitted).detail, "no rule permits it");
}

#[test]
fn permits_of_the_admin_layer_name_a_guard_rail_and_others_do_not() {
    assert!(try_policy(&[("a", "admin", false, EVERYTHING)], json!({})).err().unwrap().contains("widens nothing"));
    let railed = r#"@guardrail("x") permit(principal, action, resource);"#;
    assert!(try_policy(&[("a", "operator", false, railed)], json!({})).err().unwrap().contains("guard rail"));
    assert!(try_policy(&[("a", "admin", false, &railed.replace("\"x\"", "\"\""))], json!({})).is_err());
    let forbid = railed.replace("permit", "forbid");
    assert!(try_policy(&[("a", "admin", false, &forbid)], json!({})).is_err());
    assert!(try_policy(&[("a", "admin", false, railed)], json!({})).is_ok());
}

#[test]
fn what_an_observed_set_forbids_is_told_and_allowed() {
    for layer in ["operator", "admin"] {
        let policy = policy(&[DOCUMENTS, ("new", layer, true, NO_SECRETS)]);
        let decision = policy.decide(&question("/a/secret"));
        assert!(decision.allowed);
        assert_eq!(decision.would_deny, [("new".to_owned(), "forbidden by \"no secrets\" of new".to_owned())]);
        assert_eq!(policy.decide(&question("/a")).would_deny, []);
        assert_eq!(policy.decide(&question("/b/secret")).would_deny, [], "a denied call would not have been denied");
    }
}

#[test]
fn an_observed_set_permits_nothing() {
    let policy = policy(&[DOCUMENTS, ("new", "operator", true, EVERYTHING)]);
    assert!(!policy.decide(&question("/b")).allowed);
}

#[test]
fn observed_documents_deny_nothing_for_want_of_a_permit() {
    let policy = policy(&[("documents", "documents", true, CALLS), ("no", "operator", false, NO_SECRETS)]);
    let decision = policy.decide(&question("/b"));
    assert!(decision.allowed);
    assert_eq!(decision.would_deny, [("documents".to_owned(), "no rule permits it".to_owned())]);
    assert_eq!(policy.decide(&question("/a")).would_deny, []);
    assert!(!policy.decide(&question("/secret")).allowed, "what is enforced still forbids");
}

#[test]
fn an_observed_guard_rail_is_told_and_holds_no_enforced_one_up() {
    let observed = policy(&[DOCUMENTS, ("rails", "admin", true, RAIL)]);
    let decision = observed.decide(&at(20, 0, None));
    assert!(decision.allowed);
    assert_eq!(decision.would_deny.len(), 1);
    let never = r#"@guardrail("when") permit(principal, action, resource) when { false };"#;
    let both = policy(&[DOCUMENTS, ("rails", "admin", true, RAIL), ("strict", "admin", false, never)]);
    assert!(!both.decide(&at(9, 0, None)).allowed);
}

#[test]
fn an_observed_set_that_cannot_be_evaluated_denies_nothing() {
    let overflow = "forbid(principal, action, resource) when { context.hop + 9223372036854775807 > 0 };";
    let asked = Question { hop: 1, ..question("/a") };
    let observed = policy(&[DOCUMENTS, ("new", "operator", true, overflow)]);
    let decision = observed.decide(&asked);
    assert!(decision.allowed);
    assert_eq!(decision.would_deny[0].0, "new");
    assert!(!policy(&[DOCUMENTS, ("new", "operator", false, overflow)]).decide(&asked).allowed);
}

fn described() -> serde_json::Value {
    let agent = json!({"type": "Hopseal::Agent", "id": "crm"});
    let component = |id: &str, role: &str| {
        json!({
            "uid": {"type": "Hopseal::Component", "id": id}, "parents": [agent],
            "attrs": {"documented": true, "trust_domain": "td", "agent": "crm", "name": "a", "role": role,
                      "posture": "baseline", "posture_level": 1, "images": ["sha256:aa"]},
        })
    };
    json!({
        "entities": [
            {"uid": agent, "attrs": {"owner": "o", "team": "t", "version": "1"}, "parents": []},
            component(A, "orchestrator"), component(B, "connector"),
            {"uid": {"type": "Hopseal::External", "id": "*.example.com:443"}, "parents": [],
             "attrs": {"host": "*.example.com", "port": 443, "sensitivity": "internal", "sensitivity_level": 1}},
        ],
        "risks": {B: {"crm.update": "high"}},
        "locations": [{"pattern": "spiffe://td/*", "label": "eu"}],
        "threats": [{"pattern": "*", "label": "elevated"}],
        "evidence": {A: {"measured_at": 100, "posture": "restricted"}},
    })
}

fn holds(condition: &str, question: &Question) -> bool {
    let text = format!("permit(principal, action, resource) when {{ {condition} }};");
    let policy = try_policy(&[("o", "operator", false, &text)], described()).unwrap();
    let decision = policy.decide(question);
    assert!(!decision.detail.starts_with("cannot"), "{condition}: {}", decision.detail);
    decision.allowed
}

#[test]
fn policies_see_what_documents_operators_and_the_attestor_say() {
    let tool = Question {
        protocol: "mcp".into(),
        operation: "tools/call crm.update".into(),
        target: Some("crm.update".into()),
        args_hash: Some("hash".into()),
        task: Some("T1".into()),
        approvals: vec!["APP-1".into()],
        approved_by: vec!["lead@example.org".into()],
        at_ms: Some(1_795_996_800_000),
        ..question("/mcp")
    };
    for condition in [
        "context has risk && context.risk == \"high\" && context has risk_level && context.risk_level == 2",
        "context has args_hash && context.args_hash == \"hash\" && context has target",
        "context has task && context.task == \"T1\"",
        "context.approvals.contains(\"APP-1\") && context.approved_by.contains(\"lead@example.org\")",
        "context.time > datetime(\"2026-11-29\") && context.weekday == 1 && context.hour == 0",
        "context.chain.contains(principal.trust_domain) || context.chain.contains(context.caller)",
        "context has evidence_age_s && context.evidence_age_s == 1795996700",
        "context has caller_location && context.caller_location == \"eu\"",
        "context has callee_threat && context.callee_threat == \"elevated\"",
        "principal has posture && principal.posture == \"restricted\"",
        "principal has posture_level && principal.posture_level >= 2",
        "principal has images && principal.images.contains(\"sha256:aa\")",
        "principal in Hopseal::Agent::\"crm\" && principal in Hopseal::TrustDomain::\"td\"",
        "principal.documented && principal has role && principal.role == \"orchestrator\"",
        "resource has role && resource.role == \"connector\"",
        "resource has posture_level && resource.posture_level == 1",
        "!(context has on_behalf_of) && context.user == \"\"",
    ] {
        assert!(holds(condition, &tool), "{condition}");
        assert!(!holds(&format!("!({condition})"), &tool), "{condition}");
    }
    let plain = Question { operation: "tools/call crm.update".into(), ..question("/mcp") };
    assert!(!holds("context has risk", &plain), "only a readable MCP call has a tool");
    let other = Question { operation: "tools/call crm.delete".into(), protocol: "mcp".into(), ..plain };
    assert!(!holds("context has risk", &other));
}

#[test]
fn a_stranger_has_a_trust_domain_and_nothing_else() {
    let stranger = Question { caller: "spiffe://partner/x".into(), caller_documented: false, ..question("/a") };
    assert!(holds(
        "!principal.documented && principal.trust_domain == \"partner\" && !(principal has role)",
        &stranger
    ));
    assert!(holds("principal in Hopseal::TrustDomain::\"partner\"", &stranger));
    let disguised = Question { caller: A.into(), ..stranger };
    assert!(holds("!principal.documented && !(principal has role)", &disguised));
}

#[test]
fn an_external_service_has_the_sensitivity_of_the_pattern_that_names_it() {
    let external =
        |host: &str, port| Question { resource: Resource::External { host: host.into(), port }, ..question("/v1") };
    let internal = "resource has sensitivity && resource.sensitivity == \"internal\"";
    assert!(holds(internal, &external("api.eu.example.com", 443)));
    assert!(!holds(internal, &external("api.eu.example.com", 444)));
    assert!(!holds(internal, &external("example.com", 443)));
    // Documents of other teams list it, too, with less or nothing to say of it.
    let mut facts = described();
    for (host, extra) in [
        ("plain.example.com", json!({})),
        ("low.example.com", json!({"sensitivity": "public", "sensitivity_level": 0})),
    ] {
        let mut attrs = extra;
        (attrs["host"], attrs["port"]) = (host.into(), 443.into());
        let uid = json!({"type": "Hopseal::External", "id": format!("{host}:443")});
        facts["entities"].as_array_mut().unwrap().push(json!({"uid": uid, "parents": [], "attrs": attrs}));
    }
    let text = format!(
        "permit(principal, action, resource) when {{ {internal} && resource has sensitivity_level && resource.sensitivity_level == 1 }};"
    );
    let policy = try_policy(&[("o", "operator", false, &text)], facts).unwrap();
    for host in ["plain.example.com", "low.example.com", "below.low.example.com"] {
        assert!(policy.decide(&external(host, 443)).allowed, "{host}");
    }
    let named = "resource is Hopseal::External && resource.host == \"a.b\" && resource.port == 8443";
    assert!(holds(named, &external("a.b", 8443)));
    assert!(holds("context.callee == \"a.b:8443\"", &external("a.b", 8443)));
}

#[test]
fn a_remembered_decision_is_that_of_the_same_request_only() {
    let policy = policy(&[DOCUMENTS, ("no", "operator", false, NO_SECRETS)]);
    for _ in 0..2 {
        for (path, allowed) in [("/a", true), ("/b", false), ("/a/secret", false), ("/ab", true)] {
            assert_eq!(policy.decide(&question(path)).allowed, allowed, "{path}");
        }
    }
    let users = policy_with_user();
    for (issuer, subject, allowed) in [("a", "b1:", true), ("a1:", "b", false), ("", "", false)] {
        let user = Some(OnBehalf { issuer: issuer.into(), subject: subject.into(), verified: true });
        assert_eq!(users.decide(&Question { user, ..question("/a") }).allowed, allowed);
    }
}

fn policy_with_user() -> Policy {
    let text = r#"permit(principal, action, resource)
        when { context has on_behalf_of && context.on_behalf_of == {issuer: "a", subject: "b1:", verified: true} };"#;
    policy(&[("o", "operator", false, text)])
}

#[test]
fn what_reads_the_time_is_decided_anew_and_says_so() {
    let policy = policy(&[DOCUMENTS, ("rails", "admin", false, RAIL)]);
    assert!(policy.is_changing(&at(9, 0, None)));
    assert!(policy.decide(&at(9, 0, None)).allowed && !policy.decide(&at(19, 0, None)).allowed);
    assert!(!super::tests::policy(&[DOCUMENTS]).is_changing(&question("/a")));
}

#[test]
fn slices_leave_out_what_cannot_match_and_decide_the_same() {
    let component = |n: usize| format!("Hopseal::Component::\"spiffe://td/agents/x/{n}\"");
    let others: String = (0..200)
        .map(|n| format!("permit(principal == {}, action, resource == {});\n", component(n), component(n + 1)))
        .collect();
    let agent = "permit(principal in Hopseal::Agent::\"crm\", action, resource) when { context.path == \"/in\" };";
    let is = "permit(principal is Hopseal::Component, action in [Hopseal::Action::\"call\"], resource is Hopseal::External);";
    let to_b = format!(
        "permit(principal, action, resource == Hopseal::Component::\"{B}\") when {{ context.path == \"/to\" }};"
    );
    let text = [CALLS, &others, agent, is, &to_b].concat();
    let policy = try_policy(&[("o", "operator", false, &text)], described()).unwrap();
    for (path, allowed) in [("/a", true), ("/in", true), ("/to", true), ("/x", false)] {
        let asked = question(path);
        assert_eq!(policy.decide(&asked).allowed, allowed, "{path}");
        assert_eq!(explain(&policy, &asked)["considered"], 3);
    }
    let external = Question { resource: Resource::External { host: "a.b".into(), port: 1 }, ..question("/x") };
    assert!(policy.decide(&external).allowed);
}

#[test]
fn pieces_that_did_not_change_are_not_parsed_again() {
    let sets = |second: &str| {
        serde_json::from_value::<Vec<SetText>>(json!([
            {"name": "documents", "layer": "documents", "observe": false, "pieces": [CALLS, second]},
        ]))
        .unwrap()
    };
    let before = Rules::build(sets(NO_SECRETS), None).unwrap();
    let after = Rules::build(sets(EVERYTHING), Some(&before)).unwrap();
    let names: Vec<&str> = after.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["a calls b", "all"]);
    assert!(Rules::build(sets("permit("), Some(&before)).is_err());
}

#[test]
fn an_explanation_names_rule_set_and_layer() {
    let policy = policy(&[DOCUMENTS, ("rails", "admin", false, RAIL), ("new", "operator", true, NO_SECRETS)]);
    let told = explain(&policy, &at(20, 0, None));
    assert_eq!((&told["allowed"], &told["reason"]), (&json!(false), &json!("guard_rail")));
    assert_eq!(told["rules"][0]["rule"], "hours");
    assert_eq!((&told["rules"][0]["set"], &told["rules"][0]["layer"]), (&json!("rails"), &json!("admin")));
    let observed = Question { path: "/a/secret".into(), ..at(9, 0, None) };
    let told = explain(&policy, &observed);
    assert_eq!((&told["allowed"], &told["would_deny"][0]["sets"]), (&json!(true), &json!(["new"])));
    assert_eq!(told["question"]["caller"], A);
}

#[test]
fn many_pieces_keep_their_order_and_every_mistake_is_named() {
    let sets = |bad: &str| {
        let mut pieces: Vec<String> =
            (0..200).map(|n| format!("@id(\"{n}\") permit(principal, action, resource);")).collect();
        pieces.push(pieces[7].clone());
        pieces[100] = bad.to_owned();
        let set = json!({"name": "documents", "layer": "documents", "observe": false, "pieces": pieces});
        vec![serde_json::from_value::<SetText>(set).unwrap()]
    };
    let rules = Rules::build(sets("@id(\"100\") forbid(principal, action, resource);"), None).unwrap();
    let names: Vec<String> = rules.rules.iter().map(|rule| rule.name.clone()).collect();
    let expected: Vec<String> = (0..200).chain([7]).map(|n| n.to_string()).collect();
    assert_eq!(names, expected);
    let mistakes = Rules::build(sets("permit("), None).err().unwrap();
    assert!(mistakes.len() == 1 && mistakes[0].starts_with("documents: line 1"), "{mistakes:?}");
}

/// A compressed body, say, on its way to an MCP server.
fn unreadable() -> Question {
    Question {
        protocol: "unreadable".into(),
        http: "POST /mcp".into(),
        operation: "POST /mcp".into(),
        ..question("/mcp")
    }
}

const TOOLS: &str = r#"@id("tools") permit(principal, action, resource)
    when { context.protocol == "mcp" && context.operation like "tools/call crm.*" };"#;
const NO_DELETE: &str = r#"@id("no delete") forbid(principal, action, resource)
    when { context.operation like "tools/call crm.delete*" };"#;

#[test]
fn what_cannot_be_read_is_refused_where_a_rule_would_have_to_read_it() {
    for restriction in [
        NO_DELETE,
        r#"@id("no delete") forbid(principal, action, resource) when { context has target && context.target == "x" };"#,
        r#"@id("no delete") forbid(principal, action, resource) when { context has risk_level && context.risk_level > 2 };"#,
    ] {
        let policy =
            policy(&[("documents", "documents", false, EVERYTHING), ("rules", "operator", false, restriction)]);
        let decision = policy.decide(&unreadable());
        assert!(!decision.allowed && decision.is_unreadable);
        assert!(decision.detail.contains("\"no delete\" of rules"), "{}", decision.detail);
        assert_eq!(decision.policies, ["no delete"]);
        let readable = policy.decide(&question("/mcp"));
        assert!(readable.allowed && !readable.is_unreadable);
    }
}

#[test]
fn the_operator_learns_that_a_permit_would_have_to_read_the_body() {
    let policy = policy(&[("documents", "documents", false, TOOLS)]);
    let decision = policy.decide(&unreadable());
    assert!(!decision.allowed && decision.is_unreadable);
    assert!(decision.detail.contains("\"tools\" of documents"), "{}", decision.detail);
    let other = policy.decide(&question("/mcp"));
    assert!(!other.allowed && !other.is_unreadable);
}

#[test]
fn what_cannot_be_read_is_allowed_where_nothing_depends_on_it() {
    let rules = [("documents", "documents", false, EVERYTHING), ("rules", "operator", false, NO_SECRETS)];
    assert!(policy(&rules).decide(&unreadable()).allowed);
    let elsewhere = NO_DELETE.replace("resource)", "resource == Hopseal::Component::\"spiffe://td/agents/crm/other\")");
    assert!(policy(&[rules[0], ("rules", "operator", false, &elsewhere)]).decide(&unreadable()).allowed);
    let guarded = policy(&[rules[0], ("rules", "operator", false, NO_DELETE)]);
    assert!(!guarded.decide(&unreadable()).allowed);
}

#[test]
fn a_set_that_observes_tells_that_it_would_have_to_read_the_body() {
    let policy = policy(&[("documents", "documents", false, EVERYTHING), ("trial", "operator", true, NO_DELETE)]);
    let decision = policy.decide(&unreadable());
    assert!(decision.allowed);
    assert_eq!(decision.would_deny.len(), 1);
    assert!(decision.would_deny[0].1.contains("cannot be read"), "{:?}", decision.would_deny);
}

#[test]
fn a_rule_about_the_protocol_alone_holds_for_what_may_be_of_that_protocol() {
    for protocol in ["mcp", "a2a", "http"] {
        let forbid = format!(
            r#"@id("none of it") forbid(principal, action, resource) when {{ context.protocol == "{protocol}" }};"#
        );
        let rail = format!(
            r#"@id("none of it") @guardrail("kind") permit(principal, action, resource)
               when {{ context.protocol != "{protocol}" }};"#
        );
        for (layer, restriction) in [("operator", &forbid), ("admin", &forbid), ("admin", &rail)] {
            let policy = policy(&[("documents", "documents", false, EVERYTHING), ("rules", layer, false, restriction)]);
            let decision = policy.decide(&unreadable());
            assert!(!decision.allowed && decision.is_unreadable, "{restriction}");
            assert_eq!(decision.policies, ["none of it"]);
        }
        let trial = policy(&[("documents", "documents", false, EVERYTHING), ("trial", "admin", true, &rail)]);
        let decision = trial.decide(&unreadable());
        assert!(decision.allowed && decision.would_deny.len() == 1, "{:?}", decision.would_deny);
    }
    let tunnels = r#"@id("no tunnels") forbid(principal, action, resource) when { context.protocol == "connect" };"#;
    let policy = policy(&[("documents", "documents", false, EVERYTHING), ("rules", "admin", false, tunnels)]);
    assert!(policy.decide(&unreadable()).allowed, "an unreadable body is no tunnel");
}
