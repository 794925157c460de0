//! The members of a record as a sealer writes them (custody-wire §4.3, §8).

use super::{Approval, Continuation, Obo, Record, User};
use crate::authority::{Authority, Narrowing};
use crate::claims::{Members, integer, text};
use crate::json::Value;
use crate::statement::StatementClaims as _;

impl Record {
    /// The claims in the order in which they are written; what says nothing is left out.
    #[must_use]
    pub fn to_members(&self) -> Vec<(String, Value)> {
        let mut members = Members::default();
        members.add("v", integer(1)).add("t", text(Self::TYPE)).add("iss", text(&self.iss)).add("aud", text(&self.aud));
        members.add("iat", integer(self.iat)).add("exp", integer(self.exp));
        members.add("jti", text(&self.jti)).add("cid", text(&self.cid)).add("hop", integer(self.hop));
        members.maybe("prev", self.prev.map(|prev| text(&prev))).add("rqb", text(&self.rqb));
        members.maybe("bm", self.streams.then(|| text("stream")));
        members.maybe("srv", self.srv.map(|srv| text(&srv))).maybe("by", self.by.as_ref().map(text));
        members.maybe("op", self.op.as_ref().map(text));
        let inputs = || Value::Array(self.inputs.iter().map(text).collect());
        members.maybe("in", (!self.inputs.is_empty()).then(inputs));
        members.maybe("att", self.att.as_ref().map(narrowing_value));
        let approvals = || Value::Array(self.approvals.iter().map(approval_value).collect());
        members.maybe("apv", (!self.approvals.is_empty()).then(approvals));
        members.maybe("rr", self.rr.then_some(Value::Bool(true))).maybe("tid", self.tid.as_ref().map(text));
        members.maybe("obo", self.obo.as_ref().map(obo_value));
        members.maybe("task", self.task.as_ref().map(|task| Value::Object(task.to_members())));
        members.maybe("auth", self.auth.as_ref().map(authority_value));
        members.maybe("cont", self.cont.as_ref().map(continuation_value));
        members.into_vec()
    }
}

fn obo_value(obo: &Obo) -> Value {
    match obo {
        Obo::Autonomous => Value::Null,
        Obo::User(user) => user_value(user),
    }
}

fn user_value(user: &User) -> Value {
    let mut members = Members::default();
    members.add("iss", text(&user.iss)).add("sub", text(&user.sub)).add("typ", text(&user.typ));
    members.add("th", text(&user.th)).maybe("txn", user.txn.as_ref().map(text)).add("exp", integer(user.exp));
    Value::Object(members.into_vec())
}

pub(crate) fn approval_value(approval: &Approval) -> Value {
    let mut members = Members::default();
    members.add("typ", text(&approval.typ)).add("id", text(&approval.id)).add("h", text(&approval.h));
    members.add("by", text(&approval.by)).add("at", integer(approval.at));
    Value::Object(members.into_vec())
}

pub(crate) fn continuation_value(cont: &Continuation) -> Value {
    let mut members = Members::default();
    members.add("rec", text(&cont.rec)).add("cid", text(&cont.cid)).add("why", text(&cont.why));
    Value::Object(members.into_vec())
}

pub(crate) fn authority_value(auth: &Authority) -> Value {
    narrowing_value(&Narrowing {
        scope: auth.scope.clone(),
        exp: Some(auth.exp),
        hops: Some(auth.hops),
        aud: auth.aud.clone(),
        ops: auth.ops.clone(),
    })
}

pub(crate) fn narrowing_value(limits: &Narrowing) -> Value {
    let mut members = Members::default();
    let scope = limits.scope.as_ref().map(|scope| scope.iter().map(String::as_str).collect::<Vec<_>>().join(" "));
    members.maybe("scope", scope.map(|scope| text(&scope)));
    members.maybe("exp", limits.exp.map(integer)).maybe("hops", limits.hops.map(integer));
    let aud = limits.aud.as_ref().map(|aud| aud.iter().map(|pattern| text(&pattern.text())).collect());
    let ops = limits.ops.as_ref().map(|ops| ops.iter().map(|pattern| text(&pattern.text())).collect());
    members.maybe("aud", aud.map(Value::Array)).maybe("ops", ops.map(Value::Array));
    Value::Object(members.into_vec())
}
