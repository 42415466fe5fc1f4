//! What guests are made of.
