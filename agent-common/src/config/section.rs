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
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident {
            $( $(#[doc = $key_doc:literal])+ pub $key:ident: $type:ty = $default:expr, )+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $key_doc])+ pub $key: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }

        impl $crate::config::Section for $name {
            fn doc(&self) -> &'static [&'static str] {
                &[$( $doc ),+]
            }

            fn keys(&self) -> Vec<$crate::config::Key> {
                vec![$(
                    $crate::config::Key {
                        name: stringify!($key),
                        doc: &[$( $key_doc ),+],
                        // Only `None` has no form in TOML.
                        value: $crate::config::toml::Value::try_from(&self.$key).ok(),
                    }
                ),+]
            }
        }
    };
}
