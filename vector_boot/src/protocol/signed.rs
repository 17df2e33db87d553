//! Signed changes: a DSSE envelope around the method and parameters of a request.
//!
//! The signature is checked before anything of the payload is read, and the payload is read strictly: an unknown or a
//! repeated member is refused.

use std::collections::HashSet;

use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::base64;
use super::{parse_hex, required, Method, ParameterError, Params};

/// The type of the payload, which the signature covers too.
pub const PAYLOAD_TYPE: &str = "application/vnd.vector-boot.v1+json";

/// A public key whose signatures a machine accepts.
#[derive(Debug, Clone, PartialEq)]
pub struct MutationKey {
    key: VerifyingKey,
    id: [u8; 32],
}

impl MutationKey {
    /// The key with these bytes; `None` if they are no Ed25519 public key, or one for which anybody can make signatures.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        let key = VerifyingKey::from_bytes(bytes).ok().filter(|key| !key.is_weak())?;
        Some(MutationKey { key, id: Sha256::digest(bytes).into() })
    }

    /// The key that 64 lower-case hex digits write.
    pub fn parse(text: &str) -> Option<Self> {
        Self::from_bytes(&parse_hex(text)?)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether `signature` is this key's for a payload of [`PAYLOAD_TYPE`].
    fn has_signed(&self, payload: &[u8], signature: &[u8; 64]) -> bool {
        let signed = pre_authentication_encoding(payload);
        self.key.verify_strict(&signed, &Signature::from_bytes(signature)).is_ok()
    }
}

/// What DSSE signs for a payload: lengths in decimal digits keep type and payload apart.
fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let mut signed = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len()).into_bytes();
    signed.extend_from_slice(payload);
    signed
}

/// The parameters of `signed`, decoded and not verified.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedEnvelope {
    payload: Vec<u8>,
    key_id: [u8; 32],
    signature: [u8; 64],
}

/// What a signed payload asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedCall {
    /// The machine that it is for.
    pub appliance: [u8; 16],
    /// The method.
    pub method: Method,
    /// Its parameters, as yet unchecked.
    pub params: Params,
    /// SHA-256 of its blob; `None` for a call without one.
    pub blob_sha256: Option<[u8; 32]>,
}

/// Why an envelope is not opened.
#[derive(Debug, Clone, PartialEq)]
pub enum OpenError {
    /// It is not signed by the key.
    Signature(String),
    /// It is signed, but its payload is wrong.
    Payload(ParameterError),
}

impl SignedEnvelope {
    /// Reads the parameters of `signed`.
    ///
    /// # Errors
    /// Names the parameter that is missing, unknown or wrong.
    pub fn parse(mut params: Params) -> Result<Self, ParameterError> {
        let payload = required("payload", params.text("payload")?)?;
        let key_id = required("keyid", params.hex("keyid")?)?;
        let signature = required("sig", params.text("sig")?)?;
        params.finish()?;
        let wrong = |name: &str, expected: &str| ParameterError(format!("parameter {name:?} must be {expected}"));
        let payload = base64::decode(&payload).ok_or_else(|| wrong("payload", "base64 with its padding"))?;
        let signature = base64::decode(&signature).and_then(|bytes| <[u8; 64]>::try_from(bytes).ok());
        let signature = signature.ok_or_else(|| wrong("sig", "64 bytes as base64"))?;
        Ok(SignedEnvelope { payload, key_id, signature })
    }

    /// The call inside, once the signature was found to be that of `key`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, key: &MutationKey) -> Result<SignedCall, OpenError> {
        if self.key_id != key.id {
            let text = "the change is signed by another key than the one that this machine was built with";
            return Err(OpenError::Signature(text.into()));
        }
        if !key.has_signed(&self.payload, &self.signature) {
            return Err(OpenError::Signature("the signature does not belong to this payload".into()));
        }
        SignedCall::parse(&self.payload).map_err(OpenError::Payload)
    }
}

impl SignedCall {
    fn parse(payload: &[u8]) -> Result<Self, ParameterError> {
        let refused = |why: &str| ParameterError(format!("the signed payload {why}"));
        let text = std::str::from_utf8(payload).map_err(|_| refused("is not UTF-8"))?;
        let Ok(Value::Object(members)) = serde_json::from_str(text) else {
            return Err(refused("is not a JSON object"));
        };
        if let Some(key) = repeated_key(text) {
            return Err(refused(&format!("has the member {key:?} twice in one object")));
        }
        Self::of_members(Params::new(members)).map_err(|error| refused(&format!("is wrong: {}", error.0)))
    }

    fn of_members(mut members: Params) -> Result<Self, ParameterError> {
        let appliance = required("appliance", members.hex("appliance")?)?;
        let name = required("method", members.text("method")?)?;
        let params = required("params", members.value("params"))?;
        let blob_sha256 = members.hex("blob_sha256")?;
        members.finish()?;
        let method = Method::parse(&name).filter(|method| method.needs_signature());
        let method = method.ok_or_else(|| ParameterError(format!("method {name:?} is none that is signed")))?;
        match params {
            Value::Object(params) => Ok(SignedCall { appliance, method, params: Params::new(params), blob_sha256 }),
            _ => Err(ParameterError("parameter \"params\" must be an object".into())),
        }
    }
}

/// A key that occurs twice in one object of a text that is known to be JSON. `serde_json` keeps the last value.
fn repeated_key(json: &str) -> Option<String> {
    let mut objects: Vec<HashSet<String>> = Vec::new();
    let mut rest = json.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'{' => objects.push(HashSet::new()),
            b'}' => drop(objects.pop()),
            b'"' => {
                let end = end_of_string(rest);
                let (text, behind) = rest.split_at(end);
                rest = behind.get(1..).unwrap_or_default();
                let is_key = rest.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b':');
                if !is_key {
                    continue;
                }
                // Escapes are resolved: "\u0061" is the key "a".
                let quoted = [b"\"", text, b"\""].concat();
                let key: String = serde_json::from_slice(&quoted).ok()?;
                if !objects.last_mut()?.insert(key.clone()) {
                    return Some(key);
                }
            }
            _ => (),
        }
    }
    None
}

/// Where the string ends whose first character is the first byte.
fn end_of_string(text: &[u8]) -> usize {
    let mut escaped = false;
    text.iter()
        .position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        })
        .unwrap_or(text.len())
}

#[cfg(test)]
mod tests;
