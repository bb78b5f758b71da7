//! A device's configuration as one word of a command line: `path=disk.img,readonly,rate=10M`.

use serde::de::value::{Error as ValueError, MapDeserializer, StringDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use thiserror::Error;

/// Why a word is no configuration.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ParseOptionsError(String);

/// Reads a configuration from `key=value` pairs with commas between. A key without a value is one
/// that is switched on; a comma in a value is written twice.
///
/// # Errors
/// A key that is not known, is there twice, is missing, or has a value that makes no sense.
pub fn parse_options<T: DeserializeOwned>(text: &str) -> Result<T, ParseOptionsError> {
    let pairs = split(text).into_iter().map(|pair| match pair.split_once('=') {
        Some((key, value)) => (key.to_owned(), Word { key: key.to_owned(), value: value.to_owned() }),
        None => (pair.clone(), Word { key: pair, value: String::new() }),
    });
    T::deserialize(MapDeserializer::<_, ValueError>::new(pairs))
        .map_err(|error| ParseOptionsError(error.to_string()))
}

/// The pairs, doubled commas made single.
fn split(text: &str) -> Vec<String> {
    let mut pairs = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            pairs.push(String::new());
        } else if let Some(pair) = pairs.last_mut() {
            pair.push(letter);
        }
    }
    pairs.retain(|pair| !pair.is_empty());
    pairs
}

/// A value, which becomes whatever type is asked for.
struct Word {
    key: String,
    value: String,
}

impl IntoDeserializer<'_> for Word {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Word {
    fn number<T: std::str::FromStr>(&self) -> Result<T, ValueError> {
        let Self { key, value } = self;
        value.parse().map_err(|_| ValueError::custom(format!("{key}={value}: not a number that it can be")))
    }

    fn string(self) -> StringDeserializer<ValueError> {
        self.value.into_deserializer()
    }

    /// Says which key an error is about.
    fn named<T>(key: &str, result: Result<T, ValueError>) -> Result<T, ValueError> {
        result.map_err(|error| ValueError::custom(format!("{key}: {error}")))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
                visitor.$visit(self.number()?)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Word {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        let key = self.key.clone();
        Self::named(&key, self.string().deserialize_any(visitor))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.value.as_str() {
            "" | "true" | "on" | "yes" => visitor.visit_bool(true),
            "false" | "off" | "no" => visitor.visit_bool(false),
            other => Err(ValueError::custom(format!("{}={other}: give on or off", self.key))),
        }
    }

    numbers! {
        deserialize_u8 visit_u8 deserialize_u16 visit_u16 deserialize_u32 visit_u32 deserialize_u64 visit_u64
        deserialize_i64 visit_i64
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        let key = self.key.clone();
        Self::named(&key, self.string().deserialize_enum(name, variants, visitor))
    }

    forward_to_deserialize_any! {
        i8 i16 i32 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct
        identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::config::Size;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        path: String,
        readonly: bool,
        queues: Option<u16>,
        size: Option<Size>,
        engine: Engine,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "kebab-case")]
    enum Engine {
        #[default]
        Sync,
        Threads,
    }

    #[test]
    fn words_become_what_the_fields_are() {
        let parsed = parse_options("path=a,,b=c,readonly,queues=4,size=2M,engine=threads");
        let expected = Sample {
            path: "a,b=c".into(),
            readonly: true,
            queues: Some(4),
            size: Some(Size::mib(2)),
            engine: Engine::Threads,
        };
        assert_eq!(parsed, Ok(expected));
        assert_eq!(parse_options(""), Ok(Sample::default()));
        assert_eq!(parse_options("readonly=off,"), Ok(Sample::default()));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let cases = [
            ("pth=a", "unknown field `pth`"),
            ("path=a,path=b", "duplicate field `path`"),
            ("queues=many", "queues=many"),
            ("queues=70000", "queues=70000"),
            ("readonly=perhaps", "readonly=perhaps: give on or off"),
            ("engine=steam", "engine: unknown variant `steam`, expected `sync` or `threads`"),
            ("size=big", "'big' is no size"),
        ];
        for (text, expected) in cases {
            let error = parse_options::<Sample>(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
