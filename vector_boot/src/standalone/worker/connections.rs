//! The connections of the worker: each stands in a place of its own, of a port or of a client of the listening socket.
//!
//! Their memory is bounded together. Each may always hold a share, so that none waits for another that does not read.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use super::connection::{Connection, Pending};
use super::link::Link;
use super::runner::Runner;
use super::turns::{Class, Running, Turn, Turns};
use crate::protocol::packing::Packed;
use crate::protocol::{code, Method, RequestError, Runs, CONNECTIONS_LIMIT};
use crate::standalone::reload::handover::Outgoing;
use crate::sys::ready::{wait, Interest};

/// With more memory than this taken by waiting requests, over all connections, reading pauses ...
const QUEUED_LIMIT: usize = 32 << 20;
/// ... for connections that have more than this of it.
const QUEUED_SHARE: usize = 1 << 20;
/// With more bytes than this waiting to be sent, over all connections, no request is handled ...
const UNSENT_LIMIT: usize = 8 << 20;
/// ... of connections that have more than this of them.
const UNSENT_SHARE: usize = 256 << 10;
/// Clients accepted in one turn.
const ACCEPT_LIMIT: usize = 32;
/// After which time a client that is turned away may try again.
const RETRY_MS: u64 = 1000;
/// A port without a host is always ready, so it is not waited for but looked at, at most this often.
const PORT_INTERVAL: Duration = Duration::from_millis(20);

/// One place.
struct Place {
    /// The port of this place, or its client.
    link: Option<Link>,
    /// The connection, while a host or client is there.
    connection: Option<Connection>,
}

/// The numbers of connections that came and went.
#[derive(Debug, Default)]
pub struct Changes {
    /// New ones.
    pub fresh: Vec<u64>,
    /// Those whose client had left, found when another one wanted the place.
    pub ended: Vec<u64>,
}

/// All connections.
pub struct Connections {
    listener: Option<UnixListener>,
    /// Whether clients may wait to be accepted.
    knocked: bool,
    places: Vec<Place>,
    turns: Turns,
    /// Number of the newest connection.
    newest: u64,
    ports_seen: Option<Instant>,
}

impl Connections {
    /// Takes ownership of ports, or of a listening socket.
    ///
    /// # Errors
    /// If a descriptor cannot be made non-blocking.
    pub fn new(fds: Vec<OwnedFd>, listens: bool) -> io::Result<Self> {
        let (mut listener, mut places) = (None, Vec::new());
        if listens {
            for fd in fds {
                let socket = UnixListener::from(fd);
                socket.set_nonblocking(true)?;
                listener = Some(socket);
            }
            places.extend((0..CONNECTIONS_LIMIT).map(|_| Place { link: None, connection: None }));
        } else {
            for fd in fds.into_iter().take(CONNECTIONS_LIMIT) {
                places.push(Place { link: Some(Link::port(fd)?), connection: None });
            }
        }
        Ok(Connections { listener, knocked: false, places, turns: Turns::default(), newest: 0, ports_seen: None })
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.places.len()
    }

    /// The connection in a place, and its stream.
    pub fn at(&mut self, place: usize) -> Option<(&mut Connection, &mut Link)> {
        let Place { link, connection } = self.places.get_mut(place)?;
        connection.as_mut().zip(link.as_mut())
    }

    /// All connections.
    pub fn open(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.places.iter_mut().filter_map(|place| place.connection.as_mut())
    }

    /// The connection with this number, if it has not ended.
    pub fn numbered(&mut self, number: u64) -> Option<&mut Connection> {
        self.open().find(|connection| connection.number == number)
    }

    /// The place of the connection with this number.
    pub fn place_of(&self, number: u64) -> Option<usize> {
        self.places.iter().position(|place| place.connection.as_ref().is_some_and(|c| c.number == number))
    }

    fn sum(&self, of: impl Fn(&Connection) -> usize) -> usize {
        self.places.iter().filter_map(|place| place.connection.as_ref()).map(of).sum()
    }

    /// Whether there is memory for further requests of the connection in a place.
    pub fn has_memory(&self, place: usize) -> bool {
        let own = self.places[place].connection.as_ref().map_or(0, Connection::queued_bytes);
        own < QUEUED_SHARE || self.sum(Connection::queued_bytes) < QUEUED_LIMIT
    }

