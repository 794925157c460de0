//! The context of one question, as far as policies read it.
//!
//! Owns: the value of each attribute of the schema's context. Does not own: which are read (see `attributes`).

use cedar_policy::{Context, RestrictedExpression};

use super::attributes::Reads;
use super::facts::{Facts, label_of};
use super::question::Question;

const DAY_S: i64 = 86_400;

/// The attributes of `question` that `reads` names; those that it does not have are left out.
///
/// # Errors
/// Cedar does not take a value.
pub fn context_of(question: &Question, facts: &Facts, reads: Reads, now_ms: i64) -> Result<Context, String> {
    let pairs: Vec<(String, RestrictedExpression)> =
        reads.names().filter_map(|name| Some((name.to_owned(), value_of(name, question, facts, now_ms)?))).collect();
    Context::from_pairs(pairs).map_err(|error| error.to_string())
}

/// What a remembered decision rests on: every attribute of `reads`, unambiguously.
pub fn key_of(question: &Question, facts: &Facts, reads: Reads) -> String {
    let mut key = String::with_capacity(64);
    for name in reads.names() {
        let value = plain_value(name, question, facts);
        match value {
            Some(value) => {
                key.push_str(&value.len().to_string());
                key.push(':');
                key.push_str(&value);
            }
            None => key.push('-'),
        }
    }
    key
}

fn value_of(name: &str, question: &Question, facts: &Facts, now_ms: i64) -> Option<RestrictedExpression> {
    let text = |value: &str| RestrictedExpression::new_string(value.to_owned());
    let texts = |values: &[String]| RestrictedExpression::new_set(values.iter().map(|value| text(value)));
    let now_s = now_ms.div_euclid(1000);
    let long = RestrictedExpression::new_long;
    Some(match name {
        "caller_documented" => RestrictedExpression::new_bool(question.caller_documented),
        "mcp_session" => RestrictedExpression::new_bool(question.mcp_session),
        "recorded" => RestrictedExpression::new_bool(question.recorded),
        "user_verified" => RestrictedExpression::new_bool(question.user.as_ref().is_some_and(|user| user.verified)),
        "hop" => long(question.hop.into()),
        "risk_level" => long(facts.risk(question)?.level()),
        "chain" => texts(&question.chain),
        "approvals" => texts(&question.approvals),
        "approved_by" => texts(&question.approved_by),
        "time" => RestrictedExpression::new_datetime(rfc3339(now_ms)),
        "hour" => long(now_s.rem_euclid(DAY_S) / 3600),
        // 1970 began on a Thursday.
        "weekday" => long((now_s.div_euclid(DAY_S) + 3).rem_euclid(7) + 1),
        "evidence_age_s" => long(facts.evidence_age_s(question, now_s)?),
        "on_behalf_of" => {
            let user = question.user.as_ref()?;
            let members = [
                ("issuer".to_owned(), text(&user.issuer)),
                ("subject".to_owned(), text(&user.subject)),
                ("verified".to_owned(), RestrictedExpression::new_bool(user.verified)),
            ];
            RestrictedExpression::new_record(members).ok()?
        }
        _ => text(&plain_value(name, question, facts)?),
    })
}

/// An attribute as text; of those that are remembered, all.
fn plain_value<'a>(name: &str, question: &'a Question, facts: &'a Facts) -> Option<std::borrow::Cow<'a, str>> {
    let user = question.user.as_ref();
    let flag = |value: bool| if value { "true" } else { "false" };
    let label = |labels, id: &str| label_of(labels, id).map(Into::into);
    Some(match name {
        "caller" => question.caller.as_str().into(),
        "callee" => question.resource.id(),
        "side" => question.side.as_str().into(),
        "protocol" => question.protocol.as_ref().into(),
        "http" => question.http.as_str().into(),
        "operation" => question.operation.as_str().into(),
        "method" => question.method.as_str().into(),
        "path" => question.path.as_str().into(),
        "user" => user.map_or("", |user| &user.subject).into(),
        "user_issuer" => user.map_or("", |user| &user.issuer).into(),
        "target" => question.target.as_deref()?.into(),
        "a2a_context" => question.a2a_context.as_deref()?.into(),
        "args_hash" => question.args_hash.as_deref()?.into(),
        "task" => question.task.as_deref()?.into(),
        "risk" => facts.risk(question)?.as_str().into(),
        "caller_location" => return label(&facts.text.locations, &question.caller),
        "callee_location" => return label(&facts.text.locations, &question.resource.id()),
        "caller_threat" => return label(&facts.text.threats, &question.caller),
        "callee_threat" => return label(&facts.text.threats, &question.resource.id()),
        "caller_documented" => flag(question.caller_documented).into(),
        "mcp_session" => flag(question.mcp_session).into(),
        "recorded" => flag(question.recorded).into(),
        "user_verified" => flag(user.is_some_and(|user| user.verified)).into(),
        "hop" => question.hop.to_string().into(),
        "risk_level" => facts.risk(question)?.level().to_string().into(),
        "on_behalf_of" => {
            let user = user?;
            format!("{}:{}{}:{}{}", user.issuer.len(), user.issuer, user.subject.len(), user.subject, user.verified)
                .into()
        }
        _ => return None,
    })
}

/// Milliseconds since 1970 as Cedar's `datetime` takes it.
fn rfc3339(ms: i64) -> String {
    let (days, in_day_ms) = (ms.div_euclid(DAY_S * 1000), ms.rem_euclid(DAY_S * 1000));
    let (year, month, day) = civil(days);
    let (seconds, millis) = (in_day_ms / 1000, in_day_ms % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Days since 1970 as a date of the Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_cedar_reads_them() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_996_799_999, "2026-11-29T23:59:59.999Z"),
            (4_107_542_400_001, "2100-03-01T00:00:00.001Z"),
        ] {
            assert_eq!(rfc3339(ms), expected);
        }
    }
}
