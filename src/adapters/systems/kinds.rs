//! The registry of all kinds of external systems: the only module that names each of them.
//!
//! A new kind is one folder beside this file, one schema per tool in `schemas/tools/`, and one line here.

use std::fmt;
use std::sync::Arc;

use copilotd_actors::ports::ToolDefinitions;

use super::{SystemFactory, slack, zendesk};
use crate::system_kind::SystemKind;

/// Kinds of external systems.
#[derive(Clone)]
pub struct Kinds(Arc<[Arc<dyn SystemFactory>]>);

impl Kinds {
    /// The kinds that this binary knows.
    pub fn built_in() -> Self {
        Self(Arc::new([
            Arc::new(zendesk::ZendeskKind::default()) as Arc<dyn SystemFactory>,
            Arc::new(slack::SlackKind::default()),
        ]))
    }

    /// Finds a kind by its name.
    pub fn find(&self, kind: &str) -> Option<&dyn SystemFactory> {
        let found = self.0.iter().find(|known| known.name() == kind);
        found.map(|known| &**known)
    }

    /// Returns the definitions of the tools of all kinds, each in a system with the default name.
    pub fn definitions(&self) -> ToolDefinitions {
        let tools = self.0.iter().map(|kind| kind.definitions());
        tools.fold(ToolDefinitions::new(), |mut all, tools| {
            all.extend(tools.iter().map(|(name, tool)| (name.clone(), Arc::clone(tool))));
            all
        })
    }

    /// Returns what the configuration has to know about the kinds.
    pub fn for_config(&self) -> impl Iterator<Item = Arc<dyn SystemKind>> {
        self.0.iter().map(|kind| Arc::clone(kind) as Arc<dyn SystemKind>)
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|kind| kind.name())).finish()
    }
}
