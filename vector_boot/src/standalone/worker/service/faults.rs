//! The request `fault`: the worker makes itself fail, for tests.

use std::time::Duration;

use serde_json::json;

use super::{Answer, Crash, Service};
use crate::protocol::{code, required, FaultKind, Request, RequestError};
use crate::standalone::control::Control;

impl Service {
    pub(super) fn fault(&mut self, request: &Request, connection: u64) -> Answer {
        if !self.settings.fault_allowed {
            return Err(RequestError::new(code::UNKNOWN_METHOD, "fault requests are switched off on this machine"));
        }
        let mut params = request.params.clone();
        let what = required("what", params.text("what")?)?;
        let count = params.integer("count")?.unwrap_or(1);
        params.finish()?;
        let Some(what) = FaultKind::parse(&what) else {
            let known = FaultKind::ALL.map(FaultKind::name).join(", ");
            return Err(RequestError::new(
                code::INVALID_PARAMS,
                format!("there is no fault {what:?}: expected {known}"),
            ));
        };
        request.no_blob()?;
        self.machine.require_model()?;
        if what == FaultKind::Orphans {
            Control::Orphans { count }.send(&self.control).map_err(|_| RequestError::new(code::BUSY, "busy"))?;
        } else {
            self.crash = Some(Crash { what, count, connection });
        }
        Ok(json!({}).into())
    }

    /// Crashes as requested, once the answer has been sent.
    pub(super) fn crash_if_asked(&mut self) {
        let Some(Crash { what, count, connection }) = self.crash else { return };
        if self.connections.numbered(connection).is_some_and(|connection| connection.has_output()) {
            return;
        }
        self.crash = None;
        match what {
            FaultKind::Segv => crate::sys::fault::segv(),
            FaultKind::Abort => std::process::abort(),
            FaultKind::Hang => std::thread::sleep(Duration::MAX),
            FaultKind::Oom => crate::sys::fault::exhaust_memory(self.settings.appliance),
            FaultKind::Call => crate::sys::fault::call(count),
            FaultKind::Orphans => (),
        }
    }
}
