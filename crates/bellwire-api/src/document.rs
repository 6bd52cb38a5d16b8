//! What types say of themselves for the OpenAPI document, and what stands in for it where nobody makes that document: only tests do,
//! with the feature `document`. The program serves what they wrote.

#[cfg(feature = "document")]
mod made {
    pub(crate) use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    /// The schema of a type.
    pub(crate) type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

    /// In its place.
    pub(crate) fn whole<T: JsonSchema>() -> SchemaOf {
        |generator| T::json_schema(generator)
    }

    /// By reference, if the type has a name.
    pub(crate) fn named<T: JsonSchema>() -> SchemaOf {
        |generator| generator.subschema_for::<T>()
    }
}

#[cfg(not(feature = "document"))]
mod made {
    pub(crate) use bellwire_no_schema::JsonSchema;

    /// Every type has it, as it says nothing.
    pub(crate) trait JsonSchema {}

    impl<T: ?Sized> JsonSchema for T {}

    pub(crate) struct SchemaOf;

    pub(crate) fn whole<T: JsonSchema>() -> SchemaOf {
        SchemaOf
    }

    pub(crate) fn named<T: JsonSchema>() -> SchemaOf {
        SchemaOf
    }
}

pub(crate) use made::*;
