//! The offered tools, and which of them the model has to call.

use serde_json::{Map, Value, json};

use super::{Unsupported, schema};

/// The tools of a body.
#[derive(Debug)]
pub(super) struct Offer {
    pub(super) tools: Value,
    pub(super) choice: Value,
    pub(super) parallel: Value,
    /// Names of the tools that the messages mention, each once.
    pub(super) called: Vec<String>,
}

impl Offer {
    /// Returns the tools and the choice among them.
    pub(super) fn translate(self) -> Result<(Vec<Value>, Option<Value>), Unsupported> {
        let tools: Vec<Value> = match &self.tools {
            Value::Array(tools) => tools
                .iter()
                .enumerate()
                .map(|(at, offered)| tool(at, offered))
                .collect::<Result<_, _>>()?,
            _ => Vec::new(),
        };
        if !tools.is_empty() {
            let choice = choice(&self.choice)?;
            return Ok((tools, self.one_at_a_time(choice)));
        }
        if !matches!(self.choice.as_str(), None | Some("none" | "auto")) || self.choice.is_object() {
            return Err(Unsupported::new("tool_choice", "there are no tools"));
        }
        // The API rejects calls and results of tools that are not declared. They are declared, but may not be called.
        let known = |name: &String| json!({"name": name, "input_schema": {"type": "object"}});
        let tools: Vec<Value> = self.called.iter().map(known).collect();
        let choice = (!tools.is_empty()).then(|| json!({"type": "none"}));
        Ok((tools, choice))
    }

    fn one_at_a_time(&self, choice: Option<Value>) -> Option<Value> {
        if self.parallel != Value::Bool(false) {
            return choice;
        }
        let mut choice = choice.unwrap_or_else(|| json!({"type": "auto"}));
        if choice["type"] != "none" {
            choice["disable_parallel_tool_use"] = Value::Bool(true);
        }
        Some(choice)
    }
}

fn tool(at: usize, tool: &Value) -> Result<Value, Unsupported> {
    let wrong = |part: &str, why: &str| Unsupported::new(format!("tools[{at}]{part}"), why);
    let function = &tool["function"];
    let (Some("function"), Some(name)) = (tool["type"].as_str(), function["name"].as_str()) else {
        return Err(wrong("", "only function tools are supported"));
    };
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(name));
    if let Some(description) = function["description"].as_str().filter(|text| !text.is_empty()) {
        out.insert("description".to_owned(), json!(description));
    }
    let strict = function["strict"] == true;
    let mut parameters = match &function["parameters"] {
        Value::Null => json!({"type": "object", "properties": {}}),
        Value::Object(fields) => Value::Object(fields.clone()),
        _ => return Err(wrong(".function.parameters", "must be a schema")),
    };
    match &parameters["type"] {
        Value::Null => parameters["type"] = json!("object"),
        kind if kind == "object" => {}
        _ => return Err(wrong(".function.parameters", "must be an object")),
    }
    if strict {
        parameters = schema::closed(&parameters, true).map_err(|why| wrong(".function.parameters", why))?;
    }
    out.insert("input_schema".to_owned(), parameters);
    if strict {
        out.insert("strict".to_owned(), Value::Bool(true));
    }
    let mark = [&tool["cache_control"], &function["cache_control"]];
    if let Some(mark) = mark.into_iter().find(|mark| !mark.is_null()) {
        out.insert("cache_control".to_owned(), mark.clone());
    }
    Ok(Value::Object(out))
}

fn choice(choice: &Value) -> Result<Option<Value>, Unsupported> {
    let name = &choice["function"]["name"];
    Ok(Some(match choice.as_str() {
        None if choice.is_null() => return Ok(None),
        Some("auto") => json!({"type": "auto"}),
        Some("none") => json!({"type": "none"}),
        Some("required") => json!({"type": "any"}),
        None if choice["type"] == "function" && name.is_string() => json!({"type": "tool", "name": name}),
        _ => return Err(Unsupported::new("tool_choice", "unknown choice")),
    }))
}
