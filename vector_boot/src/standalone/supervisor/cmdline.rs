//! The settings on the kernel command line.

use std::time::Duration;

use super::listen::PROBATION_MS;
use crate::protocol::RELOAD_PROBATION_MS;
use crate::sys::device_mapper::Verity;

/// What the machine does when it cannot start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum OnFail {
    PowerOff,
    Reboot,
    Hold,
}

/// The settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelSettings {
    /// Time between beats.
    pub period: Duration,
    /// What to do when the machine cannot start.
    pub on_fail: OnFail,
    /// Whether mutations cost energy.
    pub energy: bool,
    /// 0 none, 1 A, 2 B.
    pub slot: u32,
    /// Whether `fault` requests are served.
    pub fault: bool,
    /// Probation of a worker after a reload.
    pub probation: Duration,
    /// The hash tree behind the image, through which alone the image is read.
    pub verity: Option<Verity>,
}

impl Default for KernelSettings {
    fn default() -> Self {
        KernelSettings {
            period: Duration::from_millis(100),
            on_fail: OnFail::PowerOff,
            energy: true,
            slot: 0,
            fault: false,
            probation: Duration::from_millis(RELOAD_PROBATION_MS),
            verity: None,
        }
    }
}

const PREFIX: &str = "vector_boot.";

/// Parses the settings. One that is not valid keeps its default and is named in a message.
pub fn parse(line: &str) -> (KernelSettings, Vec<String>) {
    let mut settings = KernelSettings::default();
    let mut messages = Vec::new();
    for word in line.split_ascii_whitespace() {
        let Some(setting) = word.strip_prefix(PREFIX) else { continue };
        let (key, value) = setting.split_once('=').unwrap_or((setting, ""));
        if let Err(expected) = settings.set(key, value) {
            messages.push(format!("ignored on the kernel command line: {word:?}, expected {expected}"));
        }
    }
    (settings, messages)
}

impl KernelSettings {
    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match (key, value) {
            ("heartbeat_ms", value) => match value.parse() {
                Ok(ms) if (10..=10_000).contains(&ms) => self.period = Duration::from_millis(ms),
                _ => return Err("heartbeat_ms of 10 to 10000"),
            },
            ("reload_probation_ms", value) => match value.parse() {
                Ok(ms) if PROBATION_MS.contains(&ms) => self.probation = Duration::from_millis(ms),
                _ => return Err("reload_probation_ms of 0 to 3600000"),
            },
            ("onfail", "poweroff") => self.on_fail = OnFail::PowerOff,
            ("onfail", "reboot") => self.on_fail = OnFail::Reboot,
            ("onfail", "hold") => self.on_fail = OnFail::Hold,
            ("onfail", _) => return Err("onfail=poweroff, reboot or hold"),
            ("energy", "on") => self.energy = true,
            ("energy", "off") => self.energy = false,
            ("energy", _) => return Err("energy=on or off"),
            ("slot", "") => self.slot = 0,
            ("slot", "A") => self.slot = 1,
            ("slot", "B") => self.slot = 2,
            ("slot", _) => return Err("slot=A or B"),
            ("fault", "0") => self.fault = false,
            ("fault", "1") => self.fault = true,
            ("fault", _) => return Err("fault=0 or 1"),
            ("verity", value) => self.verity = Some(parse_verity(value).ok_or("verity=64 hex digits:blocks")?),
            _ => return Err("heartbeat_ms, onfail, energy, slot, fault, verity or reload_probation_ms"),
        }
        Ok(())
    }
}

/// The root hash, a colon, and the number of blocks.
fn parse_verity(text: &str) -> Option<Verity> {
    let (digits, blocks) = text.split_once(':')?;
    let digits = digits.as_bytes();
    let value = |digit: u8| char::from(digit).to_digit(16).filter(|_| !digit.is_ascii_uppercase());
    let mut root = [0; 32];
    if digits.len() != 2 * root.len() || !blocks.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    for (byte, pair) in root.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
    }
    let data_blocks = blocks.parse().ok().filter(|blocks| (1..=1 << 40).contains(blocks))?;
    Some(Verity { root, data_blocks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_parsed() {
        let line = "console=ttyS0 vector_boot.heartbeat_ms=250 vector_boot.onfail=hold vector_boot.energy=off \
                    vector_boot.slot=B vector_boot.fault=1 vector_boot.reload_probation_ms=50 \
                    vector_boot.verity=00000000000000000000000000000000000000000000000000000000000000a9:17\n";
        let mut root = [0; 32];
        root[31] = 0xA9;
        let expected = KernelSettings {
            period: Duration::from_millis(250),
            on_fail: OnFail::Hold,
            energy: false,
            slot: 2,
            fault: true,
            probation: Duration::from_millis(50),
            verity: Some(Verity { root, data_blocks: 17 }),
        };
        assert_eq!(parse(line), (expected, vec![]));
    }

    #[test]
    fn invalid_settings_keep_the_default_and_are_named() {
        for word in [
            "heartbeat_ms=9",
            "heartbeat_ms=10001",
            "reload_probation_ms=3600001",
            "heartbeat_ms=x",
            "onfail=",
            "energy=1",
            "slot=C",
            "fault",
            "x=1",
            "verity=",
            "verity=00:1",
            "verity=00000000000000000000000000000000000000000000000000000000000000A9:17",
            "verity=00000000000000000000000000000000000000000000000000000000000000a9:0",
            "verity=00000000000000000000000000000000000000000000000000000000000000a9:+7",
            "verity=00000000000000000000000000000000000000000000000000000000000000a9:99999999999999",
        ] {
            let (settings, messages) = parse(&format!("vector_boot.{word}"));
            assert_eq!((settings, messages.len()), (KernelSettings::default(), 1), "{word}");
        }
    }
}
