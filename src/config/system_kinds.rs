//! The kinds of external systems, as far as the configuration is concerned. Each kind registers itself with the schema
//! of its settings; no kind is named here.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value, json};

use crate::shape::Shape;
use crate::system_kind::SystemKind;

/// The kinds that a configuration may use.
#[derive(Clone, Default)]
pub struct SystemKinds(Arc<Known>);

#[derive(Default)]
struct Known {
    kinds: Vec<Arc<dyn SystemKind>>,
    tenant: OnceLock<TenantSchema>,
}

/// The schema of a tenant's table, including the settings of all kinds of systems.
pub(super) struct TenantSchema {
    /// The schema itself, with its `$defs`, for advice about faults.
    pub written: Value,
    pub shape: Shape,
}

impl SystemKinds {
    /// The kinds in `kinds`.
    pub fn new(kinds: impl IntoIterator<Item = Arc<dyn SystemKind>>) -> Self {
        Self(Arc::new(Known {
            kinds: kinds.into_iter().collect(),
            tenant: OnceLock::new(),
        }))
    }

    /// Finds a kind by its name.
    pub(super) fn find(&self, name: &str) -> Option<&dyn SystemKind> {
        self.iter().find(|kind| kind.name() == name)
    }

    /// Lists the kinds.
    pub(super) fn iter(&self) -> impl Iterator<Item = &dyn SystemKind> {
        self.0.kinds.iter().map(|kind| &**kind)
    }

    /// Returns the schema of a tenant's table. `schema` is the configuration's.
    pub(super) fn tenant_schema(&self, schema: impl FnOnce() -> Value) -> &TenantSchema {
        self.0.tenant.get_or_init(|| {
            let mut schema = schema();
            let mut tenant = schema["properties"]["tenants"]["items"].take();
            tenant["$schema"] = schema["$schema"].take();
            tenant["$defs"] = schema["$defs"].take();
            self.add_settings(&mut tenant["properties"]["systems"]["items"]);
            TenantSchema {
                shape: Shape::compile(&tenant.to_string())
                    .expect("the configuration's schema is compiled by every test of it"),
                written: tenant,
            }
        })
    }

    /// Adds each kind's settings to the schema of a system.
    fn add_settings(&self, system: &mut Value) {
        let names: Vec<&str> = self.iter().map(SystemKind::name).collect();
        // In JSON Schema neither `enum` nor `allOf` may be empty.
        if names.is_empty() {
            return;
        }
        system["properties"]["kind"]["enum"] = names.into();
        let settings = self.iter().map(|kind| {
            let mut settings: Value =
                serde_json::from_str(kind.schema()).expect("the schema of every kind is read by every test of it");
            if let Some(members) = settings["properties"].as_object_mut() {
                let common = system["properties"].as_object().into_iter().flat_map(Map::keys);
                members.extend(common.map(|name| (name.clone(), Value::Bool(true))));
            }
            let is_kind = json!({ "properties": { "kind": { "const": kind.name() } }, "required": ["kind"] });
            json!({ "if": is_kind, "then": settings })
        });
        system["allOf"] = settings.collect();
    }
}

impl fmt::Debug for SystemKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(SystemKind::name)).finish()
    }
}
