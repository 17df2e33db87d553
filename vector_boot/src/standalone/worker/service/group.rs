//! Mutations that wait for the same flush of the state device.

use super::Service;
use crate::protocol::Request;
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
        while requests.len() < GROUP_LIMIT && bytes < GROUP_BYTES {
            let joins = |pending: &Pending| match pending {
                Pending::Request(request, _) => Runner::joins_others(request),
                _ => None,
            };
            let Some((place, pending)) = self.connections.next_wanted(|pending| joins(pending).is_some()) else {
                break;
            };
            bytes += joins(&pending).unwrap_or(0);
            let connection = self.connections.at(place).map_or(0, |(connection, _)| connection.number);
            if let Pending::Request(request, _) = pending {
                requests.push((request, connection));
            }
        }
        requests
    }
}
