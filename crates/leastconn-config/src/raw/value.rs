//! Values with their position in the file, and values that can be written in several
//! forms.

use std::{borrow::Cow, fmt, marker::PhantomData, ops::Range};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// A key that may be absent.
pub type Opt<T> = Option<At<T>>;

/// A value with its position in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<T> {
    pub value: T,
    /// Byte offsets. For a table: its header.
    pub span: Range<usize>,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = toml::Spanned::<T>::deserialize(deserializer)?;
        Ok(Self {
            span: spanned.span(),
            value: spanned.into_inner(),
        })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A duration as it is written, not parsed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct DurationText(pub String);

impl JsonSchema for DurationText {
    fn schema_name() -> Cow<'static, str> {
        "duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "duration",
            "description": "Whole numbers with the units ms, s, m, h or d.",
            "type": "string",
            "pattern": "^([0-9]+(ms|s|m|h|d))+$|\\$\\{",
            "examples": ["10s"],
        })
    }
}

/// A date and time, with an offset from UTC.
#[derive(Clone, Debug)]
pub struct DateTime(pub toml::value::Datetime);

impl<'de> Deserialize<'de> for DateTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The schema also accepts a string, because JSON has no type for dates.
        let read = toml::value::Datetime::deserialize(deserializer);
        read.map(Self).map_err(|_| {
            D::Error::custom("expected a date and time without quotes, like 2027-01-31T00:00:00Z")
        })
    }
}

impl JsonSchema for DateTime {
    fn schema_name() -> Cow<'static, str> {
        "date_time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "date and time",
            "type": "string",
            "format": "date-time",
            "examples": ["2027-01-31T00:00:00Z"],
        })
    }
}

/// A string or a list of strings.
#[derive(Clone, Debug)]
pub enum OneOrMany {
    One(String),
    Many(Vec<At<String>>),
}

impl At<OneOrMany> {
    /// Each string with its position.
    pub fn each(&self) -> Vec<At<&str>> {
        match &self.value {
            OneOrMany::One(text) => vec![At {
                value: text,
                span: self.span.clone(),
            }],
            OneOrMany::Many(list) => list
                .iter()
                .map(|text| At {
                    value: &*text.value,
                    span: text.span.clone(),
                })
                .collect(),
        }
    }
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(Choice::new("a string or a list of strings"))
            .map(|choice| match choice {
                Chosen::One(text) => Self::One(text),
                Chosen::Many(list) => Self::Many(list),
            })
    }
}

impl JsonSchema for OneOrMany {
    fn schema_name() -> Cow<'static, str> {
        "strings".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string" },
                { "type": "array", "items": { "type": "string" } },
            ],
        })
    }
}

/// An HTTP status or a list of statuses.
#[derive(Clone, Debug)]
pub struct StatusCodes(pub Vec<u16>);

impl<'de> Deserialize<'de> for StatusCodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(Choice::new("a status or a list of statuses"))
            .map(|choice| match choice {
                Chosen::One(code) => Self(vec![code]),
                Chosen::Many(list) => {
                    Self(list.into_iter().map(|code: At<u16>| code.value).collect())
                }
            })
    }
}

impl JsonSchema for StatusCodes {
    fn schema_name() -> Cow<'static, str> {
        "statuses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 100, "maximum": 599 },
                { "type": "array", "items": { "type": "integer", "minimum": 100, "maximum": 599 } },
            ],
        })
    }
}

/// The name of an upstream, or `false` to refuse connections.
#[derive(Clone, Debug)]
pub enum UpstreamOrFalse {
    Name(String),
    False,
}

impl<'de> Deserialize<'de> for UpstreamOrFalse {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = UpstreamOrFalse;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an upstream, or false")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<UpstreamOrFalse, E> {
                Ok(UpstreamOrFalse::Name(name.to_owned()))
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<UpstreamOrFalse, E> {
                if value {
                    return Err(E::custom("expected the name of an upstream, or false"));
                }
                Ok(UpstreamOrFalse::False)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for UpstreamOrFalse {
    fn schema_name() -> Cow<'static, str> {
        "upstream_or_false".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "boolean" }],
        })
    }
}

/// The number of worker threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One per CPU.
    Auto,
    Count(u32),
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl Visitor<'_> for Words {
            type Value = Workers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a number of threads")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Workers, E> {
                match text {
                    "auto" => Ok(Workers::Auto),
                    other => Err(E::custom(format!("expected \"auto\", found {other:?}"))),
                }
            }

            fn visit_i64<E: Error>(self, count: i64) -> Result<Workers, E> {
                u32::try_from(count).map(Workers::Count).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Words)
    }
}

impl JsonSchema for Workers {
    fn schema_name() -> Cow<'static, str> {
        "workers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "const": "auto" },
                { "type": "integer", "minimum": 1, "maximum": 1024 },
            ],
        })
    }
}

/// Deserializes a text or a table. An untagged enum of `serde` would lose the positions.
pub(super) struct TextOrTable<T> {
    expecting: &'static str,
    of: PhantomData<T>,
}

pub(super) enum Form<T> {
    Text(String),
    Table(Box<T>),
}

impl<T> TextOrTable<T> {
    pub(super) const fn new(expecting: &'static str) -> Self {
        Self {
            expecting,
            of: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for TextOrTable<T> {
    type Value = Form<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Form<T>, E> {
        Ok(Form::Text(text.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Form<T>, A::Error> {
        let table = T::deserialize(MapAccessDeserializer::new(map))?;
        Ok(Form::Table(Box::new(table)))
    }
}

/// Deserializes one value or a list of values. An untagged enum of `serde` would lose the
/// positions.
struct Choice<T> {
    expecting: &'static str,
    of: PhantomData<T>,
}

enum Chosen<T> {
    One(T),
    Many(Vec<At<T>>),
}

impl<T> Choice<T> {
    const fn new(expecting: &'static str) -> Self {
        Self {
            expecting,
            of: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Choice<T> {
    type Value = Chosen<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expecting)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Chosen<T>, E> {
        T::deserialize(serde::de::value::StrDeserializer::new(text)).map(Chosen::One)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Chosen<T>, E> {
        T::deserialize(serde::de::value::I64Deserializer::new(number)).map(Chosen::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Chosen<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Chosen::Many(values))
    }
}
