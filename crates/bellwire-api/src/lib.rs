//! The HTTP contract under `/api/v1`: one file per resource with its wire types.

pub mod backend;
