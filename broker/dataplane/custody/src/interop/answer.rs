//! Vectors about answers: receipts, closing statements, evidence, and the statements themselves.

use std::sync::Arc;

use serde_json::Value as Json;

use super::receive::{parse_bundles, parse_peer, spiffe_id};
use super::{Answer, Failure, Input, facts, lines};
use crate::binding::{BodySum, BodySummer, HeaderLine, response_base, response_binding, trailer_binding};
use crate::cache::CacheSizes;
use crate::cert::Certificate;
use crate::error::malformed;
use crate::evidence::Evidence;
use crate::fields::{ClosingFields, ReceiptFields, split_comment};
use crate::frames::FrameReader;
use crate::hash::{ClaimHash, StatementHash, Thumbprint, encode_base64};
use crate::json::{write, write_object};
use crate::outcome::Kids;
use crate::receive::{Exchange, ExpectedClosing, Receiver};
use crate::record::Record;
use crate::replay::ReplayStore;
use crate::seal::UnverifiedStatement;
use crate::statement::{Statement, StatementClaims as _};

pub(super) fn verify_statement(input: &Input<'_>) -> Answer {
    let statement = Statement::parse(&input.bytes("payload")?)?;
    if !input.texts("types")?.contains(&statement.kind()) {
        return Err(malformed("a statement of this type may not stand here").into());
    }
    let mut encoded = String::new();
    write_object(&statement.to_members(), &mut encoded);
    Ok(facts([("t", statement.kind().into()), ("encoded", encode_base64(encoded.as_bytes()).into())]))
}

pub(super) fn describe_kids(input: &Input<'_>) -> Answer {
    let hash =
        |text: &str| StatementHash::parse(text).ok_or_else(|| Failure::from(malformed("a hash is not of its form")));
    let hashes = input.texts("hashes")?.into_iter().map(hash).collect::<Result<Vec<_>, _>>()?;
    Ok(facts([("kids", kids_json(&Kids::of(&hashes))?)]))
}

pub(super) fn verify_response_binding(input: &Input<'_>) -> Answer {
    let owned = input.headers()?;
    let (status, headers) = (parse_status(input)?, lines(&owned));
    let rsb = response_binding(status, &headers)?;
    Ok(facts([("base", response_base(status, &headers)?.into()), ("rsb", rsb.to_string().into())]))
}

pub(super) fn split_stream(input: &Input<'_>) -> Answer {
    let bytes = input.bytes("body")?;
    let (body, comment) = split_comment(&bytes);
    Ok(facts([("body", encode_base64(body).into()), ("comment", comment.into())]))
}

pub(super) fn verify_receipt(input: &Input<'_>) -> Answer {
    let (hash, record) = parse_record(input)?;
    let (head, trailers) = (input.headers()?, input.lines("trailers")?);
    let (head, trailers) = (lines(&head), lines(&trailers));
    let comment = input.get("comment")?.as_str();
    let Some(fields) = ReceiptFields::read(&head, &trailers, comment, record.rr)? else {
        return Ok(facts(["receipt", "st", "fin", "kids", "dec"].map(|name| (name, Json::Null))));
    };
    let peer = parse_peer(&input.many_bytes("tls_server")?);
    let request_head = input.lines("request_headers")?;
    let request = match input.get("request")? {
        Json::Null => None,
        _ => Some(sum_up(&lines(&request_head), &input.bytes("request")?, &[])),
    };
    let exchange = Exchange {
        own_id: &record.iss,
        callee: &record.aud,
        record: hash,
        record_iat: record.iat,
        cid: record.cid,
        peer: peer.as_ref(),
        status: parse_status(input)?,
        headers: &head,
        body: sum_up(&head, &input.bytes("body")?, &trailers),
        request,
    };
    let bundles = parse_bundles(input.object("bundles")?)?;
    let verified = receiver(input)?.verify_receipt(&fields, &exchange, &bundles, input.integer("now")?)?;
    let outcome = &verified.claims().outcome;
    Ok(facts([
        ("receipt", verified.hash().to_string().into()),
        ("st", outcome.st.into()),
        ("fin", outcome.fin.as_str().into()),
        ("kids", kids_json(&outcome.kids)?),
        ("dec", outcome.dec.as_deref().into()),
    ]))
}

