//! The codec as JSON in, JSON out: what other implementations are compared with.
//!
//! Owns: the shapes of the shared test vectors. Does not own: any rule of the format.

use serde_json::{Map, Value as Json, json};

use crate::authority::{AudiencePattern, Authority, Narrowing, OperationPattern};
use crate::binding::{Body, HeaderLine, binding_base, request_binding, verify_content_digest};
use crate::cert::Certificate;
use crate::compose::Payload;
use crate::error::{Code, Missing, Rejection, malformed};
use crate::hash::{decode_base64, decode_base64url, encode_base64, encode_base64url};
use crate::jcs;
use crate::json::{Value, parse_object};
use crate::limits::MAX_INTEGER;
use crate::merkle::{build, statement_hash};
use crate::receive::fold;
use crate::record::Record;
use crate::seal::{UnverifiedStatement, path_text};
use crate::sealer::Sealer;
use crate::statement::StatementClaims as _;

mod answer;
mod receive;

/// Why an answer is not `ok`: a refusal of the format, or a request that has not the shape of a vector.
enum Failure {
    Refused(Rejection),
    Shape(String),
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection)
    }
}

type Answer = Result<Map<String, Json>, Failure>;

/// The answer to `{"kind", "input"}`, as the README of the test vectors describes both.
///
/// A request of another shape gets `{"result": "error", "code": "request_malformed", "detail"}`.
#[must_use]
pub fn custody_verify(request_json: &str) -> String {
    answer(verify(request_json))
}

/// The answer to `{"claims", "key_pkcs8", "leaf"}`: `{"sealed": [text, …]}` or an error as of [`custody_verify`].
#[must_use]
pub fn custody_sign(request_json: &str) -> String {
    answer(sign(request_json))
}

fn answer(result: Answer) -> String {
    match result {
        Ok(facts) => Json::Object(facts).to_string(),
        Err(Failure::Refused(rejection)) => {
            let missing: Vec<String> = rejection.missing.iter().map(Missing::to_string).collect();
            json!({"result": "error", "code": rejection.code.as_str(), "missing": missing}).to_string()
        }
        Err(Failure::Shape(detail)) => {
            json!({"result": "error", "code": "request_malformed", "detail": detail}).to_string()
        }
    }
}

fn verify(request_json: &str) -> Answer {
    let request: Json = serde_json::from_str(request_json).map_err(|error| Failure::Shape(error.to_string()))?;
    let input = Input(request.get("input").unwrap_or(&Json::Null));
    let mut facts = match request.get("kind").and_then(Json::as_str) {
        Some("base64url") => verify_base64url(&input),
        Some("claims") => verify_claims(&input),
        Some("seal") => verify_seal(&input),
        Some("seal_batch") => verify_batch(&input),
        Some("binding") => verify_binding(&input),
        Some("folding") => verify_folding(&input),
        Some("receive") => receive::verify(&input),
        Some("statement") => answer::verify_statement(&input),
        Some("kids") => answer::describe_kids(&input),
        Some("response_binding") => answer::verify_response_binding(&input),
        Some("sse") => answer::split_stream(&input),
        Some("streams") => answer::sum_stream(&input),
        Some("receipt_verify") => answer::verify_receipt(&input),
        Some("closing_verify") => answer::verify_closing(&input),
        Some("evidence") => answer::judge_evidence(&input),
        Some("jcs") => canonicalize(&input),
        Some("errors") => describe_code(&input),
        _ => Err(Failure::Shape("the kind is not known".into())),
    }?;
    facts.insert("result".into(), "ok".into());
    Ok(facts)
}

