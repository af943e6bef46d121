//! How Go's encoding/json behaves, for serde.

use serde::{Deserialize, Deserializer, Serialize};

/// Defines a struct whose fields all default when absent or `null`, named in
/// PascalCase on the wire unless a field says otherwise.
macro_rules! go_struct {
    ($(#[$outer:meta])* pub struct $name:ident { $($(#[$inner:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$outer])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        pub struct $name {
            $(
                $(#[$inner])*
                #[serde(default, deserialize_with = "crate::go::nullable")]
                pub $field: $type,
            )*
        }
    };
}

/// Reads `null` as the default.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// For `skip_serializing_if`: Go's `omitempty`.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `{}`: the value of Go's `map[string]struct{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A list of words that may also be given as one string (`strslice.StrSlice`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct StringOrList(pub Vec<String>);

impl<'de> Deserialize<'de> for StringOrList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            One(String),
            Many(Vec<String>),
        }
        Ok(match Form::deserialize(deserializer)? {
            Form::One(word) => Self(vec![word]),
            Form::Many(words) => Self(words),
        })
    }
}

impl std::ops::Deref for StringOrList {
    type Target = [String];
    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl From<Vec<String>> for StringOrList {
    fn from(words: Vec<String>) -> Self {
        Self(words)
    }
}
