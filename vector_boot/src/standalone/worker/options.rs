//! What the supervisor tells a new worker on its command line.

/// Settings of one worker.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Options {
    /// First 12 hex digits of the executable's SHA-256.
    pub build: String,
    /// Whether the port is a listening socket.
    pub listens: bool,
    /// Whether the model is the one inside the executable.
    pub embedded: bool,
    /// Whether `fault` requests are served.
    pub fault: bool,
    /// Whether this is the appliance, where the whole machine's memory is ours.
    pub appliance: bool,
    /// Why no model may be loaded, if so.
    pub emergency: Option<String>,
}

impl Options {
    /// The words for [`Options::parse`].
    pub fn words(&self) -> Vec<String> {
        let mut words = vec!["--worker".to_string(), "--build".to_string(), self.build.clone()];
        let flags = [
            (self.listens, "--listens"),
            (self.embedded, "--embedded"),
            (self.fault, "--fault"),
            (self.appliance, "--appliance"),
        ];
        words.extend(flags.iter().filter(|(set, _)| *set).map(|(_, word)| (*word).to_string()));
        if let Some(why) = &self.emergency {
            words.extend(["--emergency".to_string(), why.clone()]);
        }
        words
    }

    /// Reads the words behind `--worker`.
    ///
    /// # Errors
    /// If one is unknown.
    pub fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Options::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().map(|value| (*value).to_string()).ok_or(format!("{word} needs a value"));
            match *word {
                "--build" => options.build = value()?,
                "--emergency" => options.emergency = Some(value()?),
                "--listens" => options.listens = true,
                "--embedded" => options.embedded = true,
                "--fault" => options.fault = true,
                "--appliance" => options.appliance = true,
                _ => return Err(format!("unknown option {word:?}")),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_supervisor_says_arrives() {
        let options = Options {
            build: "0123456789ab".into(),
            listens: true,
            embedded: false,
            fault: true,
            appliance: true,
            emergency: Some("a reason with spaces".into()),
        };
        let words = options.words();
        let words: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
        assert_eq!(Options::parse(&words), Ok(options));
        assert!(Options::parse(&["--frob"]).is_err() && Options::parse(&["--build"]).is_err());
    }
}
