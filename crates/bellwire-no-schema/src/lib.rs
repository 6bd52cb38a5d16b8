//! Stands in for `schemars`' derive where `bellwire-api` is built without the feature `document`, as it is for users: the document that it serves was
//! written by its tests, and code that makes the schemas of two hundred types is a sixth of what that crate has to compile.
//!
//! A crate of its own because a derive has to be.

use proc_macro::TokenStream;

/// Nothing. Takes the attributes of the true one.
#[proc_macro_derive(JsonSchema, attributes(schemars))]
pub fn json_schema(_: TokenStream) -> TokenStream {
    TokenStream::new()
}
