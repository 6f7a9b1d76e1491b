//! The tools of a system under the system's own name.
//!
//! A tool's file and code have the name that it has in a system with the default name: `zendesk_search_tickets`. In a
//! system with the name `support` the same tool is `support_search_tickets`.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use copilotd_actors::domain::policy::ToolDefinition;
use copilotd_actors::domain::schema::Schema;
use copilotd_actors::ports::ToolDefinitions;
use serde_json::Value;

use super::{InvalidConfig, Tool, definition};

/// The tools of one kind of system.
pub(crate) struct Toolset<S: 'static> {
    kind: &'static str,
    tools: &'static [&'static dyn Tool<S>],
    /// Under the default name; compiled when the first system of this kind is built.
    definitions: OnceLock<Arc<ToolDefinitions>>,
}

impl<S: Sync> Toolset<S> {
    /// The `tools` of a kind; nothing is compiled yet.
    pub const fn new(kind: &'static str, tools: &'static [&'static dyn Tool<S>]) -> Self {
        Self {
            kind,
            tools,
            definitions: OnceLock::new(),
        }
    }

    /// Returns the tools' names without the system's name: `search_tickets`.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.tools.iter().filter_map(|tool| suffix(tool.name(), self.kind))
    }

    /// Returns the definitions of the tools in a system with the default name.
    pub fn definitions(&self) -> Arc<ToolDefinitions> {
        let definitions = self.definitions.get_or_init(|| {
            let parsed = self.tools.iter().map(|tool| {
                let parsed = definition::parse(tool.definition());
                let parsed = parsed.expect("the files are part of the binary and a test parses each of them");
                (tool.name().to_owned(), Arc::new(parsed))
            });
            Arc::new(parsed.collect())
        });
        Arc::clone(definitions)
    }

    /// Returns the tools of a system with this name.
    ///
    /// # Errors
    /// When a tool's file is not valid under this name.
    pub fn of_system(self: &Arc<Self>, name: &str) -> Result<SystemTools<S>, InvalidConfig> {
        let usual = self.definitions();
        let mut tools = SystemTools {
            set: Arc::clone(self),
            name: name.to_owned(),
            definitions: Arc::clone(&usual),
        };
        if name != self.kind {
            let renamed = usual.values().map(|tool| tools.definition(tool));
            tools.definitions = Arc::new(renamed.collect::<Result<_, _>>()?);
        }
        Ok(tools)
    }
}

/// The tools of one system, under its name.
pub(crate) struct SystemTools<S: 'static> {
    set: Arc<Toolset<S>>,
    name: String,
    definitions: Arc<ToolDefinitions>,
}

impl<S: Sync> SystemTools<S> {
    /// Returns the kind of the system.
    pub fn kind(&self) -> &'static str {
        self.set.kind
    }

    /// Returns the definitions of all tools.
    pub fn definitions(&self) -> Arc<ToolDefinitions> {
        Arc::clone(&self.definitions)
    }

    /// Finds the code of a tool.
    pub fn find(&self, tool: &str) -> Option<&'static dyn Tool<S>> {
        let wanted = suffix(tool, &self.name)?;
        let mut tools = self.set.tools.iter().copied();
        tools.find(|tool| suffix(tool.name(), self.set.kind) == Some(wanted))
    }

    /// Whether a tool may change something in the system.
    pub fn changes_something(&self, tool: &str) -> bool {
        let definition = self.definitions.get(tool);
        definition.is_none_or(|tool| tool.repeat.changes_something())
    }

    /// Returns a text in which the tools have their names in this system.
    pub fn renamed(&self, text: String) -> String {
        if self.name == self.set.kind || !text.contains(self.set.kind) {
            return text;
        }
        let is_part_of_a_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let mut renamed = String::with_capacity(text.len());
        // Only whole words: the name of this system may itself end with the name of its kind.
        for piece in text.split_inclusive(|character| !is_part_of_a_name(character)) {
            let word = piece.trim_end_matches(|character| !is_part_of_a_name(character));
            match suffix(word, self.set.kind).filter(|rest| self.set.names().any(|name| name == *rest)) {
                Some(rest) => {
                    renamed.push_str(&format!("{}_{rest}", self.name));
                    renamed.push_str(piece.strip_prefix(word).unwrap_or_default());
                }
                None => renamed.push_str(piece),
            }
        }
        renamed
    }

    /// Returns a definition under this system's name.
    fn definition(&self, usual: &ToolDefinition) -> Result<(String, Arc<ToolDefinition>), InvalidConfig> {
        let invalid = |reason: String| InvalidConfig {
            system: Cow::Owned(self.name.clone()),
            reason,
        };
        let name = self.renamed(usual.name.clone());
        let text = usual.parameters.source().to_string();
        let renamed = self.renamed(text.clone());
        let parameters = if renamed == text {
            usual.parameters.clone()
        } else {
            let source: Value = serde_json::from_str(&renamed).map_err(|error| invalid(error.to_string()))?;
            Schema::compile(source).map_err(|error| invalid(error.to_string()))?
        };
        let definition = ToolDefinition {
            name: name.clone(),
            description: self.renamed(usual.description.clone()),
            system: self.name.clone(),
            repeat: usual.repeat,
            timeout: usual.timeout,
            parameters,
            tokens: OnceLock::new(),
        };
        Ok((name, Arc::new(definition)))
    }
}

/// Returns a tool's name without its system's.
fn suffix<'a>(tool: &'a str, system: &str) -> Option<&'a str> {
    tool.strip_prefix(system)?.strip_prefix('_')
}
