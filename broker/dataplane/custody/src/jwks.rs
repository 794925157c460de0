//! Keys of token issuers: JSON Web Key sets, and signatures checked with a closed list of algorithms.
//!
//! Owns: which keys of a set can be used, which algorithms each allows, choosing a key, checking a signature.
//! Does not own: claims (see `usertoken`), fetching sets. The algorithm comes from the key: a token can only choose
//! among what its key allows, never `none` and never a MAC.
//!
//! Source: RFC 7517 §4 and §5, RFC 7518 §3 and §6, RFC 8037 §2, RFC 8725 §3.1 and §3.2.

use std::collections::HashSet;
use std::fmt;

use aws_lc_rs::rsa::PublicKeyComponents;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
};
use serde_json::Value as Json;

use crate::hash::decode_base64url;
use crate::limits::{MAX_ISSUER_KEYS, MAX_KEY_ID_BYTES};

const COORDINATE_BYTES: usize = 32;
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;
const MIN_RSA_EXPONENT: u64 = 65_537;
const MAX_RSA_EXPONENT_BYTES: usize = 4;

/// One key that signatures may be checked with.
pub struct IssuerKey {
    kid: Option<String>,
    /// The `alg` that the set allows alone, or None for all of the kind.
    only: Option<String>,
    material: Material,
}

enum Material {
    P256(ParsedPublicKey),
    Rsa(PublicKeyComponents<Vec<u8>>),
    Ed25519(ParsedPublicKey),
}

impl Material {
    fn algorithms(&self) -> &'static [&'static str] {
        match self {
            Self::P256(_) => &["ES256"],
            Self::Rsa(_) => &["RS256", "PS256"],
            Self::Ed25519(_) => &["EdDSA", "Ed25519"],
        }
    }
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "IssuerKey({:?})", self.kid)
    }
}

impl IssuerKey {
    /// True if this key allows `algorithm` and made `signature` with it.
    pub(crate) fn verifies(&self, algorithm: &str, signing_input: &[u8], signature: &[u8]) -> bool {
        if self.only.as_ref().is_some_and(|only| only != algorithm) {
            return false;
        }
        match (&self.material, algorithm) {
            (Material::P256(key), "ES256") | (Material::Ed25519(key), "EdDSA" | "Ed25519") => {
                key.verify_sig(signing_input, signature).is_ok()
            }
            (Material::Rsa(key), "RS256") => key.verify(&RSA_PKCS1_2048_8192_SHA256, signing_input, signature).is_ok(),
            (Material::Rsa(key), "PS256") => key.verify(&RSA_PSS_2048_8192_SHA256, signing_input, signature).is_ok(),
            _ => false,
        }
    }
}

/// The usable keys of a JSON Web Key set; keys of other kinds or for other uses are left out.
///
/// # Errors
/// One sentence: not a key set, too many keys, none that can be used, or two with one name.
pub fn parse_key_set(value: &Json) -> Result<Vec<IssuerKey>, String> {
    let listed = value.get("keys").and_then(Json::as_array).filter(|keys| keys.len() <= MAX_ISSUER_KEYS);
    let listed = listed.ok_or_else(|| format!("it is no key set of at most {MAX_ISSUER_KEYS} keys"))?;
    let usable: Vec<IssuerKey> = listed.iter().filter_map(parse_key).collect();
    if usable.is_empty() {
        return Err("no key in it can be used: ES256, RS256, PS256 or EdDSA are needed".into());
    }
    let names: HashSet<Option<&String>> = usable.iter().map(|key| key.kid.as_ref()).collect();
    if names.len() != usable.len() {
        return Err("two of its keys have the same kid, or none".into());
    }
    Ok(usable)
}

/// The key that a token names; a token that names none means the only one.
pub(crate) fn choose_key<'a>(keys: &'a [IssuerKey], kid: Option<&str>) -> Option<&'a IssuerKey> {
    match (kid, keys) {
        (None, [only]) => Some(only),
        (None, _) => None,
        (Some(kid), keys) => keys.iter().find(|key| key.kid.as_deref() == Some(kid)),
    }
}

fn parse_key(value: &Json) -> Option<IssuerKey> {
    if !value.is_object() || value.get("use").is_some_and(|usage| usage != "sig") {
        return None;
    }
    let kid = match value.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str().filter(|kid| (1..=MAX_KEY_ID_BYTES).contains(&kid.len()))?.to_owned()),
    };
    let material = match value.get("kty")?.as_str()? {
        "EC" => parse_ec(value),
        "RSA" => parse_rsa(value),
        "OKP" => parse_okp(value),
        _ => None,
    }?;
    let only = match value.get("alg") {
        None => None,
        Some(named) => {
            let named = named.as_str().filter(|named| material.algorithms().contains(named))?;
            Some(named.to_owned())
        }
    };
    Some(IssuerKey { kid, only, material })
}

fn parse_ec(value: &Json) -> Option<Material> {
    let (x, y) = (octets(value, "x")?, octets(value, "y")?);
    if value.get("crv")? != "P-256" || x.len() != COORDINATE_BYTES || y.len() != COORDINATE_BYTES {
        return None;
    }
    let point = [&[4_u8], x.as_slice(), y.as_slice()].concat();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok().map(Material::P256)
}

fn parse_rsa(value: &Json) -> Option<Material> {
    let (n, e) = (minimal(octets(value, "n")?), minimal(octets(value, "e")?));
    let is_wide_enough = RSA_BYTES.contains(&n.len()) && n.first().is_some_and(|byte| n.len() > 256 || *byte >= 0x80);
    let exponent = e.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    let is_usual = e.len() <= MAX_RSA_EXPONENT_BYTES && exponent >= MIN_RSA_EXPONENT && exponent % 2 == 1;
    (is_wide_enough && is_usual).then_some(Material::Rsa(PublicKeyComponents { n, e }))
}

fn parse_okp(value: &Json) -> Option<Material> {
    let x = octets(value, "x").filter(|x| x.len() == COORDINATE_BYTES)?;
    if value.get("crv")? != "Ed25519" {
        return None;
    }
    ParsedPublicKey::new(&ED25519, x).ok().map(Material::Ed25519)
}

fn octets(value: &Json, name: &str) -> Option<Vec<u8>> {
    decode_base64url(value.get(name)?.as_str()?)
}

/// Without leading zeros, which some issuers write.
fn minimal(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}
