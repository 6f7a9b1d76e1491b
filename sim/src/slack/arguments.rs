//! Arguments of a method, from wherever Slack's clients put them.

use serde_json::{Map, Value};

use crate::http::{Request, form_pairs};

pub(crate) struct Arguments(Map<String, Value>);

impl Arguments {
    pub(crate) fn read(request: &Request) -> Result<Self, &'static str> {
        let mut arguments = Map::new();
        for (name, value) in &request.query {
            arguments.insert(name.clone(), Value::String(value.clone()));
        }
        let kind = request.header("content-type").unwrap_or_default();
        if kind.starts_with("application/json") {
            if !request.body.is_empty() {
                match serde_json::from_slice(&request.body) {
                    Ok(Value::Object(body)) => arguments.extend(body),
                    Ok(_) => return Err("json_not_object"),
                    Err(_) => return Err("invalid_json"),
                }
            }
        } else if kind.starts_with("multipart/") {
            return Err("invalid_post_type");
        } else {
            let body = String::from_utf8_lossy(&request.body);
            arguments.extend(
                form_pairs(&body)
                    .into_iter()
                    .map(|(name, value)| (name, Value::String(value))),
            );
        }
        arguments.retain(|_, value| !value.is_null());
        Ok(Self(arguments))
    }

    pub(crate) fn token(&self, request: &Request) -> Option<String> {
        let header = request.header("authorization");
        let bearer = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let token = bearer.or_else(|| self.text("token"))?;
        (!token.is_empty()).then(|| token.to_owned())
    }

    /// Returns a text, `None` if it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// Returns a timestamp, which some clients send as a number.
    pub(crate) fn ts(&self, name: &str) -> Option<String> {
        match self.0.get(name)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.0.get(name)? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) => Some(["true", "1"].contains(&text.to_lowercase().as_str())),
            Value::Number(number) => Some(number.as_u64() == Some(1)),
            _ => None,
        }
    }

    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        match self.0.get(name)? {
            Value::Number(number) => usize::try_from(number.as_u64()?).ok(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Returns a structure; in forms and queries it is JSON in a string.
    pub(crate) fn structure(&self, name: &str, error: &'static str) -> Result<Option<Value>, &'static str> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => serde_json::from_str(text).map(Some).map_err(|_| error),
            Some(value) => Ok(Some(value.clone())),
        }
    }
}
