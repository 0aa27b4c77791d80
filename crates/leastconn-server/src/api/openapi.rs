//! The API's OpenAPI 3.1 document, generated from the request and response types.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    BlockRemoved, BlockSet, Blocks, Clients, ClientsQuery, Connections, ConnectionsQuery, Fleet,
    HistoryQuery, Kill, Killed, LogLevel, Refusals, RefusalsQuery, Reload, RemoveBlock, Samples,
    Servers, ServersQuery, SetBlock, SetLogLevel, SetState, SetWeight, StateSet, Status, WeightSet,
};

/// Base path of the API.
pub const BASE: &str = "/api/v1";

pub fn openapi() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
    });
    let mut paths = Paths {
        schemas: settings.into_generator(),
        paths: Map::new(),
    };
    paths.get::<Status>("/status", "The balancer as a whole", None);
    paths.get::<Servers>(
        "/servers",
        "Servers of all upstreams",
        Some(inline::<ServersQuery>()),
    );
    paths.get::<Clients>(
        "/clients",
        "Client rules and their connections",
        Some(inline::<ClientsQuery>()),
    );
    paths.get::<Connections>(
        "/connections",
        "Open connections",
        Some(inline::<ConnectionsQuery>()),
    );
    paths.get::<Refusals>(
        "/refusals",
        "The last 200 refused connections",
        Some(inline::<RefusalsQuery>()),
    );
    paths.get::<Samples>(
        "/history",
        "Samples of the last five minutes",
        Some(inline::<HistoryQuery>()),
    );
    paths.get::<Blocks>("/blocks", "Blocked clients", None);
    paths.get::<Fleet>(
        "/fleet",
        "The fleet; status 404 if the balancer is not a member of one",
        None,
    );
    paths.post::<SetState, StateSet>(
        "/servers/{upstream}/{server}/state",
        "Set the administrative state of a server; it survives reloads",
        &["upstream", "server"],
    );
    paths.post::<SetWeight, WeightSet>(
        "/servers/{upstream}/{server}/weight",
        "Set the weight of a server; it survives reloads",
        &["upstream", "server"],
    );
    paths.post::<Kill, Killed>("/connections/kill", "Close connections", &[]);
    paths.post::<SetBlock, BlockSet>(
        "/blocks",
        "Refuse a client and close its connections; it survives reloads",
        &[],
    );
    paths.post::<RemoveBlock, BlockRemoved>("/blocks/remove", "Admit a blocked client again", &[]);
    paths.post::<Nothing, Reload>(
        "/reload",
        "Reload the configuration; responds when it was applied or rejected",
        &[],
    );
    paths.paths["/reload"]["post"]["requestBody"]["required"] = false.into();
    paths.post::<SetLogLevel, LogLevel>("/log-level", "Set the log level", &[]);
    paths.add("/openapi.json", "get", json!({
        "summary": "This document",
        "responses": { "200": { "description": "OpenAPI 3.1", "content": { "application/json": { "schema": { "type": "object" } } } } },
    }));
    paths.add("/readyz", "get", ready());
    // This path is not below `BASE`.
    paths.paths["/readyz"]["servers"] = json!([{ "url": "/" }]);
    let mut schemas = paths.schemas.take_definitions(true);
    schemas.insert(
        "Error".to_owned(),
        json!({
            "type": "object",
            "description": "A failed request.",
            "properties": { "error": { "type": "string", "description": "Message for humans." } },
            "required": ["error"],
        }),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "leastconn-lb",
            "version": "1",
            "summary": "State and control of a running balancer, at the admin address and socket",
            "description": "Fields may be added, but not removed. At the admin address, POST needs the bearer token of `[admin] token` and `Content-Type: application/json`; at the admin socket, the mode of the file controls access.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": BASE }],
        "paths": paths.paths,
        "components": {
            "schemas": schemas,
            "responses": { "Error": {
                "description": "The request failed",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Error" } } },
            } },
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn ready() -> Value {
    let text = |description: &str| {
        json!({
            "description": description,
            "content": { "text/plain": { "schema": { "type": "string" } } },
        })
    };
    json!({
        "summary": "Whether new connections are accepted",
        "parameters": [{
            "name": "upstream",
            "in": "query",
            "description": "Ready only while this upstream has an available server.",
            "schema": { "type": "string" },
        }],
        "responses": {
            "200": text("Ready"),
            "404": text("Unknown upstream"),
            "503": text("Starting or draining, or the upstream has no available server"),
        },
    })
}

/// An empty body.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Nothing {}

struct Paths {
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Paths {
    fn get<A: JsonSchema>(&mut self, path: &str, summary: &str, query: Option<Schema>) {
        let answer = self.schemas.subschema_for::<A>();
        let mut operation = json!({
            "summary": summary,
            "responses": responses(&answer),
        });
        if let Some(query) = query {
            operation["parameters"] = parameters(&query);
        }
        self.add(path, "get", operation);
    }

    fn post<B: JsonSchema, A: JsonSchema>(&mut self, path: &str, summary: &str, named: &[&str]) {
        let body = self.schemas.subschema_for::<B>();
        let answer = self.schemas.subschema_for::<A>();
        let parameters: Vec<_> = named
            .iter()
            .map(|name| {
                json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
            })
            .collect();
        self.add(
            path,
            "post",
            json!({
                "summary": summary,
                "security": [{ "token": [] }, {}],
                "parameters": parameters,
                "requestBody": {
                    "required": true,
                    "content": { "application/json": { "schema": body } },
                },
                "responses": responses(&answer),
            }),
        );
    }

    fn add(&mut self, path: &str, method: &str, operation: Value) {
        let methods = self.paths.entry(path).or_insert_with(|| json!({}));
        methods[method] = operation;
    }
}

fn responses(answer: &Schema) -> Value {
    json!({
        "200": {
            "description": "Success",
            "content": { "application/json": { "schema": answer } },
        },
        "default": { "$ref": "#/components/responses/Error" },
    })
}

/// Returns the schema of `T` with all referenced schemas inlined.
fn inline<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>()
}

/// Converts the properties of a query to parameters.
fn parameters(query: &Schema) -> Value {
    let properties = query.get("properties").and_then(Value::as_object);
    let parameters = properties.into_iter().flatten().map(|(name, schema)| {
        let mut schema = schema.clone();
        let described = schema.as_object_mut();
        let description = described.and_then(|schema| schema.remove("description"));
        json!({ "name": name, "in": "query", "description": description, "schema": schema })
    });
    parameters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_in_docs_is_current() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/reference/openapi.json"
        );
        let ours = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == ours,
            "regenerate it: cargo run -p leastconn-lb -- schema --api > docs/reference/openapi.json"
        );
    }

    #[test]
    fn all_references_resolve() {
        fn check(value: &Value, root: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        let pointer = to.strip_prefix('#').unwrap();
                        assert!(root.pointer(pointer).is_some(), "{to}");
                    }
                    map.values().for_each(|value| check(value, root));
                }
                Value::Array(all) => all.iter().for_each(|value| check(value, root)),
                _ => {}
            }
        }
        let document = openapi();
        check(&document, &document);
    }
}