fn facts<const N: usize>(members: [(&str, Json); N]) -> Map<String, Json> {
    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn verify_base64url(input: &Input<'_>) -> Answer {
    let bytes = decode_base64url(input.text("text")?).ok_or_else(|| malformed("not canonical base64url"))?;
    Ok(facts([("bytes", encode_base64(&bytes).into())]))
}

fn canonicalize(input: &Input<'_>) -> Answer {
    let json = String::from_utf8(input.bytes("json")?).map_err(|_| malformed("not UTF-8"))?;
    let canonical = jcs::canonicalize(&json).map_err(malformed)?;
    let hash = jcs::canonical_hash(&json).map_err(malformed)?;
    Ok(facts([("canonical", encode_base64(canonical.as_bytes()).into()), ("hash", hash.to_string().into())]))
}

fn verify_claims(input: &Input<'_>) -> Answer {
    Record::parse(&input.bytes("payload")?)?;
    Ok(facts([]))
}

fn verify_seal(input: &Input<'_>) -> Answer {
    let (statement, index) = check_seal(input.text("sealed")?, &Certificate::read(&input.bytes("leaf")?))?;
    let hash = statement.hash().to_string();
    Ok(facts([("hash", hash.into()), ("n", statement.seal().count.into()), ("index", index.into())]))
}

fn check_seal(sealed: &str, leaf: &Certificate) -> Result<(UnverifiedStatement, u32), Rejection> {
    let statement = UnverifiedStatement::parse(sealed)?;
    if statement.seal().x5t != leaf.thumbprint() {
        return Err(Rejection::unresolved(vec![Missing::Certificate(statement.seal().x5t)]));
    }
    if !statement.path_holds() || !statement.signature_holds(leaf) {
        return Err(Rejection::new(Code::Signature, "the seal does not cover the statement"));
    }
    let index = statement.index();
    Ok((statement, index))
}

fn verify_batch(input: &Input<'_>) -> Answer {
    let leaf = Certificate::read(&input.bytes("leaf")?);
    let jws = input.text("jws")?;
    let (payloads, paths) = (input.texts("payloads")?, input.texts("paths")?);
    if payloads.len() != paths.len() {
        return Err(Failure::Shape("payloads and paths differ in number".into()));
    }
    for (payload, path) in payloads.iter().zip(&paths) {
        check_seal(&format!("{payload}.{path}.{jws}"), &leaf)?;
    }
    let x5t = leaf.thumbprint();
    let hashes: Vec<_> = payloads.iter().map(|payload| statement_hash(&x5t, payload)).collect();
    let (root, built) = build(&hashes).ok_or_else(|| malformed("a seal covers at least one statement"))?;
    let rebuilt = built.iter().zip(0_u8..=u8::MAX).map(|(path, index)| path_text(index, path));
    if !rebuilt.eq(paths.iter().map(|path| (*path).to_owned())) {
        return Err(malformed("the paths are not those of the tree").into());
    }
    let hashes: Vec<String> = hashes.iter().map(ToString::to_string).collect();
    Ok(facts([("hashes", hashes.into()), ("root", encode_base64url(&root).into())]))
}

fn verify_binding(input: &Input<'_>) -> Answer {
    let owned = input.headers()?;
    let headers = lines(&owned);
    let (method, uri) = (input.text("method")?, input.text("target_uri")?);
    verify_content_digest(&headers, &Body::of(&input.bytes("body")?))?;
    let base = binding_base(method, uri, &headers)?;
    let rqb = request_binding(method, uri, &headers)?;
    Ok(facts([("base", base.into()), ("rqb", rqb.to_string().into())]))
}

fn verify_folding(input: &Input<'_>) -> Answer {
    let auth = Authority::parse(&members(input.get("auth")?)?)?;
    let mut atts = Vec::new();
    for att in input.array("atts")? {
        atts.push(if att.is_null() { None } else { Some(Narrowing::parse(&members(att)?)?) });
    }
    let authority = fold(&auth, atts.iter().map(Option::as_ref))?;
    let operations = input.texts("operations")?;
    authority.allow(input.integer("hop")?, input.integer("now")?, input.text("own_id")?, &operations)?;
    Ok(facts([("authority", authority_json(&authority))]))
}

fn describe_code(input: &Input<'_>) -> Answer {
    let code = Code::parse(input.text("code")?).ok_or_else(|| Failure::Shape("the code is not known".into()))?;
    Ok(facts([
        ("http", code.http_status().into()),
        ("grpc", code.grpc_status().into()),
        ("retry", code.retry().into()),
    ]))
}

fn sign(request_json: &str) -> Answer {
    let request: Json = serde_json::from_str(request_json).map_err(|error| Failure::Shape(error.to_string()))?;
    let input = Input(&request);
    let leaf = Certificate::read(&input.bytes("leaf")?);
    let sealer =
        Sealer::new(&input.bytes("key_pkcs8")?, leaf.into()).map_err(|error| Failure::Shape(error.to_string()))?;
    let mut payloads = Vec::new();
    for claims in input.array("claims")? {
        payloads.push(Payload::from_claims(members(claims)?)?);
    }
    let statements = sealer.seal(&payloads).map_err(|error| Failure::Shape(error.to_string()))?;
    let texts: Vec<String> = statements.into_iter().map(|statement| statement.text).collect();
    Ok(facts([("sealed", texts.into())]))
}

/// The facts of an authority: null where the chain sets no limit.
fn authority_json(authority: &Authority) -> Json {
    let scope = authority.scope.as_ref().map(|scope| scope.iter().cloned().collect::<Vec<String>>());
    let aud = authority.aud.as_ref().map(|aud| aud.iter().map(AudiencePattern::text).collect::<Vec<String>>());
    let ops = authority.ops.as_ref().map(|ops| ops.iter().map(OperationPattern::text).collect::<Vec<String>>());
    json!({"scope": scope, "exp": authority.exp, "hops": authority.hops, "aud": aud, "ops": ops})
}

/// The members of a JSON object, read by the strict parser like those of a payload.
fn members(object: &Json) -> Result<Vec<(String, Value)>, Failure> {
    parse_object(object.to_string().as_bytes()).map_err(|detail| Failure::Refused(malformed(detail)))
}

fn lines(owned: &[(String, Vec<u8>)]) -> Vec<HeaderLine<'_>> {
    owned.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect()
}

