//! Mutations that wait for the same flush of the state device.

use super::Service;
use crate::protocol::{Method, Request};
use crate::standalone::worker::connection::Pending;
use crate::standalone::worker::runner::Runner;

/// Mutations that become permanent together, and the bytes of their blobs above which no more are added.
const GROUP_LIMIT: usize = 64;
const GROUP_BYTES: usize = 1 << 20;

impl Service {
    /// The mutations that wait and can become permanent together with this one, whose blob has so many bytes: one flush of the
    /// state device does for all.
    pub(super) fn gather(&mut self, first: Request, connection: u64, mut bytes: usize) -> Vec<(Request, u64)> {
        let mut requests = vec![(first, connection)];
        let machine = &self.machine;
        let joins = |pending: &Pending| {
            let Pending::Request(request, _) = pending else { return None };
            if request.method != Method::Signed {
                return Runner::joins_others(request.method, &request.params, &request.blob);
            }
            let call = machine.signed_call(request)?;
            Runner::joins_others(call.method, &call.params, &request.blob)
        };
        while requests.len() < GROUP_LIMIT && bytes < GROUP_BYTES {
            let Some((place, pending)) = self.connections.next_wanted(|pending| joins(pending).is_some()) else {
                break;
            };
            bytes += joins(&pending).unwrap_or(0);
            let connection = self.connections.at(place).map_or(0, |(connection, _)| connection.number);
            if let Pending::Request(request, _) = pending {
                requests.push((machine.unsealed(request), connection));
            }
        }
        requests
    }
}
