//! The producing face.