/// The input of a vector, read by name and type.
struct Input<'a>(&'a Json);

impl<'a> Input<'a> {
    fn get(&self, name: &str) -> Result<&'a Json, Failure> {
        self.0.get(name).ok_or_else(|| Failure::Shape(format!("{name} is absent")))
    }

    fn text(&self, name: &str) -> Result<&'a str, Failure> {
        self.get(name)?.as_str().ok_or_else(|| Failure::Shape(format!("{name} is not text")))
    }

    fn integer(&self, name: &str) -> Result<i64, Failure> {
        let number = self.get(name)?.as_i64().filter(|number| number.unsigned_abs() <= MAX_INTEGER.unsigned_abs());
        number.ok_or_else(|| Failure::Shape(format!("{name} is not an integer within bounds")))
    }

    fn boolean(&self, name: &str) -> Result<bool, Failure> {
        self.get(name)?.as_bool().ok_or_else(|| Failure::Shape(format!("{name} is not a boolean")))
    }

    fn bytes(&self, name: &str) -> Result<Vec<u8>, Failure> {
        decode_base64(self.text(name)?).ok_or_else(|| Failure::Shape(format!("{name} is not base64")))
    }

    fn array(&self, name: &str) -> Result<&'a Vec<Json>, Failure> {
        self.get(name)?.as_array().ok_or_else(|| Failure::Shape(format!("{name} is not an array")))
    }

    fn texts(&self, name: &str) -> Result<Vec<&'a str>, Failure> {
        let text = |item: &'a Json| item.as_str().ok_or_else(|| Failure::Shape(format!("{name} holds no texts")));
        self.array(name)?.iter().map(text).collect()
    }

    /// As [`Input::texts`]; empty if absent.
    fn optional_texts(&self, name: &str) -> Result<Vec<&'a str>, Failure> {
        if self.0.get(name).is_none() { Ok(Vec::new()) } else { self.texts(name) }
    }

    fn many_bytes(&self, name: &str) -> Result<Vec<Vec<u8>>, Failure> {
        let decode = |text: &str| decode_base64(text).ok_or_else(|| Failure::Shape(format!("{name} is not base64")));
        self.texts(name)?.into_iter().map(decode).collect()
    }

    fn object(&self, name: &str) -> Result<&'a Map<String, Json>, Failure> {
        self.get(name)?.as_object().ok_or_else(|| Failure::Shape(format!("{name} is not an object")))
    }

    fn headers(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        self.lines("headers")
    }

    /// Field lines; each character of a value is one byte.
    fn lines(&self, name: &str) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let refuse = || Failure::Shape("a header is not a pair of ISO-8859-1 texts".into());
        let mut lines = Vec::new();
        for pair in self.array(name)? {
            let (Some(name), Some(value)) = (pair.get(0).and_then(Json::as_str), pair.get(1).and_then(Json::as_str))
            else {
                return Err(refuse());
            };
            let bytes = value.chars().map(|character| u8::try_from(character).map_err(|_| refuse()));
            lines.push((name.to_owned(), bytes.collect::<Result<_, _>>()?));
        }
        Ok(lines)
    }
}
