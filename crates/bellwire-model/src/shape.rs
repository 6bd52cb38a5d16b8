//! How a message becomes what an endpoint gets.

/// What an endpoint does to a message before it is sent. The default sends the payload as it was accepted.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Shape {}
