//! Signed changes: a machine whose model has a mutation key takes changes only inside `signed`.

use sha2::{Digest, Sha256};

use super::Machine;
use crate::protocol::{
    code, Blob, Method, MutationKey, OpenError, Request, RequestError, Seal, SignedCall, SignedEnvelope,
};
use crate::sys;
use crate::vitals::Vitals;

/// Bytes that are hashed between two signs of life.
const HASH_PIECE: usize = 4 << 20;

/// What signed changes are verified with.
pub struct Signing {
    key: MutationKey,
    /// The id of this machine, which every signed change names.
    pub appliance: [u8; 16],
}

impl Signing {
    /// With the key of the model, or the one that an earlier worker found; `None` if there is none. The id of the machine
    /// is that of its state device, else the one noted in the vitals, else a random one, which is noted there.
    ///
    /// # Errors
    /// One sentence if there are no random numbers.
    pub fn new(key: Option<MutationKey>, device: Option<[u8; 16]>, vitals: Vitals<'_>) -> Result<Option<Self>, String> {
        let noted = || vitals.mutation_key().and_then(|bytes| MutationKey::from_bytes(&bytes));
        let Some(key) = key.or_else(noted) else { return Ok(None) };
        let no_id = |error| format!("there is no random number for the id of the machine: {error}");
        let appliance = match device.or(vitals.appliance()) {
            Some(id) => id,
            None => sys::random().map_err(no_id)?,
        };
        vitals.set_appliance(&appliance);
        vitals.set_mutation_key(key.bytes());
        Ok(Some(Signing { key, appliance }))
    }

    /// The call in an envelope that is signed for this machine.
    ///
    /// # Errors
    /// 1010, or -32602 if the payload is signed and wrong.
    fn open(&self, envelope: &SignedEnvelope) -> Result<SignedCall, RequestError> {
        let call = envelope.open(&self.key).map_err(|error| match error {
            OpenError::Signature(why) => RequestError::new(code::BAD_SIGNATURE, why),
            OpenError::Payload(error) => error.into(),
        })?;
        if call.appliance != self.appliance {
            return Err(RequestError::new(code::BAD_SIGNATURE, "the change is signed for another machine"));
        }
        Ok(call)
    }
}

impl Machine {
    /// The request inside a `signed` one whose signature is right; any other request as it is, to be answered by
    /// [`Machine::answer`]. To be called before a request is handled by its method.
    pub fn unsealed(&self, mut request: Request) -> Request {
        self.signed_call(&request);
        if let Some(call) = request.opened.take().flatten() {
            (request.method, request.params) = (call.method, call.params);
            request.seal = Some(Seal { blob_sha256: call.blob_sha256 });
        }
        request
    }

    /// What a `signed` request asks for, if its signature is right, which is verified once: a request may be looked at many
    /// times before its turn comes.
    pub fn signed_call<'a>(&self, request: &'a Request) -> Option<&'a SignedCall> {
        let open = || {
            let envelope = SignedEnvelope::parse(request.params.clone()).ok()?;
            self.signing.as_ref()?.open(&envelope).ok().map(Box::new)
        };
        match request.method {
            Method::Signed => request.opened.get_or_init(open).as_deref(),
            _ => None,
        }
    }

    /// Why a `signed` request is refused, which [`Machine::unsealed`] has left as it is.
    pub(super) fn refuse_signed(&self, request: &Request) -> RequestError {
        self.require_signed(request)
            .err()
            .unwrap_or_else(|| RequestError::new(code::BAD_SIGNATURE, "the change was not taken out of its envelope"))
    }

    fn require_signed(&self, request: &Request) -> Result<(), RequestError> {
        let envelope = SignedEnvelope::parse(request.params.clone())?;
        request.sound_blob()?;
        self.lineage()?.require_log()?;
        let Some(signing) = &self.signing else {
            let text = "this machine was built without a mutation key: send the change without a signature";
            return Err(RequestError::new(code::BAD_SIGNATURE, text));
        };
        signing.open(&envelope).map(|_| ())
    }

    /// Checks that the generation and the build are these, as far as they are given: a copy of a signed reload must not bring
    /// its executable back later.
    ///
    /// # Errors
    /// 1007 with the current generation.
    pub fn require_state(&self, generation: Option<u64>, build: Option<&str>) -> Result<(), RequestError> {
        let current = self.generation();
        let text = match (generation, build) {
            (Some(wanted), _) if wanted != current => {
                format!("the reload was made for generation {wanted}, but the current one is {current}")
            }
            (_, Some(wanted)) if wanted != &*self.build => {
                format!("the reload was made for build {wanted}, but {} is running", self.build)
            }
            _ => return Ok(()),
        };
        Err(RequestError::new(code::STALE_GENERATION, text).with(serde_json::json!({"generation": current})))
    }

    /// Whether changes must be signed.
    pub(super) fn takes_signed_only(&self) -> bool {
        self.signing.is_some()
    }

    /// Checks, on a machine with a mutation key, that a request and its blob are signed.
    ///
    /// # Errors
    /// 1010 if they are not.
    pub fn require_seal(&self, request: &Request, blob: &[u8]) -> Result<(), RequestError> {
        let refuse = |text: &str| Err(RequestError::new(code::BAD_SIGNATURE, text));
        if self.key_unknown {
            return refuse(
                "the model cannot be read, so it is not known whether this machine takes signed changes only: boot a sound image",
            );
        }
        if !self.takes_signed_only() {
            return Ok(());
        }
        match &request.seal {
            None => refuse("this machine takes signed changes only: send this one inside `signed`"),
            Some(Seal { blob_sha256: None }) if matches!(request.blob, Blob::None) => Ok(()),
            Some(Seal { blob_sha256: None }) => refuse("the blob is not signed: `blob_sha256` is missing"),
            Some(Seal { blob_sha256: Some(_) }) if matches!(request.blob, Blob::None) => {
                refuse("the change was signed with a blob, and came without one")
            }
            Some(Seal { blob_sha256: Some(signed) }) if self.sha256(blob) == *signed => Ok(()),
            Some(_) => refuse("the blob is not the one that was signed"),
        }
    }

    /// SHA-256 of what may be large: the supervisor sees the progress.
    fn sha256(&self, bytes: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for piece in bytes.chunks(HASH_PIECE) {
            hash.update(piece);
            self.vitals().make_progress();
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests;
