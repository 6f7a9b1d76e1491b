//! Locates faults for the file's author: line numbers, and names of the tenant, route and so on around a value.

use std::collections::HashMap;

use serde_json::Value;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::faults::{Fault, Faults};
use super::load::{Source, path_of};

/// Longest name in a report, in characters.
const MAX_NAME: usize = 60;

/// The lines of a configuration's text, by path.
struct Lines(HashMap<String, usize>);

impl Lines {
    fn of(text: &str) -> Self {
        let ends: Vec<usize> = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at)
            .collect();
        let mut lines = HashMap::new();
        // Syntax errors were reported before.
        let (table, _errors) = DeTable::parse_recoverable(text);
        walk_table(table.get_ref(), "", &mut |path, start| {
            let line = ends.partition_point(|end| *end < start) + 1;
            lines.insert(path, line);
        });
        Self(lines)
    }

    /// Returns the line of a value; for a missing one, the line of the enclosing table.
    fn line(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(line) = self.0.get(path) {
                return Some(*line);
            }
            path = &path[..path.rfind(['.', '['])?];
        }
    }
}

fn walk_table(table: &DeTable<'_>, path: &str, note: &mut dyn FnMut(String, usize)) {
    for (name, value) in table {
        let dot = if path.is_empty() { "" } else { "." };
        let path = format!("{path}{dot}{}", name.get_ref());
        note(path.clone(), name.span().start);
        walk(value, &path, note);
    }
}

fn walk(value: &Spanned<DeValue<'_>>, path: &str, note: &mut dyn FnMut(String, usize)) {
    match value.get_ref() {
        DeValue::Table(table) => walk_table(table, path, note),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                note(path.clone(), item.span().start);
                walk(item, &path, note);
            }
        }
        _ => {}
    }
}

impl Source {
    /// Returns the line of a value; for a missing one, the line of the enclosing table.
    pub fn line(&self, path: &str) -> Option<usize> {
        Lines::of(self.text()).line(path)
    }

    /// Formats a warning at a JSON Pointer in a tenant's settings as [`Source::report`] does; none if the file has no
    /// such tenant.
    pub fn report_settings(&self, tenant: &str, pointer: &str, message: &str) -> Option<String> {
        let fault = Fault {
            path: self.path_of_settings(tenant, pointer)?,
            message: message.to_owned(),
            cause: None,
        };
        self.report([&fault]).pop()
    }

    /// Returns the line of a JSON Pointer in a tenant's settings.
    pub fn line_of_settings(&self, tenant: &str, pointer: &str) -> Option<usize> {
        self.line(&self.path_of_settings(tenant, pointer)?)
    }

    fn path_of_settings(&self, tenant: &str, pointer: &str) -> Option<String> {
        let index = self.tenants().iter().position(|table| table.id() == Some(tenant))?;
        Some(path_of(&format!("tenants[{index}]"), pointer))
    }

    /// Formats faults for the file's author, with line numbers and with the names of list items beside their indexes.
    pub fn report<'a>(&self, faults: impl IntoIterator<Item = &'a Fault>) -> Vec<String> {
        let lines = Lines::of(self.text());
        let report = |fault: &Fault| {
            let line = lines
                .line(&fault.path)
                .map(|line| format!("line {line}: "))
                .unwrap_or_default();
            let names = self.names(&fault.path);
            if names.is_empty() {
                return format!("{line}{fault}");
            }
            let Fault { path, message, cause } = fault;
            let cause = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
            format!("{line}{path} ({}): {message}{cause}", names.join(", "))
        };
        faults.into_iter().map(report).collect()
    }

    /// Formats faults as [`Source::report`] does, one per line.
    pub fn report_all(&self, faults: &Faults) -> String {
        self.report(faults.iter()).join("\n")
    }

    /// Returns the names of the list items along a path.
    fn names(&self, path: &str) -> Vec<String> {
        let mut names = Vec::new();
        for (end, _) in path.match_indices(']') {
            let item = &path[..=end];
            let Some((list, _)) = item.trim_end_matches(']').rsplit_once('[') else {
                continue;
            };
            let list = list.rsplit(['.', ']']).next().unwrap_or(list);
            let Some((kind, members)) = KINDS
                .iter()
                .find(|(known, ..)| *known == list)
                .map(|(_, kind, members)| (kind, members))
            else {
                continue;
            };
            let value = self.value_at(item);
            let name = members.iter().find_map(|member| value?.get(*member)?.as_str());
            if let Some(name) = name {
                let short: String = name.chars().take(MAX_NAME).collect();
                names.push(format!("{kind} {short:?}"));
            }
        }
        names
    }

    /// Returns the table of a list item as written.
    fn value_at(&self, path: &str) -> Option<&Value> {
        let pointer = Fault::at(path).pointer();
        match pointer.strip_prefix("/tenants/") {
            None => self.written_globals().pointer(&pointer),
            Some(rest) => {
                let (index, rest) = rest
                    .split_once('/')
                    .map_or((rest, String::new()), |(index, rest)| (index, format!("/{rest}")));
                let table = self.tenants().get(index.parse::<usize>().ok()?)?;
                table.value().pointer(&rest)
            }
        }
    }
}

/// Lists whose items have names: the list, the kind of its items, and the members that may contain the name.
const KINDS: [(&str, &str, &[&str]); 11] = [
    ("tenants", "tenant", &["id"]),
    ("copilots", "copilot", &["name"]),
    ("issuers", "issuer", &["kid", "iss"]),
    ("api_keys", "API key", &["name"]),
    ("providers", "provider", &["name"]),
    ("routes", "route", &["name"]),
    ("targets", "model", &["model"]),
    ("prices", "price of", &["model"]),
    ("provider_keys", "keys for provider", &["provider"]),
    ("deny_input", "rule", &["name"]),
    ("deny_output", "rule", &["name"]),
];
