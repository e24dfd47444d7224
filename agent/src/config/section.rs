//! A section of the configuration, declared once.

/// One key of a section.
pub struct Key {
    pub name: &'static str,
    /// Its documentation, by lines.
    pub doc: &'static [&'static str],
    /// Its effective value as TOML; `None` if it is not set.
    pub value: Option<toml::Value>,
}

/// A table of keys.
pub trait Section {
    /// Its documentation, by lines.
    fn doc(&self) -> &'static [&'static str];

    /// Its keys in the order of their declaration.
    fn keys(&self) -> Vec<Key>;
}

/// Declares a section: `pub field: Type = default` with documentation on everything.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident {
            $( $(#[doc = $key_doc:literal])+ pub $key:ident: $type:ty = $default:expr, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $key_doc])+ pub $key: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }

        impl Section for $name {
            fn doc(&self) -> &'static [&'static str] {
                &[$( $doc ),+]
            }

            fn keys(&self) -> Vec<Key> {
                vec![$(
                    Key {
                        name: stringify!($key),
                        doc: &[$( $key_doc ),+],
                        // Only `None` has no form in TOML.
                        value: toml::Value::try_from(&self.$key).ok(),
                    }
                ),+]
            }
        }
    };
}

pub(super) use section;