pub(super) fn verify_closing(input: &Input<'_>) -> Answer {
    let (hash, record) = parse_record(input)?;
    let trailers = input.lines("trailers")?;
    let trailers = lines(&trailers);
    let fields = ClosingFields::read(&trailers)?;
    let peer = parse_peer(&input.many_bytes("tls_peer")?);
    let head = input.headers()?;
    let body = sum_up(&lines(&head), &input.bytes("body")?, &trailers);
    let expected = ExpectedClosing { record: &record, hash, peer: peer.as_ref(), body };
    let bundles = parse_bundles(input.object("bundles")?)?;
    let verified = receiver(input)?.verify_closing(&fields, &expected, &bundles, input.integer("now")?)?;
    Ok(facts([("closing", verified.hash().to_string().into()), ("fin", verified.claims().fin.as_str().into())]))
}

/// Sums of gRPC messages and of the frames of a WebSocket, however they are cut.
pub(super) fn sum_stream(input: &Input<'_>) -> Answer {
    let bytes = input.bytes("body")?;
    let mut sums = Vec::new();
    for step in [1, 3, bytes.len().max(1)] {
        sums.push(match input.text("kind")? {
            "grpc" => sum_messages(&bytes, step)?,
            kind => sum_frames(&bytes, step, kind == "client")?,
        });
    }
    sums.dedup();
    let [(sum, ends_at)] = sums[..] else {
        return Err(Failure::Shape("the sum depends on how the stream is cut".into()));
    };
    Ok(facts([
        ("len", sum.len.into()),
        ("cd", ClaimHash(sum.sha256).to_string().into()),
        ("n", sum.messages.into()),
        ("end", ends_at.into()),
    ]))
}

fn sum_messages(bytes: &[u8], step: usize) -> Result<(BodySum, Option<usize>), Failure> {
    let mut summer = BodySummer::for_head(&[("content-type", b"application/grpc")]);
    bytes.chunks(step).for_each(|piece| summer.update(piece));
    if summer.is_malformed() { Err(malformed("no gRPC messages").into()) } else { Ok((summer.finish(), None)) }
}

/// With how many bytes the direction was over.
fn sum_frames(bytes: &[u8], step: usize, masked: bool) -> Result<(BodySum, Option<usize>), Failure> {
    let (mut reader, mut taken) = (FrameReader::new(masked), 0);
    for piece in bytes.chunks(step) {
        let passed = reader.take(piece).map_err(malformed)?;
        taken += passed.frames + passed.close;
    }
    Ok((reader.sum(), reader.is_closed().then_some(taken)))
}

fn sum_up(head: &[HeaderLine<'_>], body: &[u8], trailers: &[HeaderLine<'_>]) -> BodySum {
    let mut summer = BodySummer::for_head(head);
    summer.update(body);
    // Trailers that cannot be bound fit no claim, and are found out in their turn.
    summer.finish().followed_by(trailer_binding(trailers).unwrap_or(Some([0; 32])))
}

pub(super) fn judge_evidence(input: &Input<'_>) -> Answer {
    let evidence = Evidence::parse(&input.bytes("payload")?)?;
    let sub = spiffe_id(input.text("sub")?)?;
    let configured = input.object("attestors")?;
    let listed = configured.get(sub.trust_domain()).and_then(Json::as_array).into_iter().flatten();
    let attestors = listed.filter_map(Json::as_str).map(spiffe_id).collect::<Result<Vec<_>, _>>()?;
    let sx = Thumbprint::of(&input.bytes("leaf")?);
    Ok(facts([("accepted", evidence.counts_for(&sub, &sx, &attestors, input.integer("now")?).into())]))
}

/// The record that was sent or accepted before: its claims and its statement hash count.
fn parse_record(input: &Input<'_>) -> Result<(StatementHash, Record), Failure> {
    let statement = UnverifiedStatement::parse(input.text("record")?)?;
    let record = Record::parse(statement.claims())?;
    Ok((statement.hash(), record))
}

fn parse_status(input: &Input<'_>) -> Result<u16, Failure> {
    u16::try_from(input.integer("status")?).map_err(|_| Failure::Shape("the status is no status".into()))
}

fn receiver(input: &Input<'_>) -> Result<Receiver, Failure> {
    let receiver = Receiver::new(&CacheSizes::default(), ReplayStore::new(1, 1));
    for der in Input(input.get("state")?).many_bytes("certs")? {
        receiver.restore_certificate(&Arc::new(Certificate::read(&der)));
    }
    Ok(receiver)
}

fn kids_json(kids: &Kids) -> Result<Json, Failure> {
    let mut text = String::new();
    write(&kids.to_value(), &mut text);
    serde_json::from_str(&text).map_err(|error| Failure::Shape(error.to_string()))
}
