//! How a request becomes an answer: at once, or by a job.

use serde_json::Value;

use super::{Answer, Service};
use crate::machine::Arrival;
use crate::protocol::{Method, Request};
use crate::standalone::worker::runner::{Job, Runner};

impl Service {
    /// Answers a request, or begins a job that does.
    pub(super) fn handle_request(&mut self, request: Request, arrival: Arrival) {
        let begun = match request.method {
            Method::Reload => Some(self.begin_reload(&request, arrival.connection)),
            Method::UpdateBegin | Method::UpdateWrite | Method::UpdateCommit => {
                Some(self.handle_update(&request, arrival.connection))
            }
            _ => None,
        };
        if let Some(begun) = begun {
            if let Err(error) = begun {
                self.answer_with(arrival.connection, &request.id, Err(error));
            }
            return;
        }
        if self.runs_in_runner(&request) {
            let joins = Runner::joins_others(request.method, &request.params, &request.blob)
                .filter(|_| self.machine.is_durable());
            let job = match joins {
                Some(bytes) => Job::Mutate(self.gather(request, arrival.connection, bytes)),
                None => Job::Answer(request, arrival),
            };
            self.runner.start(job);
            return;
        }
        let answer = self.answer(&request, arrival);
        if self.runner.running().is_some() {
            self.send_events(); // the answer may show a generation that the second thread has just made
        }
        self.answer_with(arrival.connection, &request.id, answer);
        self.send_events();
    }

    /// Queues an answer, if the connection has not ended.
    pub(super) fn answer_with(&mut self, connection: u64, id: &Value, answer: Answer) {
        if let Some(connection) = self.connections.numbered(connection) {
            connection.answer(id, answer);
        }
    }

    /// Whether a request is a job. Its machine must not be used once the model's file has changed.
    fn runs_in_runner(&mut self, request: &Request) -> bool {
        self.check_model_file();
        !self.model_lost && Runner::takes(request, self.machine.is_durable())
    }

    fn answer(&mut self, request: &Request, arrival: Arrival) -> Answer {
        match request.method {
            Method::Subscribe => self.subscribe(request, arrival.connection),
            Method::Shutdown => self.shutdown(request, arrival.connection),
            Method::Fault => self.fault(request, arrival.connection),
            Method::Cancel => self.cancel(request, arrival.connection),
            _ => {
                if request.method == Method::Hello {
                    self.check_journal(); // it says whether changes survive
                }
                let answer = self.machine.answer(request, arrival);
                self.note_client(request, arrival.connection, &answer);
                match self.check_model_file() {
                    true => self.machine.answer(request, arrival), // the answer of emergency mode
                    false => answer,
                }
            }
        }
    }

    /// Remembers the name of a client that has said hello, for clients that find no place.
    fn note_client(&mut self, request: &Request, connection: u64, answer: &Answer) {
        let name = request.params.get("client").and_then(Value::as_str);
        if let (Method::Hello, Ok(_), Some(name)) = (request.method, answer, name) {
            if let Some(connection) = self.connections.numbered(connection) {
                connection.note_client(name);
            }
        }
    }
}
