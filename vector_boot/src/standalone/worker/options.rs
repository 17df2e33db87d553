//! The settings that the supervisor gives a new worker on its command line.

use crate::model_file::Trust;
use crate::protocol::CONNECTIONS_LIMIT;

/// The settings of a worker.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    /// Whether the port is a listening socket.
    pub listens: bool,
    /// Whether the model is the one inside the executable.
    pub embedded: bool,
    /// Whether `fault` requests are served.
    pub fault: bool,
    /// Whether this is the appliance, whose whole memory the worker may use.
    pub appliance: bool,
    /// Whether to serve without a model, in emergency mode.
    pub without_model: bool,
    /// Whether to serve the model as it was built, because workers died while they replayed the journal.
    pub without_journal: bool,
    /// Whether mutations cost no energy.
    pub energy_unlimited: bool,
    /// Whether to take over from a worker that serves, once it hands over.
    pub standby: bool,
    /// How many ports there are, or listening sockets.
    pub ports: usize,
    /// Whether there is a state device, behind the ports.
    pub state: StateAccess,
    /// Which images it serves; any if this is absent.
    pub trust: Option<Trust>,
}

/// What a worker may do with the state device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StateAccess {
    /// There is none.
    #[default]
    None,
    /// Read it.
    Read,
    /// Read and write it.
    Write,
}

/// The word before the number of ports.
const PORTS: &str = "--ports=";
/// The words for the access to a state device.
/// The word before the key and the security version of images to be trusted.
const TRUST: &str = "--trust=";
const STATE_READ: &str = "--state=read";
const STATE_WRITE: &str = "--state=write";

impl Options {
    /// The words for [`Options::parse`].
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["--worker".to_string()];
        let flags = [
            (self.listens, "--listens"),
            (self.embedded, "--embedded"),
            (self.fault, "--fault"),
            (self.appliance, "--appliance"),
            (self.without_model, "--without-model"),
            (self.without_journal, "--without-journal"),
            (self.energy_unlimited, "--energy-unlimited"),
            (self.standby, "--standby"),
        ];
        words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, word)| (*word).to_string()));
        let state = match self.state {
            StateAccess::None => None,
            StateAccess::Read => Some(STATE_READ),
            StateAccess::Write => Some(STATE_WRITE),
        };
        words.extend(state.map(str::to_string));
        words.extend(self.trust.map(|trust| format!("{TRUST}{}", trust.text())));
        words.push(format!("{PORTS}{}", self.ports));
        words
    }

    /// Parses the words that follow `--worker`.
    ///
    /// # Errors
    /// If one is unknown.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Options::default();
        for word in words {
            match *word {
                "--without-model" => options.without_model = true,
                "--without-journal" => options.without_journal = true,
                "--energy-unlimited" => options.energy_unlimited = true,
                "--standby" => options.standby = true,
                "--listens" => options.listens = true,
                "--embedded" => options.embedded = true,
                "--fault" => options.fault = true,
                "--appliance" => options.appliance = true,
                STATE_READ => options.state = StateAccess::Read,
                STATE_WRITE => options.state = StateAccess::Write,
                word if word.starts_with(TRUST) => {
                    let trust = Trust::parse(&word[TRUST.len()..]);
                    options.trust = Some(trust.ok_or_else(|| format!("unknown option {word:?}"))?);
                }
                _ => {
                    let ports = word.strip_prefix(PORTS).and_then(|ports| ports.parse().ok());
                    options.ports = ports
                        .filter(|ports| (1..=CONNECTIONS_LIMIT).contains(ports))
                        .ok_or_else(|| format!("unknown option {word:?}"))?;
                }
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_settings_correspond() {
        let mut key = [0x66; 32]; // the base point of the curve, which is a valid key
        key[0] = 0x58;
        let options = Options {
            listens: true,
            embedded: false,
            fault: true,
            appliance: true,
            without_model: true,
            without_journal: false,
            energy_unlimited: true,
            standby: true,
            ports: 16,
            state: StateAccess::Read,
            trust: Some(Trust { key, least_version: 7 }),
        };
        let words = options.words();
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        assert_eq!(Options::parse(&words), Ok(options));
        for wrong in ["--frob", "--ports=0", "--ports=17", "--ports=", "--trust=", "--trust=a9:1"] {
            assert!(Options::parse(&[wrong]).is_err());
        }
    }
}