    /// Waits until a connection or one of `others` is ready, or the time is over. Returns the places whose host has hung up.
    pub fn wait(&mut self, others: &[Interest], timeout: Duration) -> Vec<usize> {
        let mut interests = others.to_vec();
        interests.extend(self.listener.iter().map(|listener| Interest::read(listener.as_raw_fd())));
        let first = interests.len();
        let mut waited = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            if let Place { link: Some(link), connection: Some(connection) } = place {
                let read = connection.may_read(self.has_memory(index));
                interests.push(Interest::read_write(link.fd(), read, connection.has_output()));
                waited.push(index);
            }
        }
        if wait(&mut interests, timeout).is_err() {
            return vec![];
        }
        self.knocked |= self.listener.is_some() && interests[first - 1].happened();
        let mut hung_up = Vec::new();
        for (index, interest) in waited.into_iter().zip(&interests[first..]) {
            if let Some(connection) = self.places[index].connection.as_mut().filter(|_| interest.happened()) {
                connection.note_readable();
            }
            hung_up.extend(Some(index).filter(|_| interest.hung_up()));
        }
        hung_up
    }

    /// When the first blob that a host has begun times out.
    pub fn deadline_ms(&self) -> Option<u64> {
        let deadline = |(index, place): (usize, &Place)| {
            place.connection.as_ref().and_then(|connection| connection.deadline_ms(self.has_memory(index)))
        };
        self.places.iter().enumerate().filter_map(deadline).min()
    }

    /// Finds the ports to which a host has connected, and accepts clients.
    pub fn accept(&mut self) -> Changes {
        let mut changes = Changes { fresh: self.connected_ports(), ended: vec![] };
        let mut left = ACCEPT_LIMIT;
        while self.knocked && left > 0 {
            left -= 1;
            let Some(Ok((client, _))) = self.listener.as_ref().map(UnixListener::accept) else {
                self.knocked = false;
                break;
            };
            if client.set_nonblocking(true).is_err() {
                continue;
            }
            if self.free_place().is_none() {
                changes.ended.extend(self.end_left());
            }
            match self.free_place() {
                Some(place) => {
                    self.places[place].link = Some(Link::Socket(client));
                    changes.fresh.push(self.connect(place));
                }
                None => self.turn_away(client),
            }
        }
        changes
    }

    fn free_place(&self) -> Option<usize> {
        self.places.iter().position(|place| place.link.is_none())
    }

    /// Ends the connections whose client has left since the last wait: they must not keep another one out.
    fn end_left(&mut self) -> Vec<u64> {
        let left = self.wait(&[], Duration::ZERO);
        left.into_iter().filter_map(|place| self.end(place)).collect()
    }

    fn connect(&mut self, place: usize) -> u64 {
        self.newest += 1;
        self.places[place].connection = Some(Connection::fresh(self.newest));
        self.newest
    }

    /// Looks at all ports without a host with one system call.
    fn connected_ports(&mut self) -> Vec<u64> {
        if self.ports_seen.is_some_and(|at| at.elapsed() < PORT_INTERVAL) {
            return vec![];
        }
        let idle = |place: &Place| place.connection.is_none() && place.link.as_ref().is_some_and(Link::is_port);
        let idle: Vec<usize> = (0..self.places.len()).filter(|place| idle(&self.places[*place])).collect();
        if idle.is_empty() {
            return vec![];
        }
        self.ports_seen = Some(Instant::now());
        let fds = idle.iter().filter_map(|place| self.places[*place].link.as_ref()).map(Link::fd);
        let mut interests: Vec<Interest> = fds.map(|fd| Interest::read_write(fd, false, false)).collect();
        if wait(&mut interests, Duration::ZERO).is_err() {
            return vec![];
        }
        let connected = idle.into_iter().zip(&interests).filter(|(_, interest)| !interest.hung_up());
        let connected: Vec<usize> = connected.map(|(place, _)| place).collect();
        connected.into_iter().map(|place| self.connect(place)).collect()
    }

    /// Tells a client that all places are taken, and by whom.
    fn turn_away(&self, mut client: UnixStream) {
        let connections = self.places.iter().filter_map(|place| place.connection.as_ref());
        let clients: Vec<&str> = connections.filter_map(|connection| connection.client.as_deref()).collect();
        let text = format!("{CONNECTIONS_LIMIT} clients are connected, which is the limit");
        let busy = RequestError::new(code::BUSY, text).with(json!({"retry_ms": RETRY_MS, "clients": clients}));
        let _ = client.write(&busy.to_bytes(&Value::Null));
    }

    /// Ends the connection in a place. Returns its number.
    pub fn end(&mut self, place: usize) -> Option<u64> {
        let place = self.places.get_mut(place)?;
        if let Some(Link::Socket(client)) = place.link.as_ref() {
            let _ = client.shutdown(Shutdown::Both); // another worker may hold the same socket
            place.link = None;
        }
        place.connection.take().map(|connection| connection.number)
    }

    /// Removes the message whose turn it is, and says in which place it was; `None` if none may be handled now.
    pub fn next(&mut self, running: Running) -> Option<(usize, Pending)> {
        self.next_of(running, |_| true)
    }

    /// The same among those messages at the front of their queues that are wanted, while nothing runs.
    pub fn next_wanted(&mut self, wanted: impl Fn(&Pending) -> bool) -> Option<(usize, Pending)> {
        self.next_of(Running::Nothing, wanted)
    }

    fn next_of(&mut self, running: Running, wanted: impl Fn(&Pending) -> bool) -> Option<(usize, Pending)> {
        let (places, unsent) = (&self.places, self.sum(Connection::unsent_bytes));
        let class = |place: usize, position: usize| {
            let connection = places[place].connection.as_ref()?;
            let waits = connection.is_full() || (unsent >= UNSENT_LIMIT && connection.unsent_bytes() >= UNSENT_SHARE);
            let pending = connection.waiting(position).filter(|pending| !waits && wanted(pending))?;
            let class = class(pending);
            Some(if connection.held && class != Class::Passes { Class::Held } else { class })
        };
        let Turn { place, position } = self.turns.next(places.len(), running, class)?;
        let pending = self.places[place].connection.as_mut()?.take(position)?;
        Some((place, pending))
    }
}

