//! The API's description in OpenAPI 3.1, made of the types that are answered with.

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    Clients, ClientsQuery, Connections, ConnectionsQuery, HistoryQuery, Kill, Killed, LogLevel,
    Refusals, RefusalsQuery, Reload, Samples, Servers, ServersQuery, SetLogLevel, SetState,
    StateSet, Status,
};

/// Below which all paths are.
pub const BASE: &str = "/api/v1";

/// The document.
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
        "Client rules, and the connections under each",
        Some(inline::<ClientsQuery>()),
    );
    paths.get::<Connections>(
        "/connections",
        "Open connections",
        Some(inline::<ConnectionsQuery>()),
    );
    paths.get::<Refusals>(
        "/refusals",
        "The connections that were refused last, up to 200",
        Some(inline::<RefusalsQuery>()),
    );
    paths.get::<Samples>(
        "/history",
        "The last minutes",
        Some(inline::<HistoryQuery>()),
    );
    paths.post::<SetState, StateSet>(
        "/servers/{upstream}/{server}/state",
        "Set what is wanted of a server; it survives reloads",
        &["upstream", "server"],
    );
    paths.post::<Kill, Killed>("/connections/kill", "End connections", &[]);
    paths.post::<Nothing, Reload>(
        "/reload",
        "Read the configuration anew; answers when that is over, also if it was rejected",
        &[],
    );
    paths.paths["/reload"]["post"]["requestBody"]["required"] = false.into();
    paths.post::<SetLogLevel, LogLevel>("/log-level", "Set how much is logged", &[]);
    paths.add("/openapi.json", "get", json!({
        "summary": "This document",
        "responses": { "200": { "description": "OpenAPI 3.1", "content": { "application/json": { "schema": { "type": "object" } } } } },
    }));
    paths.add("/readyz", "get", ready());
    // Not below `BASE`.
    paths.paths["/readyz"]["servers"] = json!([{ "url": "/" }]);
    let mut schemas = paths.schemas.take_definitions(true);
    schemas.insert(
        "Error".to_owned(),
        json!({
            "type": "object",
            "description": "Why there is no other answer.",
            "properties": { "error": { "type": "string", "description": "For people." } },
            "required": ["error"],
        }),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "leastconn-lb",
            "version": "1",
            "summary": "What a running balancer shows and takes, at the admin address and socket",
            "description": "Fields may be added; those that are there stay. At the admin address, POST needs the bearer token of `[admin] token` and `Content-Type: application/json`; at the admin socket, the file's mode says who may.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": BASE }],
        "paths": paths.paths,
        "components": {
            "schemas": schemas,
            "responses": { "Error": {
                "description": "It was not done",
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
        "summary": "Whether new connections are served",
        "parameters": [{
            "name": "upstream",
            "in": "query",
            "description": "Ready only while this upstream has an available server.",
            "schema": { "type": "string" },
        }],
        "responses": {
            "200": text("They are"),
            "404": text("There is no upstream of this name"),
            "503": text("The process starts or drains, or the upstream has no available server"),
        },
    })
}

/// The body of what needs none.
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
            "description": "It is as this says",
            "content": { "application/json": { "schema": answer } },
        },
        "default": { "$ref": "#/components/responses/Error" },
    })
}

/// With all that it refers to in it.
fn inline<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>()
}

/// Each property of a query as a parameter.
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
    fn the_document_in_docs_is_this_one() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/reference/openapi.json"
        );
        let ours = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == ours,
            "write it anew: cargo run -p leastconn-lb -- schema --api > docs/reference/openapi.json"
        );
    }

    #[test]
    fn whatever_is_referred_to_is_there() {
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
