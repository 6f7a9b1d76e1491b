//! What a kind of external system says about itself: its settings and its tools. The configuration checks settings by it,
//! and the adapters implement it; neither imports the other.

use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A kind of external system, as far as its settings are concerned.
pub trait SystemKind: Send + Sync {
    /// Its name, which is also the default name of a system of this kind.
    fn name(&self) -> &'static str;

    /// The JSON Schema of its settings: an object with `properties`. It may refer to the `$defs` of the configuration's
    /// schema, such as `#/$defs/secret`.
    fn schema(&self) -> &'static str;

    /// Returns the names of its tools without the system's name, or `None` if only the running system knows them.
    fn tools(&self) -> Option<Vec<&'static str>>;

    /// Says what has to hold for settings beyond their schema.
    fn check(&self, settings: &mut SettingsCheck<'_>);
}

/// The written settings of one system, and what has to hold for them.
#[derive(Debug)]
pub struct SettingsCheck<'a> {
    settings: &'a Value,
    rules: Vec<SettingsRule>,
}

/// What has to hold for the settings of a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingsRule {
    /// This member, if present, is the base URL of the system.
    Address(&'static str),
    /// This member, if present, is a secret that is sent in a header.
    FitsHeader(&'static str),
    /// It does not hold: a member has this fault, or the settings as a whole.
    Fault(Option<&'static str>, &'static str),
}

impl<'a> SettingsCheck<'a> {
    /// A check of `settings` without rules.
    pub fn new(settings: &'a Value) -> Self {
        Self {
            settings,
            rules: Vec::new(),
        }
    }

    /// Returns the rules.
    pub fn into_rules(self) -> Vec<SettingsRule> {
        self.rules
    }

    /// Whether a member was written, even a secret that could not be resolved.
    pub fn has(&self, member: &str) -> bool {
        self.settings.get(member).is_some()
    }

    /// Adds a fault of one member.
    pub fn fault(&mut self, member: &'static str, message: &'static str) {
        self.rules.push(SettingsRule::Fault(Some(member), message));
    }

    /// Adds a fault of the settings as a whole.
    pub fn fault_of_all(&mut self, message: &'static str) {
        self.rules.push(SettingsRule::Fault(None, message));
    }

    /// Requires that a member is the base URL of a system.
    pub fn address(&mut self, member: &'static str) {
        self.rules.push(SettingsRule::Address(member));
    }

    /// Requires that a secret can be sent in a header.
    pub fn fits_a_header(&mut self, member: &'static str) {
        self.rules.push(SettingsRule::FitsHeader(member));
    }
}

/// The settings of a system, which only its kind can read. `Debug` never shows them, because they contain secrets.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct SystemSettings(Value);

impl SystemSettings {
    /// Reads the settings into the kind's own type.
    ///
    /// # Errors
    /// When they do not fit, which the schema of the kind has ruled out.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, String> {
        // The error might quote a secret.
        T::deserialize(&self.0).map_err(|_error| "the settings do not fit this kind of system".to_owned())
    }

    /// Returns a member that is a text.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.0.get(member)?.as_str()
    }

    /// Returns all settings with their secrets as one text, to compare fingerprints.
    pub fn canonical(&self) -> String {
        self.0.to_string()
    }
}

impl fmt::Debug for SystemSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemSettings").finish_non_exhaustive()
    }
}