/// Handing over to another worker.
impl Connections {
    /// Packs all connections; `out` gets the sockets of clients too. Ports and the listening socket every worker has.
    pub fn pack<'a>(&'a self, out: &mut Outgoing<'a>) {
        self.newest.pack(&mut out.bytes);
        let taken: Vec<usize> = (0..self.places.len()).filter(|at| self.places[*at].connection.is_some()).collect();
        taken.len().pack(&mut out.bytes);
        for at in taken {
            let Place { link, connection } = &self.places[at];
            at.pack(&mut out.bytes);
            if let Some(connection) = connection {
                connection.pack(&mut out.bytes);
            }
            out.fds.extend(link.as_ref().and_then(Link::socket));
        }
    }

    /// Takes the place of packed ones; `None` if they are not valid.
    pub fn restore(&mut self, bytes: &mut &[u8], next_fd: &mut dyn FnMut() -> Option<OwnedFd>) -> Option<()> {
        self.newest = u64::unpack(bytes)?;
        for _ in 0..usize::unpack(bytes)? {
            let at = usize::unpack(bytes)?;
            let place = self.places.get_mut(at)?;
            place.connection = Some(Connection::unpack(bytes)?);
            if place.link.is_none() {
                place.link = Some(Link::Socket(UnixStream::from(next_fd()?)));
            }
        }
        self.knocked = self.listener.is_some();
        Some(())
    }

    /// Goes on after another process has served the connections.
    pub fn begin_anew(&mut self) {
        self.open().for_each(Connection::begin_anew);
        self.knocked = self.listener.is_some();
    }
}

/// How a message behaves while something runs.
fn class(pending: &Pending) -> Class {
    match pending {
        Pending::Bye => Class::Passes,
        Pending::Refused(..) => Class::Reads,
        Pending::Request(request, _) if request.method.passes() => Class::Passes,
        // What the second thread runs has to wait for it, also a `read` of an older generation.
        Pending::Request(request, _) if Runner::takes(request, false) => Class::Waits,
        // `renew` writes the end of the trial, so it needs the weights for itself.
        Pending::Request(request, _) if request.method.runs() == Runs::Inline && request.method != Method::Renew => {
            Class::Reads
        }
        Pending::Request(..) => Class::Waits,
    }
}
