//! The request `hello`.

use serde_json::json;

use super::Machine;
use crate::protocol::{self, code, required, Reply, Request, RequestError, BLOB_LIMIT};
use crate::rts::hex;

impl Machine {
    pub(super) fn hello(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let version = required("protocol", params.integer("protocol")?)?;
        required("client", params.text("client")?)?;
        params.finish()?;
        if version != u64::from(protocol::VERSION) {
            return Err(RequestError::new(
                code::INVALID_PARAMS,
                format!("protocol {version} is not supported: use {}", protocol::VERSION),
            ));
        }
        request.no_blob()?;
        let generation = self.generation();
        let mut answer = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": protocol::VERSION,
            "build": &*self.build,
            "generation": generation,
            "promoted": self.vitals().promoted(),
            "signed": self.signing.is_some(),
            "emergency": self.emergency.as_deref(),
            "durable": self.is_durable(),
            "limits": {
                "line": protocol::LINE_LIMIT,
                "blob": BLOB_LIMIT,
                "upload": protocol::UPLOAD_LIMIT,
                "edits": protocol::EDITS_LIMIT,
            },
        });
        if let Some(signing) = &self.signing {
            answer["appliance"] = hex(&signing.appliance).into();
        }
        Ok(answer.into())
    }
}
