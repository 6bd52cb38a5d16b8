//! disable
